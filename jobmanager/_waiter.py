"""The waiter: one process, or more, for each Docker host. Notices that containers have ended, and reports.

::

    main thread       reads the wait queue (the pipe): containers to watch, kills
    a thread a watch  follows one container (``watching/monitor.py``)
    outbox            writes to the manager, which may stand still
    heartbeat         tells the manager every second that this process is not stuck
    reconciler        lists our containers every few seconds: what a broken stream did not tell, and strays
    host keeper       one waiter of each host: is it up, what does it have; sweeps dead managers' leftovers

There is no event stream: each container's own output stream ends with it, at once, and the list is the truth that
does not depend on any stream (``docs/how-it-works.md`` has the reasons).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from jobmanager.engine.connect import adapter, connect
from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError
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
from jobmanager.model.container import Phase
from jobmanager.results.facts import RunFacts
from jobmanager.watching.host_monitor import HostKeeper
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.outbox import Outbox
from jobmanager.watching.students import Students

_log = logging.getLogger(__name__)

_the_waiter: Waiter | None = None
_HEARTBEAT_S = 1.0
_LAST_WORDS_S = 1.0
_STACK_BYTES = 512 * 1024


def main(connection: Connection) -> None:
    """Serve one host's wait queue until told to stop."""
    settings = connection.recv()
    threading.stack_size(_STACK_BYTES)
    outbox = Outbox(connection)
    outbox.start()
    forward_logs(outbox.send, lambda: outbox.drain(_LAST_WORDS_S))
    adapter(settings.address)  # before there are threads: where several fail to import it at once, some say a wrong reason
    global _the_waiter
    waiter = _the_waiter = Waiter(settings, outbox.send)
    waiter.start()
    outbox.send(Heartbeat())  # before the first job: a death over that is not taken for one at the start
    while not isinstance(message := connection.recv(), Shutdown):
        waiter.handle(message)
    waiter.remove_all()  # a container whose making was given up may have been made all the same, later


def orphaned() -> None:
    """The manager has gone without a word: remove its containers, as far as there is time."""
    if _the_waiter is not None:
        _the_waiter.remove_all()


