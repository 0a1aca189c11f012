"""The codec of the runner's channel: what is written is what is read, and nonsense is a FrameError, whatever it is."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmanager.runner.fields import (
    PATH_BYTES,
    ByteString,
    Choice,
    Field,
    Flag,
    FrameError,
    KernelCounter,
    ListOf,
    Number,
    RecordOf,
    payload_fields,
)
from jobmanager.runner.frames import (
    DOWN,
    DOWN_MESSAGE_BYTES,
    UP,
    UP_MESSAGE_BYTES,
    VERSION,
    Ack,
    Clear,
    DownMessage,
    Ended,
    Entries,
    FromProgram,
    Hello,
    HowEnded,
    InputFrom,
    Kill,
    Leave,
    OutputData,
    ProgramStream,
    Put,
    PutKind,
    ResourceLimit,
    RunnerState,
    Started,
    StartRun,
    Status,
    StoppedBy,
    UpMessage,
    decode,
    encode,
)
from jobmanager.runner.wire import FRAME_PAYLOAD_BYTES, WINDOW_BYTES, FrameReader, FrameWriter, PacketReader, PacketWriter
from tests.support.runner_messages import KINDS, down_messages, messages, up_messages

CONTRACT = (Path(__file__).resolve().parents[2] / "docs" / "runner.md").read_text()
SESSIONS = st.integers(0, 2**64 - 1)
quick = settings(max_examples=60, deadline=None)
ANY_LIMIT = ResourceLimit(resource=0, soft=1, hard=2)
IDLE = Status(
    stream_bytes=0, build=b"b" * 32, state=RunnerState.IDLE, run=0, kept_from=0,
    input=0, messages=0, skipped=0, put_to=b"", cgroup=2, dumpable=False,
)  # fmt: skip


def outer(kind: type[Any], number: int = 1) -> dict[str, int]:
    """Values for the fields of a kind's header."""
    return {"session": number} if kind is Hello else {"stream_bytes": number} if kind is Status else _run_of(kind, number)


def _run_of(kind: type[Any], number: int) -> dict[str, int]:
    return {"run": number} if issubclass(kind, UpMessage) else {}


