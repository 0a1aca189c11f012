"""How long jobs take: a moving average for each class of jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

_WEIGHT = 0.3  # of the newest run in the average
_KINDS = 1000  # classes remembered; the one whose last run is longest ago is dropped first
_FIRST_GUESS_S = 2.0


class DurationKey(NamedTuple):
    """Jobs of one key are expected to take the same time."""

    job_class: str
    limit_s: float  # the wall-clock limit, in seconds: no job is expected to take longer


class Durations:
    """For how long jobs of each class held a slot, in seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._average: OrderedDict[str, float] = OrderedDict()

    def record(self, job_class: str, took_s: float) -> None:
        """A job of this class has ended."""
        before = self._average.pop(job_class, took_s)
        self._average[job_class] = before + _WEIGHT * (took_s - before)
        if len(self._average) > _KINDS:
            self._average.popitem(last=False)

    def expected_s(self, duration_key: DurationKey) -> float:
        """What the next job of this key may take."""
        return min(self._average.get(duration_key.job_class, _FIRST_GUESS_S), duration_key.limit_s)

    def as_now(self) -> ExpectedDurations:
        """A copy: what is expected now, whatever is recorded later."""
        return ExpectedDurations(self._average)


class ExpectedDurations(dict[DurationKey, float]):
    """What the next job of each key may take, in seconds."""

    def __init__(self, averages: Mapping[str, float]) -> None:
        super().__init__()
        self._averages = dict(averages)

    def __missing__(self, duration_key: DurationKey) -> float:
        self[duration_key] = found = min(self._averages.get(duration_key.job_class, _FIRST_GUESS_S), duration_key.limit_s)
        return found
