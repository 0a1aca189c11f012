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
_JUDGES_STREAMS_BYTES = 2**12  # of each stream of a checker or an interactor: what it says comes first
_CHECKED_STREAMS_BYTES = 2**26  # of those that are to be compared later, together


def case_result(case: CaseRun, verdict: Verdict, facts: RunFacts, *, streams_kept: int) -> CaseResult:
    """The result of a case whose run has ended. ``streams_kept``: bytes that earlier results have."""
    run = run_result(verdict, facts)
    outcome, text, correct = verdict.outcome, verdict.text, None
    is_checked_later = case.is_checked_later and outcome is Outcome.SUCCESS
    if is_checked_later:
        outcome, text = Outcome.ERROR, NOT_CHECKED
    elif outcome is Outcome.SUCCESS and case.check is not None and case.expected is not None:
        comparison = compare(case.check, case.expected, run.stdout)
        correct = comparison.is_correct
        if not correct:
            outcome, text = Outcome.FAILED, comparison.difference
        text = with_cut(text, run)
    points = case.points if outcome is Outcome.SUCCESS else 0.0
    if case.judges:
        kept = _with_streams_cut(run, 2 * _JUDGES_STREAMS_BYTES, of_stdout=_JUDGES_STREAMS_BYTES)
    else:
        most = _CHECKED_STREAMS_BYTES if is_checked_later else _KEPT_STREAMS_BYTES if outcome is not Outcome.SUCCESS else 0
        kept = _with_streams_cut(run, max(0, most - streams_kept))
    if is_checked_later and len(kept.stdout) < len(run.stdout):
        text = f"it printed too much to be checked: all cases together may print {_CHECKED_STREAMS_BYTES // 2**20} MiB"
    run = replace(kept, evidence=(*kept.evidence, *_source_of_the_peak(facts)))
    return CaseResult(name=case.name, outcome=outcome, text=text, correct=correct, points=points, run=run)


def _source_of_the_peak(facts: RunFacts) -> tuple[Evidence, ...]:
    """The kernel's own counter tells nothing of a run that needs less memory than one before it."""
    if facts.end is None or not facts.end.peak_is_lower_bound:
        return ()
    return (Evidence(kind="peak_memory", value="a lower bound", source="samples, and the largest process"),)


def _with_streams_cut(run: RunResult, most: int, *, of_stdout: int | None = None) -> RunResult:
    """At most so many bytes of both streams together; what is cut is seen, as ever, by their lengths."""
    stdout = run.stdout[: most if of_stdout is None else of_stdout]
    stderr = run.stderr[: most - len(stdout)]
    is_cut = run.output_cut or len(stdout) + len(stderr) < len(run.stdout) + len(run.stderr)
    return replace(run, stdout=stdout, stderr=stderr, output_cut=is_cut)
