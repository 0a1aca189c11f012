"""A random history of a whole cluster: clients, nodes, the leader and Redis are killed, suspended and started again under load."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobmanager import Outcome
from tests.conftest import SLOWNESS
from tests.support.cluster import Cluster
from tests.support.cluster_client import ClientPlan, ClientProcess
from tests.support.cluster_history import ClusterHistory, cluster_violations, read_happenings

_NODE_LOST = re.compile(
    r"its node [\w-]+ (was started again|was not heard of for|was cut off|was stopped)"
    r"|it was placed \d+ times, and no node started it|Redis has lost it, and the process that sent it is gone"
)
_END_S = 90.0


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What is to happen."""

    seed: int
    for_s: float
    clients: int = 2
    keeps_data: bool = True  # of Redis; else it loses all of it, now and then
    pause_s: float = 1.5  # between two faults, at the mean


@dataclass(kw_only=True)
class ClusterReport:
    """What has happened."""

    faults: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def page(self) -> str:
        """To be read by a person."""
        counted = Counter(fault.partition(" ")[2].rpartition(" for ")[0] or fault.partition(" ")[2] for fault in self.faults)
        parts = {"faults": counted, "outcomes": self.outcomes, "refused": self.refused, "crashes": self.crashes}
        return "\n".join(f"{name}: {_listed(counts)}" for name, counts in parts.items())


