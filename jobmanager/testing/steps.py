"""What a program of the fake engine does, as a sequence of steps.

::

    programs = {
        "python3": [PrintFile("main.py"), Print("42\\n")],
        "make": [Print("it does not compile\\n", stderr=True), Exit(2)],
        "while true; do date; sleep 1; done": [Repeat([Print("now\\n"), Sleep(1)])],
    }

A program ends with its last step, and with exit code 0 unless a step says otherwise.
"""

from __future__ import annotations

import math
import posixpath
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args

from jobmanager.errors import InvalidValue
from jobmanager.model._exact import exact, make_exact

__all__ = [
    "AskStudent",
    "Burn",
    "Die",
    "Echo",
    "Exit",
    "FillWorkspace",
    "Forks",
    "Print",
    "PrintFile",
    "ProgramStep",
    "Receive",
    "Repeat",
    "Send",
    "Sleep",
    "UseMemory",
    "WriteFile",
]


@dataclass(frozen=True, slots=True)
class Print:
    """Prints."""

    data: str | bytes  # no line end is added
    stderr: bool = False

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_data(self, "data", self.data)
        _check_flag(self, "stderr", self.stderr)


@dataclass(frozen=True, slots=True)
class PrintFile:
    """Prints a file; one that is not there ends the program with 1."""

    path: str  # relative: in the workspace

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_path(self, self.path)


@dataclass(frozen=True, slots=True)
class Echo:
    """Prints what comes by standard input: all of it, or so many lines."""

    lines: int | None = None

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        if self.lines is not None:
            _check_count(self, "lines", self.lines)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Does nothing for a time."""

    seconds: float  # may be infinite

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Burn:
    """Keeps one processor busy for a time. Where the container may use less than one, it gets as much less CPU time."""

    seconds: float  # of the wall clock; may be infinite

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Exit:
    """Ends with an exit code."""

    code: int = 0

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        if not _is_whole(self.code) or not 0 <= self.code <= 255:
            raise InvalidValue(f"Exit: code must be a whole number from 0 to 255, not {self.code!r}")


@dataclass(frozen=True, slots=True)
class Die:
    """Ends by a signal."""

    signal: str = "SIGKILL"  # such as ``SIGSEGV``

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        if not isinstance(self.signal, str) or not self.signal.startswith("SIG") or self.signal not in signal.Signals.__members__:
            raise InvalidValue(f"Die: signal must be the name of a signal, such as 'SIGSEGV', not {self.signal!r}")

    @property
    def number(self) -> int:
        """The signal's number."""
        return int(signal.Signals[self.signal])


@dataclass(frozen=True, slots=True)
class UseMemory:
    """Takes memory, and keeps it. Where it is more than the limit, the kernel kills the program."""

    mib: int
    kills_pid_1: bool = False  # past the limit the kernel kills the container's PID 1 instead: seldom, a real one does

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_count(self, "mib", self.mib)
        _check_flag(self, "kills_pid_1", self.kills_pid_1)


@dataclass(frozen=True, slots=True)
class Forks:
    """Starts processes that stay. Those past the limit are refused, and the program goes on."""

    count: int

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_count(self, "count", self.count)


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Writes a file, and makes the folders on its way. Where there is no room for it, the program ends with 1."""

    path: str  # relative: in the workspace
    content: str | bytes = b""
    mode: int = 0o644

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_path(self, self.path)
        _check_data(self, "content", self.content)
        if not _is_whole(self.mode) or not 0 <= self.mode <= 0o7777:
            raise InvalidValue(f"WriteFile: mode must be permission bits such as 0o644, not {self.mode!r}")


@dataclass(frozen=True, slots=True)
class FillWorkspace:
    """Fills the workspace, and goes on."""

    inodes: bool = False  # with empty files instead of bytes

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_flag(self, "inodes", self.inodes)


@dataclass(frozen=True, slots=True)
class Send:
    """Sends a message by the program's channel, as a grading container's supervisor does."""

    message: str | bytes | Mapping[str, Any]  # a mapping is sent as JSON
    is_whole: bool = True  # False: these bytes are sent as they are, without the byte that says whether more follows

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        if not isinstance(self.message, dict):
            _check_data(self, "message", self.message)
        _check_flag(self, "is_whole", self.is_whole)


@dataclass(frozen=True, slots=True)
class Receive:
    """Waits for messages by the program's channel, and prints each as a line."""

    count: int = 1

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        _check_count(self, "count", self.count)


