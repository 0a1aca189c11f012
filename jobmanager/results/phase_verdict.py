"""The verdict of a phase, and that of a job by the phase that stopped it."""

from __future__ import annotations

from dataclasses import replace

from jobmanager.model.limits import Limits
from jobmanager.model.phase import Phase
from jobmanager.model.result import Evidence, Outcome
from jobmanager.model.task import Task
from jobmanager.results.facts import RunFacts
from jobmanager.results.merge import apply_result_file
from jobmanager.results.verdict import Verdict

_DEADLINE = "deadline_s"


def phase_verdict(task: Task, verdict: Verdict, facts: RunFacts | None, limits: Limits) -> Verdict:
    """A phase's verdict, with what its result file says. ``limits`` are those that it had: the job's deadline may have cut them."""
    decided = apply_result_file(task, verdict, facts)[0]
    was_cut = limits.wall_s < task.limits.wall_s
    if was_cut and decided.outcome is Outcome.TIMEOUT and any(found.kind == "wall_time_s" for found in decided.evidence):
        text = f"the job's deadline left it {limits.wall_s:.1f} s, and they were over"
        return replace(decided, text=text, evidence=(*decided.evidence, _deadline(limits.wall_s)))
    return decided


def deadline_verdict(deadline_s: float) -> Verdict:
    """No time was left for a phase."""
    return Verdict(
        outcome=Outcome.TIMEOUT,
        text=f"the job's deadline of {deadline_s:g} s left no time for it",
        evidence=(_deadline(deadline_s),),
        limit="wall",
    )


def deciding_verdict(phase: Phase, verdict: Verdict) -> Verdict:
    """The verdict of a job that this phase stopped. What the course is to blame for is a crash.

    Not a deadline: the phases before it may have used the time up.
    """
    named = Evidence(kind="phase", value=phase.name, source="the pipeline")
    text = f"phase {phase.name!r}: {verdict.text or verdict.outcome.value}"
    is_late = any(found.kind == _DEADLINE for found in verdict.evidence)
    if phase.blame == "course" and verdict.outcome is not Outcome.CRASH and not is_late:
        text = f"not your program: {text}"
        return replace(verdict, outcome=Outcome.CRASH, text=text, evidence=(named, *verdict.evidence), cut_off=False)
    return replace(verdict, text=text, evidence=(named, *verdict.evidence))


def _deadline(seconds: float) -> Evidence:
    return Evidence(kind=_DEADLINE, value=round(seconds, 3), source="our clock")
