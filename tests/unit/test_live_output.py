"""Readers of a job's live output: late ones, slow ones, several at once; and what is asked of waiters for them."""

from __future__ import annotations

import gc
import os
import random
import threading

import pytest

from jobmanager import HookManager, LiveOutput, Output, hooks
from jobmanager.errors import JobTimeout, UnknownJob, WouldDeadlock
from jobmanager.events import Event, JobOutput
from jobmanager.ipc.messages import FetchOutput, OutputChunk, StreamPiece
from jobmanager.live_output import output_buffer
from jobmanager.live_output.fan_out import LiveOutputFanOut
from jobmanager.results.facts import CapturedOutput
from jobmanager.scheduling.job_record import OutputSource
from jobmanager.threads import deadlock_guard
from tests.conftest import eventually
from tests.support.run_facts import exited

RUNS = OutputSource(container="c1", ended=False, facts=None)
KIB = 1024


class Manager:
    """One job ``j`` and a waiter that answers what it is asked, when it is told to."""

    def __init__(self, hook_manager: HookManager | None = None) -> None:
        self.run: OutputSource | None = RUNS
        self.asked: list[FetchOutput] = []
        self.outputs = LiveOutputFanOut(
            hook_manager or HookManager(),
            source_of=lambda job_id: self.run if job_id == "j" else None,
            fetch=self.asked.append,
            on_followed=lambda job_id: self.outputs.reader_added(job_id),
        )

    def follow(self, timeout_s: float | None = 0.0) -> LiveOutput:
        return self.outputs.follow("j", timeout_s)

    def prints(self, *pieces: tuple[bool, int, bytes], container: str = "c1") -> None:
        said = tuple(StreamPiece(stderr, at, data) for stderr, at, data in pieces)
        self.outputs.chunk_received(OutputChunk(job_id="j", container_name=container, pieces=said))

    def ends(self, stdout: bytes = b"", stderr: bytes = b"", **counted: int) -> None:
        counts = {"stdout_bytes": len(stdout), "stderr_bytes": len(stderr), **counted}
        self.outputs.job_ended("j", exited(output=CapturedOutput(stdout=stdout, stderr=stderr, **counts)))


def out(data: bytes, **more: object) -> Output:
    return Output(stderr=False, data=data, **more)  # type: ignore[arg-type]


def err(data: bytes, **more: object) -> Output:
    return Output(stderr=True, data=data, **more)  # type: ignore[arg-type]


def so_far(live: LiveOutput) -> list[Output]:
    """What a reader that does not wait is given before it would have to."""
    found = []
    try:
        while True:
            found.append(next(live))
    except (JobTimeout, StopIteration):
        return found


def joined(outputs: list[Output]) -> tuple[bytes, bytes]:
    return b"".join(o.data for o in outputs if not o.stderr), b"".join(o.data for o in outputs if o.stderr)


# ---- what readers are given


def test_every_reader_is_given_everything_in_its_order_the_late_one_too() -> None:
    manager = Manager()
    first = manager.follow()
    manager.prints((False, 0, b"one\n"))
    assert so_far(first) == [out(b"one\n")]

    manager.prints((True, 0, b"oops\n"), (False, 4, b"two\n"))
    late = manager.follow()

    assert so_far(first) == [err(b"oops\n"), out(b"two\n")]
    assert so_far(late) == [out(b"one\n"), err(b"oops\n"), out(b"two\n")]


def test_a_reader_that_waits_is_woken_by_output_and_by_the_end() -> None:
    manager, seen = Manager(), []
    live = manager.follow(timeout_s=None)
    reader = threading.Thread(target=lambda: seen.extend(live))
    reader.start()

    manager.prints((False, 0, b"one"))
    eventually(lambda: seen == [out(b"one")])
    manager.ends(b"one")
    reader.join(20)

    assert not reader.is_alive()
    assert seen == [out(b"one")]


def test_nothing_in_time_raises_and_the_reader_can_go_on() -> None:
    manager = Manager()
    live = manager.follow(timeout_s=0.01)

    with pytest.raises(JobTimeout, match=r"nothing came from job j for 0.01 s; it goes on"):
        next(live)
    manager.prints((False, 0, b"one"))

    assert next(live) == out(b"one")


