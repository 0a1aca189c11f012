"""Nonsense on the runner's standard input: it skips it, or says FAULT and leaves. It is never ended by a mistake of its own."""

from __future__ import annotations

import errno
import re
import struct
from dataclasses import replace
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    DOWN,
    VERSION,
    Ack,
    BringPath,
    Fault,
    Fetch,
    Hello,
    Input,
    Kill,
    Leave,
    Piece,
    Put,
    StartRun,
    Status,
    encode,
)
from jobmanager.runner.wire import FRAME_PAYLOAD_BYTES, FrameReader, FrameWriter, PacketReader
from tests.support.bare_runner import BareRunner, CaseEnd, run_cases
from tests.support.runner_messages import any_message

FIRST, LAST, STRANGER = 1, 2, 3  # sessions
LEAVES = FrameWriter(LAST).begin(read_from=0, lease_ms=20_000) + FrameWriter(LAST).write(Leave())
LEFT, FAULTED = 0, 121
HUGE = [2**32 - 1, 2**31, 2**30, 2**24]
OWN_MEMORY_KIB = 8 * 1024


def frame(number: int, payload: bytes, *, flags: int = 0, reserved: int = 0, session: int = FIRST) -> bytes:
    """A frame whose check is right, whatever it has."""
    head = b"JMD1" + struct.pack("<QBBHI", session, number, flags, reserved, len(payload))
    return head + struct.pack("<I", crc32(payload, crc32(head))) + payload


def random_bytes(chooser: Random) -> bytes:
    return chooser.randbytes(int(2 ** chooser.uniform(0, 12)))


def magics(chooser: Random) -> bytes:
    return b"".join(b"JMD1" + chooser.randbytes(chooser.randrange(40)) for _ in range(chooser.randrange(20)))


def right_messages(chooser: Random) -> bytes:
    """Any message at any time: most come when they may not."""
    return FrameWriter(FIRST).write(any_message(chooser))


def changed_payload(chooser: Random) -> bytes:
    message = any_message(chooser)
    payload = bytearray(encode(message))
    for _ in range(chooser.randrange(1, 4)):
        at = chooser.randrange(len(payload) + 1)
        other = [b"", struct.pack("<I", chooser.choice(HUGE)), bytes(4), chooser.randbytes(4)]
        payload[at : at + chooser.randrange(6)] = chooser.choice(other)
    return in_frames(message.NUMBER, bytes(payload))


def cut_payload(chooser: Random) -> bytes:
    message = any_message(chooser)
    payload = encode(message)
    return in_frames(message.NUMBER, payload[: chooser.randrange(len(payload) + 1)])


def long_payload(chooser: Random) -> bytes:
    message = any_message(chooser)
    return in_frames(message.NUMBER, encode(message) + chooser.randbytes(chooser.choice([1, 4, 1000])))


def random_payload(chooser: Random) -> bytes:
    return frame(chooser.randrange(16), chooser.randbytes(chooser.randrange(60)), session=chooser.choice([FIRST, FIRST, STRANGER]))


def huge_count(chooser: Random) -> bytes:
    number = chooser.choice([kind.NUMBER for kind in DOWN.values()])
    return frame(number, chooser.randbytes(4 * chooser.randrange(3)) + struct.pack("<I", chooser.choice(HUGE)) * 3)


def odd_header(chooser: Random) -> bytes:
    number, flags, reserved = (chooser.choice(values) for values in ([0, 2, 13, 255], [0, 1, 2, 255], [0, 0, 1, 65535]))
    return frame(number, bytes(8), flags=flags, reserved=reserved)


def half_frame(chooser: Random) -> bytes:
    whole = FrameWriter(FIRST).write(any_message(chooser))
    return whole[: chooser.randrange(len(whole))]


def wrong_bit(chooser: Random) -> bytes:
    whole = bytearray(FrameWriter(FIRST).write(any_message(chooser)))
    whole[chooser.randrange(len(whole))] ^= 1 << chooser.randrange(8)
    return bytes(whole)


def endless_message(chooser: Random) -> bytes:
    number = chooser.choice([kind.NUMBER for kind in DOWN.values()])
    size = chooser.choice([0, 1, FRAME_PAYLOAD_BYTES])
    return frame(number, bytes(size), flags=1) * chooser.choice([1, 2, 17, 20])


