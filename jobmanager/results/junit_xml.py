"""Test reports in JUnit XML, as pytest, Maven Surefire, CTest and Gradle write them. They may be hostile.

Expat calls a function for each element, and no tree is built. A document type ends the parsing: no entity is expanded or fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from xml.parsers import expat

from jobmanager.model._escapes import one_line
from jobmanager.model.result import CaseReport

_SUITES = ("testsuites", "testsuite")
_MAX_DEPTH = 50
_MAX_ELEMENTS = 200_000
_SHOWN = 60  # characters of a name or value that a message repeats
_Status = Literal["passed", "failed", "error", "skipped"]
_RANKS: Mapping[_Status, int] = {"passed": 0, "skipped": 1, "failed": 2, "error": 2}
# what a child of a testcase says about it; Surefire: rerunFailure stands beside a failure, flakyFailure in a test that passed later
_STATUS_OF_CHILD: Mapping[str, _Status] = {
    "failure": "failed",
    "error": "error",
    "skipped": "skipped",
    "rerunFailure": "failed",
    "rerunError": "error",
    "flakyFailure": "passed",
    "flakyError": "passed",
}
# CTest and GoogleTest; other words, such as "run", leave it to the children
_STATUS_OF_ATTRIBUTE: Mapping[str, _Status] = {"fail": "failed", "disabled": "skipped", "notrun": "skipped"}
_WITH_TEXT = {*_STATUS_OF_CHILD, "stackTrace", "system-out", "system-err"}
_NUMBER = re.compile(r"[+-]?[0-9.]{1,40}([eE][+-]?[0-9]{1,4})?")


class ReportError(Exception):
    """The reason why a test report cannot be read."""


def parse_junit_xml(data: bytes, at_most: int) -> tuple[list[CaseReport], int]:
    """Read a JUnit XML file: its first ``at_most`` tests, and how many it has. Texts are whole and not escaped yet.

    Raises ReportError with the reason, never anything else.
    """
    reader = _JUnitReader(at_most)
    parser = expat.ParserCreate("UTF-8")  # or UTF-16, which expat sees; a declared one would be looked up among Python's codecs
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ReportError(f"it is not well-formed XML in UTF-8 or UTF-16: {error}") from None
    return reader.tests, reader.count


def _refuse_doctype(*_: object) -> None:
    raise ReportError("a document type or an entity declaration is not accepted")


@dataclass(slots=True)
class _Testcase:
    """The testcase that is being read."""

    name: str
    status: _Status
    time_s: float | None
    parts: list[str] = field(default_factory=list)  # of the output
    message: str = ""  # the attribute of the element whose text comes next
    points: dict[str, float] = field(default_factory=dict)  # by property: points, max_points

    def child(self, element: str, attributes: Mapping[str, str]) -> None:
        status = _STATUS_OF_CHILD.get(element)
        if status is None:
            return
        self.message = attributes.get("message") or attributes.get("type", "")
        if status == "passed":
            self.message = f"an earlier try failed: {self.message}"
        elif _RANKS[status] > _RANKS[self.status]:
            self.status = status

    def add(self, text: str) -> None:
        if self.message not in text:
            self.parts.append(self.message)
        self.parts.append(text)
        self.message = ""

    def set_property(self, attributes: Mapping[str, str]) -> None:
        name = attributes.get("name", "")
        if name not in ("points", "max_points"):
            return
        value = attributes.get("value", "")
        number = _number(value)
        if number is None:
            raise ReportError(f"the {name} of test {_shown(self.name)} are no number, but {_shown(value)}")
        if name in self.points:
            raise ReportError(f"the {name} of test {_shown(self.name)} are set twice")
        self.points[name] = number

    def report(self) -> CaseReport:
        return CaseReport(
            name=self.name,
            passed=self.status == "passed",
            status=self.status,
            points=self.points.get("points"),
            max_points=self.points.get("max_points"),
            output="\n".join(part.strip("\n") for part in self.parts if part.strip()),
            expected=None,
            actual=None,
            time_s=self.time_s,
        )


class _JUnitReader:
    """What expat calls. An exception in one of these ends the parsing at once."""

    def __init__(self, at_most: int) -> None:
        self.tests: list[CaseReport] = []
        self.count = 0
        self._at_most = at_most
        self._path: list[str] = []  # from the root to the element that is open
        self._elements = 0
        self._case: _Testcase | None = None
        self._pieces: list[str] = []  # of the text of the element that is open

    def start(self, element: str, attributes: Mapping[str, str]) -> None:
        self._check_size()
        parent = self._path[-1] if self._path else ""
        if not parent and element not in _SUITES:
            raise ReportError(f"its root element is {_shown(element)}, neither testsuites nor testsuite")
        self._take_text()
        self._path.append(element)
        if element == "testcase" and parent in _SUITES:
            self._start_case(attributes)
        elif self._case is not None and parent == "testcase":
            self._case.child(element, attributes)
        elif self._case is not None and element == "property" and self._path[-3:-1] == ["testcase", "properties"]:
            self._case.set_property(attributes)

    def text(self, text: str) -> None:
        if self._case is not None and self._path[-1] in _WITH_TEXT:
            self._pieces.append(text)

    def end(self, element: str) -> None:
        self._take_text()
        self._path.pop()
        if self._case is not None and element == "testcase" and self._path[-1] in _SUITES:
            if len(self.tests) < self._at_most:
                self.tests.append(self._case.report())
            self._case = None

    def _check_size(self) -> None:
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise ReportError(f"it has more than {_MAX_ELEMENTS} elements")
        if len(self._path) >= _MAX_DEPTH:
            raise ReportError("it is nested too deep")

    def _start_case(self, attributes: Mapping[str, str]) -> None:
        if self._case is not None:
            raise ReportError(f"a testcase stands in the testcase {_shown(self._case.name)}")
        self.count += 1
        name = _name(attributes) or f"test {self.count}"
        time_s = _number(attributes.get("time", "").replace(",", ""))  # Surefire writes 1,234.5
        status = _STATUS_OF_ATTRIBUTE.get(attributes.get("status", ""), "passed")
        self._case = _Testcase(name, status, None if time_s is None or time_s < 0 else time_s)

    def _take_text(self) -> None:
        if self._case is not None and self._path[-1] in _WITH_TEXT:
            self._case.add("".join(self._pieces))
        self._pieces.clear()


def _name(attributes: Mapping[str, str]) -> str:
    """``classname.name``; CTest writes the same into both."""
    group, own = attributes.get("classname", "").strip(), attributes.get("name", "").strip()
    return f"{group}.{own}" if group and own and group != own else own or group


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _shown(text: str) -> str:
    return f"'{one_line(text[:_SHOWN])}'"
