"""The rule for reruns: a container is started at most once for a job, unless its task allows more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import docker
import psutil
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, JobFuture, JobInput, JobManager, JobResult, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.integration.conftest import proof
from tests.support.daemons import PrivateDaemon
from tests.support.faults import LASTS, PATIENCE_S, SLEEPS, processes, wake
from tests.support.printed import program_runs, wait_until_printed
from tests.support.proxy import ATTACH, START, Proxy

BY_A_STRANGER = {"removed", "stopped_externally"}  # a removal that is under way looks like a stop
WAITS = "echo ready; sleep 60"


@pytest.fixture
def proxy(private_engine: PrivateDaemon) -> Iterator[Proxy]:
    with Proxy(private_engine.url) as proxy:
        yield proxy
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=20)
    yield client
    client.close()


def container_of(outsider: docker.DockerClient, job: JobFuture) -> Container:
    return eventually(lambda: outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"}), what="it runs")[0]


def when_ready(outsider: docker.DockerClient, job: JobFuture) -> Container:
    wait_until_printed(job, b"ready")
    return container_of(outsider, job)


@pytest.mark.daemon
def test_a_run_that_a_stranger_cut_off_is_the_only_one(proxy: Proxy, outsider: docker.DockerClient) -> None:
    with JobManager(proxy.url) as manager:
        job = manager.submit(Task(BUSYBOX, command=WAITS))
        when_ready(outsider, job).remove(force=True, v=True)
        result = job.result(30)

    assert result.outcome is Outcome.CRASH
    assert proof(result).keys() & BY_A_STRANGER
    assert result.stdout == b"ready\n"
    assert proxy.count(START) == 1


@pytest.mark.daemon
def test_a_task_with_retries_runs_again_and_the_result_is_that_of_the_last_run(
    proxy: Proxy, outsider: docker.DockerClient
) -> None:
    with JobManager(proxy.url) as manager:
        command = f"echo ready; read word; echo $word; {SLEEPS}; exit 7"
        task = Task(BUSYBOX, command=command, retries=1, limits=LASTS.limits)
        job = manager.submit(task, JobInput(stdin="x"))
        first = when_ready(outsider, job)
        first.remove(force=True, v=True)
        eventually(lambda: not wake() and job.done(), within_s=PATIENCE_S, what="it has ended")
        result = job.result(40)

    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 7, b"ready\nx\n")
    assert proof(result)["reruns"] == 1
    assert "by somebody else" in str(proof(result)["cut_off"])
    assert proxy.count(START) == 2


@pytest.mark.daemon
def test_retries_that_are_used_up_end_as_a_crash(proxy: Proxy, outsider: docker.DockerClient) -> None:
    with JobManager(proxy.url) as manager:
        job = manager.submit(Task(BUSYBOX, command=WAITS, retries=1))
        first = when_ready(outsider, job)
        first.kill()
        second = eventually(
            lambda: container_of(outsider, job).id != first.id and container_of(outsider, job), what="it runs again"
        )
        eventually(lambda: program_runs(second), what="its program runs again")
        second.kill()
        result = job.result(30)

    assert result.outcome is Outcome.CRASH
    assert (proof(result)["reruns"], "stopped_externally" in proof(result)) == (1, True)
    assert proxy.count(START) == 2


@pytest.mark.daemon
def test_a_job_whose_container_and_waiter_died_together_is_a_crash_and_not_a_second_run(
    proxy: Proxy, outsider: docker.DockerClient
) -> None:
    """It had been delivered: that nothing is heard of it is no proof that it did not begin."""
    with JobManager(proxy.url) as manager:
        job = manager.submit(Task(BUSYBOX, command=WAITS))
        container = when_ready(outsider, job)
        for waiter in _waiters():
            os.kill(waiter.pid, signal.SIGSTOP)
        container.kill()
        for waiter in _waiters():
            waiter.kill()
        result = job.result(40)

    assert (result.outcome, result.stdout) == (Outcome.CRASH, b"")
    assert proxy.count(START) == 1


@pytest.mark.daemon
@pytest.mark.parametrize("by", ["kill", "remove"])
def test_a_container_that_dies_while_it_is_fed_is_noticed_at_once(proxy: Proxy, outsider: docker.DockerClient, by: str) -> None:
    """It takes nothing of its job, so that the delivery stands still; nothing but asking tells why."""
    large = JobInput(files={"large": bytes(8 * 2**20)})
    results: list[JobResult] = []
    with JobManager(proxy.url) as manager:
        with proxy.hold(ATTACH) as held:
            job = manager.submit(Task(BUSYBOX, command=WAITS), large)
            assert held.reached.wait(20)
            container = container_of(outsider, job)
            container.reload()
            os.kill(container.attrs["State"]["Pid"], signal.SIGSTOP)
        container.remove(force=True, v=True) if by == "remove" else container.kill()
        job.add_done_callback(lambda done: results.append(done.result()))
        eventually(lambda: results, within_s=30, what="the end is noticed")

    assert results[0].outcome is Outcome.CRASH
    assert proxy.count(START) == 1


@pytest.mark.daemon
def test_a_host_that_falls_silent_before_the_delivery_loses_the_job_to_another(
    proxy: Proxy, private_engine: PrivateDaemon
) -> None:
    hosts = [DockerHost(proxy.url, name="breaks off"), DockerHost(private_engine.url, name="good")]
    with JobManager(hosts) as manager:
        proxy.drop(ATTACH, on_reply=False, times=100)
        jobs = [manager.submit(Task(BUSYBOX, command="exit 7")) for _ in range(2)]
        results = [job.result(40) for job in jobs]

    assert [(result.outcome, result.host) for result in results] == [(Outcome.FAILED, "good")] * 2


def _waiters() -> list[psutil.Process]:
    return processes("jobmanager._waiter")
