"""The facts that a waiter reports about one run. ``verdict`` judges them.

A run has one ``Ending``. ``docs/outcomes.md`` has the table of endings: what each means, and which of them it is when
several things were seen of one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Union

from jobmanager.model.container import ContainerInfo
from jobmanager.model.result import CaseResult, RunResult


class Limit(str, Enum):
    """A limit for which a program is stopped: by its runner, or by a waiter where that does not."""

    WALL = "wall_time_s"
    CPU = "cpu_time_s"
    OUTPUT = "output_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEnd:
    """How a program ended, as its runner saw it. Counters are None where the kernel has none."""

    exit_code: int | None = None  # None: a signal ended it
    signal: str | None = None  # its name, such as "SIGSEGV"; "signal 34" for one that has none
    cpu_ns: int | None = None  # of the whole container since the program started
    wall_s: float | None = None  # from the program's start to its end, without what its reader made it wait
    peak_memory_bytes: int | None = None
    peak_is_lower_bound: bool = False  # sampled, or that of the largest process: an earlier run had more
    oom_kills: int | None = None
    fork_refusals: int | None = None  # how often the limit of processes was hit
    workspace_full: bool = False
    shm_full: bool = False  # /dev/shm
    input_over: bool = False  # it read from a fifo, and its writer had left before


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHit:
    """The limit for which a program was stopped."""

    limit: Limit
    measured: float  # in the limit's unit


# ---- why the runner's report did not come


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEnded:
    """The container ended, or its streams did, and nothing more is known: somebody else stopped it, or we did on request."""

    container: ContainerInfo | None = None  # its state after the end, if the engine was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedExternally:
    """The engine knows no such container any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGivenUp:
    """The engine could not be reached for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedDuringOutage:
    """The container ended while the engine could not be reached."""

    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InfrastructureFailure:
    """An error on our side, or of the engine."""

    reason: str
    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentsLost:
    """A grading job lost its student containers when it needed them."""

    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired:
    """The runner had heard of no waiter for as long as its lease: it ended the program, and itself."""

    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnreachable:
    """The engine did not answer before the job was sent."""

    reason: str


Cause = Union[ContainerEnded, RemovedExternally, HostGivenUp, EndedDuringOutage, InfrastructureFailure, LeaseExpired]


# ---- endings


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNotSent:
    """It is proven that the program never started, so the job may be sent to another container."""

    cause: Union[Cause, EngineUnreachable]

    @property
    def reason(self) -> str:
        """Why, in words."""
        if isinstance(self.cause, (EngineUnreachable, InfrastructureFailure)):
            return self.cause.reason
        return "the container ended before it had its job"

    @property
    def is_unreachable(self) -> bool:
        """Whether its host did not answer, so that the job itself is not to blame."""
        return isinstance(self.cause, (EngineUnreachable, HostGivenUp))


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotRun:
    """The runner has the job and did not start the program."""

    reason: str  # the runner's
    is_its_own: bool = False  # the program's own: a script that names an interpreter which is not there
    is_of_this_run: bool = False  # its files did not fit, or no process could be made: another run may begin
    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramExited:
    """The program ended by itself, and the runner's report came whole."""

    end: ProgramEnd
    result_file: bytes | None = field(default=None, repr=False)
    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedForLimit:
    """The program was stopped for a limit, by its runner or by us."""

    limit_hit: LimitHit
    end: ProgramEnd | None = None  # None: the runner could not report it. It may have ended by itself meanwhile
    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedForProtocolError:
    """We stopped a grading job, as its supervisor sent an invalid or unsupported message."""

    reason: str
    end: ProgramEnd | None = None
    container: ContainerInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCutOff:
    """The program may have started, and neither it nor a limit is known to have ended it.

    With an end its runner has reported how it ended all the same, and what counts is the cause.
    """

    cause: Union[Cause, StudentsLost]
    end: ProgramEnd | None = None


Ending = Union[JobNotSent, CannotRun, ProgramExited, StoppedForLimit, StoppedForProtocolError, RunCutOff]


# ---- what is true beside any ending


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedOutput:
    """What was printed, as far as it is kept, and how much there was."""

    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    beginning_lost: bool = False  # with a waiter, which had kept it nowhere
    is_incomplete: bool = False  # the last part was not received

    @property
    def total_bytes(self) -> int:
        """Bytes of both streams together, kept or not."""
        return self.stdout_bytes + self.stderr_bytes

    @property
    def is_cut(self) -> bool:
        """Whether less is kept than was printed."""
        return self.beginning_lost or self.is_incomplete or self.total_bytes > len(self.stdout) + len(self.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The result of collecting."""

    archive: bytes | None = field(default=None, repr=False)  # a tar.gz; None: nothing was to be collected, or nothing could be read
    error: str = ""  # why some files are missing
    not_collected: str = ""  # names that matched, but are not collected, with reasons
    test_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # a phase's test reports, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesProgress:
    """What was told so far of a run that has cases: in all its containers."""

    build: RunResult | None = None  # None: it has not ended, or there is none
    cases: tuple[CaseResult, ...] = ()  # that have ended, in their order

    @property
    def has_begun(self) -> bool:
        """Whether anything was run."""
        return self.build is not None or bool(self.cases)


NO_PROGRESS = CasesProgress()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run of one container, as its waiter saw it."""

    ending: Ending
    output: CapturedOutput = CapturedOutput()
    collected: Collected = Collected()
    paused_externally: bool = False  # somebody else had paused it when we were about to stop it
    outage_s: float = 0.0  # how long the engine could not be reached during the run
    cpu_time_s: float | None = None
    wall_time_s: float | None = None
    peak_memory_bytes: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step
    volume_devices: Mapping[str, str] = field(default_factory=dict)  # by volume, as far as they were seen
    not_clean: str = ""  # why the rest of the cases cannot be run in this container; empty: they were run, or are not to be
    is_judge_unclean: bool = False  # it is the container of its interactor that is not clean: no fault of the submission
    is_leaving: bool = False  # its runner is told to end once this is reported: nobody need kill the container

    @property
    def end(self) -> ProgramEnd | None:
        """How the program ended, if its runner has reported that: by itself, or as it was stopped."""
        return None if isinstance(self.ending, (JobNotSent, CannotRun)) else self.ending.end

    @property
    def container(self) -> ContainerInfo | None:
        """The container's state after its end, if the engine was asked."""
        source = self.ending.cause if isinstance(self.ending, (JobNotSent, RunCutOff)) else self.ending
        return None if isinstance(source, (RemovedExternally, HostGivenUp, EngineUnreachable)) else source.container
