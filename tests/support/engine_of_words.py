"""An engine that answers every request with the same bytes, well or ill, at its own pace."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from tests.support.listener import Listener

Answer = Callable[[str], Iterable[bytes]]  # of a request's first line
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nApi-Version: 1.41\r\n"


def whole(body: bytes, head: bytes = OK) -> bytes:
    """An answer of that body."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class EngineOfWords(Listener):
    """Gives each request the answer's pieces, one after the other."""

    def __init__(self, answer: Answer, *, tcp: bool = False) -> None:
        super().__init__(tcp=tcp)
        self._answer = answer
        self.over = threading.Event()
        self.asked: list[str] = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        super().__exit__(kind, error, trace)

    def slowly(self, data: bytes, pause_s: float) -> Iterator[bytes]:
        """One byte after the other, until the engine ends."""
        for at in range(len(data)):
            if self.over.wait(pause_s):
                return
            yield data[at : at + 1]

    def _serve(self, client: socket.socket) -> None:
        with client.makefile("rb") as requests:
            while line := requests.readline():
                length = 0
                while (header := requests.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                requests.read(length)
                self.asked.append(line.decode().strip())
                for piece in self._answer(self.asked[-1]):
                    client.sendall(piece)
