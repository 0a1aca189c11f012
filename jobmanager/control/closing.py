"""The end of a manager or client that runs in this process: closed, given up while it starts, or left when the interpreter ends."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.drain import AT_CLOSE, AT_EXIT, Drain, Drained, ShutdownTimeouts
from jobmanager.control.lifetime import closed
from jobmanager.events import ManagerClosing
from jobmanager.hooks import HookManager
from jobmanager.results.verdict import KillReason
from jobmanager.threads.log_thread import drain as drain_logs
from jobmanager.threads.main_thread import keep_executor, outside_main_thread, release_executor

THREAD_END_S = 2.0


class Closing:
    """Lets the jobs end, or ends them, and then stops everything: once, whoever asks first and however many ask."""

    def __init__(
        self,
        jobs: Drained,
        callbacks: CallbackManagers,
        hooks: HookManager,
        *,
        what: str,
        wake: Callable[[], None],
        stop: Callable[[ShutdownTimeouts], None],
    ) -> None:
        """``what`` is closed, in messages. ``wake`` is called when jobs were killed; ``stop`` once, when all have ended."""
        self.pid = os.getpid()
        self._jobs = jobs
        self._callbacks = callbacks
        self._hooks = hooks
        self._what = what
        self._stop = stop
        self._drain = Drain(jobs, wake)
        self._lock = threading.Lock()  # held while something is started or stopped
        self._is_begun = self._is_over = False

    def begin(self) -> None:
        """From now on there is something to end. Raises Closed: it was closed before."""
        with self.starting():
            pass

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While something is started: a close waits for that. Raises Closed: it was closed before."""
        with self._lock:
            if self._is_over:
                raise closed(self._what)
            if not self._is_begun:
                self._is_begun = True
                keep_executor()
                atexit.register(self._at_exit)
            yield

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        atexit.unregister(self._at_exit)

    def abort(self) -> None:
        """Undo a start that failed, or goes on; what another thread has submitted meanwhile is called back."""
        self._end(0.0, AT_EXIT, kill=True)

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Let jobs end, or end them, then stop."""
        self._end(drain_timeout_s, AT_CLOSE, kill=kill)

    def _end(self, drain_timeout_s: float | None, timeouts: ShutdownTimeouts, *, kill: bool) -> None:
        if self._jobs.stop_accepting():
            self._hooks.fire(ManagerClosing(at_s=time.time(), unfinished=self._jobs.unfinished()))
        if kill:
            self._drain.kill_all(KillReason.CLOSE)
        if self._callbacks.is_current_thread():  # it cannot wait for itself
            threading.Thread(target=self._end_now, args=(drain_timeout_s, timeouts), name="jobmanager-close").start()
            return
        self._end_now(drain_timeout_s, timeouts)

    def _end_now(self, drain_timeout_s: float | None, timeouts: ShutdownTimeouts) -> None:
        with self._lock:
            if self._is_over:
                return
            self._drain.run(drain_timeout_s, timeouts)
            self._stop(timeouts)
            self._hooks.drain(THREAD_END_S)
            drain_logs(THREAD_END_S)
            atexit.unregister(self._at_exit)
            self._is_over = True
            if self._is_begun:
                release_executor()

    def _at_exit(self) -> None:
        """The interpreter ends without close()."""
        if self.pid == os.getpid():
            outside_main_thread(self.abort, takes_long=True)
