"""The queue: what it costs while a hundred thousand jobs wait, for one, a hundred and ten thousand launchers.

Calls of a real manager on a fake engine, whose hosts are busy; and giving a host to a job, which nobody calls, at the ledger.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.figures import Figure, median
from jobmanager import DockerHost, JobInput, JobManager, Limits, Task
from jobmanager.model.container import EngineInfo, Image
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.facts import ProgramEnd, ProgramExited, RunFacts
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import PublishResult, SubmitContainer
from jobmanager.scheduling.ledger import Ledger
from jobmanager.testing import FakeEngineServer

WAITING = 100_000
LAUNCHERS = (1, 100, 10_000)
ENVIRONMENTS = 50
PRIORITIES = 5
HOSTS = 10
_SLOTS = 8
_TIMES = 500
_SNAPSHOTS = 9
_WAVE = 20_000
_MS = 1000.0
_TASKS = [Task(f"e{number}", command="sleep 3000", limits=Limits(memory_mib=32)) for number in range(ENVIRONMENTS)]


def measure(_: Sequence[str]) -> Iterator[Figure]:
    """The engines are not used."""
    for launchers in LAUNCHERS:
        yield from _of_a_manager(launchers)
        yield from _of_a_ledger(launchers)


def _of_a_manager(launchers: int) -> Iterator[Figure]:
    words = f"{WAITING:,} waiting, launchers: {launchers:,}"
    dice = random.Random(1)
    with FakeEngineServer([task.environment for task in _TASKS]) as fake:
        manager = JobManager(DockerHost(fake.url, max_concurrent_jobs=1), max_waiting_jobs=2 * WAITING, queue_timeout_s=3e6)
        manager.start()
        jobs = [_new_job(manager, dice, launchers) for _ in range(WAITING)]
        _rest(manager)
        took_ms = _each_ms(_TIMES, lambda: jobs.append(_new_job(manager, dice, launchers)))
        yield median(f"new_job; {words}", took_ms, "ms", at_most=1)
        yield median(f"snapshot; {words}", _each_ms(_SNAPSHOTS, manager.get_job_queue_snapshot), "ms", at_most=200)
        cpu_ms = _each_ms(_SNAPSHOTS, manager.get_job_queue_snapshot, clock=time.thread_time)
        yield median("of that, CPU time of the caller's thread", cpu_ms, "ms")
        some = itertools.cycle(dice.sample(jobs, 1000))
        yield median(f"queue info; {words}", _each_ms(_TIMES, lambda: manager.get_job_queue_info(next(some))), "ms")
        wave = iter(dice.sample(jobs, _WAVE))
        yield median(f"kill_job, in a wave of {_WAVE:,}; {words}", _each_ms(_WAVE, lambda: manager.kill_job(next(wave))), "ms")
        manager.close(kill=True)


def _new_job(manager: JobManager, dice: random.Random, launchers: int) -> str:
    launcher, priority = f"launcher {dice.randrange(launchers)}", dice.randrange(PRIORITIES)
    return manager.new_job(dice.choice(_TASKS), launcher_name=launcher, priority=priority)


def _rest(manager: JobManager) -> None:
    """Until the manager's own threads have done what was asked of them."""
    seen = -1
    while seen != (seen := sum(host.running for host in manager.hosts())) or not seen:
        time.sleep(1.0)


def _of_a_ledger(launchers: int) -> Iterator[Figure]:
    """Giving a host to a job when a slot has become free; hosts have all images, and half of them only half."""
    words = f"{WAITING:,} waiting, launchers: {launchers:,}"
    ledger, dice = _ledger(), random.Random(2)
    for number in range(WAITING):
        ledger.accept(_request(f"j{number}", dice, launchers), None)
    running = [_begin(ledger, command) for command in ledger.take_commands() if isinstance(command, SubmitContainer)]
    yield median(f"giving a host; {words}", [_gives_a_host_ms(ledger, running) for _ in range(_TIMES)], "ms", at_most=1)
    for number in dice.sample(range(WAITING), _WAVE):
        ledger.kill(f"j{number}", KillReason.KILL_JOB)
    _call_back(ledger)
    after = [_gives_a_host_ms(ledger, running) for _ in range(_TIMES)]
    yield median(f"giving a host, after {_WAVE:,} were killed; launchers: {launchers:,}", after, "ms", at_most=1)


def _ledger() -> Ledger:
    hosts = [DockerHost("unix:///s", name=f"h{number}", max_concurrent_jobs=_SLOTS) for number in range(HOSTS)]
    ledger = Ledger(hosts, {}, manager_id="m", max_waiting_jobs=2 * WAITING, queue_timeout_s=3e6, host_lost_timeout_s=60.0)
    names = [task.environment for task in _TASKS]
    images = [Image(id=f"sha256:{name}", references=(name,), labels={}, created_at_s=1.0) for name in names]
    info = EngineInfo(version="20.10", cores=8, memory_mib=65536, now_s=0.0, cgroup="2")
    for number, host in enumerate(hosts):
        ledger.host_answered(host.name, info, images[:: 1 + number % 2])
    return ledger


def _request(job_id: str, dice: random.Random, launchers: int) -> Request:
    task = dice.choice(_TASKS)
    return Request(
        job_id=job_id,
        task=task,
        inputs=JobInput(),
        runs=(RunRequest(task=task),),
        priority=dice.randrange(PRIORITIES),
        launcher_name=f"launcher {dice.randrange(launchers)}",
        debug=False,
    )


def _begin(ledger: Ledger, command: SubmitContainer) -> str:
    ledger.container_started(command.container, container_id=command.container, image_command=(), duration_s=0.1)
    return command.container


def _gives_a_host_ms(ledger: Ledger, running: list[str]) -> float:
    """The one that has run longest ends; how long it takes to put another one in its place."""
    container = running.pop(0)
    ledger.run_ended(container, RunFacts(ending=ProgramExited(end=ProgramEnd(exit_code=0))))
    _call_back(ledger)
    ledger.container_deleted(container)
    began = time.perf_counter()
    commands = ledger.take_commands()
    took_ms = (time.perf_counter() - began) * _MS
    placed = [_begin(ledger, command) for command in commands if isinstance(command, SubmitContainer)]
    if len(placed) != 1:
        raise RuntimeError(f"{len(placed)} jobs were given a host instead of one")
    running += placed
    return took_ms


def _call_back(ledger: Ledger) -> None:
    for command in ledger.take_commands():
        if isinstance(command, PublishResult):
            ledger.callback_returned(command.request.job_id)


def _each_ms(times: int, call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    took = []
    for _ in range(times):
        began = clock()
        call()
        took.append((clock() - began) * _MS)
    return took
