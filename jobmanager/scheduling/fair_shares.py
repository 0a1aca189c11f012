"""Fair shares: within a priority, the launcher that has used least of the hosts is next.

This is start-time fair queueing. Each launcher has an account for each priority: the seconds of slots that it has used;
slots that it holds now count with their expected duration. A launcher that begins to wait starts at the virtual time, which
is where the launcher served last stood. So no launcher saves up turns while it has no jobs, and a launcher with one job
does not wait for ten thousand jobs of another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MAX_CREDIT_S = 60.0  # how far a launcher whose hosts were busy may stay behind the others
_MAX_IDLE = 10_000  # accounts kept of launchers without jobs; the one longest idle is dropped first


@dataclass(slots=True, eq=False)
class Account:
    """What a launcher has used at one priority."""

    priority: int
    launcher: str
    used_s: float
    waiting: int = 0  # jobs in the queue
    slots: int = 0  # slots held now


@dataclass(slots=True, kw_only=True)
class _PriorityShares:
    """The accounts of one priority, by launcher."""

    virtual_time_s: float = 0.0  # the start tag of the launcher that was served last
    accounts: dict[str, Account] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityStanding:
    """How the launchers of one priority stand, for who goes on with the accounts."""

    priority: int
    virtual_time_s: float
    used_s: Mapping[str, float]  # by launcher, without the slots that it holds; only those above the virtual time


class FairShares:
    """The accounts of all launchers. Not thread-safe."""

    def __init__(self) -> None:
        self._priorities: dict[int, _PriorityShares] = {}
        self._idle: OrderedDict[tuple[int, str], Account] = OrderedDict()

    def job_queued(self, priority: int, launcher: str) -> Account:
        """A job begins to wait. Returns the account of its launcher."""
        shares = self._priorities.setdefault(priority, _PriorityShares())
        account = shares.accounts.get(launcher)
        if account is None:
            account = shares.accounts[launcher] = Account(priority, launcher, shares.virtual_time_s)
        self._idle.pop((priority, launcher), None)
        if not account.waiting:
            account.used_s = max(account.used_s, shares.virtual_time_s)
        account.waiting += 1
        return account

    def job_dequeued(self, account: Account) -> None:
        """A job has left the queue without a slot."""
        account.waiting -= 1
        self._retire(account)

    def slot_taken(self, account: Account, cost_s: float) -> None:
        """A waiting job has taken a slot, which is expected to cost so much."""
        shares = self._priorities[account.priority]
        account.waiting -= 1
        account.slots += 1
        start = self.start_tag_s(account)
        shares.virtual_time_s = max(shares.virtual_time_s, start)
        account.used_s = start + cost_s

    def slot_held(self, priority: int, launcher: str, cost_s: float) -> Account:
        """A launcher has taken a slot before these accounts were kept. Returns its account."""
        account = self.job_queued(priority, launcher)
        account.waiting -= 1
        account.slots += 1
        account.used_s += cost_s
        return account

    def slot_freed(self, account: Account, more_s: float) -> None:
        """A slot is free again. It has cost ``more_s`` more than expected; negative: less."""
        account.slots -= 1
        account.used_s += more_s
        self._retire(account)

    def start_tag_s(self, account: Account) -> float:
        """The number that decides its turn, the lowest first."""
        return max(account.used_s, self._priorities[account.priority].virtual_time_s - _MAX_CREDIT_S)

    def waiting_accounts(self) -> dict[Account, float]:
        """The accounts of launchers with waiting jobs, and their start tags."""
        found: dict[Account, float] = {}
        for shares in self._priorities.values():
            least_s = shares.virtual_time_s - _MAX_CREDIT_S
            for account in shares.accounts.values():
                if account.waiting:
                    found[account] = account.used_s if account.used_s > least_s else least_s
        return found

    def standings(self, held_s: Mapping[Account, float]) -> list[PriorityStanding]:
        """How all stand. ``held_s``: what the slots that are held now are expected to cost."""
        standings = []
        for priority, shares in self._priorities.items():
            used_s = {account.launcher: account.used_s - held_s.get(account, 0.0) for account in shares.accounts.values()}
            above = {launcher: used for launcher, used in used_s.items() if used > shares.virtual_time_s}
            if above:
                standings.append(PriorityStanding(priority=priority, virtual_time_s=shares.virtual_time_s, used_s=above))
        return standings

    def restore(self, standings: Iterable[PriorityStanding]) -> None:
        """Go on with accounts that somebody else kept. There must be none yet."""
        for standing in standings:
            above = {launcher: used for launcher, used in standing.used_s.items() if used > standing.virtual_time_s}
            if not above or len(self._idle) + len(above) > _MAX_IDLE:
                continue
            shares = self._priorities[standing.priority] = _PriorityShares(virtual_time_s=standing.virtual_time_s)
            for launcher, used_s in above.items():
                account = shares.accounts[launcher] = Account(standing.priority, launcher, used_s)
                self._idle[standing.priority, launcher] = account

    def __len__(self) -> int:
        return sum(len(shares.accounts) for shares in self._priorities.values())

    def _retire(self, account: Account) -> None:
        """Drop the account of a launcher without jobs, or keep it for a while if it has used more than its share."""
        if account.waiting or account.slots:
            return
        if account.used_s <= self._priorities[account.priority].virtual_time_s:
            self._forget(account)
            return
        self._idle[account.priority, account.launcher] = account
        if len(self._idle) > _MAX_IDLE:
            self._forget(self._idle.popitem(last=False)[1])

    def _forget(self, account: Account) -> None:
        shares = self._priorities[account.priority]
        del shares.accounts[account.launcher]
        if not shares.accounts:
            del self._priorities[account.priority]
