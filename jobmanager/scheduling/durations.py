"""How long jobs take: a moving average for each class of jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

_WEIGHT = 0.3  # of the newest run in the average
_MAX_CLASSES = 1000  # remembered; the one whose last run is longest ago is dropped first
_MIN_RUNS = 3  # of a class that must have ended before its duration is known
_FIRST_GUESS_S = 2.0  # what a job of a class that never ran costs its launcher until it has ended


class DurationKey(NamedTuple):
    """Jobs of one key are expected to take the same time."""

    job_class: str
    limit_s: float  # the wall-clock limit: no job is expected to take longer


class Expected(NamedTuple):
    """What a job is expected to take: ``seconds``, and up to ``unsure_s`` more or less."""

    seconds: float
    unsure_s: float


class _Average(NamedTuple):
    seconds: float
    runs: int


class Durations:
    """For how long jobs of each class held a slot. Not thread-safe."""

    def __init__(self, averages: Mapping[str, _Average] | None = None) -> None:
        self._averages: OrderedDict[str, _Average] = OrderedDict(averages or {})

    def copy(self) -> Durations:
        """What is known now, whatever is recorded later."""
        return Durations(self._averages)

    def record(self, job_class: str, took_s: float) -> None:
        """A job of this class has ended."""
        before_s, runs = self._averages.pop(job_class, (took_s, 0))
        self._averages[job_class] = _Average(before_s + _WEIGHT * (took_s - before_s), runs + 1)
        if len(self._averages) > _MAX_CLASSES:
            self._averages.popitem(last=False)

    def cost_s(self, key: DurationKey) -> float:
        """What the next job of this key costs its launcher until it has ended."""
        average = self._averages.get(key.job_class)
        return min(_FIRST_GUESS_S if average is None else average.seconds, key.limit_s)

    def expected(self, key: DurationKey) -> Expected:
        """What the next job of this key may take; for an unknown duration anything up to the limit."""
        average = self._averages.get(key.job_class)
        if average is None or average.runs < _MIN_RUNS:
            return Expected(key.limit_s / 2, key.limit_s / 2)
        return Expected(min(average.seconds, key.limit_s), 0.0)
