"""A container whose runner says what a test tells it to say, and the engine that has it: all in memory, with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from jobmanager import Limits
from jobmanager.engine.protocol import Engine, NoSuchContainer, NotRunning, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerInfo, ContainerStatus, EngineInfo, Usage
from jobmanager.results.facts import RunFacts
from jobmanager.runner.frames import (
    DownMessage,
    Ended,
    HowEnded,
    Kill,
    Leave,
    OutputData,
    ProgramStream,
    RunnerState,
    Started,
    StartRun,
    StoppedBy,
)
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.spool import Spool
from tests.support.scripted_runner import MemoryChannel, ScriptedRunner

STARTED = Started(run=1, volumes=())


def ended(**fields: Any) -> Ended:
    """The end of a program that exited with 0, but for these fields."""
    known: dict[str, Any] = {
        "how": HowEnded.EXITED,
        "code": 0,
        "stopped_by": StoppedBy.NOBODY,
        "cpu_us": 100_000,
        "wall_us": 200_000,
        "peak_bytes": 2**20,
        "peak_is_exact": True,
        "oom_kills": 0,
        "fork_refusals": 0,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "full": (),
        "left": False,
    }
    return Ended(run=1, **{**known, **fields})


def printed(text: bytes, offset: int = 0) -> OutputData:
    return OutputData(run=1, stream=ProgramStream.STDOUT, offset=offset, data=text)


class ScriptedContainer(ScriptedRunner):
    """Runs when it is told to.

    Args:
        on_message: is given each message but signs of life, and has the runner say something.
    """

    def __init__(self, on_message: Callable[[ScriptedContainer, DownMessage], None] | None = None) -> None:
        super().__init__()
        self.state: dict[str, Any] = {"status": ContainerStatus.RUNNING, "started_at_s": 1.0}
        self.is_gone = False
        self.is_unreachable = False
        self.inspections = self.kills = self.usages = 0
        self.cpu_s: float | None = None
        self.sent: list[object] = []  # by the monitor to its manager
        self._on_message = on_message or (lambda _, __: None)

    def take(self, content: bytes) -> None:
        known = len(self.received)
        super().take(content)
        for message in self.received[known:]:
            if isinstance(message, StartRun):
                self.status_fields.update(run=message.run, state=RunnerState.RUNNING)
            self._on_message(self, message)

    def received_kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.received]

    def end(self, **fields: Any) -> None:
        """The container ends: its channel does, too."""
        self.state.update({"status": ContainerStatus.ENDED, "ended_at_s": 2.0, "exit_code": 137, **fields})
        if self.channels and self.channel.breaks_after is None:
            self.channel.breaks_after = 2**30  # what is on its way still comes
            self.channel.ends = True

    def facts(self, *, spool: Spool | None = None, lost_s: float = 60.0, **fields: Any) -> RunFacts:
        """What a monitor tells of it."""
        monitor = self.monitor(spool=spool, lost_s=lost_s, **fields)
        facts = monitor.run()
        monitor.close(leave=facts.is_leaving)
        return facts

    def monitor(self, *, spool: Spool | None = None, lost_s: float = 60.0, **fields: Any) -> ContainerMonitor:
        options = {name: fields.pop(name) for name in ("session", "cpu_left_s") if name in fields}
        return ContainerMonitor(
            job(**fields),
            cast(Engine, self),
            host_lost_timeout_s=lost_s,
            send=self.sent.append,
            spool=spool,
            clock=self.clock,
            **options,
        )

    # ---- the engine

    def open_channel(self, container: str) -> MemoryChannel:
        self._check()
        if self.state["status"] is ContainerStatus.ENDED:
            raise NotRunning(container)
        return super().open_channel(container)

    def inspect(self, container: str) -> ContainerInfo:
        self.inspections += 1
        self.now += 0.1 if self.is_unreachable else 0.01
        self._check()
        return ContainerInfo(id=container, name="n", **self.state)

    def info(self) -> EngineInfo:
        self._check()
        return EngineInfo(version="20.10", cores=1, memory_mib=1, now_s=1e9, cgroup="1", engine_id="e")

    def usage(self, container: str) -> Usage | None:
        self.usages += 1
        return None if self.cpu_s is None else Usage(cpu_time_ns=int(self.cpu_s * 1e9), peak_memory_bytes=4096)

    def kill(self, container: str) -> None:
        self._check()
        self.kills += 1
        self.end()

    def close(self) -> None:
        """Of the engine's connections."""

    def _check(self) -> None:
        if self.is_unreachable:
            raise Unreachable("the engine is away")
        if self.is_gone:
            raise NoSuchContainer("no such container")


def job(**fields: Any) -> MonitorContainer:
    known: dict[str, Any] = {
        "job_id": "j",
        "container_id": "c",
        "container_name": "n",
        "command": ("prog", "arg"),
        "env": {},
        "files": {},
        "stdin": b"",
        "limits": Limits(cpu_time_s=10, wall_time_s=30),
        "collect": (),
    }
    return MonitorContainer(**{**known, **fields})


def runs(*messages: Any) -> Callable[[ScriptedContainer, DownMessage], None]:
    """A runner that says this when it is given its run, ends a run that is to be killed, and leaves when it is told to."""

    def answer(container: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            container.say(messages)
        elif isinstance(message, Kill):
            container.say([ended(how=HowEnded.SIGNALLED, code=9, stopped_by=StoppedBy.KILL)])
        elif isinstance(message, Leave):
            container.end(exit_code=0)

    return answer
