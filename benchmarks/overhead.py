"""Overhead: what the manager adds to a job, from submitting it to its callback, over the bare API's same calls.

One job at a time: ours, the bare one and ``containers.run`` in turn, first one then the other ahead. Ours and the bare one remove
their container outside of the time that is measured, and the next turn begins when that is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from benchmarks.bare import BareLibrary, BareLoop, timed_s
from benchmarks.figures import Figure, median
from benchmarks.place import IMAGE, by_version
from jobmanager import DockerHost, JobManager, JobResult, Outcome, Task

PAIRS = 60
_WARM_UP = 3
_REST_S = 0.03
_MOST_ADDED_MS = 15.0
_MOST_OF_LIBRARY = 0.6


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Medians over pairs, on each engine."""
    for version, url in by_version(urls):
        for figure in _measure(url):
            yield replace(figure, what=f"{figure.what}; {version}")


def _measure(url: str) -> Iterator[Figure]:
    task = Task(IMAGE, command=["true"])
    bare, library = BareLoop(url, task), BareLibrary(url, task)
    results: list[JobResult] = []
    ours: list[float] = []
    theirs: list[float] = []
    peoples: list[float] = []
    with JobManager([DockerHost(url, name="host", max_concurrent_jobs=4)]) as manager:
        for number in range(_WARM_UP + PAIRS):
            sides: list[Callable[[], None]] = [
                lambda: ours.append(_ours_s(manager, task, results)),
                lambda: theirs.append(_bare_s(bare)),
                lambda: peoples.append(timed_s(library.run)[0]),
            ]
            for side in sides if number % 2 else reversed(sides):
                side()
                time.sleep(_REST_S)
    bare.close()
    library.close()
    ours, theirs, peoples, results = ours[_WARM_UP:], theirs[_WARM_UP:], peoples[_WARM_UP:], results[_WARM_UP:]
    to_library = [mine / other for mine, other in zip(ours, peoples, strict=True)]
    added = [(mine - other) * 1000 for mine, other in zip(ours, theirs, strict=True)]
    yield median("ours to (b) containers.run, pair by pair", to_library, at_most=_MOST_OF_LIBRARY)
    yield median("added by the manager, pair by pair", added, "ms", at_most=_MOST_ADDED_MS)
    for step in results[0].timings:
        yield median(f"ours, of that: {step}", [result.timings[step] * 1000 for result in results], "ms")
    between = [mine - sum(result.timings.values()) for mine, result in zip(ours, results, strict=True)]
    yield median("ours, of that: between the steps", [value * 1000 for value in between], "ms")


def _ours_s(manager: JobManager, task: Task, results: list[JobResult]) -> float:
    called_back = threading.Event()
    ended = 0.0

    def callback(result: JobResult) -> None:
        nonlocal ended
        ended = time.perf_counter()
        results.append(result)
        called_back.set()

    began = time.perf_counter()
    manager.new_job(task, callback=callback)
    called_back.wait()
    if results[-1].outcome is not Outcome.SUCCESS:
        raise RuntimeError(f"a job did not succeed: {results[-1]}")
    wait_until_free(manager)
    return ended - began


def _bare_s(bare: BareLoop) -> float:
    took_s, container = timed_s(bare.run)
    bare.remove(container)
    return took_s


def wait_until_free(manager: JobManager, *, within_s: float = 30.0) -> None:
    """Until the containers of all jobs are gone."""
    until = time.monotonic() + within_s
    for _ in count():
        if not any(host.running for host in manager.hosts()):
            return
        if time.monotonic() > until:
            raise RuntimeError(f"containers are still there: {manager.hosts()}")
        time.sleep(0.005)
