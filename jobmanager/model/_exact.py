"""Converts a caller's values to Python's exact built-in types: text to ``str`` and no subclass of it, and so on.

A subclass may contain code, and live in a module that the library's processes cannot import. A ``class Lang(str, Enum)``
becomes its text, a number of numpy's its value, a Mapping a dict of its present items.
"""

from __future__ import annotations

import operator
from collections import UserString
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from jobmanager.errors import InvalidValue

_R = TypeVar("_R")


def make_exact(record: Any, error: type[InvalidValue]) -> None:
    """Convert every field of a record that is being made, before its own checks."""
    for field in fields(record):
        try:
            object.__setattr__(record, field.name, exact(getattr(record, field.name)))
        except RecursionError:
            raise error(f"{type(record).__name__}: {field.name} nests too deeply") from None


def own(cls: type[_R], value: _R) -> _R:
    """Convert an instance of a subclass of one of the library's records to that record; anything else stays."""
    if type(value) is cls or not isinstance(value, cls):
        return value
    return cls(**{field.name: getattr(value, field.name) for field in fields(cls)})  # type: ignore[arg-type]


def exact(value: Any) -> Any:
    """Convert a value and all that is in it. Anything but text, bytes, numbers and collections stays, to be checked later."""
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None)) or kind.__module__.partition(".")[0] == "jobmanager":
        return value
    if isinstance(value, str):
        return str.__str__(value)  # the text, whatever the class makes of it
    if isinstance(value, UserString):
        return exact(value.data)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(memoryview(value))
    if isinstance(value, Mapping):
        return {exact(key): exact(item) for key, item in value.items()}
    if isinstance(value, Collection) and _has_items(value):
        return _collection(value)
    return _number(value)


def _has_items(value: Collection[Any]) -> bool:
    """False for an array without dimensions: it is a number, although its class is a collection."""
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _collection(value: Collection[Any]) -> Collection[Any]:
    for kind in (list, set, frozenset):
        if isinstance(value, kind):
            return kind(exact(item) for item in value)
    return tuple(exact(item) for item in value)


def _number(value: Any) -> Any:
    """An integer stays one. Text that could be read as a number is no number."""
    if not (hasattr(type(value), "__index__") or hasattr(type(value), "__float__")):
        return value
    try:
        return float.__add__(value, 0.0) if isinstance(value, float) else operator.index(value)
    except TypeError:
        pass
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value
