"""Whose turn it is, by the rules of docs/queue.md, in simulations with a clock that is turned by hand."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from jobmanager import DockerHost, Limits, Outcome, Task
from jobmanager.errors import DuplicateJob, QueueFull, UnknownEnvironment
from jobmanager.ipc.messages import StartFailed
from jobmanager.model.listings import WaitingJob
from jobmanager.results.facts import RemovedExternally
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.durations import DurationKey
from jobmanager.scheduling.fair_shares import FairShares
from jobmanager.scheduling.priority_heap import PriorityHeap
from jobmanager.scheduling.waiting_queue import PATIENCE_S, STARTS_FOR_ONE, Cost, QueueEntry, Requirements, WaitingQueue
from tests.support.run_facts import cut_off
from tests.unit.ledger_driver import LOCAL_ONLY, PYTHON, C, Driver
from tests.unit.queue_simulation import Simulation

UNREACHABLE = StartFailed(reason="connection refused", unreachable=True)


def slot_seconds(world: Simulation, launchers: dict[str, str], since: float, until: float) -> Counter:
    """What each launcher had of the slots between two moments."""
    had = Counter()
    for job_id, began in world.started.items():
        ended = min(world.ended.get(job_id, until), until)
        had[launchers[job_id]] += max(0.0, ended - max(began, since))
    return had


# ---- launchers take turns


def test_ten_thousand_jobs_of_one_launcher_do_not_delay_the_first_of_another():
    world = Simulation({"a": 1})
    for number in range(10_000):
        world.job(f"ann {number}", launcher="ann")
    world.at(100.5, lambda: world.job("bob", launcher="bob"))

    world.run(until=110)

    assert world.waited("bob") == pytest.approx(0.5)  # until the one that runs has ended


def test_two_launchers_alternate_and_each_keeps_the_order_of_its_own_jobs():
    world = Simulation({"a": 1})
    for number in range(5):
        world.job(f"ann {number}", launcher="ann")
    for number in range(5):
        world.job(f"bob {number}", launcher="bob")

    world.run()

    assert world.order()[2:8:2] != world.order()[3:9:2]
    for name in ("ann", "bob"):
        assert [job for job in world.order() if job.startswith(name)] == [f"{name} {number}" for number in range(5)]
    launchers = [job.split()[0] for job in world.order()]
    assert all(abs(launchers[:n].count("ann") - launchers[:n].count("bob")) <= 1 for n in range(len(launchers)))


def test_shares_are_of_time_and_not_of_starts():
    world = Simulation({"a": 3, "b": 2})
    launchers = {}
    for number in range(2000):
        for name, takes_s in (("short", 1.0), ("long", 10.0)):
            launchers[f"{name} {number}"] = name
            world.job(f"{name} {number}", takes_s, launcher=name)

    world.run(until=500)

    had = slot_seconds(world, launchers, 50, 500)
    assert had["short"] == pytest.approx(had["long"], rel=0.05)
    assert sum(had.values()) == pytest.approx(5 * 450, rel=0.02)  # no slot was idle


def test_twenty_launchers_of_which_some_bring_much_more_than_others_have_equal_shares():
    world = Simulation({"a": 4})
    dice = random.Random(5)
    launchers = {}
    for name in (f"launcher {number}" for number in range(20)):
        for number in range(dice.choice([200, 400, 800])):
            launchers[f"{name} {number}"] = name
            world.job(f"{name} {number}", dice.choice([0.5, 1, 2]), launcher=name)

    world.run(until=600)

    had = slot_seconds(world, launchers, 0, 600)
    assert len(had) == 20
    assert max(had.values()) - min(had.values()) <= 6  # of 120: three of the longest jobs


def test_who_asked_for_nothing_for_an_hour_has_no_turns_saved_up():
    world = Simulation({"a": 1})
    world.job("bob's first", launcher="bob")
    for number in range(5000):
        world.job(f"ann {number}", launcher="ann")
    for number in range(100):
        world.at(3600, lambda number=number: world.job(f"bob {number}", launcher="bob"))

    world.run(until=3700)

    later = [job.split()[0] for job in world.order() if world.started[job] >= 3601]
    assert abs(later.count("ann") - later.count("bob")) <= 2


def test_a_launcher_that_killed_its_waiting_jobs_pays_for_none_of_them():
    world = Simulation({"a": 1})
    world.job("runs", 10, launcher="cid")
    for number in range(900):
        world.job(f"ann {number}", launcher="ann")
        world.job(f"bob {number}", launcher="bob")
    world.run(until=0)
    for number in range(900):
        world.ledger.kill(f"ann {number}", KillReason.KILL_JOB)
    world.at(5, lambda: world.job("ann again", launcher="ann"))

    world.run(until=13)

    assert world.waited("ann again") <= 6  # for the one that runs, and for at most one of bob's


def test_a_start_that_came_to_nothing_costs_its_launcher_nothing():
    driver = Driver({"a": 1})
    driver.accept("ann", launcher="ann", wall_time_s=50)
    driver.start_reported(driver.place("ann"), UNREACHABLE)
    driver.accept("bob", launcher="bob")
    (container,) = driver.ledger.containers()
    driver.answers("a")

    driver.ledger.container_deleted(container)

    assert driver.placed() == {"ann": "a"}  # it came first


def test_a_job_that_took_longer_than_was_thought_is_paid_for():
    world = Simulation({"a": 1})
    world.job("ann's long one", 60, launcher="ann")
    for number in range(100):
        world.job(f"ann {number}", launcher="ann")
        world.job(f"bob {number}", launcher="bob")

    world.run(until=100)

    assert all(job.startswith("bob") for job in world.order()[1:30])


def test_a_launcher_whose_host_was_busy_does_not_shut_out_another_when_it_is_free():
    """cid's share elsewhere has grown meanwhile; what bob can make up for is bounded."""
    world = Simulation({"python": 4, "c": 1})
    world.driver.answers("c", C)
    for number in range(6000):
        world.job(f"ann {number}", launcher="ann")
        world.job(f"bob {number}", 5, launcher="bob", environment="c")
    world.at(1000.5, lambda: world.job("cid", 5, launcher="cid", environment="c"))

    world.run(until=1200)

    assert world.waited("cid") < 60 + 5 + 5


