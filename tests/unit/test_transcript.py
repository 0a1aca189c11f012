"""What a transcript makes of a container's two streams, whatever the order in which they come."""

from __future__ import annotations

import itertools

import pytest

from jobmanager.engine.protocol import Chunk
from jobmanager.results.facts import CapturedOutput
from jobmanager.watching import transcript as transcript_module
from jobmanager.watching.transcript import OutputForwarder, Transcript

TOKEN = "t0ken"
STDOUT = [b"\x1et0ken got 1000\n", b"out\n", b"\x1et0ken end 0 5000 - - - 0 -\n", b'{"grade": 5}', b"\x1et0ken bye\n"]
GOT = b"\x1et0ken got 1000\n"
STDERR = [b"err\n", b"\x1et0ken end 0 5000 - - - 0 -\n"]


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
    assert bytes(transcript.stdout) == b"x\n" + mark + b" got 9999999999999999999\n"


def test_a_mark_that_does_not_end_is_output_and_is_counted() -> None:
    transcript = Transcript(TOKEN, 1024)
    transcript.read([Chunk(False, b"\x1e" + TOKEN.encode() + b" got 1\n")])

    flood = b"\x1e" + TOKEN.encode() + b" " + b"y" * 100_000
    for at in range(0, len(flood), 1000):
        transcript.read([Chunk(False, flood[at : at + 1000])])

    assert transcript.stdout_bytes > 99_000


@pytest.mark.parametrize(
    ("heard", "logged", "whole"),
    [
        (b"", b"all of it\n", b"all of it\n"),
        (b"all ", b"all of it\n", b"all of it\n"),
        (b"all of it\n", b"all of it\n", b"all of it\n"),
        (b"line\nAnswer: ", b"line\n42\n", b"line\nAnswer: 42\n"),
        (b"Answer: ", b"42\n", b"Answer: 42\n"),
        (b"line\nhalf", b"line\n", b"line\nhalf"),
        (b"half", b"", b"half"),
    ],
)
def test_what_was_heard_and_the_log_does_not_have_is_kept(heard, logged, whole):
    transcript = Transcript(TOKEN, 1000)
    transcript.read([Chunk(False, GOT), Chunk(False, logged), Chunk(True, logged)])

    output = transcript.output(CapturedOutput(stdout=heard, stderr=heard, stdout_bytes=len(heard), stderr_bytes=len(heard)))

    assert (output.stdout, output.stderr) == (whole, whole)
    assert (output.stdout_bytes, output.stderr_bytes) == (len(whole), len(whole))


def test_a_log_that_has_lost_its_beginning_is_taken_as_it_is():
    transcript = Transcript(TOKEN, 1000)
    transcript.read([Chunk(False, b"the end\n")])

    assert transcript.output(CapturedOutput(stdout=b"the beginning\n", stdout_bytes=14)).stdout == b"the end\n"


def test_no_more_is_kept_than_may_be_also_of_what_was_pieced_together():
    transcript = Transcript(TOKEN, 10)
    transcript.read([Chunk(False, GOT), Chunk(False, b"89"), Chunk(True, b"xyz")])

    output = transcript.output(CapturedOutput(stdout=b"01234567", stdout_bytes=8))

    assert (output.stdout, output.stderr) == (b"01234567", b"xy")
    assert (output.stdout_bytes, output.stderr_bytes) == (10, 3)


@pytest.mark.parametrize("first", [False, True], ids=["standard output first", "standard error first"])
def test_a_stream_that_floods_leaves_room_for_what_the_other_said(first):
    transcript = Transcript(TOKEN, 100)
    chunks = [Chunk(False, b"partial\n"), Chunk(True, b"y\n" * 200)]
    transcript.read([Chunk(False, GOT), *(reversed(chunks) if first else chunks)])

    output = transcript.output(CapturedOutput())

    assert (output.stdout, output.stderr) == (b"partial\n", b"y\n" * 46)
    assert (output.stdout_bytes, output.stderr_bytes) == (8, 400)


