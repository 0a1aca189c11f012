"""What clients, nodes and the dispatcher tell each other: frozen records, sent as JSON, signed (``signing.py``).

Everything is read field by field: what comes from Redis may be anybody's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

SCHEMA = 1  # of headers and bodies; a node says which ones it reads
_MAX_TEXT = 64 * 1024
_R = re.compile(r"[0-9a-f]{32}")
_M = TypeVar("_M", bound="Message")


class BadMessage(Exception):
    """A message that makes no sense; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One record that travels."""

    kind_of_signature: ClassVar[str] = ""

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(_fields_of(self), ensure_ascii=True, separators=(",", ":"), default=_fields_of)

    @classmethod
    def from_json(cls: type[_M], text: str | bytes) -> _M:
        """Read it, field by field.

        Raises:
            BadMessage: it is not this record.
        """
        try:
            data = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadMessage(f"no JSON: {error}") from None
        return _read(cls, data, cls.__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs(Message):
    """What a host must have for a job."""

    environment: str
    other_environments: tuple[str, ...] = ()
    memory_mib: int
    cpus: float
    wall_s: float
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHeader(Message):
    """All that the dispatcher knows of a job. ``body`` is the hash of the rest, which is for the node alone."""

    kind_of_signature: ClassVar[str] = "job"

    schema: int
    r: str  # 32 hexadecimal digits: this acceptance of the job, and no other
    job_id: str
    client: str
    launcher: str
    priority: int
    title: str
    job_class: str
    needs: Needs
    retries: int
    supersede_key: str | None
    queue_timeout_s: float
    not_after_s: float  # in seconds since 1970: later it is taken for a replay
    body: str  # sha256, in hexadecimal digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement(Message):
    """The leader's word that a node may run a job. ``token`` is of this placement alone."""

    kind_of_signature: ClassVar[str] = "placement"

    r: str
    node: str
    incarnation: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCommand(Message):
    """What a client asks of the node that has its job: ``kill``, ``follow``, ``unfollow``."""

    kind_of_signature: ClassVar[str] = "command"

    command: str
    r: str
    client: str
    nonce: str
    at_s: float  # in seconds since 1970
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport(Message):
    """What a node says of itself with each beat."""

    kind_of_signature: ClassVar[str] = "report"

    name: str
    incarnation: str
    version: str
    oldest_schema: int
    newest_schema: int
    state: str  # "up", "draining", "paused"
    reason: str = ""
    slots: int
    used: int
    memory_mib: int  # of all its hosts together
    free_memory_mib: int
    cores: int
    environments: tuple[str, ...]
    images: tuple[str, ...]  # references that its hosts have
    machine: str
    pid: int
    address: str = ""  # where SSH sessions can be reached
    networks: tuple[str, ...] | None = None  # that its hosts have, by name; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvent(Message):
    """News for the client of a job. Which fields are set depends on the event."""

    kind_of_signature: ClassVar[str] = "event"

    event: str  # "placed", "started", "phase_started", "phase_ended", "cases_ended", "requeued", "ssh", "answer"
    r: str
    node: str = ""
    token: str = ""  # of the placement, for "placed" and "started"
    incarnation: str = ""  # of the node, for the same
    phase: str = ""
    number: int = 0
    of: int = 0  # how many cases there are
    cases: tuple[str, ...] = ()  # from that number on: each a ``CaseResult`` as JSON text, without what was printed
    outcome: str = ""
    port: int = 0
    user: str = ""
    sealed: str = ""  # a password for this client alone
    question: str = ""  # which question is answered
    jobs_before: int = -2  # -2: the job is unknown
    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMessage(Message):
    """The result of a job, for its client."""

    kind_of_signature: ClassVar[str] = "result"

    r: str
    job_id: str
    token: str  # of the placement that ran it; empty: it ended without one
    node: str
    result: str  # a JobResult as JSON text
    blobs: tuple[str, ...] = ()  # hashes of what it has elsewhere


def is_r(text: str) -> bool:
    """Whether it has the form of the R of a job."""
    return _R.fullmatch(text) is not None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is there twice")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


@cache
def _readers(cls: Any) -> Mapping[str, Callable[[Any, str], Any]]:
    hints = get_type_hints(cls)
    return {field.name: _reader(hints[field.name]) for field in fields(cls)}


def _fields_of(record: Any) -> dict[str, Any]:
    """Of one record, as `asdict` in a fifth of the time; JSON asks for those of a record inside when it gets there."""
    of: Any = type(record)
    return {name: getattr(record, name) for name in _readers(of)}


@cache
def _required(cls: Any) -> frozenset[str]:
    return frozenset(field.name for field in fields(cls) if field.default is MISSING)


def _read(cls: type[_M], data: Any, where: str) -> _M:
    if not isinstance(data, dict):
        raise BadMessage(f"{where} is no object")
    of: Any = cls
    readers = _readers(of)
    if unknown := data.keys() - readers.keys():
        raise BadMessage(f"{where} has an unknown field {min(unknown)[:40]!r}")
    if missing := _required(of) - data.keys():
        raise BadMessage(f"{where} lacks {min(missing)!r}")
    return cls(**{name: readers[name](value, f"{where}.{name}") for name, value in data.items()})


def _reader(hint: Any) -> Callable[[Any, str], Any]:
    if hint is str:
        return _text
    if hint is int:
        return _whole
    if hint is float:
        return _number
    if get_origin(hint) in (Union, UnionType):
        inner = _reader(next(each for each in get_args(hint) if each is not type(None)))
        return lambda value, where: None if value is None else inner(value, where)
    if get_origin(hint) is tuple:
        return _texts
    return lambda value, where: _read(hint, value, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > (_MAX_TEXT if not where.endswith(".result") else 2**27):
        raise BadMessage(f"{where} is no text, or too long")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
        raise BadMessage(f"{where} is no whole number")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 2**53 or not math.isfinite(value):
        raise BadMessage(f"{where} is no number")
    return float(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise BadMessage(f"{where} is no list, or too long")
    return tuple(_text(each, where) for each in value)
