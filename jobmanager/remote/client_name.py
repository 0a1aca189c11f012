"""``ClientName``: the id of a client, which one process has at a time."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress

from redis.exceptions import RedisError

from jobmanager._version import __version__
from jobmanager.engine.labels import Owner
from jobmanager.errors import InvalidValue
from jobmanager.remote.keys import ANONYMOUS
from jobmanager.remote.store import ClusterStore


class ClientName:
    """The lock of a client's id. Not for two threads at once."""

    def __init__(self, store: ClusterStore, client_id: str | None, *, lease_s: float) -> None:
        """``client_id`` None: the client is anonymous, and its jobs end with it."""
        self.name = client_id or f"{ANONYMOUS}{secrets.token_hex(8)}"
        self._kind = "anonymous" if client_id is None else "fixed"
        self._store = store
        self._lease_s = lease_s
        self.holder = secrets.token_hex(8)  # this process, and no other client that it may have
        self._is_held = False

    def claim(self) -> None:
        """Take it. A holder on this machine that is dead is in nobody's way.

        Raises:
            InvalidValue: another process has it.
        """
        other = self._store.claim_client(self.name, self.holder, self._about())
        if other:
            self._take_over(other)
        self._is_held = True

    def keep(self) -> bool:
        """Hold it for another lease. False: another process has it now, since this one stood still."""
        self._is_held = not self._store.claim_client(self.name, self.holder, self._about())
        return self._is_held

    def release(self) -> None:
        """Give it up, if Redis is there."""
        if self._is_held:
            with suppress(RedisError, OSError):
                self._store.release_client(self.name, self.holder)

    def _take_over(self, other: str) -> None:
        holder = self._store.client(self.name)
        owner = Owner.parse(holder.get("owner", ""))
        if owner is not None and owner.is_proven_dead():
            self._store.release_client(self.name, other)
            if not self._store.claim_client(self.name, self.holder, self._about()):
                return
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        raise InvalidValue(
            f"the client_id {self.name!r} is in use, by {who}: give each process one of its own, or none. When that one is gone,"
            f" its claim ends within {self._lease_s:g} s"
        )

    def _about(self) -> dict[str, str]:
        return {
            "name": self.name,
            "kind": self._kind,
            "version": __version__,
            "pid": str(os.getpid()),
            "host": socket.gethostname(),
            "owner": Owner.this_process().label(),
        }
