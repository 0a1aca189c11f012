"""What an engine is asked to create, and what it reports about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from jobmanager.model.limits import Limits, inodes_of
from jobmanager.model.network import Network
from jobmanager.model.volume import VOLUMES

WORKSPACE = "/job"
GRADING_WORKSPACE = "/task"  # in grading and student containers; graders written for INGInious use this path
SHARED_FOLDER = "/task/student"
OLD_FOLDERS = ("/archive", "/course")  # which graders written for INGInious name, beside the workspace
ACCOUNTS = "/etc/passwd"
SSH_USER = "job"  # who logs in to a debugged job's container


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHEndpoint:
    """The port of a debugged job's SSH server, and who may log in there (``debug="ssh"``)."""

    port: int  # inside the container; the engine chooses the one outside
    loopback_only: bool  # only the engine's own machine can reach it
    accounts: bytes = field(repr=False)  # the container's /etc/passwd


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A volume by name, which several containers of a job have. The first create call that names it makes it."""

    name: str  # the engine's, chosen before that call
    path: str  # such as ``/volumes/work``
    size_mib: int
    read_only: bool = False

    @property
    def short_name(self) -> str:
        """Its name in the pipeline."""
        return self.path.removeprefix(f"{VOLUMES}/")

    @property
    def inodes(self) -> int:
        """How many files and folders it can hold."""
        return inodes_of(self.size_mib)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskVolume:
    """A volume on the host's disk, by name. The first create call that names it makes it, with these labels and empty."""

    name: str
    path: str  # where the container has it
    labels: Mapping[str, str]
    read_only: bool = True


PIPES = "/pipes"  # the folder with the fifos of two containers that talk


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container to create. The job's command and files are not part of it: they come by standard input."""

    name: str  # chosen before the first call, so that a second call finds the first one's container
    image: str  # a reference or an id that the host has
    labels: Mapping[str, str]
    limits: Limits
    network: Network | str = Network.OFF
    workspace: str = WORKSPACE
    ssh_endpoint: SSHEndpoint | None = None
    shares: bool = False  # a grading container: it has a volume that its student containers share
    shared_volume: str = ""  # a student container: that volume's name
    network_of: str = ""  # a student container: the container whose network it is in, instead of one of its own
    volumes: tuple[VolumeMount, ...] = ()
    volume_holders: tuple[str, ...] = ()  # containers that keep what is in these volumes until this one has them
    pipes: str = ""  # the volume with the fifos through which it talks with another container
    user: str | None = None  # ``uid``, ``uid:gid`` or a name that the image knows; None: nobody, 65534:65534
    runner: str = ""  # the SHA-256 of the runner's program, whose volume it has; whoever submits it knows
    lease_s: float = 90.0  # for which its runner waits for a waiter's first word
    devices: tuple[str, ...] = ()  # of the host, such as ``/dev/kvm``
    privileged: bool = False

    @property
    def is_student(self) -> bool:
        """Whether it runs a submission for a grading container."""
        return bool(self.shared_volume)


class ContainerStatus(str, Enum):
    """The state of a container."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInfo:
    """What an engine reports about a container."""

    id: str
    name: str
    status: ContainerStatus
    labels: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None  # of PID 1, once ended
    oom_killed: bool = False
    error: str = ""  # the engine's message, when it could not start it
    created_at_s: float = 0.0  # seconds since 1970 by the engine's clock
    started_at_s: float = 0.0  # the same for its latest start; 0 where the engine was not asked
    ended_at_s: float = 0.0  # the same for its end, once ended
    in_removal: bool = False  # the engine has ended it and is about to remove it
    volumes: Mapping[str, str] = field(default_factory=dict)  # names by path
    ports: Mapping[int, int] = field(default_factory=dict)  # published ports, inside to outside; empty where not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInfo:
    """What an engine reports about a volume."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at_s: float = 0.0  # seconds since 1970 by the engine's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a container has used so far, by the engine's own counters."""

    cpu_time_ns: int  # of all processes
    peak_memory_bytes: int | None  # None where the engine does not report it (cgroup v2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that a host has."""

    id: str
    references: tuple[str, ...]  # name:tag and name@digest
    labels: Mapping[str, str]
    created_at_s: float  # seconds since 1970
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a host has: the figures that placement and limits depend on."""

    version: str
    cores: int
    memory_mib: int
    now_s: float  # the engine's own clock, seconds since 1970
    cgroup: str  # "1" or "2"
    kernel: str = ""  # its release, as from uname
    architecture: str = ""  # of its machine, in the engine's words, such as "x86_64"; empty where unknown
    engine_id: str = ""  # another one means that another engine has taken the host's place; empty where unknown
    available_memory_mib: int | None = None  # what programs could still take without swapping; None: unknown
    in_swarm: bool = False  # then it has networks that it does not list


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAbout:
    """What an engine reports about itself and its machine, for its operator."""

    engine: str  # versions, as reported
    api: str
    containerd: str
    runtime: str  # the default one's name
    runc: str
    operating_system: str
    kernel: str
    cgroup: str  # "1" or "2"
    storage_driver: str
    live_restore: bool  # containers outlive the daemon
    security: tuple[str, ...]  # "seccomp", "apparmor", "rootless", ...
    cannot_limit: tuple[str, ...]  # of "memory", "swap", "processes", "CPU time"
    warnings: tuple[str, ...]  # the engine's own


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefaults:
    """What an image defines."""

    command: tuple[str, ...]  # entry point and command
    volumes: tuple[str, ...]  # paths that it declares as volumes
