"""Graders in grading containers on a real engine: their commands, the Python modules, and programs in student containers."""

from __future__ import annotations

import io
import tarfile
from typing import Protocol

import pytest

from jobmanager import Code, File, Grader, JobFuture, JobInput, JobManager, JobResult, Limits, Outcome, ProblemResult, Task
from tests.integration.conftest import PATIENCE_S, PYTHON
from tests.unit.test_docs import graders_of_the_page

pytestmark = pytest.mark.engine

LIMITS = Limits(cpu_time_s=20, wall_time_s=60, memory_mib=128, processes=32)
RIGHT, WRONG = "return 2 * x", "return x + 2"


class Submit(Protocol):
    """Submits one grading job."""

    def __call__(self, run: str, answers: dict[str, object] | None = None, *, script: str = "run", **task: object) -> JobFuture: ...


class Grade(Protocol):
    """Runs one grading job to its end."""

    def __call__(self, run: str, answers: dict[str, object] | None = None, *, script: str = "run", **task: object) -> JobResult: ...


@pytest.fixture
def submit(shared_manager: JobManager) -> Submit:
    """Submits a job that a script grades; each answer is to a problem of its own."""

    def submitted(run: str, answers: dict[str, object] | None = None, *, script: str = "run", **task: object) -> JobFuture:
        files = {script: run, **task.pop("files", {})}  # type: ignore[dict-item]
        problems = {name: Code(f"{name}.txt") for name in (answers or {}) if not name.startswith("@")}
        made = Task(PYTHON, grader=Grader(), files=files, limits=LIMITS, **{"problems": problems, **task})  # type: ignore[arg-type]
        return shared_manager.submit(made, JobInput(answers))  # type: ignore[arg-type]

    return submitted


@pytest.fixture
def grade(submit: Submit) -> Grade:
    """Grades one job."""
    return lambda run, answers=None, **task: submit(run, answers, **task).result(PATIENCE_S)


OLD_GRADER = """#!/bin/bash
getinput code > student/answer.py
getinput photo > student/photo
printf 'It is %s of %s.\\n\\n' "$(getinput photo:filename)" "$(getinput @username)" | feedback-msg
parsetemplate -o student/test.py template.py
output=$(run_student --time 5 --memory 64 python3 student/test.py < student/photo)
code=$?
feedback-msg -ae -m "It said $output,\\nand ended with $code."
feedback-custom seconds 1.5
feedback-custom -j list '[1, null]'
feedback-state "$(getinput @state)+1"
tag-set loops true
[ "$output" = "42 6" ] && [ $code = 3 ] && feedback-result success || feedback-result failed
feedback-result -i code success
feedback-msg -i code -m "Neat."
feedback-grade 87.5
archive -a student/test.py -s kept
mkdir /archive/deep; echo old > /archive/deep/way.txt; ln -s /etc/passwd /archive/link
exit 1
"""
TEMPLATE = """import sys
def double(x):
@    @code@@
print(double(21), len(sys.stdin.buffer.read()))
sys.exit(3)
"""


def test_an_old_shell_grader_runs_unchanged(shared_manager: JobManager) -> None:
    # given: a task with a program and an upload for answers
    task = Task(
        PYTHON,
        grader=Grader(),
        files={"run": OLD_GRADER, "template.py": TEMPLATE},
        problems={"code": Code("code.txt"), "photo": File("photo.png")},
        limits=LIMITS,
    )
    answers = {"code": RIGHT, "photo": b"\x89PNG\x00\xff", "@username": "ann", "@state": "before"}
    # when:
    result = shared_manager.submit(task, JobInput(answers)).result(PATIENCE_S)
    # then: all that it said is in the result, and its exit code changes nothing
    assert (result.outcome, result.grade, result.exit_code) == (Outcome.SUCCESS, 87.5, 1), (result.text, result.stderr_text)
    assert result.text == "It is photo.png of ann.\n\nIt said 42 6,\nand ended with 3."
    assert result.problems["code"] == ProblemResult(Outcome.SUCCESS, "Neat.")
    assert result.custom == {"seconds": 1.5, "list": [1, None]}
    assert (result.tests, result.state) == ({"loops": True}, "before+1")
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as archive:
        assert sorted(member.name for member in archive) == ["deep/way.txt", "kept/test.py"]


