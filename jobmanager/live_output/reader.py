"""``LiveOutput``: one reader of what a job prints, as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType

from jobmanager.errors import JobTimeout
from jobmanager.live_output.output_buffer import OutputBuffer
from jobmanager.live_output.run_buffer import Output
from jobmanager.threads.deadlock_guard import refuse_inside_callback
from jobmanager.threads.main_thread import outside_main_thread

__all__ = ["LiveOutput"]


class LiveOutput:
    """One reader of a job's output: an iterator of ``Output`` that ends when the job's output has ended.

    In asyncio it is an asynchronous iterator, too: ``async for`` and ``async with`` wait without a thread, and a task that waits
    can be cancelled. Each step waits up to ``timeout_s`` seconds, and can be repeated after ``JobTimeout``. Steps are for one
    thread or task at a time; ``close``, from any thread, ends it, a step that waits included.
    """

    def __init__(self, buffer: OutputBuffer, timeout_s: float | None) -> None:
        self._buffer = buffer
        self._timeout_s = timeout_s
        self._closed = False
        self._on_news: Callable[[], object] | None = None  # wakes the task that waits
        with buffer.changed:
            self._position = buffer.beginning()
            buffer.readers.add(self)

    @property
    def job_id(self) -> str:
        """Of the job that is followed."""
        return self._buffer.job_id

    def __iter__(self) -> LiveOutput:
        return self

    def __next__(self) -> Output:
        """The next record.

        Raises:
            JobTimeout: nothing has come for so long; the job goes on.
            WouldDeadlock: inside a callback, where nothing may be waited for.
        """
        until = self._deadline()
        while True:
            seen, is_over = self._buffer.changes(), self._is_over()  # before it takes: what comes meanwhile is no news to wait for
            if (output := outside_main_thread(self._take)) is not None:
                return output
            if is_over:
                raise StopIteration
            outside_main_thread(partial(self._wait, seen, self._left_s(until)), takes_long=True)

    def __aiter__(self) -> LiveOutput:
        return self

    async def __anext__(self) -> Output:
        """The next record: as ``next``, but only the task waits, and no thread."""
        until = self._deadline()
        loop = asyncio.get_running_loop()
        while True:
            news, is_over = asyncio.Event(), self._is_over()
            if (output := outside_main_thread(partial(self._take, partial(loop.call_soon_threadsafe, news.set)))) is not None:
                return output
            if is_over:
                raise StopAsyncIteration
            try:
                left_s = self._left_s(until)
                with suppress(asyncio.TimeoutError):  # something may have come at the last moment
                    await asyncio.wait_for(news.wait(), left_s)
            finally:
                self._on_news = None

    def close(self) -> None:
        """Read no more."""
        outside_main_thread(self._close)

    def __enter__(self) -> LiveOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> LiveOutput:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- for its buffer

    def wake(self) -> None:
        """There is something new, or the end. Whoever calls it holds the buffer's lock."""
        if self._on_news is not None:
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
                self._on_news()

    def end(self) -> None:
        """Read no more. Whoever calls it holds the buffer's lock."""
        self._closed = True

    def _deadline(self) -> float | None:
        return None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _left_s(self, until: float | None) -> float | None:
        """How long a step may wait now; raises where it may not."""
        refuse_inside_callback()
        left_s = None if until is None else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise JobTimeout(f"nothing came from job {self.job_id} for {self._timeout_s:g} s; it goes on")
        return left_s

    def _take(self, on_news: Callable[[], object] | None = None) -> Output | None:
        """What comes next. If there is nothing, ``on_news`` is called once there is, or at the end."""
        with self._buffer.changed:
            output = None if self._closed else self._buffer.take(self._position)
            if output is None:
                self._on_news = on_news
                if self._is_over():  # since the caller looked
                    self.wake()
            return output

    def _is_over(self) -> bool:
        return self._closed or self._buffer.ended

    def _wait(self, seen: int, timeout_s: float | None) -> None:
        with self._buffer.changed:
            self._buffer.changed.wait_for(lambda: self._is_over() or self._buffer.changes() != seen, timeout_s)

    def _close(self) -> None:
        with self._buffer.changed:
            self.end()
            self._buffer.readers.discard(self)
            self._buffer.changed.notify_all()
            self.wake()
