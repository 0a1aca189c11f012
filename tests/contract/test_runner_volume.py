"""The volume that brings the runner to a host: made, found, checked, healed and swept. On the fake engine and a real one."""

from __future__ import annotations

import io
import secrets
import tarfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.labels import LEASE_LABEL, OWNER_LABEL, Owner
from jobmanager.engine.leftovers import CARRIER_LEASE_S, Leftover, LeftoverKind, remove_leftovers, survey_runners
from jobmanager.engine.protocol import (
    Engine,
    EngineError,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    Refused,
    Unreachable,
)
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.model.container import DiskVolume, Image
from jobmanager.runner.place import RUNNER_LABEL, RUNNER_PATH, USER_LABEL, RunnerVolume
from tests.contract.place import PATIENCE_S, Place
from tests.support.runner_volumes import HOST, Program, left_of, store

DEAD = replace(Owner.this_process(), started="1")  # another process had this number once
ELSEWHERE = replace(Owner.this_process(), pid_namespace="4026530000")


@pytest.fixture
def program(place: Place) -> Iterator[Program]:
    program = Program.of_random_bytes(300_000)
    yield program
    for carrier in place.engine.list({RUNNER_LABEL: program.sha256}):
        place.engine.remove(carrier.id)
    for volume in left_of(place.engine, program) | {program.volume.name}:
        place.remove_volume_at_the_end(volume)


def carrier_of(place: Place, *volumes: DiskVolume, labels: Mapping[str, str] | None = None, name: str = "") -> str:
    """A container that has these volumes, made by hand."""
    (image, *_) = place.engine.images()
    return place.engine.create_carrier(place.named(name), image.id, labels or {}, volumes)


def content_of(place: Place, volume: RunnerVolume) -> tuple[bytes, int]:
    """The runner as a container has it, and its mode."""
    carrier = carrier_of(place, volume.mount())
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(place.engine.archive(carrier, RUNNER_PATH)))) as tar:
            (member,) = tar
            file = tar.extractfile(member)
            assert file is not None
            return file.read(), member.mode & 0o7777  # the real engine adds the type of the file
    finally:
        place.engine.remove(carrier)


def put(place: Place, volume: DiskVolume, content: bytes, mode: int = 0o555) -> None:
    """Somebody writes into the volume, and makes it where it is not there."""
    carrier = carrier_of(place, replace(volume, read_only=False))
    place.engine.write_file(carrier, RUNNER_PATH, content, mode)
    place.engine.remove(carrier)


class Recorder:
    """An engine whose calls are counted, and which fails or is interrupted at one of them."""

    def __init__(self, engine: Engine, **replaced: object) -> None:
        self._engine = engine
        self._replaced = replaced
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        self.calls.append(name)
        return self._replaced[name] if name in self._replaced else getattr(self._engine, name)


def refusing(error: EngineError) -> object:
    def call(*_: object, **__: object) -> object:
        raise error

    return call


# ---- made, found, checked


def test_the_first_manager_makes_it_with_labels_that_say_what_it_is(place: Place, program: Program) -> None:
    volume = store(program, "m1").ensure(place.engine, HOST)

    assert volume.name == f"jobmanager-runner-{program.sha256[:16]}"
    assert content_of(place, volume) == (program.content, 0o555)
    assert left_of(place.engine, program) == {volume.name, f"{volume.name}-for-m1"}


def test_a_later_manager_finds_it_and_reads_it_back_once(place: Place, program: Program) -> None:
    store(program).ensure(place.engine, HOST)
    engine, later = Recorder(place.engine), store(program)

    later.ensure(engine, HOST)  # type: ignore[arg-type]
    assert "archive" in engine.calls and "write_file" not in engine.calls

    engine.calls.clear()
    later.ensure(engine, HOST)  # type: ignore[arg-type]
    assert engine.calls == []
    later.ensure(engine, "another host")  # type: ignore[arg-type]
    assert "archive" in engine.calls


def test_many_that_make_it_at_once_write_it_once(place: Place, program: Program) -> None:
    engines = [Recorder(connect(place.address, PATIENCE_S)) for _ in range(4)]

    with ThreadPoolExecutor(len(engines)) as threads:
        made = list(threads.map(lambda engine: store(program).ensure(engine, HOST), engines))

    for engine in engines:
        engine.close()  # type: ignore[operator]
    assert {volume.name for volume in made} == {program.volume.name}
    assert content_of(place, made[0]) == (program.content, 0o555)
    assert sum(engine.calls.count("write_file") for engine in engines) == 1


# ---- healed


