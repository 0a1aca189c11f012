"""Hands jobs over to Redis: signed, with their blobs, tried again while Redis is away, and said again when it has lost them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from redis import exceptions

from jobmanager.control.lifetime import closed
from jobmanager.errors import DuplicateJob, InvalidInput, QueueFull, RedisUnavailable
from jobmanager.model.job import Request
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback, SSHCallback
from jobmanager.model.task import Task
from jobmanager.remote.blobs import BlobUploads
from jobmanager.remote.connect import redis_unavailable
from jobmanager.remote.open_jobs import WHAT, OpenJob
from jobmanager.remote.payload import Packed, Packer
from jobmanager.remote.records import SCHEMA, JobHeader, Needs
from jobmanager.remote.signed_messages import signed
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import Accepted, BlobsMissing, ClusterStore, DuplicateId, NewJob, WaitQueueFull
from jobmanager.remote.timeouts import ClusterTimeouts

_PAUSE_S = 0.1  # between two tries
_MAX_UPLOADS = 5  # of blobs that are missing each time
_MAX_TITLE = 200
_LATEST_S = 86400.0  # beside the time that it may wait for a node: clocks differ, and what is lost is placed again
_PASSING = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, OSError)
_FOR_GOOD = (exceptions.AuthenticationError,)  # ConnectionErrors of redis, too


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLimits:
    """What one client may send."""

    max_waiting_jobs: int
    queue_timeout_s: float


class Sender:
    """Sends one client's jobs. Thread-safe."""

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        uploads: BlobUploads,
        packer: Packer,
        *,
        client: str,
        url: str,
        limits: SenderLimits,
        timeouts: ClusterTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._signer = signer
        self._uploads = uploads
        self._packer = packer
        self._client = client
        self._url = url
        self._limits = limits
        self._timeouts = timeouts
        self._clock = clock

    def open_job(
        self, task: Task | Pipeline, request: Request, callback: Callback | None, ssh_callback: SSHCallback | None
    ) -> OpenJob:
        """A job, ready to be handed over. ``task`` is the caller's own: a node makes of it what ``debug`` asks for.

        Raises:
            InvalidTask, InvalidInput: it cannot be sent.
        """
        packed = self._packer.pack(task, request.inputs, debug=request.debug)
        r = secrets.token_hex(16)
        title = request.title[:_MAX_TITLE]
        header = signed(self._signer, self._header(r, request, packed, title))
        sent = NewJob(r=r, job_id=request.job_id, client=self._client, title=title, header=header, body=packed.text)
        return OpenJob(
            job_id=request.job_id,
            r=r,
            callback=callback,
            ssh_callback=ssh_callback,
            wall_s=request.task.wall_s,
            title=title,
            launcher=request.launcher_name,
            sent=sent,
            packed=packed,
            request=request,
            task=task if isinstance(task, Task) and any(callable(case.check) for case in task.cases) else None,
        )

    def hand_over(self, job: OpenJob, *, is_wanted: Callable[[], bool]) -> None:
        """Returns when Redis has it.

        Raises:
            JobRefused: it was not accepted.
            RedisUnavailable, Closed: nobody knows whether it was. It is not ``is_wanted`` any more, in the latter case.
        """
        until, uploads = self._clock() + self._timeouts.outage_s, 0
        while is_wanted():
            try:
                if self._try(job):
                    return
                uploads += 1
                if uploads > _MAX_UPLOADS:
                    raise RedisUnavailable("the job's files vanish from Redis as soon as they are there: is its memory full?")
            except _FOR_GOOD as error:
                raise redis_unavailable(error, self._url) from error
            except _PASSING as error:
                if self._clock() >= until:
                    raise _as_unavailable(error, self._url) from error
                time.sleep(_PAUSE_S)
            except exceptions.RedisError as error:
                raise redis_unavailable(error, self._url) from error
        raise closed(WHAT)

    def announce_all(self, jobs: Sequence[OpenJob]) -> Iterator[bool]:
        """Say jobs again, as Redis has lost data: for each whether it was not there any more."""
        if jobs:
            self._uploads.forget()
        for job in jobs:
            sent, packed, seen = job.sent, job.packed, job.seen
            if sent is not None and packed is not None:  # it was not decided meanwhile
                self._uploads.upload(job.r, packed.shared, packed.own)
                yield self._store.announce(sent, seen) == "made"

    def _try(self, job: OpenJob) -> bool:
        """Whether it was accepted; else blobs are missing, and are uploaded the next time."""
        sent, packed = job.sent, job.packed
        if sent is None or packed is None:  # its result is here already
            return True
        blobs = self._uploads.upload(job.r, packed.shared, packed.own)
        answer = self._store.accept(replace(sent, blobs=blobs), max_waiting=self._limits.max_waiting_jobs)
        if isinstance(answer, (DuplicateId, WaitQueueFull)) and packed.own:
            self._uploads.take_back(job.r)
        if isinstance(answer, DuplicateId):
            raise DuplicateJob(f"a job with the id {job.job_id!r}, of client {answer.client!r}, has not ended yet")
        if isinstance(answer, WaitQueueFull):
            raise QueueFull(f"{answer.waiting} jobs are waiting already: try again later, or raise max_waiting_jobs")
        if isinstance(answer, BlobsMissing):
            self._uploads.forget()
        return isinstance(answer, Accepted)

    def _header(self, r: str, request: Request, packed: Packed, title: str) -> JobHeader:
        if abs(request.priority) > 2**53:
            raise InvalidInput(f"priority must be between -2**53 and 2**53 here, not {request.priority}")
        return JobHeader(
            schema=SCHEMA,
            r=r,
            job_id=request.job_id,
            client=self._client,
            launcher=request.launcher_name,
            priority=request.priority,
            title=title,
            job_class=request.job_class,
            needs=needs_of(request),
            retries=_retries(request.task),
            supersede_key=request.supersede_key,
            queue_timeout_s=self._limits.queue_timeout_s,
            not_after_s=time.time() + max(self._limits.queue_timeout_s + _LATEST_S, self._timeouts.result_ttl_s),
            body=packed.sha256,
        )


def needs_of(request: Request) -> Needs:
    """What a host must have for a job."""
    environment = request.runs[0].task.environment
    return Needs(
        environment=environment,
        other_environments=tuple(sorted(request.task.environments - {environment})),
        memory_mib=request.task.memory_mib,
        cpus=request.task.cpus,
        wall_s=request.task.wall_s,
        networks=tuple(sorted(request.task.networks)),
    )


def _retries(task: Task | Pipeline) -> int:
    """How often a job may be run as a whole again: as often as each of its tasks allows."""
    return task.retries if isinstance(task, Task) else min(phase.task.retries for phase in task.phases)


def _as_unavailable(error: Exception, url: str) -> RedisUnavailable:
    if isinstance(error, exceptions.RedisError):
        return redis_unavailable(error, url)
    return redis_unavailable(exceptions.ConnectionError(str(error)), url)