@dataclass(frozen=True, slots=True)
class AskStudent:
    """Runs a student container to its end, as a grader does, and prints what its program prints, or why it cannot be run.

    For a grading container, whose program is ``python3``: the supervisor.
    """

    command: str | Sequence[str]
    id: int = 1
    stdin: str | bytes = b""
    environment: str = ""  # empty: the grading container's own

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        if isinstance(self.command, list):
            object.__setattr__(self, "command", tuple(self.command))
        if not isinstance(self.command, str) and not _are_texts(self.command):
            raise InvalidValue(f"AskStudent: command must be a text or a sequence of words, not {self.command!r}")
        _check_count(self, "id", self.id)
        _check_data(self, "stdin", self.stdin)
        if not isinstance(self.environment, str):
            raise InvalidValue(f"AskStudent: environment must be a text, not {self.environment!r}")


@dataclass(frozen=True, slots=True)
class Repeat:
    """Steps again and again."""

    steps: Sequence[ProgramStep]
    times: int | None = None  # None: for ever

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", checked_steps("Repeat", self.steps))
        object.__setattr__(self, "times", exact(self.times))
        if self.times is not None:
            _check_count(self, "times", self.times)


ProgramStep = Union[
    Print,
    PrintFile,
    Echo,
    Sleep,
    Burn,
    Exit,
    Die,
    UseMemory,
    Forks,
    WriteFile,
    FillWorkspace,
    Send,
    Receive,
    AskStudent,
    Repeat,
]
_KINDS = get_args(ProgramStep)


def checked_programs(programs: Mapping[str, str | Sequence[ProgramStep]]) -> dict[str, str | tuple[ProgramStep, ...]]:
    """Programs by name, as plain data and steps; raises InvalidValue."""
    if not isinstance(programs, Mapping):
        raise InvalidValue(f"programs must be a mapping from names to texts or steps, not {programs!r}")
    return {exact(name): _checked_program(exact(name), program) for name, program in programs.items()}


def checked_steps(owner: str, steps: Sequence[ProgramStep]) -> tuple[ProgramStep, ...]:
    """The steps of a program or of a step; raises InvalidValue."""
    if isinstance(steps, (str, bytes)) or not isinstance(steps, Sequence):
        raise InvalidValue(f"{owner}: its steps must be a sequence of steps, not {steps!r}")
    for step in steps:
        if type(step) not in _KINDS:
            raise InvalidValue(f"{owner}: {step!r} is no step: take one of {', '.join(kind.__name__ for kind in _KINDS)}")
    return tuple(steps)


def _checked_program(name: object, program: str | Sequence[ProgramStep]) -> str | tuple[ProgramStep, ...]:
    if not isinstance(name, str) or not name:
        raise InvalidValue(f"programs: a program's name must be a text, not {name!r}")
    if isinstance(program, str):
        text: str = exact(program)
        return text
    return checked_steps(f"program {name!r}", program)


def _check_data(step: object, name: str, value: object) -> None:
    if not isinstance(value, (str, bytes)):
        raise InvalidValue(f"{type(step).__name__}: {name} must be a text or bytes, not {value!r}")


def _check_flag(step: object, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidValue(f"{type(step).__name__}: {name} must be True or False, not {value!r}")


def _check_path(step: object, path: object) -> None:
    if not isinstance(path, str) or not path or "\0" in path or posixpath.normpath(path) in (".", "/"):
        raise InvalidValue(f"{type(step).__name__}: path must be the path of a file, not {path!r}")


def _check_seconds(step: object, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or math.isnan(seconds) or seconds < 0:
        raise InvalidValue(f"{type(step).__name__}: seconds must be a number from 0 on, not {seconds!r}")


def _check_count(step: object, name: str, count: object) -> None:
    if not _is_whole(count) or not isinstance(count, int) or count < 1:
        raise InvalidValue(f"{type(step).__name__}: {name} must be a whole number from 1 on, not {count!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(word, str) for word in value)
