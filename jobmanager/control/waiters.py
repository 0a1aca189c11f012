"""The waiter processes as the manager sees them: wait queues, heartbeats, replacement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jobmanager.control.child_process import Child, Listener
from jobmanager.engine.labels import Owner, closed_managers
from jobmanager.ipc.messages import (
    CheckHostNow,
    ClosedManagers,
    FetchOutput,
    KillContainer,
    MonitorContainer,
    WaiterSettings,
)
from jobmanager.model.host import Address, DockerHost
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MODULE = "jobmanager._waiter"
_HUNG_S = 6.0  # without a heartbeat; one comes every second
_STARTING_S = 30.0  # for the first one
_MAX_STEP_S = 2.0  # a longer pause between two calls is our own: the machine, or this process, stood still
_LIVED_LONG_S = 5.0  # a waiter that dies sooner is replaced after a pause
_RESTART_PAUSE_S = 1.0
_HOST_CHECK_INTERVAL_S = 5.0
_RECONCILE_INTERVAL_S = 2.0


@dataclass(slots=True, kw_only=True)
class _WaiterProcess:
    """One waiter process and what is on its wait queue."""

    settings: WaiterSettings
    child: Child
    started_at: float
    silent_s: float = 0.0
    has_reported: bool = False
    known_closed: frozenset[str] = frozenset()
    containers: set[str] = field(default_factory=set)  # by name: a job that is run again has another one
    unacknowledged: dict[str, None] = field(default_factory=dict)  # of these, the ones whose message it has not read yet, in order

    @property
    def host(self) -> str:
        """Name of the host that it is for."""
        return self.settings.address.host


@dataclass(frozen=True, slots=True, kw_only=True)
class LostWaiter:
    """What a waiter had when it died."""

    host: str
    containers: tuple[str, ...]  # without a waiter now
    has_reported: bool  # False: it died before its first message
    over: str  # the container whose message it read last, if it had reported; perhaps that message killed it


class Waiters:
    """All waiters of a manager. Not thread-safe: the manager's loop alone uses it."""

    def __init__(
        self,
        listen: Listener,
        hosts: Sequence[DockerHost],
        *,
        manager_id: str,
        engine_timeout_s: float,
        host_lost_timeout_s: float,
        cannot_start: Callable[[str, str], None],
        manager_name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cannot_start`` gets a host and the reason, whenever no process can be started for it."""
        self._listen = listen
        self._cannot_start = cannot_start
        self._hosts = hosts
        self._manager_id = manager_id
        self._manager_name = manager_name
        self._engine_timeout_s = engine_timeout_s
        self._host_lost_timeout_s = host_lost_timeout_s
        self._clock = clock
        self._waiters: dict[Child, _WaiterProcess] = {}
        self._to_start: list[tuple[float, WaiterSettings]] = []
        self._last_step_at = clock()

    def start(self, addresses: Mapping[str, Address], *, spool_folder: str = "") -> None:
        """Start one waiter, or more, for each host. What they read of long runs is kept in the folder; empty: nowhere."""
        for host in self._hosts:
            for number in range(host.waiters):
                self._start_one(
                    WaiterSettings(
                        address=addresses[host.name],
                        manager_id=self._manager_id,
                        manager_name=self._manager_name,
                        owner=Owner.this_process().label(),
                        monitors_host=number == 0,
                        engine_timeout_s=self._engine_timeout_s,
                        host_lost_timeout_s=self._host_lost_timeout_s,
                        host_check_interval_s=_HOST_CHECK_INTERVAL_S,
                        reconcile_interval_s=_RECONCILE_INTERVAL_S,
                        spool_folder=spool_folder,
                    )
                )

    def monitor(self, host: str, job: MonitorContainer) -> bool:
        """Put a job on the wait queue of the host's least busy waiter; False while the host has none."""
        waiters = [waiter for waiter in self._waiters.values() if waiter.host == host]
        if not waiters:
            return False
        waiter = min(waiters, key=lambda waiter: len(waiter.containers))
        waiter.containers.add(job.container_name)
        waiter.unacknowledged[job.container_name] = None
        waiter.child.send(job)
        return True

    def kill(self, container: str) -> None:
        """Have a container killed."""
        for waiter in self._waiters.values():
            if container in waiter.containers:
                waiter.child.send(KillContainer(container_name=container))

    def fetch_output(self, request: FetchOutput) -> None:
        """Ask for a container's output. Without a waiter it is asked for again when there is one."""
        for waiter in self._waiters.values():
            if request.container_name in waiter.containers:
                waiter.child.send(request)

    def check_host(self, host: str) -> None:
        """Have a host checked now."""
        for waiter in self._waiters.values():
            if waiter.host == host and waiter.settings.monitors_host:
                waiter.child.send(CheckHostNow())

    def message_received(self, child: Child) -> str | None:
        """A waiter lives. Returns its host; None when the waiter has been given up already."""
        waiter = self._waiters.get(child)
        if waiter is None:
            return None
        waiter.silent_s, waiter.has_reported = 0.0, True
        return waiter.host

    def acknowledged(self, container: str) -> None:
        """A waiter has read the message about a container, and lives."""
        for waiter in self._waiters.values():
            waiter.unacknowledged.pop(container, None)

    def run_ended(self, container: str) -> None:
        """A waiter has reported a container's end, or nothing is left of it."""
        self.acknowledged(container)
        for waiter in self._waiters.values():
            waiter.containers.discard(container)

    def child_exited(self, child: Child, why: str = "") -> LostWaiter | None:
        """A waiter has died; another one is started."""
        waiter = self._waiters.pop(child, None)
        if waiter is None:
            return None
        _log.warning("a waiter of host %s died with %d jobs (%s); another takes over", waiter.host, len(waiter.containers), why)
        now = self._clock()
        lived_long = now - waiter.started_at > _LIVED_LONG_S
        self._to_start.append((now if lived_long else now + _RESTART_PAUSE_S, waiter.settings))
        self.run_due()
        over = next(iter(waiter.unacknowledged), "") if waiter.has_reported else ""
        containers = tuple(sorted(waiter.containers))
        return LostWaiter(host=waiter.host, containers=containers, has_reported=waiter.has_reported, over=over)

    def run_due(self) -> None:
        """Start what waits to be started. End waiters that hang: others take over when they have exited."""
        now = self._clock()
        due = [settings for at, settings in self._to_start if at <= now]
        self._to_start = [entry for entry in self._to_start if entry[0] > now]
        for settings in due:
            self._start_one(settings)
        passed_s, self._last_step_at = min(now - self._last_step_at, _MAX_STEP_S), now
        for waiter in self._waiters.values():
            waiter.silent_s += passed_s
            if waiter.silent_s > (_HUNG_S if waiter.has_reported else _STARTING_S):
                _log.warning("a waiter of host %s hangs: ending it", waiter.host)
                waiter.child.kill()
                waiter.silent_s = 0.0  # its end is on its way
        self._announce_closed_managers()

    def children(self) -> list[Child]:
        """All of them."""
        return list(self._waiters)

    def _announce_closed_managers(self) -> None:
        now_closed = closed_managers()
        for waiter in self._waiters.values():
            if waiter.settings.monitors_host and waiter.known_closed != now_closed:
                waiter.known_closed = now_closed
                waiter.child.send(ClosedManagers(manager_ids=now_closed))

    def _start_one(self, settings: WaiterSettings) -> None:
        now = self._clock()
        try:
            child = Child(_MODULE, self._listen)
        except Exception as error:  # noqa: BLE001 - no memory, no descriptor, no process to be had: perhaps later
            _log.error("a waiter of host %s cannot be started: %s", settings.address.host, error)
            self._cannot_start(settings.address.host, f"the process that is to check it cannot be started: {error}")
            self._to_start.append((now + _RESTART_PAUSE_S, settings))
            return
        child.send(settings)
        self._waiters[child] = _WaiterProcess(settings=settings, child=child, started_at=now)
