"""The job's inputs: the answers to the task's problems, and notes whose names begin with ``@``."""

import json

from . import place
from .errors import BadValue, GradingError, UnknownInput

_DEFAULTS = {"@state": "", "@random": []}  # type: dict[str, object]


def get_input(name: "str") -> "object":
    """One input.

    Args:
        name: a problem's id, or a note's name (``@random``, ``@state``, ``@lang``, ...); of a problem that is answered with a
            file, ``ID:filename`` is the file's name, and ``ID`` or ``ID:value`` its content as bytes.

    Raises:
        UnknownInput: the job has no input of this name.
    """
    problem, _, part = name.partition(":")
    value = _value(problem)
    if not is_file(value):
        return value
    return value["filename"] if part == "filename" else content(value)  # type: ignore[index, arg-type]


def all_inputs() -> "dict[str, object]":
    """Every input by its name. A file is its name and path: ``{"filename": ..., "path": ...}``."""
    given = _read()
    found = dict(_DEFAULTS)
    found.update((name, value) for name, value in given.items() if name.startswith("@"))
    found["@lang"] = language()
    found.update(given.get("answers", {}))  # type: ignore[call-overload]
    return found


def language() -> "str":
    """The submitter's language, such as ``en`` or ``fr_FR``."""
    given = _read()
    return str(given.get("@lang") or given.get("language") or "en")


def is_file(value: "object") -> "bool":
    """Whether an input is a file's name and path."""
    return isinstance(value, dict) and "filename" in value and "path" in value


def content(value: "dict[str, str]") -> "bytes":
    """The content of an input that is a file."""
    with open(value["path"], "rb") as file:
        return file.read()


def shown(name: "str") -> "bytes":
    """An input as a command prints it: texts and numbers as they are, lists and objects as JSON."""
    value = get_input(name)
    if isinstance(value, bytes):
        return value
    if value is None:
        raise BadValue(f"{name!r} is null")
    return as_text(value).encode("utf-8", "replace")


def as_text(value: "object") -> "str":
    """An input that is no file, as text."""
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _value(name: "str") -> "object":
    if name == "@lang":
        return language()
    given = _read()
    answers = given.get("answers", {})
    if isinstance(answers, dict) and name in answers:
        return answers[name]
    if name.startswith("@") and name in given:
        return given[name]
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    known = sorted([*answers, *(note for note in given if note.startswith("@"))])  # type: ignore[misc]
    raise UnknownInput("there is no input {!r}; this job brought {}".format(name, ", ".join(map(repr, known)) or "none"))


def _read() -> "dict[str, object]":
    try:
        with open(place.INPUT, "rb") as file:
            given = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise GradingError(f"the job's input cannot be read: {error}") from None
    if not isinstance(given, dict):
        raise GradingError("the job's input cannot be read: it is no object")
    return given
