"""Processes of ours that die or hang at each step of a job's way: one result for each job, one run at most."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import docker
import psutil
import pytest

from jobmanager import DockerHost, JobManager, JobResult, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.engine.docker.container_config import VOLUME_LABEL
from jobmanager.engine.labels import MANAGER_LABEL
from jobmanager.errors import DuplicateJob
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import (
    LASTS,
    RUNS_ONCE,
    command_line,
    jobs_on,
    kill_pool_workers,
    processes,
    programs_begun,
    ran_once,
    wake,
)
from tests.support.proxy import CREATE, START, Proxy


@pytest.fixture
def engine(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


@pytest.fixture
def proxy(engine: str) -> Iterator[Proxy]:
    with Proxy(engine) as proxy:
        yield proxy


@pytest.fixture
def outsider(engine: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine, version="1.41", timeout=20)
    yield client
    client.close()


@pytest.mark.case(1)
def test_a_pool_worker_killed_before_create_costs_nothing(proxy: Proxy) -> None:
    results: list[JobResult] = []
    with JobManager(proxy.url) as manager, proxy.hold(CREATE) as held:
        manager.new_job(RUNS_ONCE, callback=results.append)
        assert held.reached.wait(20)
        assert kill_pool_workers()
        for _ in range(3):
            manager.new_job(RUNS_ONCE, callback=results.append)
        eventually(lambda: len(results) == 4, what="all jobs have ended")
    assert all(ran_once(result) for result in results)


@pytest.mark.case(2)
def test_a_pool_worker_killed_between_create_and_start_costs_nothing(proxy: Proxy) -> None:
    """The container is found by its name and started once."""
    results: list[JobResult] = []
    with JobManager(proxy.url) as manager, proxy.hold(START) as held:
        manager.new_job(RUNS_ONCE, callback=results.append)
        assert held.reached.wait(20)
        created = proxy.count(CREATE)
        assert kill_pool_workers()
        eventually(lambda: results, what="the job has ended")
    assert ran_once(results[0])
    assert proxy.count(CREATE) == created + 1


@pytest.mark.case(3)
def test_a_pool_worker_killed_after_start_costs_nothing(proxy: Proxy) -> None:
    """The start was carried out, its answer was lost."""
    results: list[JobResult] = []
    with JobManager(proxy.url) as manager, proxy.hold(START, on_reply=True) as held:
        manager.new_job(RUNS_ONCE, callback=results.append)
        assert held.reached.wait(20)
        assert kill_pool_workers()
        eventually(lambda: results, what="the job has ended")
    assert ran_once(results[0])


@pytest.mark.case(5)
def test_a_killed_waiter_is_replaced_and_every_exit_code_is_true(engine: str) -> None:
    results: list[JobResult] = []
    with JobManager(DockerHost(engine, max_concurrent_jobs=20)) as manager:
        for _ in range(20):
            manager.new_job(LASTS, callback=results.append)
        eventually(lambda: programs_begun(engine) == 20, within_s=60)
        for waiter in processes("_waiter"):
            waiter.kill()
        wake()
        eventually(lambda: len(results) == 20, within_s=60)
    assert all(ran_once(result) for result in results), [r for r in results if not ran_once(r)]


@pytest.mark.case(5)
def test_who_follows_a_job_goes_on_with_the_next_waiter_and_sees_each_byte_once(engine: str) -> None:
    speaks_twice = Task(BUSYBOX, command="echo one; echo eins >&2; sleep 3; echo two; echo zwei >&2")
    results: list[JobResult] = []
    with JobManager(engine) as manager:
        live = manager.follow(manager.new_job(speaks_twice, callback=results.append), timeout_s=60)
        seen = [next(live)]
        for waiter in processes("_waiter"):
            waiter.kill()
        seen += live
        eventually(lambda: results)
    assert not any(output.starts_again or output.missed_bytes for output in seen)
    assert b"".join(output.data for output in seen if not output.stderr) == results[0].stdout == b"one\ntwo\n"
    assert b"".join(output.data for output in seen if output.stderr) == results[0].stderr == b"eins\nzwei\n"


@pytest.mark.case(5)
def test_who_follows_a_pipeline_sees_each_byte_once_although_its_waiter_is_killed_in_the_middle_of_a_phase(engine: str) -> None:
    speaks_twice = "echo one; echo eins >&2; sleep 3; echo two; echo zwei >&2"
    pipeline = Pipeline([Phase(name, Task(BUSYBOX, command=speaks_twice)) for name in ("first", "second")])
    results: list[JobResult] = []
    with JobManager(engine) as manager:
        live = manager.follow(manager.new_job(pipeline, callback=results.append), timeout_s=60)
        seen = []
        for output in live:
            if output.phase not in {before.phase for before in seen}:
                for waiter in processes("_waiter"):
                    waiter.kill()
            seen.append(output)
        eventually(lambda: results)
    assert not any(output.starts_again or output.missed_bytes for output in seen)
    assert [phase.run.stdout for phase in results[0].phases if phase.run] == [b"one\ntwo\n"] * 2, results[0]
    for phase in ("first", "second"):
        its_own = [output for output in seen if output.phase == phase]
        assert b"".join(output.data for output in its_own if not output.stderr) == b"one\ntwo\n"
        assert b"".join(output.data for output in its_own if output.stderr) == b"eins\nzwei\n"


@pytest.mark.case(5)
def test_a_killed_waiter_of_two_hands_its_jobs_to_the_other(engine: str) -> None:
    results: list[JobResult] = []
    with JobManager(DockerHost(engine, waiters=2, max_concurrent_jobs=4)) as manager:
        for _ in range(4):
            manager.new_job(LASTS, callback=results.append)
        eventually(lambda: programs_begun(engine) == 4, within_s=60)
        assert len(processes("_waiter")) == 2
        processes("_waiter")[0].kill()
        wake()
        eventually(lambda: len(results) == 4, within_s=60)
    assert all(ran_once(result) for result in results)


@pytest.mark.case(6)
def test_a_stopped_waiter_is_ended_and_the_deadline_holds(engine: str) -> None:
    """It holds the channel of a job that floods: nobody reads, so the runner waits until another waiter does."""
    flood = Task(BUSYBOX, command="while :; do echo 0123456789; done", limits=Limits(wall_time_s=2, output_kib=100_000))
    honest = Task(BUSYBOX, command="exit 7")
    results: dict[str, JobResult] = {}
    with JobManager(engine) as manager:

        def keep(result: JobResult) -> None:
            results[result.job_id] = result

        flooding = manager.new_job(flood, callback=keep)
        eventually(lambda: (info := manager.get_job_queue_info(flooding)) and info.is_running, what="it runs")
        for waiter in processes("_waiter"):
            os.kill(waiter.pid, signal.SIGSTOP)
        neighbour = manager.new_job(honest, callback=keep)
        eventually(lambda: len(results) == 2, within_s=30)
    assert results[flooding].outcome in (Outcome.TIMEOUT, Outcome.OVERFLOW)
    assert results[neighbour].exit_code == 7


@pytest.mark.case(7)
def test_a_waiter_killed_while_it_writes_a_large_report_gives_one_whole_result(engine: str) -> None:
    large = Task(BUSYBOX, command="head -c 5000000 /dev/zero; exit 7", limits=Limits(output_kib=6000))
    with JobManager(engine) as manager:
        job = manager.submit(large)
        eventually(lambda: processes("_waiter"))
        time.sleep(random.Random(7).uniform(0.1, 0.4))  # some moment while it reads or reports
        for waiter in processes("_waiter"):
            waiter.kill()
        result = job.result(40)
    assert result.exit_code == 7
    assert len(result.stdout) == 5_000_000 or result.output_cut


def test_the_loop_goes_on_when_every_child_is_killed_at_once(engine: str) -> None:
    results: list[JobResult] = []
    with JobManager(engine) as manager:
        for _ in range(6):
            manager.new_job(RUNS_ONCE, callback=results.append)
        eventually(lambda: our_containers(engine))
        for child in psutil.Process().children():
            if "jobmanager.ipc.process" in command_line(child):
                child.kill()
        eventually(lambda: len(results) == 6, within_s=60)
    assert all(ran_once(result) for result in results), [r for r in results if not ran_once(r)]


def test_a_volume_that_the_engine_did_not_remove_with_its_container_is_removed(engine: str) -> None:
    """An engine that is being shut down says that it has removed container and volume, and only logs that the volume stays."""
    outsider = docker.DockerClient(base_url=engine, version="1.41", timeout=20)
    results: list[JobResult] = []
    with JobManager(engine) as manager:
        manager.new_job(RUNS_ONCE, callback=results.append)
        (ours,) = eventually(lambda: our_containers(engine), what="the container is there")
        outsider.volumes.create(labels={MANAGER_LABEL: "ours", VOLUME_LABEL: ours})
        eventually(lambda: results and manager.hosts()[0].running == 0, what="the slot is free")
        assert not our_volumes(engine)
    outsider.close()
    assert ran_once(results[0])


@pytest.mark.case(45)
def test_an_id_that_twenty_threads_submit_at_once_is_taken_once(engine: str) -> None:
    with jobs_on(engine) as jobs:
        refused: list[DuplicateJob] = []
        together = threading.Barrier(20)

        def submit() -> None:
            together.wait(10)
            try:
                jobs.add(RUNS_ONCE, job_id="mine")
            except DuplicateJob as error:
                refused.append(error)

        threads = [threading.Thread(target=submit) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (first,) = jobs.results()
    assert ran_once(first) and len(refused) == 19
