"""``ClientFuture``: jobs as futures, also for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jobmanager.batch.methods import BatchMethods
from jobmanager.client import Client, InputData, NamedJobOptions, checked_client, takes_job_options
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.threads.deadlock_guard import refuse_inside_callback
from jobmanager.threads.main_thread import outside_main_thread

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ClientFuture", "JobFuture"]


_DoneCallback = Callable[[Future[JobResult]], object]


@dataclass(frozen=True, slots=True)
class _CalledInLoop:
    """Calls what was added in a thread of an event loop in that loop, as ``asyncio.wait`` needs it."""

    function: _DoneCallback
    loop: asyncio.AbstractEventLoop

    def __call__(self, future: Future[JobResult]) -> None:
        try:
            self.loop.call_soon_threadsafe(self.function, future)
        except RuntimeError:  # the loop is closed: nothing there can be disturbed any more
            self.function(future)


class JobFuture(Future[JobResult]):
    """A future of a job's result; ``await`` and ``asyncio.wait`` work too. It never holds an exception: a job's end is a result.

    Cancelling it kills the job. The main thread never takes its lock, which signal handlers and whoever ends the job need.
    """

    job_id: str
    _done_callbacks: list[_DoneCallback]  # the base class's

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def cancel(self) -> bool:
        """Kill the job and forget its result; False when it has ended already."""
        if not outside_main_thread(super().cancel, takes_long=True):  # it calls whatever was added to be called when it is done
            return False
        self._client.kill_job(self.job_id)
        return True

    def done(self) -> bool:
        """Whether there is a result, or it was cancelled."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")

    def cancelled(self) -> bool:
        """Whether it was cancelled before the job had ended."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    def running(self) -> bool:
        """Whether it can no longer be cancelled, and is not done: for a moment, at the job's end."""
        return self._state == "RUNNING"

    def add_done_callback(self, fn: _DoneCallback) -> None:
        """Have it called when this is done, at once if it is; never in the main thread.

        What is added in an asyncio event loop is called in that loop, soon after: as asyncio's own futures do it.
        """
        loop = asyncio._get_running_loop()
        called = fn if loop is None else _CalledInLoop(fn, loop)
        outside_main_thread(partial(super().add_done_callback, called), takes_long=True)

    def remove_done_callback(self, fn: _DoneCallback) -> int:
        """Have it not called any more; how often it had been added. asyncio's own futures have it, and ``asyncio.wait`` uses it."""
        return outside_main_thread(partial(self._remove_done_callback, fn))

    def _remove_done_callback(self, fn: _DoneCallback) -> int:
        with self._condition:
            left = [each for each in self._done_callbacks if fn != (each.function if isinstance(each, _CalledInLoop) else each)]
            removed = len(self._done_callbacks) - len(left)
            self._done_callbacks[:] = left
            return removed

    def result(self, timeout: float | None = None) -> JobResult:
        """The result, waited for up to ``timeout`` seconds. Raises WouldDeadlock inside a callback, while it is not there."""
        if not self.done():
            refuse_inside_callback()
        return outside_main_thread(partial(super().result, timeout), takes_long=not self.done())

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """None, as a job's end is always a result; waited for as ``result`` does."""
        if not self.done():
            refuse_inside_callback()
        return outside_main_thread(partial(super().exception, timeout), takes_long=not self.done())

    def __await__(self) -> Generator[Any, None, JobResult]:
        return asyncio.wrap_future(self).__await__()

    def _ended(self, result: JobResult) -> None:
        if self.set_running_or_notify_cancel():
            self.set_result(result)


class ClientFuture(BatchMethods):
    """Gives a future for each job of any ``Client``."""

    def __init__(self, client: Client) -> None:
        self._client = checked_client(client)

    @takes_job_options(NamedJobOptions)
    def new_job(
        self,
        task: Task | Pipeline,
        inputdata: InputData = None,
        **options: Unpack[NamedJobOptions],
    ) -> JobFuture:
        """Accept a job; raises what the client's ``new_job`` raises."""
        future = JobFuture(self._client)
        future.job_id = self._client.new_job(
            task,
            inputdata,
            future._ended,
            **options,
        )
        return future

    def _batch_client(self) -> Client:
        return self._client