def test_shares_are_kept_apart_by_priority():
    world = Simulation({"a": 1})
    for number in range(50):
        world.job(f"ann's urgent {number}", launcher="ann", priority=-1)
    world.job("ann", launcher="ann")
    world.job("bob", launcher="bob")

    world.run(until=60)

    assert world.order()[-2:] == ["ann", "bob"]


def test_accounts_of_launchers_that_are_gone_are_forgotten():
    shares = FairShares()
    for number in range(25_000):  # each came once, and none had to wait
        account = shares.job_queued(0, f"launcher {number}")
        shares.slot_taken(account, 1.0)
        shares.slot_freed(account, 0.5)
    assert len(shares) == 10_000

    again = shares.job_queued(0, "launcher 24999")
    assert again.used_s == 1.5
    for number in range(3):
        account = shares.job_queued(number, "x")
        shares.job_dequeued(account)
    assert len(shares) == 10_000


# ---- nobody starves


def test_a_low_priority_has_one_start_of_ten_however_much_of_a_higher_one_comes():
    world = Simulation({"a": 2})
    world.at(0.5, lambda: [world.job(f"low {number}", priority=9) for number in range(60)])
    for second in range(600):  # three times what the host can do
        world.at(second, lambda second=second: [world.job(f"high {second} {n}", priority=0) for n in range(6)])

    world.run(until=600)

    began = world.order()
    first = next(index for index, job in enumerate(began) if job.startswith("low"))
    assert PATIENCE_S <= world.waited(began[first]) <= PATIENCE_S + STARTS_FOR_ONE
    after = began[first:]
    for start in range(0, len(after) - STARTS_FOR_ONE, STARTS_FOR_ONE):
        here = [job.split()[0] for job in after[start : start + STARTS_FOR_ONE]]
        assert here.count("high") >= STARTS_FOR_ONE - 1
    lows = [world.started[job] for job in began if job.startswith("low")]
    assert max(later - earlier for earlier, later in itertools.pairwise(lows)) <= PATIENCE_S + STARTS_FOR_ONE


