"""The grader's commands and Python modules, as processes, in a folder laid out as ``/task``."""

from __future__ import annotations

import ast
import configparser
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.grading.bundle import bundle
from jobmanager.results import result_file
from tests.unit.grading_box import TOOLS, Box

TOP = Path(__file__).resolve().parents[2]
ALL_COMMANDS = sorted(path.name for path in (TOOLS / "bin").iterdir())


@pytest.fixture
def box() -> Iterator[Box]:
    """``/task`` of a job with a text, a choice and a file for answers; a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="box") as folder:
        answers = {
            "q1": "for x in range(3):\n    print(x)\n",
            "which": ["a", "c"],
            "up": {"filename": "photo of me.png", "path": f"{folder}/photo"},
        }
        Path(folder, "photo").write_bytes(b"\x89PNG\x00\xff")
        yield Box(Path(folder), answers, at_random=[0.25, 0.5], at_username="ann", at_time="2026-11-22 10:00:00.5", at_lang="fr")


def printed(box: Box, *words: str, stdin: bytes = b"") -> bytes:
    """What a command prints that must succeed."""
    done = box.run(*words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def refused(box: Box, *words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and reason of a command that must fail, without a traceback."""
    done = box.run(*words, stdin=stdin)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode()


# ---- what is brought in


def test_all_of_it_is_python_3_6() -> None:
    for path in [*(TOOLS / "lib").rglob("*.py"), *(TOOLS / "bin").iterdir()]:
        tree = ast.parse(path.read_text(), feature_version=(3, 6))
        future = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        assert future == [], f"{path}: annotations from the future are of Python 3.7"


