"""The link between a grading container's supervisor and its waiter (``docs/grading.md``): messages, taken apart field by field.

They come over the channel of the supervisor's run, which nothing that the supervisor starts has. A message is one piece or several:
each begins with a byte, 1 where more of the message follows, 0 in the last. The joined rest is one JSON object. A byte 2 alone
says that the supervisor gives up. A grader may still make its supervisor say anything, so messages are checked as untrusted input.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from jobmanager.errors import InvalidValue
from jobmanager.model import _checks

MAX_MESSAGE_BYTES = 2**20
MAX_TOLD_BYTES, EACH_TOLD_BYTES = 64 * 1024, 64  # what a submitter may be told in all, and what each text counts beside its own
_PIECE_BYTES = 60_000  # of a message; a run's channel carries a little more at once
_LAST, _MORE, _CUT_OFF = b"\0", b"\1", b"\2"  # what a piece begins with
_MAX_ID = 2**53
_MAX_REASON_LENGTH = 2000
_MAX_NAME_LENGTH = 200
_MAX_DEPTH = 10
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStudent:
    """The grader asks for a student container."""

    id: int
    command: str | tuple[str, ...]
    environment: str = ""  # empty: the task's own
    cpu_time_s: float = 0.0  # 0: not given
    wall_time_s: float = 0.0
    memory_mib: int = 0
    share_network: bool = False
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentInput:
    """Standard input for a student container; empty: its end."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KillStudent:
    """The grader ends a student container."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenContainer:
    """The grader wants a container that is kept: one that students have who name it as their ``environment``."""

    id: int
    name: str
    environment: str = ""  # these as in RunStudent
    memory_mib: int = 0
    share_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseContainer:
    """The grader needs the container of this name no more."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedRequest:
    """The grader asks for something that is not supported. Its job is no success, whatever result it sets later."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSubmitter:
    """The grader shows the submitter a text."""

    number: int  # among the texts of this run, from 1
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolViolation:
    """A message that is invalid."""

    reason: str
    id: int | None = None  # the student container's, where it could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLost:
    """The supervisor gives up: the link broke while it was needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudents:
    """The answer to ``open_students_question``: which students have been asked for, and have not ended; which names are open."""

    question: int
    ids: tuple[int, ...]
    containers: tuple[OpenContainer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHReport:
    """A debug session's server accepts connections, or cannot be started."""

    text: str  # "ready", or the reason


SupervisorMessage = Union[
    RunStudent,
    StudentInput,
    KillStudent,
    OpenContainer,
    CloseContainer,
    UnsupportedRequest,
    TellSubmitter,
    ProtocolViolation,
    LinkLost,
    SSHReport,
    OpenStudents,
]


class LinkReader:
    """Puts the supervisor's messages together from their pieces."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> SupervisorMessage | None:
        """The message that is whole with this piece; None: more of it follows."""
        if piece == _CUT_OFF:  # it may come in the middle of a message
            return LinkLost()
        self._parts.append(piece[1:])
        self._size += len(piece)
        if piece[:1] == _MORE and self._size <= 2 * MAX_MESSAGE_BYTES:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        if piece[:1] != _LAST:
            return ProtocolViolation(reason="a message of the link that is too long, or no message")
        return parse_message(b"".join(parts))


def pieces(message: bytes) -> list[bytes]:
    """A message to the supervisor as it goes over the channel."""
    parts = [message[at : at + _PIECE_BYTES] for at in range(0, len(message), _PIECE_BYTES)]
    return [_MORE + part for part in parts[:-1]] + [_LAST + parts[-1]]


def parse_message(data: bytes) -> SupervisorMessage:
    """Parse one message. An invalid one becomes a ProtocolViolation."""
    if len(data) > MAX_MESSAGE_BYTES:
        return ProtocolViolation(reason=f"a message of the link that is larger than {MAX_MESSAGE_BYTES // 1024} KiB")
    if _depth(data) > _MAX_DEPTH:
        return ProtocolViolation(reason="a message of the link that is nested too deep")
    try:
        fields = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        return ProtocolViolation(reason=f"a message of the link that is no JSON: {error}"[:_MAX_REASON_LENGTH])
    if isinstance(fields, dict) and fields.get("type") == "ssh":
        return SSHReport(text=str(fields.get("text", ""))[:_MAX_REASON_LENGTH])
    number = fields.get("id") if isinstance(fields, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < _MAX_ID:
        return ProtocolViolation(reason="a message of the link without an id")
    try:
        return _message(number, fields)
    except (InvalidValue, _InvalidField) as error:
        return ProtocolViolation(id=number, reason=str(error)[:_MAX_REASON_LENGTH])


def message_to_supervisor(kind: str, student: int, **fields: object) -> bytes:
    """A message to the supervisor."""
    return json.dumps({"type": kind, "id": student, **fields}, separators=(",", ":")).encode()


def open_students_question(number: int) -> bytes:
    """What a waiter that takes over asks: its answer has the same number."""
    return message_to_supervisor("open", number)


def output_message(student: int, stderr: bool, data: bytes) -> bytes:
    """A message with what a student's program printed."""
    return message_to_supervisor("output", student, stderr=stderr, data=base64.b64encode(data).decode())


def _depth(data: bytes) -> int:
    """How deep brackets are nested. The parser recurses for each level, and a waiter's threads have small stacks."""
    deepest = depth = 0
    outside_of_strings = b"".join(_ESCAPE.sub(b"", data).split(b'"')[::2])
    for bracket in _BRACKET.findall(outside_of_strings):
        depth += 1 if bracket in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return deepest


class _InvalidField(Exception):
    """A field of a message is invalid."""


def _message(number: int, fields: Mapping[str, Any]) -> SupervisorMessage:
    kind = fields.get("type")
    if kind == "student":
        return _run_student(number, fields)
    if kind == "stdin":
        return StudentInput(id=number, data=_bytes(fields.get("data")))
    if kind == "kill":
        return KillStudent(id=number)
    if kind == "container":
        return _open_container(number, fields)
    if kind == "close":
        return CloseContainer(id=number, name=_name(fields))
    if kind == "open":
        return OpenStudents(question=number, ids=_ids(fields.get("students")), containers=_containers(fields.get("containers", [])))
    if kind == "tell":
        return TellSubmitter(number=number, text=_text(fields.get("text")))
    if kind == "unsupported":
        return UnsupportedRequest(id=number, reason=_checks.text("reason", fields.get("reason", ""))[:_MAX_REASON_LENGTH])
    raise _InvalidField(f"no message of the link is of the type {str(kind)[:40]!r}")


def _run_student(number: int, fields: Mapping[str, Any]) -> RunStudent:
    command = _checks.command("command", fields.get("command"), InvalidValue)
    if command is None:
        raise _InvalidField("there is no command to run")
    env = fields.get("env", {})
    if not isinstance(env, dict):
        raise _InvalidField("env must be an object")
    checked = {_checks.variable(name, InvalidValue): _checks.plain(f"variable {name}", value) for name, value in env.items()}
    words = [command] if isinstance(command, str) else list(command)
    _checks.fits_a_start([*words, *(f"{name}={value}" for name, value in checked.items())], InvalidValue)
    return RunStudent(
        id=number,
        command=command,
        cpu_time_s=_number("cpu_time_s", fields.get("cpu_time_s", 0)),
        wall_time_s=_number("wall_time_s", fields.get("wall_time_s", 0)),
        env=checked,
        **_of_the_container(fields),
    )


def _open_container(number: int, fields: Mapping[str, Any]) -> OpenContainer:
    return OpenContainer(id=number, name=_name(fields), **_of_the_container(fields))


def _of_the_container(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is fixed for as long as a container lives."""
    share_network = fields.get("share_network", False)
    if not isinstance(share_network, bool):
        raise _InvalidField("share_network must be true or false")
    return {
        "environment": _checks.plain("environment", fields.get("environment", "")),
        "memory_mib": math.ceil(_number("memory_mib", fields.get("memory_mib", 0))),
        "share_network": share_network,
    }


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TOLD_BYTES:
        raise _InvalidField(f"text must be a text of 1 to {MAX_TOLD_BYTES} characters")
    return value.encode("utf-8", "replace").decode()


def _name(fields: Mapping[str, Any]) -> str:
    name = _checks.text("name", fields.get("name", ""))
    if len(name) > _MAX_NAME_LENGTH:
        raise _InvalidField(f"name must have at most {_MAX_NAME_LENGTH} characters")
    return name


def _containers(value: object) -> tuple[OpenContainer, ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _InvalidField("containers must be a list of objects")
    return tuple(_open_container(0, each) for each in value)


def _ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise _InvalidField("students must be a list of numbers")
    return tuple(value)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _checks.YEAR_S:
        raise _InvalidField(f"{name} must be a number from 0 on")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise _InvalidField("data must be base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _InvalidField("data must be base64") from None
