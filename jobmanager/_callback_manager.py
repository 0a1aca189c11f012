"""Callback managers: threads in the caller's process that make results and call back, each job once."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

from jobmanager.control.log_thread import logger
from jobmanager.control.user_code import call_foreign
from jobmanager.errors import WouldDeadlock
from jobmanager.model.client import CallbackInfo
from jobmanager.model.result import JobResult, Outcome
from jobmanager.results.merge import merged
from jobmanager.scheduling.orders import DeliverJob, DeliverSSH

_log = logger(__name__)

_SLOW_S = 30.0  # a callback that takes longer is said in the log
_here = threading.local()  # a context variable would go along with tasks that a callback starts elsewhere


def refuse_inside_callback() -> None:
    """Raise WouldDeadlock in a callback's thread: blocking there could wait for itself."""
    if getattr(_here, "inside_callback_of", None) == os.getpid():
        raise WouldDeadlock(
            "a callback cannot wait for a job: all callback threads could be waiting for one another;"
            " submit with a callback instead"
        )


class CallbackManagers:
    """The done queue and the threads that empty it."""

    def __init__(self, count: int, *, ended: Callable[[JobResult], None], called_back: Callable[[str], None]) -> None:
        """``ended`` is told every result before its callback, ``called_back`` every job id after it."""
        self._done: queue.SimpleQueue[DeliverJob | DeliverSSH | None] = queue.SimpleQueue()
        self._ended = ended
        self._called_back = called_back
        self._lock = threading.Lock()
        self._busy_since: dict[threading.Thread, tuple[float, str]] = {}
        self._warned_of: set[str] = set()
        self._said_all_blocked = False
        self._threads = [
            threading.Thread(target=self._empty, name=f"jobmanager-callbacks-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, done: DeliverJob | DeliverSSH) -> None:
        """A job has ended, or somebody can log in to its container."""
        self._done.put(done)

    def close(self, timeout_s: float) -> None:
        """Let the threads end; one that is inside a callback is waited for until the time is over, then left."""
        for _ in self._threads:
            self._done.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def watch(self) -> None:
        """Say in the log which callbacks take long, and when all threads are blocked by them."""
        now = time.monotonic()
        with self._lock:
            slow = {job_id: now - since for since, job_id in self._busy_since.values() if now - since > _SLOW_S}
            all_blocked = len(slow) == len(self._threads)
        for job_id in slow.keys() - self._warned_of:
            _log.warning("the callback of job %s has been running for %.0f s", job_id, slow[job_id])
        self._warned_of = set(slow)
        if all_blocked and not self._said_all_blocked:
            _log.error("all %d callback threads are blocked: %d results wait", len(self._threads), self._done.qsize())
        self._said_all_blocked = all_blocked

    def is_current_thread(self) -> bool:
        """Whether the caller is inside a callback of these managers."""
        return threading.current_thread() in self._threads

    def info(self) -> CallbackInfo:
        """How busy the threads are."""
        with self._lock:
            return CallbackInfo(len(self._threads), len(self._busy_since), self._done.qsize())

    def _empty(self) -> None:
        _here.inside_callback_of = os.getpid()  # a process that a callback forks may wait for jobs of its own
        while (done := self._done.get()) is not None:
            try:
                self._finish(done)
            except Exception:  # noqa: BLE001 - the loop's edge: a bug here, or no memory, costs this job at most
                _log.exception("a result could not be handed on")

    def _finish(self, done: DeliverJob | DeliverSSH) -> None:
        job_id = done.job_id if isinstance(done, DeliverSSH) else done.request.job_id
        thread = threading.current_thread()
        with self._lock:
            self._busy_since[thread] = (time.monotonic(), job_id)
        try:
            if isinstance(done, DeliverSSH):
                _call(job_id, done.ssh_callback, done.address, done.port, done.user, done.password)
                return
            if done.ssh_callback is not None:
                _call(job_id, done.ssh_callback, None, None, None, None)
            result = _result(done)
            self._tell_of_the_end(result)
            if done.callback is not None:
                _call(job_id, done.callback, result)
        finally:
            with self._lock:
                del self._busy_since[thread]
            if isinstance(done, DeliverJob):
                self._called_back(job_id)

    def _tell_of_the_end(self, result: JobResult) -> None:
        try:
            self._ended(result)
        except Exception:  # noqa: BLE001 - the loop's edge: whoever is told must not cost the job its callback
            _log.exception("the end of job %s could not be told", result.job_id)


def _result(done: DeliverJob) -> JobResult:
    try:
        return merged(done.request, done.verdict, done.facts, host=done.host, timings=done.timings, steps=done.steps)
    except Exception as error:  # noqa: BLE001 - the loop's edge: a bug in merging must not cost the job its result
        _log.exception("merging the result of job %s failed", done.request.job_id)
        text = f"the result could not be put together: {type(error).__name__}: {error}"
        return JobResult(job_id=done.request.job_id, outcome=Outcome.CRASH, text=text, evidence=done.verdict.evidence)


def _call(job_id: str, callback: Callable[..., object], *arguments: object) -> None:
    def failed() -> None:
        _log.exception("a callback of job %s failed", job_id, extra={"job_id": job_id})

    call_foreign(callback, *arguments, failed=failed)
