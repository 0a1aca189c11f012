"""``NodeResults``: from the end of a job on a node to its signed result in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from redis.exceptions import RedisError

from jobmanager.model.result import JobResult, Outcome
from jobmanager.remote.blobs import BlobStore, RedisBlobs
from jobmanager.remote.intake import NodeIdentity, crash, killed
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.outbox import FinishedJob, ResultOutbox
from jobmanager.remote.payload import pack_result
from jobmanager.remote.records import ResultMessage
from jobmanager.remote.signed_messages import signed
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.results.verdict import KillReason
from jobmanager.threads.log_thread import logger

_log = logger(__name__)


_NEWS_S = 2.0  # for the news of a job that hooks are to send before its result: they may hang at a Redis that is away


class ShowsEnds(Protocol):
    """Who shows dashboards how a job ended."""

    def show_ended(self, r: str, *, failed: bool) -> None:
        """It has ended."""


class NodeResults:
    """Packs and signs results; ``outbox`` brings them to Redis."""

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        node: NodeIdentity,
        jobs: NodeJobs,
        *,
        redis_blobs: RedisBlobs,
        blob_store: BlobStore | None,
        dashboards: ShowsEnds,
    ) -> None:
        self.outbox = ResultOutbox(self._deliver, self._delivered)
        self._store = store
        self._signer = signer
        self._node = node
        self._jobs = jobs
        self._redis_blobs = redis_blobs
        self._blob_store = blob_store
        self._dashboards = dashboards

    def ended(self, job: HeldJob, result: JobResult) -> None:
        """The manager has a result, or a job was not even handed to it. Its client is told all news of it first."""
        if not self._jobs.end(job):
            _log.info("the result of job %s is dropped: it was given up", job.header.job_id)
            return
        if not job.is_told.wait(_NEWS_S):
            _log.info("the result of job %s comes before its last news", job.header.job_id)
        if result.outcome is Outcome.KILLED and job.kill_reason:
            with suppress(ValueError):
                asked = killed(job, KillReason(job.kill_reason))
                result = replace(result, text=asked.text, evidence=asked.evidence)
        host = self._node.name if result.host is not None else None
        try:
            self.send(job, replace(result, job_id=job.header.job_id, host=host))
        except Exception as error:  # noqa: BLE001 - else the job would be held for ever
            _log.exception("the result of job %s cannot be sent", job.header.job_id)
            self.send(job, crash(job, f"its result cannot be sent: {type(error).__name__}: {error}", "unsendable"))

    def send(self, job: HeldJob, result: JobResult) -> None:
        """Sign a result, and bring it to Redis."""
        packed = pack_result(result)
        message = ResultMessage(
            r=job.r,
            job_id=job.header.job_id,
            token=job.token,
            node=self._node.name,
            result=packed.text,
            blobs=tuple(packed.own),
        )
        self.outbox.put(
            FinishedJob(
                r=job.r,
                token=job.token,
                attempt=job.attempt,
                client=job.header.client,
                job_id=job.header.job_id,
                outcome=result.outcome.value,
                envelope=signed(self._signer, message),
                blobs=packed.own,
            )
        )

    def _deliver(self, result: FinishedJob) -> str:
        if result.blobs:
            if (fields := self._store.record(result.r)) is not None and fields.state == "done":
                return "done" if fields.token == result.token else "late"  # the answer to it was lost
            self._put_blobs(result.r, result.blobs)
        answer = self._store.finish(
            result.r,
            token=result.token,
            attempt=result.attempt,
            client=result.client,
            job_id=result.job_id,
            result=result.envelope,
            outcome=result.outcome,
            who=self._node.name,
            blobs=result.blobs if self._blob_store is None else (),
        )
        if answer == "missing":
            raise RedisError("its blobs are not there any more")
        return answer

    def _put_blobs(self, r: str, blobs: Mapping[str, bytes]) -> None:
        if self._blob_store is None:
            self._redis_blobs.of_job(r).put_all(blobs)
        else:
            for sha256, data in blobs.items():
                self._blob_store.put(sha256, data)

    def _delivered(self, result: FinishedJob, answer: str) -> None:
        self._jobs.drop(result.token)
        self._dashboards.show_ended(result.r, failed=result.outcome == Outcome.CRASH.value)
        if answer == "done":
            self._jobs.remember_end(result.r)
        else:
            _log.warning("the result of job %s came too late, and is dropped", result.job_id, extra={"job_id": result.job_id})
