"""What a fake container's programs are made of: generators that yield what they do, and return their exit code."""

from __future__ import annotations

import posixpath
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Union

from jobmanager.testing.fake.files import FileProblem, Files

PIECE = 16384
BREATH_S = 0.001  # a program that writes where nobody outside reads lets others run for so long now and then
_WRITES = 16
FIRST_PID = 2  # the program that a job asks for


@dataclass(frozen=True)
class OutputEffect:
    """Bytes for the container's standard output or standard error."""

    stderr: bool
    data: bytes


@dataclass(frozen=True)
class Sleep:
    """Nothing for so long; infinity: until it is killed."""

    seconds: float


@dataclass(frozen=True)
class Burn:
    """Keep a core busy for so long; infinity: until it is killed."""

    seconds: float


@dataclass(frozen=True, eq=False)
class PipeFull:
    """A pipe's writer gives its reader a turn."""

    pipe: Pipe


@dataclass(frozen=True)
class AwaitInput:
    """Nothing until the container's standard input has more, or ends."""


Effect = Union[OutputEffect, Sleep, Burn, PipeFull, AwaitInput]
Steps = Generator[Effect, None, int]  # returns an exit code
Writing = Generator[Effect, None, None]
Reading = Generator[Effect, None, bytes]


class Killed(Exception):
    """A process ends by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class AllKilled(Killed):
    """As ``kill -9 -1``: every process but PID 1."""


class Pid1Died(Exception):
    """The kernel killed PID 1 for its memory."""


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes) -> Writing: ...


class Source(Protocol):
    """What can be read."""

    def read(self, size: int = PIECE) -> Reading:
        """Up to so many bytes; none at the end."""
        ...


class Console:
    """A container's own output."""

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr

    def write(self, data: bytes) -> Writing:
        yield OutputEffect(self._stderr, data)


class Nowhere:
    """/dev/null."""

    def __init__(self) -> None:
        self._writes = 0

    def write(self, data: bytes) -> Writing:  # noqa: ARG002
        self._writes += 1
        if self._writes % _WRITES == 0:
            yield Burn(BREATH_S)


class FileSink:
    """A file that is written to at its end."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path

    def write(self, data: bytes) -> Writing:
        self._files.append(self._path, data)
        yield from ()


class Text:
    """Bytes to read; those of a file that grows meanwhile are read too."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = PIECE) -> Reading:
        piece = bytes(self._data[self._at : self._at + size])
        self._at += len(piece)
        yield from ()
        return piece


class StandardInput:
    """A container's own standard input."""

    def __init__(self) -> None:
        self.ended = False
        self._held = bytearray()

    def add(self, data: bytes) -> None:
        self._held += data

    def read(self, size: int = PIECE) -> Reading:
        while not self._held and not self.ended:
            yield AwaitInput()
        piece = bytes(self._held[:size])
        del self._held[:size]
        return piece

    def read_all(self, size: int) -> Reading:
        """So many bytes; less at the end."""
        while len(self._held) < size and not self.ended:
            yield AwaitInput()
        return (yield from self.read(size))

    def read_line(self) -> Reading:
        while b"\n" not in self._held and not self.ended:
            yield AwaitInput()
        at = self._held.find(b"\n")
        return (yield from self.read(len(self._held) if at < 0 else at + 1))


class Zeros:
    """/dev/zero."""

    def read(self, size: int = PIECE) -> Reading:
        yield from ()
        return bytes(min(size, PIECE))


class Pipe:
    """Between two programs: its reader drives its writer."""

    def __init__(self) -> None:
        self._held = b""
        self._writes = 0
        self._writer: Steps | None = None

    def written_by(self, writer: Steps) -> None:
        self._writer = writer

    def write(self, data: bytes) -> Writing:
        self._held += data
        yield PipeFull(self)

    def read(self, size: int = PIECE) -> Reading:
        while not self._held and self._writer is not None:
            yield from self._drive(self._writer)
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def close(self) -> None:
        """The reader has gone: the writer gets a SIGPIPE."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _drive(self, writer: Steps) -> Writing:
        try:
            effect = next(writer)
        except (StopIteration, Killed) as ended:
            if isinstance(ended, AllKilled):
                raise
            self._writer = None
            return
        if not (isinstance(effect, PipeFull) and effect.pipe is self):
            yield effect
            return
        self._writes += 1
        if self._writes % _WRITES == 0:
            yield Burn(BREATH_S)


@dataclass(slots=True)
class Machine:
    """What all processes of one container share."""

    files: Files
    scripts: Mapping[str, str] = field(default_factory=dict)  # programs that a test defined, in shell
    oom_kills: int = 0
    fork_refusals: int = 0
    last_pid: int = 1

    def next_pid(self) -> int:
        self.last_pid += 1
        return self.last_pid


@dataclass(slots=True)
class Process:
    """One process: where it reads and writes, and in which folder."""

    machine: Machine
    pid: int
    env: dict[str, str]
    cwd: str
    stdin: Source
    stdout: Sink
    stderr: Sink

    def child(self) -> Process:
        """A process that inherits everything."""
        return replace(self, pid=self.machine.next_pid(), env=dict(self.env))

    def path(self, name: str) -> str:
        """An absolute path."""
        return posixpath.normpath(posixpath.join(self.cwd, name))

    def open(self, name: str) -> Source:
        """A file, or a device, to read; raises FileProblem."""
        path = self.path(name)
        if path in ("/dev/stdin", "/dev/fd/0"):
            return self.stdin
        if path == "/dev/null":
            return Text(b"")
        return Zeros() if path == "/dev/zero" else Text(self.machine.files.read(path))

    def create(self, name: str, *, append: bool) -> Sink:
        """A file, or a device, to write to; raises FileProblem."""
        path = self.path(name)
        if path in ("/dev/stdout", "/dev/stderr"):
            return self.stdout if path == "/dev/stdout" else self.stderr
        if path == "/dev/null":
            return Nowhere()
        if not append or self.machine.files.find(path) is None:
            self.machine.files.create(path)
        return FileSink(self.machine.files, path)

    def say(self, text: str) -> Writing:
        """Write to standard output."""
        yield from self.stdout.write(encoded(text))

    def fail(self, text: str, code: int = 1) -> Steps:
        """Complain, and be the exit code."""
        yield from self.stderr.write(encoded(text + "\n"))
        return code


def encoded(text: str) -> bytes:
    """A word's bytes; words come from bytes that need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


__all__ = [
    "BREATH_S",
    "FIRST_PID",
    "PIECE",
    "AllKilled",
    "AwaitInput",
    "Burn",
    "Console",
    "Effect",
    "FileProblem",
    "Killed",
    "Machine",
    "Nowhere",
    "OutputEffect",
    "Pid1Died",
    "Pipe",
    "Process",
    "Sink",
    "Sleep",
    "Source",
    "StandardInput",
    "Steps",
    "Text",
    "encoded",
]
