"""Attacks: what an honest job of about a second loses to an attacker who runs beside it on the same host.

The attacker submits its job again whenever that has ended, for as long as the honest one runs. The honest job's time is the
whole of it, from submitting to the result, set in relation to its time alone just before.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE
from jobmanager import DockerHost, JobManager, Limits, Outcome, Task

ROUNDS = 5
_MOST_RATIO = 2.0
_HONEST_S = 1.0
_ATTACK_S = 3.0
_PATIENCE_S = 60.0
_HONEST = "i=0; while [ $i -lt {times} ]; do i=$((i+1)); done; echo $i"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A program that means harm, for any image with a shell; it says ``ready`` first."""

    program: str
    outcome: Outcome  # what becomes of it
    script: str = ""  # the file attack.sh

    def task(self, image: str, *, wall_time_s: float) -> Task:
        """A job of it, with limits as small as a careful caller's."""
        limits = Limits(cpu_time_s=60, wall_time_s=wall_time_s, memory_mib=64, workspace_mib=8)
        return Task(image, command=f"echo ready; {self.program}", files={"attack.sh": self.script}, limits=limits)


ATTACKS: Mapping[str, Attack] = {
    "fork bomb": Attack(
        program="exec sh attack.sh 2>/dev/null",
        script="trap 'exec sh attack.sh' EXIT\nwhile :; do sh attack.sh & done\n",  # a process that cannot fork begins again
        outcome=Outcome.TIMEOUT,
    ),
    "memory bomb": Attack(program="exec dd if=/dev/zero of=/dev/null bs=1000M", outcome=Outcome.OVERFLOW),
    "memory bomb of a child": Attack(
        program="while :; do dd if=/dev/zero of=/dev/null bs=1000M; done 2>/dev/null", outcome=Outcome.TIMEOUT
    ),
    "zombie storm": Attack(program="trap 'exec sleep 60' EXIT; while :; do : & done 2>/dev/null", outcome=Outcome.TIMEOUT),
    "spinners": Attack(program="for n in 1 2 3 4; do while :; do :; done & done; wait", outcome=Outcome.TIMEOUT),
    "flood of output": Attack(program="exec cat /dev/zero", outcome=Outcome.OVERFLOW),
    "inode filler": Attack(
        program="while :; do i=0; while true > f$i; do i=$((i+1)); done 2>/dev/null; rm -f f*; done", outcome=Outcome.TIMEOUT
    ),
}


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Ratios of the honest job's time beside each attack to its time alone."""
    with JobManager(DockerHost(urls[0], name="host", max_concurrent_jobs=4)) as manager:
        honest = _honest_task(manager)
        alone: list[float] = []
        beside: dict[str, list[float]] = {name: [] for name in ATTACKS}
        ratios: dict[str, list[float]] = {name: [] for name in ATTACKS}
        for _ in range(ROUNDS):
            for name, attack in ATTACKS.items():
                alone.append(_seconds(manager, honest))
                with _under(attack, manager):
                    beside[name].append(_seconds(manager, honest))
                ratios[name].append(beside[name][-1] / alone[-1])
    yield median("an honest job alone", alone, "s")
    for name in ATTACKS:
        seconds = f"{statistics.median(beside[name]):.2f} s"
        yield median(f"to alone, beside: {name} ({seconds})", ratios[name], at_most=_MOST_RATIO)


def _honest_task(manager: JobManager) -> Task:
    """A program that computes for about a second here."""
    tries = 100_000
    result = manager.submit(_counting(tries)).result(_PATIENCE_S)
    if not result.cpu_time_s:
        raise RuntimeError(f"how fast this machine is cannot be told: {result}")
    return _counting(int(tries * _HONEST_S / result.cpu_time_s))


def _counting(times: int) -> Task:
    limits = Limits(cpu_time_s=30, wall_time_s=60)
    return Task(IMAGE, command=_HONEST.format(times=times), limits=limits, name="honest")


def _seconds(manager: JobManager, honest: Task) -> float:
    """From submitting to the result. A wrong verdict is no figure."""
    began = time.perf_counter()
    result = manager.submit(honest).result(_PATIENCE_S)
    took_s = time.perf_counter() - began
    if result.outcome is not Outcome.SUCCESS or f"-lt {result.stdout_text.strip()} " not in str(honest.command):
        raise RuntimeError(f"an honest job did not succeed: {result}")
    return took_s


@contextmanager
def _under(attack: Attack, manager: JobManager) -> Iterator[None]:
    """While an attacker is at work, from its first job's start on; the last one is let end by itself, for its verdict."""
    begun, over = threading.Event(), threading.Event()
    outcomes: list[Outcome] = []

    def go_on() -> None:
        while not over.is_set():
            job = manager.submit(attack.task(IMAGE, wall_time_s=_ATTACK_S))
            while not job.done() and (manager.get_job_queue_info(job.job_id) or (0, 0))[0] != -1:
                time.sleep(0.005)
            begun.set()
            outcomes.append(job.result(_PATIENCE_S).outcome)

    attacker = threading.Thread(target=go_on, name="attacker")
    attacker.start()
    begun.wait(_PATIENCE_S)
    try:
        yield
    finally:
        over.set()
        attacker.join()
    wait_until_free(manager)
    if set(outcomes) != {attack.outcome}:
        raise RuntimeError(f"an attack did not end as {attack.outcome}: {outcomes}")
