"""``start(wait=False)``: a manager begins while no host answers, and its jobs wait."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, JobManager, Limits, Outcome, Task
from jobmanager.errors import EngineUnavailable, InvalidTask, InvalidValue
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually


@pytest.fixture
def nowhere() -> Iterator[Path]:
    """Where an engine may listen later; a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="jm-", dir="/tmp") as folder:
        yield Path(folder) / "docker.sock"


def comes_up(fake: FakeEngineServer, socket: Path) -> None:
    socket.symlink_to(fake.url.partition("://")[2])


def manager_of(fake: FakeEngineServer, *sockets: Path) -> JobManager:
    scheme = fake.url.partition("://")[0]
    return JobManager([DockerHost(f"{scheme}://{socket}", name=f"host-{number}") for number, socket in enumerate(sockets)])


def test_it_starts_shows_the_host_down_and_runs_what_it_was_given_when_the_host_is_up(nowhere: Path) -> None:
    with FakeEngineServer() as fake:
        manager = manager_of(fake, nowhere)
        manager.start(wait=False)
        try:
            (at_once,) = manager.hosts()
            assert not at_once.up and at_once.reason
            job = manager.submit(Task("busybox", command="true"))
            eventually(lambda: "No such file" in manager.hosts()[0].reason, what="the reason is known")
            before = manager.get_job_queue_info(job.job_id)
            assert before is not None and (before.jobs_before, before.wait_s) == (0, None)

            comes_up(fake, nowhere)

            assert job.result(60).outcome is Outcome.SUCCESS
            assert manager.hosts()[0].up
        finally:
            manager.close(kill=True)


def test_what_can_be_checked_without_a_host_is_checked_at_the_call_and_the_rest_is_told_by_the_result(nowhere: Path) -> None:
    with FakeEngineServer() as fake:
        manager = manager_of(fake, nowhere)
        manager.start(wait=False)
        try:
            with pytest.raises(InvalidTask):
                manager.new_job(Task("busybox", command="true", build="make"))
            unknown = manager.submit(Task("no-such-environment", command="true"))
            large = manager.submit(Task("busybox", command="true", limits=Limits(memory_mib=10**9)))

            comes_up(fake, nowhere)

            results = [job.result(60) for job in (unknown, large)]
            assert [(result.outcome, result.evidence[0].kind) for result in results] == [(Outcome.CRASH, "no_host")] * 2
            assert "no-such-environment" in results[0].text
        finally:
            manager.close(kill=True)


def test_while_one_host_is_down_a_job_that_the_other_cannot_run_waits_for_it(nowhere: Path) -> None:
    with FakeEngineServer(images=["busybox"]) as here, FakeEngineServer(images=["gcc"]) as late:
        there = nowhere.with_name("here.sock")
        comes_up(here, there)
        manager = manager_of(here, there, nowhere)
        manager.start(wait=False)
        try:
            eventually(lambda: manager.hosts()[0].up, what="the first host is up")
            job = manager.submit(Task("gcc", command="true"))
            assert manager.submit(Task("busybox", command="true")).result(60).outcome is Outcome.SUCCESS
            assert not job.done()

            comes_up(late, nowhere)

            assert (job.result(60).outcome, job.result().host) == (Outcome.SUCCESS, "host-1")
        finally:
            manager.close(kill=True)


def test_it_can_be_closed_while_no_host_has_ever_answered(nowhere: Path) -> None:
    with FakeEngineServer() as fake:
        manager = manager_of(fake, nowhere)
        manager.start(wait=False)
        job = manager.submit(Task("busybox", command="true"))

        manager.close(kill=True)

        assert job.result(0).outcome is Outcome.KILLED


def test_a_forked_child_of_a_manager_that_did_not_wait_does_not_wait_either(nowhere: Path) -> None:
    with FakeEngineServer() as fake:
        manager = manager_of(fake, nowhere)
        manager.start(wait=False)
        try:
            child = os.fork()
            if child == 0:  # no assertion: pytest has no place here
                code = 1
                try:
                    code = 0 if not manager.hosts()[0].up else 2
                    manager.close(kill=True)
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            manager.close(kill=True)


def test_with_waiting_it_still_raises_and_wait_must_be_a_bool(nowhere: Path) -> None:
    manager = JobManager(f"unix://{nowhere}")
    with pytest.raises(InvalidValue, match="wait must be True or False, not 'no'"):
        manager.start(wait="no")  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailable):
        manager.start()
    manager.start(wait=False)
    assert not manager.hosts()[0].up
    manager.close()
