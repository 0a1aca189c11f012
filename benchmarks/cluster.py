"""Many machines: what Redis, the dispatcher and the nodes add to a job, and what a long queue costs them.

All parties are real processes on this one machine, with an append-only file for Redis, as docs/many-machines.md wants it. The
engines are fake, but for the comparison with `rq worker-pool`, which is left out where no real engine answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import psutil

from benchmarks import rq_peer
from benchmarks.figures import Figure, median
from benchmarks.fleet import IMAGE, Fleet
from benchmarks.overhead import wait_until_free
from jobmanager import DockerHost, HookManager, JobInput, JobManager, JobResult, Outcome, Task
from jobmanager.events import JobPlaced, JobStarted
from jobmanager.remote import RemoteClient

NODES = (1, 2, 4)
SLOTS = 8
JOBS = 1500  # for each number of nodes
PAIRS = 60
WAITING = 100_000
LOW = 5_000
URGENT = 20
JOB_S = 1.0
_AHEAD = 200
_WARM_UP = 50
_TIMES = 500
_REST_S = 0.03
_TOLD_S = 1.0  # what a leader had placed before it died, clients know after so long
_PATIENCE_S = 300.0
_MS = 1000.0
_NOTHING = Task(IMAGE, command=["true"])
_SMALL = Task(
    IMAGE,
    command=["sh", "check.sh"],
    files={"check.sh": "#!/bin/sh\n" + "echo one line of a small check\n" * 14},
)
_LONG = Task(IMAGE, command=["sleep", "3000"])
_SUBMISSION = JobInput(files={"answer.py": "def add(a, b):\n    return a + b\n" * 10})


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """All figures, one part after the other."""
    yield from _throughput()
    yield from _latency()
    yield from _fairness()
    yield from _long_queue()
    yield from rq_peer.measure(urls)


# ---- throughput


def _throughput() -> Iterator[Figure]:
    """Jobs a second; the CPU time of one job tells what they would be on a machine that has nothing else to do."""
    rates = {}
    for nodes in NODES:
        with Fleet(nodes, slots=SLOTS) as fleet:
            client = fleet.client()
            jobs_per_s(client, _WARM_UP)
            before = fleet.cpu_s()
            rates[nodes] = jobs_per_s(client, JOBS)
            spent = {role: (seconds - before.get(role, 0.0)) / JOBS * _MS for role, seconds in fleet.cpu_s().items()}
            whole = sum(spent.values())
        words = f"{nodes} node{'s' if nodes > 1 else ''} of {SLOTS} slots"
        least = 200 if nodes == NODES[-1] else None
        yield Figure(what=f"jobs a second, {words}", value=rates[nodes], unit="jobs/s", at_least=least)
        yield Figure(what=f"the same, were both cores ours; {words}", value=_MS * _cores() / whole, unit="jobs/s")
        yield Figure(what=f"CPU time of one job, {words}", value=whole, unit="ms", spread=_by_role(spent))
    yield Figure(what=f"{NODES[-1]} nodes to one", value=rates[NODES[-1]] / rates[1], unit="")


def _cores() -> int:
    return len(psutil.Process().cpu_affinity())


def _by_role(spent: dict[str, float]) -> str:
    return ", ".join(f"{role} {value:.2f}" for role, value in sorted(spent.items(), key=lambda each: -each[1]))


def jobs_per_s(client: RemoteClient | JobManager, jobs: int, task: Task = _NOTHING) -> float:
    """How fast jobs go through, some hundreds of them in the client's hands at any one time."""
    room, back, bad = threading.Semaphore(_AHEAD), threading.Semaphore(0), []

    def callback(result: JobResult) -> None:
        if result.outcome is not Outcome.SUCCESS:
            bad.append(result)
        room.release()
        back.release()

    began = time.perf_counter()
    for _ in range(jobs):
        room.acquire()
        client.new_job(task, callback=callback)
    for _ in range(jobs):
        back.acquire()
    took_s = time.perf_counter() - began
    if bad:
        raise RuntimeError(f"{len(bad)} jobs did not succeed: {bad[0]}")
    return jobs / took_s


# ---- latency


def _latency() -> Iterator[Figure]:
    """One job at a time, in turn through the cluster and through a manager in this process, both on the same engine."""
    took_ms: dict[str, list[float]] = {"cluster": [], "manager": []}
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(1, slots=SLOTS))
        manager = stack.enter_context(JobManager(DockerHost(fleet.engines[0], max_concurrent_jobs=SLOTS)))
        sides = {"cluster": fleet.client(), "manager": manager}
        for number in range(PAIRS + 5):
            for name in sides if number % 2 else reversed(sides):
                took_ms[name].append(_one_ms(sides[name]))
                wait_until_free(manager)
                time.sleep(_REST_S)
    ours, theirs = (took_ms[name][5:] for name in ("cluster", "manager"))
    added = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    yield median("added to a manager in the process, pair by pair", added, "ms", at_most=15)
    yield median("through the cluster, submit to callback", ours, "ms")
    yield median("through a manager in the process", theirs, "ms")


