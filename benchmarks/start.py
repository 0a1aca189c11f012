"""Start: from ``start()`` to ready, with two hosts where two are given: children started, hosts looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.bare import timed_s
from benchmarks.figures import Figure, median
from jobmanager import DockerHost, JobManager

TIMES = 15
_MOST_S = 1.0


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Medians of starting and of closing."""
    hosts = [DockerHost(url, name=name) for url, name in zip(urls, ("one", "two"), strict=False)]
    number = "two hosts" if len(hosts) == 2 else "one host"
    starting, closing, all_up = [], [], 0  # a host that takes longer than a second joins later
    for _ in range(TIMES):
        manager = JobManager(hosts)
        starting.append(timed_s(manager.start)[0])
        all_up += all(host.up for host in manager.hosts())
        closing.append(timed_s(manager.close)[0])
    yield median(f"start() to ready, {number}", starting, "s", at_most=_MOST_S)
    yield Figure(what=f"starts of {TIMES} after which all had answered", value=all_up, unit="")
    yield median("close() of an idle manager", closing, "s")
