"""What all tests share: real engines, waiting for conditions, and the check that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import docker
import psutil
import pytest

from tests.support.daemons import PrivateDaemon

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.support.each_version import EachVersionScheduling

BUSYBOX = "jobmanager-busybox:1"
SLOWNESS = float(os.environ.get("JOBMANAGER_TEST_SLOWNESS", "1"))  # times as much patience: an engine in a virtual machine is slow
T = TypeVar("T")
_ran_on: defaultdict[str, set[str]] = defaultdict(set)  # by test process: the files of its tests
_MARK = "JOBMANAGER_TEST_PROCESS"  # in the environment of all that this process starts
_MARK_HERE = os.environ[_MARK] = uuid.uuid4().hex


def eventually(condition: Callable[[], T], *, within_s: float = 20.0, what: str = "") -> T:
    """Wait until a condition holds, and return what it gave; fails when it does not in time."""
    until = time.monotonic() + within_s * SLOWNESS
    while not (found := condition()):
        if time.monotonic() > until:
            pytest.fail(f"not within {within_s * SLOWNESS:g} s: {what or condition}")
        time.sleep(0.02 * SLOWNESS)  # a slow engine is not kept busy with our questions
    return found


def without_engine() -> bool:
    """Whether somebody asked for the tests that need no engine only."""
    return os.environ.get("JOBMANAGER_TEST_WITHOUT_ENGINE") == "1"


def named_engines() -> list[str]:
    """Urls of the real engines for this process: all of them, or its own one where several test side by side."""
    urls = [url for url in os.environ.get("JOBMANAGER_TEST_HOSTS", "").split(",") if url]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return [urls[int(worker.removeprefix("gw"))]] if worker and urls else urls


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: as many processes as there are engines, since a test looks at all that is left on its own."""
    return len(named_engines())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> EachVersionScheduling | None:
    """``--dist each``: each version of Docker runs all tests, and engines of one version share them."""
    urls = named_engines()
    if config.getoption("dist") != "each" or config.getoption("numprocesses") != len(urls):
        return None
    from tests.support.each_version import EachVersionScheduling  # pytest-xdist may be missing

    return EachVersionScheduling(config, log, [_version(url) for url in urls])


def pytest_report_header() -> list[str]:
    return [f"engine of gw{number}: {_about(url)}" for number, url in enumerate(named_engines())]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if node := getattr(report, "node", None):  # the test process that ran it, where there are several
        _ran_on[node.gateway.id].add(report.nodeid.partition("::")[0])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """``make test`` makes two runs, and ``PYTEST_ARGS="-k ..."`` may select tests of one."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption("keyword"):
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which tests ran on which engine: where each file runs on either, that is by chance."""
    engines = {f"gw{number}": url for number, url in enumerate(named_engines())}
    for worker, url in engines.items():
        files = sorted(path.removeprefix("tests/") for path in _ran_on[worker] if not path.startswith("tests/unit/"))
        if files:
            terminalreporter.write_line(f"on {_about(url)}: {' '.join(files)}")


def _about(url: str) -> str:
    return f"{_version(url)} ({url})"


def _version(url: str) -> str:
    try:
        client = docker.APIClient(base_url=url, version="1.41", timeout=10)
        try:
            return f"Docker {client.version(api_version=False)['Version']}"
        finally:
            client.close()
    except (docker.errors.DockerException, OSError) as error:
        return f"it does not answer: {error}"


@pytest.fixture(scope="session")
def engine_urls() -> list[str]:
    """Urls of the real engines that tests may use, but never disturb."""
    urls = named_engines()
    if urls:
        return urls
    if without_engine():
        pytest.skip("JOBMANAGER_TEST_WITHOUT_ENGINE is set")
    return pytest.fail("JOBMANAGER_TEST_HOSTS names no engine: run `make test`, or set JOBMANAGER_TEST_WITHOUT_ENGINE=1")


@pytest.fixture(scope="session")
def engine_url(engine_urls: list[str]) -> str:
    """One real engine."""
    return engine_urls[0]


