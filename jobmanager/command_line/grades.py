"""What came of submissions, for people and for machines: a table, JSON, CSV and JUnit XML. All texts may be hostile."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from jobmanager.command_line.printing import heading, outcome_text, plain, text
from jobmanager.model._escapes import escape_lines
from jobmanager.model.result import JobResult, Outcome

_WORDS = {True: "passed", False: "failed"}
_STYLES = {"passed": "green", "failed": "red", "skipped": "yellow"}
REFUSED = "refused"  # stands where graded submissions have an outcome
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins so
_MAX_SHOWN = 300  # characters of a text in the table
_MAX_ERROR = 2000  # characters of a program's standard error
_MAX_LINES = 40  # tests of a submission in the table
_OF_THE_SUBMISSION = (Outcome.FAILED, Outcome.TIMEOUT, Outcome.OVERFLOW)  # in JUnit XML failures; all else are errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What came of one submission: a result, or why it could not be graded."""

    name: str
    result: JobResult | None = None
    refusal: str = ""

    @property
    def word(self) -> str:
        """Its outcome, or ``refused``."""
        return REFUSED if self.result is None else self.result.outcome.value

    @property
    def is_success(self) -> bool:
        """Whether it is right."""
        return self.result is not None and self.result.outcome is Outcome.SUCCESS

    @property
    def said(self) -> str:
        """The feedback, or why it ended so."""
        return self.refusal if self.result is None else self.result.text

    @property
    def standard_error(self) -> str:
        """The end of what the program that decided printed there: the build, the first case that failed, the grader; for staff."""
        if self.result is None or self.is_success:
            return ""
        return _end_of(self.result.stderr_text.strip(), _MAX_ERROR)


def _end_of(said: str, most: int) -> str:
    return said if len(said) <= most else f"... {said[-most:]}"


class _Test(NamedTuple):
    """A test of a submission: a grader's, one of a test report, or a case."""

    name: str
    word: str  # "passed", "failed", "skipped"; empty: the grader did not say it
    said: str


def _tests(result: JobResult | None) -> Iterator[_Test]:
    if result is None:
        return
    cases = {case.name for case in result.cases}  # they are among the tests, too, as true or false
    for name, value in result.tests.items():
        if name in cases:
            continue
        if isinstance(value, Mapping) and value.get("status") == "skipped":
            yield _Test(name, "skipped", "")
        elif isinstance(value, Mapping) and isinstance(value.get("passed"), bool):
            yield _Test(name, _WORDS[value["passed"]], str(value.get("output") or ""))
        elif isinstance(value, bool):
            yield _Test(name, _WORDS[value], "")
        else:
            yield _Test(name, "", _json(value))
    for case in result.cases:
        word = "skipped" if case.outcome is None else _WORDS[case.outcome is Outcome.SUCCESS]
        yield _Test(case.name, word, case.text)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# ---- a table


def grades_table(title: str, grades: Sequence[Grade]) -> RenderableType:
    """All of them, and how many have which outcome."""
    folded = [Column(name, overflow="fold") for name in ("problems", "tests", "text")]
    table = Table(Column("submission", overflow="fold"), "outcome", Column("grade", justify="right"), *folded, box=SIMPLE_HEAD)
    for each in grades:
        table.add_row(text(each.name), _word(each), _points(each), _problem_lines(each), _test_lines(each), _said(each))
    counts = Counter(each.word for each in grades)
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    is_fine = all(each.is_success for each in grades)
    several = "s" if len(grades) > 1 else ""
    return Group(heading(title), table, Text(f"{len(grades)} submission{several}: {summary}", "green" if is_fine else "yellow"))


def _word(grade: Grade) -> Text:
    return Text(REFUSED, "bold red") if grade.result is None else outcome_text(grade.result.outcome)


def _points(grade: Grade) -> str:
    return "" if grade.result is None else f"{grade.result.grade:g}"


def _problem_lines(grade: Grade) -> Text:
    problems = {} if grade.result is None else grade.result.problems
    lines = [
        Text.assemble(f"{_shown(key)}: ", outcome_text(each.outcome), f" {_shown(each.text)}" if each.text else "")
        for key, each in problems.items()
    ]
    return Text("\n").join(lines)


def _test_lines(grade: Grade) -> Text:
    tests = list(_tests(grade.result))
    lines = [_test_line(each) for each in tests[:_MAX_LINES]]
    if len(tests) > _MAX_LINES:
        lines.append(Text(f"and {len(tests) - _MAX_LINES} more", "dim"))
    return Text("\n").join(lines)


def _test_line(test: _Test) -> Text:
    said = f" {_shown(test.said)}" if test.said and test.word != "passed" else ""
    return Text.assemble(f"{_shown(test.name)}: ", (test.word, _STYLES.get(test.word, "")), said)


