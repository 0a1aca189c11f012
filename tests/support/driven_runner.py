"""What every test of the runner does with it, however its bytes travel: messages, sessions and runs."""

from __future__ import annotations

import os
import random
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jobmanager.runner.frames import (
    Ack,
    DownMessage,
    Ended,
    FromProgram,
    Input,
    InputFrom,
    OutputData,
    Piece,
    ProgramStream,
    RunRefused,
    Started,
    StartRun,
    Status,
    Taken,
    UpMessage,
    encode,
)
from jobmanager.runner.wire import MESSAGE_HEADER_BYTES, FrameWriter, PacketReader
from tests.conftest import SLOWNESS

_ACKNOWLEDGE_BYTES = 2**16
_Kind = TypeVar("_Kind", bound="UpMessage | Status")


class RunnerGone(Exception):
    """The runner has closed its output: with its exit code and what it wrote to standard error."""


@dataclass
class RunRecord:
    """All that the runner reported of one run."""

    run: int
    messages: list[UpMessage] = field(default_factory=list)

    def all_of(self, kind: type[_Kind]) -> list[_Kind]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def started(self) -> Started:
        return self.all_of(Started)[0]

    @property
    def refused(self) -> RunRefused:
        return self.all_of(RunRefused)[0]

    @property
    def ended(self) -> Ended:
        return self.all_of(Ended)[0]

    @property
    def stdout(self) -> bytes:
        return self._written(ProgramStream.STDOUT)

    @property
    def stderr(self) -> bytes:
        return self._written(ProgramStream.STDERR)

    @property
    def from_program(self) -> list[bytes]:
        return [message.data for message in self.all_of(FromProgram)]

    @property
    def pieces(self) -> list[Piece]:
        return self.all_of(Piece)

    @property
    def taken(self) -> Taken:
        """The last of its reports on its input."""
        return self.all_of(Taken)[-1]

    def _written(self, stream: ProgramStream) -> bytes:
        written = b""
        for piece in self.all_of(OutputData):
            if piece.stream == stream:
                assert piece.offset == len(written), "output has a gap or came twice"
                written += piece.data
        return written