def new_session(chooser: Random) -> bytes:
    hello = Hello(session=FIRST, version=chooser.choice([1, 1, 1, 0, 2]), read_from=0, lease_ms=chooser.choice([20_000, 2**32 - 1]))
    return bytes(chooser.choice([0, 2**16])) + frame(Hello.NUMBER, encode(hello), session=chooser.choice([FIRST, STRANGER]))


def in_frames(number: int, payload: bytes) -> bytes:
    starts = range(0, len(payload), FRAME_PAYLOAD_BYTES) or range(1)
    return b"".join(frame(number, payload[at : at + FRAME_PAYLOAD_BYTES], flags=int(at != starts[-1])) for at in starts)


SKIPPED = [random_bytes, magics, half_frame, wrong_bit]
OBEYED_OR_FAULTS = [right_messages, right_messages, changed_payload, cut_payload, long_payload, random_payload, new_session]
FAULTS = [huge_count, odd_header, endless_message]


def case(chooser: Random) -> bytes:
    """Nonsense of all kinds in a session or before one, and then a waiter that lets the runner leave."""
    begun = chooser.choice([b"", *[FrameWriter(FIRST).begin(read_from=0, lease_ms=20_000)] * 5])
    kinds = chooser.choice([SKIPPED, SKIPPED + OBEYED_OR_FAULTS, SKIPPED + OBEYED_OR_FAULTS + FAULTS, OBEYED_OR_FAULTS])
    return begun + b"".join(chooser.choice(kinds)(chooser) for _ in range(chooser.randrange(1, 12))) + LEAVES


@pytest.mark.parametrize("seed", range(2))
def test_nonsense_is_skipped_or_a_fault(seed: int, tmp_path: Path) -> None:
    chooser = Random(seed)
    cases = [case(chooser) for _ in range(500)]

    ends = run_cases(cases, tmp_path)

    broken = {number: end for number, end in enumerate(ends) if end.code not in (LEFT, FAULTED) or end.errors}
    assert broken == {}
    unnoticed = [number for number, end in enumerate(ends) if is_nonsense(cases[number]) and end.code != FAULTED]
    assert unnoticed == [], "a frame that the codec refuses was no fault"
    assert {end.code for end in ends} == {LEFT, FAULTED}


def is_nonsense(content: bytes) -> bool:
    """Whether the codec refuses it; but a run that was taken before is not read."""
    try:
        list(FrameReader().feed(content))
    except FrameError as error:
        return not str(error).startswith(StartRun.__name__)
    return False


RUN = StartRun(run=1, argv=(b"true",), cwd=b"/")


LONGEST = [(b"/" * 1016, 0)] * 31 + [(b"/" * 1012, 0)]  # with their count 32 KiB


def fetch(*files: tuple[bytes, int], claimed: int | None = None, more: bytes = b"") -> bytes:
    """A Fetch with any list."""
    items = b"".join(struct.pack("<I", len(path)) + path + struct.pack("<I", most) for path, most in files)
    return frame(Fetch.NUMBER, struct.pack("<II", 1, len(files) if claimed is None else claimed) + items + more)


WRONG = {
    "a type that is none": frame(13, b""),
    "a type of 0": frame(0, b""),
    "a payload that is too short": frame(Kill.NUMBER, b"\1\0\0"),
    "a payload that is too long": frame(Leave.NUMBER, b"\0"),
    "flags": frame(Ack.NUMBER, bytes(8), flags=2),
    "reserved bits": frame(Ack.NUMBER, bytes(8), reserved=1),
    "another type between": frame(Put.NUMBER, b"", flags=1) + frame(Ack.NUMBER, bytes(8)),
    "a message of more than 1 MiB": frame(Put.NUMBER, bytes(FRAME_PAYLOAD_BYTES), flags=1) * 17,
    "a huge length": frame(Input.NUMBER, struct.pack("<IQBI", 1, 0, 1, 2**32 - 1)),
    "a huge count": frame(4, struct.pack("<II", 0, 2**32 - 1)),
    "a flag that is 2": frame(Input.NUMBER, struct.pack("<IQBI", 1, 0, 2, 0)),
    "a run with too many bytes": frame(StartRun.NUMBER, encode(RUN) + b"\0"),
    "a run with a NUL in its folder": frame(StartRun.NUMBER, encode(replace(RUN, cwd=b"/tmp")).replace(b"tmp", b"t\0p")),
    "a kind that is none": frame(Put.NUMBER, struct.pack("<BIIQQBI", 2, 0, 0, 0, 0, 1, 0)),
    "a path with a NUL": frame(9, struct.pack("<II", 1, 4) + b"/a\0b"),
    "a path that is too long": frame(9, struct.pack("<II", 1, 5000) + b"/" * 5000),
    "no file": fetch(),
    "more files than are there": fetch((b"/a", 1), claimed=2),
    "fewer files than are there": fetch((b"/a", 1), (b"/b", 1), claimed=1),
    "files whose list is too long": fetch(*LONGEST, (b"", 1)),
    "a file with a NUL in its path": fetch((b"/a", 1), (b"/\0", 1)),
    "a file whose path is too long": fetch((b"/a", 1), (b"/" * 4096, 1)),
    "a file without a size": fetch((b"/a", 1), claimed=2, more=struct.pack("<I", 2) + b"/b"),
    "a stream that it has not": FrameWriter(FIRST).write(Ack(read_to=1)),
    "another version": frame(Hello.NUMBER, struct.pack("<HQI", VERSION + 1, 0, 1000)),
}


