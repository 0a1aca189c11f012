"""Messages between the supervisor, the waiter and the processes that ask for student containers: JSON objects.

On a connection to the supervisor each is a line. Between supervisor and waiter they go over the channel of the supervisor's run: a
socket that keeps the bounds of what is sent, in pieces of at most ``PIECE`` bytes (``docs/grading.md``, "The link").
"""

import binascii
import json

PIECE = 60000
CUT_OFF = b"\2"  # in the place of a piece: the link broke while it was needed
LARGEST = 1024 * 1024


class LineBuffer:
    """Cuts a stream into lines."""

    def __init__(self) -> "None":
        self._parts = []  # type: list[bytes]

    def feed(self, data: "bytes") -> "list[bytes]":
        """Add data; returns the lines that are complete now."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join(self._parts) + whole[0]
            self._parts = []
        self._parts.append(rest)
        return whole


def line(message: "dict[str, object]") -> "bytes":
    """A message as a line of its own."""
    return json.dumps(message).encode("ascii") + b"\n"


def read(data: "bytes") -> "dict[str, object]":
    """The message of a line. Raises ValueError when it is invalid."""
    try:
        message = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("a message is nested too deep") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("a message is an object with a type")
    return message


def base64(data: "bytes") -> "str":
    """Bytes in a message."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(text: "object") -> "bytes":
    """Bytes from a message."""
    return binascii.a2b_base64(str(text))


def pieces(message: "dict[str, object]") -> "list[bytes]":
    """A message as it goes over the channel: each piece begins with a byte, 1 where more follows."""
    data = json.dumps(message).encode("ascii")
    parts = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    return [b"\1" + part for part in parts[:-1]] + [b"\0" + parts[-1]]


class PieceBuffer:
    """Puts messages together from their pieces."""

    def __init__(self) -> "None":
        self._parts = []  # type: list[bytes]

    def feed(self, piece: "bytes") -> "bytes | None":
        """Add a piece; returns the message that is whole with it."""
        self._parts.append(piece[1:])
        if piece[:1] == b"\1":
            return None
        parts, self._parts = self._parts, []
        return b"".join(parts)
