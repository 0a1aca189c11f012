"""A checker judges what each case printed, in a container of its own: what a waiter finds on each engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager.engine.labels import MANAGER_LABEL
from jobmanager.ipc.messages import CaseDone, CasePlan, CaseRun, JudgePlan, MonitorContainer
from jobmanager.model.container import ContainerSpec
from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.facts import RunFacts
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.checking import Checking
from tests.conftest import eventually
from tests.contract.place import PATIENCE_S, Place
from tests.contract.test_interaction import is_gone, judges_host

LIMITS = Limits(memory_mib=64, workspace_mib=4, cpu_time_s=5, wall_time_s=10)


def checked(place: Place, submission: str, *checkers: str, cases: int = 4, build: str = "") -> tuple[RunFacts, list[CaseResult]]:
    """The facts of the submission's container, and what became of its cases. The checkers take turns."""
    name = place.named()
    place.started(name=name, limits=LIMITS, labels={MANAGER_LABEL: place.label})
    runs = tuple(
        CaseRun(number=number, name=str(number), stdin=f"{number}\n".encode(), limits=LIMITS) for number in range(1, cases + 1)
    )
    plan = CasePlan(cases=runs, last=cases, clearing_s=60.0)
    job = MonitorContainer(
        job_id="j",
        container_id=place.engine.inspect(name).id,
        container_name=name,
        command=submission,
        env={},
        files={},
        stdin=b"",
        limits=LIMITS,
        collect=(),
        cases=plan,
    )
    plans = []
    for place_of_it, command in enumerate(checkers):
        theirs = [replace(run, args=("input", "output"), files={"input": run.stdin}, stdin=b"") for run in runs]
        own = replace(plan, cases=tuple(theirs[place_of_it :: len(checkers)]), build=build or None)
        judge_name = place.named(f"{name}-c{place_of_it + 1}")
        spec = ContainerSpec(name=judge_name, image=place.image, labels={}, limits=LIMITS, lease_s=20.0)
        plans.append(JudgePlan(spec=spec, job=replace(job, container_id="", container_name=judge_name, command=command, cases=own)))
    told: list[CaseResult] = []

    def take(message: object) -> bool:
        if isinstance(message, CaseDone):
            told.append(message.result)
        return True

    checking = Checking(job, plans, judges_host(place))
    monitor = CasesMonitor(job, place.engine, host_lost_timeout_s=PATIENCE_S, send=take, partner=checking)
    checking.start()
    facts = monitor.run()
    checking.close()
    monitor.close(leave=facts.is_leaving)
    for each in plans:
        eventually(lambda: is_gone(place, each.spec.name), what="the checker's container is removed")  # noqa: B023
    return facts, told


def ends(told: list[CaseResult]) -> list[tuple[Outcome | None, bool | None]]:
    return [(result.outcome, result.correct) for result in told]


RIGHT, WRONG = (Outcome.SUCCESS, True), (Outcome.FAILED, False)


def test_each_case_is_judged_by_its_own_checker_by_what_it_was_given_and_printed(place: Place) -> None:
    facts, told = checked(place, "cat", "cp output input", "exit 1")
    assert ends(told) == [RIGHT, WRONG, RIGHT, WRONG], told
    assert facts.is_leaving and not facts.not_clean


def test_a_case_that_ended_badly_is_not_judged(place: Place) -> None:
    _, told = checked(place, "cat; exit 3", "exit 0")
    assert ends(told) == [(Outcome.FAILED, None)] * 4, told


@pytest.mark.parametrize(
    ("command", "build", "why"),
    [
        ("./nowhere", "", "its checker "),
        ("true", "exit 9", "its checker was not run: its build ended as failed: exit code 9"),
    ],
)
def test_a_checker_that_cannot_be_run_makes_errors_of_the_cases_that_it_would_have_judged(
    place: Place, command: str, build: str, why: str
) -> None:
    facts, told = checked(place, "cat", command, build=build)
    assert [result.outcome for result in told] == [Outcome.ERROR] * 4, told
    assert all(result.text.startswith(why) for result in told), told
    assert facts.is_leaving and not facts.not_clean


def test_what_a_checker_leaves_is_not_there_when_it_judges_the_next_case(place: Place) -> None:
    _, told = checked(place, "cat", "ls /tmp/mark && exit 1; mkdir mark /tmp/mark && exit 0; exit 1")
    assert ends(told) == [RIGHT] * 4, told
