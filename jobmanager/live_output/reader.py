"""``LiveOutput``: one reader of what a job prints, as it comes."""

from __future__ import annotations

import time
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

    Each step waits up to ``timeout_s`` seconds, and can be repeated after ``JobTimeout``. Steps are for one thread at a time;
    ``close``, from any thread, ends it, a step that waits included.
    """

    def __init__(self, buffer: OutputBuffer, timeout_s: float | None) -> None:
        self._buffer = buffer
        self._timeout_s = timeout_s
        self._closed = False
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
        until = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            seen, is_over = self._buffer.changes(), self._is_over()  # before it takes: what comes meanwhile is no news to wait for
            if (output := outside_main_thread(self._take)) is not None:
                return output
            if is_over:
                raise StopIteration
            refuse_inside_callback()
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise JobTimeout(f"nothing came from job {self.job_id} for {self._timeout_s:g} s; it goes on")
            outside_main_thread(partial(self._wait, seen, left_s), takes_long=True)

    def close(self) -> None:
        """Read no more."""
        outside_main_thread(self._close)

    def __enter__(self) -> LiveOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self) -> Output | None:
        with self._buffer.changed:
            return None if self._closed else self._buffer.take(self._position)

    def _is_over(self) -> bool:
        return self._closed or self._buffer.ended

    def _wait(self, seen: int, timeout_s: float | None) -> None:
        with self._buffer.changed:
            self._buffer.changed.wait_for(lambda: self._is_over() or self._buffer.changes() != seen, timeout_s)

    def _close(self) -> None:
        with self._buffer.changed:
            self._closed = True
            self._buffer.readers.discard(self)
            self._buffer.changed.notify_all()
