"""``ResultOutbox``: results on their way from a node to Redis. Each is repeated until Redis has it, or says that it is too late.

What was confirmed is kept for a while: when Redis loses its data, it is said once more.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_FIRST_RETRY_S, _MAX_RETRY_S = 0.1, 2.0
_KEPT_S = 60.0  # after Redis has confirmed it
_KEPT_BYTES = 64 * 2**20
_PENDING_BYTES = 256 * 2**20  # past it the node takes no more jobs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedJob:
    """The result of one placement, signed."""

    r: str
    token: str
    attempt: int = 1  # the number of the placement among the job's
    client: str
    job_id: str
    outcome: str
    envelope: str = field(repr=False)
    blobs: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # by hash

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.envelope) + sum(map(len, self.blobs.values()))


class ResultOutbox:
    """The results that Redis does not have yet, and those that it had not long ago.

    Args:
        deliver: brings one to Redis and returns what that says, ``done`` or ``late``. Raises redis' errors.
        on_delivered: called with each and that answer, in the outbox's thread.
    """

    def __init__(
        self,
        deliver: Callable[[FinishedJob], str],
        on_delivered: Callable[[FinishedJob, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliver = deliver
        self._on_delivered = on_delivered
        self._clock = clock
        self._pending: deque[FinishedJob] = deque()
        self._kept: OrderedDict[str, tuple[FinishedJob, float]] = OrderedDict()  # by R
        self._kept_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jobmanager-results", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def close(self, timeout_s: float) -> int:
        """Deliver what is there, for so long at most. Returns how many results are left behind."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout_s)
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return len(self._pending)

    def put(self, result: FinishedJob) -> None:
        """Deliver a result as soon as possible."""
        with self._changed:
            self._pending.append(result)
            self._changed.notify_all()

    def say_again(self, r: str) -> bool:
        """Deliver a job's result once more, if it is there (still)."""
        with self._changed:
            self._forget_old()
            if r in self._kept:
                self._pending.append(self._kept.pop(r)[0])
                self._kept_bytes -= self._pending[-1].size
                self._changed.notify_all()
            return any(result.r == r for result in self._pending)

    def say_all_again(self) -> None:
        """Redis has lost its data."""
        with self._changed:
            self._forget_old()
            self._pending.extend(result for result, _ in self._kept.values())
            self._kept.clear()
            self._kept_bytes = 0
            self._changed.notify_all()

    def drop(self, rs: tuple[str, ...]) -> None:
        """The results of these jobs are wanted no more: they are other nodes' now."""
        with self._changed:
            self._pending = deque(result for result in self._pending if result.r not in rs)
            self._changed.notify_all()

    @property
    def is_full(self) -> bool:
        """Whether so much waits for Redis that the node must take no more jobs."""
        with self._changed:
            return sum(result.size for result in self._pending) > _PENDING_BYTES

    def __len__(self) -> int:
        return len(self._pending)

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while (result := self._next()) is not None:
            try:
                self._settle(result, self._deliver(result))
                retry_s = _FIRST_RETRY_S
            except RedisError as error:
                (_log.warning if retry_s == _FIRST_RETRY_S else _log.debug)(
                    "the result of job %s does not reach Redis, and is sent again: %s", result.job_id, error
                )
                self._put_last(result, retry_s)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)
            except Exception:  # noqa: BLE001 - the thread's edge: one result must not hold up the others
                _log.exception("the result of job %s cannot be sent", result.job_id)
                self._settle(result, "late")

    def _next(self) -> FinishedJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            return None if self._closing or not self._pending else self._pending[0]

    def _put_last(self, result: FinishedJob, retry_s: float) -> None:
        """A result that Redis refuses for a reason of its own must not hold up the others."""
        with self._changed:
            if result in self._pending:
                self._pending.remove(result)
                self._pending.append(result)
            self._changed.wait_for(lambda: self._closing, retry_s)

    def _settle(self, result: FinishedJob, answer: str) -> None:
        self._on_delivered(result, answer)
        with self._changed:
            if result in self._pending:
                self._pending.remove(result)
            if answer == "done":
                self._keep(result)
            self._forget_old()
            self._changed.notify_all()

    def _keep(self, result: FinishedJob) -> None:
        if (before := self._kept.pop(result.r, None)) is not None:
            self._kept_bytes -= before[0].size
        self._kept[result.r] = result, self._clock()
        self._kept_bytes += result.size

    def _forget_old(self) -> None:
        while self._kept:
            oldest, at = next(iter(self._kept.values()))
            if self._kept_bytes <= _KEPT_BYTES and self._clock() - at < _KEPT_S:
                return
            self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size
