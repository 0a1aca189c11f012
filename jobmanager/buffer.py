"""``ClientBuffer``: runs jobs and keeps their results until they are asked for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobmanager.client import Client, InputData, JobOptions, checked_client, takes_job_options
from jobmanager.errors import UnknownJob
from jobmanager.model import _checks
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ClientBuffer"]


class ClientBuffer:
    """Polling for any ``Client``. Thread-safe, and safe in signal handlers: each step is one of a set or a dictionary.

    Args:
        client: who runs the jobs.
        keep_results_s: how long a result that nobody fetches is kept, in seconds; None: for ever.
    """

    def __init__(
        self, client: Client, *, keep_results_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if keep_results_s is not None:
            keep_results_s = _checks.positive("keep_results_s", keep_results_s)
        self._client = checked_client(client)
        self._keep_results_s = keep_results_s
        self._clock = clock
        self._waiting: set[str] = set()
        self._done: dict[str, tuple[float, JobResult]] = {}  # in the order of their ends; in here before it leaves _waiting

    @takes_job_options(JobOptions)
    def new_job(
        self,
        task: Task | Pipeline,
        inputdata: InputData = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """Accept a job and return its id; raises what the client's ``new_job`` raises."""
        job_id = uuid.uuid4().hex
        self._forget_expired()
        self._waiting.add(job_id)  # before it is submitted: it may end before new_job has returned
        try:
            return self._client.new_job(
                task,
                inputdata,
                self._ended,
                job_id=job_id,
                **options,
            )
        except BaseException:
            self._waiting.discard(job_id)
            raise

    def is_waiting(self, job_id: str) -> bool:
        """Whether the job has not ended yet. Raises UnknownJob."""
        return not self.is_done(job_id)

    def is_done(self, job_id: str) -> bool:
        """Whether the result can be fetched. Raises UnknownJob."""
        self._forget_expired()
        is_waiting = job_id in self._waiting
        is_done = job_id in self._done
        if not (is_waiting or is_done):
            raise _unknown(job_id)
        return is_done

    def get_result(self, job_id: str) -> JobResult:
        """The result; only once. Raises UnknownJob for a job that is not done, was fetched, expired, or never was."""
        self._forget_expired()
        done = self._done.pop(job_id, None)
        if done is None:
            raise _unknown(job_id)
        return done[1]

    def _ended(self, result: JobResult) -> None:
        self._done[result.job_id] = (self._clock(), result)
        self._waiting.discard(result.job_id)
        self._forget_expired()

    def _forget_expired(self) -> None:
        if self._keep_results_s is None:
            return
        oldest = self._clock() - self._keep_results_s
        for job_id, (ended_at, _) in list(self._done.items()):
            if ended_at >= oldest:
                return
            self._done.pop(job_id, None)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"no result of job {job_id!r} here: it is not done, was fetched already, has expired, or never was")
