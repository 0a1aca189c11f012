"""Drives a ledger without I/O: a clock to turn by hand, hosts made of figures, commands carried out by nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dev.queue_simulation import PYTHON, SUCCESS, Clock
from jobmanager import DockerHost, JobInput, Limits, Match, Pipeline, Task
from jobmanager.control.reports import report_start
from jobmanager.ipc.messages import ContainerStarted, StartFailed, StartRefused
from jobmanager.model.container import EngineInfo, Image
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.facts import RunFacts
from jobmanager.scheduling.commands import CheckHost, DeleteContainer, KillRun, MonitorRun, PublishResult, SubmitContainer
from jobmanager.scheduling.ledger import Ledger

C = Image(id="sha256:c", references=("gcc:13",), labels={"jobmanager.environment": "c"}, created_at_s=1.0)
LOCAL_ONLY = Task("python3", problems={"q": Match("a")})


class Driver:
    """A ledger and everything that was commanded so far."""

    def __init__(
        self,
        hosts: Sequence[DockerHost] | Mapping[str, int] = (),
        *,
        aliases: Mapping[str, str] | None = None,
        up: bool = True,
        max_waiting_jobs: int = 100,
        queue_timeout_s: float = 100.0,
        host_lost_timeout_s: float = 60.0,
    ) -> None:
        if isinstance(hosts, Mapping):
            hosts = [DockerHost("unix:///s", name=name, max_concurrent_jobs=limit) for name, limit in hosts.items()]
        self.names = [host.name for host in hosts]
        self.clock = Clock()
        self.ledger = Ledger(
            hosts,
            aliases or {},
            manager_id="m",
            max_waiting_jobs=max_waiting_jobs,
            queue_timeout_s=queue_timeout_s,
            host_lost_timeout_s=host_lost_timeout_s,
            clock=self.clock,
            wall_clock=self.clock.wall,
        )
        self.commands: list[object] = []
        if up:
            for name in self.names:
                self.answers(name)

    # ---- what callers ask

    def accept(
        self,
        job_id: str,
        task: Task | Pipeline | None = None,
        *,
        priority: int = 0,
        callback: object = None,
        launcher: str | None = None,
        supersede_key: str | None = None,
        **limits: float,
    ) -> str:
        task = task if task is not None else Task("python3", command="true", limits=Limits(**limits))
        inputs = JobInput()
        phases = task.phases if isinstance(task, Pipeline) else ()
        runs = tuple(RunRequest(task=phase.task, phase=phase) for phase in phases)
        request = Request(
            job_id=job_id,
            task=task,
            inputs=inputs,
            runs=runs or _runs(task),
            priority=priority,
            launcher_name=f"of {job_id}" if launcher is None else launcher,
            debug=False,
            supersede_key=supersede_key,
        )
        self.ledger.accept(request, callback)
        return job_id

    # ---- what the world reports

    def answers(
        self, host: str, *images: Image, cores: int = 4, memory_mib: int = 4096, available_mib: int | None = None
    ) -> bool:
        info = EngineInfo(
            version="20.10", cores=cores, memory_mib=memory_mib, now_s=0.0, cgroup="2", available_memory_mib=available_mib
        )
        return self.ledger.host_answered(host, info, images or (PYTHON,))

    def carry_out(self) -> list[object]:
        """Take the commands and remember them."""
        new = self.ledger.take_commands()
        self.commands += new
        return new

    def submits(self) -> list[SubmitContainer]:
        return [command for command in self.carry_out() if isinstance(command, SubmitContainer)]

    def placed(self) -> dict[str, str]:
        """Jobs placed just now, and their hosts."""
        return {command.request.job_id: command.host for command in self.submits()}

    def place(self, job_id: str) -> str:
        """Let it be placed; its container's name."""
        return next(command.container for command in reversed(self.of(SubmitContainer)) if command.request.job_id == job_id)

    def start_reported(self, container: str, reply: ContainerStarted | StartFailed | StartRefused | None) -> None:
        report_start(self.ledger, container, reply)

    def runs(self, container: str) -> None:
        self.start_reported(container, ContainerStarted(container_id=f"id of {container}", image_command=("sh",), duration_s=0.1))

    def run(self, job_id: str) -> str:
        """Let it be placed and begin; its container's name."""
        container = self.place(job_id)
        self.runs(container)
        self.carry_out()
        return container

    def end(self, container: str, facts: RunFacts = SUCCESS) -> None:
        self.ledger.run_ended(container, facts)

    def finish(self, container: str) -> None:
        """Let it start, end its run and be removed."""
        self.runs(container)
        self.end(container)
        self.ledger.container_deleted(container)

    # ---- what came of it

    def of(self, kind: type) -> list:
        """All commands of a kind so far."""
        self.carry_out()
        return [command for command in self.commands if isinstance(command, kind)]

    def results(self, job_id: str) -> list[PublishResult]:
        return [command for command in self.of(PublishResult) if command.request.job_id == job_id]

    def result(self, job_id: str) -> PublishResult:
        (only,) = self.results(job_id)
        return only

    def deletes(self) -> list[str]:
        return [command.container for command in self.of(DeleteContainer)]

    def watches(self) -> list[MonitorRun]:
        return self.of(MonitorRun)

    def looks(self) -> list[str]:
        """Hosts that are to be looked at, as ordered just now."""
        return [command.host for command in self.carry_out() if isinstance(command, CheckHost)]

    def kills(self) -> list[str]:
        """Containers that were to be killed so far."""
        return [command.container for command in self.of(KillRun)]

    def slots(self) -> dict[str, int]:
        return {host.name: host.running for host in self.ledger.hosts()}

    def empty(self) -> bool:
        """Whether nothing is left to be done, and all slots are free, once all callbacks have returned."""
        for command in self.of(PublishResult):
            self.ledger.callback_returned(command.request.job_id)
        return not self.ledger.unfinished() and not self.ledger.containers() and not any(self.slots().values())


def _runs(task: Task | Pipeline) -> tuple[RunRequest, ...]:
    if isinstance(task, Pipeline):
        return tuple(replace(_run(phase.task), phase=phase) for phase in task.phases)
    return (_run(task),)


def _run(task: Task) -> RunRequest:
    checkers = tuple(RunRequest(task=checker.task) for checker in task.checkers)
    return RunRequest(task=task, interactor=_interactor(task), checkers=checkers)


def _interactor(task: Task) -> RunRequest | None:
    return None if task.interactor is None else RunRequest(task=task.interactor.task)
