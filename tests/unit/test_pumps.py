"""The pumps: never more on its way than the runner has room for, and after a lost connection what was not taken is sent again."""

from __future__ import annotations

import random

import pytest

from jobmanager.runner.frames import Input, ToProgram
from jobmanager.watching.pumps import PIECE_BYTES, InputPump, MessagePump

ROOM = 64 * 1024
PLENTY = 2**24


class RunnerSide:
    """What a runner does with input and messages, and its rules: no gap, never more than its room."""

    def __init__(self) -> None:
        self.input = b""
        self.input_taken = 0
        self.input_ended = False
        self.messages: list[bytes] = []
        self.messages_taken = 0

    def take_input(self, pieces: list[Input]) -> None:
        for piece in pieces:
            assert piece.offset <= len(self.input), "a gap"
            assert piece.offset + len(piece.data) - self.input_taken <= ROOM, "too much"
            assert not self.input_ended or piece.offset + len(piece.data) <= len(self.input), "more after the end"
            assert self.input[piece.offset : piece.offset + len(piece.data)] == piece.data[: len(self.input) - piece.offset]
            self.input += piece.data[len(self.input) - piece.offset :]
            self.input_ended |= piece.last

    def take_messages(self, messages: list[ToProgram]) -> None:
        for message in messages:
            assert message.number <= len(self.messages), "a gap"
            if message.number == len(self.messages):
                self.messages.append(message.data)
            waiting = self.messages[self.messages_taken :]
            assert sum(len(data) + 4 for data in waiting) <= ROOM, "too much"


def test_input_is_cut_into_pieces_and_stops_at_what_the_runner_has_room_for() -> None:
    pump = InputPump(max_bytes=PLENTY)
    assert pump.put(bytes(200_000))

    pieces = pump.due(3)

    assert [(piece.run, piece.offset, len(piece.data), piece.last) for piece in pieces] == [
        (3, 0, PIECE_BYTES, False),
        (3, PIECE_BYTES, ROOM - PIECE_BYTES, False),
    ]
    assert pump.due(3) == []
    pump.taken(10)
    assert [(piece.offset, len(piece.data)) for piece in pump.due(3)] == [(ROOM, 10)]


def test_the_end_of_the_input_is_told_once_with_the_last_piece() -> None:
    pump = InputPump(max_bytes=PLENTY)
    pump.put(b"abc")
    pump.end()

    assert pump.due(1) == [Input(run=1, offset=0, last=True, data=b"abc")]
    assert pump.due(1) == []


def test_an_end_after_everything_was_sent_is_a_piece_of_its_own() -> None:
    pump = InputPump(max_bytes=PLENTY)
    pump.put(b"abc")
    pump.due(1)
    pump.end()

    assert pump.due(1) == [Input(run=1, offset=3, last=True, data=b"")]
    assert pump.put(b"later") and pump.due(1) == []


def test_an_end_behind_what_has_no_room_waits_for_it() -> None:
    pump = InputPump(max_bytes=PLENTY)
    pump.put(bytes(ROOM + 1))
    pump.end()
    assert not any(piece.last for piece in pump.due(1))

    pump.taken(1)

    assert pump.due(1) == [Input(run=1, offset=ROOM, last=True, data=b"\0")]


def test_input_that_was_not_taken_is_sent_again_and_so_is_the_end() -> None:
    pump = InputPump(max_bytes=PLENTY)
    pump.put(b"abcdef")
    pump.end()
    pump.due(1)

    pump.resume(4)

    assert pump.due(1) == [Input(run=1, offset=4, last=True, data=b"ef")]
    pump.resume(6)
    assert pump.due(1) == [Input(run=1, offset=6, last=True, data=b"")]


def test_what_waits_is_bounded_until_it_is_taken() -> None:
    told: list[int] = []
    pump = InputPump(max_bytes=10, on_taken=told.append)
    assert pump.put(b"12345678") and not pump.put(b"abc") and not pump.put(b"ab", reserve=1)
    pump.due(1)
    assert not pump.put(b"abc")

    pump.taken(5)
    pump.taken(5)
    pump.taken(3)

    assert told == [5] and pump.put(b"abc")
    assert pump.due(1) == [Input(run=1, offset=8, last=False, data=b"abc")]


