"""``Limits``: what one job may use. All are enforced from outside the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jobmanager.errors import InvalidValue
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData

OnOutputLimit = Literal["stop", "truncate"]

MAX_FILE_MIB = 4096  # of one file, holes included; runtimes such as .NET's map 2 GiB files that they hardly fill
_BLOCK = 4096
_MAX = 2**30
MAX_PROCESSES = 2**20  # Linux can have four times as many in all
SLOWEST_LINK_BYTES_PER_S = 16 * 1024  # output that is on its way is taken to arrive at least so fast
_MAX_STANDSTILL_S = 300.0
# runc itself needs up to 13.4 MiB to start a container (1.1.15; with less it sometimes fails) and 24 files (1.3.6 with nine
# hierarchies of cgroup v1; one more for each), and the limits are in force by then
SMALLEST_MEMORY_MIB = 16
_MIN_OPEN_FILES = 32
_BESIDE_SHM_MIB = 4  # so that a small program gets "no space left" before it reaches the memory limit, and can go on


def inodes_of(size_mib: int) -> int:
    """How many files and folders a place of this size can hold: 1024, and 64 more for every MiB."""
    return 1024 + 64 * size_mib


@explains_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(AsData):
    """What one job may use.

    Raises:
        InvalidValue: a limit that is not a positive number, or smaller than an engine needs; another word for ``on_output_limit``.
    """

    cpu_time_s: float = 30  # CPU seconds of all processes of the container together
    wall_time_s: float | None = None  # seconds from sending the job to its end; None: 3 x CPU
    memory_mib: int = 256  # memory and swap together (so: no swap); the workspace's pages count too
    processes: int = 64  # processes and threads at any one time
    open_files: int = 256  # per process
    workspace_mib: int = 64  # all files in /job; as much again in /tmp
    output_kib: int = 1024  # stdout plus stderr
    archive_mib: int = 16  # collected files, before compression
    cpus: float = 1.0  # cores that it can use
    on_output_limit: OnOutputLimit = "stop"  # past output_kib; "truncate": the rest is dropped and counted, and the program goes on

    def __post_init__(self) -> None:
        make_exact(self, InvalidValue)
        for name in ("cpu_time_s", "cpus"):
            _checks.positive(name, getattr(self, name))
        if self.wall_time_s is not None:
            _checks.positive("wall_time_s", self.wall_time_s)
        if max(self.cpu_time_s, self.wall_s) > _checks.YEAR_S:
            raise InvalidValue("cpu_time_s and wall_time_s must be at most a year")
        for name in ("memory_mib", "processes", "open_files", "workspace_mib", "output_kib", "archive_mib"):
            at_most = None if name == "memory_mib" else MAX_PROCESSES if name == "processes" else _MAX  # hosts check memory
            _checks.positive_int(name, getattr(self, name), at_most=at_most)
        if self.memory_mib < SMALLEST_MEMORY_MIB:
            raise InvalidValue(f"memory_mib must be at least {SMALLEST_MEMORY_MIB}, not {self.memory_mib}")
        if self.open_files < _MIN_OPEN_FILES:
            raise InvalidValue(f"open_files must be at least {_MIN_OPEN_FILES}, not {self.open_files}")
        if self.cpus < 0.01:
            raise InvalidValue(f"cpus must be at least 0.01, not {self.cpus}")
        _checks.choice("on_output_limit", self.on_output_limit, get_args(OnOutputLimit), InvalidValue)

    @property
    def wall_s(self) -> float:
        """The wall-clock limit in seconds, with its default."""
        return 3 * self.cpu_time_s if self.wall_time_s is None else self.wall_time_s

    @property
    def shm_mib(self) -> int:
        """The size of ``/dev/shm``. It counts as memory, so a little memory is left beside it."""
        return self.memory_mib - _BESIDE_SHM_MIB

    @property
    def drops_output(self) -> bool:
        """Whether a program that prints past ``output_kib`` goes on."""
        return self.on_output_limit == "truncate"

    @property
    def standstill_s(self) -> float:
        """How long in all a grader's wall clock may be paused while its student containers are being started."""
        return min(self.wall_s, _MAX_STANDSTILL_S)

    @property
    def workspace_inodes(self) -> int:
        """How many files and folders the workspace can hold."""
        return inodes_of(self.workspace_mib)

    @property
    def most_files(self) -> int:
        """How many files a job may bring: each may need a folder of its own."""
        return self.workspace_inodes // 2

    def workspace_excess(self, sizes: list[int]) -> str:
        """Why the workspace cannot hold files of these sizes (bytes), in whole blocks; empty when it can."""
        if sum(-(-size // _BLOCK) * _BLOCK for size in sizes) > self.workspace_mib * 2**20:
            return f"larger than the workspace of {self.workspace_mib} MiB: raise workspace_mib"
        if len(sizes) > self.most_files:
            return f"more than the {self.most_files} files that a workspace of {self.workspace_mib} MiB holds: raise workspace_mib"
        return ""
