"""RunnerLink against the other end of the codec: over lost connections and dead waiters, each message comes once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from jobmanager.engine.protocol import Unreachable
from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    VERSION,
    BringPath,
    Ended,
    Entries,
    Fetch,
    FolderEntry,
    HowEnded,
    Input,
    Kill,
    ListFolder,
    OutputData,
    PathKind,
    Piece,
    ProgramStream,
    Started,
    StoppedBy,
    ToProgram,
    UpMessage,
)
from jobmanager.runner.wire import WINDOW_BYTES, PacketReader, PacketWriter
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from tests.support.scripted_runner import ScriptedRunner, cuts

QUARTER = 2**18  # bytes from which on something is acknowledged
LEASE_S = 100.0


HEAD = 8  # bytes of a spool before those of the stream


def link_to(runner: ScriptedRunner, spool: Path | None = None, lease_s: float = LEASE_S) -> RunnerLink:
    path = None if spool is None else str(spool)
    return RunnerLink(runner.engine, "c", lease_s=lease_s, spool=Spool(path), clock=runner.clock)


def output(sizes: Sequence[int]) -> list[UpMessage]:
    messages: list[UpMessage] = []
    offset = 0
    for number, size in enumerate(sizes):
        data = bytes([number % 256]) * size
        messages.append(OutputData(run=1, stream=ProgramStream.STDOUT, offset=offset, data=data))
        offset += size
    return messages


def ended() -> Ended:
    return Ended(
        run=1,
        how=HowEnded.EXITED,
        code=0,
        stopped_by=StoppedBy.NOBODY,
        cpu_us=1,
        wall_us=1,
        peak_bytes=None,
        peak_is_exact=False,
        oom_kills=0,
        fork_refusals=None,
        stdout_bytes=0,
        stderr_bytes=0,
        full=(),
        left=False,
    )


def piece(request: int, data: bytes = b"x", *, last: bool = True) -> Piece:
    return Piece(
        run=request, request=request, path=b"/job/f", mode=0o644, mtime_s=0, size=len(data), errno=0, offset=0, last=last, data=data
    )


def big_pieces(request: int, count: int) -> list[UpMessage]:
    return [piece(request, bytes(60_000), last=False) for _ in range(count)]


def read(link: RunnerLink, *, until: int) -> list[UpMessage]:
    """The messages until there are so many, or no byte comes, or the connection is lost."""
    found: list[UpMessage] = []
    empty_reads = 0
    while len(found) < until and empty_reads < 3:
        messages = link.receive(0.01)
        if messages is None:
            break
        empty_reads = empty_reads + 1 if link.silent_s else 0
        found += messages
    return found


def read_all(link: RunnerLink) -> list[UpMessage]:
    return read(link, until=2**31)


SHORT: list[UpMessage] = [Started(run=1, volumes=()), *output([1, 0, 30]), ended()]
LONG: list[UpMessage] = [Started(run=1, volumes=()), *output([60_000] * 60), ended()]  # more than three windows


# ---- one session


@pytest.mark.parametrize("piece_bytes", [1, 7, 2**18])
def test_messages_come_in_order_however_they_are_cut(piece_bytes: int) -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    runner.channel.piece_bytes = piece_bytes
    runner.say(SHORT)

    assert read_all(link) == SHORT
    assert link.status is not None and link.is_open and not link.beginning_lost
    assert link.read_to == runner.stream_bytes


def test_the_status_is_seen_before_the_messages_that_came_with_it() -> None:
    runner = ScriptedRunner()
    runner.say(SHORT)
    link = link_to(runner)
    link.connect()

    assert link.receive(1.0) == [] and link.status is not None
    assert link.read_to == runner.stream_bytes, "all came in one piece"
    link.close()

    assert link.receive(1.0) == SHORT
    assert link.receive(1.0) is None


def test_nothing_is_sent_or_read_before_connect() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)

    link.send(Kill(run=1))

    assert link.receive(1.0) is None and not link.is_open and link.unsent == 0
    link.connect()
    read_all(link)
    assert runner.received == []


def test_what_open_channel_raises_comes_through() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    runner.refuses = True

    with pytest.raises(Unreachable):
        link.connect()

    assert not link.is_open
    runner.refuses = False
    link.connect()
    assert link.is_open


def test_messages_are_sent_in_order_while_receive_waits() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    link.send(Kill(run=1), Kill(run=2))
    link.send(Kill(run=3))

    assert link.unsent > 0
    read_all(link)

    assert runner.received == [Kill(run=1), Kill(run=2), Kill(run=3)]
    assert link.unsent == 0


def test_input_and_messages_wait_for_the_status_as_those_before_them_may_have_been_lost() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    one, two = Input(run=1, offset=7, last=False, data=b"x"), ToProgram(run=1, number=3, data=b"y")
    link.connect()
    link.send(one, Kill(run=1), two)
    read_all(link)
    assert runner.received == [Kill(run=1)]

    link.send(one, two)
    read_all(link)

    assert runner.received == [Kill(run=1), one, two]


def test_a_ping_costs_no_more_than_its_frame() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    assert link.unsent > 2**16, "a frame that a dead waiter left half is filled"
    read_all(link)

    link.ping()

    assert link.unsent < 100


def test_bytes_for_a_foreign_session_are_passed_over() -> None:
    runner = ScriptedRunner()
    foreign = PacketWriter()
    foreign.begin(12345, 0)
    foreign.write(output([500])[0])
    link = link_to(runner)
    link.connect()
    runner.channel.before += foreign.packets()[:-100]  # half a packet: its waiter died
    runner.say(SHORT)

    assert read_all(link) == SHORT


def test_nonsense_is_a_frame_error_and_closes_the_link() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    runner.say(SHORT)
    read_all(link)
    runner.channel.before += bytes(100)

    with pytest.raises(FrameError):
        link.receive(1.0)

    assert not link.is_open and runner.channel.is_closed


def test_a_runner_of_another_version_is_not_understood() -> None:
    runner = ScriptedRunner()
    runner.status_fields["version"] = VERSION + 1
    link = link_to(runner)
    link.connect()

    with pytest.raises(FrameError, match=f"version {VERSION + 1}"):
        read_all(link)


def test_a_wake_ends_a_wait_and_also_the_next_one() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.wake()
    link.connect()
    read_all(link)
    before = runner.now

    link.wake()
    assert link.receive(3.0) == [] and runner.now == before

    assert link.receive(3.0) == [] and runner.now == before + 3.0


def test_silence_is_counted_from_the_last_byte() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    runner.now += 50
    link.connect()
    assert link.silent_s == 0
    read_all(link)
    link.receive(2.0)
    assert link.silent_s >= 2.0

    runner.say(SHORT)
    link.receive(2.0)

    assert link.silent_s == 0


# ---- lost connections


def test_wherever_a_connection_breaks_the_next_one_goes_on_without_loss_or_doubling() -> None:
    def bytes_of_a_session() -> int:
        runner = ScriptedRunner()
        link = link_to(runner)
        link.connect()
        runner.say(SHORT)
        read_all(link)
        return runner.channel.read_bytes

    for size in range(bytes_of_a_session() + 1):
        runner = ScriptedRunner()
        link = link_to(runner)
        link.connect()
        runner.channel.breaks_after = size
        runner.say(SHORT)
        first = read_all(link)
        assert link.receive(1.0) is None and not link.is_open and runner.channel.is_closed

        link.connect()

        assert first + read_all(link) == SHORT, f"broken after {size} bytes"
        assert len(runner.channels) == 2


def test_a_long_stream_survives_many_lost_connections() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    runner.say(LONG)
    found: list[UpMessage] = []
    while len(found) < len(LONG):
        link.connect()
        runner.channel.breaks_after = 300_001
        found += read_all(link)

    assert found == LONG


def test_a_ping_begins_a_session_on_the_same_connection() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    runner.channel.piece_bytes = 40
    runner.say(SHORT)
    found = read(link, until=2)  # more of them is on its way

    link.ping()

    assert link.status is None and link.is_open
    assert found + read_all(link) == SHORT
    assert link.status is not None and len(runner.channels) == 1
    assert runner.hellos[1].read_from > 0


def test_a_dead_link_answers_no_ping() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    read_all(link)
    runner.channel.stands_still = True

    link.ping()
    for _ in range(5):
        assert link.receive(1.0) == []

    assert link.status is None and link.silent_s >= 5.0 and link.is_open


def test_a_runner_that_was_begun_anew_is_read_from_its_beginning() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    runner.say(SHORT)
    read_all(link)
    runner.begin_anew()
    runner.say(output([5]))

    link.connect()

    assert read_all(link) == output([5])
    assert link.status is not None and link.status.stream_bytes == link.read_to
    assert link.beginning_lost


# ---- acknowledging


def test_nothing_is_acknowledged_before_a_quarter_of_the_window_was_read(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    link = link_to(runner, tmp_path / "spool")
    link.connect()
    runner.say(output([60_000] * 4))
    read_all(link)

    assert runner.kept_from == 0 and list(tmp_path.iterdir()) == []

    runner.say(output([60_000]))
    read_all(link)

    assert runner.kept_from == runner.stream_bytes
    assert (tmp_path / "spool").stat().st_size == HEAD + runner.stream_bytes
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600


def test_what_is_acknowledged_is_in_the_spool_before(tmp_path: Path) -> None:
    spool = tmp_path / "spool"

    class Watched(ScriptedRunner):
        def take(self, content: bytes) -> None:
            before = len(self.acks)
            super().take(content)
            assert all(spool.stat().st_size >= HEAD + read_to for _, read_to in self.acks[before:] if read_to)

    runner = Watched()
    link = link_to(runner, spool)
    link.connect()
    runner.say(LONG)

    assert read_all(link) == LONG
    assert len(runner.acks) > 3


@pytest.mark.parametrize("with_spool", [True, False])
def test_a_stream_longer_than_the_window_never_gets_stuck(tmp_path: Path, with_spool: bool) -> None:
    runner = ScriptedRunner()
    link = link_to(runner, tmp_path / "spool" if with_spool else None)
    link.connect()
    messages = output([65_000, 1, 65_523, 3] * 50)
    assert sum(len(message.data) for message in messages if isinstance(message, OutputData)) > 5 * WINDOW_BYTES
    runner.say(messages)

    assert read_all(link) == messages
    assert runner.unsaid == 0


def test_an_acknowledgement_that_was_lost_with_its_connection_is_given_again() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    runner.say(output([60_000] * 5))
    runner.channel.breaks_after = 64 + runner.stream_bytes
    while link.receive(0.0) is not None:
        assert runner.acks == []
    before = runner.now
    link.connect()

    read_all(link)

    assert runner.kept_from == runner.stream_bytes and runner.now - before < 1


@pytest.mark.parametrize(("lease_s", "most_s"), [(8.0, 1.0), (100.0, 5.0)])
def test_a_sign_of_life_is_given_though_nothing_is_read(lease_s: float, most_s: float) -> None:
    runner = ScriptedRunner()
    link = link_to(runner, lease_s=lease_s)
    link.connect()
    read_all(link)
    began = runner.now
    while runner.now < began + 60:
        assert link.receive(30.0) == []

    times = [began, *(at for at, _ in runner.acks)]
    assert all(after - before <= most_s + 0.05 for before, after in pairwise(times))
    assert len(times) >= 60 / most_s
    assert {read_to for _, read_to in runner.acks} == {0}


def test_a_connection_on_which_nothing_goes_out_is_not_filled_with_signs_of_life() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    read_all(link)
    runner.channel.stands_still = True
    link.send(Kill(run=1))
    before = link.unsent
    for _ in range(50):
        link.receive(10.0)

    assert link.unsent == before


def test_the_lease_is_in_each_hello_and_a_held_container_has_another() -> None:
    runner = ScriptedRunner()
    link = link_to(runner, lease_s=12.5)
    link.connect()
    link.ping()
    link.hold(600.0)
    read_all(link)

    assert [hello.lease_ms for hello in runner.hellos] == [12_500, 12_500, 600_000]


# ---- another waiter


def test_a_waiter_that_takes_over_a_short_run_reads_all_of_it_from_the_window(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    runner.say(SHORT)
    first = link_to(runner, tmp_path / "spool")
    first.connect()
    assert read_all(first) == SHORT

    second = link_to(runner, tmp_path / "spool")

    assert second.replayed() == []
    second.connect()
    assert read_all(second) == SHORT
    assert not second.beginning_lost and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("until", [3, 10, 30, len(LONG)])
def test_a_waiter_that_takes_over_replays_the_spool_and_goes_on_at_the_very_byte(tmp_path: Path, until: int) -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    first = link_to(runner, tmp_path / "spool")
    first.connect()
    read(first, until=until)
    read_from = runner.kept_from

    second = link_to(runner, tmp_path / "spool")
    replayed = second.replayed()
    second.connect()

    assert replayed + read_all(second) == LONG
    assert not second.beginning_lost
    assert runner.hellos[-1].read_from == read_from, "it has asked for the very byte"


def test_a_third_waiter_has_what_the_two_before_it_have_kept(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    for until in (10, 25):
        link = link_to(runner, tmp_path / "spool")
        link.replayed()
        link.connect()
        read(link, until=until)

    third = link_to(runner, tmp_path / "spool")
    replayed = third.replayed()
    third.connect()

    assert len(replayed) >= 10
    assert replayed + read_all(third) == LONG


def test_wherever_a_waiter_died_while_it_wrote_into_the_spool_the_next_one_loses_nothing(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    messages: list[UpMessage] = [*output([60_000] * 5), *SHORT[:-1], *output([60_000] * 6), ended()]

    def runner_that_sent(part: int) -> tuple[ScriptedRunner, int]:
        """A runner whose first spooling was acknowledged, and whose second one is being written."""
        runner = ScriptedRunner()
        runner.say(messages[:part])
        first = link_to(runner, spool)
        first.connect()
        read_all(first)
        return runner, runner.kept_from

    _, kept = runner_that_sent(5)
    spooled = spool.read_bytes()
    assert len(spooled) == HEAD + kept
    spool.unlink()
    tail = stream_of(messages)[kept : kept + 200]
    for cut in cuts(tail):
        runner, _ = runner_that_sent(5)
        runner.say(messages[5:])
        spool.write_bytes(spooled + cut)
        second = link_to(runner, spool)
        replayed = second.replayed()
        second.connect()
        assert replayed + read_all(second) == messages, f"{len(cut)} bytes of the next were in the spool"
        third = link_to(runner, spool)
        again = third.replayed()
        third.connect()
        assert again + read_all(third) == messages
        spool.unlink()


def stream_of(messages: Sequence[UpMessage]) -> bytes:
    """The runner's stream with these messages."""
    found: list[bytes] = []
    writer, reader = PacketWriter(), PacketReader(1, keep=found.append)
    writer.begin(1, 0)
    for message in messages:
        assert writer.write(message)
        reader.feed(writer.packets())
        writer.acknowledge(reader.read_to)
    return b"".join(found)


