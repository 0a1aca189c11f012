"""The program in C against the codec in Python: what one end sends is what the other has, however it is cut and whoever dies."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from jobmanager.runner.frames import (
    Ack,
    BringPath,
    Ended,
    Entries,
    Fetch,
    Input,
    InputFrom,
    Kill,
    Leave,
    ListFolder,
    OutputData,
    PathKind,
    Piece,
    Put,
    PutKind,
    RunnerState,
    StartRun,
    Status,
    UpMessage,
)
from jobmanager.runner.wire import FrameReader, FrameWriter
from tests.support.bare_runner import BareRunner
from tests.support.driven_runner import size_in_stream

FLOOD = b"".join(b"%d\n" % number for number in range(1, 300_001))
UNACKNOWLEDGED_BYTES = 2**19  # half a window: the runner goes on


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as runner:
        runner.wait_for(Status)
        yield runner


def feed_in_pieces(runner: BareRunner, content: bytes, chooser: random.Random) -> None:
    """Write the content in pieces of any size, each a write of its own."""
    at = 0
    while at < len(content):
        size = int(2 ** chooser.uniform(0, 18))
        runner.feed(content[at : at + size])
        runner.flush()
        at += size


@pytest.mark.parametrize("size", [0, 1, 65_495, 65_496, 2**20, 3_000_001])
def test_input_comes_back_as_output_however_the_frames_are_cut(runner: BareRunner, size: int) -> None:
    chooser = random.Random(size)
    content = chooser.randbytes(size)
    starts = range(0, size, 2**19) or range(1)
    inputs = [Input(run=1, offset=at, last=at == starts[-1], data=content[at : at + 2**19]) for at in starts]
    start = StartRun(run=1, argv=(b"cat",), cwd=b"/", stdin=InputFrom.MEMORY)

    feed_in_pieces(runner, b"".join(map(runner.writer.write, [*inputs, start])), chooser)

    record = runner.finish(1)
    assert record.stdout == content
    assert (record.ended.code, record.ended.stdout_bytes, record.ended.stderr_bytes) == (0, size, 0)


@pytest.mark.parametrize("seed", range(4))
def test_no_output_is_lost_or_doubled_when_waiters_die_during_a_flood(runner: BareRunner, seed: int) -> None:
    chooser = random.Random(seed)
    runner.acknowledging = False
    waiters = 1
    received: list[tuple[int, UpMessage]] = []  # with the offset behind each
    acknowledged = 0
    run = runner.start(["seq", "1", "300000"])
    while not received or not isinstance(received[-1][1], Ended):
        message = runner.next_message()
        if isinstance(message, UpMessage):
            received.append((runner.read_to, message))
        if chooser.random() < 0.1 or runner.read_to - acknowledged > UNACKNOWLEDGED_BYTES:
            acknowledged = chooser.choice([offset for offset, _ in received if offset > acknowledged] or [acknowledged])
            runner.acknowledge(acknowledged)
        if chooser.random() < 0.2:
            runner.detach()
            runner.discard(int(2 ** chooser.uniform(0, 16)))
            offset = chooser.choice([acknowledged, *(offset for offset, _ in received if offset >= acknowledged)])
            received = [(behind, message) for behind, message in received if behind <= offset]
            runner.resume(offset)
            waiters += 1

    output = [message for _, message in received if isinstance(message, OutputData)]
    assert b"".join(message.data for message in output) == FLOOD
    assert [message.offset for message in output] == [sum(len(m.data) for m in output[:at]) for at in range(len(output))]
    assert {message.run for _, message in received} == {run}
    assert waiters > 3


def test_the_stream_is_the_same_for_every_waiter(runner: BareRunner) -> None:
    runner.acknowledging = False
    first = runner.run(["sh", "-c", "seq 1 50000; seq 1 30000 >&2"]).messages
    for _ in range(3):
        runner.resume(0)
        assert runner.wait_for(Status).stream_bytes == sum(map(size_in_stream, first))
        assert [runner.next_message() for _ in first] == first


def test_a_window_that_is_full_holds_the_program_until_a_waiter_reads_on(runner: BareRunner) -> None:
    runner.acknowledging = False
    run = runner.start(["seq", "1", "300000"])
    while runner.read_to < 2**20 - 2**17:
        runner.next_message()
    runner.resume(0)
    status = runner.wait_for(Status)
    assert (status.kept_from, status.state) == (0, RunnerState.RUNNING) and status.stream_bytes <= 2**20

    runner.acknowledging = True
    runner.seen.clear()
    record = runner.finish(run)
    assert record.stdout == FLOOD and record.ended.stdout_bytes == len(FLOOD)


@pytest.mark.parametrize("unknown", [0, 2**64 - 1])
def test_a_waiter_that_does_not_know_where_to_go_on_learns_it(runner: BareRunner, unknown: int) -> None:
    runner.run(["echo", "first"])
    runner.acknowledge()
    behind_first = runner.read_to
    runner.acknowledging = False
    run = runner.start(["echo", "second"])
    second = runner.finish(run).messages

    runner.resume(unknown)
    runner.acknowledge(0)  # a sign of life
    status = runner.wait_for(Status)
    assert (status.kept_from, status.run, status.state) == (behind_first, run, RunnerState.IDLE)

    runner.resume(status.kept_from)
    runner.wait_for(Status)
    assert [runner.next_message() for _ in second] == second


def test_arguments_environment_and_folder_arrive_as_they_were_sent(runner: BareRunner) -> None:
    chooser = random.Random(1)
    for _ in range(20):
        arguments = [name_of(chooser, 300) for _ in range(chooser.randrange(20))]
        value = name_of(chooser, 2**16)
        umask = chooser.randrange(0o1000)
        script = 'umask; pwd; printf "%s\\0" "$X" "$@"'
        record = runner.run(["sh", "-c", script, "sh", *arguments], env=(b"X=" + value,), cwd=b"/dev/shm", umask=umask)
        expected = b"%04o\n/dev/shm\n" % umask + b"".join(part + b"\0" for part in (value, *arguments))
        assert (record.stdout, record.stderr) == (expected, b"")


def name_of(chooser: random.Random, most: int) -> bytes:
    """Any bytes but NUL."""
    return chooser.randbytes(chooser.randrange(most)).replace(b"\0", b"n")


def test_files_come_back_as_they_were_put(runner: BareRunner) -> None:
    chooser = random.Random(2)
    files = {}
    for number in range(12):
        path = b"/job/%d" % number + name_of(chooser, 200).replace(b"/", b"s")
        content = chooser.randbytes(int(2 ** chooser.uniform(0, 20)))
        files[path] = (chooser.choice([0o644, 0o600, 0o755]), chooser.randrange(-(2**31), 2**33), content)
        put(runner, path, *files[path], piece=int(2 ** chooser.uniform(14, 19)))

    for request, (path, (mode, mtime_s, content)) in enumerate(files.items(), 1):
        runner.send(Fetch(request=request, files=(BringPath(path=path, most=2**21),)))
        pieces = fetched(runner, request)
        assert {(p.path, p.mode & 0o7777, p.mtime_s, p.size, p.errno) for p in pieces} == {(path, mode, mtime_s, len(content), 0)}
        assert b"".join(p.data for p in pieces) == content

    runner.send(ListFolder(request=99, path=b"/job"))
    found = {entry.path.rpartition(b"/")[2]: entry for part in listed(runner, 99) for entry in part.entries}
    assert found.keys() == {path.removeprefix(b"/job/") for path in files}
    for path, (mode, mtime_s, content) in files.items():
        entry = found[path.removeprefix(b"/job/")]
        assert (entry.kind, entry.mode & 0o7777, entry.mtime_s, entry.size) == (PathKind.FILE, mode, mtime_s, len(content))


def put(runner: BareRunner, path: bytes, mode: int, mtime_s: int, content: bytes, *, piece: int) -> None:
    for at in range(0, len(content), piece) or [0]:
        data, last = content[at : at + piece], at + piece >= len(content)
        runner.send(Put(kind=PutKind.FILE, path=path, mode=mode, mtime_s=mtime_s, offset=at, last=last, data=data))


def fetched(runner: BareRunner, request: int) -> list[Piece]:
    pieces = [runner.wait_for(Piece)]
    while not pieces[-1].last:
        pieces.append(runner.wait_for(Piece))
    assert {piece.request for piece in pieces} == {request}
    return pieces


def listed(runner: BareRunner, request: int) -> list[Entries]:
    parts = [runner.wait_for(Entries)]
    while not parts[-1].last:
        parts.append(runner.wait_for(Entries))
    assert {part.request for part in parts} == {request}
    return parts


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_skip_the_same_bytes(runner: BareRunner, seed: int) -> None:
    chooser = random.Random(seed)
    other = FrameReader()
    content = FrameWriter(1).begin(read_from=0, lease_ms=60_000)
    for _ in range(300):
        content += something(chooser)
    content += FrameWriter(2).begin(read_from=0, lease_ms=60_000)
    runner.resume(0)
    runner.wait_for(Status)
    before = runner.writer.begin(read_from=0, lease_ms=60_000)
    list(other.feed(before))

    runner.detach()  # other waiters speak
    feed_in_pieces(runner, content, chooser)
    runner.resume(0)

    list(other.feed(content + runner.writer.begin(read_from=0, lease_ms=60_000)))
    assert runner.wait_for(Status).skipped == other.skipped + 65_536  # those of the first session


def something(chooser: random.Random) -> bytes:
    """A frame that changes nothing, whole, half or wrong, or bytes that are no frame."""
    frame = FrameWriter(chooser.choice([1, 1, 7])).write(chooser.choice([Ack(read_to=0), Kill(run=2**32 - 1)]))
    at = chooser.randrange(len(frame))
    return chooser.choice(
        [
            frame,
            frame[:at],
            frame[:at] + bytes([frame[at] ^ 1 << chooser.randrange(8)]) + frame[at + 1 :],
            chooser.randbytes(chooser.randrange(100)),
            b"JMD1" * chooser.randrange(5),
            bytes(chooser.randrange(1000)),
        ]
    )


def test_a_run_that_is_sent_again_is_taken_once(runner: BareRunner) -> None:
    start = StartRun(run=1, argv=(b"sh", b"-c", b"echo once >> /job/log; cat /job/log"), cwd=b"/job")
    for _ in range(3):
        runner.send(start)
        runner.resume()

    assert runner.finish(1).stdout == b"once\n"
    runner.last_run = 1
    runner.send(start)
    assert runner.run(["cat", "/job/log"]).stdout == b"once\n"


def test_it_leaves_when_it_is_told_to(runner: BareRunner) -> None:
    runner.send(Leave())

    assert runner.exit_code() == 0
