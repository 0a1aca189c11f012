"""Random messages of the runner, made from the same description of their fields that the codec has."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

from hypothesis import strategies as st

from jobmanager.runner.fields import (
    ByteString,
    Choice,
    Field,
    Flag,
    FrameError,
    KernelCounter,
    ListOf,
    Number,
    RecordOf,
    payload_fields,
)
from jobmanager.runner.frames import DOWN, UP, DownMessage, Hello, Leave, Status, UpMessage

KINDS: list[type[Any]] = [*DOWN.values(), *UP.values(), Status]


def values_of(field: Field, most: int) -> st.SearchStrategy[Any]:
    """Values of one field, with byte strings of at most so many bytes."""
    if isinstance(field, Number):
        return st.integers(*bounds(field.format))
    if isinstance(field, Flag):
        return st.booleans()
    if isinstance(field, Choice):
        return st.sampled_from(field.values)
    if isinstance(field, KernelCounter):
        return st.none() | st.integers(0, 2**64 - 2)
    if isinstance(field, ByteString):
        strings = st.binary(max_size=min(most, field.most))
        return strings if field.may_have_nul else strings.map(lambda value: value.replace(b"\0", b"/"))
    if isinstance(field, ListOf):
        return st.lists(values_of(field.item, min(most, 100)), min_size=field.fewest, max_size=5).map(tuple)
    assert isinstance(field, RecordOf)
    return records(field.kind, most)


def records(kind: type[Any], most: int) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values_of(field, most) for name, field in payload_fields(kind).items()})


def messages(kind: type[Any], most: int = 3000) -> st.SearchStrategy[Any]:
    """Messages of a kind, with their header's fields."""
    header = {Hello: "session", Status: "stream_bytes"}.get(kind, "run" if issubclass(kind, UpMessage) else "")
    size = 32 if header == "run" else 64
    fields = {name: values_of(field, most) for name, field in payload_fields(kind).items()}
    return st.builds(kind, **fields, **{header: st.integers(0, 2**size - 1)} if header else {})


def down_messages(most: int = 3000) -> st.SearchStrategy[DownMessage]:
    """All but Hello, which begins a session."""
    return st.one_of(*(messages(kind, most) for kind in DOWN.values() if kind is not Hello))


def up_messages(most: int = 3000) -> st.SearchStrategy[UpMessage]:
    return st.one_of(*(messages(kind, most) for kind in UP.values()))


def bounds(format: str) -> tuple[int, int]:
    """The smallest and the largest integer of a format of ``struct``."""
    bits = 8 * struct.calcsize(format)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if format[-1].islower() else (0, 2**bits - 1)


PLACES = [
    *(b"", b"/", b"//", b"/job", b"/job/", b"/job/a", b"/job/a/b", b"/job/../job", b"a", b".."),
    *(b"/dev/shm/x", b"/dev/zero", b"/proc/1/mem", b"*", b"[a", b"A=b", b"1:2", b"n" * 255, b"n" * 4095),
]
PROGRAMS: list[tuple[bytes, ...]] = [
    *((b"true",), (b"/bin/cat",), (b"yes",), (b"sleep", b"100"), (b"sh", b"-c", b"echo a; exit 3"), (), (b"",)),
]
EDGES = [0, 1, 2, 3, 4, 100, 0o644, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]


def any_message(chooser: Random) -> DownMessage:
    """A message within a session, with values that a program may stumble over; its programs and places do no harm."""
    kind = chooser.choice([kind for kind in DOWN.values() if kind not in (Hello, Leave)])
    values = {name: _any_value(name, field, chooser) for name, field in payload_fields(kind).items()}
    return kind(**values)


def _any_value(name: str, field: Field, chooser: Random) -> Any:
    if name == "argv":
        return chooser.choice(PROGRAMS)
    if isinstance(field, Number):
        low, high = bounds(field.format)
        return chooser.choice([edge for edge in (*EDGES, low) if low <= edge <= high])
    if isinstance(field, Flag):
        return chooser.random() < 0.5
    if isinstance(field, Choice):
        return chooser.choice(list(field.values))
    if isinstance(field, ListOf):
        count = max(field.fewest, chooser.choice([0, 0, 1, 2, 30]))
        items = [_any_value(f"{name}[]", field.item, chooser) for _ in range(count)]
        return tuple(items[: 1 if _is_too_long(field, items) else None])
    if isinstance(field, RecordOf):
        return field.kind(**{inner: _any_value(inner, part, chooser) for inner, part in payload_fields(field.kind).items()})
    assert isinstance(field, ByteString)
    if not field.may_have_nul:
        return chooser.choice([*PLACES, chooser.randbytes(20).replace(b"\0", b"0")])
    return chooser.randbytes(chooser.choice([0, 1, 100, 70_000]))


def _is_too_long(field: ListOf, items: list[Any]) -> bool:
    try:
        field.write(items, bytearray())
    except FrameError:
        return True
    return False
