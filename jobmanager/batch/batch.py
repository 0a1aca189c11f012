"""``Batch``: the jobs of one ``map`` that are under way."""

from __future__ import annotations

import itertools
import os
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobmanager.batch.progress import ProgressBar, ProgressCounter
from jobmanager.batch.settings import BatchSettings
from jobmanager.batch.stored_results import ResultKey, StoredResults, input_key
from jobmanager.errors import InvalidInput, InvalidValue, JobManagerError, QueueFull
from jobmanager.model.result import JobResult, Outcome
from jobmanager.results.verdict import KillReason
from jobmanager.threads.deadlock_guard import is_inside_callback, refuse_inside_callback
from jobmanager.threads.log_thread import logger
from jobmanager.threads.main_thread import outside_main_thread

_log = logger(__name__)

WAIT_S = 1.0  # between looks at how many hosts there are, and at a queue that is full of others' jobs
_JOBS_FOR_A_SLOT = 2  # under way: one runs, one waits for its slot
_FEWEST_AT_ONCE = 2
_TAKEN_FOR_ONE_AT_ONCE = 4  # inputs that were taken and not given out, for each that may be under way
_STOP_S = 15.0  # for killed jobs to end
_UNSURE_S = 1.0  # for a job to become known whose submission was interrupted
_STOP_CHECK_S = 0.1
_OF_A_CLOSE = {KillReason.CLOSE.value, KillReason.DRAIN_OVER.value}


@dataclass(slots=True, kw_only=True, eq=False)
class _Taken:
    """An input that was taken and not given out yet."""

    given: Any
    number: int
    job_id: str
    key: ResultKey | None  # None without a results file
    digest: str  # of the input, where the caller names it; else its key is one
    is_stored: bool = False  # its result is in the file from before
    is_accepted: bool = False  # new_job has returned
    result: JobResult | None = None
    error: Exception | None = None  # its result cannot be written


