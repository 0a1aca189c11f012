"""The outbox: a waiter's messages to the manager, in the order in which they were sent.

A thread of its own writes them: a manager that stands still reads nothing, and the pipe gets full, but the monitors must
go on enforcing limits. The queue is bounded by the number of monitors: of repeated messages only the latest is kept, and log
records past a limit are dropped. What its sender would wait for, and the pipe takes at once, the sender writes itself: to hand
it to another thread and to wait for that takes longer than a short case.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import threading
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from jobmanager.ipc.messages import (
    BuildDone,
    CaseDone,
    Heartbeat,
    HostReachable,
    HostUnreachable,
    LimitReached,
    LogMessage,
    MonitorAcknowledged,
    RunEnded,
    UnknownContainers,
)
from jobmanager.results.facts import InfrastructureFailure, RunCutOff, RunFacts

_log = logging.getLogger(__name__)

_MAX_LOG_MESSAGES = 1000
_URGENT_S = 0.25  # how long ``send`` waits for the writing of a message that must precede what it announces
_URGENT = (Heartbeat, LimitReached, MonitorAcknowledged, BuildDone, CaseDone, RunEnded)
_AT_ONCE_BYTES = 2**15  # of a message. A socket that takes anything has three quarters of its buffer free (208 KiB; unix_writable)
_LATEST_ONLY = ((Heartbeat,), (HostReachable, HostUnreachable), (UnknownContainers,))  # of each group only the latest counts


class Outbox:
    """Thread-safe. ``send`` never raises, and blocks for a moment at most."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._writing: Any = None
        self._dropped_log_messages = 0

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def send(self, message: Any) -> bool:
        """Queue a message. One that a later waiter depends on is written when this returns true: the manager reads at all."""
        is_urgent = isinstance(message, _URGENT)
        if is_urgent and self._begin_writing(message):
            if self._write_at_once(message):
                return True
        else:
            with self._changed:
                self._queue(message)
                self._changed.notify_all()
        if not is_urgent:
            return False
        with self._changed:
            return self._changed.wait_for(lambda: self._is_written(message), _URGENT_S)

    def drain(self, timeout_s: float) -> None:
        """Wait until all is written, but not longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._writing is None and not self._waiting, timeout_s)

    def _begin_writing(self, message: Any) -> bool:
        """Have this thread write it, where nothing else is to be written before."""
        with self._changed:
            if self._writing is not None or self._waiting:
                return False
            self._writing = message
            return True

    def _write_at_once(self, message: Any) -> bool:
        """False: the pipe may not take it at once, so it is the first that waits for the thread."""
        is_fit = False
        try:
            with suppress(Exception):  # no memory, or the pipe is closed
                data = _pickled(message)
                is_fit = data is None or (len(data) <= _AT_ONCE_BYTES and self._takes_more())
            if is_fit:
                self._write(data)
        finally:
            with self._changed:
                self._writing = None
                if not is_fit:
                    self._waiting.appendleft(message)
                self._changed.notify_all()
        return is_fit

    def _takes_more(self) -> bool:
        poller = select.poll()
        poller.register(self._connection.fileno(), select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poller.poll(0))

    def _queue(self, message: Any) -> None:
        if isinstance(message, LogMessage) and sum(isinstance(other, LogMessage) for other in self._waiting) >= _MAX_LOG_MESSAGES:
            self._dropped_log_messages += 1
            return
        for kind in _LATEST_ONLY:
            if isinstance(message, kind):
                self._waiting = deque(other for other in self._waiting if not isinstance(other, kind))
        self._waiting.append(message)

    def _is_written(self, message: Any) -> bool:
        return self._writing is not message and all(other is not message for other in self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting and self._writing is None)
                self._writing = self._waiting.popleft()
                dropped, self._dropped_log_messages = self._dropped_log_messages, 0
            if dropped:
                _log.warning("%d log records of a waiter were dropped, as the manager did not read them", dropped)
            self._write(_pickled(self._writing))
            with self._changed:
                self._writing = None
                self._changed.notify_all()

    def _write(self, data: bytes | None) -> None:
        try:
            if data is not None:
                self._connection.send_bytes(data)
        except OSError:
            pass  # the manager has gone, and this process is about to go too
        except Exception:  # noqa: BLE001 - half a message may be written, so the manager could read nothing that follows
            os._exit(1)


def _pickled(message: Any) -> bytes | None:
    try:
        return pickle.dumps(message)
    except Exception as error:  # noqa: BLE001 - the loop's edge: what cannot be sent, mostly for lack of memory, costs its job at most
        with suppress(Exception):
            if not isinstance(message, LogMessage):
                _log.exception("a waiter cannot send %s", type(message).__name__)
            if isinstance(message, RunEnded):
                failure = InfrastructureFailure(reason=f"its report cannot be sent: {type(error).__name__}: {error}")
                facts = RunFacts(ending=RunCutOff(cause=failure))
                return pickle.dumps(RunEnded(job_id=message.job_id, container_name=message.container_name, facts=facts))
        return None