def test_a_higher_priority_is_first_as_long_as_the_lower_has_not_waited_for_a_minute():
    world = Simulation({"a": 1})
    world.job("runs")
    world.run(until=0)
    for number in range(50):
        world.job(f"low {number}", priority=1)
        world.job(f"high {number}", priority=-3)

    world.run()

    assert [job.split()[0] for job in world.order()[1:51]] == ["high"] * 50


def test_every_one_of_many_low_priorities_has_its_start():
    world = Simulation({"a": 1})
    for priority in range(1, 9):
        for launcher in ("ann", "bob"):
            world.job(f"low {priority} {launcher}", priority=priority, launcher=launcher)
    for second in range(600):
        world.at(second, lambda second=second: [world.job(f"high {second} {n}") for n in range(2)])

    world.run(until=PATIENCE_S + 16 * STARTS_FOR_ONE + 5)

    assert len([job for job in world.order() if job.startswith("low")]) == 16


def test_the_one_out_of_turn_is_kept_for_a_job_that_a_host_can_take():
    """A group that waits for a host that is away takes no turn from one that does not."""
    world = Simulation({"a": 1, "away": 1})
    world.driver.answers("away", C)
    world.ledger.host_down("away", "no route")
    world.job("waits for away", environment="c", priority=5)
    world.at(1, lambda: world.job("low", priority=9))
    for second in range(100):
        world.at(second, lambda second=second: [world.job(f"high {second} {n}") for n in range(2)])

    world.run(until=100)

    assert world.started["low"] <= PATIENCE_S + STARTS_FOR_ONE + 2
    assert "waits for away" not in world.started


def small_jobs(world: Simulation, seconds: int, *, takes_s: float = 4, per_second: int = 4, **limits: float) -> None:
    """More small jobs than the hosts can take."""
    for second in range(seconds):
        world.at(
            second,
            lambda second=second: [world.job(f"small {second} {n}", takes_s, **limits) for n in range(per_second)],
        )


def test_a_large_job_has_a_host_held_back_for_it_and_waits_no_longer_than_what_runs_there_may():
    world = Simulation({"a": 10, "b": 10})
    small_jobs(world, 400, per_second=8, memory_mib=400, wall_time_s=30)
    world.at(20, lambda: world.job("large", 5, launcher="bob", memory_mib=4000))

    world.run(until=400)

    assert PATIENCE_S <= world.waited("large") <= PATIENCE_S + 30 + 10
    before = [job for job, at in world.started.items() if at < world.started["large"]]
    assert any(world.host[job] != world.host["large"] and world.started[job] > 20 + PATIENCE_S for job in before)


def test_without_a_bound_small_jobs_would_have_kept_it_waiting():
    """The simulation is hard enough: as long as its patience lasts, the large job sees no room."""
    world = Simulation({"a": 10})
    small_jobs(world, 59, per_second=8, memory_mib=400, wall_time_s=30)
    world.at(0.5, lambda: world.job("large", 5, launcher="bob", memory_mib=4000))

    world.run(until=59)

    assert "large" not in world.started


def test_what_ends_in_time_or_fits_in_beside_it_still_runs_on_the_host_that_is_held_back():
    world = Simulation({"a": 10})
    world.job("long", 90, memory_mib=2000, wall_time_s=100)
    world.job("other", 150, memory_mib=1000, wall_time_s=200)
    world.run(until=0)
    world.job("large", 5, memory_mib=3000, wall_time_s=100)  # must wait for long, and fits in beside other then
    world.at(62, lambda: world.job("ends in time", 5, memory_mib=500, wall_time_s=10))
    world.at(63, lambda: world.job("fits beside it", 80, memory_mib=90, wall_time_s=300))
    world.at(64, lambda: world.job("too long and too large", 80, memory_mib=200, wall_time_s=300))

    world.run()

    assert (world.started["ends in time"], world.started["fits beside it"]) == (62, 63)
    assert world.started["large"] == 90
    assert world.started["too long and too large"] >= 90


