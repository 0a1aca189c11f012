"""``NodeWorker``: RQ's worker class as the carrier of a node's jobs. Nothing else touches the inside of RQ's workers.

RQ does the safe pop from the node's queue, the worker's record with its heartbeat, and the registries that dashboards show.
It runs nothing: no function that a record names, no callback, no webhook; nothing of a record is inflated, unpickled or even
read. What is overridden has had the same signature since RQ 1.16; ``tests/cluster/test_rq_contract.py`` holds it against the
oldest and the newest RQ that ``setup.cfg`` allows.

Why each override is there: RQ's own ``request_stop`` raises in the middle of a Redis call and loses jobs; its maintenance
fails and requeues jobs by the clock of whoever looks; its commands come over a channel that anybody may write to; with more
than one queue its pop is not safe.
"""

# ruff: noqa: ARG002 - the signatures are RQ's
from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import BaseWorker, WorkerStatus

from jobmanager.errors import InvalidValue
from jobmanager.remote.keys import Keys
from jobmanager.remote.records import is_r
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_POP_S = 1.0  # so long a pop waits for a job, at most
_HEARTBEAT_S = 5.0
_SHOW_S = 0.5  # so far, at least, are dashboards behind
_WORKER_TTL_S = 30  # RQ adds 60 s
_SET_IF_THERE = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HSET', KEYS[1], unpack(ARGV)) end"
_EXECUTION_TTL_S = 180  # RQ takes a job for abandoned then; renewed with each heartbeat
_FINISHED_TTL_S = 3600  # for how long RQ's registries show a job that has ended
_RETRY_S = 0.5


class NodeJob(Job):
    """A job as RQ's worker sees it here: its id, and nothing of what its record in Redis says."""

    def refresh(self) -> None:
        """Read nothing."""

    def restore(self, raw_data: object) -> None:
        """Read nothing: not the function, the callbacks, the webhooks, ``meta``, or compressed data of unknown size."""


class NodeQueue(Queue):
    """The queue of one node."""

    job_class = NodeJob


class TakesJobs(Protocol):
    """The node, as its RQ worker sees it."""

    def has_room(self) -> bool:
        """Whether it takes a job now."""

    def gives_back(self) -> bool:
        """Whether it takes jobs only to give them back: it drains, or pauses."""

    def wait(self, timeout_s: float) -> None:
        """Wait until it may have room, or something else has changed."""

    def take(self, r: str) -> None:
        """Run a job that was in its queue, or refuse it."""

    def is_over(self) -> bool:
        """Whether it takes no more jobs, and has none."""

    def on_signal(self) -> None:
        """A signal asks it to stop. Called inside the signal handler."""


