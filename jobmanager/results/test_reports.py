"""Test reports from a container: files in JUnit XML or in a JSON form of ours become the tests of a result. They may be hostile.

::

    {"tests": [{"name": "...", "passed": true | false, "points": 2, "max_points": 3, "output": "...",
                "diff": {"expected": "...", "actual": "..."}}, ...]}

``name`` and ``passed`` must be there. One wrong field makes the whole file unreadable, as in ``result.json``.
"""

from __future__ import annotations

import codecs
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from jobmanager.model._escapes import escape_lines, one_line
from jobmanager.model.result import CaseReport
from jobmanager.results.junit_xml import ReportError, parse_junit_xml
from jobmanager.results.result_file import ResultFileError, load_json

MAX_FILES = 200
MAX_TESTS = 5000
FILE_LIMIT = 4 * 1024 * 1024  # bytes
ALL_FILES_LIMIT = 16 * 1024 * 1024  # bytes
TEXT_LIMIT = 64 * 1024  # characters of an output, of what was expected, of what came
ALL_TEXTS_LIMIT = 1024 * 1024  # characters of these, in all tests
NAME_LIMIT = 300  # characters
CUT = "[cut here]"

_SHOWN = 60  # characters of a name that a message repeats
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_REQUIRED = {"name", "passed"}
_FIELDS = {*_REQUIRED, "points", "max_points", "output", "diff"}


def parsed_tests(files: Mapping[str, bytes]) -> tuple[dict[str, CaseReport], tuple[str, ...]]:
    """Read test reports: the tests by name, and what is wrong with the files, for people. Never raises.

    A file that cannot be read whole gives no test, and one problem. Files are read in the order of their names. A test whose
    name is taken gets the next free number: ``name (2)``.

    Args:
        files: what each file holds, by the name that it came under.
    """
    tests = _Tests()
    names = sorted(files)
    room = ALL_FILES_LIMIT
    for name in names[:MAX_FILES]:
        data = files[name]
        try:
            tests.add(*_parse(data, room))
        except ReportError as error:
            tests.problems.append(f"{_shown(name)}: {error}")
        room -= min(len(data), FILE_LIMIT)
    if len(names) > MAX_FILES:
        tests.problems.append(f"{len(names) - MAX_FILES} files were not read: {MAX_FILES} are the most")
    return tests.by_name, tuple(tests.problems)


def _parse(data: bytes, room: int) -> tuple[list[CaseReport], int]:
    """The first tests of one file, and how many it has. What it begins with tells its form, as its name may say anything."""
    if len(data) > FILE_LIMIT:
        raise ReportError(f"it is larger than {FILE_LIMIT // 1024**2} MiB")
    if len(data) > room:
        raise ReportError(f"it was not read: the files are larger than {ALL_FILES_LIMIT // 1024**2} MiB in all")
    text = data.removeprefix(codecs.BOM_UTF8)
    first = text.lstrip()[:1]
    if first == b"<" or data.startswith(_UTF16):
        return parse_junit_xml(data, MAX_TESTS)
    if first in (b"{", b"["):
        tests = _parse_json(text)
        return tests, len(tests)
    raise ReportError("it is neither JUnit XML nor JSON" if first else "it is empty")


