"""Whether the runner, PID 1 of every container, works on a host and is protected there: one container, which is removed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import randbits, token_hex

from jobmanager.doctor.pid_1_calls import let_through, program
from jobmanager.doctor.report import ProbeReport
from jobmanager.engine.labels import Owner, labels
from jobmanager.engine.protocol import Channel, Engine, EngineError, Unreachable
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.engine.starting import start
from jobmanager.model.container import ContainerSpec, ContainerStatus
from jobmanager.model.limits import Limits
from jobmanager.runner.binaries import ENGINE_ARCHITECTURES, binary, build_id
from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import Ended, Leave, OutputData, Put, RunRefused, StartRun, Status, UpMessage
from jobmanager.runner.place import RUNNER_LABEL
from jobmanager.runner.wire import FrameWriter, PacketReader

STARTS, MEMORY, CALLS, PIPES, CGROUP = NAMES = (
    *("the runner starts", "the runner's memory", "calls on the runner", "pipes of the runner"),
    "the runner's counters",
)
_LEASE_S = 30.0
_ANSWER_S = 15.0
_LOOK_S = 1.0
_PLACE = b"/job/calls"
_LIMITS = Limits(cpu_time_s=5, wall_time_s=10, memory_mib=32, processes=4, workspace_mib=1, output_kib=4)
_HOLDING_PIPES = {"splice", "sendfile"}
_WHAT_TO_DO = (  # by what an engine says
    ("no space left on device", "make room on its disk"),
    ("read-only file system", "its folder of volumes is read-only: mount its data folder so that it can be written to"),
    ("permission denied", "it lets nothing in a volume be executed: mount its data folder without noexec"),
    ("exec format error", "its machine does not run programs of the architecture that it names: set its binfmt_misc right"),
)


class _RunnerFails(Exception):
    """The runner does not start, with what is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    status: Status
    let_through: list[str] | None  # None: the calls could not be tried
    why_not_tried: str


def check_runner(engine: Engine, host: str) -> tuple[ProbeReport, ...]:
    """What holds of the runner; only the first of these, with what is to be done, where it does not start.

    The host has an image. Raises Unreachable.
    """
    architecture = engine.info().architecture
    try:
        seen = _look_at_one(engine, host, architecture)
    except _RunnerFails as failure:
        return (ProbeReport(name=STARTS, enforced=False, seen=str(failure)),)
    return tuple(_reports(seen, architecture))


@contextmanager
def no_runner_left(engine: Engine) -> Iterator[None]:
    """What brings the runner to the host is gone afterwards, unless it was there before or somebody else uses it by then."""
    before = _runners(engine)
    try:
        yield
    finally:
        with suppress(EngineError):
            after = _runners(engine)
            claimed = {sha256 for name, sha256 in after.items() if "-for-" in name}
            for name, sha256 in after.items():
                if name not in before and sha256 not in claimed:
                    engine.remove_volume(name)


def _runners(engine: Engine) -> dict[str, str]:
    return {volume.name: volume.labels[RUNNER_LABEL] for volume in engine.volumes({RUNNER_LABEL: None})}


# ---- one container


def _look_at_one(engine: Engine, host: str, architecture: str) -> _Seen:
    manager_id = token_hex(6)
    runners = RunnerVolumes(manager_id=manager_id, owner=Owner.this_process(), binary_for=binary)
    try:
        try:
            sha256 = runners.ensure(engine, host).sha256
            container = _create(engine, manager_id, sha256)
        except Unreachable:
            raise
        except EngineError as error:
            raise _RunnerFails(_advised(str(error))) from error
        try:
            return _look_inside(engine, container, architecture)
        finally:
            with suppress(EngineError):  # its labels say whose it is: a sweep finds it
                engine.remove(container)
    finally:
        runners.release(engine, host)


def _create(engine: Engine, manager_id: str, sha256: str) -> str:
    image = min(engine.images(), key=lambda image: image.size_bytes)
    name = f"jobmanager-doctor-{manager_id}"
    spec = ContainerSpec(
        name=name,
        image=image.references[0],
        labels=labels(manager_id, name, _LEASE_S, Owner.this_process()),
        limits=_LIMITS,
        runner=sha256,
        lease_s=_LEASE_S,
    )
    return engine.create(spec, engine.image_defaults(spec.image))


def _look_inside(engine: Engine, container: str, architecture: str) -> _Seen:
    try:
        start(engine, container)
        channel = engine.open_channel(container)
    except Unreachable:
        raise
    except EngineError as error:
        raise _RunnerFails(_advised(str(error), is_start=is_runner_missing(error))) from error
    try:
        return _asked(_Session(channel, lambda: _has_ended(engine, container)), architecture)
    except (FrameError, _NoAnswer) as error:
        raise _RunnerFails(f"{error}{_how_it_ended(engine, container)}") from error
    finally:
        channel.close()


