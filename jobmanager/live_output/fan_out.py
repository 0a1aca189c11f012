"""Live outputs: what the jobs of one manager print, on its way from their waiters to readers and hooks.

A job's waiter is asked for output only while somebody follows it, and for more only when the last answer has come. So
what is on its way is one piece, however fast a job prints, and a job that nobody follows costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from jobmanager.errors import UnknownJob
from jobmanager.events import JobOutput
from jobmanager.hooks import HookManager
from jobmanager.ipc.messages import FetchOutput, OutputChunk
from jobmanager.live_output.buffer import Channel, Output
from jobmanager.live_output.reader import LiveOutput
from jobmanager.results.facts import RunFacts
from jobmanager.scheduling.job_record import OutputSource


class LiveOutputs:
    """All jobs that are followed, by readers or by hooks. Readers come from any thread, the rest is the manager's loop's."""

    def __init__(
        self,
        hooks: HookManager,
        *,
        run_of: Callable[[str], OutputSource | None],
        ask: Callable[[FetchOutput], None],
        followed: Callable[[str], None],
    ) -> None:
        """``run_of`` is the ledger's, ``ask`` reaches the waiters, ``followed`` has the loop call ``ask_for``."""
        self._hooks = hooks
        self._run_of = run_of
        self._ask = ask
        self._followed = followed
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}

    def follow(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        """One more reader; raises UnknownJob. It is there before the job is looked at, so that no end can be missed."""
        live = self._new_reader(job_id, timeout_s)
        run = self._run_of(job_id)
        if run is not None and not run.ended:
            self._followed(job_id)
            return live
        live.close()
        with self._lock:
            self._wanted(job_id)
        if run is None:
            raise UnknownJob(f"there is no job with the id {job_id!r}, or its callback has returned")
        return _reader_of_the_past(job_id, run.facts, timeout_s)

    def ask_for(self, job_id: str) -> None:
        """A job has a new reader."""
        run = self._run_of(job_id)
        if run is not None and run.container and not run.ended:
            self.watched(job_id, run.container)

    def watched(self, job_id: str, container: str) -> None:
        """A waiter has the job, and is asked, if anybody wants to know."""
        with self._lock:
            if self._hooks.wants(JobOutput):
                self._channels.setdefault(job_id, Channel(job_id))
            channel = self._wanted(job_id)
        if channel is not None:
            self._tell(channel, channel.runs_in(container))
            self._ask(channel.next_question())

    def printed(self, said: OutputChunk) -> None:
        """A waiter's answer. It is asked for more, if anybody still wants to know."""
        with self._lock:
            channel = self._wanted(said.job_id)
        if channel is None:
            return
        news = [
            output
            for piece in said.pieces
            for output in channel.add(said.container_name, piece.stderr, piece.offset, piece.data)
        ]
        self._tell(channel, news)
        if news:  # else it answers an old question, and the next one is on its way
            self._ask(channel.next_question())

    def ended(self, job_id: str, facts: RunFacts | None) -> None:
        """The job is over."""
        with self._lock:
            channel = self._channels.pop(job_id, None)
        if channel is not None:
            self._tell(channel, channel.finish(facts))
            self._tell_what_was_missed(channel)

    def close(self) -> None:
        """Nothing more will come of any job."""
        with self._lock:
            job_ids = list(self._channels)
        for job_id in job_ids:
            self.ended(job_id, None)

    def abandon(self) -> None:
        """In a forked child: the jobs are the parent's, and so is whoever holds a lock."""
        for channel in self._channels.values():
            channel.changed, channel.ended = threading.Condition(), True

    def _new_reader(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        with self._lock:
            channel = self._channels.setdefault(job_id, Channel(job_id))
            return LiveOutput(channel, timeout_s)

    def _wanted(self, job_id: str) -> Channel | None:
        channel = self._channels.get(job_id)
        if channel is not None and not channel.has_readers() and not self._hooks.wants(JobOutput):
            del self._channels[job_id]
            return None
        return channel

    def _tell(self, channel: Channel, outputs: Iterable[Output]) -> None:
        """Go through what was added, telling hooks of it."""
        for output in outputs:
            if self._hooks.wants(JobOutput):
                self._tell_hooks(channel, output)

    def _tell_hooks(self, channel: Channel, output: Output) -> None:
        if output.starts_again:
            channel.untold = {False: 0, True: 0}
        missed = channel.untold[output.stderr] + output.missed_bytes
        told = self._hooks.fire(
            JobOutput(
                at_s=time.time(),
                job_id=channel.job_id,
                stderr=output.stderr,
                data=output.data,
                missed_bytes=missed,
                starts_again=output.starts_again,
            )
        )
        channel.untold[output.stderr] = 0 if told else missed + len(output.data)

    def _tell_what_was_missed(self, channel: Channel) -> None:
        for stderr, missed in channel.untold.items():
            if missed:
                self._tell_hooks(channel, Output(stderr=stderr, data=b""))


def _reader_of_the_past(job_id: str, facts: RunFacts | None, timeout_s: float | None) -> LiveOutput:
    channel = Channel(job_id)
    for _ in channel.finish(facts):
        pass
    return LiveOutput(channel, timeout_s)
