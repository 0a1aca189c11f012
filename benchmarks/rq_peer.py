"""The peer of a cluster: a stock ``rq worker-pool`` whose function runs a container by the bare Docker API."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import docker
from redis import Redis
from rq import Queue, Worker
from rq.job import Job

from benchmarks.bare import api_version
from benchmarks.figures import Figure, median
from benchmarks.fleet import Fleet
from benchmarks.place import IMAGE
from jobmanager import Outcome, Task
from jobmanager.future import ClientFuture
from jobmanager.remote import RemoteClient

SLOTS = 4
JOBS = 32
ROUNDS = 6
_QUEUE = "peer"
_UP_S = 60.0
_POLL_S = 0.005
_TIMEOUT_S = 60


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Jobs a second of both on one real engine, with as many at once, round by round; nothing when no engine answers."""
    try:
        version = api_version(urls[0])
    except (docker.errors.DockerException, OSError):
        return
    rates: dict[str, list[float]] = {"cluster": [], "pool": []}
    with Fleet(1, slots=SLOTS, url=urls[0]) as fleet, _pool(fleet.redis.url), Redis.from_url(fleet.redis.url) as redis:
        client, queue = fleet.client(), Queue(_QUEUE, connection=redis)
        sides = {
            "cluster": lambda jobs: _ours(client, jobs),
            "pool": lambda jobs: _theirs(queue, jobs, urls[0], version),
        }
        for side in sides.values():
            side(SLOTS)
        for number in range(ROUNDS):
            for name in sides if number % 2 else reversed(sides):
                rates[name].append(sides[name](JOBS))
    ratios = [ours / theirs for ours, theirs in zip(rates["cluster"], rates["pool"], strict=True)]
    yield median(f"a cluster's node to `rq worker-pool`, {SLOTS} slots each, real engine, round by round", ratios)
    yield median("jobs a second, a node of the cluster", rates["cluster"], "jobs/s")
    yield median("jobs a second, `rq worker-pool` with the bare Docker API", rates["pool"], "jobs/s")


def run_container(url: str, version: str, image: str) -> int:
    """What the pool's workers call."""
    client = docker.APIClient(base_url=url, version=version, timeout=_TIMEOUT_S)
    try:
        host_config = client.create_host_config(network_mode="none")
        container = client.create_container(image, ["true"], host_config=host_config)["Id"]
        client.start(container)
        code = int(client.wait(container)["StatusCode"])
        client.logs(container)
        client.remove_container(container, force=True)
        return code
    finally:
        client.close()


def _ours(client: RemoteClient, jobs: int) -> float:
    task = Task(IMAGE, command=["true"])
    began = time.perf_counter()
    futures = [ClientFuture(client).new_job(task) for _ in range(jobs)]
    results = [future.result(_TIMEOUT_S) for future in futures]
    took_s = time.perf_counter() - began
    if bad := [result for result in results if result.outcome is not Outcome.SUCCESS]:
        raise RuntimeError(f"{len(bad)} jobs did not succeed: {bad[0]}")
    return jobs / took_s


def _theirs(queue: Queue, jobs: int, url: str, version: str) -> float:
    began = time.perf_counter()
    handed = [queue.enqueue(run_container, url, version, IMAGE) for _ in range(jobs)]
    while not all(_has_ended(job) for job in handed):
        time.sleep(_POLL_S)
    took_s = time.perf_counter() - began
    if codes := {job.return_value() for job in handed} - {0}:
        raise RuntimeError(f"containers of the pool ended with {codes}")
    return jobs / took_s


def _has_ended(job: Job) -> bool:
    status: Any = job.get_status()
    if status == "failed":
        raise RuntimeError(f"a job of the pool failed: {job.latest_result()}")
    return bool(status == "finished")


@contextmanager
def _pool(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "rq.cli", "worker-pool", "--num-workers", str(SLOTS), "--url", url, "--quiet", _QUEUE]
    pool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _UP_S
        with Redis.from_url(url) as redis:
            while Worker.count(queue=Queue(_QUEUE, connection=redis)) < SLOTS:
                if time.monotonic() > until or pool.poll() is not None:
                    raise RuntimeError("rq worker-pool does not start")
                time.sleep(0.05)
        yield
    finally:
        pool.terminate()
        pool.wait()
