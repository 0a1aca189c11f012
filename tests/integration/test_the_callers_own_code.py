"""The caller's own functions and values: whatever they do, each job has its one callback, and its neighbours notice nothing."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobmanager import HookManager, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.events import JobEnded
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.daemons import PrivateDaemon
from tests.faults import processes

QUICK = Task(BUSYBOX, command="echo hello")
Attach = Callable[[logging.Handler], None]


@pytest.fixture
def engine(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Attaches a log handler until the test's end."""
    attached: list[logging.Handler] = []
    logger = logging.getLogger("jobmanager")

    def add(handler: logging.Handler) -> None:
        attached.append(handler)
        logger.addHandler(handler)

    yield add
    for handler in attached:
        logger.removeHandler(handler)


class Away(logging.Handler):
    """As one whose log server is away."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the log server is away")


class Stuck(logging.Handler):
    """As one whose log server takes connections and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.gate = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.begun.set()
        self.gate.wait(120)


def test_log_handlers_that_raise_cost_no_result_no_callback_and_no_hook(engine: str, attach: Attach) -> None:
    attach(Away())
    calls: Counter[str] = Counter()
    hooks, ended = HookManager(), []

    def bad(*_: object) -> None:
        raise ValueError("mine")

    def good(result: JobResult) -> None:
        calls[result.job_id] += 1

    hooks.add(JobEnded, bad)
    hooks.add(JobEnded, lambda event: ended.append(event.job_id))
    with JobManager(engine, callback_threads=2, hook_manager=hooks) as manager:
        for _ in range(4):
            manager.new_job(QUICK, callback=bad)
        slow = manager.submit(Task(BUSYBOX, command="echo begun; sleep 3; exit 7", limits=Limits(wall_time_s=60)))
        assert b"begun" in next(iter(manager.follow(slow.job_id))).data
        for child in (*processes("_waiter"), *processes("_pool_worker")):
            child.kill()
        assert slow.result(60).exit_code == 7
        for number in range(4):
            manager.new_job(QUICK, callback=good, job_id=f"later{number}")
    assert calls == Counter(f"later{number}" for number in range(4))
    assert len(ended) == 9


def test_a_log_handler_that_blocks_holds_up_no_result_and_no_limit(engine: str, attach: Attach) -> None:
    stuck = Stuck()
    attach(stuck)
    try:
        with JobManager(engine) as manager:
            endless = manager.submit(Task(BUSYBOX, command="echo begun; sleep 60", limits=Limits(cpu_time_s=2, wall_time_s=6)))
            assert b"begun" in next(iter(manager.follow(endless.job_id))).data
            for waiter in processes("_waiter"):
                waiter.kill()
            assert stuck.begun.wait(20)
            assert manager.submit(QUICK).result(30).stdout == b"hello\n"
            assert endless.result(30).outcome is Outcome.TIMEOUT
            assert not stuck.gate.is_set()
            stuck.gate.set()
    finally:
        stuck.gate.set()


def test_a_child_that_a_callback_forks_ends_and_calls_no_result_back(engine: str, tmp_path: Path) -> None:
    calls, caller = tmp_path / "calls", os.getpid()
    children: list[int] = []
    begun, may_fork = threading.Event(), threading.Event()

    def note(result: JobResult) -> None:
        with calls.open("a") as file:
            file.write(f"{result.job_id} {'caller' if os.getpid() == caller else 'child'}\n")

    def forks(result: JobResult) -> None:
        note(result)
        begun.set()
        may_fork.wait(30)
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        children.append(pid)

    with JobManager(engine, callback_threads=1) as manager:
        manager.new_job(QUICK, callback=forks, job_id="forks")
        assert begun.wait(30)
        for number in range(3):
            manager.new_job(QUICK, callback=note, job_id=f"other{number}")
        eventually(lambda: manager.callbacks().waiting == 3, what="results wait for the callback that forks")
        may_fork.set()
    eventually(lambda: os.waitpid(children[0], os.WNOHANG) != (0, 0), what="the child has ended")
    assert sorted(calls.read_text().splitlines()) == ["forks caller", *(f"other{number} caller" for number in range(3))]
