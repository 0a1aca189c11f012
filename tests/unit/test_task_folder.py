"""``Task.from_directory``: what a task folder becomes, and how everything that is wrong with one is told at once."""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from pathlib import Path

import pytest

from jobmanager import Code, File, Grader, JobInput, Limits, Match, MultipleChoice, Network, Task
from jobmanager.control.workspace import workspace_files
from jobmanager.errors import InvalidTask, NotSupported
from tests.unit.grading_box import Box, Waiter

FROM_THE_STUDIO = """\
accessible: true
author: A teacher
contact_url: ''
categories: []
context: |-
    Write a program.
environment_id: python3
environment_parameters:
    limits:
        time: '3'
        hard_time: ''
        memory: '100'
        disk: '50'
    network_grading: false
    run_cmd: ''
environment_type: docker
evaluate: best
file: ''
groups: false
input_random: '2'
name: The first program
network_grading: false
order: 0
problems:
    program:
        type: code
        language: python
        default: ''
        name: Your program
        header: Read the context.
    title:
        type: code_single_line
        optional: 'on'
    data:
        type: file
        allowed_exts: ['.csv', .txt]
        max_size: '2048'
    twice:
        type: match
        answer: 042
    primes:
        type: multiple_choice
        multiple: true
        limit: 3
        unshuffle: 'on'
        choices:
        -   text: two
            valid: true
        -   text: three
            valid: true
            feedback: The first odd one.
        -   text: four
            feedback: Even.
        -   text: six
            feedback: ''
        success_message: Well done.
    even:
        type: multiple_choice
        choices:
        - {text: one}
        - {text: two, valid: 'on'}
        - {text: four, valid: yes}
        error_message: Think again.
stored_submissions: 0
submission_limit: {amount: -1, period: -1}
weight: 1.0
"""
QUIZ = "problems: {q: {type: match, answer: 5}}\n"
CODE = "problems: {q: {type: code}}\n"
JUDGES_ALONE = Grader(merge_local=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty task folder."""
    (tmp_path / "hello").mkdir()
    return tmp_path / "hello"


def written(folder: Path, text: str | bytes, **files: str) -> Path:
    (folder / "task.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def refusal(folder: Path, text: str | bytes, **files: str) -> list[str]:
    """The lines of the error, without the folder in front of them."""
    with pytest.raises(InvalidTask) as refused:
        Task.from_directory(written(folder, text, **files))
    return [line.removeprefix(f"{folder}{os.sep}") for line in str(refused.value).splitlines()]


# ---- what becomes of a folder


def test_what_is_executable_in_a_folder_and_in_its_courses_can_be_run(folder, tmp_path):
    (tmp_path / "$common").mkdir()
    written(folder, CODE, run="echo", tool="echo")
    (tmp_path / "$common" / "shared").write_text("echo")
    for path in (folder / "tool", tmp_path / "$common" / "shared"):
        path.chmod(0o755)

    assert Task.from_directory(folder).executables == {"tool", "course/common/shared"}


def test_a_folder_that_the_studio_saved_becomes_a_task(folder):
    (folder / "student").mkdir()
    (folder / "student" / "tests.py").write_text("pass\n")

    task = Task.from_directory(written(folder, FROM_THE_STUDIO, run="#!/bin/sh\n"))

    assert (task.environment, task.name, task.grader, task.command) == ("python3", "The first program", JUDGES_ALONE, None)
    assert task.limits == Limits(cpu_time_s=3, wall_time_s=None, memory_mib=100, workspace_mib=50)
    assert (task.network, task.random_inputs) == (Network.OFF, 2)
    assert sorted(task.files) == ["run", "student/tests.py", "task.yaml"]
    assert task.problems == {
        "program": Code(),
        "title": Code(single_line=True, optional=True),
        "data": File(extensions=[".csv", ".txt"], max_bytes=2048),
        "twice": Match("042"),
        "primes": MultipleChoice(
            [0, 1],
            {"0": "two", "1": "three", "2": "four", "3": "six"},
            success_text="Well done.",
            feedback={"1": "The first odd one.", "2": "Even."},
        ),
        "even": MultipleChoice(
            [1, 2], {"0": "one", "1": "two", "2": "four"}, failure_text="Think again.", feedback={}, multiple=False
        ),
    }


def test_a_file_of_before_2019_has_its_limits_at_the_top(folder):
    text = """\
environment: java
limits: {time: 10, hard_time: 15.5, memory: 64, output: 1024, hard: true}
run_cmd: python3 judge.py
network_grading: on
environment_parameters: {limits: {time: 1}}
problems:
    p: {type: code-single-line}
    f: {type: code-file, allowed_exts: ".c, .h"}
    q: {type: multiple-choice, choices: [{text: a, valid: true}]}
"""
    task = Task.from_directory(written(folder, text))

    assert (task.environment, task.grader, task.network) == ("java", Grader("python3 judge.py", merge_local=False), Network.BRIDGE)
    assert task.limits == Limits(cpu_time_s=10, wall_time_s=15.5, memory_mib=64)
    assert task.name == "hello", "the folder's"
    assert task.problems["p"] == Code(single_line=True)
    assert task.problems["f"] == File(extensions=[".c", ".h"])


def test_limits_that_a_file_does_not_say_are_the_defaults(folder):
    written(folder, f"environment_parameters: {{limits: {{time: 7}}}}\n{CODE}", run="#!/bin/sh\n")

    assert Task.from_directory(folder).limits == Limits(cpu_time_s=7)
    assert Task.from_directory(folder, limits=Limits(memory_mib=1024)).limits == Limits(memory_mib=1024)


@pytest.mark.parametrize("environment", ["environment: mcq", "environment_id: mcq\nenvironment_type: mcq", ""])
def test_a_folder_without_a_grader_is_a_task_of_local_problems_that_needs_no_container(folder, environment):
    task = Task.from_directory(written(folder, f"{environment}\n{QUIZ}"))

    assert not task.needs_container
    assert (task.grader, dict(task.files), task.directory) == (None, {}, None)
    assert task.problems["q"].is_right("5")


def test_the_environment_for_quizzes_passes_a_run_script_over(folder):
    assert not Task.from_directory(written(folder, f"environment: mcq\n{QUIZ}", run="#!/bin/sh\n")).needs_container
    assert Task.from_directory(written(folder, f"environment: x\n{QUIZ}", run="#!/bin/sh\n")).needs_container


def test_what_the_caller_gives_stands_instead_of_what_the_file_says(folder):
    written(folder, f"environment_id: gpu\nenvironment_type: nvidia\nname: old\nlimits: {{time: 5}}\n{CODE}", **{"run.py": "pass"})

    task = Task.from_directory(str(folder), environment="python3", limits=Limits(cpu_time_s=7), name="new")

    assert (task.environment, task.limits, task.name) == ("python3", Limits(cpu_time_s=7), "new")


def test_what_the_tasks_of_a_course_share_comes_along_and_may_be_their_grader(folder, tmp_path):
    common = tmp_path / "$common"
    (common / "lib").mkdir(parents=True)
    (common / "lib" / "judge.py").write_text("pass")
    (common / "link").symlink_to("/etc/passwd")
    (common / "run.py").write_text("import lib.judge")
    written(folder, CODE)

    shared = Task.from_directory(folder, common=common)
    own = Task.from_directory(written(folder, CODE, run="#!/bin/sh\n"), common=common)

    assert shared.grader == Grader(["course/common/run.py"], merge_local=False)
    assert sorted(shared.files) == ["course/common/lib/judge.py", "course/common/run.py", "task.yaml"]
    assert own.grader == JUDGES_ALONE
    with pytest.raises(InvalidTask, match="does not exist"):
        Task.from_directory(folder, common=tmp_path / "no")


@pytest.mark.parametrize("give_path", [Path, str, lambda folder: os.path.relpath(folder)], ids=["path", "text", "relative"])
def test_what_stands_beside_the_task_as_common_is_found_by_itself(folder, tmp_path, give_path):
    (tmp_path / "$common" / "lib").mkdir(parents=True)
    (tmp_path / "$common" / "lib" / "judge.sh").write_text("true")
    (tmp_path / "other").mkdir()
    written(folder, CODE, run="#!/bin/sh\n")

    def files(**options):
        return sorted(Task.from_directory(give_path(folder), **options).files)

    assert files() == ["course/common/lib/judge.sh", "run", "task.yaml"]
    assert files(common=False) == files(common=tmp_path / "other") == ["run", "task.yaml"]


def test_of_a_task_in_the_current_folder_too(folder, tmp_path, monkeypatch):
    (tmp_path / "$common").mkdir()
    (tmp_path / "$common" / "run").write_text("#!/bin/sh\n")
    monkeypatch.chdir(written(folder, CODE))

    assert Task.from_directory(".").grader == Grader(["course/common/run"], merge_local=False)


def test_a_quiz_needs_nothing_of_what_stands_beside_it_but_a_grader(folder, tmp_path):
    (tmp_path / "$common").mkdir()
    (tmp_path / "$common" / "word").write_text("shared")
    assert not Task.from_directory(written(folder, QUIZ)).needs_container

    (tmp_path / "$common" / "run.sh").write_text("true")
    assert Task.from_directory(folder).needs_container
    assert not Task.from_directory(written(folder, f"environment_type: mcq\n{QUIZ}")).needs_container


def test_a_link_beside_the_task_is_not_followed_and_logged(folder, tmp_path, caplog):
    (tmp_path / "$common").symlink_to("/etc")
    with caplog.at_level(logging.WARNING, "jobmanager"):
        task = Task.from_directory(written(folder, CODE, run="#!/bin/sh\n"))

    assert sorted(task.files) == ["run", "task.yaml"]
    assert caplog.messages == [f"{tmp_path / '$common'} is a link, which is not followed: give common="]


def test_too_much_beside_the_task_is_named(folder, tmp_path):
    (tmp_path / "$common").mkdir()
    (tmp_path / "$common" / "big").write_bytes(bytes(2**21))

    told = refusal(folder, "limits: {disk: 1}\n" + CODE, run="#!/bin/sh\n")

    assert told == [
        f"task.yaml: the files that come along of {str(tmp_path / '$common')!r} are larger than the workspace of 1 MiB:"
        " raise workspace_mib, or give common=False"
    ]


@pytest.mark.parametrize("where", ["hello", "$common"])
def test_a_file_whose_name_is_no_utf_8_is_named(folder, tmp_path, where):
    (tmp_path / "$common").mkdir()
    name = os.fsencode(tmp_path / where / "caf") + b"\xe9"
    with open(name, "wb"):
        pass

    told = refusal(folder, CODE, run="#!/bin/sh\n")

    assert told == [f"task.yaml: the name of the file {name!r} is no UTF-8: rename it, or leave it out"]


def test_folders_that_a_grader_would_miss_are_logged(folder, tmp_path, caplog):
    (tmp_path / "$common" / "student").mkdir(parents=True)
    (folder / "systemfiles").mkdir()
    with caplog.at_level(logging.WARNING, "jobmanager"):
        Task.from_directory(written(folder, QUIZ))
        assert not caplog.messages, "there is no grader"
        Task.from_directory(written(folder, CODE, run="#!/bin/sh\n"))

    assert [message.partition(": ")[0] for message in caplog.messages] == [
        str(folder / "systemfiles"),
        str(tmp_path / "$common" / "student"),
    ]


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("run", "#!/bin/sh\nfeedback-result success\ncat ../task/course/common/word | feedback-msg\n"),
        ("run.py", "set_global_result('success')\nset_global_feedback(open('course/common/word').read())\n"),
        ("run.sh", "feedback-result success\nfeedback-msg < course/common/word\n"),
    ],
)
def test_a_grader_that_the_tasks_of_a_course_share_runs_as_one_of_their_own(folder, tmp_path, name, script):
    (tmp_path / "$common").mkdir()
    (tmp_path / "$common" / "word").write_text("shared")
    (tmp_path / "$common" / name).write_text(script)
    task = Task.from_directory(written(folder, CODE), common=tmp_path / "$common")
    (tmp_path / "task").mkdir()
    box = Box(tmp_path / "task")
    for path, content in workspace_files(task, JobInput({"q": "x"})).items():
        box.write(path, content)

    waiter = Waiter(box, *task.grader.run)

    assert (waiter.until_the_end(), waiter.stderr) == (0, b"")
    assert box.answer == {"result": "success", "text": "shared"}


def test_links_are_not_followed_out_of_the_folder(folder, tmp_path):
    (tmp_path / "secret").write_text("environment: x\n" + CODE)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "answers").write_text("42")
    (folder / "secret").symlink_to(tmp_path / "secret")
    (folder / "others").symlink_to(tmp_path / "others")

    assert sorted(Task.from_directory(written(folder, CODE, run="#!/bin/sh\n")).files) == ["run", "task.yaml"]

    (folder / "run").unlink()
    (folder / "run").symlink_to(tmp_path / "secret")
    assert refusal(folder, CODE) == [
        "task.yaml:1: no grader for q: the folder has no run, run.py, run.sh, the file no run_cmd; links are not followed"
    ]
    (folder / "task.yaml").unlink()
    (folder / "task.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidTask, match=r"has no task\.yaml \(links are not followed\)"):
        Task.from_directory(folder)


def test_the_words_of_yaml_1_1_for_true_and_false_are_known(folder):
    words = ["true", "Yes", "ON", "'on'", "1", "false", "no", "Off", "0", "''", "null", "~"]
    choices = "\n".join(f"  - {{text: x, valid: {word}}}" for word in words)

    task = Task.from_directory(written(folder, f"problems:\n q:\n  type: multiple_choice\n  choices:\n{choices}\n"))

    assert task.problems["q"].correct_keys == {"0", "1", "2", "3", "4"}


def test_an_empty_text_is_the_answer_of_a_match_and_the_text_of_a_choice(folder):
    text = """\
problems:
    nothing: {type: match, answer: ''}
    look: {type: multiple_choice, choices: [{text: '', valid: true}, {text: b}]}
"""
    problems = Task.from_directory(written(folder, text)).problems

    assert problems["nothing"].is_right("") and problems["nothing"].is_right(" \n") and not problems["nothing"].is_right("x")
    assert problems["look"].choices == {"0": "", "1": "b"}
    assert refusal(folder, "problems:\n q: {type: match, answer: }\n") == ["task.yaml:2: problems.q.answer is missing"]


def test_types_of_problems_of_ones_own_have_the_fields_of_those_that_they_are_taken_for(folder):
    text = """\
problems:
    a: {type: blockly, optional: on, toolbox: <xml/>, name: Blocks}
    b: {type: notebook-file, allowed_exts: .ipynb, max_size: 100}
    c: {type: number, answer: 042}
    d: {type: poll, choices: [{text: one, valid: true}, {text: two}]}
    e: {type: code, language: python}
    f: {type: table, rows: [{head: x}], empty: , hint: ''}
"""
    given = []

    def table(fields):
        given.append(fields)
        return Code("table.csv")

    types = {"blockly": Code, "notebook-file": File, "number": Match, "poll": MultipleChoice, "table": table}
    task = Task.from_directory(written(folder, text, run="#!/bin/sh\n"), problem_types=types)

    assert list(task.problems.values()) == [
        Code(optional=True),
        File(extensions=[".ipynb"], max_bytes=100),
        Match("042"),
        MultipleChoice([0], {"0": "one", "1": "two"}, feedback={}, multiple=False),
        Code(),
        Code("table.csv"),
    ]
    assert given == [{"type": "table", "rows": [{"head": "x"}], "empty": None, "hint": ""}]


def test_a_type_of_ones_own_stands_in_place_of_one_that_is_known(folder):
    task = Task.from_directory(written(folder, CODE, run="#!/bin/sh\n"), problem_types={"code": lambda fields: Code("main.py")})

    assert task.problems == {"q": Code("main.py")}


def test_fields_of_a_type_of_ones_own_are_nobodys_mistake(folder, caplog):
    with caplog.at_level(logging.WARNING, "jobmanager"):
        written(folder, "problems: {q: {type: blockly, toolbox: x}}\n", run="#!/bin/sh\n")
        Task.from_directory(folder, problem_types={"blockly": Code})

    assert not caplog.messages


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ([("blockly", Code)], "problem_types must map names of types to Code, File, Match or MultipleChoice, not ["),
        ({5: Code}, "problem_types: a type's name must be a string that is not empty, not 5"),
        ({"": Code}, "problem_types: a type's name must be a string that is not empty, not ''"),
        ({"blockly": "code"}, "problem_types['blockly'] must be Code, File, Match, MultipleChoice or a function that makes one"),
        ({"blockly": Code()}, "problem_types['blockly'] must be Code, File, Match, MultipleChoice or a function that makes one"),
    ],
)
def test_types_of_ones_own_that_make_no_sense_are_refused(folder, types, says):
    with pytest.raises(InvalidTask) as refused:
        Task.from_directory(written(folder, CODE, run="#!/bin/sh\n"), problem_types=types)

    assert str(refused.value).startswith(says)


def test_what_a_function_for_a_type_of_ones_own_finds_wrong_is_told_with_its_line(folder):
    def demanding(fields):
        raise InvalidTask("it has no toolbox")

    written(folder, "problems:\n a: {type: blockly}\n b: {type: list}\n c: {type: poll}\n", run="#!/bin/sh\n")
    with pytest.raises(InvalidTask) as refused:
        Task.from_directory(folder, problem_types={"blockly": demanding, "list": list, "poll": MultipleChoice})

    assert str(refused.value).replace(f"{folder}{os.sep}", "").splitlines() == [
        "task.yaml:2: problem 'a': it has no toolbox",
        "task.yaml:3: problem 'b': problem_types['list'] made ['type'], not a Code, File, Match or MultipleChoice",
        "task.yaml:4: problems.c.choices are missing",
    ]


def test_anchors_and_merged_mappings_are_unfolded(folder):
    text = """\
shared: &shared {type: match, answer: one}
problems:
    a: *shared
    b: {<<: *shared, answer: two}
    c: {answer: three, <<: [{answer: no, type: match}, *shared]}
"""
    problems = Task.from_directory(written(folder, text)).problems

    assert [problem.answer for problem in problems.values()] == ["one", "two", "three"]


def test_a_byte_order_mark_and_the_other_suffix_are_taken(folder):
    (folder / "task.yml").write_bytes(b"\xef\xbb\xbf" + QUIZ.encode())

    assert Task.from_directory(folder).problems == {"q": Match("5")}


def test_a_field_that_nothing_reads_is_logged_with_its_line(folder, caplog):
    text = "author: me\nenviroment: x\nssh_allowed: yes\nproblems: {q: {type: match, answer: 5, hint: y}}\n"
    with caplog.at_level(logging.WARNING, "jobmanager"):
        Task.from_directory(written(folder, text))

    file = folder / "task.yaml"
    assert caplog.messages == [
        f"{file}:2: nothing reads enviroment: did you mean environment?",
        f"{file}:4: nothing reads problems.q.hint",
    ]


def test_limits_beside_the_environments_parameters_are_not_read_and_that_is_logged(folder, caplog):
    parameters = "environment_id: e\nenvironment_parameters: {limits: {time: 3}}\n"
    text = f"{parameters}limits: {{time: 5}}\nproblems: {{q: {{type: match, answer: 5}}}}\n"
    with caplog.at_level(logging.WARNING, "jobmanager"):
        assert Task.from_directory(written(folder, text)).limits.cpu_time_s == 3

    assert caplog.messages == [f"{folder / 'task.yaml'}:3: nothing reads limits"]


# ---- what is wrong with one


def test_a_file_with_many_mistakes_tells_all_of_them_with_their_lines(folder):
    text = """\
environment_id: gpu
environment_type: nvidia
input_random: many
environment_parameters:
    network_grading: perhaps
    limits:
        time: -3
        hard_time: {}
        memory: lots
        disk: 1.5
        stack: 8
problems:
    'a b': {type: match, answer: 1}
    sum:
        type: match
    pick:
        type: multiple_choice
        limit: 1
        multiple: true
        choices:
            - valid: true
              text: one
            - valid: true
            - {text: three, valid: maybe}
            - four
    none: {type: multiple_choice, choices: [{text: a}]}
    upload:
        type: file
        max_size: 1 MB
        allowed_exts: [{}]
        max_size: 2
    essay: {type: prose}
    nothing:
    boxes:
        type: code
        boxes: {b: {type: text}}
"""
    assert refusal(folder, text) == [
        "task.yaml:2: environment_type must be docker, docker-ssh or mcq, not 'nvidia'",
        "task.yaml:3: input_random must be a whole number from 0 on, not 'many'",
        "task.yaml:5: environment_parameters.network_grading must be true or false, not 'perhaps'",
        "task.yaml:7: environment_parameters.limits.time must be a number of seconds above 0, not '-3'",
        "task.yaml:8: environment_parameters.limits.hard_time must be a number of seconds above 0, not a mapping",
        "task.yaml:9: environment_parameters.limits.memory must be a whole number of MB above 0, not 'lots'",
        "task.yaml:10: environment_parameters.limits.disk must be a whole number of MB above 0, not '1.5'",
        "task.yaml:11: environment_parameters.limits.stack is no limit: there are time, hard_time, memory, disk,"
        " processes, open_files, output_kib, cpus, on_output_limit",
        "task.yaml:12: no grader for upload, boxes: the folder has no run, run.py, run.sh, the file no run_cmd",
        "task.yaml:13: a problem's id has letters, digits and _ . - only, not 'a b'",
        "task.yaml:14: problems.sum.answer is missing",
        "task.yaml:18: problems.pick.limit must be 0, or at least the 2 right choices, not 1",
        "task.yaml:23: problems.pick.choices[1].text is missing",
        "task.yaml:24: problems.pick.choices[2].valid must be true or false, not 'maybe'",
        "task.yaml:25: problems.pick.choices[3] must be a mapping (name: value), not 'four'",
        "task.yaml:26: problems.none.choices must have one with valid: true",
        "task.yaml:29: problems.upload.max_size must be a whole number of bytes above 0, not '1 MB'",
        "task.yaml:30: problems.upload.allowed_exts must be a list of texts, not a list",
        "task.yaml:31: 'max_size' is given a second time; first on line 29",
        "task.yaml:32: problems.essay.type must be one of code, code_single_line, file, match, multiple_choice, not 'prose';"
        " a type of your own is given as problem_types={'prose': Code}",
        "task.yaml:33: problems.nothing.type is missing",
        "task.yaml:36: problems.boxes.boxes are not supported: make each box a problem of its own",
    ]


def test_of_very_many_mistakes_the_first_hundred_are_told(folder):
    told = refusal(folder, "problems:\n" + "".join(f"  q{number}: {{type: prose}}\n" for number in range(900)))

    assert len(told) == 101
    assert (told[0].partition(":")[2][:20], told[-1]) == ("2: problems.q0.type ", "and 800 more")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1: the file is empty"),
        ("# nothing\n", "1: the file is empty"),
        ("- a\n- b\n", "1: the file must be a mapping (name: value)"),
        ("just words", "1: the file must be a mapping (name: value)"),
        ("name: x\n", "1: problems are missing"),
        ("name: x\nproblems:\n", "2: problems are missing"),
        ("name: x\nproblems: {}\n", "2: there is neither a problem nor a grader"),
        ("problems: [a]", "1: problems must be a mapping (name: value), not a list"),
        ("a: 1\nb:\n\t- c\n", "3: it is no YAML: found character '\\t' that cannot start any token: indent with spaces"),
        ("a: b: c\n", "1: it is no YAML: mapping values are not allowed here"),
        ("a: 1\nb: 'x\n", "3: it is no YAML: found unexpected end of stream"),
        ("a: *b\n", "1: it is no YAML: found undefined alias 'b'"),
        ("--- {}\n--- {}\n", "2: it is no YAML: but found another document"),
        (b"a: 1\nb: \xff\n", "2: this is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "1: this is not UTF-8"),
        ("a: 1\nb: \x07\n", "2: a character that no text has"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n" + QUIZ, "2: the tag !!python/object/apply:os.system means nothing here"),
        ("a: !secret x\n" + QUIZ, "1: the tag !secret means nothing here"),
        ("? [a]\n: b\n" + QUIZ, "1: a name must be a text, not a list or a mapping"),
        ("name: [x]\n" + QUIZ, "1: name must be a text, not a list"),
        ("<<: x\n" + QUIZ, "1: only mappings can be merged in by <<"),
        ("limits: {memory: 5}\n" + QUIZ, "1: limits.memory must be at least 16, not 5"),
        ("limits: {time: 99999999}\n" + QUIZ, "1: limits.time: cpu_time_s and wall_time_s must be at most a year"),
        ("limits: {memory: 9999999999999}\n" + QUIZ, "1: limits.memory must be a whole number of MB above 0"),
        ("limits: {time: .nan}\n" + QUIZ, "1: limits.time must be a number of seconds above 0, not '.nan'"),
        ("limits: {time: 0}\n" + QUIZ, "1: limits.time must be a number of seconds above 0, not '0'"),
        ("environment: mcq\n" + CODE, "2: no grader for q: the environment mcq is for tasks without one"),
        (CODE, "1: no grader for q: the folder has no run, run.py, run.sh, the file no run_cmd"),
        ('problems: {q: {type: match, answer: "\\ud800"}}', "1: a text holds a lone surrogate"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_makes_no_task_says_where_and_why(folder, text, says):
    told = refusal(folder, text)

    assert told[0].startswith(f"task.yaml:{says}"), told


def nine(name: str) -> str:
    return ", ".join([f"*{name}"] * 9)


ALIASES = "a: &a [x]\n" + "".join(f"{name}: &{name} [{nine(before)}]\n" for before, name in ["ab", "bc", "cd", "de", "ef", "fg"])
MERGES = ALIASES.replace("[x]", "{x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ALIASES, "it has more than 50000 values, with those that aliases repeat"),
        (MERGES, "too much is merged into this"),
        ("a: &a {<<: [*a, *a, *a]}\n", "too much is merged into this"),
        ("a: &a [*a]\n", "it is nested too deep, or an alias stands inside of what it repeats"),
        ("a: " + "[" * 20_000, "it is nested too deep"),
        ("a: " + "[" * 60 + "]" * 60, "it is nested too deep"),
        ("a: " + "x" * 2**18, "the file is larger than 256 KiB"),
    ],
    ids=["aliases of aliases", "merges of merges", "merged into itself", "inside of itself", "very deep", "deep", "large"],
)
def test_a_file_that_would_unfold_without_end_is_refused(folder, text, says):
    told = refusal(folder, f"{text}\n{QUIZ}")

    assert len(told) == 1
    assert re.match(rf"task\.yaml:\d+: {says}", told[0])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/no/such/folder", "'/no/such/folder' does not exist"),
        (__file__, "is no folder"),
        ("", "must be given by its path, not ''"),
        (None, "must be given by its path, not None"),
        (5, "must be given by its path, not 5"),
        ("a\0b", "does not exist"),
    ],
)
def test_a_path_that_is_no_folder_is_refused(path, says):
    with pytest.raises(InvalidTask) as refused:
        Task.from_directory(path)

    assert says in str(refused.value)


def test_a_folder_without_a_readable_task_yaml_is_refused(folder):
    with pytest.raises(InvalidTask, match=r"has no task\.yaml$"):
        Task.from_directory(folder)
    os.mkfifo(folder / "task.yaml")
    with pytest.raises(InvalidTask, match=r"has no task\.yaml$"):
        Task.from_directory(folder)


def test_what_the_task_itself_refuses_is_told_with_the_file(folder):
    (folder / "big").write_bytes(bytes(2**21))

    told = refusal(folder, "limits: {disk: 1}\n" + CODE, run="#!/bin/sh\n")

    assert told[0].startswith("task.yaml: directory")
    assert told[0].endswith("is larger than the workspace of 1 MiB: raise workspace_mib")


def test_without_pyyaml_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(NotSupported, match=r"task.yaml needs the extra `yaml`: .* pip install '\.\[yaml\]'"):
        Task.from_directory(written(folder, QUIZ))


def test_a_file_that_was_damaged_at_random_is_a_task_or_told_line_by_line(folder):
    pieces = [*b"&a |*a|<<: |- |? |: |[|{|'|\t|!!set |~|\n|---\n|\0|1e400".split(b"|"), b"\xff"]
    written(folder, "", run="#!/bin/sh\n")
    told = []
    for seed in range(80):
        dice = random.Random(seed)
        text = bytearray(FROM_THE_STUDIO.encode())
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(text))
            text[place : place + dice.choice([0, 0, 9])] = dice.choice(pieces)
        try:
            Task.from_directory(written(folder, bytes(text)))
        except InvalidTask as error:
            told += str(error).splitlines()

    assert len(told) > 40
    assert [line for line in told if not re.match(r".+task\.yaml:\d+: .+", line)] == []
