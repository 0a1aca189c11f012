"""The forecast: the order in which the waiting jobs will start as things stand, and how long each will wait.

It is computed from a snapshot of queue and hosts, which nothing changes any more, so no lock is held meanwhile.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, Protocol

from jobmanager.scheduling.durations import Durations, Expected
from jobmanager.scheduling.fair_shares import Account
from jobmanager.scheduling.hosts import HostTable
from jobmanager.scheduling.waiting_queue import Cost, QueueEntry, RequirementClass, WaitingQueue

_LONG_QUEUE = 1000  # a forecast of more jobs is used again for a while
_JOBS_PER_SECOND_OF_AGE = 100_000
_OUTLASTS = 0.25  # a job that has taken longer than expected is expected to take this part of the time still
_MAX_UNSURE = 0.25  # of a wait: when a larger part depends on unknown durations, the wait is unknown


class HeldSlot(Protocol):
    """A slot that is taken."""

    @property
    def name(self) -> str:
        """By which its host knows it."""
        ...

    @property
    def host(self) -> str:
        """Where it is."""
        ...

    @property
    def cost(self) -> Cost | None:
        """What it is expected to cost; None: no job has it."""
        ...

    @property
    def is_released(self) -> bool:
        """Whether its job needs it no more."""
        ...


class HostCapacity(NamedTuple):
    """What a host has for jobs; no slot while it is down."""

    slots: int
    memory_mib: int


class BusySlot(NamedTuple):
    """A slot that is taken, and for how long it is expected to be."""

    host: str
    memory_mib: int
    left: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """Queue and hosts at one moment."""

    now: float
    entries: Sequence[QueueEntry]
    start_tag_s: Mapping[Account, float]
    durations: Durations
    hosts: Mapping[str, HostCapacity]
    could_run: Mapping[RequirementClass, frozenset[str]]  # names of hosts
    busy: Sequence[BusySlot]


class Forecast:
    """What is expected, as things stood in a snapshot."""

    def __init__(self, snapshot: QueueSnapshot) -> None:
        self._snapshot = snapshot
        self.order = dispatch_order(snapshot)
        self.positions = {entry.job_id: number for number, entry in enumerate(self.order)}
        self._waits: dict[tuple[frozenset[str], int], list[tuple[int, float]]] = {}
        self._memory_waits: dict[tuple[frozenset[str], int], float] = {}

    def is_recent(self, now: float) -> bool:
        """Whether it is too young for another to be worth its cost: up to a second, for 100,000 jobs."""
        return now - self._snapshot.now <= len(self.order) / _JOBS_PER_SECOND_OF_AGE

    def wait(self, job_id: str) -> tuple[int, float | None]:
        """How many jobs get one of its possible hosts before it, and in how many seconds it gets one; None: unknown."""
        position = self.positions[job_id]
        entry = self.order[position]
        hosts = self._snapshot.could_run[entry.priority_class.req_class]
        jobs_before, wait_s = self._waits_for(hosts, 0)[position]
        memory_mib = entry.requirements.memory_mib
        capacities = [self._snapshot.hosts[name] for name in hosts]
        if any(host.slots * memory_mib > host.memory_mib for host in capacities):  # fewer of its size fit than there are slots
            memory_wait_s = self._waits_for(hosts, memory_mib)[position][1]
        else:  # it starts beside large jobs, but not before the running ones have left it room
            memory_wait_s = self._memory_wait(hosts, memory_mib)
        wait_s = max(wait_s, memory_wait_s)
        return jobs_before, wait_s if math.isfinite(wait_s) else None

    def _waits_for(self, hosts: frozenset[str], size_mib: int) -> list[tuple[int, float]]:
        if (hosts, size_mib) not in self._waits:
            self._waits[hosts, size_mib] = _waits(self._snapshot, self.order, hosts, size_mib)
        return self._waits[hosts, size_mib]

    def _memory_wait(self, hosts: frozenset[str], size_mib: int) -> float:
        if (hosts, size_mib) not in self._memory_waits:
            self._memory_waits[hosts, size_mib] = _if_known(*_free_at(self._snapshot, hosts, size_mib))
        return self._memory_waits[hosts, size_mib]


class Forecaster:
    """Makes snapshots and forecasts. ``snapshot`` and ``recent`` need the ledger's lock; ``of`` is called without it."""

    def __init__(
        self,
        queue: WaitingQueue,
        hosts: HostTable,
        slots: Callable[[], Iterable[HeldSlot]],
        durations: Durations,
        clock: Callable[[], float],
    ) -> None:
        """``slots`` returns the slots that are taken now, each of a host in the table."""
        self._queue = queue
        self._hosts = hosts
        self._slots = slots
        self._durations = durations
        self._clock = clock
        self._last: Forecast | None = None

    def snapshot(self) -> QueueSnapshot:
        """How things stand now."""
        now, hosts = self._clock(), self._hosts
        return QueueSnapshot(
            now=now,
            entries=list(self._queue),
            start_tag_s=self._queue.shares.waiting_accounts(),
            durations=self._durations.copy(),
            hosts={host.name: HostCapacity(host.limit if host.is_up else 0, host.memory_mib) for host in hosts},
            could_run={req_class: hosts.expected_hosts(req_class.requirements) for req_class in self._queue.req_classes()},
            busy=[
                BusySlot(slot.host, hosts[slot.host].taken[slot.name].memory_mib, _left(slot, self._durations, now))
                for slot in self._slots()
            ],
        )

    def recent(self, job_id: str) -> Forecast | None:
        """The last forecast, if the queue was long, it is not old, and the job is in it."""
        last = self._last
        if last is None or len(last.order) < _LONG_QUEUE or not last.is_recent(self._clock()):
            return None
        return last if job_id in last.positions else None

    def of(self, known: QueueSnapshot | Forecast) -> Forecast:
        """The forecast from a snapshot; it is remembered."""
        if isinstance(known, QueueSnapshot):
            known = self._last = Forecast(known)
        return known

    def forget_old(self) -> None:
        """Drop the last forecast once it is old: it holds entries of jobs that are gone."""
        if self._last is not None and not self._last.is_recent(self._clock()):
            self._last = None


