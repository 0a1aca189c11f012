"""Limits the time and the bytes of each call of docker's client, whatever the engine sends.

requests' timeout holds for each read alone: an engine that sends a byte a second never exceeds it, and a body may go on for
ever. Here the timeout of every read, of headers and of the body, is what is left of the call's own time.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any

import docker
import requests.adapters
import urllib3.connection
import urllib3.connectionpool
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

MIN_BYTES_PER_S = 8192  # an answer may take one more second for so many bytes
_MAX_TIMEOUTS = 4  # a call whose answer is bounded may take so many times its timeout
_MAX_BYTES = 16 * 2**20  # of an answer that is read into memory: thousands of containers or images
_MAX_LINE_BYTES = 65536


class AnswerTooLarge(OSError):
    """An answer is longer than any valid one."""


@dataclass(slots=True, kw_only=True)
class CallLimits:
    """The limits of one call. A call fails that receives nothing, or almost nothing, for ``timeout_s``."""

    timeout_s: float
    max_bytes: float = _MAX_BYTES
    is_stream: bool = False  # once the headers are here, each read has ``timeout_s``, as output may come slowly
    clock: Callable[[], float] = time.monotonic
    _received_bytes: int = 0
    _started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._started_at = self.clock()

    def left_s(self, *, has_headers: bool = False) -> float:
        """Seconds for the next read or write; raises TimeoutError when none are left."""
        if self.is_stream and has_headers:
            return self.timeout_s
        allowed_s = self.timeout_s + self._received_bytes / MIN_BYTES_PER_S
        if self.max_bytes < inf:
            allowed_s = min(allowed_s, _MAX_TIMEOUTS * self.timeout_s)
        left_s = self._started_at + allowed_s - self.clock()
        if left_s <= 0:
            raise self.timeout_error()
        return left_s

    def timeout_error(self) -> TimeoutError:
        """The error when no time is left."""
        return TimeoutError(f"no answer within {self.clock() - self._started_at:.3g} s")

    def count_bytes(self, count: int) -> None:
        """Count bytes that were read; raises AnswerTooLarge."""
        self._received_bytes += count
        if self._received_bytes > self.max_bytes:
            raise AnswerTooLarge(f"an answer of more than {self.max_bytes / 2**20:.0f} MiB makes no sense")


_this_thread = threading.local()


@contextmanager
def limited(limits: CallLimits) -> Iterator[None]:
    """These limits hold for calls that this thread makes meanwhile."""
    _this_thread.limits = limits
    try:
        yield
    finally:
        _this_thread.limits = None


def _limits() -> CallLimits | None:
    return getattr(_this_thread, "limits", None)


def enforce_limits(client: docker.APIClient) -> None:
    """Have this client's calls obey the limits of ``limited``."""
    client.headers["Accept-Encoding"] = "identity"
    client.max_redirects = 0  # an engine must not redirect us
    for scheme, adapter in list(client.adapters.items()):
        if isinstance(adapter, UnixHTTPAdapter):
            client.mount(scheme, _UnixAdapter(f"http+unix://{adapter.socket_path}", adapter.timeout))
        else:
            client.mount(scheme, _TCPAdapter())


class _Reader(io.RawIOBase):
    """A socket as a file, as ``socket.SocketIO`` is, that reads within a call's limits."""

    def __init__(self, sock: socket.socket, limits: CallLimits) -> None:
        self._sock: socket.socket | None = sock  # SocketIO's name for it, which docker-py and we use; None: closed
        self._file = sock.makefile("rb", buffering=0)
        self._limits = limits
        self.has_headers = False
        self.is_taken_over = False  # somebody else reads from the socket now

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._sock is None:
            raise OSError("the connection was closed by us")
        if self.is_taken_over:
            return None
        self._sock.settimeout(self._limits.left_s(has_headers=self.has_headers))
        try:
            count = self._file.readinto(buffer)
        except TimeoutError:
            raise self._limits.timeout_error() from None
        self._limits.count_bytes(count or 0)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            self._sock = None


class _LimitedBuffer(io.BufferedReader):
    def take_over(self) -> bytes:
        """What was read together with the headers and is still here; from now on nothing more is read from the socket."""
        self.raw.is_taken_over = True  # type: ignore[attr-defined]
        return self.read1() or b""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_MAX_LINE_BYTES if size is None or size < 0 else size)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self._reader: _Reader | None = None
        if (limits := _limits()) is not None:
            self.fp.close()
            self._reader = _Reader(sock, limits)
            self.fp = _LimitedBuffer(self._reader)

    def begin(self) -> None:
        super().begin()
        if self._reader is not None:
            self._reader.has_headers = True
        del self.headers["Content-Encoding"]  # we never ask for it, and a small body may unpack to any size


class _LimitedConnection:
    """A connection whose requests are written, and whose responses are read within a call's limits."""

    response_class: Any = _Response
    sock: Any

    def send(self, data: Any) -> None:
        if self.sock is not None and (limits := _limits()) is not None:
            self.sock.settimeout(limits.left_s())
        super().send(data)  # type: ignore[misc]


class _UnixConnection(_LimitedConnection, UnixHTTPConnection):  # type: ignore[misc]
    pass


class _UnixPool(UnixHTTPConnectionPool):  # type: ignore[misc]
    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self.base_url, self.socket_path, self.timeout)


class _UnixAdapter(UnixHTTPAdapter):  # type: ignore[misc]
    def get_connection(self, url: str, proxies: Any = None) -> _UnixPool:  # noqa: ARG002
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _UnixPool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return pool  # type: ignore[no-any-return]


class _HTTPConnection(_LimitedConnection, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_LimitedConnection, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _TCPAdapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
