"""The queue on a real engine with one slot: launchers take turns, and a newer job takes the place of a waiting older one."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from jobmanager import ClientBuffer, ClientSync, DockerHost, JobManager, JobResult, Outcome, Task
from tests.conftest import BUSYBOX, SLOWNESS, eventually

PATIENCE_S = 60.0 * SLOWNESS
QUICK = Task(BUSYBOX, command="true", name="quick")
HELD = Task(BUSYBOX, command="sleep 600", name="held")


@pytest.fixture
def manager(engine_url):
    with JobManager(DockerHost(engine_url, name="one", max_concurrent_jobs=1), callback_threads=1) as manager:  # in their order
        yield manager


def held(manager: JobManager) -> str:
    """A job that has the only slot until it is killed."""
    job_id = manager.new_job(HELD, launcher_name="holder")
    eventually(lambda: manager.get_job_queue_info(job_id).jobs_before == -1, what="it has the slot")
    return job_id


def test_two_launchers_take_turns_on_a_host_of_one_slot_and_the_order_was_foreseen(manager):
    holder = held(manager)
    ended: list[str] = []
    for launcher, jobs in (("ann", 6), ("bob", 3)):
        for number in range(jobs):
            name = f"{launcher} {number}"
            manager.new_job(QUICK, None, lambda result: ended.append(result.job_id), launcher_name=launcher, job_id=name)
    running, waiting = manager.get_job_queue_snapshot()
    assert [(job.job_id, job.host, job.launcher, job.max_time) for job in running] == [(holder, "one", "holder", 90)]
    assert [manager.get_job_queue_info(job.job_id).jobs_before for job in waiting] == list(range(9))

    manager.kill_job(holder)

    eventually(lambda: len(ended) == 9, within_s=PATIENCE_S, what="all have ended")
    first = [name.split()[0] for name in ended[:6]]
    assert min(Counter(first)["ann"], Counter(first)["bob"]) >= 2  # shares are of time, and on a busy machine jobs differ in that
    assert [name for name in ended if name.startswith("ann")] == [f"ann {number}" for number in range(6)]
    assert [job.launcher for job in waiting[:6]].count("bob") == 3


def test_a_superseded_job_ends_once_as_killed_and_names_the_newer_one_which_has_its_turn(manager):
    holder = held(manager)
    results: list[JobResult] = []
    called_back = threading.Event()

    def callback(result: JobResult) -> None:
        results.append(result)
        if len(results) == 4:
            called_back.set()

    older = manager.new_job(QUICK, None, callback, supersede_key="ann/quick", launcher_name="ann")
    other = manager.new_job(QUICK, None, callback, launcher_name="ann")
    newer = manager.new_job(QUICK, None, callback, supersede_key="ann/quick", launcher_name="ann")
    newest = manager.new_job(QUICK, None, callback, supersede_key="ann/quick", launcher_name="ann")
    eventually(lambda: len(results) == 2, what="both older ones have ended while the slot is taken")
    assert not manager.kill_job(older)

    manager.kill_job(holder)

    assert called_back.wait(PATIENCE_S)
    assert [result.job_id for result in results] == [older, newer, newest, other]
    assert [result.outcome for result in results] == [Outcome.KILLED, Outcome.KILLED, Outcome.SUCCESS, Outcome.SUCCESS]
    assert [result.text for result in results[:2]] == [f"killed: superseded by job {job_id}" for job_id in (newer, newest)]
    proof = {evidence.kind: evidence.value for evidence in results[0].evidence}
    assert proof == {"requested_by": "superseded", "superseded_by": newer}
    assert manager.get_job_queue_info(older) is None


def test_a_job_that_runs_goes_on_and_every_way_in_takes_the_key(manager):
    running = manager.submit(Task(BUSYBOX, command="echo runs; sleep 1", name="runs"), supersede_key="k")
    eventually(lambda: manager.get_job_queue_info(running.job_id).jobs_before == -1, what="it has the slot")
    buffer = ClientBuffer(manager)

    waiting = buffer.new_job(QUICK, supersede_key="k")
    last = ClientSync(manager).new_job(QUICK, supersede_key="k")

    assert running.result(PATIENCE_S).outcome is Outcome.SUCCESS
    assert running.result().stdout_text == "runs\n"
    assert last.outcome is Outcome.SUCCESS
    assert buffer.get_result(waiting).text == f"killed: superseded by job {last.job_id}"
