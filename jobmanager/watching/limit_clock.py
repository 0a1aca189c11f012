"""The meter: what a container has used of its time, by our clock and by the engine's counter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import Limit, LimitHit

_log = logging.getLogger(__name__)

_UNTOLD_S = 1.0  # between looks at a CPU counter that the engine does not tell
_SHORTEST_S = 0.1  # between looks


class Meter:
    """Reads the clocks of one watch, in its thread. A look at the CPU counter is due when it could have reached the limit."""

    def __init__(
        self, job: MonitorContainer, engine: Engine, *, cpu_left_s: Callable[[float], float] | None, clock: Callable[[], float]
    ) -> None:
        """``cpu_left_s``: of what the container has used, how much more it may; None: up to its limit."""
        self.cpu_time_s: float | None = None
        self.peak_memory_bytes: int | None = None
        self._job = job
        self._engine = engine
        self._cpu_left_s = cpu_left_s or (lambda used_s: job.limits.cpu_time_s - used_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._stands_still, self._since, self._stood_s = 0, 0.0, 0.0
        self._most_standstill_s = job.limits.standstill_s if job.grading is not None else 0.0
        self.start(clock() - job.elapsed_s)

    def start(self, at: float) -> None:
        """The program begins."""
        self._started_at = at
        self._next_look = at + self._cpu_left_s(0.0) / self._job.limits.cpus

    def wall_time_s(self, until: float | None = None) -> float:
        """Seconds since then, less its standstills; until now when nothing else is said."""
        return (self._clock() if until is None else until) - self._started_at - self._standstill_s()

    def without_standstill_s(self, seconds: float) -> float:
        """The same of a time that somebody else measured, who knows of none."""
        return max(0.0, seconds - self._standstill_s())

    def stand_still(self) -> None:
        """From any thread; as often as this, ``goes_on`` is called."""
        with self._lock:
            if self._stands_still == 0:
                self._since = self._clock()
            self._stands_still += 1

    def goes_on(self) -> None:
        with self._lock:
            self._stands_still -= 1
            if self._stands_still == 0:
                self._stood_s += self._clock() - self._since

    def _standstill_s(self) -> float:
        with self._lock:
            now_s = self._clock() - self._since if self._stands_still else 0.0
            return min(self._stood_s + now_s, self._most_standstill_s)

    def reached(self, cpu_before_ns: int) -> LimitHit | None:
        """A limit of time that is used up. ``cpu_before_ns``: the counter when the program began."""
        wall_s = self.wall_time_s()
        if wall_s >= self._job.limits.wall_s:
            return LimitHit(limit=Limit.WALL, measured=wall_s)
        return self.reached_cpu(cpu_before_ns)

    def reached_cpu(self, cpu_before_ns: int) -> LimitHit | None:
        """The limit of CPU time, looked at when it is due."""
        if self._clock() < self._next_look:
            return None
        if not self.measure(cpu_before_ns):
            self._next_look = self._clock() + _UNTOLD_S
            return None
        used_s = self.cpu_time_s or 0.0
        left_s = self._cpu_left_s(used_s)
        if left_s <= 0:
            return LimitHit(limit=Limit.CPU, measured=used_s)
        self._next_look = self._clock() + max(_SHORTEST_S, left_s / self._job.limits.cpus)
        return None

    def measure(self, cpu_before_ns: int) -> bool:
        """The engine's counters, which no program can reach; False when it does not tell them."""
        try:
            used = self._engine.usage(self._job.container_id)
        except EngineError as error:
            _log.debug("usage of %s: %s", self._job.container_name, error)  # the stream will tell what is the matter
            return False
        if used is None:
            return False
        self.cpu_time_s = max(0.0, (used.cpu_time_ns - cpu_before_ns) / 1e9)
        self.peak_memory_bytes = used.peak_memory_bytes
        return True
