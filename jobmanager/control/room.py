"""Waiting for room in a full queue: ``new_job(..., wait_s=)``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from jobmanager.client import JOB_DEFAULTS, ManagerJobOptions
from jobmanager.errors import InvalidInput, QueueFull
from jobmanager.model import _checks
from jobmanager.threads.deadlock_guard import refuse_inside_callback
from jobmanager.threads.main_thread import outside_main_thread

_STEP_S = 1.0  # the thread that waits for an interrupted main thread ends after so long
_T = TypeVar("_T")


def when_there_is_room(
    accept: Callable[[], _T],
    wait_for_room: Callable[[float], object],
    options: ManagerJobOptions,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """What ``accept`` returns, tried again while the queue is full, for as long as the job's ``wait_s`` says.

    A caller that is interrupted has a job only if ``accept`` was called: nothing else here takes one.

    Args:
        wait_for_room: waits so many seconds, or until there may be room, or no more jobs are taken.

    Raises:
        QueueFull: it was full all that time.
        WouldDeadlock: called inside a callback, and it is to wait.
        InvalidInput: ``wait_s`` makes no sense.
    """
    wait_s = options.get("wait_s", JOB_DEFAULTS["wait_s"])
    if wait_s is not None:
        wait_s = _checks.timeout("wait_s", wait_s, InvalidInput, zero=True)
    if wait_s == 0:
        return accept()
    refuse_inside_callback("room in the queue", "submit with wait_s=0 there")
    until = None if wait_s is None else clock() + wait_s
    while True:
        try:
            return accept()
        except QueueFull:
            left_s = _STEP_S if until is None else until - clock()
            if left_s <= 0:
                raise
        outside_main_thread(partial(wait_for_room, min(left_s, _STEP_S)), takes_long=True)
