"""The table of a container's life, and the same driven through the table of containers."""

from __future__ import annotations

import itertools

import pytest

from dev.queue_simulation import PYTHON
from jobmanager import JobInput, Task
from jobmanager.model.container import EngineInfo
from jobmanager.model.container_states import (
    CONTAINER_TRANSITIONS,
    WANTED_STATES,
    ContainerAction,
    ContainerEvent,
    ContainerState,
)
from jobmanager.model.job import Request, RunRequest
from jobmanager.scheduling.commands import DeleteContainer, KillRun, SubmitContainer
from jobmanager.scheduling.containers import ContainerTable
from jobmanager.scheduling.hosts import HostConfig, HostTable

TASK = Task("python3", command="x")
REQUEST = Request(
    job_id="j", task=TASK, inputs=JobInput(), runs=(RunRequest(task=TASK),), priority=0, launcher_name="ann", debug=False
)
WAYS = {  # what brings a container there
    ContainerState.STARTING: [],
    ContainerState.UNWANTED: [ContainerEvent.RELEASED],
    ContainerState.READY: [ContainerEvent.STARTED],
    ContainerState.BUSY: [ContainerEvent.STARTED, ContainerEvent.RUN_GIVEN],
    ContainerState.SPENT: [ContainerEvent.STARTED, ContainerEvent.RUN_GIVEN, ContainerEvent.RUN_ENDED],
    ContainerState.REMOVING: [ContainerEvent.START_FAILED],
    ContainerState.GONE: [ContainerEvent.START_FAILED, ContainerEvent.VOLUME_LEFT],
}


class World:
    """A table with one slot on one host, and what it commanded."""

    def __init__(self) -> None:
        self.commands: list[object] = []
        self.monitored: list[tuple[str, bool]] = []
        self.freed: list[str] = []
        self.hosts = HostTable([HostConfig(name="a", limit=9)], {})
        self.hosts.answered("a", EngineInfo(version="1", cores=4, memory_mib=4096, now_s=0.0, cgroup="2"), (PYTHON,), 0.0)
        self.table = ContainerTable(
            self.hosts,
            self.commands.append,
            monitor=lambda record, taken_over: self.monitored.append((record.name, taken_over)),
            on_slot_freed=lambda slot: self.freed.append(slot.name),
        )
        self.slot = self.table.take_slot("s", self.hosts["a"], job_id="j", memory_mib=100)

    def want(self, name: str = "c"):
        return self.table.want(self.slot, SubmitContainer(host="a", container=name, image="i", request=REQUEST))

    def reach(self, state: ContainerState, name: str = "c"):
        record = self.want(name)
        for event in WAYS[state]:
            assert self.table.apply(record, event)
        assert record.state is state
        return record

    def free_mib(self) -> int:
        return 4096 - self.hosts["a"].unpromised_mib

    def kinds(self) -> list[type]:
        return [type(command) for command in self.commands]


def test_every_event_and_action_is_in_the_table() -> None:
    assert set(CONTAINER_TRANSITIONS) == set(ContainerEvent)
    used = {action for cells in CONTAINER_TRANSITIONS.values() for cell in cells.values() for action in cell.actions}
    assert used == set(ContainerAction)


def test_a_container_is_freed_exactly_when_it_becomes_gone() -> None:
    for cells in CONTAINER_TRANSITIONS.values():
        for state, transition in cells.items():
            becomes_gone = state is not ContainerState.GONE and transition.to is ContainerState.GONE
            assert transition.actions.count(ContainerAction.FREE) == becomes_gone, (state, transition)


def test_nothing_leads_from_a_container_that_is_not_wanted_back_to_a_job() -> None:
    for cells in CONTAINER_TRANSITIONS.values():
        for state, transition in cells.items():
            if state not in WANTED_STATES:
                assert transition.to not in WANTED_STATES, (state, transition)
                assert not {ContainerAction.START, ContainerAction.MONITOR, ContainerAction.REASSIGN} & {*transition.actions}


def test_only_a_ready_container_is_given_a_run() -> None:
    assert set(CONTAINER_TRANSITIONS[ContainerEvent.RUN_GIVEN]) == {ContainerState.READY}


