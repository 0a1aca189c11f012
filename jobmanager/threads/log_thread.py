"""The log thread: calls the caller's log handlers, so that none of the library's own threads does.

A handler is foreign code. It may raise, as with a closed ``sys.stderr``, or block for as long as a log server is away.
``logger`` makes a logger that only puts its records down; one thread, there while something waits, passes them to the handlers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import Any

from jobmanager.threads.user_code import call_user_code

_MAX_WAITING = 10_000  # records; past it new ones are dropped, and a record says so


def logger(name: str) -> logging.Logger:
    """A module's logger for the caller's process. It never raises, and never waits for a handler."""
    return _Logger(name)


def forward(record: logging.LogRecord) -> None:
    """Pass a record of another process to the handlers; never raises, never waits for a handler."""
    with suppress(Exception):
        if logging.getLogger(record.name).isEnabledFor(record.levelno):
            _records.put(record)


def drain(timeout_s: float) -> bool:
    """Wait until the handlers have all records; False when a handler takes longer than that."""
    return _records.drain(timeout_s)


class _Logger(logging.Logger):
    """Not in Python's tree of loggers, whose own logger of the same name decides levels and has the handlers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._public = logging.getLogger(name)

    def isEnabledFor(self, level: int) -> bool:
        return self._public.isEnabledFor(level)

    def _log(self, *args: Any, **kwargs: Any) -> None:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # whoever is looked for is above this method
        with suppress(Exception):  # no memory, mostly
            super()._log(*args, **kwargs)

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        try:
            return super().makeRecord(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the caller's own record factory
            name, level, path, line, message, arguments, exc_info = args[:7]
            return logging.LogRecord(name, level, path, line, message, arguments, exc_info)

    def handle(self, record: logging.LogRecord) -> None:
        _records.put(record)


class _Records:
    """Records on their way to the handlers, and the thread that takes them there. Thread-safe, in signal handlers too."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a signal handler may log while its own thread does
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # last: whoever reads it takes the lock

    def put(self, record: logging.LogRecord) -> None:
        """Never blocks."""
        if self._pid != os.getpid():
            self._begin()  # after a fork: what waits is the parent's, and so is a thread that may hold the lock
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING:
                self._dropped += 1
            else:
                self._waiting.append(record)
            self._start()

    def drain(self, timeout_s: float) -> bool:
        """Where no thread can be had, as at the end of the interpreter, this one does its work."""
        if self._pid != os.getpid():
            return True
        until = time.monotonic() + timeout_s
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        while time.monotonic() < until and (thread is None or not thread.is_alive()) and (record := self._next()) is not None:
            call_user_code(_handle, record, failed=_report)
        return not self._waiting

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._handle_all, name="jobmanager-log", daemon=True)
            with suppress(RuntimeError):  # no more threads to be had: the next record tries again
                thread.start()
                self._thread = thread  # known only now: a signal handler may raise in between

    def _handle_all(self) -> None:
        while (record := self._next()) is not None:
            call_user_code(_handle, record, failed=_report)

    def _next(self) -> logging.LogRecord | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return _dropped_record(dropped)
            self._thread = None
            return None


def _handle(record: logging.LogRecord) -> None:
    logging.getLogger(record.name).handle(record)


def _report() -> None:
    """A handler of the caller's raised: print what ``logging`` itself prints then."""
    if logging.raiseExceptions and sys.stderr is not None:
        with suppress(Exception):
            traceback.print_exc()


def _dropped_record(count: int) -> logging.LogRecord:
    text = "the log handlers are too slow: %d records were dropped"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)


_records = _Records()
