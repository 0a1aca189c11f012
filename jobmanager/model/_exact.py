"""What a caller hands over, as values of Python's own exact types: text that is a ``str`` and no child of it, and so on.

A child class may hold code, and live in a module that none of the library's processes knows. A ``class Lang(str, Enum)``
stands for its text, a number of numpy's for its value, a Mapping for what is in it now.
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
    """Every field of a record that is being made; its own checks follow."""
    for field in fields(record):
        try:
            object.__setattr__(record, field.name, exact(getattr(record, field.name)))
        except RecursionError:
            raise error(f"{type(record).__name__}: {field.name} nests too deeply") from None


def own(cls: type[_R], value: _R) -> _R:
    """One of the library's own records where the caller has made a child class of it; anything else stays."""
    if type(value) is cls or not isinstance(value, cls):
        return value
    return cls(**{field.name: getattr(value, field.name) for field in fields(cls)})  # type: ignore[arg-type]


def exact(value: Any) -> Any:
    """A value, and all that is in it. What is neither text, bytes, a number, nor a collection stays as it is, to be checked."""
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
    """An array of no dimensions is a number, though its class has everything that makes a collection."""
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
    """A whole number stays one. Text that could be read as a number is none."""
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
