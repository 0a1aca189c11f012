"""ReservationPolicy a host back for jobs that lack nothing but memory, which small ones would take from under them for ever.

The rule is in ``docs/queue.md``. At most one host is held back at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobmanager.scheduling.hosts import Host, HostTable
from jobmanager.scheduling.waiting_queue import PATIENCE_S, Line, Needs, Place

_SLACK_S = 30.0  # for what ends at its limit to be gone
_OVERHEAD_S = 5.0  # of a job beside its wall clock: start and removal


@dataclass(slots=True, kw_only=True)
class _Hold:
    line: Line
    host: str
    began: float
    free_at: float  # by when what runs there must be over, as far as its memory is needed
    spare_mib: int  # memory that will not be needed then


class ReservationPolicy:
    """Which host is held back, and for whom. Not thread-safe."""

    def __init__(self, left_s: Callable[[str], float]) -> None:
        self._left_s = left_s  # for how long a container may still run, at most
        self._hold: _Hold | None = None
        self._rests: dict[Needs, float] = {}  # lines that had a host held in vain, and until when they have none

    @property
    def host(self) -> str | None:
        """The host that is held back."""
        return self._hold.host if self._hold is not None else None

    @property
    def needs(self) -> Needs | None:
        """What it is held back for."""
        return self._hold.line.needs if self._hold is not None else None

    def review(self, lines: Iterable[Line], hosts: HostTable, now: float) -> None:
        """Let go of a host, or hold one back, as it is now."""
        waiting = {line.needs: line for line in lines}
        self._rests = {needs: until for needs, until in self._rests.items() if needs in waiting and until > now}
        if self._hold is not None and self._is_over(self._hold, waiting, hosts, now):
            self._hold = None
        if self._hold is None:
            self._hold = self._new(waiting.values(), hosts, now)

    def allows(self, host: Host, place: Place, now: float) -> bool:
        """Whether a host may take this job: one that is held back, only if that does not put off what it is held for."""
        hold = self._hold
        if hold is None or host.name != hold.host or place.group.line is hold.line:
            return True
        return self._is_over_in_time(place, now) or (place.needs.memory_mib <= hold.spare_mib and _has_two_slots(host))

    def placed(self, host: Host, place: Place, now: float) -> None:
        """A job was placed."""
        hold = self._hold
        if hold is None:
            return
        if place.group.line is hold.line:
            self._hold = None
        elif host.name == hold.host and not self._is_over_in_time(place, now):
            hold.spare_mib -= place.needs.memory_mib

    def _is_over_in_time(self, place: Place, now: float) -> bool:
        assert self._hold is not None
        return now + place.needs.ends_within_s + _OVERHEAD_S <= self._hold.free_at

    def _is_over(self, hold: _Hold, waiting: dict[Needs, Line], hosts: HostTable, now: float) -> bool:
        """Nobody needs it any more, the host cannot, or it was in vain: then the line waits as long again for the next."""
        if waiting.get(hold.line.needs) is not hold.line or hosts[hold.host] not in hosts.able(hold.line.needs):
            return True
        if now > hold.free_at + _SLACK_S:
            self._rests[hold.line.needs] = now + max(PATIENCE_S, now - hold.began)
            return True
        return False

    def _new(self, lines: Iterable[Line], hosts: HostTable, now: float) -> _Hold | None:
        """For the line that has waited longest, the host that can take it soonest."""
        patient = [line for line in lines if line.since <= now - PATIENCE_S and line.needs not in self._rests]
        for line in sorted(patient, key=lambda line: line.since):
            needs = line.needs
            able = hosts.able(needs)
            if able and all(host.unpromised_mib < needs.memory_mib for host in able):  # our own promises stand in its way
                holds = [self._on(host, line, now) for host in able]
                return min(holds, key=lambda hold: hold.free_at)
        return None

    def _on(self, host: Host, line: Line, now: float) -> _Hold:
        """What holding this host would mean."""
        ends = sorted((self._left_s(container), slot.memory_mib) for container, slot in host.taken.items())
        free_mib, left_s = host.unpromised_mib, 0.0
        for end_s, memory_mib in ends:
            if free_mib >= line.needs.memory_mib and end_s > left_s:
                break
            free_mib, left_s = free_mib + memory_mib, end_s
        return _Hold(
            line=line,
            host=host.name,
            began=now,
            free_at=now + left_s + _OVERHEAD_S,
            spare_mib=free_mib - line.needs.memory_mib,
        )


class Room:
    """Which host takes which job at one moment."""

    def __init__(self, hosts: HostTable, holding: ReservationPolicy, now: float) -> None:
        self._hosts = hosts
        self._holding = holding
        self._now = now

    def have_room(self) -> bool:
        """Whether any host takes any job at all."""
        return self._hosts.any_has_room()

    def host_for(self, place: Place) -> Host | None:
        """The host for this job; None when none takes it."""
        return self._hosts.choose(place.needs, lambda host: self._holding.allows(host, place, self._now))


def _has_two_slots(host: Host) -> bool:
    return len(host.taken) + 1 < host.limit
