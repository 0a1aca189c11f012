"""Messages between the supervisor, the waiter and the processes that ask for student containers: JSON, one object a line.

Towards the waiter they go through standard output, which the grader writes to as well: as marks, each of them at most
``LONGEST_LINE`` bytes and written at once, so that none is ever torn (``docs/grading.md``, "The link").
"""

import binascii
import json

LONGEST_LINE = 4096
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


class Marks:
    """Messages as marks with the link's token."""

    def __init__(self, token: "str") -> "None":
        self._begin = b"\x1e" + token.encode("ascii") + b" "
        self._room = (LONGEST_LINE - len(self._begin) - len("+ \x1f\n")) // 4 * 3

    def of(self, message: "dict[str, object]") -> "list[bytes]":
        """A message, in as many lines as it takes."""
        data = json.dumps(message).encode("ascii")
        parts = [data[at : at + self._room] for at in range(0, len(data), self._room)]
        return [self._mark(b"+", part) for part in parts[:-1]] + [self._mark(b".", parts[-1])]

    def cut_off(self) -> "bytes":
        """The mark that reports a broken link."""
        return self._begin + b"!\x1f\n"

    def _mark(self, word: "bytes", part: "bytes") -> "bytes":
        return self._begin + word + b" " + binascii.b2a_base64(part, newline=False) + b"\x1f\n"
