r"""The link between a grading container's runner and its waiter (``docs/grading.md``): messages, taken apart field by field.

Upwards they come in the container's standard output, as lines ``\x1eTOKEN + BASE64`` and, for the last part of each,
``\x1eTOKEN . BASE64``. Everything in the container can write them: they are checked as what they are, a stranger's words.
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

LARGEST_MESSAGE = 2**20
_LONGEST_LINE = 4096
_HIGHEST_ID = 2**53
_LONGEST_REASON = 2000
_DEEPEST = 10
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStudent:
    """The grader wants a student container."""

    id: int
    command: str | tuple[str, ...]
    environment: str = ""  # the task's own
    cpu_time_s: float = 0.0  # 0: not said
    wall_time_s: float = 0.0
    memory_mib: int = 0
    share_network: bool = False
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentInput:
    """Standard input for a student; empty: its end."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KillStudent:
    """The grader has had enough of a student."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """The grader wants what there is not here. Whatever it says later, its job is no success."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonsense:
    """A message that makes none."""

    reason: str
    id: int | None = None  # whose, as far as could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """The runner gives up: the link broke when it was needed."""


FromRunner = Union[RunStudent, StudentInput, KillStudent, Unsupported, Nonsense, CutOff]


def link_token(token: str) -> str:
    """The link's token, made from PID 1's, which cannot be told from it."""
    return hashlib.sha256(b"link " + token.encode()).hexdigest()[:32]


class LinkReader:
    """Tells a grader's output from the runner's messages."""

    def __init__(self, token: str) -> None:
        self._stream = MarkedStream(token, longest=_LONGEST_LINE)
        self._parts: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes | FromRunner]:
        """Output and messages in their order."""
        found: list[bytes | FromRunner] = []
        for part in self._stream.feed(data):
            if isinstance(part, bytes):
                found.append(part)
            elif (message := self._line(part)) is not None:
                found.append(message)
        return found

    def rest(self) -> bytes:
        """What was held back, at the end of the output."""
        return self._stream.rest()

    def _line(self, line: Mark) -> FromRunner | None:
        if line.word == "!":
            return CutOff()
        self._parts.append(line.rest)
        self._size += len(line.rest)
        if line.word == "+" and self._size <= 2 * LARGEST_MESSAGE:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        if line.word != ".":
            return Nonsense(reason="a message of the link that is too long, or no message")
        try:
            return parsed(b"".join(base64.b64decode(part, validate=True) for part in parts))
        except (binascii.Error, ValueError):
            return Nonsense(reason="a message of the link that is not base64")


def parsed(data: bytes) -> FromRunner:
    """One message; nonsense is one too."""
    if len(data) > LARGEST_MESSAGE:
        return Nonsense(reason=f"a message of the link that is larger than {LARGEST_MESSAGE // 1024} KiB")
    if _depth(data) > _DEEPEST:
        return Nonsense(reason="a message of the link that is nested too deep")
    try:
        said = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        return Nonsense(reason=f"a message of the link that is no JSON: {error}"[:_LONGEST_REASON])
    number = said.get("id") if isinstance(said, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < _HIGHEST_ID:
        return Nonsense(reason="a message of the link without an id")
    try:
        return _message(number, said)
    except (InvalidValue, _Wrong) as error:
        return Nonsense(id=number, reason=str(error)[:_LONGEST_REASON])


def downwards(kind: str, student: int, **fields: object) -> bytes:
    """A message to the runner, as its line."""
    return json.dumps({"type": kind, "id": student, **fields}, separators=(",", ":")).encode() + b"\n"


def output_message(student: int, stderr: bool, data: bytes) -> bytes:
    """What a student's program printed, for the runner."""
    return downwards("output", student, stderr=stderr, data=base64.b64encode(data).decode())


def _depth(data: bytes) -> int:
    """How deep brackets are nested. The parser calls itself for each, and a waiter's threads have small stacks."""
    deepest = depth = 0
    outside_of_strings = b"".join(_ESCAPE.sub(b"", data).split(b'"')[::2])
    for bracket in _BRACKET.findall(outside_of_strings):
        depth += 1 if bracket in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return deepest


class _Wrong(Exception):
    """What is wrong with a field."""


def _message(number: int, said: Mapping[str, Any]) -> FromRunner:
    kind = said.get("type")
    if kind == "student":
        return _run_student(number, said)
    if kind == "stdin":
        return StudentInput(id=number, data=_bytes(said.get("data")))
    if kind == "kill":
        return KillStudent(id=number)
    if kind == "unsupported":
        return Unsupported(id=number, reason=_checks.text("reason", said.get("reason", ""))[:_LONGEST_REASON])
    raise _Wrong(f"no message of the link is of the type {str(kind)[:40]!r}")


def _run_student(number: int, said: Mapping[str, Any]) -> RunStudent:
    command = _checks.command("command", said.get("command"), InvalidValue)
    if command is None:
        raise _Wrong("there is no command to run")
    env = said.get("env", {})
    if not isinstance(env, dict):
        raise _Wrong("env must be an object")
    checked = {_checks.variable(name, InvalidValue): _checks.plain(f"variable {name}", value) for name, value in env.items()}
    words = [command] if isinstance(command, str) else list(command)
    _checks.fits_a_start([*words, *(f"{name}={value}" for name, value in checked.items())], InvalidValue)
    memory_mib = _number("memory_mib", said.get("memory_mib", 0))
    share_network = said.get("share_network", False)
    if not isinstance(share_network, bool):
        raise _Wrong("share_network must be true or false")
    return RunStudent(
        id=number,
        command=command,
        environment=_checks.plain("environment", said.get("environment", "")),
        cpu_time_s=_number("cpu_time_s", said.get("cpu_time_s", 0)),
        wall_time_s=_number("wall_time_s", said.get("wall_time_s", 0)),
        memory_mib=math.ceil(memory_mib),
        share_network=share_network,
        env=checked,
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _checks.YEAR_S:
        raise _Wrong(f"{name} must be a number from 0 on")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise _Wrong("data must be base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _Wrong("data must be base64") from None
