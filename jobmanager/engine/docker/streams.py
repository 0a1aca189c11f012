"""A container's output over a connection to Docker: attached, or from its log."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from typing import Any

import requests.exceptions
import urllib3.exceptions

from jobmanager.engine.protocol import Chunk

_CHUNK_BYTES = 65536
_HEADER = struct.Struct(">B3sL")
_STDERR = 2
_MAX_FRAME_BYTES = 2**20  # an engine's are of some KiB


class SocketStream:
    """An attached container's output, straight from the socket."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached
        self._frames = FrameParser()

    def read(self, timeout_s: float) -> list[Chunk] | None:
        sock = plain_socket(self._attached)
        if sock is None or self._frames.is_corrupt:
            return None  # closed by us, or corrupt
        try:
            sock.settimeout(max(timeout_s, 0.001))
            data = sock.recv(_CHUNK_BYTES)
        except TimeoutError:
            return []
        except OSError:
            return None
        return self._frames.feed(data) if data else None

    def close(self) -> None:
        close_attached(self._attached)


class LogStream:
    """A followed log. Reading it blocks, so a thread reads it; an unread log does not block the container."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._frames = FrameParser()
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read_all, name="jobmanager-log", daemon=True)
        self._reader.start()

    def read(self, timeout_s: float) -> list[Chunk] | None:
        if self._closing.is_set() or self._frames.is_corrupt:
            return None
        try:
            data = self._pieces.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return []
        if not data:
            self._closing.set()  # a further read returns the end again
            return None
        return self._frames.feed(data)

    def close(self) -> None:
        self._closing.set()
        _shut_response(self._response)

    def _read_all(self) -> None:
        try:
            for data in self._response.raw.stream(_CHUNK_BYTES):
                if data and not self._put(data):
                    return
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # broken, or closed by us while it was read
        finally:
            self._put(b"")
            self._response.close()

    def _put(self, data: bytes) -> bool:
        while not self._closing.is_set():
            try:
                self._pieces.put(data, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False


class FrameParser:
    """Parses the engine's multiplexed output: 8 bytes of header (stream, three zeros, length), then data.

    The part of a frame that has come is returned at once, so that a slow link does not look silent. An invalid header means
    that other data got into the stream: nothing after it can be trusted.
    """

    def __init__(self) -> None:
        self.is_corrupt = False
        self._stderr = False
        self._bytes_left = 0  # bytes of the current frame
        self._header = b""

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks in this data."""
        chunks: list[Chunk] = []
        while data and not self.is_corrupt:
            if self._bytes_left:
                chunks.append(Chunk(self._stderr, data[: self._bytes_left]))
                data, self._bytes_left = data[self._bytes_left :], max(0, self._bytes_left - len(data))
                continue
            missing = _HEADER.size - len(self._header)
            self._header, data = self._header + data[:missing], data[missing:]
            if len(self._header) == _HEADER.size:
                self._start_frame()
        return chunks

    def _start_frame(self) -> None:
        stream, padding, self._bytes_left = _HEADER.unpack(self._header)
        self.is_corrupt = stream > _STDERR or any(padding) or self._bytes_left > _MAX_FRAME_BYTES
        self._stderr, self._header = stream == _STDERR, b""


def plain_socket(attached: Any) -> socket.socket | None:
    """The socket inside docker-py's wrapper, which does not read again after a timeout. None: it was closed."""
    return getattr(attached, "_sock", attached)  # type: ignore[no-any-return]


def close_attached(attached: Any) -> None:
    """Close an attached connection; a second call does nothing."""
    sock = plain_socket(attached)
    if sock is None:
        return  # closed before
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side has closed it
    attached._response.close()  # they refer to each other, and would keep the descriptor until garbage collection
    attached.close()


def _shut_response(response: Any) -> None:
    """Wake the thread that reads the response, and then closes it."""
    try:
        response.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)
    except (AttributeError, OSError):
        response.close()
