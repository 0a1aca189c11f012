"""The program in a student container, as its grader sees it: standard input, output, and how it ended."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.grading.link import RunStudent, message_to_supervisor, output_message
from jobmanager.model.result import LimitName, Outcome
from jobmanager.results.facts import RunFacts
from jobmanager.watching.pumps import InputPump

MAX_UNREAD_OUTPUT_BYTES = 64 * 2**20  # of all students, that the supervisor has not read
_MAX_UNWRITTEN_STDIN_BYTES = 2**20 + 2**18  # of one student; the supervisor sends less ahead


class StudentProgram:
    """What a grader asked for, and what it is told about it. It is the ``ProgramSession`` with the program."""

    messages = None

    def __init__(
        self,
        request: RunStudent,
        *,
        send: Callable[[bytes], None],
        send_output: Callable[[bytes], bool],
        max_output_bytes: int,
        on_started: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_started`` is called once: the program has started, or never will; ``on_end`` once, before its end is told."""
        self.request = request
        self.begin_again()
        self._wake: Callable[[], None] = lambda: None
        self._kill: Callable[[], None] = lambda: None
        self._on_end = on_end
        self._on_started: Callable[[], None] | None = on_started
        self._output_left = max_output_bytes  # what is printed past that until the stop is not sent to the grader
        self._send = send
        self._send_output = send_output
        self._stdin_overflowed = self._output_overflowed = self._end_reported = False

    def begin_again(self) -> None:
        """Nothing of it was run: another container is to have it. A grader sends no input before it has started."""
        self.input = InputPump(max_bytes=_MAX_UNWRITTEN_STDIN_BYTES, on_taken=self._report_taken)

    def attach_to(self, *, wake: Callable[[], None], kill: Callable[[], None]) -> None:
        """Called before its monitor runs: what sends its standard input on, and what ends it."""
        self._wake, self._kill = wake, kill

    def write_stdin(self, data: bytes) -> bool:
        """Write standard input; empty data ends it. Returns False when it takes no more: it must be killed."""
        if not data:
            self.input.end()
        elif not self.input.put(data):
            self._stdin_overflowed = True
        self._wake()
        return not self._stdin_overflowed

    def on_output(self, stderr: bool, data: bytes) -> None:
        """Send what it printed to the grader. It is killed when the grader does not read that."""
        sent = data[: self._output_left]
        self._output_left -= len(sent)
        if sent and not self._output_overflowed and not self._send_output(output_message(self.request.id, stderr, sent)):
            self._output_overflowed = True  # more would only take more memory
            self._kill()

    def report_end(
        self, outcome: Outcome, text: str = "", facts: RunFacts | None = None, *, limit: LimitName | None = None
    ) -> None:
        """Send the last message about it to the grader. Only the first call counts. ``limit``: the one that decided."""
        if self._end_reported:
            return
        self._end_reported = True
        self._on_end()
        if self._stdin_overflowed:
            outcome, text, limit = Outcome.ERROR, "more of its standard input was sent than it takes", None
        if self._output_overflowed:
            unread_mib = MAX_UNREAD_OUTPUT_BYTES // 2**20
            text = f"{unread_mib} MiB of what it printed wait for its grader to read them"
            outcome, limit = Outcome.OVERFLOW, "output"
        self._report_started()
        self._send(end_message(self.request.id, outcome, text, facts, limit=limit))

    def on_start(self) -> None:
        self._report_started()
        self._send(message_to_supervisor("started", self.request.id))

    def on_message(self, data: bytes) -> None:
        """A student's program has no channel."""

    def on_end(self) -> None:
        self.input.close()

    def _report_started(self) -> None:
        on_started, self._on_started = self._on_started, None
        if on_started is not None:
            on_started()

    def _report_taken(self, count: int) -> None:
        self._send(message_to_supervisor("taken", self.request.id, bytes=count))


def end_message(
    student: int, outcome: Outcome, text: str, facts: RunFacts | None = None, *, limit: LimitName | None = None
) -> bytes:
    """The last message about a student."""
    peak = None if facts is None else facts.peak_memory_bytes
    end = None if facts is None else facts.end
    return message_to_supervisor(
        "end",
        student,
        outcome=outcome.value,
        text=text,
        limit=limit,
        exit_code=None if end is None else end.exit_code,
        signal=None if end is None else end.signal,
        cpu_time_s=None if facts is None else facts.cpu_time_s,
        wall_time_s=None if facts is None else facts.wall_time_s,
        peak_memory_mib=None if peak is None else round(peak / 2**20, 2),
        output_cut=facts is not None and facts.output.is_cut,
    )
