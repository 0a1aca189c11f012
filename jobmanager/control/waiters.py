"""The waiter processes as the manager sees them: wait queues, heartbeats, replacement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jobmanager.control.child_process import Child, Listen
from jobmanager.control.log_thread import logger
from jobmanager.engine.labels import retired
from jobmanager.ipc.messages import (
    CheckHostNow,
    ClosedManagers,
    FetchOutput,
    KillContainer,
    MonitorContainer,
    Shutdown,
    WaiterSettings,
)
from jobmanager.model.host import Address, DockerHost

_log = logger(__name__)

_MODULE = "jobmanager._waiter"
_HUNG_S = 6.0  # without a heartbeat; one comes every second
_STARTING_S = 30.0  # for the first one
_LONGEST_LOOK_S = 2.0  # a longer pause between two looks is our own: the machine, or this process, stood still
_LIVED_LONG_S = 5.0  # a waiter that dies sooner is replaced after a pause
_RESTART_PAUSE_S = 1.0
_FAREWELL_S = 2.0
_LEAST_FAREWELL_S = 0.05
_LOOK_INTERVAL_S = 5.0
_RECONCILE_INTERVAL_S = 2.0


@dataclass(slots=True, kw_only=True)
class _Waiter:
    """One waiter process and what is on its wait queue."""

    settings: WaiterSettings
    child: Child
    started_at: float
    silent_s: float = 0.0
    has_spoken: bool = False
    knows_retired: frozenset[str] = frozenset()
    containers: set[str] = field(default_factory=set)  # by name: a job that is run again has another one
    untaken: dict[str, None] = field(default_factory=dict)  # of these, those that it has not read of yet, in their order

    @property
    def host(self) -> str:
        """The host that it watches."""
        return self.settings.address.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a waiter's death leaves."""

    host: str
    containers: tuple[str, ...]  # that nobody watches now
    has_spoken: bool  # False: it died before its first word
    over: str  # the container that it was reading of, if it had spoken; perhaps that killed it


