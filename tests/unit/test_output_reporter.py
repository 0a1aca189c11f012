"""The output reporter answers each request once, as soon as there is output."""

from __future__ import annotations

from jobmanager.engine.protocol import Chunk
from jobmanager.ipc.messages import FetchOutput, OutputChunk, StreamPiece
from jobmanager.watching.output_reporter import OutputReporter
from jobmanager.watching.transcript import Transcript

TOKEN = "t0ken"


class Watched:
    """A container's transcript, and what was said of it."""

    def __init__(self) -> None:
        self.said: list[OutputChunk] = []
        self.reporter = OutputReporter("j", self.said.append)
        self.transcript = Transcript(TOKEN, 1 << 20)
        self.prints(f"\x1e{TOKEN} got 1\n".encode())

    def prints(self, data: bytes) -> None:
        self.transcript.read([Chunk(False, data)])
        self.reporter.update(self.transcript)

    def asked(self, stdout_from: int) -> None:
        self.reporter.request(FetchOutput(container_name="c", stdout_from=stdout_from, stderr_from=0))

    def pieces(self) -> list[tuple[StreamPiece, ...]]:
        assert all((said.job_id, said.container_name) == ("j", "c") for said in self.said)
        return [said.pieces for said in self.said]


def test_nothing_is_said_that_was_not_asked_for() -> None:
    watched = Watched()
    watched.prints(b"one")

    assert watched.said == []


def test_a_question_is_answered_at_once_by_what_is_there() -> None:
    watched = Watched()
    watched.prints(b"one")

    watched.asked(0)

    assert watched.pieces() == [(StreamPiece(False, 0, b"one"),)]


def test_a_question_waits_for_output_and_is_answered_once() -> None:
    watched = Watched()
    watched.asked(0)
    assert watched.said == []

    watched.prints(b"one")
    watched.prints(b"two")

    assert watched.pieces() == [(StreamPiece(False, 0, b"one"),)]
    watched.asked(3)
    assert watched.pieces()[1:] == [(StreamPiece(False, 3, b"two"),)]


def test_an_answer_is_bounded_however_much_there_is() -> None:
    watched = Watched()
    watched.prints(b"x" * 200_000)

    watched.asked(0)

    assert sum(len(piece.data) for piece in watched.said[0].pieces) == 65536


def test_who_takes_over_says_nothing_until_it_has_read_past_what_is_known() -> None:
    watched = Watched()
    watched.asked(5)

    watched.prints(b"one")
    assert watched.said == []
    watched.prints(b"two")

    assert watched.pieces() == [(StreamPiece(False, 5, b"o"),)]
