"""The problems of a ``task.yaml``: the fields of each type, and the problem that it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from jobmanager.errors import InvalidTask
from jobmanager.model.problems import Code, File, Match, MultipleChoice, Problem, ProblemType
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.marked_yaml import Mistakes

_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_FRONT_END_FIELDS = {"name", "header", "language", "default", "offset", "unshuffle", "type"}  # for a front end


def checked_types(own: Mapping[str, ProblemType] | None) -> dict[str, ProblemType]:
    """The caller's own types, by name."""
    if own is None:
        return {}
    if not isinstance(own, Mapping):
        raise InvalidTask(f"problem_types must map names of types to Code, File, Match or MultipleChoice, not {own!r}")
    for name, made_of in own.items():
        if not isinstance(name, str) or not name:
            raise InvalidTask(f"problem_types: a type's name must be a string that is not empty, not {name!r}")
        if not callable(made_of):
            raise InvalidTask(
                f"problem_types[{name!r}] must be Code, File, Match, MultipleChoice or a function that makes one of"
                f" the problem's fields, not {made_of!r}"
            )
    return dict(own)


def read_problem(key: str, fields: Fields, file: str, own_types: Mapping[str, ProblemType], mistakes: Mistakes) -> Problem | None:
    """Read one problem; None when it has mistakes."""
    if not _ID.fullmatch(key):
        mistakes.add(fields.line, f"a problem's id has letters, digits and _ . - only, not {key[:60]!r}")
    make = _maker(fields, file, own_types)
    if make is None:
        return None
    before = len(mistakes.found)
    try:
        return make(fields)
    except InvalidTask as error:
        if len(mistakes.found) == before:  # else it follows from these
            mistakes.add(fields.line, f"problem {key!r}: {error}")
        return None


def _maker(fields: Fields, file: str, own_types: Mapping[str, ProblemType]) -> Callable[[Fields], Problem] | None:
    """The function that makes a problem of the type. The caller's own types come first, and may have any other fields."""
    kind = fields.text("type") or ""
    if kind in own_types:
        made_of = own_types[kind]
        by_class = _BY_CLASS.get(made_of) if isinstance(made_of, type) else None
        return by_class or (lambda fields: _by_function(kind, made_of, fields))
    if (ours := kind.replace("-", "_")) in _TYPES:
        make, own = _TYPES[ours]
        fields.warn_of_unknown(file, {*own, *_FRONT_END_FIELDS})
        return make
    there_are = f"must be one of {', '.join([*_NAMED, *own_types])}"
    hint = f"a type of your own is given as problem_types={{{kind[:60]!r}: Code}}"
    fields.add_mistake("type", f"{there_are}, not {kind[:60]!r}; {hint}" if kind else "is missing")
    return None


def _by_function(kind: str, function: Callable[..., Problem], fields: Fields) -> Problem:
    made = function(fields.as_written())
    if not isinstance(made, (Code, File, Match, MultipleChoice)):
        raise InvalidTask(f"problem_types[{kind!r}] made {made!r}, not a Code, File, Match or MultipleChoice")
    return made


def _code(fields: Fields) -> Problem:
    if "boxes" in fields:
        fields.add_mistake("boxes", "are not supported: make each box a problem of its own")
    return _text_of_any_kind(fields)


def _text_of_any_kind(fields: Fields) -> Problem:
    return Code(fields.text("filename"), optional=fields.flag("optional"))


def _line_of_code(fields: Fields) -> Problem:
    return Code(fields.text("filename"), single_line=True, optional=fields.flag("optional"))


def _file(fields: Fields) -> Problem:
    extensions, most = fields.texts("allowed_exts"), fields.whole("max_size", unit=" of bytes")
    return File(fields.text("filename"), extensions=extensions, max_bytes=most, optional=fields.flag("optional"))


def _match(fields: Fields) -> Problem:
    if "answer" not in fields and not fields.is_empty("answer"):
        fields.add_mistake("answer", "is missing")
    return Match(fields.text("answer") or "", failure_text="" if fields.flag("centralize") else "Wrong answer.")


def _multiple_choice(fields: Fields) -> Problem:
    choices = fields.list_of_fields("choices")
    for choice in choices:
        if "text" not in choice and not choice.is_empty("text"):
            choice.add_mistake("text", "is missing")
    correct = [number for number, choice in enumerate(choices) if choice.flag("valid")]
    multiple = fields.flag("multiple")
    if not correct:
        fields.add_mistake("choices", "must have one with valid: true" if "choices" in fields else "are missing")
    _check_limit(fields, len(correct) if multiple else 0)
    feedback = {str(number): choice.text("feedback") or "" for number, choice in enumerate(choices)}
    default = "" if fields.flag("centralize") else "Wrong answer."
    return MultipleChoice(
        correct,
        {str(number): choice.text("text") or "" for number, choice in enumerate(choices)},
        success_text=fields.text("success_message") or "",
        failure_text=fields.text("error_message") or default,
        feedback={key: text for key, text in feedback.items() if text},
        multiple=multiple,
    )


def _check_limit(fields: Fields, correct_choices: int) -> None:
    """How many choices a front end shows: 0 for all, else at least those that must be chosen."""
    limit = fields.whole("limit", least=0)
    if limit and limit < correct_choices:
        fields.add_mistake("limit", f"must be 0, or at least the {correct_choices} right choices, not {limit}")


_CHOICES = {"choices", "multiple", "limit", "success_message", "error_message", "centralize", "optional"}
_UPLOAD = {"allowed_exts", "max_size", "optional", "filename"}
_TYPES: dict[str, tuple[Callable[[Fields], Problem], set[str]]] = {
    "code": (_code, {"optional", "boxes", "filename"}),
    "code_single_line": (_line_of_code, {"optional", "filename"}),
    "file": (_file, _UPLOAD),
    "code_file": (_file, _UPLOAD),  # its name until 2016, when all had hyphens
    "match": (_match, {"answer", "centralize"}),
    "multiple_choice": (_multiple_choice, _CHOICES),
}
_BY_CLASS: dict[object, Callable[[Fields], Problem]] = {
    Code: _text_of_any_kind,
    File: _file,
    Match: _match,
    MultipleChoice: _multiple_choice,
}
_NAMED = [name for name in _TYPES if name != "code_file"]
