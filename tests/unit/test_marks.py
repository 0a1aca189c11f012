"""PID 1's marks in a container's output: found wherever they are cut, and nothing else is taken for one."""

from __future__ import annotations

import random

import pytest

from jobmanager.engine.pid1 import (
    RESULT_FILE_LIMIT,
    EndMark,
    Mark,
    MarkedStream,
    clock_before,
    cpu_before,
    devices_of_volumes,
    end_mark,
)
from jobmanager.engine.protocol import Chunk
from jobmanager.results.facts import CapturedOutput
from jobmanager.watching.transcript import Transcript

TOKEN = "0123456789abcdef"
BEGIN = b"\x1e" + TOKEN.encode() + b" "
NEAR_TOKENS = (
    b"\x1e\x1e\x1e"
    + BEGIN[:-1]
    + b"\n"
    + BEGIN[:-2]
    + b"X "
    + b"\x1e 0123 end 0\n"
    + BEGIN.upper()
    + BEGIN[1:]
    + b"end 0\n"
    + b"\x1e"
)
STDOUT = BEGIN + b"got 1000\n" + NEAR_TOKENS + BEGIN + b"end 3 7000 8192 1 2 1 -\n" + b'{"grade": 7}' + BEGIN + b"bye\n"
STDERR = b"err\x1e" + BEGIN + b"end 3 7000 8192 1 2 1 -\n"
END = EndMark(exit_code=3, cpu_ns=6000, peak_memory_bytes=8192, oom_kills=1, fork_refusals=2, workspace_full=True)


def transcript_of(*chunks, keep_bytes=10_000):
    transcript = Transcript(TOKEN, keep_bytes)
    for stderr, data in chunks:
        transcript.read([Chunk(stderr, data)])
    return transcript


def assert_whole(transcript):
    assert transcript.began
    assert transcript.complete
    assert transcript.end == END
    assert bytes(transcript.stdout) == NEAR_TOKENS
    assert bytes(transcript.stderr) == b"err\x1e"
    assert (transcript.stdout_bytes, transcript.stderr_bytes) == (len(NEAR_TOKENS), 4)
    assert transcript.output_bytes == len(NEAR_TOKENS) + 4
    assert transcript.result_file == b'{"grade": 7}'
    assert (transcript.refusal, transcript.beginning_lost, transcript.cpu_before_ns) == ("", False, 1000)


def test_marks_are_found_wherever_the_output_is_cut():
    for at in range(len(STDOUT) + 1):
        for at_stderr in range(len(STDERR) + 1):
            if at_stderr in (0, 3, 4, 5, 12, len(STDERR)) or at % 7 == 0:
                assert_whole(
                    transcript_of(
                        (False, STDOUT[:at]), (True, STDERR[:at_stderr]), (False, STDOUT[at:]), (True, STDERR[at_stderr:])
                    )
                )


def test_marks_are_found_when_every_byte_comes_alone():
    assert_whole(transcript_of(*((False, bytes([byte])) for byte in STDOUT), *((True, bytes([byte])) for byte in STDERR)))


def test_marks_are_found_in_pieces_of_any_length():
    source = random.Random(3)
    for _ in range(300):
        rest = {False: STDOUT, True: STDERR}
        chunks = []
        while rest[False] or rest[True]:
            stderr = source.random() < 0.4
            size = source.choice([1, 2, 5, 17, 40])
            chunks.append((stderr, rest[stderr][:size]))
            rest[stderr] = rest[stderr][size:]
        assert_whole(transcript_of(*chunks))


def test_a_mark_whose_newline_a_log_lost_is_one_all_the_same():
    end = BEGIN + b"end 0 - - - - 0 -\x1f"
    for newline in (b"", b"\n"):
        whole = b"x" * 20 + end + newline + b'{"grade": 7}' + BEGIN + b"bye\x1f" + newline
        for at in range(len(whole) + 1):
            transcript = transcript_of(
                (False, BEGIN + b"got 1 1.00\x1f\n"), (True, end + newline), (False, whole[:at]), (False, whole[at:])
            )
            assert (transcript.complete, transcript.result_file, bytes(transcript.stdout)) == (True, b'{"grade": 7}', b"x" * 20)


def test_an_end_of_another_shape_ends_no_stream():
    transcript = transcript_of((False, BEGIN + b"got 1 1.00\n" + BEGIN + b"end 0 rubbish\n" + BEGIN + b"bye\n"))

    assert not transcript._stdout_ended and not transcript.complete


