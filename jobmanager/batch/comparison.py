"""``compare``: how the results of two batches differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union

from jobmanager.batch.stored_results import ResultKey, input_key, read_stored
from jobmanager.errors import InvalidValue
from jobmanager.model.as_data import AsData, VersionedAsData
from jobmanager.model.result import JobResult, Outcome

Results = Union[str, "os.PathLike[str]", Iterable[tuple[Any, JobResult]]]
Difference = Literal["verdict", "grade", "only_old", "only_new"]
_ORDER: tuple[Difference, ...] = ("verdict", "grade", "only_old", "only_new")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedResult(AsData):
    """An input whose two results differ, or that has only one."""

    key: str  # of the input
    repeat: int  # 1 for the first input of this key, 2 for the second
    difference: Difference  # the first of these that there is
    old: Outcome | None  # None when there is no old result
    new: Outcome | None
    old_grade: float | None
    new_grade: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchComparison(VersionedAsData, kind="comparison"):
    """How two batches differ."""

    changes: tuple[ComparedResult, ...]  # changed verdicts first, then changed grades, then what is only in one
    unchanged: int  # inputs with the same outcome and grade in both


def compare(old: Results, new: Results, *, key: Callable[[Any], str] | None = None) -> BatchComparison:
    """How the results of two batches differ, by the keys of their inputs: changed verdicts first.

    Args:
        old, new: a results file of ``map``, or the pairs that it yields. The tasks may differ: that is what it is for.
        key: what names the input of a pair, as ``map`` takes it; None: a digest of the input as data.

    Raises:
        InvalidValue: a file is damaged, or no results file.
        OSError: a file cannot be read.
    """
    before, after = dict(_verdicts("old", old, key)), dict(_verdicts("new", new, key))
    names = dict.fromkeys((*before, *after))
    found = [change for name in names if (change := _change(name, before.get(name), after.get(name))) is not None]
    found.sort(key=lambda change: _ORDER.index(change.difference))
    return BatchComparison(changes=tuple(found), unchanged=len(names) - len(found))


_Judged = tuple[Outcome, float]


def _verdicts(what: str, results: Results, key: Callable[[Any], str] | None) -> Iterator[tuple[ResultKey, _Judged]]:
    if isinstance(results, (str, os.PathLike)):
        for name, result in read_stored(os.fspath(results)):
            yield name, (result.outcome, result.grade)
        return
    repeats: dict[str, int] = {}
    try:
        for given, result in results:
            of = input_key(given) if key is None else key(given)
            repeats[of] = repeats.get(of, 0) + 1
            yield ResultKey(of, repeats[of]), (result.outcome, result.grade)
    except (TypeError, AttributeError) as wrong:
        raise InvalidValue(f"{what} must be a results file or pairs of input and result: {wrong}") from wrong


def _change(name: ResultKey, old: _Judged | None, new: _Judged | None) -> ComparedResult | None:
    if old == new:
        return None
    return ComparedResult(
        key=name.key,
        repeat=name.repeat,
        difference=_difference(old, new),
        old=None if old is None else old[0],
        new=None if new is None else new[0],
        old_grade=None if old is None else old[1],
        new_grade=None if new is None else new[1],
    )


def _difference(old: _Judged | None, new: _Judged | None) -> Difference:
    if old is None:
        return "only_new"
    if new is None:
        return "only_old"
    return "grade" if old[0] == new[0] else "verdict"