class ClusterSoak:
    """One history. ``run`` once."""

    def __init__(self, cluster: Cluster, plan: ClusterPlan, folder: Path) -> None:
        self._cluster = cluster
        self._plan = plan
        self._folder = folder
        self._chance = random.Random(f"{plan.seed} cluster")
        self._history = ClusterHistory(folder, "tester")
        self._clients = [self._client(number) for number in range(plan.clients)]
        self._report = ClusterReport()
        self._began = time.monotonic()
        self._due: list[tuple[float, Callable[[], None]]] = []  # when what was broken is mended
        self._busy: set[str] = set()  # what is broken

    def run(self) -> ClusterReport:
        """The history, and what is wrong with it."""
        for client in self._clients:
            client.start()
        self._history.fault("everything may be broken from now on")
        until = time.monotonic() + self._plan.for_s
        while time.monotonic() < until:
            self._mend_what_is_due()
            self._break_something()
            self._wait(self._chance.expovariate(1 / self._plan.pause_s))
        self._mend_all()
        self._end()
        self._judge()
        self._history.close()
        return self._report

    # ---- faults

    def _break_something(self) -> None:
        kinds: list[tuple[int, Callable[[], None]]] = [
            (4, self._kill_node),
            (3, self._suspend_node),
            (2, self._drain_node),
            (3, self._kill_leader),
            (2, self._suspend_leader),
            (3, self._kill_client),
            (2, self._suspend_client),
            (2, self._suspend_redis),
            (3, self._cut),
            (2, self._stop_redis),
            (0 if self._plan.keeps_data else 3, self._empty_redis),
        ]
        weights, faults = zip(*kinds, strict=True)
        self._chance.choices(faults, weights)[0]()

    def _kill_node(self) -> None:
        if name := self._healthy_node():
            self._say(f"kill node {name}")
            self._cluster.remember_jobs()
            self._cluster.kill(name, alone=self._chance.random() < 0.3)
            self._later(name, self._chance.uniform(0, 6), lambda: self._cluster.start_node(name, wait=False))

    def _suspend_node(self) -> None:
        if name := self._healthy_node():
            for_s = self._chance.choice((0.5, 2.0, 5.0))
            self._say(f"suspend node {name} for {for_s}")
            self._cluster.pause(name)
            self._later(name, for_s, lambda: self._cluster.resume(name))

    def _drain_node(self) -> None:
        if name := self._healthy_node():
            self._say(f"drain node {name}")
            self._cluster.terminate(name)
            self._later(name, 1.0, lambda: self._start_drained(name))

    def _start_drained(self, name: str) -> None:
        if self._cluster.nodes[name].is_running:
            self._later(name, 0.5, lambda: self._start_drained(name))
        else:
            self._cluster.start_node(name, wait=False)

    def _kill_leader(self) -> None:
        if (leader := self._leader()) is not None:
            self._say("kill leader")
            leader.kill()

    def _suspend_leader(self) -> None:
        if (leader := self._leader()) is not None and "leader" not in self._busy:
            for_s = self._chance.choice((0.5, 1.5, 4.0))
            self._say(f"suspend leader for {for_s}")
            leader.suspend()
            self._later("leader", for_s, lambda: _resume(leader))

    def _leader(self) -> psutil.Process | None:
        if "redis" in self._busy:
            return None
        with suppress(Exception):
            return self._cluster.dispatchers().get(self._cluster.leading_node())
        return None

    def _kill_client(self) -> None:
        client = self._chance.choice(self._clients)
        if client.plan.name not in self._busy and (self._plan.keeps_data or self._is_known(client)):
            self._say(f"kill client {client.plan.name}")
            client.kill(self._history)
            self._later(client.plan.name, self._chance.uniform(0, 3), client.start)

    def _suspend_client(self) -> None:
        client = self._chance.choice(self._clients)
        if client.plan.name not in self._busy:
            process = psutil.Process(client.pid)
            for_s = self._chance.choice((0.5, 3.0, 5.0))
            self._say(f"suspend client {client.plan.name} for {for_s}")
            process.suspend()
            self._later(client.plan.name, for_s, lambda: _resume(process))

    def _suspend_redis(self) -> None:
        if "redis" not in self._busy:
            for_s = self._chance.choice((0.3, 1.5, 3.0))
            self._say(f"suspend Redis for {for_s}")
            self._cluster.redis.pause()
            self._later("redis", for_s, self._cluster.redis.resume)

    def _cut(self) -> None:
        if "redis" not in self._busy:
            self._say("cut connections")
            self._cluster.redis.cut_connections()

    def _stop_redis(self) -> None:
        if "redis" not in self._busy:
            for_s = self._chance.choice((0.0, 0.5, 2.0, 6.0))
            self._say(f"kill Redis for {for_s}")
            self._cluster.remember_jobs()
            self._cluster.redis.kill()
            self._later("redis", for_s, self._cluster.redis.start)

    def _empty_redis(self) -> None:
        """Only while each client lives: what nobody knows is lost indeed."""
        living = all(client.has_resumed and client.plan.name not in self._busy for client in self._clients)
        if living and "redis" not in self._busy:
            self._say("empty Redis")
            self._cluster.lose_redis_data()

    def _is_known(self, client: ClientProcess) -> bool:
        """Whether Redis has all open jobs of a client, so that the next process can take them up."""
        if "redis" in self._busy:
            return False
        own = [each for each in read_happenings(self._folder) if each.client == client.plan.name]
        called_back = {each.job_id for each in own if each.what == "called_back"}
        with self._cluster.redis.client() as redis:
            known = set(redis.hvals(self._cluster.keys.client(client.plan.name, "open")))
        return {each.job_id for each in own if each.what == "accepted"} - called_back <= known

    # ---- the way of it

    def _healthy_node(self) -> str:
        names = [name for name, node in self._cluster.nodes.items() if name not in self._busy and node.is_running]
        return self._chance.choice(names) if names else ""

    def _later(self, what: str, in_s: float, mend: Callable[[], None]) -> None:
        def mended() -> None:
            self._busy.discard(what)
            mend()

        self._busy.add(what)
        self._due.append((time.monotonic() + in_s * SLOWNESS, mended))

    def _wait(self, for_s: float) -> None:
        until = time.monotonic() + min(for_s, 5.0) * SLOWNESS
        while (now := time.monotonic()) < until:
            self._mend_what_is_due()
            time.sleep(min(0.05, until - now))

    def _mend_what_is_due(self, *, all_of_it: bool = False) -> None:
        now = time.monotonic()
        due = [each for each in self._due if all_of_it or each[0] <= now]
        self._due = [each for each in self._due if each not in due]
        for _, mend in sorted(due, key=lambda each: each[0]):
            mend()

    def _mend_all(self) -> None:
        until = time.monotonic() + 60 * SLOWNESS
        while self._due and time.monotonic() < until:
            self._mend_what_is_due(all_of_it=True)
            time.sleep(0.2)
        self._cluster.wait_until_up()

    def _end(self) -> None:
        for client in self._clients:
            client.stop()
        until = time.monotonic() + _END_S * SLOWNESS
        for client in self._clients:
            assert client.process is not None
            while client.process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            if client.process.poll() != 0:
                self._report.violations.append(f"{client.plan.name} ended with {client.process.poll()}: {client.log[-1500:]}")

    def _judge(self) -> None:
        happenings = read_happenings(self._folder)
        for each in happenings:
            if each.what == "called_back":
                self._report.outcomes[each.outcome] += 1
                if each.outcome == Outcome.CRASH.value:
                    self._report.crashes[re.sub(r"node-\d+", "N", each.text)] += 1
                    if not _NODE_LOST.search(each.text):
                        self._report.violations.append(f"wrong crash: {each.job_id}: {each.text}")
            elif each.what == "refused":
                self._report.refused[each.text[:160]] += 1
        self._report.violations += cluster_violations(happenings, self._cluster.runs())
        if self._report.violations:
            self._report.violations += self._report.faults

    def _client(self, number: int) -> ClientProcess:
        plan = ClientPlan(name=f"web-{number}", folder=str(self._folder), seed=self._plan.seed, jobs=1_000_000)
        return ClientProcess(self._cluster, plan)

    def _say(self, fault: str) -> None:
        self._report.faults.append(f"{time.monotonic() - self._began:.1f} {fault}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{times} {what}" for what, times in sorted(counts.items()))


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()
