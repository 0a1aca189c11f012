"""The dispatcher: any number of them may run, and the one that is elected gives the waiting jobs to the nodes (``term.py``).

It touches no task, no input and no result of a run. While none lives, nothing is placed; what runs ends, and is told.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from redis import RedisError

from jobmanager.errors import InvalidValue
from jobmanager.remote.key_check import check_key
from jobmanager.remote.lease import Lease, NewerIsWanted, TermOver
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.term import Term
from jobmanager.remote.timeouts import ClusterTimeouts

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 2.0
_CHECK_S = 1.0
_LEASES_BACK = 3  # for how many leases one leads and then stands back, where a newer version is wanted
_MAX_TIMES = 10
_TRIES_IN_A_LEASE = 6  # of one that waits for the leader's end


class Dispatcher:
    """One that stands for election, and leads when it is elected. ``run`` is to be called once.

    Args:
        store: the namespace; nobody else uses its connections meanwhile.
        keyring: the keys of the cluster.
        timeouts: those of the cluster.
        name: for logs and the audit: that of its node, for one.
        clock: a monotonic one.
    """

    def __init__(
        self,
        store: ClusterStore,
        keyring: Keyring,
        timeouts: ClusterTimeouts,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.term: Term | None = None  # while it leads
        self._store = store
        self._signer = keyring.signer(store.keys.namespace)
        self._timeouts = timeouts
        self._name = name
        self._clock = clock
        self._wall_clock = wall_clock
        self._lease = Lease(store, f"{name}:{secrets.token_hex(4)}", timeouts.leader_lease_s, clock)
        self._data: tuple[str, str] | None = None  # what tells whether Redis has lost some
        self._lost_data_at: float | None = None
        self._next_check = clock()
        self._is_away = self._has_other_key = False
        self._times_stood_back = 0

    def run(self, stop: threading.Event) -> None:
        """Stand for election, and lead when elected, until ``stop`` is set."""
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                self._stand_for_election(stop)
                pause_s = _FIRST_PAUSE_S
            except NewerIsWanted:
                self._make_way(stop)
            except TermOver as reason:
                _LOG.warning("dispatcher %s leads no more: %s", self._name, reason)
                stop.wait(self._timeouts.leader_lease_s / _TRIES_IN_A_LEASE)
            except RedisError as error:
                self._redis_is_away(error)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            except Exception:  # noqa: BLE001 - the loop's edge: a term that failed is followed by another one
                _LOG.exception("dispatcher %s failed; it goes on with a new term", self._name)
                stop.wait(_MAX_PAUSE_S)
            finally:
                self.term = None
        with suppress(RedisError):
            self._lease.give_up()

    def _make_way(self, stop: threading.Event) -> None:
        """Let another one lead, who may be newer. If there is none, this one leads again, for twice as long each time."""
        _LOG.warning("dispatcher %s stands back: jobs wait that only a newer version can place", self._name)
        self._times_stood_back = min(self._times_stood_back + 1, _MAX_TIMES)
        with suppress(RedisError):
            self._lease.give_up()
        stop.wait(_LEASES_BACK * self._timeouts.leader_lease_s)

    def _stand_for_election(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._check_data()  # before each election: who leads knows whether to settle
            self._redis_is_back()
            if self._has_the_key() and self._lease.take():
                self._lead(stop)
            else:
                stop.wait(self._timeouts.leader_lease_s / _TRIES_IN_A_LEASE)

    def _has_the_key(self) -> bool:
        """Whether it may lead: who has another key than the last leader believes no job of the others."""
        try:
            check_key(self._store, self._signer)
        except InvalidValue as error:
            if not self._has_other_key:
                _LOG.error("dispatcher %s does not stand for election: %s", self._name, error)
            self._has_other_key = True
            return False
        self._has_other_key = False
        return True

    def _lead(self, stop: threading.Event) -> None:
        settle_until = None if self._lost_data_at is None else self._lost_data_at + self._timeouts.settle_s
        term = Term(
            self._store,
            self._signer,
            self._timeouts,
            self._lease,
            name=self._name,
            patience_s=_LEASES_BACK * self._timeouts.leader_lease_s * 2**self._times_stood_back,
            settle_until=settle_until,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )
        term.take_over()
        self.term = term
        while not stop.is_set():
            term.step()
            if self._clock() >= self._next_check and self._check_data():
                raise TermOver("Redis was started again, or has lost data: all is read anew")
        term.leave()

    def _check_data(self) -> bool:
        """Whether Redis has lost data since the last time, or may have: it was started again."""
        self._next_check = self._clock() + _CHECK_S
        before, self._data = self._data, self._store.life()
        if before is None:
            self._look_back()
        if before is None or before == self._data:
            return False
        self._lost_data_at = self._clock()
        return True

    def _look_back(self) -> None:
        """Before this dispatcher was there, Redis may have been started with older data than the nodes have."""
        up_s = self._store.uptime_s()
        if up_s < self._timeouts.settle_s and self._store.had_leader():
            self._lost_data_at = self._clock() - up_s

    def _redis_is_away(self, error: RedisError) -> None:
        if not self._is_away:
            _LOG.warning("dispatcher %s places nothing, as Redis does not answer: %s", self._name, error)
        self._is_away = True

    def _redis_is_back(self) -> None:
        if self._is_away:
            _LOG.info("dispatcher %s: Redis answers again", self._name)
        self._is_away = False
