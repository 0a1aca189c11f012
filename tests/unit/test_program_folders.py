"""``Task.from_directory`` of folders with a command and cases, or with hidden tests; and how what is wrong with one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmanager import Case, Checker, Code, Exact, Floats, Grader, Interactor, Limits, Lines, Task, Tokens
from jobmanager.errors import InvalidTask

SUM = """\
environment_id: gcc
environment_parameters:
    limits: {time: 1, memory: 64}
build: gcc -o main main.c
build_limits: {time: 20, memory: 512}
command: [./main]
cases: cases
check: tokens
stop_at_first_failure: true
problems:
    program: {type: code, filename: main.c}
"""
JUDGE = "environment_id: python3\ncommand: [python3, judge.py]\n"
ONE_CASE = "command: x\ncases: [{stdin: a, expected: b}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task folder with cases, with files for submissions, and with a folder of a judge."""
    files = {
        "cases/1.in": "1 2", "cases/1.ans": "3", "cases/10.in": "5 5", "cases/10.ans": "10",
        "cases/9.in": "4 5", "cases/9.ans": "9",
        "student/words/list.txt": "words", "judge/task.yaml": JUDGE, "judge/judge.py": "print()", "secret.txt": "secret",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / "sum" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sum" / name).write_text(content)
    return tmp_path / "sum"


def task_of(folder: Path, text: str) -> Task:
    (folder / "task.yaml").write_text(text)
    return Task.from_directory(folder)


def test_a_command_is_built_and_run_for_each_case_and_submissions_see_no_other_file(folder: Path) -> None:
    task = task_of(folder, SUM)

    assert (task.environment, task.build, task.command, task.grader) == ("gcc", "gcc -o main main.c", ("./main",), None)
    assert (task.limits.memory_mib, task.build_limits) == (64, Limits(cpu_time_s=20.0, memory_mib=512))
    assert [case.name for case in task.cases] == ["1", "9", "10"]
    assert {type(case.check) for case in task.cases} == {Tokens}
    assert task.cases[0].expected == b"3"
    assert task.files == {"words/list.txt": b"words"}
    assert task.problems == {"program": Code("main.c")}
    assert task.stop_at_first_failure and task.name == "sum"


def test_cases_are_a_folder_or_a_list(folder: Path) -> None:
    text = "command: x\ncases:\n- {name: n, stdin: '1', expected: '', points: 2, args: [-a, b]}\n- {stdin: |2, expected: c}\n"
    task = task_of(folder, text.replace("|2", "'2'"))

    assert task.cases == (Case("1", name="n", expected="", points=2.0, args=["-a", "b"]), Case("2", expected="c"))


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("lines", Lines()),
        ("exact", Exact()),
        ("tokens", Tokens()),
        ("floats", Floats()),
        ("{floats: 1e-6}", Floats(absolute=1e-6, relative=1e-6)),
    ],
)
def test_a_check_is_named(folder: Path, check: str, expected: object) -> None:
    assert task_of(folder, f"{ONE_CASE}check: {check}\n").cases[0].check == expected


@pytest.mark.parametrize(("kind", "cls"), [("checker", Checker), ("interactor", Interactor)])
def test_a_judge_is_a_folder_in_the_folder_with_files_of_its_own(folder: Path, kind: str, cls: type) -> None:
    (folder / "judge" / "task.yaml").write_text(f"{JUDGE}build: make\n")

    (case,) = task_of(folder, f"command: x\ncases: [{{stdin: a}}]\ncheck: {{{kind}: judge}}\n").cases

    judge = Task("python3", build="make", command=["python3", "judge.py"], files={"judge.py": "print()"}, name="judge")
    assert case.check == cls(judge)


def test_a_command_alone_is_a_program_with_one_run(folder: Path) -> None:
    assert task_of(folder, "command: sh main.sh\nproblems: {q: {type: file, filename: main.sh}}\n").command == "sh main.sh"


