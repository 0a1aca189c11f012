"""What the tests of whole jobs share: one manager for each file, and a client of somebody else's on its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import docker
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, JobFuture, JobInput, JobManager, JobResult, Task
from jobmanager.engine.labels import JOB_LABEL, MANAGER_LABEL, OWNER_LABEL, Owner
from tests.conftest import BUSYBOX, SLOWNESS, children, eventually, open_files, our_threads
from tests.support.printed import wait_until_printed

PYTHON = "python3"  # an environment's name: Debian with dash, Python and gcc
PATIENCE_S = 60.0 * SLOWNESS
SECRETS: dict[str, str | bytes] = {"token": "s3cret-of-the-report", "key": b"\0\xffkey"}  # of a file's manager; a test may add some
_API = "1.41"


class Run(Protocol):
    """Runs one job to its end."""

    def __call__(self, command: str | list[str] | None = None, inputs: JobInput | None = None, **task: object) -> JobResult: ...


class Submit(Protocol):
    """Submits one job."""

    def __call__(self, command: str | list[str] | None = None, inputs: JobInput | None = None, **task: object) -> JobFuture: ...


_shared: list[JobManager] = []


@pytest.fixture(scope="module")
def shared_manager(engine_url: str) -> Iterator[JobManager]:
    """A manager that all tests of a file use, so that each costs a job and no more. At its end, nothing of it may be left."""
    threads, processes, files = set(our_threads()), set(children()), open_files()
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=6), secrets=SECRETS) as manager:
        _shared.append(manager)
        yield manager
        _shared.remove(manager)
    _eventually_no_more_than(threads, processes, files)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """As for all tests. While a file's manager lives, what was there before a test may stay; what its jobs made may not."""
    if not _shared:
        request.getfixturevalue("nothing_left_behind")  # the one that this one stands in for
        yield
        return
    outsider: docker.DockerClient = request.getfixturevalue("outsider")
    threads, processes, files = set(our_threads()), set(children()), open_files()
    yield
    ours = {"label": [f"{OWNER_LABEL}={Owner.this_process().label()}", MANAGER_LABEL]}  # not the manager's claim to the runner
    eventually(lambda: not outsider.api.containers(all=True, filters=ours), what="the jobs' containers are gone")
    eventually(lambda: not outsider.api.volumes(filters=ours)["Volumes"], what="the jobs' volumes are gone")
    if "shared_manager" not in request.fixturenames:
        outsider.close()
        _eventually_no_more_than(threads, processes, files)


def _eventually_no_more_than(threads: set[str], processes: set[str], files: int) -> None:
    eventually(lambda: set(our_threads()) <= threads, what="the library's threads are gone")
    eventually(lambda: set(children()) <= processes, what="children are gone")
    eventually(lambda: open_files() <= files, what=f"descriptors are closed: there were {files}")


@pytest.fixture
def submit(shared_manager: JobManager) -> Submit:
    """Submits a job to the file's manager; in busybox unless told otherwise."""

    def submitted(
        command: str | list[str] | None = None, inputs: JobInput | None = None, *, image: str = BUSYBOX, **task: object
    ) -> JobFuture:
        return shared_manager.submit(Task(image, command=command, **task), inputs)  # type: ignore[arg-type]

    return submitted


@pytest.fixture
def run(submit: Submit) -> Run:
    """Runs a job with the file's manager."""

    def result(command: str | list[str] | None = None, inputs: JobInput | None = None, **task: object) -> JobResult:
        return submit(command, inputs, **task).result(PATIENCE_S)

    return result


@pytest.fixture(params=[BUSYBOX, PYTHON], ids=["ash", "dash"])
def shell(request: pytest.FixtureRequest) -> str:
    """An image of each kind of shell, which runs commands that are given as text."""
    return str(request.param)


@pytest.fixture
def outsider(engine_url: str) -> Iterator[docker.DockerClient]:
    """A client of somebody else who uses the same engine."""
    client = docker.DockerClient(base_url=engine_url, version=_API, timeout=20 * SLOWNESS)
    yield client
    client.close()


@pytest.fixture
def running(outsider: docker.DockerClient) -> Callable[[JobFuture], Container]:
    """Finds a job's container, once its program has printed ``ready``."""

    def found(job: JobFuture) -> Container:
        labels = {"label": f"{JOB_LABEL}={job.job_id}"}
        container = eventually(lambda: outsider.containers.list(filters=labels), what="the container runs")[0]
        wait_until_printed(job, b"ready")
        return container

    return found


def proof(result: JobResult) -> dict[str, str | int | float]:
    """The evidence's values by kind."""
    return {evidence.kind: evidence.value for evidence in result.evidence}


def source(result: JobResult, kind: str) -> str:
    """Where a piece of evidence comes from."""
    return next(evidence.source for evidence in result.evidence if evidence.kind == kind)
