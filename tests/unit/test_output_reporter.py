"""The output reporter answers each request once, as soon as there is output."""

from __future__ import annotations

from jobmanager import Limits
from jobmanager.ipc.messages import FetchOutput, MonitorContainer, OutputChunk, StreamPiece
from jobmanager.runner.frames import OutputData, ProgramStream, Started
from jobmanager.watching.output_reporter import OutputReporter
from jobmanager.watching.transcript import Transcript

JOB = MonitorContainer(
    job_id="j",
    container_id="i",
    container_name="c",
    command="true",
    env={},
    files={},
    stdin=b"",
    limits=Limits(),
    collect=(),
)


class Reported:
    """A container's transcript, and the chunks that were sent."""

    def __init__(self) -> None:
        self.sent: list[OutputChunk] = []
        self.reporter = OutputReporter("j", self.sent.append)
        self.transcript = Transcript(JOB)
        self.transcript.take(Started(run=1, volumes=()))
        self._printed = 0

    def prints(self, data: bytes) -> None:
        self.transcript.take(OutputData(run=1, stream=ProgramStream.STDOUT, offset=self._printed, data=data))
        self._printed += len(data)
        self.reporter.update(self.transcript)

    def request(self, stdout_from: int) -> None:
        self.reporter.request(FetchOutput(container_name="c", stdout_from=stdout_from, stderr_from=0))

    def pieces(self) -> list[tuple[StreamPiece, ...]]:
        assert all((chunk.job_id, chunk.container_name) == ("j", "c") for chunk in self.sent)
        return [chunk.pieces for chunk in self.sent]


def test_nothing_is_sent_without_a_request() -> None:
    reported = Reported()
    reported.prints(b"one")

    assert reported.sent == []


def test_a_request_is_answered_at_once_by_what_is_there() -> None:
    reported = Reported()
    reported.prints(b"one")

    reported.request(0)

    assert reported.pieces() == [(StreamPiece(False, 0, b"one"),)]


def test_a_request_waits_for_output_and_is_answered_once() -> None:
    reported = Reported()
    reported.request(0)
    assert reported.sent == []

    reported.prints(b"one")
    reported.prints(b"two")

    assert reported.pieces() == [(StreamPiece(False, 0, b"one"),)]
    reported.request(3)
    assert reported.pieces()[1:] == [(StreamPiece(False, 3, b"two"),)]


def test_an_answer_is_bounded_however_much_there_is() -> None:
    reported = Reported()
    for _ in range(4):
        reported.prints(b"x" * 50_000)

    reported.request(0)

    assert sum(len(piece.data) for piece in reported.sent[0].pieces) == 65536


def test_a_waiter_that_takes_over_sends_nothing_until_it_has_read_past_what_is_known() -> None:
    reported = Reported()
    reported.request(5)

    reported.prints(b"one")
    assert reported.sent == []
    reported.prints(b"two")

    assert reported.pieces() == [(StreamPiece(False, 5, b"o"),)]
