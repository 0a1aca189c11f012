"""Whether a case printed what is expected, and where it first differs. The output is hostile; what is expected is not shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from jobmanager.model._escapes import one_line
from jobmanager.model.checks import Check, Exact, Floats, Lines, Tokens

_SHOWN_BYTES = 40
_WORD = re.compile(rb"[^ \t\n\r\v\f]+")
_LINE = re.compile(rb"([^\n]*)(?:\n|\Z)")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_MAX_NUMBER_BYTES = 400  # digits beyond that tell nothing of a double
_BLANKS = b" \t\r\v\f"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing."""

    is_correct: bool
    difference: str = ""  # where the output first differs, in one line that does not tell what is expected


@dataclass(frozen=True, slots=True)
class _Part:
    """A line, or a word with the line that it is in."""

    content: bytes
    line: int


def compare(check: Check, expected: bytes, output: bytes) -> Comparison:
    """Compare the whole output. Time and memory are linear in both."""
    if output == expected:
        return Comparison(True)
    if isinstance(check, Exact):
        return Comparison(False, _first_byte(expected, output))
    if isinstance(check, Lines):
        return _parts("line", _lines(expected), _lines(output))
    if isinstance(check, Tokens):
        return _parts("word", _words(expected), _words(output))
    return _parts("word", _words(expected), _words(output), check)


def _parts(kind: str, expected: Iterator[_Part], output: Iterator[_Part], floats: Floats | None = None) -> Comparison:
    for wanted, given in zip_longest(expected, output):
        if given is None:
            return Comparison(False, f"the output ends, and more is expected: another {kind}")
        if wanted is None:
            return Comparison(False, f"line {given.line}: {_shown(given.content)} is more than is expected")
        if wanted.content != given.content and not (floats and _is_near(floats, wanted.content, given.content)):
            return Comparison(False, f"line {given.line}: {_shown(given.content)} is not what is expected")
    return Comparison(True)


def _first_byte(expected: bytes, output: bytes) -> str:
    at = _common_length(expected, output)
    if at == len(output):
        return "the output ends, and more is expected"
    line, column = output.count(b"\n", 0, at) + 1, at - output.rfind(b"\n", 0, at)
    return f"line {line}, byte {column}: {_shown(output[at : at + _SHOWN_BYTES + 1])} is not what is expected"


def _common_length(one: bytes, other: bytes) -> int:
    """Of the longest beginning that both have: by halves, as whole pieces are compared fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _lines(content: bytes) -> Iterator[_Part]:
    """Lines without white space at their end; those that are empty at the end are left out."""
    empty = 0
    for number, found in enumerate(_LINE.finditer(content), 1):
        line = found[1].rstrip(_BLANKS)
        if not line:
            empty += 1
            continue
        yield from (_Part(b"", number - left) for left in range(empty, 0, -1))
        empty = 0
        yield _Part(line, number)


def _words(content: bytes) -> Iterator[_Part]:
    line, counted_to = 1, 0
    for found in _WORD.finditer(content):
        line += content.count(b"\n", counted_to, found.start())
        counted_to = found.start()
        yield _Part(found[0], line)


def _is_near(floats: Floats, wanted: bytes, given: bytes) -> bool:
    numbers = [_number(wanted), _number(given)]
    if None in numbers:
        return False
    expected, found = numbers
    assert expected is not None and found is not None
    return abs(found - expected) <= max(floats.absolute, floats.relative * abs(expected))


def _number(word: bytes) -> float | None:
    """A decimal number as programs print it; one that is no finite double, or no number, is None."""
    if len(word) > _MAX_NUMBER_BYTES or not _NUMBER.fullmatch(word):
        return None
    value = float(word)
    return value if abs(value) != float("inf") else None


def _shown(content: bytes) -> str:
    text = one_line(content[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
    return f"{text!r}" + ("..." if len(content) > _SHOWN_BYTES else "")
