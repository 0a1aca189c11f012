"""The process pool for submitters and deleters: a killed worker costs nothing but its own request's answer.

A new worker needs a third of a second and as much of a processor before it takes a request. Mostly another one is free sooner:
so requests wait in their line, and a worker is started only for those that have waited for a moment.

Every worker has a pipe of its own (a queue that several processes share holds a lock that a killed one never gives
back). Not thread-safe: the manager's loop alone uses it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from jobmanager.control.child_process import Child, Listener
from jobmanager.ipc.messages import PoolRequest, Shutdown, StartContainer, WarmUp
from jobmanager.model.host import Address
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MODULE = "jobmanager._pool_worker"
_STUCK_S = 2.0  # a request that takes longer waits for its engine; another worker may stand in
_PATIENCE_S = 0.1  # for which a request waits for a worker that is there, before another one is started
_RETRY_S = 1.0  # after a worker that could not be started
_START_S = 60.0  # after which a worker that has not said that it is ready is ended
_MAX_STUCK = 4  # of each host; with the pool's size that bounds the number of workers
_CALLS = 8  # of the engine, at most, in one request
_PULL_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest:
    """A request on its way through the pool."""

    host: str
    container: str
    request: PoolRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRequest:
    """A request whose worker ended over it."""

    pending: PendingRequest
    hung: bool  # and was ended by us: its engine let it wait


@dataclass(slots=True)
class _Work:
    pending: PendingRequest
    since: float
    hangs: bool = False

    @property
    def timeout_s(self) -> float:
        request = self.pending.request
        return _PULL_S if isinstance(request, StartContainer) and request.address.pull == "missing" else _CALLS * request.timeout_s


class ProcessPool:
    """Workers in processes, and requests that wait for one, in a line for each host."""

    def __init__(
        self,
        listen: Listener,
        *,
        size: int,
        max_in_flight: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_in_flight`` says how many requests one host may have under way at once."""
        self._listen = listen
        self._size = size
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._starting: dict[Child, float] = {}  # since when
        self._idle: list[Child] = []
        self._busy: dict[Child, _Work] = {}
        self._waiting: dict[str, deque[tuple[PendingRequest, float]]] = {}  # and since when
        self._leaving: set[Child] = set()
        self._none_before = 0.0  # after a start that has failed

    def warm_up(self, address: Address) -> None:
        """Start the first worker before it is needed; ``address``: of a host that it may be for."""
        self._start_worker(address)

    def put(self, pending: PendingRequest) -> None:
        """Have a request served, by the next ``dispatch``."""
        self._waiting.setdefault(pending.host, deque()).append((pending, self._clock()))

    def dispatch(self) -> None:
        """Give waiting requests to workers as far as there are any, and start more for those that have waited for a moment."""
        for host in sorted(self._waiting, key=self._under_way):
            line = self._waiting[host]
            while line and self._idle and self._may_have_more(host):
                pending, _ = line.popleft()
                worker = self._idle.pop()
                self._busy[worker] = _Work(pending, self._clock())
                worker.send(pending.request)
            if not line:
                del self._waiting[host]
        longest = self._longest_waiting()
        if longest is None or not self._has_room() or self._clock() < self._none_before:
            return
        pending, since = longest
        if self._clock() >= since + _PATIENCE_S or not self.workers():
            self._start_worker(pending.request.address)

    def due_at(self) -> float:
        """When ``dispatch`` is to be called at the latest, by the monotonic clock; infinity: whenever something happens."""
        longest = self._longest_waiting()
        if longest is None or not self._has_room():
            return math.inf
        return max(longest[1] + _PATIENCE_S, self._none_before)

    def ready(self, worker: Child) -> None:
        """A worker takes requests."""
        if self._starting.pop(worker, None) is not None:
            self._keep_or_dismiss(worker)

    def end_hung_workers(self) -> None:
        """Kill workers that are long past every timeout of their request; their death is then reported as any other."""
        now = self._clock()
        for worker, since in self._starting.items():
            if now - since > _START_S:
                _log.warning("a pool worker does not get ready: ending it")
                worker.kill()
                self._starting[worker] = now  # its end is on its way
        for worker, work in self._busy.items():
            if now - work.since > work.timeout_s:
                _log.warning("a pool worker hangs over container %s: ending it", work.pending.container)
                worker.kill()
                work.since, work.hangs = now, True  # its end is on its way

    def replied(self, worker: Child) -> PendingRequest:
        """A worker has answered; it takes the next request."""
        pending = self._busy.pop(worker).pending
        self._keep_or_dismiss(worker)
        return pending

    def died(self, worker: Child) -> LostRequest | None:
        """A worker has ended; the request that it had, if any, got no answer.

        One that ends before it was ready takes along the request that it was started for, where no other worker could serve that:
        else workers would be started for it for ever.
        """
        self._leaving.discard(worker)
        if self._starting.pop(worker, None) is not None:
            self._none_before = self._clock() + _RETRY_S
            return None if self._at_work() else self._lost_longest_waiting()
        if worker in self._idle:
            self._idle.remove(worker)
        work = self._busy.pop(worker, None)
        return LostRequest(pending=work.pending, hung=work.hangs) if work is not None else None

    def __contains__(self, child: Child) -> bool:
        return child in self._busy or child in self._idle or child in self._starting or child in self._leaving

    def workers(self) -> list[Child]:
        """All of them."""
        return [*self._starting, *self._idle, *self._busy, *self._leaving]

    def _longest_waiting(self) -> tuple[PendingRequest, float] | None:
        """The request that has waited longest, of those hosts that may have another worker; and since when."""
        first = (line[0] for host, line in self._waiting.items() if self._may_have_more(host))
        return min(first, key=lambda waiting: waiting[1], default=None)

    def _may_have_more(self, host: str) -> bool:
        """Whether this host may have another worker. One whose requests are stuck gets a few, and leaves the rest to others."""
        stuck = sum(work.pending.host == host and self._is_stuck(work) for work in self._busy.values())
        return stuck < _MAX_STUCK and self._under_way(host) < self._max_in_flight(host)

    def _has_room(self) -> bool:
        """Whether another worker may be started: there are soon twice as many, and not all at once."""
        at_work, starting = self._at_work(), len(self._starting)
        return at_work + starting < self._size and starting < max(1, at_work)

    def _keep_or_dismiss(self, worker: Child) -> None:
        """It waits for a request, or leaves: then it has stood in for one that was stuck."""
        if self._at_work() < self._size:
            self._idle.append(worker)
        else:
            self._leaving.add(worker)
            worker.send(Shutdown())

    def _start_worker(self, address: Address) -> None:
        try:
            worker = Child(_MODULE, self._listen)
        except Exception as error:  # noqa: BLE001 - no memory, no descriptor, no process to be had: perhaps later
            _log.error("a pool worker cannot be started: %s", error)
            self._none_before = self._clock() + _RETRY_S
            return
        self._starting[worker] = self._clock()
        worker.send(WarmUp(address=address))

    def _lost_longest_waiting(self) -> LostRequest | None:
        longest = self._longest_waiting()
        if longest is None:
            return None
        host = longest[0].host
        self._waiting[host].popleft()
        if not self._waiting[host]:
            del self._waiting[host]
        return LostRequest(pending=longest[0], hung=False)

    def _under_way(self, host: str) -> int:
        return sum(work.pending.host == host for work in self._busy.values())

    def _at_work(self) -> int:
        """Workers that are ready, and not stuck."""
        return len(self._idle) + sum(not self._is_stuck(work) for work in self._busy.values())

    def _is_stuck(self, work: _Work) -> bool:
        return self._clock() - work.since >= _STUCK_S
