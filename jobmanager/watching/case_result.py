"""What becomes of one case whose run has ended: its verdict, and whether it printed what is expected."""

from __future__ import annotations

from dataclasses import replace

from jobmanager.ipc.messages import CaseRun
from jobmanager.model.result import CaseResult, Evidence, Outcome, RunResult
from jobmanager.results.case_results import NOT_CHECKED, with_cut
from jobmanager.results.comparing import compare
from jobmanager.results.facts import RunFacts
from jobmanager.results.run_result import run_result
from jobmanager.results.verdict import Verdict

_KEPT_STREAMS_BYTES = 2**20  # of the cases that failed together
_CHECKED_STREAMS_BYTES = 2**26  # of those that are to be compared later, together


def case_result(case: CaseRun, verdict: Verdict, facts: RunFacts) -> CaseResult:
    """The result of a case whose run has ended, with all that it printed."""
    run = run_result(verdict, facts)
    run = replace(run, evidence=(*run.evidence, *_source_of_the_peak(facts)))
    outcome, text, correct = verdict.outcome, verdict.text, None
    if outcome is Outcome.SUCCESS and case.is_checked_later:
        outcome, text = Outcome.ERROR, NOT_CHECKED
    elif outcome is Outcome.SUCCESS and case.check is not None and case.expected is not None:
        comparison = compare(case.check, case.expected, run.stdout)
        correct = comparison.is_correct
        if not correct:
            outcome, text = Outcome.FAILED, comparison.difference
        text = with_cut(text, run)
    points = case.points if outcome is Outcome.SUCCESS else 0.0
    return CaseResult(name=case.name, outcome=outcome, text=text, correct=correct, points=points, run=run)


def with_streams_cut(result: CaseResult, *, streams_kept: int) -> CaseResult:
    """The same with as much of its output as is kept. ``streams_kept``: bytes that earlier results have."""
    run = result.run
    if run is None:
        return result
    is_checked_later = result.text == NOT_CHECKED
    most = _CHECKED_STREAMS_BYTES if is_checked_later else _KEPT_STREAMS_BYTES if result.outcome is not Outcome.SUCCESS else 0
    most = max(0, most - streams_kept)
    kept = _cut(run, run.stdout[:most], run.stderr[: max(0, most - len(run.stdout))])
    if is_checked_later and len(kept.stdout) < len(run.stdout):
        text = f"it printed too much to be checked: all cases together may print {_CHECKED_STREAMS_BYTES // 2**20} MiB"
        return replace(result, text=text, run=kept)
    return replace(result, run=kept)


def _source_of_the_peak(facts: RunFacts) -> tuple[Evidence, ...]:
    """The kernel's own counter tells nothing of a run that needs less memory than one before it."""
    if facts.end is None or not facts.end.peak_is_lower_bound:
        return ()
    return (Evidence(kind="peak_memory", value="a lower bound", source="samples, and the largest process"),)


def _cut(run: RunResult, stdout: bytes, stderr: bytes) -> RunResult:
    """What is cut is seen, as ever, by the lengths."""
    is_cut = run.output_cut or len(stdout) + len(stderr) < len(run.stdout) + len(run.stderr)
    return replace(run, stdout=stdout, stderr=stderr, output_cut=is_cut)
