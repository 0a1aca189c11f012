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
    (MultipleChoice(["a", "b"], multiple=False), "b"),
    (MultipleChoice(["a", "b"], multiple=False), ["a"]),
    (MultipleChoice("a", feedback={"b": "No."}), "a"),
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
    (MultipleChoice(["a", "b"], multiple=False), "c"),
    (MultipleChoice(["a", "b"], multiple=False), []),
    (MultipleChoice(["a", "b"], multiple=False), None),
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
    (MultipleChoice("a"), {"a": "b"}, "a key or a collection of keys, not dict"),
    (MultipleChoice("a", ["a", "b"]), "c", "no such choice: c; there are a, b"),
    (MultipleChoice(1, [1, 2]), [1, 3], "no such choice: 3; there are 1, 2"),
    (MultipleChoice(1, range(1000)), "x" * 10**6, f"no such choice: {'x' * 80}; there are 0, 1, 2, 3, 4, ...$"),
    (MultipleChoice(["a", "b"], multiple=False), ["a", "b"], "takes one choice, not 2"),
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
    (lambda: MultipleChoice("a", feedback="b"), "feedback must map keys"),
    (lambda: MultipleChoice("a", feedback={"a": 5}), "feedback of 'a' must be a string"),
    (lambda: MultipleChoice("a", ["a"], feedback={"b": "x"}), r"feedback \['b'\] is not among the choices"),
    (lambda: MultipleChoice("a", multiple="no"), "multiple must be True or False, not 'no'"),
    (lambda: Match(None), "Match needs the expected text"),
    (lambda: Match(42), "Match needs the expected text"),
    (lambda: Match("a", success_text=5), "success_text must be a string"),
    (lambda: Match("a", failure_text=None), "failure_text must be a string"),
    (lambda: Code("../a"), "without '..'"),
    (lambda: Code(single_line=1), "single_line must be True or False, not 1"),
    (lambda: File(optional="yes"), "optional must be True or False"),
    (lambda: File(extensions=".py"), "extensions must be a collection"),
    (lambda: File(extensions=[5]), "an extension must be a string"),
    (lambda: File(extensions=[""]), "an extension is empty"),
    (lambda: File(max_bytes=0), "max_bytes must be a whole number above zero"),
    (lambda: File(max_bytes=1.5), "max_bytes must be a whole number above zero"),
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


def test_what_was_chosen_is_told_its_feedback_after_the_verdict():
    one = MultipleChoice(1, ["0", "1", "2"], success_text="Right.", feedback={"0": "Too small.", 2: "Too large."}, multiple=False)
    several = MultipleChoice([0, 1], feedback={"1": "Yes.", "2": "No."}, failure_text="")

    assert [one.feedback_text(answer) for answer in (1, "0", "2", None)] == [
        "Right.", "Wrong answer.\nToo small.", "Wrong answer.\nToo large.", "Wrong answer."]  # fmt: skip
    assert [several.feedback_text(answer) for answer in ([0, 1], ["2", "1"], [0])] == ["Yes.", "Yes.\nNo.", ""]
    assert Match("a", success_text="Right.").feedback_text(" a ") == "Right."
    assert Match("a").feedback_text("b") == "Wrong answer."


def test_a_single_line_of_code_is_one_line():
    problem = Code(single_line=True)

    assert problem.content("x = 1; y = 2") == b"x = 1; y = 2"
    for answer in ("x = 1\ny = 2", "x = 1\n", "\r"):
        with pytest.raises(InvalidInput, match="takes one line"):
            problem.content(answer)


ANY, SOURCE = File(), File("upload", extensions=[".PY", ".tar.gz"], max_bytes=4)


def test_a_file_may_come_with_its_own_name():
    assert ANY.content({"filename": "a b.txt", "value": b"\0"}) == b"\0"
    assert ANY.own_name({"filename": "a b.txt", "value": b"\0"}) == "a b.txt"
    assert ANY.own_name(b"x") is None
    assert SOURCE.content({"filename": "Main.Py", "value": "1234"}) == b"1234"
    assert SOURCE.content({"filename": "x.tar.gz", "value": b""}) == b""


@pytest.mark.parametrize(
    ("problem", "answer", "says"),
    [
        (SOURCE, {"filename": "a.py", "value": "12345"}, "the file has 5 bytes, more than 4"),
        (SOURCE, {"filename": "a.py", "value": "ééé"}, "the file has 6 bytes, more than 4"),
        (SOURCE, {"filename": "a.sh", "value": ""}, r"must end in \.py, \.tar\.gz: 'a\.sh' does not"),
        (SOURCE, {"filename": "py", "value": ""}, "'py' does not"),
        (SOURCE, b"", r"give \{'filename': \.\.\., 'value': \.\.\.\}"),
        (ANY, {"filename": "a"}, "has a 'filename' and a 'value', not 'filename'"),
        (ANY, {"value": b"", "filename": "a", "mode": "w"}, "has a 'filename' and a 'value'"),
        (ANY, {"filename": "a", "value": 5}, "takes bytes, not int"),
        (ANY, {"filename": "a", "value": None}, "takes bytes, not NoneType"),
        (ANY, {"filename": "a", "value": "\ud800"}, "lone surrogate"),
        (ANY, {"filename": None, "value": b""}, "must be a plain one"),
        (ANY, {"filename": "../a", "value": b""}, "without folders: '../a'"),
        (ANY, {"filename": "..", "value": b""}, "must be a plain one"),
        (ANY, {"filename": "", "value": b""}, "must be a plain one"),
        (ANY, {"filename": "a\0b", "value": b""}, "must be a plain one"),
        (ANY, {"filename": "a\nb", "value": b""}, "must be a plain one"),
        (ANY, {"filename": "\ud800", "value": b""}, "must be a plain one"),
        (ANY, {"filename": "é" * 128, "value": b""}, "at most 255 bytes"),
    ],
)
def test_a_file_that_is_too_large_of_another_kind_or_named_to_lead_elsewhere_is_refused(problem, answer, says):
    with pytest.raises(InvalidInput, match=says):
        problem.content(answer)
