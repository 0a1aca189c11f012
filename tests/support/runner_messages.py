"""Random messages of the runner, made from the same description of their fields that the codec has."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from jobmanager.runner.fields import ByteString, Choice, Field, Flag, KernelCounter, ListOf, Number, RecordOf, payload_fields
from jobmanager.runner.frames import DOWN, UP, DownMessage, Hello, Status, UpMessage

KINDS: list[type[Any]] = [*DOWN.values(), *UP.values(), Status]


def values_of(field: Field, most: int) -> st.SearchStrategy[Any]:
    """Values of one field, with byte strings of at most so many bytes."""
    if isinstance(field, Number):
        return _integers(field.format)
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
        return st.lists(values_of(field.item, min(most, 100)), max_size=5).map(tuple)
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


def _integers(format: str) -> st.SearchStrategy[int]:
    bits = 8 * struct.calcsize(format)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if format[-1].islower() else st.integers(0, 2**bits - 1)
