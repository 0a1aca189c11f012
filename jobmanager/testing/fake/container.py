"""One container of the fake engine: its life, its output, and its PID 1, which behaves as ``pid1.pid_1`` does."""

from __future__ import annotations

import fnmatch
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jobmanager.engine.pid1 import CANNOT_WIPE, RESULT_FILE, RESULT_FILE_LIMIT, WIPE_FILE, Refusals, trace_of_the_end
from jobmanager.model.container import SHARED_FOLDER, WORKSPACE, ContainerStatus
from jobmanager.testing.fake import grammar
from jobmanager.testing.fake.files import FileProblem, Files, Tree
from jobmanager.testing.fake.process import (
    AllKilled,
    AwaitInput,
    Burn,
    Console,
    Killed,
    Machine,
    OutputEffect,
    Pid1Died,
    Process,
    Sleep,
    Source,
    StandardInput,
    Steps,
    Text,
    encoded,
)
from jobmanager.testing.fake.shell import can_run, run, write_error
from jobmanager.testing.fake.wire import PIECE, STDERR, STDOUT, framed

KILLED = 137
_NOT_DELIVERED = 125
_START_CPU_NS = 12_000_000  # what the kernel and the runtime take to start one
_AHEAD = 4 * PIECE  # how far a program may be ahead of who reads its output
_TURN = PIECE  # how much it may write before others have their turn
_TURN_S = 0.001
_LOG_ROOM_KIB = 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Later = Callable[[float, Callable[[], None]], None]  # call this in so many seconds


class SharedVolume:
    """The files of a volume that several containers have: they are there while one of these runs, or ``stays``."""

    def __init__(self, path: str, *, size_mib: int, inodes: int, stays: bool = False) -> None:
        self._path, self._size_mib, self._inodes = path, size_mib, inodes
        self._stays = stays
        self._holders: set[str] = set()
        self.tree = self._empty()

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
            self.tree = self._empty()

    def _empty(self) -> Tree:
        return Tree(root=self._path, room=self._size_mib * 2**20, inodes=self._inodes - 1)


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
    output_kib: int = 1
    cpus: float = 1.0
    volumes: tuple[FakeMount, ...]
    created_at_s: float  # seconds since 1970
    is_carrier: bool = False


class Follower:
    """A reader of a container's output, from some place on."""

    def __init__(self, container: FakeContainer, place: int, *, holds: bool, wake: Callable[[], None]) -> None:
        self.holds = holds  # the container stands still while it is far behind
        self.place = place
        self.seen_bytes = container.log.all_bytes  # meaningful for one that holds: those begin at the log's end
        self.wake = wake
        self._container = container
        self._run = container.run

    def take(self) -> bytes:
        """The next output as it is sent; none when there is none yet."""
        log = self._container.log
        self.place = max(self.place, log.first if self.holds else log.oldest)
        taken = b"".join(log.pieces[self.place - log.first : self.place - log.first + 16])
        self.place = min(self.place + 16, log.next)
        self.seen_bytes += len(taken)
        self._container.go_on()
        return taken

    @property
    def finished(self) -> bool:
        """Whether there will never be more."""
        container = self._container
        if self.place < container.log.next:
            return False
        if not self.holds:
            return container.status in (ContainerStatus.CREATED, ContainerStatus.ENDED)
        return container.status is ContainerStatus.ENDED and container.run != self._run  # one that had ended is waited for in vain

    def leave(self) -> None:
        """Stop following."""
        self._container.followers.discard(self)
        self._container.go_on()


class Log:
    """A container's output, ready to be sent. Past its limit all so far is given up, as with one rotated file."""

    def __init__(self, limit: int) -> None:
        self.pieces: list[bytes] = []
        self.first = 0  # number of the first piece that is here
        self.oldest = 0  # number of the first piece that has not been given up
        self.all_bytes = 0
        self._limit = limit
        self._kept = 0

    @property
    def next(self) -> int:
        """The number of the next piece."""
        return self.first + len(self.pieces)

    def add(self, piece: bytes, needed: Callable[[], int]) -> None:
        """One piece more; ``needed`` tells from where on somebody waits for pieces, given up or not."""
        if self._kept + len(piece) > self._limit:
            self.oldest, self._kept = self.next, 0
            first = min(needed(), self.oldest)
            del self.pieces[: first - self.first]
            self.first = first
        self.pieces.append(piece)
        self._kept += len(piece)
        self.all_bytes += len(piece)


