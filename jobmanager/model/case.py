"""``Case``: one input of a task that is run on many, and what is expected of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model._forms import Form, Load, Store, form_of
from jobmanager.model._keywords import explains_keywords
from jobmanager.model._repr import SHOWN_BY_SIZE
from jobmanager.model.as_data import AsData
from jobmanager.model.checks import CallersFunction, Check, Exact, Floats, JudgingProgram, Lines, Tokens

CaseContent = Union[bytes, str, Path]

MAX_CASES = 100_000
CASE_LIMITS = ("cpu_time_s", "wall_time_s", "output_kib")  # that a case may have of its own
_MAX_BYTES = 2**26  # of one input or what is expected: both are kept in memory
_MAX_NAME_CHARS = 200
_MAX_ARGS = 1000
_MAX_POINTS = 1e9
_MAX_OUTPUT_KIB = 2**30
_PIECES = re.compile(r"[0-9]+|[^0-9]+")
_BUILT_IN = (Exact, Lines, Tokens, Floats)


class _CheckForm(Form):
    """A check as data. A function is none: that there is one is all that can be written."""

    @property
    def _record(self) -> Form:
        from jobmanager.model.checker import Checker, Interactor  # each has a task of its own, so they know this module

        return form_of(Union[Check, Checker, Interactor, CallersFunction])

    def holds(self, value: object) -> bool:
        return callable(value) or self._record.holds(value)

    def is_such(self, data: object) -> bool:
        return self._record.is_such(data)

    def write(self, value: object, store: Store | None) -> object:
        return self._record.write(value if self._record.holds(value) else CallersFunction(), store)

    def read(self, data: object, load: Load | None) -> object:
        return self._record.read(data, load)


_DATA = {"form": _CheckForm()}


@explains_keywords
@dataclass(frozen=True, slots=True)
class Case(AsData, invalid=InvalidTask):
    """One run of a task's command, with an input of its own.

    Args:
        stdin: what the program reads from standard input: bytes, text, or a Path that is read now. With an ``Interactor``: its
            input file, and the program reads what the interactor says.
        name: tells it from the task's other cases; empty: its number, from 1 on.
        args: words that follow those of the command.
        files: workspace files by relative name, beside the task's.
        cpu_time_s: seconds of CPU time; None: the task's limit. The same for the next two.
        wall_time_s: seconds by the clock.
        output_kib: of stdout and stderr together.
        expected: what the program is to print on stdout; it never enters its container. None: nothing is compared.
        check: how that is compared: ``Exact()``, ``Lines()``, ``Tokens()``, ``Floats()``, ``Checker(task)``,
            ``Interactor(task)``, or a function that takes the case and the program's standard output as bytes, and returns whether
            it is correct. The function runs in the caller's process, after the last case. Data has no more of it than that there
            is one.
        points: what the case is worth when it is correct.

    Raises:
        InvalidTask: an argument makes no sense.
    """

    stdin: CaseContent = field(default=b"", repr=False, metadata=SHOWN_BY_SIZE)
    name: str = field(default="", kw_only=True)
    args: Sequence[str] = field(default=(), kw_only=True)
    files: Mapping[str, CaseContent] | None = field(default=None, kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)
    cpu_time_s: float | None = field(default=None, kw_only=True)
    wall_time_s: float | None = field(default=None, kw_only=True)
    output_kib: int | None = field(default=None, kw_only=True)
    expected: CaseContent | None = field(default=None, kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)
    check: Check | JudgingProgram | CallersFunction | Callable[[Case, bytes], bool] = field(
        default_factory=Lines, kw_only=True, metadata=_DATA
    )
    points: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        if not isinstance(self.name, str) or len(self.name) > _MAX_NAME_CHARS or not self.name.isprintable():
            shown = f"{self.name!r:.300}"
            raise InvalidTask(f"a case's name must be printable text of at most {_MAX_NAME_CHARS} characters, not {shown}")
        try:
            self._check()
        except InvalidTask as wrong:
            raise InvalidTask(f"case {self.name!r}: {wrong}" if self.name else f"a case: {wrong}") from None

    @classmethod
    def from_directory(cls, folder: str | Path, *, check: Check | None = None) -> tuple[Case, ...]:
        """The cases of a folder: each ``NAME.in`` is an input, and ``NAME.ans`` what is expected, where there is one.

        They come in the order of their names, numbers in them by their value: ``2`` before ``10``.

        Raises:
            InvalidTask: there are none, or a ``NAME.ans`` has no ``NAME.in``, or a file cannot be read; or there is no
                ``NAME.ans``, and no checker, interactor or function judges.
        """
        place = Path(folder)
        try:
            found = {path.name: path for path in place.iterdir() if path.suffix in (".in", ".ans") and path.is_file()}
        except OSError as error:
            raise InvalidTask(f"the folder of cases cannot be read: {error}") from None
        inputs = sorted((name.removesuffix(".in") for name in found if name.endswith(".in")), key=_by_numbers)
        if lone := sorted({name.removesuffix(".ans") for name in found if name.endswith(".ans")} - set(inputs)):
            raise InvalidTask(f"{place}: {lone[0]}.ans has no {lone[0]}.in beside it")
        if not inputs:
            raise InvalidTask(f"{place}: there is no case: a case is a file NAME.in, and mostly one NAME.ans")
        unanswered = [name for name in inputs if f"{name}.ans" not in found]
        if unanswered and (check is None or isinstance(check, _BUILT_IN)):
            name = unanswered[0]
            raise InvalidTask(f"{place}: {name}.in has no {name}.ans beside it, which its output is compared with")
        return tuple(
            cls(found[f"{name}.in"], name=name, expected=found.get(f"{name}.ans"), check=Lines() if check is None else check)
            for name in inputs
        )

    @property
    def is_compared(self) -> bool:
        """Whether a check of our own compares what the program prints with what is expected."""
        return self.expected is not None and isinstance(self.check, _BUILT_IN)

    @property
    def is_checked_later(self) -> bool:
        """Whether a function of the caller's compares: after the last case."""
        return not isinstance(self.check, (*_BUILT_IN, JudgingProgram))

    def _check(self) -> None:
        freeze = object.__setattr__
        freeze(self, "stdin", _content("stdin", self.stdin))
        freeze(self, "expected", None if self.expected is None else _content("expected", self.expected))
        args = _checks.several("args", self.args, "words", InvalidTask, at_most=_MAX_ARGS)
        freeze(self, "args", tuple(_checks.plain("an argument", word, InvalidTask) for word in args))  # type: ignore[arg-type]
        freeze(self, "files", _files(self.files))
        for name in ("cpu_time_s", "wall_time_s"):
            if getattr(self, name) is not None:
                _checks.timeout(name, getattr(self, name), InvalidTask)
        if self.output_kib is not None:
            _checks.positive_int("output_kib", self.output_kib, InvalidTask, at_most=_MAX_OUTPUT_KIB)
        if not _checks.is_finite(self.points) or not 0 <= self.points <= _MAX_POINTS:
            raise InvalidTask(f"points must be a number from 0 to {_MAX_POINTS:g}, not {self.points!r}")
        is_check = isinstance(self.check, (*_BUILT_IN, JudgingProgram, CallersFunction)) or callable(self.check)
        if isinstance(self.check, type) or not is_check:
            what = "Exact(), Lines(), Tokens(), Floats(), Checker(task), Interactor(task) or a function"
            raise InvalidTask(f"check must be {what}, not {self.check!r}")
        if self.expected is None and isinstance(self.check, (Exact, Tokens, Floats)):
            raise InvalidTask(f"{type(self.check).__name__}() compares with what is expected: give expected=, or leave check out")


