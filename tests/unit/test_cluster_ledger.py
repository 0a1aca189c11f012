"""The cluster's ledger: it places as the in-process ledger does, and nodes come and go under it."""

from __future__ import annotations

import random

import pytest

from dev.queue_simulation import PYTHON, Clock, QueueSimulation
from jobmanager.errors import UnknownEnvironment, Unsatisfiable
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.cluster import NO_NODE_S, ClusterLedger, EndingKind
from jobmanager.scheduling.fair_shares import PriorityStanding
from tests.unit.cluster_simulation import ClusterSimulation, cluster_job, node
from tests.unit.ledger_driver import C


class World:
    """A cluster's ledger and its clock."""

    def __init__(self, **slots: int) -> None:
        self.clock = Clock()
        self.ledger = ClusterLedger(self.clock, self.clock.wall)
        for name, count in slots.items():
            self.ledger.set_node(node(name, count))

    def wait(self, *keys: str, **job):
        """Jobs that wait; the ending of the last one's supersede."""
        ending = None
        for key in keys:
            ending = self.ledger.add_waiting(cluster_job(key, **job))
        return ending

    def placed(self) -> dict[str, str]:
        return dict(self.ledger.placements())

    def later(self, seconds: float):
        self.clock.now += seconds
        return self.ledger.tick()


# ---- the same as in one process


HOSTS = {"a": 1, "b": 2, "c": 3, "d": 2}
IMAGES = {"a": (PYTHON,), "b": (PYTHON, C), "c": (C,), "d": (PYTHON, C)}


def story(world, kill, seed: int) -> None:
    """The same things happen at the same times in any world."""
    dice = random.Random(seed)
    for number in range(400):
        arguments = {
            "takes_s": dice.choice([0.5, 1, 3, 20]),
            "launcher": f"l{dice.randrange(5)}",
            "priority": dice.choice([0, 0, 0, 1, 7]),
            "environment": dice.choice(["python3", "c", "python:3"]),
            "memory_mib": dice.choice([64, 64, 64, 700, 2100, 4000]),
            "wall_time_s": dice.choice([30, 100]),
            "supersede_key": dice.choice([None] * 12 + ["x", "y"]),
        }
        world.at(dice.uniform(0, 250), lambda name=f"j{number}", given=arguments: world.job(name, **given))
    for number in dice.sample(range(400), 40):
        world.at(dice.uniform(1, 250), lambda name=f"j{number}": kill(name))


@pytest.mark.parametrize("seed", range(8))
def test_it_gives_the_same_jobs_to_the_same_hosts_in_the_same_order_as_the_ledger_of_one_process(seed):
    one, cluster = QueueSimulation.of(HOSTS, IMAGES), ClusterSimulation(HOSTS, IMAGES)
    story(one, lambda job_id: job_id not in one.started and one.ledger.kill(job_id, KillReason.KILL_JOB), seed)
    story(cluster, lambda job_id: job_id not in cluster.started and cluster.kill(job_id), seed)

    one.run()
    cluster.run()

    assert len(cluster.order()) > 300
    assert list(one.host.items()) == list(cluster.host.items())
    assert one.started == cluster.started
    assert {job_id for job_id in one.ended if job_id not in one.started} >= {ending.key for ending in cluster.endings}
    assert cluster.endings and len(cluster.ledger) == 0


@pytest.mark.parametrize("seed", range(3))
def test_it_foresees_the_same_order_and_the_same_waits(seed):
    one, cluster = QueueSimulation.of(HOSTS, IMAGES), ClusterSimulation(HOSTS, IMAGES)
    for world in (one, cluster):
        story(world, lambda _: None, seed)
        world.run(until=100)
    waiting = [job.job_id for job in one.ledger.snapshot()[1]]

    assert [listing.job.job_id for listing in cluster.ledger.snapshot()[1]] == waiting and len(waiting) > 20
    assert [cluster.ledger.queue_info(key) for key in waiting] == [one.ledger.queue_info(key) for key in waiting]
    running = [job.job_id for job in one.ledger.snapshot()[0]]
    assert sorted(listing.job.job_id for listing in cluster.ledger.snapshot()[0]) == sorted(running)
    assert all(cluster.ledger.queue_info(key).jobs_before == -1 for key in running)


def test_launchers_of_all_clients_share():
    world = ClusterSimulation({"n": 1})
    for number in range(50):
        world.job(f"ann {number}", launcher="ann", client="web1")
    world.job("bob", launcher="bob", client="web2")
    world.run(until=4)
    assert world.started["bob"] <= 2


# ---- nodes


def test_the_least_loaded_node_is_first():
    world = World(a=4, b=4)
    world.wait("1", "2", "3", "4")
    assert sorted(world.placed().values()) == ["a", "a", "b", "b"]


