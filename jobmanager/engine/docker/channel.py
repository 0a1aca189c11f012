"""A container's channel over a connection to Docker: both directions at once, and neither ever blocks the other."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

from jobmanager.engine.docker.streams import FrameParser, close_attached, plain_socket, take_over

_CHUNK_BYTES = 65536
_SEND_BYTES = 2**18
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SocketChannel:
    """``Channel`` over an attached connection, plain or TLS."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached
        self._frames = FrameParser()
        self._to_send = bytearray()
        self._lock = threading.Lock()  # of the pipe that wakes: its descriptors may be others' once it is closed
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._read_ahead = b""  # came with the header of the engine's answer
        sock = plain_socket(attached)
        if sock is not None:
            sock.setblocking(False)
            self._read_ahead = take_over(attached)

    def read(self, timeout_s: float) -> bytes | None:
        until = time.monotonic() + timeout_s
        while (sock := plain_socket(self._attached)) is not None and not self._frames.is_corrupt:
            try:
                self._send(sock)
                received = self._receive(sock)
            except OSError:
                return None
            if received is None:
                return None
            if output := self._standard_output(received):
                return output
            if not received and (self._is_woken(sock, until - time.monotonic()) or time.monotonic() >= until):
                return b""
        return None

    def write(self, data: bytes) -> None:
        self._to_send += data

    @property
    def unsent(self) -> int:
        return len(self._to_send)

    def wake(self) -> None:
        with self._lock, suppress(BlockingIOError):  # full: it is woken already
            if self._waker >= 0:
                os.write(self._waker, b"w")

    def close(self) -> None:
        close_attached(self._attached)
        with self._lock:
            if self._waker >= 0:
                os.close(self._woken)
                os.close(self._waker)
                self._woken = self._waker = -1

    def _standard_output(self, received: bytes) -> bytes:
        return b"".join(data for stderr, data in self._frames.feed(received) if not stderr)

    def _send(self, sock: socket.socket) -> None:
        with suppress(*_NOT_NOW):
            while self._to_send:
                del self._to_send[: sock.send(memoryview(self._to_send)[:_SEND_BYTES].tobytes())]

    def _receive(self, sock: socket.socket) -> bytes | None:
        """None at the end; empty where there is nothing now."""
        if self._read_ahead:
            received, self._read_ahead = self._read_ahead, b""
            return received
        try:
            return sock.recv(_CHUNK_BYTES) or None
        except _NOT_NOW:
            return b""

    def _is_woken(self, sock: socket.socket, timeout_s: float) -> bool:
        """Wait until there is something to do, and whether that is because somebody woke us."""
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._to_send else 0))
        poll.register(self._woken, select.POLLIN)
        happened = dict(poll.poll(max(0.0, timeout_s) * 1000))
        if self._woken not in happened:
            return False
        os.read(self._woken, 4096)
        return True
