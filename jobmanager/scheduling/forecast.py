"""The outlook: in which order the waiting jobs will start as things stand, and how long each will wait.

It is worked out from a picture of the queue and the hosts, which nothing changes any more, so that no lock is held meanwhile.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from jobmanager.scheduling.containers import ContainerRecord, ContainerTable
from jobmanager.scheduling.durations import DurationKey, Durations, ExpectedDurations
from jobmanager.scheduling.fair_shares import Account
from jobmanager.scheduling.hosts import HostTable
from jobmanager.scheduling.waiting_queue import (
    PATIENCE_S,
    STARTS_FOR_ONE,
    PriorityClass,
    QueueEntry,
    RequirementClass,
    WaitingQueue,
)

_LONG_QUEUE = 1000  # an outlook on more jobs is used again for a while
_JOBS_PER_SECOND_OF_AGE = 100_000
_OUTLASTS = 0.25  # of what its kind takes: what one that has taken longer is expected to take still


@dataclass(frozen=True, slots=True, kw_only=True)
class BusySlot:
    """A slot that is taken."""

    host: str
    memory_mib: int
    left_s: float  # expected, until it is free


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapacity:
    """A host that takes jobs."""

    slots: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """Queue and hosts at one moment."""

    now: float
    entries: Sequence[QueueEntry]
    start_tag_s: Mapping[Account, float]  # what counts for each launcher's turn
    since: Mapping[PriorityClass, float]  # when each group last had a start, or began to wait
    starts: int  # in turn since the last one out of turn
    expected_s: Mapping[DurationKey, float]  # how long jobs of each kind and limit hold a slot
    hosts: Mapping[str, HostCapacity]
    could_run: Mapping[RequirementClass, frozenset[str]]  # names of hosts
    busy: Sequence[BusySlot]


def _left_s(record: ContainerRecord, expected: ExpectedDurations, now: float) -> float:
    """For how long a container may still hold its slot: one that outlasts its kind, for a while; one that is removed, not."""
    if record.cost is None or record.being_deleted:
        return 0.0
    expected_s = expected[record.cost.duration_key]
    return max(expected_s - (now - record.cost.started_at), _OUTLASTS * expected_s)


class Forecast:
    """What is to be expected, as things stood in a picture."""

    def __init__(self, snapshot: QueueSnapshot) -> None:
        self._snapshot = snapshot
        self._made_at = snapshot.now
        self.order = _in_order(snapshot)
        self._numbers: dict[str, int] | None = None
        self._turns: dict[frozenset[str], list[tuple[int, float]]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._positions()

    def is_recent(self, now: float) -> bool:
        """Whether it is younger than is worth the making of another: a second, for 100,000 jobs."""
        return now - self._made_at <= len(self.order) / _JOBS_PER_SECOND_OF_AGE

    def turn(self, job_id: str) -> tuple[int, float]:
        """How many jobs go before it to the hosts that could run it, and in how many seconds it will be given one."""
        number = self._positions()[job_id]
        hosts = self._snapshot.could_run[self.order[number].priority_class.req_class]
        if hosts not in self._turns:
            self._turns[hosts] = _turns(self._snapshot, self.order, hosts)
        return self._turns[hosts][number]

    def _positions(self) -> dict[str, int]:
        if self._numbers is None:
            self._numbers = {entry.job_id: number for number, entry in enumerate(self.order)}
        return self._numbers


class Forecaster:
    """Where pictures and outlooks come from. ``picture`` and ``recent`` need the ledger's lock, ``of`` must not have it."""

    def __init__(
        self, queue: WaitingQueue, hosts: HostTable, containers: ContainerTable, durations: Durations, clock: Callable[[], float]
    ) -> None:
        self._queue = queue
        self._hosts = hosts
        self._containers = containers
        self._durations = durations
        self._clock = clock
        self._last: Forecast | None = None

    def snapshot(self) -> QueueSnapshot:
        """How things stand now."""
        now, hosts = self._clock(), self._hosts
        req_classes = self._queue.req_classes()
        expected = self._durations.as_now()
        return QueueSnapshot(
            now=now,
            entries=list(self._queue),
            start_tag_s=self._queue.accounts(),
            since={
                priority_class: priority_class.since
                for req_class in req_classes
                for priority_class in req_class.priority_classes.values()
            },
            starts=self._queue.starts_in_turn(),
            expected_s=expected,
            hosts={host.name: HostCapacity(slots=host.limit, memory_mib=host.memory_mib) for host in hosts if host.limit},
            could_run={req_class: hosts.expected_hosts(req_class.requirements) for req_class in req_classes},
            busy=[
                BusySlot(
                    host=record.host, memory_mib=hosts[record.host].taken[name].memory_mib, left_s=_left_s(record, expected, now)
                )
                for name, record in self._containers.items()
            ],
        )

    def recent(self, job_id: str) -> Forecast | None:
        """The last outlook, if the queue was long, it is not old, and the job is in it."""
        last = self._last
        if last is None or len(last.order) < _LONG_QUEUE or not last.is_recent(self._clock()):
            return None
        return last if job_id in last else None

    def of(self, known: QueueSnapshot | Forecast) -> Forecast:
        """The outlook from a picture; it is remembered."""
        if isinstance(known, QueueSnapshot):
            known = self._last = Forecast(known)
        return known

    def forget_old(self) -> None:
        """Do not keep the places of jobs that are gone."""
        if self._last is not None and not self._last.is_recent(self._clock()):
            self._last = None


# ---- the order


