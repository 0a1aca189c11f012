"""Everything that runs between one start and its close, in one process: ledger, loop, callback threads."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.closing import THREAD_END_S, Closing
from jobmanager.control.drain import ShutdownTimeouts
from jobmanager.control.lifetime import closed
from jobmanager.control.loop import Loop
from jobmanager.control.settings import ManagerSettings
from jobmanager.engine.labels import mark_closed
from jobmanager.errors import EngineUnavailable
from jobmanager.events import JobEnded, ManagerStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.process import check_children_possible
from jobmanager.model.listings import HostInfo
from jobmanager.model.result import JobResult
from jobmanager.scheduling.hosts import HostStatus
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import logger
from jobmanager.threads.main_thread import outside_main_thread

_log = logger(__name__)
_T = TypeVar("_T")

WHAT = "JobManager"  # in messages
_READY_S = 1.0  # after which hosts that have not answered are no longer waited for
_ANY_ANSWER_S = 10.0  # for the first answer of any host


class RunningManager:
    """One manager that runs. ``start`` and ``close`` once each, from any threads but the main one."""

    def __init__(self, settings: ManagerSettings, hooks: HookManager) -> None:
        """Raises NotSupported: this process can have no children of the library's."""
        check_children_possible()
        self.pid = os.getpid()
        self._hooks = hooks
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
        self._closing = Closing(self.ledger, self.callbacks, hooks, what=WHAT, wake=self.loop.wake, stop=self._stop)

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        self._closing.abandon()
        self.loop.abandon()

    def start(self, *, wait: bool) -> None:
        """Start threads and children, and wait for the hosts if told to.

        Raises:
            Closed: somebody has closed it meanwhile.
            EngineUnavailable: no host answers.
        """
        with self._closing.starting():
            self.callbacks.start()
            self.loop.start()
        if wait:
            self.ledger.wait_for_hosts(_all_have_answered, _READY_S)
            self.ledger.wait_for_hosts(_enough_have_answered, _ANY_ANSWER_S)
        if not self.ledger.is_accepting():
            raise closed(WHAT)
        hosts = self.ledger.hosts()
        if wait:
            _check_any_is_up(hosts)
        self._hooks.fire(ManagerStarted(at_s=time.time(), hosts=tuple(host.name for host in hosts)))

    def change(self, change: Callable[[], _T]) -> _T:
        """Change the ledger; the loop does what follows from that."""
        try:
            return outside_main_thread(change)
        finally:
            self.loop.wake()

    def abort(self) -> None:
        """Undo a start that failed, or goes on."""
        self._closing.abort()

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Let jobs end, or end them, then stop."""
        self._closing.close(drain_timeout_s, kill)

    def _stop(self, timeouts: ShutdownTimeouts) -> None:
        """Containers first, as the pool is needed for that; then the loop with all children, then the threads."""
        if not self.ledger.wait_until_deleted(timeouts.delete_s):
            _log.error("left on their hosts, to be swept when they answer again: %s", self.ledger.containers())
        self.loop.close()
        mark_closed(self._manager_id)
        self.callbacks.close(THREAD_END_S)

    def _on_result(self, result: JobResult) -> None:
        self._hooks.fire(JobEnded(at_s=time.time(), job_id=result.job_id, result=result))


def _all_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UNKNOWN not in statuses


def _enough_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UP in statuses or _all_have_answered(statuses)


def _check_any_is_up(hosts: Sequence[HostInfo]) -> None:
    if not any(host.up for host in hosts):
        raise EngineUnavailable(_no_host_answers(hosts))
    for host in hosts:
        if not host.up:  # one that answered with an error is in the log already
            _log.info("starting without host %s: %s", host.name, host.reason, extra={"host": host.name})


def _no_host_answers(hosts: Sequence[HostInfo]) -> str:
    reasons = "; ".join(f"{host.url}: {host.reason}" for host in hosts)
    name_it = "set DOCKER_HOST, or give hosts=[...] (on the command line: --host)"
    return f"no Docker host answers ({reasons}); start the engine, or {name_it}"
