"""What a waiting job is told of its turn, against what then happens, in simulations with a clock that is turned by hand."""

from __future__ import annotations

import random
import statistics

import pytest

from jobmanager.results.verdict import KillReason
from tests.unit.ledger_driver import PYTHON, C, Driver
from tests.unit.queue_simulation import Simulation


def foreseen(world: Simulation) -> list[str]:
    """The order in which the waiting jobs will start, as the listing has it."""
    return [job.job_id for job in world.ledger.snapshot()[1]]


def taught(world: Simulation, *takes_s: float, each: int = 3) -> float:
    """Let jobs of these lengths run, so that it is known what they take. Returns the time at the end."""
    for number in range(each):
        for length in takes_s:
            world.job(f"taught {length:g} {number}", length, launcher=f"teacher of {length:g}")
    world.run()
    return world.now


# ---- the order


@pytest.mark.parametrize("seed", range(6))
def test_the_order_that_is_foreseen_is_the_order_in_which_jobs_start(seed):
    """All start within a minute, so that none has a start out of turn."""
    dice = random.Random(seed)
    world = Simulation({"a": 20}, PYTHON, C)
    taught(world, 1, 3)
    for number in range(20):
        world.job(f"runs {number}", 1 + number / 20, kind="takes 1")
    world.run(until=world.now)
    for number in range(300):
        world.job(
            f"j{number}",
            dice.choice([1, 3]),
            launcher=f"l{dice.randrange(4)}",
            priority=dice.choice([0, 0, 1, 7]),
            environment=dice.choice(["python3", "c"]),
        )
    for number in dice.sample(range(300), 40):
        world.ledger.kill(f"j{number}", KillReason.KILL_JOB)
    expected = foreseen(world)
    assert [world.ledger.queue_info(job_id).jobs_before for job_id in expected] == list(range(260))
    before = len(world.order())

    world.run()

    started = world.order()[before:]
    assert sorted(started) == sorted(expected)
    apart = [abs(started.index(job_id) - place) for place, job_id in enumerate(expected)]
    assert statistics.mean(apart) <= 4


def test_with_one_priority_the_order_is_foreseen_exactly():
    dice = random.Random(3)
    world = Simulation({"a": 1})
    taught(world, 1, 4)
    world.job("runs", 1)
    world.run(until=world.now)
    for number in range(200):
        world.job(f"j{number}", dice.choice([1, 4]), launcher=f"l{dice.randrange(7)}")
    expected = foreseen(world)
    before = len(world.order())

    world.run()

    assert world.order()[before:] == expected


def test_a_start_out_of_turn_is_not_foreseen_so_a_low_priority_may_wait_less_than_it_was_told():
    world = Simulation({"a": 1})
    taught(world, 1)
    for number in range(300):
        world.job(f"high {number}")
    world.job("low", priority=9)

    jobs_before, wait_s = world.ledger.queue_info("low")
    world.run()

    assert (jobs_before, wait_s) == (300, pytest.approx(300))
    assert world.waited("low") < 75


# ---- the seconds


def test_the_wait_is_what_runs_now_and_what_comes_before():
    world = Simulation({"a": 2})
    begin = taught(world, 10, 4)
    world.job("long", 10), world.job("short", 4)
    world.run(until=begin + 3)

    for number in range(4):
        world.job(f"j{number}", 4)

    waits = [world.ledger.queue_info(f"j{number}").wait_s for number in range(4)]
    assert waits == pytest.approx([1, 5, 7, 9])
    world.run()
    assert [world.waited(f"j{number}") for number in range(4)] == waits


def test_a_job_that_has_outlasted_its_kind_is_expected_to_last_a_while_still_but_not_beyond_its_limit():
    world = Simulation({"a": 1})
    begin = taught(world, 8)
    world.job("outlasts", 60, kind="takes 8")
    world.run(until=begin + 30)
    world.job("waits")

    assert world.ledger.queue_info("waits").wait_s == pytest.approx(2.0)


def test_no_job_is_expected_to_take_longer_than_its_limit():
    world = Simulation({"a": 1})
    taught(world, 50)
    world.job("runs", 1, kind="takes 50", wall_time_s=20)
    world.run(until=world.now)
    world.job("waits")

    assert world.ledger.queue_info("waits").wait_s == pytest.approx(20)


def test_tasks_without_a_name_are_told_apart_by_their_command():
    from jobmanager import Task

    world = Simulation({"a": 1})
    quick, slow = Task("python3", command=["quick"]), Task("python3", command=["slow"])
    for number, (task, takes_s) in enumerate([(quick, 1.0), (slow, 30.0)] * 3):
        world.takes_s[f"j{number}"] = takes_s
        world.driver.accept(f"j{number}", task)
        world.run()
    for job_id, task in (("runs", quick), ("waits", slow), ("last", quick)):
        world.takes_s[job_id] = 1.0
        world.driver.accept(job_id, task)
    world.carry_out()

    assert [world.ledger.queue_info(job_id).wait_s for job_id in ("waits", "last")] == pytest.approx([1.0, 31.0])


