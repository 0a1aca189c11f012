"""``.jobmanager/result.json``: the result that a program writes. It is checked field by field, as it may be hostile.

::

    {"result": "success" | "failed", "grade": 0..200, "text": "...", "tests": {...}, "custom": {...}, "state": "...",
     "problems": {"id": ["success" | "failed", "text"]} or {"id": {"result": ..., "text": ...}}}

Every field may be left out. One wrong field makes the whole file unreadable. A grader's file may also have the results
``timeout``, ``overflow``, ``crash`` and ``error``, and must have one; a problem without a result gets that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobmanager.model._json import parse_json
from jobmanager.model.result import Outcome, ProblemResult

RESULT_FILE = ".jobmanager/result.json"  # in the workspace
RESULT_FILE_LIMIT = 1024 * 1024  # bytes
HIGHEST_GRADE = 200.0
_MAX_ID_LENGTH = 200
_MAX_PROBLEMS = 1000
_MAX_DEPTH = 50
_SHOWN = 60  # characters of a field's name that a message repeats
_FIELDS = {"result", "grade", "text", "problems", "tests", "custom", "state"}
_PROGRAM_OUTCOMES = (Outcome.SUCCESS, Outcome.FAILED)
_GRADER_OUTCOMES = (*_PROGRAM_OUTCOMES, Outcome.TIMEOUT, Outcome.OVERFLOW, Outcome.CRASH, Outcome.ERROR)


class ResultFileError(Exception):
    """The reason why a result file cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A result file that could be read. None or empty: the file does not have it."""

    outcome: Outcome | None = None
    grade: float | None = None
    text: str = ""
    problems: Mapping[str, ProblemResult] = field(default_factory=dict)
    tests: Mapping[str, object] = field(default_factory=dict)
    custom: Mapping[str, object] = field(default_factory=dict)
    state: str | None = None


def parse_result_file(data: bytes, *, grader: bool = False) -> ResultFile:
    """Read a result file, or a grader's answer. Raises ResultFileError with the reason, never anything else."""
    if len(data) > RESULT_FILE_LIMIT:
        raise ResultFileError(f"it is larger than {RESULT_FILE_LIMIT // 1024} KiB")
    if not data:
        raise ResultFileError("it is empty, or no regular file")
    document = load_json(data)
    if not isinstance(document, dict):
        raise ResultFileError("it is no object")
    unknown = sorted(set(document) - _FIELDS)
    if unknown:
        raise ResultFileError(f"it has fields that mean nothing here: {[name[:_SHOWN] for name in unknown[:5]]}")
    _check(document, 0)
    if grader and "result" not in document:
        raise ResultFileError("the grader set no result: it has to set success, failed or another outcome")
    allowed = _GRADER_OUTCOMES if grader else _PROGRAM_OUTCOMES
    outcome = _outcome("result", document["result"], allowed) if "result" in document else None
    return ResultFile(
        outcome=outcome,
        grade=_grade("grade", document["grade"]) if "grade" in document else None,
        text=_text("text", document.get("text", "")),
        problems=_problems("problems", document.get("problems", {}), allowed, outcome if grader else None),
        tests=_object("tests", document.get("tests", {})),
        custom=_object("custom", document.get("custom", {})),
        state=_text("state", document["state"]) if "state" in document else None,
    )


def load_json(data: bytes) -> object:
    """Decode hostile JSON. Raises ResultFileError, never anything else."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ResultFileError("it is not UTF-8") from None
    return parse_json(text, ResultFileError)


def _check(value: object, depth: int) -> None:
    """Refuse text that cannot be encoded, numbers that are not finite, and what is nested too deep."""
    if depth > _MAX_DEPTH:
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


def _outcome(key: str, value: object, allowed: Sequence[Outcome]) -> Outcome:
    found = next((outcome for outcome in allowed if outcome.value == value), None)
    if found is None:
        raise ResultFileError(f"{key} is neither {' nor '.join(outcome.value for outcome in allowed)}, but {_shown(value)}")
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


def _problems(key: str, value: object, allowed: Sequence[Outcome], default: Outcome | None) -> dict[str, ProblemResult]:
    """``default``: the result of problems that have none; None: each must have one."""
    entries = _object(key, value)
    if len(entries) > _MAX_PROBLEMS or any(len(name) > _MAX_ID_LENGTH for name in entries):
        raise ResultFileError(f"{key} has too many entries, or names that are too long")
    return {name: _problem(f"problem {name!r}", entry, allowed, default) for name, entry in entries.items()}


def _problem(key: str, entry: object, allowed: Sequence[Outcome], default: Outcome | None) -> ProblemResult:
    if isinstance(entry, dict) and set(entry) <= {"result", "text"} and ("result" in entry or default is not None):
        entry = [entry.get("result", default), entry.get("text", "")]
    if not isinstance(entry, list) or len(entry) != 2:
        raise ResultFileError(f"{key} is neither [result, text] nor an object of these")
    return ProblemResult(_outcome(f"the result of {key}", entry[0], allowed), _text(f"the text of {key}", entry[1]))