def test_one_that_was_deleted_makes_a_start_fail_in_known_words_and_the_same_container_starts_when_it_is_filled_again(
    place: Place,
) -> None:
    program = Program(b"#!/bin/sh\nexit 7 # %s\n" % secrets.token_hex(8).encode())
    place.remove_volume_at_the_end(program.volume.name)
    manager = store(program)
    manager.ensure(place.engine, HOST)
    place.engine.remove_volume(program.volume.name)
    container = carrier_of(place, program.volume.mount())  # as a job's container: its program is the runner

    with pytest.raises(EngineError) as raised:
        place.engine.start(container)
    assert is_runner_missing(raised.value)

    manager.ensure(place.engine, HOST, again=True)
    manager.release(place.engine, HOST)
    assert content_of(place, program.volume) == (program.content, 0o555)
    if place.address.host == "real":  # the fake engine cannot run it
        place.engine.start(container)
        assert place.until_ended(container).exit_code == 7


def test_a_carrier_that_was_taken_for_abandoned_by_another_process_is_made_again(place: Place, program: Program) -> None:
    writes = []

    def write_file(container: str, path: str, content: bytes, mode: int) -> None:
        writes.append(path)
        if len(writes) == 1:
            place.engine.remove(container)
        place.engine.write_file(container, path, content, mode)

    store(program).ensure(Recorder(place.engine, write_file=write_file), HOST)  # type: ignore[arg-type]

    assert len(writes) == 2
    assert content_of(place, program.volume) == (program.content, 0o555)


def test_managers_get_it_while_somebody_deletes_it_again_and_again(place: Place, program: Program) -> None:
    enough = threading.Event()
    engines = [connect(place.address, PATIENCE_S) for _ in range(3)]

    def delete() -> None:
        while not enough.is_set():
            with suppress(Refused):  # in use
                engines[0].remove_volume(program.volume.name)

    def ensure(engine: Engine) -> None:
        manager = store(program)
        for _ in range(5):
            manager.ensure(engine, HOST, again=True)

    with ThreadPoolExecutor(3) as threads:
        deleter = threads.submit(delete)
        try:
            list(threads.map(ensure, engines[1:]))
        finally:
            enough.set()
        deleter.result()

    for engine in engines:
        engine.close()
    assert place.engine.list(program.volume.labels) == []


@pytest.mark.parametrize("size", [0, 150_000])
def test_one_that_was_filled_half_is_filled_again(place: Place, program: Program, size: int) -> None:
    put(place, program.volume.mount(), program.content[:size])
    store(program).ensure(place.engine, HOST)
    assert content_of(place, program.volume) == (program.content, 0o555)


def test_other_bytes_of_the_same_size_or_another_mode_are_replaced(place: Place, program: Program) -> None:
    for content, mode in ((program.content[:-1] + b"?", 0o555), (program.content, 0o644)):
        put(place, program.volume.mount(), content, mode)
        store(program).ensure(place.engine, HOST)
        assert content_of(place, program.volume) == (program.content, 0o555)


def test_a_far_longer_file_is_not_read_to_its_end(place: Place, program: Program) -> None:
    put(place, program.volume.mount(), program.content * 20)
    read = []

    def archive(container: str, path: str) -> Iterator[bytes]:
        for piece in place.engine.archive(container, path):
            read.append(len(piece))
            yield piece

    store(program).ensure(Recorder(place.engine, archive=archive), HOST)  # type: ignore[arg-type]

    assert content_of(place, program.volume) == (program.content, 0o555)
    assert sum(read) < 6 * len(program.content)


def test_a_strangers_volume_of_that_name_is_replaced(place: Place, program: Program) -> None:
    put(place, replace(program.volume.mount(), labels={}), b"a stranger's")
    store(program).ensure(place.engine, HOST)
    assert content_of(place, program.volume) == (program.content, 0o555)
    assert program.volume.name in left_of(place.engine, program)


def test_many_that_find_a_strangers_volume_at_once_replace_it(place: Place, program: Program) -> None:
    put(place, replace(program.volume.mount(), labels={}), b"a stranger's")
    engines = [connect(place.address, PATIENCE_S) for _ in range(4)]

    def ensure(engine: Engine) -> RunnerVolume:
        try:
            return store(program).ensure(engine, HOST)
        finally:
            engine.close()

    with ThreadPoolExecutor(len(engines)) as threads:
        list(threads.map(ensure, engines))

    assert content_of(place, program.volume) == (program.content, 0o555)
    assert program.volume.name in left_of(place.engine, program)


