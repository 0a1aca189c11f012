"""The loop: one thread that carries out the ledger's orders and tells it what the children said.

Everything that a child says, or its end, comes through one inbox, so nothing here needs a lock, and nothing here
waits for an engine: that is what the children are for.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Union

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.child_process import Child, Gone, Heard, Unsent
from jobmanager.control.log_thread import logger
from jobmanager.control.tunnels import Tunnels
from jobmanager.control.waiters import Waiters, farewell
from jobmanager.control.worker_pool import ProcessPool, Ticket, Unanswered
from jobmanager.engine.labels import Owner, labels
from jobmanager.events import EnvironmentsChanged, HostDown, HostUp, JobDeleted, JobPlaced, JobQueued, JobStarted
from jobmanager.grading.bundle import grader_command, runner_command
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import (
    ContainerRemoved,
    ContainerStarted,
    GradingSettings,
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
    RunEnded,
    SSHReady,
    StartContainer,
    StartFailed,
    StartRefused,
    TunnelBroken,
    TunnelOpen,
    UnknownContainers,
)
from jobmanager.live_output.fan_out import LiveOutputs
from jobmanager.live_output.reader import LiveOutput
from jobmanager.model.container import ContainerSpec, Door, Image
from jobmanager.model.grader import Grader
from jobmanager.model.host import Address, DockerHost
from jobmanager.model.job import Request
from jobmanager.results.facts import RunFacts
from jobmanager.scheduling.hosts import ENVIRONMENT_LABEL
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
from jobmanager.scheduling.versions import Version
from jobmanager.ssh import debug_session

_log = logger(__name__)

_TICK_S = 1.0
_WARM_WORKERS = 2
_LANE_WHILE_UNKNOWN = 4
_LEASE_SLACK_S = 900.0  # past a job's wall clock, before anybody may call its container abandoned
_JOIN_S = 5.0
_NO_WAITER_S = 0.2
_INHERITED = f" (an image that is made FROM one of them has its label, unless it says LABEL {ENVIRONMENT_LABEL}= itself)"


class _Wake:
    """The ledger has changed."""


class _Close:
    """Leave the loop."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A job has a new reader of its output."""

    job_id: str


_Happened = Union[Heard, Gone, Unsent, _Wake, _Close, _Followed]