def case_name(case: Case, number: int) -> str:
    """A case's name among those of its task, of which it has this number, from 1 on."""
    return case.name or str(number)


def checked_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """A task's cases, no two of which have the same name.

    Raises:
        InvalidTask: something else than cases, too many, or two of one name.
    """
    given = _checks.several("cases", cases, "cases", InvalidTask, at_most=MAX_CASES)
    names: dict[str, int] = {}
    for number, case in enumerate(given, 1):
        if not isinstance(case, Case):
            raise InvalidTask(f"cases must be Cases, not {case!r:.200}")
        name = case_name(case, number)
        if name in names:
            raise InvalidTask(f"two cases have the name {name!r}: number {names[name]} and number {number}")
        names[name] = number
    return tuple(given)  # type: ignore[arg-type]


def _content(name: str, given: object) -> bytes:
    if isinstance(given, Path):
        return _read(name, given)
    if not isinstance(given, (bytes, str)):
        raise InvalidTask(f"{name} must be bytes, text or a Path, not {type(given).__name__}")
    _checks.no_file_name(name, given, InvalidTask)
    content = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given
    if len(content) > _MAX_BYTES:
        raise _too_large(name, len(content))
    return content


def _read(name: str, path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise _too_large(name, size)
        return path.read_bytes()
    except OSError as error:
        raise InvalidTask(f"{name} cannot be read: {error}") from None


def _too_large(name: str, size: int) -> InvalidTask:
    most = _MAX_BYTES // 2**20
    return InvalidTask(f"{name} has {size // 2**20} MiB, and a case's may have {most}: put large data into the task's files")


def _files(given: Mapping[str, CaseContent] | None) -> dict[str, bytes]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidTask(f"files must map names to contents, not {type(given).__name__}")
    return {_checks.workspace_path(name, InvalidTask): _content(f"file {name!r}", content) for name, content in given.items()}


def _by_numbers(name: str) -> list[tuple[int, int, str]]:
    """Pieces that are numbers compare by their value, and come before others."""
    return [(0, int(piece), piece) if piece.isdigit() else (1, 0, piece) for piece in _PIECES.findall(name)]
