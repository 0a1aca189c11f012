"""Fair shares: who has had how much of the hosts, so that within a priority the launcher that has had least is next.

This is start-time fair queueing. Each launcher has an account for each priority: seconds of slots that it has had, what
it holds now at its expected length. Who begins to wait begins where the one served last stood, so that nobody saves up
turns by not asking, and a launcher with one job does not wait for another's ten thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_MOST_CREDIT_S = 60.0  # by which a launcher whose hosts were busy may be behind the others
_MOST_AT_REST = 10_000  # accounts of launchers with nothing here; the one longest at rest is forgotten first


@dataclass(slots=True, eq=False)
class Account:
    """What a launcher has had at one priority."""

    priority: int
    launcher: str
    had_s: float
    waiting: int = 0  # jobs
    slots: int = 0  # held now


@dataclass(slots=True, kw_only=True)
class _Class:
    """A priority."""

    served_s: float = 0.0  # where the account of the launcher that was served last stood
    accounts: dict[str, Account] = field(default_factory=dict)


class Shares:
    """All accounts. Not thread-safe."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._at_rest: OrderedDict[tuple[int, str], Account] = OrderedDict()

    def joins(self, priority: int, launcher: str) -> Account:
        """A job begins to wait; its launcher's account."""
        of = self._classes.setdefault(priority, _Class())
        account = of.accounts.get(launcher)
        if account is None:
            account = of.accounts[launcher] = Account(priority, launcher, of.served_s)
        self._at_rest.pop((priority, launcher), None)
        if not account.waiting:
            account.had_s = max(account.had_s, of.served_s)
        account.waiting += 1
        return account

    def leaves(self, account: Account) -> None:
        """A job waits no longer, and has no slot."""
        account.waiting -= 1
        self._rests(account)

    def serves(self, account: Account, cost_s: float) -> None:
        """A job has a slot, which will cost so much."""
        of = self._classes[account.priority]
        account.waiting -= 1
        account.slots += 1
        start = self.standing_s(account)
        of.served_s = max(of.served_s, start)
        account.had_s = start + cost_s

    def settles(self, account: Account, more_s: float) -> None:
        """A slot is free again; it has cost that much more than was thought, or less."""
        account.slots -= 1
        account.had_s += more_s
        self._rests(account)

    def standing_s(self, account: Account) -> float:
        """What counts for its turn."""
        return max(account.had_s, self._classes[account.priority].served_s - _MOST_CREDIT_S)

    def of_waiting(self) -> dict[Account, float]:
        """The accounts of launchers with waiting jobs, and what counts for their turns."""
        found: dict[Account, float] = {}
        for of in self._classes.values():
            least_s = of.served_s - _MOST_CREDIT_S
            for account in of.accounts.values():
                if account.waiting:
                    found[account] = account.had_s if account.had_s > least_s else least_s
        return found

    def __len__(self) -> int:
        return sum(len(of.accounts) for of in self._classes.values())

    def _rests(self, account: Account) -> None:
        """Remember those that have had more than their share, as many as there is room for."""
        if account.waiting or account.slots:
            return
        if account.had_s <= self._classes[account.priority].served_s:
            self._forget(account)
            return
        self._at_rest[account.priority, account.launcher] = account
        if len(self._at_rest) > _MOST_AT_REST:
            self._forget(self._at_rest.popitem(last=False)[1])

    def _forget(self, account: Account) -> None:
        of = self._classes[account.priority]
        del of.accounts[account.launcher]
        if not of.accounts:
            del self._classes[account.priority]