def pieces(content: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The content cut at random."""
    at = 0
    for size in sizes:
        yield content[at : at + size]
        at += size
    yield content[at:]


# --- messages


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_comes_back_as_it_was(kind: type[Any]) -> None:
    @quick
    @given(messages(kind))
    def check(message: Any) -> None:
        header = {name: getattr(message, name) for name in outer(kind)}
        assert decode(kind, encode(message), **header) == message

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_random_bytes_are_a_message_that_is_written_alike_or_a_frame_error(kind: type[Any]) -> None:
    @quick
    @given(st.binary(max_size=200))
    def check(payload: bytes) -> None:
        assert_same_or_refused(kind, payload)

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_changed_payload_is_a_message_that_is_written_alike_or_a_frame_error(kind: type[Any]) -> None:
    @quick
    @given(messages(kind, 50), st.data())
    def check(message: Any, data: st.DataObject) -> None:
        payload = bytearray(encode(message))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(payload)))
            payload[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5) | st.just(b"\xff\xff\xff\xff"))
        assert_same_or_refused(kind, bytes(payload))

    check()


def assert_same_or_refused(kind: type[Any], payload: bytes) -> None:
    try:
        written = encode(decode(kind, payload, **outer(kind)))
    except FrameError as error:
        why = str(error)
    else:
        why = ""
        assert written == payload
    assert not why or (why.startswith(kind.__name__) and "\n" not in why)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Ack(read_to=-1), "Ack.read_to: -1 is no number"),
        (Ack(read_to=2**64), "Ack.read_to: 18446744073709551616 is no number"),
        (Kill(run=2**32), "Kill.run: 4294967296 is no number"),
        (Kill(run="1"), "Kill.run: '1' is no number"),
        (Put(path=b"a\0b", mode=0, mtime_s=0), "Put.path: it has a NUL"),
        (Put(path="a", mode=0, mtime_s=0), "Put.path: str instead of bytes"),
        (Put(path=b"a" * (PATH_BYTES + 1), mode=0, mtime_s=0), "Put.path: 4096 bytes, where at most 4095"),
        (Put(path=b"a", kind=2, mode=0, mtime_s=0), "Put.kind: 2 is no PutKind"),
        (Put(path=b"a", mode=0, mtime_s=0, data=bytes(2**20 - 30)), "Put: 1048577 bytes, where a message has at most 1048576"),
        (StartRun(run=1, argv=(b"a\0",), cwd=b"/"), "StartRun.argv: it has a NUL"),
        (StartRun(run=1, argv=(), cwd=b"/", rlimits=(ANY_LIMIT,) * 65), "StartRun.rlimits: 65 items, where at most 64 are allowed"),
        (StartRun(run=1, argv=(), cwd=b"/", rlimits=(b"",)), "StartRun.rlimits: bytes instead of ResourceLimit"),
        (FromProgram(number=1, data=bytes(UP_MESSAGE_BYTES - 11)), "FromProgram: 65537 bytes, where a message has at most 65536"),
    ],
)
def test_what_cannot_be_sent_is_named(message: Any, why: str) -> None:
    with pytest.raises(FrameError) as caught:
        encode(message)

    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("kind", "payload", "why"),
    [
        (Kill, b"\1\0\0", "Kill.run: it ends too early: 4 bytes are due, 3 are there"),
        (Leave, b"x", "Leave: 1 bytes too many"),
        (Clear, struct.pack("<IBII", 1, 0, 1, 2**32 - 1), "Clear.places: it ends too early: 4294967295 bytes are due"),
        (Clear, struct.pack("<IBIII", 1, 1, 2, 0, 0) + b"x", "Clear: 1 bytes too many"),
        (Entries, struct.pack("<IIBI", 1, 0, 1, 2**32 - 1), "Entries.entries: 4294967295 items cannot be in 0 bytes"),
        (Entries, struct.pack("<IIBI", 1, 0, 2, 0), "Entries.last: 2 is neither 0 nor 1"),
        (Started, struct.pack("<III", 1, 1, 0) + b"\0" * 4, "Started.volumes: path: it has a NUL"),
    ],
)
def test_what_makes_no_sense_is_named(kind: type[Any], payload: bytes, why: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode(kind, payload, **outer(kind))

    assert str(caught.value).startswith(why)


def test_the_layout_is_the_contracts() -> None:
    text = struct.Struct("<I2s")
    run = StartRun(
        run=7, argv=(b"ab",), env=(b"A=",), cwd=b"/c", umask=0o77, stdin=InputFrom.PIPE, stdin_fifo=b"in", stdout_fifo=b"ou",
        channel=True, wall_ms=1, cpu_us=2, cpus_milli=3, output_bytes=4, drops_output=True,
    )  # fmt: skip
    assert encode(run) == (
        struct.pack("<I", 7) + b"\1\0\0\0" + text.pack(2, b"ab") + b"\1\0\0\0" + text.pack(2, b"A=") + text.pack(2, b"/c")
        + struct.pack("<IB", 0o77, 2) + text.pack(2, b"in") + text.pack(2, b"ou")
        + struct.pack("<BQQIQB", 1, 1, 2, 3, 4, 1) + bytes(16)
    )  # fmt: skip
    ended = Ended(
        how=HowEnded.SIGNALLED, code=9, stopped_by=StoppedBy.CPU, cpu_us=None, wall_us=5, peak_bytes=6, peak_is_exact=True,
        oom_kills=7, fork_refusals=None, stdout_bytes=8, stderr_bytes=9, full=(), left=False, input_over=True,
    )  # fmt: skip
    assert encode(ended) == struct.pack("<BIBQQQBQQQQIBB", 1, 9, 2, 2**64 - 1, 5, 6, 1, 7, 2**64 - 1, 8, 9, 0, 0, 1)


def test_a_frame_and_a_packet_are_the_contracts() -> None:
    head = b"JMD1" + struct.pack("<QBBHI", 5, 8, 0, 0, 4)
    assert FrameWriter(5).write(Kill(run=3)) == head + struct.pack("<I", crc32(head + b"\3\0\0\0")) + b"\3\0\0\0"

    begun = FrameWriter(5).begin(read_from=6, lease_ms=7)
    assert begun[:65_536] == bytes(65_536)
    assert begun[65_536:].startswith(b"JMD1" + struct.pack("<QBBHI", 5, 1, 0, 0, 14))
    assert begun.endswith(struct.pack("<HQI", VERSION, 6, 7))

    writer = PacketWriter()
    writer.begin(5, 0)
    writer.write(FromProgram(run=2, number=3, data=b"abc"))
    message = struct.pack("<BBHII", 4, 0, 0, 2, 15) + struct.pack("<QI", 3, 3) + b"abc"
    head = b"JMU1" + struct.pack("<QBBHQI", 5, 2, 0, 0, 0, len(message))
    assert writer.packets() == head + struct.pack("<I", crc32(head)) + message


# --- the contract's tables


FIELD = re.compile(r"(\w+) (u8|u16|u32|u64|i64|text|list of text|list of \([^()]*\))")
BRACKETS = r"\([^()]*(?:\([^()]*\)[^()]*)*\)"  # with brackets inside


def documented(text: str) -> str:
    """The fields of a description, as ``name type``, without its remarks."""
    text = re.sub(rf"list of {BRACKETS}", lambda found: "list of (" + documented(found[0][9:-1]) + ")", text)
    without_remarks = re.sub(rf"(?<!list of ){BRACKETS}", "", text)
    return ", ".join(f"{name} {kind}" for name, kind in FIELD.findall(without_remarks))


def described(kind: type[Any]) -> str:
    """The fields that the codec has, in the contract's words."""
    return ", ".join(f"{name} {word_for(field)}" for name, field in payload_fields(kind).items())


def word_for(field: Field) -> str:
    if isinstance(field, Number):
        return ("i" if field.format[-1].islower() else "u") + str(8 * struct.calcsize(field.format))
    if isinstance(field, ListOf):
        return "list of " + (f"({described(field.item.kind)})" if isinstance(field.item, RecordOf) else word_for(field.item))
    words: dict[type, str] = {Flag: "u8", Choice: "u8", KernelCounter: "u64", ByteString: "text"}
    return words[type(field)]


def test_the_fields_are_those_of_the_contracts_tables() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z]+)` \| ([^|]*?) \|", CONTRACT, re.MULTILINE)
    down, up = rows[: len(DOWN)], rows[len(DOWN) :]
    assert [int(number) for number, _, _ in down] == list(DOWN) and [int(number) for number, _, _ in up[: len(UP)]] == list(UP)
    for table, kinds in ((down, DOWN), (up[: len(UP)], UP)):
        for number, name, cell in table:
            text = cell if cell != "below" else _paragraph(name)
            assert described(kinds[int(number)]) == documented(text), name
    assert described(Status) == documented(_paragraph("STATUS"))


def _paragraph(name: str) -> str:
    found = re.search(rf"^`{name}`: (.*?)\n\n", CONTRACT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1].replace("\n", " ")


# --- frames down


@quick
@given(st.lists(down_messages(), max_size=8), SESSIONS, st.lists(st.integers(0, 3000), max_size=30))
def test_frames_come_back_as_their_messages_however_they_are_cut(sent: list[DownMessage], session: int, sizes: list[int]) -> None:
    writer, reader = FrameWriter(session), FrameReader()
    content = writer.begin(read_from=3, lease_ms=4) + b"".join(map(writer.write, sent))

    found = [message for piece in pieces(content, [65_536, *sizes]) for message in reader.feed(piece)]

    assert found == [Hello(session=session, read_from=3, lease_ms=4), *sent]
    assert reader.skipped == 65_536


@pytest.mark.parametrize("payload", [31, FRAME_PAYLOAD_BYTES, FRAME_PAYLOAD_BYTES + 1, 2 * FRAME_PAYLOAD_BYTES, DOWN_MESSAGE_BYTES])
def test_a_message_at_the_edge_of_a_frame_is_whole(payload: int) -> None:
    writer, reader = FrameWriter(1), FrameReader()
    list(reader.feed(writer.begin(read_from=0, lease_ms=1)))
    put = Put(kind=PutKind.FILE, path=b"a", mode=1, mtime_s=-1, data=bytes(payload - 31))
    assert len(encode(put)) == payload

    frames = writer.write(put)

    assert list(reader.feed(frames)) == [put]
    assert len(frames) == payload + 24 * -(-payload // FRAME_PAYLOAD_BYTES)


@quick
@given(down_messages(), st.binary(max_size=500), st.data())
def test_a_new_waiter_is_heard_after_half_a_frame_and_any_bytes(message: DownMessage, junk: bytes, data: st.DataObject) -> None:
    dead, new, reader = FrameWriter(1), FrameWriter(2), FrameReader()
    list(reader.feed(dead.begin(read_from=0, lease_ms=1)))
    frame = dead.write(message)
    half = frame[: data.draw(st.integers(0, len(frame) - 1))]

    found = list(reader.feed(half + junk + new.begin(read_from=9, lease_ms=1) + new.write(message)))

    assert found[-2:] == [Hello(session=2, read_from=9, lease_ms=1), message]
    assert found[:-2] in ([], [message])  # where only zeros were missing, the zeros have made it whole


@quick
@given(st.lists(st.tuples(st.booleans(), down_messages(50)), max_size=8))
def test_a_waiter_that_was_replaced_is_passed_over(sent: list[tuple[bool, DownMessage]]) -> None:
    old, new, reader = FrameWriter(1), FrameWriter(2), FrameReader()
    list(reader.feed(old.begin(read_from=0, lease_ms=1) + new.begin(read_from=0, lease_ms=1)))
    skipped = reader.skipped

    found = list(reader.feed(b"".join((old if is_old else new).write(message) for is_old, message in sent)))

    assert found == [message for is_old, message in sent if not is_old]
    assert reader.skipped == skipped


@quick
@given(down_messages(50), st.data())
def test_a_frame_with_a_wrong_bit_is_skipped_and_the_next_one_read(message: DownMessage, data: st.DataObject) -> None:
    writer, reader = FrameWriter(1), FrameReader()
    list(reader.feed(writer.begin(read_from=0, lease_ms=1)))
    frame = bytearray(writer.write(message))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8

    # a wrong length may want bytes after the next frame
    found = list(reader.feed(bytes(frame) + writer.write(Kill(run=5)) + bytes(2**16)))

    assert found == [Kill(run=5)]


@quick
@given(st.lists(st.binary(max_size=300) | st.just(b"JMD1") | st.binary(max_size=20).map(lambda tail: b"JMD1" + tail), max_size=20))
def test_bytes_that_are_no_frame_are_skipped_and_counted(junk: list[bytes]) -> None:
    reader = FrameReader()

    assert all(list(reader.feed(piece)) == [] for piece in junk)

    assert list(reader.feed(FrameWriter(4).begin(read_from=0, lease_ms=1))) == [Hello(session=4, read_from=0, lease_ms=1)]
    assert reader.skipped == sum(map(len, junk)) + 65_536


def framed(number: int, payload: bytes, *, flags: int = 0, reserved: int = 0) -> bytes:
    head = b"JMD1" + struct.pack("<QBBHI", 1, number, flags, reserved, len(payload))
    return head + struct.pack("<I", crc32(head + payload)) + payload


@pytest.mark.parametrize(
    "frames",
    [
        framed(99, b""),
        framed(0, b""),
        framed(8, b"\1\0\0"),
        framed(8, b"\1\0\0\0", flags=2),
        framed(8, b"\1\0\0\0", reserved=1),
        framed(3, b"", flags=1) + framed(8, b"\1\0\0\0"),
        framed(3, bytes(FRAME_PAYLOAD_BYTES), flags=1) * 17,
        framed(1, struct.pack("<HQI", VERSION + 1, 0, 1)),
    ],
    ids=["type 99", "type 0", "short", "flags", "reserved", "between", "too long", "version"],
)
def test_a_whole_frame_that_makes_no_sense_is_a_frame_error(frames: bytes) -> None:
    reader = FrameReader()
    list(reader.feed(FrameWriter(1).begin(read_from=0, lease_ms=1)))

    with pytest.raises(FrameError):
        list(reader.feed(frames))


def test_frames_that_come_byte_by_byte_are_read() -> None:
    reader = FrameReader()
    content = b"JJMJMDJMD" + FrameWriter(1).begin(read_from=0, lease_ms=1)[-38:] + b"JMJMD" + FrameWriter(1).write(Leave())

    found = [message for at in range(len(content)) for message in reader.feed(content[at : at + 1])]

    assert found == [Hello(session=1, read_from=0, lease_ms=1), Leave()]
    assert reader.skipped == 14


def test_a_frame_that_is_longer_than_allowed_is_no_frame() -> None:
    reader = FrameReader()
    list(reader.feed(FrameWriter(1).begin(read_from=0, lease_ms=1)))

    assert list(reader.feed(framed(2, bytes(FRAME_PAYLOAD_BYTES + 1)) + framed(8, b"\5\0\0\0"))) == [Kill(run=5)]


def test_a_new_waiter_begins_with_a_message_of_its_own_when_the_dead_one_was_in_one() -> None:
    reader, new = FrameReader(), FrameWriter(2)
    list(reader.feed(FrameWriter(1).begin(read_from=0, lease_ms=1) + framed(3, b"abc", flags=1)))

    found = list(reader.feed(new.begin(read_from=0, lease_ms=1) + new.write(Kill(run=5))))

    assert found == [Hello(session=2, read_from=0, lease_ms=1), Kill(run=5)]


def test_what_comes_before_nonsense_is_obeyed() -> None:
    messages = FrameReader().feed(FrameWriter(1).begin(read_from=0, lease_ms=1) + framed(8, b"\5\0\0\0") + framed(13, b""))

    assert [next(messages), next(messages)] == [Hello(session=1, read_from=0, lease_ms=1), Kill(run=5)]
    with pytest.raises(FrameError):
        next(messages)


# --- packets up


def packet(kind: int, offset: int, payload: bytes, session: int = 1, reserved: bytes = b"") -> bytes:
    head = b"JMU1" + struct.pack("<QB3sQI", session, kind, reserved, offset, len(payload))
    return head + struct.pack("<I", crc32(head)) + payload


def begun_reader() -> PacketReader:
    reader = PacketReader(1)
    assert reader.feed(packet(1, 0, encode(IDLE))) == [IDLE]
    return reader


MESSAGE = struct.pack("<BBHII", 4, 0, 0, 2, 12) + struct.pack("<QI", 3, 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (packet(2, 1, MESSAGE), "the stream goes on at 1, and 0 is due"),
        (packet(2, 0, MESSAGE) * 2, "the stream goes on at 0, and 24 is due"),
        (packet(2, 0, MESSAGE[:5]) + packet(2, 6, MESSAGE[6:]), "the stream goes on at 6, and 5 is due"),
        (packet(3, 0, b""), "no packet has the kind 3"),
        (packet(2, 0, MESSAGE, session=2), "the runner talks to another waiter"),
        (packet(2, 0, MESSAGE, reserved=b"\0\0\1"), "these bytes are no packet"),
        (b"x" * 32, "these bytes are no packet"),
        (packet(2, 0, MESSAGE + MESSAGE[:1] + b"\0\0\1" + MESSAGE[4:]), "no message begins at 24"),
        (packet(2, 0, struct.pack("<BBHII", 99, 0, 0, 0, 0)), "no message up has the type 99"),
        (packet(2, 0, struct.pack("<BBHII", 4, 0, 0, 0, UP_MESSAGE_BYTES + 1)), "no message begins at 0"),
        (packet(2, 0, bytes(65_537)), "these bytes are no packet"),
        (packet(2, 0, MESSAGE) + packet(1, 23, encode(IDLE)), "the stream has 23 bytes, and at least 24 are due"),
    ],
)
def test_a_session_that_makes_no_sense_is_a_frame_error(content: bytes, why: str) -> None:
    reader = begun_reader()

    with pytest.raises(FrameError, match=re.escape(why)):
        reader.feed(content)


@quick
@given(st.lists(up_messages(200), max_size=5), st.data())
def test_a_changed_stream_gives_messages_or_a_frame_error(sent: list[UpMessage], data: st.DataObject) -> None:
    writer, reader = PacketWriter(), PacketReader(1)
    writer.begin(1, 0)
    writer.report(IDLE)
    assert all(map(writer.write, sent))
    content = bytearray(b"".join(iter(lambda: writer.packets(100), b"")))
    at = data.draw(st.integers(0, len(content)))
    content[at : at + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))

    with suppress(FrameError):
        reader.feed(bytes(content))


@quick
@given(st.lists(up_messages(), max_size=6), SESSIONS, st.binary(max_size=300), st.integers(1, 5000), st.lists(st.integers(0, 3000)))
def test_packets_come_back_as_their_messages_however_they_are_cut(
    sent: list[UpMessage], session: int, before: bytes, size: int, sizes: list[int]
) -> None:
    writer, reader = PacketWriter(), PacketReader(session)
    writer.begin(session, 0)
    writer.report(IDLE)
    assert all(map(writer.write, sent))
    content = before + b"".join(iter(lambda: writer.packets(size), b""))

    found = [message for piece in pieces(content, sizes) for message in reader.feed(piece)]

    assert found == [IDLE, *sent]
    assert reader.read_to == writer.stream_bytes


def test_packets_that_come_byte_by_byte_are_read() -> None:
    reader = PacketReader(1)
    old = packet(2, 0, MESSAGE, session=0)[:-3]
    content = old + b"JMU1\1" + packet(2, 0, MESSAGE)[:20] + packet(1, 0, encode(IDLE)) + packet(2, 0, MESSAGE)

    found = [message for at in range(len(content)) for message in reader.feed(content[at : at + 1])]

    assert found == [IDLE, FromProgram(run=2, number=3, data=b"")]


@dataclass
class Channel:
    """A runner's writer, the waiters that follow one another, and the bytes that are on their way."""

    writer: PacketWriter = field(default_factory=PacketWriter)
    reader: PacketReader = field(default_factory=lambda: PacketReader(0))
    on_the_way: bytes = b""
    written: list[UpMessage] = field(default_factory=list)
    found: list[UpMessage] = field(default_factory=list)
    sessions: int = 0

    def write(self, message: UpMessage) -> None:
        if self.writer.write(message):
            self.written.append(message)

    def send(self, size: int) -> None:
        self.on_the_way += self.writer.packets(size)

    def read(self, size: int) -> None:
        read, self.on_the_way = self.on_the_way[:size], self.on_the_way[size:]
        self.found += [message for message in self.reader.feed(read) if isinstance(message, UpMessage)]

    def acknowledge(self, _: int) -> None:
        self.writer.acknowledge(self.reader.read_to)

    def replace_waiter(self, lost: int) -> None:
        """What is on its way to the old one is lost in part; the rest reaches the new one."""
        self.sessions += 1
        self.on_the_way = self.on_the_way[:-lost] if lost else self.on_the_way
        self.reader = PacketReader(self.sessions, self.reader.read_to)
        self.writer.begin(self.sessions, self.reader.read_to)

    def all_else(self) -> None:
        while sent := self.writer.packets():
            self.on_the_way += sent
        self.read(len(self.on_the_way))


STEPS = st.sampled_from([Channel.send, Channel.read, Channel.acknowledge, Channel.replace_waiter])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.just(Channel.write), up_messages(400)) | st.tuples(STEPS, st.integers(0, 700)), max_size=50))
def test_no_message_is_lost_or_doubled_when_waiters_are_replaced(steps: list[tuple[Callable[[Channel, Any], None], Any]]) -> None:
    channel = Channel()
    channel.replace_waiter(0)
    for step, argument in steps:
        step(channel, argument)

    channel.all_else()

    assert channel.found == channel.written


def test_the_window_takes_no_more_than_its_size_until_it_is_acknowledged() -> None:
    writer = PacketWriter()
    output = OutputData(run=1, stream=ProgramStream.STDOUT, offset=0, data=bytes(65_000))

    while writer.write(output):
        pass

    assert writer.room < 65_000 + 25 and writer.stream_bytes + writer.room == WINDOW_BYTES
    writer.acknowledge(70_000)
    assert writer.write(output) and not writer.write(output)


@pytest.fixture
def acknowledged() -> PacketWriter:
    """A writer whose window has the bytes from 100 to 125."""
    writer = PacketWriter()
    for _ in range(5):
        writer.write(FromProgram(number=0, data=b"x"))
    writer.acknowledge(100)
    return writer


def test_what_the_stream_does_not_have_cannot_be_acknowledged(acknowledged: PacketWriter) -> None:
    with pytest.raises(FrameError, match="126 bytes are acknowledged, and the stream has 125"):
        acknowledged.acknowledge(126)


def test_what_was_acknowledged_before_changes_nothing(acknowledged: PacketWriter) -> None:
    acknowledged.acknowledge(75)

    assert (acknowledged.kept_from, acknowledged.stream_bytes) == (100, 125)


def test_what_is_acknowledged_before_it_is_sent_again_is_not_sent(acknowledged: PacketWriter) -> None:
    acknowledged.begin(1, 100)
    acknowledged.write(Started(volumes=()))
    acknowledged.acknowledge(125)

    assert PacketReader(1, 125).feed(acknowledged.packets()) == [Started(volumes=())]


@pytest.mark.parametrize("offset", [0, 99, 126])
def test_a_waiter_that_does_not_know_where_to_go_on_learns_it(acknowledged: PacketWriter, offset: int) -> None:
    status = replace(IDLE, stream_bytes=125, kept_from=100)
    acknowledged.begin(1, offset)
    acknowledged.report(status)
    assert PacketReader(1, offset).feed(acknowledged.packets()) == [status]
    assert acknowledged.packets() == b""

    acknowledged.begin(2, 100)
    assert PacketReader(2, 100).feed(acknowledged.packets()) == [FromProgram(number=0, data=b"x")]


# --- bounds


def test_readers_hold_no_more_than_a_message_and_a_frame() -> None:
    """A count of 2^32 items, messages that never end, and headers that promise more than comes."""
    hostile_down = [bytes(2**16), b"JMD1" * 2**12, framed(3, bytes(FRAME_PAYLOAD_BYTES), flags=1)]
    hostile_up = [bytes(2**16), b"JMU1" + bytes(2**16), (b"JMU1" + struct.pack("<Q", 1)) * 2**12]
    tracemalloc.start()
    try:
        for piece in hostile_down:
            _feed_all(FrameReader(), [FrameWriter(1).begin(read_from=0, lease_ms=1), *[piece] * 40])
        for piece in hostile_up:
            _feed_all(PacketReader(1), [piece] * 40)
        for kind in KINDS:
            for payload in (b"\xff" * UP_MESSAGE_BYTES, bytes(UP_MESSAGE_BYTES), b"\1\0\0\0" + b"\xff" * 60_000):
                assert_same_or_refused(kind, payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def _feed_all(reader: FrameReader | PacketReader, content: list[bytes]) -> None:
    with suppress(FrameError):
        for piece in content:
            list(reader.feed(piece))
