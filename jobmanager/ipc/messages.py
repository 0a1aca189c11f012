"""The messages between the processes of one manager."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.model.checks import Check
from jobmanager.model.container import WORKSPACE, ContainerSpec, EngineInfo, Image
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.model.result import CaseResult, RunResult
from jobmanager.results.facts import LimitHit, RunFacts

# ---- to a pool worker, and its replies


@dataclass(frozen=True, slots=True, kw_only=True)
class StartContainer:
    """Create and start this container, as far as an earlier try has not done so."""

    address: Address
    container: ContainerSpec
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveContainer:
    """Remove this container and its volume, if they are this manager's."""

    address: Address
    name: str
    manager_id: str
    is_ours: bool = False  # the container is known to be this manager's
    is_leaving: bool = False  # it is about to end by itself
    has_others: bool = False  # its waiter has started others beside it
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveVolumes:
    """Remove these volumes, which several containers of a job had, as far as they are this manager's."""

    address: Address
    names: tuple[str, ...]
    manager_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStarted:
    """The container runs and waits for its job."""

    container_id: str
    image_command: tuple[str, ...]  # for a task without a command
    duration_s: float  # of creating and starting it


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailed:
    """This host could not start the container; another host may."""

    reason: str
    unreachable: bool  # the engine
    image_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRefused:
    """No host can start the container."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesLost:
    """The container has started, but a container that was to keep its volumes had ended before: they are empty."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRemoved:
    """No container and no volume of that name is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalFailed:
    """The container could not be removed now; a later try may succeed."""

    reason: str
    only_volume_left: bool = False  # the container is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesRemoved:
    """None of the volumes is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRemovalFailed:
    """Some volumes could not be removed now: they are in use, or the engine did not answer. A later try may succeed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """The first message to a pool worker: load what requests for such a host need. It answers ``WorkerReady``."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    """A pool worker takes requests."""


PoolRequest = Union[StartContainer, RemoveContainer, RemoveVolumes]
PoolReply = Union[
    ContainerStarted,
    StartFailed,
    StartRefused,
    VolumesLost,
    ContainerRemoved,
    RemovalFailed,
    VolumesRemoved,
    VolumeRemovalFailed,
]


# ---- to a waiter


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiterSettings:
    """The first message to a waiter."""

    address: Address
    manager_id: str
    owner: str  # the label of the manager's process
    monitors_host: bool  # whether this waiter also checks the host itself: one waiter of each host does
    engine_timeout_s: float
    host_lost_timeout_s: float
    host_check_interval_s: float  # between two checks of a host that is up
    reconcile_interval_s: float  # between two lists of our containers
    spool_folder: str = ""  # where it keeps what it has read of a run, for a waiter after it; empty: nowhere
    manager_name: str = ""  # for labels; empty: it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingSettings:
    """The student containers that a grading job may have."""

    images: Mapping[str, str]  # by environment; "" is the grading container's own
    cpu_time_s: float  # of all student containers together
    memory_mib: int
    network: Network | str
    most_students: int  # at once


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRun:
    """One case, with everything that its task would give it."""

    number: int  # among the task's cases, from 1
    name: str
    args: tuple[str, ...] = ()  # after the command's words
    stdin: bytes = field(default=b"", repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # beside the task's
    limits: Limits
    expected: bytes | None = field(default=None, repr=False)
    check: Check | None = None  # None: nothing compares here
    is_checked_later: bool = False  # a function of the caller's compares
    points: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePlan:
    """The runs of a container that has cases."""

    build: str | tuple[str, ...] | None = None  # is run first; the cases then begin with what it has left
    build_limits: Limits | None = None
    is_built: bool = False  # an earlier waiter has told how the build in this container ended
    cases: tuple[CaseRun, ...]  # those that have not ended, and are to be run
    last: int  # the number of the last case of all
    streams_kept: int = 0  # bytes of output that results of earlier cases have
    clearing_s: float  # for all that is done between the runs
    interactor: JudgePlan | None = None  # what runs beside each case
    checkers: tuple[JudgePlan, ...] = ()  # each judges some of the cases
    stop_at_first_failure: bool = False

    def changes_limits(self, limits: Limits) -> bool:
        """Whether the container has other limits of memory or processes while it builds."""
        build = self.build_limits if self.build is not None else None
        return build is not None and (build.memory_mib, build.processes) != (limits.memory_mib, limits.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """The container of an interactor or a checker, which the waiter of the submission's container starts, follows and removes."""

    spec: ContainerSpec  # its labels are those of the submission's container
    job: MonitorContainer  # the id is not known before it has started; a run for each case that it judges


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorContainer:
    """Send the job to this running container, unless an earlier waiter did, and report the end."""

    job_id: str
    container_id: str
    container_name: str
    command: str | tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)  # a phase's secrets may be in it
    files: Mapping[str, bytes] = field(repr=False)
    stdin: bytes | None = field(repr=False)  # None: standard input stays open for further messages
    limits: Limits
    collect: tuple[str, ...]
    executables: frozenset[str] = frozenset()  # names of files that are made executable whatever their content
    workspace: str = WORKSPACE
    grading: GradingSettings | None = None
    tests: tuple[str, ...] = ()  # patterns, as those of ``collect``, of test reports
    volumes: tuple[str, ...] = ()  # names of the volumes that the container shares with others
    hold_s: float = 0.0  # for so long its runner keeps these volumes after the run, for the next phase
    wipe: tuple[str, ...] = ()  # patterns, each ``VOLUME/PART/...``, of what PID 1 removes before it starts the program
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # files by name, which are never collected
    volume_devices: Mapping[str, str] = field(default_factory=dict)  # that volumes must have, by name
    cases: CasePlan | None = None
    stdin_fifo: str = ""  # a path: it reads there, instead of ``stdin``
    stdout_fifo: str = ""  # a path: it writes there, and its standard output is not reported
    clears: tuple[str, ...] = ()  # places that are emptied before the run, all processes being dead; what was kept is put back
    puts_back: bool = True  # or nothing was kept
    clearing_s: float = 0.0  # for that
    with_ssh: bool = False  # ``debug="ssh"``: the container's SSH server reports when it accepts connections
    lease_s: float = 90.0  # for which the runner waits for a waiter before it ends the program and itself
    engine_id: str = ""  # of the engine that has the container; empty where unknown
    taken_over: bool = False  # from an earlier waiter
    elapsed_s: float = 0.0  # how long the container has run already
    limit_hit: LimitHit | None = None  # the limit for which that waiter was about to stop it


