"""A transcript: what a runner has reported of its run, as far as it is kept."""

from __future__ import annotations

import posixpath

from jobmanager.ipc.messages import MonitorContainer, StreamPiece
from jobmanager.model._utf8 import from_utf8, to_utf8
from jobmanager.results.facts import CapturedOutput, ProgramEnd
from jobmanager.runner.frames import (
    Ended,
    HowEnded,
    OutputData,
    Piece,
    ProgramStream,
    RunRefused,
    Started,
    Taken,
    UpMessage,
)
from jobmanager.runner.place import SHM
from jobmanager.watching.brought import result_file_of

_MAX_TURNS = 4096  # between the two streams, past which their order is not remembered
_SIGNALS = (  # of Linux, from 1 on: a waiter may be on a system that has other numbers
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT"),
    *("CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"),
)


class Transcript:
    """Takes a run's messages in their order. Keeps no more output than the limit allows, but counts all.

    It keeps as much of each stream: the one that is quicker must not take all the room.
    """

    def __init__(self, job: MonitorContainer) -> None:
        self.started: Started | None = None
        self.refused: RunRefused | None = None
        self.ended: Ended | None = None
        self.taken = Taken(input=0, messages=0)
        self.beginning_lost = False  # an earlier waiter had it
        self.stdout, self.stderr = bytearray(), bytearray()
        self._counted = {ProgramStream.STDOUT: 0, ProgramStream.STDERR: 0}
        self._turns: list[tuple[bool, int]] = []  # which stream was printed to, and how many bytes it had then
        self._keep_bytes = job.limits.output_kib * 1024
        self._workspace = to_utf8(job.workspace)
        self._brought: list[Piece] = []

    def take(self, message: UpMessage) -> None:
        """The run's next message."""
        if isinstance(message, OutputData):
            self._print(message)
        elif isinstance(message, Started):
            self.started = message
        elif isinstance(message, RunRefused):
            self.refused = message
        elif isinstance(message, Taken):
            self.taken = message
        elif isinstance(message, Piece) and not message.request:
            self._brought.append(message)
        elif isinstance(message, Ended):
            self.ended = message

    @property
    def is_over(self) -> bool:
        """Whether nothing more of the run comes."""
        return self.ended is not None or self.refused is not None

    @property
    def end(self) -> ProgramEnd | None:
        """How the program ended; None as long as it is not known."""
        return None if self.ended is None else _program_end(self.ended, self._workspace)

    @property
    def result_file(self) -> bytes | None:
        """The result file, whole or longer than allowed; None when there is none."""
        return result_file_of(self._brought)

    @property
    def volume_devices(self) -> dict[str, str]:
        """The devices of volumes that the container shares with others, by name."""
        volumes = () if self.started is None else self.started.volumes
        return {posixpath.basename(from_utf8(each.path)): from_utf8(each.device) for each in volumes}

    @property
    def output_bytes(self) -> int:
        """Bytes of both streams so far."""
        return sum(self._counted.values())

    def output(self, *, is_incomplete: bool) -> CapturedOutput:
        """What was printed, as far as it is kept."""
        for_stderr = min(len(self.stderr), self._keep_bytes // 4)  # a stream that floods takes not all of the other's room
        stdout = bytes(self.stdout[: self._keep_bytes - for_stderr])
        ended = self.ended
        return CapturedOutput(
            stdout=stdout,
            stderr=bytes(self.stderr[: self._keep_bytes - len(stdout)]),
            stdout_bytes=max(self._counted[ProgramStream.STDOUT], 0 if ended is None else ended.stdout_bytes),
            stderr_bytes=max(self._counted[ProgramStream.STDERR], 0 if ended is None else ended.stderr_bytes),
            beginning_lost=self.beginning_lost,
            is_incomplete=is_incomplete,
        )

    def since(self, stdout_from: int, stderr_from: int, max_bytes: int) -> list[StreamPiece]:
        """What is kept of both streams past their first bytes, in the order in which it came. Any thread may ask."""
        if self.beginning_lost:  # the kept bytes are not the first ones
            return []
        kept, at, found = {False: self.stdout, True: self.stderr}, {False: stdout_from, True: stderr_from}, list[StreamPiece]()
        for stderr, end in [*self._turns, (False, len(self.stdout)), (True, len(self.stderr))]:
            data = bytes(kept[stderr][at[stderr] : min(end, at[stderr] + max_bytes)])
            if data:
                found.append(StreamPiece(stderr, at[stderr], data))
                at[stderr] += len(data)
                max_bytes -= len(data)
        return found

    def _print(self, output: OutputData) -> None:
        stderr = output.stream is ProgramStream.STDERR
        kept = self.stderr if stderr else self.stdout
        kept += output.data[: max(0, self._keep_bytes - len(kept))]
        self._counted[output.stream] = output.offset + len(output.data)
        self._turn(stderr, len(kept))

    def _turn(self, stderr: bool, length: int) -> None:
        if self._turns and self._turns[-1][0] is stderr:
            self._turns[-1] = (stderr, length)
        elif len(self._turns) < _MAX_TURNS:
            self._turns.append((stderr, length))


def _program_end(ended: Ended, workspace: bytes) -> ProgramEnd:
    full = {place.path for place in ended.full if place.blocks or place.inodes}
    return ProgramEnd(
        exit_code=ended.code if ended.how is HowEnded.EXITED else None,
        signal=_signal_name(ended.code) if ended.how is HowEnded.SIGNALLED else None,
        cpu_ns=None if ended.cpu_us is None else ended.cpu_us * 1000,
        wall_s=ended.wall_us / 1e6,
        peak_memory_bytes=ended.peak_bytes,
        peak_is_lower_bound=not ended.peak_is_exact,
        oom_kills=ended.oom_kills,
        fork_refusals=ended.fork_refusals,
        workspace_full=workspace in full,
        shm_full=to_utf8(SHM) in full,
        input_over=ended.input_over,
    )


def _signal_name(number: int) -> str:
    return f"SIG{_SIGNALS[number - 1]}" if 0 < number <= len(_SIGNALS) else f"signal {number}"
