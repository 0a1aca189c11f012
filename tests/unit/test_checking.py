"""What a checker or an interactor makes of a case, by how both have ended: pure functions."""

from __future__ import annotations

import pytest

from jobmanager.ipc.messages import CaseRun
from jobmanager.model.checks import Lines
from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, Outcome, RunResult
from jobmanager.results.checking import checked_case, talked_case
from jobmanager.results.facts import CapturedOutput, ProgramEnd, ProgramExited, RunFacts
from jobmanager.results.verdict import judge
from jobmanager.watching.case_result import case_result, with_streams_cut

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


CUT = RunResult(outcome=Outcome.SUCCESS, exit_code=0, stdout=b"4\n", stdout_bytes=9, output_cut=True)


@pytest.mark.parametrize(
    ("code", "stderr", "text"),
    [
        (0, b"", "its output was cut after 2 bytes"),
        (1, b"", "its checker says that this is wrong; its output was cut after 2 bytes"),
        (7, b"points 0.5", "its checker gives 0.5 of the points; its output was cut after 2 bytes"),
    ],
)
def test_what_a_checker_says_of_output_that_was_cut_tells_that_too(code: int, stderr: bytes, text: str) -> None:
    ran = CaseResult(name="c", outcome=Outcome.ERROR, text="it has not been checked", run=CUT)
    assert checked_case(2.0, ran, judged(code, stderr=stderr)).text == text


def printed(stdout: bytes, *, stdout_bytes: int, stderr: bytes = b"", stderr_bytes: int = 0) -> RunFacts:
    output = CapturedOutput(stdout=stdout, stderr=stderr, stdout_bytes=stdout_bytes, stderr_bytes=stderr_bytes)
    return RunFacts(ending=ProgramExited(end=ProgramEnd(exit_code=0)), output=output)


@pytest.mark.parametrize(
    ("facts", "expected", "outcome", "text"),
    [
        (printed(b"4\n", stdout_bytes=2), b"4", Outcome.SUCCESS, ""),
        (printed(b"4\n\n\n", stdout_bytes=9999), b"4", Outcome.SUCCESS, "its output was cut after 4 bytes"),
        (
            printed(b"4\n5\n", stdout_bytes=9999),
            b"4\n6",
            Outcome.FAILED,
            "line 2: '5' is not what is expected; its output was cut after 4 bytes",
        ),
        (printed(b"4\n", stdout_bytes=2, stderr=b"x", stderr_bytes=9999), b"4", Outcome.SUCCESS, ""),  # stdout is whole
    ],
)
def test_output_that_was_cut_is_compared_as_far_as_it_is_kept(
    facts: RunFacts, expected: bytes, outcome: Outcome, text: str
) -> None:
    limits = Limits(output_kib=1, on_output_limit="truncate")
    case = CaseRun(number=1, name="c", limits=limits, check=Lines(), expected=expected, points=3.0)

    result = with_streams_cut(case_result(case, judge(facts, limits), facts), streams_kept=0)

    assert (result.outcome, result.correct, result.text) == (outcome, outcome is Outcome.SUCCESS, text)
    assert result.run is not None and result.run.output_cut
    assert result.run.stdout_bytes + result.run.stderr_bytes == facts.output.total_bytes
