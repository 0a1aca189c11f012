"""How jobs and managers end: kill_job, close in all its ways, exit without close, ctrl-C, kill -9."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest

from jobmanager import (
    ClientSync,
    DockerHost,
    JobManager,
    JobResult,
    Limits,
    MultipleChoice,
    Outcome,
    Task,
)
from jobmanager.control import closing as closing_steps
from jobmanager.errors import Closed, DuplicateJob, JobTimeout, NotStarted, QueueFull, WouldDeadlock
from tests.conftest import BUSYBOX, children, end_with_all_children, eventually, our_containers, our_threads, our_volumes
from tests.support.daemons import PrivateDaemon

SLEEPER = Task(BUSYBOX, command="echo started; sleep 60", limits=Limits(wall_time_s=90))
QUICK = Task(BUSYBOX, command="echo hello")


@pytest.fixture
def url(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


def wait_until_running(manager: JobManager, *job_ids: str) -> None:
    """Until these jobs have a host."""

    def run() -> bool:
        infos = [manager.get_job_queue_info(job_id) for job_id in job_ids]
        return all(info is not None and info.jobs_before == -1 for info in infos)

    eventually(run, what="jobs run")


def wait_for_running_containers(url: str, count: int) -> None:
    """Until so many containers run."""
    client = docker.APIClient(base_url=url, version="1.41")
    try:
        eventually(lambda: len(client.containers(filters={"label": "jobmanager.manager"})) >= count, what="containers run")
    finally:
        client.close()


def test_kill_job_ends_a_running_job_and_keeps_what_it_printed(url: str) -> None:
    results: list[JobResult] = []
    with JobManager(url) as manager:
        job_id = manager.new_job(SLEEPER, callback=results.append)
        with manager.follow(job_id, timeout_s=20) as live:
            assert next(live).data == b"started\n"
        assert manager.kill_job(job_id) is True
        eventually(lambda: results)
        assert manager.kill_job(job_id) is False
        assert manager.get_job_queue_info(job_id) is None
    assert results[0].outcome is Outcome.KILLED
    assert results[0].stdout == b"started\n"
    assert len(results) == 1


def test_kill_job_ends_a_waiting_job_without_a_container(url: str) -> None:
    results: list[JobResult] = []
    with JobManager(DockerHost(url, max_concurrent_jobs=1)) as manager:
        running = manager.new_job(SLEEPER, callback=results.append)
        wait_until_running(manager, running)
        waiting = manager.new_job(QUICK, callback=results.append)
        info = manager.get_job_queue_info(waiting)
        assert info is not None
        assert info.jobs_before == 0
        assert manager.kill_job(waiting)
        eventually(lambda: len(results) == 1)
        manager.kill_job(running)
    assert [result.job_id for result in results] == [waiting, running]
    assert results[0].host is None
    assert {result.outcome for result in results} == {Outcome.KILLED}


def test_kill_job_of_an_unknown_job_is_false(url: str) -> None:
    with JobManager(url) as manager:
        assert manager.kill_job("nobody") is False


@pytest.mark.case(29)
def test_leaving_with_waits_for_all_jobs(url: str) -> None:
    results: list[JobResult] = []
    with JobManager(url) as manager:
        for _ in range(6):
            manager.new_job(QUICK, callback=results.append)
    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 6
    assert not our_containers(url)


def test_leaving_with_by_an_exception_kills_all_jobs(url: str) -> None:
    results: list[JobResult] = []
    with pytest.raises(RuntimeError, match="mine"), JobManager(url) as manager:
        for _ in range(6):
            manager.new_job(SLEEPER, callback=results.append)
        raise RuntimeError("mine")
    assert [result.outcome for result in results] == [Outcome.KILLED] * 6
    assert not our_containers(url)


@pytest.mark.case(29)
def test_close_with_a_drain_time_kills_what_is_left_when_it_is_over(url: str) -> None:
    results: list[JobResult] = []
    manager = JobManager(url)
    manager.start()
    job_id = manager.new_job(SLEEPER, callback=results.append)
    wait_until_running(manager, job_id)
    manager.close(drain_timeout_s=0.5)
    assert [result.outcome for result in results] == [Outcome.KILLED]
    assert "drain" in results[0].text


@pytest.mark.case(29)
def test_a_second_close_and_a_close_before_start_do_nothing(url: str) -> None:
    never_started = JobManager(url)
    never_started.close()
    never_started.close()
    manager = JobManager(url)
    manager.start()
    manager.close()
    manager.close(kill=True)
    with pytest.raises(Closed):
        manager.start()


def test_close_with_kill_hurries_a_close_that_drains(url: str) -> None:
    results: list[JobResult] = []
    manager = JobManager(url)
    manager.start()
    wait_until_running(manager, manager.new_job(SLEEPER, callback=results.append))
    draining = threading.Thread(target=manager.close)
    draining.start()
    eventually(lambda: _refuses(manager), what="the drain has begun")
    manager.close(kill=True)
    draining.join(20)
    assert not draining.is_alive()
    assert [result.outcome for result in results] == [Outcome.KILLED]


def _refuses(manager: JobManager) -> bool:
    try:
        manager.new_job(QUICK)
    except Closed:
        return True
    return False


@pytest.mark.case(26)
def test_close_inside_a_callback_works(url: str) -> None:
    results: list[JobResult] = []
    manager = JobManager(url)
    manager.start()

    def close(result: JobResult) -> None:
        manager.close()
        results.append(result)

    manager.new_job(QUICK, callback=close)
    eventually(lambda: results)
    eventually(lambda: not our_threads(), what="everything has stopped behind the callback's back")
    with pytest.raises(Closed):
        manager.new_job(QUICK)


def test_new_job_before_start_and_after_close_is_refused(url: str) -> None:
    manager = JobManager(url)
    with pytest.raises(NotStarted, match="start"):
        manager.new_job(QUICK)
    manager.start()
    manager.close()
    with pytest.raises(Closed):
        manager.new_job(QUICK)


@pytest.mark.case(26)
def test_a_callback_may_submit_but_not_wait(url: str) -> None:
    errors: list[Exception] = []
    second: list[JobResult] = []
    with JobManager(url) as manager:

        def callback(result: JobResult) -> None:
            try:
                ClientSync(manager).new_job(QUICK)
            except WouldDeadlock as error:
                errors.append(error)
            manager.new_job(QUICK, callback=second.append)

        manager.new_job(QUICK, callback=callback)
        eventually(lambda: second)
    assert len(errors) == 1
    assert second[0].outcome is Outcome.SUCCESS


@pytest.mark.case(25)
def test_callbacks_that_raise_harm_nobody(url: str, caplog: pytest.LogCaptureFixture) -> None:
    results: list[JobResult] = []

    def raise_error(result: JobResult) -> None:
        raise ValueError("mine")

    def leave(result: JobResult) -> None:
        raise SystemExit(3)

    with JobManager(url, callback_threads=1) as manager:
        manager.new_job(QUICK, callback=raise_error)
        manager.new_job(QUICK, callback=leave)
        manager.new_job(QUICK, callback=results.append)
    assert len(results) == 1
    assert caplog.text.count("a callback of job") == 2


@pytest.mark.case(25)
def test_a_callback_that_blocks_holds_up_only_its_thread(url: str) -> None:
    results: list[JobResult] = []
    go_on = threading.Event()
    with JobManager(url, callback_threads=2) as manager:
        manager.new_job(QUICK, callback=lambda result: go_on.wait(30))
        for _ in range(5):
            manager.new_job(QUICK, callback=results.append)
        eventually(lambda: len(results) == 5)
        assert not go_on.is_set()
        go_on.set()


def test_slots_and_containers_are_free_although_all_callbacks_block(url: str) -> None:
    go_on = threading.Event()
    with JobManager(DockerHost(url, max_concurrent_jobs=1), callback_threads=1) as manager:
        for _ in range(3):
            manager.new_job(QUICK, callback=lambda result: go_on.wait(30))
        eventually(lambda: not our_containers(url) and manager.hosts()[0].running == 0, what="all ran and were deleted")
        eventually(lambda: manager.callbacks() == (1, 1, 2), what="that all callback threads are blocked can be seen")
        go_on.set()


def test_close_leaves_a_callback_that_never_returns_and_nothing_else(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing_steps, "AT_CLOSE", dataclasses.replace(closing_steps.AT_CLOSE, callback_s=0.5))
    never = threading.Event()
    manager = JobManager(url)
    manager.start()
    manager.new_job(QUICK, callback=lambda result: never.wait())
    eventually(lambda: manager.hosts()[0].running == 0 and not our_containers(url))
    manager.close()
    left = our_threads()
    assert len(left) == 1
    assert left[0].startswith("jobmanager-callbacks")
    never.set()


@pytest.mark.case(27)
def test_a_thousand_submits_from_fifty_threads_give_a_thousand_callbacks(url: str) -> None:
    """MultipleChoice needs no container, so that the numbers are about submitting."""
    local = Task(BUSYBOX, problems={"q": MultipleChoice("a")})
    lock = threading.Lock()
    seen: list[str] = []
    ids: list[str] = []

    def keep(result: JobResult) -> None:
        with lock:
            seen.append(result.job_id)

    def submit(manager: JobManager, number: int) -> None:
        for index in range(20):
            task = QUICK if number == 0 and index < 10 else local
            job_id = manager.new_job(task, {"q": "a"} if task is local else None, keep)
            with lock:
                ids.append(job_id)

    with JobManager(url) as manager:
        threads = [threading.Thread(target=submit, args=(manager, number)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids)) == 1000
    assert sorted(seen) == sorted(ids)


@pytest.mark.case(28)
def test_a_submit_that_races_close_is_either_called_back_or_refused(url: str) -> None:
    called: list[str] = []
    accepted: list[str] = []
    refused = 0
    manager = JobManager(url)
    manager.start()
    closing = threading.Thread(target=manager.close)
    for number in range(60):
        if number == 30:
            closing.start()
        try:
            accepted.append(manager.new_job(QUICK, callback=lambda result: called.append(result.job_id)))
        except Closed:
            refused += 1
    closing.join(60)
    assert sorted(called) == sorted(accepted)
    assert refused + len(accepted) == 60
    assert refused > 0


@pytest.mark.case(45)
def test_a_full_queue_and_a_duplicate_id_are_refused_at_the_call(url: str) -> None:
    results: list[JobResult] = []
    with JobManager(DockerHost(url, max_concurrent_jobs=1), max_waiting_jobs=2) as manager:
        running = manager.new_job(SLEEPER, callback=results.append, job_id="mine")
        wait_until_running(manager, running)
        with pytest.raises(DuplicateJob, match="mine"):
            manager.new_job(QUICK, job_id="mine")
        waiting = [manager.new_job(QUICK, callback=results.append) for _ in range(2)]
        with pytest.raises(QueueFull, match="max_waiting_jobs"):
            manager.new_job(QUICK)
        manager.kill_job("mine")
    assert [result.job_id for result in results] == ["mine", *waiting]


def test_client_sync_kills_the_job_when_its_patience_is_over(url: str) -> None:
    with JobManager(url) as manager:
        began = time.monotonic()
        with pytest.raises(JobTimeout):
            ClientSync(manager).new_job(SLEEPER, timeout_s=1)
        assert time.monotonic() - began < 20
        eventually(lambda: not our_containers(url))


# ---- the caller's own end


SCRIPT = """
import sys, time
from jobmanager import JobManager, Task, Limits
manager = JobManager({url!r})
manager.start()
task = Task("jobmanager-busybox:1", command="echo started; sleep 60", limits=Limits(wall_time_s=90))
ids = [manager.new_job(task) for _ in range({jobs})]
while not all(manager.get_job_queue_info(i).jobs_before == -1 for i in ids[:4]):
    time.sleep(0.02)
