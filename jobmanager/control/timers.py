"""What the loop does later: commands with the time when they are due."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

from jobmanager.scheduling.commands import Command, DeleteContainer, DeleteVolumes


class Timers:
    """Commands that wait for their time. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, Command]] = []  # a heap; the number keeps commands of one time in their order
        self._numbers = itertools.count()

    def add(self, delay_s: float, command: Command) -> None:
        """Let a command become due after a delay."""
        heapq.heappush(self._waiting, (self._clock() + delay_s, next(self._numbers), command))

    def next_at(self) -> float | None:
        """When the next command is due, by the clock; None: there is none."""
        return self._waiting[0][0] if self._waiting else None

    def take_due(self) -> Command | None:
        """A command that is due, once."""
        if self._waiting and self._waiting[0][0] <= self._clock():
            return heapq.heappop(self._waiting)[2]
        return None

    def retry_deletes_now(self, host: str) -> None:
        """Let removals become due that were put off while a host did not answer."""
        now = self._clock()
        self._waiting = [
            (now if isinstance(command, (DeleteContainer, DeleteVolumes)) and command.host == host else at, number, command)
            for at, number, command in self._waiting
        ]
        heapq.heapify(self._waiting)
