"""How a manager's jobs come to their end: they are waited for, or killed, and then their callbacks are waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jobmanager.results.verdict import KillReason
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_KILLED_CALLBACK_S = 10.0  # instead of ``callback_s``, when jobs were killed rather than waited for
_KILL_CHECK_INTERVAL_S = 0.5  # between checks whether a drain has become a kill


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownTimeouts:
    """How long each step of closing may take, in seconds."""

    kill_s: float  # for every job to end after it was asked to
    callback_s: float  # without any callback returning, once all jobs have ended
    delete_s: float  # for containers to be gone


AT_CLOSE = ShutdownTimeouts(kill_s=15.0, callback_s=60.0, delete_s=15.0)
AT_EXIT = ShutdownTimeouts(kill_s=2.0, callback_s=1.0, delete_s=7.0)


class Drained(Protocol):
    """The jobs of one manager or client until their callbacks have returned: ``scheduling/ledger.py`` says what each call does."""

    def stop_accepting(self) -> bool:
        """Refuse every further job. Returns False when that was so already."""

    def kill_all(self, reason: KillReason) -> None:
        """Request that every job ends."""

    def wait_until_decided(self, timeout_s: float) -> bool:
        """Block until every result is decided. Returns False when the time is over first."""

    def give_up_all(self) -> None:
        """End every job that has not ended after its kill."""

    def wait_until_called_back(self, timeout_s: float | None) -> bool:
        """Block until every callback has returned. Returns False when the time is over first."""

    def unfinished(self) -> int:
        """The number of jobs whose callback has not returned."""


class Drain:
    """Sees all jobs of one ledger to their end. ``wake`` has what follows from a change of the ledger be done."""

    def __init__(self, ledger: Drained, wake: Callable[[], None]) -> None:
        self._ledger = ledger
        self._wake = wake
        self._kill_asked = threading.Event()

    def kill_all(self, reason: KillReason) -> None:
        """Ask for every job's end; a drain that goes on waits no longer than for a kill."""
        self._kill_asked.set()
        self._ledger.kill_all(reason)
        self._wake()

    def run(self, drain_timeout_s: float | None, timeouts: ShutdownTimeouts) -> None:
        """Wait for all jobs and callbacks; jobs still there when the time is over are killed."""
        until = None if drain_timeout_s is None else time.monotonic() + drain_timeout_s
        while not self._kill_asked.is_set():
            left_s = _KILL_CHECK_INTERVAL_S if until is None else min(_KILL_CHECK_INTERVAL_S, until - time.monotonic())
            if self._ledger.wait_until_decided(max(0.0, left_s)):
                break
            if left_s <= 0:
                self.kill_all(KillReason.DRAIN_OVER)
        if not self._ledger.wait_until_decided(timeouts.kill_s):
            self._ledger.give_up_all()
            self._wake()
        self._wait_for_callbacks(timeouts)

    def _wait_for_callbacks(self, timeouts: ShutdownTimeouts) -> None:
        """As long as they return one after the other."""
        grace_s = min(timeouts.callback_s, _KILLED_CALLBACK_S) if self._kill_asked.is_set() else timeouts.callback_s
        before, left = -1, self._ledger.unfinished()
        while left and left != before:
            if self._ledger.wait_until_called_back(grace_s):
                return
            before, left = left, self._ledger.unfinished()
        if left:
            _log.error("%d callbacks have not returned; their threads are left behind", left)
