"""One run of a fake runner: a program that is given turns, its clocks, its output, and what it is sent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    FromProgram,
    HowEnded,
    Input,
    InputFrom,
    OutputData,
    ProgramStream,
    StartRun,
    StoppedBy,
    Taken,
    ToProgram,
    UpMessage,
)
from jobmanager.testing.fake.fifo import Fifo
from jobmanager.testing.fake.process import (
    Await,
    Died,
    Effect,
    Exited,
    MessageEffect,
    OutputEffect,
    Pause,
    Process,
    Running,
)

MOST_AHEAD = 64 * 1024  # bytes that may be sent beyond what was told as taken
_OUTPUT_PIECE = 32 * 1024
_MESSAGE_BYTES = 65_524
_MESSAGE_COST = 4
_TURN = 64 * 1024  # bytes that it may write before others have their turn
_TURN_STEPS = 2000  # the same, of steps
_TURN_S = 0.001
_KILLED = 9
_BROKEN_PIPE = 13


class RunClock:
    """The wall clock of a run, which stands still while it is held, and its CPU time."""

    def __init__(self, now: float, cpus: float) -> None:
        self._began = self._since = now
        self._rate = min(1.0, cpus)
        self._held_s = 0.0
        self._cpu_s = 0.0
        self._burns = self._holds = False

    def go_on(self, now: float, *, burns: bool = False, holds: bool = False) -> None:
        """From now on it computes, or is held, or neither."""
        if self._burns:
            self._cpu_s += (now - self._since) * self._rate
        if self._holds:
            self._held_s += now - self._since
        self._since, self._burns, self._holds = now, burns, holds

    def wall_us(self, now: float) -> int:
        held_s = self._held_s + (now - self._since if self._holds else 0.0)
        return int((now - self._began - held_s) * 1e6)

    def cpu_us(self, now: float) -> int:
        return int((self._cpu_s + ((now - self._since) * self._rate if self._burns else 0.0)) * 1e6)

    def left_s(self, now: float, order: StartRun) -> float:
        """Until a limit is reached, if it goes on as now."""
        wall = (order.wall_ms * 1000 - self.wall_us(now)) / 1e6 if order.wall_ms and not self._holds else math.inf
        cpu = (order.cpu_us - self.cpu_us(now)) / 1e6 / self._rate if order.cpu_us and self._burns else math.inf
        return max(0.0, min(wall, cpu))

    def reached(self, now: float, order: StartRun) -> StoppedBy:
        """The limit that is reached."""
        if order.cpu_us and self.cpu_us(now) >= order.cpu_us:
            return StoppedBy.CPU
        return StoppedBy.WALL if order.wall_ms and self.wall_us(now) >= order.wall_ms * 1000 else StoppedBy.NOBODY


class FakeRun:
    """A program that runs, until ``how`` says how it ended.

    Args:
        write: appends a message to the runner's stream; False where the window is full.
        stdout: where its standard output goes; None: it is reported.
    """

    def __init__(
        self,
        order: StartRun,
        program: Running,
        process: Process,
        *,
        now: float,
        cpus: float,
        write: Callable[[UpMessage], bool],
        stdout: Fifo | None = None,
    ) -> None:
        self.order = order
        self.how: HowEnded | None = None
        self.code = 0
        self.stopped_by = StoppedBy.NOBODY
        self.input_over = False  # it read from a fifo, and its writer had left before
        self.clock = RunClock(now, cpus)
        self.written = {ProgramStream.STDOUT: 0, ProgramStream.STDERR: 0}
        self._program = program
        self._process = process
        self._write = write
        self._stdout = stdout
        self._reported = 0  # bytes of both streams
        self._waiting: deque[UpMessage] = deque()  # for room in the window
        self._wakes_at = -math.inf
        self._awaits: Await | None = None
        self._burns = False
        self._sent_messages = 0
        self._told = Taken(run=order.run, input=0, messages=0)
        self._message_bytes = 0  # of those that came, and what each costs
        self._told_message_bytes = 0

    # ---- what it is sent

    def feed(self, message: Input) -> None:
        """More standard input, if it has a pipe; raises FrameError."""
        stdin = self._process.stdin
        if self.order.stdin is not InputFrom.PIPE:
            return
        _add_input(stdin.received, message, lambda data: stdin.add(data))
        if stdin.received - self._told.input > MOST_AHEAD:
            raise FrameError("INPUT: more is sent than the program can have taken")
        if message.last and message.offset + len(message.data) == stdin.received:
            stdin.ended = True

    def mail(self, message: ToProgram) -> None:
        """A message for its channel, if it has one; raises FrameError."""
        mail = self._process.mail
        if mail is None or message.number < mail.received:
            return
        if message.number > mail.received:
            raise FrameError(f"MESSAGE: number {message.number} comes, and {mail.received} is due")
        mail.add(message.data)
        self._message_bytes += len(message.data) + _MESSAGE_COST
        if self._message_bytes - self._told_message_bytes > MOST_AHEAD + _MESSAGE_COST * (mail.received - self._told.messages):
            raise FrameError("MESSAGE: more is sent than the program can have taken")

    @property
    def taken(self) -> Taken:
        """What it has taken so far."""
        mail = self._process.mail
        stdin = self._process.stdin.taken if self.order.stdin is InputFrom.PIPE else 0
        return Taken(run=self.order.run, input=stdin, messages=0 if mail is None else mail.taken)

    # ---- its turns

    def turn(self, now: float) -> float:
        """Let it go on; returns in how many seconds it is to have another turn. Infinity: once something has come."""
        self.clock.go_on(now, burns=self._burns, holds=bool(self._waiting))
        limit = self.clock.reached(now, self.order)
        if limit:
            self.stop(limit, now)
        written, steps = sum(self.written.values()), 0
        while self.how is None:
            if not self._flush():
                return self._rest(now, math.inf, holds=True)
            if self._wakes_at > now:
                return self._rest(now, self._wakes_at - now, burns=self._burns)
            if self._awaits is not None and not self._awaits.condition():
                return self._rest(now, math.inf)
            if sum(self.written.values()) - written > _TURN or steps > _TURN_STEPS:
                return self._rest(now, _TURN_S, burns=True)
            steps += 1
            self._step(now)
        return 0.0

    def stop(self, why: StoppedBy, now: float) -> None:
        """Kill it."""
        if self.how is None:
            self.stopped_by = why
            self._end(HowEnded.SIGNALLED, _KILLED, now)

    def rest_of_output(self) -> list[UpMessage]:
        """What is still to be reported, now that it has ended."""
        left = list(self._waiting)
        if self._is_more_taken():
            left.append(self.taken)
        return left

    def _rest(self, now: float, pause_s: float, *, burns: bool = False, holds: bool = False) -> float:
        self._burns = burns
        self.clock.go_on(now, burns=burns, holds=holds)
        return min(pause_s, self.clock.left_s(now, self.order))

    def _step(self, now: float) -> None:
        self._burns, self._awaits = False, None
        try:
            effect = next(self._program)
        except StopIteration as done:
            self._end(HowEnded.EXITED, int(done.value), now)
        except Exited as exited:
            self._end(HowEnded.EXITED, exited.code, now)
        except Died as died:
            self._end(HowEnded.SIGNALLED, died.number, now)
        else:
            self._take(effect, now)
        self._tell_taken()

    def _take(self, effect: Effect, now: float) -> None:
        if isinstance(effect, OutputEffect) and self._stdout is not None and not effect.stderr:
            if not self._stdout.write(effect.data):
                self._end(HowEnded.SIGNALLED, _BROKEN_PIPE, now)
        elif isinstance(effect, OutputEffect):
            self._print(ProgramStream.STDERR if effect.stderr else ProgramStream.STDOUT, effect.data, now)
        elif isinstance(effect, MessageEffect):
            message = FromProgram(run=self.order.run, number=self._sent_messages, data=effect.data[:_MESSAGE_BYTES])
            self._sent_messages += 1
            self._waiting.append(message)
        elif isinstance(effect, Pause):
            self._wakes_at, self._burns = now + effect.seconds, effect.burns
        else:
            self._awaits = effect

    def _print(self, stream: ProgramStream, data: bytes, now: float) -> None:
        limit = self.order.output_bytes
        room = limit - self._reported if limit else len(data)
        for at in range(0, min(len(data), room), _OUTPUT_PIECE):
            piece = data[at : min(at + _OUTPUT_PIECE, room)]
            self._waiting.append(OutputData(run=self.order.run, stream=stream, offset=self.written[stream] + at, data=piece))
        self._reported += min(len(data), room)
        self.written[stream] += len(data)
        if len(data) > room and not self.order.drops_output:
            self.stop(StoppedBy.OUTPUT, now)

    def _flush(self) -> bool:
        while self._waiting:
            if not self._write(self._waiting[0]):
                return False
            self._waiting.popleft()
        return True

    def _tell_taken(self) -> None:
        if self.how is None and self._is_more_taken():
            self._told, self._told_message_bytes = self.taken, self._message_bytes
            self._waiting.append(self._told)

    def _is_more_taken(self) -> bool:
        if self.order.stdin is not InputFrom.PIPE and self._process.mail is None:
            return False
        return self.taken != self._told

    def _end(self, how: HowEnded, code: int, now: float) -> None:
        self.clock.go_on(now)
        self.how, self.code = how, code & 255
        self.input_over = self.order.stdin is InputFrom.FIFO and self._process.stdin.ended
        self._program.close()
        if not self.stopped_by:
            self.stopped_by = self.clock.reached(now, self.order)


def _add_input(received: int, message: Input, add: Callable[[bytes], None]) -> None:
    """Take what is new of a piece of input; raises FrameError for a gap."""
    if message.offset > received:
        raise FrameError(f"INPUT: offset {message.offset} comes, and {received} is due")
    add(message.data[received - message.offset :])


class GivenInput:
    """What is sent before a run, as its standard input."""

    def __init__(self) -> None:
        self.run = 0
        self.data = bytearray()

    def add(self, message: Input) -> None:
        """One more piece; raises FrameError for a gap."""
        if message.run != self.run:
            self.run, self.data = message.run, bytearray()
        _add_input(len(self.data), message, self.data.extend)
