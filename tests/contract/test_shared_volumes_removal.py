"""Who removes a volume that containers of a job share: its manager's deleter, or a sweep. On the fake engine and a real one."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from jobmanager._deleter import delete_volumes
from jobmanager.engine.labels import Owner, labels
from jobmanager.engine.leftovers import Leftover, LeftoverKind, remove_leftovers, survey
from jobmanager.engine.protocol import Unreachable
from jobmanager.ipc.messages import VolumeRemovalFailed, VolumesRemoved
from jobmanager.model.container import VolumeMount
from tests.contract.place import LABEL, Place

DEAD = replace(Owner.this_process(), started="1")  # another process had this number once
ELSEWHERE = replace(Owner.this_process(), pid_namespace="4026530000")


@pytest.fixture
def manager() -> str:
    return f"m-{secrets.token_hex(6)}"


def made(place: Place, manager: str, owner: Owner, *volumes: VolumeMount, lease_s: float = 1000) -> str:
    """A container of the job j1 of this manager."""
    return place.create(labels=labels(manager, "j1", lease_s, owner), volumes=volumes)


def of(leftovers: tuple[Leftover, ...], manager: str) -> list[Leftover]:
    return [leftover for leftover in leftovers if leftover.manager_id == manager]


# ---- the deleter


def test_a_deleter_removes_the_volumes_that_are_there_and_its_managers(place: Place, manager: str) -> None:
    ours, theirs = (place.volume("ours"), place.volume("mine")), place.volume("theirs")
    made(place, f"{manager}-other", DEAD, theirs)
    place.engine.remove(made(place, manager, DEAD, *ours))

    names = [*(volume.name for volume in ours), theirs.name, "jobmanager-test-no-such-volume"]
    assert delete_volumes(place.engine, names, manager) == VolumesRemoved()

    left = {volume.name for volume in place.engine.volumes({LABEL: place.label, "jobmanager.volume": None})}
    assert left == {theirs.name}


def test_a_volume_in_use_is_told_and_does_not_keep_the_others(place: Place, manager: str) -> None:
    used, free = place.volume("a-used"), place.volume("b-free")
    user = made(place, manager, DEAD, used)
    place.engine.remove(made(place, manager, DEAD, used, free))

    reply = delete_volumes(place.engine, [used.name, free.name], manager)

    assert isinstance(reply, VolumeRemovalFailed)
    assert "in use" in reply.reason
    assert {volume.name for volume in place.engine.volumes({"jobmanager.volume": None, LABEL: place.label})} == {used.name}
    place.engine.remove(user)
    assert delete_volumes(place.engine, [used.name, free.name], manager) == VolumesRemoved()


def test_an_engine_that_does_not_answer_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: object) -> None:
        raise Unreachable("no answer within 1 s")

    monkeypatch.setattr(place.engine, "volumes", silent)
    assert delete_volumes(place.engine, ["v"], "m") == VolumeRemovalFailed(reason="no answer within 1 s")


# ---- the sweep


def test_a_dead_managers_volumes_are_swept_after_the_containers_that_have_them(place: Place, manager: str) -> None:
    volume = place.volume()
    containers = {made(place, manager, DEAD, volume), made(place, manager, DEAD, volume)}

    found = of(survey(place.engine).leftovers, manager)

    assert [leftover.kind for leftover in found] == [LeftoverKind.CONTAINER, LeftoverKind.CONTAINER, LeftoverKind.VOLUME]
    assert {leftover.name for leftover in found[:2]} == containers
    assert (found[2].name, found[2].job_id) == (volume.name, "j1")
    assert [removal.error for removal in remove_leftovers(place.engine, found)] == ["", "", ""]
    assert of(survey(place.engine).leftovers, manager) == []


def test_a_dead_managers_volume_without_a_container_is_swept(place: Place, manager: str) -> None:
    volume = place.volume()
    place.engine.remove(made(place, manager, DEAD, volume))
    (found,) = of(survey(place.engine).leftovers, manager)
    assert (found.kind, found.name, found.job_id) == (LeftoverKind.VOLUME, volume.name, "j1")
    assert [removal.error for removal in remove_leftovers(place.engine, [found])] == [""]


def test_a_living_managers_volumes_are_never_leftovers(place: Place, manager: str) -> None:
    with_container, alone = place.volume("one"), place.volume("two")
    made(place, manager, Owner.this_process(), with_container)
    place.engine.remove(made(place, manager, Owner.this_process(), alone))
    found = survey(place.engine)
    assert of(found.leftovers, manager) == []
    assert {leftover.name for leftover in of(found.others, manager)} > {with_container.name, alone.name}


def test_a_volume_is_no_leftover_by_its_lease_while_a_later_container_of_its_job_may_live(place: Place, manager: str) -> None:
    volume = place.volume()
    first = made(place, manager, ELSEWHERE, volume, lease_s=0)
    later = made(place, manager, ELSEWHERE, volume)
    place.engine.remove(first)
    assert of(survey(place.engine).leftovers, manager) == []

    place.engine.remove(later)
    assert [leftover.name for leftover in of(survey(place.engine).leftovers, manager)] == [volume.name]