def _in_order(snapshot: QueueSnapshot) -> list[QueueEntry]:
    entries = sorted(snapshot.entries, key=attrgetter("arrival"))
    costs_s = [snapshot.expected_s[duration_key] for duration_key in map(attrgetter("duration_key"), entries)]
    classes = _in_turn(snapshot, entries, costs_s)
    if len(classes) < 2:
        return [entry for entries in classes.values() for entry in entries]
    pace_s = sum(costs_s) / len(costs_s) / max(1, sum(host.slots for host in snapshot.hosts.values()))
    return _with_others_out_of_turn(snapshot, classes, pace_s)


def _in_turn(snapshot: QueueSnapshot, entries: Sequence[QueueEntry], costs_s: Sequence[float]) -> dict[int, list[QueueEntry]]:
    """The jobs of each priority, by what their launcher will have had when it comes to them.

    Plain lists of numbers are sorted rather than pairs: the garbage collector looks at a hundred thousand new pairs again
    and again.
    """
    start_tags_s = dict(snapshot.start_tag_s)
    had_s: list[float] = []
    classes: defaultdict[int, list[int]] = defaultdict(list)
    for number, (account, cost_s) in enumerate(zip(map(attrgetter("account"), entries), costs_s, strict=True)):
        before_s = start_tags_s[account]
        had_s.append(before_s)
        start_tags_s[account] = before_s + cost_s
        classes[account.priority].append(number)
    for numbers in classes.values():
        numbers.sort(key=had_s.__getitem__)
    return {priority: [entries[number] for number in classes[priority]] for priority in sorted(classes)}


def _with_others_out_of_turn(
    snapshot: QueueSnapshot, classes: Mapping[int, Sequence[QueueEntry]], pace_s: float
) -> list[QueueEntry]:
    """One of so many starts goes to a later priority, that of the group passed over longest, if that is long enough by then."""
    longest = [(since, tie, priority_class.priority) for tie, (priority_class, since) in enumerate(snapshot.since.items())]
    heapq.heapify(longest)
    begun = dict.fromkeys(classes, 0)  # how many have started of each priority
    order: list[QueueEntry] = []
    starts = snapshot.starts
    for priority, entries in classes.items():
        while begun[priority] < len(entries):
            now = snapshot.now + len(order) * pace_s
            while longest and (longest[0][2] <= priority or begun[longest[0][2]] == len(classes[longest[0][2]])):
                heapq.heappop(longest)  # these have their starts in turn, or have started
            due_in = _starts_until(longest[0][0] + PATIENCE_S - now, pace_s) if longest else len(entries)
            if longest and due_in <= 0 and starts >= STARTS_FOR_ONE - 1:
                _, tie, later = longest[0]
                heapq.heapreplace(longest, (now, tie, later))
                order.append(classes[later][begun[later]])
                begun[later] += 1
                starts = 0
                continue
            in_turn = entries[begun[priority] : begun[priority] + max(due_in, STARTS_FOR_ONE - 1 - starts, 1)]
            order += in_turn
            begun[priority] += len(in_turn)
            starts += len(in_turn)
    return order


def _starts_until(seconds: float, pace_s: float) -> int:
    return math.ceil(min(seconds / pace_s, 1e9)) if pace_s > 0 else 10**9


# ---- the seconds


def _turns(snapshot: QueueSnapshot, order: Sequence[QueueEntry], hosts: frozenset[str]) -> list[tuple[int, float]]:
    """For each job, if it could run on these hosts: how many take a slot there before it, and when it has one.

    Jobs take the slot that is free first, one after the other.

    A job that could run elsewhere too counts by the part of its slots that are here; one that takes the memory of several
    slots counts for as many.
    """
    slots = _free_at(snapshot, hosts)
    work: dict[tuple[RequirementClass, DurationKey], tuple[float, int]] = {}
    turns = []
    before = 0
    for entry in order:
        key = (entry.priority_class.req_class, entry.duration_key)
        if key not in work:
            work[key] = _work(snapshot, entry, hosts)
        takes_s, wide = work[key]
        turns.append((before, slots[0] if wide <= 1 else heapq.nsmallest(wide, slots)[-1]))
        if takes_s:
            before += 1
            heapq.heapreplace(slots, slots[0] + takes_s)
    return turns


def _free_at(snapshot: QueueSnapshot, hosts: frozenset[str]) -> list[float]:
    """When each slot of these hosts is free, in seconds from now."""
    slots: list[float] = []
    for name in hosts:
        host = snapshot.hosts[name]
        here = [0.0] * host.slots
        for busy in sorted((busy for busy in snapshot.busy if busy.host == name), key=lambda busy: busy.left_s):
            for _ in range(_width(busy.memory_mib, host)):
                heapq.heapreplace(here, max(here[0], busy.left_s))
        slots += here
    heapq.heapify(slots)
    return slots or [0.0]


def _work(snapshot: QueueSnapshot, entry: QueueEntry, hosts: frozenset[str]) -> tuple[float, int]:
    """For how long a job takes one slot of these hosts, and how many slots it takes at once."""
    could = snapshot.could_run[entry.priority_class.req_class]
    here = sum(snapshot.hosts[name].slots for name in could & hosts)
    if not here and could:
        return 0.0, 1
    if not here:  # nothing is known of any host: one slot
        return snapshot.expected_s[entry.duration_key], 1
    everywhere = sum(snapshot.hosts[name].slots for name in could)
    wide = min(_width(entry.requirements.memory_mib, snapshot.hosts[name]) for name in could & hosts)
    return snapshot.expected_s[entry.duration_key] * wide * here / everywhere, wide


def _width(memory_mib: int, host: HostCapacity) -> int:
    """How many slots of a host a job takes by its memory."""
    if not host.memory_mib:
        return 1
    return max(1, min(host.slots, math.ceil(host.slots * memory_mib / host.memory_mib - 1e-9)))