class DrivenRunner(ABC):
    """A runner and the waiter's end of its channel. How the bytes travel is the driver's.

    Args:
        lease_s: in each Hello.
    """

    def __init__(self, *, lease_s: float) -> None:
        self.lease_s = lease_s
        self.acknowledging = True  # whether what was read is acknowledged, which also renews the lease
        self.seen: list[UpMessage | Status] = []  # all messages that were handed out
        self.last_run = 0
        self.writer, self._reader = FrameWriter(0), PacketReader(0)
        self.read_to = 0  # offset in its stream after the last message that was handed out: where another session may go on
        self._acknowledged_to = 0
        self._arrived: list[UpMessage | Status] = []
        self._unsent = bytearray()
        self._closed = False  # its standard output
        self._heard_at = 0.0  # monotonic: when we last gave a sign of life

    @abstractmethod
    def _ends(self) -> tuple[int, int]:
        """Descriptors to write to and to read from, which never block; a socket is both."""

    @abstractmethod
    def _receive(self) -> bytes | None:
        """What it has sent and is there now; None at the end of its output. May raise BlockingIOError."""

    @abstractmethod
    def standard_error(self) -> str:
        """What the runner has written there: nothing, or what a sanitizer found."""

    @abstractmethod
    def _last_words(self) -> str:
        """How it left, for somebody who waits for more of it."""

    def send(self, message: DownMessage) -> None:
        """Send a message of this session; what does not fit into the pipe goes while messages are read."""
        self.feed(self.writer.write(message))

    def feed(self, raw: bytes) -> None:
        """Send any bytes."""
        self._unsent += raw
        self._exchange(0)

    def flush(self, timeout_s: float = 20) -> None:
        """Wait until everything was written to its pipe."""
        self._until(lambda: not self._unsent, timeout_s, "the runner does not read")

    def next_message(self, timeout_s: float = 20) -> UpMessage | Status:
        """The next one; raises RunnerGone when it has left, and FrameError when it sends nonsense."""
        self._until(lambda: self._arrived, timeout_s, "no message came")
        message = self._arrived.pop(0)
        self.seen.append(message)
        self.read_to += size_in_stream(message)
        due = not self._arrived or self.read_to - self._acknowledged_to > _ACKNOWLEDGE_BYTES
        if self.acknowledging and due and self.read_to > self._acknowledged_to:
            self.acknowledge()
        return message

    def wait_for(self, kind: type[_Kind], timeout_s: float = 20, where: Callable[[_Kind], bool] = lambda _: True) -> _Kind:
        """The next one of this kind for which the condition holds; those before it are in ``seen``."""
        until = time.monotonic() + timeout_s * SLOWNESS
        while True:
            message = self.next_message(max(0.0, until - time.monotonic()) / SLOWNESS)
            if isinstance(message, kind) and where(message):
                return message

    def start(self, argv: Sequence[str | bytes], *, stdin: bytes | InputFrom = InputFrom.NOTHING, **fields: Any) -> int:
        """Send a run, with its input where that is some bytes, and return its number."""
        self.last_run += 1
        if isinstance(stdin, bytes):
            self.send_input(self.last_run, stdin)
            stdin = InputFrom.MEMORY
        fields = {"stdin": stdin, **fields}
        names = tuple(os.fsencode(name) for name in argv)
        self.send(StartRun(run=self.last_run, argv=names, **{"cwd": b"/job", **fields}))
        return self.last_run

    def send_input(self, run: int, content: bytes, *, offset: int = 0, last: bool = True) -> None:
        """Send input in as many messages as it takes."""
        size = 2**19
        starts = range(0, len(content), size) or range(1)
        for start in starts:
            at_end = last and start == starts[-1]
            self.send(Input(run=run, offset=offset + start, last=at_end, data=content[start : start + size]))

    def finish(self, run: int, timeout_s: float = 30) -> RunRecord:
        """All that is reported of a run, to its end; of what was handed out before, too."""
        until = time.monotonic() + timeout_s * SLOWNESS
        record = RunRecord(run, [message for message in self.seen if isinstance(message, UpMessage) and message.run == run])
        while not record.messages or not isinstance(record.messages[-1], (Ended, RunRefused)):
            message = self.next_message(max(0.0, until - time.monotonic()) / SLOWNESS)
            if isinstance(message, UpMessage) and message.run == run:
                record.messages.append(message)
        return record

    def run(self, argv: Sequence[str | bytes], *, timeout_s: float = 30, **fields: Any) -> RunRecord:
        """Start a program and wait for its end. The other arguments are those of ``start``."""
        return self.finish(self.start(argv, **fields), timeout_s)

    def acknowledge(self, read_to: int | None = None) -> None:
        """Acknowledge what was handed out, or up to an offset: also the sign of life."""
        self._acknowledged_to = self.read_to if read_to is None else read_to
        self._heard_at = time.monotonic()
        self.send(Ack(read_to=self._acknowledged_to))

    def detach(self) -> None:
        """Be a waiter that died: read nothing more, give no sign of life, forget what was not handed out."""
        self._reader = PacketReader(random.getrandbits(64))
        self._arrived.clear()

    def resume(self, read_from: int | None = None, session: int | None = None) -> None:
        """Begin another session; by default after the last message that was handed out."""
        offset = self.read_to if read_from is None else read_from
        session = random.getrandbits(64) if session is None else session
        self._arrived.clear()
        self.read_to = self._acknowledged_to = offset
        self.writer, self._reader = FrameWriter(session), PacketReader(session, offset)
        self.feed(self.writer.begin(read_from=offset, lease_ms=int(self.lease_s * 1000)))

    def _until(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s * SLOWNESS
        while not condition():
            if self._closed:
                raise RunnerGone(self._last_words())
            left = until - time.monotonic()
            if left < 0:
                raise TimeoutError(f"{what} within {timeout_s:g} s{self.standard_error()}")
            self._exchange(min(left, self.lease_s / 8))

    def _exchange(self, timeout_s: float) -> None:
        """Write what is unsent and read what is there, waiting for at most so long until one of them is possible."""
        to_runner, from_runner = self._ends()
        poll = select.poll()
        if not self._closed:
            poll.register(from_runner, select.POLLIN)
        if self._unsent:
            poll.register(to_runner, select.POLLOUT | (0 if self._closed or to_runner != from_runner else select.POLLIN))
        events = dict(poll.poll(timeout_s * 1000))
        if self._unsent and events.get(to_runner, 0) & ~select.POLLIN:
            self._write()
        if events.get(from_runner, 0) & ~select.POLLOUT:
            self._read()
        self._give_sign_of_life()

    def _write(self) -> None:
        try:
            written = os.write(self._ends()[0], self._unsent)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):  # it has left: its exit code tells more
            written = len(self._unsent)
        del self._unsent[:written]

    def _read(self) -> None:
        with suppress(BlockingIOError):
            content = self._receive()
            self._closed = content is None
            self._arrived += self._reader.feed(content or b"")

    def _give_sign_of_life(self) -> None:
        if self.acknowledging and self._reader.begun and time.monotonic() - self._heard_at > self.lease_s / 8:
            self._heard_at = time.monotonic()
            self._unsent += self.writer.write(Ack(read_to=self._acknowledged_to))


def size_in_stream(message: UpMessage | Status) -> int:
    """Bytes that a message has in the runner's stream, of which a Status is no part."""
    return 0 if isinstance(message, Status) else MESSAGE_HEADER_BYTES + len(encode(message))
