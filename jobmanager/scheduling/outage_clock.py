"""The clock of ``queue_timeout_s``: it runs only while no host is up that could run a job."""

from __future__ import annotations


class OutageClock:
    """Seconds for which there was no host. Times are those of the ledger's clock."""

    __slots__ = ("_outage_since", "_over_s")

    def __init__(self, now: float, *, has_host: bool) -> None:
        self._over_s = 0.0  # of outages that are over
        self._outage_since = None if has_host else now

    def set(self, now: float, *, has_host: bool) -> None:
        """There is a host, or there is none."""
        if not has_host and self._outage_since is None:
            self._outage_since = now
        elif has_host:
            self._over_s, self._outage_since = self.read(now), None

    def read(self, now: float) -> float:
        """What it shows."""
        return self._over_s + (0.0 if self._outage_since is None else now - self._outage_since)