def test_the_end_brings_what_was_not_yet_told() -> None:
    manager = Manager()
    live = manager.follow()
    manager.prints((False, 0, b"one, "))

    manager.ends(b"one, two", b"err")

    assert so_far(live) == [out(b"one, two"), err(b"err")]
    assert list(live) == []


def test_a_job_that_ended_without_a_run_ends_the_stream() -> None:
    manager = Manager()
    live = manager.follow()

    manager.outputs.job_ended("j", None)

    assert list(live) == []


def test_of_a_job_that_has_ended_the_result_is_read() -> None:
    manager = Manager()
    facts = exited(output=CapturedOutput(stdout=b"all", stdout_bytes=3))
    manager.run = OutputSource(container="c1", ended=True, facts=facts)

    live = manager.follow()

    assert list(live) == [out(b"all")]
    assert manager.asked == []


def test_an_unknown_job_is_refused_and_leaves_nothing() -> None:
    manager = Manager()
    manager.run = None

    with pytest.raises(UnknownJob, match="there is no job with the id 'j', or its callback has returned"):
        manager.follow()

    assert manager.outputs._buffers == {}


def test_what_a_job_printed_past_its_limit_is_counted_as_missed() -> None:
    manager = Manager()
    live = manager.follow()

    manager.ends(b"kept", stdout_bytes=100, stderr_bytes=7)

    assert list(live) == [out(b"kept"), out(b"", missed_bytes=96), err(b"", missed_bytes=7)]


def test_closing_a_reader_ends_it_also_while_it_waits() -> None:
    manager = Manager()
    with manager.follow(timeout_s=None) as live:
        reader = threading.Thread(target=lambda: list(live))
        reader.start()
    reader.join(20)

    assert not reader.is_alive()
    assert list(live) == []


def test_closing_the_manager_ends_every_reader() -> None:
    manager = Manager()
    live = manager.follow(timeout_s=None)
    reader = threading.Thread(target=lambda: list(live))
    reader.start()

    manager.outputs.close()
    reader.join(20)

    assert not reader.is_alive()


def test_in_a_forked_child_readers_end_although_the_lock_may_be_held() -> None:
    manager = Manager()
    live = manager.follow(timeout_s=None)
    held = live._buffer.changed
    thread = threading.Thread(target=held.acquire)  # as by a thread that has not come along
    thread.start()
    thread.join()

    manager.outputs.abandon()

    assert list(live) == []


def test_inside_a_callback_what_is_there_can_be_read_and_nothing_is_waited_for() -> None:
    manager = Manager()
    live = manager.follow(timeout_s=None)
    manager.prints((False, 0, b"one"))
    deadlock_guard._thread.runs_callbacks_of = os.getpid()
    try:
        assert next(live) == out(b"one")
        with pytest.raises(WouldDeadlock):
            next(live)
        manager.ends(b"one")
        assert list(live) == []
    finally:
        deadlock_guard._thread.runs_callbacks_of = None


# ---- slow readers


def test_a_reader_that_stops_is_told_how_much_it_missed_and_another_one_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_buffer, "_MAX_KEPT_BYTES", 256 * KIB)
    manager = Manager()
    quick, slow = manager.follow(), manager.follow()
    whole = random.Random(8).randbytes(1024 * KIB)
    got = []
    for at in range(0, len(whole), 16 * KIB):
        manager.prints((False, at, whole[at : at + 16 * KIB]))
        got += so_far(quick)
        if at == 0:
            assert next(slow) == out(whole[: 16 * KIB])
    assert live_bytes(slow) <= (256 + 64) * KIB

    manager.ends(whole)

    assert joined(got) == (whole, b"")
    rest = list(slow)
    assert [output.missed_bytes for output in rest if output.missed_bytes] == [rest[0].missed_bytes]
    assert rest[0].missed_bytes >= 700 * KIB
    assert whole[16 * KIB + rest[0].missed_bytes :] == joined(rest)[0]


