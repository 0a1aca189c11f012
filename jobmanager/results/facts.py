"""What a waiter saw of one run. Facts only: ``verdict`` judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from jobmanager.model.container import ContainerState


class Limit(str, Enum):
    """A limit for which a waiter stops a job."""

    WALL = "wall_time_s"
    CPU = "cpu_time_s"
    OUTPUT = "output_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Our own kill, for a limit."""

    limit: Limit
    measured: float  # in the limit's unit, when we decided


@dataclass(frozen=True, slots=True, kw_only=True)
class EndMark:
    """What PID 1 said when the program had ended. Counters are None where the kernel offers none."""

    exit_code: int
    cpu_ns: int | None = None  # of the whole container since the program began
    peak_memory_bytes: int | None = None
    oom_kills: int | None = None
    fork_refusals: int | None = None  # how often the limit of processes was hit
    workspace_full: bool = False
    shm_full: bool = False  # /dev/shm
    wall_s: float | None = None  # from the program's begin to its end, by the container's own clock


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run of one container, as its waiter saw it."""

    began: bool  # PID 1, or the program itself, was heard of: the job was delivered whole
    untouched: bool = False  # it is proven that the program never began, so somebody else may run it
    end: EndMark | None = None  # the program ended while PID 1 lived
    stopped: Stopped | None = None
    refusal: str = ""  # PID 1's reason for not running the program
    state: ContainerState | None = None  # asked for when it ended without an end mark
    gone: bool = False  # the engine knows no such container any more
    was_frozen: bool = False  # somebody else had paused it when we came to stop it
    outage_s: float = 0.0  # how long the engine could not be reached during the run
    survived_outage_s: float = 0.0  # of that, what was over while the container still ran
    unreachable: str = ""  # with untouched: the engine's silence is why
    host_lost: bool = False  # it was given up
    trouble: str = ""  # what else went wrong on our side
    link_broke: bool = False  # a grading job was cut off from its student containers when it needed them
    nonsense: str = ""  # what a grading job's runner said that made no sense, or wanted in vain, for which we ended it
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    log_rotated: bool = False  # the first part of the output was lost with a waiter
    rest_lost: bool = False  # not all that it had to say until its end was heard
    last_words_lost: bool = False  # it ended, but PID 1 was not heard to its last word: there may have been a result file
    late_output_bytes: int = 0  # that came only when we had stopped it
    from_log: bool = False  # the output is what the engine could write down, not what was heard as it came
    result_file: bytes | None = field(default=None, repr=False)
    archive: bytes | None = field(default=None, repr=False)
    archive_trouble: str = ""  # why collected files are missing
    passed_over: str = ""  # what was to be collected, but is no file that comes
    cpu_time_s: float | None = None
    wall_time_s: float | None = None
    peak_memory_bytes: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step

    @property
    def output_bytes(self) -> int:
        """Bytes of both streams together."""
        return self.stdout_bytes + self.stderr_bytes
