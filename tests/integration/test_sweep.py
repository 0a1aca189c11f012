"""What dead managers left on a host is found and removed; what belongs to a living one is never touched."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import docker
import pytest

from jobmanager import JobManager, Limits, Task
from jobmanager.control import closing as closing_steps
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner, labels
from jobmanager.engine.leftovers import LeftoverKind, remove_leftovers, survey
from jobmanager.engine.protocol import BeingRemoved, Engine
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.proxy import REMOVE, Proxy

LONG = Task(BUSYBOX, command="sleep 300", limits=Limits(wall_time_s=300))
DEAD = replace(Owner.this_process(), started="1")  # another process had this number once
ELSEWHERE = replace(Owner.this_process(), pid_namespace="4026530000")


@pytest.fixture
def url(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = connect(Address(host="private", url=url), timeout_s=20)
    yield engine
    engine.close()


def left_by(engine: Engine, owner: Owner, *, manager_id: str = "m1", lease_s: float = 100) -> str:
    """A container with a volume of its own, as a grading job has one, that a manager of this owner has made."""
    name = f"jobmanager-test-{secrets.token_hex(6)}"
    spec = ContainerSpec(name=name, image=BUSYBOX, labels=labels(manager_id, "j1", lease_s, owner), limits=Limits(), shares=True)
    engine.create(spec, ImageDefaults(command=(), volumes=()))
    return name


def remove_by_hand(url: str, container: str) -> None:
    """As ``docker rm --force`` does it: the volume stays."""
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    try:
        client.remove_container(container, force=True, v=False)
    finally:
        client.close()


def test_a_dead_owners_container_is_found_told_and_removed_with_its_volume(url: str, engine: Engine) -> None:
    name = left_by(engine, DEAD)

    found = survey(engine)
    (leftover,) = found.leftovers
    assert (leftover.kind, leftover.name, leftover.manager_id, leftover.job_id) == (LeftoverKind.CONTAINER, name, "m1", "j1")
    assert leftover.why == f"its process {DEAD.pid} has ended"
    assert 0 <= leftover.age_s < 60
    assert found.others == ()

    assert [removal.error for removal in remove_leftovers(engine, found.leftovers)] == [""]
    assert not our_containers(url) and not our_volumes(url)


def test_a_dead_owners_lone_volume_is_found_and_removed(url: str, engine: Engine) -> None:
    remove_by_hand(url, left_by(engine, DEAD))
    assert len(our_volumes(url)) == 1

    (leftover,) = survey(engine).leftovers
    assert (leftover.kind, leftover.manager_id) == (LeftoverKind.VOLUME, "m1")
    list(remove_leftovers(engine, [leftover]))
    assert not our_volumes(url)


def test_things_of_living_owners_and_of_those_elsewhere_are_listed_apart(engine: Engine) -> None:
    names = {left_by(engine, Owner.this_process()), left_by(engine, ELSEWHERE)}

    found = survey(engine)
    assert found.leftovers == ()
    assert {other.name for other in found.others} == names
    list(remove_leftovers(engine, found.others))


def test_one_that_cannot_be_removed_does_not_keep_the_others(url: str, engine: Engine) -> None:
    left_by(engine, DEAD)
    remove_by_hand(url, left_by(engine, DEAD))
    (in_use,) = [volume for volume in engine.volumes({"jobmanager.manager": "m1"}) if volume.labels["jobmanager.container"] in
                 {state.name for state in engine.list({"jobmanager.manager": "m1"})}]  # fmt: skip
    container, lone = survey(engine).leftovers

    removals = list(remove_leftovers(engine, [replace(lone, id=in_use.name, name=in_use.name), container, lone]))
    assert ["in use" in removal.error for removal in removals] == [True, False, False]
    assert [removal.error for removal in removals[1:]] == ["", ""]


def test_one_that_somebody_else_is_removing_already_is_no_trouble(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by(engine, DEAD)

    def under_way(container: str) -> None:
        raise BeingRemoved(f"removal of {container} is still under way")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "remove", under_way)
        (removal,) = remove_leftovers(engine, survey(engine).leftovers)
    assert removal.error == ""
    assert [each.error for each in remove_leftovers(engine, survey(engine).leftovers)] == [""]


def test_a_starting_manager_removes_a_dead_ones_lone_volume_and_leaves_a_living_neighbours(url: str, engine: Engine) -> None:
    remove_by_hand(url, left_by(engine, DEAD))
    remove_by_hand(url, left_by(engine, Owner.this_process(), manager_id="neighbour"))

    with JobManager(url):
        eventually(lambda: len(our_volumes(url)) == 1, what="the dead one's volume is removed")
    (left,) = survey(engine).others
    assert left.manager_id == "neighbour"
    list(remove_leftovers(engine, [left]))


def close_with_a_job_that_cannot_be_removed(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager of this process whose host takes no removal any more when it closes."""
    monkeypatch.setattr(closing_steps, "AT_CLOSE", replace(closing_steps.AT_CLOSE, kill_s=1.0, delete_s=0.5))
    there_before = len(our_containers(url))
    closing = JobManager(proxy.url)
    closing.start()
    closing.submit(LONG)
    eventually(lambda: len(our_containers(url)) == there_before + 1, what="its job runs")
    proxy.drop(REMOVE, on_reply=False, times=10**6)
    closing.close(kill=True)


def test_what_a_closed_manager_had_to_leave_is_removed_by_another_that_lives_in_the_same_process(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobManager(url) as other, Proxy(url) as proxy:
        mine = other.submit(LONG)
        (neighbours,) = eventually(lambda: our_containers(url), what="the other manager's job runs")

        close_with_a_job_that_cannot_be_removed(url, proxy, monkeypatch)

        eventually(lambda: our_containers(url) == [neighbours], what="the closed manager's container is removed")
        assert not mine.done()
        other.kill_job(mine.job_id)


def test_what_a_closed_manager_had_to_leave_is_removed_by_the_next_one_of_the_same_process(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(url) as proxy:
        close_with_a_job_that_cannot_be_removed(url, proxy, monkeypatch)
    assert len(our_containers(url)) == 1

    with JobManager(url):
        eventually(lambda: not our_containers(url), what="the closed manager's container is removed")
