"""What the main thread has done by another one, so that signal handlers find no lock of ours held, and nothing half done.

Python runs a signal handler in the main thread, between any two steps of what that does. A handler that closes the manager
would wait for a lock that the interrupted frame holds, and change what that frame is about to change; one that raises, as
ctrl-C does, would leave it half changed. So the main thread takes no lock of the library's: it passes a call to an executor,
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

__all__ = ["keep_executor", "outside_main_thread", "release_executor"]

_FIRST_CHECK_S, _CHECK_INTERVAL_S = 0.05, 1.0  # between checks whether an executor is there: it may just have left
_LEAVING_S = 1.0  # for an executor that still carries out a call
_T = TypeVar("_T")


def outside_main_thread(function: Callable[[], _T], *, takes_long: bool = False) -> _T:
    """What ``function`` returns or raises. In the main thread another one calls it.

    ``takes_long``: it may wait for something, so it gets a thread of its own, and the executor goes on.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    return _queue_of_this_process().ask(_Call(function, takes_long))


def keep_executor() -> None:
    """A manager starts: while there is any, the executor stays. While the interpreter ends no thread can be started any more."""
    calls = _queue_of_this_process()
    calls.managers.append(None)
    calls.find_executor()


def release_executor() -> None:
    """A manager has stopped. Where it was the last one the executor has ended, too, when this returns; not for the main thread."""
    calls = _queue_of_this_process()
    if calls.managers:
        calls.managers.pop()
    calls.see_executor_out()


class _Call(Generic[_T]):
    """One call, and what came of it. Its lock is held until then: unlike an Event's, nobody ever holds it on the way."""

    def __init__(self, function: Callable[[], _T], takes_long: bool) -> None:
        self.takes_long = takes_long
        self._function = function
        self._answers: list[_T] = []
        self._error: BaseException | None = None
        self.unanswered = _thread.allocate_lock()
        self.unanswered.acquire()

    def carry_out(self) -> None:
        try:
            self._answers.append(self._function())
        except BaseException as error:  # noqa: BLE001 - all of it is the caller's
            self._error = error
        self.unanswered.release()

    def answer(self) -> _T:
        if self._error is None:
            return self._answers[0]
        try:
            raise self._error
        finally:
            self._error = None  # its traceback holds this very frame


class _CallQueue:
    """Where the main thread leaves its calls, and the thread that takes them: the executor, if there is one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.managers: list[None] = []
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._vacant = _thread.allocate_lock()  # held by the executor
        self._attended = False
        self._executor = threading.Thread(name="jobmanager-executor")  # the latest; this one never starts

    def ask(self, call: _Call[_T]) -> _T:
        """For the main thread: between any two lines of this an exception may come, or another question."""
        self._calls.put(call)
        wait_s = _FIRST_CHECK_S
        while True:
            if not self._attended:
                try:
                    _thread.start_new_thread(self._find_executor_or_serve, ())  # Thread.start holds a lock that its thread needs
                except RuntimeError:  # none is to be had
                    self._serve()
            if call.unanswered.acquire(timeout=wait_s):
                return call.answer()
            wait_s = _CHECK_INTERVAL_S

    def see_executor_out(self) -> None:
        """Have the executor check whether there is a manager still, and wait for its end where there is none."""
        self._calls.put(None)
        executor = self._executor
        if not self.managers and executor is not threading.current_thread() and executor.is_alive():
            executor.join(_LEAVING_S)

    def find_executor(self) -> bool:
        """See to it that there is one; not for the main thread. False: no thread is to be had."""
        if self._vacant.acquire(blocking=False):
            self._attended = True
            try:
                self._executor = threading.Thread(target=self._work, name="jobmanager-executor", daemon=True)
                self._executor.start()
            except RuntimeError:
                self._leave()
                return False
        return True

    def _find_executor_or_serve(self) -> None:
        if not self.find_executor():
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
        except RuntimeError:  # none is to be had: the executor does it, and others wait
            call.carry_out()


_call_queue = _CallQueue()


def _queue_of_this_process() -> _CallQueue:
    global _call_queue
    if _call_queue.pid != os.getpid():  # forked, perhaps without Python's knowledge: its executor has not come along
        _call_queue = _CallQueue()
    return _call_queue
