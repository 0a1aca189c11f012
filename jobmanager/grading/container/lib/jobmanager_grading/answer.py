"""The grader's answer, ``.jobmanager/result.json``: written as a whole each time, so that no reader gets half of one."""

import fcntl
import json
import os

from . import place
from .errors import BadValue, GradingError
from .text import cleaned

RESULTS = ("success", "failed", "timeout", "overflow", "crash", "error")
LARGEST_KIB = 1024
_AUTO_TAG = "*auto-tag-"
_SHOWN = 60  # characters kept of an unknown result


def set_result(result: "str", problem: "str | None" = None) -> "None":
    """The result of the task, or of one problem: one of ``RESULTS``.

    An unknown result of the task replaces an earlier one, too, so that a grader that goes on leaves no success behind.
    """
    if result not in RESULTS:
        if not problem:
            _change(lambda answer: answer.update(result=cleaned(str(result))[:_SHOWN]))
        raise BadValue("a result is one of {}, not {!r}".format(", ".join(RESULTS), result))
    _change(lambda answer: _part(answer, problem).update(result=result))


def set_grade(grade: "float | str") -> "None":
    """The grade, a number. Below 0 it counts as 0 later, above 200 as 200."""
    try:
        number = float(grade)
    except (TypeError, ValueError):
        raise BadValue(f"a grade is a number, not {grade!r}") from None
    if number != number or number in (float("inf"), -float("inf")):
        raise BadValue(f"a grade is a finite number, not {grade!r}")
    _change(lambda answer: answer.update(grade=number))


def set_feedback(text: "str", problem: "str | None" = None, append: "bool" = False) -> "None":
    """The feedback on the task, or on one problem, for the submitter."""
    if not isinstance(text, str):
        raise BadValue(f"feedback is a text, not {text!r}")

    def change(answer: "dict[str, object]") -> "None":
        part = _part(answer, problem)
        part["text"] = (str(part.get("text", "")) if append else "") + cleaned(text)

    _change(change)


def set_test(name: "str", value: "object") -> "None":
    """The outcome of a test; any value that JSON can hold."""
    _set_in("tests", name, value)


def add_tag(text: "object") -> "None":
    """A tag that the task did not announce."""
    _set_in("tests", _AUTO_TAG + str(text), str(text))


def set_tag(name: "str", value: "object") -> "None":
    """Whether a tag that the task announced holds. A name that `add_tag` would make is ignored."""
    if not name.startswith(_AUTO_TAG):
        _set_in("tests", name, value == True)  # noqa: E712 - any value may come, and 1 is true


def set_custom(key: "str", value: "object") -> "None":
    """A value for the caller; any that JSON can hold."""
    _set_in("custom", key, value)


def set_state(state: "str") -> "None":
    """The text that the next job of this submitter finds as ``@state``."""
    if not isinstance(state, str):
        raise BadValue(f"a state is a text, not {state!r}")
    _change(lambda answer: answer.update(state=cleaned(state)))


def get_answer() -> "dict[str, object]":
    """The answer so far."""
    with _Lock():
        return _read()


def set_answer(answer: "dict[str, object]") -> "None":
    """The whole answer at once."""
    with _Lock():
        _write(dict(answer))


def _set_in(field: "str", key: "str", value: "object") -> "None":
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"JSON cannot hold this value of {key!r}: {error}") from None

    def change(answer: "dict[str, object]") -> "None":
        values = answer.setdefault(field, {})
        values[cleaned(str(key))] = cleaned(value) if isinstance(value, str) else value  # type: ignore[index]

    _change(change)


def _part(answer: "dict[str, object]", problem: "str | None") -> "dict[str, object]":
    """The object that holds ``result`` and ``text``: the answer itself, or one problem's."""
    if not problem:
        return answer
    problems = answer.setdefault("problems", {})
    return problems.setdefault(cleaned(problem), {})  # type: ignore[attr-defined, no-any-return]


def _change(change: "Callable[[dict[str, object]], None]") -> "None":
    with _Lock():
        answer = _read()
        try:
            change(answer)
        except (AttributeError, TypeError):
            raise GradingError("result.json does not hold an answer; did another program write it?") from None
        _write(answer)


def _read() -> "dict[str, object]":
    try:
        with open(place.ANSWER, "rb") as file:
            answer = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise GradingError(f"result.json cannot be read: {error}") from None
    if not isinstance(answer, dict):
        raise GradingError("result.json cannot be read: it is no object")
    return answer


def _write(answer: "dict[str, object]") -> "None":
    data = json.dumps(answer, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    if len(data) > LARGEST_KIB * 1024:
        raise BadValue(
            f"the answer would have {len(data) // 1024 + 1} KiB, and {LARGEST_KIB} is the most:"
            " shorten the feedback, or archive it as a file"
        )
    new = place.ANSWER + ".new"
    try:
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, place.ANSWER)
    except OSError as error:
        _remove(new)  # space is scarce
        raise GradingError(f"the answer cannot be written, and stays as it was: {error}") from None


def _remove(path: "str") -> "None":
    try:
        os.remove(path)
    except OSError:
        pass


class _Lock:
    """Held while the answer is changed, as several commands may run at the same time."""

    def __enter__(self) -> "None":
        self._file = os.open(place.ANSWER + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: "object") -> "None":
        os.close(self._file)


TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module would take longer to import than all of this
    from collections.abc import Callable
