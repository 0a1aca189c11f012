"""The waiting queue: whose turn it is. The rules are in ``docs/queue.md``.

Jobs with the same requirements are a requirement class: a host that cannot take the first of them can take none, and the
class is passed over. In a requirement class, the jobs of each priority are a priority class. In a priority class, the jobs
of each launcher are in the order of their arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from jobmanager.model.listings import WaitingJob
from jobmanager.scheduling.durations import DurationKey
from jobmanager.scheduling.fair_shares import Account, FairShares
from jobmanager.scheduling.outage_clock import OutageClock
from jobmanager.scheduling.priority_heap import PriorityHeap

PATIENCE_S = 60.0  # without a start, after which a priority class may have one out of turn
STARTS_FOR_ONE = 10  # one of so many starts goes to the priority class that was passed over longest
H = TypeVar("H")
H_co = TypeVar("H_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a host must have for a job."""

    environment: str
    memory_mib: int
    cpus: float
    ends_within_s: float = math.inf  # the wall-clock limit, rounded up to that of its requirement class
    other_environments: frozenset[str] = frozenset()  # of student containers, and of later phases: its host must have these, too
    networks: frozenset[str] = frozenset()  # of the host's own, by name
    excluded: frozenset[str] = frozenset()  # hosts that failed to start it
    avoided: frozenset[str] = frozenset()  # hosts on which a run was cut off: taken only when no other has room


def rounded_up(limit_s: float) -> float:
    """A limit rounded up to a power of two: few classes, and a reserved host takes all jobs of a class or none."""
    return float(2 ** math.ceil(math.log2(limit_s)))