def test_a_strangers_volume_that_is_in_use_is_told_and_left_alone(place: Place, program: Program) -> None:
    carrier_of(place, replace(program.volume.mount(), labels={}))

    with pytest.raises(Refused, match=rf"^host h: the volume {program.volume.name} with the runner cannot be made: .*in use"):
        store(program).ensure(place.engine, HOST)

    assert left_of(place.engine, program) == set()


def test_what_died_while_it_filled_keeps_nobody(place: Place, program: Program) -> None:
    labels = {**program.volume.labels, USER_LABEL: "dead", OWNER_LABEL: DEAD.label(), LEASE_LABEL: "60"}
    carrier_of(place, program.volume.mount(), labels=labels, name=f"{program.volume.name}-fill")

    store(program).ensure(place.engine, HOST)

    assert content_of(place, program.volume) == (program.content, 0o555)


def test_who_fills_is_waited_for_and_left_alone(place: Place, program: Program) -> None:
    labels = {**program.volume.labels, USER_LABEL: "other", OWNER_LABEL: ELSEWHERE.label(), LEASE_LABEL: "60"}
    other = carrier_of(place, program.volume.mount(read_only=False), labels=labels, name=f"{program.volume.name}-fill")
    looks = []

    def until_it_is_done(_: float) -> None:
        looks.append(place.engine.inspect(other).name)
        if len(looks) == 3:
            place.engine.write_file(other, RUNNER_PATH, program.content, 0o555)
            place.engine.remove(other)

    engine = Recorder(place.engine)
    store(program, pause=until_it_is_done).ensure(engine, HOST)  # type: ignore[arg-type]

    assert len(looks) == 3
    assert "write_file" not in engine.calls


# ---- hosts on which it cannot be


def test_a_host_of_another_architecture_is_refused_in_one_line_that_names_it(place: Place, program: Program) -> None:
    def none_for(architecture: str) -> Program:
        raise ValueError(f"there is no runner for the architecture {architecture!r}")

    info = replace(place.engine.info(), architecture="riscv64")
    engine = Recorder(place.engine, info=lambda: info)
    manager = RunnerVolumes(manager_id="m", owner=Owner.this_process(), binary_for=none_for)

    with pytest.raises(Refused, match=r"^host h: there is no runner for the architecture 'riscv64'$"):
        manager.ensure(engine, HOST)  # type: ignore[arg-type]

    assert left_of(place.engine, program) == set()


def test_an_engine_tells_its_architecture(place: Place) -> None:
    assert place.engine.info().architecture in ("x86_64", "aarch64")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("create_carrier", "error while creating volume root path '/var/lib/docker/volumes/v/_data': read-only file system"),
        ("write_file", "write /.jobmanager/runner: no space left on device"),
    ],
)
def test_a_store_that_cannot_be_written_is_told_and_nothing_is_left(place: Place, program: Program, call: str, why: str) -> None:
    engine = Recorder(place.engine, **{call: refusing(EngineFailed(why))})

    with pytest.raises(EngineFailed) as raised:
        store(program).ensure(engine, HOST)  # type: ignore[arg-type]

    assert str(raised.value) == f"host h: the volume {program.volume.name} with the runner cannot be made: {why}"
    assert left_of(place.engine, program) == set()


def test_a_store_that_keeps_other_bytes_is_told(place: Place, program: Program) -> None:
    def write_file(container: str, path: str, content: bytes, mode: int) -> None:
        place.engine.write_file(container, path, content[:-1], mode)

    with pytest.raises(EngineFailed, match="what is read back is not what was written"):
        store(program).ensure(Recorder(place.engine, write_file=write_file), HOST)  # type: ignore[arg-type]
    assert left_of(place.engine, program) == set()


def test_a_host_without_an_image_is_told(place: Place, program: Program) -> None:
    with pytest.raises(ImageMissing, match="the host has none"):
        store(program).ensure(Recorder(place.engine, images=list), HOST)  # type: ignore[arg-type]


def test_an_image_that_was_removed_meanwhile_is_passed_over(place: Place, program: Program) -> None:
    gone = Image(id=f"sha256:{'0' * 64}", references=(), labels={}, created_at_s=0.0)
    engine = Recorder(place.engine, images=lambda: [gone, *place.engine.images()])

    store(program).ensure(engine, HOST)  # type: ignore[arg-type]

    assert content_of(place, program.volume) == (program.content, 0o555)


