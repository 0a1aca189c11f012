"""``Task``: what could not be run anywhere is refused when it is made, with a message that says what would do."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from jobmanager import Code, File, Grader, Limits, Match, MultipleChoice, Network, Task
from jobmanager.errors import InvalidTask, InvalidValue

BAD_NAMES = [
    ("/etc/passwd", "must be relative to the workspace"),
    ("../x", "without '..'"),
    ("a/../../b", "without '..'"),
    ("a/..", "without '..'"),
    ("..", "without '..'"),
    (".", "must be relative"),
    ("", "is empty"),
    ("   ", "is empty"),
    ("a\0b", "NUL"),
    ("a\ud800b", "lone surrogate"),
    (5, "must be a string"),
    (None, "must be a string"),
    (b"a", "must be a string"),
    (".jobmanager/result.json", "the library's own"),
    ("./.jobmanager/command", "the library's own"),
    (".jobmanager", "the library's own"),
    ("x" * 256, "longer than 255 bytes a part"),
    ("é" * 128, "longer than 255 bytes a part"),
    ("/".join(["a" * 200] * 6), "1024 in all"),
]

BAD_TASKS = [
    ({"environment": ""}, "environment is empty"),
    ({"environment": "  "}, "environment is empty"),
    ({"environment": None}, "environment must be a string"),
    ({"environment": 3}, "environment must be a string"),
    ({"environment": "a\0"}, "environment holds a NUL"),
    ({"command": ""}, "command is empty"),
    ({"command": " \n"}, "command is empty"),
    ({"command": []}, "command must be a string or a list of words that is not empty"),
    ({"command": ()}, "command must be a string or a list of words that is not empty"),
    ({"command": 5}, "command must be a string or a list of words"),
    ({"command": b"ls"}, "command must be a string or a list of words"),
    ({"command": {"ls"}}, "command must be a string or a list of words"),
    ({"command": [1]}, "first word"),
    ({"command": [""]}, "first word"),
    ({"command": ["ls", 1]}, "a word of the command must be a string"),
    ({"command": ["ls", None]}, "a word of the command must be a string"),
    ({"command": ["ls", "a\0b"]}, "NUL"),
    ({"command": "echo \ud800"}, "lone surrogate"),
    ({"files": ["a"]}, "files must map names to contents"),
    ({"files": "a"}, "files must map names to contents"),
    ({"files": {"a": 5}}, "file 'a' must be bytes, text or a Path"),
    ({"files": {"a": None}}, "file 'a' must be bytes, text or a Path"),
    ({"files": {"a": "\ud800"}}, "lone surrogate; give bytes"),
    ({"files": {"a": Path("/nowhere/at/all")}}, "file 'a' cannot be read"),
    ({"files": {"a": Path("/")}}, "file 'a' cannot be read"),
    ({"files": {"a": bytes(2**20 + 1)}, "limits": Limits(workspace_mib=1)}, "raise workspace_mib"),
    ({"directory": "/nowhere/at/all"}, "does not exist or is no folder"),
    ({"directory": "/etc/passwd"}, "does not exist or is no folder"),
    ({"directory": 5}, "directory must be"),
    ({"directory": ""}, "directory must be a folder's path, not ''"),
    ({"files": {"a": "x", "a/b": "y"}}, "'a' is a file and the folder of 'a/b'"),
    ({"files": {"a/b/c": "x", "a": "y"}}, "'a' is a file and the folder of 'a/b/c'"),
    ({"files": {"a/b": "x"}, "problems": {"q": Code("a")}}, "'a' is a file and the folder of 'a/b'"),
    ({"directory": b"/tmp"}, "directory must be"),
    ({"problems": [Match("a")]}, "problems must map ids to problems"),
    ({"problems": {"q": "match"}}, "problem 'q' must be a MultipleChoice, Match, Code or File"),
    ({"problems": {"q": Match}}, "problem 'q' must be a MultipleChoice, Match, Code or File"),
    ({"problems": {5: Match("a")}}, "problem's id"),
    ({"problems": {"": Match("a")}}, "problem's id"),
    ({"limits": {"memory_mib": 5}}, "limits must be a Limits"),
    ({"limits": None}, "limits must be a Limits"),
    ({"network": None}, "network must be a string"),
    ({"network": ""}, "network is empty"),
    ({"network": "host"}, "not for jobs"),
    ({"network": "none"}, "not for jobs"),
    ({"network": "container:abc"}, "not for jobs"),
    ({"env": ["A=1"]}, "env must map names to values"),
    ({"env": {"A": 1}}, "variable A must be a string"),
    ({"env": {"A": "x\0"}}, "NUL"),
    ({"env": {"1A": "x"}}, "no name for an environment variable"),
    ({"env": {"A-B": "x"}}, "no name for an environment variable"),
    ({"env": {"A;rm": "x"}}, "no name for an environment variable"),
    ({"env": {"A\n": "x"}}, "no name for an environment variable"),
    ({"env": {"": "x"}}, "no name for an environment variable"),
    ({"env": {5: "x"}}, "no name for an environment variable"),
    ({"problems": {"p": Code()}}, "problem 'p' needs a filename: only a grader reads answers that become no file"),
    ({"problems": {"p": File()}, "command": "true"}, "problem 'p' needs a filename"),
    ({"collect": "*.txt"}, "collect must be a list of patterns"),
    ({"collect": 5}, "collect must be a list of patterns"),
    ({"collect": None}, "collect must be a list of patterns"),
    ({"collect": [5]}, "must be a string"),
    ({"collect": ["../*"]}, "without '..'"),
    ({"collect": ["/etc/*"]}, "relative to the workspace"),
    ({"collect": [".jobmanager/command"]}, "the library's own"),
    ({"random_inputs": -1}, "random_inputs must be a whole number from 0 to 10000"),
    ({"random_inputs": 0.5}, "random_inputs must be a whole number"),
    ({"collect": ["/volumes/work"]}, "write /volumes/NAME/PATTERN"),
    ({"collect": ["/volumes"]}, "write /volumes/NAME/PATTERN"),
    ({"collect": ["/volumes/work/"]}, "write /volumes/NAME/PATTERN"),
    ({"collect": ["/volumes/work/../other/*"]}, "without '..'"),
    ({"collect": ["/volumes/*/a"]}, "the volume in '/volumes/*/a' must be 1 to 64 letters"),
    ({"collect": ["//volumes/work/a"]}, "must be relative to the workspace"),
    ({"collect": ["/volumes/work/" + "x" * 256]}, "longer than 255 bytes a part"),
    ({"user": 1000}, "user must be text such as '1000'"),
    ({"user": ""}, "user must be text"),
    ({"user": ":"}, "user must be text"),
    ({"user": "1000:"}, "user must be text"),
    ({"user": ":staff"}, "user must be text"),
    ({"user": "a:b:c"}, "user must be text"),
    ({"user": "-1"}, "user must be text"),
    ({"user": "2147483648"}, "user must be text"),
    ({"user": "1e3"}, "user must be text"),
    ({"user": "a b"}, "user must be text"),
    ({"user": "a\n"}, "user must be text"),
    ({"user": "é"}, "user must be text"),
    ({"user": "x" * 33}, "user must be text"),
    ({"devices": "/dev/kvm"}, "devices must be a list of paths such as '/dev/kvm'"),
    ({"devices": None}, "devices must be a list"),
    ({"devices": [5]}, "a device must be a string"),
    ({"devices": ["dev/kvm"]}, "absolute path below /dev"),
    ({"devices": ["/dev"]}, "absolute path below /dev"),
    ({"devices": ["/dev/"]}, "absolute path below /dev"),
    ({"devices": ["/etc/passwd"]}, "absolute path below /dev"),
    ({"devices": ["/dev/../etc"]}, "absolute path below /dev"),
    ({"devices": ["/dev/./kvm"]}, "absolute path below /dev"),
    ({"devices": ["/dev//kvm"]}, "absolute path below /dev"),
    ({"devices": ["/dev/kvm:/dev/x:rwm"]}, "absolute path below /dev"),
    ({"devices": ["/dev/kvm\n"]}, "absolute path below /dev"),
    ({"devices": ["/dev/" + "x" * 255]}, "absolute path below /dev"),
    ({"devices": ["/dev/kvm", "/dev/kvm"]}, "devices has '/dev/kvm' twice"),
    ({"devices": [f"/dev/{number}" for number in range(17)]}, "devices must have at most 16 items, not 17"),
    ({"privileged": 1}, "privileged must be True or False"),
    ({"privileged": None}, "privileged must be True or False"),
    ({"privileged": True, "network": Network.BRIDGE}, "a privileged task must have network=Network.OFF or Network.LOOPBACK"),
    ({"privileged": True, "network": "git"}, "it must reach nothing"),
    ({"privileged": True, "grader": Grader("true")}, "a task with a grader cannot have privileged"),
    ({"devices": ["/dev/kvm"], "grader": Grader("true")}, "a task with a grader cannot have devices"),
    ({"user": "1", "grader": Grader("true")}, "a task with a grader cannot have user"),
    ({"name": 5}, "name must be a string"),
    ({"name": None}, "name must be a string"),
]


@pytest.mark.parametrize(("given", "says"), BAD_TASKS, ids=lambda value: None if isinstance(value, str) else repr(value)[:60])
def test_a_task_that_makes_no_sense_is_refused_and_the_message_says_why(given, says):
    with pytest.raises(InvalidTask) as refused:
        Task(**{"environment": "python3", **given})

    assert says in str(refused.value)


def test_the_error_is_a_value_error_too():
    with pytest.raises(ValueError, match="environment"):
        Task("")
    assert issubclass(InvalidTask, InvalidValue)


@pytest.mark.parametrize("where", ["files", "Code", "File"])
def test_a_file_name_that_leaves_the_workspace_or_cannot_be_is_refused_everywhere(where):
    make = {"files": lambda name: Task("x", files={name: b""}), "Code": Code, "File": File}[where]

    for name, says in BAD_NAMES:
        if name is None and where != "files":  # which is: no file
            continue
        with pytest.raises(InvalidTask) as refused:
            make(name)
        assert says in str(refused.value), name
        assert len(str(refused.value)) < 1000


def test_file_names_are_kept_in_their_shortest_form():
    task = Task("x", files={"./a//b/./c": b"1", "d/": "two", " e": bytearray(b"3"), "..f": b"4", ".jobmanagers": b"5"})

    assert task.files == {"a/b/c": b"1", "d": b"two", " e": b"3", "..f": b"4", ".jobmanagers": b"5"}
    assert {type(content) for content in task.files.values()} == {bytes}


def test_the_longest_names_are_taken():
    longest = "/".join(["a" * 255] * 4)[:1024].rstrip("/")

    assert set(Task("x", files={longest: b"", "b" * 255: b""}).files) == {longest, "b" * 255}


def test_a_path_is_read_when_the_task_is_made(tmp_path):
    source = tmp_path / "main.c"
    source.write_bytes(b"int main;\r\n")

    task = Task("x", files={"main.c": source})
    source.write_bytes(b"changed")

    assert task.files == {"main.c": b"int main;\r\n"}


def executable(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_what_is_executable_on_disk_can_be_run(tmp_path):
    executable(tmp_path / "folder" / "bin" / "tool")
    (tmp_path / "folder" / "data").write_text("x")
    own = executable(tmp_path / "own")

    task = Task("x", directory=tmp_path / "folder", files={"./run": own, "text": "x", "path": tmp_path / "folder" / "data"})

    assert task.executables == {"bin/tool", "run"}
    assert Task("x", files={"run": own}, executables=["text", "./a/b"]).executables == {"run", "text", "a/b"}


def test_a_file_in_the_place_of_an_executable_one_has_its_own_mode(tmp_path):
    executable(tmp_path / "tool")

    assert Task("x", directory=tmp_path, files={"tool": "text"}).executables == frozenset()


def test_a_changed_copy_of_a_task_keeps_what_can_be_run(tmp_path):
    task = Task("x", files={"run": executable(tmp_path / "run")})

    assert dataclasses.replace(task, name="copy").executables == {"run"}


@pytest.mark.parametrize(
    ("given", "says"),
    [("run", "must be a list of file names"), (5, "must be a list"), (["../x"], "without '..'"), ([5], "must be a string")],
)
def test_executables_that_are_no_file_names_are_refused(given, says):
    with pytest.raises(InvalidTask, match=says):
        Task("x", executables=given)


def test_a_path_to_something_that_never_ends_is_refused_instead_of_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    for endless in (fifo, Path("/dev/zero")):
        with pytest.raises(InvalidTask, match="cannot be read: no regular file"):
            Task("x", files={"a": endless})


def test_a_path_to_a_file_larger_than_the_workspace_is_refused_without_reading_it(tmp_path):
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(InvalidTask, match="raise workspace_mib"):
        Task("x", files={"a": huge})


def test_a_file_that_the_system_does_not_let_us_read_is_named(tmp_path, monkeypatch):
    def read_bytes(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(Path, "read_bytes", read_bytes)

    with pytest.raises(InvalidTask, match=r"file 'a' cannot be read: .*Permission denied"):
        Task("x", files={"a": tmp_path / "secret"})


def test_a_directory_brings_its_regular_files_and_nothing_from_outside_it(tmp_path):
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "secret").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "sub" / "empty").mkdir(parents=True)
    (inside / "a.py").write_text("a")
    (inside / "sub" / ".hidden").write_text("h")
    (inside / "link_to_file").symlink_to(outside / "deep" / "secret")
    (inside / "link_to_folder").symlink_to(outside)
    (inside / "sub" / "link_inside").symlink_to(inside / "a.py")
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "fifo")

    assert Task("x", directory=inside).files == {"a.py": b"a", "sub/.hidden": b"h"}
    assert Task("x", directory=str(inside)).files == {"a.py": b"a", "sub/.hidden": b"h"}


def test_files_given_by_name_replace_those_of_the_directory(tmp_path):
    (tmp_path / "a").write_text("from the directory")
    (tmp_path / "b").write_text("b")

    assert Task("x", directory=tmp_path, files={"a": "mine"}).files == {"a": b"mine", "b": b"b"}


def test_a_directory_larger_than_the_workspace_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(InvalidTask, match=r"is larger than the workspace of 64 MiB: raise workspace_mib"):
        Task("x", directory=tmp_path)


def test_a_directory_with_a_name_that_is_no_utf_8_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    name = os.fsencode(tmp_path) + b"/sub/caf\xe9.txt"
    with open(name, "wb"):
        pass

    with pytest.raises(InvalidTask) as refused:
        Task("x", directory=tmp_path)
    assert str(refused.value) == f"the name of the file {name!r} is no UTF-8: rename it, or leave it out"


def test_a_directory_that_has_our_own_folder_is_refused(tmp_path):
    (tmp_path / ".jobmanager").mkdir()
    (tmp_path / ".jobmanager" / "result.json").write_text("{}")

    with pytest.raises(InvalidTask, match=r"\.jobmanager/ is the library's own"):
        Task("x", directory=tmp_path)


def test_a_command_is_a_shell_line_or_words_or_the_images_own():
    assert Task("x", command="echo $HOME | cat").command == "echo $HOME | cat"
    assert Task("x", command=["echo", "", "a b"]).command == ("echo", "", "a b")
    assert Task("x").command is None


LONGEST = 131_071  # bytes of one word: the kernel's MAX_ARG_STRLEN, less the NUL


@pytest.mark.parametrize(
    ("longest", "given"),
    [
        (LONGEST, lambda size: {"command": "x" * size}),
        (LONGEST, lambda size: {"command": ["echo", "x" * size]}),
        (LONGEST, lambda size: {"command": ["echo", "é" * (size // 2) + "x" * (size % 2)]}),
        (LONGEST, lambda size: {"env": {"A": "x" * (size - 2)}}),
        (2**20, lambda size: {"command": ["x" * (size // 16 - 9)] * 15 + ["x" * (size // 16 - 9 + size % 16)]}),
        (2**20, lambda size: {"command": ["x" * 65_000] * 10, "env": {"A": "x" * 120_000, "B": "x" * 120_000, "C": "x" * 120_000,
                                                                     "D": "x" * (size - 10 * 65_009 - 3 * 120_011 - 11)}}),
    ],
    ids=["a shell's line", "a word", "a word's bytes", "a variable", "all words", "words and variables"],
)  # fmt: skip
def test_what_no_kernel_would_start_is_refused_and_what_it_would_is_taken(longest, given):
    Task("x", **given(longest))

    with pytest.raises(InvalidTask, match=r"give (it|them) as a file or as standard input") as refused:
        Task("x", **given(longest + 1))

    assert len(str(refused.value)) < 200


def test_the_network_is_off_unless_it_is_opened():
    assert Task("x").network is Network.OFF
    assert Task("x", network="bridge").network is Network.BRIDGE
    assert Task("x", network=Network.LOOPBACK).network is Network.LOOPBACK
    assert Task("x", network="course-db").network == "course-db"
    assert not isinstance(Task("x", network="course-db").network, Network)


def test_a_task_does_not_change_with_what_it_was_made_of():
    words, files, env, patterns = ["a", "b"], {"f": b"1"}, {"A": "1"}, ["*.txt"]
    problems = {"q": Match("x")}
    task = Task("x", command=words, files=files, env=env, collect=patterns, problems=problems)

    words.append("c"), files.clear(), env.clear(), patterns.clear(), problems.clear()

    assert (task.command, task.files, task.env, task.collect) == (("a", "b"), {"f": b"1"}, {"A": "1"}, ("*.txt",))
    assert task.problems == {"q": Match("x")}
    with pytest.raises(FrozenInstanceError):
        task.command = "other"


def test_only_a_task_of_problems_that_can_all_be_answered_here_needs_no_container():
    local = {"m": Match("a"), "c": MultipleChoice("1")}

    assert not Task("x", problems=local).needs_container
    assert Task("x", problems=local, command="true").needs_container
    assert Task("x", problems={**local, "p": Code("p.py")}).needs_container
    assert Task("x", problems={"f": File("f")}).needs_container
    assert Task("x", problems={}).needs_container
    assert Task("x").needs_container


def test_only_the_environment_may_be_given_by_position():
    with pytest.raises(TypeError):
        Task("x", "echo")


def test_rights_that_are_asked_for_in_so_many_words_are_kept():
    task = Task("x", user="1000:staff", devices=["/dev/kvm", "/dev/bus/usb/001/002"])

    assert (task.user, task.devices, task.privileged) == ("1000:staff", ("/dev/kvm", "/dev/bus/usb/001/002"), False)
    for user in ("0", "root", "2147483647", "www-data", "_apt:20"):
        assert Task("x", user=user).user == user
    for network in (Network.OFF, "loopback"):
        assert Task("x", privileged=True, network=network).privileged


def test_patterns_of_files_in_a_volume_are_kept_in_their_shortest_form():
    assert Task("x", collect=["/volumes/work//out/./*.txt", "./a"]).collect == ("/volumes/work/out/*.txt", "a")


def test_what_a_host_must_have_for_a_task_is_told_by_one_name_each():
    graded = Task("x", grader=Grader("true", student_environments=["gcc", "x"]), limits=Limits(cpu_time_s=2, cpus=1.5))

    assert (graded.environments, graded.cpus, graded.wall_s) == ({"x", "gcc"}, 1.5, 6)
    assert (Task("x").environments, Task("x").title, Task("x", name="n").title) == ({"x"}, "x", "n")


def test_a_tasks_repr_holds_no_file_and_no_variable():
    assert "secret" not in repr(Task("x", files={"a": b"secret"}, env={"TOKEN": "secret"}))


@pytest.mark.parametrize("other", ["a.py", "./a.py"])
def test_two_answers_cannot_become_one_file(other: str) -> None:
    problems = {"q": Code("a.py", optional=True), "r": File(other)}
    with pytest.raises(InvalidTask, match=r"problems 'q' and 'r' would both become the file 'a\.py'"):
        Task("e", command="x", problems=problems)
