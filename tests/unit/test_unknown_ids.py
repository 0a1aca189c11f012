"""What each call answers for an id that is not known: the table in ``docs/tasks.md`` is what the code does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobmanager import ClientBuffer, DockerHost, JobManager, Task
from jobmanager.errors import InvalidInput, UnknownJob
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

DOCS = Path(__file__).parents[2] / "docs/tasks.md"


def rows() -> dict[str, str]:
    """What the docs say: calls, and the beginning of their answers."""
    section = DOCS.read_text().partition("### An id that is not known")[2].partition("\n## ")[0]
    found = re.findall(r"(?m)^\| (`.+`) \| (`?\w+(?: `UnknownJob`)?`?)", section)
    return {call: answer for calls, answer in found for call in re.findall(r"`([^`]+)`", calls)}


def answer_of(call: Callable[[], object]) -> str:
    try:
        return f"`{call()}`"
    except UnknownJob:
        return "raises `UnknownJob`"


def test_every_call_answers_as_the_table_says() -> None:
    with FakeEngineServer() as fake, JobManager(DockerHost(fake.url)) as manager:
        buffer = ClientBuffer(manager)
        future = manager.submit(Task("busybox", command="true"))
        future.result(20)
        eventually(lambda: not any(buffered for buffered in manager.get_job_queue_snapshot()), what="the job is over")
        for job_id in ("never was", future.job_id):
            eventually(
                lambda id_=job_id: answer_of(lambda: manager.follow(id_)).startswith("raises"), what="its callback has returned"
            )
            calls: dict[str, Callable[[], object]] = {
                "kill_job(id)": lambda id_=job_id: manager.kill_job(id_),
                "get_job_queue_info(id)": lambda id_=job_id: manager.get_job_queue_info(id_),
                "follow(id)": lambda id_=job_id: manager.follow(id_),
                "ClientBuffer.is_done(id)": lambda id_=job_id: buffer.is_done(id_),
                "ClientBuffer.is_waiting(id)": lambda id_=job_id: buffer.is_waiting(id_),
                "ClientBuffer.get_result(id)": lambda id_=job_id: buffer.get_result(id_),
                "JobFuture.cancel()": future.cancel,
            }
            assert {name: answer_of(call) for name, call in calls.items()} == rows()


@pytest.mark.parametrize("call", ["kill_job", "get_job_queue_info", "follow"])
def test_an_id_that_is_no_text_is_refused(call: str) -> None:
    with FakeEngineServer() as fake, JobManager(DockerHost(fake.url)) as manager, pytest.raises(InvalidInput, match="job_id must"):
        getattr(manager, call)(5)