class NodeWorker(BaseWorker):
    """The RQ worker of one node. ``run`` returns when the node is over."""

    job_class = NodeJob
    queue_class = NodeQueue
    connection_timeout = 0  # the connection keeps its own timeout

    def __init__(self, redis: Redis, keys: Keys, node: str, jobs: TakesJobs, *, redis_s: float = 5.0) -> None:
        """``redis_s``: the time limit of each call of the connection."""
        name = keys.node_queue(node)
        self._pop_s = min(_POP_S, redis_s / 2)
        self._jobs = jobs
        self._keys = keys
        self._queue = NodeQueue(name, connection=redis, serializer=JSONSerializer)
        if self._queue.key != keys.rq_node(node):
            raise InvalidValue(f"RQ_KEY_PREFIX is set: RQ would look for {name} under {self._queue.key!r}. Take it out")
        super().__init__(
            [self._queue],
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            prepare_for_work=False,  # it would list all clients of Redis, which needs a right that a node should not have
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._next_heartbeat_at = 0.0
        self._is_stray_possible = True  # a pop may have been cut off
        self._looked_for: deque[str] = deque()
        self._shown: dict[str, Execution] = {}
        self._to_show: dict[str, tuple[str, bool | None]] = {}  # by R: when it was started, and whether it failed; None: it runs
        self._running: dict[str, str] = {}  # by R: when it was started; of those that have not ended
        self._showing = threading.Lock()
        self._show_at = 0.0
        self._intermediate = f"{self._queue.key}:intermediate"
        self._set_if_there = redis.register_script(_SET_IF_THERE)

    def run(self) -> None:
        """Take jobs until the node is over. In the main thread."""
        while not self._jobs.is_over():
            self.work()  # it ends at every error that it does not know

    # ---- what RQ calls

    def bootstrap(self, *args: object, **keywords: object) -> None:
        """Register, and leave logging and the channel for commands alone. What a killed worker of this name ran, runs no more."""
        self._guarded(lambda: self.connection.delete(self._started().key))
        self._guarded(self.register_birth)

    def register_birth(self) -> None:
        """Register anew, also where a record of this name is left: the name was claimed before, and who had it runs nothing."""
        self.connection.delete(self.key, self._started().key)
        super().register_birth()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Say that this worker has ended."""
        self._guarded(self.register_death)

    def request_stop(self, signum: object, frame: object) -> None:
        """The handler of SIGTERM and SIGINT: it sets flags, and interrupts nothing."""
        self._jobs.on_signal()

    def check_for_suspension(self, burst: bool) -> None:
        """``rq suspend`` means all workers of all namespaces, and is not signed: ``jobmanager nodes pause`` is."""

    def run_maintenance_tasks(self) -> None:
        """RQ's own would fail jobs, run their callbacks and put them into queues again."""
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def handle_payload(self, message: object) -> None:
        """No command comes this way."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Called by RQ after each job; one in a few seconds is enough."""
        if time.monotonic() >= self._next_heartbeat_at:
            self._next_heartbeat_at = time.monotonic() + _HEARTBEAT_S
            self._guarded(self._beat)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job, when there is room for one. None, which ends the work: the node is over."""
        while not self._jobs.is_over():
            self.heartbeat()
            if time.monotonic() >= self._show_at:
                self.show_now()
            try:
                found = self._next()
            except DequeueTimeout:
                continue
            except RedisError as error:
                self._is_stray_possible = True
                _log.debug("no job can be fetched: %s", error)
                self._jobs.wait(_RETRY_S)
            except ValueError as error:  # what was popped could not be the id of a job
                self._is_stray_possible = True
                _log.warning("something else than a job is in this node's queue: %s", error)
            else:
                if found is not None:
                    return found
        return None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Hand a job to the node, which reads and checks our own record of it."""
        try:
            self._jobs.take(job.id)
        except RedisError as error:
            self._is_stray_possible = True
            _log.debug("a job is taken again: %s", error)
            self._jobs.wait(_RETRY_S)

    # ---- what the node calls, from any thread

    def look_for(self, r: str) -> None:
        """Hand over a job that is in no list of RQ's any more."""
        self._looked_for.append(r)

    def forget(self, r: str) -> None:
        """What was popped is no job of this node: take it out of RQ's list of popped jobs."""
        self.connection.lrem(self._intermediate, 1, r)

    def show_started(self, r: str) -> None:
        """Let dashboards see soon that a job runs here."""
        with self._showing:
            self._running[r] = started_at = utcformat(now())
            self._to_show[r] = started_at, None

    def show_ended(self, r: str, *, failed: bool) -> None:
        """Let dashboards see soon how it ended."""
        with self._showing:
            if (started_at := self._running.pop(r, None)) is not None:
                self._to_show[r] = started_at, failed

    def show_now(self) -> None:
        """Let dashboards see what has changed: many jobs at once, and those that were short only as ended. In the main thread."""
        self._show_at = time.monotonic() + _SHOW_S
        with self._showing:
            news, self._to_show = self._to_show, {}
        if news:
            self._guarded(partial(self._show, news))

    # ---- its own

    def _next(self) -> tuple[Job, Queue] | None:
        """The next job; None when there may be one soon."""
        gives_back = self._jobs.gives_back()
        if not gives_back and not self._jobs.has_room():
            self._jobs.wait(_POP_S)
            return None
        if r := self._looked_for.popleft() if self._looked_for else self._stray():
            return NodeJob(r, connection=self.connection, serializer=JSONSerializer), self._queue
        found = self.queue_class.dequeue_any(
            self.queues,
            None if gives_back else self._pop_s,  # type: ignore[arg-type]  # Redis takes fractions of a second
            connection=self.connection,
            job_class=self.job_class,
            serializer=self.serializer,
            death_penalty_class=self.death_penalty_class,
        )
        if found is None:
            self._jobs.wait(_POP_S)
        return found

    def _stray(self) -> str:
        """A job that was popped and never handed over: the answer was lost, or an earlier worker has died then."""
        if not self._is_stray_possible:
            return ""
        for raw in self.connection.lrange(self._intermediate, 0, -1):
            r = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
            if is_r(r):
                return r
            self.connection.lrem(self._intermediate, 1, raw)  # type: ignore[arg-type]
        self._is_stray_possible = False
        return ""

    def _beat(self) -> None:
        self._is_stray_possible = True  # the connection repeats by itself what was cut off
        state = WorkerStatus.BUSY if self._shown else WorkerStatus.IDLE
        if not self.connection.hexists(self.key, "birth"):  # Redis has lost its data
            self.register_birth()
        super().heartbeat(_WORKER_TTL_S + 60)
        self.set_state(state)
        with self.connection.pipeline() as together:
            for execution in self._shown.values():
                execution.heartbeat(self._started(), _EXECUTION_TTL_S, pipeline=together)
            together.expire(self._started().key, _EXECUTION_TTL_S)
            together.execute()

    def _show(self, news: Mapping[str, tuple[str, bool | None]]) -> None:
        with self.connection.pipeline() as together:
            for r, (started_at, failed) in news.items():
                self._show_no_more(r, together)
                shown = {"worker_name": self.name, "started_at": started_at}
                if failed is None:
                    # without our name: rq-dashboard 0.9 would unpickle the job that a worker has, and its page would fail
                    self._shown[r] = Execution.create(self._job(r), _EXECUTION_TTL_S, pipeline=together)
                else:
                    shown["ended_at"] = utcformat(now())
                self._set(together, self._keys.rq_job(r), shown)
            together.expire(self._started().key, _EXECUTION_TTL_S)
            good, bad = ([r for r, (_, failed) in news.items() if failed is each] for each in (False, True))
            self._count(FinishedJobRegistry, "successful_job_count", good, together)
            self._count(FailedJobRegistry, "failed_job_count", bad, together)
            together.execute()

    def _show_no_more(self, r: str, together: Any) -> None:
        if (execution := self._shown.pop(r, None)) is not None:
            execution.delete(self._job(r), pipeline=together)

    def _count(self, kind: Callable[..., Any], counter: str, rs: Sequence[str], together: Any) -> None:
        if rs:
            key, time_s = kind(self._queue.name, connection=self.connection).key, time.time()
            together.zadd(key, dict.fromkeys(rs, time_s + _FINISHED_TTL_S))  # its own `add` would save a job
            together.zremrangebyscore(key, 0, time_s)
            together.expire(key, _FINISHED_TTL_S)
            together.hincrby(self.key, counter, len(rs))

    def _job(self, r: str) -> NodeJob:
        job = NodeJob(r, connection=self.connection, serializer=JSONSerializer)
        job.origin = self._queue.name
        return job

    def _set(self, pipeline: Any, key: str, fields: dict[str, str]) -> None:
        """Where Redis has lost RQ's record of a job, none is made: nobody would delete it."""
        self._set_if_there(keys=[key], args=[part for pair in fields.items() for part in pair], client=pipeline)

    def _started(self) -> StartedJobRegistry:
        return StartedJobRegistry(self._queue.name, connection=self.connection, serializer=JSONSerializer)

    def _guarded(self, step: Callable[[], object]) -> None:
        """What dashboards see is worth no job."""
        try:
            step()
        except RedisError as error:
            _log.debug("RQ's records are not up to date: %s", error)
