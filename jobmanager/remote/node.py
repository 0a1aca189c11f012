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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

from redis import exceptions

from jobmanager._version import __version__
from jobmanager.errors import JobManagerError, RedisUnavailable
from jobmanager.hooks import HookManager
from jobmanager.live_output.reader import LiveOutput
from jobmanager.manager import JobManager
from jobmanager.remote.beats import Beats
from jobmanager.remote.blobs import BlobCache, BlobReader, BlobStore, RedisBlobs
from jobmanager.remote.connect import redis_errors
from jobmanager.remote.intake import Intake, NodeIdentity, crash
from jobmanager.remote.key_check import check_key
from jobmanager.remote.node_events import NodeEvents
from jobmanager.remote.node_inbox import NodeInbox
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.node_name import NodeName
from jobmanager.remote.node_results import NodeResults
from jobmanager.remote.payload import Unpacked, Unpacker
from jobmanager.remote.records import SCHEMA, BadMessage, NodeCommand, NodeReport
from jobmanager.remote.redis_checks import check_redis
from jobmanager.remote.rq_worker import NodeWorker
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import Beat, ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.remote.unheld_jobs import UnheldJobs
from jobmanager.scheduling.hosts import MachineTotals
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

DRAINED, NAME_LOST, KILLED = 0, 1, 130  # exit codes
_CONNECT_RETRY_S = 1.0
_LAST_RESULTS_S = 10.0  # for results that Redis does not have, when the node is killed
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError)


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
        self._name = NodeName(store, signer, self._identity, timeouts)
        self._unpacker = Unpacker()
        self._redis_blobs = RedisBlobs(store.redis, store.keys, ttl_s=timeouts.result_ttl_s)
        self._results = NodeResults(
            store,
            signer,
            self._identity,
            self._jobs,
            redis_blobs=self._redis_blobs,
            blob_store=settings.blob_store,
            dashboards=self._worker,
        )
        self._unheld = UnheldJobs(
            store, signer, settings.name, self._jobs, self._results, look_for=self._worker.look_for, has_room=self.has_room
        )
        self._intake = Intake(
            store,
            signer,
            self._identity,
            self._jobs,
            manager,
            unpack=self._unpack,
            on_start=lambda job: self._worker.show_started(job.r),
            on_end=self._results.ended,
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

    def run(self) -> int:
        """Take jobs until SIGTERM, and return when none is left: the exit code of the process.

        Raises:
            RedisUnavailable: Redis refuses us.
            EngineUnavailable: no Docker host answers.
            InvalidValue: another worker has the name.
        """
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if not self._when_redis_answers(self._check_redis):
                return DRAINED
            self._manager.start()
            try:
                code = self._serve()
            finally:
                self._manager.close(kill=True)
            _log.info("node %s has left%s", self._identity.name, "" if code == DRAINED else ", and what ran there was killed")
            return code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- what RQ's worker asks (``TakesJobs``)

    def has_room(self) -> bool:
        """Whether it takes a job now."""
        return self.state == "up" and self._jobs.has_room() and not self._results.outbox.is_full

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
            networks=None if has.networks is None else tuple(sorted(has.networks)),
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
            self._results.outbox.drop(beat.lost)
            self._fence(beat.lost, "it is not this node's any more")
        for r, envelope in beat.cancels.items():
            self._cancel(r, envelope)
        if not (self._is_killed or self._has_lost_name):
            self._unheld.told(beat.unheld)

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
        self._results.outbox.say_all_again()

    # ---- the life of the process

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.on_signal()

    def _check_redis(self) -> bool:
        check_redis(self._store.redis, self._settings.url)
        check_key(self._store, self._signer)
        return True

    def _claim_name(self) -> bool:
        return self._name.claim(self._jobs.wait, lambda: self._signals > 0)

    def _when_redis_answers(self, step: Callable[[], bool]) -> bool:
        """What a step says. Redis may be started later than this worker, or be away for a while. False: a signal came first."""
        is_told = False
        while not self._signals:
            try:
                with redis_errors(self._settings.url):
                    return step()
            except RedisUnavailable as problem:
                if not is_away(problem):
                    raise
                if not is_told:
                    _log.warning("Redis is tried again every %g s: %s", _CONNECT_RETRY_S, problem)
                is_told = True
                self._jobs.wait(_CONNECT_RETRY_S)
        return False

    def _serve(self) -> int:
        self._look_at_hosts()
        if not self._when_redis_answers(self._claim_name):
            return DRAINED
        self._events.listen(self._hooks)
        self._results.outbox.start()
        self._beats.give()  # before the first job is taken, all know whose name it is
        self._beats.start()
        self._inbox.start()
        _log.info("node %s takes jobs: %d at once", self._identity.name, self._jobs.slots)
        try:
            self._worker.run()
        finally:
            self._stop()
        return NAME_LOST if self._has_lost_name else KILLED if self._is_killed else DRAINED

    def _stop(self) -> None:
        """Commands first, then what runs, results last; the name is given up when nothing is left to say."""
        self._inbox.close()
        self._manager.close(kill=True)
        left = self._results.outbox.close(_LAST_RESULTS_S)
        self._worker.show_now()
        if left:
            _log.error("Redis did not get %d results: their jobs will count as lost", left)
        self._beats.close()
        if self._dispatcher is not None:
            self._dispatcher.close()
        if not self._has_lost_name:
            self._name.release()

    def _kill_all(self) -> None:
        """A second signal, or another worker's: end at once. Jobs whose retries are not used up are left to the dispatcher."""
        self._is_killed = True
        for job in self._fence(None, "its node is being stopped"):
            if not self._has_lost_name and job.runs > job.header.retries:
                self._results.send(job, crash(job, f"its node {self._identity.name} was stopped", "node_lost"))

    # ---- jobs

    def _unpack(self, r: str, body: str) -> Unpacked:
        stores = [] if self._settings.blob_store is None else [self._settings.blob_store]
        shared = BlobReader(self._redis_blobs, *stores, cache=self._settings.blob_cache)
        own = BlobReader(self._redis_blobs.of_job(r), *stores)
        return self._unpacker.unpack(body, shared=shared, own=own)

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


def is_away(problem: RedisUnavailable) -> bool:
    """Whether a Redis that is started later, or comes back, would do."""
    cause = problem.__cause__
    return isinstance(cause, _AWAY) and not isinstance(cause, exceptions.AuthenticationError)

