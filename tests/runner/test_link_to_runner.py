"""The waiter's link with the real runner: connections are lost and waiters die in the middle of everything."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from jobmanager.runner.frames import (
    BringPath,
    Ended,
    Entries,
    Fetch,
    FromProgram,
    HowEnded,
    InputFrom,
    Leave,
    ListFolder,
    OutputData,
    Piece,
    ProgramStream,
    StartRun,
    Status,
    StoppedBy,
    Taken,
    UpMessage,
)
from jobmanager.watching.pumps import InputPump, MessagePump
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from tests.conftest import SLOWNESS
from tests.support.bare_runner import BareRunner
from tests.support.runner_channel import RunnerChannels

PYTHON = str(Path(sys.executable).resolve())
MIB = 2**20
_PRINT = "import sys\nfor n in range(3 * 2**20 // 8): sys.stdout.write('%07d\\n' % n)\n"
PRINTED = b"".join(b"%07d\n" % number for number in range(3 * MIB // 8))
_Kind = TypeVar("_Kind", bound=UpMessage)


@pytest.fixture
def channels() -> Iterator[RunnerChannels]:
    with BareRunner(begin=False) as runner:
        yield RunnerChannels(runner)


def link_to(channels: RunnerChannels, spool: Path | None = None) -> RunnerLink:
    return RunnerLink(channels.engine, "c", lease_s=60, spool=Spool(None if spool is None else str(spool)))


def start(code: str, **fields: object) -> StartRun:
    argv = tuple(os.fsencode(word) for word in (PYTHON, "-S", "-c", code))
    return StartRun(run=1, argv=argv, cwd=b"/job", **fields)  # type: ignore[arg-type]


def follow(
    link: RunnerLink,
    until: Callable[[list[UpMessage]], object],
    *,
    on_status: Callable[[Status], object] = lambda _: None,
    each_turn: Callable[[], object] = lambda: None,
) -> list[UpMessage]:
    """What comes until a condition holds of it; a lost connection is replaced."""
    found: list[UpMessage] = []
    seen: Status | None = None
    deadline = time.monotonic() + 30 * SLOWNESS
    while not until(found):
        assert time.monotonic() < deadline, f"{len(found)} messages came, the last is {found[-1:]}"
        if not link.is_open:
            link.connect()
        each_turn()
        found += link.receive(0.1) or []
        if link.status is not None and link.status is not seen:
            seen = link.status
            on_status(seen)
    return found


def has_status(link: RunnerLink) -> Callable[[object], bool]:
    return lambda _: link.status is not None


def has_ended(found: Sequence[UpMessage]) -> bool:
    return bool(found) and isinstance(found[-1], Ended)


def has_written(more_than: int) -> Callable[[Sequence[UpMessage]], bool]:
    return lambda found: sum(len(piece.data) for piece in all_of(OutputData, found)) > more_than


def all_of(kind: type[_Kind], found: Sequence[UpMessage]) -> list[_Kind]:
    return [message for message in found if isinstance(message, kind)]


def written(found: Sequence[UpMessage]) -> bytes:
    """What the program wrote, of which no byte may be missing or doubled."""
    content = b""
    for piece in all_of(OutputData, found):
        assert (piece.stream, piece.offset) == (ProgramStream.STDOUT, len(content))
        content += piece.data
    return content


def begin(link: RunnerLink, run: StartRun) -> None:
    follow(link, has_status(link))
    link.send(run)


def test_a_waiter_that_dies_in_the_middle_of_the_output_is_replaced_without_a_byte_lost_or_doubled(
    channels: RunnerChannels, tmp_path: Path
) -> None:
    for size in (MIB, 2 * MIB):  # two of them die
        link = link_to(channels, tmp_path / "spool")
        replayed = link.replayed()
        if not replayed:
            begin(link, start(_PRINT))
        follow(link, has_written(size - len(written(replayed))))
        link.close()

    last = link_to(channels, tmp_path / "spool")
    replayed = last.replayed()
    found = replayed + follow(last, has_ended)

    assert len(written(replayed)) > MIB
    assert written(found) == PRINTED
    assert len(all_of(Ended, found)) == 1 and not last.beginning_lost
    assert all_of(Ended, found)[0].stopped_by is StoppedBy.NOBODY
    last.close()


def test_connections_that_are_lost_again_and_again_lose_nothing(channels: RunnerChannels) -> None:
    channels.breaks_after = 400_003
    link = link_to(channels)
    begin(link, start(_PRINT))

    found = follow(link, has_ended)

    assert written(found) == PRINTED and len(all_of(Ended, found)) == 1
    assert channels.opened > 5
    link.close()


def test_input_and_messages_arrive_whole_over_lost_connections(channels: RunnerChannels) -> None:
    code = (
        "import socket, sys, threading\n"
        "s = socket.socket(fileno=3)\n"
        "def answer():\n"
        "    while m := s.recv(70000): s.send(m)\n"
        "t = threading.Thread(target=answer); t.start()\n"
        "while data := sys.stdin.buffer.read1(50000): sys.stdout.buffer.write(data)\n"
        "sys.stdout.flush(); t.join()\n"
    )
    content = random.Random(1).randbytes(MIB)
    texts = [random.Random(number).randbytes(number * 997 % 60_000 + 1) for number in range(40)]
    input_pump, messages = InputPump(max_bytes=2 * MIB), MessagePump(max_bytes=4 * MIB)
    assert input_pump.put(content) and all(messages.put(text) for text in texts) and messages.put(b"")
    input_pump.end()
    channels.breaks_after = 400_003  # a pipe and a packet may have 192 KiB of the session before
    link = link_to(channels)
    begin(link, start(code, stdin=InputFrom.PIPE, channel=True))

    def resume(status: Status) -> None:
        input_pump.resume(status.input)
        messages.resume(status.messages)

    def pump() -> None:
        link.send(*input_pump.due(1), *messages.due(1))

    def taking(found: list[UpMessage]) -> bool:
        for taken in all_of(Taken, found)[-1:]:
            input_pump.taken(taken.input)
            messages.taken(taken.messages)
        return has_ended(found)

    found = follow(link, taking, on_status=resume, each_turn=pump)

    (ended,) = all_of(Ended, found)
    assert (ended.how, ended.code) == (HowEnded.EXITED, 0)
    assert written(found) == content
    assert [message.data for message in all_of(FromProgram, found)] == texts
    assert channels.opened > (len(content) + sum(map(len, texts))) / channels.breaks_after > 4, "no connection carries more"
    link.close()


def test_a_request_is_asked_again_after_its_answer_was_cut_off(channels: RunnerChannels) -> None:
    link = link_to(channels)
    begin(link, start("open('big', 'wb').write(bytes(range(256)) * 16384); open('small', 'w').write('x')"))
    follow(link, has_ended)
    fetch = Fetch(request=1, files=(BringPath(path=b"/job/big", most=8 * MIB),))
    link.send(fetch)
    follow(link, lambda found: len(found) > 10)
    link.ping()  # the answer goes on, and nobody wants it any more
    follow(link, has_status(link))
    link.send(ListFolder(request=1, path=b"/job"))

    (entries,) = follow(link, bool)
    link.send(Fetch(request=2, files=(BringPath(path=b"/job/big", most=8 * MIB),)))
    pieces = all_of(Piece, follow(link, lambda found: found and isinstance(found[-1], Piece) and found[-1].last))

    assert isinstance(entries, Entries) and sorted(entry.path for entry in entries.entries) == [b"big", b"small"]
    assert {piece.request for piece in pieces} == {2}
    assert b"".join(piece.data for piece in pieces) == bytes(range(256)) * 16384
    link.close()


def test_a_runner_leaves_although_not_all_was_acknowledged(channels: RunnerChannels) -> None:
    link = link_to(channels)
    begin(link, start("print('x')"))
    follow(link, has_ended)

    link.send(Leave())

    deadline = time.monotonic() + 20 * SLOWNESS
    while link.receive(0.1) is not None:
        assert time.monotonic() < deadline
    link.close()
