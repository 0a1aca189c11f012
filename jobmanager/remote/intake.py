"""``Intake``: from the id of a job in a node's queue to a job of the node's manager, or to why it is none.

What stands in Redis may be anybody's. A job is run only if its header and its placement are signed with our key, and say the
same as its record; if the placement is for this very node, in this life of its process, and was not used before; and if what
was sent is what the header has the hash of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from redis.exceptions import RedisError

from jobmanager.errors import Closed, DuplicateJob, InvalidInput, JobManagerError
from jobmanager.manager import JobManager
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.remote.blobs import BlobLost, hash_of
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.payload import Unpacked
from jobmanager.remote.records import SCHEMA, BadMessage, ClientEvent, JobHeader, Placement, is_r
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore, JobFields
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict, killed_verdict
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_RETRY_S = 0.5


class JobRejected(Exception):
    """What is in the queue is not run here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """A node, in one life of its process."""

    name: str
    incarnation: str  # random


class Intake:
    """Takes jobs, one at a time.

    Args:
        unpack: what a client has sent, from a job's R and body. Raises what ``Unpacker.unpack`` raises, and redis' errors.
        on_end: called with a job and its result, in one of the manager's threads or in here.
        on_ssh: called with a job and where a person can log in to it.
        is_stopping: whether to give up what cannot be said to Redis.
    """

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        node: NodeIdentity,
        jobs: NodeJobs,
        manager: JobManager,
        *,
        unpack: Callable[[str, str], Unpacked],
        on_start: Callable[[HeldJob], None],
        on_end: Callable[[HeldJob, JobResult], None],
        on_ssh: Callable[[HeldJob, str | None, int | None, str | None, str | None], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._signer = signer
        self._node = node
        self._jobs = jobs
        self._manager = manager
        self._unpack = unpack
        self._on_start = on_start
        self._on_end = on_end
        self._on_ssh = on_ssh
        self._is_stopping = is_stopping

    def take(self, r: str, *, only_to_give_back: bool = False) -> bool:
        """Run a job. False: there is no such job of this node, and its id is to be forgotten.

        Raises:
            RedisError: nothing has happened: take it again.
        """
        fields = self._store.record(r) if is_r(r) else None
        if fields is None:
            return False
        try:
            job = self._checked(r, fields)
        except (BadSignature, BadMessage, JobRejected) as reason:
            self._refuse(r, fields, str(reason))
            return False
        if only_to_give_back:
            self._give_back(job, "its node takes no jobs now", exclude=False)
        elif self._jobs.take(job):
            self._run_guarded(job, fields)
        elif fields.state == "placed" and self._jobs.find(r) is None:
            self._give_back(job, "its node had it before", exclude=False)
        else:
            _log.warning("job %s is in this node's queue a second time, and is not run again", job.header.job_id)
            return False
        return True

    def _checked(self, r: str, fields: JobFields) -> HeldJob:
        placement = opened(self._signer, Placement, fields.placement)
        if (placement.r, placement.node, placement.incarnation) != (r, self._node.name, self._node.incarnation):
            raise JobRejected("it was placed elsewhere, or before this worker was started")
        if placement.token != fields.token:
            raise JobRejected("it was placed anew")
        header = opened(self._signer, JobHeader, fields.header)
        if header.r != r:
            raise JobRejected("its header is that of another job")
        if time.time() > header.not_after_s:
            raise JobRejected("it is too old: it may be a replay")
        return HeldJob(header=header, token=placement.token, attempt=fields.attempt, runs=fields.runs)

    def _refuse(self, r: str, fields: JobFields, reason: str) -> None:
        """Whoever wrote this cannot have it run. One that was placed here indeed, and was changed since, is placed once more."""
        _log.warning("a job in this node's queue is not run: %s", reason, extra={"r": r})
        if fields.state == "placed" and (fields.node, fields.incarnation) == (self._node.name, self._node.incarnation):
            self._store.back(r, token=fields.token, reason=reason, exclude=False)

    def _run_guarded(self, job: HeldJob, fields: JobFields) -> None:
        try:
            self._run(job, fields)
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - it costs this job only
            _log.exception("job %s cannot be taken", job.header.job_id)
            self._end(job, crash(job, f"node {self._node.name} cannot run it: {type(error).__name__}: {error}", "refused"))

    def _run(self, job: HeldJob, fields: JobFields) -> None:
        if job.header.schema > SCHEMA:
            return self._give_back(job, "its client is newer than the node", exclude=True)
        if self._jobs.has_ended(job.r):
            why = "it had run here: its result was lost with Redis' data, or a copy of it was sent again"
            return self._end(job, crash(job, why, "replayed"))
        if hash_of(fields.body.encode()) != job.header.body:
            return self._end(job, crash(job, "what was sent was changed on the way", "changed"))
        try:
            unpacked = self._unpacked(job, fields)
        except BlobLost as lost:
            return self._end(job, crash(job, f"it could not be sent whole: {lost}", "blob_lost"))
        except JobManagerError as wrong:
            return self._end(job, crash(job, f"node {self._node.name} cannot read what was sent: {wrong}", "unreadable"))
        answer = self._started(job)
        if answer == "cancelled":
            self._end(job, killed(job, KillReason.KILL_JOB))
        elif answer == "gone" or not self._jobs.run(job, fields.runs + 1):
            self._jobs.drop(job.token)
        else:
            self._on_start(job)
            self._hand_over(job, unpacked, fields.runs)
            if job.is_fenced:  # meanwhile: the manager did not know it yet when it was told to kill it
                self._manager.kill_job(job.local_id)
        return None

    def _unpacked(self, job: HeldJob, fields: JobFields) -> Unpacked:
        while True:
            try:
                return self._unpack(job.r, fields.body)
            except (RedisError, OSError) as error:
                if self._is_stopping() or job.is_fenced:
                    raise BlobLost(f"a store does not answer: {error}") from error
                self._jobs.wait(_RETRY_S)

    def _started(self, job: HeldJob) -> str:
        """What Redis says to its start."""
        node, incarnation = self._node.name, self._node.incarnation
        news = ClientEvent(event="started", r=job.r, node=node, incarnation=incarnation, token=job.token)
        event = signed(self._signer, news)
        while not (self._is_stopping() or job.is_fenced):
            try:
                answer = self._store.start(job.r, node=node, incarnation=incarnation, token=job.token, event=event)
                return "run" if answer == "gone" and self._was_started(job) else answer
            except RedisError as error:
                _log.debug("the start of job %s is said again: %s", job.header.job_id, error)
                self._jobs.wait(_RETRY_S)
        return "gone"

    def _was_started(self, job: HeldJob) -> bool:
        """Whether it was we who started it, and the answer was lost: nobody else has its token."""
        found = self._store.record(job.r)
        return found is not None and (found.state, found.token) == ("running", job.token)

    def _hand_over(self, job: HeldJob, unpacked: Unpacked, runs_before: int) -> None:
        try:
            try:
                self._new_job(job, unpacked, runs_before)
            except DuplicateJob:
                job.take_other_local_id()
                self._new_job(job, unpacked, runs_before)
        except InvalidInput as wrong:
            self._end(job, crash(job, str(wrong), "refused"))
        except Closed:
            self._give_back(job, "its node is being stopped", exclude=False)
        except JobManagerError as refusal:
            self._give_back(job, str(refusal), exclude=True)  # who tells it names the node

    def _new_job(self, job: HeldJob, unpacked: Unpacked, runs_before: int) -> None:
        self._manager.new_job(
            with_retries_left(unpacked.task, runs_before),
            unpacked.inputs,
            partial(self._on_end, job),
            launcher_name=job.header.launcher,
            debug=unpacked.debug,
            ssh_callback=partial(self._on_ssh, job) if unpacked.debug == "ssh" else None,
            job_id=job.local_id,
        )

    def _end(self, job: HeldJob, result: JobResult) -> None:
        job.is_told.set()  # the manager did not have it: its hooks will say nothing
        self._on_end(job, result)

    def _give_back(self, job: HeldJob, reason: str, *, exclude: bool) -> None:
        _log.info("job %s is given back: %s", job.header.job_id, reason)
        try:
            self._store.back(job.r, token=job.token, reason=reason, exclude=exclude)
        finally:  # if Redis does not answer, it hears with the next beat that the job is not held
            self._jobs.drop(job.token)


def with_retries_left(task: Task | Pipeline, runs: int) -> Task | Pipeline:
    """The task with as many retries as are left after so many runs elsewhere."""
    if isinstance(task, Pipeline) or not runs:
        return task
    return replace(task, retries=max(0, task.retries - runs))


def crash(job: HeldJob, why: str, kind: str) -> JobResult:
    """A result of our own."""
    return _decided(job, crash_verdict(kind, why, "the node"))


def killed(job: HeldJob, reason: KillReason) -> JobResult:
    """The result of one that was killed before it ran."""
    return _decided(job, killed_verdict(reason))


def _decided(job: HeldJob, verdict: Verdict) -> JobResult:
    return JobResult(job_id=job.header.job_id, outcome=verdict.outcome, text=verdict.text, evidence=verdict.evidence)
