"""The limit clock: what a container has used of its time limits, by our clock and by the engine's CPU counter.

The runner enforces the limits, and knows exactly when. The waiter enforces what only it knows: a grader's wall clock, which
stands still while its student containers start, and a sum of CPU time that several containers share. For all others it is the
backstop, for a runner that is throttled, frozen or starved.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import Limit, LimitHit
from jobmanager.watching.backstop import PATIENCE_S

_log = logging.getLogger(__name__)

_RETRY_INTERVAL_S = 1.0  # after a CPU counter that the engine did not give
_MIN_INTERVAL_S = 0.1  # between two checks of the CPU counter


class LimitClock:
    """Belongs to one monitor, and runs in its thread. The CPU counter is read when it could have reached the limit."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        cpu_left_s: Callable[[float], float] | None,
        cpu_before_s: float = 0.0,
        clock: Callable[[], float],
    ) -> None:
        """``cpu_left_s`` takes the CPU seconds used and returns how many more are allowed; None: the runner's limit counts."""
        self.cpu_time_s: float | None = None  # of the container since this run began, by the engine's counter
        self.peak_memory_bytes: int | None = None
        self._job = job
        self._engine = engine
        self._cpu_left_s = cpu_left_s or (lambda used_s: job.limits.cpu_time_s + PATIENCE_S - used_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._pauses, self._paused_since, self._paused_s = 0, 0.0, 0.0
        self._max_pause_s = job.limits.standstill_s if job.grading is not None else 0.0
        self._wall_s = job.limits.wall_s + (0.0 if job.grading is not None else PATIENCE_S)
        self._shares_cpu = cpu_left_s is not None
        self._beside_cpu_s = cpu_before_s  # what the container took beside this run: earlier ones, and its runner
        self._container_cpu_s = 0.0  # since it was started, as it was read last
        self.start(clock() - job.elapsed_s)

    def start(self, at: float) -> None:
        """The wall clock starts at this time."""
        self._started_at = at
        self._next_cpu_check = at + self._cpu_left_s(0.0) / self._job.limits.cpus

    def wall_time_s(self, until: float | None = None) -> float:
        """Seconds since the start, less the pauses; ``until`` is now by default."""
        return (self._clock() if until is None else until) - self._started_at - self._pause_time_s()

    def less_pauses_s(self, seconds: float) -> float:
        """The same for a time that was measured elsewhere, pauses included."""
        return max(0.0, seconds - self._pause_time_s())

    def pause(self) -> None:
        """Pause the wall clock, from any thread. Each call needs one of ``resume``."""
        with self._lock:
            if self._pauses == 0:
                self._paused_since = self._clock()
            self._pauses += 1

    def resume(self) -> None:
        """End one pause."""
        with self._lock:
            self._pauses -= 1
            if self._pauses == 0:
                self._paused_s += self._clock() - self._paused_since

    def _pause_time_s(self) -> float:
        with self._lock:
            now_s = self._clock() - self._paused_since if self._pauses else 0.0
            return min(self._paused_s + now_s, self._max_pause_s)

    def next_check_s(self) -> float:
        """Seconds until a limit could be used up; 0 or less: now."""
        wall_left_s = self._wall_s - self.wall_time_s()
        return min(wall_left_s, self._next_cpu_check - self._clock())

    def limit_reached(self) -> LimitHit | None:
        """The time limit that is used up, by as much as the runner is given for it where it is the runner's."""
        wall_s = self.wall_time_s()
        if wall_s >= self._wall_s:
            return LimitHit(limit=Limit.WALL, measured=wall_s)
        if self._clock() < self._next_cpu_check:
            return None
        return self._cpu_limit_reached()

    def enforces(self, limit: Limit) -> bool:
        """Whether the limit is the waiter's own to enforce, and not the runner's."""
        return self._job.grading is not None if limit is Limit.WALL else self._shares_cpu

    def measure(self) -> bool:
        """Read the engine's counters, which no program can change; False when the engine does not give them."""
        try:
            used = self._engine.usage(self._job.container_id)
        except EngineError as error:
            _log.debug("usage of %s: %s", self._job.container_name, error)  # the channel will show the reason
            return False
        if used is None:
            return False
        self._container_cpu_s = used.cpu_time_ns / 1e9
        self.cpu_time_s = max(0.0, self._container_cpu_s - self._beside_cpu_s)
        self.peak_memory_bytes = used.peak_memory_bytes
        return True

    def runner_counts(self, cpu_time_s: float) -> None:
        """The runner says now what this run has taken: what was read of its container beside that is not the run's."""
        self._beside_cpu_s = max(self._beside_cpu_s, self._container_cpu_s - cpu_time_s)

    def _cpu_limit_reached(self) -> LimitHit | None:
        if not self.measure():
            self._next_cpu_check = self._clock() + _RETRY_INTERVAL_S
            return None
        used_s = self.cpu_time_s or 0.0
        left_s = self._cpu_left_s(used_s)
        if left_s <= 0:
            return LimitHit(limit=Limit.CPU, measured=used_s)
        self._next_cpu_check = self._clock() + max(_MIN_INTERVAL_S, left_s / self._job.limits.cpus)
        return None
