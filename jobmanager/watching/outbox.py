"""The outbox: what a waiter says to the manager, in the order in which it was said.

A thread of its own writes, since a manager that stands still takes nothing once the pipe is full: a watch that has
something to say must go on enforcing its limits. What waits is bounded by what the waiter watches: of what is said again
and again the latest is kept, and log records are dropped past a number.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from jobmanager.ipc.messages import (
    Heartbeat,
    HostReachable,
    HostUnreachable,
    LimitReached,
    LogMessage,
    MonitorAcknowledged,
    RunEnded,
    UnknownContainers,
)
from jobmanager.results.facts import RunFacts

_log = logging.getLogger(__name__)

_MOST_LOG_LINES = 1000
_WORD_S = 0.25  # that a word is waited for which has to be out before the deed
_SAID_AGAIN = ((Heartbeat,), (HostReachable, HostUnreachable), (UnknownContainers,))  # of each kind the latest alone counts


class Outbox:
    """Thread-safe. ``send`` never raises, and blocks for a moment at most."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._writing: Any = None
        self._lost_log_lines = 0

    def start(self) -> None:
        """Begin to write."""
        threading.Thread(target=self._write, name="outbox", daemon=True).start()

    def send(self, message: Any) -> None:
        """Say this. Words that a later waiter depends on are out when this returns, if the manager takes anything at all."""
        with self._changed:
            self._put(message)
            self._changed.notify_all()
            if isinstance(message, (Heartbeat, LimitReached, MonitorAcknowledged)):
                self._changed.wait_for(lambda: self._is_out(message), _WORD_S)

    def drain(self, timeout_s: float) -> None:
        """Wait until all is out, but not for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._writing is None and not self._waiting, timeout_s)

    def _put(self, message: Any) -> None:
        if isinstance(message, LogMessage) and sum(isinstance(other, LogMessage) for other in self._waiting) >= _MOST_LOG_LINES:
            self._lost_log_lines += 1
            return
        for kind in _SAID_AGAIN:
            if isinstance(message, kind):
                self._waiting = deque(other for other in self._waiting if not isinstance(other, kind))
        self._waiting.append(message)

    def _is_out(self, message: Any) -> bool:
        return self._writing is not message and all(other is not message for other in self._waiting)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                self._writing = self._waiting.popleft()
                lost, self._lost_log_lines = self._lost_log_lines, 0
            if lost:
                _log.warning("%d log records of a waiter were dropped, as nobody took them", lost)
            self._write_one(self._writing)
            with self._changed:
                self._writing = None
                self._changed.notify_all()

    def _write_one(self, message: Any) -> None:
        data = _pickled(message)
        try:
            if data is not None:
                self._connection.send_bytes(data)
        except OSError:
            pass  # the manager has gone, and this process is about to go too
        except Exception:  # noqa: BLE001 - half a message may be out, so nothing that follows could be read
            os._exit(1)


def _pickled(message: Any) -> bytes | None:
    try:
        return pickle.dumps(message)
    except Exception as error:  # noqa: BLE001 - the loop's edge: what cannot be sent, mostly for want of memory, costs its job at most
        with suppress(Exception):
            if not isinstance(message, LogMessage):
                _log.exception("a waiter cannot send %s", type(message).__name__)
            if isinstance(message, RunEnded):
                trouble = f"its report cannot be sent: {type(error).__name__}: {error}"
                facts = RunFacts(program_started=True, infrastructure_error=trouble)
                return pickle.dumps(RunEnded(job_id=message.job_id, container_name=message.container_name, facts=facts))
        return None
