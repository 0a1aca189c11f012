"""An engine that answers every request with the same bytes, well or ill, at its own pace."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

Answer = Callable[[str], Iterable[bytes]]  # of a request's first line
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nApi-Version: 1.41\r\n"


def whole(body: bytes, head: bytes = OK) -> bytes:
    """An answer of that body."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class EngineOfWords:
    """Listens on a unix socket, or on TCP. A context manager; ``url`` is what an engine's user is given."""

    def __init__(self, answer: Answer, *, tcp: bool = False) -> None:
        self._answer = answer
        self._folder = tempfile.TemporaryDirectory(prefix="jmw-", dir="/tmp")
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            path = str(Path(self._folder.name) / "s")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(64)
            self.url = f"unix://{path}"
        self.over = threading.Event()
        self.asked: list[str] = []
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> EngineOfWords:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._folder.cleanup()

    def slowly(self, data: bytes, pause_s: float) -> Iterator[bytes]:
        """One byte after the other, until the engine ends."""
        for at in range(len(data)):
            if self.over.wait(pause_s):
                return
            yield data[at : at + 1]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as requests, suppress(OSError):
            while line := requests.readline():
                length = 0
                while (header := requests.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                requests.read(length)
                self.asked.append(line.decode().strip())
                for piece in self._answer(self.asked[-1]):
                    client.sendall(piece)
        self._open.discard(client)
