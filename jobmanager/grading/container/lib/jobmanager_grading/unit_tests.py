"""Hidden tests with ``unittest``: a class for test cases that have the submission, and what are marks of pytest as decorators.

>>> from jobmanager_grading.unit_tests import SubmissionTest, points, visible
>>> class Median(SubmissionTest):
...     @points(3)
...     @visible
...     def test_of_three(self):
...         self.assertEqual(self.submission.call("median", [3, 1, 2]), 2)
"""

import importlib.util
import os
import sys
import unittest

from .errors import GradingError, SubmissionError
from .scores import LONGEST_REPORT, NoGrade, Score, call_limits, checked_points, is_of_the_course, shorten
from .submitted_code import SubmittedCode

_MARKS = "_jobmanager_marks"


class SubmissionTest(unittest.TestCase):
    """A test case with the submission.

    Attributes:
        submission: the `SubmittedCode`, in a process of its own.
    """

    submission = None  # type: SubmittedCode  # type: ignore[assignment]
    _score = None  # type: Score  # type: ignore[assignment]

    def credit(self, points: "float") -> "None":
        """Partial credit: the points that this test has so far. The last call counts, also if the test fails afterwards."""
        self._score.set_credit(points)


def points(number: "float") -> "Callable[[_T], _T]":
    """What the test is worth; 1 by default. This and all the others are for a method, or for a class and all its methods."""
    return _marked("points", checked_points(number))


def visible(test: "_T") -> "_T":
    """The submitter sees the test's name, how it ended and why it failed."""
    return _marked("is_visible", True)(test)


def hidden(test: "_T") -> "_T":
    """The submitter sees none of it, which is so by default."""
    return _marked("is_visible", False)(test)


def message(text: "str") -> "Callable[[_T], _T]":
    """What the submitter is told if the test fails and is visible."""
    return _marked("message", str(text))


def group(name: "str") -> "Callable[[_T], _T]":
    """The tests of a group get their points if all of them pass."""
    return _marked("group", str(name))


def limits(cpu_time_s: "float | None" = None, wall_time_s: "float | None" = None) -> "Callable[[_T], _T]":
    """Of a call of the submission."""
    given = {"cpu_time_s": cpu_time_s, "wall_time_s": wall_time_s}
    call_limits(1, None, **given)
    return _marked("limits", given)


def run(files: "list[str]", processes: "SubmissionProcesses", scores: "Scores", cpu_s: "float", wall_s: "float | None") -> "None":
    """Run the tests of these files.

    Raises:
        NoGrade: a file cannot be imported, or there was no student container.
    """
    suite = unittest.TestSuite(unittest.TestLoader().loadTestsFromModule(_imported(file)) for file in files)
    tests = list(_tests_of(suite))
    for test in tests:
        score = Score(test.id(), **_marks_of(test, ("points", "is_visible", "message", "group")))
        if scores.by_key.setdefault(test.id(), score) is not score:
            raise NoGrade(f"two tests have the name {test.id()}")

    def result(*args: "Any", **named: "Any") -> "_ScoredResult":
        made = _ScoredResult(*args, **named)
        made.processes, made.scores, made.defaults = processes, scores, (cpu_s, wall_s)
        return made

    made = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=result).run(suite)
    if made.broken:  # type: ignore[attr-defined]
        raise NoGrade(made.broken)  # type: ignore[attr-defined]


class _ScoredResult(unittest.TextTestResult):
    """What became of each test."""

    processes = None  # type: SubmissionProcesses  # type: ignore[assignment]
    scores = None  # type: Scores  # type: ignore[assignment]
    defaults = (0.0, None)  # type: tuple[float, float | None]
    broken = ""

    def startTest(self, test: "unittest.TestCase") -> "None":
        super().startTest(test)
        if isinstance(test, SubmissionTest):
            given = _marks_of(test, ("limits",)).get("limits", {})
            test.submission = SubmittedCode(self.processes, *call_limits(*self.defaults, **given))
            test._score = self.scores.by_key[test.id()]

    def stopTest(self, test: "unittest.TestCase") -> "None":
        self.processes.end_test()
        super().stopTest(test)

    def addSuccess(self, test: "unittest.TestCase") -> "None":
        super().addSuccess(test)
        self.scores.by_key[test.id()].status = "passed"

    def addFailure(self, test: "unittest.TestCase", err: "tuple[Any, ...]") -> "None":
        shorten(err[1])
        super().addFailure(test, err)
        self._fail(test, err[1])

    def addError(self, test: "unittest.TestCase", err: "tuple[Any, ...]") -> "None":
        shorten(err[1])
        super().addError(test, err)
        self._fail(test, err[1])

    def addSubTest(self, test: "unittest.TestCase", subtest: "unittest.TestCase", err: "tuple[Any, ...] | None") -> "None":
        shorten(err[1] if err is not None else None)
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._fail(test, err[1])

    def addUnexpectedSuccess(self, test: "unittest.TestCase") -> "None":
        super().addUnexpectedSuccess(test)
        self._fail(test, AssertionError("it was expected to fail"))

    def addExpectedFailure(self, test: "unittest.TestCase", err: "tuple[Any, ...]") -> "None":
        super().addExpectedFailure(test, err)
        self.scores.by_key[test.id()].status = "skipped"

    def addSkip(self, test: "unittest.TestCase", reason: "str") -> "None":
        super().addSkip(test, reason)
        if test.id() in self.scores.by_key:
            self.scores.by_key[test.id()].status = "skipped"

    def _fail(self, test: "unittest.TestCase", error: "BaseException") -> "None":
        for reports in (self.failures, self.errors):  # they hold what the submission has answered
            reports[-1:] = [(of, report[:LONGEST_REPORT]) for of, report in reports[-1:]]
        if is_of_the_course(error):
            self.broken = self.broken or f"{test.id()}: {type(error).__name__}: {error}"
        if isinstance(error, SubmissionError):
            self.stream.writeln(error.traceback)
        if test.id() in self.scores.by_key:  # else it is a class's or a module's, whose tests do not run
            told = isinstance(error, (AssertionError, GradingError))
            self.scores.by_key[test.id()].fail(error, str(error) if told else f"{type(error).__name__}: {error}")


def _marked(name: "str", value: "object") -> "Callable[[_T], _T]":
    def mark(test: "_T") -> "_T":
        setattr(test, _MARKS, dict(vars(test).get(_MARKS, {}), **{name: value}))
        return test

    return mark


def _marks_of(test: "unittest.TestCase", names: "Iterable[str]") -> "dict[str, Any]":
    """Its method's marks, and for those that it does not have, its class's."""
    method = getattr(type(test), test._testMethodName, None)
    found = {}  # type: dict[str, Any]
    for holder in reversed([method, *type(test).__mro__]):
        found.update(getattr(holder, "__dict__", {}).get(_MARKS, {}))
    return {name: found[name] for name in names if name in found}


def _imported(file: "str") -> "ModuleType":
    name = os.path.splitext(os.path.basename(file))[0]
    if os.path.dirname(file) not in sys.path:
        sys.path.append(os.path.dirname(file))  # behind Python's own modules
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "it is a file of Python"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tests_of(suite: "unittest.TestSuite") -> "Iterator[unittest.TestCase]":
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from _tests_of(each)
        else:
            yield each


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Any, TypeVar

    from .scores import Scores
    from .submitted_code import SubmissionProcesses

    _T = TypeVar("_T")
