"""Readers of a job's live output: late ones, slow ones, several at once; and what is asked of waiters for them."""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
from dataclasses import replace

import pytest

from jobmanager import HookManager, LiveOutput, Output, hooks
from jobmanager.errors import JobTimeout, UnknownJob, WouldDeadlock
from jobmanager.events import Event, JobOutput
from jobmanager.ipc.messages import FetchOutput, OutputChunk, StreamPiece
from jobmanager.live_output import run_buffer
from jobmanager.live_output.fan_out import LiveOutputFanOut
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.facts import CapturedOutput, CasesProgress, RunFacts
from jobmanager.scheduling.job_record import OutputSource, RunSource
from jobmanager.threads import deadlock_guard
from tests.conftest import eventually
from tests.support.run_facts import exited

KIB = 1024


class Manager:
    """One job ``j``, of a task or a pipeline, and a waiter that answers what it is asked, when it is told to."""

    def __init__(self, hook_manager: HookManager | None = None) -> None:
        self.source: OutputSource | None = OutputSource(placement=1, runs=(RunSource(container="c1"),), ended=False)
        self.asked: list[FetchOutput] = []
        self.outputs = LiveOutputFanOut(
            hook_manager or HookManager(),
            source_of=lambda job_id: self.source if job_id == "j" else None,
            fetch=self.asked.append,
            on_followed=lambda job_id: self.outputs.update(job_id),
        )

    def follow(self, timeout_s: float | None = 0.0) -> LiveOutput:
        return self.outputs.follow("j", timeout_s)

    def prints(self, *pieces: tuple[bool, int, bytes], container: str = "c1") -> None:
        said = tuple(StreamPiece(stderr, at, data) for stderr, at, data in pieces)
        self.outputs.chunk_received(OutputChunk(job_id="j", container_name=container, pieces=said))

    def change(self, **changes: object) -> None:
        assert self.source is not None
        self.source = replace(self.source, **changes)  # type: ignore[arg-type]

    def begins(self, run: RunSource, *, placement: int = 1) -> None:
        """The turn of the next run; with another placement, of the first run again."""
        assert self.source is not None
        before = self.source.runs if placement == self.source.placement else ()
        self.change(placement=placement, runs=(*before, run))
        self.outputs.update("j")

    def has_ended(self, facts: RunFacts | None) -> None:
        """The run whose turn it is has ended, as far as the ledger knows."""
        assert self.source is not None
        *before, last = self.source.runs
        self.change(runs=(*before, replace(last, facts=facts)))

    def ends_phase(self, stdout: bytes = b"", stderr: bytes = b"", **counted: int) -> None:
        self.has_ended(saying(stdout, stderr, **counted))
        self.outputs.update("j")

    def ends(self, stdout: bytes = b"", stderr: bytes = b"", **counted: int) -> None:
        self.has_ended(saying(stdout, stderr, **counted))
        self.end()

    def end(self) -> None:
        self.change(ended=True)
        self.outputs.job_ended("j")


def saying(stdout: bytes = b"", stderr: bytes = b"", **counted: int) -> RunFacts:
    """The facts of a run that printed this."""
    counts = {"stdout_bytes": len(stdout), "stderr_bytes": len(stderr), **counted}
    return exited(output=CapturedOutput(stdout=stdout, stderr=stderr, **counts))


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

    manager.end()

    assert list(live) == []


def test_of_a_job_that_has_ended_the_result_is_read() -> None:
    manager = Manager()
    manager.has_ended(saying(b"all"))
    manager.change(ended=True)

    live = manager.follow()

    assert list(live) == [out(b"all")]
    assert manager.asked == []


def test_an_unknown_job_is_refused_and_leaves_nothing() -> None:
    manager = Manager()
    manager.source = None

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


def test_readers_that_are_stopped_end_and_later_ones_at_once_and_the_job_goes_on() -> None:
    told: list[JobOutput] = []
    hook_manager = HookManager()
    hook_manager.add(JobOutput, told.append)
    manager = Manager(hook_manager)
    live = manager.follow(timeout_s=None)
    reader = threading.Thread(target=lambda: list(live))
    reader.start()

    manager.outputs.stop()
    reader.join(20)

    assert not reader.is_alive()
    assert list(manager.follow(timeout_s=None)) == []
    manager.prints((False, 0, b"on"))
    eventually(lambda: [event.data for event in told] == [b"on"], what="hooks go on")
    hook_manager.drain(2.0)