def test_without_a_spool_a_waiter_begins_again_at_what_the_runner_keeps() -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    first = link_to(runner)
    first.connect()
    found = read(first, until=12)
    lost = len(found)

    second = link_to(runner)
    second.connect()
    rest = read_all(second)

    assert second.beginning_lost
    assert rest == LONG[-len(rest) :] and len(rest) >= len(LONG) - lost
    assert [hello.read_from for hello in runner.hellos][1:] == [0, runner.hellos[-1].read_from]


def test_a_waiter_without_the_beginning_keeps_no_spool_for_the_next(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    first = link_to(runner)
    first.connect()
    read(first, until=12)

    second = link_to(runner, tmp_path / "spool")
    second.connect()
    read_all(second)

    assert second.beginning_lost and list(tmp_path.iterdir()) == []


def test_a_spool_that_makes_no_sense_is_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = ScriptedRunner()
    runner.say(SHORT)
    spool = tmp_path / "spool"
    spool.write_bytes(b"\xff" * 100)
    link = link_to(runner, spool)

    assert link.replayed() == []

    link.connect()
    assert read_all(link) == SHORT
    assert not spool.exists() and "makes no sense" in caplog.text


# ---- after the end of the run


def test_the_report_is_spooled_before_the_answers_behind_it_are_acknowledged(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    runner.say(SHORT)
    first = link_to(runner, tmp_path / "spool")
    first.connect()
    read_all(first)
    runner.say(big_pieces(1, 40))
    read_all(first)
    assert runner.kept_from > len(stream_of(SHORT))

    second = link_to(runner, tmp_path / "spool")
    replayed = second.replayed()
    second.connect()

    assert replayed == SHORT
    assert read_all(second) == []
    assert not second.beginning_lost


def test_answers_after_the_end_are_not_spooled(tmp_path: Path) -> None:
    runner = ScriptedRunner()
    runner.say([*LONG, *big_pieces(1, 40)])
    link = link_to(runner, tmp_path / "spool")
    link.connect()
    read_all(link)

    assert (tmp_path / "spool").stat().st_size == HEAD + len(stream_of(LONG))
    assert runner.unsaid == 0


def test_answers_have_the_numbers_of_the_requests_and_those_of_an_earlier_session_are_passed_over() -> None:
    entry = FolderEntry(path=b"f", kind=PathKind.FILE, mode=0o644, mtime_s=0, size=1)

    def answers(numbers: Sequence[int]) -> list[UpMessage]:
        listed = Entries(run=numbers[0], request=numbers[0], errno=0, last=True, entries=(entry,))
        return [listed, piece(numbers[1])]

    def ask() -> list[int]:
        link.send(ListFolder(request=1, path=b"/job"), Fetch(request=2, files=(BringPath(path=b"/job/f", most=10),)))
        read_all(link)
        return [message.request for message in runner.received[-2:] if isinstance(message, (ListFolder, Fetch))]

    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    first = ask()
    link.ping()
    second = ask()
    runner.say([*answers(first), *answers(second)])

    assert read_all(link) == answers([1, 2])
    assert set(first).isdisjoint(second)


def test_files_that_a_run_brings_are_no_answers_to_requests() -> None:
    runner = ScriptedRunner()
    link = link_to(runner)
    link.connect()
    brought = Piece(run=1, request=0, path=b"/job/f", mode=0, mtime_s=0, size=1, errno=0, offset=0, last=True, data=b"x")
    runner.say([brought, ended()])

    assert read_all(link) == [brought, ended()]


# ---- the disk


def test_a_disk_that_takes_no_more_ends_the_spool_and_not_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    spool = Spool(str(tmp_path / "spool"), most_bytes=QUARTER * 3)
    link = RunnerLink(runner.engine, "c", lease_s=LEASE_S, spool=spool, clock=runner.clock)
    link.connect()

    with caplog.at_level(logging.WARNING):
        assert read_all(link) == LONG

    assert runner.unsaid == 0 and list(tmp_path.iterdir()) == []
    assert len(caplog.records) == 1 and "no longer kept on disk" in caplog.text


def test_a_folder_that_is_gone_ends_the_spool_and_not_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = ScriptedRunner()
    runner.say(LONG)
    link = link_to(runner, tmp_path / "gone" / "for good" / "spool")
    link.connect()

    assert read_all(link) == LONG
    assert len(caplog.records) == 1