def test_a_long_job_that_a_host_held_back_cannot_take_holds_up_no_short_one_behind_it():
    world = Simulation({"a": 10})
    world.job("long", 90, memory_mib=2000, wall_time_s=100)
    world.run(until=0)
    world.job("large", 5, memory_mib=3950, wall_time_s=100)  # must wait for long
    world.at(62, lambda: world.job("too long", 80, memory_mib=500, wall_time_s=300))
    world.at(63, lambda: world.job("short", 5, memory_mib=500, wall_time_s=10))

    world.run()

    assert world.started["short"] == 63
    assert (world.started["large"], world.started["too long"]) == (90, 95)


def test_one_host_at_a_time_is_held_back_and_the_next_for_those_that_have_waited_next_longest():
    world = Simulation({"a": 4, "b": 4, "c": 4})
    small_jobs(world, 600, per_second=8, memory_mib=1000, wall_time_s=20)
    for number in range(3):
        world.at(number, lambda number=number: world.job(f"large {number}", 5, launcher="bob", memory_mib=4000 - number))

    for second in range(60, 300):
        world.at(second + 0.5, lambda: seen.append(Counter(host.running for host in world.ledger.hosts())))
    seen: list[Counter] = []
    world.run(until=600)

    assert [job for job in world.order() if job.startswith("large")] == ["large 0", "large 1", "large 2"]
    assert world.started["large 2"] <= PATIENCE_S + 3 * (20 + 10)
    assert all(counted[4] >= 1 for counted in seen)  # a host without anything of this is as busy as ever


def test_a_host_is_let_go_when_the_job_it_was_held_back_for_is_killed():
    world = Simulation({"a": 4})
    world.job("runs", 200, memory_mib=3000, wall_time_s=300)
    world.run(until=0)
    world.job("large", memory_mib=4000)
    world.at(70, lambda: world.job("small", wall_time_s=900, memory_mib=200))
    world.at(80, lambda: world.ledger.kill("large", KillReason.KILL_JOB))

    world.run(until=90)

    assert 80 <= world.started["small"] <= 81


def test_a_host_is_let_go_when_the_memory_was_free_elsewhere_first():
    world = Simulation({"a": 4, "b": 4})
    world.job("on one", 200, memory_mib=3000, wall_time_s=210)
    world.job("on the other", 100, memory_mib=3000, wall_time_s=300)
    world.run(until=0)
    world.job("large", 500, memory_mib=4000, wall_time_s=600)
    world.at(101, lambda: world.job("small", wall_time_s=900))

    world.run(until=110)

    assert world.started["large"] == 100
    assert world.host["small"] == world.host["on one"]
    assert world.started["small"] == 101


def test_a_host_that_is_held_back_in_vain_is_let_go_for_as_long_again():
    """Other programs have the memory: what our own jobs give back is not enough."""
    world = Simulation({"a": 4})
    world.job("runs", 80, memory_mib=3000, wall_time_s=100)
    world.run(until=0)
    world.driver.answers("a", memory_mib=4096, available_mib=2000)
    world.job("large", memory_mib=4000)
    world.at(70, lambda: world.job("small", 1, wall_time_s=900, memory_mib=100))

    world.run(until=300)

    assert 130 <= world.started["small"] <= 140  # 100 s from the beginning at most, and 30 s more


def test_the_listing_says_for_whom_a_host_is_held_back():
    world = Simulation({"a": 4})
    world.job("runs", 200, memory_mib=3000)
    world.run(until=0)
    world.job("large", memory_mib=4000)
    world.at(70, lambda: None)
    world.run(until=70)

    _, (large,) = world.ledger.snapshot()

    assert large.info == "takes 1, waits for 4000 MiB of free memory; host a has 1096 MiB; host a is reserved for it"


