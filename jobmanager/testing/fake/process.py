"""A program of a fake container: a generator that yields what it does, and returns its exit code."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.model._utf8 import to_utf8
from jobmanager.testing.fake.files import Files
from jobmanager.testing.steps import ProgramStep

PIECE = 16384


@dataclass(frozen=True, slots=True)
class OutputEffect:
    """Bytes for its standard output or standard error."""

    stderr: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class MessageEffect:
    """A message for its channel."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing for so many seconds, or one busy processor; infinity: until it is killed."""

    seconds: float
    burns: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """Nothing until this holds, which only what comes from outside can change."""

    condition: Callable[[], object]


Effect = Union[OutputEffect, MessageEffect, Pause, Await]
Running = Generator[Effect, None, int]  # returns an exit code


class Exited(Exception):
    """A program ends with an exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Died(Exception):
    """A program ends by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Pid1Died(Exception):
    """The kernel killed PID 1 for its memory."""


@dataclass(slots=True)
class Machine:
    """What the runs of one container share."""

    files: Files
    workspace: str
    programs: Mapping[str, str | tuple[ProgramStep, ...]] = field(default_factory=dict)  # by name
    memory_bytes: int = 2**30
    most_processes: int = 64
    used_bytes: int = 0
    oom_kills: int = 0
    fork_refusals: int = 0

    def begin(self) -> None:
        """A run begins: what is counted is its own."""
        self.used_bytes = self.oom_kills = self.fork_refusals = 0

    def take_memory(self, count: int) -> bool:
        """Whether the limit allows it; if not, somebody is killed."""
        self.used_bytes += count
        if self.used_bytes + self.files.size() <= self.memory_bytes:
            return True
        self.oom_kills += 1
        return False


class Feed:
    """What comes to a program's standard input."""

    def __init__(self, data: bytes = b"", *, ended: bool = True) -> None:
        self.ended = ended
        self.received = len(data)  # bytes, so far
        self._held = bytearray(data)

    @property
    def taken(self) -> int:
        """Bytes that the program has read."""
        return self.received - len(self._held)

    @property
    def is_ready(self) -> bool:
        """Whether a read returns at once."""
        return bool(self._held) or self.ended

    def add(self, data: bytes) -> None:
        self.received += len(data)
        self._held += data

    def take(self, size: int = PIECE) -> bytes:
        """Up to so many bytes; none at the end."""
        piece = bytes(self._held[:size])
        del self._held[:size]
        return piece

    def take_line(self) -> bytes:
        """A line, or a part of one; none at the end."""
        at = self._held.find(b"\n")
        return self.take(PIECE if at < 0 else at + 1)


class Mail:
    """The messages that come to a program's channel."""

    def __init__(self) -> None:
        self.received = 0
        self._held: deque[bytes] = deque()
        self._parts = bytearray()

    @property
    def taken(self) -> int:
        """Messages that the program has read."""
        return self.received - len(self._held)

    def add(self, message: bytes) -> None:
        self.received += 1
        self._held.append(message)

    def take_whole(self) -> bytes | None:
        """The next message, put together from its pieces; None where its last one has not come."""
        while self._held:
            piece = self._held.popleft()
            self._parts += piece[1:]
            if piece[:1] == b"\0":
                whole = bytes(self._parts)
                self._parts.clear()
                return whole
        return None


@dataclass(slots=True)
class Process:
    """What a program sees."""

    machine: Machine
    env: Mapping[str, str]
    cwd: str
    stdin: Feed
    mail: Mail | None = None  # None: it has no channel

    def path(self, name: str) -> str:
        """An absolute path."""
        return posixpath.normpath(posixpath.join(self.cwd, name))


def encoded(text: str | bytes) -> bytes:
    """The bytes of a text; words come from bytes that need not be UTF-8."""
    return text if isinstance(text, bytes) else to_utf8(text)


def fail(text: str, code: int = 1) -> Running:
    """Complain, and be the exit code."""
    yield OutputEffect(True, encoded(text + "\n"))
    return code
