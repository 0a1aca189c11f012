"""Where benchmarks run: the engines, the image, and what kind of machine it is."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
import docker.errors
import psutil

from jobmanager.control.settings import default_host

IMAGE = "jobmanager-busybox:1"
HOSTS_VARIABLE = "JOBMANAGER_TEST_HOSTS"  # set by `make bench`
IMAGE_TAR_VARIABLE = "JOBMANAGER_TEST_IMAGE_TAR"
_ANY_VERSION = "1.41"
IMAGE_TAR = ".machine/images/jobmanager-busybox-1.tar"


@contextmanager
def engines(*, private: bool) -> Iterator[list[str]]:
    """Urls of the engines to measure on: those that the environment names, or two quiet ones of our own."""
    if not private:
        named = [url for url in os.environ.get(HOSTS_VARIABLE, "").split(",") if url]
        yield named or [default_host().url]
        return
    from tests.support.daemons import PrivateDaemon  # root on Linux only

    tar = Path(os.environ.get(IMAGE_TAR_VARIABLE) or IMAGE_TAR)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobmanager-bench-")))
        daemons = [stack.enter_context(PrivateDaemon(folder / str(number))) for number in (1, 2)]
        for daemon in daemons:
            daemon.load_image(tar)
        yield [daemon.url for daemon in daemons]


def by_version(urls: Sequence[str]) -> list[tuple[str, str]]:
    """One engine of each version: its version in words, and its url."""
    found: dict[str, str] = {}
    for url in urls:
        client = docker.APIClient(base_url=url, version=_ANY_VERSION, timeout=10)
        try:
            found.setdefault("engine " + str(client.version(api_version=False)["Version"]).partition("+")[0], url)
        finally:
            client.close()
    return list(found.items())


def facts(url: str) -> list[tuple[str, str]]:
    """What somebody must know who compares figures."""
    return [
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("docker (Python)", docker.__version__),
        ("engine", _engine(url)),
        ("load before", f"{os.getloadavg()[0]:.1f} (one minute)"),
    ]


def _engine(url: str) -> str:
    try:
        client = docker.APIClient(base_url=url, version=_ANY_VERSION, timeout=10)
        said = client.info()
        client.close()
    except (docker.errors.DockerException, OSError):
        return "none answers"  # endurance needs none
    return f"{said['ServerVersion']}, {said.get('DefaultRuntime', '?')}, {said['Driver']}, cgroup v{said.get('CgroupVersion', '1')}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
