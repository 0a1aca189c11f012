"""How values of each type are written as plain data, and read back. The forms of a record follow from the types of its fields."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jobmanager.errors import InvalidValue
from jobmanager.model._json import MAX_DIGITS

_MAX_DEPTH = 60  # of free-form values
_MAX_BITS = int(MAX_DIGITS * math.log2(10)) + 1
_SHOWN = 60  # characters of a value that a message repeats
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContentReference:
    """What stands for contents that are kept elsewhere: ``{"sha256": ..., "size": ...}``."""

    sha256: str  # 64 lower-case hex digits
    size: int  # bytes


Store = Callable[[bytes], Union[ContentReference, None]]  # None: it stays in the data, as base64
Load = Callable[[ContentReference], bytes]


class Wrong(Exception):
    """A value that cannot be written or read; those who called add where it stands."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self._parts: list[str] = []

    def below(self, part: str) -> Wrong:
        """The same, one level further out."""
        self._parts.append(part)
        return self

    @property
    def path(self) -> str:
        """The field, such as ``phases[2].task``; empty for the record itself."""
        return "".join(reversed(self._parts)).removeprefix(".")


class Form:
    """How values of one type are written and read."""

    wanted = ""  # for messages: what is allowed

    def holds(self, value: object) -> bool:
        """Whether it is such a value."""
        raise NotImplementedError

    def is_such(self, data: object) -> bool:
        """Whether data can stand for such a value."""
        return self.holds(data)

    def write(self, value: object, store: Store | None) -> object:
        """The value as data; raises Wrong."""
        raise NotImplementedError

    def read(self, data: object, load: Load | None) -> object:
        """The value; raises Wrong."""
        raise NotImplementedError

    def refuse(self, value: object) -> Wrong:
        """The error for a value that is not such a one."""
        return Wrong(f"must be {self.wanted}, not {shown(value)}")


class _PlainForm(Form):
    """What JSON has itself."""

    def __init__(self, wanted: str, holds: Callable[[object], bool]) -> None:
        self.wanted = wanted
        self._fits = holds

    def holds(self, value: object) -> bool:
        return self._fits(value)

    def write(self, value: object, _store: Store | None) -> object:
        return self.read(value, None)

    def read(self, data: object, _load: Load | None) -> object:
        if not self._fits(data):
            raise self.refuse(data)
        return str.__str__(data) if isinstance(data, str) else data


class _WordForm(Form):
    """One of a few words; of an enum, or as they are."""

    def __init__(self, members: Mapping[str, object]) -> None:
        self._members = members
        self.wanted = _one_of([json.dumps(word) for word in members])

    def holds(self, value: object) -> bool:
        return any(value is member or (type(value) is str and value == member) for member in self._members.values())

    def is_such(self, data: object) -> bool:
        return isinstance(data, str) and data in self._members

    def write(self, value: object, _store: Store | None) -> object:
        if not self.holds(value):
            raise self.refuse(value)
        return next(word for word, member in self._members.items() if member == value)

    def read(self, data: object, _load: Load | None) -> object:
        if not self.is_such(data):
            raise self.refuse(data)
        return self._members[str(data)]


class _ContentForm(Form):
    """Bytes: base64 text, or what stands for them."""

    wanted = 'base64 text, or {"sha256": ..., "size": ...}'

    def holds(self, value: object) -> bool:
        return isinstance(value, bytes)

    def is_such(self, data: object) -> bool:
        return isinstance(data, (str, dict))

    def write(self, value: object, store: Store | None) -> object:
        if not isinstance(value, bytes):
            raise self.refuse(value)
        kept = None if store is None else store(value)
        return base64.b64encode(value).decode() if kept is None else {"sha256": kept.sha256, "size": kept.size}

    def read(self, data: object, load: Load | None) -> object:
        if isinstance(data, dict):
            return self._loaded(data, load)
        if not isinstance(data, str):
            raise self.refuse(data)
        try:
            return base64.b64decode(data, validate=True)
        except ValueError:
            raise self.refuse(data) from None

    def _loaded(self, data: Mapping[object, object], load: Load | None) -> bytes:
        sha256, size = data.get("sha256"), data.get("size")
        if set(data) != {"sha256", "size"} or not isinstance(sha256, str) or type(size) is not int:
            raise self.refuse(data)
        if not _SHA256.fullmatch(sha256) or size < 0:
            raise self.refuse(data)
        if load is None:
            raise Wrong("stands for contents that are not here: they were sent apart from it")
        content = load(ContentReference(sha256=sha256, size=size))
        if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
            raise Wrong("stands for other contents than those that came: they have another size or digest")
        return content


