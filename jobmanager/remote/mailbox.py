"""The thread that reads what Redis has for one client: results, and news of its jobs. It believes nothing that is not signed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from jobmanager.model.result import JobResult, Outcome
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.records import BadMessage, ClientEvent, ResultMessage
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import READ_AT_ONCE, ClusterStore
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

MAX_RESULT_BYTES = 2**20  # what is longer is in blobs
_BLOCK_S = 2.0  # for which a read waits
_PAUSE_S = 0.5  # after an error, and while results wait for callbacks
_JOIN_S = 6.0
_BEGINNING = "0-0"


class Mailbox:
    """Reads one client's streams. ``start``, then ``close``; ``read_again`` when there may be something before its place."""

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        jobs: OpenJobs,
        *,
        client: str,
        read_result: Callable[[ResultMessage], JobResult],
        on_result: Callable[[OpenJob, JobResult], None],
        on_event: Callable[[OpenJob | None, ClientEvent], None],
        acknowledge: Callable[[str, str], None],
        redis_s: float,
    ) -> None:
        """``acknowledge`` gets entry and R of results that nobody waits for. ``redis_s``: the time limit of the connection."""
        self._store = store
        self._signer = signer
        self._jobs = jobs
        self._client = client
        self._read_result = read_result
        self._on_result = on_result
        self._on_event = on_event
        self._acknowledge = acknowledge
        self._block_s = min(_BLOCK_S, redis_s / 2)
        self._results_after, self._events_after = _BEGINNING, _BEGINNING
        self._again = False
        self._is_read = False  # all results, since they were last read from the beginning
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_until_closed, name="jobmanager-remote-reader", daemon=True)

    def start(self) -> None:
        """Start the thread: it reads all results that are there, and new events."""
        self._events_after = self._store.last_event(self._client)
        self._thread.start()

    def read_again(self) -> None:
        """Read all results from the beginning: some were not wanted yet, or Redis has lost its data."""
        self._again = True
        self._wake()

    def has_read_all(self) -> bool:
        """Whether all results that there were when ``read_again`` was called last are read."""
        return self._is_read and not self._again

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.ident is not None:
            self._wake()
            self._thread.join(_JOIN_S)

    def _wake(self) -> None:
        """An event that says nothing: the thread may wait for one."""
        try:
            self._store.send_event(self._client, "")
        except (RedisError, OSError):  # then it does not wait, or not for long
            pass

    def _read_until_closed(self) -> None:
        while not self._closing.is_set():
            try:
                self._read()
            except (RedisError, OSError) as error:
                _log.debug("results cannot be read now: %s", error)
                if str(error).startswith("WRONGTYPE"):
                    with suppress(RedisError, OSError):
                        self._store.drop_rubbish(self._client)
                self._closing.wait(_PAUSE_S)
            except Exception:  # noqa: BLE001 - the loop's edge
                _log.exception("the reader of results met an error and goes on")
                self._closing.wait(_PAUSE_S)

    def _read(self) -> None:
        if self._again:
            self._is_read = False
            self._again, self._results_after = False, _BEGINNING
            if not _is_before(self._events_after, self._store.last_event(self._client)):
                self._events_after = _BEGINNING
        if self._jobs.is_full_of_results():
            results: list[tuple[str, str, str]] = []
            events = self._store.read_events(self._client, after=self._events_after, block_s=_PAUSE_S)
        else:
            results, events = self._store.read_for_client(
                self._client, results_after=self._results_after, events_after=self._events_after, block_s=self._block_s
            )
            self._is_read = self._is_read or not results
        if len(events) == READ_AT_ONCE:  # more of them may come before these results, which are read again
            results = []
        for entry, envelope in events:
            self._events_after = entry
            self._take_event(envelope)
        for entry, r, envelope in results:
            self._take_result(entry, r, envelope)
            self._results_after = entry

    def _take_event(self, envelope: str) -> None:
        if not envelope:
            return
        try:
            event = opened(self._signer, ClientEvent, envelope)
            self._on_event(self._jobs.by_r(event.r), event)
        except (BadSignature, BadMessage) as error:
            _log.warning("an event is not believed: %s", error)
        except Exception:  # noqa: BLE001 - one event must not cost the others
            _log.exception("an event could not be taken")

    def _take_result(self, entry: str, r: str, envelope: str) -> None:
        job = self._jobs.by_r(r)
        if job is None:
            self._acknowledge(entry, r)
            return
        try:
            message = opened(self._signer, ResultMessage, envelope, MAX_RESULT_BYTES)
            if (message.r, message.job_id) != (r, job.job_id):
                raise BadMessage("it is the result of another job")
        except (BadSignature, BadMessage) as error:
            _log.error("a result of job %s is not believed: %s", job.job_id, error, extra={"job_id": job.job_id})
            self._acknowledge(entry, "")
            return
        if (ready := self._jobs.decide(job, job.result or self._result(job, message), entry)) is not None:
            self._on_result(ready, ready.result or _unreadable(job, "it is gone"))
        elif self._jobs.by_r(r) is None:  # its callback has returned while this was read: nobody else knows of the entry
            self._acknowledge(entry, r)

    def _result(self, job: OpenJob, message: ResultMessage) -> JobResult:
        try:
            result = self._read_result(message)
        except (RedisError, OSError):  # it is read again
            raise
        except Exception as error:  # noqa: BLE001 - no other result will come
            _log.exception("the result of job %s cannot be read", job.job_id)
            return _unreadable(job, f"{type(error).__name__}: {error}")
        return result if result.job_id == job.job_id else _unreadable(job, "it is the result of another job")


def _is_before(entry: str, other: str) -> bool:
    """Whether an entry of a stream is the other one or came before it; False: the stream was begun anew."""
    first, second = (tuple(int(part) for part in each.split("-") if part.isdecimal()) for each in (entry, other))
    return first <= second


def _unreadable(job: OpenJob, why: str) -> JobResult:
    return JobResult(job_id=job.job_id, outcome=Outcome.CRASH, text=f"its result came and cannot be read: {why}")
