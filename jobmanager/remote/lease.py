"""The leader's lease, as its holder sees it: by its own clock it knows when it may have lost it."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobmanager.remote.store import ClusterStore


class TermOver(Exception):
    """This process leads no more; the text says why."""


class NewerIsWanted(TermOver):
    """There are jobs that only a dispatcher of a newer version can place."""


class Lease:
    """Being the leader. One thread has it."""

    def __init__(
        self, store: ClusterStore, who: str, lease_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.epoch = ""  # of the present term; empty: another leads
        self._store = store
        self._who = who
        self._lease_s = lease_s
        self._clock = clock
        self._asked_at = 0.0  # when the last renewal was sent: the lease is no older than that

    def take(self) -> bool:
        """Become the leader, unless another is. A new term has a new epoch, also when it follows our own."""
        asked_at = self._clock()
        self.epoch, self._asked_at = self._store.lead(self._who), asked_at
        return bool(self.epoch)

    def keep(self) -> None:
        """Renew it when it is time to. To be called before every step that only the leader may take.

        Raises:
            TermOver: it could not be renewed in time, or another leads.
        """
        now = self._clock()
        if now - self._asked_at >= self._lease_s:
            raise TermOver("the lease could not be renewed in time")
        if now - self._asked_at < self._lease_s / 3:
            return
        epoch = self._store.lead(self._who)
        if epoch != self.epoch:
            raise TermOver("another dispatcher leads")
        self._asked_at = now

    def give_up(self) -> None:
        """Lead no more: others need not wait until the lease is over."""
        if self.epoch:
            self.epoch = ""
            self._store.resign(self._who)
