"""What one job has printed so far, kept for the readers of its live output."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobmanager.ipc.messages import FetchOutput
from jobmanager.results.facts import CapturedOutput, RunFacts

_MAX_RECORD_BYTES = 65536  # of one record
_MAX_KEPT_BYTES = 4 * 2**20  # of a running job's output
_MIN_WEIGHT = 256  # of a block, however small: what Python takes for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of what a job printed, as it came: what a reader of its live output is given at a time."""

    stderr: bool  # else standard output
    data: bytes  # at most 64 KiB; it may end in the middle of a line, or of a character
    missed_bytes: int = 0  # of this stream, before this data: this reader was too slow for them, or they were not kept
    starts_again: bool = False  # what came before does not count: the job is run again


def _none_of_both() -> dict[bool, int]:
    """A count for standard output (False) and one for standard error (True)."""
    return {False: 0, True: 0}


@dataclass(slots=True, kw_only=True)
class _Block:
    """Bytes of one stream that came one after the other; or a number of bytes that were not kept."""

    stderr: bool
    data: bytearray = field(default_factory=bytearray)
    missed_bytes: int = 0

    @property
    def weight(self) -> int:
        """What counts for the bound on kept bytes."""
        return max(len(self.data), _MIN_WEIGHT)

    def can_take_more(self, stderr: bool) -> bool:
        """Whether the next bytes of this stream belong to it."""
        return self.stderr is stderr and not self.missed_bytes and len(self.data) < _MAX_RECORD_BYTES


@dataclass(slots=True, kw_only=True)
class ReadPosition:
    """How far a reader has come."""

    run: int
    block: int = 0  # its number since the run began
    offset: int = 0  # in that block
    passed: dict[bool, int] = field(default_factory=_none_of_both)  # bytes that it got, or missed and was informed of


