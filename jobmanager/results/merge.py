"""Merging: verdict, result file and the problems that need no container become one JobResult."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from jobmanager.model._escapes import escape_lines
from jobmanager.model.job import Request
from jobmanager.model.problems import Match, MultipleChoice
from jobmanager.model.result import Evidence, JobResult, Outcome, ProblemResult, Step
from jobmanager.model.task import Task
from jobmanager.results.case_results import with_cases
from jobmanager.results.facts import NO_PROGRESS, CasesProgress, ProgramExited, RunFacts
from jobmanager.results.result_file import ResultFile, ResultFileError, parse_result_file
from jobmanager.results.run_result import killed_by, run_result
from jobmanager.results.verdict import Verdict, end_text

_STDERR_TAIL_BYTES = 2000
_OVERRIDING = (Outcome.CRASH, Outcome.KILLED)  # with these, local answers do not count
_PROGRAM_DECIDED = (Outcome.SUCCESS, Outcome.FAILED)


def merged_result(
    request: Request,
    verdict: Verdict,
    facts: RunFacts | None,
    *,
    has_file: bool = True,
    progress: CasesProgress = NO_PROGRESS,
    host: str | None,
    timings: Mapping[str, float],
    steps: tuple[Step, ...],
) -> JobResult:
    """The one result of a job. ``has_file``: whether a result file of its run may say something of it; ``progress``: of its cases.

    A result file counts only when the program ended by itself within its limits. It cannot turn a bad exit code into
    a success; a grader's can, as that is its business. A wrong local answer makes a success a failure, unless a grader alone
    judges it. The grade is 100 or 0 unless the file has another one.
    """
    verdict, file = apply_result_file(request.runs[0].task, verdict, facts) if has_file else (verdict, ResultFile())
    grader = request.runs[0].task.grader
    is_merged = verdict.outcome not in _OVERRIDING and (grader is None or grader.merge_local)
    local = local_results(request) if is_merged else {}
    outcome = _outcome_with_local(verdict.outcome, local)
    task = request.runs[0].task
    result = replace(
        _of_its_run(request, facts, verdict),
        outcome=outcome,
        text=_joined(file.text or verdict.text, *(problem.text for problem in local.values())),
        grade=_grade(outcome, verdict, file),
        problems={**file.problems, **(local if grader is None else _with_grader_texts(local, file))},
        tests=file.tests,
        custom=file.custom,
        state=file.state if file.state is not None else _previous_state(request),
        host=host,
        timings=dict(timings),
        steps=steps if request.debug else (),
    )
    return with_cases(result, task, progress, facts) if task.cases else result


def local_results(request: Request) -> dict[str, ProblemResult]:
    """The results of a job's MultipleChoice and Match problems, which need no container."""
    answers = request.inputs.answers or {}
    found = {}
    for key, problem in (request.task.problems or {}).items():
        if isinstance(problem, (MultipleChoice, Match)):
            answer = answers.get(key)
            outcome = Outcome.SUCCESS if problem.is_right(answer) else Outcome.FAILED
            found[key] = ProblemResult(outcome, problem.feedback_text(answer))
    return found


def _of_its_run(request: Request, facts: RunFacts | None, verdict: Verdict) -> JobResult:
    """What is known of the run; everything else has its default."""
    result = JobResult(job_id=request.job_id, outcome=verdict.outcome, limit=verdict.limit, killed_by=killed_by(verdict, facts))
    if facts is None:
        return replace(result, evidence=verdict.evidence)
    run = run_result(verdict, facts)
    return replace(result, archive=facts.collected.archive, **{each.name: getattr(run, each.name) for each in fields(run)})


def apply_result_file(task: Task, verdict: Verdict, facts: RunFacts | None) -> tuple[Verdict, ResultFile]:
    """The verdict after the result file, and the file; an empty one where there is none, or where it does not count."""
    is_graded = task.grader is not None
    if verdict.outcome not in _PROGRAM_DECIDED or facts is None or not isinstance(facts.ending, ProgramExited):
        return verdict, ResultFile()
    if facts.ending.result_file is None:
        lacks_result = _grader_gave_no_result(verdict, facts.ending, facts.output.stderr) if is_graded else verdict
        return lacks_result, ResultFile()
    try:
        file = parse_result_file(facts.ending.result_file, grader=is_graded)
    except ResultFileError as error:
        return _unreadable(verdict, str(error)), ResultFile()
    return (_grader_verdict(verdict, file) if is_graded else _program_verdict(verdict, file)), file


def _grader_verdict(verdict: Verdict, file: ResultFile) -> Verdict:
    """The grader's result decides. Its exit code is only that of its script's last line."""
    assert file.outcome is not None, "a grader's answer without a result cannot be read"
    decided = Evidence(kind="grader", value=file.outcome.value, source="result.json")
    return Verdict(outcome=file.outcome, evidence=(decided, *verdict.evidence))


def _grader_gave_no_result(verdict: Verdict, ending: ProgramExited, stderr: bytes) -> Verdict:
    last_words = escape_lines(stderr[-_STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip())
    tail = f", and the end of its standard error is:\n{last_words}" if last_words else ", and nothing on standard error"
    text = f"the grader ended without a result: {end_text(ending.end)}{tail}"
    missing = Evidence(kind="grader", value="no result", source="result.json")
    return Verdict(outcome=Outcome.CRASH, text=text, evidence=(missing, *verdict.evidence))


def _previous_state(request: Request) -> str:
    """The state that the job brought; a grader that sets none leaves it as it was."""
    state = (request.inputs.answers or {}).get("@state", "")
    return state if request.runs[0].task.grader is not None and isinstance(state, str) else ""


def _program_verdict(verdict: Verdict, file: ResultFile) -> Verdict:
    """A program may turn its success into a failure, and nothing else."""
    if verdict.outcome is Outcome.SUCCESS and file.outcome is Outcome.FAILED:
        decided = Evidence(kind="grader", value=file.outcome.value, source="result.json")
        return replace(verdict, outcome=Outcome.FAILED, evidence=(*verdict.evidence, decided))
    return verdict


def _unreadable(verdict: Verdict, reason: str) -> Verdict:
    evidence = Evidence(kind="result_file", value=reason, source="result.json")
    return Verdict(
        outcome=Outcome.ERROR, text=f"the result file cannot be read: {reason}", evidence=(*verdict.evidence, evidence)
    )


def _outcome_with_local(outcome: Outcome, local: Mapping[str, ProblemResult]) -> Outcome:
    wrong = any(problem.outcome is Outcome.FAILED for problem in local.values())
    return Outcome.FAILED if outcome is Outcome.SUCCESS and wrong else outcome


def _with_grader_texts(local: Mapping[str, ProblemResult], file: ResultFile) -> dict[str, ProblemResult]:
    """Local results with the grader's texts before their own. A submitter's program may not add texts to them."""
    texts = {key: file.problems[key].text for key in local if key in file.problems}
    return {key: answer._replace(text=_joined(texts.get(key, ""), answer.text)) for key, answer in local.items()}


def _joined(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


def _grade(outcome: Outcome, verdict: Verdict, file: ResultFile) -> float:
    if verdict.outcome not in _PROGRAM_DECIDED:
        return 0.0
    contradicted = file.outcome is Outcome.SUCCESS and verdict.outcome is Outcome.FAILED
    if file.grade is not None and not contradicted:
        return file.grade
    return 100.0 if outcome is Outcome.SUCCESS else 0.0
