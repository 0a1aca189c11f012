"""Containers from the moment that they are wanted until container and volume are gone, and the slots that they hold.

A slot is a place on a host. A job takes one when it gets its host, and all its containers are in that slot. It is free again
once the job has released it and none of them is left: so it stays taken while a container is being removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jobmanager.model.container_states import (
    WANTED_STATES,
    ContainerAction,
    ContainerEvent,
    ContainerState,
    apply_event,
)
from jobmanager.scheduling.commands import Command, DeleteContainer, KillRun, SubmitContainer
from jobmanager.scheduling.hosts import Host, HostTable
from jobmanager.scheduling.volumes import MAX_VOLUME_TRIES, VOLUME_TRIES, LeftVolumes, delete_delay_s
from jobmanager.scheduling.waiting_queue import Cost


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place on a host."""

    name: str  # no other has it; its containers' names begin with it
    host: str
    job_id: str  # whose it is; empty: no job of this manager's
    engine_id: str = ""  # of the engine that its host had when it was taken
    cost: Cost | None = None  # what it is expected to cost; None: no job of this manager has it
    ran_to_end: bool = False  # its job ended without a kill: its duration counts
    is_released: bool = False  # its job needs it no more
    volumes: tuple[str, ...] = ()  # that its containers share, by their engine's names
    containers: set[str] = field(default_factory=set)  # those that are not gone
    remains: set[str] = field(default_factory=set)  # those of which at least a volume is left


