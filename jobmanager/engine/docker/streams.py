"""What comes over an attached connection to Docker: frames, and the socket inside docker-py's wrapper."""

from __future__ import annotations

import socket
import struct
from typing import Any

_HEADER = struct.Struct(">B3sL")
_STDERR = 2
_MAX_FRAME_BYTES = 2**20  # an engine's are of some KiB


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

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """The pieces in this data: whether each is standard error, and its bytes."""
        pieces: list[tuple[bool, bytes]] = []
        while data and not self.is_corrupt:
            if self._bytes_left:
                pieces.append((self._stderr, data[: self._bytes_left]))
                data, self._bytes_left = data[self._bytes_left :], max(0, self._bytes_left - len(data))
                continue
            missing = _HEADER.size - len(self._header)
            self._header, data = self._header + data[:missing], data[missing:]
            if len(self._header) == _HEADER.size:
                self._start_frame()
        return pieces

    def _start_frame(self) -> None:
        stream, padding, self._bytes_left = _HEADER.unpack(self._header)
        self.is_corrupt = stream > _STDERR or any(padding) or self._bytes_left > _MAX_FRAME_BYTES
        self._stderr, self._header = stream == _STDERR, b""


def plain_socket(attached: Any) -> socket.socket | None:
    """The socket inside docker-py's wrapper, which does not read again after a timeout. None: it was closed."""
    return getattr(attached, "_sock", attached)  # type: ignore[no-any-return]


def take_over(attached: Any) -> bytes:
    """What was read together with the header of the engine's answer. From now on its socket is ours alone."""
    return attached._response.raw._fp.fp.take_over()  # type: ignore[no-any-return]


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
