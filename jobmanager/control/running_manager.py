"""Everything that runs between one start and its close, in one process: ledger, loop, callback threads."""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control import drain
from jobmanager.control.drain import Drain, ShutdownTimeouts
from jobmanager.control.lifetime import closed
from jobmanager.control.loop import Loop
from jobmanager.control.settings import ManagerSettings
from jobmanager.engine.labels import mark_closed
from jobmanager.errors import EngineUnavailable
from jobmanager.events import JobEnded, ManagerClosing, ManagerStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.process import check_children_possible
from jobmanager.model.listings import HostInfo
from jobmanager.model.result import JobResult
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.hosts import HostStatus
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import drain as drain_logs
from jobmanager.threads.log_thread import logger
from jobmanager.threads.main_thread import keep_executor, outside_main_thread, release_executor

_log = logger(__name__)
_T = TypeVar("_T")

WHAT = "JobManager"  # in messages
_READY_S = 1.0  # after which hosts that have not answered are no longer waited for
_ANY_ANSWER_S = 10.0  # for the first answer of any host
_THREAD_END_S = 2.0


class RunningManager:
    """One manager that runs. ``start`` and ``close`` once each, from any threads but the main one."""

    def __init__(self, settings: ManagerSettings, hooks: HookManager) -> None:
        """Raises NotSupported: this process can have no children of the library's."""
        check_children_possible()
        self.pid = os.getpid()
        self._hooks = hooks
        self._closing = threading.Lock()
        self._started = False
        self._stopped = False
        manager_id = self._manager_id = uuid.uuid4().hex[:12]
        self.ledger = Ledger(
            settings.hosts,
            settings.environments,
            manager_id=manager_id,
            max_waiting_jobs=settings.max_waiting_jobs,
            queue_timeout_s=settings.queue_timeout_s,
            host_lost_timeout_s=settings.host_lost_timeout_s,
        )
        self.callbacks = CallbackManagers(
            settings.callback_threads, on_result=self._on_result, on_called_back=self.ledger.callback_returned
        )
        self.loop = Loop(self.ledger, self.callbacks, self._hooks, settings, manager_id=manager_id)
        self._drain = Drain(self.ledger, self.loop.wake)

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        atexit.unregister(self._at_exit)
        self.loop.abandon()

    def start(self) -> None:
        """Start threads and children, and wait for the hosts.

        Raises:
            Closed: somebody has closed it meanwhile.
            EngineUnavailable: no host answers.
        """
        with self._closing:
            if self._stopped:
                raise closed(WHAT)
            self._started = True
            keep_executor()
            self.callbacks.start()
            self.loop.start()
            atexit.register(self._at_exit)
        self.ledger.wait_for_hosts(_all_have_answered, _READY_S)
        self.ledger.wait_for_hosts(_enough_have_answered, _ANY_ANSWER_S)
        if not self.ledger.is_accepting():
            raise closed(WHAT)
        hosts = self.ledger.hosts()
        if not any(host.up for host in hosts):
            raise EngineUnavailable(_no_host_answers(hosts))
        for host in hosts:
            if not host.up:  # one that answered with an error is in the log already
                _log.info("starting without host %s: %s", host.name, host.reason, extra={"host": host.name})
        self._hooks.fire(ManagerStarted(at_s=time.time(), hosts=tuple(host.name for host in hosts)))

    def change(self, change: Callable[[], _T]) -> _T:
        """Change the ledger; the loop does what follows from that."""
        try:
            return outside_main_thread(change)
        finally:
            self.loop.wake()

    def abort(self) -> None:
        """Undo a start that failed, or goes on; what another thread has submitted meanwhile is called back."""
        self._end(0.0, drain.AT_EXIT, kill=True)

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Let jobs end, or end them, then stop."""
        self._end(drain_timeout_s, drain.AT_CLOSE, kill=kill)

    def _end(self, drain_timeout_s: float | None, timeouts: ShutdownTimeouts, *, kill: bool) -> None:
        if self.ledger.stop_accepting():
            self._hooks.fire(ManagerClosing(at_s=time.time(), unfinished=self.ledger.unfinished()))
        if kill:
            self._drain.kill_all(KillReason.CLOSE)
        if self.callbacks.is_current_thread():  # it cannot wait for itself
            threading.Thread(target=self._end_now, args=(drain_timeout_s, timeouts), name="jobmanager-close").start()
            return
        self._end_now(drain_timeout_s, timeouts)

    def _end_now(self, drain_timeout_s: float | None, timeouts: ShutdownTimeouts) -> None:
        with self._closing:
            if not self._stopped:
                self._drain.run(drain_timeout_s, timeouts)
                self._stop(timeouts)

    def _stop(self, timeouts: ShutdownTimeouts) -> None:
        """Containers first, as the pool is needed for that; then the loop with all children, then the threads."""
        if not self.ledger.wait_until_deleted(timeouts.delete_s):
            _log.error("left on their hosts, to be swept when they answer again: %s", self.ledger.containers())
        self.loop.close()
        mark_closed(self._manager_id)
        self.callbacks.close(_THREAD_END_S)
        self._hooks.drain(_THREAD_END_S)
        drain_logs(_THREAD_END_S)
        atexit.unregister(self._at_exit)
        self._stopped = True
        if self._started:
            release_executor()

    def _at_exit(self) -> None:
        """The interpreter ends without close()."""
        if self.pid == os.getpid():
            outside_main_thread(self.abort, takes_long=True)

    def _on_result(self, result: JobResult) -> None:
        self._hooks.fire(JobEnded(at_s=time.time(), job_id=result.job_id, result=result))


def _all_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UNKNOWN not in statuses


def _enough_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UP in statuses or _all_have_answered(statuses)


def _no_host_answers(hosts: Sequence[HostInfo]) -> str:
    reasons = "; ".join(f"{host.url}: {host.reason}" for host in hosts)
    return f"no Docker host answers ({reasons}); start the engine, or set DOCKER_HOST, or give hosts=[...]"
