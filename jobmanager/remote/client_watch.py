"""The clients, as the leader sees them: which of those that nobody can resume are gone.

A client without an id of its own ends with its process. What it left waiting would run for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from jobmanager.remote.keys import ANONYMOUS
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts

_LOOKS_IN_A_LEASE = 3


class ClientWatch:
    """For how long each anonymous client with waiting jobs has not been there, by this process's own clock."""

    def __init__(self, store: ClusterStore, timeouts: ClusterTimeouts, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lease_s = timeouts.client_lease_s
        self._clock = clock
        self._absent_since: dict[str, float] = {}
        self._next_look = clock()

    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return self._clock() >= self._next_look

    def gone(self, clients: Iterable[str]) -> frozenset[str]:
        """Those of these clients that are gone. A loss of data also takes a client's name for a moment, so this takes a lease."""
        now = self._clock()
        self._next_look = now + self._lease_s / _LOOKS_IN_A_LEASE
        anonymous = sorted({client for client in clients if client.startswith(ANONYMOUS)})
        absent = [client for client in anonymous if not self._store.is_client_alive(client)]
        self._absent_since = {client: self._absent_since.get(client, now) for client in absent}
        return frozenset(client for client, since in self._absent_since.items() if now - since >= self._lease_s)
