"""A ledger in a simulated world: jobs come when told, take as long as told, and leave no container. Nothing goes wrong there."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jobmanager import DockerHost, JobInput, Limits, Task
from jobmanager.model.container import EngineInfo, Image
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.facts import CapturedOutput, ProgramEnd, ProgramExited, RunFacts
from jobmanager.scheduling.commands import CheckHost, PublishResult, SubmitContainer
from jobmanager.scheduling.ledger import Ledger

MEMORY_MIB = 4096  # of each host
FOR_EVER_S = 1e9
PYTHON = Image(id="sha256:py", references=("python:3",), labels={"jobmanager.environment": "python3"}, created_at_s=1.0)
SUCCESS = RunFacts(
    ending=ProgramExited(end=ProgramEnd(exit_code=0)), output=CapturedOutput(stdout=b"ok", stdout_bytes=2), wall_time_s=1.0
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        """Seconds since 1970."""
        return self.now + 1_700_000_000.0


class QueueSimulation:
    """``at`` says what happens when; ``run`` lets it happen; then ``started`` and ``ended`` have the time of each job."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.begin = self.clock.now
        self.accepted: dict[str, float] = {}
        self.started: dict[str, float] = {}  # in the order of their starts
        self.ended: dict[str, float] = {}
        self.host: dict[str, str] = {}
        self.checks: list[str] = []
        self.takes_s: dict[str, float] = {}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._next_tick = 1.0

    @classmethod
    def of(cls, hosts: Mapping[str, int], images: Mapping[str, Sequence[Image]] | None = None) -> QueueSimulation:
        """Hosts with so many slots, which are up, and have these images, or PYTHON."""
        clock = Clock()
        ledger = Ledger(
            [DockerHost("unix:///s", name=name, max_concurrent_jobs=slots) for name, slots in hosts.items()],
            {},
            manager_id="m",
            max_waiting_jobs=10**6,
            queue_timeout_s=FOR_EVER_S,
            host_lost_timeout_s=60.0,
            clock=clock,
            wall_clock=clock.wall,
        )
        info = EngineInfo(version="20.10", cores=4, memory_mib=MEMORY_MIB, now_s=0.0, cgroup="2")
        for name in hosts:
            ledger.host_answered(name, info, (images or {}).get(name, (PYTHON,)))
        return cls(ledger, clock)

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self.clock.now - self.begin

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Let something happen at that time."""
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
        memory_mib: int = 64,
        wall_time_s: float = 100,
    ) -> None:
        """A job comes now. Jobs of one ``kind`` have one task name; without it those that take equally long."""
        limits = Limits(memory_mib=memory_mib, wall_time_s=wall_time_s)
        task = Task(environment, command="x", name=kind or f"takes {takes_s:g}", limits=limits)
        self.takes_s[job_id] = takes_s
        self.accepted[job_id] = self.now
        request = Request(
            job_id=job_id,
            task=task,
            inputs=JobInput(),
            runs=(RunRequest(task=task),),
            priority=priority,
            launcher_name=launcher,
            debug=False,
            supersede_key=supersede_key,
        )
        self.ledger.accept(request, None)

    def run(self, until: float = FOR_EVER_S) -> None:
        """Let happen what is due by then; without a time, all of it."""
        self.carry_out()
        while self._due or until < FOR_EVER_S:
            when = min([self._next_tick, *(due[0] for due in self._due[:1])])
            if when > until:
                break
            self.clock.now = self.begin + when
            if when == self._next_tick:
                self._next_tick += 1.0
                self.ledger.tick()
            while self._due and self._due[0][0] <= when:
                heapq.heappop(self._due)[2]()
            self.carry_out()
        if until < FOR_EVER_S:
            self.clock.now = self.begin + until

    def carry_out(self) -> None:
        """Carry out the ledger's commands."""
        for command in self.ledger.take_commands():
            if isinstance(command, SubmitContainer):
                job_id = command.request.job_id
                self.started[job_id], self.host[job_id] = self.now, command.host
                self.ledger.container_started(
                    command.container, container_id=command.container, image_command=(), duration_s=0.1
                )
                self.at(self.now + self.takes_s[job_id], partial(self._end, command.container))
            elif isinstance(command, PublishResult):
                self.ended[command.request.job_id] = self.now
                self.ledger.callback_returned(command.request.job_id)
            elif isinstance(command, CheckHost):
                self.checks.append(command.host)

    def waited(self, job_id: str) -> float:
        """How long a job waited for its start."""
        return self.started[job_id] - self.accepted[job_id]

    def order(self) -> list[str]:
        """Jobs in the order of their starts."""
        return list(self.started)

    def _end(self, container: str) -> None:
        self.ledger.run_ended(container, SUCCESS)
        self.ledger.container_deleted(container)
