"""Volumes by name, which several containers of a job have: the fake engine and a real one alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager._submitter import submit
from jobmanager.engine.docker.container_config import SHARED_VOLUME_LABEL, VOLUME_LABEL
from jobmanager.engine.protocol import Refused
from jobmanager.ipc.messages import ContainerStarted, VolumesLost
from jobmanager.model.container import ContainerSpec, VolumeMount
from jobmanager.runner.frames import RefusalReason
from tests.contract.behaviours import CAT, LEAVES
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import LABEL, LIMITS, Place


def read_only(volume: VolumeMount) -> VolumeMount:
    return replace(volume, read_only=True)


def names(place: Place) -> set[str]:
    """The test's volumes that are no container's own."""
    return {volume.name for volume in place.engine.volumes({LABEL: place.label}) if VOLUME_LABEL not in volume.labels}


def test_a_volume_is_made_with_its_first_container_and_has_its_labels(place: Place) -> None:
    volume = place.volume("work")

    place.create(labels={"kind": "one"}, volumes=(volume,))

    (found,) = place.engine.volumes({SHARED_VOLUME_LABEL: "work", LABEL: place.label})
    assert found.name == volume.name
    assert found.labels.items() >= {LABEL: place.label, "kind": "one"}.items()
    assert VOLUME_LABEL not in found.labels


def test_a_container_tells_its_volumes_by_their_paths(place: Place) -> None:
    volumes = (place.volume("work"), place.volume("reports"))
    name = place.create(volumes=volumes)
    (listed,) = place.engine.list({LABEL: place.label})
    found = place.engine.inspect(name).volumes
    assert set(found) - {"/.jobmanager"} == {"/volumes/work", "/volumes/reports"}
    assert {volume.path: found[volume.path] for volume in volumes} == {volume.path: volume.name for volume in volumes}
    assert listed.volumes == found


def test_what_one_container_writes_another_one_reads(place: Place) -> None:
    volume = place.volume()
    place.run(LEAVES, volumes=(volume,))

    assert place.run(CAT, volumes=(read_only(volume),)).stdout == b"hello\n"


@REAL_ONLY
def test_a_volume_that_is_only_read_cannot_be_changed(place: Place) -> None:
    volume = place.volume()
    first = place.run("echo right > /volumes/work/a; mkdir /volumes/work/d", volumes=(volume,))
    tries = "echo x > a; echo x >> a; echo x > new; mkdir new; rm a; rm -rf d; cat a"

    run = place.run(f"cd /volumes/work; {tries}", volumes=(read_only(volume),))

    assert run.stdout == b"right\n"
    assert run.stderr.count(b"Read-only file system") >= 3
    names_there = [member for member in place.archived(first.container, "/volumes/work") if member != "work"]
    assert sorted(names_there) == ["work/a", "work/d"]


def test_a_program_cannot_write_to_a_volume_that_is_only_read(place: Place) -> None:
    volume = place.volume()
    holder = place.run(("true",), volumes=(volume,))
    assert place.run(LEAVES, volumes=(read_only(volume),)).ended.code == 1
    assert "work/d/a" not in place.archived(holder.container, "/volumes/work")


@REAL_ONLY
def test_containers_that_write_to_one_volume_share_its_room(place: Place) -> None:
    volume = place.volume(size_mib=1)
    first = place.run("head -c 900000 /dev/zero > /volumes/work/a; echo $?", volumes=(volume,))
    assert first.stdout == b"0\n"

    second = place.run("head -c 900000 /dev/zero > /volumes/work/b || echo full", volumes=(volume,))

    assert b"full\n" in second.stdout
    assert not second.ended.full  # it is not the workspace


@REAL_ONLY
def test_a_volume_holds_no_more_files_than_its_size_allows(place: Place) -> None:
    volume = place.volume(size_mib=1)
    made = f"i=0; while [ $i -lt {volume.inodes + 8} ] && printf '' > /volumes/work/$i; do i=$((i+1)); done; echo $i"

    run = place.run(made, volumes=(volume,))

    assert run.stdout == b"%d\n" % (volume.inodes - 1)  # the folder itself is one
    assert b"No space left on device" in run.stderr


def test_content_lives_on_while_another_container_of_the_volume_runs_and_is_gone_after_that(place: Place) -> None:
    volume = place.volume()
    first = place.run(LEAVES, volumes=(volume,))
    second = place.started(volumes=(read_only(volume),))
    place.engine.remove(first.container)
    assert "work/d/a" in place.archived(second, "/volumes/work")
    third = place.run(CAT, volumes=(volume,))
    assert third.stdout == b"hello\n"

    for name in (second, third.container):
        place.engine.kill(name)
        place.until_ended(name)

    assert place.run("ls /volumes/work", volumes=(volume,)).stdout == b""


def test_removing_a_container_leaves_its_shared_volumes(place: Place) -> None:
    volume = place.volume()
    name = place.started(volumes=(volume,))
    place.engine.remove(name)
    place.engine.remove(name)
    assert names(place) == {volume.name}
    assert not place.engine.volumes({VOLUME_LABEL: name})


def test_a_shared_volume_cannot_be_removed_while_a_container_has_it(place: Place) -> None:
    volume = place.volume()
    first, second = place.run("true", volumes=(volume,)).container, place.create(volumes=(read_only(volume),))
    for name in (first, second):
        with pytest.raises(Refused, match="in use"):
            place.engine.remove_volume(volume.name)
        place.engine.remove(name)

    place.engine.remove_volume(volume.name)

    assert names(place) == set()
    place.engine.remove_volume(volume.name)


def test_a_volume_of_its_name_that_was_removed_is_made_anew(place: Place) -> None:
    volume = place.volume()
    place.engine.remove(place.run(LEAVES, volumes=(volume,)).container)
    place.engine.remove_volume(volume.name)
    assert place.run("ls /volumes/work", volumes=(volume,)).stdout == b""


def test_a_container_has_only_the_volumes_that_it_names(place: Place) -> None:
    volume = place.volume()
    place.started(volumes=(volume,))
    assert place.run("ls /volumes || echo none").stdout == b"none\n"
    other = place.volume("other")
    run = place.run("ls /volumes; mkdir /volumes/work; mkdir /volumes/new", volumes=(other,))
    assert (run.stdout, run.ended.code) == (b"other\n", 1)


def submitted(place: Place, volume: VolumeMount, *holders: str, name: str = "") -> object:
    """What the submitter reports of a container whose volume these containers have."""
    name = name or place.named()
    spec = ContainerSpec(
        name=name,
        image=place.image,
        labels={LABEL: place.label},
        limits=LIMITS,
        volumes=(volume,),
        volume_holders=holders,
    )
    return submit(place.engine, spec, place.runners, host=place.address.host)


def test_a_container_that_started_while_another_one_had_its_volumes_has_their_content(place: Place) -> None:
    volume = place.volume()
    holder = place.started(volumes=(volume,))
    name = place.named()
    assert isinstance(submitted(place, volume, holder, name=name), ContainerStarted)

    place.engine.kill(holder)
    place.until_ended(holder)

    assert isinstance(submitted(place, volume, holder, name=name), ContainerStarted)  # found again: it has started before that
    assert place.engine.inspect(holder).ended_at_s > place.engine.inspect(name).started_at_s


def test_a_container_that_started_after_the_one_that_had_its_volumes_had_ended_is_told_to_have_lost_them(place: Place) -> None:
    volume = place.volume()
    holder = place.started(volumes=(volume,))
    place.engine.kill(holder)
    place.until_ended(holder)
    assert isinstance(submitted(place, volume, holder), VolumesLost)

    place.engine.remove(holder)
    assert isinstance(submitted(place, volume, holder), VolumesLost)


@REAL_ONLY
def test_a_volume_that_another_container_keeps_is_told_from_another_one_in_its_place(place: Place) -> None:
    work, out = place.volume("work"), place.volume("out", size_mib=2)
    first = place.run("echo 1 > /volumes/work/f", volumes=(work, out))
    assert first.devices.keys() == {"/volumes/work", "/volumes/out"}
    device = first.devices["/volumes/work"]
    assert device != first.devices["/volumes/out"]

    kept = place.run("cat /volumes/work/f", volumes=(read_only(work),), volume_devices={"work": device})
    another = place.run("cat /volumes/work/f", volumes=(work, out), volume_devices={"work": device, "out": "0:1"})

    assert (kept.stdout, kept.devices) == (b"1\n", {"/volumes/work": device})
    assert (another.refused.why, another.refused.what) == (RefusalReason.OTHER_DEVICE, b"/volumes/out")
    assert another.stdout == b""


@REAL_ONLY
def test_sixteen_volumes_with_long_names_are_told(place: Place) -> None:
    volumes = tuple(place.volume(f"{'x' * 60}{number:02}", size_mib=1) for number in range(16))
    run = place.run("ls /volumes | wc -l", volumes=volumes)
    assert run.stdout == b"16\n"
    assert run.devices.keys() == {volume.path for volume in volumes}