@dataclass(frozen=True, slots=True, kw_only=True)
class KillContainer:
    """Kill this container. ``RunEnded`` follows, as after any other end."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOutput:
    """Send what this container has printed past these offsets: once, as soon as there is something."""

    container_name: str
    stdout_from: int
    stderr_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckHostNow:
    """Check the host now: it may be down, or its images may have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedManagers:
    """The managers of the caller's process that have closed: what they left can be removed."""

    manager_ids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """End this child process."""


# ---- from a waiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The waiter is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorAcknowledged:
    """The waiter has handled ``MonitorContainer`` for this container, and is alive."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStarted:
    """PID 1 has received the job and starts the program."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHReady:
    """The SSH server of a debug session accepts connections."""

    container_name: str
    port: int  # on the host


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReached:
    """The container is about to be stopped for a limit. A waiter that takes over has to know this."""

    container_name: str
    limit_hit: LimitHit


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A part of one stream of a container."""

    stderr: bool
    offset: int  # bytes of the same stream before it
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """The answer to ``FetchOutput``."""

    job_id: str
    container_name: str
    pieces: tuple[StreamPiece, ...]  # in the order of their arrival, as far as it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildDone:
    """The build of a task with cases has ended, in this container."""

    container_name: str
    run: RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDone:
    """A case of a task has ended."""

    container_name: str
    number: int  # among the task's cases, from 1
    result: CaseResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitterTold:
    """A grader shows its submitter a text."""

    container_name: str
    number: int  # among the texts of this run, from 1
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A run has ended."""

    job_id: str
    container_name: str
    facts: RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownContainers:
    """Containers with this manager's label that this waiter does not monitor."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReachable:
    """The host's engine answers."""

    info: EngineInfo
    images: tuple[Image, ...]
    networks: frozenset[str] | None = None  # names; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUnreachable:
    """The host's engine does not answer."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """The first message to a tunnel process."""

    url: str  # ssh://...
    socket: str  # the local end
    ssh_config: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelOpen:
    """The tunnel's local end accepts connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelBroken:
    """The tunnel's ssh has ended; the next one starts after a pause."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage:
    """A child's log record for the caller's log handlers."""

    record: logging.LogRecord
