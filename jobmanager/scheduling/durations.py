"""How long jobs take: a moving average by kind of task, for the seconds that a waiting job is told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

_WEIGHT = 0.3  # of the newest run
_KINDS = 1000  # remembered; the least recently seen goes first
_FIRST_GUESS_S = 2.0


class Sort(NamedTuple):
    """Jobs of one sort are expected to take the same time."""

    kind: str
    at_most_s: float  # the wall-clock limit


class Durations:
    """For how long runs of each kind held a slot, in seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._average: OrderedDict[str, float] = OrderedDict()

    def record(self, kind: str, took_s: float) -> None:
        """A run of this kind is over."""
        before = self._average.pop(kind, took_s)
        self._average[kind] = before + _WEIGHT * (took_s - before)
        if len(self._average) > _KINDS:
            self._average.popitem(last=False)

    def expected_s(self, sort: Sort) -> float:
        """What the next run of this sort may take."""
        return min(self._average.get(sort.kind, _FIRST_GUESS_S), sort.at_most_s)

    def as_now(self) -> Expected:
        """What is expected now, whatever is recorded later."""
        return Expected(self._average)


class Expected(dict[Sort, float]):
    """What the next run of each sort may take, in seconds."""

    def __init__(self, averages: Mapping[str, float]) -> None:
        super().__init__()
        self._averages = dict(averages)

    def __missing__(self, sort: Sort) -> float:
        self[sort] = found = min(self._averages.get(sort.kind, _FIRST_GUESS_S), sort.at_most_s)
        return found
