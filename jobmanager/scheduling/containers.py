"""Containers that hold a slot of their host, from the placement of their job until nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobmanager.scheduling.commands import DeleteContainer
from jobmanager.scheduling.hosts import Host, HostTable
from jobmanager.scheduling.waiting_queue import Charge

_DELETE_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_VOLUME_TRIES = 4  # before closing waits for a volume no longer
_MOST_VOLUME_TRIES = 12


@dataclass(slots=True, kw_only=True)
class ContainerRecord:
    """A container that holds a slot, until it is gone, and is heard of until its volume is, too."""

    job_id: str
    host: str
    charge: Charge | None = None  # what its start was reckoned at; None: it is nobody's
    ran: bool = False  # its job came to an end of its own
    made: bool = False  # its submitter said that it runs: nobody else has its name
    being_deleted: bool = False
    delete_tries: int = 0
    is_gone: bool = False  # only its volume is left


class ContainerTable:
    """All of them, by name. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self, hosts: HostTable, send: Callable[[DeleteContainer], None], freed: Callable[[ContainerRecord], None]
    ) -> None:
        self._hosts = hosts
        self._send = send
        self._freed = freed  # told once of each slot that is free again
        self._held: dict[str, ContainerRecord] = {}

    def __getitem__(self, container: str) -> ContainerRecord:
        return self._held[container]

    def get(self, container: str) -> ContainerRecord | None:
        """A container; None when nothing is left of it, or it never was."""
        return self._held.get(container)

    def names(self) -> list[str]:
        """Those that hold a slot."""
        return [name for name, _ in self.items()]

    def items(self) -> list[tuple[str, ContainerRecord]]:
        """Those that hold a slot, by name."""
        return [(name, held) for name, held in self._held.items() if not held.is_gone]

    def hosts(self) -> dict[str, str]:
        """Their names, and the hosts that they are on."""
        return {name: held.host for name, held in self._held.items()}

    def are_gone(self) -> bool:
        """Whether none holds a slot, and volumes are gone or will not go."""
        return all(held.is_gone and held.delete_tries >= _VOLUME_TRIES for held in self._held.values())

    def hold(self, container: str, job_id: str, host: Host, memory_mib: int, charge: Charge) -> None:
        """A job is placed: its container takes a slot."""
        self._held[container] = ContainerRecord(job_id=job_id, host=host.name, charge=charge)
        self._hosts.take(host, container, memory_mib)

    def delete(self, container: str) -> None:
        """Have it removed, once."""
        held = self._held.get(container)
        if held is not None and not held.being_deleted:
            held.being_deleted = True
            self._send(_deletion(container, held))

    def delete_strays(self, host: str, containers: Sequence[str]) -> None:
        """Have those removed that are nobody's."""
        for name in containers:
            if name not in self._held:
                self._held[name] = ContainerRecord(job_id="", host=host)
                self._hosts[host].take(name, memory_mib=0)  # nobody knows any more what it was promised
                self.delete(name)

    def deleted(self, container: str) -> ContainerRecord | None:
        """Nothing of it is left: its slot is free. None when that was known."""
        held = self._held.pop(container, None)
        if held is not None and not held.is_gone:
            self._give_back(container, held)
        return held

    def delete_failed(self, container: str, *, only_volume_left: bool) -> None:
        """Try again later. A volume alone holds no slot: an engine may refuse to remove it for as long as it runs.

        In the end it is left to sweeping, once this manager is closed: what is remembered of it would add up.
        """
        held = self._held.get(container)
        if held is None:
            return
        if only_volume_left and not held.is_gone:
            held.is_gone = True
            self._give_back(container, held)
        delay_s = _DELETE_DELAYS_S[min(held.delete_tries, len(_DELETE_DELAYS_S) - 1)]
        held.delete_tries += 1
        if held.is_gone and held.delete_tries > _MOST_VOLUME_TRIES:
            del self._held[container]
        else:
            self._send(_deletion(container, held, delay_s))

    def _give_back(self, container: str, held: ContainerRecord) -> None:
        self._hosts[held.host].give_back(container)
        self._freed(held)


def _deletion(container: str, held: ContainerRecord, delay_s: float = 0.0) -> DeleteContainer:
    return DeleteContainer(host=held.host, container=container, job_id=held.job_id, made=held.made, delay_s=delay_s)
