"""Carries out the ledger's commands: children get requests, callbacks and hooks their records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.children import Children
from jobmanager.control.environment_reporter import EnvironmentReporter
from jobmanager.control.launch import container_spec, monitor_message
from jobmanager.control.settings import ManagerSettings
from jobmanager.control.timers import Timers
from jobmanager.control.worker_pool import PendingRequest
from jobmanager.engine.labels import Owner
from jobmanager.errors import InvalidValue
from jobmanager.events import CaseEnded, HostDown, JobPlaced, JobQueued, JobStarted, PhaseEnded, PhaseStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import RemoveContainer, RemoveVolumes, StartContainer
from jobmanager.live_output.fan_out import LiveOutputFanOut
from jobmanager.results.facts import InfrastructureFailure, RunCutOff, RunFacts
from jobmanager.runner.place import LEASE_SLACK_S
from jobmanager.scheduling.commands import (
    CheckHost,
    Command,
    DeleteContainer,
    DeleteVolumes,
    KillRun,
    MonitorRun,
    NotifyCaseEnded,
    NotifyHostDown,
    NotifyJobPlaced,
    NotifyJobQueued,
    NotifyPhaseEnded,
    PublishResult,
    PublishSSH,
    RetryMonitorRun,
    SubmitContainer,
)
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import logger

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
        live_outputs: LiveOutputFanOut,
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
        self._manager_name = settings.name
        self._secrets = settings.secrets
        self._runner_lease_s = settings.host_lost_timeout_s + LEASE_SLACK_S
        self._owner = Owner.this_process()
        self._handlers: Mapping[type[Command], Callable[[Any], None]] = {
            NotifyJobQueued: self._announce,
            NotifyJobPlaced: self._announce_host,
            NotifyPhaseEnded: self._phase_ended,
            NotifyCaseEnded: self._case_ended,
            SubmitContainer: self._submit,
            MonitorRun: self._monitor,
            RetryMonitorRun: lambda command: ledger.waiter_died([command.container]),
            KillRun: lambda command: children.waiters.kill(command.container),
            PublishSSH: callbacks.put,
            PublishResult: self._publish_result,
            DeleteContainer: self._delete,
            DeleteVolumes: self._delete_volumes,
            NotifyHostDown: self._announce_host_down,
            CheckHost: lambda command: children.waiters.check_host(command.host),
        }

    def carry_out(self, command: Command) -> None:
        """Carry out one command. If that fails, the ledger gets the failure, so that the job still has a result."""
        try:
            self._handlers[type(command)](command)
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("%s could not be carried out", type(command).__name__)
            reason = f"{type(error).__name__}: {error}"
            if isinstance(command, SubmitContainer):
                self._ledger.start_refused(command.container, reason)
            elif isinstance(command, MonitorRun):
                cut_off = RunCutOff(cause=InfrastructureFailure(reason=reason))
                self._ledger.run_ended(command.container, RunFacts(ending=cut_off))

    def _announce(self, command: NotifyJobQueued) -> None:
        self._hooks.fire(JobQueued.now(command.request))

    def _announce_host(self, command: NotifyJobPlaced) -> None:
        self._hooks.fire(JobPlaced(at_s=time.time(), job_id=command.job_id, host=command.host))

    def _announce_host_down(self, command: NotifyHostDown) -> None:
        _log.warning("host %s is down: %s", command.host, command.reason, extra={"host": command.host})
        self._hooks.fire(HostDown(at_s=time.time(), host=command.host, reason=command.reason))
        self._environments.compare()

    def _submit(self, command: SubmitContainer) -> None:
        spec = container_spec(
            command,
            manager_id=self._manager_id,
            owner=self._owner,
            loopback_only=command.host in self._loopback,
            runner_lease_s=self._runner_lease_s,
            manager_name=self._manager_name,
        )
        submit = StartContainer(address=self._children.addresses[command.host], container=spec, timeout_s=self._engine_timeout_s)
        self._children.pool.put(PendingRequest(host=command.host, container=command.container, request=submit))

    def _monitor(self, command: MonitorRun) -> None:
        try:
            message = monitor_message(command, self._secrets, runner_lease_s=self._runner_lease_s)
        except InvalidValue as error:
            self._ledger.secret_missing(command.container, str(error))
            return
        if not command.taken_over:
            self._announce_start(command)
        if not self._children.waiters.monitor(command.host, message):
            self._timers.add(_NO_WAITER_S, RetryMonitorRun(container=command.container))
            return
        self._live_outputs.update(command.request.job_id)
        if command.kill_at_once:
            self._children.waiters.kill(command.container)

    def _announce_start(self, command: MonitorRun) -> None:
        job_id, phase = command.request.job_id, command.request.runs[command.run].phase
        if command.run == 0:
            self._hooks.fire(JobStarted(at_s=time.time(), job_id=job_id, host=command.host))
        if phase is not None:
            self._hooks.fire(
                PhaseStarted(at_s=time.time(), job_id=job_id, phase=phase.name, number=command.run, host=command.host)
            )

    def _phase_ended(self, command: NotifyPhaseEnded) -> None:
        """The hooks get what it printed before its end."""
        try:
            self._live_outputs.update(command.job_id)
        finally:
            self._hooks.fire(
                PhaseEnded(
                    at_s=time.time(),
                    job_id=command.job_id,
                    phase=command.phase,
                    number=command.number,
                    outcome=command.outcome,
                    host=command.host,
                )
            )

    def _case_ended(self, command: NotifyCaseEnded) -> None:
        try:
            self._live_outputs.update(command.job_id)
        finally:
            self._hooks.fire(
                CaseEnded(
                    at_s=time.time(),
                    job_id=command.job_id,
                    phase=command.phase,
                    number=command.number,
                    of=command.of,
                    result=command.result,
                )
            )

    def _publish_result(self, command: PublishResult) -> None:
        """The hooks get the last output before the end. An error there must not cost the job its callback."""
        try:
            self._live_outputs.job_ended(command.request.job_id)
        finally:
            self._callbacks.put(command)

    def _delete(self, command: DeleteContainer) -> None:
        if command.delay_s:
            self._timers.add(command.delay_s, replace(command, delay_s=0.0))
            return
        delete = RemoveContainer(
            address=self._children.addresses[command.host],
            name=command.container,
            manager_id=self._manager_id,
            is_ours=command.is_ours,
            is_leaving=command.is_leaving,
            has_others=command.has_others,
            timeout_s=self._engine_timeout_s,
        )
        self._children.pool.put(PendingRequest(host=command.host, container=command.container, request=delete))

    def _delete_volumes(self, command: DeleteVolumes) -> None:
        if command.delay_s:
            self._timers.add(command.delay_s, replace(command, delay_s=0.0))
            return
        remove = RemoveVolumes(
            address=self._children.addresses[command.host],
            names=command.names,
            manager_id=self._manager_id,
            timeout_s=self._engine_timeout_s,
        )
        self._children.pool.put(PendingRequest(host=command.host, container=command.slot, request=remove))
