"""Callback managers: threads in the caller's process that build each job's result and call its callback once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Union

from jobmanager.model.listings import CallbackInfo
from jobmanager.model.result import JobResult, Outcome
from jobmanager.results.merge import merged_result
from jobmanager.results.pipeline_result import merged_pipeline_result
from jobmanager.scheduling.commands import PublishReady, PublishResult, PublishSSH
from jobmanager.threads.case_checks import with_callers_checks
from jobmanager.threads.deadlock_guard import mark_callback_thread
from jobmanager.threads.log_thread import logger
from jobmanager.threads.user_code import call_user_code

_log = logger(__name__)

_SLOW_S = 30.0  # the log names a callback that takes longer

Done = Union[PublishResult, PublishReady, PublishSSH]


class CallbackManagers:
    """The done queue and the threads that empty it."""

    def __init__(self, count: int, *, on_result: Callable[[JobResult], None], on_called_back: Callable[[str], None]) -> None:
        """``on_result`` gets each result before its callback is called, ``on_called_back`` each job id afterwards."""
        self._done: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
        self._on_result = on_result
        self._on_called_back = on_called_back
        self._lock = threading.Lock()
        self._busy_since: dict[threading.Thread, tuple[float, str]] = {}
        self._logged_as_slow: set[str] = set()
        self._all_blocked_logged = False
        self._threads = [
            threading.Thread(target=self._process_all, name=f"jobmanager-callbacks-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, done: Done) -> None:
        """Queue a job that has ended, or an SSH session that is ready."""
        self._done.put(done)

    def close(self, timeout_s: float) -> None:
        """End the threads. One that is inside a callback is waited for until the time is over, then left running."""
        for _ in self._threads:
            self._done.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def log_slow_callbacks(self) -> None:
        """Log which callbacks take long, and when they block all threads."""
        now = time.monotonic()
        with self._lock:
            slow = {job_id: now - since for since, job_id in self._busy_since.values() if now - since > _SLOW_S}
            all_blocked = len(slow) == len(self._threads)
        for job_id in slow.keys() - self._logged_as_slow:
            _log.warning("the callback of job %s has been running for %.0f s", job_id, slow[job_id])
        self._logged_as_slow = set(slow)
        if all_blocked and not self._all_blocked_logged:
            _log.error("all %d callback threads are blocked: %d results wait", len(self._threads), self._done.qsize())
        self._all_blocked_logged = all_blocked

    def is_current_thread(self) -> bool:
        """Whether the caller is inside a callback of these managers."""
        return threading.current_thread() in self._threads

    def info(self) -> CallbackInfo:
        """How busy the threads are."""
        with self._lock:
            return CallbackInfo(len(self._threads), len(self._busy_since), self._done.qsize())

    def _process_all(self) -> None:
        mark_callback_thread()
        while self._process_next():
            pass

    def _process_next(self) -> bool:
        """False: it was the last. A call of its own, so that a thread that waits keeps no job, nor what its callback holds."""
        done = self._done.get()
        if done is None:
            return False
        try:
            self._process(done)
        except Exception:  # noqa: BLE001 - the loop's edge: a bug here, or no memory, costs this job at most
            _log.exception("a result could not be processed")
        return True

    def _process(self, done: Done) -> None:
        job_id = _job_id(done)
        thread = threading.current_thread()
        with self._lock:
            self._busy_since[thread] = (time.monotonic(), job_id)
        try:
            if isinstance(done, PublishSSH):
                _call_callback(job_id, done.ssh_callback, done.address, done.port, done.user, done.password)
                return
            if done.ssh_callback is not None:
                _call_callback(job_id, done.ssh_callback, None, None, None, None)
            result = with_callers_checks(done.result, done.task) if isinstance(done, PublishReady) else _build_result(done)
            self._report_result(result)
            if done.callback is not None:
                _call_callback(job_id, done.callback, result)
        finally:
            with self._lock:
                del self._busy_since[thread]
            if not isinstance(done, PublishSSH):
                self._on_called_back(job_id)

    def _report_result(self, result: JobResult) -> None:
        try:
            self._on_result(result)
        except Exception:  # noqa: BLE001 - the loop's edge: a listener must not cost the job its callback
            _log.exception("the result of job %s could not be reported", result.job_id)


def _job_id(done: Done) -> str:
    if isinstance(done, PublishSSH):
        return done.job_id
    return done.result.job_id if isinstance(done, PublishReady) else done.request.job_id


def _build_result(done: PublishResult) -> JobResult:
    try:
        if done.phases:
            result = merged_pipeline_result(
                done.request,
                done.verdict,
                done.phases,
                decided_by=done.decided_by,
                host=done.host,
                timings=done.timings,
                steps=done.steps,
            )
            return replace(result, to_submitter=done.to_submitter)
        result = merged_result(
            done.request,
            done.verdict,
            done.facts,
            progress=done.progress,
            host=done.host,
            timings=done.timings,
            steps=done.steps,
        )
        return replace(with_callers_checks(result, done.request.task), to_submitter=done.to_submitter)
    except Exception as error:  # noqa: BLE001 - the loop's edge: a bug in merging must not cost the job its result
        _log.exception("merging the result of job %s failed", done.request.job_id)
        text = f"the result could not be built: {type(error).__name__}: {error}"
        return JobResult(job_id=done.request.job_id, outcome=Outcome.CRASH, text=text, evidence=done.verdict.evidence)


def _call_callback(job_id: str, callback: Callable[..., object], *arguments: object) -> None:
    def failed() -> None:
        _log.exception("a callback of job %s failed", job_id, extra={"job_id": job_id})

    call_user_code(callback, *arguments, failed=failed)