class _ListForm(Form):
    """A list of values of one type. A set is sorted."""

    wanted = "a list"

    def __init__(self, item: Form) -> None:
        self._item = item

    def holds(self, value: object) -> bool:
        return isinstance(value, (list, tuple, Set))

    def is_such(self, data: object) -> bool:
        return isinstance(data, list)

    def write(self, value: object, store: Store | None) -> object:
        if not isinstance(value, (list, tuple, Set)):
            raise self.refuse(value)
        items = sorted(value, key=str) if isinstance(value, Set) else value
        return _each(items, lambda item: self._item.write(item, store))

    def read(self, data: object, load: Load | None) -> object:
        if not isinstance(data, list):
            raise self.refuse(data)
        return tuple(_each(data, lambda item: self._item.read(item, load)))


class _TableForm(Form):
    """Values of one type by name."""

    wanted = "an object"

    def __init__(self, item: Form) -> None:
        self._item = item

    def holds(self, value: object) -> bool:
        return isinstance(value, Mapping)

    def is_such(self, data: object) -> bool:
        return isinstance(data, dict)

    def write(self, value: object, store: Store | None) -> object:
        if not isinstance(value, Mapping):
            raise self.refuse(value)
        return _by_name(value, lambda item: self._item.write(item, store))

    def read(self, data: object, load: Load | None) -> object:
        if not isinstance(data, dict):
            raise self.refuse(data)
        return _by_name(data, lambda item: self._item.read(item, load))


class _RecordForm(Form):
    """A record: its fields by their names, and its kind if it has one."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        self._kind = getattr(cls, "_kind", "")
        self.wanted = f'an object with "kind": "{self._kind}"' if self._kind else "an object"
        self._forms = _field_forms(cls)
        self._required = _required(cls) & self._forms.keys()
        self._names = {*self._forms, "kind"} if self._kind else set(self._forms)

    def holds(self, value: object) -> bool:
        """A subclass of a user's own may judge in its own way: where several kinds are possible, it is none of them."""
        return type(value) is self._cls or (isinstance(value, self._cls) and not self._kind)

    def is_such(self, data: object) -> bool:
        return isinstance(data, dict) and (not self._kind or data.get("kind") == self._kind)

    def write(self, value: object, store: Store | None) -> dict[str, object]:
        if not isinstance(value, self._cls):
            raise self.refuse(value)
        data: dict[str, object] = {"kind": self._kind} if self._kind else {}
        for name, form in self._forms.items():
            try:
                data[name] = form.write(getattr(value, name), store)
            except Wrong as wrong:
                raise wrong.below(f".{name}") from None
        return data

    def read(self, data: object, load: Load | None) -> object:
        if not isinstance(data, dict):
            raise self.refuse(data)
        self._check_names(data)
        values = {}
        for name, form in self._forms.items():
            if name in data:
                try:
                    values[name] = form.read(data[name], load)
                except Wrong as wrong:
                    raise wrong.below(f".{name}") from None
        return self._made(values)

    def _check_names(self, data: Mapping[object, object]) -> None:
        if unknown := [name for name in data if name not in self._names]:
            raise Wrong(f"there is no such field; there are {', '.join(self._forms)}").below(_key(unknown[0]))
        if self._kind and data.get("kind") != self._kind:
            raise Wrong(f'must be "{self._kind}", not {shown(data.get("kind"))}').below(".kind")
        if missing := sorted(self._required - data.keys()):
            raise Wrong("is missing").below(f".{missing[0]}")

    def _made(self, values: Mapping[str, object]) -> object:
        """The record's own checks say which of its fields is wrong, if it is one alone."""
        try:
            return self._cls(**values)
        except InvalidValue as error:
            name, _, rest = str(error).partition(" ")
            raise (Wrong(rest).below(f".{name}") if name in self._forms else Wrong(str(error))) from None


