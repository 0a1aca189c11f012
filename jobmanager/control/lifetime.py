"""A client's life: started, closed, and begun anew in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from jobmanager.control.fork import let_go_after_fork, notice_fork
from jobmanager.errors import Closed, InvalidValue, NotStarted
from jobmanager.hooks import HookManager
from jobmanager.threads.main_thread import outside_main_thread


class Startable(Protocol):
    """All that runs between one start and its close, in one process. Each call comes from any thread but the main one."""

    pid: int  # of the process that made it

    def start(self, *, wait: bool) -> None:
        """Start it, once; ``wait``: until hosts have answered. Raises Closed when somebody has closed it meanwhile."""

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Let jobs end, or end them, then stop. A second call returns when it has stopped."""

    def abort(self) -> None:
        """Undo a start that failed, or goes on."""

    def abandon(self) -> None:
        """In a forked child: let go of all that is the parent's."""


_R = TypeVar("_R", bound=Startable)


class Lifetime(Generic[_R]):
    """What one ``JobManager`` or ``RemoteClient`` is in this process: not started, running or closed. Thread-safe."""

    def __init__(self, make: Callable[[], _R], hooks: HookManager, *, what: str) -> None:
        """``make`` makes what is started; it may raise, and starts nothing. ``what`` it is, for messages."""
        self._make = make
        self._hooks = hooks
        self._what = what
        self._lock = threading.Lock()  # guards what follows
        self._running: _R | None = None
        self._closed = False
        self._started_before_fork = False
        self._waits = True  # as it was started last: a forked child does the same
        let_go_after_fork(self)

    def start(self, *, wait: bool) -> None:
        """Start what is not running; raises what making it and its start raise."""
        if not isinstance(wait, bool):
            raise InvalidValue(f"wait must be True or False, not {wait!r}")
        self._notice_fork()
        if self._running is not None and not self._closed:
            return
        running = self._make()
        try:
            outside_main_thread(partial(self._start, running, wait), takes_long=True)
        except Closed:  # whoever closes it sees to the rest
            raise
        except BaseException:  # a signal handler's too, and then it is still starting
            outside_main_thread(running.abort, takes_long=True)
            raise

    def _start(self, running: _R, wait: bool) -> None:
        with self._lock:
            if self._closed:
                raise closed(self._what)
            if self._running is not None:
                return
            self._running, self._waits = running, wait
        try:
            running.start(wait=wait)
        except BaseException:
            with self._lock:
                if not self._closed:
                    self._running = None
            raise

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Close it for good."""
        self._notice_fork()
        try:
            outside_main_thread(partial(self._close, drain_timeout_s, kill), takes_long=True)
        except BaseException:  # ctrl-C while jobs were waited for
            outside_main_thread(partial(self._close, 0.0, True), takes_long=True)
            raise

    def _close(self, drain_timeout_s: float | None, kill: bool) -> None:
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None:
            running.close(drain_timeout_s, kill)

    def running(self) -> _R:
        """What runs in this process. In a forked child of the one that started, it is started here first.

        Raises:
            NotStarted, Closed: nothing runs.
        """
        self._notice_fork()
        running = self._running
        if running is not None:
            return running
        if self._closed:
            raise closed(self._what)
        if not self._started_before_fork:
            raise NotStarted(f"this {self._what} has not been started: call start(), or use it in a with statement")
        self.start(wait=self._waits)
        return self.running()

    def after_fork(self) -> None:
        """In a forked child: nothing runs here yet."""
        self._lock = threading.Lock()
        self._hooks.after_fork()
        if self._running is not None:
            self._started_before_fork = True
            self._running.abandon()
            self._running = None

    def _notice_fork(self) -> None:
        running = self._running
        if running is not None and running.pid != os.getpid():
            outside_main_thread(partial(notice_fork, self, lambda: self._running is running))


def closed(what: str) -> Closed:
    """The error of every call on a manager or client that takes no more."""
    return Closed(f"this {what} is closed, or closing: make another one")
