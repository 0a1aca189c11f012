"""What the proxies and the false engines of the tests listen with."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

_PATIENCE_S = 10.0
_L = TypeVar("_L", bound="Listener")


class Listener(ABC):
    """Listens on a unix socket, or on TCP, and serves each connection in a thread.

    A context manager; ``url`` is what an engine's user is given.
    """

    def __init__(self, *, tcp: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jml-", dir="/tmp")
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            path = str(Path(self._folder.name) / "s")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(64)
            self.url = f"unix://{path}"
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self: _L) -> _L:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(_PATIENCE_S)
        self._break_off()
        until = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        self._folder.cleanup()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Serve one connection to its end."""

    @contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[None]:
        """Until the block is left, ``_break_off`` reaches this connection; then it is closed."""
        with self._open_lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._open_lock:
                self._open.discard(connection)
            connection.close()

    def _break_off(self) -> None:
        """Shut every open connection down: this also wakes a thread that writes to somebody who reads nothing."""
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._open_lock:
                self._open.add(client)
            thread = threading.Thread(target=self._serve_kept, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve_kept(self, client: socket.socket) -> None:
        with self._kept(client), suppress(OSError, ValueError):
            self._serve(client)