class FakeContainer:
    """A container: CREATED, then RUNNING, perhaps PAUSED, then ENDED; ``start`` of an ended one begins again."""

    def __init__(
        self, spec: FakeSpec, *, scripts: Mapping[str, str], later: Later, began: Callable[[FakeSpec], None]
    ) -> None:
        self.spec = spec
        self.status = ContainerStatus.CREATED
        self.exit_code: int | None = None
        self.oom_killed = False
        self.times_started = 0
        self.started_at_s = 0.0  # seconds since 1970, of its latest start
        self.ended_at_s = 0.0  # the same, of its end
        self.log = Log((spec.output_kib + _LOG_ROOM_KIB) * 1024)
        self.followers: set[Follower] = set()
        self.machine = self._new_machine(scripts)
        self._scripts = scripts
        self._later = later
        self._began = began
        self.run = 0  # grows with every start and end; tells timers of an earlier run from this one's
        self._steps: Steps | None = None
        self._waiting = False  # for its timer, or for input
        self._awaits_input = False
        self.stdin = StandardInput()
        self._cpu_ns = 0
        self._burning_since: float | None = None
        self._burned_before_pause = False

    # ---- its life

    def start(self) -> None:
        """Begin, or begin again; nothing when it runs."""
        if self.status in (ContainerStatus.RUNNING, ContainerStatus.PAUSED):
            return
        for mount in self.spec.volumes:
            mount.volume.hold(self.spec.id)
        self.machine = self._new_machine(self._scripts)
        self.status, self.exit_code, self.oom_killed = ContainerStatus.RUNNING, None, False
        self.times_started += 1
        self.started_at_s = time.time()
        self.run += 1
        self._cpu_ns, self._waiting, self.stdin = _START_CPU_NS, False, StandardInput()
        self._steps = _pid_1(self)
        self.go_on()

    def feed(self, data: bytes, *, ends: bool) -> None:
        """More of its standard input; nothing after its end."""
        if self.stdin.ended or self.status is not ContainerStatus.RUNNING:
            return
        self.stdin.add(data)
        self.stdin.ended = ends
        if self._awaits_input:
            self._waiting = self._awaits_input = False
            self.go_on()

    def end(self, exit_code: int) -> None:
        """All its processes are dead."""
        self._burn(False)
        self.status, self.exit_code, self.ended_at_s = ContainerStatus.ENDED, exit_code, time.time()
        self.run += 1
        self._waiting = self._awaits_input = False
        if self._steps is not None:
            self._steps.close()
        for mount in self.spec.volumes:
            mount.volume.let_go(self.spec.id)
        self.machine = self._new_machine(self._scripts)  # the workspace goes with the last process
        self._wake_followers()

    def pause(self) -> None:
        """Freeze its processes."""
        self._burned_before_pause = self._burning_since is not None
        self._burn(False)
        self.status = ContainerStatus.PAUSED

    def resume(self) -> None:
        """Let them go on."""
        self._burn(self._burned_before_pause)
        self.status = ContainerStatus.RUNNING
        self.go_on()

    def program_begins(self) -> None:
        """PID 1 is about to run the program."""
        self._began(self.spec)

    # ---- its output

    def follow(self, *, from_beginning: bool, wake: Callable[[], None]) -> Follower:
        """A new reader; ``wake`` is called whenever there is more."""
        place = self.log.oldest if from_beginning else self.log.next
        follower = Follower(self, place, holds=not from_beginning, wake=wake)
        self.followers.add(follower)
        return follower

    def cpu_ns(self) -> int:
        """CPU time so far."""
        if self._burning_since is None:
            return self._cpu_ns
        return self._cpu_ns + int((time.monotonic() - self._burning_since) * min(1.0, self.spec.cpus) * 1e9)

    # ---- its processes

    def go_on(self) -> None:
        """Give the processes a turn, unless they sleep, are frozen, or are too far ahead of a reader."""
        steps = self._steps
        if steps is None or self._waiting or self.status is not ContainerStatus.RUNNING:
            return
        try:
            pause_s = self._turn(steps)
        except StopIteration as done:
            self.end(int(done.value))
        except Pid1Died:
            self.oom_killed = True
            self.end(KILLED)
        else:
            if pause_s is not None:
                self._wait(pause_s)

    def _turn(self, steps: Steps) -> float | None:
        """Run until there is something to wait for: seconds, or None for a reader that is behind."""
        written = 0
        while True:
            if self._is_ahead():
                self._burn(False)
                return None
            if written > _TURN:
                self._burn(True)
                return _TURN_S
            effect = next(steps)
            if isinstance(effect, OutputEffect):
                written += len(effect.data)
                self._print(effect)
                continue
            if isinstance(effect, (Sleep, Burn)):
                self._burn(isinstance(effect, Burn))
                return effect.seconds
            if isinstance(effect, AwaitInput):
                self._burn(False)
                self._awaits_input = True
                return math.inf

    def _print(self, output: OutputEffect) -> None:
        for at in range(0, len(output.data), PIECE):
            self.log.add(framed((STDERR if output.stderr else STDOUT) + output.data[at : at + PIECE]), self._needed)
        self._wake_followers()

    def _wake_followers(self) -> None:
        for follower in tuple(self.followers):
            follower.wake()

    def _needed(self) -> int:
        return min((follower.place for follower in self.followers if follower.holds), default=self.log.next)

    def _is_ahead(self) -> bool:
        written = self.log.all_bytes
        return any(follower.holds and written - follower.seen_bytes > _AHEAD for follower in self.followers)

    def _wait(self, pause_s: float) -> None:
        self._waiting = True
        if not math.isinf(pause_s):
            run_number = self.run
            self._later(pause_s, lambda: self._woken(run_number))

    def _woken(self, run_number: int) -> None:
        if run_number != self.run:
            return
        self._waiting = False
        self.go_on()

    def _burn(self, burns: bool) -> None:
        self._cpu_ns = self.cpu_ns()
        self._burning_since = time.monotonic() if burns else None

    def _new_machine(self, scripts: Mapping[str, str]) -> Machine:
        spec = self.spec
        shared_folder = SHARED_FOLDER if spec.shared_volume else ""
        files = Files(
            spec.workspace,
            shared_folder,
            size_mib=spec.workspace_mib,
            inodes=spec.workspace_inodes,
            volumes=((mount.volume.tree, mount.read_only) for mount in spec.volumes),
        )
        return Machine(files, scripts)


