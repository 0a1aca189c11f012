"""After a fork: the child has no other threads, locks may be held by threads that are not there, and processes are the parent's."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol


class ForkAware(Protocol):
    """Who has threads, locks or processes."""

    def after_fork(self) -> None:
        """Let go of all that is the parent's; called in the child."""


_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_lock = threading.Lock()


def let_go_after_fork(owner: ForkAware) -> None:
    """Have its ``after_fork`` called in each forked child."""
    _aware.add(owner)


def notice_fork(owner: ForkAware, is_parents: Callable[[], bool]) -> None:
    """For forks that run no hooks of Python's, such as uWSGI's: call ``after_fork``, once, if what it has is the parent's."""
    with _lock:
        if is_parents():
            owner.after_fork()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for owner in list(_aware):
        owner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
