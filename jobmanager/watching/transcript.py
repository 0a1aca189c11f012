"""A transcript: what came out of one container, taken apart into output, PID 1's marks and a result file."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobmanager.engine.pid1 import (
    RESULT_FILE_LIMIT,
    SSH_READY,
    EndMark,
    Mark,
    MarkedStream,
    clock_before,
    cpu_before,
    devices_of_volumes,
    end_mark,
)
from jobmanager.engine.protocol import Chunk
from jobmanager.grading.link import LinkLost, LinkReader, SupervisorMessage
from jobmanager.ipc.messages import StreamPiece
from jobmanager.model._escapes import one_line
from jobmanager.results.facts import CapturedOutput

_MAX_TURNS = 4096  # between the two streams, past which their order is not remembered


class OutputForwarder:
    """Forwards a program's output as it is read, without marks, each byte once.

    A log that takes a broken stream's place is read from its beginning: what was forwarded before is passed over.
    """

    def __init__(self, forward: Callable[[bool, bytes], None]) -> None:
        """``forward`` is given whether it is standard error, and the bytes; it must not block."""
        self._forward = forward
        self._forwarded = {False: 0, True: 0}
        self._at = {False: 0, True: 0}

    def restart(self) -> None:
        """What comes next is the output from its beginning."""
        self._at = {False: 0, True: 0}

    def output(self, stderr: bool, data: bytes) -> None:
        """The output's next bytes."""
        fresh = data[max(0, self._forwarded[stderr] - self._at[stderr]) :]
        self._at[stderr] += len(data)
        if fresh:
            self._forwarded[stderr] = self._at[stderr]
            self._forward(stderr, fresh)


