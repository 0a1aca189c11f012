"""What a job's cases make of its result: the first that is no success decides the outcome, and the grade is the share of points."""

from __future__ import annotations

from dataclasses import replace

from jobmanager.model.case import case_name
from jobmanager.model.result import CaseResult, Evidence, JobResult, Outcome, RunResult
from jobmanager.model.task import Task
from jobmanager.results.facts import CasesProgress, RunFacts
from jobmanager.results.verdict import Verdict, crash_verdict

_HIGHEST_GRADE = 100.0
_OVERRIDING = (Outcome.CRASH, Outcome.KILLED)
_NOT_RUN = "not run"
NOT_CHECKED = "it has not been checked"


def cases_verdict(task: Task, progress: CasesProgress, verdict: Verdict, facts: RunFacts | None = None) -> Verdict:
    """The verdict of a task's run by its build and its cases. One that was killed, or cut off, keeps that of its last container."""
    if verdict.outcome in _OVERRIDING:
        return verdict
    build = progress.build
    if task.build is not None and build is None:
        return crash_verdict("report_lost", "what became of its build was not reported")
    if build is not None and build.outcome is not Outcome.SUCCESS:
        return _as_of(build, build.outcome, f"build: {build.text or build.outcome.value}")
    cases = all_cases(task, progress, facts)
    decides = next((case for case in cases if case.outcome is not Outcome.SUCCESS), None)
    if decides is None:
        return Verdict(outcome=Outcome.SUCCESS, evidence=(_count("cases", len(cases)),))
    if decides.outcome is None:
        return crash_verdict("report_lost", f"what became of case {decides.name} was not reported")
    text = f"case {decides.name}: {decides.text or decides.outcome.value}"
    if decides.run is None:
        return Verdict(outcome=decides.outcome, text=text)
    return _as_of(decides.run, decides.outcome, text)


def all_cases(task: Task, progress: CasesProgress, facts: RunFacts | None = None) -> tuple[CaseResult, ...]:
    """The results of all cases, in their order. ``facts`` may say why no container could have the rest."""
    ran = progress.cases
    outcome, text = None, _NOT_RUN
    if facts is not None and facts.not_clean:
        outcome, text = Outcome.ERROR if facts.is_judge_unclean else Outcome.FAILED, f"{_NOT_RUN}: {facts.not_clean}"
    names = [case_name(case, number) for number, case in enumerate(task.cases, 1)]
    return (*ran, *(CaseResult(name=name, outcome=outcome, text=text) for name in names[len(ran) :]))


def with_cases(result: JobResult, task: Task, progress: CasesProgress, facts: RunFacts | None = None) -> JobResult:
    """The result of a task with cases, whose outcome is decided, with what became of each."""
    is_overridden = result.outcome in _OVERRIDING  # then dirt is not why the rest were not run
    cases = all_cases(task, progress, None if is_overridden else facts)
    build = progress.build
    decides: RunResult | None = None
    if result.outcome not in _OVERRIDING:
        is_built = build is None or build.outcome is Outcome.SUCCESS
        decides = next((case.run for case in cases if case.outcome is not Outcome.SUCCESS), None) if is_built else build
    return replace(
        result if decides is None else _with_streams_of(result, decides),
        build=build,
        cases=cases,
        grade=0.0 if result.outcome in _OVERRIDING else _grade(task, cases),
        tests={**{case.name: case.outcome is Outcome.SUCCESS for case in cases}, **result.tests},
    )


def silent(run: RunResult) -> RunResult:
    """The run without what it printed: that is kept of cases that failed."""
    return replace(run, stdout=b"", stderr=b"", output_cut=run.stdout_bytes + run.stderr_bytes > 0)


def with_cut(text: str, run: RunResult | None) -> str:
    """What is said of a case's output, and that only a part of that was looked at."""
    cut_at = None if run is None else run.stdout_cut_at
    if cut_at is None:
        return text
    cut = f"its output was cut after {cut_at} bytes"
    return f"{text}; {cut}" if text else cut


def _as_of(run: RunResult, outcome: Outcome, text: str) -> Verdict:
    return Verdict(outcome=outcome, text=text, evidence=run.evidence, limit=run.limit)


def _count(kind: str, number: int) -> Evidence:
    return Evidence(kind=kind, value=number, source="jobmanager")


def _with_streams_of(result: JobResult, run: RunResult) -> JobResult:
    """What the program printed, and how it ended, are those of the run that decided."""
    return replace(
        result,
        exit_code=run.exit_code,
        signal=run.signal,
        stdout=run.stdout,
        stderr=run.stderr,
        stdout_bytes=run.stdout_bytes,
        stderr_bytes=run.stderr_bytes,
        output_cut=run.output_cut,
    )


def _grade(task: Task, cases: tuple[CaseResult, ...]) -> float:
    all_points = sum(case.points for case in task.cases)
    if not all_points:
        return _HIGHEST_GRADE if all(case.outcome is Outcome.SUCCESS for case in cases) else 0.0
    return round(_HIGHEST_GRADE * sum(case.points for case in cases) / all_points, 4)
