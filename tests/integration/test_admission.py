"""Admission by whole managers: memory that is free, memory that is not, and how many starts are under way at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait

import docker
import pytest

from jobmanager import DockerHost, HostInfo, JobFuture, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.testing import FakeEngineServer
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon

PATIENCE_S = 60.0
SMALL = Task(BUSYBOX, command="true", limits=Limits(memory_mib=16))
_API = "1.41"


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer([BUSYBOX], cores=2, memory_mib=4096) as server:
        yield server


@pytest.fixture
def engine(private_engine: PrivateDaemon) -> Iterator[str]:
    """One on this very machine."""
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url) and not our_volumes(private_engine.url))


def asks_for(memory_mib: int, command: str = "true", **limits: float) -> Task:
    return Task(BUSYBOX, command=command, limits=Limits(memory_mib=memory_mib, **limits))  # type: ignore[arg-type]


def results(futures: Sequence[JobFuture]) -> list[JobResult]:
    wait(futures, timeout=PATIENCE_S)
    return [future.result(0) for future in futures]


def the_host(manager: JobManager) -> HostInfo:
    (only,) = manager.hosts()
    return only


def why_it_waits(manager: JobManager, job: JobFuture) -> str:
    """What the listing tells of a job that waits; empty when it does not."""
    return next((waiting.info for waiting in manager.get_job_queue_snapshot()[1] if waiting.job_id == job.job_id), "")


# ---- memory, on a host whose figures can be set


def test_a_job_waits_while_others_use_the_memory_and_runs_when_it_is_free_and_small_ones_pass_by(fake: FakeEngineServer) -> None:
    fake.faults.leave_memory(500)
    with JobManager(DockerHost(fake.url, name="fake", max_concurrent_jobs=8)) as manager:
        large = manager.submit(asks_for(1000), priority=-1)
        small = [manager.submit(SMALL) for _ in range(20)]

        assert {result.outcome for result in results(small)} == {Outcome.SUCCESS}
        assert "waits for 1000 MiB of free memory; host fake has " in why_it_waits(manager, large)
        assert (the_host(manager).memory_mib, the_host(manager).free_memory_mib <= 500) == (4096, True)

        fake.faults.leave_memory(1500)
        assert large.result(PATIENCE_S).outcome is Outcome.SUCCESS


def test_a_job_that_waits_for_memory_longer_than_its_queue_timeout_is_run_when_there_is_some(fake: FakeEngineServer) -> None:
    fake.faults.leave_memory(1200)
    with JobManager(DockerHost(fake.url, name="x"), queue_timeout_s=0.2) as manager:
        job = manager.submit(asks_for(4000))
        eventually(lambda: why_it_waits(manager, job).endswith("waits for 4000 MiB of free memory; host x has 1200 MiB"))
        for _ in range(30):  # each takes some time, and together they take more than the timeout
            assert manager.submit(SMALL).result(PATIENCE_S).outcome is Outcome.SUCCESS

        fake.faults.leave_memory(5000)
        result = job.result(PATIENCE_S)

    assert result.outcome is Outcome.SUCCESS and result.timings["waiting"] > 0.2


def test_where_nothing_tells_what_is_free_all_memory_that_is_not_promised_counts(fake: FakeEngineServer) -> None:
    with JobManager(DockerHost(fake.url, max_concurrent_jobs=8)) as manager:
        first = manager.submit(asks_for(3000, "sleep 3000", wall_time_s=3600))
        eventually(lambda: the_host(manager).free_memory_mib == 1096)
        second = manager.submit(asks_for(3000))
        assert manager.submit(asks_for(1096)).result(PATIENCE_S).outcome is Outcome.SUCCESS
        assert why_it_waits(manager, second)

        manager.kill_job(first.job_id)

        assert second.result(PATIENCE_S).outcome is Outcome.SUCCESS


# ---- memory, on this machine


@pytest.mark.daemon
@pytest.mark.engine
def test_of_three_jobs_that_ask_for_a_good_third_of_the_host_each_two_run_and_small_ones_pass_the_third(engine: str) -> None:
    with JobManager(DockerHost(engine, max_concurrent_jobs=8)) as manager:
        share = the_host(manager).memory_mib * 34 // 100
        large = [manager.submit(asks_for(share, "sleep 3000", wall_time_s=3600)) for _ in range(3)]
        eventually(lambda: len(manager.get_job_queue_snapshot()[0]) == 2, what="two have been placed")

        small = [manager.submit(SMALL) for _ in range(8)]

        assert {result.outcome for result in results(small)} == {Outcome.SUCCESS}
        assert f"waits for {share} MiB of free memory" in why_it_waits(manager, large[2])
        assert not any(future.done() for future in large)
        manager.kill_job(large[0].job_id)
        eventually(lambda: not why_it_waits(manager, large[2]), what="the third is placed")
        for future in large:
            manager.kill_job(future.job_id)
        assert {result.outcome for result in results(large)} == {Outcome.KILLED}


@pytest.mark.daemon
@pytest.mark.engine
def test_at_no_moment_do_containers_declare_more_memory_than_the_host_has(engine: str) -> None:
    since = time.time()
    with JobManager(DockerHost(engine, max_concurrent_jobs=8)) as manager:
        total = the_host(manager).memory_mib
        asked = [total * percent // 100 for percent in (34, 5, 34, 60, 34, 1, 20, 34)]
        jobs = {manager.submit(asks_for(memory_mib)): memory_mib for memory_mib in asked}
        assert {result.outcome for result in results(list(jobs))} == {Outcome.SUCCESS}

    sums = declared_over_time(engine, since, {job.job_id: memory_mib for job, memory_mib in jobs.items()})

    assert len(sums) == 2 * len(asked)
    assert sums[-1] == 0
    assert max(asked) < max(sums) <= total


def declared_over_time(url: str, since: float, memory_mib: Mapping[str, int]) -> list[int]:
    """What containers declared together, after each creation and each removal, by the engine's own account."""
    client = docker.APIClient(base_url=url, version=_API)
    try:
        wanted = {"event": ["create", "destroy"], "type": "container"}
        events = list(client.events(since=int(since) - 1, until=int(time.time()) + 1, decode=True, filters=wanted))
    finally:
        client.close()
    sums, declared = [], 0
    for event in sorted(events, key=lambda event: int(event["timeNano"])):
        asked = memory_mib.get(event["Actor"]["Attributes"].get(JOB_LABEL, ""))
        if asked is not None:
            declared += asked if event["Action"] == "create" else -asked
            sums.append(declared)
    return sums


@pytest.mark.daemon
@pytest.mark.engine
def test_on_this_machine_what_others_use_is_not_free(engine: str) -> None:
    with JobManager(DockerHost(engine)) as manager:
        host = the_host(manager)

    assert 0 < host.free_memory_mib < host.memory_mib


# ---- starts


def test_while_slots_are_free_no_more_starts_are_under_way_than_twice_the_cores(fake: FakeEngineServer) -> None:
    with JobManager(DockerHost(fake.url, max_concurrent_jobs=40), pool_size=16) as manager:
        fake.faults.delay_replies(0.2)
        for jobs in (6, 16):  # the first have the pool start its workers
            futures = [manager.submit(SMALL) for _ in range(jobs)]
            assert {result.outcome for result in results(futures)} == {Outcome.SUCCESS}
            eventually(lambda: the_host(manager).running == 0)
        fake.faults.delay_replies(0)

    assert most_starts_at_once(fake) == 4


def most_starts_at_once(fake: FakeEngineServer) -> int:
    """Containers that were made and not yet started, at their most."""
    most = under_way = 0
    for call, _ in fake.history():
        under_way += {"create": 1, "start": -1}.get(call, 0)
        most = max(most, under_way)
    assert under_way == 0
    return most