def test_output_is_not_held_back_longer_than_it_could_be_a_mark():
    stream = MarkedStream(TOKEN)
    for data, given in [
        (b"abc", b"abc"),
        (b"a\x1e", b"a"),
        (b"x", b"\x1ex"),
        (BEGIN[:-1], b""),
        (b"!", BEGIN[:-1] + b"!"),
        (b"\x1e" * 50, b"\x1e" * 49),
    ]:
        assert b"".join(stream.feed(data)) == given
    assert stream.rest() == b"\x1e"
    assert stream.rest() == b""


def test_what_looked_like_the_beginning_of_a_mark_at_the_end_was_output():
    transcript = transcript_of((False, BEGIN + b"got -\nabc" + BEGIN[:9]), (True, b"\x1e"))
    assert bytes(transcript.stdout) == b"abc"

    transcript.finish()

    assert bytes(transcript.stdout) == b"abc" + BEGIN[:9]
    assert bytes(transcript.stderr) == b"\x1e"
    transcript.finish()
    assert transcript.stdout_bytes == 3 + 9


def test_another_runs_token_is_output():
    other = b"\x1efedcba9876543210 end 0 - - - - 0 -\n"

    transcript = transcript_of((False, BEGIN + b"got -\n" + other))

    assert bytes(transcript.stdout) == other
    assert transcript.end is None


def test_no_more_is_kept_than_allowed_but_all_is_counted():
    transcript = transcript_of(
        (False, BEGIN + b"got -\n" + b"o" * 30), (True, b"e" * 30), (False, b"p" * 30), (True, b"f" * 30), keep_bytes=50
    )

    kept = transcript.output(CapturedOutput())
    assert (kept.stdout, kept.stderr) == (b"o" * 30 + b"p" * 8, b"e" * 12)
    assert (transcript.stdout_bytes, transcript.stderr_bytes, transcript.output_bytes) == (60, 60, 120)


def test_a_flood_costs_no_more_memory_than_is_kept():
    transcript = transcript_of((False, BEGIN + b"got -\n"), *[(False, b"\x1e" * 10_000)] * 200, keep_bytes=100)

    assert len(transcript.stdout) == 100
    assert transcript.stdout_bytes >= 200 * 10_000 - len(BEGIN)
    assert len(transcript._streams[False]._held) <= len(BEGIN)


def test_a_result_file_is_taken_up_to_one_byte_more_than_allowed():
    end = BEGIN + b"end 0 - - - - 0 -\n"
    for size in (1, RESULT_FILE_LIMIT, RESULT_FILE_LIMIT + 1, RESULT_FILE_LIMIT + 5000):
        transcript = transcript_of((False, BEGIN + b"got -\n" + end), (False, b"x" * size), (False, BEGIN + b"bye\n"), (True, end))
        assert len(transcript.result_file) == min(size, RESULT_FILE_LIMIT + 1)
        assert transcript.stdout_bytes == max(0, size - RESULT_FILE_LIMIT - 1)  # that much more PID 1 never hands over


@pytest.mark.parametrize("words", ["zz", "got 5 5.00", "end 0 - - - - 0 -", "bye"])
@pytest.mark.parametrize("stderr", [False, True])
def test_marks_that_pid_1_would_not_say_again_are_output_and_are_counted(words, stderr):
    mark = BEGIN + words.encode() + b"\n"
    transcript = transcript_of((False, BEGIN + b"got 1 1.00\n"), *[(stderr, mark)] * 1000, keep_bytes=100)

    assert transcript.output_bytes + len(transcript._result) >= 999 * len(mark)  # what comes in its place is bounded, too


@pytest.mark.parametrize("words", ["got 5 5.00", "bye"])
def test_a_last_word_before_its_time_completes_nothing(words):
    end = BEGIN + b"end 0 - - - - 0 -\n"
    transcript = transcript_of((False, BEGIN + b"got 1 1.00\n" + BEGIN + words.encode() + b"\n"), (True, end))

    assert not transcript.complete
    transcript.read([Chunk(False, end + BEGIN + b"bye\n")])
    assert transcript.complete


def test_a_result_file_that_was_cut_off_is_none():
    transcript = transcript_of((False, BEGIN + b"got -\n" + BEGIN + b'end 0 - - - - 0 -\n{"grade": 1'))

    transcript.finish()

    assert transcript.result_file is None
    assert transcript.end is not None
    assert not transcript.complete


def test_without_a_result_file_there_is_none():
    end = BEGIN + b"end 0 - - - - 0 -\n"

    transcript = transcript_of((False, BEGIN + b"got -\n" + end + BEGIN + b"bye\n"), (True, end))

    assert transcript.result_file is None
    assert transcript.complete