def test_all_of_it_needs_the_standard_library_only() -> None:
    own = {path.name for path in (TOOLS / "lib").iterdir()}
    allowed = set(__import__("sys").stdlib_module_names) | own | {"jinja2", "pytest"}  # where there is one
    for path in (TOOLS / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_all_of_it_is_part_of_an_installed_library() -> None:
    declared = configparser.ConfigParser()
    declared.read(TOP / "setup.cfg")
    patterns = declared["options.package_data"]["jobmanager.grading"].split(", ")
    installed = {path for pattern in patterns for path in TOOLS.parent.glob(pattern)}
    assert {f".jobmanager/{path.relative_to(TOOLS).as_posix()}" for path in installed} == set(bundle())


# ---- what the job brought


def test_an_answer_comes_as_it_was_given(box: Box) -> None:
    assert printed(box, "getinput", "q1") == b"for x in range(3):\n    print(x)\n"
    assert json.loads(printed(box, "getinput", "which")) == ["a", "c"]
    assert json.loads(printed(box, "getinput", "@random")) == [0.25, 0.5]
    assert printed(box, "getinput", "@username") == b"ann"
    assert printed(box, "getinput", "@lang") == b"fr"


def test_an_uploaded_file_has_a_name_and_a_content(box: Box) -> None:
    assert printed(box, "getinput", "up") == b"\x89PNG\x00\xff"
    assert printed(box, "getinput", "up:value") == b"\x89PNG\x00\xff"
    assert printed(box, "getinput", "up:filename") == b"photo of me.png"


def test_a_first_job_has_an_empty_state_and_no_random_numbers(box: Box) -> None:
    box.bring({})
    assert printed(box, "getinput", "@state") == b""
    assert printed(box, "getinput", "@random") == b"[]"
    assert printed(box, "getinput", "@lang") == b"en"


def test_an_input_that_there_is_not_is_told_with_those_that_there_are(box: Box) -> None:
    code, reason = refused(box, "getinput", "q2")
    assert code == 1
    assert "no input 'q2'" in reason and "'q1'" in reason and "'@random'" in reason


def test_a_command_without_its_arguments_is_a_usage_error(box: Box) -> None:
    takes_none = {"feedback", "feedback-msg", "rst-code", "rst-indent", "rst-msgblock"}
    for name in sorted(set(ALL_COMMANDS) - takes_none - {"run_student", "ssh_student"}):
        assert refused(box, name)[0] == 2, name


def test_input_that_cannot_be_read_is_told(box: Box) -> None:
    box.write(".jobmanager/input.json", "[")
    assert "cannot be read" in refused(box, "getinput", "q1")[1]


# ---- templates


def test_a_template_is_filled_in_line_by_line(box: Box) -> None:
    box.write("student.py", "def f():\n@    @q1@  # theirs@\nname = '@@up:filename@@', mail = 'a@b.com'\n")
    printed(box, "parsetemplate", "-o", "student/deep/answer.py", "student.py")
    filled = (box.folder / "student/deep/answer.py").read_text()
    assert filled == (
        "def f():\n    for x in range(3):  # theirs\n        print(x)  # theirs\nname = 'photo of me.png', mail = 'a@b.com'\n"
    )


def test_a_template_replaces_itself_when_no_output_is_named(box: Box) -> None:
    box.write("x.txt", "[@@q1@@]")
    printed(box, "parsetemplate", "x.txt")
    assert (box.folder / "x.txt").read_text() == "[for x in range(3):\n    print(x)]"


def test_an_answer_that_holds_a_mark_stays_as_it_is(box: Box) -> None:
    box.bring({"a": "@@b@@ @@a@@", "b": "secret"})
    box.write("x.txt", "@@a@@|@@b@@")
    printed(box, "parsetemplate", "x.txt")
    assert (box.folder / "x.txt").read_text() == "@@b@@ @@a@@|secret"


def test_a_mark_of_an_unknown_input_stays_and_is_told(box: Box) -> None:
    box.bring({"code": "x = 1"})
    text = "@@cdoe@@ @@code@@ @  @co-de@@\n@Override @Test a@b.org c@d.org\nmail('a@b', 'c@d')\n"
    box.write("x.txt", text)
    done = box.run("parsetemplate", "x.txt")
    assert done.returncode == 0
    assert (box.folder / "x.txt").read_text() == text.replace("@@code@@", "x = 1")
    assert done.stderr.decode().splitlines() == [
        f"the template 'x.txt' has a mark for '{name}', and there is no such input; there are @lang, @random, @state, code"
        for name in ("cdoe", "co-de")
    ]


def test_a_template_that_is_missing_or_no_text_is_told(box: Box) -> None:
    assert refused(box, "parsetemplate", "missing.c") == (
        2,
        "parsetemplate: the template 'missing.c' cannot be filled in: [Errno 2] No such file or directory: 'missing.c'\n",
    )
    box.write("binary", b"\xff\xfe@@q1@@")
    assert "is not UTF-8" in refused(box, "parsetemplate", "binary")[1]
    box.write("names a binary", "@@up@@")
    assert "is not UTF-8" in refused(box, "parsetemplate", "names a binary")[1]


@pytest.mark.parametrize("with_jinja", [True, False])
def test_a_feedback_template_is_found_by_language_and_filled_in(box: Box, with_jinja: bool) -> None:
    if not with_jinja:
        box.write(".jobmanager/lib/jinja2.py", "raise ImportError")
    box.write("hint.tpl", "plain {{ name }}")
    printed(box, "feedback-msg-tpl", "hint", "name=a=b")
    assert box.answer["text"] == "plain a=b"
    box.write("lang/fr/hint.tpl", "par langue {{name}}{{ nothing }}")
    printed(box, "feedback-msg-tpl", "-a", "hint", "name=x")
    assert box.answer["text"] == "plain a=bpar langue x"
    box.write("hint.fr.tpl", "{{ _('Hello') }}")
    printed(box, "feedback-msg-tpl", "-i", "q1", "hint")
    assert box.answer["problems"] == {"q1": {"text": "Hello"}}


def test_a_feedback_template_that_cannot_be_used_is_told(box: Box) -> None:
    assert "no feedback template 'none'" in refused(box, "feedback-msg-tpl", "none")[1]
    assert "NAME=VALUE" in refused(box, "feedback-msg-tpl", "none", "x")[1]
    box.write(".jobmanager/lib/jinja2.py", "raise ImportError")
    box.write("loop.tpl", "{% for x in y %}{% endfor %}")
    assert "no Jinja2" in refused(box, "feedback-msg-tpl", "loop")[1]


def test_texts_are_translated(box: Box) -> None:
    box.bring({}, at_lang="fr")
    box.write("make.py", MAKE_A_CATALOGUE)
    printed(box, "python3", "make.py")
    script = "from inginious import lang; lang.init(); print(_('Hello'))"
    assert printed(box, "python3", "-c", script) == b"Bonjour\n"


MAKE_A_CATALOGUE = """
import os, struct
os.makedirs("lang/fr/LC_MESSAGES")
head = b"Content-Type: text/plain; charset=UTF-8\\n"
keys, values = [b"", b"Hello"], [head, b"Bonjour"]
at, table = 28 + 32, []
for text in keys + values:
    table.append((len(text), at)); at += len(text) + 1
with open("lang/fr/LC_MESSAGES/messages.mo", "wb") as file:
    file.write(struct.pack("<7I", 0x950412de, 0, 2, 28, 44, 0, 0))
    file.write(b"".join(struct.pack("<2I", *entry) for entry in table))
    file.write(b"".join(text + b"\\0" for text in keys + values))
"""


# ---- the answer


def test_an_answer_is_what_a_result_file_may_hold(box: Box) -> None:
    # when: everything is said once
    printed(box, "feedback-result", "failed")
    printed(box, "feedback-result", "--id", "q1", "success")
    printed(box, "feedback-grade", "62.5")
    printed(box, "feedback-msg", "-m", "Close.")
    printed(box, "feedback-msg", "-i", "q1", stdin="Très bien.\n".encode())
    printed(box, "feedback-custom", "points", "7")
    printed(box, "feedback-custom", "-j", "shape", '{"a": [1, null]}')
    printed(box, "feedback-custom", "name", "inf")
    printed(box, "feedback-state", "seen")
    printed(box, "tag-set", "loops", "true")
    printed(box, "tag-set", "recursion", "no")
    printed(box, "tag-set", "*auto-tag-7", "true")
    printed(box, "tag", "clever")
    printed(box, "definetest", "empty list", "passed")
    # then: the host reads exactly that
    said = result_file.parse_result_file((box.private / "result.json").read_bytes())
    assert (said.outcome, said.grade, said.text, said.state) == ("failed", 62.5, "Close.", "seen")
    assert (said.problems["q1"].outcome, said.problems["q1"].text) == ("success", "Très bien.\n")
    assert said.custom == {"points": 7, "shape": {"a": [1, None]}, "name": "inf"}
    assert said.tests == {"loops": True, "recursion": False, "*auto-tag-clever": "clever", "empty list": "passed"}


def test_messages_are_added_and_escapes_interpreted_on_request(box: Box) -> None:
    printed(box, "feedback-msg", "-m", r"a\n")
    printed(box, "feedback-msg", "-aem", r"b\tc\u20ac\xc3\xa9é")
    printed(box, "feedback-msg", "-ae", stdin=rb"C:\x")
    assert box.answer["text"] == "a\\nb\tc€éé" + r"C:\x"
    printed(box, "feedback-msg", "--message=-5 points", "--append")
    assert str(box.answer["text"]).endswith("-5 points")


def test_the_old_command_says_several_things_at_once(box: Box) -> None:
    printed(box, "feedback", "-r", "success", "-g", "90", "-f", r"a\nb", "-e", "-c", "k:1.5")
    printed(box, "feedback", "-i", "q1", "-r", "failed", "-f", "no", "-j", 'j:["x"]')
    assert json.loads(printed(box, "feedback", "-p")) == {
        "result": "success",
        "grade": 90.0,
        "text": "a\nb",
        "custom": {"k": 1.5, "j": ["x"]},
        "problems": {"q1": ["failed", "no"]},
    }


def test_what_cannot_be_an_answer_is_refused_and_changes_nothing(box: Box) -> None:
    printed(box, "feedback-result", "success")
    assert "one of success, failed, timeout, overflow, crash, error" in refused(box, "feedback-result", "-i", "q1", "good")[1]
    assert "a number" in refused(box, "feedback-grade", "A+")[1]
    assert "finite" in refused(box, "feedback-grade", "nan")[1]
    assert "not JSON" in refused(box, "feedback-custom", "-j", "k", "{")[1]
    assert "JSON cannot hold" in refused(box, "feedback-custom", "-j", "k", "NaN")[1]
    assert box.answer == {"result": "success"}


@pytest.mark.parametrize(
    "says",
    [
        ("feedback-result", "fail"),
        ("feedback", "-r", "fail"),
        ("python3", "-c", "from inginious import feedback\ntry: feedback.set_global_result('fail')\nexcept ValueError: exit(2)"),
    ],
)
def test_a_result_that_there_is_not_leaves_no_success_that_was_said_before(box: Box, says: tuple[str, ...]) -> None:
    printed(box, "feedback-result", "success")
    assert refused(box, *says)[0] == 2
    with pytest.raises(result_file.ResultFileError, match=r"result is neither success nor .*, but 'fail'"):
        result_file.parse_result_file(json.dumps(box.answer).encode(), grader=True)
    printed(box, "feedback-result", "failed")
    assert box.answer == {"result": "failed"}, "the last word counts, as it did there"


def test_a_message_of_five_megabytes_is_refused_and_the_answer_stays(box: Box) -> None:
    printed(box, "feedback-msg", "-m", "short")
    code, reason = refused(box, "feedback-msg", "-a", stdin=b"x" * 5_000_000)
    assert (code, reason) == (
        2,
        "feedback-msg: the answer would have 4883 KiB, and 1024 is the most: shorten the feedback, or archive it as a file\n",
    )
    assert box.answer == {"text": "short"}


def test_bytes_that_are_no_text_become_replacement_characters(box: Box) -> None:
    printed(box, "feedback-msg", stdin=b"a\xff\x00\xc3\xa9")
    assert box.answer["text"] == "a\N{REPLACEMENT CHARACTER}\x00é"
    printed(box, "sh", "-c", r"""feedback-msg -m "$(printf 'b\377')" """)
    assert box.answer["text"] == "b\N{REPLACEMENT CHARACTER}"


def test_a_locale_without_utf_8_loses_nothing(box: Box) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    box.bring({"é": "à"})
    assert box.run("getinput", "é", env=ascii_only).stdout == "à".encode()
    assert box.run("feedback-msg", "-i", "é", "-m", "ü", env=ascii_only).returncode == 0
    assert box.answer["problems"] == {"é": {"text": "ü"}}
    assert "no input '\\xfc'" in box.run("getinput", "ü", env=ascii_only).stderr.decode()


def test_commands_that_run_at_once_lose_nothing(box: Box) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do feedback-custom k$i $i & done; wait"
    printed(box, "sh", "-c", script)
    assert box.answer["custom"] == {f"k{number}": number for number in range(1, 13)}


def test_a_result_file_that_somebody_else_spoiled_is_told(box: Box) -> None:
    box.write(".jobmanager/result.json", "{'result'}")
    assert "result.json cannot be read" in refused(box, "feedback-result", "success")[1]
    box.write(".jobmanager/result.json", '{"problems": []}')
    assert "result.json does not hold an answer" in refused(box, "feedback-result", "-i", "q1", "success")[1]


# ---- files


def test_files_are_archived_under_their_own_names(box: Box) -> None:
    box.write("out/notes.txt", "notes")
    printed(box, "archive", "-a", "out/notes.txt")
    printed(box, "archive", "--add", "out/notes.txt", "--subdir", "deep/er")
    archive = box.private / "archive"
    assert (archive / "notes.txt").read_text() == (archive / "deep/er/notes.txt").read_text() == "notes"
    printed(box, "archive", "-r", "notes.txt", "-s", "deep/er")
    assert not (archive / "deep/er/notes.txt").exists()


def test_only_regular_files_are_archived_and_none_from_elsewhere(box: Box) -> None:
    (box.folder / "student/out").symlink_to("/etc/passwd")
    (box.folder / "student/etc").symlink_to("/etc")
    os.mkfifo(box.folder / "student/fifo")
    for name, reason in {
        "student/out": "leads out",
        "student/etc/passwd": "leads out",
        "student/fifo": "no regular file",
        "student": "no regular file",
        "missing": "No such file",
        "/dev/null": "no regular file",
    }.items():
        assert reason in refused(box, "archive", "-a", name)[1], name
    assert "inside the archive" in refused(box, "archive", "-a", "photo", "-s", "../..")[1]
    assert "inside the archive" in refused(box, "archive", "-a", "photo", "-s", "/tmp")[1]
    assert not (box.private / "archive").exists()


# ---- reStructuredText


def test_blocks_of_restructured_text(box: Box) -> None:
    assert printed(box, "rst-code", "-l", "java", "-c", "int a;\nint b;") == (
        b"\n\n.. code-block:: java\n\n\tint a;\n\tint b;\n\n\n"
    )
    assert printed(box, "rst-msgblock", "-c", "danger", "-t", "Oh", "-m", "no") == (
        b"\n\n.. admonition:: Oh\n\t:class: alert alert-danger\n\n\tno\n\n\n"
    )
    assert b"alert-info" in printed(box, "rst-msgblock", "-c", "unknown", stdin=b"text")
    assert printed(box, "rst-indent", "-a", "2", "-c", " ", "-m", "a\nb") == b"  a\n  b\n\n"
    assert printed(box, "rst-indent", "-a", "-1", stdin=b"\t\ta\nb\n") == b"\ta\nb\n\n"
    assert printed(box, "rst-image", "photo", "-f", "png") == (
        b'\n\n.. raw:: html\n\n\t<img src="data:image/png;base64,iVBORwD/">\n\n'
    )


# ---- Python


def test_our_module_says_what_the_commands_say(box: Box) -> None:
    script = """
import jobmanager_grading as grading
assert grading.get_input("which") == ["a", "c"] and grading.language() == "fr"
assert grading.get_input("up") == b"\\x89PNG\\x00\\xff" and grading.get_input("up:filename") == "photo of me.png"
grading.set_result("failed"); grading.set_grade(40); grading.set_feedback("2 of 5"); grading.set_feedback("!", append=True)
grading.set_result("success", "q1"); grading.set_feedback("Yes.", problem="q1"); grading.set_test("zero", False)
grading.set_custom("k", [1]); grading.set_state("s"); grading.archive("photo"); grading.parse_template("t", "out")
"""
    box.write("t", "@@q1@@")
    printed(box, "python3", "-c", script)
    assert box.answer == {
        "result": "failed",
        "grade": 40.0,
        "text": "2 of 5!",
        "problems": {"q1": {"result": "success", "text": "Yes."}},
        "tests": {"zero": False},
        "custom": {"k": [1]},
        "state": "s",
    }
    assert (box.private / "archive/photo").exists() and (box.folder / "out").exists()


def test_every_name_of_our_module_can_be_imported(box: Box) -> None:
    printed(box, "python3", "-c", "import jobmanager_grading as g; assert all(hasattr(g, name) for name in g.__all__)")


@pytest.mark.parametrize("package", ["inginious_container_api", "inginious"])
def test_python_graders_written_for_inginious_run_unchanged(box: Box, package: str) -> None:
    script = f"""
from {package} import feedback, input, lang, rst, run_student
from {package}.run_student import run_student_simple
assert input.get_username() == "ann" and input.get_lang() == "fr" and input.get_submission_time().hour == 10
assert input.get_input("@random") == [0.25, 0.5]
assert input._load_input()["input"]["@username"] == "ann" and run_student.run_simple is run_student_simple
input.parse_template("t.py", "student/t.py")
feedback.set_global_result("failed"); feedback.set_problem_result("success", "q1"); feedback.set_grade("12")
feedback.set_global_feedback("a"); feedback.set_global_feedback("b", True)
feedback.set_problem_feedback("p", "q1"); feedback.set_problem_feedback("text only", "which")
feedback.set_tag("t", True); feedback.tag("x"); feedback.set_custom_value("c", 1); feedback.set_state("s")
assert not feedback.set_feedback_from_tpl("none", {{}}, "up")
assert feedback.get_feedback()["problems"]["q1"] == ["success", "p"]
assert feedback.get_feedback()["problems"]["which"] == "text only"
feedback.save_feedback(feedback.get_feedback())
feedback.set_global_feedback(rst.get_codeblock("c", "x") + rst.get_admonition("info", "", "y") + rst.indent_block(1, "z"), True)
"""
    box.write("t.py", "@@q1@@")
    done = box.python(script)
    assert (done.returncode, done.stderr) == (
        0,
        b"there is no feedback template 'none': looked for none.fr.tpl, "
        + str(box.folder / "lang/fr/none.tpl").encode()
        + b", none.tpl\n",
    )
    answer = box.answer
    assert answer["text"] == "ab\n\n.. code-block:: c\n\n\tx\n\n\n\n.. note::\n\t:class: alert alert-info\n\n\ty\n\n\tz\n"
    problems = answer.pop("problems")
    assert isinstance(problems, dict)
    assert problems["q1"] == {"result": "success", "text": "p"} and problems["which"] == {"text": "text only"}
    assert "no feedback template" in problems["up"]["text"]
    assert (answer["result"], answer["grade"], answer["tests"]) == ("failed", 12.0, {"t": True, "*auto-tag-x": "x"})


def test_an_unknown_input_is_a_key_error_that_can_be_read(box: Box) -> None:
    script = "from inginious import input\ntry:\n    input.get_input('q9')\nexcept KeyError as error:\n    print(error)"
    assert printed(box, "python3", "-c", script).startswith(b"there is no input 'q9'; this job brought ")


# ---- students, where there is no supervisor


def test_without_a_supervisor_students_are_not_available(box: Box) -> None:
    assert refused(box, "run_student", "true") == (
        251,
        "run_student: student containers are not available here: No such file or directory\n",
    )
    assert refused(box, "run_student", "--run-as-root", "true")[0] == 251
    for words in ((), ("--setup-script", "x"), ("--time", "lots"), ("--no-such-option",)):
        assert refused(box, "ssh_student", *words)[0] == 251, words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("echo 'x",), "cannot be split"),
        (("python3", "greet.py", "O'Brien"), "cannot be split"),
        (("--teardown-script", "echo 'x", "true"), "cannot be split"),
        ((), "no command"),
        (("  ",), "no command"),
        (("--time", "-1", "true"), "not negative"),
        (("--time", "nan", "true"), "not negative"),
        (("--memory", "lots", "true"), "invalid int value"),
        (("--time",), "expected one argument"),
    ],
    ids=str,
)
def test_a_command_for_a_student_that_makes_no_sense_is_told_from_the_programs_own_2(
    box: Box, words: tuple[str, ...], reason: str
) -> None:
    code, told = refused(box, "run_student", *words)
    assert (code, told.startswith("run_student: ")) == (251, True), told
    assert reason in told


def test_a_student_that_is_asked_for_in_a_folder_that_is_gone_is_told_from_the_programs_own_2(box: Box) -> None:
    code, reason = refused(box, "sh", "-c", "mkdir gone; cd gone; rmdir ../gone; run_student true")
    assert (code, reason.startswith("run_student: ")) == (251, True), reason


def test_python_graders_get_251_for_what_makes_no_sense_as_shell_graders_do(box: Box) -> None:
    script = """
from inginious import run_student
print(run_student.run_student_simple('a\\0b'), run_student.run_student("echo 'x"), run_student.run_student("a", time_limit=-1))
print(run_student.run_student("true " * 300_000))
"""
    done = box.python(script)
    assert done.stdout == b"('', '', 251) 251 251\n251\n"
    for reason in (b"no word of a command can hold a NUL byte", b"cannot be split", b"not negative", b"larger than 1 MiB"):
        assert reason in done.stderr
