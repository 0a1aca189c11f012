"""The link: a grading supervisor's messages are put together and parsed; what is wrong with one is reported in words."""

from __future__ import annotations

import base64
import json
import random
import sys
from pathlib import Path

import pytest

import jobmanager.grading
from jobmanager.grading.link import (
    MAX_MESSAGE_BYTES,
    KillStudent,
    LinkLost,
    LinkReader,
    ProtocolViolation,
    RunStudent,
    SSHReport,
    StudentInput,
    SupervisorMessage,
    TellSubmitter,
    UnsupportedRequest,
    output_message,
    parse_message,
    pieces,
)
from jobmanager.watching.pumps import PIECE_BYTES

sys.path.insert(0, str(Path(jobmanager.grading.__file__).parent / "container" / "lib"))
from jobmanager_grading import messages as container  # what runs in the container, and is no module of ours

ASKED = {
    "type": "student",
    "id": 1,
    "command": ["echo", "a b"],
    "environment": "python3",
    "cpu_time_s": 2.5,
    "wall_time_s": 0,
    "memory_mib": 64,
    "share_network": True,
    "env": {"A": "b"},
}


def heard(pieces: list[bytes]) -> list[SupervisorMessage]:
    """The messages in these pieces."""
    reader = LinkReader()
    return [message for piece in pieces if (message := reader.feed(piece)) is not None]


def test_a_wish_for_a_student_container_is_read_field_by_field() -> None:
    assert heard(container.pieces(ASKED)) == [
        RunStudent(
            id=1,
            command=("echo", "a b"),
            environment="python3",
            cpu_time_s=2.5,
            memory_mib=64,
            share_network=True,
            env={"A": "b"},
        )
    ]
    assert parse_message(b'{"type": "student", "id": 7, "command": "ls | wc"}') == RunStudent(id=7, command="ls | wc", env={})


def test_input_and_kill_are_read() -> None:
    assert parse_message(b'{"type": "stdin", "id": 3, "data": "AP8="}') == StudentInput(id=3, data=b"\x00\xff")
    assert parse_message(b'{"type": "stdin", "id": 3, "data": ""}') == StudentInput(id=3, data=b"")
    assert parse_message(b'{"type": "kill", "id": 3}') == KillStudent(id=3)


def test_a_wish_for_what_there_is_not_is_read_and_not_at_any_length() -> None:
    assert parse_message(b'{"type": "unsupported", "id": 4, "reason": "a session"}') == UnsupportedRequest(id=4, reason="a session")
    too_long = b'{"type": "unsupported", "id": 4, "reason": "' + b"x" * 9999 + b'"}'
    assert parse_message(too_long) == UnsupportedRequest(id=4, reason="x" * 2000)


def test_what_the_submitter_is_told_is_read_and_not_at_any_length() -> None:
    told = {"type": "tell", "id": 3, "text": "test 1: passed \ud800"}
    assert heard(container.pieces(told)) == [TellSubmitter(number=3, text="test 1: passed ?")]
    for text in ("", "x" * (64 * 1024 + 1), 7, None):
        (refused,) = heard(container.pieces({**told, "text": text}))
        assert isinstance(refused, ProtocolViolation) and "text must be" in refused.reason


def test_a_long_message_comes_in_pieces_that_the_channel_takes() -> None:
    long = {"type": "stdin", "id": 1, "data": base64.b64encode(bytes(500_000)).decode()}
    sent = container.pieces(long)
    assert len(sent) > 10 and max(map(len, sent)) <= PIECE_BYTES
    assert heard([*sent, *container.pieces({"type": "kill", "id": 1})]) == [
        StudentInput(id=1, data=bytes(500_000)),
        KillStudent(id=1),
    ]


@pytest.mark.parametrize("size", [0, 1, 59_000, 60_000, 250_000])
def test_the_supervisor_reads_what_the_host_writes(size: int) -> None:
    printed = output_message(1, True, bytes(size))
    sent = pieces(printed)
    assert max(map(len, sent)) <= PIECE_BYTES
    buffer = container.PieceBuffer()
    *parts, whole = [buffer.feed(piece) for piece in sent]
    assert not any(parts)
    message = container.read(whole)
    assert (message["type"], message["id"], message["stderr"]) == ("output", 1, True)
    assert container.from_base64(message["data"]) == bytes(size)


def test_the_supervisors_last_word_is_read_also_in_the_middle_of_a_message() -> None:
    assert heard([b"\1half", container.CUT_OFF]) == [LinkLost()]


def test_a_debug_sessions_server_reports_in_words_of_bounded_length() -> None:
    assert parse_message(b'{"type": "ssh", "text": "ready"}') == SSHReport(text="ready")
    assert parse_message(b'{"type": "ssh", "text": "' + b"x" * 9999 + b'"}') == SSHReport(text="x" * 2000)
    assert parse_message(b'{"type": "ssh", "text": [1]}') == SSHReport(text="[1]")


