"""How docker's client reaches an engine: each call within one bound of time and of bytes, whatever the engine sends.

requests' timeout is one for each read, so an engine that sends a byte a second is never too late for it, and a body may
go on for ever. Here every read, of headers and of the body, goes by what is left of the call's own time.
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

LEAST_BYTES_PER_S = 8192  # what comes whole may take a second more for as much
_MOST_TIMES = 4  # its timeout, for a call whose answer has a bound of its own
_MOST_BYTES = 16 * 2**20  # of an answer that is read into memory: thousands of containers or images
_LONGEST_LINE = 65536


class TooMuch(OSError):
    """An answer is longer than any that makes sense."""


@dataclass(slots=True, kw_only=True)
class Patience:
    """What one call may take. One that is silent, or all but silent, for ``timeout_s`` has failed."""

    timeout_s: float
    most_bytes: float = _MOST_BYTES
    is_stream: bool = False  # once it has begun, each read has ``timeout_s``: its pace says nothing
    clock: Callable[[], float] = time.monotonic
    _came_bytes: int = 0
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def left_s(self, *, has_begun: bool = False) -> float:
        """For the next read or write, once the headers are here or before; raises TimeoutError when nothing is left."""
        if self.is_stream and has_begun:
            return self.timeout_s
        allowed_s = self.timeout_s + self._came_bytes / LEAST_BYTES_PER_S
        if self.most_bytes < inf:
            allowed_s = min(allowed_s, _MOST_TIMES * self.timeout_s)
        left_s = self._began + allowed_s - self.clock()
        if left_s <= 0:
            raise self.too_late()
        return left_s

    def too_late(self) -> TimeoutError:
        """What is to be said when nothing is left."""
        return TimeoutError(f"no answer within {self.clock() - self._began:.3g} s")

    def came(self, count: int) -> None:
        """So many bytes were read; raises TooMuch."""
        self._came_bytes += count
        if self._came_bytes > self.most_bytes:
            raise TooMuch(f"an answer of more than {self.most_bytes / 2**20:.0f} MiB makes no sense")


_this_thread = threading.local()


@contextmanager
def within(patience: Patience) -> Iterator[None]:
    """Calls that this thread begins meanwhile go by it."""
    _this_thread.patience = patience
    try:
        yield
    finally:
        _this_thread.patience = None


def _patience() -> Patience | None:
    return getattr(_this_thread, "patience", None)


def bound(client: docker.APIClient) -> None:
    """Have this client's calls go by ``within``."""
    client.headers["Accept-Encoding"] = "identity"
    client.max_redirects = 0  # an engine has no business to send us elsewhere
    for scheme, adapter in list(client.adapters.items()):
        if isinstance(adapter, UnixHTTPAdapter):
            client.mount(scheme, _UnixAdapter(f"http+unix://{adapter.socket_path}", adapter.timeout))
        else:
            client.mount(scheme, _TCPAdapter())


class _Reader(io.RawIOBase):
    """A socket as a file, as ``socket.SocketIO`` is, that reads within a call's patience."""

    def __init__(self, plain: socket.socket, patience: Patience) -> None:
        self._sock: socket.socket | None = plain  # by its name in SocketIO, for docker-py and us; None: closed
        self._file = plain.makefile("rb", buffering=0)
        self._patience = patience
        self.has_begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._sock is None:
            raise OSError("the connection was closed by us")
        self._sock.settimeout(self._patience.left_s(has_begun=self.has_begun))
        try:
            count = self._file.readinto(buffer)
        except TimeoutError:
            raise self._patience.too_late() from None
        self._patience.came(count or 0)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            self._sock = None


class _Buffer(io.BufferedReader):
    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_LONGEST_LINE if size is None or size < 0 else size)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self._reader: _Reader | None = None
        if (patience := _patience()) is not None:
            self.fp.close()
            self._reader = _Reader(sock, patience)
            self.fp = _Buffer(self._reader)

    def begin(self) -> None:
        super().begin()
        if self._reader is not None:
            self._reader.has_begun = True
        del self.headers["Content-Encoding"]  # nobody asked for it, and a small body may unpack to any size


class _Timed:
    """A connection whose requests are written, and whose responses are read, within a call's patience."""

    response_class: Any = _Response
    sock: Any

    def send(self, data: Any) -> None:
        if self.sock is not None and (patience := _patience()) is not None:
            self.sock.settimeout(patience.left_s())
        super().send(data)  # type: ignore[misc]


class _UnixConnection(_Timed, UnixHTTPConnection):  # type: ignore[misc]
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


class _HTTPConnection(_Timed, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Timed, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _TCPAdapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
