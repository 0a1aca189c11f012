"""How the output of a case is compared with what is expected: records that say it, as data. ``results/comparing.py`` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData

if TYPE_CHECKING:
    from jobmanager.model.task import Task

_MAX_TOLERANCE = 1e300


@dataclass(frozen=True, slots=True)
class Exact(AsData, kind="exact", invalid=InvalidTask):
    """The output is what is expected, byte for byte."""


@dataclass(frozen=True, slots=True)
class Lines(AsData, kind="lines", invalid=InvalidTask):
    """The lines are those that are expected. White space at the end of a line, and empty lines at the end, do not count."""


@dataclass(frozen=True, slots=True)
class Tokens(AsData, kind="tokens", invalid=InvalidTask):
    """The words are those that are expected. How much white space is between them, and of which kind, does not count."""


@explains_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class Floats(AsData, kind="floats", invalid=InvalidTask):
    """As ``Tokens``, but two words that are both decimal numbers may differ a little.

    Args:
        absolute: by how much, or
        relative: by which part of the number that is expected; either is enough. 0 for both: by nothing, so that 1.0 is 1.

    Raises:
        InvalidTask: a tolerance that is no finite number from 0 on.
    """

    absolute: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        for name in ("absolute", "relative"):
            value = getattr(self, name)
            if not _checks.is_finite(value) or not 0 <= value <= _MAX_TOLERANCE:
                raise InvalidTask(f"{name} must be a number from 0 on, not {value!r}")


class JudgingProgram:
    """A program of the author's that judges cases: a task of its own, which a task knows by this class."""

    __slots__ = ()
    if TYPE_CHECKING:
        task: Task


class ProgramCheck(JudgingProgram):
    """It judges what a submission has printed."""

    __slots__ = ()


class ProgramInteractor(JudgingProgram):
    """It talks with the submission, and judges it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class CallersFunction(AsData, kind="function", invalid=InvalidTask):
    """In the place of a function of the caller's where a case is data: on another machine, or in a file. It compares nothing."""


Check = Union[Exact, Lines, Tokens, Floats]