class Batch:
    """Begins jobs, and gives out their results. One thread at a time has it; results come from callback threads.

    Callbacks write results to the file, so that what has ended is not run again whatever happens to the one who iterates.
    """

    def __init__(self, settings: BatchSettings, total: int | None, *, on_ended: Callable[[], object] = lambda: None) -> None:
        """``on_ended`` is called in callback threads: there is something to collect.

        Raises:
            WouldDeadlock: called inside a callback.
        """
        refuse_inside_callback()
        self._pid = os.getpid()
        self._settings = settings
        self._on_ended = on_ended
        self._numbers = itertools.count()
        self._repeats: dict[str, int] = {}
        self._taken: dict[int, _Taken] = {}  # by number: those that were not given out
        self._under_way: dict[str, _Taken] = {}  # by job id: those whose result has not been collected
        self._refused: _Taken | None = None  # the queue was full; it is begun next
        self._passed_over: deque[tuple[Any, InvalidInput]] = deque()  # inputs that were refused, and not told
        self._ready: deque[_Taken] = deque()  # with a result, in the order of their ends
        self._ended: queue.SimpleQueue[_Taken] = queue.SimpleQueue()  # an Event's lock may be held while a signal handler runs
        self._limit, self._next_look = _FEWEST_AT_ONCE, 0.0
        self._is_stopping = False
        self._counter = ProgressCounter(total)
        self._bar: ProgressBar | None = None
        self._stored: StoredResults | None = None

    def open(self) -> None:
        """Open the results file, and have a bar.

        Raises:
            InvalidValue, OSError: of the results file.
            NotSupported: the progress bar needs rich.
        """
        if self._settings.progress is True:
            self._bar = ProgressBar(self._settings.task.title)
        if self._settings.results is not None:
            opened = partial(StoredResults, self._settings.results, self._settings.task)
            self._stored = outside_main_thread(opened, takes_long=True)

    @property
    def is_empty(self) -> bool:
        """Whether everything that was taken was given out."""
        return not self._taken

    def has_room(self) -> bool:
        """Whether another input may be taken now."""
        limit = self._at_once()
        return self._refused is None and len(self._under_way) < limit and len(self._taken) < _TAKEN_FOR_ONE_AT_ONCE * limit

    def take(self, given: Any) -> None:
        """Begin the job of an input, unless its result is there already. Raises what the client's ``new_job`` raises."""
        number = next(self._numbers)
        try:
            self._take(given, number)
        except InvalidInput as error:
            self._pass_over(given, error)

    def _take(self, given: Any, number: int) -> None:
        try:
            digest = input_key(given) if self._stored is not None and self._settings.key is not None else ""
            key = self._key(given)
        except InvalidInput as error:
            _say_which(error, number)
            raise
        taken = _Taken(given=given, number=number, job_id=uuid.uuid4().hex, key=key, digest=digest)
        self._taken[taken.number] = taken
        if self._stored is not None and taken.key is not None and taken.key in self._stored:
            if digest:
                self._stored.check_input(taken.key, digest)
            taken.is_stored = True
            self._counter.add_stored()
            self._is_ready(taken)
        else:
            self._begin(taken)

    def begin_refused(self) -> None:
        """Try again to begin the job that found the queue full."""
        taken, self._refused = self._refused, None
        if taken is None:
            return
        try:
            self._begin(taken)
        except InvalidInput as error:
            self._pass_over(taken.given, error)

    def collect(self, wait_s: float = 0.0) -> None:
        """Take in the results that have come; wait for one if there is none. Raises what kept one from being written."""
        with suppress(queue.Empty):
            ended = self._ended.get(timeout=wait_s) if wait_s else self._ended.get_nowait()
            while True:
                self._collected(ended)
                ended = self._ended.get_nowait()

    def next_pair(self) -> tuple[Any, JobResult] | None:
        """The next input and result to be given out; None when it is not there yet."""
        if self._settings.ordered:
            taken = next(iter(self._taken.values()), None)
            if taken is None or not (taken.is_stored or taken.result):
                return None
        elif self._ready:
            taken = self._ready.popleft()
        else:
            return None
        del self._taken[taken.number]
        return taken.given, self._result_of(taken)

    def tell_refused(self) -> None:
        """Tell which inputs were refused, in the thread of whoever iterates."""
        while self._passed_over and self._settings.on_refused is not None:
            self._settings.on_refused(*self._passed_over.popleft())

    def show_progress(self) -> None:
        """Tell how far it is."""
        show = self._bar or self._settings.progress
        if callable(show):
            show(self._counter.progress(len(self._under_way)))

    def stop(self) -> None:
        """Kill what is under way, wait until it has ended, and let the file go. Results that come meanwhile are written still."""
        if self._pid != os.getpid():  # all of it is the parent's
            return
        self._is_stopping = True
        try:
            self._end_all()
        finally:
            if self._stored is not None:
                outside_main_thread(self._stored.close, takes_long=True)
            if self._bar is not None:
                self._bar.close()

    # ---- within

    def _at_once(self) -> int:
        if self._settings.at_once is not None:
            return self._settings.at_once
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + WAIT_S
            slots = sum(host.limit for host in self._settings.client.hosts() if host.up)
            self._limit = max(_FEWEST_AT_ONCE, _JOBS_FOR_A_SLOT * slots)
        return self._limit

    def _key(self, given: Any) -> ResultKey | None:
        if self._stored is None:
            return None
        key = input_key(given) if self._settings.key is None else self._settings.key(given)
        if not isinstance(key, str) or not key:
            raise InvalidValue(f"key must return a text that is not empty, not {key!r}")
        self._repeats[key] = self._repeats.get(key, 0) + 1
        return ResultKey(key, self._repeats[key])

    def _begin(self, taken: _Taken) -> None:
        self._under_way[taken.job_id] = taken  # before it is submitted: it may end, or ctrl-C may come, before new_job returns
        try:
            self._settings.client.new_job(
                self._settings.task, taken.given, partial(self._came, taken), job_id=taken.job_id, **self._settings.options
            )
            taken.is_accepted = True
        except QueueFull:
            del self._under_way[taken.job_id]
            self._refused = taken
        except JobManagerError as error:
            named = f" ({taken.key.key!r:.100})" if taken.key is not None and taken.digest else ""
            if isinstance(error, InvalidInput):  # it was never accepted
                del self._under_way[taken.job_id], self._taken[taken.number]
            _say_which(error, taken.number, named)
            raise

    def _pass_over(self, given: Any, error: InvalidInput) -> None:
        if self._settings.on_refused is None:
            raise error
        self._counter.add_refused()
        self._passed_over.append((given, error))

    def _came(self, taken: _Taken, result: JobResult) -> None:
        """The callback."""
        try:
            if self._stored is not None and taken.key is not None and not self._is_broken_off(result):
                self._stored.append(taken.key, result, taken.digest)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody iterates
            taken.error = error
        taken.result = result
        self._ended.put(taken)
        self._on_ended()

    def _is_broken_off(self, result: JobResult) -> bool:
        """Whether it says nothing of its input: it was killed as this batch stops, or its client closes."""
        if result.outcome is not Outcome.KILLED:
            return False
        return self._is_stopping or any(
            found.kind == "requested_by" and found.value in _OF_A_CLOSE for found in result.evidence
        )

    def _collected(self, taken: _Taken) -> None:
        self._under_way.pop(taken.job_id, None)
        if taken.error is not None and not self._is_stopping:
            raise taken.error
        assert taken.result is not None
        self._counter.add(taken.result)
        self._is_ready(taken)

    def _is_ready(self, taken: _Taken) -> None:
        if not self._settings.ordered:
            self._ready.append(taken)

    def _result_of(self, taken: _Taken) -> JobResult:
        if taken.result is not None:
            return taken.result
        assert self._stored is not None and taken.key is not None
        return self._stored.read(taken.key)

    def _end_all(self) -> None:
        self.collect()
        for taken in list(self._under_way.values()):
            self._kill(taken)
        if is_inside_callback():  # it may be the one that the results wait for
            return
        until = time.monotonic() + _STOP_S
        unsure_until = time.monotonic() + _UNSURE_S
        while (left := self._without_result()) and time.monotonic() < until:
            self.collect(_STOP_CHECK_S)
            for taken in [each for each in left if not each.is_accepted]:
                if not self._kill(taken) and time.monotonic() > unsure_until:  # it was never accepted
                    self._under_way.pop(taken.job_id, None)
        if left:
            _log.warning("%d killed jobs of a batch have not ended after %g s", len(left), _STOP_S)

    def _without_result(self) -> list[_Taken]:
        """What is under way indeed. One whose result was being collected when ctrl-C came is not."""
        return [taken for taken in self._under_way.values() if taken.result is None]

    def _kill(self, taken: _Taken) -> bool:
        with suppress(JobManagerError):
            return self._settings.client.kill_job(taken.job_id)
        return False


def _say_which(error: JobManagerError, number: int, named: str = "") -> None:
    """Have an error say of which input it is."""
    error.args = (f"input number {number + 1}{named}: {error}", *error.args[1:])
