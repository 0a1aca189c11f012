"""The protocol between ``FakeEngine`` and the fake engine's process: messages with a length, over a unix socket.

A request is a pickled ``(call, *arguments)``, a reply a pickled ``(name of an EngineError or "", value)``; both ends are
processes of one user's test. After a reply to ``attach`` and ``logs`` come chunks of output on the same connection: one byte
that names the stream, then data. The end of the connection is the end of the output.
"""

from __future__ import annotations

import pickle
import struct

PIECE = 65536
STDOUT, STDERR = b"\x01", b"\x02"
_LENGTH = struct.Struct("!I")


def framed(body: bytes) -> bytes:
    """A body with its length."""
    return _LENGTH.pack(len(body)) + body


def packed(value: object) -> bytes:
    """Plain data as a message."""
    body = pickle.dumps(value, 5)
    return _LENGTH.pack(len(body)) + body


class Inbox:
    """Splits received data into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def is_partial(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete."""
        held = self._held
        held += data
        found = []
        at = 0
        while len(held) - at >= 4:
            (length,) = _LENGTH.unpack_from(held, at)
            if len(held) - at - 4 < length:
                break
            found.append(bytes(held[at + 4 : at + 4 + length]))
            at += 4 + length
        del held[:at]
        return found
