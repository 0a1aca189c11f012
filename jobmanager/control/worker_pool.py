"""The process pool for submitters and deleters: a killed worker costs nothing but its own request's answer.

Every worker has a pipe of its own (a queue that several processes share holds a lock that a killed one never gives
back). Not thread-safe: the manager's loop alone uses it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from jobmanager.control.child_process import Child, Listener
from jobmanager.ipc.messages import PoolRequest, Shutdown, StartContainer
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MODULE = "jobmanager._pool_worker"
_STUCK_S = 2.0  # a request that takes longer waits for its engine; another worker may stand in
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
        self._idle: list[Child] = []
        self._busy: dict[Child, _Work] = {}
        self._waiting: dict[str, deque[PendingRequest]] = {}
        self._leaving: set[Child] = set()

    def warm_up(self, workers: int) -> None:
        """Start some workers before they are needed."""
        while len(self._idle) + len(self._busy) < min(workers, self._size) and (worker := self._new_worker()) is not None:
            self._idle.append(worker)

    def put(self, pending: PendingRequest) -> None:
        """Have a request served."""
        self._waiting.setdefault(pending.host, deque()).append(pending)
        self.dispatch()

    def dispatch(self) -> None:
        """Give waiting requests to workers as far as there are any."""
        for host in sorted(self._waiting, key=self._under_way):
            line = self._waiting[host]
            while line and self._under_way(host) < self._max_in_flight(host) and (worker := self._worker(host)) is not None:
                pending = line.popleft()
                self._busy[worker] = _Work(pending, self._clock())
                worker.send(pending.request)
            if not line:
                del self._waiting[host]

    def end_hung_workers(self) -> None:
        """Kill workers that are long past every timeout of their request; their death is then reported as any other."""
        now = self._clock()
        for worker, work in self._busy.items():
            if now - work.since > work.timeout_s:
                _log.warning("a pool worker hangs over container %s: ending it", work.pending.container)
                worker.kill()
                work.since, work.hangs = now, True  # its end is on its way

    def replied(self, worker: Child) -> PendingRequest:
        """A worker has answered; it takes the next request."""
        pending = self._busy.pop(worker).pending
        if len(self._idle) + self._busy_not_stuck() < self._size:
            self._idle.append(worker)
        else:  # a stand-in that is no longer needed
            self._leaving.add(worker)
            worker.send(Shutdown())
        return pending

    def died(self, worker: Child) -> LostRequest | None:
        """A worker has ended; the request that it had, if any, got no answer."""
        self._leaving.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        work = self._busy.pop(worker, None)
        return LostRequest(pending=work.pending, hung=work.hangs) if work is not None else None

    def __contains__(self, child: Child) -> bool:
        return child in self._busy or child in self._idle or child in self._leaving

    def workers(self) -> list[Child]:
        """All of them."""
        return [*self._idle, *self._busy, *self._leaving]

    def _worker(self, host: str) -> Child | None:
        """A worker for a request of this host. A host whose requests are stuck gets a few, and leaves the rest to others."""
        stuck = [work.pending.host for work in self._busy.values() if self._is_stuck(work)]
        if stuck.count(host) >= _MAX_STUCK:
            return None
        if self._idle:
            return self._idle.pop()
        return self._new_worker() if len(self._busy) - len(stuck) < self._size else None

    def _new_worker(self) -> Child | None:
        try:
            return Child(_MODULE, self._listen)
        except Exception as error:  # noqa: BLE001 - no memory, no descriptor, no process to be had: perhaps later
            _log.error("a pool worker cannot be started: %s", error)
            return None

    def _under_way(self, host: str) -> int:
        return sum(work.pending.host == host for work in self._busy.values())

    def _busy_not_stuck(self) -> int:
        return sum(not self._is_stuck(work) for work in self._busy.values())

    def _is_stuck(self, work: _Work) -> bool:
        return self._clock() - work.since >= _STUCK_S
