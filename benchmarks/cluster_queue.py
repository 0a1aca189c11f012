"""The queue of a cluster: what it costs to give a waiting job to a node while a hundred thousand wait."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.figures import Figure, median
from jobmanager.scheduling.cluster import ClusterJob, ClusterLedger, NodeCapacity
from jobmanager.scheduling.waiting_queue import Requirements, rounded_up

WAITING = 100_000
LAUNCHERS = (1, 100, 10_000)
NODES = 50
SLOTS = 8
_ENVIRONMENTS = [f"e{number}" for number in range(50)]
_PRIORITIES = 5
_TIMES = 500
_SNAPSHOTS = 3
_WALL_S = 60.0
_MS = 1000.0


def measure(_: Sequence[str]) -> Iterator[Figure]:
    """The engines are not used, and no Redis: this is the dispatcher's thinking."""
    for launchers in LAUNCHERS:
        yield from _of_a_ledger(launchers)


def _of_a_ledger(launchers: int) -> Iterator[Figure]:
    words = f"{WAITING:,} waiting, nodes: {NODES}, launchers: {launchers:,}"
    ledger, dice, numbers = _ledger(), random.Random(2), itertools.count()
    for _ in range(WAITING):
        ledger.add_waiting(_job(next(numbers), dice, launchers))
    running = [key for key, _ in ledger.placements()]
    added = [_took_ms(lambda: ledger.add_waiting(_job(next(numbers), dice, launchers))) for _ in range(_TIMES)]
    yield median(f"a job comes; {words}", added, "ms", at_most=1)
    placed = [_gives_a_node_ms(ledger, running) for _ in range(_TIMES)]
    yield median(f"giving a node; {words}", placed, "ms", at_most=2)
    yield median(f"a tick; {words}", [_took_ms(ledger.tick) for _ in range(_SNAPSHOTS)], "ms")
    yield median(f"snapshot; {words}", [_took_ms(ledger.snapshot) for _ in range(_SNAPSHOTS)], "ms")
    some = iter(dice.sample(ledger.waiting(), _TIMES))
    first = _took_ms(lambda: ledger.queue_info(next(some)))
    rest = [_took_ms(lambda: ledger.queue_info(next(some))) for _ in range(_TIMES - 1)]
    yield median(f"queue info; {words}", [first, *rest], "ms")


def _ledger() -> ClusterLedger:
    """Half of the nodes have half of the environments."""
    ledger = ClusterLedger()
    for number in range(NODES):
        ledger.set_node(
            NodeCapacity(
                name=f"n{number}",
                slots=SLOTS,
                memory_mib=65536,
                cores=8,
                environments=frozenset(_ENVIRONMENTS[:: 1 + number % 2]),
            )
        )
    return ledger


def _job(number: int, dice: random.Random, launchers: int) -> ClusterJob:
    environment = dice.choice(_ENVIRONMENTS)
    return ClusterJob(
        key=f"{number:032x}",
        job_id=f"j{number}",
        client="web",
        launcher=f"launcher {dice.randrange(launchers)}",
        priority=dice.randrange(_PRIORITIES),
        title=environment,
        job_class=environment,
        requirements=Requirements(environment=environment, memory_mib=32, cpus=1.0, ends_within_s=rounded_up(_WALL_S)),
        wall_s=_WALL_S,
        queue_timeout_s=3e6,
    )


def _gives_a_node_ms(ledger: ClusterLedger, running: list[str]) -> float:
    """The one that has run longest ends; how long it takes to put another one in its place."""
    ledger.ended(running.pop(0), ran=True)
    began = time.perf_counter()
    placed = ledger.placements()
    took_ms = (time.perf_counter() - began) * _MS
    if len(placed) != 1:
        raise RuntimeError(f"{len(placed)} jobs were given a node instead of one")
    running += [key for key, _ in placed]
    return took_ms


def _took_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * _MS