@pytest.fixture(scope="session")
def image_tar() -> str:
    """The busybox image as a tar, for private daemons."""
    path = os.environ.get("JOBMANAGER_TEST_IMAGE_TAR", "")
    if path:
        return path
    if without_engine():
        pytest.skip("JOBMANAGER_TEST_WITHOUT_ENGINE is set")
    return pytest.fail("JOBMANAGER_TEST_IMAGE_TAR names no image: run `make test`")


def our_containers(url: str) -> list[str]:
    """Names of all containers on an engine that some manager has made."""
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20 * SLOWNESS)
    try:
        found = client.api.containers(all=True, filters={"label": "jobmanager.manager"})
        return [container["Names"][0].lstrip("/") for container in found]
    finally:
        client.close()


def our_volumes(url: str) -> list[str]:
    """Names of all volumes on an engine that some manager has made."""
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20 * SLOWNESS)
    try:
        found = client.api.volumes(filters={"label": "jobmanager.manager"})
        return [volume["Name"] for volume in found["Volumes"] or []]
    finally:
        client.close()


def our_threads() -> list[str]:
    """Names of threads that the library has started in this process."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("jobmanager"))


def children() -> list[str]:
    """Command lines of this process's children, their children included, the dead too; not of private daemons."""
    parents, found = _parents(), {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    shown = (_shown(pid) for pid in sorted(found - {os.getpid()}))
    return [line for line in shown if line]


def _parents() -> dict[int, int]:
    """Of each process its parent. Every test asks for it, some times: psutil takes more than twice as long."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # it has just ended
            parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
    return parents


def _shown(pid: int) -> str:
    """Its line; empty for a daemon's, and for one that ends while it is looked at."""
    try:
        child = psutil.Process(pid)
        return "" if child.name() in ("dockerd", "containerd") else f"{pid} {' '.join(child.cmdline())[:80]}"
    except psutil.Error:
        return ""


def orphans() -> list[str]:
    """Processes of the library's that a program of this test process has left behind, also those that stand still."""
    parents, reapers, ancestor = _parents(), {1}, os.getpid()
    while ancestor := parents.get(ancestor, 0):
        reapers.add(ancestor)
    return [f"{pid} is left" for pid, parent in parents.items() if parent in reapers and _is_left_by_us(pid)]


def _is_left_by_us(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        is_one = any("jobmanager.ipc.process" in word for word in process.cmdline())
        return is_one and process.environ().get(_MARK) == _MARK_HERE
    except psutil.Error:
        return False


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def end_with_all_children(caller: subprocess.Popen[Any]) -> None:
    """A program and all its children die at one moment, so that none can tidy up after another."""
    process = psutil.Process(caller.pid)
    process.suspend()  # so that it replaces none
    family = process.children(recursive=True)
    for each in (*family, process):
        each.kill()
    caller.wait(10)
    psutil.wait_procs(family, timeout=10)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test fails that leaves a thread, a child, a program's child, a descriptor, a container or a volume behind."""
    children_before, files_before = set(children()), open_files()
    yield
    eventually(lambda: not our_threads(), what=f"the library's threads are gone: {our_threads()}")
    eventually(lambda: set(children()) <= children_before, what=f"children are gone: {set(children()) - children_before}")
    eventually(lambda: not orphans(), what=f"children of programs are gone: {orphans()}")
    eventually(lambda: open_files() <= files_before, what=f"descriptors are closed: {open_files()} now, {files_before} before")
    if "engine_urls" in request.fixturenames or "engine_url" in request.fixturenames:
        for url in request.getfixturevalue("engine_urls"):
            eventually(lambda url=url: not our_containers(url), what=f"containers are gone from {url}: {our_containers(url)}")
            eventually(lambda url=url: not our_volumes(url), what=f"volumes are gone from {url}: {our_volumes(url)}")


@pytest.fixture(scope="session")
def private_engine(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """A daemon for tests that kill our own processes, so that what they leave disturbs nobody else's tests."""
    with PrivateDaemon(tmp_path_factory.mktemp("private-engine")) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon
