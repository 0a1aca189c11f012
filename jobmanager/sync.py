"""``ClientSync``: runs a job and waits for its result."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from jobmanager.client import Client, InputData, JobOptions, checked_client, takes_job_options
from jobmanager.errors import JobManagerError, JobTimeout
from jobmanager.model import _checks
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.threads.deadlock_guard import refuse_inside_callback

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ClientSync"]


class ClientSync:
    """Runs jobs of any ``Client`` one call at a time; several threads may call at once."""

    def __init__(self, client: Client) -> None:
        self._client = checked_client(client)

    @takes_job_options(JobOptions)
    def new_job(
        self,
        task: Task | Pipeline,
        inputdata: InputData = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> JobResult:
        """Run a job and return its result.

        Args:
            timeout_s: how long the caller waits, queue included, in seconds; None: until the job ends. What is waited for room in a
                full queue (``wait_s``) is a part of it.

        Raises:
            JobTimeout: it took longer; the job has been killed.
            WouldDeadlock: called inside a callback.
        """
        refuse_inside_callback()
        began = time.monotonic()
        if timeout_s is not None:
            timeout_s = _checks.positive("timeout_s", timeout_s)
            options = _with_wait_within(timeout_s, options)
        results: queue.SimpleQueue[JobResult] = queue.SimpleQueue()  # an Event's lock may be held while a signal handler runs
        job_id = uuid.uuid4().hex  # known before the job is accepted: ctrl-C may come before new_job has returned
        try:
            self._client.new_job(
                task,
                inputdata,
                results.put,
                job_id=job_id,
                **options,
            )
            left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - began))
            return results.get(timeout=None if left_s is None else min(left_s, threading.TIMEOUT_MAX))
        except queue.Empty:
            self._client.kill_job(job_id)
            raise JobTimeout(f"job {job_id} did not end within {timeout_s:g} s and was killed") from None
        except JobManagerError:  # it was refused
            raise
        except BaseException:  # ctrl-C: nobody waits for the job any more
            with suppress(JobManagerError):
                self._client.kill_job(job_id)
            raise


def _with_wait_within(timeout_s: float, options: JobOptions) -> JobOptions:
    """The options with no longer a wait for room than the caller waits in all."""
    wait_s = options.get("wait_s", 0.0)
    if wait_s is None or (_checks.is_finite(wait_s) and wait_s > timeout_s):
        return {**options, "wait_s": min(timeout_s, _checks.YEAR_S)}
    return options
