"""What the main thread has done by another one, so that signal handlers find no lock of ours held, and nothing half done.

Python runs a signal handler in the main thread, between any two steps of what that does. A handler that closes the manager
would wait for a lock that the interrupted frame holds, and change what that frame is about to change; one that raises, as
ctrl-C does, would leave it half changed. So the main thread takes no lock of the library's: it hands a call to a clerk,
over a queue written in C, and waits for the answer where an interruption does no harm. A call whose caller was
interrupted by an exception is carried out all the same.
"""

from __future__ import annotations

import _thread
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = ["aside", "keep_clerk", "let_clerk_go"]

_FIRST_GLANCE_S, _GLANCE_S = 0.05, 1.0  # between looks at whether a clerk is there: it may just have left
_T = TypeVar("_T")


def aside(function: Callable[[], _T], *, takes_long: bool = False) -> _T:
    """What ``function`` returns or raises. In the main thread another one calls it.

    ``takes_long``: it may wait for something, so it gets a thread of its own, and the clerk goes on.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    return _desk_of_this_process().ask(_Call(function, takes_long))


def keep_clerk() -> None:
    """A manager starts: while there is any, the clerk stays. While the interpreter ends no thread can be started any more."""
    desk = _desk_of_this_process()
    desk.managers.append(None)
    desk.find_clerk()


def let_clerk_go() -> None:
    """A manager has stopped."""
    desk = _desk_of_this_process()
    if desk.managers:
        desk.managers.pop()
    desk.look_up()


class _Call(Generic[_T]):
    """One call, and what came of it. Its lock is held until then: unlike an Event's, nobody ever holds it on the way."""

    def __init__(self, function: Callable[[], _T], takes_long: bool) -> None:
        self.takes_long = takes_long
        self._function = function
        self._answers: list[_T] = []
        self._error: BaseException | None = None
        self._unanswered = _thread.allocate_lock()
        self._unanswered.acquire()

    def carry_out(self) -> None:
        try:
            self._answers.append(self._function())
        except BaseException as error:  # noqa: BLE001 - all of it is the caller's
            self._error = error
        self._unanswered.release()

    def is_answered(self, within_s: float) -> bool:
        return self._unanswered.acquire(timeout=within_s)

    def answer(self) -> _T:
        if self._error is None:
            return self._answers[0]
        try:
            raise self._error
        finally:
            self._error = None  # its traceback holds this very frame


class _Desk:
    """Where the main thread leaves its calls, and the thread that takes them: the clerk, if there is one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.managers: list[None] = []
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._vacant = _thread.allocate_lock()  # held by the clerk
        self._attended = False

    def ask(self, call: _Call[_T]) -> _T:
        """For the main thread: between any two lines of this an exception may come, or another question."""
        self._calls.put(call)
        wait_s = _FIRST_GLANCE_S
        while True:
            if not self._attended:
                try:
                    _thread.start_new_thread(self._find_clerk_or_serve, ())  # Thread.start holds a lock that its thread needs
                except RuntimeError:  # none is to be had
                    self._serve()
            if call.is_answered(wait_s):
                return call.answer()
            wait_s = _GLANCE_S

    def look_up(self) -> None:
        """Have the clerk see whether there is a manager still."""
        self._calls.put(None)

    def find_clerk(self) -> bool:
        """See to it that there is one; not for the main thread. False: no thread is to be had."""
        if self._vacant.acquire(blocking=False):
            self._attended = True
            try:
                threading.Thread(target=self._work, name="jobmanager-clerk", daemon=True).start()
            except RuntimeError:
                self._leave()
                return False
        return True

    def _find_clerk_or_serve(self) -> None:
        if not self.find_clerk():
            self._serve()

    def _work(self) -> None:
        try:
            while self.managers or not self._calls.empty():
                self._carry_out(self._calls.get())
        finally:
            self._leave()

    def _leave(self) -> None:
        self._attended = False
        self._vacant.release()

    def _serve(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._carry_out(self._calls.get_nowait())

    def _carry_out(self, call: _Call[Any] | None) -> None:
        if call is None:
            return
        if not call.takes_long:
            call.carry_out()
            return
        try:
            threading.Thread(target=call.carry_out, name="jobmanager-main-call", daemon=True).start()
        except RuntimeError:  # none is to be had: the clerk does it, and others wait
            call.carry_out()


_desk = _Desk()


def _desk_of_this_process() -> _Desk:
    global _desk
    if _desk.pid != os.getpid():  # forked, perhaps by hands that do not tell Python: its clerk has not come along
        _desk = _Desk()
    return _desk
