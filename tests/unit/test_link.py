"""The link: a grading supervisor's messages are separated from output and parsed; what is wrong with one is reported in words."""

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
    StudentInput,
    SupervisorMessage,
    UnsupportedRequest,
    link_token,
    parse_message,
)

sys.path.insert(0, str(Path(jobmanager.grading.__file__).parent / "container" / "lib"))
from jobmanager_grading.messages import Marks  # what runs in the container, and is no module of ours

TOKEN = "1234"
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


def sent(message: dict[str, object]) -> bytes:
    """As the supervisor sends it."""
    return b"".join(Marks(TOKEN).of(message))


def heard(data: bytes, *, pieces: int | None = None) -> tuple[bytes, list[SupervisorMessage]]:
    """Output and messages, of data that comes in pieces of this size."""
    reader, found = LinkReader(TOKEN), []
    for at in range(0, len(data), pieces or len(data)):
        found += reader.feed(data[at : at + (pieces or len(data))])
    output = b"".join(part for part in found if isinstance(part, bytes)) + reader.rest()
    return output, [part for part in found if not isinstance(part, bytes)]


def test_a_wish_for_a_student_container_is_read_field_by_field() -> None:
    assert heard(sent(ASKED)) == (
        b"",
        [
            RunStudent(
                id=1,
                command=("echo", "a b"),
                environment="python3",
                cpu_time_s=2.5,
                memory_mib=64,
                share_network=True,
                env={"A": "b"},
            )
        ],
    )
    assert parse_message(b'{"type": "student", "id": 7, "command": "ls | wc"}') == RunStudent(id=7, command="ls | wc", env={})


def test_input_and_kill_are_read() -> None:
    assert parse_message(b'{"type": "stdin", "id": 3, "data": "AP8="}') == StudentInput(id=3, data=b"\x00\xff")
    assert parse_message(b'{"type": "stdin", "id": 3, "data": ""}') == StudentInput(id=3, data=b"")
    assert parse_message(b'{"type": "kill", "id": 3}') == KillStudent(id=3)


def test_a_wish_for_what_there_is_not_is_read_and_not_at_any_length() -> None:
    assert parse_message(b'{"type": "unsupported", "id": 4, "reason": "a session"}') == UnsupportedRequest(id=4, reason="a session")
    too_long = b'{"type": "unsupported", "id": 4, "reason": "' + b"x" * 9999 + b'"}'
    assert parse_message(too_long) == UnsupportedRequest(id=4, reason="x" * 2000)


@pytest.mark.parametrize("pieces", [1, 2, 7, 4096])
def test_messages_are_told_from_output_however_it_comes(pieces: int) -> None:
    long = {"type": "stdin", "id": 1, "data": base64.b64encode(bytes(10_000)).decode()}
    data = b"a\n" + sent(ASKED) + b"b\x1e" + sent(long) + b"\x1e1234" + sent({"type": "kill", "id": 1}) + b"c"

    output, messages = heard(data, pieces=pieces)

    assert output == b"a\nb\x1e\x1e1234c"
    assert [type(message) for message in messages] == [RunStudent, StudentInput, KillStudent]
    assert messages[1] == StudentInput(id=1, data=bytes(10_000))


def test_the_supervisors_last_word_is_read() -> None:
    assert heard(b"x" + Marks(TOKEN).cut_off()) == (b"x", [LinkLost()])


def test_messages_with_another_token_are_output() -> None:
    data = b"".join(Marks("other").of(ASKED))
    assert heard(data) == (data, [])
    assert link_token("a") != link_token("b")
    assert len(link_token("a")) == 32


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
    (b'{"id": 1, "type": "unsupported"}', "reason must be a string that is not empty"),
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


def test_lines_that_are_no_message_are_nonsense() -> None:
    begin = b"\x1e1234 "
    for line in (b"\n", b"? YQ==\n", b". ***\n", b"bye\n"):
        output, (message,) = heard(begin + line)
        assert output == b"" and isinstance(message, ProtocolViolation) and message.id is None


def test_a_message_without_an_end_takes_bounded_memory() -> None:
    line = b"\x1e1234 + " + base64.b64encode(bytes(3000)) + b"\n"
    _, messages = heard(line * 1000)
    assert messages and all(isinstance(message, ProtocolViolation) for message in messages)


def test_any_bytes_are_output_or_messages_and_nothing_else() -> None:
    chance = random.Random(5)
    pieces = [b"\x1e1234 ", b"+ ", b". ", b"!", b"\n", b"YQ==", b"\x1e", b"x", b"e30=", b"\0\xff"]
    for _ in range(500):
        data = b"".join(chance.choices(pieces, k=20))
        assert heard(data, pieces=3)[0] == heard(data)[0]
