"""What a job's cases make of its result, for every way in which they can end."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager.errors import InvalidTask
from jobmanager.model.case import Case
from jobmanager.model.grader import Grader
from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, JobResult, Outcome, RunResult
from jobmanager.model.task import Task
from jobmanager.results.case_results import cases_verdict, with_cases
from jobmanager.results.facts import CasesProgress, RunFacts
from jobmanager.results.verdict import Verdict
from tests.support.run_facts import exited

TASK = Task("e", command="c", cases=[Case(name="a", points=1), Case(name="b", points=2), Case(points=1)])
RIGHT = RunResult(outcome=Outcome.SUCCESS, exit_code=0)


def ran(
    name: str, outcome: Outcome = Outcome.SUCCESS, *, correct: bool | None = True, points: float = 1.0, **run: Any
) -> CaseResult:
    own = RunResult(outcome=Outcome.SUCCESS if correct is False else outcome, **run)
    text = "" if outcome is Outcome.SUCCESS else "why"
    return CaseResult(name=name, outcome=outcome, text=text, correct=correct, points=points, run=own)


def told(
    *cases: CaseResult,
    task: Task = TASK,
    build: RunResult | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    facts: RunFacts | None = None,
) -> JobResult:
    progress = CasesProgress(build=build, cases=cases)
    verdict = cases_verdict(task, progress, Verdict(outcome=outcome, text="of the last run"), facts)
    result = JobResult(job_id="j", outcome=verdict.outcome, text=verdict.text, limit=verdict.limit)
    return with_cases(result, task, progress, facts)


def test_when_all_are_right_so_is_the_job() -> None:
    result = told(ran("a"), ran("b", points=2), ran("3"))
    assert (result.outcome, result.text, result.grade) == (Outcome.SUCCESS, "", 100.0)
    assert result.tests == {"a": True, "b": True, "3": True}


def test_the_first_one_that_is_no_success_decides_and_the_grade_is_the_share_of_points() -> None:
    slow = ran("b", Outcome.TIMEOUT, correct=None, points=0, limit="cpu", stdout=b"x")
    result = told(ran("a"), slow, ran("3", Outcome.FAILED, correct=False, points=0))
    assert (result.outcome, result.text, result.grade) == (Outcome.TIMEOUT, "case b: why", 25.0)
    assert (result.limit, result.stdout) == ("cpu", b"x")
    assert result.tests == {"a": True, "b": False, "3": False}


def test_a_wrong_answer_is_failed_though_its_run_ended_well() -> None:
    result = told(ran("a", Outcome.FAILED, correct=False, points=0, exit_code=0), ran("b", points=2), ran("3"))
    assert (result.outcome, result.exit_code, result.grade) == (Outcome.FAILED, 0, 75.0)


def test_a_build_that_fails_is_the_jobs_result_and_no_case_was_run() -> None:
    result = told(build=RunResult(outcome=Outcome.FAILED, text="exit code 1", exit_code=1, stderr=b"main.c:1"))
    assert (result.outcome, result.text, result.grade, result.stderr) == (Outcome.FAILED, "build: exit code 1", 0.0, b"main.c:1")
    assert [(case.name, case.outcome, case.text) for case in result.cases] == [(name, None, "not run") for name in ("a", "b", "3")]
    assert result.build is not None and result.build.exit_code == 1


def test_cases_that_were_not_run_are_no_success() -> None:
    result = told(ran("a"), facts=exited(not_clean="a process is left"))
    assert (result.outcome, result.text, result.grade) == (Outcome.FAILED, "case b: not run: a process is left", 25.0)
    assert [case.outcome for case in result.cases] == [Outcome.SUCCESS, Outcome.FAILED, Outcome.FAILED]
    assert result.tests == {"a": True, "b": False, "3": False}


def test_cases_that_were_not_run_because_of_their_interactor_are_its_authors_error() -> None:
    result = told(ran("a"), facts=exited(not_clean="its interactor: a process is left", is_judge_unclean=True))
    assert result.text == "case b: not run: its interactor: a process is left"
    assert (result.outcome, result.grade) == (Outcome.ERROR, 25.0)
    assert [case.outcome for case in result.cases] == [Outcome.SUCCESS, Outcome.ERROR, Outcome.ERROR]


def test_a_case_of_which_nobody_has_reported_is_a_crash() -> None:
    result = told(ran("a"))
    assert (result.outcome, result.text, result.grade) == (Outcome.CRASH, "what became of case b was not reported", 0.0)
    task = Task("e", build="make", command="c", cases=[Case()])
    assert told(task=task).text == "what became of its build was not reported"


@pytest.mark.parametrize("outcome", [Outcome.CRASH, Outcome.KILLED])
def test_a_job_that_was_killed_or_lost_its_host_stays_that_and_keeps_what_was_run(outcome: Outcome) -> None:
    result = told(ran("a"), outcome=outcome)
    assert (result.outcome, result.text, result.grade) == (outcome, "of the last run", 0.0)
    assert [case.outcome for case in result.cases] == [Outcome.SUCCESS, None, None]


def test_without_points_all_or_nothing_counts() -> None:
    task = Task("e", command="c", cases=[Case(points=0), Case(points=0)])
    assert told(ran("1", points=0), ran("2", points=0), task=task).grade == 100.0
    assert told(ran("1", points=0), ran("2", Outcome.FAILED, points=0), task=task).grade == 0.0


def test_nothing_compares_and_the_run_decides() -> None:
    result = told(ran("a", correct=None), ran("b", correct=None, points=2), ran("3", correct=None))
    assert (result.outcome, result.grade, set(result.tests.values())) == (Outcome.SUCCESS, 100.0, {True})


REFUSED: dict[str, dict[str, Any]] = {
    "a task has cases or a grader, not both": {"command": None, "grader": Grader(run="x")},
    "a task with cases needs a command": {"command": None},
    "a task with cases collects no files": {"collect": ["*"]},
    "build_limits has another workspace_mib than limits": {"build_limits": Limits(workspace_mib=512)},
    "is called after the last case": {"cases": [Case(check=lambda case, output: True)], "stop_at_first_failure": True},
    "stop_at_first_failure is for a task with cases": {"cases": (), "stop_at_first_failure": True},
    "cases must be a list of cases": {"cases": Case()},
    "cases is an empty list": {"cases": []},
    "build_limits must be a Limits": {"build": "make", "build_limits": {"memory_mib": 5}},
    "build must": {"build": 3},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_task_whose_cases_make_no_sense_is_refused(why: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        Task("e", **{"command": "c", "cases": [Case()], **REFUSED[why]})
    assert why in str(raised.value)


def test_the_wall_clock_of_a_task_is_that_of_all_its_runs() -> None:
    limits, build_limits = Limits(wall_time_s=10), Limits(wall_time_s=100)
    task = Task("e", command="c", build="b", limits=limits, cases=[Case(), Case(wall_time_s=2)], build_limits=build_limits)
    assert task.wall_s == 112.0
    assert task.limits_of(Case(cpu_time_s=1, output_kib=3)) == Limits(wall_time_s=10, cpu_time_s=1, output_kib=3)
