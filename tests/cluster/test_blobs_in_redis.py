"""Blobs in Redis: each has an expiry, and whatever stands in the place of one is not believed, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobmanager.remote.blobs import PIECE_BYTES, BlobCache, BlobLost, BlobReader, BlobUploads, RedisBlobs, hash_of
from jobmanager.remote.keys import Keys
from jobmanager.remote.store import Accepted, BlobsMissing, ClusterStore, NewJob
from jobmanager.remote.timeouts import ClusterTimeouts
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

    store = ClusterStore(client, "course", ClusterTimeouts())
    store.claim_client("web", "me", {"name": "web"})
    assert store.acknowledge("web", ("1-1", "1" * 32), holder="me")

    assert first.get(NAME) is None and second.get(NAME) == DATA == blobs.get(NAME)
    assert 90 < client.ttl(KEYS.job_blobs("2" * 32)) <= 100


@pytest.mark.parametrize("missing", [None, "shared", "own"])
def test_a_job_is_accepted_when_all_its_blobs_are_there(client: redis.Redis, missing: str | None) -> None:
    store, blobs = ClusterStore(client, "course", ClusterTimeouts()), RedisBlobs(client, KEYS, ttl_s=100)
    r, own = "1" * 32, {hash_of(b"own"): b"own", hash_of(b"two"): b"two"}
    names = BlobUploads(blobs).upload(r, {NAME: DATA}, own)
    if missing == "shared":
        blobs.delete(NAME)
    elif missing == "own":
        blobs.of_job(r).delete(hash_of(b"own"))

    answer = store.accept(NewJob(r=r, job_id="1", client="web", title="", header="h", body="b", blobs=names), max_waiting=1)

    if missing:
        assert answer == BlobsMissing((NAME if missing == "shared" else f"{r}:{hash_of(b'own')}",))
    else:
        assert answer == Accepted() and client.ttl(KEYS.blob(NAME)) > 100 < client.ttl(KEYS.job_blobs(r))


def test_many_and_large_ones_are_uploaded(client: redis.Redis) -> None:
    contents = {hash_of(data): data for data in [bytes([n]) * 2**20 for n in range(12)] + [bytes(PIECE_BYTES)]}

    RedisBlobs(client, KEYS, ttl_s=100).put_all(contents)

    for sha256, data in contents.items():
        assert BlobReader(RedisBlobs(client, KEYS, ttl_s=100))(sha256) == data
        assert client.ttl(KEYS.blob(sha256)) > 0


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("spoil", ["other", "nothing", "list", "huge"])
def test_a_swapped_blob_is_not_believed_and_goes(client: redis.Redis, own: bool, spoil: str) -> None:
    blobs: Any = RedisBlobs(client, KEYS, ttl_s=100)
    blobs = blobs.of_job("1" * 32) if own else blobs
    key = KEYS.job_blobs("1" * 32) if own else KEYS.blob(NAME)
    blobs.put(NAME, DATA)
    content = {"other": b"other", "nothing": b"", "huge": bytes(PIECE_BYTES + 2)}.get(spoil)
    if content is None:
        client.delete(key)
        client.rpush(key, "a")
    elif own:
        client.hset(key, NAME, content)
    else:
        client.set(key, content)

    found = blobs.get(NAME)

    assert found != DATA and (found is None or len(found) <= PIECE_BYTES + 1)
    with pytest.raises(BlobLost, match="lost" if spoil == "nothing" else "changed"):
        BlobReader(blobs)(NAME)
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
