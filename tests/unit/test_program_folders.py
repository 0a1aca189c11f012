"""``Task.from_directory`` of folders with a command and cases, or with hidden tests; and how what is wrong with one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobmanager import Case, Checker, Code, Exact, File, Floats, Grader, Interactor, Limits, Lines, Task, Tokens
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
    first = "{name: n, stdin: '1', expected: '', points: 0, args: [-a, b], cpu_time: 3, wall_time: 9}"
    task = task_of(folder, f"command: x\ncases:\n- {first}\n- {{stdin: '2', expected: c}}\n")

    assert task.cases == (
        Case("1", name="n", expected="", points=0, args=["-a", "b"], cpu_time_s=3.0, wall_time_s=9.0),
        Case("2", expected="c"),
    )


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
    of_all = "student_cpu_time: 9, student_memory: 99"
    said = f"hidden_tests: {{run_by: {run_by}, submission: it.py, cpu_time: 3, one_process: true, {of_all}}}\n"

    task = task_of(folder, f"{said}problems: {{q: {{type: code}}}}\n")

    assert task.grader == made_by("it.py", cpu_time_s=3.0, one_process=True, student_cpu_time_s=9.0, student_memory_mib=99)
    assert task.problems == {"q": Code("student/it.py")}
    assert task.files is not None and "test_it.py" in task.files


@pytest.mark.parametrize("names", [("it.py", "student/more.py"), (None, "more.py"), ("student/it.py", "more.py")])
def test_answers_to_hidden_tests_are_files_beside_the_submission(folder: Path, names: tuple[str | None, str]) -> None:
    (folder / "test_it.py").write_text("tests")
    own = "" if names[0] is None else f", filename: {names[0]}"
    problems = f"problems:\n  q: {{type: code{own}}}\n  more: {{type: file, filename: {names[1]}}}\n"
    task = task_of(folder, f"hidden_tests: {{submission: it.py}}\n{problems}")
    assert task.problems == {"q": Code("student/it.py"), "more": File("student/more.py")}


def test_the_disk_of_a_build_is_that_of_its_cases(folder: Path) -> None:
    task = task_of(folder, SUM.replace("{time: 1, memory: 64}", "{time: 1, memory: 64, disk: 128}"))
    assert (task.limits.workspace_mib, task.build_limits) == (128, Limits(cpu_time_s=20.0, memory_mib=512, workspace_mib=128))


def test_limits_that_inginious_has_not_are_named_as_ours(folder: Path) -> None:
    ours = "processes: 99, open_files: 512, output_kib: 64, cpus: 1.5, on_output_limit: truncate"
    text = SUM.replace("{time: 1, memory: 64}", f"{{time: 1, {ours}}}")
    task = task_of(folder, text.replace("{time: 20,", "{time: 20, processes: 400, output_kib: 9,"))

    shared: dict[str, Any] = {"open_files": 512, "cpus": 1.5}
    assert task.limits == Limits(cpu_time_s=1.0, processes=99, output_kib=64, on_output_limit="truncate", **shared)
    assert task.build_limits == Limits(cpu_time_s=20.0, memory_mib=512, processes=400, output_kib=9, **shared)


MISTAKES = [
    ("cases: cases\nproblems: {}\n", "1: cases needs a command, which is run for each case"),
    ("check: lines\nproblems: {}\n", "1: check needs a command"),
    ("command: x\ncheck: lines\n", "2: check is for a task with cases"),
    ("command: x\nproblems: {q: {type: file, filename: f}}\nbuild: make\n", "3: build is for a task with cases"),
    ("command: x\ncases: nowhere\n", "2: cases names 'nowhere', which is not there, or is no folder"),
    ("command: x\ncases: ../sum/cases\n", "2: cases must be a folder in the task's folder, not '../sum/cases'"),
    ("command: x\ncases: /etc\n", "2: cases must be a folder in the task's folder"),
    ("command: x\ncases: link\n", "2: cases names 'link', which is a link, and links are not followed"),
    ("command: x\ncases: secret.txt\n", "2: cases names 'secret.txt', which is not there, or is no folder"),
    ("command: x\ncases: judge\n", "2: cases cannot be read: "),
    ("command: x\ncases: student\n", "2: cases is below student/, which submissions read"),
    ("command: x\ncases: student/words\n", "2: cases is below student/, which submissions read"),
    ("command: x\ncases: linked\n", "2: cases cannot be read: '2.ans' is a link, and links are not followed"),
    ("command: x\ncases: []\n", "2: cases is empty"),
    ("command: x\ncases: ''\n", "2: cases is empty"),
    ("command: x\ncases:\n", "2: cases is empty"),
    ("command: x\ncases: {}\n", "2: cases is empty"),
    (f"{ONE_CASE}build_limits: {{memory: 99}}\n", "3: build_limits is for a task with a build"),
    (f"command: x\ncases: {'a' * 300}\n", "2: cases names 'aaaa"),
    ("environment: mcq\nhidden_tests: {run_by: pytest}\nproblems: {q: {type: code}}\n", "2: hidden_tests need a container"),
    ("command: []\n", "1: command is empty"),
    ("cases: cases\ncommand:\n", "2: command is empty"),
    (
        "command: x\ncases:\n- {name: a, expected: b}\n- {name: a, expected: b}\n",
        "2: cases cannot be read: two cases have the name 'a'",
    ),
    ("command: x\ncases:\n- {expected: a, args: '-n 3'}\n", "3: cases[0].args must be a list of words"),
    ("command: x\ncases:\n- {expected: a, cpu_time: soon}\n", "3: cases[0].cpu_time must be a number of seconds above 0"),
    (f"{ONE_CASE}network_grading: true\nenvironment: e\n", "1: command and network_grading do not go together"),
    (f"{ONE_CASE}environment_type: mcq\n", "1: command needs a container"),
    (f"{ONE_CASE}build: make\nbuild_limits: {{disk: 5}}\n", "4: build_limits.disk is that of limits"),
    (f"{ONE_CASE}build: make\nbuild_limits: {{cpu: 5}}\n", "4: build_limits.cpu is no limit: there are time, hard_time, memory, "),
    ("hidden_tests: {run_by: pytest}\nproblems:\n  p: {type: code}\n  q: {type: code}\n", "4: problems.q needs a filename"),
    ("command: x\ncases:\n- {stdin: a}\n", "3: cases[0].expected is missing"),
    ("command: x\ncases:\n- {expected: a, output: b}\n", "3: cases[0].output is no part of a case"),
    ("command: x\ncases:\n- {expected: a, points: -1}\n", "3: cases[0].points must be a number from 0 on"),
    ("command: x\ncases: [a]\n", "2: cases[0] must be a mapping"),
    (f"{ONE_CASE}check: same\n", "3: check must be lines, exact, tokens, floats, {floats: 1e-6}"),
    (f"{ONE_CASE}check: {{floats: much}}\n", "3: check.floats must be a tolerance"),
    (f"{ONE_CASE}check: {{checker: judge, interactor: judge}}\n", "3: check must have one of"),
    (f"{ONE_CASE}check: {{checker: nowhere}}\n", "3: check.checker names 'nowhere', which is not there"),
    (f"{ONE_CASE}check: {{checker: cases}}\n", "3: check.checker is no task: the folder"),
    (f"{ONE_CASE}check: {{checker: student/words}}\n", "3: check.checker is below student/"),
    (f"{ONE_CASE}problems: {{q: {{type: code}}}}\n", "3: problems.q needs a filename"),
    (f"{ONE_CASE}run_cmd: x\nenvironment: e\n", "1: there are a command, and a grader, too: x"),
    (f"{ONE_CASE}hidden_tests: {{run_by: pytest}}\n", "1: command and hidden_tests do not go together"),
    ("hidden_tests: {run_by: nose}\nproblems: {q: {type: code}}\n", "1: hidden_tests.run_by must be pytest or unittest"),
    ("hidden_tests: {timeout: 3}\nproblems: {q: {type: code}}\n", "1: hidden_tests.timeout is none of"),
    ("hidden_tests: {submission: ../x.py}\nproblems: {q: {type: code}}\n", "1: hidden_tests make no grader: "),
    (f"{ONE_CASE}build: make\nbuild_limits: {{cpus: 2}}\n", "4: build_limits.cpus is that of limits"),
    (f"{ONE_CASE}limits: {{processes: many}}\nenvironment: e\n", "3: limits.processes must be a whole number above 0"),
    (f"{ONE_CASE}limits: {{on_output_limit: drop}}\nenvironment: e\n", "3: limits.on_output_limit must be 'stop' or"),
    (f"{ONE_CASE}limits:\n  memory: 4\n  processes: 2000000000\nenvironment: e\n", "5: limits.processes must be at most"),
    (f"{ONE_CASE}limits:\n  memory: 4\n  processes: 2000000000\nenvironment: e\n", "4: limits.memory must be at least"),
    ("command: x\ncases:\n- {stdin: secret.txt, expected: a}\n", "3: cases[0].stdin names a file, and a case in a list holds"),
    ("command: x\ncases:\n- {stdin: a, expected: cases/1.ans}\n", "3: cases[0].expected names a file, and a case in a list"),
    (f"{ONE_CASE}build: make\nbuild_limits: {{memory: 1}}\n", "4: build_limits.memory must be at least 16, not 1"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_told_with_its_line(folder: Path, text: str, says: str) -> None:
    (folder / "link").symlink_to(folder / "cases")
    (folder / "linked").mkdir()
    (folder / "linked" / "2.in").write_text("1")
    (folder / "linked" / "2.ans").symlink_to("/etc/hostname")
    with pytest.raises(InvalidTask) as refused:
        task_of(folder, text)
    lines = [line.removeprefix(f"{folder}/task.yaml:") for line in str(refused.value).splitlines()]
    assert any(line.startswith(says) for line in lines), lines


def test_a_script_beside_a_command_is_a_mistake(folder: Path) -> None:
    (folder / "run").write_text("#!/bin/sh\n")
    with pytest.raises(InvalidTask, match="there are a command, and a grader, too: run"):
        task_of(folder, ONE_CASE)