def test_what_the_grader_tells_comes_in_its_place_to_every_reader_and_again_when_the_job_is_run_again() -> None:
    manager = Manager()
    live = manager.follow()
    manager.prints((False, 0, b"secret"))
    manager.change(runs=(RunSource(container="c1", told=("test 1: passed",)),))
    manager.outputs.update("j")
    manager.outputs.update("j")
    manager.prints((False, 6, b" more"))
    expected = [out(b"secret"), out(b"", to_submitter="test 1: passed"), out(b" more")]
    assert so_far(live) == so_far(manager.follow()) == expected

    manager.begins(RunSource(container="c2", told=("again",)), placement=2)
    assert so_far(live) == [out(b"", starts_again=True), out(b"", to_submitter="again")]


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
    monkeypatch.setattr(run_buffer, "_MAX_KEPT_BYTES", 256 * KIB)
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
    return sum(len(block.data) for run in live._buffer._runs for block in run._blocks)


def test_what_is_kept_is_bounded_for_a_job_that_prints_to_both_streams_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_buffer, "_MAX_KEPT_BYTES", 256 * 100)
    manager = Manager()
    slow = manager.follow()
    for at in range(500):
        manager.prints((False, at, b"o"), (True, at, b"e"))

    assert len(slow._buffer._runs[0]._blocks) == 100
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

    manager.begins(RunSource(container="c2"), placement=2)
    manager.prints((False, 0, b"late word of the first run"), container="c1")
    manager.prints((False, 0, b"second"), container="c2")

    again = [out(b"", starts_again=True), out(b"second")]
    assert so_far(quick) == again
    assert so_far(slow) == again
    assert so_far(manager.follow()) == [out(b"second")]


def test_another_container_whose_program_never_began_is_no_other_run() -> None:
    manager = Manager()
    live = manager.follow()

    manager.begins(RunSource(container="c2"), placement=2)
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
            manager.outputs.update("j")
        if chance.random() < 0.5:
            got += so_far(live)
    manager.ends(whole[False], whole[True])
    got += list(live)

    assert joined(got) == (whole[False], whole[True])
    assert not any(output.starts_again or output.missed_bytes for output in got)


# ---- phases of a pipeline


BUILD, TEST, REPORT = (RunSource(phase=name, container=f"{name}1") for name in ("build", "test", "report"))


def pipeline(hook_manager: HookManager | None = None) -> Manager:
    """Its job is a pipeline, whose first phase runs."""
    manager = Manager(hook_manager)
    manager.change(runs=(BUILD,))
    manager.outputs.update("j")
    return manager


def by_phase(outputs: list[Output]) -> dict[str, tuple[bytes, bytes]]:
    """What was printed, by phase, in the order in which they came; of a phase that comes twice only the last part."""
    return {phase: joined(list(its_own)) for phase, its_own in itertools.groupby(outputs, lambda output: output.phase)}


def test_the_phases_come_one_after_the_other_each_from_its_first_byte_and_named() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.prints((False, 0, b"compiling\n"), (True, 0, b"warning"), container="build1")
    manager.ends_phase(b"compiling\ndone\n", b"warning")
    assert so_far(live) == [
        out(b"compiling\n", phase="build"),
        err(b"warning", phase="build"),
        out(b"done\n", phase="build"),
    ]

    manager.begins(TEST)
    assert manager.asked[-1] == FetchOutput(container_name="test1", stdout_from=0, stderr_from=0)
    manager.prints((True, 0, b"1 failed"), container="test1")
    manager.ends(b"see above", b"1 failed")

    assert list(live) == [err(b"1 failed", phase="test"), out(b"see above", phase="test")]


def test_the_end_of_a_phase_is_shown_at_once_and_its_waiter_is_asked_no_more() -> None:
    manager = pipeline()
    live = manager.follow(timeout_s=None)
    asked = list(manager.asked)
    reader = threading.Thread(target=lambda: next(live))
    reader.start()

    manager.ends_phase(b"done", stderr_bytes=3)
    reader.join(20)
    manager.prints((False, 0, b"done and late"), container="build1")

    assert not reader.is_alive()
    assert manager.asked == asked
    assert next(live) == err(b"", missed_bytes=3, phase="build")
    manager.end()
    assert list(live) == []


@pytest.mark.parametrize("somebody_follows", [True, False])
def test_a_reader_that_joins_in_a_later_phase_is_given_those_before_it_and_then_what_comes(somebody_follows: bool) -> None:
    manager = pipeline()
    first = manager.follow() if somebody_follows else None
    manager.ends_phase(b"built", b"w")
    manager.begins(TEST)
    manager.ends_phase(b"tested")
    manager.begins(REPORT)
    manager.prints((False, 0, b"se"), container="report1")

    late = manager.follow()
    assert manager.asked[-1] == FetchOutput(container_name="report1", stdout_from=2 if somebody_follows else 0, stderr_from=0)
    if not somebody_follows:
        manager.prints((False, 0, b"se"), container="report1")
    seen = so_far(late)
    manager.ends(b"sent")
    seen += list(late)

    assert by_phase(seen) == {"build": (b"built", b"w"), "test": (b"tested", b""), "report": (b"sent", b"")}
    assert first is None or by_phase(list(first)) == by_phase(seen)


