"""``kill_job`` in every state that a job can be in, one by one: what it says, what becomes of the job, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jobmanager import DockerHost, JobManager, JobResult, Outcome, Task
from jobmanager.ipc.messages import StartFailed
from jobmanager.results.facts import HostGivenUp, Limit, LimitHit
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.job_states import JobState
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually
from tests.support.run_facts import cut_off
from tests.unit.ledger_driver import LOCAL_ONLY, SUCCESS, Driver

CUT_OFF = cut_off(HostGivenUp())
AGAIN = Task("python3", command="true", retries=1)


def waits(driver: Driver) -> None:
    driver.ledger.host_down("a", "away")
    driver.accept("j")


def waits_again_as_its_host_could_not(driver: Driver) -> None:
    driver.accept("j")
    driver.start_reported(driver.place("j"), StartFailed(reason="away", unreachable=True))


def waits_again_as_its_run_was_cut_off(driver: Driver) -> None:
    driver.accept("j", AGAIN)
    driver.end(driver.run("j"), CUT_OFF)


def is_placed(driver: Driver) -> None:
    driver.accept("j")
    driver.place("j")


def runs(driver: Driver) -> None:
    driver.accept("j")
    driver.run("j")


def runs_and_is_being_stopped_for_a_limit(driver: Driver) -> None:
    driver.accept("j")
    driver.ledger.limit_reached(driver.run("j"), LimitHit(limit=Limit.WALL, measured=90.0))


def runs_without_a_waiter(driver: Driver) -> None:
    driver.accept("j")
    driver.ledger.waiter_died([driver.run("j")])


def runs_and_was_killed(driver: Driver) -> None:
    runs(driver)
    driver.ledger.kill("j", KillReason.KILL_JOB)


def waits_for_its_callback(driver: Driver) -> None:
    driver.accept("j")
    driver.end(driver.run("j"), SUCCESS)


def waits_for_its_callback_without_a_container(driver: Driver) -> None:
    driver.accept("j", LOCAL_ONLY)


def was_killed_while_it_waited(driver: Driver) -> None:
    waits(driver)
    driver.ledger.kill("j", KillReason.KILL_JOB)


def was_superseded(driver: Driver) -> None:
    driver.ledger.host_down("a", "away")
    driver.accept("j", supersede_key="k")
    driver.accept("newer", supersede_key="k")


def is_over(driver: Driver) -> None:
    waits_for_its_callback(driver)
    driver.ledger.callback_returned("j")


def was_never_there(driver: Driver) -> None:
    driver.accept("another")
    driver.ledger.kill("another", KillReason.KILL_JOB)


def state(driver: Driver) -> JobState | None:
    job = driver.ledger._jobs.get("j")
    return job.state if job is not None else None


# (how it came there, its state, whether it can be killed, how it ends)
STATES: list[tuple[Callable[[Driver], None], JobState | None, bool, Outcome | None]] = [
    (waits, JobState.WAITING, True, Outcome.KILLED),
    (waits_again_as_its_host_could_not, JobState.WAITING, True, Outcome.KILLED),
    (waits_again_as_its_run_was_cut_off, JobState.WAITING, True, Outcome.KILLED),
    (is_placed, JobState.ASSIGNED, True, Outcome.KILLED),
    (runs, JobState.RUNNING, True, Outcome.KILLED),
    (runs_and_is_being_stopped_for_a_limit, JobState.RUNNING, True, Outcome.KILLED),
    (runs_without_a_waiter, JobState.RUNNING, True, Outcome.KILLED),
    (runs_and_was_killed, JobState.RUNNING, True, Outcome.KILLED),
    (waits_for_its_callback, JobState.DONE, False, Outcome.SUCCESS),
    (waits_for_its_callback_without_a_container, JobState.DONE, False, Outcome.SUCCESS),
    (was_killed_while_it_waited, JobState.DONE, False, Outcome.KILLED),
    (was_superseded, JobState.DONE, False, Outcome.KILLED),
    (is_over, None, False, Outcome.SUCCESS),
    (was_never_there, None, False, None),
]


@pytest.mark.parametrize(("comes_there", "there", "can_be", "outcome"), STATES, ids=[case[0].__name__ for case in STATES])
def test_kill_job_says_whether_the_job_had_not_ended_and_it_ends_once(comes_there, there, can_be, outcome):
    driver = Driver({"a": 1})
    comes_there(driver)
    assert state(driver) is there

    assert driver.ledger.kill("j", KillReason.KILL_JOB) is can_be

    if state(driver) is JobState.RUNNING:  # its waiter kills the container, and reports that
        assert driver.kills()[-1] == driver.watches()[-1].container
        driver.end(driver.watches()[-1].container, cut_off())
    assert [result.verdict.outcome for result in driver.results("j")] == ([outcome] if outcome is not None else [])
    assert not driver.ledger.kill("j", KillReason.KILL_JOB)


def test_every_state_is_among_them():
    assert {there for _, there, _, _ in STATES} == {*JobState, None}


# ---- whole managers


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(["shell"]) as server:
        yield server


def test_a_job_whose_container_is_being_made_is_killed_at_once_and_never_begins(fake: FakeEngineServer) -> None:
    got: list[JobResult] = []
    with JobManager(DockerHost(fake.url)) as manager:
        fake.faults.pause()
        job_id = manager.new_job(Task("shell", command="echo ran"), callback=got.append)
        eventually(lambda: [job.job_id for job in manager.get_job_queue_snapshot()[0]] == [job_id], what="it is placed")

        assert manager.kill_job(job_id) is True
        (result,) = eventually(lambda: got, what="its callback is called while the engine hangs")
        assert manager.kill_job(job_id) is False
        fake.faults.resume()

    assert (result.outcome, result.text, result.stdout) == (Outcome.KILLED, "killed: kill_job", b"")
    assert (len(got), fake.runs(), fake.containers()) == (1, {}, [])


def test_a_job_that_is_in_its_callback_has_ended(fake: FakeEngineServer) -> None:
    answers: list[bool] = []
    with JobManager(DockerHost(fake.url)) as manager:
        manager.new_job(Task("shell", command="true"), callback=lambda result: answers.append(manager.kill_job(result.job_id)))
        eventually(lambda: answers)

    assert answers == [False]
