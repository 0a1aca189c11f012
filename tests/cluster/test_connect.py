"""The way to Redis: which address is taken, and what is said when Redis cannot be used."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import exceptions

from jobmanager.errors import InvalidValue, RedisUnavailable
from jobmanager.remote.connect import has_password, open_redis, redis_errors, redis_url, shown_url
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.support.daemons import make_certificates
from tests.support.redis_server import RedisServer

QUICK = ClusterTimeouts(redis_s=0.3)
SECRET = "s3cret-of-redis"


def complaint(url: str, timeouts: ClusterTimeouts = QUICK) -> str:
    """What is said of a Redis that cannot be used."""
    with open_redis(url, timeouts) as redis, pytest.raises(RedisUnavailable) as raised, redis_errors(url):
        redis.set("a", "1" * 100_000)
    assert SECRET not in str(raised.value)
    return str(raised.value)


def test_the_address_is_the_argument_s_the_file_s_or_the_environment_s(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://file:1/0\n")
    environ = {"JOBMANAGER_REDIS_URL": "redis://environment:1/0"}
    assert redis_url("redis://argument:1/0", environ=environ) == "redis://argument:1/0"
    assert redis_url(url_file=str(tmp_path / "url"), environ=environ) == "redis://file:1/0"
    assert redis_url(environ=environ) == "redis://environment:1/0"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (None, "set JOBMANAGER_REDIS_URL"),
        ("", "the address of Redis that was given is none"),
        ("http://:s3cret-of-redis@host", "the address of Redis that was given is none"),
        ("redis://:s3cret-of-redis@host:port/0", "the address of Redis that was given is none"),
        ("redis://[::1", "the address of Redis that was given is none"),
        ("redis://:Ab/s3cret-of-redis@host:6379/0", "write %2F for /"),
        ("redis://:Ab?s3cret-of-redis@host:6379/0", "%3F for"),
        ("redis://:s3cret-of-redis#Ab@host:6379/0", "%23 for #"),
        (":s3cret-of-redis@host:6379", "the address of Redis that was given is none"),
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str | None, said: str) -> None:
    with pytest.raises(InvalidValue, match=said) as raised:
        redis_url(url, environ={})
    assert SECRET not in str(raised.value)


def test_one_address_is_enough(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="given twice"):
        redis_url("redis://a:1/0", url_file=str(tmp_path / "url"))
    with pytest.raises(InvalidValue, match="cannot be read"):
        redis_url(url_file=str(tmp_path / "absent"))


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@h:1/0", f"rediss://u:{SECRET}@h:1/0", f"redis://h:1/0?password={SECRET}"])
def test_a_password_is_seen_and_not_shown(url: str) -> None:
    assert has_password(url)
    assert SECRET not in shown_url(url)
    assert not has_password("redis://h:1/0")


def test_a_redis_that_is_not_there_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert complaint(f"redis://:{SECRET}@127.0.0.1:{port}/0").startswith(f"Redis at redis://127.0.0.1:{port}/0 cannot be reached: ")


def test_a_redis_that_stands_still_does_not_answer(redis_server: RedisServer) -> None:
    redis_server.pause()
    assert " does not answer: " in complaint(redis_server.url)


@pytest.mark.parametrize("password", ["", f"{SECRET}-wrong"])
def test_a_wrong_password_is_told_without_it(start_redis: Callable[..., RedisServer], password: str) -> None:
    server = start_redis(password=SECRET)
    assert " refuses the user or the password: " in complaint(server.url_of(password=password))


def test_a_right_that_lacks_is_named(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(users=["user default off", f"user reader on >{SECRET} ~* +get"])
    assert " does not let this user do that: " in complaint(server.url_of("reader", SECRET))


def test_a_certificate_that_is_not_trusted_is_told(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    server = start_redis(tls=make_certificates(tmp_path))
    assert " cannot be trusted: " in complaint(server.url_of(with_certificate=False))


def test_a_full_redis_is_told(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(max_memory="3mb")
    with server.client() as client, pytest.raises(exceptions.OutOfMemoryError):
        for number in range(1000):
            client.set(f"{number}", "x" * 10_000)
    assert " is full: " in complaint(server.url)
