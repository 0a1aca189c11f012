"""A case, and the cases of a folder: what is taken, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmanager.errors import InvalidTask
from jobmanager.model.case import MAX_CASES, Case, checked_cases
from jobmanager.model.checker import Checker
from jobmanager.model.checks import CallersFunction, Exact, Floats, Lines, Tokens
from jobmanager.model.task import Task


def test_texts_and_files_become_bytes_when_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from disk")
    case = Case(tmp_path / "in", expected="é", files={"a/b": "x"}, args=["-n", "é"])
    (tmp_path / "in").unlink()
    assert (case.stdin, case.expected, case.files, case.args) == (b"from disk", "é".encode(), {"a/b": b"x"}, ("-n", "é"))


def test_an_empty_case_has_the_tasks_limits_and_nothing_to_compare() -> None:
    case = Case()
    assert (case.stdin, case.expected, case.cpu_time_s, case.wall_time_s, case.output_kib) == (b"", None, None, None, None)
    assert (case.points, case.check, case.is_checked_later) == (1.0, Lines(), False)
    assert Case(check=lambda case, output: True).is_checked_later


REFUSED = {
    "stdin must be bytes, text or a Path, not int": {"stdin": 3},
    "stdin cannot be read": {"stdin": Path("/no/such/file")},
    "stdin has 1024 MiB": {"stdin": b"x"},
    "expected must be bytes, text or a Path, not list": {"expected": ["x"]},
    "args must be a list of words, not 'word'": {"args": "word"},
    "an argument holds a NUL": {"args": ["a\0"]},
    "files must map names": {"files": ["a"]},
    "must be relative": {"files": {"../a": b""}},
    "cpu_time_s must be a number above zero": {"cpu_time_s": 0},
    "wall_time_s must be at most a year": {"wall_time_s": 1e9},
    "output_kib must be a whole number": {"output_kib": 0.5},
    "points must be a number from 0": {"points": -1},
    "points must be a number from 0 to": {"points": float("nan")},
    "check must be": {"check": "exact"},
    "check must be Exact": {"check": Lines},
    "a case's name must be printable": {"name": "a\nb"},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_makes_no_sense_is_refused(why: str, tmp_path: Path) -> None:
    arguments = dict(REFUSED[why])
    if "MiB" in why:
        arguments["stdin"] = tmp_path / "large"
        with (tmp_path / "large").open("wb") as file:
            file.truncate(2**30)
    with pytest.raises(InvalidTask) as raised:
        Case(**{"name": "n", **arguments})  # type: ignore[arg-type]
    assert why in str(raised.value) and "\n" not in str(raised.value)
    assert "name" in arguments or str(raised.value).startswith("case 'n': ")


def test_a_folder_has_a_case_for_each_input_in_the_order_of_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "sample1", "a2", "a10"):
        (tmp_path / f"{name}.in").write_text(f"in {name}")
        (tmp_path / f"{name}.ans").write_text(f"out {name}")
    (tmp_path / "notes.txt").write_text("no case")
    cases = Case.from_directory(tmp_path, check=Exact())
    assert [case.name for case in cases] == ["9", "10", "a2", "a10", "sample1"]
    assert (cases[0].stdin, cases[0].expected, cases[0].check) == (b"in 9", b"out 9", Exact())
    (tmp_path / "a10.ans").unlink()
    with pytest.raises(InvalidTask, match=r"a10\.in has no a10\.ans beside it"):
        Case.from_directory(tmp_path)
    assert Case.from_directory(tmp_path, check=lambda case, output: True)[3].expected is None  # type: ignore[arg-type]


def test_a_folder_that_holds_no_cases_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidTask, match=r"there is no case: a case is a file NAME\.in"):
        Case.from_directory(tmp_path)
    (tmp_path / "1.ans").write_text("x")
    with pytest.raises(InvalidTask, match=r"1\.ans has no 1\.in"):
        Case.from_directory(tmp_path)
    with pytest.raises(InvalidTask, match="cannot be read"):
        Case.from_directory(tmp_path / "no")


def test_names_are_unique_and_those_of_nameless_cases_are_their_numbers() -> None:
    assert len(checked_cases([Case(), Case(), Case(name="x")])) == 3
    with pytest.raises(InvalidTask, match="two cases have the name 'x': number 1 and number 3"):
        checked_cases([Case(name="x"), Case(), Case(name="x")])
    with pytest.raises(InvalidTask, match="two cases have the name '2': number 1 and number 2"):
        checked_cases([Case(name="2"), Case()])
    with pytest.raises(InvalidTask, match="cases must be Cases"):
        checked_cases([Case(), b"x"])  # type: ignore[list-item]
    with pytest.raises(InvalidTask, match=f"at most {MAX_CASES} items"):
        checked_cases([Case()] * (MAX_CASES + 1))


def test_ten_thousand_cases_are_checked_at_once() -> None:
    assert len(checked_cases([Case(name=f"case {number}") for number in range(10_000)])) == 10_000


def test_a_case_is_data_and_of_a_function_only_that_there_is_one(tmp_path: Path) -> None:
    case = Case(b"\xff", name="n", args=["a"], files={"f": b"x"}, expected=b"y", check=Tokens(), points=2)
    assert Case.from_dict(case.to_dict()) == case
    again = Case.from_dict(Case(check=lambda case, output: True).to_dict())
    assert again.check == CallersFunction() and again.is_checked_later
    checker = Case(check=Checker(Task("a", command="true", build="make")))
    assert Case.from_dict(checker.to_dict()) == checker


def test_a_check_that_compares_has_something_to_compare_with() -> None:
    for check in (Exact(), Tokens(), Floats(absolute=1.0)):
        with pytest.raises(InvalidTask, match="compares with what is expected: give expected="):
            Case("1", check=check)
    assert not Case("1").is_compared