def test_it_is_complete_only_when_both_streams_have_ended():
    end = BEGIN + b"end 0 - - - - 0 -\n"
    stdout = transcript_of((False, BEGIN + b"got -\n" + end + BEGIN + b"bye\n"))
    stderr = transcript_of((True, b"late" + end))

    assert not stdout.complete
    assert not stderr.complete
    stdout.read([Chunk(True, b"late" + end)])
    assert stdout.complete
    assert bytes(stdout.stderr) == b"late"


def test_a_refusal_is_told_and_ends_it_before_it_began():
    transcript = transcript_of((False, BEGIN + b"no the image has no tar\n"))

    assert (transcript.refusal, transcript.complete, transcript.began) == ("the image has no tar", True, False)


def test_a_long_refusal_is_cut():
    assert len(transcript_of((False, BEGIN + b"no " + b"x" * 900 + b"\n")).refusal) == 500


def test_what_a_refusal_holds_beside_text_is_escaped():
    refusal = transcript_of((False, BEGIN + "no red \x1b[31m bell \a back \r turned \u202e é 日本\n".encode())).refusal

    assert refusal == r"red \x1b[31m bell \x07 back \r turned \u202e é 日本"


def test_output_whose_beginning_was_lost_still_tells_its_end():
    transcript = transcript_of(
        (False, b"of the middle\n" + BEGIN + b"end 1 500 - - - 0 -\n" + BEGIN + b"bye\n"), (True, BEGIN + b"end 1 500 - - - 0 -\n")
    )

    assert (transcript.began, transcript.beginning_lost, transcript.complete) == (True, True, True)
    assert transcript.end == EndMark(exit_code=1)  # how much of the CPU time is the program's cannot be known
    assert transcript.cpu_before_ns == 0


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("0 - - - - 0 -", EndMark(exit_code=0)),
        (
            "255 10 20 30 40 1 12.50",
            EndMark(
                exit_code=255, cpu_ns=5, peak_memory_bytes=20, oom_kills=30, fork_refusals=40, workspace_full=True, wall_s=2.51
            ),
        ),
        ("0 3 - - - 0 9.00", EndMark(exit_code=0, cpu_ns=0, wall_s=0.01)),
        ("0 max -1 1.5 ² 0 1e9", EndMark(exit_code=0)),
        (f"0 - {'9' * 20} - - 0 {'9' * 20}.00", EndMark(exit_code=0)),
        ("", None),
        ("0", None),
        ("0 - - - - 0", None),
        ("0 - - - - 0 - -", None),
        ("-1 - - - - 0 -", None),
        ("x - - - - 0 -", None),
        ("1000 - - - - 0 -", None),
        ("² - - - - 0 -", None),
        ("٣ - - - - 0 -", None),
    ],
)
def test_an_end_mark_is_what_pid_1_writes_or_none(rest, expected):
    assert end_mark(rest, 5, 10.0) == expected


def test_an_end_mark_that_makes_no_sense_ends_nothing():
    transcript = transcript_of((False, BEGIN + b"got -\n" + BEGIN + b"end rubbish\n"))

    assert transcript.end is None
    assert not transcript.complete


def test_a_counter_that_no_kernel_has_is_none():
    assert [cpu_before(word) for word in ("5", "5 1.00", "-", "", "-5", "5.0", "9" * 19, "9" * 20)] == [
        5,
        5,
        None,
        None,
        None,
        None,
        int("9" * 19),
        None,
    ]


def test_a_mark_is_its_word_and_the_rest_of_its_line():
    assert MarkedStream("t").feed(b"\x1et end 1 2\n\x1et bye\n\x1et \xff\n") == [
        Mark("end", "1 2"),
        Mark("bye", ""),
        Mark("\N{REPLACEMENT CHARACTER}", ""),
    ]


def test_the_devices_of_volumes_are_what_pid_1_writes_and_the_rest_is_left_out():
    assert devices_of_volumes("1 2.00 work=0:45 my-out.1=0:46") == {"work": "0:45", "my-out.1": "0:46"}
    assert devices_of_volumes("1 2.00 work=0:45; a=b =0:1 x=0:1:2 ../x=0:1 y=0:²") == {}
    assert devices_of_volumes("") == devices_of_volumes("-") == devices_of_volumes("work=0:1 x=0:2") == {}
    transcript = transcript_of((False, BEGIN + b"got 7 2.00 work=0:45\n" + BEGIN + b"got 7 2.00 work=0:99\n"))
    assert (transcript.cpu_before_ns, transcript.volume_devices) == (7, {"work": "0:45"})
    assert clock_before("1 2.00 work=0:45") == 2.0
