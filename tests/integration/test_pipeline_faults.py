"""Pipelines when something breaks between phases and in them: one result, nothing left behind, no phase run twice.

Each phase adds a line to a volume that the last one prints. So a phase that ran twice, or on a volume that lost its content, shows.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, JobManager, JobResult, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.model.container_states import ContainerState
from tests.conftest import BUSYBOX, end_with_all_children, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import SLEEPS, Jobs, jobs_on, kill_pool_workers, processes, wake
from tests.support.printed import program_runs
from tests.support.proxy import CREATE, START, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

LIMITS = Limits(memory_mib=32, wall_time_s=120, workspace_mib=2)


def phase(name: str, command: str, **rights) -> Phase:  # type: ignore[no-untyped-def]
    return Phase(name, Task(BUSYBOX, command=command, limits=LIMITS), **rights)


def course(*, pause_s: float = 0.3, held: str = "") -> Pipeline:
    """Four phases, each of which tells in the volume that it ran. ``held``: one that sleeps until ``wake()``."""

    def runs(name: str) -> str:
        sleeps = SLEEPS if name == held else f"sleep {pause_s}"
        return f"echo begun; {sleeps}; echo {name} >> /volumes/work/ran; "

    return Pipeline(
        [
            phase("one", runs("one"), writes=["work"]),
            phase("two", runs("two"), writes=["work"]),
            phase("three", f"{runs('three')} cat /volumes/work/ran", writes=["work"]),
            phase("report", "cat /volumes/work/ran", reads=["work"], when="always"),
        ]
    )


def printed(result: JobResult, name: str = "report") -> list[str]:
    """What the volume held when a phase printed it."""
    run = next(each.run for each in result.phases if each.name == name)
    return [] if run is None else run.stdout_text.replace("begun\n", "").split()


def outcomes(result: JobResult) -> list[str | None]:
    return [None if each.outcome is None else each.outcome.value for each in result.phases]


def check(result: JobResult, *more: str) -> None:
    """No phase failed for what is not its program's doing, none ran twice, and none had a volume without what it held before."""
    assert all(each in ("success", "crash", None, *more) for each in outcomes(result)), result
    ended_well = {each.name for each in result.phases if each.outcome is Outcome.SUCCESS}
    if "three" in ended_well:
        assert printed(result, "three") == ["one", "two", "three"], result
    if "report" in ended_well:
        told = printed(result)
        assert told == ["one", "two", "three"][: len(told)] and ended_well <= {*told, "report"}, result


def ran_well(result: JobResult) -> bool:
    return result.outcome is Outcome.SUCCESS and printed(result) == ["one", "two", "three"]


@pytest.fixture
def engine(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


@pytest.fixture
def outsider(engine: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine, version="1.41", timeout=20)
    yield client
    client.close()


def wait_until_in(jobs: Jobs, job_id: str, number: int, *, begun: bool = True) -> None:
    """Until it is the turn of the phase of this number, from 1 on, or a later one, and its program has begun.

    A job that has ended meanwhile was in all its phases: a busy machine may be slow to ask.
    """
    job = jobs.manager._lifetime.running().ledger._jobs.get(job_id)

    def is_in() -> bool:
        if job is None:
            return True
        since_the_last = "\n".join(step.name for step in job.steps).rpartition("phase_ended")[2]
        return job.current >= number - 1 and (not begun or "job_sent" in since_the_last)

    eventually(is_in, what=f"phase {number} runs")


def wait_until_ready(jobs: Jobs, job_id: str, *numbers: int) -> None:
    """Until the manager knows that the containers of these phases have started: they rely on no other one any more."""
    runs = jobs.manager._lifetime.running().ledger._jobs[job_id].runs
    for number in numbers:
        run = runs[number - 1]
        eventually(
            lambda run=run: run.container is not None and run.container.state is ContainerState.READY,
            what=f"the container of phase {number} is ready",
        )


def container(outsider: docker.DockerClient, job_id: str, number: int) -> Container:
    """The container of a phase, once it runs."""

    def found() -> list[Container]:
        there = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job_id}"}, ignore_removed=True)
        return [each for each in there if re.search(rf"-p{number}(\.\d+)?$", each.name)]

    return eventually(found, what=f"the container of phase {number} runs")[0]