@pytest.mark.parametrize(("run_by", "made_by"), [("pytest", Grader.pytest), ("unittest", Grader.unittest)])
def test_hidden_tests_call_the_only_answer(folder: Path, run_by: str, made_by: type) -> None:
    (folder / "test_it.py").write_text("tests")
    said = f"hidden_tests: {{run_by: {run_by}, submission: it.py, cpu_time: 3, one_process: true}}\n"

    task = task_of(folder, f"{said}problems: {{q: {{type: code}}}}\n")

    assert task.grader == made_by("it.py", cpu_time_s=3.0, one_process=True)
    assert task.problems == {"q": Code("student/it.py")}
    assert task.files is not None and "test_it.py" in task.files


MISTAKES = [
    ("cases: cases\nproblems: {}\n", "1: cases needs a command, which is run for each case"),
    ("check: lines\nproblems: {}\n", "1: check needs a command"),
    ("command: x\ncheck: lines\n", "2: check is for a task with cases"),
    ("command: x\nproblems: {q: {type: file, filename: f}}\nbuild: make\n", "3: build is for a task with cases"),
    ("command: x\ncases: nowhere\n", "2: cases names 'nowhere', which is not there, or is no folder"),
    ("command: x\ncases: ../sum/cases\n", "2: cases must be a folder in the task's folder, not '../sum/cases'"),
    ("command: x\ncases: /etc\n", "2: cases must be a folder in the task's folder"),
    ("command: x\ncases: link\n", "2: cases names 'link', which is a link, and links are not followed"),
    ("command: x\ncases: student\n", "2: cases cannot be read: "),
    ("command: x\ncases:\n- {stdin: a}\n", "3: cases[0].expected is missing"),
    ("command: x\ncases:\n- {expected: a, output: b}\n", "3: cases[0].output is no part of a case"),
    ("command: x\ncases:\n- {expected: a, points: -1}\n", "3: cases[0].points must be a number above 0"),
    ("command: x\ncases: [a]\n", "2: cases[0] must be a mapping"),
    (f"{ONE_CASE}check: same\n", "3: check must be lines, exact, tokens, floats, {floats: 1e-6}"),
    (f"{ONE_CASE}check: {{floats: much}}\n", "3: check.floats must be a tolerance"),
    (f"{ONE_CASE}check: {{checker: judge, interactor: judge}}\n", "3: check must have one of"),
    (f"{ONE_CASE}check: {{checker: nowhere}}\n", "3: check.checker names 'nowhere', which is not there"),
    (f"{ONE_CASE}check: {{checker: student}}\n", "3: check.checker is no task: the folder"),
    (f"{ONE_CASE}problems: {{q: {{type: code}}}}\n", "3: problems.q needs a filename"),
    (f"{ONE_CASE}run_cmd: x\nenvironment: e\n", "1: there are a command, and a grader, too: x"),
    (f"{ONE_CASE}hidden_tests: {{run_by: pytest}}\n", "1: command and hidden_tests do not go together"),
    ("hidden_tests: {run_by: nose}\nproblems: {q: {type: code}}\n", "1: hidden_tests.run_by must be pytest or unittest"),
    ("hidden_tests: {timeout: 3}\nproblems: {q: {type: code}}\n", "1: hidden_tests.timeout is none of"),
    ("hidden_tests: {submission: ../x.py}\nproblems: {q: {type: code}}\n", "1: hidden_tests make no grader: "),
    (f"{ONE_CASE}build: make\nbuild_limits: {{memory: 1}}\n", "4: build_limits: memory_mib must be at least"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_told_with_its_line(folder: Path, text: str, says: str) -> None:
    (folder / "link").symlink_to(folder / "cases")
    with pytest.raises(InvalidTask) as refused:
        task_of(folder, text)
    lines = [line.removeprefix(f"{folder}/task.yaml:") for line in str(refused.value).splitlines()]
    assert any(line.startswith(says) for line in lines), lines


def test_a_script_beside_a_command_is_a_mistake(folder: Path) -> None:
    (folder / "run").write_text("#!/bin/sh\n")
    with pytest.raises(InvalidTask, match="there are a command, and a grader, too: run"):
        task_of(folder, ONE_CASE)
