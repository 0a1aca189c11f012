"""Hosts on whose disk the runner's volume cannot be made: a real daemon whose data is on a small tmpfs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobmanager.doctor.runner_check import STARTS, check_runner
from jobmanager.engine.connect import connect
from jobmanager.engine.protocol import Engine, EngineFailed
from jobmanager.model.host import Address
from tests.support.daemons import PrivateDaemon
from tests.support.runner_volumes import HOST, Program, left_of, make_find_and_remove, store

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

MIB = 2**20
DISK_MIB = 48


@pytest.fixture(scope="module")
def daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    folder = tmp_path_factory.mktemp("small-disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        with PrivateDaemon(folder) as daemon:
            daemon.load_image(Path(image_tar))
            yield daemon
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def engine(daemon: PrivateDaemon) -> Iterator[Engine]:
    engine = connect(Address(host=HOST, url=daemon.url), timeout_s=20.0)
    yield engine
    engine.close()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_for_it_is_told_and_nothing_is_left(engine: Engine) -> None:
    program = Program.of_random_bytes(DISK_MIB * MIB)

    with pytest.raises(EngineFailed, match=rf"^host h: the volume {program.volume.name} .*no space left on device") as raised:
        store(program).ensure(engine, HOST)

    assert "\n" not in str(raised.value)
    assert left_of(engine, program) == set()
    make_find_and_remove(engine)


def test_a_read_only_store_of_volumes_is_told_and_nothing_is_left(daemon: PrivateDaemon, engine: Engine) -> None:
    program = Program.of_random_bytes(MIB)

    with (
        read_only(daemon.data / "volumes"),
        pytest.raises(EngineFailed, match=rf"^host h: the volume {program.volume.name} .*read-only file system") as raised,
    ):
        store(program).ensure(engine, HOST)

    assert "\n" not in str(raised.value)
    assert left_of(engine, program) == set()
    make_find_and_remove(engine)


def test_the_doctor_says_what_to_do_about_a_read_only_store_of_volumes(daemon: PrivateDaemon, engine: Engine) -> None:
    with read_only(daemon.data / "volumes"):
        (report,) = check_runner(engine, HOST)

    assert (report.name, report.enforced) == (STARTS, False)
    assert report.seen.startswith("its folder of volumes is read-only: mount its data folder so that it can be written to; ")
    assert "\n" not in report.seen


def test_the_doctor_says_that_a_disk_has_no_room(daemon: PrivateDaemon, engine: Engine) -> None:
    filler = daemon.data / "filler"
    try:
        with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
            while True:
                file.write(bytes(2**16))
        (report,) = check_runner(engine, HOST)
    finally:
        filler.unlink()

    assert report.seen.startswith("make room on its disk; ")
    assert [each for each in check_runner(engine, HOST) if not each.enforced] == []