def test_a_node_that_comes_takes_what_waits():
    world = World()
    world.wait("1")
    assert not world.placed()
    assert world.ledger.snapshot()[1][0].job.info == "some, waits for a node: there is none"
    world.ledger.set_node(node("n"))
    assert world.placed() == {"1": "n"}


def test_a_node_that_grows_takes_more_and_one_that_shrinks_takes_nothing_until_there_is_room():
    world = World(n=1)
    world.wait("1", "2", "3")
    assert len(world.placed()) == 1
    world.ledger.set_node(node("n", 2))
    assert len(world.placed()) == 1
    world.ledger.set_node(node("n", 1))
    world.ledger.ended("1", ran=True)
    assert not world.placed()
    world.ledger.ended("2", ran=True)
    assert world.placed() == {"3": "n"}


def test_a_node_that_takes_no_jobs_is_known_and_what_only_it_can_run_waits_and_says_for_what():
    world = World(a=1)
    world.ledger.set_node(node("b", 1, C, takes_jobs=False, reason="drained"))
    world.wait("1", environment="c")
    assert world.ledger.refusal(cluster_job("x", environment="c").requirements) is None
    assert not world.placed() and not world.later(NO_NODE_S + 1) and not world.later(NO_NODE_S + 1)
    assert world.ledger.snapshot()[1][0].job.info == "some, waits for node b (drained)"
    assert world.ledger.environments() == {"docker": ["python3"]}
    (b,) = (host for host in world.ledger.hosts() if host.name == "b")
    assert (b.up, b.reason, b.environments) == (False, "drained", ("c",))

    world.ledger.set_node(node("b", 1, C))

    assert world.placed() == {"1": "b"}


def test_a_node_that_was_dropped_while_it_had_jobs_has_them_again_when_it_is_back():
    world = World(a=2)
    world.wait("1", "2", "3")
    world.placed()
    world.ledger.drop_node("a")
    assert world.ledger.placed_on("a") == ["1", "2"]
    assert world.ledger.queue_info("3").jobs_before == 0
    world.ledger.set_node(node("a", 2))
    assert not world.placed()
    world.ledger.ended("1", ran=True)
    assert world.placed() == {"3": "a"}


def test_jobs_of_a_node_that_was_dropped_can_end_and_be_put_back():
    world = World(a=2)
    world.wait("1", "2")
    world.placed()
    world.ledger.drop_node("a")
    world.ledger.ended("1", ran=False)
    assert world.ledger.put_back("2") is None
    world.ledger.set_node(node("b"))
    assert world.placed() == {"2": "b"} and len(world.ledger) == 1


def test_an_image_reference_is_found_by_its_full_name():
    world = World(a=2)
    world.ledger.set_node(node("b", 1, images=frozenset({"docker.io/library/gcc:13", "debian:latest"}), environments=frozenset()))
    world.wait("1", environment="gcc:13")
    assert world.placed() == {"1": "b"}
    world.wait("2", environment="debian")
    world.ledger.ended("1", ran=True)
    assert world.placed() == {"2": "b"}


def test_what_no_node_could_run_is_refused_with_the_known_names():
    world = World(a=1)
    refusal = world.ledger.refusal(cluster_job("x", environment="ruby").requirements)
    assert isinstance(refusal, UnknownEnvironment)
    assert str(refusal) == "no node has the environment or image 'ruby'; known: python3, python:3"
    refusal = world.ledger.refusal(cluster_job("x", memory_mib=9999).requirements)
    assert isinstance(refusal, Unsatisfiable) and "the largest node has 4096 MiB and 4 cores" in str(refusal)


def test_memory_that_a_node_reports_as_taken_is_not_promised_twice_nor_waited_for_once_it_is_free():
    world = World()
    world.ledger.set_node(node("n", 9, free_memory_mib=3000))  # 4096: something else is there
    world.wait("1", "2", memory_mib=1500)
    assert world.placed() == {"1": "n", "2": "n"}
    for _ in range(2):
        world.ledger.set_node(node("n", 9, free_memory_mib=0))
    world.wait("3", memory_mib=1000)
    assert not world.placed()
    assert "node n has 0 MiB" in world.ledger.snapshot()[1][0].job.info
    world.ledger.ended("1", ran=True)  # its next report is still to come
    assert world.placed() == {"3": "n"}


def test_large_jobs_are_not_kept_waiting_by_small_ones():
    world = ClusterSimulation({"n": 8})
    for number in range(2000):
        world.at(number * 0.25, lambda name=f"small {number}": world.job(name, 4.0, memory_mib=512, wall_time_s=8))
    world.at(10, lambda: world.job("large", 5.0, memory_mib=3800, launcher="bob", wall_time_s=20))
    world.run(until=400)
    assert world.waited("large") < 120


