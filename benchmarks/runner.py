"""The runner: its own memory, and by how much a program passes the limits that it enforces. For an idle machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import docker
import psutil

from benchmarks.bare import api_version
from benchmarks.figures import Figure, median
from benchmarks.place import IMAGE, by_version
from jobmanager import DockerHost, JobManager, JobResult, Limits, Task
from jobmanager.engine.labels import JOB_LABEL

RUNS = 12
_SETTLE_S = 0.5  # what starting it needed is over
_LIMIT_S = 1.0
_RESERVE_MIB = 1.0  # touched at its start, given back at a run's end
_MOST_MIB = 1.0
_BURN = "while :; do :; done"
_MOST_MS = 50.0
_MOST_CROWDED_MS = 150.0  # more threads can run than it may use processors


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """On each engine."""
    for version, url in by_version(urls):
        with JobManager([DockerHost(url, name="host", max_concurrent_jobs=1)]) as manager:
            yield _memory(manager, url, version)
            yield _overshoot(manager, f"wall clock, a program that sleeps; {version}", ["sleep", "60"])
            yield _overshoot(manager, f"wall clock, a busy thread; {version}", ["sh", "-c", _BURN])
            for threads, cpus in ((1, 1), (2, 2), (4, 1)):
                yield _cpu_overshoot(manager, threads, cpus, version)


def _memory(manager: JobManager, url: str, version: str) -> Figure:
    """Of PID 1 while its program sleeps, as the host sees it; only for an engine on this machine."""
    client = docker.APIClient(base_url=url, version=api_version(url))
    started = threading.Event()
    job = manager.new_job(Task(IMAGE, command=["sleep", "60"]), callback=lambda _: started.set())
    try:
        container = _container_of(client, job)
        time.sleep(_SETTLE_S)
        used = psutil.Process(client.inspect_container(container)["State"]["Pid"]).memory_info().rss / 2**20
    finally:
        manager.kill_job(job)
        started.wait()
        client.close()
    what = f"the runner's memory beside its reserve, while its program sleeps; {version}"
    return Figure(what=what, value=used - _RESERVE_MIB, unit="MiB", at_most=_MOST_MIB)


def _container_of(client: docker.APIClient, job: str, within_s: float = 30.0) -> str:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        for found in client.containers(filters={"label": f"{JOB_LABEL}={job}"}):
            return str(found["Id"])
        time.sleep(0.02)
    raise RuntimeError("the container did not start")


def _overshoot(manager: JobManager, what: str, command: list[str]) -> Figure:
    limits = Limits(cpu_time_s=10, wall_time_s=_LIMIT_S)
    over = [(_result(manager, command, limits).wall_time_s or 0.0) - _LIMIT_S for _ in range(RUNS)]
    return median(f"past the limit of {what}", [value * 1000 for value in over], "ms", at_most=_MOST_MS)


def _cpu_overshoot(manager: JobManager, threads: int, cpus: int, version: str) -> Figure:
    command = ["sh", "-c", f"({_BURN}) & " * (threads - 1) + _BURN]
    limits = Limits(cpu_time_s=_LIMIT_S, wall_time_s=60, cpus=cpus)
    over = [(_result(manager, command, limits).cpu_time_s or 0.0) - _LIMIT_S for _ in range(RUNS)]
    what = f"past the limit of CPU time, {threads} busy on {cpus} of its processors; {version}"
    return median(what, [value * 1000 for value in over], "ms", at_most=_MOST_MS if threads <= cpus else _MOST_CROWDED_MS)


def _result(manager: JobManager, command: list[str], limits: Limits) -> JobResult:
    return manager.submit(Task(IMAGE, command=command, limits=limits)).result()
