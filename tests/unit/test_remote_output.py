"""Live output between a node and a client: each piece says where it belongs, and what is no piece is refused."""

from __future__ import annotations

import pytest

from jobmanager import Output
from jobmanager.remote.output import OutputPiece, output_pieces
from jobmanager.remote.records import BadMessage

R, TOKEN = "0" * 32, "t"


def test_each_piece_has_its_place_in_its_stream_of_its_phase() -> None:
    outputs = [
        Output(stderr=False, data=b"abc"),
        Output(stderr=True, data=b"\xff"),
        Output(stderr=False, data=b"", missed_bytes=7),
        Output(stderr=False, data=b"d", missed_bytes=2),
        Output(stderr=False, data=b"e", phase="test"),
    ]
    pieces = [OutputPiece.from_json(piece.to_json()) for piece in output_pieces(R, TOKEN, outputs)]

    assert [(piece.phase, piece.stderr, piece.at, piece.missed_bytes, piece.content) for piece in pieces[:-1]] == [
        ("", 0, 0, 0, b"abc"),
        ("", 1, 0, 0, b"\xff"),
        ("", 0, 10, 7, b""),
        ("", 0, 12, 2, b"d"),
        ("test", 0, 0, 0, b"e"),
    ]
    assert [piece.ended for piece in pieces] == [0, 0, 0, 0, 0, 1]


def test_a_job_that_is_run_again_is_counted_from_the_beginning() -> None:
    again = Output(stderr=False, data=b"", starts_again=True)
    outputs = [Output(stderr=False, data=b"abc"), again, Output(stderr=False, data=b"d")]

    assert [(piece.starts_again, piece.at) for piece in output_pieces(R, TOKEN, outputs)] == [(0, 0), (1, 0), (0, 0), (0, 0)]


def test_what_a_grader_tells_is_counted_by_itself() -> None:
    outputs = [
        Output(stderr=False, data=b"", to_submitter="one"),
        Output(stderr=False, data=b"abc"),
        Output(stderr=False, data=b"", to_submitter="two"),
        Output(stderr=False, data=b"", to_submitter="other", phase="test"),
        Output(stderr=False, data=b"", starts_again=True),
        Output(stderr=False, data=b"", to_submitter="one"),
    ]
    pieces = [OutputPiece.from_json(piece.to_json()) for piece in output_pieces(R, TOKEN, outputs)]

    told = [(piece.phase, piece.at, piece.to_submitter, piece.content) for piece in pieces if piece.to_submitter]
    assert told == [("", 0, "one", b""), ("", 1, "two", b""), ("test", 0, "other", b""), ("", 0, "one", b"")]


@pytest.mark.parametrize("data", ["%%%", "A", "AA=", "ü" * 4, "A" * 4 * (64 * 1024 // 3 + 2)], ids=lambda data: data[:8])
def test_content_that_is_none_is_refused(data: str) -> None:
    with pytest.raises(BadMessage):
        OutputPiece(r=R, token=TOKEN, data=data).content  # noqa: B018
