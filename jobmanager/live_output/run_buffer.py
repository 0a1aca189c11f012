"""What one run of a job has printed so far: a task has one run, a pipeline one for each phase."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobmanager.ipc.messages import FetchOutput
from jobmanager.model.as_data import AsData
from jobmanager.model.result import CaseResult
from jobmanager.results.facts import CapturedOutput

_MAX_RECORD_BYTES = 65536  # of one record
_MAX_KEPT_BYTES = 4 * 2**20  # of a run that has not ended
_MIN_WEIGHT = 256  # of a block, however small: what Python takes for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(AsData):
    """A piece of what a job printed, as it came: what a reader of its live output is given at a time."""

    stderr: bool  # else standard output
    data: bytes  # at most 64 KiB; it may end in the middle of a line, or of a character
    missed_bytes: int = 0  # of this stream, before this data: this reader was too slow for them, or they were not kept
    starts_again: bool = False  # what came before does not count: the job is run again
    phase: str = ""  # the phase of a pipeline that printed it; empty for a task, and with ``starts_again``
    case: CaseResult | None = None  # a case of a task has ended so; there is no data then
    to_submitter: str = ""  # what the grader tells the submitter; there is no data then


def _none_of_both() -> dict[bool, int]:
    """A count for standard output (False) and one for standard error (True)."""
    return {False: 0, True: 0}


@dataclass(slots=True, kw_only=True)
class _Block:
    """Bytes of one stream that came one after the other; or a number of bytes that were not kept."""

    stderr: bool
    data: bytearray = field(default_factory=bytearray)
    missed_bytes: int = 0
    case: CaseResult | None = None
    to_submitter: str = ""

    @property
    def weight(self) -> int:
        """What counts for the bound on kept bytes."""
        return max(len(self.data), len(self.to_submitter), _MIN_WEIGHT)

    @property
    def is_output(self) -> bool:
        """Whether it has what was printed, and nothing else."""
        return not self.missed_bytes and self.case is None and not self.to_submitter

    def can_take_more(self, stderr: bool) -> bool:
        """Whether the next bytes of this stream belong to it."""
        return self.stderr is stderr and self.is_output and len(self.data) < _MAX_RECORD_BYTES


@dataclass(slots=True, kw_only=True)
class RunPosition:
    """How far a reader has come in a run."""

    block: int = 0  # its number since the run began
    offset: int = 0  # in that block
    passed: dict[bool, int] = field(default_factory=_none_of_both)  # bytes that it got, or missed and was informed of


class RunBuffer:
    """One run's output, in blocks. Until the run has ended their size is bounded, and the oldest are dropped first.

    Not thread-safe: its job's buffer guards it.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase  # empty for a task
        self.container = ""  # empty while it has none
        self.is_whole = False  # it has all that the run printed, as far as that is known
        self.cases = 0  # how many have ended
        self.told = 0  # how many texts the submitter was told
        self._blocks: deque[_Block] = deque()
        self._first = 0  # the number of the oldest block that is kept
        self._weight = 0
        self._dropped = _none_of_both()
        self._shown = _none_of_both()
        self._sums = _none_of_both()
        self._has_gaps = False

    @property
    def has_shown(self) -> bool:
        """Whether anything was shown."""
        return any(self._shown.values()) or self.told > 0 or self.cases > 0

    def shown(self, stderr: bool) -> int:
        """How many bytes of a stream were shown, or will not come."""
        return self._shown[stderr]

    def next_request(self) -> FetchOutput:
        """The next request to its waiter."""
        return FetchOutput(container_name=self.container, stdout_from=self._shown[False], stderr_from=self._shown[True])

    # ---- what is written; what is returned is what was added

    def add(self, stderr: bool, at: int, data: bytes) -> Output | None:
        """Bytes of a stream, the first of which is its byte ``at``. Those that are known count once."""
        if self.is_whole or at > self._shown[stderr]:
            return None
        unseen = data[self._shown[stderr] - at :]
        return self._add(stderr, unseen, keep_all=False) if unseen else None

    def miss(self, stderr: bool, until: int) -> Output | None:
        """The bytes of a stream before its byte ``until`` that are not here will not come."""
        missed = until - self._shown[stderr]
        if self.is_whole or missed <= 0:
            return None
        self._shown[stderr] = until
        self._has_gaps = True
        self._blocks.append(_Block(stderr=stderr, missed_bytes=missed))
        self._weight += _MIN_WEIGHT
        self._drop_oldest_ones()
        return Output(stderr=stderr, data=b"", missed_bytes=missed, phase=self.phase)

    def add_case(self, case: CaseResult) -> Output:
        """A case has ended."""
        self.cases += 1
        self._blocks.append(_Block(stderr=False, case=case))
        self._weight += _MIN_WEIGHT
        self._drop_oldest_ones()
        return Output(stderr=False, data=b"", case=case, phase=self.phase)

    def tell(self, text: str) -> Output:
        """The grader tells the submitter this."""
        self.told += 1
        self._blocks.append(_Block(stderr=False, to_submitter=text))
        self._weight += self._blocks[-1].weight
        self._drop_oldest_ones()
        return Output(stderr=False, data=b"", to_submitter=text, phase=self.phase)

    def next_rest(self, output: CapturedOutput) -> Output | None:
        """The next piece of what the run's facts have, and was not shown yet. None: there is no more, and the run is whole."""
        for stderr, whole, counted in _streams(output):
            if rest := whole[self._shown[stderr] : self._shown[stderr] + _MAX_RECORD_BYTES]:
                return self._add(stderr, rest, keep_all=True)
            if (missed := counted - self._shown[stderr]) > 0:
                self._shown[stderr] = counted
                self._blocks.append(_Block(stderr=stderr, missed_bytes=missed))
                return Output(stderr=stderr, data=b"", missed_bytes=missed, phase=self.phase)
        self.is_whole = True
        return None

    def is_contradicted_by(self, output: CapturedOutput) -> bool:
        """Whether it does not begin with what was shown: a log that was read in place of a stream may have less."""
        return not self.is_whole and any(
            self._shown[stderr] > 0 and (output.beginning_lost or self._differs(stderr, whole))
            for stderr, whole, _ in _streams(output)
        )

    def _differs(self, stderr: bool, whole: bytes) -> bool:
        shown = self._shown[stderr]
        return not self._has_gaps and shown <= len(whole) and zlib.crc32(memoryview(whole)[:shown]) != self._sums[stderr]

    def _add(self, stderr: bool, data: bytes, *, keep_all: bool) -> Output:
        self._shown[stderr] += len(data)
        self._sums[stderr] = zlib.crc32(data, self._sums[stderr])
        self._append(stderr, data)
        if not keep_all:
            self._drop_oldest_ones()
        return Output(stderr=stderr, data=data, phase=self.phase)

    def _append(self, stderr: bool, data: bytes) -> None:
        if not (self._blocks and self._blocks[-1].can_take_more(stderr)):
            self._blocks.append(_Block(stderr=stderr))
            self._weight += _MIN_WEIGHT
        block = self._blocks[-1]
        self._weight -= block.weight
        block.data += data
        self._weight += block.weight

    def _drop_oldest_ones(self) -> None:
        while self._weight > _MAX_KEPT_BYTES and len(self._blocks) > 1:
            block = self._blocks.popleft()
            self._first += 1
            self._weight -= block.weight
            self._dropped[block.stderr] += len(block.data) + block.missed_bytes

    # ---- what is read

    def take(self, position: RunPosition) -> Output | None:
        """What comes next for a reader at this position, which moves on; None: nothing yet."""
        if position.block < self._first:
            return self._missed(position) or self._next(position)
        return self._next(position)

    def _missed(self, position: RunPosition) -> Output | None:
        """What was dropped before this reader came to it, one stream after the other."""
        for stderr in (False, True):
            missed = self._dropped[stderr] - position.passed[stderr]
            if missed > 0:
                position.passed[stderr] += missed
                return Output(stderr=stderr, data=b"", missed_bytes=missed, phase=self.phase)
        position.block, position.offset = self._first, 0
        return None

    def _next(self, position: RunPosition) -> Output | None:
        while (at := position.block - self._first) < len(self._blocks):
            block = self._blocks[at]
            if position.offset == 0 and block.case is not None:
                position.offset = 1
                return Output(stderr=False, data=b"", case=block.case, phase=self.phase)
            if position.offset == 0 and block.to_submitter:
                position.offset = 1
                return Output(stderr=False, data=b"", to_submitter=block.to_submitter, phase=self.phase)
            if position.offset == 0 and block.missed_bytes:
                position.offset = 1
                position.passed[block.stderr] += block.missed_bytes
                return Output(stderr=block.stderr, data=b"", missed_bytes=block.missed_bytes, phase=self.phase)
            data = bytes(block.data[position.offset : position.offset + _MAX_RECORD_BYTES])
            if data:
                position.offset += len(data)
                position.passed[block.stderr] += len(data)
                return Output(stderr=block.stderr, data=data, phase=self.phase)
            if at == len(self._blocks) - 1:
                return None  # it may still grow
            position.block, position.offset = position.block + 1, 0
        return None


def _streams(output: CapturedOutput) -> Iterator[tuple[bool, bytes, int]]:
    yield False, output.stdout, output.stdout_bytes
    yield True, output.stderr, output.stderr_bytes