def _one_ms(client: RemoteClient | JobManager) -> float:
    back, ended = threading.Event(), 0.0

    def callback(_: JobResult) -> None:
        nonlocal ended
        ended = time.perf_counter()
        back.set()

    began = time.perf_counter()
    client.new_job(_NOTHING, callback=callback)
    back.wait()
    return (ended - began) * _MS


# ---- fairness


def _fairness() -> Iterator[Figure]:
    """Two nodes, two clients: one has thousands of unimportant jobs, the other now and then one that somebody waits for."""
    task = Task(IMAGE, command=["sleep", str(JOB_S)])
    started: dict[str, float] = {}
    hooks = HookManager()
    hooks.add(JobStarted, lambda event: started.setdefault(event.job_id, time.perf_counter()))
    with Fleet(2, slots=2) as fleet:
        batch, web = fleet.client(), fleet.client(hook_manager=hooks)
        for _ in range(LOW):
            batch.new_job(task, callback=_ignore, priority=10, launcher_name="batch")
        waited_s = []
        for _ in range(URGENT):
            back = threading.Event()
            began = time.perf_counter()
            job_id = web.new_job(task, callback=lambda _, back=back: back.set(), priority=0, launcher_name="web")
            back.wait()
            waited_s.append(started[job_id] - began)
        batch.close(kill=True)
    words = f"an interactive job's wait behind {LOW:,} of low priority, in lengths of a job ({JOB_S:g} s)"
    yield Figure(what=f"{words}: the longest of {URGENT}", value=max(waited_s) / JOB_S, unit="", at_most=2)
    yield median(words, [each / JOB_S for each in waited_s])


def _ignore(_: JobResult) -> None:
    pass


# ---- a long queue


def _long_queue() -> Iterator[Figure]:
    """All slots are taken, and a hundred thousand small jobs wait."""
    words, placed = f"{WAITING:,} waiting", _Placed()
    hooks = HookManager()
    hooks.add(JobPlaced, placed)
    with Fleet(2, slots=4) as fleet, fleet.redis.client() as redis:
        client = fleet.client(hook_manager=hooks, max_waiting_jobs=2 * WAITING)
        empty = int(redis.info("memory")["used_memory"])
        began = time.perf_counter()
        for number in range(WAITING):
            client.new_job(_SMALL if number >= SLOTS else _LONG, _SUBMISSION, _ignore, launcher_name=f"student {number % 1000}")
        rate = WAITING / (time.perf_counter() - began)
        yield Figure(what=f"handing over {WAITING:,} jobs, by one client", value=rate, unit="jobs/s")
        used = int(redis.info("memory")["used_memory"]) - empty
        yield Figure(what=f"Redis' memory for each waiting job; {words}", value=used / WAITING / 1024, unit="KiB", at_most=5)
        took_ms = []
        for number in range(_TIMES):
            began = time.perf_counter()
            client.new_job(_SMALL, _SUBMISSION, _ignore, launcher_name=f"student {number}")
            took_ms.append((time.perf_counter() - began) * _MS)
        yield median(f"new_job; {words}", took_ms, "ms", at_most=5)
        yield from _placements(client, placed, fleet, words)
        yield _take_over(placed, fleet, words)
        client.close(kill=True)


class _Placed:
    """A hook: who was placed, and when."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.at: list[float] = []
        self._changed = threading.Condition()

    def __call__(self, event: JobPlaced) -> None:
        with self._changed:
            self.jobs.append(event.job_id)
            self.at.append(time.perf_counter())
            self._changed.notify_all()

    def wait_for(self, count: int, within_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.jobs) >= count, within_s)


def _placements(client: RemoteClient, placed: _Placed, fleet: Fleet, words: str) -> Iterator[Figure]:
    """Long jobs are killed, so that short ones come: what each costs the dispatcher and Redis, in CPU time."""
    for job_id in placed.jobs[:SLOTS]:
        client.kill_job(job_id)
    first, before, began = len(placed.jobs), fleet.cpu_s(), time.perf_counter()
    placed.wait_for(first + 2 * _TIMES, _PATIENCE_S)
    took_s, spent, count = time.perf_counter() - began, fleet.cpu_s(), len(placed.jobs) - first
    of = {role: (spent[role] - before[role]) / count * _MS for role in ("dispatchers", "Redis")}
    what = f"a placement, CPU time of the dispatcher, with hearing of the job's end; {words}"
    yield Figure(what=what, value=of["dispatchers"], unit="ms", at_most=2)
    yield Figure(what=f"the same of Redis, with all else that it does for a job; {words}", value=of["Redis"], unit="ms")
    yield Figure(what=f"jobs a second; {words}", value=count / took_s, unit="jobs/s")


def _take_over(placed: _Placed, fleet: Fleet, words: str) -> Figure:
    """The leader's process is killed. The next one reads all that waits, and then gives the first job to a node."""
    fleet.kill_leader()
    killed_at = time.perf_counter()
    time.sleep(_TOLD_S)
    known = len(placed.jobs)
    if not placed.wait_for(known + 1, _PATIENCE_S):
        raise RuntimeError("nobody places jobs any more")
    what = f"from the leader's death to the next one's first placement; {words}"
    return Figure(what=what, value=placed.at[known] - killed_at, unit="s", at_most=10)