class Loop:
    """Connects one ledger with its children. ``start``, then ``wake`` whenever the ledger has changed, then ``close``."""

    def __init__(
        self,
        ledger: Ledger,
        callbacks: CallbackManagers,
        hooks: HookManager,
        hosts: Sequence[DockerHost],
        *,
        manager_id: str,
        pool_size: int,
        engine_timeout_s: float,
        host_lost_timeout_s: float,
    ) -> None:
        self._ledger = ledger
        self._callbacks = callbacks
        self._hooks = hooks
        self._manager_id = manager_id
        self._engine_timeout_s = engine_timeout_s
        self._inbox: queue.SimpleQueue[_Happened] = queue.SimpleQueue()
        self._pool = ProcessPool(self._inbox.put, size=pool_size, lane=self._lane)
        self._tunnels = Tunnels(hosts, self._inbox.put)
        self._waiters = Waiters(
            self._inbox.put,
            hosts,
            manager_id=manager_id,
            engine_timeout_s=engine_timeout_s,
            host_lost_timeout_s=host_lost_timeout_s,
            cannot_start=ledger.host_silent,
        )
        self._live_outputs = LiveOutputs(
            hooks,
            run_of=ledger.run_of,
            ask=self._waiters.show,
            followed=lambda job_id: self._inbox.put(_Followed(job_id)),
        )
        self._addresses: Mapping[str, Address] = {}
        self._loopback = {host.name for host in hosts if host.is_published_here_only}
        self._cores: dict[str, int] = {}
        self._environments: tuple[str, ...] = ()
        self._images: dict[str, tuple[Image, ...]] = {}  # by host, as it was seen last
        self._versions: Mapping[str, Sequence[Version]] = {}  # of which a person has been told
        self._orders: deque[Order] = deque()
        self._later: list[tuple[float, int, Order]] = []
        self._numbers = itertools.count()
        self._next_tick = 0.0
        self._owner = Owner.this_process()
        self._thread = threading.Thread(target=self._turn_until_closed, name="jobmanager-loop", daemon=True)
        self._hearing: Mapping[type[Any], Callable[[str, Any], None]] = {
            Heartbeat: lambda *_: None,
            MonitorAcknowledged: lambda _, said: self._waiters.taken(said.container_name),
            ProgramStarted: lambda _, said: self._ledger.began(said.container_name),
            SSHReady: lambda _, said: self._ledger.door_open(said.container_name, said.port),
            LimitReached: lambda _, said: self._ledger.stops(said.container_name, said.stopped),
            OutputChunk: lambda _, said: self._live_outputs.printed(said),
            RunEnded: self._ended,
            HostReachable: self._host_answers,
            HostUnreachable: self._host_silent,
            UnknownContainers: lambda host, said: self._ledger.strays(host, said.names),
            TunnelOpen: lambda host, _: self._waiters.look(host),
            TunnelBroken: self._host_silent,
        }
        self._carrying_out: Mapping[type[Order], Callable[[Any], None]] = {
            AnnounceJob: self._announce,
            SubmitJob: self._submit,
            WatchJob: self._watch,
            FindWaiter: lambda order: self._ledger.waiter_died([order.container]),
            StopJob: lambda order: self._waiters.kill(order.container),
            DeliverSSH: self._callbacks.put,
            DeliverJob: self._deliver,
            DeleteContainer: self._delete,
            AnnounceHostDown: self._announce_host_down,
            LookAtHost: lambda order: self._waiters.look(order.host),
        }

    def start(self) -> None:
        """Start the children and the thread. Waiters first: they find out whether the hosts answer."""
        self._addresses = self._tunnels.start()
        self._waiters.start(self._addresses)
        self._thread.start()

    def wake(self) -> None:
        """The ledger has changed."""
        self._inbox.put(_Wake())

    def follow(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        """A new reader of a job's output, from any thread; raises UnknownJob."""
        return self._live_outputs.follow(job_id, timeout_s)

    def close(self) -> None:
        """End the thread, then the children."""
        self._inbox.put(_Close())
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        farewell(self._children())
        self._tunnels.clean_up()
        self._live_outputs.close()

    def abandon(self) -> None:
        """In a forked child: let go of the pipes; thread and children are the parent's."""
        self._live_outputs.abandon()
        for child in self._children():
            child.abandon()

    def _children(self) -> list[Child]:
        return [*self._waiters.children(), *self._pool.workers(), *self._tunnels.children()]

    # ---- turning

    def _turn_until_closed(self) -> None:
        while not isinstance(happened := self._next(), _Close):
            _guarded(self._take_in, happened)
            _guarded(self._do_what_is_due)
            _guarded(self._take_orders)

    def _next(self) -> _Happened:
        due = min(self._next_tick, self._later[0][0]) if self._later else self._next_tick
        try:
            return self._inbox.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            return _Wake()

    def _take_in(self, happened: _Happened) -> None:
        if isinstance(happened, Heard):
            self._heard(happened.child, happened.message)
        elif isinstance(happened, Gone):
            self._gone(happened.child, happened.why)
        elif isinstance(happened, Unsent):
            self._unsent(happened.child, happened.message, happened.reason)
        elif isinstance(happened, _Followed):
            self._live_outputs.ask_for(happened.job_id)

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._carry_out(heapq.heappop(self._later)[2])
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            for look in (
                self._ledger.tick,
                self._callbacks.log_slow_callbacks,
                self._waiters.do_what_is_due,
                self._tunnels.do_what_is_due,
                self._pool.end_hung_workers,
                self._pool.dispatch,
            ):
                _guarded(look)

    def _take_orders(self) -> None:
        self._orders.extend(self._ledger.take_orders())
        while self._orders:
            self._carry_out(self._orders.popleft())

    def _carry_out(self, order: Order) -> None:
        try:
            self._carrying_out[type(order)](order)
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("%s could not be carried out", type(order).__name__)
            said = f"{type(error).__name__}: {error}"
            if isinstance(order, SubmitJob):
                self._ledger.submitted(order.container, StartRefused(reason=said))
            elif isinstance(order, WatchJob):
                self._ledger.ended(order.container, RunFacts(began=True, trouble=said))

    # ---- what children say

    def _heard(self, child: Child, said: Any) -> None:
        if child in self._pool:
            self._pool_replied(self._pool.replied(child), said)
            self._pool.dispatch()
        elif (host := self._waiters.heard(child) or self._tunnels.heard(child, said)) is not None:
            self._hearing[type(said)](host, said)

    def _gone(self, child: Child, why: str) -> None:
        if child in self._pool:
            unanswered = self._pool.died(child)
            if unanswered is not None:
                _log.warning("a pool worker died over container %s: %s", unanswered.ticket.container, why)
                self._pool_replied(unanswered.ticket, _why_hung(unanswered), why)
            self._pool.dispatch()
        elif (lost := self._waiters.gone(child, why)) is not None:
            self._ledger.waiter_died(lost.containers, over=lost.over)
            if not lost.has_spoken:
                self._host_silent(lost.host, HostUnreachable(reason=f"the process that was to look at it died at once: {why}"))
        else:
            self._tunnels.gone(child)

    def _unsent(self, child: Child, message: Any, reason: str) -> None:
        """A child cannot be told this; it lives on."""
        if isinstance(message, StartContainer) and child in self._pool:
            self._pool_replied(self._pool.replied(child), StartRefused(reason=reason))
        elif isinstance(message, RemoveContainer) and child in self._pool:
            self._pool_replied(self._pool.replied(child), RemovalFailed(reason=reason))
        elif isinstance(message, MonitorContainer):
            self._waiters.ended(message.container_name)
            self._ledger.ended(message.container_name, RunFacts(began=message.taken_over, trouble=reason))

    def _pool_replied(self, ticket: Ticket, reply: PoolReply | None, why: str = "") -> None:
        if isinstance(ticket.request, StartContainer):
            assert reply is None or isinstance(reply, (ContainerStarted, StartFailed, StartRefused))
            self._ledger.submitted(ticket.container, reply, why=why)
        elif isinstance(reply, ContainerRemoved):
            self._deleted(ticket)
        elif isinstance(reply, RemovalFailed):
            _log.debug("container %s is not removed yet: %s", ticket.container, reply)
            self._ledger.delete_failed(ticket.container, only_volume_left=reply.only_volume_left)
        else:
            self._ledger.delete_failed(ticket.container)

    def _deleted(self, ticket: Ticket) -> None:
        self._waiters.ended(ticket.container)
        job_id = self._ledger.deleted(ticket.container)
        if job_id:
            self._hooks.fire(JobDeleted(at_s=time.time(), job_id=job_id, host=ticket.host))

    def _ended(self, _: str, said: RunEnded) -> None:
        self._waiters.ended(said.container_name)
        self._ledger.ended(said.container_name, said.facts)

    def _host_answers(self, host: str, said: HostReachable) -> None:
        self._cores[host] = said.info.cores
        was_down = self._ledger.host_answers(host, said.info, said.images)
        if was_down:
            self._pool.warm_up(_WARM_WORKERS)
            self._hurry(host)
            _log.info("host %s is up", host, extra={"host": host})
            self._hooks.fire(HostUp(at_s=time.time(), host=host))
        if was_down or said.images != self._images.get(host):
            self._images[host] = said.images
            self._compare_environments()
            self._compare_versions()

    def _host_silent(self, host: str, said: HostUnreachable | TunnelBroken) -> None:
        reason = self._tunnels.why_silent(host, said.reason)
        if reason is not None:
            self._ledger.host_silent(host, reason)

    def _compare_environments(self) -> None:
        found = tuple(name for names in self._ledger.environments().values() for name in names)
        if found != self._environments:
            self._environments = found
            self._hooks.fire(EnvironmentsChanged(at_s=time.time(), environments=found))

    def _compare_versions(self) -> None:
        known, self._versions = self._versions, self._ledger.versions()
        for environment, versions in self._versions.items():
            if versions != known.get(environment):
                told = "; ".join(f"{_told(version.image)} on {version.host}" for version in versions)
                hint = _INHERITED if all(ENVIRONMENT_LABEL in version.image.labels for version in versions) else ""
                _log.warning("environment %s is several images, of which the newest is preferred%s: %s", environment, hint, told)

    # ---- what the ledger orders

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
        self._compare_environments()

    def _submit(self, order: SubmitJob) -> None:
        request = order.request
        lease_s = request.task.limits.wall_s + _LEASE_SLACK_S
        container = ContainerSpec(
            name=order.container,
            image=order.image,
            labels=labels(self._manager_id, request.job_id, lease_s, self._owner),
            limits=request.task.limits,
            network=request.task.network,
            workspace=request.task.workspace,
            shares=request.task.grader is not None,
            door=self._door(request, order.host),
        )
        submit = StartContainer(address=self._addresses[order.host], container=container, timeout_s=self._engine_timeout_s)
        self._pool.put(Ticket(host=order.host, container=order.container, request=submit))
        self._hooks.fire(JobPlaced(at_s=time.time(), job_id=request.job_id, host=order.host))

    def _door(self, request: Request, host: str) -> Door | None:
        if not request.ssh_password:
            return None
        return debug_session.door(request.ssh_password, workspace=request.task.workspace, loopback_only=host in self._loopback)

    def _watch(self, order: WatchJob) -> None:
        request = order.request
        job = MonitorContainer(
            job_id=request.job_id,
            container_id=order.container_id,
            container_name=order.container,
            token=order.token,
            command=_command(order),
            env=request.task.env or {},
            files=request.files,
            executables=request.executables,
            stdin=request.inputs.stdin if request.task.grader is None else None,  # type: ignore[arg-type]
            limits=request.task.limits,
            collect=tuple(request.task.collect),
            workspace=request.task.workspace,
            grading=_grading(order),
            engine_id=order.engine_id,
            taken_over=order.taken_over,
            elapsed_s=order.elapsed_s,
            stopped=order.stopped,
        )
        if request.ssh_password:
            job = _session(job, request.task.grader)
        if not self._waiters.watch(order.host, job):
            self._do_later(_NO_WAITER_S, FindWaiter(container=order.container))
            return
        self._live_outputs.watched(request.job_id, order.container)
        if order.kill_at_once:
            self._waiters.kill(order.container)
        if not order.taken_over:
            self._hooks.fire(JobStarted(at_s=time.time(), job_id=request.job_id, host=order.host))

    def _deliver(self, order: DeliverJob) -> None:
        """Hooks hear of the last output before they hear of the end; nothing of that may cost the job its callback."""
        try:
            self._live_outputs.ended(order.request.job_id, order.facts)
        finally:
            self._callbacks.put(order)

    def _delete(self, order: DeleteContainer) -> None:
        if order.delay_s:
            self._do_later(order.delay_s, replace(order, delay_s=0.0))
            return
        delete = RemoveContainer(
            address=self._addresses[order.host],
            name=order.container,
            manager_id=self._manager_id,
            is_ours=order.made,
            timeout_s=self._engine_timeout_s,
        )
        self._pool.put(Ticket(host=order.host, container=order.container, request=delete))

    def _do_later(self, delay_s: float, order: Order) -> None:
        heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._numbers), order))

    def _hurry(self, host: str) -> None:
        """Removals that were put off while a host was silent are due now that it answers."""
        now = time.monotonic()
        self._later = [
            (now if isinstance(order, DeleteContainer) and order.host == host else at, number, order)
            for at, number, order in self._later
        ]
        heapq.heapify(self._later)

    def _lane(self, host: str) -> int:
        """Starts and removals under way at once: past twice a host's cores they only get slower."""
        return 2 * self._cores[host] if host in self._cores else _LANE_WHILE_UNKNOWN


