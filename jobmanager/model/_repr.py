"""How records look in logs, tracebacks and notebooks: every value is cut, so that no stream, archive or file floods them.

What comes out of a container may be large. What is left out is said: ``b'abc'... (900000 bytes)``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Set
from enum import Enum
from typing import NamedTuple, Union

_CUT = 200  # bytes or characters of one value
_CUT_BELOW = 60  # in a record or a collection inside of a record
_ITEMS = 10  # of one collection
_ITEMS_BELOW = 3
_MAX_RECORDS = 2  # a record in a record is shown, and what that one holds by its name only
_MAX_DEPTH = 4
_MAX_BITS = 1024
_BRACKETS = {list: ("[", "]"), tuple: ("(", ")"), frozenset: ("frozenset({", "})")}  # of all others: "{" and "}"
_BY_SIZE = "shown by size"  # in the metadata of a field
SHOWN_BY_SIZE: Mapping[str, bool] = {_BY_SIZE: True}  # metadata of a field with repr=False
_Collection = Union[Mapping[object, object], list[object], tuple[object, ...], Set[object]]


class _Pair(NamedTuple):
    """An item of a mapping."""

    key: object
    value: object


def record_repr(record: object) -> str:
    """A record's class with its fields, each value cut. For ``__repr__`` of a dataclass or a named tuple."""
    return _of_record(record, 1, 0)


def value_repr(value: object) -> str:
    """A value, cut in the same way: for messages."""
    return _of_value(value, 1, 0)


def _of_record(record: object, records: int, depth: int) -> str:
    if records > _MAX_RECORDS:
        return f"{type(record).__qualname__}(...)"
    shown = (f"{name}={_of_value(value, records, depth)}" for name, value in _fields(record))
    return f"{type(record).__qualname__}({', '.join(shown)})"


def _fields(record: object) -> Iterator[tuple[str, object]]:
    if isinstance(record, tuple):
        for name in getattr(record, "_fields", ()):
            yield name, getattr(record, name)
        return
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if field.repr:
            yield field.name, value
        elif value and field.metadata.get(_BY_SIZE):
            yield field.name, _size_of(value)


def _size_of(value: object) -> object:
    """What is shown of contents that may be private, or many: how large they are."""
    if isinstance(value, Mapping):
        return {key: _size_of(content) for key, content in value.items()}
    if isinstance(value, (bytes, str)):
        return _Size(f"<{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}>")
    return _Size(f"<{len(value)}>") if isinstance(value, (list, tuple)) else _Size(f"<{value!r:.200}>")


class _Size(str):
    """A size in words, which is shown without quotes."""

    __slots__ = ()


def _of_value(value: object, records: int, depth: int) -> str:
    if isinstance(value, _Size):
        return str(value)
    if isinstance(value, Enum):
        return repr(value)
    if isinstance(value, (bytes, str)):
        return _of_text(value, _CUT_BELOW if depth else _CUT)
    if type(value).__repr__ is record_repr:
        return _of_record(value, records + 1, depth + 1)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # Python refuses to convert one with too many digits
        return f"<a number of {value.bit_length()} bits>"
    if isinstance(value, (Mapping, list, tuple, Set)):
        return _of_collection(value, records, depth)
    return _cut(repr(value), _CUT)


def _of_text(value: bytes | str, most: int) -> str:
    if len(value) <= most:
        return repr(value)
    return f"{value[:most]!r}... ({len(value)} {'bytes' if isinstance(value, bytes) else 'characters'})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _of_collection(value: _Collection, records: int, depth: int) -> str:
    if not value:
        return repr(value)
    if depth >= _MAX_DEPTH:
        return f"<{type(value).__name__} of {len(value)}>"
    most = _ITEMS_BELOW if depth else _ITEMS
    first = [_of_item(item, records, depth + 1) for item in itertools.islice(_items(value), most)]
    if len(value) > most:
        first.append(f"... ({len(value)} in all)")
    elif isinstance(value, tuple) and len(value) == 1:
        first.append("")
    opening, closing = next((_BRACKETS[kind] for kind in _BRACKETS if isinstance(value, kind)), ("{", "}"))
    return f"{opening}{', '.join(first).rstrip(' ')}{closing}"


def _items(value: _Collection) -> Iterable[object]:
    return map(_Pair._make, value.items()) if isinstance(value, Mapping) else value


def _of_item(item: object, records: int, depth: int) -> str:
    if type(item) is _Pair:
        return f"{_of_value(item.key, records, depth)}: {_of_value(item.value, records, depth)}"
    return _of_value(item, records, depth)
