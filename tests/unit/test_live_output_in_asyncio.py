"""Readers of live output in asyncio: they wait without a thread, can be cancelled, and are woken from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from jobmanager import LiveOutput, Output
from jobmanager.errors import JobTimeout
from tests.conftest import our_threads
from tests.unit.test_live_output import Manager, out


async def all_of(live: LiveOutput) -> list[Output]:
    return [output async for output in live]


async def waiting(live: LiveOutput) -> asyncio.Task[Output | None]:
    """A step that waits."""
    step = asyncio.ensure_future(anext(live, None))
    while live._on_news is None:  # it has looked, and found nothing
        await asyncio.sleep(0)
    return step


async def from_another_thread(do: Callable[[], object]) -> None:
    await asyncio.to_thread(do)


def test_a_reader_is_given_what_is_there_and_what_comes_and_the_end() -> None:
    async def main() -> None:
        manager = Manager()
        _first = manager.follow()  # it has all of it kept
        manager.prints((False, 0, b"one"))
        async with manager.follow(timeout_s=None) as live:
            assert await anext(live) == out(b"one")
            step = await waiting(live)
            await from_another_thread(lambda: manager.prints((False, 3, b"two")))
            assert await step == out(b"two")
            rest = asyncio.ensure_future(all_of(live))
            await from_another_thread(lambda: manager.ends(b"onetwothree"))
            assert await rest == [out(b"three")]

    asyncio.run(main())


def test_many_readers_wait_at_once_and_none_of_them_has_a_thread() -> None:
    async def main() -> None:
        manager = Manager()
        lives = [manager.follow(timeout_s=None) for _ in range(100)]
        before = set(threading.enumerate())
        steps = [await waiting(live) for live in lives]
        assert set(threading.enumerate()) <= before | set(_executors())

        await from_another_thread(lambda: manager.prints((False, 0, b"all")))

        assert await asyncio.gather(*steps) == [out(b"all")] * 100

    asyncio.run(main())


def _executors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jobmanager-executor"]


def test_a_step_that_is_cancelled_leaves_nothing_and_loses_nothing() -> None:
    async def main() -> None:
        manager = Manager()
        live = manager.follow(timeout_s=None)
        step = await waiting(live)

        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

        assert live._on_news is None
        manager.prints((False, 0, b"later"))
        assert await anext(live) == out(b"later")

    asyncio.run(main())
    assert not [thread for thread in our_threads() if "main-call" in thread]


def test_leaving_the_block_by_a_cancellation_closes_the_reader() -> None:
    async def main() -> None:
        manager = Manager()
        live = manager.follow(timeout_s=None)

        async def read() -> None:
            async with live:
                await all_of(live)

        task = asyncio.ensure_future(read())
        while live._on_news is None:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert await all_of(live) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "end",
    [
        lambda manager, live: live.close(),
        lambda manager, live: manager.outputs.stop(),
        lambda manager, live: manager.outputs.close(),
    ],
    ids=["closed", "stopped", "the manager is closed"],
)
def test_whatever_ends_a_reader_ends_a_step_that_waits(end: Callable[[Manager, LiveOutput], None]) -> None:
    async def main() -> None:
        manager = Manager()
        live = manager.follow(timeout_s=None)
        step = await waiting(live)

        await from_another_thread(lambda: end(manager, live))

        assert await step is None
        assert await all_of(live) == []

    asyncio.run(main())


def test_nothing_in_time_raises_and_the_reader_can_go_on() -> None:
    async def main() -> None:
        manager = Manager()
        live = manager.follow(timeout_s=0.01)
        with pytest.raises(JobTimeout, match="nothing came from job j"):
            await anext(live)
        with pytest.raises(JobTimeout):
            await anext(manager.follow(timeout_s=0))

        manager.prints((False, 0, b"late"))
        assert await anext(live) == out(b"late")

    asyncio.run(main())


def test_a_reader_whose_loop_has_been_closed_holds_up_nothing() -> None:
    manager = Manager()
    live = manager.follow(timeout_s=None)
    loop = asyncio.new_event_loop()
    loop.close()
    live._on_news = lambda: loop.call_soon_threadsafe(print)  # as if its step was dropped with the loop

    manager.prints((False, 0, b"on"))

    assert next(live) == out(b"on")
