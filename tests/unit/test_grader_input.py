"""What a grader is told of its job: ``input.json`` and the files beside it."""

from __future__ import annotations

import json

import pytest

from jobmanager import Code, File, Grader, JobInput, Limits, Match, MultipleChoice, Task
from jobmanager.control.workspace import INPUT_FILE, workspace_files
from jobmanager.errors import InvalidInput

PROBLEMS = {
    "text": Code("text.py"),
    "line": Code(single_line=True, optional=True),
    "upload": File("sent/up.zip"),
    "paper": File(),
    "later": File(optional=True),
    "choice": MultipleChoice(correct=[1, 2], choices=[1, 2, 3]),
    "word": Match("x"),
}
PAPER = {"filename": "my paper.pdf", "value": b"pdf"}
ANSWERS = {"text": "print()", "upload": b"zip", "paper": PAPER, "choice": {2, 1}, "word": "y"}


def told(answers: dict[str, object], **task: object) -> dict[str, object]:
    files = workspace_files(Task("x", grader=Grader("true"), **task), JobInput(answers))  # type: ignore[arg-type]
    return json.loads(files[INPUT_FILE])  # type: ignore[no-any-return]


def test_a_grader_is_told_every_answer() -> None:
    files = workspace_files(Task("x", grader=Grader("true"), problems=PROBLEMS), JobInput(ANSWERS))

    assert json.loads(files[INPUT_FILE]) == {
        "answers": {
            "text": "print()",
            "line": "",
            "upload": {"filename": "up.zip", "path": "/task/sent/up.zip"},
            "paper": {"filename": "my paper.pdf", "path": "/task/.jobmanager/answers/3"},
            "later": "",
            "choice": [1, 2],
            "word": "y",
        },
        "language": "en",
    }
    assert files["text.py"] == b"print()"
    assert (files["sent/up.zip"], files[".jobmanager/answers/3"]) == (b"zip", b"pdf")


def test_a_grader_is_told_what_the_caller_notes() -> None:
    notes = {"@random": [0.25, 0.5], "@state": "was here", "@lang": "fr", "@deep": {"a": [None, True]}}
    assert told(notes) == {**notes, "answers": {}, "language": "fr"}


def test_a_command_is_told_nothing_of_that() -> None:
    assert INPUT_FILE not in workspace_files(Task("x", command="true"), JobInput({"@lang": "fr"}))


@pytest.mark.parametrize("value", [b"bytes", float("nan"), object(), {"a": {1, 2}}], ids=["bytes", "nan", "object", "set"])
def test_a_note_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="such as JSON can hold"):
        told({"@note": value})


def test_a_grading_job_takes_no_standard_input() -> None:
    with pytest.raises(InvalidInput, match="has no standard input"):
        workspace_files(Task("x", grader=Grader("true")), JobInput(stdin="x"))


@pytest.mark.parametrize("name", ["run", "run.py", "run.sh"])
def test_a_file_of_the_job_cannot_become_its_grader(name: str) -> None:
    task = Task("x", grader=Grader(), files={"run.sh": "feedback-result failed"})
    with pytest.raises(InvalidInput, match=f"would become '{name}', the grader's"):
        workspace_files(task, JobInput(files={name: "feedback-result success"}))


def test_a_file_of_the_job_cannot_become_what_its_grader_compares_with() -> None:
    task = Task("x", grader=Grader("true"), files={"expected": "1", "student/template.py": ""})
    with pytest.raises(InvalidInput, match="would become 'expected', the grader's: give it another name, or put it below student/"):
        workspace_files(task, JobInput(files={"expected": "2"}))
    files = workspace_files(task, JobInput(files={"student/template.py": "mine", "own": "x"}))
    assert (files["expected"], files["student/template.py"], files["own"]) == (b"1", b"mine", b"x")


def test_a_state_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="@state must be the text"):
        told({"@state": 3})


def test_there_is_room_in_the_workspace_for_what_is_ours() -> None:
    files, limits = {"a": bytes(2**20 - 2 * 4096)}, Limits(workspace_mib=1)  # beside them a file with the answers, and a free block
    workspace_files(Task("x", command="true", files=files, limits=limits), JobInput(files={"input.json": b"{}"}))

    with pytest.raises(InvalidInput, match="raise workspace_mib"):
        workspace_files(Task("x", grader=Grader("true"), files=files, limits=limits), JobInput())
