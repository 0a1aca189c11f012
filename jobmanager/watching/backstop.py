"""The backstop: what a waiter does where a limit has passed by which the runner should have stopped its run."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S, Limits
from jobmanager.runner.frames import RunnerState, Status
from jobmanager.runner.wire import WINDOW_BYTES

PATIENCE_S = 0.3  # with a runner from which nothing comes
_CONNECTION_S = 1.0  # with a new connection
_REPORT_S = 5.0  # with a report that the runner says it has given
_REPORT_CONNECTIONS = 3
_BESIDE_OUTPUT_S = 60.0
_BLOCKED_BYTES = WINDOW_BYTES // 2  # with so much on its way, a runner may be waiting for us to read


class Advice(Enum):
    """What to do now."""

    WAIT = "wait"
    ASK = "ask"  # the runner, whether it lives
    CONNECT = "connect"  # anew, and ask then: the connection may be dead, and not the runner
    STOP = "stop"  # the runner lives, and is to be told
    KILL = "kill"  # the container: the runner does not answer
    GIVE_UP = "give up"  # the run is over, and how it ended does not come


class Backstop:
    """Decides by three things: how long nothing has come, whether the runner answers, and what it answers.

    While anything comes, over a link however slow, the runner lives and enforces its limits itself: its report is behind what is
    on its way. That is bounded by what a run may have to tell over the slowest link.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._most_s = _BESIDE_OUTPUT_S + (limits.output_kib * 1024 + WINDOW_BYTES) / SLOWEST_LINK_BYTES_PER_S
        self._overdue_since: float | None = None
        self._asked_at: float | None = None
        self._connections = 0
        self._patience_s = PATIENCE_S
        self._report_is_due = False

    def overdue(self, silent_s: float) -> Advice:
        """A limit has passed, and the run's end is not known. ``silent_s``: since the last byte from the runner."""
        now = self._clock()
        if self._overdue_since is None:
            self._overdue_since = now
        if now - self._overdue_since > self._most_s:
            return self._last_resort()
        if silent_s <= self._patience_s:
            return Advice.WAIT
        if self._asked_at is None:
            self._asked_at = now
            return Advice.ASK
        return Advice.WAIT if now - self._asked_at <= self._patience_s else self._unanswered()

    def answered(self, status: Status, unread_bytes: int, *, run: int) -> Advice:
        """A session has begun. Only where the runner was asked for that, it is an answer. ``run``: the number of ours."""
        if self._asked_at is None:
            return Advice.WAIT
        self._asked_at = None
        if status.state is not RunnerState.RUNNING or status.run > run:  # the next one may go on already
            self._report_is_due, self._patience_s = True, _REPORT_S
            return Advice.WAIT
        self._patience_s = PATIENCE_S
        return Advice.WAIT if unread_bytes > _BLOCKED_BYTES else Advice.STOP

    def was_in_time(self) -> None:
        """The runner has answered, and no limit has passed after all."""
        self._overdue_since = None

    def _unanswered(self) -> Advice:
        if self._connections >= (_REPORT_CONNECTIONS if self._report_is_due else 1):
            return self._last_resort()
        self._connections += 1
        self._asked_at, self._patience_s = self._clock(), max(self._patience_s, _CONNECTION_S)
        return Advice.CONNECT

    def _last_resort(self) -> Advice:
        return Advice.GIVE_UP if self._report_is_due else Advice.KILL