@pytest.mark.parametrize("state", WAYS, ids=lambda state: state.name)
def test_what_is_not_in_the_table_changes_nothing(state: ContainerState) -> None:
    for event in ContainerEvent:
        if state not in CONTAINER_TRANSITIONS[event]:
            world = World()
            record = world.reach(state)
            before = len(world.commands), list(world.monitored), world.free_mib()
            assert not world.table.apply(record, event)
            assert record.state is state
            assert (len(world.commands), world.monitored, world.free_mib()) == before


@pytest.mark.parametrize("state", WAYS, ids=lambda state: state.name)
def test_a_released_slot_is_free_once_its_container_is_gone_and_no_sooner(state: ContainerState) -> None:
    world = World()
    record = world.reach(state)

    world.table.release_slot(world.slot)
    if record.state is ContainerState.UNWANTED:
        world.table.started(record, container_id="1", image_command=(), duration_s=0.1)
    if state is not ContainerState.GONE:
        assert (record.state, world.freed, world.free_mib()) == (ContainerState.REMOVING, [], 100)
        world.table.apply(record, ContainerEvent.REMOVED)

    assert (world.freed, world.free_mib()) == (["s"], 0)
    assert world.kinds().count(DeleteContainer) == 1 + (state is ContainerState.GONE)  # once more for the volume that was left


def test_a_slot_without_containers_is_free_when_it_is_released() -> None:
    world = World()
    world.table.release_slot(world.slot)
    world.table.release_slot(world.slot)
    assert (world.freed, world.free_mib()) == (["s"], 0)


def test_a_slot_is_kept_between_two_containers_and_counted_once() -> None:
    world = World()
    first = world.reach(ContainerState.SPENT, "c1")
    world.table.apply(first, ContainerEvent.RELEASED)
    world.table.apply(first, ContainerEvent.REMOVED)
    assert (world.freed, world.free_mib()) == ([], 100)

    second, third = world.want("c2"), world.want("c3")
    world.table.release_slot(world.slot)
    for record in (second, third):
        assert world.freed == []
        world.table.started(record, container_id="1", image_command=(), duration_s=0.1)
        world.table.apply(record, ContainerEvent.REMOVED)
    assert (world.freed, world.free_mib(), world.table.hosts()) == (["s"], 0, {})


def test_removal_is_tried_again_after_growing_pauses_and_a_lone_volume_not_for_ever() -> None:
    world = World()
    record = world.reach(ContainerState.REMOVING)
    for _ in range(3):
        world.table.apply(record, ContainerEvent.REMOVAL_FAILED)
    assert [command.delay_s for command in world.commands if isinstance(command, DeleteContainer)] == [0.0, 0.2, 0.5, 1.0]
    tries = 0
    while world.table.get("c") is not None and tries < 100:
        world.table.apply(record, ContainerEvent.VOLUME_LEFT)
        tries += 1
    assert tries < 20


def test_every_order_of_two_events_leaves_a_container_that_can_still_be_removed() -> None:
    for state, first, second in itertools.product(WAYS, ContainerEvent, ContainerEvent):
        world = World()
        record = world.reach(state)
        for event in (first, second):
            if world.table.get("c") is not None:
                world.table.apply(record, event)
        world.table.release_slot(world.slot)
        if record.state is ContainerState.UNWANTED:
            world.table.apply(record, ContainerEvent.STARTED)
        if world.table.get("c") is not None:
            world.table.apply(record, ContainerEvent.REMOVED)
        assert (world.freed, world.table.hosts()) == (["s"], {}), (state, first, second)


def test_commands_name_the_container_and_its_host() -> None:
    world = World()
    record = world.reach(ContainerState.BUSY)
    world.table.apply(record, ContainerEvent.WAITER_DIED)
    world.table.apply(record, ContainerEvent.KILL_REQUESTED)
    assert world.monitored == [("c", False), ("c", True)]
    assert world.commands[-1] == KillRun(container="c")
    world.table.apply(record, ContainerEvent.RELEASED)
    assert world.commands[-1] == DeleteContainer(host="a", container="c", is_ours=False)


def test_a_container_that_nobody_knows_is_removed_and_takes_a_slot_until_then() -> None:
    world = World()
    world.table.delete_strays("a", ["x", "x"])
    assert world.table["x"].state is ContainerState.REMOVING
    assert len(list(world.table.slots())) == 2
    world.table.apply(world.table["x"], ContainerEvent.REMOVED)
    assert len(list(world.table.slots())) == 1