def test_memory_that_others_have_taken_holds_no_host_back():
    world = Simulation({"a": 4})
    world.driver.answers("a", memory_mib=4096, available_mib=1000)
    world.job("large", memory_mib=4000)
    world.at(100, lambda: world.job("small", wall_time_s=900))

    world.run(until=110)

    assert world.started["small"] == 100


def test_a_job_that_only_a_full_host_can_run_holds_up_no_other():
    world = Simulation({"a": 1, "b": 1})
    world.driver.answers("b", C)
    world.job("long", 1000, environment="c")
    for number in range(500):
        world.job(f"c {number}", environment="c", priority=-5)
    for number in range(50):
        world.job(f"p {number}")

    world.run(until=60)

    assert len([job for job in world.order() if job.startswith("p")]) == 50


# ---- the queue against a plain model of its rules


@pytest.mark.parametrize("seed", range(8))
def test_the_next_job_is_the_one_that_the_rules_name(seed):
    """In turn, among those whose needs some host has: by priority, then by what its launcher has had, then by arrival."""
    dice = random.Random(seed)
    clock = [0.0]
    queue = WaitingQueue(lambda: clock[0], lambda key: key.limit_s, lambda _: True)
    needs = [Requirements(environment=f"e{number}", memory_mib=64, cpus=1.0) for number in range(6)]
    waiting: dict[str, QueueEntry] = {}
    costs: list[Cost] = []
    arrivals = list(range(4000))
    dice.shuffle(arrivals)

    class Model:
        """Some needs can be met, for so many starts."""

        room = 0
        met: frozenset[Requirements] = frozenset()

        def any_has_free_slot(self) -> bool:
            return self.room > 0

        def host_for(self, entry: QueueEntry) -> str | None:
            return "a host" if entry.requirements in self.met else None

    model = Model()

    def start(entry: QueueEntry, cost: Cost) -> None:
        model.room -= 1
        del waiting[entry.job_id]
        started.append(entry.job_id)
        costs.append(cost)

    for round_ in range(600):
        clock[0] += dice.random() * PATIENCE_S / 1000  # so that nothing is out of turn
        for _ in range(dice.randint(0, 5)):
            number = arrivals.pop()
            entry = QueueEntry(
                job_id=f"j{number}",
                requirements=dice.choice(needs),
                priority=dice.choice([-1, 0, 0, 3]),
                launcher=f"l{dice.randrange(5)}",
                arrival=number,
                duration_key=DurationKey("k", dice.choice([1.0, 2.0, 30.0])),
                timeout_s=1.0,
                listed=WaitingJob("", True, "", "", 1.0),
            )
            waiting[entry.job_id] = entry
            queue.add(entry)
        for job_id in dice.sample(sorted(waiting), k=min(len(waiting), dice.randint(0, 1))):
            queue.remove(job_id)
            del waiting[job_id]
        while costs and dice.random() < 0.5:
            queue.settle(costs.pop(dice.randrange(len(costs))))
        model.met = frozenset(dice.sample(needs, k=dice.randint(0, 6)))
        model.room = 1
        fit = [entry for entry in waiting.values() if entry.requirements in model.met]
        expected = min(fit, key=lambda entry: (entry.priority, entry.account.used_s, entry.arrival), default=None)
        started: list[str] = []

        for entry, _, cost in queue.placements(model):
            start(entry, cost)

        assert started == ([expected.job_id] if expected is not None else []), f"round {round_}"
        assert len(queue) == len(waiting)
        assert {entry.job_id for entry in queue} == set(waiting)
    assert {req_class.requirements for req_class in queue.req_classes()} == {entry.requirements for entry in waiting.values()}
    for job_id in list(waiting):
        queue.remove(job_id)
    for cost in costs:
        queue.settle(cost)
    assert (len(queue), queue.req_classes(), queue.shares.waiting_accounts(), queue._shared) == (0, [], {}, {})