class OutputBuffer:
    """One job's output, in blocks. While the job runs their size is bounded, and the oldest are dropped first.

    One thread writes, others read; ``changed`` guards all, and is held by whoever calls ``take``.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.changed = threading.Condition()
        self.ended = False
        self.readers: weakref.WeakSet[object] = weakref.WeakSet()  # one that was dropped without ``close`` leaves it by itself
        self.missed_by_hooks = _none_of_both()  # bytes that hooks were too slow for
        self._container = ""
        self._run = 0
        self._begin()

    def _begin(self) -> None:
        self._blocks: deque[_Block] = deque()
        self._first = 0  # the number of the oldest block that is kept
        self._weight = 0
        self._dropped = _none_of_both()
        self._shown = _none_of_both()
        self._sums = _none_of_both()

    # ---- written by one thread; what is returned or yielded is what was added

    def container_started(self, container: str) -> list[Output]:
        """The job's program is in this container. Another one than before means another run."""
        is_another_run = self._container not in ("", container) and any(self._shown.values())
        self._container = container
        return [self._start_again()] if is_another_run else []

    def next_request(self) -> FetchOutput:
        """The next request to its waiter."""
        return FetchOutput(container_name=self._container, stdout_from=self._shown[False], stderr_from=self._shown[True])

    def add(self, container: str, stderr: bool, at: int, data: bytes) -> list[Output]:
        """Bytes of a stream of this container, the first of which is its byte ``at``; those that are known count once."""
        if container != self._container or at > self._shown[stderr]:
            return []
        unseen = data[self._shown[stderr] - at :]
        return [self._add(stderr, unseen, keep_all=False)] if unseen else []

    def finish(self, facts: RunFacts | None) -> Iterator[Output]:
        """Nothing more will come: the facts of the last run, if there are any, have all that it printed."""
        if facts is not None:
            output = facts.output
            if self._is_contradicted_by(output):
                yield self._start_again()
            yield from self._add_rest(False, output.stdout, output.stdout_bytes)
            yield from self._add_rest(True, output.stderr, output.stderr_bytes)
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _start_again(self) -> Output:
        with self.changed:
            self._run += 1
            self._begin()
            self.changed.notify_all()
        return Output(stderr=False, data=b"", starts_again=True)

    def _add(self, stderr: bool, data: bytes, *, keep_all: bool) -> Output:
        with self.changed:
            self._shown[stderr] += len(data)
            self._sums[stderr] = zlib.crc32(data, self._sums[stderr])
            self._append(stderr, data)
            while self._weight > _MAX_KEPT_BYTES and len(self._blocks) > 1 and not keep_all:
                self._drop_oldest()
            self.changed.notify_all()
        return Output(stderr=stderr, data=data)

    def _add_rest(self, stderr: bool, whole: bytes, counted: int) -> Iterator[Output]:
        while rest := whole[self._shown[stderr] : self._shown[stderr] + _MAX_RECORD_BYTES]:
            yield self._add(stderr, rest, keep_all=True)
        if (missed := counted - self._shown[stderr]) > 0:
            with self.changed:
                self._blocks.append(_Block(stderr=stderr, missed_bytes=missed))
            yield Output(stderr=stderr, data=b"", missed_bytes=missed)

    def _is_contradicted_by(self, output: CapturedOutput) -> bool:
        """Whether it does not begin with what was shown: a log that was read in place of a stream may have less."""
        return any(
            self._shown[stderr] > 0 and (output.beginning_lost or self._differs(stderr, whole))
            for stderr, whole in ((False, output.stdout), (True, output.stderr))
        )

    def _differs(self, stderr: bool, whole: bytes) -> bool:
        shown = self._shown[stderr]
        return shown <= len(whole) and zlib.crc32(memoryview(whole)[:shown]) != self._sums[stderr]

    def _append(self, stderr: bool, data: bytes) -> None:
        if not (self._blocks and self._blocks[-1].can_take_more(stderr)):
            self._blocks.append(_Block(stderr=stderr))
            self._weight += _MIN_WEIGHT
        block = self._blocks[-1]
        self._weight -= block.weight
        block.data += data
        self._weight += block.weight

    def _drop_oldest(self) -> None:
        block = self._blocks.popleft()
        self._first += 1
        self._weight -= block.weight
        self._dropped[block.stderr] += len(block.data)

    # ---- read by others

    def has_readers(self) -> bool:
        """Whether it still has readers."""
        with self.changed:
            return bool(self.readers)

    def beginning(self) -> ReadPosition:
        """The position of a new reader."""
        return ReadPosition(run=self._run)

    def so_far(self) -> tuple[int, int]:
        """Which run this is, and how many bytes it has printed."""
        return self._run, sum(self._shown.values())

    def take(self, position: ReadPosition) -> Output | None:
        """What comes next for a reader at this position, which moves on; None: nothing yet."""
        if position.run != self._run:
            position.run, position.block, position.offset, position.passed = self._run, 0, 0, _none_of_both()
            return Output(stderr=False, data=b"", starts_again=True)
        if position.block < self._first:
            return self._missed(position) or self._next(position)
        return self._next(position)

    def _missed(self, position: ReadPosition) -> Output | None:
        """What was dropped before this reader came to it, one stream after the other."""
        for stderr in (False, True):
            missed = self._dropped[stderr] - position.passed[stderr]
            if missed > 0:
                position.passed[stderr] += missed
                return Output(stderr=stderr, data=b"", missed_bytes=missed)
        position.block, position.offset = self._first, 0
        return None

    def _next(self, position: ReadPosition) -> Output | None:
        while (at := position.block - self._first) < len(self._blocks):
            block = self._blocks[at]
            if position.offset == 0 and block.missed_bytes:
                position.offset = 1
                return Output(stderr=block.stderr, data=b"", missed_bytes=block.missed_bytes)
            data = bytes(block.data[position.offset : position.offset + _MAX_RECORD_BYTES])
            if data:
                position.offset += len(data)
                position.passed[block.stderr] += len(data)
                return Output(stderr=block.stderr, data=data)
            if at == len(self._blocks) - 1:
                return None  # it may still grow
            position.block, position.offset = position.block + 1, 0
        return None
