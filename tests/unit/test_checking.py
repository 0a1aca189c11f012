"""What a checker or an interactor makes of a case, by how both have ended: pure functions."""

from __future__ import annotations

import pytest

from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, Outcome, RunResult
from jobmanager.results.checking import checked_case, talked_case

LIMITS = Limits()
ENDED_WELL = CaseResult(name="c", outcome=Outcome.SUCCESS, points=2.0, run=RunResult(outcome=Outcome.SUCCESS, exit_code=0))
CRASHED = CaseResult(
    name="c", outcome=Outcome.FAILED, text="killed by SIGSEGV", run=RunResult(outcome=Outcome.FAILED, signal="SIGSEGV")
)


def judged(code: int | None, *, signal: str | None = None, stderr: bytes = b"") -> CaseResult:
    """The run of a checker or an interactor."""
    outcome = Outcome.SUCCESS if code == 0 else Outcome.FAILED
    text = "" if code == 0 else f"killed by {signal}" if signal else f"exit code {code}"
    return CaseResult(
        name="c", outcome=outcome, text=text, run=RunResult(outcome=outcome, exit_code=code, signal=signal, stderr=stderr)
    )


@pytest.mark.parametrize(
    ("said", "outcome", "correct", "points"),
    [
        (judged(0), Outcome.SUCCESS, True, 2.0),
        (judged(1), Outcome.FAILED, False, 0.0),
        (judged(2), Outcome.FAILED, False, 0.0),
        (judged(4), Outcome.FAILED, False, 0.0),
        (judged(7, stderr=b"points 0.5\n"), Outcome.FAILED, False, 1.0),
        (judged(7, stderr=b"points 1"), Outcome.SUCCESS, True, 2.0),
        (judged(7), Outcome.ERROR, None, 0.0),
        (judged(7, stderr=b"points -1"), Outcome.ERROR, None, 0.0),
        (judged(7, stderr=b"points 1e0"), Outcome.ERROR, None, 0.0),
        (judged(3), Outcome.ERROR, None, 0.0),
        (judged(None, signal="SIGSEGV"), Outcome.ERROR, None, 0.0),
    ],
)
def test_the_words_of_a_judge_are_those_of_testlib_whoever_was_first(
    said: CaseResult, outcome: Outcome, correct: bool | None, points: float
) -> None:
    for result in (
        checked_case(2.0, ENDED_WELL, said),
        talked_case(2.0, ENDED_WELL, said, interactor_was_first=False),
        talked_case(2.0, ENDED_WELL, said, interactor_was_first=True),
        talked_case(2.0, CRASHED, said, interactor_was_first=True),
    ):
        assert (result.outcome, result.correct, result.points) == (outcome, correct, points)


@pytest.mark.parametrize("said", [judged(0), judged(1), judged(3), judged(None, signal="SIGPIPE")])
def test_a_submission_that_ended_badly_first_keeps_its_outcome_whatever_is_said(said: CaseResult) -> None:
    result = talked_case(2.0, CRASHED, said, interactor_was_first=False)
    assert (result.outcome, result.text, result.correct, result.points) == (Outcome.FAILED, "killed by SIGSEGV", None, 0.0)


def test_an_interactor_that_still_spoke_when_the_submission_had_ended_well_says_that_this_left_early() -> None:
    result = talked_case(2.0, ENDED_WELL, judged(None, signal="SIGPIPE"), interactor_was_first=False)
    assert (result.outcome, result.correct, result.points) == (Outcome.FAILED, False, 0.0)
    assert result.text == "it ended before its interactor had said everything"
