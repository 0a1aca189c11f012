"""Where the time goes: CPU time of each process for one job, and each step's share of a job's way.

``python -m benchmarks.where [--fake] [--jobs N]``. For single functions: ``py-spy record --subprocesses -- python -m
benchmarks.where --fake``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack

import psutil

from benchmarks.figures import text_table
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE, engines
from jobmanager import DockerHost, JobManager, JobResult, Task
from jobmanager.testing import FakeEngineServer

_WARM_UP = 20
_ROLES = {
    "jobmanager._waiter": "waiter",
    "jobmanager._pool_worker": "pool workers",
    "jobmanager.testing.fake.server": "fake engine",
}


def main() -> None:
    """Run jobs, then print two tables."""
    asked = _arguments()
    with ExitStack() as stack:
        if asked.fake:
            url = stack.enter_context(FakeEngineServer([IMAGE])).url
        else:
            url = stack.enter_context(engines(private=asked.private))[0]
        manager = stack.enter_context(JobManager([DockerHost(url, name="host", max_concurrent_jobs=asked.at_once)]))
        _run(manager, _WARM_UP)
        before, began = _cpu_s(), time.perf_counter()
        results = _run(manager, asked.jobs)
        took_s, after = time.perf_counter() - began, _cpu_s()
    spent = {role: (after[role] - before[role]) / asked.jobs * 1000 for role in after}
    print(f"{asked.jobs / took_s:.1f} jobs/s, {sum(spent.values()):.2f} ms of CPU time for one job (engine left out, unless fake)")
    print(text_table([("role", "CPU ms"), *((role, f"{value:.2f}") for role, value in sorted(spent.items()))]))
    print()
    print(text_table([("step", "median ms after accepting"), *_steps(results)]))


def _run(manager: JobManager, jobs: int) -> list[JobResult]:
    task = Task(IMAGE, command=["true"])
    results: list[JobResult] = []
    room = threading.Semaphore(200)

    def callback(result: JobResult) -> None:
        results.append(result)
        room.release()

    for _ in range(jobs):
        room.acquire()
        manager.new_job(task, callback=callback, debug=True)
    while len(results) < jobs:
        time.sleep(0.005)
    wait_until_free(manager)
    return results


def _cpu_s() -> dict[str, float]:
    """CPU seconds so far by role."""
    spent: dict[str, float] = defaultdict(float)
    caller = psutil.Process()
    for process in [caller, *caller.children(recursive=True)]:
        times = process.cpu_times()
        spent[_role(process)] += times.user + times.system
    return spent


def _role(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return "caller (with this benchmark)"
    line = " ".join(process.cmdline())
    return next((role for module, role in _ROLES.items() if module in line), process.name())


def _steps(results: Iterable[JobResult]) -> list[tuple[str, str]]:
    at_s: dict[str, list[float]] = {}
    for result in results:
        for step in result.steps:
            at_s.setdefault(step.name, []).append(step.at_s)
    medians = {name: statistics.median(moments) for name, moments in at_s.items()}
    return [(name, f"{moment * 1000:.1f}") for name, moment in sorted(medians.items(), key=lambda step: step[1])]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where", description="Where the time goes.")
    parser.add_argument("--fake", action="store_true", help="on a fake engine")
    parser.add_argument("--private", action="store_true", help="on a quiet engine of our own (root, with dockerd)")
    parser.add_argument("--jobs", type=int, default=200, help="how many (200)")
    parser.add_argument("--at-once", type=int, default=4, help="how many at once (4)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
