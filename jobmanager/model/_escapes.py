"""Escapes: text that a container or an engine chose, as it can stand in a message or a log line."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Without control characters and without those that change the direction of writing: they stand there as ``\\x1b``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def lines(text: str) -> str:
    """The same, but line breaks and tabs stay."""
    return "".join(char if char in "\n\t" else one_line(char) for char in text)
