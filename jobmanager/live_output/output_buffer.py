"""What one job has printed so far, run by run, kept for the readers of its live output."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from jobmanager.ipc.messages import FetchOutput
from jobmanager.live_output.run_buffer import Output, RunBuffer, RunPosition
from jobmanager.results.facts import CapturedOutput
from jobmanager.scheduling.job_record import OutputSource, RunSource


class BufferReader(Protocol):
    """One reader of a buffer. Both calls are made while ``changed`` is held."""

    def wake(self) -> None:
        """There is something new, or the end."""

    def end(self) -> None:
        """It is to read no more."""


@dataclass(slots=True, kw_only=True)
class ReadPosition:
    """How far a reader has come."""

    restart: int
    placement: int
    run: int = 0
    in_run: RunPosition = field(default_factory=RunPosition)


class OutputBuffer:
    """The output of one job's runs, in their order: of all that have ended, and of the one whose turn it is.

    One thread writes, others read; ``changed`` guards all, and is held by whoever calls ``take``.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.changed = threading.Condition()
        self.ended = False
        self.readers: weakref.WeakSet[BufferReader] = weakref.WeakSet()  # one that was dropped without ``close`` leaves it
        self.missed_by_hooks: dict[tuple[str, bool], int] = {}  # bytes that hooks were too slow for, by phase and stream
        self._placement = 0
        self._restart = 0  # how often it had to start again
        self._runs: list[RunBuffer] = []
        self._changes = 0

    # ---- written by one thread; what is returned or yielded is what was added

    def catch_up(self, source: OutputSource) -> Iterator[Output]:
        """Take in what the ledger knows of the job's runs, and what those that have ended printed. May be repeated."""
        is_another = source.placement != self._placement
        if any(run.has_shown for run in self._runs) and (is_another or self._is_contradicted_by(source)):
            self._begin(source.placement, restart=self._restart + 1)
            yield Output(stderr=False, data=b"", starts_again=True)
        elif is_another:
            self._begin(source.placement, restart=self._restart)
        for number in range(max(len(self._runs) - 1, 0), len(source.runs)):
            yield from self._catch_up_run(number, source.runs[number])

    def next_request(self) -> FetchOutput | None:
        """The next request to the waiter of the run that prints; None while none does."""
        run = self._runs[-1] if self._runs else None
        return run.next_request() if run is not None and run.container and not run.is_whole else None

    def add(self, container: str, stderr: bool, at: int, data: bytes) -> list[Output]:
        """Bytes of a stream of this container, the first of which is its byte ``at``; those that are known count once."""
        if not self._runs or self._runs[-1].container != container:
            return []
        with self._changing():
            added = self._runs[-1].add(stderr, at, data)
        return [] if added is None else [added]

    def shown(self, stderr: bool) -> int:
        """How many bytes of a stream of the last run are here, or will not come."""
        return self._runs[-1].shown(stderr) if self._runs else 0

    def miss(self, container: str, stderr: bool, until: int) -> list[Output]:
        """The bytes of a stream of this container before its byte ``until`` that are not here will not come."""
        if not self._runs or self._runs[-1].container != container:
            return []
        with self._changing():
            missed = self._runs[-1].miss(stderr, until)
        return [] if missed is None else [missed]

    def tell(self, container: str, at: int, text: str) -> list[Output]:
        """What this container's grader tells the submitter, after ``at`` other texts; one that is known counts once."""
        if not self._runs or self._runs[-1].container != container or self._runs[-1].told != at:
            return []
        with self._changing():
            return [self._runs[-1].tell(text)]

    def tell_rest(self, told: Sequence[str]) -> Iterator[Output]:
        """What the submitter was told in all runs: what is missing of it comes last."""
        missing = told[sum(run.told for run in self._runs) :]
        if missing and not self._runs:
            with self._changing():
                self._runs.append(RunBuffer(""))
        for text in missing:
            with self._changing():
                output = self._runs[-1].tell(text)
            yield output

    def told(self) -> int:
        """How many texts the submitter was told in the last run."""
        return self._runs[-1].told if self._runs else 0

    def finish(self) -> None:
        """Nothing more will come."""
        with self._changing():
            self.ended = True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self.changed:
            yield
            self._changes += 1
            self._wake_readers()

    def _wake_readers(self) -> None:
        self.changed.notify_all()
        for reader in list(self.readers):
            reader.wake()

    def _begin(self, placement: int, *, restart: int) -> None:
        with self._changing():
            self._placement, self._restart, self._runs = placement, restart, []

    def _catch_up_run(self, number: int, source: RunSource) -> Iterator[Output]:
        if number == len(self._runs):
            with self._changing():
                self._runs.append(RunBuffer(source.phase))
        run = self._runs[number]
        run.container = source.container or run.container
        printed = _printed(source)
        while printed is not None and not run.is_whole:
            with self._changing():
                output = run.next_rest(printed)
            if output is not None:
                yield output
        for text in source.told[run.told :]:
            with self._changing():
                output = run.tell(text)
            yield output
        for case in source.progress.cases[run.cases :]:
            with self._changing():
                output = run.add_case(case)
            yield output

    def _is_contradicted_by(self, source: OutputSource) -> bool:
        last = len(self._runs) - 1
        facts = source.runs[last].facts if last < len(source.runs) else None
        return facts is not None and self._runs[last].is_contradicted_by(facts.output)

    # ---- read by others

    def has_readers(self) -> bool:
        """Whether it still has readers."""
        with self.changed:
            return bool(self.readers)

    def end_readers(self) -> None:
        """None of them reads on."""
        with self.changed:
            for reader in list(self.readers):
                reader.end()
            self._wake_readers()
            self.readers.clear()

    def beginning(self) -> ReadPosition:
        """The position of a new reader."""
        return ReadPosition(restart=self._restart, placement=self._placement)

    def changes(self) -> int:
        """How often it has changed."""
        return self._changes

    def take(self, position: ReadPosition) -> Output | None:
        """What comes next for a reader at this position, which moves on; None: nothing yet."""
        has_started_again = position.restart != self._restart
        if has_started_again or position.placement != self._placement:
            position.restart, position.placement = self._restart, self._placement
            position.run, position.in_run = 0, RunPosition()
        if has_started_again:
            return Output(stderr=False, data=b"", starts_again=True)
        while position.run < len(self._runs):
            if (output := self._runs[position.run].take(position.in_run)) is not None:
                return output
            if position.run == len(self._runs) - 1:
                return None  # it may still grow
            position.run, position.in_run = position.run + 1, RunPosition()
        return None


def _printed(source: RunSource) -> CapturedOutput | None:
    """All that a run has printed, once that is known. Of a run with cases it is what the build has printed."""
    build = source.progress.build
    if source.facts is not None or build is None:
        return None if source.facts is None else source.facts.output
    return CapturedOutput(
        stdout=build.stdout, stderr=build.stderr, stdout_bytes=build.stdout_bytes, stderr_bytes=build.stderr_bytes
    )
