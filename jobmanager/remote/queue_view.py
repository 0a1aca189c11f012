"""What a client says of the queue: the leader is asked, and what is known here has to do when it does not answer."""

from __future__ import annotations

import time
from functools import partial

from jobmanager.model.listings import QueueInfo, RunningJob, WaitingJob
from jobmanager.remote.job_news import ANSWER_S, JobNews
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.queue_snapshot import KIND, MAX_BYTES, read_snapshot
from jobmanager.remote.records import BadMessage
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_WANTED_S = 10.0  # for which the leader goes on to write snapshots
_LOOK_S = 0.05  # between two looks for the first one


class QueueView:
    """Raises redis' own errors. Thread-safe."""

    def __init__(self, store: ClusterStore, signer: Signer, jobs: OpenJobs, news: JobNews, *, client: str) -> None:
        self._store = store
        self._signer = signer
        self._jobs = jobs
        self._news = news
        self._client = client

    def queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown."""
        job = self._jobs.by_id(job_id)
        if job is None or job.result is not None:
            return None
        if job.seen.state != "waiting":
            return QueueInfo(-1, max(0.0, job.wall_s - self._jobs.running_for_s(job)))
        answer = self._news.ask(job, partial(self._store.ask, job.r, client=self._client))
        if answer is not None:
            return answer
        before = self._store.waiting_before(job.r)
        return QueueInfo(-1 if before is None else before, None)

    def length(self) -> int:
        """How many jobs of the cluster wait."""
        return self._store.waiting_count()

    def snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """The jobs of the cluster, as the leader has written them; without a leader, those of this process."""
        envelope, until = self._store.want_snapshot(_WANTED_S), time.monotonic() + ANSWER_S
        while not envelope and time.monotonic() < until:
            time.sleep(_LOOK_S)
            envelope = self._store.want_snapshot(_WANTED_S)
        if not envelope:
            return self._own()
        try:
            return read_snapshot(self._signer.open(KIND, envelope, MAX_BYTES), self._client)
        except (BadSignature, BadMessage) as error:
            _log.warning("the snapshot of the queue is not believed: %s", error)
            return self._own()

    def _own(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        jobs = self._jobs.undecided()
        return (
            [self._running(job) for job in jobs if job.seen.state != "waiting"],
            [
                WaitingJob(job.job_id, True, job.title, job.launcher, job.wall_s)
                for job in jobs
                if job.seen.state == "waiting" and job.r
            ],
        )

    def _running(self, job: OpenJob) -> RunningJob:
        info, started_at = f"{job.title} on {job.seen.node}", time.time() - self._jobs.running_for_s(job)
        return RunningJob(job.job_id, True, info, job.launcher, started_at, job.wall_s, job.seen.node)
