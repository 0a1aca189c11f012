"""What the ledger has hooks told of a pipeline's phases, and what it says of where their output is."""

from __future__ import annotations

import pytest

from jobmanager import Outcome, Phase, Pipeline, Task
from jobmanager.ipc.messages import StartFailed, StartRefused
from jobmanager.model.container_states import ContainerState
from jobmanager.results.facts import CapturedOutput
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import MonitorRun, NotifyJobPlaced, NotifyPhaseEnded, PublishResult, SubmitContainer
from jobmanager.scheduling.job_record import OutputSource, RunSource
from tests.support.run_facts import cut_off, exited
from tests.unit.ledger_driver import Driver

TASK = Task("python3", command="x")
THREE = Pipeline([Phase("build", TASK), Phase("test", TASK), Phase("report", TASK, when="always")])
FAILED = exited(1)


def driver_of(pipeline: Pipeline, *more_hosts: str) -> Driver:
    driver = Driver({"a": 1, **dict.fromkeys(more_hosts, 1)})
    driver.accept("j", pipeline)
    return driver


def begin_next(driver: Driver) -> str:
    """Have the containers started that are wanted, and the next phase given to its own: that one's name."""
    for container in [submit.container for submit in driver.of(SubmitContainer)]:
        record = driver.ledger._containers.get(container)
        if record is not None and record.state is ContainerState.STARTING:
            driver.runs(container)
    return driver.watches()[-1].container


def ends_of(driver: Driver) -> list[tuple[int, str, Outcome]]:
    return [(end.number, end.phase, end.outcome) for end in driver.of(NotifyPhaseEnded)]


def test_a_pipeline_is_placed_once_and_each_phase_has_an_end_before_the_next_one_is_sent() -> None:
    driver = driver_of(THREE)
    driver.end(begin_next(driver))
    driver.end(begin_next(driver), FAILED)
    driver.end(begin_next(driver))

    kinds = (NotifyJobPlaced, NotifyPhaseEnded, MonitorRun, PublishResult)
    told = [command for command in driver.of(object) if isinstance(command, kinds)]
    assert [type(command) for command in told] == [NotifyJobPlaced, *[MonitorRun, NotifyPhaseEnded] * 3, PublishResult]
    assert told[0] == NotifyJobPlaced(job_id="j", host="a")
    assert told[2] == NotifyPhaseEnded(job_id="j", phase="build", number=0, outcome=Outcome.SUCCESS, host="a")
    assert ends_of(driver)[1:] == [(1, "test", Outcome.FAILED), (2, "report", Outcome.SUCCESS)]


def test_a_phase_that_is_not_run_has_no_end() -> None:
    driver = driver_of(THREE)
    driver.end(begin_next(driver), FAILED)
    driver.end(begin_next(driver))

    assert ends_of(driver) == [(0, "build", Outcome.FAILED), (2, "report", Outcome.SUCCESS)]
    assert [phase.verdict is None for phase in driver.result("j").phases] == [False, True, False]


def test_a_phase_that_is_killed_has_an_end_and_those_after_it_have_none() -> None:
    driver = driver_of(THREE)
    container = begin_next(driver)
    driver.ledger.kill("j", KillReason.CLOSE)
    driver.end(container, cut_off())

    assert ends_of(driver) == [(0, "build", Outcome.KILLED)]


@pytest.mark.parametrize("number", [0, 1])
def test_a_phase_that_could_not_be_started_has_an_end(number: int) -> None:
    driver = driver_of(Pipeline([Phase("build", TASK), Phase("test", TASK)]))
    first, *_ = [submit.container for submit in driver.submits()]
    if number:
        driver.runs(first)
        driver.carry_out()
        driver.end(first)
    container = driver.of(SubmitContainer)[number].container
    driver.start_reported(container, StartRefused(reason="no such device"))

    assert ends_of(driver)[number:] == [(number, ("build", "test")[number], Outcome.CRASH)]
    assert [watch.run for watch in driver.watches()] == [0] * number


def test_a_job_that_is_placed_again_is_told_again() -> None:
    driver = driver_of(THREE, "b")
    driver.start_reported(driver.submits()[0].container, StartFailed(reason="broken", unreachable=False))

    assert [placed.host for placed in driver.of(NotifyJobPlaced)] == ["a", "b"]


def test_a_submitter_that_dies_places_nothing_again() -> None:
    driver = driver_of(THREE)
    driver.start_reported(driver.submits()[0].container, None)

    assert len(driver.of(SubmitContainer)) == 2
    assert len(driver.of(NotifyJobPlaced)) == 1


def test_only_the_last_container_of_a_job_that_is_over_takes_its_slot_along() -> None:
    driver = driver_of(Pipeline([Phase("build", TASK), Phase("test", TASK)]))
    build = begin_next(driver)
    driver.end(build)
    test = driver.of(SubmitContainer)[-1].container
    driver.start_reported(test, StartFailed(reason="away", unreachable=False))
    assert driver.ledger.container_deleted(build) is None
    assert driver.ledger.container_deleted(test) is None  # the job waits for another one, and no container is there

    driver.ledger.tick()
    driver.end(begin_next(driver))

    (last,) = driver.ledger.containers()
    assert driver.ledger.container_deleted(last) == "j"
    assert driver.ledger.container_deleted(last) is None


def test_the_ledger_says_where_the_output_of_each_phase_is() -> None:
    driver = driver_of(THREE)
    assert driver.ledger.output_source("j") == OutputSource(placement=0, runs=(RunSource(phase="build"),), ended=False)
    build = begin_next(driver)
    assert driver.ledger.output_source("j") == OutputSource(
        placement=1, runs=(RunSource(phase="build", container=build),), ended=False
    )
    built, reported = exited(1, output=CapturedOutput(stdout=b"built")), exited(output=CapturedOutput(stdout=b"sent"))
    driver.end(build, built)
    report = begin_next(driver)

    ahead = next(submit.container for submit in driver.of(SubmitContainer) if submit.run == 1)
    begun = (RunSource(phase="build", container=build, facts=built), RunSource(phase="test", container=ahead))
    assert driver.ledger.output_source("j") == OutputSource(
        placement=1, runs=(*begun, RunSource(phase="report", container=report)), ended=False
    )
    driver.end(report, reported)
    assert driver.ledger.output_source("j") == OutputSource(
        placement=1, runs=(*begun, RunSource(phase="report", container=report, facts=reported)), ended=True
    )
