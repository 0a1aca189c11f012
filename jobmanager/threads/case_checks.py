"""Checks of cases that are functions of the caller's: they run in its process, in a callback's thread, after the last case."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from jobmanager.model._escapes import one_line
from jobmanager.model.case import Case
from jobmanager.model.result import CaseResult, JobResult, Outcome
from jobmanager.model.task import Task
from jobmanager.results.case_results import NOT_CHECKED, cases_verdict, silent, with_cases, with_cut
from jobmanager.results.facts import CasesProgress
from jobmanager.results.verdict import Verdict
from jobmanager.threads.user_code import call_user_code

_log = logging.getLogger(__name__)

_OVERRIDING = (Outcome.CRASH, Outcome.KILLED)
_SHOWN_CHARS = 200


def with_callers_checks(result: JobResult, task: object) -> JobResult:
    """The result after the functions of the task's cases have said what is correct. Without such functions it is the same."""
    if not isinstance(task, Task) or not any(callable(case.check) for case in task.cases) or not result.cases:
        return result
    cases = tuple(_checked(case, given) for case, given in zip(task.cases, result.cases, strict=True))
    if result.outcome in _OVERRIDING or all(before is after for before, after in zip(result.cases, cases, strict=True)):
        return replace(result, cases=cases)
    progress = CasesProgress(build=result.build, cases=cases)
    verdict = cases_verdict(task, progress, Verdict(outcome=Outcome.SUCCESS))
    decided = replace(
        result, outcome=verdict.outcome, text=verdict.text, limit=verdict.limit, evidence=verdict.evidence, tests={}
    )
    return with_cases(_with_local_problems(decided), task, progress)


def _with_local_problems(result: JobResult) -> JobResult:
    """A wrong answer to a problem that needs no container makes a success a failure, as ever."""
    wrong = [problem for problem in result.problems.values() if problem.outcome is Outcome.FAILED]
    if result.outcome is not Outcome.SUCCESS or not wrong:
        return result
    return replace(result, outcome=Outcome.FAILED, text="\n".join(problem.text for problem in wrong if problem.text))


def _checked(case: Case, result: CaseResult) -> CaseResult:
    """A case whose run ended well, after its function was asked."""
    if not callable(case.check) or result.text != NOT_CHECKED or result.run is None:
        return result
    run = result.run
    said, problem = _ask(case, run.stdout)
    if problem:
        return replace(result, outcome=Outcome.ERROR, text=problem, points=0.0, run=run)
    if said:
        return replace(result, outcome=Outcome.SUCCESS, text=with_cut("", run), correct=True, points=case.points, run=silent(run))
    text = with_cut("its check says that this is wrong", run)
    return replace(result, outcome=Outcome.FAILED, text=text, correct=False, points=0.0, run=run)


def _ask(case: Case, output: bytes) -> tuple[bool, str]:
    """What the function says, or what it raised."""
    assert callable(case.check), "a built-in check runs elsewhere"
    answers: list[object] = []
    problems: list[str] = []

    def ask() -> None:
        answers.append(case.check(case, output))  # type: ignore[operator]

    def failed() -> None:
        _log.exception("the check of case %r failed", case.name)
        problems.append(_raised(sys.exc_info()[1]))

    call_user_code(ask, failed=failed)
    if problems:
        return False, problems[0]
    if not isinstance(answers[0], bool):
        return False, f"its check must return True or False, not {one_line(repr(answers[0])[:_SHOWN_CHARS])}"
    return answers[0], ""


def _raised(error: BaseException | None) -> str:
    try:
        shown = one_line(str(error)[:_SHOWN_CHARS])
    except Exception:  # noqa: BLE001 - the edge of foreign code
        shown = ""
    return f"its check raised {type(error).__name__}" + (f": {shown}" if shown else "")