def test_jobs_that_go_to_other_hosts_are_not_waited_for():
    world = Simulation({"a": 1, "b": 1})
    world.driver.answers("b", C)
    taught(world, 2)
    for number in range(50):
        world.job(f"python {number}", 2)
    world.run(until=world.now)
    world.job("c's first", environment="c", kind="takes 2"), world.job("c's second", environment="c")
    world.carry_out()

    info = world.ledger.queue_info("c's second")

    assert info.jobs_before == 0
    assert info.wait_s == pytest.approx(2.0)


def test_large_jobs_wait_for_memory_and_small_ones_for_slots():
    world = Simulation({"a": 8})
    taught(world, 5)
    for number in range(9):
        world.job(f"large {number}", 5, memory_mib=1500)  # two at once
    world.job("small", 5)
    for number in range(5):
        world.job(f"runs {number}", 5)
    world.carry_out()
    world.job("small and last", 5)

    waits = [world.ledger.queue_info(name).wait_s for name in ("large 8", "small and last")]
    world.run()

    assert waits == pytest.approx([20, 5], abs=5)
    assert [world.waited(name) for name in ("large 8", "small and last")] == pytest.approx(waits, abs=5)


def test_a_small_job_waits_for_the_memory_of_a_large_one_that_runs():
    world = Simulation({"a": 8})
    taught(world, 5)
    world.job("large", 5, memory_mib=4096)
    world.carry_out()
    world.job("small", 5)
    world.carry_out()

    assert world.ledger.queue_info("small") == (0, pytest.approx(5))


def test_when_it_is_not_known_how_long_the_large_job_runs_the_wait_for_its_memory_is_unknown():
    world = Simulation({"a": 8})
    world.job("large", 5, memory_mib=4096)
    world.carry_out()
    world.job("small", 5)
    world.carry_out()

    assert world.ledger.queue_info("small") == (0, None)


def test_hosts_that_are_down_do_not_count_and_when_all_are_down_the_wait_is_unknown():
    world = Simulation({"a": 1, "b": 1})
    taught(world, 4)
    world.ledger.host_down("b", "no route")
    for number in range(5):
        world.job(f"j{number}", 4)
    world.carry_out()
    assert world.ledger.queue_info("j4").wait_s == pytest.approx(16)

    world.ledger.host_down("a", "no route")

    assert world.ledger.queue_info("j4") == (3, None)


def test_before_any_host_has_answered_the_wait_is_unknown():
    driver = Driver({"a": 2}, up=False)
    driver.accept("first"), driver.accept("second")

    assert driver.ledger.queue_info("second") == (1, None)


# ---- what is not known


def test_a_wait_is_unknown_until_three_jobs_of_the_kind_have_ended():
    world = Simulation({"a": 1})
    for number in range(6):
        world.job(f"j{number}", 4)
    known = []
    for ended in range(4):
        world.run(until=4 * ended)
        known.append(world.ledger.queue_info("j5").wait_s)

    assert known == [None, None, None, pytest.approx(8)]


def test_the_own_kind_of_a_job_need_not_be_known():
    world = Simulation({"a": 1})
    taught(world, 4)
    world.job("runs", 4)
    world.carry_out()
    world.job("never seen before", 7)

    assert world.ledger.queue_info("never seen before").wait_s == pytest.approx(4)


def test_a_free_slot_is_told_whatever_runs_beside_it():
    world = Simulation({"a": 2})
    world.job("runs", 7)
    world.carry_out()
    world.job("next", 7)

    assert world.ledger.queue_info("next") == (0, 0.0)


def test_a_few_unknown_jobs_among_many_known_ones_count_with_half_of_their_limit():
    world = Simulation({"a": 1})
    taught(world, 10)
    for number in range(30):
        world.job(f"known {number}", 10)
    world.job("unknown", 1, wall_time_s=20)
    for number in range(10):
        world.job(f"later {number}", 10)
    world.carry_out()

    assert world.ledger.queue_info("later 9").wait_s == pytest.approx(400)
    world.run()
    assert world.waited("later 9") == pytest.approx(391)


def test_many_unknown_jobs_make_the_wait_of_those_behind_them_unknown():
    world = Simulation({"a": 1})
    taught(world, 10)
    for number in range(10):
        world.job(f"known {number}", 10)
    for number in range(5):
        world.job(f"unknown {number}", 1)
    world.job("last", 10)
    world.carry_out()

    assert world.ledger.queue_info("known 9").wait_s == pytest.approx(90)
    assert world.ledger.queue_info("last") == (14, None)


# ---- how good it is


