"""A ledger in a world where all goes well and time is ours: jobs come when told, take as long as told, and leave no container."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from jobmanager import DockerHost, Limits, Task
from jobmanager.model.container import Image
from jobmanager.scheduling.commands import CheckHost, PublishResult, SubmitJob
from tests.unit.ledger_driver import SUCCESS, Driver

MEMORY_MIB = 4096  # of each host
_FOR_EVER = 1e9


class Simulation:
    """``at`` says what happens when; ``run`` lets it; then ``started`` and ``ended`` tell when each job did."""

    def __init__(self, hosts: dict[str, int], *images: Image, queue_timeout_s: float = 1e9) -> None:
        configs = [DockerHost("unix:///s", name=name, max_concurrent_jobs=limit) for name, limit in hosts.items()]
        self.driver = Driver(configs, max_waiting_jobs=10**6, queue_timeout_s=queue_timeout_s)
        self.ledger = self.driver.ledger
        self.begin = self.driver.clock.now
        for name in hosts:
            self.driver.answers(name, *images, memory_mib=MEMORY_MIB)
        self.accepted: dict[str, float] = {}
        self.started: dict[str, float] = {}  # in the order of their starts
        self.ended: dict[str, float] = {}
        self.host: dict[str, str] = {}
        self.looks: list[str] = []
        self.takes_s: dict[str, float] = {}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._next_tick = 1.0

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self.driver.clock.now - self.begin

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), what))

    def job(
        self,
        job_id: str,
        takes_s: float = 1.0,
        *,
        launcher: str = "ann",
        priority: int = 0,
        environment: str = "python3",
        kind: str = "",
        supersede_key: str | None = None,
        **limits: float,
    ) -> None:
        """A job comes now."""
        limits = {"memory_mib": 64, "wall_time_s": 100, **limits}
        task = Task(environment, command="x", name=kind or f"takes {takes_s:g}", limits=Limits(**limits))
        self.takes_s[job_id] = takes_s
        self.accepted[job_id] = self.now
        self.driver.accept(job_id, task, launcher=launcher, priority=priority, supersede_key=supersede_key)

    def run(self, until: float = _FOR_EVER) -> None:
        """Let happen what is due by then; without a time, all of it."""
        self.carry_out()
        while self._due or until < _FOR_EVER:
            when = min([self._next_tick, *(due[0] for due in self._due[:1])])
            if when > until:
                break
            self.driver.clock.now = self.begin + when
            if when == self._next_tick:
                self._next_tick += 1.0
                self.ledger.tick()
            while self._due and self._due[0][0] <= when:
                heapq.heappop(self._due)[2]()
            self.carry_out()
        if until < _FOR_EVER:
            self.driver.clock.now = self.begin + until

    def carry_out(self) -> None:
        for order in self.ledger.take_commands():
            if isinstance(order, SubmitJob):
                job_id = order.request.job_id
                self.started[job_id], self.host[job_id] = self.now, order.host
                self.driver.runs(order.container)
                self.at(self.now + self.takes_s[job_id], lambda order=order: self._end(order))
            elif isinstance(order, PublishResult):
                self.ended[order.request.job_id] = self.now
                self.ledger.callback_returned(order.request.job_id)
            elif isinstance(order, CheckHost):
                self.looks.append(order.host)

    def _end(self, order: SubmitJob) -> None:
        self.ledger.run_ended(order.container, SUCCESS)
        self.ledger.container_deleted(order.container)

    def waited(self, job_id: str) -> float:
        return self.started[job_id] - self.accepted[job_id]

    def order(self) -> list[str]:
        """Jobs in the order of their starts."""
        return list(self.started)
