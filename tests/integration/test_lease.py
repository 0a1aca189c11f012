"""After a caller and all its processes were killed at once nothing runs on, though no manager comes back: a runner has a lease."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import docker
import psutil
import pytest

from jobmanager.engine.labels import JOB_LABEL
from jobmanager.runner.place import RUNNER_LABEL
from tests.conftest import BUSYBOX, eventually
from tests.support.daemons import PrivateDaemon
from tests.support.printed import program_runs

LEASE_OVER = 120  # the runner's exit code
CALLER = """
import sys, time
import jobmanager.control.dispatch as dispatch
dispatch.LEASE_SLACK_S = 1.0
from jobmanager import DockerHost, JobManager, Limits, Task
manager = JobManager(DockerHost(sys.argv[1]), host_lost_timeout_s=2)
manager.start()
task = Task(sys.argv[2], command="sleep 300 & sleep 300", limits=Limits(wall_time_s=300))
manager.new_job(task, job_id="leased")
while manager.get_job_queue_info("leased")[0] != -1: time.sleep(0.05)
print("it runs", flush=True)
time.sleep(300)
"""


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=20)
    yield client
    for container in client.containers.list(all=True, filters={"label": f"{JOB_LABEL}=leased"}):
        container.remove(force=True, v=True)
    for volume in client.api.volumes(filters={"label": RUNNER_LABEL})["Volumes"] or ():
        client.api.remove_volume(volume["Name"])
    client.close()


def kill_all_at_once(process: subprocess.Popen[str]) -> None:
    """No process of it has the time to notice that another one is gone."""
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in everyone:
        each.send_signal(signal.SIGSTOP)
    for each in everyone:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(everyone, timeout=10)


def test_a_program_whose_callers_were_all_killed_ends_with_its_lease(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    command = [sys.executable, "-c", CALLER, private_engine.url, BUSYBOX]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == "it runs\n"
        ours = {"label": f"{JOB_LABEL}=leased"}
        (container,) = eventually(lambda: outsider.containers.list(filters=ours), what="its container runs")
        eventually(lambda: program_runs(container, "sleep 300"), what="its program runs")
        kill_all_at_once(caller)

    def ended() -> bool:
        container.reload()
        return bool(container.status == "exited")

    eventually(ended, within_s=30, what="the lease of 3 s is over")
    assert container.attrs["State"]["ExitCode"] == LEASE_OVER
