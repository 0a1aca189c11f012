"""The result of a pipeline: which phase's run it shows, and what a phase that failed changes."""

from __future__ import annotations

import pytest

from jobmanager import JobResult, Outcome, Phase, Pipeline, Task
from jobmanager.control.request import job_request
from jobmanager.results.facts import CapturedOutput, Collected
from jobmanager.results.pipeline_result import PhaseReport, merged_pipeline_result
from jobmanager.results.verdict import Verdict, judge, with_reruns
from tests.support.run_facts import exited

TASK = Task("x", command="true")
MAY_FAIL = {"allow_failure": True}
ALWAYS = {"when": "always"}


def result_of(
    *phases: tuple[str, dict[str, object], int], cut_off: list[str] | None = None, result_file: bytes | None = None
) -> JobResult:
    """Of a job that nothing has stopped: phases by name, options and exit code; why it was run again; a file of each phase."""
    pipeline = Pipeline([Phase(name, TASK, **options) for name, options, _ in phases])  # type: ignore[arg-type]
    request = job_request(pipeline, None, None, {}, ssh_timeout_s=1.0)
    facts = [exited(code, result_file=result_file, output=CapturedOutput(stdout=name.encode())) for name, _, code in phases]
    reports = [PhaseReport(verdict=judge(each, TASK.limits), facts=each) for each in facts]
    success = with_reruns(Verdict(outcome=Outcome.SUCCESS), cut_off or [])
    return merged_pipeline_result(request, success, reports, decided_by=None, host="a", timings={}, steps=())


@pytest.mark.parametrize(
    ("phases", "shown"),
    [
        ([("one", {}, 0), ("two", {}, 0)], "two"),
        ([("one", {}, 0), ("two", MAY_FAIL, 0)], "two"),
        ([("one", {}, 0), ("two", MAY_FAIL, 3)], "one"),
        ([("one", {}, 0), ("two", {}, 0), ("three", ALWAYS, 0)], "two"),
        ([("one", MAY_FAIL, 3)], "one"),
        ([("one", MAY_FAIL, 3), ("two", ALWAYS, 0)], "one"),
    ],
)
def test_a_job_that_no_phase_stopped_is_a_success_and_shows_the_last_phase_that_could_have_stopped_it_and_succeeded(
    phases: list[tuple[str, dict[str, object], int]], shown: str
) -> None:
    result = result_of(*phases)

    assert (result.outcome, result.text, result.grade, result.stdout) == (Outcome.SUCCESS, "", 100.0, shown.encode())
    told = [found.source for found in result.evidence if found.kind == "phase_failed"]
    assert told == [f"phase {name!r}" for name, _, code in phases if code]


@pytest.mark.parametrize("file", [b"nonsense", b'{"result": "failed", "text": "no", "grade": 7}'])
def test_a_result_file_of_a_phase_that_may_fail_and_of_one_that_always_runs_says_nothing_of_the_job(file: bytes) -> None:
    result = result_of(("one", MAY_FAIL, 3), ("two", ALWAYS, 0), result_file=file)

    assert (result.outcome, result.text, result.grade) == (Outcome.SUCCESS, "", 100.0)


def test_no_earlier_phase_takes_the_place_of_a_later_ones_test() -> None:
    """Neither by a report, nor by a result file."""
    request = job_request(Pipeline([Phase("build", TASK), Phase("test", TASK)]), None, None, {}, ssh_timeout_s=1.0)
    forged, true = ({"r.json": b'{"tests": [{"name": "adds", "passed": %s}]}' % said} for said in (b"true", b"false"))
    file = b'{"tests": {"adds": "passed", "more": "passed"}}'
    facts = [exited(result_file=file, collected=Collected(test_files=forged)), exited(collected=Collected(test_files=true))]
    reports = [PhaseReport(verdict=judge(each, TASK.limits), facts=each) for each in facts]
    success = Verdict(outcome=Outcome.SUCCESS)

    result = merged_pipeline_result(request, success, reports, decided_by=None, host="a", timings={}, steps=())

    assert {name: test["passed"] for name, test in result.tests.items()} == {"build: adds": True, "adds": False}  # type: ignore[index]


def test_a_success_after_a_run_that_was_cut_off_tells_that() -> None:
    result = result_of(("one", {}, 0), cut_off=["a: the host was lost"])

    assert [(found.kind, found.value) for found in result.evidence] == [
        ("exit_code", 0),
        ("reruns", 1),
        ("cut_off", "a: the host was lost"),
    ]
