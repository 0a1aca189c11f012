"""Callbacks and hooks that could never do their work are refused when they are given, in one line."""

from __future__ import annotations

import asyncio
import functools
import queue
from unittest import mock

import pytest

from jobmanager import HookManager, errors, unpacked
from jobmanager.events import HostUp
from jobmanager.model import _checks


class Keeper:
    """Methods of each kind."""

    def takes_one(self, result):
        """Can be a callback."""

    def takes_two(self, first, result):
        """Can be one with its first argument given."""

    async def later(self, result):
        """Never runs."""

    async def __call__(self, result):
        """Never runs."""


async def coroutine_function(result):
    """Never runs."""


async def async_generator(result):
    yield result


def generator(result):
    yield result


def adapted(function):
    """As an adapter of old callbacks would be written."""

    @functools.wraps(function)
    def call(result):
        function(*result)

    return call


LATER = [
    coroutine_function,
    async_generator,
    Keeper().later,
    Keeper(),
    functools.partial(coroutine_function),
    functools.partial(functools.partial(Keeper().later)),
    functools.partial(Keeper()),
    mock.AsyncMock(),
    generator,
]
OTHERS = [lambda: None, lambda one, two: None, lambda *, result: None, Keeper().takes_two, lambda a, b, c, d, e, f: None, Keeper]
FINE = [
    print,
    str,
    [].append,
    {}.get,
    queue.Queue().put,
    queue.SimpleQueue().put,
    mock.Mock(),
    Keeper().takes_one,
    functools.partial(Keeper().takes_two, 1),
    lambda result, more=1: None,
    lambda *all: None,
    unpacked(lambda a, b, c, d, e, f: None),
    adapted(lambda a, b, c, d, e, f: None),
    type("Odd", (), {"__call__": lambda self, result: None, "__signature__": "nonsense"})(),
]


@pytest.mark.parametrize("given", LATER)
def test_what_would_never_run_is_refused(given):
    with pytest.raises(errors.InvalidInput, match=r"^callback must be a plain function, not an? \w+( one)?, which") as said:
        _checks.callback("callback", given, errors.InvalidInput, "result")

    assert "\n" not in str(said.value)


@pytest.mark.parametrize("given", OTHERS)
def test_what_takes_other_arguments_is_refused(given):
    with pytest.raises(errors.InvalidInput, match=r"^callback must be a function of \(result\): \w"):
        _checks.callback("callback", given, errors.InvalidInput, "result")


@pytest.mark.parametrize("given", FINE)
def test_any_callable_that_takes_one_argument_is_taken_also_one_that_does_not_tell(given):
    assert _checks.callback("callback", given, errors.InvalidInput, "result") is given


def test_what_a_signal_handler_raises_meanwhile_comes_through():
    class Interrupted(Exception):
        pass

    class Callback:
        def __call__(self, result):
            """Can be a callback."""

        @property
        def __signature__(self):
            raise Interrupted

    with pytest.raises(Interrupted):
        _checks.callback("callback", Callback(), errors.InvalidInput, "result")


def test_a_builtin_is_not_asked_what_it_takes_as_every_job_of_client_sync_brings_one(monkeypatch):
    monkeypatch.setattr(_checks.inspect, "signature", mock.Mock(side_effect=AssertionError))

    _checks.callback("callback", queue.SimpleQueue().put, errors.InvalidInput, "result")


def test_what_a_future_of_asyncio_offers_is_taken():
    loop = asyncio.new_event_loop()
    try:
        _checks.callback("callback", loop.create_future().set_result, errors.InvalidInput, "result")
    finally:
        loop.close()


@pytest.mark.parametrize("hook", [coroutine_function, lambda: None, 5])
def test_a_hook_that_could_not_be_called_is_refused(hook):
    with pytest.raises(errors.InvalidValue, match=r"^a hook must be "):
        HookManager().add(HostUp, hook)
