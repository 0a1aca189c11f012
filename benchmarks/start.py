"""Start: from ``start()`` to ready, with two hosts: children started, both hosts looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.bare import timed_s
from benchmarks.figures import Figure, median
from jobmanager import DockerHost, JobManager

TIMES = 15
_MOST_S = 1.0


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Medians of starting and of closing."""
    second = urls[1] if len(urls) > 1 else urls[0]
    starting, closing, all_up = [], [], 0  # a host that takes longer than a second joins later
    for _ in range(TIMES):
        manager = JobManager([DockerHost(urls[0], name="one"), DockerHost(second, name="two")])
        starting.append(timed_s(manager.start)[0])
        all_up += all(host.up for host in manager.hosts())
        closing.append(timed_s(manager.close)[0])
    yield median("start() to ready, two hosts", starting, "s", at_most=_MOST_S)
    yield Figure(what=f"starts of {TIMES} after which both had answered", value=all_up, unit="")
    yield median("close() of an idle manager", closing, "s")
