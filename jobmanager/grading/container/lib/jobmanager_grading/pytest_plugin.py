"""The pytest plugin of graders: the fixtures ``submission`` and ``credit``, the marks, and the score of each test."""

import pytest

from .errors import BadValue, GradingError, SubmissionError
from .scores import LONGEST_REPORT, Score, call_limits, is_of_the_course, shorten
from .submitted_code import SubmittedCode

_MARKS = (
    "points(n): what the test is worth; 1 by default",
    "visible: the submitter sees the test's name, how it ended and why it failed",
    "hidden: the submitter sees none of it, which is so by default",
    "message(text): what the submitter is told if the test fails and is visible",
    "group(name): the tests of a group get their points if all of them pass",
    "limits(cpu_time_s=None, wall_time_s=None): of a call of the submission",
)


class GradingPlugin:
    """One run of pytest.

    Args:
        processes: where the submission's processes come from (`SubmissionProcesses`).
        scores: gets a score for each test.
        cpu_time_s, wall_time_s: of a call, unless a mark says otherwise.
    """

    def __init__(
        self, processes: "SubmissionProcesses", scores: "Scores", cpu_time_s: "float", wall_time_s: "float | None"
    ) -> "None":
        self._processes = processes
        self._scores = scores
        self._cpu_time_s = cpu_time_s
        self._wall_time_s = wall_time_s
        self.broken = ""  # why no grade can be given, though pytest came to its end

    def pytest_configure(self, config: "pytest.Config") -> "None":
        for mark in _MARKS:
            config.addinivalue_line("markers", mark)

    def pytest_collection_modifyitems(self, items: "list[pytest.Item]") -> "None":
        for item in items:
            try:
                self._scores.by_key[item.nodeid] = _score(item)
                self._limits(item)
            except (BadValue, TypeError) as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from None

    @pytest.fixture
    def submission(self, request: "pytest.FixtureRequest") -> "Iterator[SubmittedCode]":
        """The submission, in a process of its own."""
        cpu_time_s, wall_time_s = self._limits(request.node)
        yield SubmittedCode(self._processes, cpu_time_s, wall_time_s)
        self._processes.end_test()

    @pytest.fixture
    def credit(self, request: "pytest.FixtureRequest") -> "Callable[[float], None]":
        """``credit(points)``: partial credit, the points that this test has so far."""
        return self._scores.by_key[request.node.nodeid].set_credit

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: "pytest.Item", call: "pytest.CallInfo[None]") -> "Generator[None, Any, None]":
        shorten(call.excinfo.value if call.excinfo is not None else None)
        outcome = yield
        report = outcome.get_result()
        score = self._scores.by_key[item.nodeid]
        error = call.excinfo.value if call.excinfo is not None else None
        if is_of_the_course(error) or isinstance(error, pytest.FixtureLookupError):
            self.broken = self.broken or f"{item.nodeid}: {type(error).__name__}: {error}"
        if isinstance(error, SubmissionError):
            report.sections.append(("Traceback in the submission", error.traceback))
        shown = str(report.longrepr) if report.failed else ""
        if len(shown) > LONGEST_REPORT:  # it may hold what the submission has answered
            report.longrepr = shown[:LONGEST_REPORT] + "\n[cut]"
        if report.failed:
            score.fail(error, _reason(call, error))
        elif report.skipped and not score.status:
            score.status = "skipped"
        elif report.when == "call" and not score.status:
            score.status = "passed"

    def _limits(self, item: "pytest.Item") -> "tuple[float, float]":
        mark = item.get_closest_marker("limits")
        return call_limits(self._cpu_time_s, self._wall_time_s, **(mark.kwargs if mark is not None else {}))


def _score(item: "pytest.Item") -> "Score":
    shown = next((mark.name for mark in item.iter_markers() if mark.name in ("visible", "hidden")), "hidden")
    return Score(
        item.nodeid,
        points=_argument(item, "points", 1),  # type: ignore[arg-type]
        is_visible=shown == "visible",
        message=str(_argument(item, "message", "")),
        group=str(_argument(item, "group", "")),
    )


def _argument(item: "pytest.Item", name: "str", default: "object") -> "object":
    """The one argument of the closest mark of this name."""
    mark = item.get_closest_marker(name)
    if mark is None:
        return default
    if len(mark.args) != 1 or mark.kwargs:
        raise BadValue(f"the mark {name} takes one argument")
    return mark.args[0]


def _reason(call: "pytest.CallInfo[None]", error: "BaseException | None") -> "str":
    """For the submitter: of what pytest says about an assertion, the first line without its word for it."""
    if isinstance(error, AssertionError) and call.excinfo is not None:
        first = call.excinfo.exconly(tryshort=True).partition("\n")[0]
        return first[len("AssertionError: ") :] if first.startswith("AssertionError: ") else first
    return str(error) if isinstance(error, GradingError) else f"{type(error).__name__}: {error}"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from .scores import Scores
    from .submitted_code import SubmissionProcesses
