"""Endurance: 50,000 jobs through all roles in their real processes, on a fake engine: how fast, and what it leaves behind.

Jobs come in blocks; between blocks everything rests, and memory, descriptors and threads are counted, of the caller and
of each child. The fake engine's own process is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from jobmanager import DockerHost, JobManager, JobResult, Outcome, Task
from jobmanager.testing import FakeEngineServer

BLOCK = 5_000
BLOCKS = 10
AT_ONCE = 16
_AHEAD = 200  # jobs in the manager's hands at any one time
_LEAST_RATE = 300.0
_MOST_GROWTH_MIB = 8.0  # of all processes together, over 45,000 jobs: less than 190 bytes for each


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """What the manager holds while it rests."""

    memory_mib: float
    descriptors: int
    threads: int


def measure(urls: Sequence[str]) -> Iterator[Figure]:  # noqa: ARG001
    """Jobs a second by block; growth from the first block's end to the last one's."""
    rates, counts = [], []
    with ExitStack() as stack:
        fake = stack.enter_context(FakeEngineServer(["busybox"]))
        manager = stack.enter_context(JobManager([DockerHost(fake.url, name="fake", max_concurrent_jobs=AT_ONCE)]))
        for _ in range(BLOCKS):
            rates.append(_run_block(manager))
            counts.append(_counted(without=fake.pid))
    first, last = counts[0], counts[-1]
    yield median(f"jobs a second, blocks of {BLOCK}", rates, "jobs/s", at_least=_LEAST_RATE)
    growth = f"growth from job {BLOCK} to job {BLOCK * BLOCKS}: "
    memory = [count.memory_mib for count in counts]
    yield Figure(
        what=growth + "memory of all processes",
        value=last.memory_mib - first.memory_mib,
        unit="MiB",
        spread=f"{first.memory_mib:.1f} -> {last.memory_mib:.1f}; {min(memory):.1f} .. {max(memory):.1f}",
        at_most=_MOST_GROWTH_MIB,
    )
    yield _growth(growth + "descriptors", first.descriptors, last.descriptors)
    yield _growth(growth + "threads", first.threads, last.threads)


def _growth(what: str, first: int, last: int) -> Figure:
    return Figure(what=what, value=last - first, unit="", spread=f"{first} -> {last}", at_most=0)


def _run_block(manager: JobManager) -> float:
    task = Task("busybox", command=["true"])
    room = threading.Semaphore(_AHEAD)
    all_back = threading.Event()
    bad: list[JobResult] = []
    back = 0
    lock = threading.Lock()

    def callback(result: JobResult) -> None:
        nonlocal back
        if result.outcome is not Outcome.SUCCESS:
            bad.append(result)
        with lock:
            back += 1
            if back == BLOCK:
                all_back.set()
        room.release()

    began = time.perf_counter()
    for _ in range(BLOCK):
        room.acquire()
        manager.new_job(task, callback=callback)
    all_back.wait()
    took_s = time.perf_counter() - began
    wait_until_free(manager)
    if bad:
        raise RuntimeError(f"{len(bad)} jobs did not succeed: {bad[0]}")
    return BLOCK / took_s


def _counted(*, without: int) -> _Count:
    time.sleep(1.0)  # threads of the last watches end
    caller = psutil.Process()
    processes = [caller, *(child for child in caller.children(recursive=True) if child.pid != without)]
    return _Count(
        memory_mib=sum(process.memory_info().rss for process in processes) / 2**20,
        descriptors=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
    )
