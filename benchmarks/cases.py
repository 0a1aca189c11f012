"""Cases: 100 of them in one container, beside 100 jobs and beside 100 times ``containers.run``; and one with an interactor.

The program is a small one in C that reads two numbers and prints their sum, and the same in Python. The build is not counted: the
C program is built once, and is a file of the task.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median as middle

from benchmarks.bare import BareLibrary
from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE, by_version
from jobmanager import Case, ClientSync, DockerHost, Interactor, JobInput, JobManager, JobResult, Outcome, Task

PYTHON = "jobmanager-python:4"
CASES = 100
ROUNDS = 7
_THREADS = (2, 4, 6)
_PEER_RUNS = 40
_MOST_OF_JOBS = 0.03
_MOST_OF_CPU = 3.0  # times the runs' own CPU time, and one container
_MOST_MS = 2.0  # a case beside its own CPU time
_EXCHANGES = 1000
_MOST_TALK_S = 0.5  # for so many exchanges, beside the two containers
_LEAST_OF_PEER = {"C": 30.0, "Python": 5.0}
_SUM = '#include <stdio.h>\nint main(void) { long a, b; if (scanf("%ld %ld", &a, &b) != 2) return 1; printf("%ld\\n", a + b); }\n'
_TALK = """
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    char line[64];
    int speaks = argc == 2, left = speaks ? atoi(argv[1]) : -1;
    while (left-- && (!speaks || printf("%d\\n", left) > 0) && !fflush(stdout) && fgets(line, sizeof line, stdin))
        if (!speaks) fputs(line, stdout);
}
"""
_PYTHON_SUM = "print(sum(map(int, input().split())))"


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """The ratios, round by round, on each version of the engine."""
    program, talker = _built(_SUM), _built(_TALK)
    cases = [Case(f"{number} {number}\n", expected=f"{2 * number}\n") for number in range(CASES)]
    sides = {
        "C": Task(IMAGE, command=["./main"], files={"main": program}, cases=cases),
        "Python": Task(PYTHON, command=["python3", "-c", _PYTHON_SUM], cases=cases),
    }
    alone = Task(IMAGE, command=["./main"], files={"main": program})
    for version, url in by_version(urls):
        with JobManager([DockerHost(url, name="host", max_concurrent_jobs=4)]) as manager:
            client = ClientSync(manager)
            one_s, jobs_s = _jobs(manager, client, alone)
            yield median(f"one job of the C program; {version}", one_s, "s")
            for name, task in sides.items():
                took_s, results = _rounds(manager, client, task)
                yield from _figures(name, version, took_s, results, one_s=middle(one_s), jobs_s=jobs_s)
                command = ["true"] if name == "C" else ["python3", "-c", "print(4)"]
                peer_s = CASES / _best_rate(url, Task(task.environment, command=command))
                ratios = [peer_s / each for each in took_s]
                least = _LEAST_OF_PEER[name]
                yield median(f"100 cases, {name}: containers.run to ours; {version}", ratios, at_least=least)
            yield from _talks(manager, client, talker, version)


def _talks(manager: JobManager, client: ClientSync, program: bytes, version: str) -> Iterator[Figure]:
    """An interactive problem: its whole job, and what the exchanges take beside two containers that exchange one line."""
    interactor = Interactor(Task(IMAGE, command=["./talk"], files={"talk": program}))

    def task(exchanges: int) -> Task:
        return Task(IMAGE, command=["./talk", f"{exchanges}"], files={"talk": program}, cases=[Case(check=interactor)])

    one_s, _ = _rounds(manager, client, task(1))
    took_s, _ = _rounds(manager, client, task(_EXCHANGES))
    beside = [each - middle(one_s) for each in took_s]
    yield median(f"one exchange with an interactor; {version}", one_s, "s")
    yield median(f"{_EXCHANGES:,} exchanges with an interactor; {version}", took_s, "s")
    yield median(f"{_EXCHANGES:,} exchanges, beside the two containers; {version}", beside, "s", at_most=_MOST_TALK_S)


def _figures(
    name: str, version: str, took_s: list[float], results: list[JobResult], *, one_s: float, jobs_s: float
) -> Iterator[Figure]:
    cpu_s = [sum(case.run.cpu_time_s or 0.0 for case in result.cases if case.run) for result in results]
    yield median(f"100 cases, {name}; {version}", took_s, "s")
    if name == "C":
        ratios = [each / jobs_s for each in took_s]
        yield median(f"100 cases, C, to 100 jobs one after the other; {version}", ratios, at_most=_MOST_OF_JOBS)
        bounds = [took / (_MOST_OF_CPU * cpu + one_s) for took, cpu in zip(took_s, cpu_s, strict=True)]
        yield median(f"100 cases, C, to 3 times their CPU time and one job; {version}", bounds, at_most=1.0)
    beside = [(took - one_s - cpu) * 1000 / CASES for took, cpu in zip(took_s, cpu_s, strict=True)]
    most = _MOST_MS if name == "Python" else None
    yield median(f"a case, {name}, beside its CPU time; {version}", beside, "ms", at_most=most)


def _jobs(manager: JobManager, client: ClientSync, task: Task) -> tuple[list[float], float]:
    """Seconds of single jobs, and of all of them one after the other."""
    inputs = JobInput(stdin="1 2\n")
    client.new_job(task, inputs)
    took = []
    for _ in range(CASES):
        began = time.perf_counter()
        _check(client.new_job(task, inputs))
        took.append(time.perf_counter() - began)
    wait_until_free(manager)
    return took, sum(took)


def _rounds(manager: JobManager, client: ClientSync, task: Task) -> tuple[list[float], list[JobResult]]:
    took, results = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        results.append(_check(client.new_job(task)))
        took.append(time.perf_counter() - began)
        wait_until_free(manager)
    return took, results


def _check(result: JobResult) -> JobResult:
    if result.outcome is not Outcome.SUCCESS:
        raise RuntimeError(f"a job did not succeed: {result}")
    return result


def _best_rate(url: str, task: Task) -> float:
    """Containers a second of ``containers.run`` at its best number of threads."""
    rates = []
    for threads in _THREADS:
        own = threading.local()

        def run(_: int, own: threading.local = own) -> None:
            if not hasattr(own, "runs"):
                own.runs = BareLibrary(url, task)
            own.runs.run()

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
            began = time.perf_counter()
            list(pool.map(run, range(_PEER_RUNS)))
            rates.append(_PEER_RUNS / (time.perf_counter() - began))
    return max(rates)


def _built(program: str) -> bytes:
    """A C program as a static binary of this machine's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "main.c"), Path(folder, "main")
        source.write_text(program)
        subprocess.run(["gcc", "-O2", "-static", "-o", made, source], check=True)
        return made.read_bytes()
