"""The forecast: the ``wait_s`` that a waiting job is told, against the time that it then waits, in simulations.

Each job takes between half and one and a half times what its kind takes. The error of a wait is relative to the real one;
jobs that wait 5 s or less are left out.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.figures import Figure
from dev.queue_simulation import PYTHON, QueueSimulation
from jobmanager.model.container import Image

_KINDS_S = {"quick": 2.0, "medium": 6.0, "slow": 20.0}
_C = Image(id="sha256:c", references=("gcc:13",), labels={"jobmanager.environment": "c"}, created_at_s=1.0)
_LIMIT_S = 60.0
_JOBS = 250  # in a burst
_WARM_UP_JOBS = 60
_ARRIVALS_S = 1200.0
_LOAD = 1.05
_SEEDS = range(3)
_SHORT_S = 5.0
_COLD_S = (0.0, 10.0, 20.0, 40.0)
_MAX_ERROR = 50.0
_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Hosts, and what jobs come."""

    name: str
    hosts: Mapping[str, int] = field(default_factory=lambda: {"a": 4, "b": 4})
    images: Mapping[str, Sequence[Image]] | None = None
    kinds_s: Mapping[str, float] = field(default_factory=lambda: _KINDS_S)
    launchers: int = 1
    priorities: int = 1
    environments: Sequence[str] = ("python3",)
    memory_mib: Sequence[int] = (64,)


_CASES = [
    _Case(name="jobs of one kind", kinds_s={"medium": 6.0}),
    _Case(name="three kinds"),
    _Case(name="three kinds, six launchers", launchers=6),
    _Case(name="three kinds, six launchers, three priorities", launchers=6, priorities=3),
    _Case(
        name="hosts with different environments",
        hosts={"a": 4, "b": 4, "c": 2},
        images={"b": (PYTHON, _C), "c": (_C,)},
        environments=("python3", "python3", "c"),
    ),
    _Case(name="one job in three takes half a host's memory", hosts={"a": 8, "b": 8}, memory_mib=(64, 64, 2000)),
]


class _World:
    """A simulation of one case, and what its jobs were told."""

    def __init__(self, case: _Case, seed: int) -> None:
        self.simulation = QueueSimulation.of(case.hosts, case.images)
        self._case = case
        self._dice = random.Random(seed)
        self._told: list[tuple[str, float, float]] = []  # job, when, wait_s
        self.unknown = 0

    def come(self, name: str) -> None:
        """A job comes."""
        case, dice = self._case, self._dice
        kind = dice.choice(list(case.kinds_s))
        self.simulation.job(
            name,
            case.kinds_s[kind] * dice.uniform(0.5, 1.5),
            kind=kind,
            launcher=f"launcher {dice.randrange(case.launchers)}",
            priority=dice.randrange(case.priorities),
            environment=dice.choice(case.environments),
            memory_mib=dice.choice(case.memory_mib),
            wall_time_s=_LIMIT_S,
        )

    def burst(self, jobs: int, name: str) -> None:
        """Jobs come at once; as many as can have started."""
        for number in range(jobs):
            self.come(f"{name} {number}")
        self.simulation.run(until=self.simulation.now)

    def ask(self, job_id: str) -> None:
        """Ask for the wait of a job that waits."""
        info = self.simulation.ledger.queue_info(job_id)
        if info is None or info.jobs_before < 0:
            return
        if info.wait_s is None:
            self.unknown += 1
        else:
            self._told.append((job_id, self.simulation.now, info.wait_s))

    def ask_all(self) -> None:
        """Ask for the wait of all jobs that wait."""
        for job in self.simulation.ledger.snapshot()[1]:
            self.ask(job.job_id)

    def arrive(self) -> None:
        """Jobs come one by one, a little more than the hosts can take, and each is asked for as it comes."""

        def one(number: int) -> None:
            self.come(f"arrives {number}")
            self.simulation.carry_out()
            self.ask(f"arrives {number}")

        at, number = self.simulation.now, 0
        mean_s = _LOAD * sum(self._case.hosts.values()) / statistics.mean(self._case.kinds_s.values())
        end = at + _ARRIVALS_S
        while (at := at + self._dice.expovariate(mean_s)) < end:
            self.simulation.at(at, lambda number=number: one(number))  # type: ignore[misc]
            number += 1

    def errors(self) -> list[float]:
        """Relative to the real waits, in percent."""
        waits = [(wait_s, self.simulation.started[job_id] - at) for job_id, at, wait_s in self._told]
        return [abs(wait_s - real_s) / real_s * _PERCENT for wait_s, real_s in waits if real_s > _SHORT_S]


def measure(_: Sequence[str]) -> Iterator[Figure]:
    """All figures of this benchmark; no engine is needed."""
    for case in _CASES:
        yield from _error(f"{case.name}; {_JOBS} wait, nothing more comes", case, _burst, at_most=_MAX_ERROR)
    for case in _CASES:
        yield from _error(f"{case.name}; jobs come at {_LOAD:.0%} load", case, _World.arrive)
    for case in _CASES[:2]:
        for after_s in _COLD_S:
            yield from _error(f"{case.name}; cold, asked after {after_s:g} s", case, partial(_cold, after_s=after_s))


def _burst(world: _World) -> None:
    world.burst(_WARM_UP_JOBS, "warm-up")
    world.simulation.run()
    world.burst(_JOBS, "waits")
    world.ask_all()


def _cold(world: _World, after_s: float) -> None:
    world.burst(_JOBS, "waits")
    world.simulation.run(until=after_s)
    world.ask_all()


def _error(what: str, case: _Case, happens: Callable[[_World], None], at_most: float | None = None) -> Iterator[Figure]:
    """The median error, and that of nine in ten; and how often there was no answer."""
    errors: list[float] = []
    unknown = 0
    for seed in _SEEDS:
        world = _World(case, seed)
        happens(world)
        world.simulation.run()
        errors += world.errors()
        unknown += world.unknown
    if errors:
        spread = f"nine in ten: {sorted(errors)[len(errors) * 9 // 10]:.0f} % of {len(errors)}"
        yield Figure(what=what, value=statistics.median(errors), unit="%", spread=spread, at_most=at_most)
    if unknown:
        yield Figure(what=f"told None: {what}", value=unknown / (unknown + len(errors)) * _PERCENT, unit="%")
