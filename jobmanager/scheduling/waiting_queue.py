"""The waiting queue: priority, then arrival; a job that no free host can run holds up no other."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_MOST_LEFT = 100  # places of jobs that have left, before the lines are tidied up


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a host must have for a job. Jobs of the same needs wait in one line."""

    environment: str
    memory_mib: int
    cpus: float
    student_environments: frozenset[str] = frozenset()  # of a grading job: it is placed where these are, too
    excluded: frozenset[str] = frozenset()  # hosts that tried and could not
    avoided: frozenset[str] = frozenset()  # hosts on which a run was cut off: only when no other has room


class Place(NamedTuple):
    """A job's place: lower comes first."""

    priority: int
    arrival: int
    job_id: str


class WaitingQueue:
    """Jobs that have no host yet. Not thread-safe: the ledger's lock guards it."""

    def __init__(self) -> None:
        self._lines: dict[Needs, list[Place]] = {}
        self._needs: dict[str, tuple[Needs, Place]] = {}
        self._left = 0  # places in the lines whose jobs have been removed

    def __len__(self) -> int:
        return len(self._needs)

    def add(self, job_id: str, needs: Needs, priority: int, arrival: int) -> None:
        """Put a job where its arrival stands among those with its priority: one that comes back has its old place."""
        place = Place(priority, arrival, job_id)
        self._needs[job_id] = (needs, place)
        heapq.heappush(self._lines.setdefault(needs, []), place)

    def remove(self, job_id: str) -> None:
        """Take a job out; its place in the line is skipped later, or tidied up when there are many."""
        del self._needs[job_id]
        self._left += 1
        if self._left > _MOST_LEFT + len(self._needs):
            self._tidy_up()

    def in_order(self) -> Iterator[str]:
        """All waiting jobs, the next one first."""
        return (place.job_id for place in sorted(place for _, place in self._needs.values()))

    def all_needs(self) -> set[Needs]:
        """What the waiting jobs need, each kind once."""
        return {needs for needs in list(self._lines) if self._live_line(needs)}

    def jobs_before(self, job_id: str) -> int:
        """How many waiting jobs come before this one."""
        own = self._needs[job_id][1]
        return sum(place < own for _, place in self._needs.values())

    def place_all(self, place: Callable[[str, Needs], bool]) -> None:
        """Offer jobs to ``place`` in order until it can place no more; each that it takes leaves the queue.

        A line whose first job cannot be placed is passed over: its others need the same.
        """
        heads = [(line[0], needs) for needs in list(self._lines) if (line := self._live_line(needs))]
        heads.sort()
        heap = [(head, number, needs) for number, (head, needs) in enumerate(heads)]
        while heap:
            head, number, needs = heapq.heappop(heap)
            if not place(head.job_id, needs):
                continue
            del self._needs[head.job_id]
            heapq.heappop(self._lines[needs])
            if line := self._live_line(needs):
                heapq.heappush(heap, (line[0], number, needs))

    def _live_line(self, needs: Needs) -> list[Place]:
        """A line without the jobs at its head that have left; forgotten when empty."""
        line = self._lines[needs]
        while line and not self._stands(line[0]):
            heapq.heappop(line)
            self._left -= 1
        if not line:
            del self._lines[needs]
        return line

    def _tidy_up(self) -> None:
        """Forget all places whose jobs have left, so that a head that stands for long keeps no others alive."""
        for needs, line in list(self._lines.items()):
            line[:] = filter(self._stands, line)
            heapq.heapify(line)
            if not line:
                del self._lines[needs]
        self._left = 0

    def _stands(self, place: Place) -> bool:
        entry = self._needs.get(place.job_id)
        return entry is not None and entry[1] == place
