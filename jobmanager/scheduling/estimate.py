"""How long jobs take: a moving average by kind of task, for the seconds that a waiting job is told."""

from __future__ import annotations

from collections import OrderedDict

_WEIGHT = 0.3  # of the newest run
_KINDS = 1000  # remembered; the least recently seen goes first
_FIRST_GUESS_S = 2.0


class Durations:
    """What runs of each kind took, in seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._average: OrderedDict[str, float] = OrderedDict()

    def record(self, kind: str, took_s: float) -> None:
        """A run of this kind is over."""
        before = self._average.pop(kind, took_s)
        self._average[kind] = before + _WEIGHT * (took_s - before)
        if len(self._average) > _KINDS:
            self._average.popitem(last=False)

    def expected_s(self, kind: str, at_most_s: float) -> float:
        """What the next run of this kind may take."""
        return min(self._average.get(kind, _FIRST_GUESS_S), at_most_s)
