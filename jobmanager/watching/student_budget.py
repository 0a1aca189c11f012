"""The budget of a grading job: what all its student containers together may use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from jobmanager.grading.link import RunStudent
from jobmanager.model.limits import SMALLEST_MEMORY_MIB, Limits

_SHORTEST_S = 0.05  # a limit below is none that a program could run within
_MOST_GRACE_S = 10.0
_GRACE = 0.2  # of the job's wall clock
_MOST_AT_ONCE_S = 1.0  # CPU seconds until somebody looks again, as others may have begun meanwhile


class NotGranted(Exception):
    """Why a student container is not made; ``timeout``: time is what is lacking."""

    def __init__(self, reason: str, *, timeout: bool = False) -> None:
        super().__init__(reason)
        self.timeout = timeout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grant:
    """What one student container may use, until it is given back."""

    limits: Limits


class Budget:
    """Shares out CPU time, memory and places. Thread-safe.

    Memory and a place are taken until nothing is left of a container. CPU time is used from one pot by all that run.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        cpu_time_s: float,
        memory_mib: int,
        most_students: int,
        wall_left_s: Callable[[], float],
        patience_s: float = 10.0,
    ) -> None:
        """``patience_s``: how long a container waits for one that has ended, or is being ended, and is not gone yet."""
        self._limits = limits
        self._cpu_left_s = cpu_time_s  # what those that run have used is not taken off yet
        self._memory_left_mib = memory_mib
        self._places_left = self._most_students = most_students
        self._wall_left_s = wall_left_s
        self._patience_s = patience_s
        self._used_s: dict[Grant, float] = {}  # CPU time of those that run
        self._ending: set[Grant] = set()  # of these, the ones that are being ended
        self._going = 0  # containers that have ended and are not gone yet
        self._changed = threading.Condition()

    def take(self, asked: RunStudent) -> Grant:
        """Limits for a student container; raises NotGranted."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._going or self._ending) or self._has_room(asked), self._patience_s)
            if self._places_left < 1:
                raise NotGranted(f"{self._most_students} student containers run already, and the task allows no more at once")
            memory_mib = asked.memory_mib or min(self._limits.memory_mib, self._memory_left_mib)
            if not SMALLEST_MEMORY_MIB <= memory_mib <= self._memory_left_mib:
                raise NotGranted(self._lack_of_memory(asked.memory_mib))
            grant = Grant(limits=self._timed(asked, memory_mib))
            self._places_left -= 1
            self._memory_left_mib -= memory_mib
            self._used_s[grant] = 0.0
            return grant

    def cpu_left_s(self, grant: Grant, used_s: float) -> float:
        """How much a container that has used so much may use before somebody looks again; 0 or less: nothing."""
        with self._changed:
            self._used_s[grant] = max(used_s, self._used_s.get(grant, 0.0))
            share_s = (self._cpu_left_s - sum(self._used_s.values())) / len(self._used_s)
            return min(grant.limits.cpu_time_s - used_s, share_s, _MOST_AT_ONCE_S)

    def ends(self, grant: Grant) -> None:
        """Its container is being ended: whoever asks from now on waits for what it has."""
        with self._changed:
            if grant in self._used_s:
                self._ending.add(grant)

    def ended(self, grant: Grant, used_s: float | None) -> None:
        """Its program has ended, and used so much CPU time; None: nobody knows, and what was seen last counts."""
        with self._changed:
            seen_s = self._used_s.pop(grant, 0.0)
            self._ending.discard(grant)
            self._cpu_left_s -= max(seen_s, used_s or 0.0)
            self._going += 1
            self._changed.notify_all()

    def gone(self, grant: Grant) -> None:
        """Nothing is left of a container that has ended."""
        with self._changed:
            self._going -= 1
            self._places_left += 1
            self._memory_left_mib += grant.limits.memory_mib
            self._changed.notify_all()

    def _has_room(self, asked: RunStudent) -> bool:
        return self._places_left > 0 and (asked.memory_mib or self._limits.memory_mib) <= self._memory_left_mib

    def _lack_of_memory(self, wanted_mib: int) -> str:
        if 0 < wanted_mib < SMALLEST_MEMORY_MIB:
            return f"a student container needs at least {SMALLEST_MEMORY_MIB} MiB, and {wanted_mib} were asked for"
        wants = f"it wants {wanted_mib} MiB, and " if wanted_mib else ""
        return (
            f"{wants}{self._memory_left_mib} MiB are left beside the student containers that run: give each its --memory,"
            " or the task a larger Grader(student_memory_mib=...)"
        )

    def _timed(self, asked: RunStudent, memory_mib: int) -> Limits:
        """Within what is left of the job, less a grace, so that the grader outlives a student that sleeps."""
        grace_s = min(_MOST_GRACE_S, _GRACE * self._limits.wall_s)
        cpu_left_s = self._cpu_left_s - sum(self._used_s.values())
        cpu_time_s = min(asked.cpu_time_s or self._limits.cpu_time_s, cpu_left_s)
        if cpu_time_s < _SHORTEST_S:
            raise NotGranted("no CPU time is left for student containers", timeout=True)
        wall_time_s = min(asked.wall_time_s or 3 * cpu_time_s, self._wall_left_s() - grace_s)
        if wall_time_s < _SHORTEST_S:
            raise NotGranted("no time is left for student containers", timeout=True)
        return replace(self._limits, cpu_time_s=cpu_time_s, wall_time_s=wall_time_s, memory_mib=memory_mib)
