"""Live outputs: what the jobs of one manager print, on its way from their waiters to readers and hooks.

A job's waiter is asked for output only while somebody follows it, and for more only when the last answer has come. So
what is on its way is one piece, however fast a job prints, and a job that is not followed costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jobmanager.errors import UnknownJob
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import FetchOutput, OutputChunk
from jobmanager.live_output.output_buffer import OutputBuffer
from jobmanager.live_output.output_hooks import OutputHooks
from jobmanager.live_output.reader import LiveOutput
from jobmanager.scheduling.job_record import OutputSource


class LiveOutputFanOut:
    """All jobs that are followed, by readers or by hooks. ``follow`` is for any thread, the rest for the manager's loop."""

    def __init__(
        self,
        hooks: HookManager,
        *,
        source_of: Callable[[str], OutputSource | None],
        fetch: Callable[[FetchOutput], None],
        on_followed: Callable[[str], None],
    ) -> None:
        """``source_of`` asks the ledger, ``fetch`` the waiters; ``on_followed`` has the loop call ``update``."""
        self._output_hooks = OutputHooks(hooks)
        self._source_of = source_of
        self._fetch = fetch
        self._on_followed = on_followed
        self._lock = threading.Lock()
        self._buffers: dict[str, OutputBuffer] = {}
        self._is_stopped = False

    def follow(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        """One more reader; raises UnknownJob. It exists before the job's state is read, so that no end can be missed."""
        live = self._new_reader(job_id, timeout_s)
        if self._is_stopped:
            live.close()
        source = self._source_of(job_id)
        if source is not None and not source.ended:
            self._on_followed(job_id)
            return live
        live.close()
        with self._lock:
            self._followed_buffer(job_id)
        if source is None:
            raise UnknownJob(f"there is no job with the id {job_id!r}, or its callback has returned")
        return reader_of_the_past(job_id, source, timeout_s)

    def update(self, job_id: str) -> None:
        """A waiter monitors a run of the job, a run has ended, or the job has a new reader.

        If it is followed, what its ended runs printed is shown, and the waiter of the current one is asked for more.
        """
        source = self._source_of(job_id)
        if source is None:
            return
        with self._lock:
            if self._output_hooks.are_wanted() and not source.ended:
                self._buffers.setdefault(job_id, OutputBuffer(job_id))
            buffer = self._followed_buffer(job_id)
        if buffer is not None:
            self._output_hooks.fire_all(buffer, buffer.catch_up(source))
            self._fetch_more(buffer)

    def chunk_received(self, chunk: OutputChunk) -> None:
        """A waiter has answered. It is asked for more if the job is still followed."""
        with self._lock:
            buffer = self._followed_buffer(chunk.job_id)
        if buffer is None:
            return
        added = [
            output
            for piece in chunk.pieces
            for output in buffer.add(chunk.container_name, piece.stderr, piece.offset, piece.data)
        ]
        self._output_hooks.fire_all(buffer, added)
        if added:  # else it answers an old question, and the next one is on its way
            self._fetch_more(buffer)

    def job_ended(self, job_id: str) -> None:
        """The job is over, and the ledger knows it still."""
        self._end(job_id, self._source_of(job_id))

    def stop(self) -> None:
        """End all readers, and those that come later. Hooks go on."""
        with self._lock:
            self._is_stopped = True
            buffers = list(self._buffers.values())
        for buffer in buffers:
            buffer.end_readers()

    def close(self) -> None:
        """End all of them: no job prints any more."""
        with self._lock:
            job_ids = list(self._buffers)
        for job_id in job_ids:
            self._end(job_id, None)

    def abandon(self) -> None:
        """In a forked child: the jobs are the parent's. Its locks may be held by threads that are not here."""
        for buffer in self._buffers.values():
            buffer.changed, buffer.ended = threading.Condition(), True

    def _end(self, job_id: str, source: OutputSource | None) -> None:
        with self._lock:
            buffer = self._buffers.pop(job_id, None)
        if buffer is None:
            return
        if source is not None:
            self._output_hooks.fire_all(buffer, buffer.catch_up(source))
        buffer.finish()
        self._output_hooks.fire_missed(buffer)

    def _fetch_more(self, buffer: OutputBuffer) -> None:
        if (request := buffer.next_request()) is not None:
            self._fetch(request)

    def _new_reader(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        with self._lock:
            buffer = self._buffers.setdefault(job_id, OutputBuffer(job_id))
            return LiveOutput(buffer, timeout_s)

    def _followed_buffer(self, job_id: str) -> OutputBuffer | None:
        buffer = self._buffers.get(job_id)
        if buffer is not None and not buffer.has_readers() and not self._output_hooks.are_wanted():
            del self._buffers[job_id]
            return None
        return buffer


def reader_of_the_past(
    job_id: str, source: OutputSource, timeout_s: float | None, *, told: Sequence[str] = ()
) -> LiveOutput:
    """A reader of what an ended job has printed. ``told``: what its submitter was told, where ``source`` does not have that."""
    buffer = OutputBuffer(job_id)
    for _ in (*buffer.catch_up(source), *buffer.tell_rest(told)):
        pass
    buffer.finish()
    return LiveOutput(buffer, timeout_s)
