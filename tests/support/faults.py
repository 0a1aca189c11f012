"""What the tests with faults share: jobs that tell how often they ran, and what must hold after each fault."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import psutil
from docker.models.containers import Container

from dev import dockerd
from jobmanager import DockerHost, JobManager, JobResult, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.printed import program_runs

PATIENCE_S = 60.0
RUNS_ONCE = Task(BUSYBOX, command="echo begun; sleep 1; echo ended; exit 7")
QUICK = Task(BUSYBOX, command="echo begun; echo ended; exit 7")
SLEEPS = f"sleep 3000.{os.getpid()}"  # in a program: until ``wake()``. No fixed time is long enough on every machine
SLEEPS_TOO = f"sleep 4000.{os.getpid()}"
LASTS = Task(BUSYBOX, command=f"echo begun; {SLEEPS}; echo ended; exit 7", limits=Limits(wall_time_s=120))
ENDLESS = Task(BUSYBOX, command="echo begun; sleep 3000", limits=Limits(wall_time_s=3600))


def ran_once(result: JobResult) -> bool:
    """Whether the program ran from its beginning to its end, once."""
    return (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 7, b"begun\nended\n")


def proof(result: JobResult) -> dict[str, str | int | float]:
    """The evidence's values by kind."""
    return {evidence.kind: evidence.value for evidence in result.evidence}


def restart(container: Container) -> None:
    """As a stranger does it: the engine stops it, then starts it. In between the manager may see it ended, and remove it."""
    try:
        container.restart(timeout=0)
    except docker.errors.APIError as refused:
        if not any(told in str(refused) for told in ("marked for removal", "No such container")):
            raise


def pause(container: Container) -> None:
    """As a stranger does it. runc gives up freezing a container whose processes hardly get to run, as on a busy machine."""

    def is_frozen() -> bool:
        with suppress(docker.errors.APIError):
            container.pause()
        container.reload()
        return bool(container.status == "paused")

    eventually(is_frozen, what="it is paused")


def processes(module: str) -> list[psutil.Process]:
    """Our children that run this module."""
    return [child for child in psutil.Process().children() if module in command_line(child)]


def command_line(process: psutil.Process) -> str:
    """Its words; none when it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wake(sleep: str = SLEEPS) -> int:
    """Programs go on that sleep so, on whichever engine of this machine; how many."""
    sleepers = [process for process in psutil.process_iter() if command_line(process) == sleep]
    for sleeper in sleepers:
        sleeper.send_signal(signal.SIGPIPE)  # the one signal of which a shell says nothing
    return len(sleepers)


class Jobs:
    """Jobs of one manager, and how often each was called back."""

    def __init__(self, manager: JobManager) -> None:
        self.manager = manager
        self._ids: list[str] = []
        self._called: list[JobResult] = []

    def add(self, task: Task, count: int = 1, *, job_id: str | None = None) -> list[str]:
        """Submit a task so many times."""
        ids = [self.manager.new_job(task, None, self._called.append, job_id=job_id) for _ in range(count)]
        self._ids += ids
        return ids

    def ended(self) -> int:
        """How many callbacks there were."""
        return len(self._called)

    def results(self, within_s: float = PATIENCE_S) -> list[JobResult]:
        """All results, in the order of submission, once the last one is there."""
        eventually(lambda: self.ended() >= len(self._ids), within_s=within_s, what="all jobs are called back")
        found = {result.job_id: result for result in self._called}
        return [found[job_id] for job_id in self._ids]

    def wait_until_running(self, count: int, within_s: float = PATIENCE_S) -> None:
        """Until so many programs have begun."""
        urls = [host.url for host in self.manager.hosts()]
        eventually(lambda: sum(programs_begun(url) for url in urls) == count, within_s=within_s, what=f"{count} programs run")

    def check(self) -> None:
        """One callback for every job."""
        assert Counter(result.job_id for result in self._called) == Counter(self._ids)


@contextmanager
def jobs_on(*hosts: DockerHost | str, swept_later: bool = False, **options: object) -> Iterator[Jobs]:
    """A manager's jobs. At the end each has been called back once, hosts are known as they are, and nothing is left on them."""
    with JobManager(hosts, **options) as manager:  # type: ignore[arg-type]
        urls = [record.url for record in manager.hosts()]
        jobs = Jobs(manager)
        yield jobs
        jobs.results()
        eventually(lambda: hosts_are_known_as_they_are(manager), what=f"no host is taken for down that is up: {manager.hosts()}")
    jobs.check()
    for url in filter(is_up, urls):
        eventually(lambda url=url: not our_containers(url), what="no container is left behind")
        eventually(lambda url=url: swept_later or not our_volumes(url), what="no volume is left behind")


def hosts_are_known_as_they_are(manager: JobManager) -> bool:
    """Whether a host is up for the manager if and only if it answers."""
    return all(record.up == is_up(record.url) for record in manager.hosts())


def is_up(url: str) -> bool:
    """Whether an engine answers on a unix socket."""
    return dockerd.answers(Path(url.removeprefix("unix://")))


def programs_begun(url: str) -> int:
    """How many containers of ours run a program that has printed ``begun`` and sleeps."""
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20)
    try:
        running = client.containers.list(filters={"label": "jobmanager.manager"})
        return sum(program_runs(container, "sleep") for container in running)
    except docker.errors.APIError:  # one has just been removed
        return 0
    finally:
        client.close()


def kill_pool_workers() -> int:
    """SIGKILL every worker of the process pool."""
    workers = processes("_pool_worker")
    for worker in workers:
        worker.kill()
    return len(workers)