print("running", flush=True)
{rest}
"""


def run_script(url: str, rest: str, jobs: int = 20) -> subprocess.Popen[str]:
    """A caller in a process of its own, from when its first jobs run."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).format(url=url, rest=textwrap.dedent(rest), jobs=jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n", process.communicate()
    return process


@pytest.mark.case(29)
def test_a_script_that_ends_without_close_leaves_nothing_and_says_nothing(url: str) -> None:
    process = run_script(url, "")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert not our_containers(url)


@pytest.mark.case(30)
def test_ctrl_c_gives_one_keyboard_interrupt_in_the_caller_only(url: str) -> None:
    """Once it sleeps: Python does not see a signal that comes just before a call of the kernel's that waits."""
    process = run_script(url, "with manager: time.sleep(60)")
    eventually(lambda: "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text(), what="it sleeps")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.count("Traceback") == 1
    assert err.count("KeyboardInterrupt") == 1
    assert not our_containers(url)


@pytest.mark.case(30)
def test_ctrl_c_while_close_drains_kills_the_jobs(url: str) -> None:
    process = run_script(url, "print('closing', flush=True); manager.close()")
    assert process.stdout is not None
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.count("KeyboardInterrupt") == 1
    assert not our_containers(url)


def test_sigterm_ends_children_too(url: str) -> None:
    process = run_script(url, "time.sleep(60)")
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=20)
    eventually(lambda: not any(child.is_running() for child in family), within_s=5, what="children are gone")
    with JobManager(url):
        eventually(lambda: not our_containers(url), what="leftovers are swept")


