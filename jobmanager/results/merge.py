"""Merging: what the container did, what its result file says and what was answered in process make one JobResult."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobmanager.model._escapes import lines
from jobmanager.model.job import Request
from jobmanager.model.result import Evidence, JobResult, Outcome, ProblemResult, Step
from jobmanager.results.facts import RunFacts
from jobmanager.results.local_answers import answered
from jobmanager.results.result_file import ResultFile, ResultFileError, parse
from jobmanager.results.verdict import Verdict, exit_code_text

_TAIL_BYTES = 2000
_OVERRIDING = (Outcome.CRASH, Outcome.KILLED)  # nothing that was answered counts
_RESULT_OF_THE_PROGRAM = (Outcome.SUCCESS, Outcome.FAILED)


def merged(
    request: Request,
    verdict: Verdict,
    facts: RunFacts | None,
    *,
    host: str | None,
    timings: Mapping[str, float],
    steps: tuple[Step, ...],
) -> JobResult:
    """The one result of a job.

    A result file counts only when the program ended by itself within its limits. It cannot turn a bad exit code into
    a success; a grader's can, as that is its business. A wrong local answer makes a success a failure, unless a grader alone
    judges it. The grade is 100 or 0 unless the file says else.
    """
    verdict, said = _with_what_was_said(request, verdict, facts)
    grader = request.task.grader
    is_merged = verdict.outcome not in _OVERRIDING and (grader is None or grader.merge_local)
    local = answered(request) if is_merged else {}
    outcome = _with_local(verdict.outcome, local)
    return replace(
        _as_it_ran(request, facts, verdict),
        outcome=outcome,
        text=_joined(said.text or verdict.text, local),
        grade=_grade(outcome, verdict, said),
        problems={**said.problems, **(local if grader is None else _with_the_graders_texts(local, said))},
        tests=said.tests,
        custom=said.custom,
        state=said.state if said.state is not None else _state_before(request),
        host=host,
        timings=dict(timings),
        steps=steps if request.debug else (),
    )


def _as_it_ran(request: Request, facts: RunFacts | None, verdict: Verdict) -> JobResult:
    if facts is None:
        return JobResult(job_id=request.job_id, outcome=verdict.outcome, evidence=verdict.evidence)
    kept = len(facts.stdout) + len(facts.stderr)
    peak = facts.peak_memory_bytes
    return JobResult(
        job_id=request.job_id,
        outcome=verdict.outcome,
        evidence=verdict.evidence,
        archive=facts.archive,
        stdout=facts.stdout,
        stderr=facts.stderr,
        stdout_bytes=facts.stdout_bytes,
        stderr_bytes=facts.stderr_bytes,
        output_cut=facts.log_rotated or facts.output_incomplete or facts.output_bytes > kept,
        exit_code=facts.end.exit_code if facts.end is not None else None,
        cpu_time_s=facts.cpu_time_s,
        wall_time_s=facts.wall_time_s,
        peak_memory_mib=None if peak is None else round(peak / 2**20, 2),
    )


def _with_what_was_said(request: Request, verdict: Verdict, facts: RunFacts | None) -> tuple[Verdict, ResultFile]:
    grades = request.task.grader is not None
    if verdict.outcome not in _RESULT_OF_THE_PROGRAM or facts is None or not request.task.needs_container:
        return verdict, ResultFile()
    if facts.result_file is None:
        return (_silent(verdict, facts) if grades else verdict), ResultFile()
    try:
        said = parse(facts.result_file, grader=grades)
    except ResultFileError as error:
        return _unreadable(verdict, str(error)), ResultFile()
    return (_the_graders(verdict, said) if grades else _with_its_word(verdict, said)), said


def _the_graders(verdict: Verdict, said: ResultFile) -> Verdict:
    """A grader's word rules, where nothing worse happened: its exit code is only that of its script's last line."""
    assert said.outcome is not None, "a grader's answer without a result cannot be read"
    word = Evidence(kind="grader", value=said.outcome.value, source="result.json")
    return Verdict(outcome=said.outcome, evidence=(word, *verdict.evidence))


def _silent(verdict: Verdict, facts: RunFacts) -> Verdict:
    """A grader that said nothing."""
    code = facts.end.exit_code if facts.end is not None else 0
    complaint = lines(facts.stderr[-_TAIL_BYTES:].decode("utf-8", "replace").strip())
    told = f", and the end of its standard error is:\n{complaint}" if complaint else ", and nothing on standard error"
    text = f"the grader ended without a result, with {exit_code_text(code)}{told}"
    silence = Evidence(kind="grader", value="no result", source="result.json")
    return Verdict(outcome=Outcome.CRASH, text=text, evidence=(silence, *verdict.evidence))


def _state_before(request: Request) -> str:
    """What a grader that says nothing of it leaves as it was."""
    brought = (request.inputs.answers or {}).get("@state", "")
    return brought if request.task.grader is not None and isinstance(brought, str) else ""


def _with_its_word(verdict: Verdict, said: ResultFile) -> Verdict:
    if verdict.outcome is Outcome.SUCCESS and said.outcome is Outcome.FAILED:
        word = Evidence(kind="grader", value=said.outcome.value, source="result.json")
        return replace(verdict, outcome=Outcome.FAILED, evidence=(*verdict.evidence, word))
    return verdict


def _unreadable(verdict: Verdict, reason: str) -> Verdict:
    evidence = Evidence(kind="result_file", value=reason, source="result.json")
    return Verdict(
        outcome=Outcome.ERROR, text=f"the result file cannot be read: {reason}", evidence=(*verdict.evidence, evidence)
    )


def _with_local(outcome: Outcome, local: Mapping[str, ProblemResult]) -> Outcome:
    wrong = any(problem.outcome is Outcome.FAILED for problem in local.values())
    return Outcome.FAILED if outcome is Outcome.SUCCESS and wrong else outcome


def _with_the_graders_texts(local: Mapping[str, ProblemResult], said: ResultFile) -> dict[str, ProblemResult]:
    """A grader may say more of a problem that is answered here; a submitter's program may not."""
    told = {key: said.problems[key].text for key in local if key in said.problems}
    return {key: answer._replace(text=_lines(told.get(key, ""), answer.text)) for key, answer in local.items()}


def _joined(text: str, local: Mapping[str, ProblemResult]) -> str:
    """The container's text, then the local ones."""
    return _lines(text, *(problem.text for problem in local.values()))


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _grade(outcome: Outcome, verdict: Verdict, said: ResultFile) -> float:
    if verdict.outcome not in _RESULT_OF_THE_PROGRAM:
        return 0.0
    contradicted = said.outcome is Outcome.SUCCESS and verdict.outcome is Outcome.FAILED
    if said.grade is not None and not contradicted:
        return said.grade
    return 100.0 if outcome is Outcome.SUCCESS else 0.0
