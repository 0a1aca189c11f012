"""What the ledger commands is carried out: children get requests, callbacks and hooks their records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.children import Children
from jobmanager.control.environments import EnvironmentReporter
from jobmanager.control.launch import container_spec, monitor_message
from jobmanager.control.log_thread import logger
from jobmanager.control.settings import ManagerSettings
from jobmanager.control.timers import Timers
from jobmanager.control.worker_pool import Ticket
from jobmanager.engine.labels import Owner
from jobmanager.events import HostDown, JobPlaced, JobQueued, JobStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import RemoveContainer, StartContainer
from jobmanager.live_output.fan_out import LiveOutputs
from jobmanager.results.facts import RunFacts
from jobmanager.scheduling.ledger import Ledger
from jobmanager.scheduling.orders import (
    AnnounceHostDown,
    AnnounceJob,
    DeleteContainer,
    DeliverJob,
    DeliverSSH,
    FindWaiter,
    LookAtHost,
    Order,
    StopJob,
    SubmitJob,
    WatchJob,
)

_log = logger(__name__)

_NO_WAITER_S = 0.2  # until a waiter is looked for again


class Dispatch:
    """Carries out one ledger's commands. Not thread-safe: the loop alone uses it."""

    def __init__(
        self,
        ledger: Ledger,
        callbacks: CallbackManagers,
        hooks: HookManager,
        children: Children,
        *,
        live_outputs: LiveOutputs,
        timers: Timers,
        environments: EnvironmentReporter,
        settings: ManagerSettings,
        manager_id: str,
    ) -> None:
        self._ledger = ledger
        self._callbacks = callbacks
        self._hooks = hooks
        self._children = children
        self._live_outputs = live_outputs
        self._timers = timers
        self._environments = environments
        self._engine_timeout_s = settings.engine_timeout_s
        self._loopback = {host.name for host in settings.hosts if host.is_published_here_only}
        self._manager_id = manager_id
        self._owner = Owner.this_process()
        self._handlers: Mapping[type[Order], Callable[[Any], None]] = {
            AnnounceJob: self._announce,
            SubmitJob: self._submit,
            WatchJob: self._monitor,
            FindWaiter: lambda order: ledger.waiter_died([order.container]),
            StopJob: lambda order: children.waiters.kill(order.container),
            DeliverSSH: callbacks.put,
            DeliverJob: self._publish_result,
            DeleteContainer: self._delete,
            AnnounceHostDown: self._announce_host_down,
            LookAtHost: lambda order: children.waiters.look(order.host),
        }

    def carry_out(self, order: Order) -> None:
        """Do one thing; where that fails, the ledger is told, so that the job has its result."""
        try:
            self._handlers[type(order)](order)
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("%s could not be carried out", type(order).__name__)
            reason = f"{type(error).__name__}: {error}"
            if isinstance(order, SubmitJob):
                self._ledger.start_refused(order.container, reason)
            elif isinstance(order, WatchJob):
                self._ledger.ended(order.container, RunFacts(began=True, trouble=reason))

    def _announce(self, order: AnnounceJob) -> None:
        request = order.request
        self._hooks.fire(
            JobQueued(
                at_s=time.time(),
                job_id=request.job_id,
                launcher=request.launcher_name,
                priority=request.priority,
                task=request.task,
                inputs=request.inputs,
            )
        )

    def _announce_host_down(self, order: AnnounceHostDown) -> None:
        _log.warning("host %s is down: %s", order.host, order.reason, extra={"host": order.host})
        self._hooks.fire(HostDown(at_s=time.time(), host=order.host, reason=order.reason))
        self._environments.compare()

    def _submit(self, order: SubmitJob) -> None:
        spec = container_spec(
            order, manager_id=self._manager_id, owner=self._owner, loopback_only=order.host in self._loopback
        )
        submit = StartContainer(address=self._children.addresses[order.host], container=spec, timeout_s=self._engine_timeout_s)
        self._children.pool.put(Ticket(host=order.host, container=order.container, request=submit))
        self._hooks.fire(JobPlaced(at_s=time.time(), job_id=order.request.job_id, host=order.host))

    def _monitor(self, order: WatchJob) -> None:
        if not self._children.waiters.watch(order.host, monitor_message(order)):
            self._timers.add(_NO_WAITER_S, FindWaiter(container=order.container))
            return
        self._live_outputs.watched(order.request.job_id, order.container)
        if order.kill_at_once:
            self._children.waiters.kill(order.container)
        if not order.taken_over:
            self._hooks.fire(JobStarted(at_s=time.time(), job_id=order.request.job_id, host=order.host))

    def _publish_result(self, order: DeliverJob) -> None:
        """Hooks hear of the last output before they hear of the end; nothing of that may cost the job its callback."""
        try:
            self._live_outputs.ended(order.request.job_id, order.facts)
        finally:
            self._callbacks.put(order)

    def _delete(self, order: DeleteContainer) -> None:
        if order.delay_s:
            self._timers.add(order.delay_s, replace(order, delay_s=0.0))
            return
        delete = RemoveContainer(
            address=self._children.addresses[order.host],
            name=order.container,
            manager_id=self._manager_id,
            is_ours=order.made,
            timeout_s=self._engine_timeout_s,
        )
        self._children.pool.put(Ticket(host=order.host, container=order.container, request=delete))