def _pid_1(container: FakeContainer) -> Steps:
    """What ``pid1.pid_1`` does with its standard input; the tests in ``tests/contract`` hold the two together."""
    line = yield from container.stdin.read_line()
    if not line.endswith(b"\n"):
        return _NOT_DELIVERED
    token, _, size = line.strip(b" \n").partition(b" ")
    tar = (yield from container.stdin.read_all(int(size))) if size.strip().isdigit() else b""
    files = container.machine.files
    broken = False
    try:
        files.unpack(tar)
    except FileProblem:
        broken = True
    command = files.find(f"{container.spec.workspace}/.jobmanager/command")
    if broken or command is None:
        if broken:
            yield _mark(token, b"no its files cannot be unpacked into the workspace")
        return _NOT_DELIVERED
    yield _mark(token, b"got %d %.2f" % (container.cpu_ns(), time.monotonic()))
    exports, words, refusal = command_file(bytes(command.data).decode("utf-8", "surrogateescape"))
    process = _program_process(container, exports)
    if unwiped := _wipe(container):
        yield _mark(token, b"no " + encoded(unwiped))
    elif not can_run(process, words[0]):
        yield _mark(token, b"no " + encoded(_refusal(process, words[0], refusal)))
    else:
        container.program_begins()
        code = yield from _program(process, words)
        yield from _last_words(container, token, code)
    while True:
        yield Sleep(math.inf)


def _wipe(container: FakeContainer) -> str:
    """Carry out the lines of a ``.jobmanager/wipe``; why that cannot be done, in words."""
    files = container.machine.files
    file = files.find(f"{container.spec.workspace}/{WIPE_FILE}")
    lines = [] if file is None else bytes(file.data).decode("utf-8", "surrogateescape").splitlines()
    for line in lines:
        if line.startswith("_jm_each "):
            _, pattern, volume, *parts = shlex.split(line)
            try:
                for path in list(_matching(files, volume, parts)):
                    files.remove(path)
            except FileProblem:
                return f"{pattern} {CANNOT_WIPE}"
    return ""