class Transcript:
    """Reads a container's output from its beginning. Keeps no more than ``keep_bytes`` of it, but counts all.

    While it reads it keeps as much of each stream: the one that is quicker must not take all the room.
    """

    def __init__(
        self,
        token: str,
        keep_bytes: int,
        forwarder: OutputForwarder | None = None,
        *,
        link_token: str | None = None,
        on_message: Callable[[SupervisorMessage], None] | None = None,
    ) -> None:
        """``link_token``: of a grading container, whose supervisor's messages are no output; ``on_message`` is called with them."""
        self.began = False
        self.end: EndMark | None = None
        self.refusal = ""
        self.complete = False  # PID 1 has nothing more to say
        self.ssh_ready = False  # a debugged job's SSH server takes connections
        self.beginning_lost = False
        self.volume_devices: dict[str, str] = {}  # of volumes that the container shares with others, by name
        self.stdout, self.stderr = bytearray(), bytearray()
        self.stdout_bytes = self.stderr_bytes = 0
        self._turns: list[tuple[bool, int]] = []  # which stream was printed to, and how many bytes it had then
        self._keep_bytes = keep_bytes
        self._forwarder = forwarder
        self.link_broke = False  # the supervisor says so: it needed it
        self._link = None if link_token is None else LinkReader(link_token)
        self._on_message = on_message
        self._streams = {False: MarkedStream(token), True: MarkedStream(token)}
        self._cpu_before_ns: int | None = None
        self._clock_before_s: float | None = None
        self._result = bytearray()
        self._said_got = self._said_bye = self._stdout_ended = self._stderr_ended = False

    @property
    def output_bytes(self) -> int:
        """Bytes of both streams so far."""
        return self.stdout_bytes + self.stderr_bytes

    def output(self, earlier: CapturedOutput) -> CapturedOutput:
        """The output; ``earlier`` is the part that came before the connection broke and the log took the stream's place.

        The log of an engine that died may lack the line that it was writing.
        """
        stdout, stderr = bytes(self.stdout), bytes(self.stderr)
        if not self.beginning_lost:
            stdout, stderr = _joined(earlier.stdout, stdout), _joined(earlier.stderr, stderr)
        for_stderr = min(len(stderr), self._keep_bytes // 4)  # a stream that floods takes not all of the other's room
        kept_stdout = stdout[: self._keep_bytes - for_stderr]
        return CapturedOutput(
            stdout=kept_stdout,
            stderr=stderr[: self._keep_bytes - len(kept_stdout)],
            stdout_bytes=self.stdout_bytes + len(stdout) - len(self.stdout),
            stderr_bytes=self.stderr_bytes + len(stderr) - len(self.stderr),
        )

    def since(self, stdout_from: int, stderr_from: int, max_bytes: int) -> list[StreamPiece]:
        """What is kept of both streams past their first bytes, in the order in which it came. Any thread may ask."""
        if self.beginning_lost:  # nobody knows how many bytes came before
            return []
        kept, at, found = {False: self.stdout, True: self.stderr}, {False: stdout_from, True: stderr_from}, list[StreamPiece]()
        for stderr, end in [*self._turns, (False, len(self.stdout)), (True, len(self.stderr))]:
            data = bytes(kept[stderr][at[stderr] : min(end, at[stderr] + max_bytes)])
            if data:
                found.append(StreamPiece(stderr, at[stderr], data))
                at[stderr] += len(data)
                max_bytes -= len(data)
        return found

    @property
    def cpu_before_ns(self) -> int:
        """The CPU counter when the program began."""
        return self._cpu_before_ns or 0

    @property
    def result_file(self) -> bytes | None:
        """The result file, whole or one byte longer than allowed; None when there was none."""
        return bytes(self._result) if self._said_bye and self._result else None

    def read(self, chunks: Iterable[Chunk]) -> None:
        """Take in what came."""
        for chunk in chunks:
            for part in self._streams[chunk.stderr].feed(chunk.data):
                if isinstance(part, Mark):
                    self._mark(part, chunk.stderr)
                else:
                    self._output(part, chunk.stderr)

    def finish(self) -> None:
        """Nothing more will come: what looked like the beginning of a mark was output."""
        for stderr, stream in self._streams.items():
            if rest := stream.rest():
                self._output(rest, stderr)
        self._finish_link()

    # The two streams come in any order: all of standard error may be here before the first word of standard output.

    def _mark(self, mark: Mark, stderr: bool) -> None:
        if mark.word == "got" and not (stderr or self._said_got or self.beginning_lost):
            self.began = self._said_got = True
            self._cpu_before_ns, self._clock_before_s = cpu_before(mark.rest), clock_before(mark.rest)
            self.volume_devices = devices_of_volumes(mark.rest)
        elif mark.word == "no":
            self.refusal, self.complete = one_line(mark.rest[:500]), True
        elif mark.word == "end" and stderr and not self._stderr_ended and (end := self._end_mark(mark)) is not None:
            self.began = self._stderr_ended = True
            self.end = self.end or end
        elif mark.word == "end" and not (stderr or self._stdout_ended) and (end := self._end_mark(mark)) is not None:
            self._finish_link()
            self.began = self._stdout_ended = True
            self.end = end  # by now the counter's start is known
        elif mark.word == "bye" and self._stdout_ended and not self._said_bye:
            self._said_bye = True
        elif mark.word == SSH_READY and not self.ssh_ready:
            self.ssh_ready = True
        else:  # PID 1 says each once: this is a program's forgery, which costs it as much as any other output
            self._output(mark.line, stderr)
        self.complete = self.complete or (self._said_bye and self._stderr_ended)

    def _end_mark(self, mark: Mark) -> EndMark | None:
        return end_mark(mark.rest, self._cpu_before_ns, self._clock_before_s)

    def _output(self, data: bytes, stderr: bool) -> None:
        self.began = True  # PID 1 says "got" on standard output before anything else
        if not stderr and not self._said_got:
            self.beginning_lost = True  # from a log that was rotated
        if self._stdout_ended and not stderr:
            room = RESULT_FILE_LIMIT + 1 - len(self._result)  # PID 1 hands over no more
            self._result += data[:room]
            data = data[room:]
        if not data:
            return
        if self._link is None or stderr or self._stdout_ended:
            self._printed(data, stderr)
        else:
            for part in self._link.feed(data):
                self._from_supervisor(part)

    def _from_supervisor(self, part: bytes | SupervisorMessage) -> None:
        if isinstance(part, bytes):
            self._printed(part, stderr=False)
        elif isinstance(part, LinkLost):
            self.link_broke = True
        elif self._on_message is not None:
            self._on_message(part)

    def _finish_link(self) -> None:
        if self._link is not None and (rest := self._link.rest()):
            self._printed(rest, stderr=False)

    def _printed(self, data: bytes, stderr: bool) -> None:
        if self._forwarder is not None:
            self._forwarder.output(stderr, data)
        kept = self.stderr if stderr else self.stdout
        kept += data[: max(0, self._keep_bytes - len(kept))]
        if stderr:
            self.stderr_bytes += len(data)
        else:
            self.stdout_bytes += len(data)
        self._turn(stderr, len(kept))

    def _turn(self, stderr: bool, length: int) -> None:
        if self._turns and self._turns[-1][0] is stderr:
            self._turns[-1] = (stderr, length)
        elif len(self._turns) < _MAX_TURNS:
            self._turns.append((stderr, length))


def _joined(earlier: bytes, logged: bytes) -> bytes:
    """What both begin with, then the rest of the one, then the rest of the other."""
    if logged.startswith(earlier):
        return logged
    shorter = min(len(earlier), len(logged))
    common = next((at for at in range(shorter) if earlier[at] != logged[at]), shorter)
    return earlier + logged[common:]
