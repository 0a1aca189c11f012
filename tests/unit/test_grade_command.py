"""``jobmanager grade`` on the fake engine: which files are submissions, what is an answer, and what the formats hold."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from jobmanager import CaseResult, Code, File, JobResult, Match, MultipleChoice, Outcome, ProblemResult, RunResult, cli
from jobmanager.command_line import grade, watch
from jobmanager.command_line.answers import FoundSubmission, answers_of, given_answers, submissions_in
from jobmanager.command_line.grades import Grade, grades_csv, grades_json, grades_junit, grades_table
from jobmanager.errors import InvalidInput, InvalidValue
from jobmanager.results.junit_xml import parse_junit_xml
from jobmanager.testing import FakeEngineServer

QUIZ = """\
name: A quiz
environment_id: mcq
problems:
    capital: {type: match, answer: Paris}
    even: {type: multiple_choice, multiple: true, choices: [{text: 1}, {text: 2, valid: true}, {text: 4, valid: true}]}
"""
PROBLEMS = {
    "program": Code(),
    "line": Code(single_line=True),
    "report": File(),
    "word": Match("x"),
    "choice": MultipleChoice("0"),
    "one": MultipleChoice("0", multiple=False),
}
EVIL = "=cmd()\x1b[31m\0\ufffe\ud800 <&]]> é\n2"

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with FakeEngineServer(images=["python3"]) as fake:
        yield fake.url


@pytest.fixture
def ask(url: str, capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["grade", "--host", url, *map(str, arguments)])
        return (code, *capsys.readouterr())

    return asked


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    (tmp_path / "quiz").mkdir()
    (tmp_path / "quiz" / "task.yaml").write_text(QUIZ)
    return tmp_path / "quiz"


def made(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# ---- answers


def test_an_answer_is_a_text_or_a_file_and_has_the_form_that_its_problem_takes(tmp_path: Path) -> None:
    path = made(tmp_path, {"r.csv": b"\0\xff", "p.py": "print()\n", "one": "x = 1\r\n", "c": "0, 2\n"})

    answers = given_answers(
        [
            f"program=@{path}/p.py",
            f"line=@{path}/one",
            f"report=@{path}/r.csv",
            "word=a=b",
            f"choice=@{path}/c",
            "one=0",
            "@random=0.5,1",
        ],
        PROBLEMS,
    )

    assert answers == {
        "program": "print()\n",
        "line": "x = 1",
        "report": {"filename": "r.csv", "value": b"\0\xff"},
        "word": "a=b",
        "choice": ["0", "2"],
        "one": "0",
        "@random": [0.5, 1.0],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["word=a", "word=b"], "'word' is given twice"),
        (["program=@/nothing"], "'/nothing' cannot be read: No such file"),
        (["program=@/etc"], "'/etc' cannot be read: Is a directory"),
        (["program=@\0"], "cannot be read"),
        (["@random=a"], "@random must be numbers"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        given_answers(given, PROBLEMS)


# ---- submissions


def test_a_folder_is_a_submission_with_a_file_for_each_problem(tmp_path: Path) -> None:
    made(tmp_path, {"ann/program.py": "p", "ann/choice": "1", "ann/.DS_Store": "", "ann/__pycache__/x": "", ".hidden/x": ""})

    (ann,) = submissions_in(tmp_path, PROBLEMS)

    assert ann.name == "ann"
    assert answers_of(ann, PROBLEMS) == {"program": "p", "choice": ["1"]}


def test_where_one_problem_takes_a_file_each_file_is_a_submission(tmp_path: Path) -> None:
    made(tmp_path, {"ann.py": "a", "bob/program": "b"})
    problems = {"program": Code(), "word": Match("x")}

    assert [answers_of(each, problems) for each in submissions_in(tmp_path, problems)] == [{"program": "a"}, {"program": "b"}]


def test_a_file_may_have_the_name_that_the_task_gives_it(tmp_path: Path) -> None:
    made(tmp_path, {"ann/main.c": "m", "ann/notes.txt": "n", "ann/one.c": "o"})
    made(tmp_path, {"bob/main.c": "m", "bob/program.c": "p", "zoe/same.py": "s"})
    problems = {
        "program": Code(filename="src/main.c"),
        "text": Code(filename="student/notes.txt"),
        "notes": Code(),
        "one": Code(filename="a/same.py"),
        "two": Code(filename="b/same.py"),
    }

    ann, bob, zoe = submissions_in(tmp_path, problems)

    assert answers_of(ann, problems) == {"program": "m", "text": "n", "one": "o"}
    assert bob.mistake == "two files are for problem 'program': 'main.c' and 'program.c'"
    named = "program (main.c), text (notes.txt), notes, one (same.py), two (same.py)"
    assert zoe.mistake == f"the file 'same.py' is for no problem: the task has {named}"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.py": "x"}, "2 problems of the task take a file"),
        ({"a/other.py": "x"}, "'other.py' is for no problem: the task has program, report"),
        ({"a/program.py": "x", "a/program.txt": "x"}, "two files are for problem 'program'"),
        ({"a/program.py": b"\xff"}, "'program.py' is no text in UTF-8: invalid start byte in byte 0"),
        ({"a/program/x": "x"}, "'program' is no regular file"),
    ],
)
def test_a_submission_with_a_mistake_is_told_and_the_others_are_read(
    tmp_path: Path, files: dict[str, str | bytes], said: str
) -> None:
    made(tmp_path, {**files, "good/program.py": "x", "good/report.txt": "y"})
    problems = {"program": Code(), "report": File()}

    bad, good = submissions_in(tmp_path, problems)

    assert set(answers_of(good, problems)) == {"program", "report"}
    with pytest.raises(InvalidInput, match=said):
        answers_of(bad, problems)


def test_a_folder_in_a_submission_is_called_one_and_what_macs_add_is_left_out(tmp_path: Path) -> None:
    made(tmp_path, {"ann/src/main.c": "m", "__MACOSX/ann/x": ""})
    (ann,) = submissions_in(tmp_path, {"program": Code()})
    assert ann.mistake == "the folder 'src' is for no problem: the task has program"


def test_a_file_name_that_is_given_as_an_answer_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, {"main.py": "print(1)"})
    named = str(tmp_path / "main.py")
    assert given_answers([f"program={named}", "word=main.py"], {"program": Code(), "word": Match("x")}) == {
        "program": named,
        "word": "main.py",
    }
    says = f"{named!r} is a file's name: give program=@{named} for what is in it"
    assert capsys.readouterr().err == f"jobmanager: look: --answer program: {says}\n"


def test_a_link_or_a_pipe_in_a_submission_is_never_read(tmp_path: Path) -> None:
    made(tmp_path, {"secret": "s3cret", "subs/link/x": "", "subs/pipe/x": "", "subs/late/program": "x"})
    for each in ("link", "pipe"):
        (tmp_path / "subs" / each / "x").unlink()
    (tmp_path / "subs" / "link" / "program.py").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "subs" / "pipe" / "program.py")
    (tmp_path / "subs" / "whole").symlink_to(tmp_path)
    late, *others = submissions_in(tmp_path / "subs", {"program": Code()})
    late.files["program"].unlink()
    late.files["program"].symlink_to(tmp_path / "secret")  # between the look and the reading

    assert [each.mistake for each in others] == [
        "'program.py' is a link, which is not followed",
        "'program.py' is no regular file",
        "'whole' is a link, which is not followed",
    ]
    with pytest.raises(InvalidInput, match="cannot be read"):
        answers_of(late, {"program": Code()})


def test_an_answer_has_a_bound(tmp_path: Path) -> None:
    with open(tmp_path / "program", "wb") as large:
        large.truncate(64 * 2**20 + 1)

    with pytest.raises(InvalidInput, match="'program' is larger than 64 MiB"):
        answers_of(FoundSubmission(name="a", files={"program": tmp_path / "program"}), PROBLEMS)


# ---- the command


def test_right_answers_are_0_and_a_wrong_one_is_1(ask: Ask, quiz: Path) -> None:
    right = ask(quiz, "--answer", "capital=Paris", "--answer", "even=1,2")
    wrong = ask(quiz, "--answer", "capital=Rome", "--answer", "even=1,2")

    assert (right[0], "1 submission: 1 success" in right[1], right[2]) == (0, True, "")
    assert (wrong[0], "1 submission: 1 failed" in wrong[1]) == (1, True)
    assert "capital: failed Wrong answer." in wrong[1]


def test_a_folder_of_submissions_is_graded_and_a_bad_one_does_not_stop_the_rest(ask: Ask, quiz: Path, tmp_path: Path) -> None:
    subs = made(
        tmp_path / "subs",
        {
            "ann/capital": "Paris\n",
            "bob/capital": "Rome",
            "eve/capital": "Paris",
            "eve/even": "9",
            "zoe/capital.txt": "\n",
            "x": "?",
        },
    )

    code, out, err = ask(quiz, "--submissions", subs, "--answer", "even=1,2", "--json", "-")

    said = json.loads(out)
    assert (code, said["exit_code"], err) == (1, 1, "")
    outcomes = {each["submission"]: each["result"] and each["result"]["outcome"] for each in said["submissions"]}
    assert outcomes == {"ann": "success", "bob": "failed", "eve": None, "x": None, "zoe": "failed"}
    refusals = {each["submission"]: each["refused"] for each in said["submissions"] if each["refused"]}
    assert "no such choice: 9" in refusals["eve"]
    assert "0 problems of the task take a file" in refusals["x"]
    assert JobResult.from_dict(said["submissions"][0]["result"]).problems["capital"].outcome is Outcome.SUCCESS


def test_ctrl_c_leaves_the_files_with_what_was_graded_until_then(
    ask: Ask, quiz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = made(tmp_path / "subs", {"ann/capital": "Paris", "bob/capital": "Rome", "eve/capital": "Paris"})
    answers_of_all = grade.answers_of

    def interrupted(submission: FoundSubmission, problems: Any) -> Any:
        if submission.name == "eve":
            raise KeyboardInterrupt
        return answers_of_all(submission, problems)

    monkeypatch.setattr(grade, "_AT_ONCE", 1)
    monkeypatch.setattr(grade, "answers_of", interrupted)
    code, _, _ = ask(quiz, "--submissions", subs, "--answer", "even=1,2", "--csv", tmp_path / "out.csv")

    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert (code, [row["outcome"] for row in rows]) == (130, ["success", "failed", "refused"])
    assert rows[2]["text"] == "not graded: interrupted"

    monkeypatch.setattr(grade, "grades_csv", lambda *_: (_ for _ in ()).throw(InvalidInput("the disk is full")))
    code, _, err = ask(quiz, "--submissions", subs, "--answer", "even=1,2", "--csv", tmp_path / "out.csv")
    assert (code, "the disk is full" in err) == (130, True)


def test_ctrl_c_before_anything_is_graded_leaves_the_files_as_they_were(
    ask: Ask, quiz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = made(tmp_path / "subs", {"ann/nothing": "?", "bob/capital": "Rome"})
    made(tmp_path, {"out.csv": "of yesterday"})
    answers_of_all = grade.answers_of

    def interrupted(submission: FoundSubmission, problems: Any) -> Any:
        if submission.name == "bob":
            raise KeyboardInterrupt
        return answers_of_all(submission, problems)

    monkeypatch.setattr(grade, "answers_of", interrupted)
    code, out, _ = ask(quiz, "--submissions", subs, "--answer", "even=1,2", "--csv", tmp_path / "out.csv")

    assert (code, out, (tmp_path / "out.csv").read_text()) == (130, "", "of yesterday")


def test_all_formats_are_written_beside_the_table(ask: Ask, quiz: Path, tmp_path: Path) -> None:
    files = {option: tmp_path / f"grades.{option}" for option in ("csv", "json", "junit")}
    options = [word for option, file in files.items() for word in (f"--{option}", file)]

    code, out, _ = ask(quiz, "--answer", "capital=Paris", "--answer", "even=0", *options)

    assert (code, "1 submission: 1 failed" in out) == (1, True)
    (row,) = csv.DictReader(io.StringIO(files["csv"].read_text()))
    assert (row["submission"], row["outcome"], row["capital: outcome"], row["even: outcome"]) == (
        "answers",
        "failed",
        "success",
        "failed",
    )
    assert json.loads(files["json"].read_text())["task"] == "A quiz"
    tests, count = parse_junit_xml(files["junit"].read_bytes(), 10)
    assert (count, [test["status"] for test in tests]) == (3, ["failed", "passed", "failed"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.csv", "grades.json", "grades.junit", "quiz"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--answer", "capital"], "give ID=TEXT or ID=@FILE"),
        (["--answer", "capitol=Paris"], "no such problem: ['capitol']; the task has ['capital', 'even']"),
        (["--answer", "even=7"], "no such choice: 7"),
        (["--submissions", "/nothing"], "does not exist"),
        (["--submissions", "{empty}"], "there is no submission in"),
        (["--csv", "/nothing/here.csv"], "--csv: '/nothing/here.csv' cannot be written"),
        (["--junit", "{quiz}/out.xml"], "which is read: take another folder"),
        (["--csv", "/tmp/grades.x", "--json", "/tmp/../tmp/grades.x"], "--json and --csv name one file"),
        (["--environment", "python3"], "--environment: give NAME=VALUE"),
    ],
)
def test_bad_input_is_2_and_one_line(ask: Ask, quiz: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    places = {"quiz": str(quiz), "empty": str(tmp_path / "empty")}

    code, out, err = ask(quiz, *(each.format(**places) for each in arguments))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_every_mistake_of_a_task_folder_is_told_on_a_line_of_its_own(ask: Ask, quiz: Path) -> None:
    (quiz / "task.yaml").write_text("environment_id: mcq\nproblems:\n    a: {type: prose}\n    b: {type: match}\n")

    code, out, err = ask(quiz)

    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert f"{quiz}/task.yaml:3: problems.a.type must be one of" in first
    assert f"{quiz}/task.yaml:4: problems.b.answer is missing" in second


def test_a_field_that_may_be_mistyped_is_told_and_the_task_is_graded(ask: Ask, quiz: Path) -> None:
    (quiz / "task.yaml").write_text(QUIZ + "contxt: a typing error\n")

    code, _, err = ask(quiz, "--answer", "capital=Paris", "--answer", "even=1,2")

    assert code == 0
    assert err.startswith("jobmanager: look: ")
    assert "contxt" in err


def test_no_host_is_3_and_an_image_that_is_not_there_is_2(ask: Ask, quiz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["grade", "--host", "unix:///nothing", str(quiz)]) == 3
    assert "No such file" in capsys.readouterr().err

    made(quiz, {"task.yaml": "environment_id: nothing\nproblems: {p: {type: code}}\n", "run": "#!/bin/sh\n"})
    code, _, err = ask(quiz, "--answer", "p=x")
    assert (code, "no host has the environment or image 'nothing'" in err) == (2, True)


# ---- formats


def printed(outcome: Outcome, stderr: bytes) -> RunResult:
    return RunResult(outcome=outcome, stderr=stderr)


def grades() -> list[Grade]:
    report = {"name": "t", "passed": False, "output": EVIL}
    result = JobResult(
        job_id="j",
        outcome=Outcome.FAILED,
        text=EVIL,
        grade=12.5,
        problems={"program": ProblemResult(Outcome.FAILED, EVIL)},
        tests={EVIL: True, "=report": report, "points": 3, "later": {"name": "l", "passed": False, "status": "skipped"}},
        cases=(
            CaseResult(name="0", outcome=Outcome.SUCCESS, run=printed(Outcome.SUCCESS, b"of a right one")),
            CaseResult(name="1", outcome=Outcome.TIMEOUT, text="too slow", run=printed(Outcome.TIMEOUT, b"=why\x1b")),
            CaseResult(name="2", outcome=None),
        ),
        wall_time_s=1.5,
        stderr=b"=why\x1b",  # that of the first case that failed
    )
    crash = JobResult(job_id="k", outcome=Outcome.CRASH, text="the host is lost")
    return [Grade(name=EVIL, result=result), Grade(name="crash", result=crash), Grade(name="bad", refusal=EVIL)]


def test_the_table_holds_all_problems_texts_and_tests_and_no_control_character() -> None:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(grades_table(EVIL, grades()))

    said = out.getvalue()
    assert all(character.isprintable() or character == "\n" for character in said)
    for each in (
        "program: failed =cmd()",
        "points:  3",
        "later: skipped",
        "=report: failed",
        "1: failed too slow",
        "2: skipped",
        "refused",
        "12.5",
        "stderr: =why",
    ):
        assert each in said
    assert "3 submissions: 1 failed, 1 crash, 1 refused" in said


def test_the_csv_is_read_back_and_no_cell_is_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(grades_csv(["program"], grades()))))

    assert [row["outcome"] for row in rows] == ["failed", "crash", "refused"]
    assert rows[0]["text"] == "'=cmd()\\x1b[31m\\x00\\ufffe\\ud800 <&]]> é\n2"
    assert (rows[0]["tests"], rows[0]["tests passed"]) == ("7", "2")
    assert [row["standard error"] for row in rows] == ["'=why\\x1b", "", ""]
    assert rows[0]["tests failed"] == "'=report\n1"
    assert (rows[0]["grade"], rows[0]["wall_time_s"], rows[1]["wall_time_s"]) == ("12.5", "1.5", "")
    assert [value for row in rows for value in row.values() if value.startswith(("=", "+", "-", "@"))] == []


def test_the_junit_file_is_read_back_whatever_the_texts_hold() -> None:
    document = grades_junit(EVIL, grades())

    suites = ElementTree.fromstring(document).findall("testsuite")
    assert [(suite.get("tests"), suite.get("failures"), suite.get("errors")) for suite in suites] == [
        ("9", "4", "0"),
        ("1", "0", "1"),
        ("1", "0", "1"),
    ]
    outcome = suites[0].find("testcase")
    assert outcome is not None
    assert outcome.get("time") == "1.500"
    assert outcome.findtext("failure") == "=cmd()\\x1b[31m\\x00\\ufffe\\ud800 <&]]> é\n2"
    assert suites[0].findtext("system-err") == "=why\\x1b"
    tests, count = parse_junit_xml(document, 100)
    assert (count, [test["status"] for test in tests]) == (
        11,
        ["failed", "failed", "passed", "failed", "skipped", "skipped", "passed", "failed", "skipped", "error", "error"],
    )


def test_of_a_long_standard_error_the_end_is_shown() -> None:
    long = JobResult(job_id="j", outcome=Outcome.ERROR, stderr=b"x" * 5000 + b"the end\n")
    out = io.StringIO()
    Console(file=out, width=600, force_terminal=False).print(grades_table("t", [Grade(name="a", result=long)]))

    (row,) = csv.DictReader(io.StringIO(grades_csv([], [Grade(name="a", result=long)])))
    assert (row["standard error"][:6], row["standard error"][-9:], len(row["standard error"])) == ("... xx", "xxthe end", 2004)
    assert "xthe end" in out.getvalue() and "x" * 301 not in out.getvalue()


def test_the_json_is_read_back() -> None:
    said = json.loads(grades_json("t", 1, grades()[1:]))

    crash, bad = said["submissions"]
    assert JobResult.from_dict(crash["result"]) == grades()[1].result
    assert (bad["result"], bad["refused"], crash["refused"]) == (None, EVIL, None)


# ---- watching


def test_a_changed_file_is_noticed_a_hidden_one_and_a_linked_one_are_not(tmp_path: Path) -> None:
    made(tmp_path, {"a/b/c": "1", "a/.swp": "1", "outside/x": "1"})
    (tmp_path / "a" / "link").symlink_to(tmp_path / "outside")
    before = watch.state_of([tmp_path / "a", tmp_path / "nothing"])

    made(tmp_path, {"a/.swp": "2", "outside/x": "two", "a/.git/index": "x"})
    assert watch.state_of([tmp_path / "a", tmp_path / "nothing"])[str(tmp_path / "a/b/c")] == before[str(tmp_path / "a/b/c")]
    made(tmp_path, {"a/b/c": "22"})
    after = watch.state_of([tmp_path / "a", tmp_path / "nothing"])
    assert [path for path in after if after[path] != before.get(path)] in (
        [str(tmp_path / "a/b/c")],
        [str(tmp_path / "a"), str(tmp_path / "a/b/c")],
    )


def test_more_files_than_can_be_watched_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_FILES", 3)
    made(tmp_path, dict.fromkeys("abcd", ""))

    with pytest.raises(InvalidValue, match="more than 3 files"):
        watch.state_of([tmp_path])


def test_at_most_so_many_submissions_are_in_memory(ask: Ask, quiz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "_AT_ONCE", 2)
    subs = made(tmp_path / "subs", {f"s{number}/capital": "Paris" for number in range(9)})

    code, out, _ = ask(quiz, "--submissions", subs, "--answer", "even=1,2")

    assert (code, "9 submissions: 9 success" in out) == (0, True)
