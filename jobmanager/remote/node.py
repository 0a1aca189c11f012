"""``Node``: one machine of a cluster. One JobManager with that machine's Docker hosts, whose jobs come through Redis.

Threads beside the manager's own::

    main                    RQ's loop: takes a job while there is room, checks it, hands it to the manager (``intake.py``)
    jobmanager-beats        a sign of life every ``beat_s``, and what follows from the answer; looks after the dispatcher
    jobmanager-commands     signed commands of clients: kill, follow (``node_inbox.py``)
    jobmanager-results      results to Redis, each until it is there (``outbox.py``)
    jobmanager-follow       one for each job whose output is followed

A job is held from its arrival until Redis has its result. Whatever Redis says about a job, its token decides: it is of this
placement alone.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

from redis import exceptions
from redis.exceptions import RedisError

from jobmanager._version import __version__
from jobmanager.errors import InvalidValue, JobManagerError, RedisUnavailable
from jobmanager.hooks import HookManager
from jobmanager.live_output.reader import LiveOutput
from jobmanager.manager import JobManager
from jobmanager.model.result import JobResult, Outcome
from jobmanager.remote.beats import Beats
from jobmanager.remote.blobs import BlobCache, BlobReader, BlobStore, RedisBlobs
from jobmanager.remote.connect import redis_errors
from jobmanager.remote.intake import Intake, NodeIdentity, crash, killed
from jobmanager.remote.node_events import NodeEvents
from jobmanager.remote.node_inbox import NodeInbox
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.outbox import FinishedJob, ResultOutbox
from jobmanager.remote.payload import Unpacked, Unpacker, pack_result
from jobmanager.remote.records import SCHEMA, BadMessage, JobHeader, NodeCommand, NodeReport, ResultMessage
from jobmanager.remote.redis_checks import check_redis
from jobmanager.remote.rq_worker import NodeWorker
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import Beat, ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.hosts import MachineTotals
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

DRAINED, NAME_LOST, KILLED = 0, 1, 130  # exit codes
_CONNECT_RETRY_S = 1.0
_LAST_RESULTS_S = 10.0  # for results that Redis does not have, when the node is killed
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError)
_STRAY_BEATS = 3  # a placed job that was in no queue for so many beats is looked for by its R


class RunsBeside(Protocol):
    """A process that the node looks after: the dispatcher."""

    def look(self) -> None:
        """Start it, or another one."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What one worker was given."""

    name: str
    url: str = field(repr=False)  # of Redis
    slots: int | None = None  # None: what its hosts can run at once
    address: str = ""  # where SSH sessions can be reached; empty: this machine's name
    blob_store: BlobStore | None = None  # of the user's own
    blob_cache: BlobCache | None = None