@dataclass(slots=True, kw_only=True, eq=False)
class QueueEntry:
    """A waiting job."""

    job_id: str
    requirements: Requirements
    priority: int  # lower is sooner
    launcher: str
    arrival: int  # among its launcher's jobs of this priority, lower is sooner
    duration_key: DurationKey
    timeout_s: float  # for which it may wait while no host is up that could run it
    listed: WaitingJob  # how a listing shows it
    supersede_key: str | None = None
    account: Account = field(init=False, repr=False)  # its launcher's; set by the queue, as is its class
    priority_class: PriorityClass = field(init=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a slot is expected to cost a launcher, until the slot is free."""

    account: Account
    duration_key: DurationKey
    expected_s: float
    started_at: float


class HostChooser(Protocol[H_co]):
    """Chooses a host for a job."""

    def any_has_free_slot(self) -> bool:
        """Whether any host takes any job at all."""
        ...

    def host_for(self, entry: QueueEntry) -> H_co | None:
        """The host that takes this job now; None when none does."""
        ...


class PriorityClass:
    """The jobs of one priority in a requirement class. ``since``: when one of them was last started, or the first began to wait."""

    def __init__(self, req_class: RequirementClass, priority: int, since: float) -> None:
        self.req_class = req_class
        self.priority = priority
        self.since = since
        self.queues: dict[Account, PriorityHeap[QueueEntry]] = {}
        self._turns: PriorityHeap[Account] = PriorityHeap()  # used only while several launchers have jobs here

    def add(self, entry: QueueEntry) -> None:
        """Add a job that begins to wait."""
        self.queues.setdefault(entry.account, PriorityHeap()).set(entry, entry.arrival)
        if len(self.queues) == 2:
            for account in self.queues:
                self.rank(account)
        self.rank(entry.account)

    def remove(self, entry: QueueEntry) -> None:
        """Remove a job."""
        queue = self.queues[entry.account]
        queue.drop(entry)
        if queue:
            self.rank(entry.account)
        else:
            self._turns.drop(entry.account)
            del self.queues[entry.account]

    def rank(self, account: Account) -> None:
        """Update the turn of a launcher whose jobs or used seconds have changed."""
        if len(self.queues) > 1:
            self._turns.set(account, (account.used_s, self.queues[account].lowest()))

    def next(self) -> QueueEntry:
        """The job whose turn it is; the class must not be empty."""
        account = self._turns.first() if len(self.queues) > 1 else next(iter(self.queues))
        assert account is not None
        entry = self.queues[account].first()
        assert entry is not None
        return entry


class RequirementClass:
    """The jobs with the same requirements. ``since``: when one of them was last started, or the first began to wait."""

    def __init__(self, requirements: Requirements, since: float, *, has_host: bool) -> None:
        self.requirements = requirements
        self.since = since
        self.outage = OutageClock(since, has_host=has_host)
        self.deadlines: PriorityHeap[QueueEntry] = PriorityHeap()  # by that clock
        self.priority_classes: dict[int, PriorityClass] = {}
        self._order: PriorityHeap[PriorityClass] = PriorityHeap()

    def priority_class(self, priority: int, now: float) -> PriorityClass:
        """The class of a priority, made when it is missing."""
        priority_class = self.priority_classes.get(priority)
        if priority_class is None:
            priority_class = self.priority_classes[priority] = PriorityClass(self, priority, now)
            self._order.set(priority_class, priority)
        return priority_class

    def forget(self, priority_class: PriorityClass) -> None:
        """Remove a priority class that is empty."""
        del self.priority_classes[priority_class.priority]
        self._order.drop(priority_class)

    def first(self) -> PriorityClass:
        """The priority class whose turn it is; there must be one."""
        priority_class = self._order.first()
        assert priority_class is not None
        return priority_class


class _DispatchOrder:
    """Requirement classes by the turn of their next job: its priority, what its launcher has used, its arrival.

    A launcher that is next in many classes is moved as one.
    """

    def __init__(self) -> None:
        self._accounts: PriorityHeap[Account] = PriorityHeap()
        self._req_classes: dict[Account, PriorityHeap[RequirementClass]] = {}
        self._next: dict[RequirementClass, Account] = {}  # whose turn it is in each class

    def __contains__(self, req_class: RequirementClass) -> bool:
        return req_class in self._next

    def set(self, req_class: RequirementClass) -> None:
        """Put a class in, or update it after its next job has changed."""
        entry = req_class.first().next()
        if self._next.get(req_class) is not entry.account:
            self.drop(req_class)
        self._next[req_class] = entry.account
        self._req_classes.setdefault(entry.account, PriorityHeap()).set(req_class, entry.arrival)
        self.rank(entry.account)

    def drop(self, req_class: RequirementClass) -> None:
        """Take out a class that is passed over, or empty."""
        account = self._next.pop(req_class, None)
        if account is not None:
            self._req_classes[account].drop(req_class)
            self.rank(account)

    def rank(self, account: Account) -> None:
        """Update the turn of a launcher whose used seconds or classes have changed."""
        req_classes = self._req_classes.get(account)
        if req_classes:
            self._accounts.set(account, (account.priority, account.used_s, req_classes.lowest()))
        elif req_classes is not None:
            del self._req_classes[account]
            self._accounts.drop(account)

    def first(self) -> RequirementClass | None:
        """The requirement class whose turn it is; None when there is none."""
        account = self._accounts.first()
        return None if account is None else self._req_classes[account].first()


class WaitingQueue:
    """The jobs that have no host yet. Not thread-safe: the ledger's lock guards it.

    ``has_host``: whether a host is up that could run such a job.
    """

    def __init__(
        self, clock: Callable[[], float], cost_s: Callable[[DurationKey], float], has_host: Callable[[Requirements], bool]
    ) -> None:
        self.shares = FairShares()
        self._clock = clock
        self._cost_s = cost_s
        self._has_host = has_host
        self._entries: dict[str, QueueEntry] = {}  # by job id; those that have waited longest first
        self._keys: dict[str, QueueEntry] = {}  # by supersede key
        self._req_classes: dict[Requirements, RequirementClass] = {}
        self._order = _DispatchOrder()
        self._passed_over: PriorityHeap[PriorityClass] = PriorityHeap()
        self._shared: dict[Account, set[PriorityClass]] = {}  # the classes in which a launcher is not alone
        self._starts = 0  # in turn, since the last one out of turn

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[QueueEntry]:
        """All waiting jobs; those that have waited longest first."""
        return iter(self._entries.values())

    def holder(self, supersede_key: str | None) -> str | None:
        """The id of the waiting job that has this key; None when there is none."""
        entry = self._keys.get(supersede_key) if supersede_key is not None else None
        return entry.job_id if entry is not None else None

    def req_classes(self) -> list[RequirementClass]:
        """All requirement classes, in no order."""
        return list(self._req_classes.values())

    def all_requirements(self) -> set[Requirements]:
        """The requirements of the waiting jobs, each once."""
        return set(self._req_classes)

    def hosts_changed(self) -> None:
        """A host has come up or gone down."""
        now = self._clock()
        for req_class in self._req_classes.values():
            req_class.outage.set(now, has_host=self._has_host(req_class.requirements))

    def timed_out(self) -> list[QueueEntry]:
        """The jobs that have waited for too long while no host was up that could run them. The caller removes them."""
        self.hosts_changed()
        now, found = self._clock(), []
        for req_class in self._req_classes.values():
            deadlines, outage_s = req_class.deadlines, req_class.outage.read(now)
            while (entry := deadlines.first()) is not None and deadlines.lowest() < outage_s:
                deadlines.drop(entry)
                found.append(entry)
        return found

    # ---- add and remove

    def add(self, entry: QueueEntry) -> None:
        """Add a job. One that comes back has its old place, by its arrival."""
        now = self._clock()
        self._entries[entry.job_id] = entry
        if entry.supersede_key is not None:
            self._keys[entry.supersede_key] = entry
        req_class = self._req_classes.get(entry.requirements)
        if req_class is None:
            has_host = self._has_host(entry.requirements)
            req_class = self._req_classes[entry.requirements] = RequirementClass(entry.requirements, now, has_host=has_host)
        req_class.deadlines.set(entry, req_class.outage.read(now) + entry.timeout_s)
        priority_class = req_class.priority_class(entry.priority, now)
        self._passed_over.set(priority_class, priority_class.since)
        account = entry.account = self.shares.job_queued(entry.priority, entry.launcher)
        entry.priority_class = priority_class
        is_new = account not in priority_class.queues
        priority_class.add(entry)
        if is_new and len(priority_class.queues) > 1:
            for sharer in priority_class.queues if len(priority_class.queues) == 2 else (account,):
                self._shared.setdefault(sharer, set()).add(priority_class)
        self._order.set(req_class)

    def remove(self, job_id: str) -> None:
        """Remove a job that gets no slot."""
        entry = self._entries[job_id]
        self._take_out(entry)
        self.shares.job_dequeued(entry.account)

    def hold(self, priority: int, launcher: str, duration_key: DurationKey, since: float) -> Cost:
        """A slot that a launcher took before this queue was kept, and still holds."""
        expected_s = self._cost_s(duration_key)
        account = self.shares.slot_held(priority, launcher, expected_s)
        self._rank(account)
        return Cost(account=account, duration_key=duration_key, expected_s=expected_s, started_at=since)

    def settle(self, cost: Cost) -> None:
        """A slot is free again: its launcher pays what it has really cost."""
        took_s = self._clock() - cost.started_at
        self.shares.slot_freed(cost.account, took_s - cost.expected_s)
        self._rank(cost.account)

    # ---- whose turn it is

    def placements(self, hosts: HostChooser[H]) -> Iterator[tuple[QueueEntry, H, Cost]]:
        """Jobs in their order, each with its host, until no host takes any. The caller takes the slot before it asks for the next.

        A requirement class whose next job no host takes is passed over.
        """
        passed: list[RequirementClass] = []
        yield from self._one_out_of_turn(hosts)
        while hosts.any_has_free_slot() and (req_class := self._order.first()) is not None:
            entry = req_class.first().next()
            host = hosts.host_for(entry)
            if host is None:
                self._order.drop(req_class)
                passed.append(req_class)
                continue
            self._starts += 1
            yield entry, host, self._dequeue(entry)
            if self._starts == STARTS_FOR_ONE - 1:
                yield from self._one_out_of_turn(hosts)
        for req_class in passed:
            if self._req_classes.get(req_class.requirements) is req_class:
                self._order.set(req_class)

    def _one_out_of_turn(self, hosts: HostChooser[H]) -> Iterator[tuple[QueueEntry, H, Cost]]:
        """When it is due, a job of the priority class that was passed over longest, of those that a host takes."""
        if self._starts < STARTS_FOR_ONE - 1:
            return
        before = self._clock() - PATIENCE_S
        passed: list[PriorityClass] = []
        in_vain: set[RequirementClass] = set()
        while (
            hosts.any_has_free_slot()
            and (priority_class := self._passed_over.first()) is not None
            and priority_class.since <= before
        ):
            entry = priority_class.next()
            if priority_class.req_class not in in_vain and (host := hosts.host_for(entry)) is not None:
                self._starts = 0
                yield entry, host, self._dequeue(entry)
                break
            in_vain.add(priority_class.req_class)
            self._passed_over.drop(priority_class)
            passed.append(priority_class)
        for priority_class in passed:
            if priority_class.queues:
                self._passed_over.set(priority_class, priority_class.since)

    def _dequeue(self, entry: QueueEntry) -> Cost:
        expected_s = self._cost_s(entry.duration_key)
        now = self._clock()
        priority_class = entry.priority_class
        priority_class.since = priority_class.req_class.since = now
        self._passed_over.set(priority_class, now)
        self._take_out(entry)
        self.shares.slot_taken(entry.account, expected_s)
        self._rank(entry.account)
        return Cost(account=entry.account, duration_key=entry.duration_key, expected_s=expected_s, started_at=now)

    def _take_out(self, entry: QueueEntry) -> None:
        del self._entries[entry.job_id]
        if entry.supersede_key is not None and self._keys.get(entry.supersede_key) is entry:
            del self._keys[entry.supersede_key]
        priority_class, req_class = entry.priority_class, entry.priority_class.req_class
        req_class.deadlines.drop(entry)
        priority_class.remove(entry)
        if entry.account not in priority_class.queues:
            self._shares_no_longer(entry.account, priority_class)
        if not priority_class.queues:
            req_class.forget(priority_class)
            self._passed_over.drop(priority_class)
        if not req_class.priority_classes:
            del self._req_classes[req_class.requirements]
            self._order.drop(req_class)
        elif req_class in self._order:
            self._order.set(req_class)

    def _shares_no_longer(self, account: Account, priority_class: PriorityClass) -> None:
        left = (account, *priority_class.queues) if len(priority_class.queues) == 1 else (account,)
        for sharer in left:
            priority_classes = self._shared.get(sharer, set())
            priority_classes.discard(priority_class)
            if not priority_classes:
                self._shared.pop(sharer, None)

    def _rank(self, account: Account) -> None:
        """Update all turns of a launcher whose used seconds have changed."""
        self._order.rank(account)
        for priority_class in self._shared.get(account, ()):
            priority_class.rank(account)
            if priority_class.req_class in self._order:
                self._order.set(priority_class.req_class)