def _left(slot: HeldSlot, durations: Durations, now: float) -> Expected:
    """For how long a slot may still be taken. One that was released counts as free."""
    if slot.cost is None or slot.is_released:
        return Expected(0.0, 0.0)
    seconds, unsure_s = durations.expected(slot.cost.duration_key)
    left_s = max(seconds + unsure_s - (now - slot.cost.started_at), _OUTLASTS * seconds)
    return Expected(left_s / 2, left_s / 2) if unsure_s else Expected(left_s, 0.0)


def dispatch_order(snapshot: QueueSnapshot) -> list[QueueEntry]:
    """The jobs by priority, then by what their launcher will have used when it comes to them.

    Starts out of turn are not foreseen. Plain lists of numbers are sorted rather than pairs: the garbage collector looks at
    a hundred thousand new pairs again and again.
    """
    entries = sorted(snapshot.entries, key=attrgetter("arrival"))
    costs_s = {key: snapshot.durations.cost_s(key) for key in set(map(attrgetter("duration_key"), entries))}
    tags_s = dict(snapshot.start_tag_s)
    tag_s: list[float] = []
    priorities: defaultdict[int, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        account = entry.account
        before_s = tags_s[account]
        tag_s.append(before_s)
        tags_s[account] = before_s + costs_s[entry.duration_key]
        priorities[account.priority].append(number)
    for numbers in priorities.values():
        numbers.sort(key=tag_s.__getitem__)
    return [entries[number] for priority in sorted(priorities) for number in priorities[priority]]


def _waits(snapshot: QueueSnapshot, order: Sequence[QueueEntry], hosts: frozenset[str], size_mib: int) -> list[tuple[int, float]]:
    """For each job, if it could run on these hosts: how many get a slot there before it, and when it gets one; inf: unknown.

    Jobs take the slot that is free first, one after the other. A job that could run elsewhere, too, counts by the part of
    its slots that are here. With ``size_mib``, slots are pieces of memory of that size, and a job counts by its memory.
    """
    free_at, unsure_s = _free_at(snapshot, hosts, size_mib)
    loads: dict[tuple[RequirementClass, object], Expected] = {}
    waits: list[tuple[int, float]] = []
    before = 0
    for entry in order:
        key = (entry.priority_class.req_class, entry.duration_key)
        if key not in loads:
            loads[key] = _load(snapshot, entry, hosts, size_mib)
        seconds, more_s = loads[key]
        waits.append((before, _if_known(free_at, unsure_s)))
        if seconds:
            before += 1
            unsure_s += more_s
            heapq.heapreplace(free_at, free_at[0] + seconds)
    return waits


def _if_known(free_at: Sequence[float], unsure_s: float) -> float:
    """In how many seconds the first slot of a heap is free; inf when too much of the time until then is not sure."""
    return math.inf if 0 < _MAX_UNSURE * free_at[0] * len(free_at) < unsure_s else free_at[0]


def _free_at(snapshot: QueueSnapshot, hosts: frozenset[str], size_mib: int) -> tuple[list[float], float]:
    """A heap: in how many seconds each slot of these hosts is free. And how much of their sum is not sure."""
    free_at: list[float] = []
    unsure_s = 0.0
    for name in hosts:
        slots, memory_mib = snapshot.hosts[name]
        size, capacity = (size_mib, memory_mib if slots else 0) if size_mib else (1, slots)
        ends = sorted((busy.left, busy.memory_mib if size_mib else 1) for busy in snapshot.busy if busy.host == name)
        unsure_s += sum(left.unsure_s * amount / size for left, amount in ends)
        free, seconds = capacity - sum(amount for _, amount in ends), 0.0
        for number in range(1, capacity // size + 1):
            while free < number * size:
                left, amount = ends.pop(0)
                free, seconds = free + amount, left.seconds
            free_at.append(seconds)
    heapq.heapify(free_at)
    return free_at or [math.inf], unsure_s


def _load(snapshot: QueueSnapshot, entry: QueueEntry, hosts: frozenset[str], size_mib: int) -> Expected:
    """For how long a job is expected to take one slot of these hosts."""
    could = snapshot.could_run[entry.priority_class.req_class]
    everywhere = sum(snapshot.hosts[name].slots for name in could)
    part = (
        sum(snapshot.hosts[name].slots for name in could & hosts) / everywhere if everywhere else float(not could.isdisjoint(hosts))
    )
    if size_mib:
        part *= entry.requirements.memory_mib / size_mib
    seconds, unsure_s = snapshot.durations.expected(entry.duration_key)
    return Expected(seconds * part, unsure_s * part)
