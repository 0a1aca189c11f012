"""``JobInput``, the workspace that it makes with its task, and job ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobmanager import Code, File, Grader, JobInput, Limits, Match, MultipleChoice, Task
from jobmanager.control.request import checked_job_id, with_random_inputs
from jobmanager.control.workspace import workspace_executables, workspace_files
from jobmanager.errors import InvalidInput

BAD_INPUTS = [
    ({"answers": ["a"]}, "answers must map problem ids to answers, not list"),
    ({"answers": "a"}, "answers must map problem ids to answers, not str"),
    ({"answers": {1: "a"}}, "answers must have strings for keys, not 1"),
    ({"answers": {None: "a"}}, "answers must have strings for keys, not None"),
    ({"answers": {b"q": "a"}}, "answers must have strings for keys"),
    ({"files": ["a"]}, "files must map names to contents, not list"),
    ({"files": {"/a": b""}}, "must be relative to the workspace"),
    ({"files": {"../a": b""}}, "without '..'"),
    ({"files": {5: b""}}, "must be a string"),
    ({"files": {"a": 5}}, "must be bytes, text or a Path, not int"),
    ({"files": {"a": Path("/nowhere/at/all")}}, "cannot be read"),
    ({"files": {"a": Path("/dev/zero")}}, "no regular file"),
    ({"files": {"a": "\ud800"}}, "lone surrogate"),
    ({"files": {".jobmanager/command": b""}}, "the library's own"),
    ({"executables": "run"}, "executables must be a list of file names, not 'run'"),
    ({"stdin": 5}, "stdin must be bytes, text or a Path, not int"),
    ({"stdin": None}, "stdin must be bytes, text or a Path, not NoneType"),
    ({"stdin": Path("/nowhere/at/all")}, "file 'stdin' cannot be read"),
    ({"stdin": Path("/dev/zero")}, "file 'stdin' cannot be read: no regular file"),
    ({"stdin": "\ud800"}, "stdin holds a lone surrogate"),
]

QUIZ = Task("x", problems={"m": Match("a"), "c": MultipleChoice("1"), "p": Code("p.py"), "f": File("data/f")})
GOOD = {"m": "a", "c": "1", "p": "print()", "f": b"\0"}

BAD_ANSWERS = [
    ({**GOOD, "z": "?"}, r"no such problem: \['z'\]; the task has \['c', 'f', 'm', 'p'\]"),
    ({key: value for key, value in GOOD.items() if key != "p"}, r"problem 'p' has no answer; it becomes the file 'p\.py'"),
    ({key: value for key, value in GOOD.items() if key != "f"}, "problem 'f' has no answer; it becomes the file 'data/f'"),
    ({**GOOD, "p": None}, "problem 'p' has no answer"),
    ({**GOOD, "p": b"bytes"}, "problem 'p': a Code problem takes a string, not bytes"),
    ({**GOOD, "p": "\ud800"}, "problem 'p': a Code answer holds a lone surrogate"),
    ({**GOOD, "f": 5}, "problem 'f': a File problem takes bytes, not int"),
    ({**GOOD, "m": 5}, "problem 'm': a Match problem takes a string, not int"),
    ({**GOOD, "c": 1.5}, "problem 'c': a MultipleChoice problem takes a key or a collection of keys, not float"),
]


@pytest.mark.parametrize(("given", "says"), BAD_INPUTS, ids=lambda value: None if isinstance(value, str) else repr(value)[:50])
def test_input_that_makes_no_sense_is_refused_and_the_message_says_why(given, says):
    with pytest.raises(InvalidInput) as refused:
        JobInput(**given)

    assert says in str(refused.value)


def test_a_plain_mapping_is_taken_for_the_answers():
    given = JobInput({"q": "a"})

    assert JobInput.of({"q": "a"}) == given
    assert JobInput.of(given) is given
    assert JobInput.of(None) == JobInput()
    for bad in ("a", 5, ["q"], b"x"):
        with pytest.raises(InvalidInput, match="inputdata must be a JobInput or a mapping of answers"):
            JobInput.of(bad)
    with pytest.raises(InvalidInput, match="strings for keys"):
        JobInput.of({1: "a"})


def test_standard_input_may_be_a_file_which_is_read_at_once(tmp_path):
    (tmp_path / "in").write_bytes(b"1 2\n\0")
    given = JobInput(stdin=tmp_path / "in")
    (tmp_path / "in").unlink()

    assert given.stdin == b"1 2\n\0"
    assert JobInput.from_dict(given.to_dict()) == given


def test_standard_input_may_be_text():
    assert JobInput(stdin="é").stdin == b"\xc3\xa9"
    assert JobInput(stdin=bytearray(b"x")).stdin == b"x"
    assert JobInput().stdin == b""


def test_an_input_does_not_change_with_what_it_was_made_of():
    answers, files, stdin = {"q": "a"}, {"f": b"1"}, bytearray(b"in")
    inputs = JobInput(answers, files=files, stdin=stdin)

    answers.clear(), files.clear(), stdin.clear()

    assert (inputs.answers, inputs.files, inputs.stdin) == ({"q": "a"}, {"f": b"1"}, b"in")


def test_the_workspace_holds_the_tasks_files_then_the_answers_then_the_jobs():
    task = Task("x", files={"a": b"task", "b": b"task", "c": b"task"}, problems={"p": Code("b"), "q": Code("c")})

    files = workspace_files(task, JobInput({"p": "answer", "q": "answer"}, files={"c": b"job", "d": b"job"}))

    assert files == {"a": b"task", "b": b"answer", "c": b"job", "d": b"job"}
    assert task.files == {"a": b"task", "b": b"task", "c": b"task"}


def test_good_answers_become_files_and_notes_are_nobodys():
    files = workspace_files(QUIZ, JobInput({**GOOD, "@user": "ann", "@lang": "en"}))

    assert files == {"p.py": b"print()", "data/f": b"\0"}


def test_an_answer_that_is_missing_to_a_local_problem_is_only_a_wrong_one():
    assert workspace_files(QUIZ, JobInput({"p": "", "f": b""})) == {"p.py": b"", "data/f": b""}


def test_an_optional_answer_may_be_missing_and_is_empty_then():
    task = Task("x", problems={"p": Code("p.py", optional=True), "f": File("f", optional=True, extensions=[".txt"])})

    assert workspace_files(task, JobInput()) == {"p.py": b"", "f": b""}


def test_an_answer_without_a_file_of_its_own_is_checked_and_takes_no_place_in_the_workspace():
    task = Task("x", grader=Grader("true"), problems={"p": Code(), "f": File(max_bytes=1)})

    files = workspace_files(task, JobInput({"p": "x", "f": b"x"}))
    assert all(name.startswith(".jobmanager/") for name in files)
    with pytest.raises(InvalidInput, match=r"problem 'f' has no answer$"):
        workspace_files(task, JobInput({"p": "x"}))
    with pytest.raises(InvalidInput, match="problem 'f': the file has 2 bytes, more than 1"):
        workspace_files(task, JobInput({"p": "x", "f": b"xx"}))


def test_random_numbers_are_made_for_a_job_that_brings_none_each_time_others():
    task = Task("x", random_inputs=3)

    made = [with_random_inputs(task, JobInput({"@lang": "en"}, stdin="in")) for _ in range(2)]

    for inputs in made:
        assert len(inputs.answers["@random"]) == 3
        assert all(0 <= number < 1 for number in inputs.answers["@random"])
        assert (inputs.answers["@lang"], inputs.stdin) == ("en", b"in")
    assert made[0] != made[1]
    own = JobInput({"@random": [0.5, 1, 0]})
    assert with_random_inputs(task, own) is own
    assert with_random_inputs(Task("x"), JobInput()) == JobInput()


@pytest.mark.parametrize(
    "given", [[1, 2], [1, 2, 3, 4], [1, 2, "3"], [1, 2, True], [1, 2, float("nan")], [1, 2, float("inf")], 5, "123", None], ids=repr
)
def test_random_numbers_that_are_none_or_not_as_many_as_wanted_are_refused(given):
    with pytest.raises(InvalidInput, match="'@random' must be a list of 3 numbers, or be left out"):
        with_random_inputs(Task("x", random_inputs=3), JobInput({"@random": given}))


@pytest.mark.parametrize(("answers", "says"), BAD_ANSWERS)
def test_unknown_missing_and_mistyped_answers_are_refused(answers, says):
    with pytest.raises(InvalidInput, match=says):
        workspace_files(QUIZ, JobInput(answers))


def test_a_task_without_problems_says_so_when_it_is_given_an_answer():
    with pytest.raises(InvalidInput, match=r"no such problem: \['q'\]; the task has none"):
        workspace_files(Task("x"), JobInput({"q": "a"}))


@pytest.mark.parametrize(
    ("of_task", "of_job"),
    [({"a": b""}, {"a/b": b""}), ({"a/b/c": b""}, {"a": b""}), ({}, {"x/y": b"", "x/y/z/w": b""})],
)
def test_a_name_cannot_be_a_file_and_a_folder(of_task, of_job):
    with pytest.raises(InvalidInput, match=r"'.+' is a file and the folder of '.+'"):
        workspace_files(Task("x", files=of_task), JobInput(files=of_job))


def test_names_that_only_look_alike_do_not_clash():
    files = {"a": b"", "ab/c": b"", "a.b/c": b"", "b/a": b""}

    assert workspace_files(Task("x", files=files), JobInput()) == files


def test_files_must_fit_the_workspace_and_leave_a_block_that_shows_whether_the_program_has_filled_it():
    task = Task("x", files={"a": bytes(2**19)}, limits=Limits(workspace_mib=1))
    most = bytes(2**19 - 4096)

    assert workspace_files(task, JobInput(files={"b": most})).keys() == {"a", "b"}
    for inputs in (JobInput(files={"b": most + b"1"}), JobInput(files={"b": most, "c": b"1"})):
        with pytest.raises(InvalidInput, match="larger than the workspace of 1 MiB: raise workspace_mib"):
            workspace_files(task, inputs)


def test_standard_input_command_and_variables_take_no_room_in_the_workspace():
    files = {"a": bytes(2**20 - 4096)}
    task = Task("x", command="true" * 2000, env={"A": "x" * 8192}, files=files, limits=Limits(workspace_mib=1))

    assert workspace_files(task, JobInput(stdin=bytes(2**20))) == files


def test_a_file_of_the_job_that_is_a_fifo_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(InvalidInput, match="no regular file"):
        JobInput(files={"a": tmp_path / "fifo"})


def test_a_job_id_must_be_something_that_logs_and_labels_can_hold():
    for good in ("a", "x" * 200, "job 1/ü"):
        assert checked_job_id(good) == good
    for bad, says in [("", "is empty"), (" ", "is empty"), (5, "must be a string"), ("x" * 201, "at most 200 characters"),
                      ("a\nb", "printable"), ("a\0b", "NUL"), ("\ud800", "lone surrogate"), ("a\x1eb", "printable")]:  # fmt: skip
        with pytest.raises(InvalidInput, match=says):
            checked_job_id(bad)


def test_what_a_job_brings_can_be_run_as_it_was_brought(tmp_path):
    on_disk = tmp_path / "on_disk"
    on_disk.write_text("x")
    on_disk.chmod(0o755)
    task = Task("x", files={"kept": "x", "replaced": "x"}, executables=["kept", "replaced"])

    inputs = JobInput(files={"replaced": "y", "own": on_disk, "named": b"z"}, executables=["named"])

    assert workspace_executables(task, inputs) == {"kept", "own", "named"}


def test_files_and_standard_input_that_leave_pid_1_no_memory_are_refused():
    task = Task("python3", command="true", files={"a": bytes(14 * 2**20)}, limits=Limits(memory_mib=32))
    most = bytes(14 * 2**20)

    workspace_files(task, JobInput(stdin=most))
    with pytest.raises(InvalidInput, match="raise memory_mib"):
        workspace_files(task, JobInput(stdin=most + b"1"))
