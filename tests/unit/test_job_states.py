"""The state machine of a job: its table, and the same driven through the ledger."""

from __future__ import annotations

import itertools

import pytest

from jobmanager import Outcome
from jobmanager.ipc.messages import ContainerStarted, StartFailed, StartRefused
from jobmanager.model.container_states import ContainerState
from jobmanager.results.facts import HostGivenUp, RemovedExternally
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from tests.support.run_facts import cut_off, not_sent
from tests.unit.ledger_driver import SUCCESS, Driver

W, A, R, D = JobState.WAITING, JobState.ASSIGNED, JobState.RUNNING, JobState.DONE

MOVES = {(event, state) for event, cells in TRANSITIONS.items() for state in cells}
NOTHING = sorted(set(itertools.product(JobEvent, JobState)) - MOVES, key=str)


def test_every_event_is_in_the_table():
    assert set(TRANSITIONS) == set(JobEvent)


def test_every_way_out_of_an_unfinished_state_that_ends_in_done_delivers_once():
    for cells in TRANSITIONS.values():
        for state, transition in cells.items():
            assert transition.actions.count(JobAction.PUBLISH) == (state is not D and transition.to is D), (state, transition)


def test_a_job_that_leaves_its_host_releases_its_containers():
    for event, cells in TRANSITIONS.items():
        for state, transition in cells.items():
            if state in (A, R) and transition.to in (W, D):
                assert JobAction.RELEASE in transition.actions, (event, state)


def test_nothing_happens_to_a_job_that_is_done():
    assert not any(D in cells for cells in TRANSITIONS.values())


# ---- the same, driven through the ledger


def _reached(state):
    """A driver with one job in that state, and its container's name as far as it has one."""
    driver = Driver({"a": 1}, queue_timeout_s=1000.0)
    if state is W:
        driver.ledger.host_down("a", "away")  # nobody takes it
    driver.accept("j")
    driver.carry_out()
    container = next(iter(driver.ledger.containers()), "jobmanager-m-1-1")
    if state in (R, D):
        driver.runs(container)
    if state is D:
        driver.end(container)
    driver.carry_out()
    assert driver.ledger._jobs["j"].state is state
    return driver, container


def _everything(driver):
    job = driver.ledger._jobs["j"]
    fields = {name: getattr(job, name) for name in type(job).__dataclass_fields__ if name != "steps"}
    return fields, driver.ledger.containers(), driver.slots(), len(driver.ledger._queue), len(job.steps)


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_what_is_not_in_the_table_changes_nothing(state):
    driver, _ = _reached(state)
    before = _everything(driver)

    for event, at in NOTHING:
        if at is state:
            driver.ledger._jobs._apply(driver.ledger._jobs["j"], event)
            assert _everything(driver) == before, event
            assert driver.carry_out() == [], event


# Every report that the world can make, whatever state the job is in: the job has one result in the end
REPORTS = {
    "container runs": lambda driver, container: driver.runs(container),
    "host cannot: image gone": lambda driver, container: driver.start_reported(
        container, StartFailed(reason="image gone", unreachable=False)
    ),
    "host cannot: unreachable": lambda driver, container: driver.start_reported(
        container, StartFailed(reason="refused", unreachable=True)
    ),
    "refused": lambda driver, container: driver.start_reported(container, StartRefused(reason="bad")),
    "submitter died": lambda driver, container: driver.start_reported(container, None),
    "began": lambda driver, container: driver.ledger.job_sent(container),
    "ended": lambda driver, container: driver.end(container),
    "never began": lambda driver, container: driver.end(container, cut_off()),
    "untouched": lambda driver, container: driver.end(container, not_sent()),
    "gone": lambda driver, container: driver.end(container, cut_off(RemovedExternally())),
    "host lost": lambda driver, container: driver.end(container, cut_off(HostGivenUp(), outage_s=61)),
    "waiter died": lambda driver, container: driver.ledger.waiter_died([container]),
    "kill": lambda driver, container: driver.ledger.kill("j", KillReason.KILL_JOB),
    "give up": lambda driver, container: driver.ledger.give_up_all(),
    "host silent": lambda driver, container: driver.ledger.host_down("a", "away"),
    "host answers": lambda driver, container: driver.answers("a"),
    "delete failed": lambda driver, container: driver.ledger.deletion_failed(container),
    "stray": lambda driver, container: driver.ledger.strays_found("a", [container]),
    "a year passes": lambda driver, container: (
        setattr(driver.clock, "now", driver.clock.now + 3e7),
        driver.ledger.tick(),
    ),
}
OF_A_SUBMITTER = {"container runs", "host cannot: image gone", "host cannot: unreachable", "refused", "submitter died"}


def _bring_to_an_end(driver):
    """Do what the roles would do, until nothing is left."""
    for _ in range(60):
        driver.answers("a")
        driver.ledger.kill("j", KillReason.KILL_JOB)
        driver.carry_out()
        for container in list(driver.ledger.containers()):
            state = driver.ledger._containers[container].state
            if state in (ContainerState.STARTING, ContainerState.UNWANTED):
                driver.runs(container)
            elif state is ContainerState.BUSY:
                driver.end(container)
            else:
                driver.ledger.container_deleted(container)
        for order in driver.commands:
            if hasattr(order, "verdict"):
                driver.ledger.callback_returned(order.request.job_id)
        if not driver.ledger.unfinished() and driver.ledger.containers() == {}:
            return
    raise AssertionError("it does not end")


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_two_reports_in_any_order_leave_one_result_and_no_slot(state):
    for first, second in itertools.product(REPORTS, REPORTS):
        driver, container = _reached(state)
        for name in (first, second):
            if name in OF_A_SUBMITTER and container not in driver.ledger.containers():
                continue  # who was asked for a container reports on it before it is deleted
            REPORTS[name](driver, container)
            driver.carry_out()
        if state is A and not {first, second} & OF_A_SUBMITTER:
            driver.start_reported(container, ContainerStarted(container_id="1", image_command=(), duration_s=0.0))

        _bring_to_an_end(driver)

        assert len(driver.results("j")) == 1, (first, second)
        assert driver.empty(), (first, second)


def test_the_way_of_a_job_that_meets_no_trouble():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    (watch,) = driver.watches()
    assert (watch.host, watch.container, watch.container_id, watch.kill_at_once) == ("a", container, f"id of {container}", False)

    driver.end(container, SUCCESS)

    result = driver.result("j")
    assert (result.verdict.outcome, result.host, result.facts) == (Outcome.SUCCESS, "a", SUCCESS)
    assert [step.name for step in result.steps] == ["accepted", "host_assigned", "container_started", "run_ended"]
    assert driver.deletes() == [container]
    assert driver.slots() == {"a": 1}
    assert driver.ledger.container_deleted(container) == "j"
    assert driver.empty()