def test_each_kind_of_nonsense_is_a_fault_that_is_said_once(tmp_path: Path) -> None:
    begun = FrameWriter(FIRST).begin(read_from=0, lease_ms=20_000)

    ends = run_cases([begun + wrong for wrong in WRONG.values()], tmp_path)

    assert {name: (end.code, end.errors) for name, end in zip(WRONG, ends, strict=True)} == dict.fromkeys(WRONG, (FAULTED, ""))
    for name, end in zip(WRONG, ends, strict=True):
        assert [type(message) for message in messages_of(end)] == [Status, Fault], name


def test_the_longest_list_of_files_is_answered_also_where_nothing_may_come(tmp_path: Path) -> None:
    begun = FrameWriter(FIRST).begin(read_from=0, lease_ms=20_000)
    longest = Fetch(request=1, files=tuple(BringPath(path=path, most=most) for path, most in LONGEST))
    cases = [begun + fetch(*LONGEST), begun + fetch((b"/etc/passwd", 0), (b"/etc/none", 0), (b"", 2**32 - 1))]

    ends = run_cases([case + FrameWriter(FIRST).write(Leave()) for case in cases], tmp_path)

    assert FrameWriter(FIRST).write(longest) == fetch(*LONGEST)
    assert [(end.code, end.errors) for end in ends] == [(LEFT, "")] * 2
    many, few = ([message for message in messages_of(end) if isinstance(message, Piece)] for end in ends)
    assert [(piece.errno, piece.last) for piece in many] == [(errno.EINVAL, True)] * 32
    assert [(piece.errno, piece.data) for piece in few] == [(errno.EFBIG, b""), (errno.ENOENT, b""), (errno.EINVAL, b"")]


def messages_of(end: CaseEnd) -> list[object]:
    return list(PacketReader(FIRST).feed(end.up))


def test_nothing_is_said_to_a_waiter_that_has_not_begun(tmp_path: Path) -> None:
    wrong = [content for name, content in WRONG.items() if name != "another version"]

    ends = run_cases([content + LEAVES for content in (*wrong, b"", b"JMD1", FrameWriter(FIRST).write(Kill(run=1)))], tmp_path)

    assert {(end.code, end.errors) for end in ends} == {(LEFT, "")}
    assert all(end.up.startswith(b"JMU1" + struct.pack("<Q", LAST)) for end in ends)


@pytest.mark.parametrize("name", ["junk", "zeros", "magics", "messages without an end", "frames of a stranger"])
def test_its_own_memory_does_not_grow(name: str) -> None:
    chooser = Random(5)
    content = {
        "junk": chooser.randbytes(2**20),
        "zeros": bytes(2**20),
        "magics": (b"JMD1" + bytes(200)) * 2**12,
        "messages without an end": frame(Put.NUMBER, bytes(FRAME_PAYLOAD_BYTES), flags=1) * 15,
        "frames of a stranger": frame(Put.NUMBER, bytes(FRAME_PAYLOAD_BYTES), session=STRANGER) * 15,
    }[name]
    again = 1 if name.startswith("messages") else 16
    with BareRunner(sanitized=False) as runner:
        runner.wait_for(Status)
        for _ in range(again):
            runner.feed(content)
            runner.flush(timeout_s=60)
        runner.resume()
        runner.wait_for(Status, timeout_s=60)

        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{runner.pid}/status").read_text())
        assert peak and int(peak[1]) < OWN_MEMORY_KIB
