"""PID 1 of a fake container: what ``docs/runner.md`` says of the runner. Tests in ``tests/contract`` hold the two together."""

from __future__ import annotations

import errno
import posixpath
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobmanager.model._utf8 import from_utf8, to_utf8
from jobmanager.runner.binaries import build_id
from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    Ack,
    BringPath,
    Clear,
    Cleared,
    DownMessage,
    Ended,
    Entries,
    Fault,
    Fetch,
    FolderEntry,
    FullPlace,
    Hello,
    Input,
    InputFrom,
    Keep,
    Kept,
    Kill,
    Leave,
    ListFolder,
    PathKind,
    Piece,
    Put,
    PutKind,
    RefusalReason,
    Remove,
    RunnerState,
    RunRefused,
    Started,
    StartRun,
    Status,
    StoppedBy,
    ToProgram,
    UpMessage,
    VolumeDevice,
)
from jobmanager.runner.wire import FrameReader, PacketWriter
from jobmanager.testing.fake import commands
from jobmanager.testing.fake.fifo import Fifo
from jobmanager.testing.fake.files import FakeFile, FileProblem
from jobmanager.testing.fake.process import Feed, Machine, Mail, Pid1Died, Process
from jobmanager.testing.fake.run import FakeRun, GivenInput

LEFT, LEASE_OVER, FAULTED = 0, 120, 121  # its exit codes
_LOCALE = {"LANG", "LC_ALL", "LC_CTYPE"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE_BYTES = 60_000
_MOST_AHEAD = 64 * 1024  # bytes for the next run
_ENTRIES = 100  # in one message
_MOST_ENTRIES = 100_000
_SLICE_S = 1.0  # of silence, at most this counts at a time
_RUN_CPU_US = 1_000  # that the smallest program takes
_OWN_BYTES = 2**20
_FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerPlace:
    """The container that a runner is in."""

    hostname: str
    cpus: float
    lease_s: float  # until the first HELLO
    devices: Callable[[], Mapping[str, str]]  # of volumes, by path
    fifo: Callable[[str], Fifo | None]  # of that path
    later: Callable[[float, Callable[[], None]], None]
    program_begins: Callable[[], None]
    cpu_used: Callable[[float], None]  # seconds, of a run


class FakeRunner:
    """Takes bytes by ``receive``; what it sends is fetched with ``take``. Its ``exit_code`` says that it has left.

    Raises Pid1Died from any of its methods where the kernel kills it.
    """

    def __init__(self, machine: Machine, place: RunnerPlace) -> None:
        self.exit_code: int | None = None
        self.state = RunnerState.NEW
        self._machine = machine
        self._place = place
        self._reader, self._writer = FrameReader(), PacketWriter()
        self._lease_s = place.lease_s
        self._silent_s = 0.0
        self._looked_at = time.monotonic()
        self._due: deque[Iterator[UpMessage]] = deque()  # what is to be sent, in its order
        self._next: UpMessage | None = None  # the first of it, for which there was no room
        self._run: FakeRun | None = None  # that is going on
        self._last_run = 0
        self._answering: tuple[int, int | None] = (0, None)  # the request that is answered, and its session
        self._failure: RunRefused | None = None  # of a PUT or REMOVE
        self._put_to = b""
        self._input = GivenInput()
        self._ahead: deque[DownMessage] = deque()  # for the next run
        self._killed_ahead = 0  # the number of a run that is not to begin
        self._fifos: list[Callable[[], None]] = []  # what closes them
        self._timer_at = float("inf")
        self._kept: list[tuple[str, tuple[bytes, int, int] | None]] | None = None  # paths; of a file its content, mode and time

    # ---- its two ends

    def receive(self, data: bytes) -> None:
        """Bytes of its standard input."""
        try:
            for message in self._reader.feed(data):
                self._silent_s = 0.0
                self._obey(message)
                if self.exit_code is not None:
                    return
        except FrameError as error:
            self._fault(str(error))
        self.go_on()

    def take(self) -> bytes:
        """What it writes next to its standard output; empty: nothing now."""
        return self._writer.packets()

    def look_at_lease(self, now: float) -> None:
        """Count a time in which nothing has come."""
        self._silent_s += min(_SLICE_S, now - self._looked_at)
        self._looked_at = now
        if self._silent_s >= self._lease_s and self.exit_code is None:
            self._leave(LEASE_OVER, StoppedBy.LEASE)

    @property
    def cpu_s(self) -> float:
        """CPU time of the run that is going on."""
        return 0.0 if self._run is None else self._run.clock.cpu_us(time.monotonic()) / 1e6

    # ---- its loop

    def go_on(self) -> None:
        """Do what can be done now."""
        while self.exit_code is None:
            if not self._send_due():
                return
            if self._run is None:
                if not self._obey_ahead():
                    return
                continue
            pause_s = self._run.turn(time.monotonic())
            if self._run.how is None:
                self._wake_in(pause_s)
                return
            self._finish(self._run)

    def _send_due(self) -> bool:
        """Whether all that is due is in the window."""
        while self._next is not None or self._due:
            if self._next is None:
                self._next = next(self._due[0], None)
                if self._next is None:
                    self._due.popleft()
                    continue
            if not self._writer.write(self._next):
                return False
            if isinstance(self._next, (Ended, RunRefused)):
                self.state = RunnerState.IDLE
            self._next = None
        self._answering = (0, None)
        return True

    def _wake_in(self, pause_s: float) -> None:
        at = time.monotonic() + pause_s
        if at < self._timer_at:  # the one that is set comes before, and sets the next
            self._timer_at = at
            self._place.later(pause_s, self.wake)

    def wake(self) -> None:
        """A time is over, or it was frozen."""
        self._timer_at = float("inf")
        self.go_on()

    # ---- what it is told

    def _obey(self, message: DownMessage) -> None:
        if self._is_ahead(message):
            self._ahead.append(message)
            if sum(_size(each) for each in self._ahead) > _MOST_AHEAD:
                raise FrameError("more for the next run than may be sent ahead")
        else:
            _ORDERS[type(message)](self, message)

    def _is_ahead(self, message: DownMessage) -> bool:
        """Whether it is for the next run, and comes while one is going on."""
        goes_on = self.state in (RunnerState.RUNNING, RunnerState.ENDING) or bool(self._ahead)
        is_later = isinstance(message, (StartRun, Input)) and message.run > self._last_run
        return goes_on and (is_later or isinstance(message, (Clear, Put)))

    def _obey_ahead(self) -> bool:
        """Whether there was something for a run that may begin now."""
        if not self._ahead or self.state in (RunnerState.RUNNING, RunnerState.ENDING):
            return False
        message = self._ahead.popleft()
        try:
            _ORDERS[type(message)](self, message)
        except FrameError as error:
            self._fault(str(error))
        return True

    def hello(self, message: Hello) -> None:
        self._lease_s = message.lease_ms / 1000
        self._ahead.clear()
        if self.state is RunnerState.NEW:
            self.state = RunnerState.IDLE
        self._writer.begin(message.session, message.read_from)
        taken = self._run.taken if self._run is not None else None
        self._writer.report(
            Status(
                stream_bytes=self._writer.stream_bytes,
                build=build_id(),
                state=self.state,
                run=self._last_run,
                kept_from=self._writer.kept_from,
                input=0 if taken is None else taken.input,
                messages=0 if taken is None else taken.messages,
                skipped=self._reader.skipped,
                put_to=self._put_to,
                cgroup=1,
                dumpable=False,
                cpu_us=None if self._run is None else self._run.clock.cpu_us(time.monotonic()),
            )
        )

    def acknowledge(self, message: Ack) -> None:
        self._writer.acknowledge(message.read_to)

    def put(self, message: Put) -> None:
        self._need_no_run()
        self._put_to = message.path
        if self._failure is not None:
            return
        path = from_utf8(message.path)
        try:
            if message.kind is PutKind.FOLDER:
                self._machine.files.make_folder(path, parents=True)
            else:
                self._put_piece(path, message)
        except FileProblem as problem:
            self._failure = _refused(RefusalReason.PUT_FAILED, message.path, problem.errno)

    def _put_piece(self, path: str, message: Put) -> None:
        files = self._machine.files
        if message.offset == 0:
            files.put(path, message.data, message.mode)
        else:
            file = files.find(path)
            if file is None or len(file.data) < message.offset:
                raise FileProblem(errno.ENOENT)
            files.append(path, message.data[len(file.data) - message.offset :])
        if message.last and (file := files.find(path)) is not None:
            file.mode, file.mtime_s = message.mode, message.mtime_s

    def remove(self, message: Remove) -> None:
        self._need_no_run()
        if self._failure is not None:
            return
        base, parts = from_utf8(message.base), [from_utf8(part) for part in message.parts]
        try:
            for path in list(self._machine.files.matching(base, parts)):
                self._machine.files.remove(path)
        except FileProblem as problem:
            what = b"/".join((message.base, *message.parts))
            self._failure = _refused(RefusalReason.REMOVE_FAILED, what, problem.errno)

    def input(self, message: Input) -> None:
        if self._run is not None and message.run == self._last_run:
            self._run.feed(message)
        elif message.run > self._last_run:
            self._input.add(message)

    def to_program(self, message: ToProgram) -> None:
        if self._run is not None and message.run == self._last_run:
            self._run.mail(message)

    def start(self, order: StartRun) -> None:
        if order.run <= self._last_run:
            return
        self._need_no_run()
        self._last_run = order.run
        process = self._process(order)
        argv = [from_utf8(word) for word in order.argv]
        refusal, self._failure = self._failure or self._refusal(process, order, argv), None
        if refusal is not None:
            self.close_fifos()
            self.state = RunnerState.ENDING
            self._say(RunRefused(run=order.run, why=refusal.why, errno=refusal.errno, what=refusal.what))
            return
        self.state = RunnerState.RUNNING
        self._machine.begin()
        self._place.program_begins()
        self._say(Started(run=order.run, volumes=self._volumes(order)))
        program = commands.run(process, argv)
        now = time.monotonic()
        fifo = self._fifo(order.stdout_fifo)
        if fifo is not None:
            fifo.open_to_write()
            self._fifos.append(fifo.close_to_write)
        self._run = FakeRun(order, program, process, now=now, cpus=self._place.cpus, write=self._writer.write, stdout=fifo)

    def kill(self, message: Kill) -> None:
        if self._run is not None and message.run == self._last_run:
            self._run.stop(StoppedBy.KILL, time.monotonic())
        elif message.run > self._last_run:
            self._killed_ahead = message.run

    def list_folder(self, message: ListFolder) -> None:
        self._need_no_answer(message.request)
        self._due.append(_entries(message.request, *self._listed(from_utf8(message.path))))

    def fetch(self, message: Fetch) -> None:
        self._need_no_answer(message.request)
        self._due.extend(self._pieces(0, message.request, wish) for wish in message.files)

    def clear(self, message: Clear) -> None:
        self._need_no_answer(message.request)
        files, why = self._machine.files, b""
        for place in map(from_utf8, message.places):
            try:
                for name in files.children(place):
                    files.remove(posixpath.join(place, name))
            except FileProblem as problem:
                why = f"{place}: {problem}".encode()
        if message.put_back and not why:
            why = self._put_back()
        if why:
            self._failure = _refused(RefusalReason.NOT_CLEAN, why)
        self._say(Cleared(run=message.request, request=message.request, clean=not why, why=why))

    def keep(self, message: Keep) -> None:
        self._need_no_answer(message.request)
        base, error = from_utf8(message.path), 0
        try:
            found = list(self._machine.files.below(base))
            self._kept = [(path, None if file is None else (bytes(file.data), file.mode, file.mtime_s)) for path, file in found]
        except FileProblem as problem:
            self._kept, error = None, problem.errno
        size = sum(len(file[0]) for _, file in self._kept or () if file is not None)
        if size > message.most:
            self._kept, size, error = None, 0, errno.EFBIG
        kept = len(self._kept or ())
        self._say(Kept(run=message.request, request=message.request, errno=error, entries=kept, bytes=size))

    def _put_back(self) -> bytes:
        if self._kept is None:
            return b"nothing was kept"
        try:
            for path, file in self._kept:
                if file is None:
                    self._machine.files.make_folder(path, parents=False)
                else:
                    data, mode, mtime_s = file
                    self._machine.files.put(path, data, mode).mtime_s = mtime_s
        except FileProblem:
            return b"what was kept cannot be put back"
        return b""

    def leave(self, _: Leave) -> None:
        self._leave(LEFT, StoppedBy.LEAVE)

    # ---- a run

    def _process(self, order: StartRun) -> Process:
        cwd = from_utf8(order.cwd)
        given = dict(from_utf8(pair).split("=", 1) for pair in order.env if b"=" in pair)
        env = {"PATH": _PATH, "HOSTNAME": self._place.hostname, "HOME": cwd, **given}
        if not env.keys() & _LOCALE:
            env["LANG"] = "C.UTF-8"
        if order.channel:
            env["JOBMANAGER_CHANNEL"] = "3"
        return Process(self._machine, env, cwd, self._stdin(order), Mail() if order.channel else None)

    def _stdin(self, order: StartRun) -> Feed:
        given = bytes(self._input.data) if self._input.run == order.run else b""
        fifo = self._fifo(order.stdin_fifo)
        if fifo is not None:
            self._fifos.append(fifo.close_to_read)
            return fifo.open_to_read(lambda: self._place.later(0.0, self.wake))
        if order.stdin is InputFrom.PIPE:
            return Feed(given, ended=False)
        return Feed(given if order.stdin is InputFrom.MEMORY else b"")

    def _refusal(self, process: Process, order: StartRun, argv: list[str]) -> RunRefused | None:
        if order.run == self._killed_ahead:
            return _refused(RefusalReason.KILLED_BEFORE, b"")
        devices = self._place.devices()
        for volume in order.volumes:
            device = devices.get(from_utf8(volume.path), "")
            if not device or volume.device not in (b"", device.encode()):
                return _refused(RefusalReason.OTHER_DEVICE, volume.path)
        if not self._machine.files.is_folder(process.cwd):
            return _refused(RefusalReason.NO_SUCH_FOLDER, order.cwd, errno.ENOENT)
        if order.stdin is InputFrom.FIFO and None in (self._fifo(order.stdin_fifo), self._fifo(order.stdout_fifo)):
            return _refused(RefusalReason.OTHER, order.stdin_fifo, errno.ENOENT)
        why = commands.found(process, argv)
        return None if why is None else _refused(why, order.argv[0] if order.argv else b"", _ERRNOS[why])

    def _fifo(self, path: bytes) -> Fifo | None:
        return self._place.fifo(from_utf8(path)) if path else None

    def close_fifos(self) -> None:
        """No program of this container has one open any more."""
        fifos, self._fifos = self._fifos, []
        for close in fifos:
            close()

    def _volumes(self, order: StartRun) -> tuple[VolumeDevice, ...]:
        devices = self._place.devices()
        return tuple(VolumeDevice(path=each.path, device=devices[from_utf8(each.path)].encode()) for each in order.volumes)

    def _finish(self, run: FakeRun) -> None:
        """Report the end of a run."""
        now = time.monotonic()
        self._run, self.state = None, RunnerState.ENDING
        self.close_fifos()
        self._place.cpu_used(run.clock.cpu_us(now) / 1e6)
        self._due.append(iter(run.rest_of_output()))
        for wish in run.order.bring:
            self._due.append(self._brought(run, wish))
        self._say(self._ended(run, now))

    def _ended(self, run: FakeRun, now: float) -> Ended:
        machine = self._machine
        out, err = run.written.values()
        assert run.how is not None
        return Ended(
            run=run.order.run,
            how=run.how,
            code=run.code,
            stopped_by=run.stopped_by,
            cpu_us=_RUN_CPU_US + run.clock.cpu_us(now),
            wall_us=run.clock.wall_us(now),
            peak_bytes=min(machine.memory_bytes, _OWN_BYTES + machine.files.size() + machine.used_bytes),
            peak_is_exact=True,
            oom_kills=machine.oom_kills,
            fork_refusals=machine.fork_refusals,
            stdout_bytes=out,
            stderr_bytes=err,
            full=tuple(self._full(run.order.places)),
            left=False,
            input_over=run.input_over,
        )

    def _full(self, places: Iterable[bytes]) -> Iterator[FullPlace]:
        for place in places:
            blocks, inodes = self._machine.files.is_full(from_utf8(place))
            if blocks or inodes:
                yield FullPlace(path=place, blocks=blocks, inodes=inodes)

    # ---- files

    def _brought(self, run: FakeRun, wish: BringPath) -> Iterator[UpMessage]:
        return self._pieces(run.order.run, 0, wish)

    def _pieces(self, run: int, request: int, wish: BringPath) -> Iterator[UpMessage]:
        path, error = from_utf8(wish.path), 0
        file = self._machine.files.find(path)
        if file is None:
            error = errno.EISDIR if self._machine.files.is_folder(path) else errno.ENOENT
            file = FakeFile(bytearray())
        elif len(file.data) > wish.most:
            error = errno.EFBIG
        content = b"" if error else bytes(file.data)
        for at in range(0, len(content), _PIECE_BYTES) or (0,):
            yield Piece(
                run=run or request,
                request=request,
                path=wish.path,
                mode=file.mode,
                mtime_s=file.mtime_s,
                size=len(file.data),
                errno=error,
                offset=at,
                last=at + _PIECE_BYTES >= len(content),
                data=content[at : at + _PIECE_BYTES],
            )

    def _listed(self, folder: str) -> tuple[list[FolderEntry], int]:
        """What is below a folder, and an errno."""
        entries: list[FolderEntry] = []
        try:
            for path, file in self._machine.files.below(folder):
                if len(entries) == _MOST_ENTRIES:
                    return entries, errno.E2BIG
                entries.append(_entry(posixpath.relpath(path, folder), file))
        except FileProblem as problem:
            return [], problem.errno
        return entries, 0

    # ---- its end

    def _need_no_run(self) -> None:
        if self.state in (RunnerState.RUNNING, RunnerState.ENDING):
            raise FrameError("a run is going on")

    def _need_no_answer(self, request: int) -> None:
        self._need_no_run()
        answered, session = self._answering
        if answered and session == self._reader.session:
            raise FrameError(f"request {answered} is not answered yet")
        self._due.clear()
        self._next = None
        self._answering = (request, self._reader.session)

    def _fault(self, text: str) -> None:
        self._due.append(iter((Fault(text=text.encode()),)))
        self._leave(FAULTED, StoppedBy.KILL)

    def _leave(self, code: int, why: StoppedBy) -> None:
        """Kill what runs, report it as far as the window has room, and go."""
        if self._run is not None:
            self._run.stop(why, time.monotonic())
            self._finish(self._run)
        self._send_due()
        self.state, self.exit_code = RunnerState.LEAVING, code

    def _say(self, message: UpMessage) -> None:
        self._due.append(iter((message,)))


def _size(message: DownMessage) -> int:
    return len(message.data) if isinstance(message, (Input, Put)) else 0


def _entries(request: int, entries: list[FolderEntry], error: int) -> Iterator[UpMessage]:
    for at in range(0, len(entries), _ENTRIES) or (0,):
        is_last = at + _ENTRIES >= len(entries)
        part = tuple(entries[at : at + _ENTRIES])
        yield Entries(run=request, request=request, errno=error if is_last else 0, last=is_last, entries=part)


def _entry(path: str, file: FakeFile | None) -> FolderEntry:
    kind = PathKind.FOLDER if file is None else PathKind.FILE
    mode, mtime_s, size = (_FOLDER_MODE, 0, 0) if file is None else (file.mode, file.mtime_s, len(file.data))
    return FolderEntry(path=to_utf8(path), kind=kind, mode=mode, mtime_s=mtime_s, size=size)


def _refused(why: RefusalReason, what: bytes, number: int = 0) -> RunRefused:
    return RunRefused(why=why, errno=number, what=what)


_ERRNOS = {
    RefusalReason.NO_SUCH_PROGRAM: errno.ENOENT,
    RefusalReason.IS_A_FOLDER: errno.EACCES,
    RefusalReason.NOT_EXECUTABLE: errno.EACCES,
}
_ORDERS: Mapping[type[DownMessage], Callable[[FakeRunner, Any], None]] = {
    Hello: FakeRunner.hello,
    Ack: FakeRunner.acknowledge,
    Put: FakeRunner.put,
    Remove: FakeRunner.remove,
    Input: FakeRunner.input,
    StartRun: FakeRunner.start,
    ToProgram: FakeRunner.to_program,
    Kill: FakeRunner.kill,
    ListFolder: FakeRunner.list_folder,
    Fetch: FakeRunner.fetch,
    Clear: FakeRunner.clear,
    Keep: FakeRunner.keep,
    Leave: FakeRunner.leave,
}
__all__ = ["FakeRunner", "Pid1Died", "RunnerPlace"]
