"""Hundreds of hosts, thousands of jobs, everything that can go wrong, a clock that is turned by hand: what must hold, holds."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

import pytest

from jobmanager import DockerHost, Limits, Match, Outcome, Task
from jobmanager.control.reports import report_start
from jobmanager.errors import JobRefused
from jobmanager.ipc.messages import ContainerStarted, StartFailed, StartRefused
from jobmanager.model.container import Image
from jobmanager.results.facts import EngineUnreachable, HostGivenUp, Limit, RemovedExternally
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import CheckHost, DeleteContainer, KillRun, MonitorRun, PublishResult, SubmitContainer
from jobmanager.scheduling.hosts import HostStatus
from tests.support.run_facts import cannot_run, cut_off, exited, failed_here, not_sent, stopped_for
from tests.unit.ledger_driver import Driver

IMAGES = [
    Image(id=f"sha256:{name}", references=(f"{name}:1",), labels={"jobmanager.environment": name}, created_at_s=1.0)
    for name in ("c", "java", "python3", "rust")
]
TASKS = [
    Task(image.labels["jobmanager.environment"], command="x", limits=Limits(memory_mib=memory, wall_time_s=20))
    for image in IMAGES
    for memory in (64, 512, 2048)
]
NO = [StartRefused(reason="no"), StartFailed(reason="gone", unreachable=False), StartFailed(reason="away", unreachable=True)]
MEMORY_MIB = 4096  # of each host
LOCAL = Task("python3", problems={"q": Match("a")})


class World:
    """What the roles and the hosts would do, each thing at its own time, and often the wrong one."""

    def __init__(self, seed: int, hosts: int, trouble: float) -> None:
        self.random = random.Random(seed)
        self.trouble = trouble
        self.limits = {f"h{number}": self.random.randint(1, 6) for number in range(hosts)}
        self.driver = Driver(
            [
                DockerHost(
                    "unix:///s", name=name, max_concurrent_jobs=limit, pull=self.random.choice(["never", "never", "missing"])
                )
                for name, limit in self.limits.items()
            ],
            up=False,
            max_waiting_jobs=100 + hosts * 10,
            queue_timeout_s=300.0,
        )
        self.ledger = self.driver.ledger
        self.due = []
        self.numbers = itertools.count()
        self.accepted, self.delivered, self.refused = [], Counter(), Counter()
        self.outcomes = Counter()
        self.exists = {}  # container name: host, on the hosts themselves
        self.watched = {}  # container name: job id, at some waiter
        self.memory_mib = {}  # container name: what its job may use
        self.images = {}  # host: what it has

    def host(self, name, limit):
        pull = self.random.choice(["never", "never", "missing"])
        return DockerHost("unix:///s", name=name, max_concurrent_jobs=limit, pull=pull)

    # ---- time

    def later(self, delay_s, what, *args):
        heapq.heappush(self.due, (self.driver.clock.now + delay_s, next(self.numbers), what, args))

    def run(self):
        while self.due:
            now, _, what, args = heapq.heappop(self.due)
            self.driver.clock.now = max(self.driver.clock.now, now)
            what(*args)
            self.carry_out()
            self.check()

    def carry_out(self):
        for order in self.ledger.take_commands():
            if isinstance(order, SubmitContainer):
                self.memory_mib[order.container] = order.request.task.limits.memory_mib
                self.check_memory(order.host)
                self.later(self.random.uniform(0.1, 1), self.submitter_answers, order)
            elif isinstance(order, MonitorRun):
                self.watched[order.container] = order.request.job_id
                self.later(0.0 if order.kill_at_once else self.random.expovariate(0.2), self.waiter_reports, order.container)
            elif isinstance(order, KillRun):
                if order.container in self.watched:
                    self.later(0.1, self.waiter_reports, order.container)
            elif isinstance(order, DeleteContainer):
                self.later(order.delay_s + self.random.uniform(0.05, 0.5), self.deleter_answers, order)
            elif isinstance(order, CheckHost):
                self.later(0.1, self.looked, order.host)
            elif isinstance(order, PublishResult):
                self.delivered[order.request.job_id] += 1
                assert self.delivered[order.request.job_id] == 1
                self.outcomes[order.verdict.outcome] += 1
                self.later(self.random.uniform(0, 0.5), self.ledger.callback_returned, order.request.job_id)

    # ---- what must hold at every moment

    def check(self):
        for host in self.ledger._hosts:
            assert len(host.taken) <= host.limit, host.name

    def check_memory(self, host):
        there = [container for container, where in self.ledger.containers().items() if where == host]
        assert sum(self.memory_mib.get(container, 0) for container in there) <= MEMORY_MIB, host

    # ---- what happens

    def goes_wrong(self):
        return self.random.random() < self.trouble

    def new_job(self, number):
        try:
            self.driver.accept(
                f"j{number}",
                LOCAL if self.random.random() < 0.05 else self.random.choice(TASKS),
                priority=self.random.randint(-2, 2),
                launcher=f"l{self.random.randrange(5)}",
                supersede_key=f"k{self.random.randrange(30)}" if self.random.random() < 0.1 else None,
            )
        except JobRefused as refusal:
            self.refused[type(refusal).__name__] += 1
            return
        self.accepted.append(f"j{number}")
        if self.random.random() < 0.08:
            self.later(self.random.expovariate(0.1), self.ledger.kill, f"j{number}", KillReason.KILL_JOB)

    def host_flips(self, name, flips):
        if self.ledger._hosts[name].status is HostStatus.UP and self.random.random() < 0.5:
            self.ledger.host_down(name, "no route")
        else:
            self.images[name] = self.random.sample(IMAGES, self.random.randint(1, len(IMAGES)))
            self.answers(name)
            self.strays(name)
        if flips:
            self.later(self.random.expovariate(1 / 40), self.host_flips, name, flips - 1)

    def answers(self, name):
        available_mib = self.random.choice([None, None, 500, 3000, MEMORY_MIB])
        self.driver.answers(name, *self.images[name], memory_mib=MEMORY_MIB, available_mib=available_mib)

    def looked(self, name):
        if self.ledger._hosts[name].status is HostStatus.UP and name in self.images:
            self.answers(name)

    def strays(self, name):
        there = [container for container, host in self.exists.items() if host == name and container not in self.watched]
        self.ledger.strays_found(name, there)

    def submitter_answers(self, order):
        """Whatever it says, the container may be there: a request that broke off is still carried out."""
        assert self.exists.get(order.container, order.host) == order.host, "a name is used again on another host"
        if not self.goes_wrong():
            self.exists[order.container] = order.host
            reply = ContainerStarted(container_id=order.container, image_command=("sh",), duration_s=0.1)
        else:
            if self.random.random() < 0.5:
                self.exists[order.container] = order.host
            reply = self.random.choice(
                [
                    None,
                    None,
                    StartRefused(reason="no"),
                    StartFailed(reason="gone", unreachable=False),
                    StartFailed(reason="away", unreachable=True),
                ]
            )
        report_start(self.ledger, order.container, reply)

    def waiter_reports(self, container):
        if container not in self.watched:
            return
        host = self.ledger.containers().get(container)
        if host is not None and self.goes_wrong() and self.random.random() < 0.5:
            del self.watched[container]
            self.ledger.waiter_died([container, "somebody else's"])
            return
        if self.goes_wrong() and self.random.random() < 0.05:
            return  # it never says a word: overdue
        del self.watched[container]
        self.ledger.job_sent(container)
        self.ledger.run_ended(container, self.facts())

    def facts(self):
        if not self.goes_wrong():
            return exited(self.random.choice([0, 1, 139]), wall_time_s=self.random.uniform(0, 9))
        return self.random.choice(
            [
                cut_off(),
                not_sent(),
                not_sent(EngineUnreachable(reason="refused")),
                not_sent(RemovedExternally()),
                cut_off(RemovedExternally()),
                cut_off(HostGivenUp(), outage_s=61),
                stopped_for(Limit.WALL, 20.0),
                cannot_run("no tar"),
                failed_here("no space"),
            ]
        )

    def deleter_answers(self, order):
        if self.goes_wrong():
            self.ledger.deletion_failed(order.container)
            return
        self.exists.pop(order.container, None)
        self.watched.pop(order.container, None)
        self.ledger.container_deleted(order.container)

    def tick(self):
        self.ledger.tick()
        if self.ledger.unfinished() or self.ledger.containers() or len(self.due) > 1:
            self.later(1.0, self.tick)


@pytest.mark.parametrize(
    ("seed", "hosts", "jobs", "trouble"),
    [(1, 200, 3000, 0.15), (2, 3, 400, 0.4), (3, 300, 2000, 0.02), (4, 1, 200, 0.7), (5, 20, 800, 0.3)],
)
def test_every_accepted_job_has_one_result_and_every_slot_is_free_in_the_end(seed, hosts, jobs, trouble):
    world = World(seed, hosts, trouble)
    for name in world.limits:
        world.later(world.random.uniform(0, 5), world.host_flips, name, 8)
    for number in range(jobs):
        world.later(world.random.uniform(0, 60), world.new_job, number)
    world.later(1.0, world.tick)

    world.run()

    assert len(world.accepted) + sum(world.refused.values()) == jobs
    assert len(world.accepted) > jobs / 5
    assert world.delivered == Counter(world.accepted)
    assert world.ledger.unfinished() == 0
    assert world.ledger.containers() == {}
    assert world.exists == {}, "left on its host"
    assert {host.running for host in world.ledger.hosts()} == {0}
    assert world.ledger.take_commands() == []
    queue = world.ledger._queue
    assert (len(queue), queue.req_classes(), queue.shares.waiting_accounts(), queue._keys, queue._shared) == (0, [], {}, {}, {})
    assert not any(account.slots for priority in queue.shares._priorities.values() for account in priority.accounts.values())
    if trouble < 0.1:
        assert world.outcomes[Outcome.SUCCESS] > world.outcomes[Outcome.CRASH]
    if hosts >= 20:
        assert set(world.outcomes) >= {Outcome.SUCCESS, Outcome.FAILED, Outcome.KILLED}
    assert {host.name for host in world.ledger.hosts()} == set(world.limits)


def test_a_close_in_the_middle_of_everything_ends_every_job_once():
    world = World(7, 40, 0.3)
    for name in world.limits:
        world.later(world.random.uniform(0, 3), world.host_flips, name, 3)
    for number in range(1000):
        world.later(world.random.uniform(0, 20), world.new_job, number)
    world.later(15.0, world.tick)

    def close():
        world.due = [entry for entry in world.due if entry[2] != world.new_job]
        heapq.heapify(world.due)
        assert world.ledger.stop_accepting()
        world.ledger.kill_all(KillReason.CLOSE)

    world.later(12.0, close)
    world.run()

    assert world.delivered == Counter(world.accepted)
    assert world.outcomes[Outcome.KILLED] > 100
    assert world.ledger.containers() == world.exists == {}


def test_no_host_starves_and_none_is_overrun_when_nothing_goes_wrong():
    world = World(11, 150, 0.0)
    placed = Counter()
    for name in world.limits:
        world.driver.answers(name, *IMAGES)
    assert all(host.status is HostStatus.UP for host in world.ledger._hosts)
    for number in range(150):
        world.new_job(number)
    for order in world.ledger.take_commands():
        if isinstance(order, SubmitContainer):
            placed[order.host] += 1

    # fewer jobs than hosts: nobody has two
    assert max(placed.values()) == 1
