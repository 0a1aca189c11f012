"""Grading jobs on a real engine: a grader is told its job, and what it says becomes the result."""

from __future__ import annotations

import io
import tarfile

import pytest

from jobmanager import Code, File, Grader, JobInput, JobResult, Limits, Match, Outcome, Task
from tests.conftest import BUSYBOX
from tests.integration.conftest import PYTHON, Run, Submit, proof

pytestmark = pytest.mark.engine


def graded(run: Run, script: str, inputs: JobInput | None = None, *, name: str = "run", **task: object) -> JobResult:
    """A job whose grader is this script."""
    return run(None, inputs, image=PYTHON, grader=Grader(), files={name: script, "student/given": "x"}, **task)


def unpacked(archive: bytes | None) -> dict[str, bytes]:
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def test_what_a_grader_says_becomes_the_result(run: Run) -> None:
    script = """#!/bin/bash
        feedback-result failed
        feedback-grade 61.5
        feedback-msg -m 'not bad'
        feedback-msg -i q -m 'this was wrong'
        feedback-custom -j seen '[1, 2]'
        feedback-state "$(getinput @state) and now"
        mkdir made; echo kept > made/file; archive -a made/file; echo collected > other
        echo printed; echo complained >&2
        exit 7
    """
    brought = JobInput({"@state": "before", "q": "answer"})

    result = graded(run, script, brought, problems={"q": Code()}, collect=["other"])

    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 61.5, "not bad")
    assert result.problems["q"].text == "this was wrong"
    assert (dict(result.custom), result.state) == ({"seen": [1, 2]}, "before and now")
    assert sorted(unpacked(result.archive).values()) == [b"collected\n", b"kept\n"]
    assert (result.stdout, result.stderr, result.exit_code) == (b"printed\n", b"complained\n", 7)
    assert proof(result)["grader"] == "failed"


def test_a_grader_is_told_what_the_job_brought(run: Run) -> None:
    script = """
        import jobmanager_grading as grading
        told = grading.all_inputs()
        with open(told["paper"]["path"], "rb") as paper:
            told["paper"]["read"] = paper.read().decode()
        grading.set_custom("told", told)
        grading.set_custom("file", open("q.py").read())
        grading.set_custom("language", grading.language())
        grading.set_result("success")
    """
    brought = JobInput(
        {"q": "print(1)", "paper": {"filename": "a b.txt", "value": b"text"}, "@random": [0.5], "@lang": "fr", "m": "no"}
    )
    problems = {"q": Code("q.py"), "paper": File(), "m": Match("yes", failure_text="It was yes.")}

    result = graded(run, _dedented(script), brought, name="run.py", problems=problems)

    told = result.custom["told"]
    assert isinstance(told, dict)
    assert told["paper"]["filename"] == "a b.txt" and told["paper"]["read"] == "text"
    assert (told["q"], told["m"], told["@random"]) == ("print(1)", "no", [0.5])
    assert (result.custom["file"], result.custom["language"]) == ("print(1)", "fr")
    assert (result.outcome, result.text) == (Outcome.FAILED, "It was yes.")  # a wrong local answer makes a success a failure


def test_a_grader_may_be_named_as_a_command(run: Run) -> None:
    for words in ("cat given; feedback-result $RESULT", ["sh", "-c", "cat given; feedback-result $RESULT"]):
        result = run(image=PYTHON, grader=Grader(words), files={"given": "x"}, env={"RESULT": "timeout"})
        assert (result.outcome, result.stdout, result.grade) == (Outcome.TIMEOUT, b"x", 0)


def test_a_grader_that_says_nothing_is_a_crash_that_tells_how_it_ended(run: Run) -> None:
    result = graded(run, "#!/bin/sh\necho halfway >&2\nfeedback-msg -m lost\nrm .jobmanager/result.json\nexit 3\n")
    assert (result.outcome, result.grade, result.state) == (Outcome.CRASH, 0, "")
    assert "exit code 3" in result.text and result.text.endswith("halfway")

    unrunnable = graded(run, "#!/no/such/interpreter\n", JobInput({"@state": "kept"}))
    assert unrunnable.outcome is Outcome.CRASH and unrunnable.state == "kept"
    assert "exit code 127" in unrunnable.text and "no/such/interpreter" in unrunnable.text


def test_an_answer_that_cannot_be_read_is_an_error_with_the_reason(run: Run) -> None:
    result = graded(run, "#!/bin/sh\necho garbage > .jobmanager/result.json\n", JobInput({"@state": "kept"}))
    assert (result.outcome, result.state) == (Outcome.ERROR, "kept")
    assert "not JSON" in result.text


def test_limits_hold_for_a_grader_and_what_it_said_before_does_not_count(run: Run, submit: Submit) -> None:
    said = "#!/bin/sh\nfeedback-result success\n"
    jobs = {
        Outcome.TIMEOUT: submit(image=PYTHON, **_task(said + "sleep 100", Limits(cpu_time_s=5, wall_time_s=2))),
        Outcome.OVERFLOW: submit(image=PYTHON, **_task(said + "yes", Limits(output_kib=64))),
    }
    for outcome, job in jobs.items():
        result = job.result(60)
        assert (result.outcome, result.grade) == (outcome, 0.0), result


def test_an_image_without_python_is_no_grading_image_and_says_so(run: Run) -> None:
    result = run(image=BUSYBOX, grader=Grader(), files={"run": "true"})
    assert result.outcome is Outcome.CRASH and "python3" in result.text


def test_a_task_of_local_problems_has_a_container_for_its_grader(run: Run) -> None:
    problems = {"m": Match("yes")}
    assert Task(PYTHON, grader=Grader("true"), problems=problems).needs_container
    result = run(
        None, JobInput({"m": "yes"}), image=PYTHON, grader=Grader("feedback-result success; feedback-grade 80"), problems=problems
    )
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 80)


def _task(script: str, limits: Limits) -> dict[str, object]:
    return {"grader": Grader(), "files": {"run": script}, "limits": limits}


def _dedented(script: str) -> str:
    return "\n".join(line.removeprefix("        ") for line in script.splitlines())