@pytest.mark.case(54)
def test_a_waiter_that_dies_in_a_phase_or_between_two_costs_nothing(engine: str) -> None:
    with jobs_on(DockerHost(engine, max_concurrent_jobs=4)) as jobs:
        ids = jobs.add(course(pause_s=1), 3)
        for number in (1, 2, 3):
            wait_until_in(jobs, ids[0], number)
            time.sleep(0.3 * (number - 1))
            for waiter in processes("_waiter"):
                waiter.kill()
        results = jobs.results()
    assert all(ran_well(result) for result in results), results


@pytest.mark.case(54)
@pytest.mark.parametrize(("pattern", "on_reply"), [(CREATE, False), (START, True)])
def test_a_submitter_that_dies_over_the_next_phases_container_costs_nothing(engine: str, pattern: str, on_reply: bool) -> None:
    with Proxy(engine) as proxy, jobs_on(proxy.url) as jobs, proxy.hold(pattern, on_reply=on_reply, skip=1) as held:
        jobs.add(course())
        assert held.reached.wait(20)
        assert kill_pool_workers()
        (result,) = jobs.results()
    check(result)
    assert ran_well(result), result


@pytest.mark.case(54)
def test_a_kill_at_any_moment_ends_a_pipeline_once_and_its_report_is_made(engine: str) -> None:
    moments, count = random.Random(54), 12
    with jobs_on(DockerHost(engine, max_concurrent_jobs=4)) as jobs:
        ids = jobs.add(course(pause_s=0.1), count)
        kills = [threading.Timer(moments.uniform(0, 6), jobs.manager.kill_job, [job_id]) for job_id in ids]
        for each in kills:
            each.start()
        results = jobs.results()
        for each in kills:
            each.join()
    for result in results:
        check(result, "killed")
        assert result.outcome in (Outcome.KILLED, Outcome.SUCCESS), result
        if outcomes(result)[0] == "success":
            assert outcomes(result)[-1] == "success", result
        if result.outcome is Outcome.SUCCESS:
            assert ran_well(result), result


@pytest.mark.case(55)
def test_the_container_of_the_next_phase_that_a_stranger_removes_is_a_crash_of_that_phase(
    engine: str, outsider: docker.DockerClient
) -> None:
    with jobs_on(engine) as jobs:
        (job_id,) = jobs.add(course(held="one"))
        wait_until_in(jobs, job_id, 1)
        wait_until_ready(jobs, job_id, 2, 3)
        container(outsider, job_id, 2).remove(force=True)
        eventually(wake, what="the first phase goes on")
        (result,) = jobs.results()
    check(result)
    assert (result.outcome, outcomes(result)[:3]) == (Outcome.CRASH, ["success", "crash", None]), result
    assert result.text.startswith("phase 'two': it was not started")


@pytest.mark.case(55)
def test_a_running_phase_that_a_stranger_removes_is_a_crash_and_its_report_is_made(
    engine: str, outsider: docker.DockerClient
) -> None:
    with jobs_on(engine) as jobs:
        (job_id,) = jobs.add(course(held="two"))
        wait_until_in(jobs, job_id, 2)
        wait_until_ready(jobs, job_id, 3, 4)
        running = container(outsider, job_id, 2)
        eventually(lambda: program_runs(running, "sleep"), what="its program sleeps")
        running.remove(force=True)
        (result,) = jobs.results()
    check(result)
    assert result.outcome is Outcome.CRASH and "somebody else" in result.text, result
    assert (outcomes(result), printed(result)) == (["success", "crash", None, "success"], ["one"])


@pytest.mark.case(55)
def test_containers_that_a_stranger_removes_before_the_next_one_is_there_take_the_volume_along(
    engine: str, outsider: docker.DockerClient
) -> None:
    with Proxy(engine) as proxy, jobs_on(proxy.url) as jobs:
        with proxy.hold(rf"{CREATE}\?name=[^ &]+-p2") as held:
            (job_id,) = jobs.add(course())
            assert held.reached.wait(20)
            wait_until_in(jobs, job_id, 2, begun=False)
            its_own = {"label": f"{JOB_LABEL}={job_id}"}
            eventually(lambda: len(outsider.containers.list(filters=its_own)) == 2)  # the one of the first phase, and of the third
            for keeper in outsider.containers.list(filters=its_own):
                keeper.remove(force=True)
        (result,) = jobs.results()
    check(result)
    assert result.outcome is Outcome.CRASH and "its volumes were lost" in result.text, result


