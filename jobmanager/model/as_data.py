"""Records as plain data, for another machine, a database or a file: what JSON has, and nothing else.

The form follows from a record's fields and their types; ``docs/tasks.md`` describes it. Bytes are base64 text. An enum is its word.
Tuples and sets are lists. A record that can stand where another could says its ``kind``. ``schema`` is the number of the form.

What is read may be hostile. Unknown fields, values of a wrong type, numbers that are not finite and contents that do not have their
digest are refused before a record is made, and the record's own checks follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, TypeVar

from jobmanager.errors import InvalidValue
from jobmanager.model._forms import Load, Store, Wrong, record_form, shown
from jobmanager.model._json import parse_json
from jobmanager.model._repr import record_repr

SCHEMA = 3  # grows with each field that is added, and with each that gets another meaning
MAX_JSON_BYTES = 256 * 2**20

_R = TypeVar("_R", bound="AsData")


class AsData:
    """A record that can be written as plain data and read back. Its ``repr`` cuts long values, and says how long they are."""

    __slots__ = ()
    _kind: ClassVar[str] = ""  # the word that tells it from other records; empty: none can stand in its place
    _invalid: ClassVar[type[InvalidValue]] = InvalidValue  # the error for data that cannot be read

    def __init_subclass__(cls, *, kind: str = "", invalid: type[InvalidValue] | None = None) -> None:
        if kind:
            cls._kind = kind
        if invalid is not None:
            cls._invalid = invalid
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = record_repr  # type: ignore[method-assign]  # neither @dataclass nor a named tuple makes another

    def to_dict(self) -> dict[str, object]:
        """The record as what JSON has: text, numbers, booleans, None, lists and dicts with text for keys.

        Raises:
            InvalidValue: it holds something that cannot be written, such as a function; the message names the field.
                InvalidTask for a task, InvalidInput for an input.
        """
        return to_data(self)

    @classmethod
    def from_dict(cls: type[_R], data: Mapping[str, object]) -> _R:
        """A record that ``to_dict`` has written. ``data`` may be hostile.

        Raises:
            InvalidValue: the message names the field, such as ``phases[2].task.limits.memory_mib``. InvalidTask for a task,
                InvalidInput for an input.
        """
        return from_data(cls, data)

    def to_json(self) -> str:
        """``to_dict`` as JSON, in ASCII."""
        return json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls: type[_R], text: str | bytes, *, max_bytes: int = MAX_JSON_BYTES) -> _R:
        """A record that ``to_json`` has written. The text may be hostile; no more than ``max_bytes`` are read.

        Raises:
            InvalidValue: as ``from_dict``.
        """
        return from_data(cls, _parsed(text, max_bytes, cls._invalid))


class VersionedAsData(AsData):
    """A record that is kept or sent by itself: its data begins with the number of their form."""

    __slots__ = ()


def to_data(record: AsData, *, store: Store | None = None) -> dict[str, object]:
    """``to_dict``, where ``store`` may take contents out of the data: of files, standard input, output, archives, answers."""
    cls = next(each for each in type(record).__mro__ if each.__module__.partition(".")[0] == "jobmanager")
    try:
        data = record_form(cls).write(record, store)
    except Wrong as wrong:
        raise record._invalid(f"{wrong.path or _name(type(record))}: {wrong.text}: it cannot be written as data") from None
    return {"schema": SCHEMA, **data} if isinstance(record, VersionedAsData) else data


def from_data(cls: type[_R], data: object, *, load: Load | None = None) -> _R:
    """``from_dict``, where ``load`` gets what ``store`` took. What it returns must have the reference's size and digest.

    ``load`` is called for each reference, before the record's own checks: it has to bound how much it returns in all. What it
    raises comes through.
    """
    form: type = cls
    try:
        record = record_form(form).read(_without_schema(cls, data), load)
    except Wrong as wrong:
        raise cls._invalid(f"{wrong.path or _name(cls)}: {wrong.text}") from None
    assert isinstance(record, cls)
    return record


def _parsed(text: str | bytes, max_bytes: int, error: type[InvalidValue]) -> object:
    if not isinstance(text, (str, bytes)):
        raise error(f"JSON must be text or bytes, not {shown(text)}")
    if len(text) > max_bytes:
        raise error(f"the JSON text is longer than {max_bytes} bytes: if that is meant, give more as max_bytes")
    try:
        return parse_json(text if isinstance(text, str) else text.decode(), error)
    except UnicodeDecodeError:
        raise error("the JSON text is not UTF-8") from None


def _without_schema(cls: type[AsData], data: object) -> object:
    if not issubclass(cls, VersionedAsData) or not isinstance(data, dict):
        return data
    if "schema" not in data:
        raise Wrong("is missing").below(".schema")
    schema = data["schema"]
    if type(schema) is not int or schema < 1:
        raise Wrong(f"must be a whole number from 1 on, not {shown(schema)}").below(".schema")
    if schema > SCHEMA:
        newer = f"made by a newer version of jobmanager ({shown(schema)}; this one knows {SCHEMA}): upgrade this one"
        raise Wrong(newer).below(".schema")
    return {key: value for key, value in data.items() if key != "schema"}


def _name(cls: type[AsData]) -> str:
    return cls._kind or cls.__name__
