"""Start: from ``start()`` to ready, with two hosts where two are given: children started, hosts looked at; and the first job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.bare import timed_s
from benchmarks.figures import Figure, median
from benchmarks.place import IMAGE
from jobmanager import ClientSync, DockerHost, JobManager, Task

TIMES = 15
_MOST_S = 1.0


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """Medians of starting, of the first jobs, and of closing."""
    task = Task(IMAGE, command="true")
    hosts = [DockerHost(url, name=name) for url, name in zip(urls, ("one", "two"), strict=False)]
    number = "two hosts" if len(hosts) == 2 else "one host"
    starting, firsts, seconds, closing, all_up = [], [], [], [], 0  # a host that takes longer than a second joins later
    for _ in range(TIMES):
        manager = JobManager(hosts)
        starting.append(timed_s(manager.start)[0])
        all_up += all(host.up for host in manager.hosts())
        firsts.append(timed_s(partial(ClientSync(manager).new_job, task))[0])
        seconds.append(timed_s(partial(ClientSync(manager).new_job, task))[0])
        closing.append(timed_s(manager.close)[0])
    yield median(f"start() to ready, {number}", starting, "s", at_most=_MOST_S)
    yield Figure(what=f"starts of {TIMES} after which all had answered", value=all_up, unit="")
    yield median("the first job, submitted at once", firsts, "s")
    yield median("the second job, submitted when the first has ended", seconds, "s")
    yield median("close() of an idle manager", closing, "s")