class _Tests:
    """The tests of all files, within the bounds of a result."""

    def __init__(self) -> None:
        self.by_name: dict[str, CaseReport] = {}
        self.problems: list[str] = []
        self._numbers: defaultdict[str, int] = defaultdict(lambda: 1)  # the last number that a name got
        self._room = ALL_TEXTS_LIMIT

    def add(self, tests: list[CaseReport], count: int) -> None:
        fitting = MAX_TESTS - len(self.by_name)
        for test in tests[:fitting]:
            name = one_line(_shortened(test["name"], NAME_LIMIT))
            self.by_name[self._free(name)] = self._bounded(test, name)
        if count > fitting:
            raise ReportError(f"{count - fitting} of its {count} tests do not count: {MAX_TESTS} are the most")

    def _free(self, name: str) -> str:
        key = name
        while key in self.by_name:
            self._numbers[name] += 1
            key = f"{name} ({self._numbers[name]})"
        return key

    def _bounded(self, test: CaseReport, name: str) -> CaseReport:
        expected, actual = test["expected"], test["actual"]
        return {
            **test,
            "name": name,
            "expected": None if expected is None else self._text(expected),
            "actual": None if actual is None else self._text(actual),
            "output": self._text(test["output"]),
        }

    def _text(self, text: str) -> str:
        limit = min(TEXT_LIMIT, self._room)
        escaped = escape_lines(text[:limit].replace("\r\n", "\n"))
        kept = escaped[:limit]
        self._room -= len(kept)
        return f"{kept}\n{CUT}" if max(len(text), len(escaped)) > limit else kept


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _parse_json(data: bytes) -> list[CaseReport]:
    try:
        document = load_json(data)
    except ResultFileError as error:
        raise ReportError(str(error)) from None
    if not isinstance(document, dict) or set(document) != {"tests"} or not isinstance(document["tests"], list):
        raise ReportError('it is no object with the one field "tests", a list')
    entries = document["tests"]
    if len(entries) > MAX_TESTS:
        raise ReportError(f"it has {len(entries)} tests: {MAX_TESTS} are the most")
    tests = [_entry(f"test {number}", entry) for number, entry in enumerate(entries, 1)]
    _check_names(test["name"] for test in tests)
    return tests


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if name in seen:
            raise ReportError(f"test {number} has the name of an earlier one: {_shown(name)}")
        seen.add(name)


def _entry(label: str, entry: object) -> CaseReport:
    if not isinstance(entry, dict):
        raise ReportError(f"{label} is no object")
    _check_fields(label, entry, _FIELDS, _REQUIRED)
    name = _text(f"the name of {label}", entry["name"])
    if not 0 < len(name) <= NAME_LIMIT:
        raise ReportError(f"the name of {label} has {len(name)} characters: 1 to {NAME_LIMIT} are allowed")
    label = f"{label}, {_shown(name)}"
    passed = entry["passed"]
    if not isinstance(passed, bool):
        raise ReportError(f"passed of {label} is neither true nor false")
    expected, actual = _difference(label, entry["diff"]) if "diff" in entry else (None, None)
    return CaseReport(
        name=name,
        passed=passed,
        status="passed" if passed else "failed",
        points=_number(f"points of {label}", entry["points"]) if "points" in entry else None,
        max_points=_number(f"max_points of {label}", entry["max_points"]) if "max_points" in entry else None,
        output=_text(f"output of {label}", entry.get("output", "")),
        expected=expected,
        actual=actual,
        time_s=None,
    )


def _difference(label: str, value: object) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise ReportError(f"diff of {label} is no object")
    _check_fields(f"diff of {label}", value, {"expected", "actual"}, {"expected", "actual"})
    return _text(f"expected of {label}", value["expected"]), _text(f"actual of {label}", value["actual"])


def _check_fields(label: str, entry: Mapping[str, object], known: set[str], required: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ReportError(f"{label} has fields that mean nothing here: {', '.join(_shown(name) for name in unknown[:5])}")
    missing = sorted(required - set(entry))
    if missing:
        raise ReportError(f"{label} has no {' and no '.join(missing)}")


def _text(label: str, value: object) -> str:
    if not isinstance(value, str):
        raise ReportError(f"{label} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ReportError(f"{label} holds a lone surrogate") from None
    return value


def _number(label: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ReportError(f"{label} is no number")
    if not math.isfinite(value):
        raise ReportError(f"{label} is not finite")
    return float(value)


def _shown(name: str) -> str:
    return f"'{one_line(_shortened(name, _SHOWN))}'"
