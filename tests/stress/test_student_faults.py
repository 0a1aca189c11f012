"""A grading job whose waiter dies, with time for what comes after."""

from __future__ import annotations

import docker
import pytest

from jobmanager import JobManager, Outcome
from tests.integration.conftest import PATIENCE_S, proof
from tests.integration.test_student_faults import WAITS, hands, kill_waiters, nothing_is_left, student_of, task

__all__ = ["hands"]  # a fixture
pytestmark = pytest.mark.engine

WITHOUT = """#!/bin/sh
run_student true
echo ready
sleep 2
feedback-result success
"""


def test_a_job_that_was_cut_off_from_its_student_is_run_again_where_its_task_allows_it(
    engine_url: str, hands: docker.DockerClient
) -> None:
    script = WAITS.replace("1000", "4")
    with JobManager(engine_url) as manager:
        job = manager.submit(task(script, retries=1))
        student_of(hands, job.job_id)
        kill_waiters()
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert (result.outcome, proof(result)["reruns"]) == (Outcome.SUCCESS, 1), result


def test_a_grader_that_needs_no_student_any_more_outlives_its_waiter(engine_url: str) -> None:
    with JobManager(engine_url) as manager:
        job = manager.submit(task(WITHOUT))
        assert next(manager.follow(job.job_id, timeout_s=PATIENCE_S)).data == b"ready\n"
        kill_waiters()
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert result.outcome is Outcome.SUCCESS, result