class Waiters:
    """All waiters of a manager. Not thread-safe: the manager's loop alone uses it."""

    def __init__(
        self,
        listen: Listen,
        hosts: Sequence[DockerHost],
        *,
        manager_id: str,
        engine_timeout_s: float,
        host_lost_timeout_s: float,
        cannot_start: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cannot_start`` is told of a host, and why, whenever no process can be had for it."""
        self._listen = listen
        self._cannot_start = cannot_start
        self._hosts = hosts
        self._manager_id = manager_id
        self._engine_timeout_s = engine_timeout_s
        self._host_lost_timeout_s = host_lost_timeout_s
        self._clock = clock
        self._waiters: dict[Child, _Waiter] = {}
        self._to_start: list[tuple[float, WaiterSettings]] = []
        self._looked_at = clock()

    def start(self, addresses: Mapping[str, Address]) -> None:
        """Start one waiter, or more, for each host."""
        for host in self._hosts:
            for number in range(host.waiters):
                self._start_one(
                    WaiterSettings(
                        address=addresses[host.name],
                        manager_id=self._manager_id,
                        monitors_host=number == 0,
                        engine_timeout_s=self._engine_timeout_s,
                        host_lost_timeout_s=self._host_lost_timeout_s,
                        host_check_interval_s=_LOOK_INTERVAL_S,
                        reconcile_interval_s=_RECONCILE_INTERVAL_S,
                    )
                )

    def watch(self, host: str, job: MonitorContainer) -> bool:
        """Put a job on the wait queue of the host's least busy waiter; False while the host has none."""
        waiters = [waiter for waiter in self._waiters.values() if waiter.host == host]
        if not waiters:
            return False
        waiter = min(waiters, key=lambda waiter: len(waiter.containers))
        waiter.containers.add(job.container_name)
        waiter.untaken[job.container_name] = None
        waiter.child.send(job)
        return True

    def kill(self, container: str) -> None:
        """Have a container killed."""
        for waiter in self._waiters.values():
            if container in waiter.containers:
                waiter.child.send(KillContainer(container_name=container))

    def show(self, asked: FetchOutput) -> None:
        """Ask for a container's output; one that nobody watches is asked for again when somebody does."""
        for waiter in self._waiters.values():
            if asked.container_name in waiter.containers:
                waiter.child.send(asked)

    def look(self, host: str) -> None:
        """Have a host looked at now."""
        for waiter in self._waiters.values():
            if waiter.host == host and waiter.settings.monitors_host:
                waiter.child.send(CheckHostNow())

    def heard(self, child: Child) -> str | None:
        """A waiter has said something: it lives. Returns its host; None when it has been given up already."""
        waiter = self._waiters.get(child)
        if waiter is None:
            return None
        waiter.silent_s, waiter.has_spoken = 0.0, True
        return waiter.host

    def taken(self, container: str) -> None:
        """A waiter has read of a container, and lives."""
        for waiter in self._waiters.values():
            waiter.untaken.pop(container, None)

    def ended(self, container: str) -> None:
        """A waiter has reported a container's end, or nothing is left of it."""
        self.taken(container)
        for waiter in self._waiters.values():
            waiter.containers.discard(container)

    def gone(self, child: Child, why: str = "") -> Lost | None:
        """A waiter has died; another one is started."""
        waiter = self._waiters.pop(child, None)
        if waiter is None:
            return None
        _log.warning("a waiter of host %s died with %d jobs (%s); another takes over", waiter.host, len(waiter.containers), why)
        now = self._clock()
        lived_long = now - waiter.started_at > _LIVED_LONG_S
        self._to_start.append((now if lived_long else now + _RESTART_PAUSE_S, waiter.settings))
        self.do_what_is_due()
        over = next(iter(waiter.untaken), "") if waiter.has_spoken else ""
        return Lost(host=waiter.host, containers=tuple(sorted(waiter.containers)), has_spoken=waiter.has_spoken, over=over)

    def do_what_is_due(self) -> None:
        """Start what waits to be started, and end waiters that hang: another takes over when they are gone."""
        now = self._clock()
        due = [settings for at, settings in self._to_start if at <= now]
        self._to_start = [entry for entry in self._to_start if entry[0] > now]
        for settings in due:
            self._start_one(settings)
        passed_s, self._looked_at = min(now - self._looked_at, _LONGEST_LOOK_S), now
        for waiter in self._waiters.values():
            waiter.silent_s += passed_s
            if waiter.silent_s > (_HUNG_S if waiter.has_spoken else _STARTING_S):
                _log.warning("a waiter of host %s hangs: ending it", waiter.host)
                waiter.child.kill()
                waiter.silent_s = 0.0  # its end is on its way
        self._tell_of_the_retired()

    def children(self) -> list[Child]:
        """All of them."""
        return list(self._waiters)

    def _tell_of_the_retired(self) -> None:
        now_retired = retired()
        for waiter in self._waiters.values():
            if waiter.settings.monitors_host and waiter.knows_retired != now_retired:
                waiter.knows_retired = now_retired
                waiter.child.send(ClosedManagers(manager_ids=now_retired))

    def _start_one(self, settings: WaiterSettings) -> None:
        now = self._clock()
        try:
            child = Child(_MODULE, self._listen)
        except Exception as error:  # noqa: BLE001 - no memory, no descriptor, no process to be had: perhaps later
            _log.error("a waiter of host %s cannot be started: %s", settings.address.host, error)
            self._cannot_start(settings.address.host, f"the process that is to look at it cannot be started: {error}")
            self._to_start.append((now + _RESTART_PAUSE_S, settings))
            return
        child.send(settings)
        self._waiters[child] = _Waiter(settings=settings, child=child, started_at=now)


def farewell(children: Sequence[Child]) -> None:
    """Tell children to leave, all at once, then see each of them out; what hangs is killed."""
    for child in children:
        child.send(Shutdown())
    until = time.monotonic() + _FAREWELL_S
    for child in children:
        child.end(max(_LEAST_FAREWELL_S, until - time.monotonic()))