@dataclass(slots=True, kw_only=True)
class ContainerRecord:
    """A container. Its record stays until its volume is gone, too."""

    name: str
    slot: Slot
    state: ContainerState = ContainerState.WANTED
    submit: SubmitContainer | None = None  # has it made; None for one that was found
    id: str = ""  # by which its engine knows it, once it has started
    image_command: tuple[str, ...] = ()
    start_s: float | None = None  # how long it took to create and start it
    busy_since: float | None = None  # by the ledger's clock: when it was first given its run
    is_ours: bool = False  # its submitter reported it: no other container has its name
    is_leaving: bool = False  # its runner was told to end
    removal_tries: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether its owner has not released it."""
        return self.state in WANTED_STATES

    @property
    def image(self) -> str:
        """The image that it is made from."""
        return self.submit.image if self.submit is not None else ""

    @property
    def has_others(self) -> bool:
        """Whether its waiter may have started others beside it: students, or what judges its cases."""
        if self.submit is None or self.busy_since is None:
            return False
        run = self.submit.request.runs[self.submit.run]
        return run.task.grader is not None or run.interactor is not None or bool(run.checkers)


class ContainerTable:
    """All containers, by name. ``apply`` follows the table of their life. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self,
        hosts: HostTable,
        send: Callable[[Command], None],
        *,
        monitor: Callable[[ContainerRecord, bool], None],
        on_slot_freed: Callable[[Slot], None],
    ) -> None:
        """``monitor`` has a waiter follow a container (whether an earlier one did); ``on_slot_freed`` is called once per slot."""
        self._hosts = hosts
        self._send = send
        self._on_slot_freed = on_slot_freed
        self.left_volumes = LeftVolumes(send)
        self._records: dict[str, ContainerRecord] = {}
        self._slots: dict[str, Slot] = {}
        self._actions: Mapping[ContainerAction, Callable[[ContainerRecord], None]] = {
            ContainerAction.START: self._start,
            ContainerAction.MONITOR: lambda record: monitor(record, False),
            ContainerAction.REASSIGN: lambda record: monitor(record, True),
            ContainerAction.KILL: lambda record: send(KillRun(container=record.name)),
            ContainerAction.REMOVE: self._remove,
            ContainerAction.REMOVE_LATER: self._remove_later,
            ContainerAction.FREE: self._free,
            ContainerAction.FORGET: self._forget,
        }

    def __getitem__(self, container: str) -> ContainerRecord:
        return self._records[container]

    def get(self, container: str) -> ContainerRecord | None:
        """A container; None when it is unknown, or nothing is left of it."""
        return self._records.get(container)

    def hosts(self) -> dict[str, str]:
        """Their names, and the hosts that they are on."""
        return {name: record.slot.host for name, record in self._records.items()}

    def slots(self) -> Iterable[Slot]:
        """The slots that are taken."""
        return self._slots.values()

    def slot(self, name: str) -> Slot | None:
        """A slot; None when it is free."""
        return self._slots.get(name)

    def are_gone(self) -> bool:
        """Whether no slot is taken, and volumes are gone or cannot be removed."""
        lone = (record.removal_tries >= VOLUME_TRIES for record in self._records.values())
        return not self._slots and all(lone) and self.left_volumes.are_gone()

    def take_slot(self, name: str, host: Host, *, job_id: str, memory_mib: int, cost: Cost | None = None) -> Slot:
        """A job takes a slot, and its memory."""
        slot = self._slots[name] = Slot(name=name, host=host.name, job_id=job_id, engine_id=host.engine_id, cost=cost)
        self._hosts.take(host, name, memory_mib)
        return slot

    def release_slot(self, slot: Slot) -> None:
        """Its job needs it no more, nor its containers."""
        slot.is_released = True
        for name in list(slot.containers):
            self.apply(self._records[name], ContainerEvent.RELEASED)
        self._free_if_empty(slot)

    def want(self, slot: Slot, submit: SubmitContainer) -> ContainerRecord:
        """A container in this slot is wanted: its host is to make it."""
        record = self._add(ContainerRecord(name=submit.container, slot=slot, submit=submit))
        self.apply(record, ContainerEvent.START_DUE)
        return record

    def started(
        self, record: ContainerRecord, *, container_id: str, image_command: tuple[str, ...], duration_s: float
    ) -> None:
        """The submitter's report: the container waits for its run."""
        record.is_ours, record.id, record.image_command = True, container_id, image_command
        record.start_s = round(duration_s, 4)
        self.apply(record, ContainerEvent.STARTED)

    def delete_strays(self, host: str, containers: Sequence[str]) -> None:
        """Have those removed that no job of this manager has."""
        for name in containers:
            if name not in self._records:
                slot = self._slots[name] = Slot(name=name, host=host, job_id="", is_released=True)
                self._hosts[host].take(name, memory_mib=0)  # its memory limit is unknown
                self.apply(self._add(ContainerRecord(name=name, slot=slot)), ContainerEvent.FOUND)

    def apply(self, record: ContainerRecord, event: ContainerEvent) -> bool:
        """What follows from an event. Returns False when it changes nothing in this state."""
        actions = apply_event(record, event)
        for action in actions or ():
            self._actions[action](record)
        return actions is not None

    def _add(self, record: ContainerRecord) -> ContainerRecord:
        self._records[record.name] = record
        record.slot.containers.add(record.name)
        record.slot.remains.add(record.name)
        return record

    def _start(self, record: ContainerRecord) -> None:
        assert record.submit is not None, "only a container that was wanted is started"
        self._send(record.submit)

    def _remove(self, record: ContainerRecord, delay_s: float = 0.0) -> None:
        self._send(
            DeleteContainer(
                host=record.slot.host,
                container=record.name,
                is_ours=record.is_ours,
                is_leaving=record.is_leaving,
                has_others=record.has_others,
                delay_s=delay_s,
            )
        )

    def _remove_later(self, record: ContainerRecord) -> None:
        """Try again. A volume alone holds no slot: an engine may refuse to remove it for as long as the engine runs.

        After some tries its record is dropped, as records would add up. Sweeping removes the volume after this manager's end.
        """
        delay_s = delete_delay_s(record.removal_tries)
        record.removal_tries += 1
        if record.state is ContainerState.GONE and record.removal_tries > MAX_VOLUME_TRIES:
            self._forget(record)
        else:
            self._remove(record, delay_s)

    def _forget(self, record: ContainerRecord) -> None:
        del self._records[record.name]
        record.slot.remains.discard(record.name)

    def _free(self, record: ContainerRecord) -> None:
        record.slot.containers.discard(record.name)
        self._free_if_empty(record.slot)

    def _free_if_empty(self, slot: Slot) -> None:
        if slot.is_released and not slot.containers and self._slots.pop(slot.name, None) is not None:
            self._hosts[slot.host].release(slot.name)
            self._on_slot_freed(slot)
            if slot.volumes:
                self.left_volumes.delete(slot.host, slot.name, slot.volumes)
