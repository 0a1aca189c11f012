"""What a checker's exit code says of a case: the conventions of testlib."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from jobmanager.model._escapes import one_line
from jobmanager.model.result import CaseResult, Evidence, Outcome
from jobmanager.results.case_results import silent, with_cut

INPUT, OUTPUT, ANSWER = "input", "output", "answer"  # the files that a checker is given
_RIGHT, _PARTLY = 0, 7
_BROKEN_PIPE = "SIGPIPE"
_PYTHONS_BROKEN_PIPE = 120  # its exit code where what it has still to write cannot be written at its end
_WRONG = (1, 2, 4)  # the answer, its presentation, more than was asked for
_POINTS = re.compile(rb"points[ \t]+([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:\s|$)")
_MESSAGE_BYTES = 500


def checked_case(points: float, ran: CaseResult, check: CaseResult, *, by: str = "checker") -> CaseResult:
    """The result of a case that is worth so many points. ``ran``: its own run; ``check``: the run of its checker, or who judges."""
    code, message = _exit_code(check), _message(check, by)
    run = None if ran.run is None else replace(ran.run, evidence=(*ran.run.evidence, *message))
    ran = replace(ran, points=0.0)
    share = _share(check) if code == _PARTLY else None
    if code == _RIGHT or share == 1.0:
        kept = None if run is None else silent(run)
        return replace(ran, outcome=Outcome.SUCCESS, text=with_cut("", run), correct=True, points=points, run=kept)
    if code in _WRONG:
        text = with_cut(f"its {by} says that this is wrong", run)
        return replace(ran, outcome=Outcome.FAILED, text=text, correct=False, run=run)
    if share is None:
        no_points = "exit code 7 is a part of the points, and its standard error has no line 'points P' with P from 0 to 1"
        why = no_points if code == _PARTLY else check.text or f"exit code {code}"
        return replace(ran, outcome=Outcome.ERROR, text=f"its {by} failed: {why}", run=run)
    text = with_cut(f"its {by} gives {share:g} of the points", run)
    return replace(ran, outcome=Outcome.FAILED, text=text, correct=False, points=points * share, run=run)


def talked_case(points: float, ran: CaseResult, interactor: CaseResult, *, interactor_was_first: bool) -> CaseResult:
    """The result of a case whose program talked with an interactor. Who ended first is believed."""
    ended_well = ran.outcome is Outcome.SUCCESS
    if ended_well and not interactor_was_first and _died_of_its_pipe(interactor):
        left_early = "it ended before its interactor had said everything"
        return replace(ran, outcome=Outcome.FAILED, text=left_early, correct=False, points=0.0)
    if ended_well or interactor_was_first:
        return checked_case(points, ran, interactor, by="interactor")
    said = _message(interactor, "interactor")
    run = None if ran.run is None else replace(ran.run, evidence=(*ran.run.evidence, *said))
    return replace(ran, points=0.0, run=run)


def _died_of_its_pipe(interactor: CaseResult) -> bool:
    if interactor.run is not None and interactor.run.signal == _BROKEN_PIPE:
        return True
    return _exit_code(interactor) == _PYTHONS_BROKEN_PIPE


def unchecked_case(ran: CaseResult, why: str) -> CaseResult:
    """A case whose checker cannot be run: says why."""
    return replace(ran, outcome=Outcome.ERROR, text=why, points=0.0)


def _exit_code(check: CaseResult) -> int | None:
    """None: it was stopped, or a signal ended it."""
    ended_by_itself = check.outcome in (Outcome.SUCCESS, Outcome.FAILED)
    return check.run.exit_code if ended_by_itself and check.run is not None else None


def _message(check: CaseResult, by: str) -> list[Evidence]:
    """The first line that it printed, for the author: it may tell what is expected."""
    said = b"" if check.run is None else (check.run.stderr or check.run.stdout)
    first = one_line(said[:_MESSAGE_BYTES].split(b"\n", 1)[0].decode("utf-8", "replace"))
    return [Evidence(kind=by, value=first, source=f"the {by}'s output")] if first else []


def _share(check: CaseResult) -> float | None:
    found = None if check.run is None else _POINTS.search(check.run.stderr[:_MESSAGE_BYTES])
    if found is None:
        return None
    value = float(found[1])
    return value if math.isfinite(value) and 0 <= value <= 1 else None
