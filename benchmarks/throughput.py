"""Throughput: jobs a second with four at once, containers' removal included, beside four threads without a manager.

(a) a bare loop over the API with the same options; (b) ``containers.run(..., network_mode="none", remove=True)``. The
three take turns, so that a load from elsewhere meets all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bare import BareLibrary, BareLoop
from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE
from jobmanager import DockerHost, JobManager, JobResult, Outcome, Task

AT_ONCE = 4
JOBS = 24  # of each side in one round: short rounds, so that a load from elsewhere meets all three alike
ROUNDS = 12
_LEAST_OF_BARE = 0.9
_LEAST_OF_LIBRARY = 1.5


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Jobs a second of all three, and ratios round by round."""
    task = Task(IMAGE, command=["true"])
    rates: dict[str, list[float]] = {"ours": [], "bare": [], "library": []}
    with JobManager([DockerHost(urls[0], name="host", max_concurrent_jobs=AT_ONCE)]) as manager:
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda: _ours(manager, task),
            "bare": lambda: _four_threads(BareLoop, urls[0], task),
            "library": lambda: _four_threads(BareLibrary, urls[0], task),
        }
        _ours(manager, task, jobs=AT_ONCE)
        for number in range(ROUNDS):
            for name in sides if number % 2 else reversed(sides):
                rates[name].append(sides[name]())
    to_bare = [mine / other for mine, other in zip(rates["ours"], rates["bare"], strict=True)]
    to_library = [mine / other for mine, other in zip(rates["ours"], rates["library"], strict=True)]
    yield median("ours to (a) the bare loop, round by round", to_bare, at_least=_LEAST_OF_BARE)
    yield median("ours to (b) containers.run, round by round", to_library, at_least=_LEAST_OF_LIBRARY)
    yield median("ours", rates["ours"], "jobs/s")
    yield median("(a) bare loop over the API, 4 threads", rates["bare"], "jobs/s")
    yield median("(b) containers.run, 4 threads", rates["library"], "jobs/s")


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


def _four_threads(side: type[BareLoop] | type[BareLibrary], url: str, task: Task) -> float:
    clients = [side(url, task) for _ in range(AT_ONCE)]

    def work(client: BareLoop | BareLibrary) -> None:
        for _ in range(JOBS // AT_ONCE):
            client.remove(client.run())

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(work, clients))
    took_s = time.perf_counter() - began
    for client in clients:
        client.close()
    return JOBS / took_s