class _EitherForm(Form):
    """A value of one of several types."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self._forms = forms
        self.wanted = _one_of([form.wanted for form in forms])

    def holds(self, value: object) -> bool:
        return any(form.holds(value) for form in self._forms)

    def is_such(self, data: object) -> bool:
        return any(form.is_such(data) for form in self._forms)

    def write(self, value: object, store: Store | None) -> object:
        for form in self._forms:
            if form.holds(value):
                return form.write(value, store)
        raise self.refuse(value)

    def read(self, data: object, load: Load | None) -> object:
        for form in self._forms:
            if form.is_such(data):
                return form.read(data, load)
        raise self.refuse(data)


class _FreeForm(Form):
    """Whatever JSON has, at most so deep."""

    wanted = "what JSON has"

    def holds(self, _value: object) -> bool:
        return True

    def write(self, value: object, _store: Store | None) -> object:
        return self._copied(value, 0)

    def read(self, data: object, _load: Load | None) -> object:
        return self._copied(data, 0)

    def _copied(self, value: object, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise Wrong("is nested too deep")
        if isinstance(value, (list, tuple)):
            return _each(value, lambda item: self._copied(item, depth + 1))
        if isinstance(value, dict):
            return _by_name(value, lambda item: self._copied(item, depth + 1))
        return _SCALAR.read(value, None)


class _AnswerForm(Form):
    """An answer: text, a number or a list as they are; bytes ``{"bytes": ...}``; anything by name ``{"object": {...}}``."""

    wanted = 'text, a number, a list, {"bytes": ...} or {"object": ...}'

    def holds(self, _value: object) -> bool:
        return True

    def write(self, value: object, store: Store | None) -> object:
        return self._written(value, store, 0)

    def read(self, data: object, load: Load | None) -> object:
        return self._read(data, load, 0)

    def _written(self, value: object, store: Store | None, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise Wrong("is nested too deep")
        if isinstance(value, bytes):
            return {"bytes": _CONTENT.write(value, store)}
        if isinstance(value, Mapping):
            return {"object": _by_name(value, lambda item: self._written(item, store, depth + 1))}
        if isinstance(value, (list, tuple)):
            return _each(value, lambda item: self._written(item, store, depth + 1))
        return _SCALAR.read(value, None)

    def _read(self, data: object, load: Load | None, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise Wrong("is nested too deep")
        if isinstance(data, list):
            return _each(data, lambda item: self._read(item, load, depth + 1))
        if not isinstance(data, dict):
            return _SCALAR.read(data, None)
        if set(data) == {"bytes"}:
            return _CONTENT.read(data["bytes"], load)
        if set(data) == {"object"} and isinstance(data["object"], dict):
            return _by_name(data["object"], lambda item: self._read(item, load, depth + 1))
        raise self.refuse(data)


def _is_whole(value: object) -> bool:
    return type(value) is int and value.bit_length() <= _MAX_BITS


def _is_number(value: object) -> bool:
    return _is_whole(value) or (type(value) is float and math.isfinite(value))


@functools.cache
def record_form(cls: type[Any]) -> _RecordForm:
    """The form of a record."""
    return _RecordForm(cls)


def form_of(hint: object) -> Form:
    """The form of a type.

    Raises:
        TypeError: there is none.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, UnionType):
        return _form_of_union(args)
    if origin is Literal:
        return _WordForm({word: word for word in args})
    if origin in (tuple, Sequence, Collection):
        return _ListForm(form_of(args[0]))
    if origin is Mapping and str in (args[0], *get_args(args[0])):  # keys that may be given as numbers are text in the record
        return _TableForm(form_of(args[1]))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _WordForm({member.value: member for member in hint})
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        return record_form(hint)
    raise TypeError(f"there is no form for {hint!r}")


