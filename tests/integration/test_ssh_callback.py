"""Whatever becomes of a job that somebody wanted to log in to: ``ssh_callback`` is called once, before the job's own callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jobmanager import DockerHost, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

NOBODY = ("ssh", None, None, None, None)
TASK = Task("busybox", command="true", limits=Limits(memory_mib=64))


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    """An engine whose images have no sshd."""
    with FakeEngineServer(images=["busybox"]) as server:
        yield server


class Told:
    """What the callbacks of one job were told, in order; the first one raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def ssh(self, *where: object) -> None:
        self.calls.append(("ssh", *where))
        raise RuntimeError("a bug of the caller's")

    def result(self, result: JobResult) -> None:
        self.calls.append(("result", result.outcome))


def kill(manager: JobManager, fake: FakeEngineServer) -> None:
    manager.kill_job("j")


def close(manager: JobManager, fake: FakeEngineServer) -> None:
    manager.close(kill=True)


def nothing(manager: JobManager, fake: FakeEngineServer) -> None:
    pass


def refuse_to_create(fake: FakeEngineServer) -> None:
    fake.faults.refuse("create", "no space left on device", times=100)


def refuse_the_accounts(fake: FakeEngineServer) -> None:
    fake.faults.refuse("write_file", "no space left on device", times=100)


def die(fake: FakeEngineServer) -> None:
    fake.faults.stop()


def hang(fake: FakeEngineServer) -> None:
    fake.faults.delay_replies(3600)


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (lambda _: None, nothing, Outcome.FAILED),  # as the fake's shell cannot read ours
        (refuse_to_create, nothing, Outcome.CRASH),
        (refuse_the_accounts, nothing, Outcome.CRASH),
        (hang, kill, Outcome.KILLED),
        (hang, close, Outcome.KILLED),
        (die, nothing, Outcome.CRASH),
    ],
    ids=["no sshd", "no container", "no accounts", "killed", "closed", "host down"],
)
def test_where_there_is_no_session_four_nones_come_before_the_result(
    fake: FakeEngineServer,
    before: Callable[[FakeEngineServer], None],
    after: Callable[[JobManager, FakeEngineServer], None],
    outcome: Outcome,
) -> None:
    told = Told()
    manager = JobManager(DockerHost(fake.url), queue_timeout_s=1.0, host_lost_timeout_s=0.5, engine_timeout_s=1.0)
    manager.start()
    try:
        before(fake)
        manager.new_job(TASK, None, told.result, debug="ssh", ssh_callback=told.ssh, job_id="j")
        after(manager, fake)
        eventually(lambda: len(told.calls) == 2, what="both were called")
    finally:
        if before is die:  # else closing waits for what it may have left there
            fake.faults.start_again()
        manager.close(kill=True)

    assert told.calls == [NOBODY, ("result", outcome)]