def live_bytes(live: LiveOutput) -> int:
    """What is kept for readers."""
    return sum(len(block.data) for block in live._buffer._blocks)


def test_what_is_kept_is_bounded_for_a_job_that_prints_to_both_streams_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_buffer, "_MAX_KEPT_BYTES", 256 * 100)
    manager = Manager()
    slow = manager.follow()
    for at in range(500):
        manager.prints((False, at, b"o"), (True, at, b"e"))

    assert len(slow._buffer._blocks) == 100
    manager.ends(b"o" * 500, b"e" * 500)
    rest = list(slow)
    assert rest[:2] == [out(b"", missed_bytes=450), err(b"", missed_bytes=450)]
    assert joined(rest) == (b"o" * 50, b"e" * 50)


def test_small_pieces_of_one_stream_are_put_together_for_who_reads_late() -> None:
    manager = Manager()
    quick = manager.follow()
    for at in range(1000):
        manager.prints((False, at, b"x"))
        assert so_far(quick) == [out(b"x")]

    assert so_far(manager.follow()) == [out(b"x" * 1000)]


def test_no_record_is_larger_than_64_kib() -> None:
    manager = Manager()
    live = manager.follow()

    manager.ends(b"x" * (200 * KIB))

    assert [len(output.data) for output in live] == [64 * KIB, 64 * KIB, 64 * KIB, 8 * KIB]


# ---- runs, and what may go wrong on the way


def test_another_run_starts_the_stream_again_for_every_reader() -> None:
    manager = Manager()
    quick, slow = manager.follow(), manager.follow()
    manager.prints((False, 0, b"first run"))
    assert so_far(quick) == [out(b"first run")]

    manager.run = OutputSource(container="c2", ended=False, facts=None)
    manager.outputs.monitor_started("j", "c2")
    manager.prints((False, 0, b"late word of the first run"), container="c1")
    manager.prints((False, 0, b"second"), container="c2")

    again = [out(b"", starts_again=True), out(b"second")]
    assert so_far(quick) == again
    assert so_far(slow) == again
    assert so_far(manager.follow()) == [out(b"second")]


def test_another_container_whose_program_never_began_is_no_other_run() -> None:
    manager = Manager()
    live = manager.follow()

    manager.outputs.monitor_started("j", "c2")
    manager.prints((False, 0, b"one"), container="c2")

    assert so_far(live) == [out(b"one")]


def test_a_result_that_says_otherwise_than_what_was_shown_is_shown_again() -> None:
    """A log that took a broken stream's place may lack the part of a line, so what came after it was shifted."""
    manager = Manager()
    live = manager.follow()
    manager.prints((False, 0, b"one, tw"), (True, 0, b"fine"))
    assert len(so_far(live)) == 2

    manager.ends(b"one, three", b"fine")

    assert list(live) == [out(b"", starts_again=True), out(b"one, three"), err(b"fine")]


def test_a_result_that_keeps_less_of_a_stream_than_was_shown_takes_nothing_back() -> None:
    manager = Manager()
    live = manager.follow()
    manager.prints((True, 0, b"much of it"))

    manager.ends(b"", b"much", stderr_bytes=12)

    assert list(live) == [err(b"much of it"), err(b"", missed_bytes=2)]


def test_whatever_order_answers_come_in_each_byte_is_shown_once() -> None:
    chance = random.Random(4)
    whole = {False: chance.randbytes(5000), True: chance.randbytes(5000)}
    manager = Manager()
    live, got = manager.follow(), []
    for _ in range(300):
        shown = manager.asked[-1]
        at = {False: shown.stdout_from, True: shown.stderr_from}
        stderr = chance.random() < 0.5
        begin = max(0, at[stderr] - chance.randint(0, 20))  # what a waiter that took over has read again
        manager.prints((stderr, begin, whole[stderr][begin : begin + chance.randint(1, 40)]))
        if chance.random() < 0.3:
            manager.outputs.monitor_started("j", "c1")
        if chance.random() < 0.5:
            got += so_far(live)
    manager.ends(whole[False], whole[True])
    got += list(live)

    assert joined(got) == (whole[False], whole[True])
    assert not any(output.starts_again or output.missed_bytes for output in got)


