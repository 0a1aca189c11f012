"""The waiter: one process, or more, for each Docker host. It monitors containers and reports how they end.

::

    main thread         reads the wait queue (the pipe): containers to monitor, kills
    thread per monitor  follows one container (``watching/monitor.py``)
    outbox              writes to the manager, which may stand still; monitors write small reports themselves
    heartbeat           tells the manager every second that this process is not stuck
    reconciler          lists our containers every few seconds: finds ends that a broken stream hid, and unknown containers
    host monitor        in one waiter of each host: checks the host, sweeps leftovers of dead managers

There is no event stream: each container's own output stream ends with the container, at once, and the list depends on no
stream (``docs/how-it-works.md`` has the reasons).
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from jobmanager.engine.connect import connect, engine_class
from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL, Owner
from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import (
    CheckHostNow,
    ClosedManagers,
    FetchOutput,
    Heartbeat,
    KillContainer,
    MonitorAcknowledged,
    MonitorContainer,
    RunEnded,
    Shutdown,
    UnknownContainers,
    WaiterSettings,
)
from jobmanager.ipc.process import forward_logs
from jobmanager.model.container import ContainerStatus
from jobmanager.results.facts import InfrastructureFailure, JobNotSent, RunCutOff, RunFacts
from jobmanager.runner.binaries import binary
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.checking import Checking
from jobmanager.watching.host_monitor import HostMonitor
from jobmanager.watching.interaction import Interaction
from jobmanager.watching.judge_container import JudgesHost
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.outbox import Outbox
from jobmanager.watching.spool import Spool
from jobmanager.watching.students import StudentContainers

_log = logging.getLogger(__name__)

_the_waiter: Waiter | None = None
_HEARTBEAT_S = 1.0
_FLUSH_TIMEOUT_S = 1.0
_STACK_BYTES = 512 * 1024


def main(connection: Connection) -> None:
    """Serve one host's wait queue until ``Shutdown``."""
    settings = connection.recv()
    threading.stack_size(_STACK_BYTES)
    outbox = Outbox(connection)
    outbox.start()
    forward_logs(outbox.send, lambda: outbox.drain(_FLUSH_TIMEOUT_S))
    engine_class(settings.address)  # before threads start: of several that fail to import it at once, some report a wrong reason
    global _the_waiter
    waiter = _the_waiter = Waiter(settings, outbox.send)
    waiter.start()
    outbox.send(Heartbeat())  # before the first job, so that a later death is not taken for a failed start
    while not isinstance(message := connection.recv(), Shutdown):
        waiter.handle(message)
    waiter.remove_all()  # also a container that was created after its start had been given up


def on_parent_death() -> None:
    """The manager has died: remove its containers and what was kept of them, as far as there is time."""
    if _the_waiter is not None:
        _the_waiter.remove_spools()
        _the_waiter.remove_all()
        _the_waiter.remove_spools()  # a monitor may have kept something meanwhile


