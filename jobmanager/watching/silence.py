"""Silence: when a stream that should say more has really gone silent. A link that is slow, or stands still, is no silence."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.model.container import ContainerState
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.watching.inspector import Looks

_SPELL_S = 2.0  # without a byte
_SPELLS = 2  # the engine answered before each but the first, by the same link
_TAKES_LONG_S = 5.0
_LATEST_S = 60.0  # beside what the slowest link needs for what came


class Silence:
    """Of one stream, since the last that came."""

    def __init__(self, looks: Looks, clock: Callable[[], float]) -> None:
        self._looks = looks
        self._clock = clock
        self.broken()

    def broken(self) -> None:
        """Something came."""
        self._since, self._spells = self._clock(), 0

    def is_long(self) -> bool:
        """Whether nothing has come for so long that it is worth asking."""
        return self._clock() - self._since > _SPELL_S

    def looked(self) -> ContainerState:
        """Ask the engine, and wait for its answer, as long as a lost host is waited for: then what stood still goes on, too.

        Raises what ``Looks.state`` raises.
        """
        state = self._looks.state()
        self._since, self._spells = self._clock(), self._spells + 1
        return state

    @property
    def is_proven(self) -> bool:
        """Whether nothing came although the engine answered meanwhile."""
        return self._spells >= _SPELLS


class Rest:
    """What PID 1 says once the program has ended: waited for while it comes, but not for ever at a crawl.

    A program that has found the token out can say the end in PID 1's place, and go on byte by byte.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._until = self._began + _LATEST_S

    def came(self, size: int) -> None:
        """So many bytes came."""
        self._until += size / SLOWEST_LINK_BYTES_PER_S

    @property
    def takes_long(self) -> bool:
        """Whether it is longer on its way than by a good link."""
        return self._clock() - self._began > _TAKES_LONG_S

    @property
    def is_late(self) -> bool:
        """Whether no link that still works is so slow."""
        return self._clock() > self._until