@pytest.mark.case(31)
def test_after_kill_9_children_go_and_the_next_start_sweeps_but_never_a_living_managers(url: str) -> None:
    results: list[JobResult] = []
    with JobManager(url) as neighbour:
        job_id = neighbour.new_job(Task(BUSYBOX, command="sleep 8; echo survived"), callback=results.append)
        wait_until_running(neighbour, job_id)
        process = run_script(url, "time.sleep(60)")
        wait_for_running_containers(url, 3)
        end_with_all_children(process)
        process.communicate(timeout=10)
        left = len(our_containers(url))
        assert left > 1
        with JobManager(url):
            eventually(lambda: len(our_containers(url)) <= 1, what="the dead manager's containers are removed")
    assert [result.outcome for result in results] == [Outcome.SUCCESS]
    assert results[0].stdout == b"survived\n"


def ignores_ctrl_c(process: psutil.Process) -> bool:
    ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return ignored is not None and bool(int(ignored[1], 16) & 1 << signal.SIGINT - 1)


@pytest.mark.case(31)
def test_children_that_somebody_has_stopped_end_with_the_caller_too(url: str) -> None:
    """They were started from a thread that has ended since: a signal for its end alone would have come too soon."""
    process = run_script(url, "time.sleep(60)")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2  # a waiter and a pool worker
    eventually(lambda: all(ignores_ctrl_c(child) for child in family), what="all have read their first lines")
    for child in family:
        child.suspend()
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: not any(child.is_running() for child in family), within_s=5, what="children are gone")
    with JobManager(url):
        eventually(lambda: not our_containers(url), what="leftovers are swept")


@pytest.mark.case(31)
def test_after_kill_9_of_the_caller_alone_its_children_are_gone_within_5_s(url: str) -> None:
    process = run_script(url, "time.sleep(60)")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2  # a waiter and a pool worker
    process.kill()
    _, err = process.communicate(timeout=10)
    eventually(lambda: not any(child.is_running() for child in family), within_s=5, what="children are gone")
    assert err == ""
    with JobManager(url):
        eventually(lambda: not our_containers(url), what="leftovers are swept")
    assert not [line for line in children() if "jobmanager" in line and "dockerd" not in line]