@pytest.mark.case(55)
def test_after_kill_9_of_the_caller_containers_and_volumes_are_swept_and_a_neighbours_stay(
    engine: str, outsider: docker.DockerClient
) -> None:
    with jobs_on(engine) as jobs:
        (job_id,) = jobs.add(course(held="one"))
        wait_until_in(jobs, job_id, 1)
        (neighbours,) = shared_volumes(engine)
        doomed = subprocess.Popen([sys.executable, "-c", CALLER, engine], stdout=subprocess.PIPE, text=True)
        assert doomed.stdout is not None
        with doomed.stdout:
            assert doomed.stdout.readline() == "in the second phase\n"
            end_with_all_children(doomed)
        assert len(shared_volumes(engine)) == 2
        with JobManager(engine):
            eventually(lambda: shared_volumes(engine) == [neighbours], what="its volumes are swept")
        eventually(wake, what="the neighbour goes on")
        (result,) = jobs.results()
    check(result)
    assert ran_well(result), result


def shared_volumes(url: str) -> list[str]:
    """The volumes of pipelines."""
    return [name for name in our_volumes(url) if "-v-" in name]


CALLER = """
import sys, time
from jobmanager import JobManager, Phase, Pipeline, Task
manager = JobManager(sys.argv[1])
manager.start()
one = Phase("one", Task("jobmanager-busybox:1", command="echo 1 > /volumes/work/f"), writes=["work"])
two = Phase("two", Task("jobmanager-busybox:1", command="echo begun; sleep 60"), reads=["work"])
more = Phase("more", Task("jobmanager-busybox:1", command="true"), reads=["work"], when="always")
live = manager.follow(manager.new_job(Pipeline([one, two, more])), timeout_s=60)
next(live)
print("in the second phase", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def mortal(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path_factory.mktemp("mortal")) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.fixture(scope="module")
def restoring(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path_factory.mktemp("restoring"), extra_args=("--live-restore",)) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.mark.case(56)
def test_an_engine_that_restarts_at_any_moment_makes_no_phase_fail(mortal: PrivateDaemon) -> None:
    with jobs_on(DockerHost(mortal.url, max_concurrent_jobs=5)) as jobs:
        ids = jobs.add(course(pause_s=0.5), 5)
        for job_id, number in zip(ids, (1, 2, 2, 3, 3), strict=True):
            wait_until_in(jobs, job_id, number)
        mortal.kill()
        mortal.restart()
        results = jobs.results()
    for result in results:
        check(result)
        assert result.outcome in (Outcome.SUCCESS, Outcome.CRASH), result
    assert any("crash" in outcomes(result) for result in results), results


@pytest.mark.case(56)
@pytest.mark.parametrize("number", [1, 2])
def test_an_engine_with_live_restore_that_restarts_under_a_phase_makes_none_fail(restoring: PrivateDaemon, number: int) -> None:
    """Of engine 20.10 the containers that are made after that have new, empty volumes, although the phase's container lives on."""
    with jobs_on(restoring.url, swept_later=True) as jobs:
        (job_id,) = jobs.add(course(pause_s=1))
        wait_until_in(jobs, job_id, number)
        restoring.kill()
        restoring.restart()
        (result,) = jobs.results()
    check(result)
    assert outcomes(result)[:number] == ["success"] * number, result
    assert result.outcome is (Outcome.CRASH if "crash" in outcomes(result)[:3] else Outcome.SUCCESS), result


@pytest.mark.case(56)
def test_a_host_that_is_lost_in_a_phase_is_a_crash_without_report_and_its_volumes_go_when_it_is_back(
    mortal: PrivateDaemon, engine: str
) -> None:
    hosts = (DockerHost(mortal.url, name="lost", max_concurrent_jobs=1), DockerHost(engine, name="kept", max_concurrent_jobs=1))
    with jobs_on(*hosts, host_lost_timeout_s=8, engine_timeout_s=5) as jobs:
        ids = jobs.add(course(held="two"), 2)
        for job_id in ids:
            wait_until_in(jobs, job_id, 2)
        mortal.kill()
        try:
            eventually(lambda: jobs.ended() == 1, within_s=60, what="the one on the lost host has ended")
            eventually(lambda: not wake() and jobs.ended() == 2, within_s=40, what="the other one has a report")
        finally:
            mortal.restart()
        lost, kept = sorted(jobs.results(), key=lambda result: result.host != "lost")
        eventually(lambda: not our_volumes(mortal.url), within_s=30, what="its volumes are removed")
    assert (lost.host, lost.outcome, outcomes(lost)) == ("lost", Outcome.CRASH, ["success", "crash", None, None]), lost
    check(kept)
    assert ran_well(kept), kept
