"""Timeouts of a container's output stream that hold on a slow link too: is it dead, and how long is PID 1 waited for?"""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.model.container import ContainerInfo
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.watching.inspector import ContainerInspector

_CHECK_INTERVAL_S = 2.0  # without a byte
_CHECKS = 2  # that the engine answers over the same link, while no byte comes
_SLOW_S = 5.0
_MAX_WAIT_S = 60.0  # beside the time that the slowest link needs for what came


class SilenceDetector:
    """Detects that one stream is dead: no byte comes, while the engine answers."""

    def __init__(self, inspector: ContainerInspector, clock: Callable[[], float]) -> None:
        self._inspector = inspector
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Start again, as data came."""
        self._since, self._checks = self._clock(), 0

    def check_is_due(self) -> bool:
        """Whether nothing has come for so long that the engine should be asked."""
        return self._clock() - self._since > _CHECK_INTERVAL_S

    def check(self) -> ContainerInfo:
        """Ask the engine for the container's state. Once it answers, a link that had stalled brings its data too.

        Raises what ``ContainerInspector.inspect`` raises.
        """
        state = self._inspector.inspect()
        self._since, self._checks = self._clock(), self._checks + 1
        return state

    @property
    def is_confirmed(self) -> bool:
        """Whether nothing came although the engine answered."""
        return self._checks >= _CHECKS


class ReportDeadline:
    """The deadline for PID 1's report after the program's end. Data that comes extends it, as far as a slow link needs.

    It is bounded, as a program that has found the token out can forge an end mark and go on byte by byte.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._until = self._began + _MAX_WAIT_S

    def extend(self, size: int) -> None:
        """Allow the time that the slowest link needs for these bytes."""
        self._until += size / SLOWEST_LINK_BYTES_PER_S

    @property
    def is_slow(self) -> bool:
        """Whether it takes longer than over a good link."""
        return self._clock() - self._began > _SLOW_S

    @property
    def has_passed(self) -> bool:
        """Whether no working link is so slow."""
        return self._clock() > self._until
