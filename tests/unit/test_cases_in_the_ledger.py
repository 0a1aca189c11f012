"""Cases in the ledger: what is told of them counts once, and what one container could not have, another one has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dev.queue_simulation import SUCCESS
from jobmanager import Case, Checker, Interactor, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.control.launch import container_spec
from jobmanager.engine.labels import Owner
from jobmanager.model.container import ContainerSpec
from jobmanager.model.result import CaseResult, RunResult
from jobmanager.results.facts import HostGivenUp, JobNotSent, RunCutOff, RunFacts
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import DeleteVolumes, MonitorRun, NotifyCaseEnded, SubmitContainer
from tests.unit.ledger_driver import Driver

RAN = RunResult(outcome=Outcome.SUCCESS, exit_code=0)
NOT_CLEAN = replace(SUCCESS, not_clean="a process is left")
LOST = RunFacts(ending=RunCutOff(cause=HostGivenUp()))
NOT_SENT = RunFacts(ending=JobNotSent(cause=HostGivenUp()))
THREE = Task("python3", build="make", command="./main", cases=[Case(name=name) for name in "abc"], retries=1)


def right(name: str) -> CaseResult:
    return CaseResult(name=name, outcome=Outcome.SUCCESS, correct=True, points=1.0, run=RAN)


def began(task: Task | Pipeline = THREE, *, hosts: int = 1) -> tuple[Driver, str]:
    driver = Driver({f"host{number}": 1 for number in range(hosts)})
    driver.accept("j", task)
    container = driver.run("j")
    return driver, container


def build_done(driver: Driver, container: str) -> None:
    driver.ledger.build_done(container, RAN)


def case_done(driver: Driver, container: str, number: int) -> None:
    driver.ledger.case_done(container, number, right("abc"[number - 1]))


def next_container(driver: Driver) -> str:
    submit = driver.of(SubmitContainer)[-1]
    driver.runs(submit.container)
    driver.carry_out()
    return str(submit.container)


def test_what_is_told_of_cases_is_in_the_result_and_each_is_announced_once() -> None:
    driver, container = began()
    build_done(driver, container)
    for number in (1, 2, 2, 1, 3):  # a waiter that took over tells some again
        case_done(driver, container, number)
    driver.end(container)

    result = driver.result("j")
    assert result.verdict.outcome is Outcome.SUCCESS
    assert [case.name for case in result.progress.cases] == ["a", "b", "c"] and result.progress.build == RAN
    assert [(told.number, told.of) for told in driver.of(NotifyCaseEnded)] == [(1, 3), (2, 3), (3, 3)]


def test_a_waiter_that_takes_over_is_told_what_has_ended() -> None:
    driver, container = began()
    build_done(driver, container)
    case_done(driver, container, 1)
    driver.ledger.waiter_died([container])

    again = driver.watches()[-1]
    assert again.taken_over and again.is_built and [case.name for case in again.progress.cases] == ["a"]


def test_a_report_that_lacks_a_case_is_a_crash_and_no_success() -> None:
    driver, container = began()
    build_done(driver, container)
    case_done(driver, container, 1)
    driver.end(container)
    verdict = driver.result("j").verdict
    assert (verdict.outcome, verdict.text) == (Outcome.CRASH, "what became of case b was not reported")


def test_the_rest_of_the_cases_has_another_container_and_what_has_ended_stays() -> None:
    driver, container = began()
    build_done(driver, container)
    case_done(driver, container, 1)
    driver.end(container, NOT_CLEAN)

    second = next_container(driver)
    assert second != container and container in driver.deletes()
    order = driver.watches()[-1]
    assert not order.taken_over and not order.is_built and [case.name for case in order.progress.cases] == ["a"]
    build_done(driver, second)
    case_done(driver, container, 2)  # a late word of the first one
    case_done(driver, second, 2)
    case_done(driver, second, 3)
    driver.end(second)

    assert driver.result("j").verdict.outcome is Outcome.SUCCESS
    for each in (container, second):
        driver.ledger.container_deleted(each)
    assert driver.empty()


def test_after_three_more_containers_the_rest_is_failed_and_not_run() -> None:
    driver, container = began()
    for _ in range(3):
        driver.end(container, NOT_CLEAN)
        container = next_container(driver)
    build_done(driver, container)
    driver.end(container, NOT_CLEAN)

    result = driver.result("j")
    assert (result.verdict.outcome, result.verdict.text) == (Outcome.FAILED, "case a: not run: a process is left")
    assert len(driver.of(SubmitContainer)) == 4


def test_a_lost_host_runs_all_cases_again_where_the_task_allows_that() -> None:
    driver, container = began(hosts=2)
    build_done(driver, container)
    case_done(driver, container, 1)
    driver.end(container, LOST)
    driver.run("j")
    assert not driver.watches()[-1].progress.has_begun


def test_a_container_that_could_not_have_the_rest_does_not_make_cases_run_twice() -> None:
    driver, container = began(replace(THREE, retries=0))
    build_done(driver, container)
    case_done(driver, container, 1)
    driver.end(container, NOT_CLEAN)
    driver.end(next_container(driver), NOT_SENT)
    assert driver.result("j").verdict.outcome is Outcome.CRASH
    assert [told.number for told in driver.of(NotifyCaseEnded)] == [1]


@pytest.mark.parametrize("is_started", [False, True], ids=["no container", "its container runs"])
def test_a_kill_between_two_containers_ends_the_job(is_started: bool) -> None:
    driver, container = began()
    case_done(driver, container, 1)
    driver.end(container, NOT_CLEAN)
    if is_started:
        container = next_container(driver)
    driver.ledger.kill("j", KillReason.KILL_JOB)
    if is_started:
        driver.end(container, NOT_CLEAN)
    assert driver.result("j").verdict.outcome is Outcome.KILLED


def test_a_report_comes_for_as_long_as_all_cases_may_take() -> None:
    task = replace(THREE, limits=Limits(wall_time_s=100))
    driver, _ = began(task)
    driver.clock.now += 300
    driver.ledger.tick()
    assert driver.results("j") == []


def test_a_phase_whose_container_is_replaced_keeps_the_volume_until_the_next_one_has_it() -> None:
    test = Task("python3", command="./main", cases=[Case(name=name) for name in "abc"])
    phases = [Phase("build", Task("python3", command="make"), writes=["bin"]), Phase("test", test, reads=["bin"])]
    driver, container = began(Pipeline(phases))
    second = next(each.container for each in driver.of(SubmitContainer) if each.run == 1)
    driver.runs(second)
    driver.end(container)
    driver.carry_out()
    driver.ledger.container_deleted(container)
    case_done(driver, second, 1)
    driver.end(second, NOT_CLEAN)

    submit = driver.of(SubmitContainer)[-1]
    assert submit.run == 1 and submit.volume_holders == (second,) and second not in driver.deletes()
    third = next_container(driver)
    assert driver.of(MonitorRun)[-1].container == third and second in driver.deletes()
    case_done(driver, third, 2)
    case_done(driver, third, 3)
    driver.end(third)
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS
    assert [case.name for case in driver.result("j").phases[1].progress.cases] == ["a", "b", "c"]


# ---- what judges them


def test_the_waiter_has_the_images_of_what_judges_cases() -> None:
    driver, _ = began(Task("python3", command="./main", cases=[Case(check=Checker(Task("python3", command="./check")))]))
    assert driver.of(MonitorRun)[-1].images[""]


def test_what_checkers_may_use_counts_beside_the_submissions() -> None:
    big = Checker(Task("gcc", build="make", command="x", limits=Limits(memory_mib=600, wall_time_s=7)))
    small = Checker(Task("python3", command="x", limits=Limits(memory_mib=32, wall_time_s=1)))
    cases = [Case(check=big), Case(check=big), Case(check=small)]
    task = Task("python3", command="y", cases=cases, limits=Limits(memory_mib=64, wall_time_s=10))
    assert (task.memory_mib, task.environments, task.wall_s) == (696, frozenset({"python3", "gcc"}), 10 * 3 + 7 + 7 * 2 + 1)


def test_what_an_interactor_may_use_counts_beside_the_submissions() -> None:
    talks = Interactor(Task("gcc", build="make", command="x", limits=Limits(memory_mib=600, wall_time_s=7)))
    task = Task("python3", command="y", cases=[Case(check=talks), Case(check=talks)], limits=Limits(memory_mib=64, wall_time_s=10))
    assert (task.memory_mib, task.environments, task.wall_s) == (664, frozenset({"python3", "gcc"}), 10 * 2 + 7 + 7 * 2)


def test_the_volume_of_two_that_talk_is_removed_after_the_containers_of_both() -> None:
    task = Task("python3", command="y", cases=[Case("1", check=Interactor(Task("python3", command="x")))])
    driver, container = began(task)
    assert driver.of(MonitorRun)[-1].images[""] and container_spec_of(driver).pipes == f"{container}-pipes"
    driver.ledger.case_done(container, 1, right("1"))
    driver.end(container)
    assert not driver.of(DeleteVolumes)
    driver.ledger.container_deleted(container)
    assert [(command.slot, command.names) for command in driver.of(DeleteVolumes)] == [(container, (f"{container}-pipes",))]


def container_spec_of(driver: Driver) -> ContainerSpec:
    owner = Owner.this_process()
    return container_spec(driver.of(SubmitContainer)[-1], manager_id="m", owner=owner, loopback_only=True, runner_lease_s=9.0)