@pytest.mark.parametrize("seed", range(5))
def test_a_ranking_knows_its_lowest_whatever_was_changed(seed):
    dice = random.Random(seed)
    heap: PriorityHeap[int] = PriorityHeap()
    ranks: dict[int, int] = {}
    for _ in range(3000):
        item = dice.randrange(50)
        if dice.random() < 0.7:
            ranks[item] = dice.randrange(10)
            heap.set(item, ranks[item])
        else:
            ranks.pop(item, None)
            heap.drop(item)
        assert len(heap) == len(ranks)
        first = heap.first()
        assert (first is None) == (not ranks)
        if first is not None:
            assert ranks[first] == min(ranks.values()) == heap.lowest()
    assert len(heap._heap) <= 2 * 50 + 100


# ---- a newer job in place of an older one


def superseded_by(driver: Driver, job_id: str) -> str:
    """Which job took its place, as its result says."""
    verdict = driver.result(job_id).verdict
    assert verdict.outcome is Outcome.KILLED
    told = {evidence.kind: evidence.value for evidence in verdict.evidence}
    assert told["requested_by"] == "superseded"
    assert verdict.text == f"killed: superseded by job {told['superseded_by']}"
    return told["superseded_by"]


def test_a_newer_job_of_the_same_key_takes_the_place_of_the_one_that_waits():
    driver = Driver({"a": 1})
    driver.accept("runs", launcher="ann")
    container = driver.run("runs")
    for name in ("one", "two", "three"):
        driver.accept(name, launcher="ann", supersede_key="k" if name == "one" else None)

    driver.accept("newer", launcher="ann", supersede_key="k")

    assert superseded_by(driver, "one") == "newer"
    assert driver.ledger.queue_info("one") is None
    assert not driver.ledger.kill("one", KillReason.KILL_JOB)
    assert [job.job_id for job in driver.ledger.snapshot()[1]] == ["newer", "two", "three"]
    driver.end(container), driver.ledger.container_deleted(container)
    assert driver.placed() == {"newer": "a"}


def test_the_newest_of_many_is_the_one_that_runs_and_every_other_has_its_one_result():
    driver = Driver({"a": 1})
    driver.ledger.host_down("a", "away")
    for number in range(50):
        driver.accept(f"j{number}", supersede_key="k", launcher=f"l{number % 3}", priority=number % 2)
    driver.answers("a")

    assert driver.placed() == {"j49": "a"}
    assert [superseded_by(driver, f"j{number}") for number in range(49)] == [f"j{number + 1}" for number in range(49)]


def test_a_job_that_has_a_host_is_left_alone_and_the_newer_waits():
    for state in ("placed", "running"):
        driver = Driver({"a": 1})
        driver.accept("older", supersede_key="k")
        container = driver.place("older") if state == "placed" else driver.run("older")

        driver.accept("newer", supersede_key="k")

        assert driver.results("older") == []
        assert driver.kills() == []
        assert driver.ledger.queue_info("newer").jobs_before == 0
        driver.accept("newest", supersede_key="k")
        assert superseded_by(driver, "newer") == "newest"
        driver.runs(container), driver.end(container), driver.ledger.container_deleted(container)
        assert driver.placed() == {"newest": "a"}
        assert driver.result("older").verdict.outcome is Outcome.SUCCESS


def test_a_job_that_comes_back_to_the_queue_gives_way_to_the_newer_one_that_waits():
    driver = Driver({"a": 1})
    driver.accept("older", Task("python3", command="x", retries=3), supersede_key="k")
    container = driver.run("older")
    driver.accept("newer", supersede_key="k")

    driver.end(container, cut_off(RemovedExternally()))

    assert superseded_by(driver, "older") == "newer"
    driver.ledger.container_deleted(container)
    assert driver.placed() == {"newer": "a"}


def test_a_job_that_came_back_and_waits_again_is_superseded():
    driver = Driver({"a": 1})
    driver.accept("older", supersede_key="k")
    container = driver.place("older")
    driver.start_reported(container, UNREACHABLE)

    driver.accept("newer", supersede_key="k")

    assert superseded_by(driver, "older") == "newer"
    driver.answers("a"), driver.ledger.container_deleted(container)
    assert driver.placed() == {"newer": "a"}