def test_two_streams_that_flood_share_the_room():
    transcript = Transcript(TOKEN, 100)
    transcript.read([Chunk(False, GOT), Chunk(True, b"e" * 300), Chunk(False, b"o" * 300)])

    expected = CapturedOutput(stdout=b"o" * 75, stderr=b"e" * 25, stdout_bytes=300, stderr_bytes=300)
    assert transcript.output(CapturedOutput()) == expected


def test_a_tap_is_handed_the_output_as_it_comes_and_nothing_of_ours() -> None:
    heard: list[tuple[bool, bytes]] = []
    transcript = Transcript(TOKEN, 2, OutputForwarder(lambda stderr, data: heard.append((stderr, data))))

    for data in STDOUT:
        transcript.read([Chunk(False, data)])
    for data in STDERR:
        transcript.read([Chunk(True, data)])

    assert heard == [(False, b"out\n"), (True, b"err\n")]


def test_a_tap_hears_nothing_twice_when_the_log_takes_a_streams_place() -> None:
    heard: list[tuple[bool, bytes]] = []
    forwarder = OutputForwarder(lambda stderr, data: heard.append((stderr, data)))
    Transcript(TOKEN, 1024, forwarder).read([Chunk(False, GOT + b"one"), Chunk(True, b"e")])

    forwarder.restart()
    Transcript(TOKEN, 1024, forwarder).read([Chunk(False, GOT + b"o"), Chunk(False, b"ne, two"), Chunk(True, b"e")])

    assert heard == [(False, b"one"), (True, b"e"), (False, b", two")]


# ---- what live readers are shown


def since(transcript: Transcript, stdout_from: int = 0, stderr_from: int = 0, most: int = 1024) -> list[tuple[bool, int, bytes]]:
    return [(piece.stderr, piece.offset, piece.data) for piece in transcript.since(stdout_from, stderr_from, most)]


def test_what_came_is_told_in_its_order_from_any_byte_on() -> None:
    transcript = Transcript(TOKEN, 1024)
    transcript.read([Chunk(False, GOT + b"one "), Chunk(False, b"two "), Chunk(True, b"oops "), Chunk(False, b"three")])

    assert since(transcript) == [(False, 0, b"one two "), (True, 0, b"oops "), (False, 8, b"three")]
    assert since(transcript, 4, 5) == [(False, 4, b"two "), (False, 8, b"three")]
    assert since(transcript, 13, 0) == [(True, 0, b"oops ")]
    assert since(transcript, most=10) == [(False, 0, b"one two "), (True, 0, b"oo")]
    assert since(transcript, 13, 5) == []
    assert since(transcript, 99, 99) == []


def test_past_so_many_turns_the_streams_are_told_one_after_the_other_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript_module, "_MAX_TURNS", 3)
    transcript = Transcript(TOKEN, 1024)
    transcript.read([Chunk(False, GOT), *(Chunk(stderr, data) for _ in range(5) for stderr, data in ((False, b"o"), (True, b"e")))])

    assert since(transcript) == [(False, 0, b"o"), (True, 0, b"e"), (False, 1, b"oooo"), (True, 1, b"eeee")]


def test_what_is_not_kept_is_not_told_and_a_mark_is_no_output() -> None:
    transcript = Transcript(TOKEN, 4)
    transcript.read([Chunk(False, data) for data in STDOUT[:-1]] + [Chunk(True, b"stderr")])

    assert since(transcript) == [(False, 0, b"out\n"), (True, 0, b"stde")]


def test_of_a_log_whose_beginning_is_lost_nothing_is_told_as_nobody_knows_what_came_before() -> None:
    transcript = Transcript(TOKEN, 1024)
    transcript.read([Chunk(False, b"the middle")])

    assert since(transcript) == []