class Waiter:
    """What a waiter process does; ``send`` reaches the manager."""

    def __init__(self, settings: WaiterSettings, send: Callable[[Any], None]) -> None:
        self._settings = settings
        self._send = send
        self._lock = threading.Lock()
        self._watches: dict[str, ContainerMonitor] = {}  # by container name, which is never used again
        self._keeper = HostKeeper(settings, send) if settings.monitors_host else None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the threads that do not belong to a container."""
        for loop in (self._beat, self._reconcile):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        if self._keeper is not None:
            self._keeper.start()

    def handle(self, message: MonitorContainer | KillContainer | FetchOutput | CheckHostNow | ClosedManagers) -> None:
        """Do what the manager says; never blocks on the engine. What cannot be done costs its job at most."""
        try:
            self._do(message)
        except Exception as error:  # noqa: BLE001 - the loop's edge: no more threads to be had, or a bug
            _log.exception("%s could not be carried out", type(message).__name__)
            if isinstance(message, MonitorContainer):
                self._give_up(message, error)
        if isinstance(message, MonitorContainer):
            self._send(MonitorAcknowledged(container_name=message.container_name))

    def _do(self, message: MonitorContainer | KillContainer | FetchOutput | CheckHostNow | ClosedManagers) -> None:
        if isinstance(message, MonitorContainer):
            self._begin(message)
        elif isinstance(message, KillContainer):
            self._kill(message.container_name)
        elif isinstance(message, FetchOutput):
            self._show(message)
        elif self._keeper is None:
            return
        elif isinstance(message, ClosedManagers):
            self._keeper.retired(message.manager_ids)
        else:
            self._keeper.look_now()

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

    def enlist(self, name: str, watch: ContainerMonitor) -> None:
        """This container is watched here."""
        with self._lock:
            self._watches[name] = watch

    def strike(self, name: str) -> None:
        """It is not any more."""
        with self._lock:
            self._watches.pop(name, None)

    def _kill(self, container_name: str) -> None:
        with self._lock:
            watch = self._watches.get(container_name)
        if watch is not None:  # else it has ended, and its report is on its way
            watch.kill()

    def _show(self, asked: FetchOutput) -> None:
        with self._lock:
            watch = self._watches.get(asked.container_name)
        if watch is not None:  # else its report, with all that it printed, is on its way
            watch.show(asked)

    def _begin(self, job: MonitorContainer) -> None:
        """Known before its thread starts, so that a kill that comes next finds it."""
        engine, students = self._connect(), self._students(job)
        lost_s = self._settings.host_lost_timeout_s
        watch = ContainerMonitor(job, engine, host_lost_timeout_s=lost_s, send=self._send, talk=students)
        if students is not None:
            students.of(watch)
        self.enlist(job.container_name, watch)
        target, name = self._watch, f"watch-{job.job_id}"
        try:
            threading.Thread(target=target, args=(job, watch, engine, students), name=name, daemon=True).start()
        except RuntimeError:
            engine.close()
            raise

    def _give_up(self, job: MonitorContainer, error: Exception) -> None:
        """It was never watched, so nobody has given it to its container, but perhaps an earlier waiter."""
        self.strike(job.container_name)
        trouble = f"it cannot be watched: {type(error).__name__}: {error}"
        facts = RunFacts(program_started=job.taken_over, never_started=not job.taken_over, infrastructure_error=trouble)
        self._send(RunEnded(job_id=job.job_id, container_name=job.container_name, facts=facts))

    def _watch(self, job: MonitorContainer, watch: ContainerMonitor, engine: Engine, students: Students | None) -> None:
        try:
            facts = watch.run()
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("watching job %s failed", job.job_id)
            facts = RunFacts(program_started=True, infrastructure_error=f"{type(error).__name__}: {error}")
        finally:
            engine.close()
            if students is not None:
                students.close()
            self.strike(job.container_name)
        self._send(RunEnded(job_id=job.job_id, container_name=job.container_name, facts=facts))

    def _students(self, job: MonitorContainer) -> Students | None:
        if job.grading is None:
            return None
        lost_s = self._settings.host_lost_timeout_s
        return Students(job, connect=self._connect, host_lost_timeout_s=lost_s, watched=self)

    def _connect(self) -> Engine:
        return connect(self._settings.address, timeout_s=self._settings.engine_timeout_s)

    def _beat(self) -> None:
        while not self._stopping.wait(_HEARTBEAT_S):
            self._send(Heartbeat())

    def _reconcile(self) -> None:
        """Compare what we watch with what the engine has, again and again."""
        engine: Engine | None = None
        unknown: set[str] = set()
        while not self._stopping.wait(self._settings.reconcile_interval_s):
            try:
                engine = engine or self._connect()
                unknown = self._compare(engine, unknown)
            except EngineError as error:
                _log.debug("list on %s: %s", self._settings.address.host, error)
            except Exception:  # noqa: BLE001 - the loop's edge: an odd answer must not end the comparing
                _log.exception("comparing with host %s failed", self._settings.address.host)

    def _compare(self, engine: Engine, unknown_before: set[str]) -> set[str]:
        """Have watches look whose containers have ended, tell of strays, and return what nobody here watches."""
        with self._lock:
            watched = {watch.container_id: watch for watch in self._watches.values()}  # by id: anybody can rename a container
            names = set(self._watches)
        found = {state.id: state for state in engine.list({MANAGER_LABEL: self._settings.manager_id})}
        for id_, watch in watched.items():
            if id_ not in found or found[id_].phase is Phase.ENDED:
                watch.look()
        names |= {state.name for state in found.values()}
        others = {id_ for id_, state in found.items() if state.labels.get(STUDENT_LABEL) in names}  # they end with their job
        unknown = found.keys() - watched.keys() - others
        seen_twice = unknown & unknown_before
        if seen_twice and self._settings.monitors_host:
            self._send(UnknownContainers(names=tuple(sorted(found[id_].name for id_ in seen_twice))))
        return unknown