KINDS = {"quick": 2.0, "medium": 6.0, "slow": 20.0}


def comes(world: Simulation, dice: random.Random, number: int, launchers: int, priorities: int = 1) -> str:
    """A job of some kind, which takes half as long as its kind, or half as long again, or anything between."""
    kind = dice.choice(list(KINDS))
    launcher, priority = f"l{dice.randrange(launchers)}", dice.randrange(priorities)
    takes_s = KINDS[kind] * dice.uniform(0.5, 1.5)
    world.job(f"j{number}", takes_s, kind=kind, launcher=launcher, priority=priority, wall_time_s=60)
    return f"j{number}"


def told_to_real(hosts: dict[str, int], *, launchers: int, load: float, seed: int) -> list[float]:
    """Under a load that does not change: what each job is told as it comes, to what it waits, if that is more than one run."""
    dice = random.Random(seed)
    world = Simulation(hosts)
    told: dict[str, float | None] = {}
    per_second = load * sum(hosts.values()) / statistics.mean(KINDS.values())

    def come(number: int) -> None:
        job_id = comes(world, dice, number, launchers)
        world.carry_out()
        told[job_id] = world.ledger.queue_info(job_id).wait_s

    at = 0.0
    for number in range(int(2000 * per_second)):
        at += dice.expovariate(per_second)
        world.at(at, lambda number=number: come(number))
    world.run()
    known = {job_id: wait_s for job_id, wait_s in told.items() if wait_s is not None}
    return [wait_s / world.waited(job_id) for job_id, wait_s in known.items() if world.waited(job_id) > 10]


@pytest.mark.parametrize("hosts", [{"a": 4, "b": 4}, {"a": 1}], ids=["two hosts", "one slot"])
@pytest.mark.parametrize("load", [0.95, 1.05])
def test_what_one_launcher_is_told_under_a_load_that_does_not_change_is_right_within_a_factor_of_two(hosts, load):
    ratios = told_to_real(hosts, launchers=1, load=load, seed=1)

    assert len(ratios) > 100
    assert sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios) >= 0.95
    assert 0.8 <= statistics.median(ratios) <= 1.25


def test_what_each_of_several_launchers_is_told_is_seldom_too_long_and_mostly_within_a_factor_of_two():
    """What arrives later may have a turn before what waits, and is not foreseen."""
    ratios = told_to_real({"a": 4, "b": 4}, launchers=6, load=1.05, seed=1)

    assert len(ratios) > 100
    assert sum(ratio <= 1.25 for ratio in ratios) / len(ratios) >= 0.95
    assert sum(ratio >= 0.5 for ratio in ratios) / len(ratios) >= 0.6


@pytest.mark.parametrize("seed", range(4))
def test_when_nothing_more_arrives_what_was_told_is_right_whatever_waits(seed):
    dice = random.Random(seed)
    world = Simulation({"a": 3, "b": 5})
    for number in range(400):
        comes(world, dice, number, launchers=5, priorities=3)
    world.run(until=60)  # by then it is known what each kind takes
    waiting = {job.job_id: world.ledger.queue_info(job.job_id).wait_s for job in world.ledger.snapshot()[1]}

    world.run()

    ratios = [wait_s / (world.started[job_id] - 60) for job_id, wait_s in waiting.items() if world.started[job_id] > 70]
    assert len(ratios) > 200
    assert sum(0.67 <= ratio <= 1.5 for ratio in ratios) / len(ratios) >= 0.9


# ---- what it costs


def test_with_a_long_queue_the_forecast_is_used_again_for_a_while_and_a_new_job_has_a_new_one():
    world = Simulation({"a": 1})
    for number in range(2000):
        world.job(f"j{number}")
    world.run(until=world.now)
    assert world.ledger.queue_info("j1999").jobs_before == 1998
    first = world.ledger._forecaster._last
    world.ledger.kill("j5", KillReason.KILL_JOB)

    assert world.ledger.queue_info("j1999").jobs_before == 1998
    assert world.ledger.queue_info("j5") is None
    assert world.ledger._forecaster._last is first
    world.job("new")
    assert world.ledger.queue_info("new").jobs_before == 1998
    world.driver.clock.now += 0.03
    assert world.ledger.queue_info("j1999").jobs_before == 1997
    world.driver.clock.now += 0.03
    world.ledger.tick()
    assert world.ledger._forecaster._last is None  # it would keep alive what is remembered of jobs that are gone


def test_with_a_short_queue_every_answer_is_that_of_the_moment():
    world = Simulation({"a": 1})
    for number in range(50):
        world.job(f"j{number}")
    world.run(until=world.now)
    for number in range(1, 49):
        assert world.ledger.queue_info("j49").jobs_before == 49 - number
        world.ledger.kill(f"j{number}", KillReason.KILL_JOB)