def _said(grade: Grade) -> Text:
    lines = [text(_shown(grade.said))] if grade.said else []
    if grade.standard_error:
        lines.append(Text(f"stderr: {plain(_end_of(grade.standard_error, _MAX_SHOWN))}", "dim"))
    return Text("\n").join(lines)


def _shown(said: str) -> str:
    return plain(said[:_MAX_SHOWN]) + (" ..." if len(said) > _MAX_SHOWN else "")


# ---- JSON


def grades_json(task: str, code: int, grades: Sequence[Grade]) -> str:
    """One document: each result is what ``JobResult.from_dict`` reads."""
    records = [
        {"submission": each.name, "refused": each.refusal or None, "result": None if each.result is None else each.result.to_dict()}
        for each in grades
    ]
    return json.dumps({"exit_code": code, "task": task, "submissions": records}, indent=2) + "\n"


# ---- CSV


def grades_csv(problems: Sequence[str], grades: Sequence[Grade]) -> str:
    """A line for each. What a spreadsheet would take for a formula begins with ``'``."""
    out = io.StringIO()
    rows = csv.writer(out)
    of_problems = [column for key in problems for column in (f"{key}: outcome", f"{key}: text")]
    figures = ["cpu_time_s", "wall_time_s", "peak_memory_mib"]
    of_tests = ["tests", "tests passed", "tests failed"]
    rows.writerow(map(_cell, ["submission", "outcome", "grade", "text", *of_problems, *of_tests, *figures, "standard error"]))
    for each in grades:
        row = [*_verdict_cells(each), *_problem_cells(each, problems), *_test_cells(each), *_figures(each, figures)]
        rows.writerow([*row, _cell(each.standard_error)])
    return out.getvalue()


def _verdict_cells(grade: Grade) -> list[str]:
    return [_cell(grade.name), grade.word, _points(grade), _cell(grade.said)]


def _problem_cells(grade: Grade, problems: Sequence[str]) -> Iterator[str]:
    found = {} if grade.result is None else grade.result.problems
    for key in problems:
        yield found[key].outcome.value if key in found else ""
        yield _cell(found[key].text) if key in found else ""


def _test_cells(grade: Grade) -> list[str]:
    tests = list(_tests(grade.result))
    failed = "\n".join(each.name for each in tests if each.word == "failed")
    return [str(len(tests)), str(sum(each.word == "passed" for each in tests)), _cell(failed)]


def _figures(grade: Grade, names: Sequence[str]) -> list[str]:
    values = [getattr(grade.result, name, None) for name in names]
    return ["" if value is None else f"{value:g}" for value in values]


def _cell(value: str) -> str:
    value = escape_lines(value)
    return f"'{value}" if value.startswith(_FORMULAS) else value


# ---- JUnit XML


def grades_junit(task: str, grades: Sequence[Grade]) -> bytes:
    """A suite for each submission: a test for its outcome, one for each problem, and its own. XML has no control characters."""
    root = ElementTree.Element("testsuites", name=escape_lines(task))
    for each in grades:
        suite = ElementTree.SubElement(root, "testsuite", name=escape_lines(each.name))
        _add_test(suite, each.name, "outcome", each.word, each.said, None if each.result is None else each.result.wall_time_s)
        for key, problem in ({} if each.result is None else each.result.problems).items():
            _add_test(suite, each.name, f"problem {key}", problem.outcome.value, problem.text)
        for test in _tests(each.result):
            _add_test(suite, each.name, f"test {test.name}", test.word or "skipped", test.said)  # a score is no verdict
        if each.standard_error:
            ElementTree.SubElement(suite, "system-err").text = escape_lines(each.standard_error)
        for count, elements in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
            suite.set(count, str(len(suite.findall(elements))))
    ElementTree.indent(root)
    return b"%s\n" % ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _add_test(
    suite: ElementTree.Element, submission: str, name: str, word: str, said: str, time_s: float | None = None
) -> None:
    test = ElementTree.SubElement(suite, "testcase", classname=escape_lines(submission), name=escape_lines(name))
    if time_s is not None:
        test.set("time", f"{time_s:.3f}")
    said = escape_lines(said)
    if word == "skipped":
        ElementTree.SubElement(test, word, {"message": said[:_MAX_SHOWN]} if said else {})
        return
    if word in (Outcome.SUCCESS.value, "passed"):
        if said:
            ElementTree.SubElement(test, "system-out").text = said
        return
    element = "failure" if word in {each.value for each in _OF_THE_SUBMISSION} else "error"
    ElementTree.SubElement(test, element, type=word, message=said[:_MAX_SHOWN] or word).text = said
