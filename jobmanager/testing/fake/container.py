"""One container of the fake engine: its life, its volumes, and the connections to its standard input and output."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jobmanager.model.container import SHARED_FOLDER, WORKSPACE, ContainerStatus
from jobmanager.runner.place import RUNNER_FOLDER, RUNNER_PATH
from jobmanager.testing.fake.fifo import Fifo
from jobmanager.testing.fake.files import FakeFile, Files, Tree
from jobmanager.testing.fake.process import Machine, Pid1Died
from jobmanager.testing.fake.runner import FakeRunner, RunnerPlace
from jobmanager.testing.steps import ProgramStep

KILLED = 137
_START_CPU_NS = 12_000_000  # what the kernel and the runtime take to start one
_PIPE_BYTES = 2**18  # how far a reader may be behind before the container cannot write

Later = Callable[[float, Callable[[], None]], None]  # call this in so many seconds
Programs = Mapping[str, "str | tuple[ProgramStep, ...]"]


class SharedVolume:
    """The files of a volume that several containers have: they are there while one of these runs, or ``stays``."""

    _devices = itertools.count(40)

    def __init__(self, path: str, *, size_mib: int, inodes: int, stays: bool = False) -> None:
        self._path, self._size_mib, self._inodes = path, size_mib, inodes
        self._stays = stays
        self.fifos: dict[str, Fifo] = {}  # by path
        self._holders: set[str] = set()
        self._empty()

    @property
    def path(self) -> str:
        """Where it is in each container that has it."""
        return self._path

    def hold(self, container: str) -> None:
        """This container runs."""
        self._holders.add(container)

    def let_go(self, container: str) -> None:
        """This container has ended."""
        self._holders.discard(container)
        if not self._holders and not self._stays:
            self._empty()

    def _empty(self) -> None:
        """Another file system takes the old one's place."""
        self.tree = Tree(root=self._path, room=self._size_mib * 2**20, inodes=self._inodes - 1)
        self.device = f"0:{next(self._devices)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeMount:
    """A volume by name, as one container has it."""

    name: str
    volume: SharedVolume
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSpec:
    """What ``create`` was told."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str]
    workspace: str = WORKSPACE
    shared_volume: str = ""  # of its shared folder, whose files are its own here; empty: it has none
    workspace_mib: int = 1
    workspace_inodes: int = 1
    memory_mib: int = 64
    processes: int = 64
    cpus: float = 1.0
    lease_s: float = 60.0
    network: str = ""  # one of the host's own
    volumes: tuple[FakeMount, ...]
    created_at_s: float  # seconds since 1970
    is_carrier: bool = False


class ChannelEnd:
    """One connection to a container's standard input and output: the engine's end."""

    def __init__(self, container: FakeContainer, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.container = container
        self._run = container.times_started
        self._due = bytearray()

    @property
    def has_room(self) -> bool:
        """Whether its reader is not far behind."""
        return len(self._due) < _PIPE_BYTES

    @property
    def is_over(self) -> bool:
        """Whether there will never be more."""
        container = self.container
        runs = container.status in (ContainerStatus.RUNNING, ContainerStatus.PAUSED)
        return not self._due and not (runs and container.times_started == self._run)

    def give(self, data: bytes) -> None:
        """What the container wrote."""
        self._due += data
        self.wake()

    def take(self) -> bytes:
        """All of it; then the container may write more."""
        taken = bytes(self._due)
        self._due.clear()
        if taken:
            self.container.pump()
        return taken

    def leave(self) -> None:
        """Close it; the container's standard input does not end."""
        self.container.channels.discard(self)
        self.container.pump()