def _guarded(step: Callable[..., None], *arguments: object) -> None:
    try:
        step(*arguments)
    except Exception:  # noqa: BLE001 - the loop's edge: one bad message must not stop all jobs
        _log.exception("the manager's loop met an error and goes on")


def _why_hung(unanswered: Unanswered) -> StartFailed | None:
    """A submitter that had to be ended is its engine's doing: another host may be quicker. None for any other death."""
    if not unanswered.hung or not isinstance(unanswered.ticket.request, StartContainer):
        return None
    return StartFailed(reason="its engine let the submitter wait for too long", unreachable=True)


def _told(image: Image) -> str:
    made_at = datetime.fromtimestamp(image.created_at_s, timezone.utc)
    return f"{image.references[0] if image.references else image.id} of {made_at:%Y-%m-%d %H:%M:%S} UTC"


def _command(order: WatchJob) -> str | tuple[str, ...]:
    """What the container runs: a grader's runner, the task's command, or the image's own."""
    task = order.request.task
    if task.grader is not None:
        return runner_command(task.grader.run)  # type: ignore[arg-type]
    return task.command if task.command is not None else order.image_command  # type: ignore[return-value]


def _session(job: MonitorContainer, grader: Grader | None) -> MonitorContainer:
    """The job with an SSH server in the place of its program: a grader, or the task's command."""
    if grader is None:
        return debug_session.session(job)
    session = debug_session.session(replace(job, command=grader_command(grader.run)))  # type: ignore[arg-type]
    return replace(session, command=runner_command(session.command))


def _grading(order: WatchJob) -> GradingSettings | None:
    task = order.request.task
    if task.grader is None:
        return None
    return GradingSettings(
        images=order.images,
        cpu_time_s=task.grader.students_cpu_time_s(task.limits),
        memory_mib=task.grader.students_memory_mib(task.limits),
        network=task.grader.student_network,
        most_students=task.grader.most_students,
    )
