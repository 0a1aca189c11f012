"""``.jobmanager/result.json``: what a program says of itself. Checked field by field; it is as hostile as its author.

::

    {"result": "success" | "failed", "grade": 0..200, "text": "...", "tests": {...}, "custom": {...}, "state": "...",
     "problems": {"id": ["success" | "failed", "text"]} or {"id": {"result": ..., "text": ...}}}

Every field may be left out. Whatever is wrong makes the whole file unreadable. A grader's has more words for ``result``,
``timeout``, ``overflow``, ``crash`` and ``error``, and has to have one; a problem of a grader's may leave it to that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from jobmanager.engine.pid1 import RESULT_FILE_LIMIT
from jobmanager.model.result import Outcome, ProblemResult

HIGHEST_GRADE = 200.0
_LONGEST_ID = 200
_MOST_PROBLEMS = 1000
_DEEPEST = 50
_MOST_DIGITS = 300
_SHOWN = 60  # characters of a field's name that a message repeats
_FIELDS = {"result", "grade", "text", "problems", "tests", "custom", "state"}
_PROGRAMS_WORDS = (Outcome.SUCCESS, Outcome.FAILED)
_GRADERS_WORDS = (*_PROGRAMS_WORDS, Outcome.TIMEOUT, Outcome.OVERFLOW, Outcome.CRASH, Outcome.ERROR)


class ResultFileError(Exception):
    """What is wrong with a result file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A result file that could be read. None and empty: not said."""

    outcome: Outcome | None = None
    grade: float | None = None
    text: str = ""
    problems: Mapping[str, ProblemResult] = field(default_factory=dict)
    tests: Mapping[str, object] = field(default_factory=dict)
    custom: Mapping[str, object] = field(default_factory=dict)
    state: str | None = None


def parse(data: bytes, *, grader: bool = False) -> ResultFile:
    """Read a result file, or a grader's answer. Raises ResultFileError with the reason, never anything else."""
    if len(data) > RESULT_FILE_LIMIT:
        raise ResultFileError(f"it is larger than {RESULT_FILE_LIMIT // 1024} KiB")
    try:
        said = json.loads(data.decode(), parse_constant=_no_constant, parse_int=_whole, object_pairs_hook=_pairs)
    except RecursionError:
        raise ResultFileError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ResultFileError("it is not UTF-8") from None
    except ValueError as error:
        raise ResultFileError(f"it is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ResultFileError("it is no object")
    unknown = sorted(set(said) - _FIELDS)
    if unknown:
        raise ResultFileError(f"it has fields that mean nothing here: {[name[:_SHOWN] for name in unknown[:5]]}")
    _check(said, 0)
    if grader and "result" not in said:
        raise ResultFileError("the grader set no result: it has to say success or failed, or what else became of it")
    words = _GRADERS_WORDS if grader else _PROGRAMS_WORDS
    outcome = _outcome("result", said["result"], words) if "result" in said else None
    return ResultFile(
        outcome=outcome,
        grade=_grade("grade", said["grade"]) if "grade" in said else None,
        text=_text("text", said.get("text", "")),
        problems=_problems("problems", said.get("problems", {}), words, outcome if grader else None),
        tests=_object("tests", said.get("tests", {})),
        custom=_object("custom", said.get("custom", {})),
        state=_text("state", said["state"]) if "state" in said else None,
    )


def _no_constant(word: str) -> NoReturn:
    raise ResultFileError(f"{word} is no JSON")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ResultFileError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ResultFileError("it names a field twice")
    return found


def _check(value: object, depth: int) -> None:
    """No text that cannot be encoded, no number that JSON has no word for, nothing nested too deep."""
    if depth > _DEEPEST:
        raise ResultFileError("it is nested too deep")
    if isinstance(value, str):
        _text("a text", value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ResultFileError("it holds a number that is not finite")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _text("a key", key)
            _check(item, depth + 1)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ResultFileError(f"{key} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ResultFileError(f"{key} holds a lone surrogate") from None
    return value


def _outcome(key: str, value: object, words: Sequence[Outcome]) -> Outcome:
    found = next((word for word in words if word.value == value), None)
    if found is None:
        raise ResultFileError(f"{key} is neither {' nor '.join(word.value for word in words)}, but {_shown(value)}")
    return found


def _shown(value: object) -> str:
    return repr(value[:_SHOWN]) if isinstance(value, str) else "no text"


def _grade(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ResultFileError(f"{key} is no number")
    return float(min(max(value, 0), HIGHEST_GRADE))


def _object(key: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ResultFileError(f"{key} is no object")
    return value


def _problems(key: str, value: object, words: Sequence[Outcome], unsaid: Outcome | None) -> dict[str, ProblemResult]:
    """``unsaid``: the result of those that have none; None: there must be one."""
    said = _object(key, value)
    if len(said) > _MOST_PROBLEMS or any(len(name) > _LONGEST_ID for name in said):
        raise ResultFileError(f"{key} has too many entries, or names that are too long")
    return {name: _problem(f"problem {name!r}", entry, words, unsaid) for name, entry in said.items()}


def _problem(key: str, entry: object, words: Sequence[Outcome], unsaid: Outcome | None) -> ProblemResult:
    if isinstance(entry, dict) and set(entry) <= {"result", "text"} and ("result" in entry or unsaid is not None):
        entry = [entry.get("result", unsaid), entry.get("text", "")]
    if not isinstance(entry, list) or len(entry) != 2:
        raise ResultFileError(f"{key} is neither [result, text] nor an object of these")
    return ProblemResult(_outcome(f"the result of {key}", entry[0], words), _text(f"the text of {key}", entry[1]))
