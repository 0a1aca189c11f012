"""A manager's life: started, closed, and begun anew in a forked child."""

from __future__ import annotations

import os
import threading
import time
from functools import partial

from jobmanager.control.fork import let_go_after_fork, notice_fork
from jobmanager.control.running_manager import RunningManager, closed
from jobmanager.control.settings import ManagerSettings
from jobmanager.errors import Closed, NotStarted
from jobmanager.events import ManagerStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.process import check_children_possible
from jobmanager.threads.main_thread import outside_main_thread


class Lifetime:
    """What one ``JobManager`` is in this process: not started, running or closed. Thread-safe."""

    def __init__(self, settings: ManagerSettings, hooks: HookManager) -> None:
        self._settings = settings
        self._hooks = hooks
        self._lock = threading.Lock()  # guards what follows
        self._running: RunningManager | None = None
        self._closed = False
        self._started_before_fork = False
        let_go_after_fork(self)

    def start(self) -> None:
        """Start what is not running; ``JobManager.start`` says what it raises."""
        check_children_possible()
        self._notice_fork()
        running = RunningManager(self._settings, self._hooks)
        try:
            outside_main_thread(partial(self._start, running), takes_long=True)
        except Closed:  # whoever closes it sees to the rest
            raise
        except BaseException:  # a signal handler's too, and then it is still starting
            outside_main_thread(running.abort, takes_long=True)
            raise

    def _start(self, running: RunningManager) -> None:
        with self._lock:
            if self._closed:
                raise closed()
            if self._running is not None:
                return
            self._running = running
        try:
            running.start()
        except BaseException:
            with self._lock:
                if not self._closed:
                    self._running = None
            raise
        self._hooks.fire(ManagerStarted(at_s=time.time(), hosts=tuple(host.name for host in self._settings.hosts)))

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Close it for good; ``JobManager.close`` says how."""
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

    def running(self) -> RunningManager:
        """What runs in this process. In a forked child of the one that started, it is started here first.

        Raises:
            NotStarted, Closed: nothing runs.
        """
        self._notice_fork()
        running = self._running
        if running is not None:
            return running
        if self._closed:
            raise closed()
        if not self._started_before_fork:
            raise NotStarted("this JobManager has not been started: call start(), or use it in a with statement")
        self.start()
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
