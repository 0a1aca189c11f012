"""Daemons that die, hang and come back: their death is not the program's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, JobManager, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.daemons import PrivateDaemon
from tests.faults import ENDLESS, QUICK, jobs_on, proof, ran_once

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

TRAPS = Task(
    BUSYBOX,
    command="trap 'echo told; exit 9' TERM INT HUP; echo begun; while :; do sleep 0.2; done",
    limits=Limits(wall_time_s=120),
)


@pytest.fixture(scope="module")
def daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """One that the tests of this file end, and start again."""
    with PrivateDaemon(tmp_path_factory.mktemp("mortal")) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.fixture(scope="module")
def restoring_daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """One whose containers outlive it."""
    with PrivateDaemon(tmp_path_factory.mktemp("restoring"), extra_args=("--live-restore",)) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


def test_exit_codes_are_true_when_a_killed_daemon_with_live_restore_comes_back(restoring_daemon: PrivateDaemon) -> None:
    """Case 8: programs that end while it is away, and after it is back; and what is told of files that it cannot see any more.

    Of such a container an engine of version 20.10 cannot remove the volume, empty by then, before its own next start.
    """
    url = restoring_daemon.url
    within = Task(BUSYBOX, command="echo begun; sleep 2; echo ended; exit 7", collect=["*"])
    after = Task(BUSYBOX, command="echo begun; sleep 10; echo ended; exit 7", collect=["*"])
    with jobs_on(url, swept_later=True) as jobs:
        jobs.add(within, 2)
        jobs.add(after, 2)
        jobs.wait_until_running(4)

        restoring_daemon.kill()
        restoring_daemon.restart()

        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert all(float(proof(result)["outage_s"]) > 0 for result in results[2:])
    assert all(result.archive is not None or "could not be read" in str(proof(result)["archive"]) for result in results)
    assert not our_containers(url)

    restoring_daemon.restart()
    with JobManager(url):
        eventually(lambda: not our_volumes(url), what="the volumes are swept")


def test_programs_that_a_killed_daemon_took_along_are_crashes_never_failures(daemon: PrivateDaemon) -> None:
    """Case 9."""
    with jobs_on(DockerHost(daemon.url, max_concurrent_jobs=3)) as jobs:
        jobs.add(TRAPS, 2)
        jobs.add(ENDLESS)
        jobs.wait_until_running(3)
        waiting = jobs.add(QUICK, 3)

        daemon.kill()
        daemon.restart()

        results = jobs.results()
    for result in results[:3]:
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"begun\n"), result
        assert result.text == "the engine was away when the container ended"
        assert float(proof(result)["outage_s"]) > 0
    assert len(waiting) == 3 and all(ran_once(result) for result in results[3:])


def test_programs_that_a_daemon_stopped_when_it_was_told_to_end_are_crashes_never_failures(daemon: PrivateDaemon) -> None:
    """Case 10: they get no signal that they could trap; and the manager goes on with the next daemon without a restart."""
    with jobs_on(DockerHost(daemon.url, max_concurrent_jobs=10)) as jobs:
        jobs.add(TRAPS, 5)
        jobs.add(ENDLESS, 5)
        jobs.wait_until_running(10)

        daemon.terminate()
        eventually(lambda: not jobs.manager.hosts()[0].up)
        daemon.restart()

        results = jobs.results()
        jobs.add(QUICK, 3)
        again = jobs.results()[10:]
    for result in results:
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"begun\n"), result
        assert result.text == "the engine was away when the container ended"
    assert all(ran_once(result) for result in again)