def test_an_old_python_grader_runs_unchanged(grade: Grade) -> None:
    run = """
from inginious_container_api import feedback, input, rst, run_student
parse_template("template.py", "student/test.py")
stdout, stderr, code = run_student.run_student_simple("python3 student/test.py", cmd_input="abc", time_limit=5)
low, high = input.get_input("@random")
feedback.set_global_result("success" if (stdout, stderr, code) == ("42 3\\n", "", 3) else "failed")
feedback.set_global_feedback(rst.get_codeblock("", stdout) + get_lang())
feedback.set_problem_result("failed", "code")
feedback.set_grade(low + high)
listing = !ls student
feedback.set_custom_value("listing", listing)
"""
    result = grade(run, {"code": RIGHT, "@random": [0.25, 50], "@lang": "fr"}, script="run.py", files={"template.py": TEMPLATE})
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 50.25), (result.text, result.stderr_text)
    assert result.text == "\n\n.. code-block:: \n\n\t42 3\n\nfr"
    assert result.problems["code"].outcome is Outcome.FAILED
    assert result.custom == {"listing": ["test.py"]}


def test_the_graders_of_the_page_judge_as_it_says(submit: Submit) -> None:
    shell, template, python = graders_of_the_page()
    jobs = [
        submit(grader, {"code": answer}, script=script, files={"template.py": template})
        for script, grader in (("run", shell), ("run.py", python))
        for answer in (RIGHT, WRONG, "return unknown")
    ]
    results = [job.result(PATIENCE_S) for job in jobs]
    assert [result.outcome for result in results] == [Outcome.SUCCESS, Outcome.FAILED, Outcome.FAILED] * 2, results[0].stderr_text
    assert results[1].problems["code"].text == "double(21) gives 23."
    assert "NameError" in results[2].text and "NameError" in results[5].problems["code"].text


def test_how_a_student_ended_is_an_exit_code(grade: Grade) -> None:
    run = """#!/bin/sh
run_student --memory 32 --time 1 python3 -c "'while True: pass'" & endless=$!
run_student --memory 16 python3 -c "'x = bytearray(10**8)'" & greedy=$!
run_student --memory 16 no-such-command & missing=$!
run_student --memory 16 --container no-such-environment true & nowhere=$!
(cd student; echo x > y; run_student --memory 16 sh -c "'pwd; cat y; exit 7'"; echo $?)
for student in $endless $greedy $missing $nowhere; do wait $student; echo $?; done
feedback-result success
"""
    result = grade(run)
    assert result.outcome is Outcome.SUCCESS, (result.text, result.stderr_text)
    assert result.stdout_text.split() == ["/task/student", "x", "7", "253", "252", "251", "251"]
    assert "no-such-command" in result.stderr_text and "no-such-environment" in result.stderr_text


def test_streams_of_a_student_pass_unchanged_and_live(grade: Grade) -> None:
    run = r"""
import os, subprocess
data = os.urandom(400_000)
assert run_student_simple("cat", data, text=False) == (data, b"", 0)
student = subprocess.Popen(["run_student", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
for word in (b"one", b"two"):
    student.stdin.write(word)
    assert student.stdout.read(3) == word
student.terminate()
assert student.wait() == 254
set_global_result("success")
"""
    result = grade(run, script="run.py")
    assert result.outcome is Outcome.SUCCESS, (result.text, result.stderr_text)


def test_what_a_grader_does_wrong_is_told_to_it_and_nothing_is_lost(grade: Grade) -> None:
    run = """#!/bin/sh
feedback-result success
getinput nothing
parsetemplate missing.c
feedback-grade
head -c 5000000 /dev/zero | feedback-msg
python3 -c "from inginious import run_student; run_student.run_student_simple('a\\0b')"
feedback-msg -m "still here"
"""
    result = grade(run)
    assert (result.outcome, result.text) == (Outcome.SUCCESS, "still here")
    for reason in (
        "no input 'nothing'",
        "'missing.c' cannot be filled in",
        "usage: feedback-grade",
        "1024 is the most",
        "NUL byte",
    ):
        assert reason in result.stderr_text


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("#!/no/such/shell\n", "/no/such/shell"),
        ("#!/bin/sh\r\ntrue\r\n", "CR LF"),
        ("echo hi\n", "first line"),
        ("#!/bin/sh\nexit 3\n", "3"),
    ],
)
def test_a_grader_that_cannot_start_or_says_nothing_is_a_crash_that_tells(grade: Grade, run: str, reason: str) -> None:
    result = grade(run)
    assert result.outcome is Outcome.CRASH
    assert reason in result.text
