"""Names and words as a container has them: UTF-8, in every locale of the caller.

Bytes that are no UTF-8 keep their value, as in ``os.fsencode``.
"""

from __future__ import annotations


def to_utf8(text: str) -> bytes:
    """The bytes of a text."""
    return text.encode("utf-8", "surrogateescape")


def from_utf8(data: bytes) -> str:
    """The text of bytes."""
    return data.decode("utf-8", "surrogateescape")
