"""What the log says of a host that is away: one line with its name, however many jobs run there, and one when it is back."""

from __future__ import annotations

import logging

import pytest

from jobmanager import DockerHost, JobManager, Limits, Outcome, Task
from jobmanager.testing import FakeEngineServer
from jobmanager.threads.log_thread import drain
from tests.conftest import eventually

LASTS = Task("busybox", command="echo ready; sleep 300", limits=Limits(wall_time_s=300))


def test_a_host_that_goes_and_comes_back_is_two_lines_for_all_its_jobs(caplog: pytest.LogCaptureFixture) -> None:
    with FakeEngineServer() as fake:
        host = DockerHost(fake.url, name="grader1", max_concurrent_jobs=6)
        with caplog.at_level(logging.INFO, "jobmanager"), JobManager(host) as manager:
            jobs = [manager.submit(LASTS) for _ in range(5)]
            eventually(lambda: len(fake.runs()) == 5, what="five programs run")
            fake.faults.stop()
            eventually(lambda: not manager.hosts()[0].up, what="it is known to be away")
            fake.faults.start_again()
            eventually(lambda: manager.hosts()[0].up, what="it is known to be back")
            for job in jobs:
                manager.kill_job(job.job_id)
            assert {job.result(30).outcome for job in jobs} == {Outcome.KILLED}
            assert drain(5.0)
    told = [(line.levelname, line.getMessage()) for line in caplog.records]
    assert [line for line in told if line[0] != "INFO"] == [
        ("WARNING", next(text for _, text in told if text.startswith("host grader1 is down: "))),
        ("WARNING", "host grader1 is up again"),
    ]
    assert told.count(("INFO", "host grader1 is up")) == 1