# ---- what comes back


def test_a_job_that_its_node_gave_back_has_its_place_again_and_not_that_node():
    world = World(a=1, b=1)
    world.wait("1", "2", "3", "4")
    where = world.placed()
    world.ledger.put_back("1", {where["1"]}, "its image is gone")
    assert [listing.job.job_id for listing in world.ledger.snapshot()[1]] == ["1", "3", "4"]
    assert world.placed() == {"3": where["1"]}
    world.ledger.ended("2", ran=True)
    assert world.placed() == {"1": where["2"]}


def test_a_job_that_every_node_gave_back_ends_after_a_while_and_says_why():
    world = World(a=1)
    world.wait("1")
    world.placed()
    world.ledger.put_back("1", {"a"}, "its image is gone")
    assert not world.placed() and not world.later(1) and not world.later(NO_NODE_S - 2)
    (ending,) = world.later(2)
    assert (ending.key, ending.kind) == ("1", EndingKind.NO_NODE)
    assert ending.text == "no node could start it (a: its image is gone)"
    assert "1" not in world.ledger and not len(world.ledger)


def test_a_job_whose_environment_no_node_has_any_more_ends_after_a_while():
    world = World(a=1)
    world.wait("1", environment="c")
    world.later(1)
    world.ledger.set_node(node("b", 1, C, takes_jobs=False, reason="silent"))
    assert not world.later(NO_NODE_S + 1)
    world.ledger.drop_node("b")
    assert not world.later(1)
    (ending,) = world.later(NO_NODE_S)
    assert ending.text == "no node has the environment or image 'c'; known: python3, python:3"


def test_while_there_is_no_node_at_all_jobs_wait():
    world = World()
    world.wait("1", queue_timeout_s=100)
    assert not world.later(1) and not world.later(NO_NODE_S * 2)
    (ending,) = world.later(60)
    assert ending.kind is EndingKind.QUEUE_TIMEOUT
    assert ending.text == "waited longer than 100 s while no node was up that could run it (waits for a node: there is none)"


def test_each_job_has_its_own_time_in_the_queue_and_it_runs_while_no_node_is_up_that_could_run_it():
    world = World(a=1)
    world.wait("0")
    world.placed()
    world.wait("1", queue_timeout_s=50)
    world.wait("2", queue_timeout_s=10)
    assert not world.later(1000)
    world.ledger.set_node(node("a", takes_jobs=False, reason="paused"))
    assert not world.later(9)
    world.ledger.set_node(node("a", 1))
    assert not world.later(1000)
    world.ledger.set_node(node("a", takes_jobs=False, reason="paused"))
    assert [ending.key for ending in world.later(2)] == ["2"]
    world.ledger.drop_node("a")
    assert [ending.key for ending in world.later(40)] == ["1"]
    assert list(world.ledger.waiting()) == []


def test_another_leader_counts_the_time_in_the_queue_anew():
    world = World()
    world.ledger.add_waiting(cluster_job("1", queue_timeout_s=100), accepted_at=world.clock.now - 99)
    assert not world.later(99)
    assert [ending.key for ending in world.later(2)] == ["1"]


def test_a_placed_job_has_no_time_in_the_queue_until_it_waits_again():
    world = World(a=1)
    world.wait("1", queue_timeout_s=10)
    world.placed()
    assert not world.later(60)
    world.ledger.put_back("1")
    world.ledger.set_node(node("a", takes_jobs=False, reason="paused"))
    assert not world.later(9)
    assert [ending.key for ending in world.later(2)] == ["1"]


# ---- supersede


def test_a_newer_job_takes_the_place_of_the_older_one_whoever_sent_it():
    world = World(a=1)
    world.wait("0")
    world.placed()
    world.wait("old", supersede_key="k", launcher="l", client="web1")
    world.wait("other", launcher="l")
    ending = world.wait("new", supersede_key="k", launcher="l", client="web2")
    assert (ending.key, ending.kind, ending.text) == ("old", EndingKind.SUPERSEDED, "new")
    assert [listing.job.job_id for listing in world.ledger.snapshot()[1]] == ["new", "other"]


def test_an_older_job_that_is_heard_of_later_ends_itself():
    world = World()
    world.wait("new", supersede_key="k")
    ending = world.ledger.add_waiting(cluster_job("old", supersede_key="k"), accepted_at=world.clock.now - 5)
    assert ending.key == "old" and world.ledger.waiting() == ["new"]


