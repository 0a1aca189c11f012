"""Takes what children report, that they have exited, and what could not be sent to them. The ledger gets the events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Union

from jobmanager.control.child_process import Child, ChildExited, MessageReceived, SendFailed
from jobmanager.control.children import Children
from jobmanager.control.environment_reporter import EnvironmentReporter
from jobmanager.control.timers import Timers
from jobmanager.control.worker_pool import LostRequest, PendingRequest
from jobmanager.events import HostUp, JobDeleted
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import (
    BuildDone,
    CaseDone,
    ContainerRemoved,
    ContainerStarted,
    Heartbeat,
    HostReachable,
    HostUnreachable,
    LimitReached,
    MonitorAcknowledged,
    MonitorContainer,
    OutputChunk,
    PoolReply,
    ProgramStarted,
    RemovalFailed,
    RemoveContainer,
    RemoveVolumes,
    RunEnded,
    SSHReady,
    StartContainer,
    StartFailed,
    StartRefused,
    SubmitterTold,
    TunnelBroken,
    TunnelOpen,
    UnknownContainers,
    VolumeRemovalFailed,
    VolumesLost,
    VolumesRemoved,
    WorkerReady,
)
from jobmanager.live_output.fan_out import LiveOutputFanOut
from jobmanager.results.facts import InfrastructureFailure, RunCutOff, RunFacts
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

Report = Union[MessageReceived, ChildExited, SendFailed]


class Reports:
    """Takes what one manager's children report. Not thread-safe: the loop alone uses it."""

    def __init__(
        self,
        ledger: Ledger,
        hooks: HookManager,
        children: Children,
        *,
        live_outputs: LiveOutputFanOut,
        timers: Timers,
        environments: EnvironmentReporter,
    ) -> None:
        self._ledger = ledger
        self._hooks = hooks
        self._children = children
        self._live_outputs = live_outputs
        self._timers = timers
        self._environments = environments
        self._were_up: set[str] = set()  # hosts that have answered before
        self._handlers: Mapping[type[Any], Callable[[str, Any], None]] = {
            Heartbeat: lambda *_: None,
            MonitorAcknowledged: lambda _, message: children.waiters.acknowledged(message.container_name),
            ProgramStarted: lambda _, message: ledger.job_sent(message.container_name),
            SSHReady: lambda _, message: ledger.ssh_ready(message.container_name, message.port),
            LimitReached: lambda _, message: ledger.limit_reached(message.container_name, message.limit_hit),
            OutputChunk: lambda _, message: live_outputs.chunk_received(message),
            BuildDone: lambda _, message: ledger.build_done(message.container_name, message.run),
            CaseDone: lambda _, message: ledger.case_done(message.container_name, message.number, message.result),
            SubmitterTold: self._submitter_told,
            RunEnded: self._run_ended,
            HostReachable: self._host_reachable,
            HostUnreachable: self._host_unreachable,
            UnknownContainers: lambda host, message: ledger.strays_found(host, message.names),
            TunnelOpen: lambda host, _: children.waiters.check_host(host),
            TunnelBroken: self._host_unreachable,
        }

    def take(self, report: Report) -> None:
        """Do what follows from one report."""
        if isinstance(report, MessageReceived):
            self._message_received(report.child, report.message)
        elif isinstance(report, ChildExited):
            self._child_exited(report.child, report.why)
        else:
            self._send_failed(report.child, report.message, report.reason)

    def _message_received(self, child: Child, message: Any) -> None:
        pool, waiters, tunnels = self._children.pool, self._children.waiters, self._children.tunnels
        if child in pool and isinstance(message, WorkerReady):
            pool.ready(child)
        elif child in pool:
            self._pool_replied(pool.replied(child), message)
        elif (host := waiters.message_received(child) or tunnels.message_received(child, message)) is not None:
            self._handlers[type(message)](host, message)

    def _child_exited(self, child: Child, why: str) -> None:
        pool = self._children.pool
        if child in pool:
            unanswered = pool.died(child)
            if unanswered is not None:
                _log.warning("a pool worker died over container %s: %s", unanswered.pending.container, why)
                self._pool_replied(unanswered.pending, _why_hung(unanswered), why)
        elif (lost := self._children.waiters.child_exited(child, why)) is not None:
            self._ledger.waiter_died(lost.containers, over=lost.over)
            if not lost.has_reported:
                self._host_unreachable(lost.host, HostUnreachable(reason=f"the process that was to check it died at once: {why}"))
        else:
            self._children.tunnels.child_exited(child)

    def _send_failed(self, child: Child, message: Any, reason: str) -> None:
        """A message could not be sent to a child, which lives on."""
        pool = self._children.pool
        if isinstance(message, StartContainer) and child in pool:
            self._pool_replied(pool.replied(child), StartRefused(reason=reason))
        elif isinstance(message, RemoveContainer) and child in pool:
            self._pool_replied(pool.replied(child), RemovalFailed(reason=reason))
        elif isinstance(message, RemoveVolumes) and child in pool:
            self._pool_replied(pool.replied(child), VolumeRemovalFailed(reason=reason))
        elif isinstance(message, MonitorContainer):
            self._children.waiters.run_ended(message.container_name)
            cut_off = RunCutOff(cause=InfrastructureFailure(reason=reason))
            self._ledger.run_ended(message.container_name, RunFacts(ending=cut_off))

    def _pool_replied(self, pending: PendingRequest, reply: PoolReply | None, why: str = "") -> None:
        if isinstance(pending.request, StartContainer):
            assert reply is None or isinstance(reply, (ContainerStarted, StartFailed, StartRefused, VolumesLost))
            report_start(self._ledger, pending.container, reply, why=why)
        elif isinstance(reply, ContainerRemoved):
            self._container_removed(pending)
        elif isinstance(reply, RemovalFailed):
            _log.debug("container %s is not removed yet: %s", pending.container, reply)
            self._ledger.deletion_failed(pending.container, only_volume_left=reply.only_volume_left)
        elif isinstance(reply, VolumesRemoved):
            self._ledger.volumes_deleted(pending.container)
        elif isinstance(pending.request, RemoveVolumes):
            _log.debug("volumes of %s are not removed yet: %s", pending.container, reply)
            self._ledger.volume_deletion_failed(pending.container)
        else:
            self._ledger.deletion_failed(pending.container)

    def _container_removed(self, pending: PendingRequest) -> None:
        self._children.waiters.run_ended(pending.container)
        job_id = self._ledger.container_deleted(pending.container)
        if job_id:
            self._hooks.fire(JobDeleted(at_s=time.time(), job_id=job_id, host=pending.host))

    def _submitter_told(self, _: str, message: SubmitterTold) -> None:
        job_id = self._ledger.submitter_told(message.container_name, message.number, message.text)
        if job_id:
            self._live_outputs.update(job_id)

    def _run_ended(self, _: str, message: RunEnded) -> None:
        self._children.waiters.run_ended(message.container_name)
        self._ledger.run_ended(message.container_name, message.facts)

    def _host_reachable(self, host: str, message: HostReachable) -> None:
        self._children.set_cores(host, message.info.cores)
        was_down = self._ledger.host_answered(host, message.info, message.images, networks=message.networks)
        if was_down:
            self._timers.retry_deletes_now(host)
            if host in self._were_up:  # that it was away is in the log as a warning
                _log.warning("host %s is up again", host, extra={"host": host})
            else:
                _log.info("host %s is up", host, extra={"host": host})
            self._were_up.add(host)
            self._hooks.fire(HostUp(at_s=time.time(), host=host))
        self._environments.host_answered(host, message.images, was_down=was_down)

    def _host_unreachable(self, host: str, message: HostUnreachable | TunnelBroken) -> None:
        reason = self._children.tunnels.why_unreachable(host, message.reason)
        if reason is not None:
            self._ledger.host_down(host, reason)


def report_start(
    ledger: Ledger, container: str, reply: ContainerStarted | StartFailed | StartRefused | VolumesLost | None, *, why: str = ""
) -> None:
    """Report to the ledger how a submitter's work ended. ``reply`` is None when its process died; ``why`` is the reason."""
    if isinstance(reply, ContainerStarted):
        ledger.container_started(
            container, container_id=reply.container_id, image_command=reply.image_command, duration_s=reply.duration_s
        )
    elif isinstance(reply, StartFailed):
        ledger.start_failed(container, reason=reply.reason, unreachable=reply.unreachable, image_missing=reply.image_missing)
    elif isinstance(reply, StartRefused):
        ledger.start_refused(container, reply.reason)
    elif isinstance(reply, VolumesLost):
        ledger.volumes_lost(container, reply.reason)
    else:
        ledger.submitter_died(container, why)


def _why_hung(unanswered: LostRequest) -> StartFailed | None:
    """A submitter that had to be ended is its engine's doing: another host may be quicker. None for any other death."""
    if not unanswered.hung or not isinstance(unanswered.pending.request, StartContainer):
        return None
    return StartFailed(reason="its engine let the submitter wait for too long", unreachable=True)
