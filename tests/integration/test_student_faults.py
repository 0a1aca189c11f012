"""What breaks while a student container runs: its job is killed, its waiter dies, its manager closes or is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import docker
import pytest

from jobmanager import DockerHost, Grader, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import JOB_LABEL, STUDENT_LABEL
from jobmanager.engine.leftovers import remove_leftovers, survey
from jobmanager.model.host import Address
from tests.conftest import end_with_all_children, eventually, our_containers, our_volumes
from tests.integration.conftest import PATIENCE_S, PYTHON, proof
from tests.support.faults import processes
from tests.support.printed import program_runs

pytestmark = pytest.mark.engine

LONG = Limits(memory_mib=64, cpu_time_s=20, wall_time_s=100)
WAITS = """#!/bin/sh
feedback-result success
run_student "sh -c 'echo ready; sleep 1000'"
feedback-msg -m $?
"""
DIES = """#!/bin/sh
feedback-result success
run_student "sh -c 'echo ready; echo > student/x; sleep 1000'" &
while [ ! -e student/x ]; do sleep 0.1; done
kill -9 $$
"""


IN_ONE = """
import os, time
import jobmanager_grading as grading
with grading.open_submission() as submission:
    seen = [submission.run(["sh", "-c", "echo x > student/first; touch /tmp/x; ls /tmp"]).stdout.decode()]
    while not os.path.exists("student/go_on"):
        time.sleep(0.1)
    seen += [submission.run(["ls", "/tmp"]).stdout.decode(), submission.run(["echo", "fine"]).stdout.decode()]
grading.set_custom("seen", seen)
grading.set_result("success")
"""


def task(script: str, **options: object) -> Task:
    return Task(PYTHON, grader=Grader(), files={"run": script}, limits=LONG, **options)  # type: ignore[arg-type]


@pytest.fixture
def outsider(engine_url: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine_url, version="1.41")
    yield client
    client.close()


def student_of(outsider: docker.DockerClient, job_id: str) -> docker.models.containers.Container:
    """A job's student container, once its program runs."""
    wanted = {"label": [f"{JOB_LABEL}={job_id}", STUDENT_LABEL]}
    found = eventually(lambda: outsider.containers.list(filters=wanted), what="a student container runs")[0]
    eventually(lambda: program_runs(found, "sleep "), what="its program runs")
    return found


def nothing_is_left(url: str) -> None:
    eventually(lambda: not our_containers(url) and not our_volumes(url), within_s=30, what="nothing is left on the engine")


@pytest.mark.case(47)
def test_a_job_that_is_killed_takes_its_student_along(engine_url: str, outsider: docker.DockerClient) -> None:
    with JobManager(engine_url) as manager:
        job = manager.submit(task(WAITS))
        student_of(outsider, job.job_id)
        assert manager.kill_job(job.job_id)
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: kill_job")


@pytest.mark.case(47)
def test_closing_takes_a_running_student_along(engine_url: str, outsider: docker.DockerClient) -> None:
    results: list[JobResult] = []
    manager = JobManager(engine_url)
    manager.start()
    student_of(outsider, manager.new_job(task(WAITS), callback=results.append))
    manager.close(kill=True)
    assert [result.outcome for result in results] == [Outcome.KILLED]
    assert our_containers(engine_url) == our_volumes(engine_url) == []


@pytest.mark.case(47)
def test_a_grader_that_dies_takes_its_student_along(engine_url: str, outsider: docker.DockerClient) -> None:
    with JobManager(engine_url) as manager:
        job = manager.submit(task(DIES))
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert result.exit_code == 137
    assert result.outcome is Outcome.SUCCESS  # its word, which it had given


@pytest.mark.case(47)
def test_a_student_whose_container_a_stranger_removes_is_an_end_like_another(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    with JobManager(engine_url) as manager:
        job = manager.submit(task(WAITS))
        student_of(outsider, job.job_id).remove(force=True, v=True)
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert (result.outcome, result.text) == (Outcome.SUCCESS, "254")


def kill_waiters() -> None:
    for waiter in processes("_waiter"):
        waiter.kill()


@pytest.mark.case(48)
def test_a_grader_whose_waiter_dies_is_cut_off_and_never_gives_a_verdict(engine_url: str, outsider: docker.DockerClient) -> None:
    with JobManager(DockerHost(engine_url, waiters=2)) as manager:
        job = manager.submit(task(WAITS))
        student_of(outsider, job.job_id)
        kill_waiters()
        result = job.result(PATIENCE_S)
        nothing_is_left(engine_url)
    assert result.outcome is Outcome.CRASH, result
    assert "link_broke" in proof(result)


def end_waiters_and_wait() -> None:
    """Until the next one has asked which students are open: one that were asked for before would be cut off, as it is its right."""
    time.sleep(1)
    before = set(processes("_waiter"))
    kill_waiters()
    eventually(lambda: set(processes("_waiter")) - before, what="there are other waiters")
    time.sleep(5)


Disturb = Callable[[docker.models.containers.Container], object]


def in_one(manager: JobManager, outsider: docker.DockerClient, disturb: Disturb) -> JobResult:
    """The result of a grader with two programs in one container, between which something happens."""
    job = manager.submit(Task(PYTHON, grader=Grader(), files={"run.py": IN_ONE}, limits=LONG))
    (student,) = eventually(
        lambda: outsider.containers.list(filters={"label": [f"{JOB_LABEL}={job.job_id}", STUDENT_LABEL]}), what="a student runs"
    )
    (grader,) = [each for each in outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"}) if each.id != student.id]
    ran = ["test", "-e", "/task/student/first"]  # asked by the engine: its disk may be in a root of its own
    eventually(lambda: grader.exec_run(ran).exit_code == 0, what="its first program has run")
    disturb(student)
    assert grader.exec_run(["touch", "/task/student/go_on"]).exit_code == 0
    return job.result(PATIENCE_S)


@pytest.mark.case(48)
def test_a_container_that_is_kept_between_two_programs_is_another_one_after_its_waiters_death(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    with JobManager(DockerHost(engine_url, waiters=2)) as manager:
        result = in_one(manager, outsider, lambda _: end_waiters_and_wait())
        nothing_is_left(engine_url)
    assert (result.outcome, result.custom.get("seen")) == (Outcome.SUCCESS, ["x\n", "", "fine\n"]), result


@pytest.mark.case(48)
def test_a_container_that_a_stranger_removes_between_two_programs_is_another_one_then(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    with JobManager(DockerHost(engine_url)) as manager:
        result = in_one(manager, outsider, lambda student: (time.sleep(1), student.remove(force=True)))
        nothing_is_left(engine_url)
    assert (result.outcome, result.custom.get("seen")) == (Outcome.SUCCESS, ["x\n", "", "fine\n"]), result


@pytest.mark.case(49)
def test_what_a_killed_manager_leaves_of_a_grading_job_is_gone_after_one_sweep(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    program = f"import sys; sys.path[:0] = {sys.path!r}\n" + (
        "from tests.integration.test_student_faults import *\n"
        f"manager = JobManager({engine_url!r}); manager.start()\n"
        "print(manager.new_job(task(WAITS)), flush=True)\n"
        "import time; time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        student_of(outsider, caller.stdout.readline().strip())
        end_with_all_children(caller)
    engine = connect(Address(host="here", url=engine_url), timeout_s=20)
    removals = list(remove_leftovers(engine, survey(engine).leftovers))
    engine.close()
    assert [removal.error for removal in removals] == ["", ""]
    assert our_containers(engine_url) == our_volumes(engine_url) == []
