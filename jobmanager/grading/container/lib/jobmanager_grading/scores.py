"""Points: what each test is worth, what it got, and the answer that follows from all of them, set once, at the very end."""

from . import answer
from .errors import BadTest, BadValue, GradingError, SubmissionEnded, SubmissionError
from .text import cleaned

LONGEST_REPORT = 8000  # characters that are kept of what a framework tells about a test
_LONGEST_SHOWN = 300  # characters of why a test failed, for the submitter
_MOST_SHOWN = 200  # tests
_MOST_NAMED = 1000
_LONGEST_NAME = 300


class Score:
    """One test.

    Attributes:
        name: as the submitter and the caller are told it.
        points: what it is worth.
        is_visible: whether the submitter may see its name, how it ended and why it failed.
        message: what the submitter is told if it fails; empty: why it failed.
        group: the tests of a group get their points together, or none of them does.
        credit: what it was given so far, at most its points; None: nothing was said, so all or nothing.
        status: ``passed``, ``failed``, ``skipped``, or empty as long as nothing is known.
        reason: why it failed. It may hold what the test compares.
        ended: how the submission's process ended, if it failed for that; empty otherwise.
        raised: what the submission raised, if it failed for that; empty otherwise.
        limit: the limit that ended the submission's process, if it failed for that; None otherwise.
    """

    def __init__(
        self, name: "str", points: "float" = 1, is_visible: "bool" = False, message: "str" = "", group: "str" = ""
    ) -> "None":
        self.name = cleaned(name)[:_LONGEST_NAME]
        self.points = checked_points(points)
        self.is_visible = is_visible
        self.message = message
        self.group = group
        self.credit = None  # type: float | None
        self.status = ""
        self.reason = ""
        self.ended = ""
        self.raised = ""
        self.limit = None  # type: str | None

    def set_credit(self, points: "float") -> "None":
        """Partial credit: the points that it has so far. The last call counts, also if the test fails afterwards."""
        try:
            is_too_much = checked_points(points) > self.points
        except BadValue as error:
            raise BadTest(f"credit: {error}") from None
        if is_too_much:
            raise BadTest(f"credit: the test is worth {self.points:g} points, and cannot have {points:g}")
        self.credit = points

    def fail(self, error: "BaseException | None", reason: "str") -> "None":
        """It has failed; the first reason counts."""
        if self.status != "failed":
            self.status, self.reason = "failed", reason
            self.ended = str(error) if isinstance(error, SubmissionEnded) else ""
            self.raised = str(error) if isinstance(error, SubmissionError) else ""
            self.limit = error.limit if isinstance(error, SubmissionEnded) else None

    @property
    def got(self) -> "float":
        """Its points, without regard to its group."""
        if self.credit is not None:
            return self.credit
        return self.points if self.status == "passed" else 0.0


class NoGrade(Exception):
    """There can be no grade, by the tests' fault: the reason, for people of the course."""


