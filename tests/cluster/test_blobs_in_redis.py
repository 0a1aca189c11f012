"""Blobs in Redis: each has an expiry, and whatever stands in the place of one is not believed, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from jobmanager.remote.blobs import PIECE_BYTES, BlobCache, BlobLost, BlobReader, BlobUploads, RedisBlobs, hash_of
from jobmanager.remote.keys import Keys
from tests.support.redis_server import RedisServer

DATA = bytes(range(256)) * 10
NAME = hash_of(DATA)
KEYS = Keys("course")


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client(decode_responses=False) as client:
        yield client


def test_a_blob_is_kept_for_its_time(client: redis.Redis) -> None:
    blobs = RedisBlobs(client, KEYS, ttl_s=100)

    blobs.put(NAME, DATA)

    assert blobs.get(NAME) == DATA and blobs.get(hash_of(b"other")) is None
    assert client.keys() == [f"jm:course:blob:{NAME}".encode()] and 90 < client.ttl(KEYS.blob(NAME)) <= 100


def test_blobs_of_a_job_are_its_own(client: redis.Redis) -> None:
    blobs = RedisBlobs(client, KEYS, ttl_s=100)
    first, second = blobs.of_job("1" * 32), blobs.of_job("2" * 32)
    for each in (blobs, first, second):
        each.put(NAME, DATA)

    first.delete([NAME])
    first.delete([])

    assert first.get(NAME) is None and second.get(NAME) == DATA == blobs.get(NAME)
    assert client.exists(KEYS.blob(second.name(NAME)), KEYS.blob(blobs.name(NAME))) == 2


def test_many_and_large_ones_are_uploaded(client: redis.Redis) -> None:
    contents = {hash_of(data): data for data in [bytes([n]) * 2**20 for n in range(12)] + [bytes(PIECE_BYTES)]}

    RedisBlobs(client, KEYS, ttl_s=100).put_all(contents)

    for sha256, data in contents.items():
        assert BlobReader(RedisBlobs(client, KEYS, ttl_s=100))(sha256) == data
        assert client.ttl(KEYS.blob(sha256)) > 0


@pytest.mark.parametrize("spoil", ["set", "append", "hset", "rpush", "huge"])
def test_a_swapped_blob_is_not_believed_and_goes(redis_server: RedisServer, client: redis.Redis, spoil: str) -> None:
    blobs = RedisBlobs(client, KEYS, ttl_s=100)
    blobs.put(NAME, DATA)
    key = KEYS.blob(NAME)
    if spoil == "append":
        client.append(key, b"more")
    elif spoil == "huge":
        client.setrange(key, 100 * 2**20, b"x")
    else:
        client.delete(key)
        {"set": lambda: client.set(key, b"other"), "hset": lambda: client.hset(key, "a", "b"),
         "rpush": lambda: client.rpush(key, "a")}[spoil]()  # fmt: skip

    found = blobs.get(NAME)

    assert found != DATA and found is not None and len(found) <= PIECE_BYTES + 1
    with pytest.raises(BlobLost, match="changed"):
        BlobReader(blobs)(NAME)
    assert client.exists(key) == 0
    blobs.put(NAME, DATA)
    assert BlobReader(blobs)(NAME) == DATA


def test_a_clients_upload_replaces_what_somebody_has_put_there(client: redis.Redis) -> None:
    client.hset(KEYS.blob(NAME), "a", "b")

    BlobUploads(RedisBlobs(client, KEYS, ttl_s=100)).upload("1" * 32, {NAME: DATA}, {})

    assert BlobReader(RedisBlobs(client, KEYS, ttl_s=100))(NAME) == DATA


def test_without_redis_a_node_has_what_is_cached(
    redis_server: RedisServer, client: redis.Redis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blobs = RedisBlobs(client, KEYS, ttl_s=100)
    blobs.put(NAME, DATA)
    reader = BlobReader(blobs, cache=BlobCache(tmp_path_factory.mktemp("cache"), 10_000))
    assert reader(NAME) == DATA

    redis_server.kill()

    assert reader(NAME) == DATA
    with pytest.raises(redis.ConnectionError):
        reader(hash_of(b"other"))


def test_an_error_that_is_not_about_the_blob_is_told(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(users=["user nobody on nopass ~jm:* +ping"])
    with redis.Redis.from_url(server.url_of("nobody", "x")) as client, pytest.raises(redis.ResponseError, match="permissions"):
        RedisBlobs(client, KEYS, ttl_s=100).get(NAME)
