"""Calls of the caller's functions: they may raise, and they may fork."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from jobmanager._callback_manager import CallbackManagers
from jobmanager.events import HostUp
from jobmanager.hooks import HookManager
from jobmanager.threads.user_code import call_user_code
from tests.conftest import eventually
from tests.unit.test_callback_manager import done


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), KeyboardInterrupt(), MemoryError(), GeneratorExit()], ids=repr)
def test_what_is_raised_is_told_and_goes_no_further(error):
    told = []

    def raises(argument):
        raise error

    call_user_code(raises, 1, failed=lambda: told.append(sys.exc_info()[1]))

    assert told == [error]


def test_a_coroutine_that_comes_back_is_told_as_an_error_and_closed(recwarn):
    told = []

    async def never():
        """Not awaited."""

    call_user_code(lambda: never(), failed=lambda: told.append(str(sys.exc_info()[1])))

    assert told == ["it returned a coroutine, and nobody here awaits one"]
    assert not recwarn.list


def leaves_by_exit():
    sys.exit(7)


def leaves_with_words():
    sys.exit("words")


def raises():
    raise ValueError("in the child")


LEAVING = [(leaves_by_exit, 7), (leaves_with_words, 1), (raises, 1), (lambda: None, 0), (lambda: sys.exit(None), 0)]


class Forking:
    """A function that forks at its first call; its child leaves in some way."""

    def __init__(self, leave):
        self.pid = None
        self.calls_read, self._calls = os.pipe()
        self._leave = leave

    def __call__(self, *_):
        os.write(self._calls, b"p" if os.getpid() == HERE else b"c")
        if self.pid is None:
            self.pid = os.fork()
            if self.pid == 0:
                self._leave()

    def exit_code(self):
        _, status = eventually(lambda: (ended := os.waitpid(self.pid, os.WNOHANG)) != (0, 0) and ended)
        return os.waitstatus_to_exitcode(status)

    def calls(self):
        os.close(self._calls)
        with open(self.calls_read, "rb") as read:
            return read.read()


HERE = os.getpid()


@pytest.mark.parametrize(("leave", "exit_code"), LEAVING)
def test_a_child_that_a_callback_forks_ends_and_calls_nothing_back(leave, exit_code):
    forking, called_back, ready = Forking(leave), [], threading.Event()
    managers = CallbackManagers(1, on_result=lambda _: None, on_called_back=called_back.append)
    managers.put(done("first", lambda result: ready.wait(10) and forking(result)))
    for number in range(3):
        managers.put(done(f"other{number}", forking))
    managers.start()
    ready.set()

    eventually(lambda: len(called_back) == 4)
    managers.close(10)

    assert forking.exit_code() == exit_code
    assert forking.calls() == b"pppp"


@pytest.mark.parametrize(("leave", "exit_code"), LEAVING)
def test_a_child_that_a_hook_forks_ends_and_tells_no_hook(leave, exit_code):
    forking, hooks = Forking(leave), HookManager()
    hooks.add(HostUp, forking)
    for _ in range(3):
        hooks.fire(HostUp(at_s=1.0, host="h"))
    hooks.drain(10)

    assert forking.exit_code() == exit_code
    assert forking.calls() == b"ppp"
