"""The fields that messages are made of: each knows how its value is written, read and bounded. Numbers are little endian."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Annotated, Any, Protocol, get_args, get_type_hints

PATH_BYTES = 4095  # the kernel's limit, less the NUL at the end
_MISSING = 2**64 - 1  # on the wire: the kernel does not have this counter


class FrameError(Exception):
    """What came from the other end makes no sense, or a value cannot be sent. The text is one line."""


class Payload:
    """The bytes of one payload, read from the front."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._content) - self._at

    def take(self, count: int) -> bytes:
        if count > len(self._content) - self._at:
            raise self._too_early(count)
        self._at += count
        return self._content[self._at - count : self._at]

    def number(self, layout: struct.Struct) -> int:
        """The number at the front."""
        try:
            value: int
            (value,) = layout.unpack_from(self._content, self._at)
        except struct.error:
            raise self._too_early(layout.size) from None
        self._at += layout.size
        return value

    def _too_early(self, due: int) -> FrameError:
        return FrameError(f"it ends too early: {due} bytes are due, {self.left} are there")


class Field(Protocol):
    """How one value is written and read.

    Both raise FrameError for a value that is not allowed.
    """

    @property
    def least(self) -> int:
        """Bytes that the shortest value takes: a list that claims more items than can be there is refused before it is read."""

    def write(self, value: Any, out: bytearray) -> None:
        """Append a value."""

    def read(self, payload: Payload) -> Any:
        """The value at the front of a payload."""


class Number:
    """An integer in a format of ``struct``."""

    def __init__(self, format: str) -> None:
        self.format = format
        self._struct = struct.Struct(format)
        self.least = self._struct.size

    def write(self, value: int, out: bytearray) -> None:
        try:
            out += self._struct.pack(value)
        except (struct.error, TypeError) as error:
            raise FrameError(f"{value!r} is no number for {self.format}: {error}") from None

    def read(self, payload: Payload) -> int:
        return payload.number(self._struct)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false, as one byte that is 1 or 0."""

    least = 1

    def write(self, value: bool, out: bytearray) -> None:
        out.append(bool(value))

    def read(self, payload: Payload) -> bool:
        (value,) = payload.take(1)
        if value > 1:
            raise FrameError(f"{value} is neither 0 nor 1")
        return value == 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values of an enumeration, as one byte."""

    values: type[IntEnum]
    least = 1

    def write(self, value: int, out: bytearray) -> None:
        out.append(self._checked(value))

    def read(self, payload: Payload) -> IntEnum:
        return self._checked(payload.take(1)[0])

    def _checked(self, value: int) -> IntEnum:
        try:
            return self.values(value)
        except ValueError:
            raise FrameError(f"{value!r} is no {self.values.__name__}") from None


@dataclass(frozen=True, slots=True)
class KernelCounter:
    """A count that the kernel may not have: None then."""

    least = 8

    def write(self, value: int | None, out: bytearray) -> None:
        _U64.write(_MISSING if value is None else value, out)

    def read(self, payload: Payload) -> int | None:
        value = _U64.read(payload)
        return None if value == _MISSING else value


@dataclass(frozen=True, slots=True)
class ByteString:
    """A length as u32, and so many bytes."""

    most: int = 2**32 - 1
    may_have_nul: bool = True
    least = 4

    def write(self, value: bytes, out: bytearray) -> None:
        self._check(value)
        _U32.write(len(value), out)
        out += value

    def read(self, payload: Payload) -> bytes:
        value = payload.take(_U32.read(payload))
        self._check(value)
        return value

    def _check(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise FrameError(f"{type(value).__name__} instead of bytes")
        if len(value) > self.most:
            raise FrameError(f"{len(value)} bytes, where at most {self.most} are allowed")
        if not self.may_have_nul and b"\0" in value:
            raise FrameError("it has a NUL")


@dataclass(frozen=True, slots=True)
class ListOf:
    """A count as u32, and so many items of one kind."""

    item: Field
    most: int = 2**32 - 1
    fewest: int = 0
    most_bytes: int = 2**32 - 1  # with the count
    least = 4

    def write(self, value: Sequence[Any], out: bytearray) -> None:
        self._check(len(value))
        before = len(out)
        _U32.write(len(value), out)
        for item in value:
            self.item.write(item, out)
        self._check_bytes(len(out) - before)

    def read(self, payload: Payload) -> tuple[Any, ...]:
        before = payload.left
        count = _U32.read(payload)
        if count * self.item.least > payload.left:
            raise FrameError(f"{count} items cannot be in {payload.left} bytes")
        self._check(count)
        items = tuple(self.item.read(payload) for _ in range(count))
        self._check_bytes(before - payload.left)
        return items

    def _check(self, count: int) -> None:
        if count > self.most:
            raise FrameError(f"{count} items, where at most {self.most} are allowed")
        if count < self.fewest:
            raise FrameError(f"{count} items, where at least {self.fewest} are due")

    def _check_bytes(self, count: int) -> None:
        if count > self.most_bytes:
            raise FrameError(f"{count} bytes of items, where at most {self.most_bytes} are allowed")


@dataclass(frozen=True, slots=True)
class RecordOf:
    """The fields of a dataclass, one after the other."""

    kind: type[Any]

    @property
    def least(self) -> int:
        return sum(field.least for field in payload_fields(self.kind).values())

    def write(self, value: Any, out: bytearray) -> None:
        if type(value) is not self.kind:
            raise FrameError(f"{type(value).__name__} instead of {self.kind.__name__}")
        for name, field in payload_fields(self.kind).items():
            try:
                field.write(getattr(value, name), out)
            except FrameError as error:
                raise FrameError(f"{name}: {error}") from None

    def read(self, payload: Payload) -> Any:
        return self.kind(**self.read_values(payload))

    def read_values(self, payload: Payload) -> dict[str, Any]:
        """The values by the names of their fields."""
        values = {}
        for name, field in payload_fields(self.kind).items():
            try:
                values[name] = field.read(payload)
            except FrameError as error:
                raise FrameError(f"{name}: {error}") from None
        return values


def payload_fields(kind: type[Any]) -> dict[str, Field]:
    """How the fields of a dataclass are written, in their order; a field of the header is no part of the payload."""
    known = _described.get(kind)
    if known is None:
        known = _described[kind] = _described_fields(kind)
    return known


def _described_fields(kind: type[Any]) -> dict[str, Field]:
    hints = get_type_hints(kind, include_extras=True)
    annotated = {field.name: get_args(hints[field.name])[1] for field in fields(kind)}
    return {name: field for name, field in annotated.items() if field is not HEADER}


_described: dict[type[Any], dict[str, Field]] = {}
HEADER = object()  # marks a field that travels in the header of its message
_U32 = Number("<I")
_U64 = Number("<Q")

U8 = Annotated[int, Number("<B")]
U16 = Annotated[int, Number("<H")]
U32 = Annotated[int, _U32]
U64 = Annotated[int, _U64]
I64 = Annotated[int, Number("<q")]
Yes = Annotated[bool, Flag()]
Count = Annotated[int | None, KernelCounter()]
Data = Annotated[bytes, ByteString()]
Name = Annotated[bytes, ByteString(most=PATH_BYTES, may_have_nul=False)]
Path = Annotated[bytes, ByteString(most=PATH_BYTES, may_have_nul=False)]
Names = Annotated[tuple[bytes, ...], ListOf(ByteString(may_have_nul=False))]
Paths = Annotated[tuple[bytes, ...], ListOf(ByteString(most=PATH_BYTES, may_have_nul=False))]
HeaderNumber = Annotated[int, HEADER]
