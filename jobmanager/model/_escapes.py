"""Escapes, for text from a container or an engine that goes into a message or a log line."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Escape control characters, and those that change the direction of writing, as ``\\x1b``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def escape_lines(text: str) -> str:
    """The same, but keep line breaks and tabs."""
    return "".join(char if char in "\n\t" else one_line(char) for char in text)
