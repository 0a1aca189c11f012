"""Problems: which answers are right, which are refused."""

from __future__ import annotations

import pytest

from jobmanager import Code, File, Match, MultipleChoice
from jobmanager.errors import InvalidInput, InvalidTask

RIGHT = [
    (MultipleChoice("a"), "a"),
    (MultipleChoice("a"), ["a"]),
    (MultipleChoice(2), "2"),
    (MultipleChoice("2"), 2),
    (MultipleChoice(["a", "b"]), ("b", "a")),
    (MultipleChoice({"a", "b"}), ["a", "b", "a"]),
    (MultipleChoice(["a"], {"a": "Yes", "b": "No"}), "a"),
    (MultipleChoice(1, [1, 2]), "1"),
    (Match("42"), " 42\n"),
    (Match(" 42 "), "42"),
    (Match("Straße", ignore_case=True), "STRASSE"),
    (Match(""), "  "),
]

WRONG = [
    (MultipleChoice("a"), "b"),
    (MultipleChoice("a"), None),
    (MultipleChoice("a"), []),
    (MultipleChoice("a"), ["a", "b"]),
    (MultipleChoice("ab"), ["a", "b"]),
    (MultipleChoice(["a", "b"]), ["a"]),
    (MultipleChoice(["a", "b"]), "ab"),
    (Match("42"), "4 2"),
    (Match("42"), None),
    (Match("a"), "A"),
    (Match(""), None),
]

REFUSED = [
    (MultipleChoice("a"), 1.5, "a key or a collection of keys, not float"),
    (MultipleChoice("a"), b"a", "a key or a collection of keys, not bytes"),
    (MultipleChoice("a"), [None], "strings or numbers"),
    (MultipleChoice("a"), [["a"]], "strings or numbers"),
    (Match("a"), 5, "takes a string, not int"),
    (Match("a"), b"a", "takes a string, not bytes"),
    (Match("a"), ["a"], "takes a string, not list"),
]

BAD_PROBLEMS = [
    (lambda: MultipleChoice([]), "at least one correct choice"),
    (lambda: MultipleChoice(None), "a key or a collection of keys"),
    (lambda: MultipleChoice(1.5), "a key or a collection of keys"),
    (lambda: MultipleChoice(b"a"), "a key or a collection of keys"),
    (lambda: MultipleChoice([None]), "strings or numbers"),
    (lambda: MultipleChoice("c", ["a", "b"]), r"\['c'\] is not among the choices"),
    (lambda: MultipleChoice("a", 5), "choices must be"),
    (lambda: MultipleChoice("a", success_text=None), "success_text must be a string"),
    (lambda: MultipleChoice("a", failure_text=5), "failure_text must be a string"),
    (lambda: Match(None), "Match needs the expected text"),
    (lambda: Match(42), "Match needs the expected text"),
    (lambda: Match("a", success_text=5), "success_text must be a string"),
    (lambda: Match("a", failure_text=None), "failure_text must be a string"),
]


def test_right_answers_are_right_and_accepted():
    for problem, answer in RIGHT:
        problem.check(answer)
        assert problem.is_right(answer), (problem, answer)


def test_wrong_answers_are_wrong_but_accepted():
    for problem, answer in WRONG:
        problem.check(answer)
        assert not problem.is_right(answer), (problem, answer)


def test_answers_of_a_wrong_type_are_refused():
    for problem, answer, says in REFUSED:
        with pytest.raises(InvalidInput, match=says):
            problem.check(answer)


def test_problems_that_make_no_sense_are_refused():
    for make, says in BAD_PROBLEMS:
        with pytest.raises(InvalidTask, match=says):
            make()


def test_a_choice_does_not_change_with_the_list_that_it_was_made_of():
    correct, choices = ["a"], {"a": "Yes", "b": "No"}
    problem = MultipleChoice(correct, choices)

    correct.append("b")
    choices.clear()

    assert problem.is_right("a")
    assert problem.choices == {"a": "Yes", "b": "No"}


def test_code_takes_text_only_and_a_file_takes_bytes_or_text():
    assert Code("a.py").content("é") == b"\xc3\xa9"
    assert File("a").content(b"\0\xff") == b"\0\xff"
    assert File("a").content(bytearray(b"x")) == b"x"
    assert File("a").content("x") == b"x"
    for problem, answer, says in [
        (Code("a"), b"x", "takes a string, not bytes"),
        (Code("a"), None, "takes a string, not NoneType"),
        (Code("a"), "\ud800", "lone surrogate"),
        (File("a"), 5, "takes bytes, not int"),
        (File("a"), ["x"], "takes bytes, not list"),
        (File("a"), "\ud800", "lone surrogate"),
    ]:
        with pytest.raises(InvalidInput, match=says):
            problem.content(answer)


def test_a_files_name_is_kept_in_its_shortest_form():
    assert Code("./src//a.py").filename == "src/a.py"
    assert File("a/").filename == "a"