def test_of_a_pipeline_that_has_ended_every_phase_is_read() -> None:
    manager = pipeline()
    manager.ends_phase(b"built")
    manager.begins(RunSource(phase="skipped"))
    manager.begins(TEST)
    manager.has_ended(saying(b"tested", b"1 failed"))
    manager.change(ended=True)

    assert list(manager.follow()) == [
        out(b"built", phase="build"),
        out(b"tested", phase="test"),
        err(b"1 failed", phase="test"),
    ]


def test_what_is_kept_is_bounded_in_the_phase_that_runs_and_a_slow_reader_is_told_what_it_missed_of_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_buffer, "_MAX_KEPT_BYTES", 256 * KIB)
    manager = pipeline()
    slow = manager.follow()
    whole = random.Random(9).randbytes(512 * KIB)
    for at in range(0, len(whole), 64 * KIB):
        manager.prints((False, at, whole[at : at + 64 * KIB]), container="build1")
    assert live_bytes(slow) <= 256 * KIB
    manager.ends_phase(whole)
    manager.begins(TEST)
    for at in range(0, 256 * KIB, 64 * KIB):
        manager.prints((True, at, whole[at : at + 64 * KIB]), container="test1")
    manager.ends(b"", whole[: 256 * KIB])

    seen = list(slow)

    assert seen[0] == out(b"", missed_bytes=256 * KIB, phase="build")
    assert by_phase(seen) == {"build": (whole[256 * KIB :], b""), "test": (b"", whole[: 256 * KIB])}
    assert not any(output.missed_bytes for output in seen[1:])


def test_a_phase_that_was_lost_with_its_waiters_ends_and_the_next_one_goes_on() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.prints((False, 0, b"half a li"), container="build1")

    manager.begins(REPORT)
    manager.prints((False, 9, b"ne"), container="build1")
    manager.ends(b"lost")

    assert list(live) == [out(b"half a li", phase="build"), out(b"lost", phase="report")]


def test_a_container_that_is_made_again_for_a_later_phase_is_no_other_run() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.ends_phase(b"built")
    manager.begins(TEST)
    again = replace(TEST, container="test2")
    manager.change(runs=(manager.source.runs[0], again))
    manager.outputs.update("j")

    assert manager.asked[-1] == FetchOutput(container_name="test2", stdout_from=0, stderr_from=0)
    manager.prints((False, 0, b"tested"), container="test2")
    manager.ends(b"tested")

    assert list(live) == [out(b"built", phase="build"), out(b"tested", phase="test")]


def test_a_pipeline_that_is_run_again_starts_the_stream_again_once() -> None:
    manager = pipeline()
    quick, slow = manager.follow(), manager.follow()
    manager.ends_phase(b"built")
    manager.begins(TEST)
    manager.prints((False, 0, b"tes"), container="test1")
    seen = so_far(quick)

    manager.begins(replace(BUILD, container="build2"), placement=2)
    manager.prints((False, 3, b"ted"), container="test1")
    manager.ends_phase(b"built again")
    manager.begins(replace(TEST, container="test2"), placement=2)
    manager.ends(b"tested")

    again = [out(b"", starts_again=True), out(b"built again", phase="build"), out(b"tested", phase="test")]
    assert seen == [out(b"built", phase="build"), out(b"tes", phase="test")]
    assert list(quick) == list(slow) == again


def test_phases_that_printed_nothing_are_run_again_without_a_word_and_a_reader_misses_nothing() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.ends_phase()
    manager.begins(TEST)
    assert so_far(live) == []

    manager.begins(replace(BUILD, container="build2"), placement=2)
    manager.ends_phase(b"built")
    manager.begins(replace(TEST, container="test2"), placement=2)
    manager.ends(b"tested")

    assert list(live) == [out(b"built", phase="build"), out(b"tested", phase="test")]


def test_cases_of_a_job_that_is_run_again_are_not_shown_twice_without_a_word() -> None:
    manager = Manager()
    live = manager.follow()
    one = CaseResult(name="one", outcome=Outcome.SUCCESS)
    manager.change(runs=(RunSource(container="c1", progress=CasesProgress(cases=(one,))),))
    manager.outputs.update("j")
    assert [output.case for output in so_far(live)] == [one]

    manager.begins(RunSource(container="c2", progress=CasesProgress(cases=(one,))), placement=2)
    assert [(output.starts_again, output.case) for output in so_far(live)] == [(True, None), (False, one)]


def test_while_it_waits_to_be_run_again_the_output_stays() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.ends_phase(b"built")
    manager.begins(TEST)

    manager.change(runs=(RunSource(phase="build"),))  # cut off; it has no host yet
    manager.outputs.update("j")
    late = manager.follow()
    manager.end()

    assert list(live) == list(late) == [out(b"built", phase="build")]


