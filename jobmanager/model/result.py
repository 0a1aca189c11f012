"""``JobResult``: the one immutable object that a job ends in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict, Union

from jobmanager.model._summary import summary
from jobmanager.model.as_data import AsData, VersionedAsData

LimitName = Literal["cpu", "wall", "memory", "output", "processes", "workspace", "shm", "budget"]
KilledBy = Literal["jobmanager", "kernel", "program", "outsider"]


class Outcome(str, Enum):
    """How a job ended; ``docs/outcomes.md`` has the table."""

    SUCCESS = "success"  # exit code 0, or the grader's result
    FAILED = "failed"  # any other exit code, a signal, or the grader's result
    TIMEOUT = "timeout"  # stopped for CPU time or wall clock
    OVERFLOW = "overflow"  # stopped for output, or it ended badly after reaching memory, processes or workspace
    CRASH = "crash"  # not the program's fault: host, daemon, image, external interference
    KILLED = "killed"  # on request of the caller
    ERROR = "error"  # a result file that cannot be read

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(AsData):
    """One fact behind a verdict."""

    kind: str  # what was found: "exit_code", "wall_time_s", "oom_kills", ...
    value: str | int | float  # in the unit that the kind names
    source: str  # where it comes from: "the runner", "inspect", "our clock", ...


class _ProblemResult(NamedTuple):
    outcome: Outcome
    text: str


class ProblemResult(_ProblemResult, AsData):
    """The result of one problem: the old client's pair."""

    __slots__ = ()


class CaseReport(TypedDict):
    """One test of a test report, as ``JobResult.tests`` holds it: plain data. None: the report does not say it."""

    name: str  # as the report has it; the key in ``JobResult.tests`` has a number behind it if the name comes again
    passed: bool
    status: Literal["passed", "failed", "error", "skipped"]
    points: float | None
    max_points: float | None
    output: str  # messages, stack traces and what the test printed; control characters are escaped, a cut is told at the end
    expected: str | None
    actual: str | None
    time_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(AsData):
    """One step of a job, with its time (``debug=True``)."""

    name: str
    at_s: float  # seconds since the job was accepted


class PrintedOutput:
    """What a result's output is as text, and where it was cut."""

    __slots__ = ()
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int

    @property
    def stdout_text(self) -> str:
        """Standard output as UTF-8, undecodable bytes replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """Standard error as UTF-8, undecodable bytes replaced."""
        return self.stderr.decode("utf-8", "replace")

    @property
    def stdout_cut_at(self) -> int | None:
        """After how many bytes stdout was cut; None when it is whole."""
        return len(self.stdout) if self.stdout_bytes > len(self.stdout) else None

    @property
    def stderr_cut_at(self) -> int | None:
        """After how many bytes stderr was cut; None when it is whole."""
        return len(self.stderr) if self.stderr_bytes > len(self.stderr) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(PrintedOutput, AsData):
    """The result of one run of one program."""

    outcome: Outcome
    text: str = ""  # why it ended so
    limit: LimitName | None = None  # the one that decided the outcome
    exit_code: int | None = None  # None when the program never ended by itself, or a signal ended it
    signal: str | None = None  # that ended it, such as "SIGSEGV"; None when we stopped it
    stdout: bytes = b""  # as far as it was kept, without any markers
    stderr: bytes = b""
    stdout_bytes: int = 0  # how many were printed, as far as they were counted
    stderr_bytes: int = 0
    output_cut: bool = False  # stdout or stderr holds less than was printed
    cpu_time_s: float | None = None  # None where it could not be measured
    wall_time_s: float | None = None
    peak_memory_mib: float | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult(AsData):
    """What became of one case of a task."""

    name: str
    outcome: Outcome | None  # None when it was not run. A run that ended well and printed something else is ``failed``
    text: str = ""  # why it ended so, or where the output first differs
    correct: bool | None = None  # whether it printed what is expected; None where nothing compares, or the run did not end well
    points: float = 0.0  # what it is worth, when it is correct
    run: RunResult | None = None  # None when it was not run. Its streams are kept for the first cases that fail


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult(AsData):
    """What became of one phase of a pipeline."""

    name: str
    outcome: Outcome | None  # None when it was not run
    text: str = ""  # why it ended so, or why it was not run
    run: RunResult | None = None  # None when it was not run, or nothing was seen of it
    tests: Mapping[str, object] = field(default_factory=dict)  # by name, as its test reports have them: ``CaseReport``
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step: start, send, run, collect
    build: RunResult | None = None  # of a task with a build
    cases: tuple[CaseResult, ...] = ()  # of a task with cases: each, in their order; those that were not run, too


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(PrintedOutput, VersionedAsData, kind="result"):
    """The result of a job. Unpacks into ``(result, grade, problems, tests, custom, archive)``."""

    job_id: str
    outcome: Outcome
    text: str = ""  # feedback, or why the job ended so
    grade: float = 0.0  # 0 to 200; 100 for a success unless the result file has another one
    problems: Mapping[str, ProblemResult] = field(default_factory=dict)
    tests: Mapping[str, object] = field(default_factory=dict)
    custom: Mapping[str, object] = field(default_factory=dict)
    archive: bytes | None = None  # tar.gz of the collected files
    state: str = ""
    stdout: bytes = b""  # as far as it was kept, without any markers
    stderr: bytes = b""
    stdout_bytes: int = 0  # how many were printed, as far as they were counted
    stderr_bytes: int = 0
    output_cut: bool = False  # stdout or stderr holds less than was printed
    limit: LimitName | None = None  # the one that decided the outcome
    exit_code: int | None = None  # None when the program never ended by itself, or a signal ended it
    signal: str | None = None  # that ended it, such as "SIGSEGV"; None when we stopped it
    killed_by: KilledBy | None = None  # None when the program ended by itself, did not run, or nobody knows what ended it
    evidence: tuple[Evidence, ...] = ()
    host: str | None = None  # the Docker host's name; None when it ran nowhere
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step: waiting, start, send, run, collect
    cpu_time_s: float | None = None  # None where it could not be measured
    wall_time_s: float | None = None
    peak_memory_mib: float | None = None
    steps: tuple[Step, ...] = ()  # with debug=True: everything that happened, in order
    phases: tuple[PhaseResult, ...] = ()  # of a pipeline: each phase, in their order; those that were not run, too
    build: RunResult | None = None  # of a task with a build
    cases: tuple[CaseResult, ...] = ()  # of a task with cases: each, in their order; those that were not run, too
    to_submitter: tuple[str, ...] = ()  # what graders told the submitter while they ran, in its order

    def __iter__(self) -> Iterator[Any]:
        yield (self.outcome, self.text)
        yield self.grade
        yield self.problems
        yield self.tests
        yield self.custom
        yield self.archive

    def summary(self) -> str:
        """Two lines for people: how it ended, its grade, and why; then where, and the numbers. What it printed is not in them."""
        return summary(self)


Callback = Callable[[JobResult], object]
# host, port, user, password
SSHCallback = Callable[[Union[str, None], Union[int, None], Union[str, None], Union[str, None]], object]
_Objects = Mapping[str, object]
OldCallback = Callable[[tuple[Outcome, str], float, Mapping[str, ProblemResult], _Objects, _Objects, Union[bytes, None]], object]


def unpacked(callback: OldCallback) -> Callback:
    """Wrap a callback of the old client's six arguments into one that takes a ``JobResult``."""

    def call(result: JobResult) -> object:
        return callback(*result)

    return call
