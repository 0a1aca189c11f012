"""Texts from files, arguments and programs, which need not be UTF-8."""

import sys


def cleaned(text: "str") -> "str":
    """A text that UTF-8 can hold: what could not be decoded of an argument becomes replacement characters."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def from_standard_input() -> "str":
    """All of standard input as UTF-8, whatever the locale is."""
    return sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin is not None else ""


def unescaped(text: "str") -> "str":
    r"""Backslash escapes interpreted; a text with escapes that mean nothing (``\x`` alone) stays as it is."""
    try:
        decoded = cleaned(text).encode("utf-8").decode("unicode-escape")  # each byte beyond ASCII is one character now
        return b"".join(character.encode("latin-1" if ord(character) < 256 else "utf-8") for character in decoded).decode("utf-8")
    except UnicodeError:
        return text
