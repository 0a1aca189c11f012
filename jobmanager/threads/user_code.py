"""Calls of the caller's own functions, callbacks and hooks, from the library's threads: nothing that they do ends a thread."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def call_user_code(function: Callable[..., object], *arguments: object, failed: Callable[[], None]) -> None:
    """Call it, and ``failed`` where it raises anything, SystemExit included.

    A child process that it forks comes back here too, with a copy of all that this thread has to do: it ends here.
    """
    here = os.getpid()
    try:
        returned = function(*arguments)
        if inspect.iscoroutine(returned) and os.getpid() == here:
            returned.close()
            raise TypeError("it returned a coroutine, and nobody here awaits one")
    except BaseException as error:  # noqa: BLE001 - the edge of foreign code
        if os.getpid() != here:
            _end_child(error)
        failed()
    if os.getpid() != here:
        _end_child(None)


def _end_child(error: BaseException | None) -> NoReturn:
    """As Python ends a program, but for what is the parent's: its threads, and its functions for the end."""
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = _exit_code(error)
        elif error is not None:
            code = 1
            traceback.print_exception(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    finally:
        os._exit(code)


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1