class Scores:
    """All tests of a run, by the key that their framework knows them by."""

    def __init__(self, shows_reasons: "bool" = True) -> "None":
        """``shows_reasons``: whether the submitter may see why a visible test failed. What a test compares could hold what the
        submission has kept of a hidden one, if both have one process."""
        self._shows_reasons = shows_reasons
        self.by_key = {}  # type: dict[str, Score]

    def set_answer(self) -> "None":
        """Make the answer of the job. Nothing of it is set before.

        Raises:
            NoGrade: there are no tests, or no points.
        """
        counted = [score for score in self.by_key.values() if score.status != "skipped"]
        total = sum(score.points for score in counted)
        if not self.by_key:
            raise NoGrade("there are no tests")
        if not total:
            raise NoGrade("no test that was run is worth any points")
        got = {id(score): self._points_of(score) for score in counted}
        of_all = sum(got.values())
        everything = all(score.status == "passed" for score in counted) and of_all >= total
        result = {
            "result": "success" if everything else "failed",
            "grade": 100.0 if everything else min(100.0, 100.0 * of_all / total),
        }  # type: dict[str, object]
        text = self._text(got, of_all, total)
        try:
            answer.set_answer(dict(result, text=text, tests=self._tests(got)))
        except BadValue:  # there are many tests, with long names and messages
            answer.set_answer(dict(result, text=text.partition("\n")[0]))

    def _points_of(self, score: "Score") -> "float":
        if not score.group:
            return score.got
        others = [other for other in self.by_key.values() if other.group == score.group and other.status != "skipped"]
        return score.got if all(other.status == "passed" for other in others) else 0.0

    def _text(self, got: "dict[int, float]", of_all: "float", total: "float") -> "str":
        lines = [f"{of_all:.4g} of {total:.4g} points."]
        visible = [score for score in self.by_key.values() if score.is_visible]
        for score in visible[:_MOST_SHOWN]:
            lines += self._lines_of(score, got)
        if len(visible) > _MOST_SHOWN:
            lines.append(f"... and {len(visible) - _MOST_SHOWN} more tests")
        hidden = [score for score in self.by_key.values() if not score.is_visible and score.status != "skipped"]
        if hidden:
            passed = sum(score.status == "passed" for score in hidden)
            lines.append(f"Hidden tests: {passed} of {len(hidden)} passed.")
        return "\n\n".join(lines)

    def _lines_of(self, score: "Score", got: "dict[int, float]") -> "list[str]":
        if score.status == "skipped":
            return [f"{score.name}: skipped"]
        of_group = f", with all tests of {score.group!r}" if score.group else ""
        told = f"{score.name}: {score.status or 'failed'} ({got[id(score)]:.4g} of {score.points:.4g} points{of_group})"
        why = self._why(score)
        return [told + (f"\n{why}" if why else "")]

    def _why(self, score: "Score") -> "str":
        if score.status in ("passed", "skipped") or not score.is_visible:
            return ""
        reason = score.ended
        if self._shows_reasons:
            reason = (score.ended or score.raised) if score.message else score.reason
        return "\n".join(filter(None, [score.message, _one_line(reason)[:_LONGEST_SHOWN]]))

    def _tests(self, got: "dict[int, float]") -> "dict[str, object]":
        found = {}  # type: dict[str, object]
        for score in list(self.by_key.values())[:_MOST_NAMED]:
            status = score.status or "failed"
            found[_unused(score.name, found)] = {
                "name": score.name,
                "passed": status == "passed",
                "status": status,
                "points": got.get(id(score)),
                "max_points": score.points,
                "output": self._why(score),
                "hidden": not score.is_visible,
                "limit": score.limit,
            }
        return found


def shorten(error: "BaseException | None") -> "None":
    """Cut the texts of an exception: they may hold what the submission has answered, and a framework shows all of it."""
    texts = () if error is None else error.args
    if any(isinstance(text, str) and len(text) > LONGEST_REPORT for text in texts):
        error.args = tuple(text[:LONGEST_REPORT] if isinstance(text, str) else text for text in texts)  # type: ignore[union-attr]


def is_of_the_course(error: "BaseException | None") -> "bool":
    """Whether a test has failed for no fault of the submission's: its own code is wrong, or there was no student container."""
    if isinstance(error, (BadTest, NameError, ImportError)):
        return True
    return isinstance(error, GradingError) and not isinstance(error, (BadValue, SubmissionEnded, SubmissionError))


def checked_points(points: "object") -> "float":
    """A number of points. Raises BadValue."""
    if isinstance(points, bool) or not isinstance(points, (int, float)) or not 0 <= points < float("inf"):
        raise BadValue(f"points must be a number that is not negative, not {points!r}")
    return float(points)


def call_limits(
    default_cpu_s: "float", default_wall_s: "float | None", cpu_time_s: "float | None" = None, wall_time_s: "float | None" = None
) -> "tuple[float, float]":
    """The limits of a call: those that are given, or the defaults. Wall clock without a word: three times the CPU."""
    cpu_s = default_cpu_s if cpu_time_s is None else cpu_time_s
    wall_s = next((value for value in (wall_time_s, default_wall_s) if value is not None), 3 * cpu_s)
    for name, value in (("cpu_time_s", cpu_s), ("wall_time_s", wall_s)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise BadValue(f"{name} must be a number above zero, not {value!r}")
    return cpu_s, wall_s


def _one_line(text: "str") -> "str":
    """A text of the submission's, which could else look like lines of ours."""
    return "".join(character if character.isprintable() else " " for character in cleaned(text))


def _unused(name: "str", names: "dict[str, object]") -> "str":
    number = 2
    unused = name
    while unused in names:
        unused, number = f"{name} ({number})", number + 1
    return unused
