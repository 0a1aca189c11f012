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
        raise InvalidValue(
            f"the address of Redis that was given is none: it must be like {_HOW}. In a user or password write %2F for"
            " /, %3F for ?, %23 for # and %40 for @"
        ) from None
    return url


def has_password(url: str) -> bool:
    """Whether an address holds a secret, which arguments of programs would show to everybody on the machine."""
    return bool(_parsed(url).get("password"))


def shown_url(url: str) -> str:
    """An address without its user, password and options. One whose password may stand elsewhere is not shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the given address"
    if "@" in f"{parts.path}{parts.query}{parts.fragment}" or not parts.scheme:
        return "the given address"
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


def _parsed(url: str) -> Mapping[str, object]:
    found: Mapping[str, object] = parse_url(url)  # type: ignore[no-untyped-call]
    return found


def _meaning(error: exceptions.RedisError) -> str:
    said = " ".join(str(error).partition(", with args")[0].split())[:300].rstrip(".")  # a command's arguments are nobody's business
    for kind, meaning in _MEANINGS:
        if isinstance(error, kind):
            return meaning.format(said=said)
    small = said.lower()
    for part, meaning in _CONNECTION_MEANINGS:
        if part in small and isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
            return meaning.format(said=said)
    if "user executing the script can't" in small:
        return _NO_RIGHT.format(said=said)
    if isinstance(error, exceptions.TimeoutError):
        return f"does not answer: {said}. Is it Redis, does it run, and is a TLS port asked with rediss:// and another with redis://?"
    if isinstance(error, exceptions.ConnectionError):
        return f"cannot be reached: {said}. Does it run there, and may this machine connect to it?"
    return f"refuses what is asked: {said}"


_NO_RIGHT = "does not let this user do that: {said}. The users' rights are in examples/cluster/users.acl"
_MEANINGS: tuple[tuple[type[exceptions.RedisError], str], ...] = (
    (exceptions.AuthenticationError, f"refuses the user or the password: {{said}}. Look at the url, as in {URL_VARIABLE}"),
    (exceptions.NoPermissionError, _NO_RIGHT),
    (exceptions.OutOfMemoryError, "is full: give it more memory (maxmemory). It said: {said}"),
    (exceptions.ReadOnlyError, "is a replica that takes no writes: give the address of the one that does. It said: {said}"),
    (exceptions.BusyLoadingError, "still reads its data: try again soon. It said: {said}"),
    (exceptions.InvalidResponse, "answers as no Redis does: look at the port in the url. It said: {said}"),
)
_CONNECTION_MEANINGS = (
    (
        "eof occurred in violation of protocol",
        "ends the TLS connection: does it want a client certificate (ssl_certfile and ssl_keyfile in the url)? It said: {said}",
    ),
    ("certificate required", "wants a certificate of its clients: give ssl_certfile and ssl_keyfile in the url. It said: {said}"),
    ("certificate has expired", "has an expired certificate: renew it, and look at the clocks. It said: {said}"),
    ("certificate", "cannot be trusted: {said}. Look at its certificate, and at ssl_ca_certs in the url"),
    ("wrong version number", "speaks no TLS there: take redis:// in the url, or its TLS port. It said: {said}"),
    ("record layer failure", "speaks no TLS there: take redis:// in the url, or its TLS port. It said: {said}"),
    ("no such file", "cannot be reached: {said}. The url names a socket or a certificate that is not there"),
    ("max number of clients", "has too many connections: raise maxclients. It said: {said}"),
    ("connection closed by server", "ends the connection: is it Redis, and is a TLS port asked with rediss://? It said: {said}"),
    ("connection reset", "ends the connection: is it Redis, and is a TLS port asked with rediss://? It said: {said}"),
)
