"""``JobResult``: one immutable object that unpacks into the old client's six values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from jobmanager import JobResult, Outcome, ProblemResult, unpacked
from jobmanager.model.result import PhaseResult, RunResult

RESULT = JobResult(
    job_id="j",
    outcome=Outcome.FAILED,
    text="no",
    grade=12.5,
    problems={"q": ProblemResult(Outcome.FAILED, "wrong")},
    tests={"t": 1},
    custom={"c": [1]},
    archive=b"tar",
)


def test_a_result_unpacks_into_the_six_values_of_the_old_client():
    result, grade, problems, tests, custom, archive = RESULT

    assert result == (Outcome.FAILED, "no") == ("failed", "no")
    assert (grade, problems, tests, custom, archive) == (12.5, {"q": ("failed", "wrong")}, {"t": 1}, {"c": [1]}, b"tar")


def test_unpacked_wraps_a_function_of_six_arguments_and_gives_back_what_it_returns():
    callback = unpacked(lambda result, grade, problems, tests, custom, archive: (result[0], grade, sorted(problems), archive))

    assert callback(RESULT) == ("failed", 12.5, ["q"], b"tar")


def test_what_a_function_of_six_arguments_raises_comes_through():
    def callback(*_six):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        unpacked(callback)(RESULT)


def test_a_result_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RESULT.grade = 100.0
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        RESULT.anything_else = 1


def test_an_outcome_is_its_word():
    assert [str(outcome) for outcome in Outcome] == ["success", "failed", "timeout", "overflow", "crash", "killed", "error"]
    assert f"{Outcome.CRASH}" == "crash"
    assert Outcome("timeout") is Outcome.TIMEOUT


def test_output_that_is_no_utf_8_can_still_be_read_as_text():
    result = JobResult(job_id="j", outcome=Outcome.SUCCESS, stdout=b"a\xff\xc3\xa9", stderr=b"\x80")

    assert result.stdout_text == "a\N{REPLACEMENT CHARACTER}é"
    assert result.stderr_text == "\N{REPLACEMENT CHARACTER}"


def test_where_output_was_cut_stands_beside_it():
    whole = JobResult(job_id="j", outcome=Outcome.SUCCESS, stdout=b"abc", stdout_bytes=3)
    cut = JobResult(job_id="j", outcome=Outcome.OVERFLOW, stdout=b"abc", stdout_bytes=9, stderr_bytes=1)

    assert (whole.stdout_cut_at, whole.stderr_cut_at) == (None, None)
    assert (cut.stdout_cut_at, cut.stderr_cut_at) == (3, 0)


def test_a_run_tells_its_output_as_a_job_does():
    run = RunResult(outcome=Outcome.OVERFLOW, stdout=b"a\xff", stdout_bytes=9, stderr=b"e", stderr_bytes=1)
    job = JobResult(job_id="j", outcome=Outcome.OVERFLOW, stdout=b"a\xff", stdout_bytes=9, stderr=b"e", stderr_bytes=1)

    for name in ("stdout_text", "stderr_text", "stdout_cut_at", "stderr_cut_at"):
        assert getattr(run, name) == getattr(job, name)
    assert (run.stdout_text, run.stdout_cut_at) == ("a\N{REPLACEMENT CHARACTER}", 2)


def test_a_phase_that_was_not_run_has_no_outcome():
    phase = PhaseResult(name="test", outcome=None, text="not run: the phase before it failed")

    assert (phase.run, phase.tests, phase.timings) == (None, {}, {})
    assert RESULT.phases == ()
