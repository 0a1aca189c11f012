"""The budget of a grading job: what all its student containers together may use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from jobmanager.grading.link import RunStudent
from jobmanager.model.limits import SMALLEST_MEMORY_MIB, Limits
from jobmanager.watching.backstop import PATIENCE_S

_MIN_TIME_S = 0.05  # no program can run within less
_MAX_GRACE_S = 10.0
_GRACE_FRACTION = 0.2  # of the job's wall clock
_MAX_CPU_STEP_S = 1.0  # CPU seconds until the next check, as other containers may have started


class BudgetExceeded(Exception):
    """Why a student container is not started; ``timeout``: no time is left."""

    def __init__(self, reason: str, *, timeout: bool = False) -> None:
        super().__init__(reason)
        self.timeout = timeout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Allocation:
    """What one student container may use, until it is released."""

    limits: Limits
    has_less_cpu: bool = False  # than it asked for: no more is left


class StudentBudget:
    """Allocates CPU time, memory and the number of containers. Thread-safe.

    A container's memory and place are taken until it is removed. All running containers draw CPU time from one sum.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        cpu_time_s: float,
        memory_mib: int,
        most_students: int,
        wall_time_left_s: Callable[[], float],
        wait_s: float = 10.0,
    ) -> None:
        """``wait_s``: how long a request waits for a container that is being stopped or removed."""
        self._limits = limits
        self._cpu_left_s = cpu_time_s  # what running containers have used is not yet subtracted
        self._memory_left_mib = memory_mib
        self._students_left = self._most_students = most_students
        self._wall_time_left_s = wall_time_left_s
        self._wait_s = wait_s
        self._used_s: dict[Allocation, float] = {}  # CPU time of running containers
        self._stopping: set[Allocation] = set()  # of the running containers
        self._removing: set[Allocation] = set()  # of containers that have ended and are being removed
        self._changed = threading.Condition()

    def allocate(self, request: RunStudent) -> Allocation:
        """Limits for a student container; raises BudgetExceeded."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._removing or self._stopping) or self._has_room(request), self._wait_s)
            if self._students_left < 1:
                raise BudgetExceeded(f"{self._most_students} student containers run already, and the task allows no more at once")
            memory_mib = request.memory_mib or min(self._limits.memory_mib, self._memory_left_mib)
            if not SMALLEST_MEMORY_MIB <= memory_mib <= self._memory_left_mib:
                raise BudgetExceeded(self._memory_error(request.memory_mib))
            allocation = self._allocation_for(request, memory_mib)
            self._students_left -= 1
            self._memory_left_mib -= memory_mib
            self._used_s[allocation] = 0.0
            return allocation

    def allocate_again(self, allocation: Allocation, request: RunStudent) -> Allocation:
        """Limits for the next program of a container that was kept; raises BudgetExceeded. It has its place and its memory."""
        with self._changed:
            again = self._allocation_for(request, allocation.limits.memory_mib)
            self._used_s[again] = 0.0
            return again

    def cpu_left_s(self, allocation: Allocation, used_s: float) -> float:
        """CPU seconds that a container which has used ``used_s`` may use until the next check; 0 or less: none.

        Its own limit is its runner's to enforce. Where the limits of all that run fit into what is left, nothing else need be
        checked: to read a counter can take an engine a second, in which its program's input and output wait.
        """
        with self._changed:
            self._used_s[allocation] = max(used_s, self._used_s.get(allocation, 0.0))
            own_s = allocation.limits.cpu_time_s + PATIENCE_S - used_s
            if sum(each.limits.cpu_time_s for each in self._used_s) <= self._cpu_left_s:
                return own_s
            share_s = (self._cpu_left_s - sum(self._used_s.values())) / len(self._used_s)
            return min(own_s, share_s, _MAX_CPU_STEP_S)

    def mark_stopping(self, allocation: Allocation) -> None:
        """The container is being stopped: new requests wait for its share."""
        with self._changed:
            if allocation in self._used_s:
                self._stopping.add(allocation)

    def mark_stopped(self, allocation: Allocation, used_s: float | None, *, is_kept: bool = False) -> None:
        """Its program has ended with this CPU time; None: the last known value counts. Only the first call changes anything.

        ``is_kept``: the container stays for another program. Else it is being removed now.
        """
        with self._changed:
            seen_s = self._used_s.pop(allocation, None)
            if seen_s is None:
                return
            self._stopping.discard(allocation)
            self._cpu_left_s -= max(seen_s, used_s or 0.0)
            if not is_kept:
                self._removing.add(allocation)
            self._changed.notify_all()

    def mark_removing(self, allocation: Allocation) -> None:
        """A container that was kept is being removed now."""
        with self._changed:
            self._removing.add(allocation)
            self._changed.notify_all()

    def release(self, allocation: Allocation) -> None:
        """The ended container is removed."""
        with self._changed:
            self._removing.discard(allocation)
            self._students_left += 1
            self._memory_left_mib += allocation.limits.memory_mib
            self._changed.notify_all()

    def _has_room(self, request: RunStudent) -> bool:
        return self._students_left > 0 and (request.memory_mib or self._limits.memory_mib) <= self._memory_left_mib

    def _memory_error(self, wanted_mib: int) -> str:
        if 0 < wanted_mib < SMALLEST_MEMORY_MIB:
            return f"a student container needs at least {SMALLEST_MEMORY_MIB} MiB, and {wanted_mib} were asked for"
        wants = f"it wants {wanted_mib} MiB, and " if wanted_mib else ""
        return (
            f"{wants}{self._memory_left_mib} MiB are left beside the student containers that run: give each its --memory,"
            " or the task a larger Grader(student_memory_mib=...)"
        )

    def _allocation_for(self, request: RunStudent, memory_mib: int) -> Allocation:
        """Limits within what is left of the job, less a grace period, so that the grader outlives a student that sleeps."""
        grace_s = min(_MAX_GRACE_S, _GRACE_FRACTION * self._limits.wall_s)
        cpu_left_s = self._cpu_left_s - sum(self._used_s.values())
        asked_s = request.cpu_time_s or self._limits.cpu_time_s
        cpu_time_s = min(asked_s, cpu_left_s)
        if cpu_time_s < _MIN_TIME_S:
            raise BudgetExceeded("no CPU time is left for student containers", timeout=True)
        wall_time_s = min(request.wall_time_s or 3 * cpu_time_s, self._wall_time_left_s() - grace_s)
        if wall_time_s < _MIN_TIME_S:
            raise BudgetExceeded("no time is left for student containers", timeout=True)
        limits = replace(self._limits, cpu_time_s=cpu_time_s, wall_time_s=wall_time_s, memory_mib=memory_mib)
        return Allocation(limits=limits, has_less_cpu=cpu_time_s < asked_s)
