"""Links to a host that are slow, stand still or are disturbed: what did not come is never taken for what was not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import docker
import pytest

from jobmanager import DockerHost, Grader, JobFuture, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from tests.conftest import BUSYBOX, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON
from tests.support.faults import LASTS, SLEEPS, wake
from tests.support.printed import program_runs
from tests.support.proxy import ATTACH, Link, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.case(50)]

LAST_WORDS = b".jobmanager/result.json"  # the first of what a runner says when its program has ended
STANDS_STILL_S = 7.0  # longer than anything of ours waits for a byte
SAYS_FAILED = """echo '{"result": "failed", "grade": 40, "text": "wrong"}' > .jobmanager/result.json; """
LONG = Limits(wall_time_s=15, memory_mib=64, output_kib=8 * 1024)
GRADER = """#!/bin/sh
run_student sh -c "'echo out; exit 3'"
feedback-msg -m $?
feedback-grade 40
feedback-result failed
"""


def grading(script: str = GRADER, **limits: float) -> Task:
    return Task(PYTHON, grader=Grader(), files={"run": script}, limits=Limits(memory_mib=64, **{"wall_time_s": 15, **limits}))  # type: ignore[arg-type]


class Places:
    """Managers, each behind a link of its own."""

    def __init__(self, engine_url: str, stack: ExitStack) -> None:
        self._engine_url = engine_url
        self._stack = stack

    def submit(self, task: Task) -> tuple[JobFuture, Link]:
        proxy = self._stack.enter_context(Proxy(self._engine_url))
        manager = self._stack.enter_context(JobManager(DockerHost(proxy.url, max_concurrent_jobs=2)))
        return manager.submit(task), proxy.link


@pytest.fixture
def places(engine_url: str) -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(engine_url, stack)


def result_of(job: JobFuture) -> JobResult:
    return job.result(2 * PATIENCE_S)


# ---- slow


def test_what_ends_behind_a_slow_link_has_its_whole_output_and_its_own_end_within_its_wall_clock(engine_url: str) -> None:
    """Its last words are on their way for longer than its whole wall clock limit."""
    command = f"{SAYS_FAILED} head -c 900000 /dev/zero"
    task = Task(BUSYBOX, command=command, limits=Limits(wall_time_s=3, output_kib=1024))
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        eventually(lambda: manager.hosts()[0].up, what="the host is up")
        proxy.link.bytes_per_s = 150_000
        result = result_of(manager.submit(task))
    assert (result.outcome, result.text, result.grade) == (Outcome.FAILED, "wrong", 40.0), result
    assert (len(result.stdout), result.stdout_bytes, result.output_cut) == (900_000, 900_000, False)
    assert result.wall_time_s is not None and result.wall_time_s <= 3


def test_a_program_that_a_slow_link_holds_up_does_not_reach_its_wall_clock_limit(engine_url: str) -> None:
    task = Task(BUSYBOX, command="head -c 6000000 /dev/zero", limits=Limits(wall_time_s=3, output_kib=8 * 1024))
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        eventually(lambda: manager.hosts()[0].up, what="the host is up")
        proxy.link.bytes_per_s = 300_000
        result = result_of(manager.submit(task))
    assert (result.outcome, result.stdout_bytes, result.output_cut) == (Outcome.SUCCESS, 6_000_000, False), result
    assert result.wall_time_s is not None and result.wall_time_s <= 3


def test_what_a_killed_program_had_printed_comes_however_slowly(engine_url: str, outsider: docker.DockerClient) -> None:
    task = Task(BUSYBOX, command="head -c 600000 /dev/zero; echo over; sleep 60", limits=LONG)
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        eventually(lambda: manager.hosts()[0].up, what="the host is up")
        proxy.link.bytes_per_s = 120_000
        job = manager.submit(task)
        wanted = {"label": f"{JOB_LABEL}={job.job_id}"}
        found = eventually(lambda: outsider.containers.list(filters=wanted), what="it runs")[0]
        eventually(lambda: program_runs(found, "sleep 60"), what="it has printed all")
        assert manager.kill_job(job.job_id)
        result = result_of(job)
    assert (result.outcome, result.stdout_bytes, result.output_cut) == (Outcome.KILLED, 600_005, False), result
    assert result.stdout.endswith(b"over\n")


# ---- stands still


def test_a_link_that_stands_still_between_the_last_words_loses_none(places: Places) -> None:
    tasks = {
        "a result file": Task(BUSYBOX, command=SAYS_FAILED, limits=LONG),
        "output": Task(BUSYBOX, command="head -c 300000 /dev/zero; exit 3", limits=LONG),
        "a grader's word": grading("#!/bin/sh\nfeedback-grade 40\nfeedback-result failed\nexit 1\n"),
        "a student's end": grading(),
    }
    jobs = {}
    for name, task in tasks.items():
        job, link = places.submit(task)
        link.stand_still_after(LAST_WORDS, STANDS_STILL_S)
        jobs[name] = job
    results = {name: result_of(job) for name, job in jobs.items()}
    assert {result.outcome for result in results.values()} == {Outcome.FAILED}, results
    assert results["a result file"].grade == results["a grader's word"].grade == results["a student's end"].grade == 40.0
    assert results["a student's end"].text == "3"
    assert (results["output"].stdout_bytes, results["output"].exit_code) == (300_000, 3)
    assert not any(result.output_cut for result in results.values())


# ---- loses


def test_last_words_that_never_come_are_a_crash_and_never_a_success(places: Places) -> None:
    tasks = {
        "a result file": Task(BUSYBOX, command=SAYS_FAILED, limits=LONG),
        "none": Task(BUSYBOX, command="echo out", limits=LONG),
        "a bad end": Task(BUSYBOX, command="exit 3", limits=LONG),
        "a grader's word": grading("#!/bin/sh\nfeedback-result failed\n"),
    }
    jobs = {}
    for name, task in tasks.items():
        job, link = places.submit(task)
        link.lose_what_comes_after(LAST_WORDS)
        jobs[name] = job
    for name, job in jobs.items():
        result = result_of(job)
        assert (result.outcome, result.grade, result.output_cut) == (Outcome.CRASH, 0.0, True), (name, result)
        assert result.evidence[0].kind == "infrastructure_error", (name, result)


def test_a_stream_that_has_died_unnoticed_makes_no_timeout_of_a_program_that_has_ended(places: Places) -> None:
    task = Task(BUSYBOX, command="echo ready; sleep 1; echo rest; exit 3", limits=Limits(wall_time_s=3))
    job, link = places.submit(task)
    link.lose_what_comes_after(b"ready\n", times=1)
    result = result_of(job)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 3, b"ready\nrest\n"), result


# ---- disturbed


@pytest.mark.parametrize(
    "stray", [b"HTTP/1.1 504 x\r\n\r\n", b"\1\0\0\0\xff\xff\xff\xff"], ids=["an error page", "a length of 4 GiB"]
)
def test_a_stream_with_something_else_in_it_costs_neither_output_nor_the_programs_own_end(engine_url: str, stray: bytes) -> None:
    task = Task(BUSYBOX, command=f"echo ready; {SLEEPS}; echo over; exit 3", limits=LASTS.limits)
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        job = manager.submit(task)
        output = iter(manager.follow(job.job_id))
        assert next(output).data == b"ready\n"
        proxy.link.inject(stray)
        eventually(lambda: proxy.count(ATTACH) > 1, what="it is followed by another link")
        eventually(wake, what="its program goes on")
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 3, b"ready\nover\n"), result
    assert proxy.count(ATTACH) > 1