def test_a_phase_whose_result_says_otherwise_than_what_was_shown_shows_those_before_it_again_too() -> None:
    manager = pipeline()
    live = manager.follow()
    manager.ends_phase(b"built")
    manager.begins(TEST)
    manager.prints((False, 0, b"one, tw"), container="test1")
    before = so_far(live)

    manager.ends_phase(b"one, three")
    manager.begins(REPORT)
    manager.ends(b"sent")

    assert before == [out(b"built", phase="build"), out(b"one, tw", phase="test")]
    assert list(live) == [
        out(b"", starts_again=True),
        out(b"built", phase="build"),
        out(b"one, three", phase="test"),
        out(b"sent", phase="report"),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_order_the_answers_and_the_ends_of_phases_come_in_each_byte_is_shown_once(seed: int) -> None:
    """Waiters are replaced, the ledger may be ahead of what was carried out, readers come and go."""
    chance = random.Random(seed)
    whole = {run.container: tuple(chance.randbytes(chance.randint(0, 900)) for _ in range(2)) for run in (BUILD, TEST, REPORT)}
    manager = pipeline()
    first, seen = manager.follow(), []
    readers = [first]
    for run in (BUILD, TEST, REPORT):
        if run is not BUILD:
            manager.change(runs=(*manager.source.runs, run))
        for _ in range(chance.randint(0, 40)):
            event = chance.choice(["update", "prints", "prints", "joins", "reads"])
            if event == "update":
                manager.outputs.update("j")
            elif event == "prints":
                container = chance.choice([run.container, run.container, "build1"])
                stderr, at = chance.random() < 0.5, chance.randint(0, 100)
                asked = manager.asked[-1]
                if asked.container_name == container and chance.random() < 0.9:
                    at = asked.stderr_from if stderr else asked.stdout_from
                if data := whole[container][stderr][at : at + chance.randint(1, 200)]:
                    manager.prints((stderr, at, data), container=container)
            elif event == "joins":
                readers.append(manager.follow())
            else:
                seen += so_far(first)
        manager.has_ended(saying(*whole[run.container]))
        if chance.random() < 0.7:
            manager.outputs.update("j")
    manager.end()

    expected = {run.phase: whole[run.container] for run in (BUILD, TEST, REPORT) if any(whole[run.container])}
    for outputs in [seen + list(first), *(list(live) for live in readers[1:])]:
        assert by_phase(outputs) == expected
        assert list(by_phase(outputs)) == list(expected)
        assert not any(output.starts_again or output.missed_bytes for output in outputs)


# ---- what is asked of a waiter


def test_nothing_is_asked_for_a_job_that_nobody_follows() -> None:
    manager = Manager()

    manager.outputs.update("j")
    manager.ends(b"one")

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
    manager.change(placement=0, runs=(RunSource(),))
    live = manager.follow()
    assert manager.asked == []

    manager.change(placement=1, runs=(RunSource(container="c1"),))
    manager.outputs.update("j")

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

    manager.outputs.update("j")
    manager.prints((False, 0, b"one"))
    manager.begins(RunSource(container="c2"), placement=2)
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

    manager.outputs.update("j")
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
    manager.outputs.update("j")
    manager.prints((False, 0, b"0"))
    assert begun.wait(20)
    for at in range(1, 40):
        manager.prints((False, at, b"x"), (True, at - 1, b"y"))
    gate.set()
    eventually(lambda: len(told) >= 11)
    manager.ends(b"0" + b"x" * 39, b"y" * 39)

    assert told_of(manager, hook_manager, told)[11:] == [(False, b"", 34, False), (True, b"", 34, False)]


def test_a_hook_is_told_of_which_phase_it_missed_output_before_the_next_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_MAX_OUTPUT_WAITING_BYTES", 10)
    hook_manager, told, begun, gate = HookManager(), [], threading.Event(), threading.Event()

    def slow(event: JobOutput) -> None:
        begun.set()
        gate.wait(30)
        told.append(event)

    hook_manager.add(JobOutput, slow)
    manager = pipeline(hook_manager)
    manager.prints((False, 0, b"begin"), container="build1")
    assert begun.wait(20)
    manager.ends_phase(b"begin and so on", b"oops")
    manager.begins(TEST)
    manager.prints((False, 0, b"test"), container="test1")
    gate.set()
    eventually(lambda: len(told) >= 3)
    manager.ends(b"tested")

    hook_manager.drain(20)
    assert [(event.phase, event.stderr, event.data, event.missed_bytes) for event in told] == [
        ("build", False, b"begin", 0),
        ("build", False, b" and so on", 0),
        ("build", True, b"", 4),
        ("test", False, b"ed", 4),
    ]
