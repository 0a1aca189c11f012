"""Refuses to wait inside a callback: all callback threads could then wait for one another."""

from __future__ import annotations

import os
import threading

from jobmanager.errors import WouldDeadlock

_thread = threading.local()  # a context variable would go along with tasks that a callback starts elsewhere


def mark_callback_thread() -> None:
    """The current thread runs callbacks. A process that a callback forks is not marked: it may wait for jobs of its own."""
    _thread.runs_callbacks_of = os.getpid()


def is_inside_callback() -> bool:
    """Whether the current thread runs callbacks."""
    return getattr(_thread, "runs_callbacks_of", None) == os.getpid()


def refuse_inside_callback(what: str = "a job", instead: str = "submit with a callback instead") -> None:
    """Raise WouldDeadlock when the current thread runs callbacks. ``what`` is to be waited for, and what to do ``instead``."""
    if is_inside_callback():
        raise WouldDeadlock(
            f"a callback cannot wait for {what}: all callback threads could be waiting for one another; {instead}"
        )
