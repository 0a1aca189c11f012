"""Throughput: jobs a second with four at once, containers' removal included, beside four threads without a manager.

One is ``containers.run(..., network_mode="none", remove=True)``, the loop that people write; another is made by hand with a job's
own body for the create call and all that was learnt here (``docker_py.py``). The three take turns, so that a load from elsewhere
meets all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bare import BareLibrary
from benchmarks.docker_py import HandLoop
from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE, by_version
from jobmanager import DockerHost, JobManager, JobResult, Outcome, Task

AT_ONCE = 4
JOBS = 24  # of each side in one round: short rounds, so that a load from elsewhere meets all three alike
ROUNDS = 12
_LEAST_OF_LIBRARY = 1.15


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Ratios round by round and jobs a second of all three, on each engine."""
    for version, url in by_version(urls):
        yield from _measure(url, version)


def _measure(url: str, version: str) -> Iterator[Figure]:
    task = Task(IMAGE, command=["true"])
    rates: dict[str, list[float]] = {"ours": [], "loop": [], "library": []}
    with JobManager([DockerHost(url, name="host", max_concurrent_jobs=AT_ONCE)]) as manager:
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda: _ours(manager, task),
            "loop": lambda: _four_threads(HandLoop, url, task),
            "library": lambda: _four_threads(BareLibrary, url, task),
        }
        _ours(manager, task, jobs=AT_ONCE)
        for number in range(ROUNDS):
            for name in sides if number % 2 else reversed(sides):
                rates[name].append(sides[name]())
    to_loop = [mine / other for mine, other in zip(rates["ours"], rates["loop"], strict=True)]
    to_library = [mine / other for mine, other in zip(rates["ours"], rates["library"], strict=True)]
    yield median(f"ours to containers.run, round by round; {version}", to_library, at_least=_LEAST_OF_LIBRARY)
    yield median(f"ours to the loop by hand, round by round; {version}", to_loop)


def _ours(manager: JobManager, task: Task, jobs: int = JOBS) -> float:
    """Jobs a second, the removal of the last container included."""
    results: list[JobResult] = []
    all_back = threading.Event()

    def callback(result: JobResult) -> None:
        results.append(result)
        if len(results) == jobs:
            all_back.set()

    began = time.perf_counter()
    for _ in range(jobs):
        manager.new_job(task, callback=callback)
    all_back.wait()
    wait_until_free(manager)
    took_s = time.perf_counter() - began
    if bad := [result for result in results if result.outcome is not Outcome.SUCCESS]:
        raise RuntimeError(f"{len(bad)} jobs did not succeed: {bad[0]}")
    return jobs / took_s


def _four_threads(side: type[HandLoop] | type[BareLibrary], url: str, task: Task) -> float:
    clients = [side(url, task) for _ in range(AT_ONCE)]

    def work(client: HandLoop | BareLibrary) -> None:
        for _ in range(JOBS // AT_ONCE):
            client.remove(client.run())
        client.finish()

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(work, clients))
    took_s = time.perf_counter() - began
    for client in clients:
        client.close()
    return JOBS / took_s
