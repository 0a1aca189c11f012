"""What the processes of one manager say to each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.model.container import WORKSPACE, ContainerSpec, EngineInfo, Image
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.results.facts import RunFacts, Stopped

# ---- to a worker of the process pool, and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Make sure that this container exists and runs."""

    address: Address
    container: ContainerSpec
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Make sure that this container and its volume are gone, if it is this manager's."""

    address: Address
    name: str
    manager_id: str
    made: bool = False  # it is known to be this manager's
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The container runs and waits for its job."""

    container_id: str
    image_command: tuple[str, ...]  # for a task that names none
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCannot:
    """This host cannot, another one may: its image is gone, or the engine cannot be reached."""

    reason: str
    unreachable: bool
    image_gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No second try would help."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """Nothing of that name is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFailed:
    """Try again later."""

    reason: str
    only_volume_left: bool = False  # its container is gone


PoolRequest = Union[Submit, Delete]
PoolReply = Union[Submitted, HostCannot, Refused, Deleted, DeleteFailed]


# ---- to a waiter


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiterSettings:
    """The first thing that a waiter is told."""

    address: Address
    manager_id: str
    keeps_host: bool  # one waiter of each host looks after the host itself
    engine_timeout_s: float
    host_lost_timeout_s: float
    look_interval_s: float  # between looks at a host that is up
    reconcile_interval_s: float  # between lists of our containers


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """What a grading job may have of student containers."""

    images: Mapping[str, str]  # by environment; "" is its own
    cpu_time_s: float  # of all of them
    memory_mib: int
    network: Network | str
    most_students: int  # at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A container that runs: give it its job (unless an earlier waiter did), and report its end."""

    job_id: str
    container_id: str
    container_name: str
    token: str  # tells PID 1's marks from the program's output
    command: str | tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False)
    stdin: bytes | None = field(repr=False)  # None: the container's own, by which somebody talks to it
    limits: Limits
    collect: tuple[str, ...]
    executables: frozenset[str] = frozenset()  # names of files that may be run although they do not look like it
    workspace: str = WORKSPACE
    grading: Grading | None = None
    has_door: bool = False  # of ``debug="ssh"``: its SSH server says when it takes connections
    engine_id: str = ""  # of the engine that has the container; empty where nothing tells
    taken_over: bool = False  # an earlier waiter had it
    elapsed_s: float = 0.0  # how long it has been running by then
    stopped: Stopped | None = None  # what that waiter was about to stop it for


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """End this container; its report comes as for any other end."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Say what this container has printed past so many bytes of each stream: once, as soon as there is something."""

    container_name: str
    stdout_from: int
    stderr_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookNow:
    """The host is suspected to be down, or its images to have changed: look at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """All managers of this process that have closed: what they left is nobody's."""

    manager_ids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Leave."""


# ---- from a waiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """A waiter's heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A waiter has read what it was told of this container, and lives."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """The job was delivered."""

    container_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOpen:
    """The SSH server of a debugged job takes connections."""

    container_name: str
    port: int  # on the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """A limit was reached, and its container is about to be stopped: a waiter that takes over has to know who did it."""

    container_name: str
    stopped: Stopped


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of what a container printed."""

    stderr: bool
    at: int  # bytes of the same stream that come before it
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """The answer to Show."""

    job_id: str
    container_name: str
    pieces: tuple[Piece, ...]  # as they came, as far as that is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job's run is over."""

    job_id: str
    container_name: str
    facts: RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Containers with this manager's label that this waiter was never told about."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAnswers:
    """The host is up."""

    info: EngineInfo
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSilent:
    """The host is down."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """The first thing that a tunnel's keeper is told."""

    url: str  # ssh://...
    socket: str  # the local end
    ssh_config: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelOpen:
    """A tunnel's keeper: its local end takes connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelBroken:
    """A tunnel's keeper: its ssh has ended; the next one is started after a while."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A child's log record on its way to the caller's handlers."""

    record: logging.LogRecord
