"""The caller's own functions and values: whatever they do, each job has its one callback, and its neighbours notice nothing."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import Enum
from pathlib import Path

import docker
import pytest

from jobmanager import HookManager, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.control import child_process
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.events import JobEnded
from jobmanager.ipc.messages import MonitorContainer
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import processes
from tests.support.printed import program_runs

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


@pytest.mark.case(25)
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


@pytest.mark.case(25)
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


@pytest.mark.case(25)
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


def neighbours(manager: JobManager) -> list[Future[JobResult]]:
    """Jobs that run beside another one, for some seconds."""
    return [manager.submit(Task(BUSYBOX, command="sleep 4; echo fine", limits=Limits(wall_time_s=60))) for _ in range(2)]


class Lang(str, Enum):
    """As apps name their languages."""

    SHELL = "sh"


def test_text_of_the_callers_own_classes_is_run_as_what_it_holds(engine: str) -> None:
    class Unknown(str):
        """Of a class that no other process could find."""

    command = [Lang.SHELL, "-c", Unknown('echo "$WORD" "$0"'), Lang.SHELL]
    with JobManager(engine) as manager:
        jobs = [
            manager.submit(Task(BUSYBOX, command=command, env={Unknown("WORD"): Lang.SHELL}, name=Unknown("n"))),
            manager.submit(Task(Unknown(BUSYBOX), command=Unknown("echo sh sh")), launcher_name=Lang.SHELL, job_id=Unknown("mine")),
        ]
        assert [job.result(60).stdout for job in jobs] == [b"sh sh\n"] * 2
        assert jobs[1].job_id == "mine"


class Local(str):
    """No child knows it, and none could: its module is a test."""

    def __reduce__(self) -> str:
        raise pickle.PicklingError("it cannot be written down")


@pytest.mark.case(25)
def test_a_job_that_cannot_be_sent_to_a_child_is_a_crash_that_says_so_and_no_other_job_notices(engine: str) -> None:
    odd = Task(BUSYBOX, command=["echo", "odd"])
    object.__setattr__(odd, "command", ("echo", Local("odd")))  # past all checks
    with JobManager(engine) as manager:
        beside = neighbours(manager)
        result = manager.submit(odd).result(30)
        later = manager.submit(QUICK).result(30)
        assert [job.result(60).stdout for job in beside] == [b"fine\n"] * 2
    assert (result.outcome, later.outcome) == (Outcome.CRASH, Outcome.SUCCESS)
    assert "Local is none of the library's own types" in result.text


@pytest.mark.case(25)
def test_a_job_that_its_waiters_die_of_is_a_crash_and_its_neighbours_keep_their_verdicts(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = child_process.pickled

    def poisoned(message: object) -> bytes:
        return b"poison" if isinstance(message, MonitorContainer) and message.job_id == "poison" else written(message)

    monkeypatch.setattr(child_process, "pickled", poisoned)
    with JobManager(engine) as manager:
        beside = neighbours(manager)
        eventually(lambda: len(manager.get_job_queue_snapshot()[0]) == 2, what="the neighbours run")
        result = manager.submit(QUICK, job_id="poison").result(60)
        assert [job.result(60).stdout for job in beside] == [b"fine\n"] * 2
        assert manager.submit(QUICK).result(30).outcome is Outcome.SUCCESS
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "waiter_died")


STANDS_STILL = """
    import sys
    from jobmanager import JobManager, Limits, Task
    fill = "echo; sleep 3; head -c 9000000 /dev/urandom > f"
    big = Task("jobmanager-busybox:1", command=fill, collect=["f"], limits=Limits(wall_time_s=60))
    endless = Task("jobmanager-busybox:1", command="echo; sleep 100", limits=Limits(wall_time_s=6))
    with JobManager(sys.argv[1]) as manager:
        jobs = [manager.submit(big), manager.submit(endless, job_id="endless")]
        for job in jobs:
            next(iter(manager.follow(job.job_id)))
        print("ready", flush=True)
        print(*(job.result().outcome.value for job in jobs))
"""


@pytest.mark.case(25)
def test_limits_are_enforced_while_the_caller_stands_still_and_a_large_report_fills_its_pipe(engine: str) -> None:
    client = docker.DockerClient(base_url=engine, version="1.41")
    script = textwrap.dedent(STANDS_STILL)
    with subprocess.Popen([sys.executable, "-c", script, engine], stdout=subprocess.PIPE, text=True) as caller:
        try:
            assert caller.stdout is not None and caller.stdout.readline() == "ready\n"
            (endless,) = client.containers.list(filters={"label": f"{JOB_LABEL}=endless"})
            assert program_runs(endless, "sleep 100")
            caller.send_signal(signal.SIGSTOP)
            eventually(lambda: not program_runs(endless), within_s=40, what="its limit ends it")
            caller.send_signal(signal.SIGCONT)
            assert caller.stdout.read() == "success timeout\n"
        finally:
            caller.kill()
            client.close()
