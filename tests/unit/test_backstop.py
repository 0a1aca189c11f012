"""When a waiter acts in its runner's place: not while anything comes, and not before it was asked."""

from __future__ import annotations

import pytest

from jobmanager import Limits
from jobmanager.runner.frames import RunnerState, Status
from jobmanager.watching.backstop import Advice, Backstop

DEAD = 1000.0  # seconds since the last byte, of a connection on which nothing comes


class Overdue:
    """A run that is past its limit, and a clock that the test moves."""

    def __init__(self, *, output_kib: int = 16) -> None:
        self.now = 0.0
        self.backstop = Backstop(Limits(output_kib=output_kib), lambda: self.now)

    def after(self, seconds: float, *, silent_s: float = DEAD) -> Advice:
        self.now += seconds
        return self.backstop.overdue(silent_s)

    def answers(self, state: RunnerState, unread_bytes: int = 0, *, run: int = 1) -> Advice:
        status = Status(
            stream_bytes=0,
            build=bytes(32),
            state=state,
            run=run,
            kept_from=0,
            input=0,
            messages=0,
            skipped=0,
            put_to=b"",
            cgroup=2,
            dumpable=False,
        )
        return self.backstop.answered(status, unread_bytes, run=1)


@pytest.fixture
def overdue() -> Overdue:
    return Overdue()


def test_a_runner_from_which_nothing_comes_is_asked_then_asked_anew_and_then_its_container_is_killed(overdue: Overdue) -> None:
    assert overdue.after(0) is Advice.ASK
    assert overdue.after(0.2) is Advice.WAIT
    assert overdue.after(0.2) is Advice.CONNECT
    assert overdue.after(0.5) is Advice.WAIT
    assert overdue.after(0.6) is Advice.KILL


def test_while_anything_comes_the_runner_lives(overdue: Overdue) -> None:
    assert [overdue.after(1, silent_s=0.1) for _ in range(60)] == [Advice.WAIT] * 60


def test_a_runner_that_only_ever_sends_is_waited_for_as_long_as_the_slowest_link_needs() -> None:
    overdue = Overdue(output_kib=1024)
    seconds = next(number for number in range(1000) if overdue.after(1, silent_s=0.1) is Advice.KILL)

    assert 60 + 2 * 64 <= seconds <= 60 + 2 * 64 + 5


def test_one_that_lives_and_runs_on_is_told_to_stop_it(overdue: Overdue) -> None:
    overdue.after(0)

    assert overdue.answers(RunnerState.RUNNING) is Advice.STOP


def test_one_that_only_waits_for_us_to_read_is_left_alone(overdue: Overdue) -> None:
    overdue.after(0)

    assert overdue.answers(RunnerState.RUNNING, unread_bytes=2**20) is Advice.WAIT


def test_a_session_that_began_for_another_reason_answers_nothing(overdue: Overdue) -> None:
    assert overdue.answers(RunnerState.RUNNING) is Advice.WAIT


def test_a_run_that_was_in_time_is_asked_about_anew_however_much_later(overdue: Overdue) -> None:
    overdue.after(0)
    assert overdue.answers(RunnerState.RUNNING) is Advice.STOP
    overdue.backstop.was_in_time()

    assert overdue.after(10_000) is Advice.ASK


@pytest.mark.parametrize(
    ("state", "run"), [(RunnerState.ENDING, 1), (RunnerState.IDLE, 1), (RunnerState.LEAVING, 1), (RunnerState.RUNNING, 2)]
)
def test_a_report_that_the_runner_has_given_is_waited_for_longer_and_over_new_connections_and_is_no_timeout(
    overdue: Overdue, state: RunnerState, run: int
) -> None:
    """Where a later run goes on, that was sent ahead, ours is over, too."""
    overdue.after(0)
    assert overdue.answers(state, run=run) is Advice.WAIT
    advice = [overdue.after(0.5) for _ in range(200)]

    assert Advice.KILL not in advice
    assert advice.count(Advice.CONNECT) == 3
    assert advice.index(Advice.GIVE_UP) * 0.5 >= 15
