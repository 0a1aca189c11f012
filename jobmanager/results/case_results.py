"""What a job's cases make of its result: the first case that is no success decides, and the grade is the share of points."""

from __future__ import annotations

from dataclasses import replace

from jobmanager.model.result import CaseResult, JobResult, Outcome, RunResult
from jobmanager.model.task import Task
from jobmanager.results.facts import RunFacts

_HIGHEST_GRADE = 100.0
_OVERRIDING = (Outcome.CRASH, Outcome.KILLED)
_NOT_RUN = "not run"


def with_cases(result: JobResult, task: Task, facts: RunFacts | None) -> JobResult:
    """The result of a task with cases. One that was killed, or whose host was lost, stays that."""
    build = None if facts is None else facts.build
    cases = _all_cases(task, () if facts is None else facts.cases)
    result = replace(result, build=build, cases=cases, tests={case.name: _passed(case) for case in cases})
    if result.outcome in _OVERRIDING:
        return replace(result, grade=0.0)
    if build is not None and build.outcome is not Outcome.SUCCESS:
        return _as(result, build, build.text, grade=0.0)
    grade = _grade(task, cases)
    decides = next((case for case in cases if case.outcome is not Outcome.SUCCESS), None)
    if decides is None or decides.run is None:
        outcome = Outcome.SUCCESS if decides is None else Outcome.FAILED
        return replace(result, outcome=outcome, text="" if decides is None else f"case {decides.name}: {decides.text}", grade=grade)
    told = _as(result, decides.run, f"case {decides.name}: {decides.text}", grade=grade)
    assert decides.outcome is not None
    return replace(told, outcome=decides.outcome)


def _all_cases(task: Task, ran: tuple[CaseResult, ...]) -> tuple[CaseResult, ...]:
    names = [case.name or str(number) for number, case in enumerate(task.cases, 1)]
    return (*ran, *(CaseResult(name=name, outcome=None, text=_NOT_RUN) for name in names[len(ran) :]))


def _as(result: JobResult, run: RunResult, text: str, *, grade: float) -> JobResult:
    """The job's own fields are those of the run that decided."""
    return replace(
        result,
        outcome=run.outcome,
        text=text,
        grade=grade,
        limit=run.limit,
        exit_code=run.exit_code,
        signal=run.signal,
        stdout=run.stdout,
        stderr=run.stderr,
        stdout_bytes=run.stdout_bytes,
        stderr_bytes=run.stderr_bytes,
        output_cut=run.output_cut,
        evidence=run.evidence,
    )


def _passed(case: CaseResult) -> bool:
    return case.outcome is Outcome.SUCCESS and case.correct is not False


def _grade(task: Task, cases: tuple[CaseResult, ...]) -> float:
    all_points = sum(case.points for case in task.cases)
    if not all_points:
        return _HIGHEST_GRADE if all(map(_passed, cases)) else 0.0
    return round(_HIGHEST_GRADE * sum(case.points for case in cases) / all_points, 4)
