"""Very many cases in one job, and whether a busy machine changes a verdict."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from jobmanager import Case, DockerHost, HookManager, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.events import CaseEnded
from tests.conftest import BUSYBOX
from tests.stress.conftest import PYTHON

pytestmark = pytest.mark.engine

MANY = 10_000
REPEATS = 20
LIMITS = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=60, workspace_mib=8)
PROGRAM = """
import os, sys, time
kind = input()
if kind == "wrong": print(1)
elif kind == "slow":
    while time.process_time() < 5: pass
elif kind == "half":
    while time.process_time() < 0.25: pass
    print(42)
elif kind == "sleeps": time.sleep(60)
elif kind == "dies": os.abort()
elif kind == "memory": x = bytearray(10**9)
elif kind == "exit": sys.exit(3)
else: print(42)
"""
KINDS = ("right", "wrong", "slow", "half", "sleeps", "dies", "memory", "exit", "right", "right")


@pytest.mark.timeout(1200)
def test_ten_thousand_cases_in_one_job_take_bounded_memory_and_are_told_as_they_end(engine_url: str) -> None:
    hooks, told, sizes = HookManager(), list[int](), list[int]()

    def take(event: CaseEnded) -> None:
        told.append(event.number)
        if event.number % 1000 == 0:
            sizes.append(sum(process.memory_info().rss for process in family()) // 2**20)

    hooks.add(CaseEnded, take)
    cases = [Case(f"{number}\n", expected=f"{number if number % 1000 else -1}") for number in range(1, MANY + 1)]
    with JobManager(DockerHost(engine_url), hook_manager=hooks) as manager:
        result = manager.submit(Task(BUSYBOX, command=["cat"], cases=cases, limits=LIMITS)).result(1000)

    assert (result.outcome, result.grade) == (Outcome.FAILED, 99.9), result.text
    assert [case.correct for case in result.cases] == [bool(number % 1000) for number in range(1, MANY + 1)]
    assert told == list(range(1, MANY + 1))
    assert sizes[-1] - sizes[0] < 100, f"MiB of all processes, each thousand cases: {sizes}"


def family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *(child for child in me.children() if "jobmanager" in " ".join(child.cmdline()))]


@pytest.mark.timeout(1200)
def test_a_saturated_machine_changes_no_verdict(engine_url: str) -> None:
    cases = [
        Case(f"{kind}\n", name=f"{number} {kind}", expected="42", cpu_time_s=0.5, wall_time_s=2 if kind == "sleeps" else 60)
        for number, kind in enumerate(KINDS)
    ]
    task = Task(PYTHON, command=["python3", "-c", PROGRAM], cases=cases, limits=LIMITS)
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=4)) as manager:
        idle = [told(manager.submit(task).result(300)) for _ in range(REPEATS)]
        with busy_processors():
            jobs = [manager.submit(task) for _ in range(REPEATS)]
            busy = [told(job.result(600)) for job in jobs]
    assert len({tuple(each) for each in (*idle, *busy)}) == 1, (idle[0], [each for each in busy if each != idle[0]][:1])


def told(result: JobResult) -> list[tuple[str, Outcome | None, bool | None, str | None]]:
    return [(case.name, case.outcome, case.correct, case.run.limit if case.run else None) for case in result.cases]


@contextmanager
def busy_processors() -> Iterator[None]:
    spins = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(spins) for _ in range(2 * (psutil.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
