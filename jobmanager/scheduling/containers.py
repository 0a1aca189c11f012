"""Containers that hold a slot of their host, from the placement of their job until container and volume are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobmanager.scheduling.commands import DeleteContainer
from jobmanager.scheduling.hosts import Host, HostTable
from jobmanager.scheduling.waiting_queue import Cost

_DELETE_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_VOLUME_TRIES = 4  # after so many, closing waits for a volume no longer
_MAX_VOLUME_TRIES = 12


@dataclass(slots=True, kw_only=True)
class ContainerRecord:
    """A container. It holds a slot until it is gone, and its record stays until its volume is gone, too."""

    job_id: str
    host: str
    cost: Cost | None = None  # what its slot is expected to cost; None: no job of this manager has it
    ran_to_end: bool = False  # its job ended without a kill: its duration counts
    is_ours: bool = False  # its submitter reported it: no other container has its name
    being_deleted: bool = False
    delete_tries: int = 0
    is_gone: bool = False  # only its volume is left


class ContainerTable:
    """All containers, by name. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self, hosts: HostTable, send: Callable[[DeleteContainer], None], on_slot_freed: Callable[[ContainerRecord], None]
    ) -> None:
        self._hosts = hosts
        self._send = send
        self._on_slot_freed = on_slot_freed  # called once for each slot that becomes free
        self._records: dict[str, ContainerRecord] = {}

    def __getitem__(self, container: str) -> ContainerRecord:
        return self._records[container]

    def get(self, container: str) -> ContainerRecord | None:
        """A container; None when it is unknown, or gone."""
        return self._records.get(container)

    def names(self) -> list[str]:
        """The names of those that hold a slot."""
        return [name for name, _ in self.items()]

    def items(self) -> list[tuple[str, ContainerRecord]]:
        """Those that hold a slot, by name."""
        return [(name, record) for name, record in self._records.items() if not record.is_gone]

    def hosts(self) -> dict[str, str]:
        """Their names, and the hosts that they are on."""
        return {name: record.host for name, record in self._records.items()}

    def are_gone(self) -> bool:
        """Whether none holds a slot, and volumes are gone or cannot be removed."""
        return all(record.is_gone and record.delete_tries >= _VOLUME_TRIES for record in self._records.values())

    def add(self, container: str, job_id: str, host: Host, memory_mib: int, cost: Cost) -> None:
        """A job is placed: its container takes a slot."""
        self._records[container] = ContainerRecord(job_id=job_id, host=host.name, cost=cost)
        self._hosts.take(host, container, memory_mib)

    def delete(self, container: str) -> None:
        """Have a container removed, once."""
        record = self._records.get(container)
        if record is not None and not record.being_deleted:
            record.being_deleted = True
            self._send(_deletion(container, record))

    def delete_strays(self, host: str, containers: Sequence[str]) -> None:
        """Have those removed that no job of this manager has."""
        for name in containers:
            if name not in self._records:
                self._records[name] = ContainerRecord(job_id="", host=host)
                self._hosts[host].take(name, memory_mib=0)  # its memory limit is unknown
                self.delete(name)

    def deleted(self, container: str) -> ContainerRecord | None:
        """Container and volume are gone. Returns its record; None when there is none."""
        record = self._records.pop(container, None)
        if record is not None and not record.is_gone:
            self._free_slot(container, record)
        return record

    def delete_failed(self, container: str, *, only_volume_left: bool) -> None:
        """Try again later. A volume alone holds no slot: an engine may refuse to remove it for as long as the engine runs.

        After some tries its record is dropped, as records would add up. Sweeping removes the volume after this manager's end.
        """
        record = self._records.get(container)
        if record is None:
            return
        if only_volume_left and not record.is_gone:
            record.is_gone = True
            self._free_slot(container, record)
        delay_s = _DELETE_DELAYS_S[min(record.delete_tries, len(_DELETE_DELAYS_S) - 1)]
        record.delete_tries += 1
        if record.is_gone and record.delete_tries > _MAX_VOLUME_TRIES:
            del self._records[container]
        else:
            self._send(_deletion(container, record, delay_s))

    def _free_slot(self, container: str, record: ContainerRecord) -> None:
        self._hosts[record.host].release(container)
        self._on_slot_freed(record)


def _deletion(container: str, record: ContainerRecord, delay_s: float = 0.0) -> DeleteContainer:
    return DeleteContainer(host=record.host, container=container, is_ours=record.is_ours, delay_s=delay_s)
