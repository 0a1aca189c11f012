"""The facts that a waiter reports about one run. ``verdict`` judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from jobmanager.engine.pid1 import EndMark
from jobmanager.model.container import ContainerInfo


class Limit(str, Enum):
    """A limit for which a waiter stops a job."""

    WALL = "wall_time_s"
    CPU = "cpu_time_s"
    OUTPUT = "output_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHit:
    """The limit for which a waiter killed a program."""

    limit: Limit
    measured: float  # in the limit's unit, when the waiter decided


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run of one container, as its waiter saw it."""

    program_started: bool  # PID 1 or the program itself has reported: the job was sent whole
    never_started: bool = False  # it is proven that the program never started, so the job may be sent to another container
    end: EndMark | None = None  # the program ended while PID 1 lived
    limit_hit: LimitHit | None = None  # we killed it for this
    refusal: str = ""  # PID 1's reason for not running the program
    state: ContainerInfo | None = None  # asked for when it ended without an end mark
    container_removed: bool = False  # the engine knows no such container any more
    paused_externally: bool = False  # somebody else had paused it when we were about to stop it
    outage_s: float = 0.0  # how long the engine could not be reached during the run
    survived_outage_s: float = 0.0  # the part of it that was over while the container still ran
    unreachable_reason: str = ""  # with never_started: the engine did not answer, and this is what happened
    host_lost: bool = False  # the host was given up
    infrastructure_error: str = ""  # any other error on our side
    link_broke: bool = False  # a grading job lost its student containers when it needed them
    protocol_error: str = ""  # the invalid or unsupported message of a grading job's supervisor for which we ended the job
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    log_rotated: bool = False  # the first part of the output was lost with a waiter
    output_incomplete: bool = False  # the last part of the output was not received
    final_report_incomplete: bool = False  # the program ended, but PID 1's report did not come whole: a result file may be lost
    late_output_bytes: int = 0  # received only after we had stopped the program
    output_from_log: bool = False  # the output is what the engine could write down, not what came over the stream
    result_file: bytes | None = field(default=None, repr=False)
    archive: bytes | None = field(default=None, repr=False)
    archive_error: str = ""  # why collected files are missing
    not_collected: str = ""  # names that matched but could not be collected, with reasons
    cpu_time_s: float | None = None
    wall_time_s: float | None = None
    peak_memory_bytes: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step

    @property
    def output_bytes(self) -> int:
        """Bytes of both streams together."""
        return self.stdout_bytes + self.stderr_bytes
