"""A full queue can be waited for: ``wait_s``. A wait that was broken off leaves no job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from jobmanager import ClientBuffer, ClientSync, DockerHost, JobManager, Outcome, Task
from jobmanager.control.room import when_there_is_room
from jobmanager.errors import Closed, InvalidInput, QueueFull, WouldDeadlock
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

LONG, SHORT = Task("busybox", command="sleep 3000"), Task("busybox", command="true")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer() as server:
        yield server


@pytest.fixture
def full(fake: FakeEngineServer) -> Iterator[JobManager]:
    """A manager with one job, "runs", that runs, and one that waits: no more may wait."""
    with JobManager(DockerHost(fake.url, max_concurrent_jobs=1), max_waiting_jobs=1) as manager:
        manager.new_job(LONG, job_id="runs")
        eventually(lambda: manager.get_job_queue_info("runs").jobs_before == -1)
        manager.new_job(SHORT, job_id="waits")
        yield manager
        manager.close(kill=True)


class Waiting(threading.Thread):
    """Submits and waits for room; its answer is what came of it."""

    def __init__(self, submit) -> None:
        super().__init__(daemon=True)
        self._submit = submit
        self.answer: object = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._submit()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.answer = error

    def end(self) -> object:
        self.join(60)
        return self.answer


def submits(manager: JobManager) -> list:
    """Each way in, as it submits with patience."""
    return [
        lambda: manager.new_job(SHORT, wait_s=60),
        lambda: manager.submit(SHORT, wait_s=None).job_id,
        lambda: ClientSync(manager).new_job(SHORT, wait_s=60).job_id,
        lambda: ClientBuffer(manager).new_job(SHORT, wait_s=60),
    ]


def test_every_way_in_waits_for_room_in_a_full_queue(full: JobManager) -> None:
    waiting = [Waiting(submit) for submit in submits(full)]
    with pytest.raises(QueueFull):
        full.new_job(SHORT)
    assert all(each.answer is None for each in waiting)

    full.kill_job("runs")

    assert all(isinstance(each.end(), str) for each in waiting), [each.answer for each in waiting]


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_when_the_time_is_over_the_queue_is_full(full: JobManager, in_main_thread: bool) -> None:
    def submit() -> None:
        full.new_job(SHORT, wait_s=0.05)

    if in_main_thread:
        with pytest.raises(QueueFull, match="1 jobs are waiting already"):
            submit()
    else:
        assert isinstance(Waiting(submit).end(), QueueFull)


def test_a_sync_call_waits_no_longer_for_room_than_for_all_together(full: JobManager) -> None:
    with pytest.raises(QueueFull):
        ClientSync(full).new_job(SHORT, wait_s=None, timeout_s=0.05)


def test_closing_ends_the_wait(full: JobManager) -> None:
    waiting = Waiting(lambda: full.new_job(SHORT, wait_s=None))
    full.close(kill=True)
    assert isinstance(waiting.end(), Closed)


def test_an_interrupted_wait_leaves_no_job(full: JobManager) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        main = threading.main_thread().ident
        Waiting(lambda: eventually(lambda: waits_in_room()) and signal.pthread_kill(main, signal.SIGUSR1))
        with pytest.raises(KeyboardInterrupt):
            full.new_job(SHORT, job_id="late", wait_s=None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    full.kill_job("runs")
    assert ClientSync(full).new_job(SHORT, wait_s=60).outcome is Outcome.SUCCESS
    assert full.get_job_queue_info("late") is None


def waits_in_room() -> bool:
    return any(thread.name == "jobmanager-main-call" for thread in threading.enumerate())


def test_inside_a_callback_it_is_refused_whether_the_queue_is_full_or_not(fake: FakeEngineServer) -> None:
    answers: list[object] = []
    with JobManager(DockerHost(fake.url)) as manager:

        def callback(_: object) -> None:
            try:
                manager.new_job(SHORT, wait_s=1)
            except WouldDeadlock as error:
                answers.append(str(error))
            answers.append(manager.new_job(SHORT))

        manager.new_job(SHORT, callback=callback)
        eventually(lambda: len(answers) == 2)
    assert "cannot wait for room in the queue" in answers[0] and "wait_s=0" in answers[0]


@pytest.mark.parametrize("wait_s", [-1, "long", float("nan"), 1e9, True])
def test_a_wait_that_makes_no_sense_is_refused(full: JobManager, wait_s: object) -> None:
    with pytest.raises(InvalidInput, match="wait_s must be"):
        full.new_job(SHORT, wait_s=wait_s)


def test_it_is_tried_again_until_the_time_is_over_by_the_clock() -> None:
    now, tries, waits = [0.0], [], []

    def accept() -> None:
        tries.append(now[0])
        raise QueueFull("full")

    def wait_for_room(timeout_s: float) -> None:
        waits.append(timeout_s)
        now[0] += timeout_s

    with pytest.raises(QueueFull):
        when_there_is_room(accept, wait_for_room, {"wait_s": 2.5}, clock=lambda: now[0])
    assert (tries, waits) == ([0.0, 1.0, 2.0, 2.5], [1.0, 1.0, 0.5])
