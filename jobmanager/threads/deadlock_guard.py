"""Refuses to wait for a job inside a callback: all callback threads could then wait for one another."""

from __future__ import annotations

import os
import threading

from jobmanager.errors import WouldDeadlock

_thread = threading.local()  # a context variable would go along with tasks that a callback starts elsewhere


def mark_callback_thread() -> None:
    """The current thread runs callbacks. A process that a callback forks is not marked: it may wait for jobs of its own."""
    _thread.runs_callbacks_of = os.getpid()


def refuse_inside_callback() -> None:
    """Raise WouldDeadlock when the current thread runs callbacks."""
    if getattr(_thread, "runs_callbacks_of", None) == os.getpid():
        raise WouldDeadlock(
            "a callback cannot wait for a job: all callback threads could be waiting for one another;"
            " submit with a callback instead"
        )
