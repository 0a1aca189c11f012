"""Problems: the questions of a task. Some are answered in the caller's process, some need a container."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.errors import InvalidInput, InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import exact, make_exact
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData

Upload = Mapping[str, Union[str, bytes]]  # {"filename": its own name, "value": its content}
Answer = Union[str, bytes, int, Collection[Union[str, int, float]], Upload]

_MAX_NAME_BYTES = 255
_MAX_BYTES = 2**30
_SHOWN = 5  # texts that a message repeats


@explains_keywords
@dataclass(frozen=True, slots=True)
class MultipleChoice(AsData, kind="multiple_choice", invalid=InvalidTask):
    """A choice among given answers, judged without a container.

    An answer is a choice's key, or a collection of keys; numbers stand for their decimal text. It is right when exactly
    the correct keys were chosen. With ``multiple=False`` one key is to be chosen, and any correct one is right.
    """

    correct: str | int | Collection[str | int]  # the key, or all the keys, of the right choices
    choices: Mapping[str, str] | Collection[str | int] | None = None  # all keys (with their texts); None: not checked
    success_text: str = ""  # shown after a right answer
    failure_text: str = "Wrong answer."  # shown after a wrong one
    feedback: Mapping[str | int, str] | None = field(default=None, kw_only=True)  # by key: shown when this choice was made
    multiple: bool = field(default=True, kw_only=True)  # whether several may be chosen

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        if not self.correct_keys:
            raise InvalidTask("MultipleChoice needs at least one correct choice")
        if not isinstance(self.correct, (str, int)):
            object.__setattr__(self, "correct", tuple(self.correct))
        object.__setattr__(self, "feedback", _feedback(self.feedback))
        if self.choices is not None:
            object.__setattr__(self, "choices", _choices(self.choices))
            _check_known("correct", self.correct_keys, self.choices)
            _check_known("feedback", self.feedback or (), self.choices)
        _check_texts(self)
        _checks.flag("multiple", self.multiple, InvalidTask)

    @property
    def correct_keys(self) -> frozenset[str]:
        """The right keys as text."""
        return _keys(self.correct, InvalidTask)

    def is_right(self, answer: Answer | None) -> bool:
        """Whether exactly the right keys were chosen (``multiple=False``: a right one); no answer is a wrong one."""
        if answer is None:
            return False
        chosen = _keys(answer, InvalidInput)
        return chosen == self.correct_keys if self.multiple else len(chosen) == 1 and chosen <= self.correct_keys

    def feedback_text(self, answer: Answer | None) -> str:
        """The text for a right or a wrong answer, then the feedback of the choices that were made."""
        chosen = frozenset() if answer is None else _keys(answer, InvalidInput)
        verdict = self.success_text if self.is_right(answer) else self.failure_text
        return _lines(verdict, *(text for key, text in (self.feedback or {}).items() if str(key) in chosen))

    def check(self, answer: Answer | None) -> None:
        """Raise InvalidInput for an answer of a wrong type, an unknown choice, and several choices where one is asked for."""
        if answer is None:
            return
        chosen = _keys(answer, InvalidInput)
        if self.choices is not None:
            known = [str(key) for key in self.choices]
            unknown = sorted(chosen.difference(known))
            if unknown:
                raise InvalidInput(f"no such choice: {_abridged(unknown)}; there are {_abridged(known)}")
        if not self.multiple and len(chosen) > 1:
            raise InvalidInput(f"a MultipleChoice problem with multiple=False takes one choice, not {len(chosen)}")


@explains_keywords
@dataclass(frozen=True, slots=True)
class Match(AsData, kind="match", invalid=InvalidTask):
    """A text that must equal the expected one but for white space around it, judged without a container."""

    answer: str  # the expected text
    ignore_case: bool = False
    success_text: str = ""
    failure_text: str = "Wrong answer."

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        if not isinstance(self.answer, str):
            raise InvalidTask(f"Match needs the expected text, not {self.answer!r}")
        _check_texts(self)

    def is_right(self, answer: Answer | None) -> bool:
        """Whether the text is the expected one."""
        if not isinstance(answer, str):
            return False
        return self._folded(answer) == self._folded(self.answer)

    def feedback_text(self, answer: Answer | None) -> str:
        """The text for a right or a wrong answer."""
        return self.success_text if self.is_right(answer) else self.failure_text

    def check(self, answer: Answer | None) -> None:
        """Raise InvalidInput for an answer that is no text."""
        if answer is not None and not isinstance(answer, str):
            raise InvalidInput(f"a Match problem takes a string, not {type(answer).__name__}")

    def _folded(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


@explains_keywords
@dataclass(frozen=True, slots=True)
class Code(AsData, kind="code", invalid=InvalidTask):
    """Source text. It becomes a file in the workspace, or the grader reads the answer."""

    filename: str | None = None  # relative to the workspace; None: no file, the task's grader reads the answer
    single_line: bool = field(default=False, kw_only=True)  # whether it is one line
    optional: bool = field(default=False, kw_only=True)  # whether it may have no answer, which then is an empty text

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        object.__setattr__(self, "filename", _filename(self.filename))
        _checks.flag("single_line", self.single_line, InvalidTask)
        _checks.flag("optional", self.optional, InvalidTask)

    def content(self, answer: Answer | None) -> bytes:
        """The answer's bytes; raises InvalidInput for anything but text."""
        if not isinstance(answer, str):
            raise InvalidInput(f"a Code problem takes a string, not {type(answer).__name__}")
        if self.single_line and ("\n" in answer or "\r" in answer):
            raise InvalidInput("a Code problem with single_line=True takes one line")
        return _encoded("a Code answer", answer)


