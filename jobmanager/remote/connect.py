"""The way to Redis: its address, a connection pool with time limits, and its errors as one of ours that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from jobmanager.errors import InvalidValue, RedisUnavailable
from jobmanager.remote.timeouts import ClusterTimeouts

URL_VARIABLE = "JOBMANAGER_REDIS_URL"
_FULL = 0.9  # of maxmemory: what is left is for the results of what runs
_HOW = "redis://HOST:6379/0, rediss://HOST:6379/0 (TLS) or unix:///path/to/redis.sock"


def redis_url(url: str | None = None, *, url_file: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """The address that an argument, a file or else the environment names.

    Raises:
        InvalidValue: none of them does, two do, or it is no address of Redis. The message has no password.
    """
    if url is not None and url_file is not None:
        raise InvalidValue("the address of Redis is given twice: take the url or the file")
    if url_file is not None:
        try:
            url = Path(url_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValue(f"the file with the address of Redis cannot be read: {error}") from None
    if url is None:
        url = (os.environ if environ is None else environ).get(URL_VARIABLE) or None
    if url is None:
        raise InvalidValue(f"which Redis? Give its url, or set {URL_VARIABLE}: {_HOW}")
    try:
        _parsed(url)
    except ValueError:
        raise InvalidValue(f"{shown_url(url)} is no address of Redis: it must be like {_HOW}") from None
    return url


def has_password(url: str) -> bool:
    """Whether an address holds a secret, which arguments of programs would show to everybody on the machine."""
    return bool(_parsed(url).get("password"))


def shown_url(url: str) -> str:
    """An address without its user, password and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "this"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def open_redis(url: str, timeouts: ClusterTimeouts) -> Redis:
    """A connection pool. Nothing is sent yet. A call that fails is tried a second time; each try ends within ``redis_s``."""
    return Redis.from_url(
        url,
        socket_timeout=timeouts.redis_s,
        socket_connect_timeout=timeouts.redis_s,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
    )


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Errors of Redis in the block become RedisUnavailable."""
    try:
        yield
    except exceptions.RedisError as error:
        raise redis_unavailable(error, url) from error


def redis_unavailable(error: exceptions.RedisError, url: str) -> RedisUnavailable:
    """What an error of Redis means, and what is to be done."""
    return RedisUnavailable(f"Redis at {shown_url(url)} {_meaning(error)}")


def check_memory(redis: Redis, url: str) -> None:
    """Jobs that are evicted would be lost, and where there is no room left results are.

    Raises:
        RedisUnavailable: Redis evicts, or is nearly full.
    """
    with redis_errors(url):
        memory = redis.info("memory")
    limit, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", "noeviction"))
    if limit and policy != "noeviction":
        raise RedisUnavailable(
            f"Redis at {shown_url(url)} deletes keys when it is full (maxmemory-policy {policy}), and jobs with them:"
            " set maxmemory-policy noeviction"
        )
    if limit and int(memory.get("used_memory", 0)) > _FULL * limit:
        raise RedisUnavailable(
            f"Redis at {shown_url(url)} is nearly full ({limit // 2**20} MiB):"
            " give it more memory (maxmemory), or wait until jobs end"
        )


def _parsed(url: str) -> Mapping[str, object]:
    found: Mapping[str, object] = parse_url(url)  # type: ignore[no-untyped-call]
    return found


def _meaning(error: exceptions.RedisError) -> str:
    said = " ".join(str(error).split())[:300]
    if isinstance(error, exceptions.AuthenticationError):
        return f"refuses the user or the password: {said}"
    if isinstance(error, exceptions.NoPermissionError):
        return f"does not let this user do that: {said}. The users' rights are in examples/cluster/users.acl"
    if isinstance(error, exceptions.OutOfMemoryError):
        return f"is full: give it more memory (maxmemory). It said: {said}"
    if isinstance(error, exceptions.ReadOnlyError):
        return f"is a replica that takes no writes: give the address of the one that does. It said: {said}"
    if isinstance(error, exceptions.BusyLoadingError):
        return f"still reads its data: try again soon. It said: {said}"
    if isinstance(error, exceptions.TimeoutError):
        return f"does not answer: {said}"
    if "certificate" in said.lower():
        return f"cannot be trusted: {said}. Look at its certificate, and at ssl_ca_certs in the url"
    if isinstance(error, exceptions.ConnectionError):
        return f"cannot be reached: {said}"
    return f"refuses what is asked: {said}"
