"""What a transcript makes of a container's two streams, whatever the order in which they come."""

from __future__ import annotations

import itertools

from jobmanager._transcript import Transcript
from jobmanager.engine.protocol import Chunk

TOKEN = "t0ken"
STDOUT = [b"\x1et0ken got 1000\n", b"out\n", b"\x1et0ken end 0 5000 - - - 0\n", b'{"grade": 5}', b"\x1et0ken bye\n"]
STDERR = [b"err\n", b"\x1et0ken end 0 5000 - - - 0\n"]


def interleavings() -> list[list[Chunk]]:
    """Every way in which the two streams can come: each keeps its own order."""
    length = len(STDOUT) + len(STDERR)
    found = []
    for places in itertools.combinations(range(length), len(STDERR)):
        stdout, stderr = iter(STDOUT), iter(STDERR)
        found.append([Chunk(at in places, next(stderr if at in places else stdout)) for at in range(length)])
    return found


def test_the_order_in_which_the_streams_come_changes_nothing() -> None:
    for chunks in interleavings():
        transcript = Transcript(TOKEN, 1024)
        for chunk in chunks:
            assert not transcript.complete
            transcript.read([chunk])

        assert (bytes(transcript.stdout), bytes(transcript.stderr)) == (b"out\n", b"err\n"), chunks
        assert transcript.result_file == b'{"grade": 5}'
        assert (transcript.began, transcript.complete, transcript.beginning_lost) == (True, True, False)
        assert transcript.end is not None
        assert (transcript.end.exit_code, transcript.end.cpu_ns) == (0, 4000)


def test_output_before_the_first_mark_of_standard_output_tells_that_the_log_was_rotated() -> None:
    transcript = Transcript(TOKEN, 1024)

    transcript.read([Chunk(False, b"of the middle\n")])

    assert transcript.began and transcript.beginning_lost


def test_standard_error_before_anything_else_tells_no_such_thing() -> None:
    transcript = Transcript(TOKEN, 1024)

    transcript.read([Chunk(True, b"a complaint\n")])

    assert transcript.began and not transcript.beginning_lost


def test_a_second_got_is_a_forgery_and_moves_no_counter() -> None:
    transcript = Transcript(TOKEN, 1024)
    mark = b"\x1e" + TOKEN.encode()

    transcript.read([Chunk(False, mark + b" got 1000\n")])
    transcript.read([Chunk(False, b"x\n" + mark + b" got 9999999999999999999\n")])

    assert transcript.cpu_before_ns == 1000
    assert bytes(transcript.stdout) == b"x\n"


def test_a_mark_that_does_not_end_is_output_and_is_counted() -> None:
    transcript = Transcript(TOKEN, 1024)
    transcript.read([Chunk(False, b"\x1e" + TOKEN.encode() + b" got 1\n")])

    flood = b"\x1e" + TOKEN.encode() + b" " + b"y" * 100_000
    for at in range(0, len(flood), 1000):
        transcript.read([Chunk(False, flood[at : at + 1000])])

    assert transcript.stdout_bytes > 99_000
