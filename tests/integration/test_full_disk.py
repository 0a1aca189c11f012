"""A Docker host whose own disk is full, on a real daemon whose data is on a small tmpfs.

What is true of it (Engine 20.10): a container cannot be created; one that runs goes on. What it prints is on no disk: its runner
keeps it until a waiter has it, so a waiter that dies meanwhile costs nothing either.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jobmanager import DockerHost, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers
from tests.support.daemons import PrivateDaemon
from tests.support.faults import QUICK, SLEEPS, SLEEPS_TOO, jobs_on, processes, proof, ran_once, wake

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

PRINTED = 3_000_000
PRINTS = Task(
    BUSYBOX,
    command=f"echo begun; {SLEEPS}; head -c {PRINTED} /dev/zero; echo saved > kept; exit 7",
    limits=Limits(output_kib=4096),
    collect=["kept"],
)


PRINTS_LITTLE = Task(BUSYBOX, command=f"echo begun; {SLEEPS}; head -c 100000 /dev/zero; exit 7", limits=Limits(wall_time_s=60))


class SmallDisk:
    """A daemon with 48 MiB for everything."""

    def __init__(self, folder: Path, daemon: PrivateDaemon) -> None:
        self.url = daemon.url
        self._filler = folder / "filler"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free, for a while."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (2**16, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        try:
            yield
        finally:
            self._filler.unlink()


@pytest.fixture(scope="module")
def small(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    folder = tmp_path_factory.mktemp("small-disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=True)
    try:
        with PrivateDaemon(folder) as daemon:
            daemon.load_image(Path(image_tar))
            yield SmallDisk(folder, daemon)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.case(20)
def test_a_job_that_runs_on_a_full_disk_loses_no_output_and_a_new_one_is_a_crash_that_says_so(small: SmallDisk) -> None:
    """When there is room again, the same manager goes on as before."""
    with jobs_on(DockerHost(small.url, max_concurrent_jobs=3)) as jobs:
        jobs.add(PRINTS)
        jobs.wait_until_running(1)
        with small.full():
            wake()
            jobs.add(QUICK, 2)
            running, *refused = jobs.results()
            eventually(lambda: not our_containers(small.url), what="containers can be removed from a full disk")
        jobs.add(QUICK, 2)
        recovered = jobs.results()[3:]
    assert (running.outcome, running.exit_code, running.stdout_bytes) == (Outcome.FAILED, 7, PRINTED + len("begun\n"))
    assert (running.output_cut, proof(running)) == (False, {"exit_code": 7})
    assert running.archive is not None
    for result in refused:
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"")
        assert "no space left on device" in str(proof(result)["no_host"])
    assert all(ran_once(result) for result in recovered)


@pytest.mark.case(20)
def test_a_waiter_that_dies_while_the_disk_is_full_costs_neither_output_nor_an_end(small: SmallDisk) -> None:
    outlives = Task(BUSYBOX, command=f"echo begun; {SLEEPS_TOO}; echo ended; exit 7", limits=Limits(wall_time_s=60))
    with jobs_on(DockerHost(small.url, max_concurrent_jobs=3)) as jobs:
        jobs.add(PRINTS_LITTLE)
        jobs.add(outlives)
        jobs.wait_until_running(2)
        with small.full():
            for waiter in processes("_waiter"):
                waiter.kill()
            wake()
            eventually(lambda: jobs.ended() == 1, what="the first one has ended")
        wake(SLEEPS_TOO)
        first, second = jobs.results()
    assert (first.exit_code, first.stdout_bytes, first.output_cut) == (7, 100_000 + len("begun\n"), False), first
    assert ran_once(second)


@pytest.mark.case(20)
def test_a_host_with_a_full_disk_leaves_its_jobs_to_the_other(small: SmallDisk, private_engine: PrivateDaemon) -> None:
    with jobs_on(DockerHost(small.url, name="small"), DockerHost(private_engine.url, name="large")) as jobs, small.full():
        jobs.add(QUICK, 4)
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert {result.host for result in results} == {"large"}