def test_a_job_that_comes_back_ends_when_a_newer_one_waits():
    world = World(a=1)
    world.wait("old", supersede_key="k")
    world.placed()
    assert world.wait("new", supersede_key="k") is None
    ending = world.ledger.put_back("old")
    assert (ending.key, ending.text) == ("old", "new")
    assert "old" not in world.ledger and world.placed() == {"new": "a"}


# ---- another leader


def test_placed_jobs_of_an_earlier_leader_hold_their_slots_and_their_cost():
    world = World(a=2)
    world.ledger.add_placed(cluster_job("p1", launcher="ann"), "a", since=world.clock.now - 30)
    world.ledger.add_placed(cluster_job("p2", launcher="ann"), "gone", since=world.clock.now)
    world.wait("ann's", launcher="ann")
    world.wait("bob's", launcher="bob")
    assert world.placed() == {"bob's": "a"}
    assert world.ledger.queue_info("p1") == (-1, 70.0)
    world.ledger.put_back("p2")
    assert [listing.job.job_id for listing in world.ledger.snapshot()[1]] == ["p2", "ann's"]


def test_jobs_are_in_the_order_of_their_acceptance_whenever_they_are_heard_of():
    world = World()
    now = world.clock.now
    for key, ago in (("2", 20), ("1", 30), ("3", 10)):
        world.ledger.add_waiting(cluster_job(key), accepted_at=now - ago)
    world.wait("4")
    world.ledger.set_node(node("a", 4))
    assert list(world.placed()) == ["1", "2", "3", "4"]


def test_the_next_leader_goes_on_with_what_launchers_have_used():
    world = World(a=1)
    for number in range(3):
        world.wait(f"ann {number}", launcher="ann")
        world.placed()
        world.clock.now += 50
        world.ledger.ended(f"ann {number}", ran=True)
    world.wait("bob", launcher="bob")
    world.wait("held", launcher="ann", priority=-1)
    world.placed()
    standings = world.ledger.standings()
    assert standings == [PriorityStanding(priority=0, virtual_time_s=100.0, used_s={"ann": 150.0})]

    after = World(a=1)
    after.ledger.restore(standings)
    after.wait("ann", launcher="ann")
    after.wait("bob", launcher="bob")

    assert after.placed() == {"bob": "a"}


def test_standings_that_make_no_sense_do_no_harm():
    world = World(a=1)
    world.ledger.restore([PriorityStanding(priority=0, virtual_time_s=9.0, used_s={"ann": 3.0})])
    world.ledger.restore([PriorityStanding(priority=1, virtual_time_s=0.0, used_s={f"l{n}": 1.0 for n in range(20_000)})])
    world.wait("1")
    assert world.placed() == {"1": "a"} and not world.ledger.standings()


# ---- what is not there


def test_words_about_unknown_jobs_change_nothing():
    world = World(a=1)
    world.ledger.ended("x", ran=True)
    assert world.ledger.put_back("x") is None
    assert world.ledger.queue_info("x") is None and world.ledger.job("x") is None and world.ledger.node_of("x") == ""
    world.wait("1")
    assert world.ledger.put_back("1") is None and world.ledger.waiting() == ["1"]
    world.ledger.drop_node("x")
    assert world.placed() == {"1": "a"}
    world.ledger.not_placed("1")
    assert "1" not in world.ledger and world.ledger.hosts()[0].running == 0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_no_slot_is_lost_or_taken_twice(seed):
    dice, world = random.Random(seed), World(a=2, b=3)
    nodes = {"a": 2, "b": 3, "c": 4}
    for number in range(1500):
        known = [*world.ledger.waiting(), *(key for name in nodes for key in world.ledger.placed_on(name))]
        some = dice.choice(known) if known else "none"
        name = dice.choice(list(nodes))
        what = dice.randrange(8)
        if what < 3:
            key = dice.choice([None, None, "k"])
            world.wait(f"j{number}", memory_mib=dice.choice([64, 900]), supersede_key=key, queue_timeout_s=60)
        elif what == 3:
            world.ledger.ended(some, ran=dice.random() < 0.5)
        elif what == 4:
            world.ledger.put_back(some, dice.choice([(), {name}]))
        elif what == 5:
            world.ledger.drop_node(name)
        elif what == 6:
            world.ledger.set_node(node(name, nodes[name], takes_jobs=dice.random() < 0.8, reason="paused"))
        else:
            world.later(dice.uniform(0, 10))
        world.placed()
        for host in world.ledger.hosts():
            assert host.running == len(world.ledger.placed_on(host.name)) <= nodes[host.name]
            assert host.free_memory_mib >= 0
        assert len(world.ledger) == world.ledger.waiting_count() + sum(len(world.ledger.placed_on(name)) for name in nodes)