def test_a_closed_pump_sends_nothing() -> None:
    pump, messages = InputPump(max_bytes=10), MessagePump(max_bytes=10)
    pump.put(b"abc")
    messages.put(b"abc")
    pump.end()
    pump.close()
    messages.close()

    assert pump.due(1) == [] and messages.due(1) == []
    assert pump.put(bytes(100)) and messages.put(bytes(100))
    assert pump.due(1) == [] and messages.due(1) == []
    pump.taken(3)
    messages.taken(1)
    pump.resume(3)
    messages.resume(1)
    assert pump.due(1) == [] and messages.due(1) == []


def test_messages_are_numbered_and_stop_at_what_the_runner_has_room_for() -> None:
    pump = MessagePump(max_bytes=PLENTY)
    for _ in range(5):
        pump.put(bytes(20_000))

    assert [(message.run, message.number) for message in pump.due(2)] == [(2, 0), (2, 1), (2, 2)]
    assert pump.due(2) == []
    pump.taken(1)
    assert [message.number for message in pump.due(2)] == [3]


def test_each_message_takes_four_bytes_of_room_more() -> None:
    pump = MessagePump(max_bytes=PLENTY)
    for _ in range(ROOM):
        pump.put(b"")

    assert len(pump.due(1)) == ROOM // 4


def test_a_message_that_is_too_long_is_refused() -> None:
    pump = MessagePump(max_bytes=PLENTY)

    with pytest.raises(ValueError, match="61441 bytes"):
        pump.put(bytes(PIECE_BYTES + 1))

    assert pump.put(bytes(PIECE_BYTES)) and len(pump.due(1)) == 1


def test_messages_that_were_not_taken_are_sent_again() -> None:
    told: list[int] = []
    pump = MessagePump(max_bytes=100, on_taken=told.append)
    for data in (b"a", b"b", b"c"):
        pump.put(data)
    pump.due(1)

    pump.resume(2)

    assert told == [2]
    assert pump.due(1) == [ToProgram(run=1, number=2, data=b"c")]


def test_messages_that_wait_are_bounded_until_they_are_taken() -> None:
    pump = MessagePump(max_bytes=20)
    assert pump.put(b"123456") and not pump.put(b"1234567") and not pump.put(b"123456", reserve=1)
    pump.due(1)
    pump.taken(1)

    assert pump.put(b"1234567")


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_on_the_way_the_program_gets_all_of_it_once(seed: int) -> None:
    chance = random.Random(seed)
    runner, pump, messages = RunnerSide(), InputPump(max_bytes=PLENTY), MessagePump(max_bytes=PLENTY)
    content = b""
    sent: list[bytes] = []
    while not runner.input_ended or len(runner.messages) < len(sent) or runner.input_taken < len(content):
        if len(content) < 10**6:
            data = chance.randbytes(chance.choice([0, 1, 1000, 100_000]))
            content += data
            assert pump.put(data)
            sent.append(data[:PIECE_BYTES])
            assert messages.put(sent[-1])
            if len(content) >= 10**6:
                pump.end()
        pieces, posted = pump.due(1), messages.due(1)
        if chance.random() < 0.3:  # the connection is lost, and what was on its way from somewhere on
            runner.take_input(pieces[: chance.randint(0, len(pieces))])
            runner.take_messages(posted[: chance.randint(0, len(posted))])
            pump.resume(runner.input_taken)
            messages.resume(runner.messages_taken)
            continue
        runner.take_input(pieces)
        runner.take_messages(posted)
        runner.input_taken = chance.randint(runner.input_taken, len(runner.input))
        runner.messages_taken = chance.randint(runner.messages_taken, len(runner.messages))
        if chance.random() < 0.7:
            pump.taken(runner.input_taken)
            messages.taken(runner.messages_taken)

    assert runner.input == content and runner.messages == sent