@explains_keywords
@dataclass(frozen=True, slots=True)
class File(AsData, kind="file", invalid=InvalidTask):
    """An uploaded file. It becomes a file in the workspace, or the grader reads the answer.

    An answer is the file's content, or ``{"filename": its own name, "value": its content}``.
    """

    filename: str | None = None  # relative to the workspace; None: no file there, the task's grader reads the answer
    extensions: Collection[str] = field(default=(), kw_only=True)  # allowed endings of its own name (".py"); empty: any
    max_bytes: int | None = field(default=None, kw_only=True)  # None: what the workspace holds
    optional: bool = field(default=False, kw_only=True)  # whether it may have no answer, which then is an empty file

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        object.__setattr__(self, "filename", _filename(self.filename))
        object.__setattr__(self, "extensions", _extensions(self.extensions))
        if self.max_bytes is not None:
            _checks.positive_int("max_bytes", self.max_bytes, InvalidTask, at_most=_MAX_BYTES)
        _checks.flag("optional", self.optional, InvalidTask)

    def content(self, answer: Answer | None) -> bytes:
        """The file's bytes; raises InvalidInput for anything but bytes or text, and for a file that is not allowed."""
        name = self.own_name(answer)
        if self.extensions and not (name or "").lower().endswith(tuple(self.extensions)):
            hint = "give {'filename': ..., 'value': ...}" if name is None else f"{name!r} does not"
            raise InvalidInput(f"the file's name must end in {_abridged(self.extensions)}: {hint}")
        value = answer["value"] if isinstance(answer, Mapping) else answer
        content = _encoded("a File answer", value) if isinstance(value, str) else value
        if not isinstance(content, (bytes, bytearray)):
            raise InvalidInput(f"a File problem takes bytes, not {type(value).__name__}")
        if self.max_bytes is not None and len(content) > self.max_bytes:
            raise InvalidInput(f"the file has {len(content)} bytes, more than {self.max_bytes}")
        return bytes(content)

    def own_name(self, answer: Answer | None) -> str | None:
        """The file's name on the submitter's machine; None when the answer does not have it."""
        if not isinstance(answer, Mapping):
            return None
        if set(answer) != {"filename", "value"}:
            raise InvalidInput(f"a File answer has a 'filename' and a 'value', not {_abridged(map(repr, answer))}")
        name = answer["filename"]
        if not isinstance(name, str) or not name.isprintable() or "/" in name or name in ("", ".", ".."):
            raise InvalidInput(f"a file's own name must be a plain one, without folders: {str(name)[:_MAX_NAME_BYTES]!r}")
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise InvalidInput(f"a file's own name must be at most {_MAX_NAME_BYTES} bytes long")
        return name


LocalProblem = Union[MultipleChoice, Match]
ContainerProblem = Union[Code, File]
Problem = Union[LocalProblem, ContainerProblem]
ProblemType = Union[type[Problem], Callable[[Mapping[str, object]], Problem]]  # of a task folder with types of its own


def _filename(given: str | None) -> str | None:
    return None if given is None else _checks.workspace_path(given, InvalidTask)


def _extensions(given: Collection[str]) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise InvalidTask(f"extensions must be a collection such as ['.py', '.txt'], not {given!r}")
    return tuple(_checks.text("an extension", each, InvalidTask).lower() for each in given)


def _choices(given: Mapping[str, str] | Collection[str | int]) -> Mapping[str, str] | Collection[str | int]:
    """A copy that cannot change later."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise InvalidTask(f"choices must be a mapping or a collection of keys, not {given!r}")
    return {str(key): text for key, text in given.items()} if isinstance(given, Mapping) else tuple(given)


def _feedback(given: Mapping[str | int, str] | None) -> Mapping[str | int, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InvalidTask(f"feedback must map keys of choices to texts, not {given!r}")
    return {str(key): _checks.plain(f"feedback of {key!r}", text, InvalidTask) for key, text in given.items()}


def _check_known(name: str, keys: Iterable[str | int], choices: Collection[str | int]) -> None:
    unknown = {str(key) for key in keys} - {str(key) for key in choices}
    if unknown:
        raise InvalidTask(f"MultipleChoice: {name} {sorted(unknown)} is not among the choices")


def _check_texts(problem: LocalProblem) -> None:
    """Both texts become part of a result, so they must be encodable."""
    for name in ("success_text", "failure_text"):
        _checks.plain(name, getattr(problem, name), InvalidTask)


def _keys(given: Answer, error: type[InvalidTask] | type[InvalidInput]) -> frozenset[str]:
    given = exact(given)
    several = [given] if isinstance(given, (str, int)) else given
    if isinstance(several, (bytes, bytearray, Mapping)) or not isinstance(several, Collection):
        raise error(f"a MultipleChoice problem takes a key or a collection of keys, not {type(given).__name__}")
    if any(not isinstance(key, (str, int)) for key in several):
        raise error(f"keys of a MultipleChoice problem are strings or numbers: {given!r}")
    return frozenset(str(key) for key in several)


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} holds a lone surrogate and cannot be written as UTF-8") from None


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


def _abridged(texts: Iterable[str]) -> str:
    """Texts for a message. They may come from a submitter, so only the first ones appear, each cut short."""
    several = [text[:80] for text in texts]
    return ", ".join(several[:_SHOWN]) + (", ..." if len(several) > _SHOWN else "")