def _advised(said: str, *, is_start: bool = False) -> str:
    """In one line what the engine says, and what is to be done about it."""
    line = " ".join(said.split())
    found = next((advice for what, advice in _WHAT_TO_DO if what in line.lower()), "")
    if is_start and not found:
        found = "something removes the volume that it was just brought in"
    return f"{found}; the engine says: {line}" if found else line


def _has_ended(engine: Engine, container: str) -> bool:
    return engine.inspect(container).status is ContainerStatus.ENDED


def _how_it_ended(engine: Engine, container: str) -> str:
    if not _has_ended(engine, container):
        return ""
    return (
        f"; it ended with code {engine.inspect(container).exit_code}. If it could not be executed: mount the engine's data"
        " folder without noexec, and see whether the machine is of the architecture that the engine names"
    )


# ---- one session


class _NoAnswer(Exception):
    """The runner says nothing in time, or has ended."""


class _Session:
    """Messages to a runner, and its answers. The engine is asked now and then whether there is anybody to answer."""

    def __init__(self, channel: Channel, has_ended: Callable[[], bool]) -> None:
        session = randbits(64)
        self._channel = channel
        self._has_ended = has_ended
        self._writer, self._reader = FrameWriter(session), PacketReader(session)
        channel.write(self._writer.begin(read_from=0, lease_ms=int(_LEASE_S * 1000)))

    def send(self, *messages: Put | StartRun | Leave) -> None:
        self._channel.write(b"".join(map(self._writer.write, messages)))

    def until(self, is_last: Callable[[Status | UpMessage], bool]) -> list[Status | UpMessage]:
        found: list[Status | UpMessage] = []
        give_up_at = time.monotonic() + _ANSWER_S
        while not any(map(is_last, found)):
            if time.monotonic() > give_up_at:
                raise _NoAnswer(f"the runner has not answered within {_ANSWER_S:g} s")
            content = self._channel.read(_LOOK_S)
            if content is None or (not content and self._has_ended()):
                raise _NoAnswer("the runner has not answered")
            found += self._reader.feed(content)
        return found


def _asked(session: _Session, architecture: str) -> _Seen:
    status = next(each for each in session.until(lambda each: isinstance(each, Status)) if isinstance(each, Status))
    calls = program(ENGINE_ARCHITECTURES[architecture])
    run = StartRun(run=1, argv=(_PLACE,), cwd=b"/job", wall_ms=5000, output_bytes=4096)
    session.send(Put(path=_PLACE, mode=0o755, mtime_s=int(time.time()), data=calls), run)
    messages = session.until(lambda each: isinstance(each, (Ended, RunRefused)))
    written = b"".join(each.data for each in messages if isinstance(each, OutputData))
    session.send(Leave())
    return _Seen(status=status, let_through=let_through(written), why_not_tried=_why_not(messages[-1]))


def _why_not(last: Status | UpMessage) -> str:
    if isinstance(last, Ended):
        return f"a program that tries them {last.how.name.lower()} with {last.code}"
    return (
        f"a program that tries them was not started ({last.why.name}, error {last.errno})" if isinstance(last, RunRefused) else ""
    )


# ---- what it means


def _reports(seen: _Seen, architecture: str) -> Iterator[ProbeReport]:
    status = seen.status
    is_ours = status.build == build_id()
    build = f"build {status.build.hex()[:12]}{'' if is_ours else ', which is not the one that this package brings'}, {architecture}"
    yield ProbeReport(name=STARTS, enforced=is_ours, seen=build)
    dumpable = "dumpable: a program can read and change what the runner says" if status.dumpable else "closed to programs"
    yield ProbeReport(name=MEMORY, enforced=not status.dumpable, seen=dumpable)
    yield _report_of_calls(CALLS, seen, lambda name: name not in _HOLDING_PIPES)
    yield _report_of_calls(PIPES, seen, lambda name: name in _HOLDING_PIPES)
    counters = f"of cgroup v{status.cgroup}" if status.cgroup else "no cgroup found: it measures nothing, and CPU time is told late"
    yield ProbeReport(name=CGROUP, enforced=bool(status.cgroup), seen=counters)


def _report_of_calls(name: str, seen: _Seen, belongs: Callable[[str], bool]) -> ProbeReport:
    if seen.let_through is None:
        return ProbeReport(name=name, enforced=False, seen=f"not tried: {seen.why_not_tried}")
    open_ones = [each for each in seen.let_through if belongs(each)]
    told = f"no seccomp profile of ours refuses {', '.join(open_ones)}" if open_ones else "refused"
    return ProbeReport(name=name, enforced=not open_ones, seen=told)