# ---- what is asked of a waiter


def test_nothing_is_asked_for_a_job_that_nobody_follows() -> None:
    manager = Manager()

    manager.outputs.monitor_started("j", "c1")
    manager.outputs.job_ended("j", exited())

    assert manager.asked == []


def test_it_is_asked_for_more_only_when_the_last_answer_has_come() -> None:
    manager = Manager()
    live = manager.follow()
    assert manager.asked == [FetchOutput(container_name="c1", stdout_from=0, stderr_from=0)]

    manager.prints((False, 0, b"one"), (True, 0, b"two!"))
    assert manager.asked[1:] == [FetchOutput(container_name="c1", stdout_from=3, stderr_from=4)]
    manager.prints((False, 0, b"one"))  # the answer to an older question

    assert len(manager.asked) == 2
    assert len(so_far(live)) == 2


def test_a_job_that_waits_is_asked_for_once_it_runs() -> None:
    manager = Manager()
    manager.run = OutputSource(container="", ended=False, facts=None)
    live = manager.follow()
    assert manager.asked == []

    manager.outputs.monitor_started("j", "c1")

    assert len(manager.asked) == 1
    live.close()


@pytest.mark.parametrize("leave", ["closed", "forgotten"])
def test_nothing_more_is_asked_or_kept_when_the_last_reader_is_gone(leave: str) -> None:
    manager = Manager()
    live = manager.follow()
    manager.prints((False, 0, b"one"))
    assert len(manager.asked) == 2

    if leave == "closed":
        live.close()
    else:
        del live
        gc.collect()
    manager.prints((False, 3, b"two"))

    assert len(manager.asked) == 2
    assert manager.outputs._buffers == {}
    late = manager.follow()
    manager.prints((False, 0, b"onetwo"))
    assert so_far(late) == [out(b"onetwo")]


# ---- hooks


def told_of(manager: Manager, hook_manager: HookManager, told: list[JobOutput]) -> list[tuple[bool, bytes, int, bool]]:
    hook_manager.drain(20)
    assert all(event.job_id == "j" for event in told)
    return [(event.stderr, event.data, event.missed_bytes, event.starts_again) for event in told]


def test_a_hook_for_output_is_told_of_every_piece_of_every_job() -> None:
    hook_manager, told = HookManager(), []
    hook_manager.add(JobOutput, told.append)
    manager = Manager(hook_manager)

    manager.outputs.monitor_started("j", "c1")
    manager.prints((False, 0, b"one"))
    manager.outputs.monitor_started("j", "c2")
    manager.prints((True, 0, b"two"), container="c2")
    manager.ends(b"three", b"two")

    assert told_of(manager, hook_manager, told) == [
        (False, b"one", 0, False),
        (False, b"", 0, True),
        (True, b"two", 0, False),
        (False, b"three", 0, False),
    ]


def test_a_hook_for_all_events_has_no_output_sent() -> None:
    hook_manager, told = HookManager(), []
    hook_manager.add(Event, told.append)
    manager = Manager(hook_manager)

    manager.outputs.monitor_started("j", "c1")
    manager.ends(b"one")
    hook_manager.drain(20)

    assert manager.asked == []
    assert told == []


def test_a_hook_that_is_too_slow_for_the_output_is_told_how_much_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_MAX_OUTPUT_WAITING_BYTES", 10)
    hook_manager, told, begun, gate = HookManager(), [], threading.Event(), threading.Event()

    def slow(event: JobOutput) -> None:
        begun.set()
        gate.wait(30)
        told.append(event)

    hook_manager.add(JobOutput, slow)
    manager = Manager(hook_manager)
    manager.outputs.monitor_started("j", "c1")
    manager.prints((False, 0, b"0"))
    assert begun.wait(20)
    for at in range(1, 40):
        manager.prints((False, at, b"x"), (True, at - 1, b"y"))
    gate.set()
    eventually(lambda: len(told) >= 11)
    manager.ends(b"0" + b"x" * 39, b"y" * 39)

    assert told_of(manager, hook_manager, told)[11:] == [(False, b"", 34, False), (True, b"", 34, False)]