class Node:
    """One worker. ``run`` is called once, in the main thread.

    Args:
        store: Redis.
        signer: the cluster's keys.
        manager: with the node's Docker hosts and secrets, not started.
        hooks: those of the manager.
        settings: the node's own.
        timeouts: the cluster's.
        dispatcher: a process to look after; None: others do that.
    """

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        manager: JobManager,
        hooks: HookManager,
        settings: NodeSettings,
        timeouts: ClusterTimeouts,
        *,
        dispatcher: RunsBeside | None = None,
    ) -> None:
        self._store = store
        self._signer = signer
        self._manager = manager
        self._hooks = hooks
        self._settings = settings
        self._timeouts = timeouts
        self._dispatcher = dispatcher
        self._identity = NodeIdentity(name=settings.name, incarnation=secrets.token_hex(16))
        self._jobs = NodeJobs(settings.slots or 0)
        self._outbox = ResultOutbox(self._deliver, self._delivered)
        self._beats = Beats(store, self._identity, self._jobs, timeouts, self)
        self._events = NodeEvents(store, signer, settings.name, self._jobs)
        self._inbox = NodeInbox(
            store,
            signer,
            settings.name,
            self._jobs,
            kill=self._kill_on_command,
            follow=self._follow,
            redis_s=timeouts.redis_s,
        )
        self._worker = NodeWorker(store.redis, store.keys, settings.name, self, redis_s=timeouts.redis_s)
        self._unpacker = Unpacker()
        self._redis_blobs = RedisBlobs(store.redis, store.keys, ttl_s=timeouts.result_ttl_s)
        self._intake = Intake(
            store,
            signer,
            self._identity,
            self._jobs,
            manager,
            unpack=self._unpack,
            on_start=lambda job: self._worker.show_started(job.r),
            on_end=self._ended,
            on_ssh=self._events.tell_ssh,
            is_stopping=lambda: self._signals > 1 or self._has_lost_name,
        )
        self._signals = 0
        self._is_killed = False
        self._has_lost_name = False
        self._want = "up"
        self._no_host = ""
        self._machines = MachineTotals(
            slots=0, memory_mib=0, free_memory_mib=0, cores=0, environments=frozenset(), references=frozenset()
        )
        self._unheld_for: dict[str, int] = {}  # by R: beats

    def run(self) -> int:
        """Take jobs until SIGTERM, and return when none is left: the exit code of the process.

        Raises:
            RedisUnavailable: Redis refuses us.
            EngineUnavailable: no Docker host answers.
            InvalidValue: another worker has the name.
        """
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if not self._wait_for_redis():
                return DRAINED
            self._manager.start()
            try:
                return self._serve()
            finally:
                self._manager.close(kill=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- what RQ's worker asks (``TakesJobs``)

    def has_room(self) -> bool:
        """Whether it takes a job now."""
        return self.state == "up" and self._jobs.has_room() and not self._outbox.is_full

    def gives_back(self) -> bool:
        """Whether it takes jobs only to give them back."""
        return self.state != "up"

    def wait(self, timeout_s: float) -> None:
        """Until something may have changed."""
        self._jobs.wait(timeout_s)

    def take(self, r: str) -> None:
        """A job was in this node's queue."""
        if not self._intake.take(r, only_to_give_back=self.gives_back()):
            self._worker.forget(r)

    def is_over(self) -> bool:
        """Whether it takes no more jobs, and has none. Called again and again: what signals ask for is done here."""
        if (self._signals > 1 or self._has_lost_name) and not self._is_killed:
            self._kill_all()
        return self._is_killed or (self._signals > 0 and not len(self._jobs))

    def on_signal(self) -> None:
        """The first one drains, the second one kills."""
        self._signals += 1
        self._jobs.wake()

    # ---- what its beats ask (``HearsBeats``)

    @property
    def state(self) -> str:
        """``up``, ``draining`` or ``paused``."""
        if self._signals or self._has_lost_name or self._want == "drain":
            return "draining"
        return "paused" if self._want == "pause" or self._no_host else "up"

    def report(self) -> str:
        """What it says of itself, signed."""
        self._look_at_hosts()
        has = self._machines
        report = NodeReport(
            name=self._identity.name,
            incarnation=self._identity.incarnation,
            version=__version__,
            oldest_schema=1,
            newest_schema=SCHEMA,
            state=self.state,
            reason=self._no_host,
            slots=self._jobs.slots,
            used=self._jobs.used,
            memory_mib=has.memory_mib,
            free_memory_mib=has.free_memory_mib,
            cores=has.cores,
            environments=tuple(sorted(has.environments)),
            images=tuple(sorted(has.references)),
            machine=socket.gethostname(),
            pid=os.getpid(),
            address=self._settings.address,
        )
        return signed(self._signer, report)

    def _look_at_hosts(self) -> None:
        with suppress(JobManagerError):  # the manager is being closed
            self._machines = self._manager._machines()
        self._no_host = "" if self._machines.slots else "none of its Docker hosts answers"
        if self._machines.slots:
            self._jobs.slots = min(self._machines.slots, self._settings.slots or self._machines.slots)

    def answered(self, beat: Beat) -> None:
        """What the answer to a sign of life asks for."""
        if self._dispatcher is not None:
            self._dispatcher.look()
        self._take_wish(beat.want)
        if beat.lost:
            self._outbox.drop(beat.lost)
            self._fence(beat.lost, "it is not this node's any more")
        for r, envelope in beat.cancels.items():
            self._cancel(r, envelope)
        self._look_for(beat.unheld)

    def name_lost(self) -> None:
        """Another worker has its name: whatever runs here is given up."""
        if not self._has_lost_name:
            self._has_lost_name = True
            _log.error("another worker has the name %s now: this one ends", self._identity.name)
            self._jobs.wake()

    def cut_off(self) -> None:
        """Its jobs are given up by the others: so they are here."""
        if self._dispatcher is not None:
            self._dispatcher.look()
        self._fence(None, "Redis was away for too long")

    def data_lost(self) -> None:
        """Say again what Redis had not long ago."""
        self._outbox.say_all_again()

    # ---- the life of the process

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.on_signal()

    def _wait_for_redis(self) -> bool:
        """Until Redis answers; it may be started later than this worker. False: a signal came first."""
        is_told = False
        while not self._signals:
            try:
                check_redis(self._store.redis, self._settings.url)
                return True
            except RedisUnavailable as problem:
                if not is_away(problem):
                    raise
                if not is_told:
                    _log.warning("%s. It is tried again every %g s", problem, _CONNECT_RETRY_S)
                is_told = True
                self._jobs.wait(_CONNECT_RETRY_S)
        return False

    def _serve(self) -> int:
        self._look_at_hosts()
        with redis_errors(self._settings.url):
            if not self._claim_name():
                return DRAINED
        self._events.listen(self._hooks)
        self._outbox.start()
        self._beats.start()
        self._inbox.start()
        _log.info("node %s takes jobs: %d at once", self._identity.name, self._jobs.slots)
        try:
            self._worker.run()
        finally:
            self._stop()
        return NAME_LOST if self._has_lost_name else KILLED if self._is_killed else DRAINED

    def _claim_name(self) -> bool:
        """Take the node's name. That of a worker that has died is free after a while; one that lives shows it by its beats."""
        name, incarnation = self._identity.name, self._identity.incarnation
        until = time.monotonic() + self._timeouts.suspect_s + self._timeouts.beat_s
        first = self._holder()
        while self._store.claim_node(name, incarnation):
            holder = self._holder()
            if holder.beats != first.beats or time.monotonic() > until:
                raise InvalidValue(f"another worker has the name {name}: {holder.where}. Give this one another --name")
            if self._signals:
                return False
            self._jobs.wait(min(self._timeouts.beat_s / 2, 1.0))
        return True

    def _holder(self) -> _Holder:
        fields = next((node for node in self._store.nodes() if node.name == self._identity.name), None)
        if fields is None:
            return _Holder(beats=0, where="it has not said where it runs")
        with suppress(BadSignature, BadMessage):
            report = opened(self._signer, NodeReport, fields.report, 4 * 2**20)
            return _Holder(beats=fields.beats, where=f"process {report.pid} on {report.machine}")
        return _Holder(beats=fields.beats, where="it has not said where it runs")

    def _stop(self) -> None:
        """Commands first, then what runs, results last; the name is given up when nothing is left to say."""
        self._inbox.close()
        self._manager.close(kill=True)
        left = self._outbox.close(_LAST_RESULTS_S)
        if left:
            _log.error("Redis did not get %d results: their jobs will count as lost", left)
        self._beats.close()
        if self._dispatcher is not None:
            self._dispatcher.close()
        if not self._has_lost_name:
            with suppress(RedisError):
                self._store.release_node(self._identity.name, self._identity.incarnation)

    def _kill_all(self) -> None:
        """A second signal, or another worker's: end at once. Jobs whose retries are not used up are left to the dispatcher."""
        self._is_killed = True
        for job in self._fence(None, "its node is being stopped"):
            if not self._has_lost_name and job.runs > job.header.retries:
                self._send(job, crash(job, f"its node {self._identity.name} was stopped", "node_lost"))

    # ---- jobs

    def _unpack(self, r: str, body: str) -> Unpacked:
        stores = [] if self._settings.blob_store is None else [self._settings.blob_store]
        shared = BlobReader(self._redis_blobs, *stores, cache=self._settings.blob_cache)
        own = BlobReader(self._redis_blobs.of_job(r), *stores)
        return self._unpacker.unpack(body, shared=shared, own=own)

    def _ended(self, job: HeldJob, result: JobResult) -> None:
        """A job's result, in one of the manager's threads."""
        if not self._jobs.end(job):
            _log.info("the result of job %s is dropped: it was given up", job.header.job_id)
            return
        if result.outcome is Outcome.KILLED and job.kill_reason:
            with suppress(ValueError):
                asked = killed(job, KillReason(job.kill_reason))
                result = replace(result, text=asked.text, evidence=asked.evidence)
        host = self._identity.name if result.host is not None else None
        self._send(job, replace(result, job_id=job.header.job_id, host=host))

    def _send(self, job: HeldJob, result: JobResult) -> None:
        self._outbox.put(self._finished(job.header, job.token, result))

    def _finished(self, header: JobHeader, token: str, result: JobResult) -> FinishedJob:
        packed = pack_result(result)
        message = ResultMessage(
            r=header.r,
            job_id=header.job_id,
            token=token,
            node=self._identity.name,
            result=packed.text,
            blobs=tuple(packed.own),
        )
        return FinishedJob(
            r=header.r,
            token=token,
            client=header.client,
            job_id=header.job_id,
            outcome=result.outcome.value,
            envelope=signed(self._signer, message),
            blobs=packed.own,
        )

    def _deliver(self, result: FinishedJob) -> str:
        if result.blobs:
            if (fields := self._store.record(result.r)) is not None and fields.state == "done":
                return "late"
            self._put_blobs(result.r, result.blobs)
        return self._store.finish(
            result.r,
            token=result.token,
            client=result.client,
            job_id=result.job_id,
            result=result.envelope,
            outcome=result.outcome,
            who=self._identity.name,
        )

    def _put_blobs(self, r: str, blobs: Mapping[str, bytes]) -> None:
        if self._settings.blob_store is None:
            self._redis_blobs.of_job(r).put_all(blobs)
        else:
            for sha256, data in blobs.items():
                self._settings.blob_store.put(sha256, data)

    def _delivered(self, result: FinishedJob, answer: str) -> None:
        self._jobs.drop(result.token)
        self._worker.show_ended(result.r, failed=result.outcome == Outcome.CRASH.value)
        if answer != "done":
            _log.warning("the result of job %s came too late, and is dropped", result.job_id, extra={"job_id": result.job_id})

    def _fence(self, rs: tuple[str, ...] | None, why: str) -> list[HeldJob]:
        """Give jobs up: their containers end, and nobody is told."""
        running = self._jobs.fence(rs)
        for job in running:
            _log.warning("job %s is given up: %s", job.header.job_id, why, extra={"job_id": job.header.job_id})
            self._worker.show_ended(job.r, failed=True)
            with suppress(JobManagerError):
                self._manager.kill_job(job.local_id)
        return running

    # ---- what others want

    def _take_wish(self, want: str) -> None:
        if want != self._want:
            _log.info("node %s: the operator wants it to %s", self._identity.name, {"up": "take jobs"}.get(want, want))
            self._want = want
            self._jobs.wake()

    def _cancel(self, r: str, envelope: str) -> None:
        """A job's record says that it is to be killed."""
        try:
            command = opened(self._signer, NodeCommand, envelope)
        except (BadSignature, BadMessage) as reason:
            _log.warning("a job is not killed: %s", reason, extra={"r": r})
            return
        job = self._jobs.find(r)
        if job is not None and (command.command, command.r, command.client) == ("kill", r, job.header.client):
            self._kill_on_command(job, command)

    def _kill_on_command(self, job: HeldJob, command: NodeCommand) -> None:
        job.kill_reason = command.reason
        with suppress(JobManagerError):
            self._manager.kill_job(job.local_id)

    def _follow(self, job: HeldJob) -> LiveOutput:
        return self._manager.follow(job.local_id)

    def _look_for(self, unheld: tuple[tuple[str, str, str], ...]) -> None:
        """Jobs that this node should have, by their records, and does not.

        One that was placed is in the queue, mostly; RQ's list may have been lost. One that is running was given up when Redis
        was away for too long, or has ended and Redis has lost that.
        """
        if self._is_killed or self._has_lost_name:
            return
        seen = self._unheld_for
        self._unheld_for = {r: seen.get(r, 0) + 1 for r, _, _ in unheld}
        for r, state, token in unheld:
            if self._jobs.find(r) is not None or self._outbox.say_again(r):
                continue
            if state == "placed":
                if self._unheld_for[r] >= _STRAY_BEATS and self.has_room():
                    self._worker.look_for(r)
            else:
                self._has_none(r, token)

    def _has_none(self, r: str, token: str) -> None:
        fields = self._store.record(r)
        if fields is None or fields.token != token:
            return
        try:
            header = opened(self._signer, JobHeader, fields.header)
        except (BadSignature, BadMessage) as reason:
            _log.warning("a job that this node does not have cannot be ended: %s", reason, extra={"r": r})
            return
        why = f"its node {self._identity.name} was cut off, and gave it up"
        if fields.runs <= header.retries:
            self._store.count_run(r)  # `back` takes one off: that is for jobs that were not run
            self._store.back(r, token=token, reason=why, exclude=False)
        else:
            lost = HeldJob(header=header, token=token)
            self._outbox.put(self._finished(header, token, crash(lost, why, "node_lost")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Who has a node's name."""

    beats: int
    where: str


def is_away(problem: RedisUnavailable) -> bool:
    """Whether a Redis that is started later, or comes back, would do."""
    cause = problem.__cause__
    return isinstance(cause, _AWAY) and not isinstance(cause, exceptions.AuthenticationError)