NONSENSE = [
    (b"", "no JSON"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"id": 1, "type": "kill", "x": "[[[[[[[[[[[[["' + b', "y": {"a":' * 20, "nested too deep"),
    (b"\xff", "no JSON"),
    (b"[]", "without an id"),
    (b"{}", "without an id"),
    (b'{"id": 0}', "without an id"),
    (b'{"id": true, "type": "kill"}', "without an id"),
    (b'{"id": 1.0, "type": "kill"}', "without an id"),
    (b'{"id": 99999999999999999999, "type": "kill"}', "without an id"),
    (b'{"id": 1}', "of the type 'None'"),
    (b'{"id": 1, "type": "started"}', "of the type 'started'"),
    (b'{"id": 1, "type": ["kill"]}', "of the type"),
    (b'{"id": 1, "type": "stdin"}', "data must be base64"),
    (b'{"id": 1, "type": "stdin", "data": "?"}', "data must be base64"),
    (b'{"id": 1, "type": "student"}', "no command"),
    (b'{"id": 1, "type": "student", "command": []}', "command must be a string or a list of words"),
    (b'{"id": 1, "type": "student", "command": ["a", 1]}', "a word of the command must be a string"),
    (b'{"id": 1, "type": "student", "command": ["a\\u0000"]}', "NUL"),
    (b'{"id": 1, "type": "student", "command": "\\ud800"}', "lone surrogate"),
    (json.dumps({"id": 1, "type": "student", "command": "x" * 2**18}).encode(), "no program can be started"),
    (b'{"id": 1, "type": "student", "command": "x", "cpu_time_s": -1}', "cpu_time_s must be a number from 0 on"),
    (b'{"id": 1, "type": "student", "command": "x", "cpu_time_s": NaN}', "cpu_time_s must be a number"),
    (b'{"id": 1, "type": "student", "command": "x", "wall_time_s": "3"}', "wall_time_s must be a number"),
    (b'{"id": 1, "type": "student", "command": "x", "memory_mib": true}', "memory_mib must be a number"),
    (b'{"id": 1, "type": "student", "command": "x", "memory_mib": 1e300}', "memory_mib must be a number"),
    (b'{"id": 1, "type": "student", "command": "x", "share_network": 1}', "share_network must be true or false"),
    (b'{"id": 1, "type": "student", "command": "x", "env": []}', "env must be an object"),
    (b'{"id": 1, "type": "student", "command": "x", "env": {"a b": "c"}}', "no name for an environment variable"),
    (b'{"id": 1, "type": "student", "command": "x", "env": {"a": 1}}', "must be a string"),
    (b'{"id": 1, "type": "student", "command": "x", "environment": 5}', "environment must be a string"),
    (b'{"id": 1, "type": "unsupported"}', "reason is empty"),
    (b'{"id": 1, "type": "unsupported", "reason": 5}', "reason must be a string"),
    (b'{"id": 1, "x": "' + bytes(MAX_MESSAGE_BYTES) + b'"}', "larger than 1024 KiB"),
]


@pytest.mark.parametrize(("message", "reason"), NONSENSE, ids=lambda value: str(value)[:60])
def test_what_makes_no_sense_is_told_with_the_reason(message: bytes, reason: str) -> None:
    found = parse_message(message)
    assert isinstance(found, ProtocolViolation) and reason in found.reason
    assert found.id == (None if reason in ("no JSON", "without an id", "nested too deep") or "larger" in reason else 1)


def test_brackets_in_strings_nest_nothing() -> None:
    command = '"\\[{[{[{[{[{[{[{[{[{[{' * 3
    found = parse_message(json.dumps({"id": 1, "type": "student", "command": command}).encode())
    assert isinstance(found, RunStudent) and found.command == command


def test_pieces_that_are_no_message_are_nonsense() -> None:
    for piece in (b"", b"\0", b"\2{}", b"x", b"\0***"):
        (message,) = heard([piece])
        assert isinstance(message, ProtocolViolation) and message.id is None


def test_a_message_after_nonsense_is_read() -> None:
    assert heard([b"\1half", b"\3", *container.pieces({"type": "kill", "id": 1})])[1:] == [KillStudent(id=1)]


def test_a_message_without_an_end_takes_bounded_memory() -> None:
    reader, most = LinkReader(), 0
    found = []
    for _ in range(1000):
        found.append(reader.feed(b"\1" + bytes(10_000)))
        most = max(most, sum(map(len, reader._parts)))
    assert most <= 2 * MAX_MESSAGE_BYTES
    assert any(found) and all(isinstance(message, ProtocolViolation) for message in found if message is not None)


def test_any_pieces_are_messages_or_nonsense_and_nothing_else() -> None:
    chance = random.Random(5)
    parts = [b"\0", b"\1", b"\2", b"", b'{"id": 1, ', b'"type": "kill"}', b"x", b"[", b"\xff"]
    for _ in range(500):
        for message in heard([b"".join(chance.choices(parts, k=3)) for _ in range(20)]):
            assert isinstance(message, (ProtocolViolation, KillStudent, LinkLost))
