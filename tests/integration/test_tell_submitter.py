"""What a grader tells its submitter, on a real engine: it alone can, each text comes once, and it is in the result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from jobmanager import DockerHost, Grader, JobManager, LiveOutput, Outcome, Output, Phase, Pipeline, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.remote import RemoteClient
from tests.conftest import SLOWNESS, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON
from tests.support.faults import processes
from tests.support.hand_made_cluster import KEY, NAMESPACE, TIMEOUTS, WorkerProcess
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.engine

HOSTILE = """
import glob, os, socket, subprocess
for path in (*glob.glob("/task/.jobmanager/*"), "/task/.jobmanager/control", "/task/student/../.jobmanager/control"):
    try:
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(path)
        channel.sendall(b'{"type": "tell", "text": "forged"}\\n')
    except OSError as error:
        print(error)
for number in range(3, 20):
    try:
        os.write(number, b'\\0{"type": "tell", "id": 1, "text": "forged"}')
    except OSError:
        pass
print(subprocess.run("tell_submitter -m forged", shell=True).returncode)
print('{"type": "tell", "id": 1, "text": "forged"}')
"""
GRADES = """
import jobmanager_grading as grading
print("hidden test 1")
grading.tell_submitter("test 1 of 2")
end = grading.run_student("python3 student/hostile.py")
print(end.stdout.decode(), end.stderr.decode())
grading.tell_submitter("test 2 of 2")
grading.set_result("success")
"""
WAITS = """
import os, time
import jobmanager_grading as grading
grading.tell_submitter("one")
while not os.path.exists("student/go_on"):
    time.sleep(0.1)
grading.tell_submitter("two")
grading.set_result("success")
"""


@pytest.fixture
def outsider(engine_url: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine_url, version="1.41", timeout=20 * SLOWNESS)
    yield client
    client.close()


def told(outputs: list[Output]) -> list[str]:
    return [output.to_submitter for output in outputs if output.to_submitter]


def test_only_the_grader_tells_the_submitter_whatever_the_submission_tries(engine_url: str) -> None:
    files = {"run.py": GRADES, "student/hostile.py": HOSTILE}
    with JobManager(engine_url) as manager:
        job = manager.submit(Task(PYTHON, grader=Grader(), files=files))
        outputs = list(manager.follow(job.job_id, timeout_s=PATIENCE_S))
        result = job.result(PATIENCE_S)

    assert result.outcome is Outcome.SUCCESS, result
    assert told(outputs) == list(result.to_submitter) == ["test 1 of 2", "test 2 of 2"]
    assert b"hidden test 1" in result.stdout and b"127\n" in result.stdout, "it printed, and there is no such command"
    assert b"hidden" not in "".join(told(outputs)).encode()


def test_each_text_comes_once_although_another_waiter_reads_it_again(engine_url: str, outsider: docker.DockerClient) -> None:
    with JobManager(DockerHost(engine_url, waiters=2)) as manager:
        job = manager.submit(Task(PYTHON, grader=Grader(), files={"run.py": WAITS}))
        live = manager.follow(job.job_id, timeout_s=PATIENCE_S)
        seen = [next(live)]
        assert told(seen) == ["one"]
        before = set(processes("_waiter"))
        for waiter in before:
            waiter.kill()
        eventually(lambda: len(set(processes("_waiter")) - before) == 2, what="there are other waiters")
        (grader,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        assert grader.exec_run(["touch", "/task/student/go_on"]).exit_code == 0
        seen += live
        result = job.result(PATIENCE_S)

    assert result.outcome is Outcome.SUCCESS, result
    assert told(seen) == list(result.to_submitter) == ["one", "two"]


def test_graders_of_several_phases_tell_in_their_order_and_a_reader_in_asyncio_hears_them(engine_url: str) -> None:
    script = "tell_submitter -m 'in {name}'; feedback-result success"
    phases = [Phase(name, Task(PYTHON, grader=Grader(script.format(name=name)))) for name in ("first", "second")]

    async def heard(live: LiveOutput) -> list[Output]:
        async with live:
            return [output async for output in live]

    with JobManager(engine_url) as manager:
        job = manager.submit(Pipeline(phases))
        outputs = asyncio.run(heard(manager.follow(job.job_id, timeout_s=PATIENCE_S)))
        result = job.result(PATIENCE_S)

    assert result.outcome is Outcome.SUCCESS, result
    assert [(output.phase, output.to_submitter) for output in outputs if output.to_submitter] == [
        ("first", "in first"),
        ("second", "in second"),
    ]
    assert result.to_submitter == ("in first", "in second")


@pytest.mark.cluster
def test_over_a_cluster_a_reader_hears_each_text_once_and_can_be_stopped(engine_url: str, tmp_path: Path) -> None:
    with RedisServer() as redis, ExitStack() as stack:
        worker = WorkerProcess(tmp_path, redis.socket_url, "--host", engine_url, "--name", "n1")
        stack.callback(worker.close)
        worker.wait_until_ready()
        client = RemoteClient(redis.socket_url, key=KEY, namespace=NAMESPACE, timeouts=TIMEOUTS)
        client.start(wait=False)
        stack.callback(client.close, kill=True)
        job = client.submit(Task(PYTHON, grader=Grader(), files={"run.py": GRADES, "student/hostile.py": HOSTILE}))
        outputs = list(client.follow(job.job_id, timeout_s=PATIENCE_S))
        result = job.result(PATIENCE_S)

        waits = client.submit(Task(PYTHON, grader=Grader(), files={"run.py": WAITS}))
        live = client.follow(waits.job_id, timeout_s=PATIENCE_S)
        assert next(live).to_submitter == "one"
        client.stop_following()
        assert list(live) == list(client.follow(waits.job_id)) == []
        assert not waits.done()

    assert result.outcome is Outcome.SUCCESS, result
    assert told(outputs) == list(result.to_submitter) == ["test 1 of 2", "test 2 of 2"]