def test_an_engine_that_does_not_answer_is_asked_anew_the_next_time(place: Place, program: Program) -> None:
    manager = store(program)
    with pytest.raises(Unreachable):
        manager.ensure(Recorder(place.engine, write_file=refusing(Unreachable("no answer within 1 s"))), HOST)  # type: ignore[arg-type]
    manager.ensure(place.engine, HOST)
    assert content_of(place, program.volume) == (program.content, 0o555)


# ---- swept


def of(leftovers: tuple[Leftover, ...], program: Program) -> list[tuple[LeftoverKind, str, str]]:
    return [(each.kind, each.name, each.manager_id) for each in leftovers if program.volume.name in each.name]


def test_it_is_swept_with_the_claims_of_its_dead_managers(place: Place, program: Program) -> None:
    name = program.volume.name
    store(program, "m1", DEAD).ensure(place.engine, HOST)
    store(program, "m2", DEAD).ensure(place.engine, HOST)

    found = survey_runners(place.engine).leftovers

    kind = LeftoverKind.VOLUME
    assert sorted(of(found, program)) == [(kind, name, ""), (kind, f"{name}-for-m1", "m1"), (kind, f"{name}-for-m2", "m2")]
    ours = [each for each in found if name in each.name]
    assert [removal.error for removal in remove_leftovers(place.engine, ours)] == ["", "", ""]
    assert left_of(place.engine, program) == set()


def test_it_stays_while_one_of_its_managers_lives_even_if_that_one_only_found_it(place: Place, program: Program) -> None:
    name = program.volume.name
    store(program, "maker", DEAD).ensure(place.engine, HOST)
    finder = store(program, "finder")
    finder.ensure(place.engine, HOST)

    found = survey_runners(place.engine)
    assert of(found.leftovers, program) == [(LeftoverKind.VOLUME, f"{name}-for-maker", "maker")]
    assert of(found.others, program) == [(LeftoverKind.VOLUME, f"{name}-for-finder", "finder")]

    finder.release(place.engine, HOST)
    assert (LeftoverKind.VOLUME, name, "") in of(survey_runners(place.engine).leftovers, program)


def test_a_manager_elsewhere_counts_as_alive_for_the_time_of_its_claim(place: Place, program: Program) -> None:
    store(program, "far", ELSEWHERE).ensure(place.engine, HOST)
    assert of(survey_runners(place.engine).leftovers, program) == []

    later = replace(place.engine.info(), now_s=place.engine.info().now_s + 8 * 86400)
    found = survey_runners(Recorder(place.engine, info=lambda: later)).leftovers  # type: ignore[arg-type]
    assert {name for _, name, _ in of(found, program)} == left_of(place.engine, program)


def test_a_carrier_is_swept_when_its_short_lease_is_over_though_its_owner_lives(place: Place, program: Program) -> None:
    labels = {**program.volume.labels, USER_LABEL: "m", OWNER_LABEL: Owner.this_process().label(), LEASE_LABEL: "60"}
    carrier_of(place, program.volume.mount(), labels=labels, name=f"{program.volume.name}-check-1")
    assert (LeftoverKind.CONTAINER, f"{program.volume.name}-check-1", "m") in of(survey_runners(place.engine).others, program)

    later = replace(place.engine.info(), now_s=place.engine.info().now_s + CARRIER_LEASE_S + 5)
    found = survey_runners(Recorder(place.engine, info=lambda: later)).leftovers  # type: ignore[arg-type]

    assert of(found, program)[0] == (LeftoverKind.CONTAINER, f"{program.volume.name}-check-1", "m")


def test_one_in_use_is_not_removed(place: Place, program: Program) -> None:
    store(program, "m1", DEAD).ensure(place.engine, HOST)
    carrier_of(place, program.volume.mount())

    ours = [each for each in survey_runners(place.engine).leftovers if each.name == program.volume.name]
    (removal,) = remove_leftovers(place.engine, ours)

    assert "in use" in removal.error


# ---- carriers


def test_a_carriers_name_is_taken_once_and_its_image_must_be_there(place: Place, program: Program) -> None:
    carrier_of(place, name=f"{program.volume.name}-fill")
    with pytest.raises(NameTaken):
        carrier_of(place, name=f"{program.volume.name}-fill")
    with pytest.raises(ImageMissing):
        place.engine.create_carrier("jobmanager-test-none", f"sha256:{'0' * 64}", {}, ())


def test_a_file_that_a_carriers_volume_does_not_have_cannot_be_read(place: Place, program: Program) -> None:
    carrier = carrier_of(place, program.volume.mount())
    with pytest.raises(NoSuchContainer):
        list(place.engine.archive(carrier, RUNNER_PATH))
    place.engine.remove(carrier)
