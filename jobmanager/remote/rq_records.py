"""A job as RQ records it, so that RQ's dashboards can show it. We read nothing of it.

Its function is ``stub.wrong_worker``: a plain ``rq worker`` on our queues says what to start instead. Redis keeps a hash whose
values have at most 64 bytes in a third of the memory, so each has: 100,000 jobs may wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

if TYPE_CHECKING:
    from jobmanager.remote.store import NewJob

_STUB = "jobmanager.remote.stub.wrong_worker"
_SHORT = 64  # bytes


def rq_job_fields(redis: Redis, job: NewJob, queue: str, ttl_s: int) -> dict[str, Any]:
    """The fields of RQ's own record."""
    record = Job.create(
        _STUB,
        id=job.r,
        connection=redis,
        serializer=JSONSerializer,
        description=f"{job.title[:20]} {job.job_id}".encode()[:_SHORT].decode("utf-8", "ignore"),
        origin=queue,
        status=JobStatus.QUEUED,
        timeout=-1,
        result_ttl=ttl_s,
        failure_ttl=ttl_s,
    )
    record.enqueued_at = record.created_at
    return dict(record.to_dict())
