"""A program that talks with one in another container, through two fifos: the tests are the other runner and its program."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.runner.frames import Fault, HowEnded, InputFrom, Kill, RefusalReason, Started, StartRun, StoppedBy
from tests.conftest import eventually
from tests.support.bare_runner import BareRunner

FIFOS = {"stdin_fifo": b"/job/to", "stdout_fifo": b"/job/from"}


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        bare.run(["sh", "-c", "mkfifo /job/to /job/from"])
        yield bare


def start(runner: BareRunner, script: str, **fields: int) -> int:
    runner.last_run += 1
    argv = (b"sh", b"-c", script.encode())
    runner.send(StartRun(run=runner.last_run, argv=argv, cwd=b"/job", stdin=InputFrom.FIFO, **FIFOS, **fields))  # type: ignore[arg-type]
    runner.flush()
    return runner.last_run


class Other:
    """The other runner, and its program: what it reads and what it writes."""

    def __init__(self, runner: BareRunner, *, greets: bool = True) -> None:
        root = Path(f"/proc/{runner.pid}/root/job")
        self.reads = os.open(root / "from", os.O_RDONLY | os.O_NONBLOCK)
        self.writes = -1
        eventually(lambda: self._open_to_write(root / "to"), what="the runner has come")
        if greets:
            self.greet(runner)

    def greet(self, runner: BareRunner) -> None:
        os.write(self.writes, b"\0")
        eventually(lambda: self.said(1) == b"\0", what="the runner greets")
        runner.wait_for(Started)

    def said(self, most: int = 1000) -> bytes:
        try:
            return os.read(self.reads, most)
        except BlockingIOError:
            return b""

    def sees_the_end(self) -> bool:
        poll = select.poll()
        poll.register(self.reads, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def leave(self) -> None:
        os.close(self.writes)
        os.close(self.reads)

    def _open_to_write(self, path: Path) -> bool:
        try:
            self.writes = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: nobody reads
            return False
        return True


def test_each_of_two_programs_reads_what_the_other_writes(runner: BareRunner) -> None:
    run = start(runner, "echo ping; read answer; echo $answer >&2")
    other = Other(runner)
    eventually(lambda: other.said() == b"ping\n", what="the program speaks")
    os.write(other.writes, b"pong\n")
    record = runner.finish(run)
    assert (record.stderr, record.stdout, record.ended.stdout_bytes) == (b"pong\n", b"", 0)
    assert not record.ended.input_over
    other.leave()


def test_a_program_begins_when_the_other_runner_has_greeted_and_not_before(runner: BareRunner) -> None:
    run = start(runner, "cat >&2", wall_ms=500)
    other = Other(runner, greets=False)
    time.sleep(0.7)  # its clock does not run yet
    with pytest.raises(TimeoutError):
        runner.wait_for(Started, timeout_s=0.1)
    os.write(other.writes, b"\0late")
    eventually(lambda: other.said(1) == b"\0", what="the runner greets")
    other.leave()
    record = runner.finish(run)
    assert (record.stderr, record.ended.how, record.ended.code) == (b"late", HowEnded.EXITED, 0)


def test_whoever_comes_second_finds_the_other(runner: BareRunner) -> None:
    root = Path(f"/proc/{runner.pid}/root/job")
    reads = os.open(root / "from", os.O_RDONLY | os.O_NONBLOCK)
    run = start(runner, "read x; echo $x >&2")
    poll = select.poll()
    poll.register(reads, select.POLLIN)
    assert poll.poll(20_000) and os.read(reads, 10) == b"\0"
    with open(root / "to", "wb") as writes:
        writes.write(b"\0second\n")
    assert runner.finish(run).stderr == b"second\n"
    os.close(reads)


def test_the_other_sees_a_programs_end_only_after_its_runner_has(runner: BareRunner) -> None:
    """However late that is: then what follows from it is later, too."""
    run = start(runner, "read x; exit 3")
    other = Other(runner)
    os.kill(runner.pid, signal.SIGSTOP)
    try:
        os.write(other.writes, b"go\n")
        time.sleep(0.5)
        assert not other.sees_the_end() and other.said() == b""
        os.write(other.writes, b"nobody reads this, and there is no SIGPIPE yet\n")
    finally:
        os.kill(runner.pid, signal.SIGCONT)
    record = runner.finish(run)
    assert (record.ended.code, record.ended.input_over) == (3, False)
    eventually(other.sees_the_end, what="the other sees it")
    with pytest.raises(BrokenPipeError):
        os.write(other.writes, b"x")
    other.leave()


def test_a_program_that_ends_since_the_other_has_left_is_told_from_one_that_ended_before(runner: BareRunner) -> None:
    run = start(runner, "read x || exit 3")
    Other(runner).leave()
    assert (runner.finish(run).ended.code, runner.finish(run).ended.input_over) == (3, True)

    run = start(runner, "while echo x; do :; done")
    Other(runner).leave()
    ended = runner.finish(run).ended
    assert (ended.how, ended.code, ended.input_over) == (HowEnded.SIGNALLED, signal.SIGPIPE, True)


def test_a_limit_that_is_reached_before_the_other_leaves_is_the_programs_own(runner: BareRunner) -> None:
    run = start(runner, "read x", wall_ms=300)
    other = Other(runner)
    ended = runner.finish(run).ended
    assert (ended.stopped_by, ended.input_over) == (StoppedBy.WALL, False)
    other.leave()


def test_a_program_that_closes_its_output_or_its_input_and_goes_on_is_seen(runner: BareRunner) -> None:
    run = start(runner, "exec 1>&-; read x; echo $x >&2")
    other = Other(runner)
    eventually(other.sees_the_end, what="its output has ended")
    os.write(other.writes, b"and it goes on\n")
    assert runner.finish(run).stderr == b"and it goes on\n"
    other.leave()

    run = start(runner, "exec 0<&-; sleep 60")
    other = Other(runner)
    eventually(lambda: _is_broken(other.writes), what="its input is closed")
    runner.send(Kill(run=run))
    assert runner.finish(run).ended.stopped_by is StoppedBy.KILL
    other.leave()


def test_a_process_that_stays_keeps_the_fifos_no_longer_than_its_run(runner: BareRunner) -> None:
    run = start(runner, "(setsid sleep 60 &) ; exit 0")
    other = Other(runner)
    assert runner.finish(run).ended.code == 0
    assert other.sees_the_end()
    other.leave()
    run = start(runner, "read x; echo $x >&2")  # nothing is in them from before
    other = Other(runner)
    os.write(other.writes, b"new\n")
    assert runner.finish(run).stderr == b"new\n"
    other.leave()


def test_one_that_waits_for_the_other_can_be_killed_and_one_whose_other_went_away_is_refused(runner: BareRunner) -> None:
    run = start(runner, "true")
    runner.send(Kill(run=run))
    assert runner.finish(run).refused.why is RefusalReason.KILLED_BEFORE

    run = start(runner, "true")
    Other(runner, greets=False).leave()
    refused = runner.finish(run).refused
    assert (refused.why, refused.errno, refused.what) == (RefusalReason.OTHER, errno.EPIPE, b"/job/to")


@pytest.mark.parametrize(
    ("makes", "number"), [("", errno.ENOENT), ("echo x > /job/to2", errno.EINVAL), ("ln -s to /job/to2", errno.ELOOP)]
)
def test_what_is_no_fifo_is_refused(runner: BareRunner, makes: str, number: int) -> None:
    runner.run(["sh", "-c", makes])
    record = runner.run(["true"], stdin=InputFrom.FIFO, stdin_fifo=b"/job/to2", stdout_fifo=b"/job/from")
    assert (record.refused.why, record.refused.errno, record.refused.what) == (RefusalReason.OTHER, number, b"/job/to2")
    assert runner.run(["echo", "fine"]).stdout == b"fine\n"


@pytest.mark.parametrize(
    "fields", [{"stdin": InputFrom.FIFO}, {"stdin": InputFrom.FIFO, "stdin_fifo": b"/job/to"}, {"stdout_fifo": b"/job/from"}]
)
def test_one_fifo_alone_makes_no_sense(fields: dict[str, object]) -> None:
    with BareRunner() as runner:
        runner.last_run += 1
        runner.send(StartRun(run=runner.last_run, argv=(b"true",), cwd=b"/job", **fields))  # type: ignore[arg-type]
        assert runner.wait_for(Fault).text == b"RUN makes no sense"


def _is_broken(writes: int) -> bool:
    try:
        os.write(writes, b"x")
    except BrokenPipeError:
        return True
    except BlockingIOError:
        return False
    time.sleep(0.01)
    return False
