"""The waiting queue: whose turn it is. The rules are in ``docs/queue.md``.

Jobs of the same needs wait in one line: when a host cannot take the first of them, it can take none, and the line is passed
over. In a line, the jobs of each priority are a group; in a group, each launcher has its jobs in the order of their arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from jobmanager.model.listings import WaitingJob
from jobmanager.scheduling.durations import Sort
from jobmanager.scheduling.fair_shares import Account, Shares
from jobmanager.scheduling.ranking import Ranking

PATIENCE_S = 60.0  # after which a group that had no start may have one out of turn
STARTS_FOR_ONE = 10  # of so many starts, one goes to the group that was passed over longest
H = TypeVar("H")
H_co = TypeVar("H_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a host must have for a job. Jobs of the same needs wait in one line."""

    environment: str
    memory_mib: int
    cpus: float
    ends_within_s: float = math.inf  # whichever job of the line it is: a wall-clock limit, rounded up
    student_environments: frozenset[str] = frozenset()  # of a grading job: it is placed where these are, too
    excluded: frozenset[str] = frozenset()  # hosts that tried and could not
    avoided: frozenset[str] = frozenset()  # hosts on which a run was cut off: only when no other has room


def rounded_up(limit_s: float) -> float:
    """A limit as a line has it: a power of two, so that a host held back takes all jobs of a line, or none."""
    return float(2 ** math.ceil(math.log2(limit_s)))


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """A job's place in the queue."""

    job_id: str
    needs: Needs
    priority: int  # lower is sooner
    launcher: str
    arrival: int  # among its launcher's jobs of this priority, lower is sooner
    sort: Sort
    waiting_since: float
    listed: WaitingJob  # it in a listing
    supersede_key: str | None = None
    account: Account = field(init=False, repr=False)  # its launcher's; from when it waits
    group: Group = field(init=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a start was reckoned at, until its slot is free."""

    account: Account
    sort: Sort
    cost_s: float
    at: float


class Hosts(Protocol[H_co]):
    """Who takes jobs."""

    def have_room(self) -> bool:
        """Whether any takes any job at all."""
        ...

    def host_for(self, place: Place) -> H_co | None:
        """The one that takes this job now; None when none does."""
        ...


class Group:
    """The jobs of one priority in one line. ``since``: when the last of them was started, or the first began to wait."""

    def __init__(self, line: Line, priority: int, since: float) -> None:
        self.line = line
        self.priority = priority
        self.since = since
        self.queues: dict[Account, Ranking[Place]] = {}
        self._turns: Ranking[Account] = Ranking()  # kept while there are several

    def add(self, place: Place) -> None:
        """A job of it begins to wait."""
        self.queues.setdefault(place.account, Ranking()).set(place, place.arrival)
        if len(self.queues) == 2:
            for account in self.queues:
                self.rank(account)
        self.rank(place.account)

    def remove(self, place: Place) -> None:
        """A job of it waits no longer."""
        queue = self.queues[place.account]
        queue.drop(place)
        if queue:
            self.rank(place.account)
        else:
            self._turns.drop(place.account)
            del self.queues[place.account]

    def rank(self, account: Account) -> None:
        """A launcher's jobs, or what it has had, have changed."""
        if len(self.queues) > 1:
            self._turns.set(account, (account.had_s, self.queues[account].lowest()))

    def next(self) -> Place:
        """The job whose turn it is; the group must not be empty."""
        account = self._turns.first() if len(self.queues) > 1 else next(iter(self.queues))
        assert account is not None
        place = self.queues[account].first()
        assert place is not None
        return place


class Line:
    """The jobs of the same needs. ``since``: when the last of them was started, or the first began to wait."""

    def __init__(self, needs: Needs, since: float) -> None:
        self.needs = needs
        self.since = since
        self.groups: dict[int, Group] = {}
        self._order: Ranking[Group] = Ranking()

    def group(self, priority: int, now: float) -> Group:
        """The jobs of a priority."""
        group = self.groups.get(priority)
        if group is None:
            group = self.groups[priority] = Group(self, priority, now)
            self._order.set(group, priority)
        return group

    def forget(self, group: Group) -> None:
        """A group is empty."""
        del self.groups[group.priority]
        self._order.drop(group)

    def first(self) -> Group:
        """The group whose turn it is; the line must not be empty."""
        group = self._order.first()
        assert group is not None
        return group


class _Order:
    """Lines by the turn of their next job: its priority, what its launcher has had, its arrival.

    A launcher that is next in many lines is moved as one.
    """

    def __init__(self) -> None:
        self._accounts: Ranking[Account] = Ranking()
        self._lines: dict[Account, Ranking[Line]] = {}
        self._next: dict[Line, Account] = {}  # whose turn it is in each line

    def __contains__(self, line: Line) -> bool:
        return line in self._next

    def set(self, line: Line) -> None:
        """A line's next job may be another one."""
        place = line.first().next()
        if self._next.get(line) is not place.account:
            self.drop(line)
        self._next[line] = place.account
        self._lines.setdefault(place.account, Ranking()).set(line, place.arrival)
        self.rank(place.account)

    def drop(self, line: Line) -> None:
        """A line is to be passed over, or empty."""
        account = self._next.pop(line, None)
        if account is not None:
            self._lines[account].drop(line)
            self.rank(account)

    def rank(self, account: Account) -> None:
        """What a launcher has had, or its lines, have changed."""
        lines = self._lines.get(account)
        if lines:
            self._accounts.set(account, (account.priority, account.had_s, lines.lowest()))
        elif lines is not None:
            del self._lines[account]
            self._accounts.drop(account)

    def first(self) -> Line | None:
        """The line whose turn it is; None when there is none."""
        account = self._accounts.first()
        return None if account is None else self._lines[account].first()


class WaitingQueue:
    """Jobs that have no host yet. Not thread-safe: the ledger's lock guards it."""

    def __init__(self, clock: Callable[[], float], expected_s: Callable[[Sort], float]) -> None:
        self.shares = Shares()
        self._clock = clock
        self._expected_s = expected_s
        self._places: dict[str, Place] = {}  # by job; those that have waited longest first
        self._keys: dict[str, Place] = {}  # by supersede key
        self._lines: dict[Needs, Line] = {}
        self._order = _Order()
        self._passed_over: Ranking[Group] = Ranking()
        self._shared: dict[Account, set[Group]] = {}  # where a launcher is not alone
        self._starts = 0  # since one was given out of turn

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        """All places; those that have waited longest first."""
        return iter(self._places.values())

    def holder(self, supersede_key: str | None) -> str | None:
        """The waiting job that has this key."""
        place = self._keys.get(supersede_key) if supersede_key is not None else None
        return place.job_id if place is not None else None

    def lines(self) -> list[Line]:
        """All lines, in no order."""
        return list(self._lines.values())

    def accounts(self) -> dict[Account, float]:
        """The launchers of waiting jobs, and what counts for their turns."""
        return self.shares.of_waiting()

    def starts_in_turn(self) -> int:
        """Starts since the last one out of turn."""
        return self._starts

    def all_needs(self) -> set[Needs]:
        """What the waiting jobs need, each kind once."""
        return set(self._lines)

    def waited_longer_than(self, limit_s: float) -> list[Place]:
        """Those that have waited longer than that."""
        before = self._clock() - limit_s
        found = []
        for place in self._places.values():
            if place.waiting_since >= before:
                break
            found.append(place)
        return found

    # ---- coming and going

    def add(self, place: Place) -> None:
        """Put a job where its arrival stands among its launcher's: one that comes back has its old place."""
        now = self._clock()
        self._places[place.job_id] = place
        if place.supersede_key is not None:
            self._keys[place.supersede_key] = place
        line = self._lines.get(place.needs)
        if line is None:
            line = self._lines[place.needs] = Line(place.needs, now)
        group = line.group(place.priority, now)
        self._passed_over.set(group, group.since)
        account = place.account = self.shares.joins(place.priority, place.launcher)
        place.group = group
        is_new = account not in group.queues
        group.add(place)
        if is_new and len(group.queues) > 1:
            for sharer in group.queues if len(group.queues) == 2 else (account,):
                self._shared.setdefault(sharer, set()).add(group)
        self._order.set(line)

    def remove(self, job_id: str) -> None:
        """Take a job out that gets no slot."""
        place = self._places[job_id]
        self._take_out(place)
        self.shares.leaves(place.account)

    def settle(self, charge: Charge) -> None:
        """The slot of a start is free again."""
        took_s = self._clock() - charge.at
        self.shares.settles(charge.account, took_s - charge.cost_s)
        self._rank(charge.account)

    # ---- whose turn it is

    def place_all(self, hosts: Hosts[H], start: Callable[[Place, H, Charge], None]) -> None:
        """Start jobs in their order until no host takes any; a line whose next job no host takes is passed over."""
        passed: list[Line] = []
        self._start_one_out_of_turn(hosts, start)
        while hosts.have_room() and (line := self._order.first()) is not None:
            place = line.first().next()
            host = hosts.host_for(place)
            if host is None:
                self._order.drop(line)
                passed.append(line)
                continue
            self._starts += 1
            start(place, host, self._serve(place))
            if self._starts == STARTS_FOR_ONE - 1:
                self._start_one_out_of_turn(hosts, start)
        for line in passed:
            if self._lines.get(line.needs) is line:
                self._order.set(line)

    def _start_one_out_of_turn(self, hosts: Hosts[H], start: Callable[[Place, H, Charge], None]) -> None:
        """When it is due, start a job of the group that was passed over longest, of those that a host takes."""
        if self._starts < STARTS_FOR_ONE - 1:
            return
        before = self._clock() - PATIENCE_S
        passed: list[Group] = []
        in_vain: set[Line] = set()
        while hosts.have_room() and (group := self._passed_over.first()) is not None and group.since <= before:
            place = group.next()
            if group.line not in in_vain and (host := hosts.host_for(place)) is not None:
                self._starts = 0
                start(place, host, self._serve(place))
                break
            in_vain.add(group.line)
            self._passed_over.drop(group)
            passed.append(group)
        for group in passed:
            if group.queues:
                self._passed_over.set(group, group.since)

    def _serve(self, place: Place) -> Charge:
        cost_s = self._expected_s(place.sort)
        now = self._clock()
        group = place.group
        group.since = group.line.since = now
        self._passed_over.set(group, now)
        self._take_out(place)
        self.shares.serves(place.account, cost_s)
        self._rank(place.account)
        return Charge(account=place.account, sort=place.sort, cost_s=cost_s, at=now)

    def _take_out(self, place: Place) -> None:
        del self._places[place.job_id]
        if place.supersede_key is not None and self._keys.get(place.supersede_key) is place:
            del self._keys[place.supersede_key]
        group, line = place.group, place.group.line
        group.remove(place)
        if place.account not in group.queues:
            self._shares_no_longer(place.account, group)
        if not group.queues:
            line.forget(group)
            self._passed_over.drop(group)
        if not line.groups:
            del self._lines[line.needs]
            self._order.drop(line)
        elif line in self._order:
            self._order.set(line)

    def _shares_no_longer(self, account: Account, group: Group) -> None:
        left = (account, *group.queues) if len(group.queues) == 1 else (account,)
        for sharer in left:
            groups = self._shared.get(sharer, set())
            groups.discard(group)
            if not groups:
                self._shared.pop(sharer, None)

    def _rank(self, account: Account) -> None:
        """What a launcher has had has changed: so have its turns."""
        self._order.rank(account)
        for group in self._shared.get(account, ()):
            group.rank(account)
            if group.line in self._order:
                self._order.set(group.line)
