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

_PIECE = 65536
_HEADER = struct.Struct(">B3sL")
_STDERR = 2
_LONGEST_FRAME = 2**20  # an engine's are of some KiB


class SocketStream:
    """An attached container's output, straight from the socket."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached
        self._frames = _Frames()

    def read(self, timeout_s: float) -> list[Chunk] | None:
        plain = plain_socket(self._attached)
        if plain is None or self._frames.out_of_step:
            return None  # closed by us, or as good as broken
        try:
            plain.settimeout(max(timeout_s, 0.001))
            data = plain.recv(_PIECE)
        except TimeoutError:
            return []
        except OSError:
            return None
        return self._frames.feed(data) if data else None

    def close(self) -> None:
        shut(self._attached)


class LogStream:
    """A followed log. Reading it blocks, so a thread of its own does; an unread log holds no container up."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._frames = _Frames()
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read_all, name="jobmanager-log", daemon=True)
        self._reader.start()

    def read(self, timeout_s: float) -> list[Chunk] | None:
        if self._closing.is_set() or self._frames.out_of_step:
            return None
        try:
            data = self._pieces.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return []
        if not data:
            self._closing.set()  # whoever reads on sees the end again
            return None
        return self._frames.feed(data)

    def close(self) -> None:
        self._closing.set()
        _shut_response(self._response)

    def _read_all(self) -> None:
        try:
            for data in self._response.raw.stream(_PIECE):
                if data and not self._put(data):
                    return
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # broken off, or closed by us under the reader's hands
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


class _Frames:
    """Takes the engine's multiplexed output apart: 8 bytes of header (stream, three zeros, length), then data.

    What has come of a frame is given at once, so that a slow link is never taken for a silent one. What is no header means
    that something else got into the stream: from then on nobody can tell what is whose.
    """

    def __init__(self) -> None:
        self.out_of_step = False
        self._stderr = False
        self._left = 0  # bytes of the frame that has begun
        self._header = b""

    def feed(self, data: bytes) -> list[Chunk]:
        """What has come."""
        chunks: list[Chunk] = []
        while data and not self.out_of_step:
            if self._left:
                chunks.append(Chunk(self._stderr, data[: self._left]))
                data, self._left = data[self._left :], max(0, self._left - len(data))
                continue
            missing = _HEADER.size - len(self._header)
            self._header, data = self._header + data[:missing], data[missing:]
            if len(self._header) == _HEADER.size:
                self._begin_frame()
        return chunks

    def _begin_frame(self) -> None:
        stream, padding, self._left = _HEADER.unpack(self._header)
        self.out_of_step = stream > _STDERR or any(padding) or self._left > _LONGEST_FRAME
        self._stderr, self._header = stream == _STDERR, b""


def plain_socket(attached: Any) -> socket.socket | None:
    """The socket under docker-py's wrapper, which refuses to read again after one timeout. None: it was closed."""
    return getattr(attached, "_sock", attached)  # type: ignore[no-any-return]


def shut(attached: Any) -> None:
    """Let go of an attached connection; the second time nothing happens."""
    plain = plain_socket(attached)
    if plain is None:
        return  # closed before
    try:
        plain.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was quicker
    attached._response.close()  # it and its connection refer to each other, and would keep the descriptor until collected
    attached.close()


def _shut_response(response: Any) -> None:
    """Wake the thread that reads the response; it closes it."""
    try:
        response.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)
    except (AttributeError, OSError):
        response.close()