def test_keys_that_differ_or_are_not_given_supersede_nothing():
    driver = Driver({"a": 1}, up=False)
    for name, key in (("j", "k"), ("other", "K"), ("none", None), ("none either", None)):
        driver.accept(name, supersede_key=key)

    assert len(driver.ledger.snapshot()[1]) == 4


def test_a_key_is_free_again_when_its_job_is_killed_or_has_a_host():
    driver = Driver({"a": 1}, up=False)
    driver.accept("killed", supersede_key="k")
    driver.ledger.kill("killed", KillReason.KILL_JOB)
    driver.accept("next", supersede_key="k")

    assert [result.verdict.text for result in driver.results("killed")] == ["killed: kill_job"]
    driver.answers("a")
    assert driver.placed() == {"next": "a"}
    assert driver.ledger._queue._keys == {}


def test_a_refused_job_supersedes_nothing():
    driver = Driver({"a": 1}, max_waiting_jobs=2)
    driver.accept("runs")
    driver.run("runs")
    driver.accept("older", supersede_key="k")

    with pytest.raises(UnknownEnvironment):
        driver.accept("newer", Task("nobody has it"), supersede_key="k")
    with pytest.raises(DuplicateJob):
        driver.accept("older", supersede_key="k")
    driver.accept("fills the queue")
    with pytest.raises(QueueFull):
        driver.accept("newer", supersede_key="another")

    assert driver.results("older") == []
    assert driver.ledger.queue_info("older").jobs_before == 0


def test_a_job_that_supersedes_another_needs_no_further_room_in_a_full_queue():
    driver = Driver({"a": 1}, up=False, max_waiting_jobs=1)
    driver.accept("older", supersede_key="k")

    driver.accept("newer", supersede_key="k")

    assert superseded_by(driver, "older") == "newer"
    with pytest.raises(QueueFull):
        driver.accept("third")


def test_superseding_again_and_again_while_no_callback_returns_comes_to_an_end():
    driver = Driver({"a": 1}, up=False, max_waiting_jobs=1)
    numbers = iter(range(2000))

    with pytest.raises(QueueFull, match="1000 results wait for their callbacks already"):
        for number in numbers:
            driver.accept(f"j{number}", supersede_key="k")
    newest = f"j{next(numbers) - 2}"
    assert driver.ledger.queue_info(newest).jobs_before == 0
    driver.ledger.callback_returned("j0")

    driver.accept("one more", supersede_key="k")
    assert superseded_by(driver, newest) == "one more"


def test_a_job_that_needs_no_container_supersedes_as_well():
    driver = Driver({"a": 1}, up=False)
    driver.accept("older", supersede_key="k")

    driver.accept("newer", LOCAL_ONLY, supersede_key="k")

    assert superseded_by(driver, "older") == "newer"
    assert driver.result("newer").verdict.outcome is Outcome.SUCCESS
    assert driver.ledger.snapshot() == ([], [])


def test_the_time_in_the_queue_begins_anew_for_the_newer_job():
    driver = Driver({"a": 1}, up=False, queue_timeout_s=100.0)
    driver.accept("older", supersede_key="k")
    driver.clock.now += 60
    driver.accept("newer", supersede_key="k")
    driver.clock.now += 60

    driver.ledger.tick()

    assert driver.results("newer") == []


def test_superseding_may_change_the_task_its_launcher_and_its_priority():
    driver = Driver([DockerHost("unix:///s", name="a", max_concurrent_jobs=1)], up=False)
    driver.accept("older", supersede_key="k", priority=5, launcher="ann")
    driver.accept("between", launcher="bob")
    driver.accept("newer", Task("c", command="x", limits=Limits(memory_mib=99)), supersede_key="k", launcher="bob")
    driver.answers("a", PYTHON, C)

    assert driver.placed() == {"newer": "a"}