def _matching(files: Files, folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths below a folder whose names match, part by part, as in a shell."""
    if not parts:
        yield folder
        return
    if not files.is_folder(folder):
        raise FileProblem("No such file or directory")
    for name in fnmatch.filter(files.children(folder), parts[0]):
        path = f"{folder}/{name}"
        is_meant = parts[0].startswith(".") or not name.startswith(".")
        if is_meant and (len(parts) == 1 or files.is_folder(path)):
            yield from _matching(files, path, parts[1:])


def _refusal(process: Process, name: str, absent: str) -> str:
    """Why a program cannot be run: it is not there, or is none."""
    path, files = process.path(name), process.machine.files
    if "/" not in name or not files.exists(path):
        return absent
    return Refusals.of(name).folder if files.is_folder(path) else Refusals.of(name).barred


def _program_process(container: FakeContainer, exports: Mapping[str, str]) -> Process:
    machine, workspace = container.machine, container.spec.workspace
    stored = machine.files.find(f"{workspace}/.jobmanager/stdin")
    stdin: Source = container.stdin if stored is None else Text(stored.data)
    return Process(
        machine,
        machine.next_pid(),
        {"PATH": _PATH, "HOSTNAME": container.spec.id[:12], "HOME": workspace, "PWD": workspace, **exports},
        workspace,
        stdin,
        Console(stderr=False),
        Console(stderr=True),
    )


def _program(process: Process, words: tuple[str, ...]) -> Steps:
    try:
        return (yield from run(process, list(words))) & 255
    except (Killed, AllKilled) as killed:
        return 128 + killed.number
    except (ValueError, LookupError, OverflowError, RecursionError) as error:  # words that no program here understands
        return (yield from process.fail(f"{words[0]}: the fake engine cannot do this: {error!r}", 2))
    except FileProblem as problem:
        return (yield from process.fail(write_error(words[0], problem)))


def _last_words(container: FakeContainer, token: bytes, code: int) -> Iterator[OutputEffect]:
    machine = container.machine
    ended_at_s = time.monotonic()
    workspace = container.spec.workspace
    trace = trace_of_the_end(token.decode("utf-8", "replace"), workspace)
    full = int(not machine.oom_kills and not _has_room(machine.files, trace))
    peak = 2**20 + machine.files.size()
    counters = (code, container.cpu_ns(), peak, machine.oom_kills, machine.fork_refusals, full)
    end = b"end %s %.2f" % (b" ".join(b"%d" % counter for counter in counters), ended_at_s)
    yield OutputEffect(True, _mark(token, end).data)
    yield _mark(token, end)
    result = machine.files.find(f"{workspace}/{RESULT_FILE}")
    if result is not None and result.data:
        yield OutputEffect(False, bytes(result.data[: RESULT_FILE_LIMIT + 1]))
    yield _mark(token, b"bye")


def _mark(token: bytes, words: bytes) -> OutputEffect:
    return OutputEffect(False, b"\x1e%s %s\x1f\n" % (token, words))


def _has_room(files: Files, path: str) -> bool:
    """PID 1 tries it out, and leaves the file."""
    try:
        files.create(path)
        files.append(path, bytes(4096))
    except FileProblem:
        return False
    return True


@lru_cache(maxsize=1024)
def command_file(text: str) -> tuple[Mapping[str, str], tuple[str, ...], str]:
    """A ``.jobmanager/command`` taken apart: exported variables, the program's words, and what is said when it is missing."""
    lines = _statements(text)
    refusal = next(words[-1] for words in lines if words[:2] == ["printf", "%s"])
    last = lines[-1]
    exports = dict(words[1].split("=", 1) for words in lines[1:] if words[:1] == ["export"])
    return exports, tuple(last[1:]), refusal


def _statements(text: str) -> list[list[str]]:
    """The words of each simple command, in order."""
    found: list[list[str]] = [[]]
    for token in grammar.tokens(text):
        if isinstance(token[1], str):
            found.append([])
            continue
        word = "".join(part[1] for part in token[1])
        if grammar.literal(token[1]) not in ("{", "}"):
            found[-1].append(word)
    return [words for words in found if words]
