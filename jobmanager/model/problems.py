"""Problems: the questions of a task. Some are answered in the caller's process, some need a container."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

from jobmanager.errors import InvalidInput, InvalidTask
from jobmanager.model import _checks

Answer = Union[str, bytes, int, Collection[Union[str, int]]]


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """A choice among given answers, judged without a container.

    An answer is a choice's key, or a collection of keys where several are right; numbers stand for their
    decimal text. It is right when exactly the correct keys were chosen.
    """

    correct: str | int | Collection[str | int]  # the key, or all the keys, of the right choices
    choices: Mapping[str, str] | Collection[str | int] | None = None  # all keys (with their texts); None: not checked
    success_text: str = ""  # told after a right answer
    failure_text: str = "Wrong answer."  # told after a wrong one

    def __post_init__(self) -> None:
        if not self.correct_keys:
            raise InvalidTask("MultipleChoice needs at least one correct choice")
        if not isinstance(self.correct, (str, int)):
            object.__setattr__(self, "correct", tuple(self.correct))
        if self.choices is not None:
            object.__setattr__(self, "choices", _choices(self.choices))
            unknown = self.correct_keys - {str(key) for key in self.choices}
            if unknown:
                raise InvalidTask(f"MultipleChoice: correct {sorted(unknown)} is not among the choices")
        _check_texts(self)

    @property
    def correct_keys(self) -> frozenset[str]:
        """The right keys as text."""
        return _keys(self.correct, InvalidTask)

    def is_right(self, answer: Answer | None) -> bool:
        """Whether exactly the right keys were chosen; no answer is a wrong one."""
        return answer is not None and _keys(answer, InvalidInput) == self.correct_keys

    def check(self, answer: Answer | None) -> None:
        """Raise InvalidInput for an answer of a wrong type."""
        if answer is not None:
            _keys(answer, InvalidInput)


@dataclass(frozen=True, slots=True)
class Match:
    """A text that must equal the expected one but for white space around it, judged without a container."""

    answer: str  # the expected text
    ignore_case: bool = False
    success_text: str = ""
    failure_text: str = "Wrong answer."

    def __post_init__(self) -> None:
        if not isinstance(self.answer, str):
            raise InvalidTask(f"Match needs the expected text, not {self.answer!r}")
        _check_texts(self)

    def is_right(self, answer: Answer | None) -> bool:
        """Whether the text is the expected one."""
        if not isinstance(answer, str):
            return False
        return self._folded(answer) == self._folded(self.answer)

    def check(self, answer: Answer | None) -> None:
        """Raise InvalidInput for an answer that is no text."""
        if answer is not None and not isinstance(answer, str):
            raise InvalidInput(f"a Match problem takes a string, not {type(answer).__name__}")

    def _folded(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True, slots=True)
class Code:
    """Source text that becomes a file in the workspace."""

    filename: str  # relative to the workspace

    def __post_init__(self) -> None:
        object.__setattr__(self, "filename", _checks.workspace_path(self.filename, InvalidTask))

    def content(self, answer: Answer | None) -> bytes:
        """The file's bytes; raises InvalidInput for anything but text."""
        if not isinstance(answer, str):
            raise InvalidInput(f"a Code problem takes a string, not {type(answer).__name__}")
        try:
            return answer.encode()
        except UnicodeEncodeError:
            raise InvalidInput("a Code answer holds a lone surrogate and cannot be written as UTF-8") from None


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file that becomes a file in the workspace."""

    filename: str  # relative to the workspace

    def __post_init__(self) -> None:
        object.__setattr__(self, "filename", _checks.workspace_path(self.filename, InvalidTask))

    def content(self, answer: Answer | None) -> bytes:
        """The file's bytes; raises InvalidInput for anything but bytes or text."""
        if isinstance(answer, (bytes, bytearray)):
            return bytes(answer)
        if isinstance(answer, str):
            return Code(self.filename).content(answer)
        raise InvalidInput(f"a File problem takes bytes, not {type(answer).__name__}")


LocalProblem = Union[MultipleChoice, Match]
ContainerProblem = Union[Code, File]
Problem = Union[LocalProblem, ContainerProblem]


def _choices(given: Mapping[str, str] | Collection[str | int]) -> Mapping[str, str] | Collection[str | int]:
    """All keys in a form that does not change under our hands."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise InvalidTask(f"choices must be a mapping or a collection of keys, not {given!r}")
    return dict(given) if isinstance(given, Mapping) else tuple(given)


def _check_texts(problem: LocalProblem) -> None:
    """Both texts end in a result, beside those of others."""
    for name in ("success_text", "failure_text"):
        _checks.plain(name, getattr(problem, name), InvalidTask)


def _keys(given: Answer, error: type[InvalidTask] | type[InvalidInput]) -> frozenset[str]:
    several = [given] if isinstance(given, (str, int)) else given
    if isinstance(several, (bytes, bytearray)) or not isinstance(several, Collection):
        raise error(f"a MultipleChoice problem takes a key or a collection of keys, not {type(given).__name__}")
    if any(not isinstance(key, (str, int)) for key in several):
        raise error(f"keys of a MultipleChoice problem are strings or numbers: {given!r}")
    return frozenset(str(key) for key in several)