def _form_of_union(hints: Sequence[object]) -> Form:
    """Where bytes may be given as text or as a path, the record has made bytes of them."""
    if bytes in hints:
        hints = [hint for hint in hints if hint not in (str, Path)]
    return form_of(hints[0]) if len(hints) == 1 else _EitherForm([form_of(hint) for hint in hints])


def _field_forms(cls: type[Any]) -> dict[str, Form]:
    """The forms of a record's fields. A field's ``metadata`` may give another one, or None: it is not part of the data."""
    hints = get_type_hints(cls)
    if hasattr(cls, "_fields"):  # a named tuple
        return {name: form_of(hints[name]) for name in cls._fields}
    given = {each.name: each.metadata for each in dataclasses.fields(cls)}
    forms = {name: metadata["form"] if "form" in metadata else form_of(hints[name]) for name, metadata in given.items()}
    return {name: form for name, form in forms.items() if form is not None}


def _required(cls: type[Any]) -> set[str]:
    if hasattr(cls, "_fields"):
        return set(cls._fields) - set(cls._field_defaults)
    none = dataclasses.MISSING
    return {each.name for each in dataclasses.fields(cls) if each.default is none and each.default_factory is none}


def _each(items: Collection[object], make: Callable[[object], object]) -> list[object]:
    made = []
    for index, item in enumerate(items):
        try:
            made.append(make(item))
        except Wrong as wrong:
            raise wrong.below(f"[{index}]") from None
    return made


def _by_name(items: Mapping[str, object], make: Callable[[object], object]) -> dict[str, object]:
    made = {}
    for name, item in items.items():
        if not isinstance(name, str):
            raise Wrong(f"must have text for keys, not {shown(name)}")
        try:
            made[str.__str__(name)] = make(item)
        except Wrong as wrong:
            raise wrong.below(f"[{shown(name)}]") from None
    return made


def _key(name: object) -> str:
    return f".{name}" if isinstance(name, str) and name.isidentifier() and len(name) <= _SHOWN else f"[{shown(name)}]"


def shown(value: object) -> str:
    """A value for a message."""
    if isinstance(value, Enum) or not isinstance(value, (str, int, float, bytes, list, tuple, dict, NoneType)):
        return "a function" if callable(value) else f"a value of the class {type(value).__qualname__[:_SHOWN]}"
    if isinstance(value, int) and not isinstance(value, bool) and not _is_whole(value):
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict):
        kind = value.get("kind")
        return f"an object with the kind {kind[:_SHOWN]!r}" if isinstance(kind, str) else "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bytes):
        return "bytes"
    return repr(value[:_SHOWN] if isinstance(value, str) else value)


def _one_of(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


_TEXT = _PlainForm("text", lambda value: isinstance(value, str))
_FLAG = _PlainForm("true or false", lambda value: type(value) is bool)
_NUMBER = _PlainForm("a finite number", _is_number)
_NULL = _PlainForm("null", lambda value: value is None)
_PLAIN: Mapping[object, Form] = {
    str: _TEXT,
    bool: _FLAG,
    int: _PlainForm("a whole number", _is_whole),
    float: _NUMBER,
    NoneType: _NULL,
    bytes: _ContentForm(),
    object: _FreeForm(),
}
_SCALAR = _EitherForm([_TEXT, _NUMBER, _FLAG, _NULL])
_CONTENT = _ContentForm()
ANSWERS: Mapping[str, Form | None] = {"form": _EitherForm([_TableForm(_AnswerForm()), _NULL])}  # metadata of a field
NOT_DATA: Mapping[str, Form | None] = {"form": None}  # metadata of a field that is not written