class FakeContainer:
    """A container: CREATED, then RUNNING, perhaps PAUSED, then ENDED; ``start`` of an ended one begins again."""

    def __init__(self, spec: FakeSpec, *, programs: Programs, later: Later, began: Callable[[FakeSpec], None]) -> None:
        self.spec = spec
        self.status = ContainerStatus.CREATED
        self.exit_code: int | None = None
        self.oom_killed = False
        self.times_started = 0
        self.started_at_s = 0.0  # seconds since 1970, of its latest start
        self.ended_at_s = 0.0  # the same, of its end
        self.channels: set[ChannelEnd] = set()
        self._programs = programs
        self._later = later
        self._began = began
        self._files: Files | None = None
        self._runner: FakeRunner | None = None
        self._machine: Machine | None = None  # that its runs have
        self._unread = bytearray()  # of its standard input, while it is frozen
        self._cpu_s = 0.0  # of runs that are over

    @property
    def files(self) -> Files:
        """What it has while it runs; of one that does not, its volumes."""
        if self._files is None:
            self._files = self._new_files()
        return self._files

    @property
    def runner_file(self) -> FakeFile | None:
        """The program of its PID 1."""
        mounted = (mount.volume.tree for mount in self.spec.volumes if mount.volume.path == RUNNER_FOLDER)
        return next((tree.files.get(RUNNER_PATH) for tree in mounted), None)

    # ---- its life

    def start(self) -> None:
        """Begin, or begin again; nothing when it runs."""
        if self._is_up():
            return
        for mount in self.spec.volumes:
            mount.volume.hold(self.spec.id)
        self._files = None
        self.status, self.exit_code, self.oom_killed = ContainerStatus.RUNNING, None, False
        self.times_started += 1
        self.started_at_s = time.time()
        self._cpu_s = 0.0
        self._runner = self._new_runner()

    def end(self, exit_code: int) -> None:
        """All its processes are dead."""
        self.status, self.exit_code, self.ended_at_s = ContainerStatus.ENDED, exit_code, time.time()
        if self._runner is not None:
            self._cpu_s += self._runner.cpu_s
            self._runner.close_fifos()
        self._runner = None
        self._unread.clear()
        for mount in self.spec.volumes:
            mount.volume.let_go(self.spec.id)
        self._files = None  # the workspace goes with the last process
        for channel in tuple(self.channels):
            channel.wake()
        self.channels.clear()

    def pause(self) -> None:
        """Freeze its processes."""
        self.status = ContainerStatus.PAUSED

    def resume(self) -> None:
        """Let them go on."""
        self.status = ContainerStatus.RUNNING
        unread, self._unread = bytes(self._unread), bytearray()
        if self._runner is not None:
            self._let(self._runner.wake)
        self.receive(unread)

    def look_at_lease(self, now: float) -> bool:
        """Whether it runs, and so has a lease; it may end now."""
        runner = self._runner
        if self.status is ContainerStatus.RUNNING and runner is not None:
            self._let(lambda: runner.look_at_lease(now))
        return self._is_up()

    def cpu_ns(self) -> int:
        """CPU time so far."""
        running_s = 0.0 if self._runner is None else self._runner.cpu_s
        return _START_CPU_NS + int((self._cpu_s + running_s) * 1e9)

    def devices(self) -> dict[str, str]:
        """Of its volumes, by path."""
        return {mount.volume.path: mount.volume.device for mount in self.spec.volumes}

    # ---- its standard input and output

    def open_channel(self, wake: Callable[[], None]) -> ChannelEnd:
        """Another connection; ``wake`` is called whenever there is more."""
        channel = ChannelEnd(self, wake)
        self.channels.add(channel)
        return channel

    def receive(self, data: bytes) -> None:
        """More of its standard input."""
        if self.status is ContainerStatus.PAUSED:
            self._unread += data
            return
        runner = self._runner
        if data and runner is not None:
            self._let(lambda: runner.receive(data))

    def pump(self, *, all_of_it: bool = False) -> None:
        """Let it write, unless a reader is behind. Without a reader, what it writes is gone."""
        runner = self._runner
        if runner is None or self.status is not ContainerStatus.RUNNING:
            return
        while all_of_it or all(channel.has_room for channel in self.channels):
            piece = runner.take()
            if not piece:
                return
            for channel in self.channels:
                channel.give(piece)

    def _let(self, action: Callable[[], None]) -> None:
        """Have the runner do something, and see what becomes of it."""
        runner = self._runner
        assert runner is not None
        try:
            action()
        except Pid1Died:
            self.oom_killed = True
            self.end(KILLED)
            return
        self.pump(all_of_it=runner.exit_code is not None)
        if runner.exit_code is not None:
            self.end(runner.exit_code)

    def _call_later(self, pause_s: float, call: Callable[[], None]) -> None:
        runner = self._runner

        def called() -> None:
            if self._runner is runner and self.status is ContainerStatus.RUNNING:
                self._let(call)

        self._later(pause_s, called)

    def set_limits(self, memory_mib: int, processes: int) -> None:
        """What it may use from now on."""
        self.spec = replace(self.spec, memory_mib=memory_mib, processes=processes)
        if self._machine is not None:
            self._machine.memory_bytes, self._machine.most_processes = memory_mib * 2**20, processes

    def _is_up(self) -> bool:
        return self.status in (ContainerStatus.RUNNING, ContainerStatus.PAUSED)

    def _new_runner(self) -> FakeRunner:
        spec = self.spec
        machine = self._machine = Machine(
            self.files, spec.workspace, self._programs, memory_bytes=spec.memory_mib * 2**20, most_processes=spec.processes
        )
        place = RunnerPlace(
            hostname=spec.id[:12],
            cpus=spec.cpus,
            lease_s=spec.lease_s,
            devices=self.devices,
            fifo=self._fifo,
            later=self._call_later,
            program_begins=lambda: self._began(spec),
            cpu_used=self._add_cpu,
        )
        return FakeRunner(machine, place)

    def _fifo(self, path: str) -> Fifo | None:
        return next((mount.volume.fifos[path] for mount in self.spec.volumes if path in mount.volume.fifos), None)

    def _add_cpu(self, seconds: float) -> None:
        self._cpu_s += seconds

    def _new_files(self) -> Files:
        spec = self.spec
        return Files(
            spec.workspace,
            SHARED_FOLDER if spec.shared_volume else "",
            size_mib=spec.workspace_mib,
            inodes=spec.workspace_inodes,
            volumes=((mount.volume.tree, mount.read_only) for mount in spec.volumes),
        )
