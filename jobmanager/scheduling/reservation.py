"""Backfilling with a reservation: a host is reserved for jobs that wait for memory only, which small jobs would take for ever.

The rule is in ``docs/queue.md``. At most one host is reserved at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobmanager.scheduling.hosts import Host, HostTable
from jobmanager.scheduling.waiting_queue import PATIENCE_S, QueueEntry, RequirementClass, Requirements

_SLACK_S = 30.0  # after a job has reached its limit, until its container must be gone
_OVERHEAD_S = 5.0  # of a job beside its wall clock time: start and removal


@dataclass(slots=True, kw_only=True)
class Reservation:
    """A host, and the jobs for which it is reserved."""

    req_class: RequirementClass
    host: str
    made_at: float
    free_at: float  # when the memory is free, if all that runs there takes its whole limit
    spare_mib: int  # memory that the reservation does not need


class ReservationPolicy:
    """Decides which host is reserved, and for which jobs. Not thread-safe."""

    def __init__(self, left_s: Callable[[str], float]) -> None:
        self._left_s = left_s  # for how long the job of a slot may still run, at most
        self._reservation: Reservation | None = None
        self._paused_until: dict[Requirements, float] = {}  # classes that had a reservation in vain get none until then

    @property
    def host(self) -> str | None:
        """The host that is reserved; None when none is."""
        return self._reservation.host if self._reservation is not None else None

    @property
    def requirements(self) -> Requirements | None:
        """The requirements for which it is reserved."""
        return self._reservation.req_class.requirements if self._reservation is not None else None

    def review(self, req_classes: Iterable[RequirementClass], hosts: HostTable, now: float) -> None:
        """Drop a reservation that is over, and make one that is due."""
        waiting = {req_class.requirements: req_class for req_class in req_classes}
        self._paused_until = {
            requirements: until for requirements, until in self._paused_until.items() if requirements in waiting and until > now
        }
        if self._reservation is not None and self._is_over(self._reservation, waiting, hosts, now):
            self._reservation = None
        if self._reservation is None:
            self._reservation = self._reserve(waiting.values(), hosts, now)

    def allows(self, host: Host, entry: QueueEntry, now: float) -> bool:
        """Whether a host may take this job. A reserved one may if that does not delay the jobs for which it is reserved."""
        reservation = self._reservation
        if reservation is None or host.name != reservation.host or entry.priority_class.req_class is reservation.req_class:
            return True
        return self._ends_in_time(entry, now) or (entry.requirements.memory_mib <= reservation.spare_mib and _has_two_slots(host))

    def placed(self, host: Host, entry: QueueEntry, now: float) -> None:
        """A job was placed: a reservation that has served its purpose ends."""
        reservation = self._reservation
        if reservation is None:
            return
        if entry.priority_class.req_class is reservation.req_class:
            self._reservation = None
        elif host.name == reservation.host and not self._ends_in_time(entry, now):
            reservation.spare_mib -= entry.requirements.memory_mib

    def _ends_in_time(self, entry: QueueEntry, now: float) -> bool:
        assert self._reservation is not None
        return now + entry.requirements.ends_within_s + _OVERHEAD_S <= self._reservation.free_at

    def _is_over(
        self, reservation: Reservation, waiting: dict[Requirements, RequirementClass], hosts: HostTable, now: float
    ) -> bool:
        """Whether it is not needed any more, its host cannot take the jobs, or it was in vain. Then the class pauses as long."""
        requirements = reservation.req_class.requirements
        if waiting.get(requirements) is not reservation.req_class:
            return True
        if hosts.get(reservation.host) not in hosts.able(requirements):
            return True
        if now > reservation.free_at + _SLACK_S:
            self._paused_until[requirements] = now + max(PATIENCE_S, now - reservation.made_at)
            return True
        return False

    def _reserve(self, req_classes: Iterable[RequirementClass], hosts: HostTable, now: float) -> Reservation | None:
        """Reserve the host that is free soonest, for the class that has waited longest."""
        patient = [
            req_class
            for req_class in req_classes
            if req_class.since <= now - PATIENCE_S and req_class.requirements not in self._paused_until
        ]
        for req_class in sorted(patient, key=lambda req_class: req_class.since):
            requirements = req_class.requirements
            able = hosts.able(requirements)
            # Only memory that we promised to other jobs becomes free by waiting for them.
            if able and all(host.unpromised_mib < requirements.memory_mib for host in able):
                reservations = [self._reservation_of(host, req_class, now) for host in able]
                return min(reservations, key=lambda reservation: reservation.free_at)
        return None

    def _reservation_of(self, host: Host, req_class: RequirementClass, now: float) -> Reservation:
        """The reservation of this host."""
        ends = sorted((self._left_s(name), slot.memory_mib) for name, slot in host.taken.items())
        free_mib, left_s = host.unpromised_mib, 0.0
        for end_s, memory_mib in ends:
            if free_mib >= req_class.requirements.memory_mib and end_s > left_s:
                break
            free_mib, left_s = free_mib + memory_mib, end_s
        return Reservation(
            req_class=req_class,
            host=host.name,
            made_at=now,
            free_at=now + left_s + _OVERHEAD_S,
            spare_mib=free_mib - req_class.requirements.memory_mib,
        )


class PlacementView:
    """The hosts as they are at one moment: which one takes which job."""

    def __init__(self, hosts: HostTable, reservations: ReservationPolicy, now: float) -> None:
        self._hosts = hosts
        self._reservations = reservations
        self._now = now

    def any_has_free_slot(self) -> bool:
        """Whether any host takes any job at all."""
        return self._hosts.any_has_free_slot()

    def host_for(self, entry: QueueEntry) -> Host | None:
        """The host for this job; None when none takes it."""
        return self._hosts.choose(entry.requirements, lambda host: self._reservations.allows(host, entry, self._now))


def _has_two_slots(host: Host) -> bool:
    return len(host.taken) + 1 < host.limit
