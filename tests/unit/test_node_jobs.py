"""What a node holds: slots, tokens that were used, and jobs that it was told to give up."""

from __future__ import annotations

import pytest

from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.records import JobHeader, Needs
from jobmanager.remote.store import HeldPlacement

NEEDS = Needs(environment="python3", memory_mib=64, cpus=1.0, wall_s=10.0)


def job(number: int, token: str = "", job_id: str = "") -> HeldJob:
    header = JobHeader(
        schema=1,
        r=f"{number:032x}",
        job_id=job_id or f"job-{number}",
        client="web",
        launcher="me",
        priority=0,
        title="",
        job_class="",
        needs=NEEDS,
        retries=0,
        supersede_key=None,
        queue_timeout_s=60.0,
        not_after_s=1e12,
        body="",
    )
    return HeldJob(header=header, token=token or f"t{number}")


@pytest.fixture
def jobs() -> NodeJobs:
    return NodeJobs(slots=2)


def started(jobs: NodeJobs, number: int) -> HeldJob:
    held = job(number)
    assert jobs.take(held)
    assert jobs.run(held, runs=1)
    return held


def test_a_slot_is_taken_from_a_jobs_arrival_until_its_end(jobs: NodeJobs) -> None:
    first, second = job(1), job(2)
    jobs.take(first), jobs.take(second)
    assert (jobs.used, jobs.has_room()) == (2, False)

    jobs.run(first, runs=1)
    jobs.end(first)
    jobs.drop(second.token)

    assert (jobs.used, jobs.has_room()) == (0, True)


def test_a_token_is_used_once_also_when_its_job_is_gone(jobs: NodeJobs) -> None:
    held = job(1)
    assert jobs.take(held)
    assert not jobs.take(job(1))

    jobs.drop(held.token)

    assert not jobs.take(job(1))
    assert jobs.take(job(1, token="another"))


def test_held_are_those_that_were_started_until_redis_has_their_results(jobs: NodeJobs) -> None:
    held = job(1)
    jobs.take(held)
    assert jobs.held() == []

    jobs.run(held, runs=3)
    assert jobs.held() == [HeldPlacement(held.r, "t1", 3)]
    assert jobs.end(held)
    assert jobs.held() == [HeldPlacement(held.r, "t1", 3)]

    jobs.drop("t1")
    assert (jobs.held(), len(jobs)) == ([], 0)


def test_the_first_start_of_a_program_was_counted_as_the_job_was_handed_over(jobs: NodeJobs) -> None:
    held = started(jobs, 1)

    assert [jobs.count_start(held) for _ in range(3)] == [1, 2, 3]

    assert held.runs == 3


def test_a_job_that_is_given_up_keeps_its_slot_until_its_end_which_nobody_hears_of(jobs: NodeJobs) -> None:
    held = started(jobs, 1)

    assert jobs.fence((held.r,)) == [held]
    assert (jobs.held(), jobs.find(held.r), jobs.used) == ([], None, 1)

    assert not jobs.end(held)
    assert (jobs.used, len(jobs)) == (0, 0)


def test_what_does_not_run_is_given_up_at_once(jobs: NodeJobs) -> None:
    taken, ended = job(1), started(jobs, 2)
    jobs.take(taken)
    jobs.end(ended)

    assert jobs.fence() == []

    assert len(jobs) == 0
    assert not jobs.run(taken, runs=1)  # whoever was about to start it hears of it


def test_a_job_may_come_again_while_its_earlier_placement_is_being_killed(jobs: NodeJobs) -> None:
    old = started(jobs, 1)
    jobs.fence((old.r,))
    again = job(1, token="t9")

    assert jobs.take(again)

    assert jobs.find(old.r) is again
    assert jobs.find_local("job-1") is again
    again.take_other_local_id()
    assert again.local_id == "job-1.t9"
    assert not jobs.end(old)
    assert jobs.find(old.r) is again


def test_a_job_id_of_any_length_has_a_local_id_that_a_manager_takes() -> None:
    held = job(1, token="a" * 32, job_id="x" * 200)

    held.take_other_local_id()

    assert len(held.local_id) <= 200


def test_a_wait_ends_with_a_change_and_what_nobody_waits_for_is_not_heaped_up(jobs: NodeJobs) -> None:
    for _ in range(1000):
        jobs.wake()

    jobs.wait(60.0)

    assert jobs._changes.empty()
