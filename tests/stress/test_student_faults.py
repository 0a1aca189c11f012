"""A grading job whose waiter or whose engine dies, with time for what comes after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from jobmanager import Grader, JobManager, JobResult, Outcome, Task
from tests.conftest import eventually, our_containers
from tests.integration.conftest import PATIENCE_S, proof
from tests.integration.test_student_faults import LONG, WAITS, kill_waiters, nothing_is_left, outsider, student_of, task
from tests.stress.conftest import PYTHON
from tests.support.daemons import PrivateDaemon

__all__ = ["outsider"]  # a fixture
pytestmark = pytest.mark.engine

WITHOUT = """#!/bin/sh
run_student true
echo ready
sleep 2
feedback-result success
"""


@pytest.mark.case(48)
def test_a_job_that_was_cut_off_from_its_student_is_run_again_where_its_task_allows_it(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    script = WAITS.replace("1000", "4")
    with JobManager(engine_url) as manager:
        job = manager.submit(task(script, retries=1))
        student_of(outsider, job.job_id)
        kill_waiters()
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert (result.outcome, proof(result)["reruns"]) == (Outcome.SUCCESS, 1), result


@pytest.mark.case(48)
def test_a_grader_that_needs_no_student_any_more_outlives_its_waiter(engine_url: str) -> None:
    with JobManager(engine_url) as manager:
        job = manager.submit(task(WITHOUT))
        assert next(manager.follow(job.job_id, timeout_s=PATIENCE_S)).data == b"ready\n"
        kill_waiters()
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert result.outcome is Outcome.SUCCESS, result


@pytest.fixture
def daemon(python_tar: Path, tmp_path: Path) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path) as daemon:
        daemon.load_image(python_tar)
        yield daemon


@pytest.fixture
def restoring_daemon(python_tar: Path, tmp_path: Path) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path, extra_args=("--live-restore",)) as daemon:
        daemon.load_image(python_tar)
        yield daemon


@pytest.mark.case(49)
@pytest.mark.daemon
@pytest.mark.timeout(240)
def test_a_grader_whose_engine_dies_under_its_student_is_a_crash_and_leaves_nothing(daemon: PrivateDaemon) -> None:
    results: list[JobResult] = []
    grading = Task(PYTHON, grader=Grader(), files={"run": WAITS}, limits=LONG)
    with closing(docker.DockerClient(base_url=daemon.url, version="1.41")) as outsider, JobManager(daemon.url) as manager:
        student_of(outsider, manager.new_job(grading, callback=results.append))
        daemon.kill()
        daemon.restart()
        eventually(lambda: results, within_s=60)
        eventually(lambda: not our_containers(daemon.url), within_s=30, what="no container is left")
    assert results[0].outcome is Outcome.CRASH, results[0]
    assert results[0].wall_time_s is not None and results[0].wall_time_s < 60  # long before its limit


@pytest.mark.case(49)
@pytest.mark.daemon
@pytest.mark.timeout(240)
def test_a_grader_and_its_student_go_on_when_an_engine_that_left_them_running_is_back(restoring_daemon: PrivateDaemon) -> None:
    """Both runners have kept what was printed meanwhile, and the link between the two is the waiter's."""
    daemon, script = restoring_daemon, WAITS.replace("1000", "8")
    with closing(docker.DockerClient(base_url=daemon.url, version="1.41")) as outsider, JobManager(daemon.url) as manager:
        job = manager.submit(Task(PYTHON, grader=Grader(), files={"run": script}, limits=LONG))
        student_of(outsider, job.job_id)
        daemon.kill()
        daemon.restart()
        result = job.result(PATIENCE_S)
        eventually(lambda: not our_containers(daemon.url), within_s=30, what="no container is left")
    assert (result.outcome, result.text) == (Outcome.SUCCESS, "0"), result
