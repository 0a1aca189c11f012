"""The protocol between ``FakeEngine`` and the fake engine's process: messages with a length, over a unix socket.

A request is a pickled ``(call, *arguments)``, a reply a pickled ``(name of an EngineError or "", value)``; both ends are
processes of one user's test. After the reply to ``open_channel``, the connection is a container's standard input and output,
byte by byte. Its end is the end of the output.
"""

from __future__ import annotations

import pickle
import struct

PIECE = 65536
_LENGTH = struct.Struct("!I")


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
