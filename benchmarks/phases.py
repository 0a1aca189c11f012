"""Phases: four that do nothing and share a volume, beside four jobs that do nothing, one after the other.

And what it gives that the next phase's container is started while the one before runs: the same without a volume, and once
more with that turned off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import IMAGE
from jobmanager import ClientSync, DockerHost, JobManager, Outcome, Phase, Pipeline, Task
from jobmanager.scheduling import phases

PHASES = 4
ROUNDS = 15
_MOST_OF_JOBS = 1.1


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """The ratios round by round, and seconds."""
    task = Task(IMAGE, command=["true"])
    alone = Pipeline([Phase(f"p{number}", task) for number in range(PHASES)])
    sharing = Pipeline([Phase(f"p{number}", task, writes=["work"]) for number in range(PHASES)])
    one_more = Pipeline([Phase(f"p{number}", task, writes=["work"]) for number in range(PHASES + 1)])
    took_s: dict[str, list[float]] = {"sharing": [], "one more": [], "alone": [], "in turn": [], "jobs": []}
    with JobManager([DockerHost(urls[0], name="host", max_concurrent_jobs=PHASES)]) as manager:
        sides: dict[str, Callable[[], None]] = {
            "sharing": lambda: _run(manager, sharing),
            "one more": lambda: _run(manager, one_more),
            "alone": lambda: _run(manager, alone),
            "in turn": lambda: _without_starting_ahead(manager, alone),
            "jobs": lambda: _run(manager, *[task] * PHASES),
        }
        _run(manager, task)
        for number in range(ROUNDS):
            for name in sides if number % 2 else reversed(sides):
                began = time.perf_counter()
                sides[name]()
                took_s[name].append(time.perf_counter() - began)
                wait_until_free(manager)
    to_jobs = [mine / jobs for mine, jobs in zip(took_s["sharing"], took_s["jobs"], strict=True)]
    ahead = [with_it / without for with_it, without in zip(took_s["alone"], took_s["in turn"], strict=True)]
    more = [five / four for five, four in zip(took_s["one more"], took_s["sharing"], strict=True)]
    yield median("four phases with a volume to four jobs, round by round", to_jobs, at_most=_MOST_OF_JOBS)
    yield median("started ahead to started in turn, round by round", ahead)
    yield median("five phases to four, as a container that only keeps the volumes would cost", more)
    yield median("four phases with a volume", took_s["sharing"], "s")
    yield median("four phases", took_s["alone"], "s")
    yield median("four phases, nothing started ahead", took_s["in turn"], "s")
    yield median("four jobs", took_s["jobs"], "s")


def _run(manager: JobManager, *tasks: Task | Pipeline) -> None:
    for task in tasks:
        result = ClientSync(manager).new_job(task)
        if result.outcome is not Outcome.SUCCESS:
            raise RuntimeError(f"a job did not succeed: {result}")


def _without_starting_ahead(manager: JobManager, pipeline: Pipeline) -> None:
    with mock.patch.object(phases, "started_ahead", return_value=[]):
        _run(manager, pipeline)
