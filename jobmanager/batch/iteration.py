"""``map`` and ``amap``: the loops that take inputs and give out pairs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Sized
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from jobmanager.batch.batch import WAIT_S, Batch
from jobmanager.batch.settings import BatchSettings, check_inputs
from jobmanager.client import InputData
from jobmanager.model.result import JobResult

BatchInput = TypeVar("BatchInput", bound=InputData)
_T = TypeVar("_T")
_END = object()  # of the inputs


def pairs(settings: BatchSettings, inputs: Iterable[BatchInput]) -> Generator[tuple[BatchInput, JobResult], None, None]:
    """The pairs of ``map``. Raises InvalidInput: the inputs cannot be iterated over."""
    check_inputs(inputs)
    return _pairs(settings, inputs)


def async_pairs(
    settings: BatchSettings, inputs: Iterable[BatchInput] | AsyncIterable[BatchInput]
) -> AsyncGenerator[tuple[BatchInput, JobResult], None]:
    """The pairs of ``amap``. Raises InvalidInput: the inputs cannot be iterated over."""
    check_inputs(inputs, AsyncIterable)
    return _async_pairs(settings, inputs)


def _pairs(settings: BatchSettings, inputs: Iterable[BatchInput]) -> Generator[tuple[BatchInput, JobResult], None, None]:
    """At most one input is taken before a pair that is there is given out: a slow source holds up no result for long."""
    batch = Batch(settings, _size(inputs))
    try:
        batch.open()
        source, is_over = iter(inputs), False
        while not (is_over and batch.is_empty):
            batch.collect()
            batch.begin_refused()
            batch.tell_refused()
            has_taken = False
            if not is_over and batch.has_room():
                given = next(source, _END)
                is_over, has_taken = given is _END, True
                if not is_over:
                    batch.take(given)
            batch.tell_refused()
            batch.show_progress()
            pair = batch.next_pair()
            if pair is not None:
                yield cast(tuple[BatchInput, JobResult], pair)
            elif not has_taken:
                batch.collect(WAIT_S)
    finally:
        batch.stop()


async def _async_pairs(
    settings: BatchSettings, inputs: Iterable[BatchInput] | AsyncIterable[BatchInput]
) -> AsyncGenerator[tuple[BatchInput, JobResult], None]:
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    batch = Batch(settings, _size(inputs), on_ended=wake)
    source, is_over = _async_iterator(inputs), False
    taking: asyncio.Task[object] | None = None  # the next input, which may take its time
    try:
        await _in_thread(batch.open)
        while not (is_over and batch.is_empty):
            woken.clear()
            batch.collect()
            await _in_thread(batch.begin_refused)
            batch.tell_refused()
            has_taken = False
            if taking is None and not is_over and batch.has_room():
                taking = loop.create_task(_next(source))
                taking.add_done_callback(lambda _: woken.set())
            if taking is not None and taking.done():
                given, taking = taking.result(), None
                is_over, has_taken = given is _END, True
                if not is_over:
                    await _in_thread(partial(batch.take, given))
            batch.tell_refused()
            batch.show_progress()
            pair = batch.next_pair()
            if pair is not None:
                yield cast(tuple[BatchInput, JobResult], pair)
            elif not has_taken:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(woken.wait(), WAIT_S)
    finally:
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        await _in_thread(batch.stop)


def _size(inputs: object) -> int | None:
    return len(inputs) if isinstance(inputs, Sized) else None


def _async_iterator(inputs: Iterable[BatchInput] | AsyncIterable[BatchInput]) -> AsyncIterator[BatchInput]:
    return aiter(inputs) if isinstance(inputs, AsyncIterable) else _each(inputs)


async def _each(inputs: Iterable[BatchInput]) -> AsyncIterator[BatchInput]:
    for given in inputs:
        yield given


async def _next(source: AsyncIterator[object]) -> object:
    try:
        return await anext(source)
    except StopAsyncIteration:
        return _END


async def _in_thread(function: Callable[[], _T]) -> _T:
    """What the function returns, in a thread of its own. Whoever is cancelled waits until it has returned."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
