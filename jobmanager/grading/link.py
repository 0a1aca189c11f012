r"""The link between a grading container's supervisor and its waiter (``docs/grading.md``): messages, taken apart field by field.

Upwards they come in the container's standard output, as lines ``\x1eTOKEN + BASE64`` and, for the last part of each,
``\x1eTOKEN . BASE64``. Everything in the container can write them, so they are checked as untrusted input.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from jobmanager.engine.pid1 import Mark, MarkedStream
from jobmanager.errors import InvalidValue
from jobmanager.model import _checks

MAX_MESSAGE_BYTES = 2**20
_MAX_LINE_BYTES = 4096
_MAX_ID = 2**53
_MAX_REASON_LENGTH = 2000
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
class UnsupportedRequest:
    """The grader asks for something that is not supported. Its job is no success, whatever result it sets later."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolViolation:
    """A message that is invalid."""

    reason: str
    id: int | None = None  # the student container's, where it could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLost:
    """The supervisor gives up: the link broke while it was needed."""


SupervisorMessage = Union[RunStudent, StudentInput, KillStudent, UnsupportedRequest, ProtocolViolation, LinkLost]


def link_token(token: str) -> str:
    """The link's token. It is derived from PID 1's token, which cannot be computed from it."""
    return hashlib.sha256(b"link " + token.encode()).hexdigest()[:32]


class LinkReader:
    """Separates a grader's output from the supervisor's messages."""

    def __init__(self, token: str) -> None:
        self._stream = MarkedStream(token, longest=_MAX_LINE_BYTES)
        self._parts: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes | SupervisorMessage]:
        """Output and messages in their order."""
        found: list[bytes | SupervisorMessage] = []
        for part in self._stream.feed(data):
            if isinstance(part, bytes):
                found.append(part)
            elif (message := self._line(part)) is not None:
                found.append(message)
        return found

    def rest(self) -> bytes:
        """The bytes that are still held back, at the end of the output."""
        return self._stream.rest()

    def _line(self, line: Mark) -> SupervisorMessage | None:
        if line.word == "!":
            return LinkLost()
        self._parts.append(line.rest)
        self._size += len(line.rest)
        if line.word == "+" and self._size <= 2 * MAX_MESSAGE_BYTES:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        if line.word != ".":
            return ProtocolViolation(reason="a message of the link that is too long, or no message")
        try:
            return parse_message(b"".join(base64.b64decode(part, validate=True) for part in parts))
        except (binascii.Error, ValueError):
            return ProtocolViolation(reason="a message of the link that is not base64")


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
    number = fields.get("id") if isinstance(fields, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < _MAX_ID:
        return ProtocolViolation(reason="a message of the link without an id")
    try:
        return _message(number, fields)
    except (InvalidValue, _InvalidField) as error:
        return ProtocolViolation(id=number, reason=str(error)[:_MAX_REASON_LENGTH])


def message_to_supervisor(kind: str, student: int, **fields: object) -> bytes:
    """A line with a message to the supervisor."""
    return json.dumps({"type": kind, "id": student, **fields}, separators=(",", ":")).encode() + b"\n"


def output_message(student: int, stderr: bool, data: bytes) -> bytes:
    """A line with what a student's program printed."""
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
    memory_mib = _number("memory_mib", fields.get("memory_mib", 0))
    share_network = fields.get("share_network", False)
    if not isinstance(share_network, bool):
        raise _InvalidField("share_network must be true or false")
    return RunStudent(
        id=number,
        command=command,
        environment=_checks.plain("environment", fields.get("environment", "")),
        cpu_time_s=_number("cpu_time_s", fields.get("cpu_time_s", 0)),
        wall_time_s=_number("wall_time_s", fields.get("wall_time_s", 0)),
        memory_mib=math.ceil(memory_mib),
        share_network=share_network,
        env=checked,
    )


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
