"""``OpenJobWatch``: looks after the open jobs of a client for which nobody else may care any more.

A record, a result or a place in the queue can be deleted by whoever may write to Redis, and no dispatcher may live. No job may
stay open for ever because of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.store import ClusterStore
from jobmanager.results.verdict import crash_verdict

_AT_ONCE = 500  # records that are looked at in one go
_UNDISPATCHED_S = 60.0  # after a job has waited too long, for the dispatcher to say so
_LIST_S = 60.0  # between two looks at the whole list of waiting jobs


class OpenJobWatch:
    """One thread has it: the keeper's.

    Args:
        say_again: gets jobs whose records are gone.
        read_again: has all results read from the beginning.
        has_read_all: whether that is done.
        end_waiting: ends a job by its client's word, if it still waits.
        queue_timeout_s: for which a job may wait without a dispatcher, or without a place in the list of waiting jobs. Else the
            dispatcher sees to it.
        patience_s: for which nodes can still say what they have.
    """

    def __init__(
        self,
        store: ClusterStore,
        jobs: OpenJobs,
        *,
        say_again: Callable[[list[OpenJob]], object],
        read_again: Callable[[], None],
        has_read_all: Callable[[], bool],
        end_waiting: Callable[[OpenJob], None],
        queue_timeout_s: float,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._say_again = say_again
        self._read_again = read_again
        self._has_read_all = has_read_all
        self._end_waiting = end_waiting
        self._queue_timeout_s = queue_timeout_s
        self._patience_s = patience_s
        self._clock = clock
        self._to_look_at: list[OpenJob] = []
        self._gone_since: dict[str, float] = {}  # by R
        self._asked: set[str] = set()  # R of those for which all results are read again
        self._next_round = self._led_at = clock()  # when a dispatcher was seen last
        self._listed: set[str] = set()  # R of all waiting jobs, as they were read last
        self._next_list = clock()

    def look(self) -> None:
        """Look at some jobs; in the end at all. Raises redis' own errors."""
        if not self._to_look_at and self._clock() >= self._next_round:
            self._next_round = self._clock() + self._patience_s / 4
            if self._store.leader():
                self._led_at = self._clock()
            self._to_look_at = self._jobs.accepted_and_undecided()
            open_now = {job.r for job in self._to_look_at}
            self._asked &= open_now
            self._gone_since = {r: since for r, since in self._gone_since.items() if r in open_now}
        jobs, self._to_look_at = self._to_look_at[:_AT_ONCE], self._to_look_at[_AT_ONCE:]
        if jobs:
            self._look_at(zip(jobs, self._store.states([job.r for job in jobs]), strict=True))

    def _look_at(self, seen: Iterable[tuple[OpenJob, tuple[str, float]]]) -> None:
        gone, asks = [], len(self._asked)
        for job, (state, for_s) in seen:
            if state == "done":
                self._has_ended(job)
            elif not state and job.sent is None:
                self._is_lost(job)
            elif state == "waiting" and for_s > self._queue_timeout_s + _UNDISPATCHED_S:
                self._has_waited_long(job)
            else:
                self._gone_since.pop(job.r, None)
            if not state and job.sent is not None:
                gone.append(job)
        if len(self._asked) > asks:
            self._read_again()
        if gone:
            self._say_again(gone)

    def _has_waited_long(self, job: OpenJob) -> None:
        """Behind others, perhaps. It ends when nobody is there to place it, or nobody can know that it waits."""
        if self._clock() - self._led_at > self._queue_timeout_s + _UNDISPATCHED_S:
            self._end_waiting(job)
        elif job.r in self._waiting():
            self._gone_since.pop(job.r, None)
        elif self._was_patient(job):
            self._end_waiting(job)

    def _waiting(self) -> set[str]:
        if self._clock() >= self._next_list:
            self._next_list = self._clock() + _LIST_S
            self._listed = set(self._store.waiting())
        return self._listed

    def _has_ended(self, job: OpenJob) -> None:
        """Its result was there in the same moment, unless somebody has deleted it. It may be on its way: then it comes soon."""
        if self._clock() - self._gone_since.get(job.r, self._clock()) > self._patience_s / 2 and job.r not in self._asked:
            self._asked.add(job.r)
        elif self._was_patient(job) and job.r in self._asked and self._has_read_all():
            why = "it has ended, and its result is gone: somebody has deleted it from Redis"
            self._jobs.give_up(job, crash_verdict("result_lost", why))

    def _is_lost(self, job: OpenJob) -> None:
        """A process before this one has sent it, and nobody can say it again. Its node has had its time to."""
        if self._was_patient(job):
            why = "Redis has lost it, and the process that sent it is gone"
            self._jobs.give_up(job, crash_verdict("redis_lost_data", why))

    def _was_patient(self, job: OpenJob) -> bool:
        since = self._gone_since.setdefault(job.r, self._clock())
        return self._clock() - since > self._patience_s