class Waiter:
    """The work of a waiter process; ``send`` reaches the manager."""

    def __init__(self, settings: WaiterSettings, send: Callable[[Any], bool]) -> None:
        """``send`` returns whether the manager is sure to have what the next waiter must not report again."""
        self._settings = settings
        self._send = send
        self._lock = threading.Lock()
        self._monitors: dict[str, ContainerMonitor | CasesMonitor] = {}  # by container name; no name is used twice
        owner = Owner.parse(settings.owner) or Owner.this_process()
        self._runners = RunnerVolumes(
            manager_id=settings.manager_id, manager_name=settings.manager_name, owner=owner, binary_for=binary
        )
        self._host_monitor = HostMonitor(settings, send, self._runners) if settings.monitors_host else None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the threads that do not belong to a container."""
        for loop in (self._send_heartbeats, self._reconcile):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        if self._host_monitor is not None:
            self._host_monitor.start()

    def handle(self, message: MonitorContainer | KillContainer | FetchOutput | CheckHostNow | ClosedManagers) -> None:
        """Handle a message of the manager. Never blocks on the engine; an error costs one job at most."""
        try:
            self._dispatch(message)
        except Exception as error:  # noqa: BLE001 - the loop's edge: no more threads, or a bug
            _log.exception("%s could not be carried out", type(message).__name__)
            if isinstance(message, MonitorContainer):
                self._report_failure(message, error)
        if isinstance(message, MonitorContainer):
            self._send(MonitorAcknowledged(container_name=message.container_name))

    def _dispatch(self, message: MonitorContainer | KillContainer | FetchOutput | CheckHostNow | ClosedManagers) -> None:
        if isinstance(message, MonitorContainer):
            self._start_monitor(message)
        elif isinstance(message, KillContainer):
            self._kill(message.container_name)
        elif isinstance(message, FetchOutput):
            self._fetch_output(message)
        elif self._host_monitor is None:
            return
        elif isinstance(message, ClosedManagers):
            self._host_monitor.managers_closed(message.manager_ids)
        else:
            self._host_monitor.check_now()

    def remove_all(self) -> None:
        """Remove this manager's containers and volumes from the host."""
        if not self._settings.monitors_host:
            return
        engine = self._connect()
        with suppress(EngineError):  # the next start sweeps what is left
            for found in engine.list({MANAGER_LABEL: self._settings.manager_id}):
                with suppress(EngineError):
                    engine.remove(found.id)
            for volume in engine.volumes({MANAGER_LABEL: self._settings.manager_id}):
                with suppress(EngineError):
                    engine.remove_volume(volume.name)
        self._runners.release(engine, self._settings.address.host)

    def remove_spools(self) -> None:
        """Remove what this manager's waiters have kept of their containers."""
        if self._settings.spool_folder:
            shutil.rmtree(self._settings.spool_folder, ignore_errors=True)

    def register(self, name: str, monitor: ContainerMonitor | CasesMonitor) -> None:
        """This container has a monitor here."""
        with self._lock:
            self._monitors[name] = monitor

    def unregister(self, name: str) -> None:
        """Its monitor has ended."""
        with self._lock:
            self._monitors.pop(name, None)

    def _kill(self, container_name: str) -> None:
        with self._lock:
            monitor = self._monitors.get(container_name)
        if monitor is not None:  # else the container has ended, and its report is on its way
            monitor.kill()

    def _fetch_output(self, request: FetchOutput) -> None:
        with self._lock:
            monitor = self._monitors.get(request.container_name)
        if monitor is not None:  # else the report, with all output, is on its way
            monitor.fetch_output(request)

    def _start_monitor(self, job: MonitorContainer) -> None:
        """The monitor is registered before its thread starts, so that a kill that comes next finds it."""
        engine, beside = self._connect(), self._containers_beside(job)
        spool = Spool.in_folder(self._settings.spool_folder, job.container_name)
        monitor = self._new_monitor(job, engine, spool, beside)
        self.register(job.container_name, monitor)
        target, name = self._run_monitor, f"monitor-{job.job_id}"
        try:
            threading.Thread(target=target, args=(job, monitor, engine, beside, spool), name=name, daemon=True).start()
        except RuntimeError:
            engine.close()
            raise

    def _new_monitor(
        self, job: MonitorContainer, engine: Engine, spool: Spool, beside: StudentContainers | Checking | Interaction | None
    ) -> ContainerMonitor | CasesMonitor:
        lost_s = self._settings.host_lost_timeout_s
        if job.cases is not None:
            assert not isinstance(beside, StudentContainers), "cases have no grader"
            return CasesMonitor(job, engine, host_lost_timeout_s=lost_s, send=self._send, spool=spool, partner=beside)
        assert not isinstance(beside, (Checking, Interaction)), "only cases have what judges them"
        students = beside
        monitor = ContainerMonitor(job, engine, host_lost_timeout_s=lost_s, send=self._send, spool=spool, session=students)
        if students is not None:
            students.attach_to(monitor)
        return monitor

    def _report_failure(self, job: MonitorContainer, error: Exception) -> None:
        """This waiter cannot monitor the job, and has not sent it; an earlier waiter may have."""
        self.unregister(job.container_name)
        failure = InfrastructureFailure(reason=f"it cannot be monitored: {type(error).__name__}: {error}")
        facts = RunFacts(ending=RunCutOff(cause=failure) if job.taken_over else JobNotSent(cause=failure))
        self._send(RunEnded(job_id=job.job_id, container_name=job.container_name, facts=facts))

    def _run_monitor(
        self,
        job: MonitorContainer,
        monitor: ContainerMonitor | CasesMonitor,
        engine: Engine,
        beside: StudentContainers | Checking | Interaction | None,
        spool: Spool,
    ) -> None:
        try:
            if isinstance(beside, (Checking, Interaction)):
                beside.start()
            facts = monitor.run()
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("monitoring job %s failed", job.job_id)
            facts = RunFacts(ending=RunCutOff(cause=InfrastructureFailure(reason=f"{type(error).__name__}: {error}")))
        try:
            if beside is not None:
                beside.close()
        finally:
            self.unregister(job.container_name)
            is_told = self._send(RunEnded(job_id=job.job_id, container_name=job.container_name, facts=facts))
            spool.remove()
            monitor.close(leave=facts.is_leaving and is_told)
            engine.close()

    def _containers_beside(self, job: MonitorContainer) -> StudentContainers | Checking | Interaction | None:
        """Those that are started from here: a grader's students, or what judges cases."""
        host, lost_s = self._settings.address.host, self._settings.host_lost_timeout_s
        if job.grading is not None:
            return StudentContainers(
                job, host=host, runners=self._runners, connect=self._connect, host_lost_timeout_s=lost_s, monitors=self
            )
        if job.cases is None:
            return None
        judges_host = JudgesHost(
            name=host,
            runners=self._runners,
            connect=self._connect,
            lost_timeout_s=lost_s,
            monitors=self,
            spool_folder=self._settings.spool_folder,
        )
        if job.cases.interactor is not None:
            return Interaction(job, job.cases.interactor, judges_host)
        if job.cases.checkers:
            return Checking(job, job.cases.checkers, judges_host)
        return None

    def _connect(self) -> Engine:
        return connect(self._settings.address, timeout_s=self._settings.engine_timeout_s)

    def _send_heartbeats(self) -> None:
        while not self._stopping.wait(_HEARTBEAT_S):
            self._send(Heartbeat())

    def _reconcile(self) -> None:
        """Compare our monitors with the engine's containers, again and again."""
        engine: Engine | None = None
        unknown: set[str] = set()
        has_answered = True
        while not self._stopping.wait(self._settings.reconcile_interval_s):
            try:
                engine = engine or self._connect()
                unknown = self._compare(engine, unknown)
                has_answered = True
            except EngineError as error:
                _log.debug("list on %s: %s", self._settings.address.host, error)
                if has_answered and self._host_monitor is not None:  # so that the manager knows at once
                    self._host_monitor.check_now()
                has_answered = False
            except Exception:  # noqa: BLE001 - the loop's edge: an odd answer must not end the comparison
                _log.exception("comparing with host %s failed", self._settings.address.host)

    def _compare(self, engine: Engine, unknown_before: set[str]) -> set[str]:
        """Have monitors check containers that have ended, report unknown containers, and return these."""
        with self._lock:
            monitored = {monitor.container_id: monitor for monitor in self._monitors.values()}  # by id: names can be changed
            names = set(self._monitors)
        found = {state.id: state for state in engine.list({MANAGER_LABEL: self._settings.manager_id})}
        for id_, monitor in monitored.items():
            if id_ not in found or found[id_].status is ContainerStatus.ENDED:
                monitor.check()
        names |= {state.name for state in found.values()}
        students = {id_ for id_, state in found.items() if state.labels.get(STUDENT_LABEL) in names}  # they end with their job
        unknown = found.keys() - monitored.keys() - students
        seen_twice = unknown & unknown_before
        if seen_twice and self._settings.monitors_host:
            self._send(UnknownContainers(names=tuple(sorted(found[id_].name for id_ in seen_twice))))
        return unknown
