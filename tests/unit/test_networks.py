"""A network that no host has is refused at the call, as an image is; where it is not known, the job is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dev.queue_simulation import PYTHON
from jobmanager import (
    Case,
    DockerHost,
    Grader,
    HookManager,
    Interactor,
    JobManager,
    Limits,
    Network,
    Outcome,
    Phase,
    Pipeline,
    Task,
)
from jobmanager.errors import Unsatisfiable
from jobmanager.model.container import EngineInfo
from jobmanager.remote.cluster_view import ClusterView, SeenNode
from jobmanager.remote.records import Needs, NodeReport
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import NodeFields
from jobmanager.testing import FakeEngineServer
from jobmanager.testing.fake.client import FakeEngine
from jobmanager.watching.host_monitor import _networks
from tests.unit.cluster_simulation import cluster_job, node
from tests.unit.ledger_driver import Driver
from tests.unit.test_cluster_ledger import World
from tests.unit.test_cluster_view import NEEDS, report

INFO = EngineInfo(version="20.10", cores=4, memory_mib=4096, now_s=0.0, cgroup="2")
COURSE = Task("python3", command="true", network="course")


# ---- what a task needs


def test_a_task_needs_the_networks_that_it_names_and_no_others() -> None:
    talks = Interactor(Task("python3", command="true", network="talk"))
    assert Task("x").networks == Task("x", network=Network.BRIDGE).networks == Task("x", network="loopback").networks == frozenset()
    assert COURSE.networks == {"course"}
    assert Task("x", grader=Grader("g", student_network="lab"), network="course").networks == {"course", "lab"}
    assert Task("x", command="a", cases=[Case(check=talks)], network="course").networks == {"course", "talk"}
    pipeline = Pipeline([Phase("a", COURSE), Phase("b", replace(COURSE, network="lab")), Phase("c", Task("x"))])
    assert pipeline.networks == {"course", "lab"}


@pytest.mark.parametrize("id_", ["0123456789ab", "0123456789abcdef" * 4])
def test_an_id_is_taken_as_it_is(id_: str) -> None:
    assert Task("x", network=id_).networks == frozenset()


# ---- the ledger of one process


def driver_with(**networks: frozenset[str] | None) -> Driver:
    driver = Driver(dict.fromkeys(networks, 1), up=False)
    for name, known in networks.items():
        driver.ledger.host_answered(name, INFO, [PYTHON], networks=known)
    return driver


def test_a_network_that_no_host_has_is_refused_with_the_known_ones() -> None:
    driver = driver_with(a=frozenset({"bridge", "lab"}), b=frozenset({"bridge"}))
    with pytest.raises(Unsatisfiable) as raised:
        driver.accept("j", COURSE)
    assert str(raised.value) == "no host that has its environment has the network 'course'; there are: bridge, lab"


def test_a_job_goes_to_a_host_that_has_its_network() -> None:
    driver = driver_with(a=frozenset({"bridge"}), b=frozenset({"course"}))
    driver.accept("1", COURSE)
    driver.accept("2", Task("python3", command="true"))
    assert driver.placed() == {"1": "b", "2": "a"}


def test_a_job_is_taken_while_a_hosts_networks_are_not_known_or_it_has_not_answered() -> None:
    driver_with(a=None).accept("j", COURSE)
    Driver({"a": 1}, up=False).accept("j", COURSE)


def test_a_job_waits_for_a_host_that_is_down_and_had_its_network() -> None:
    driver = driver_with(a=frozenset({"course"}), b=frozenset())
    driver.ledger.host_down("a", "gone")
    driver.accept("j", COURSE)
    assert driver.placed() == {}
    driver.ledger.host_answered("a", INFO, [PYTHON], networks=frozenset({"course"}))
    assert driver.placed() == {"j": "a"}


def test_a_job_taken_before_its_host_had_answered_ends_with_the_reason() -> None:
    driver = Driver({"a": 1}, up=False)
    driver.accept("j", COURSE)
    driver.ledger.host_answered("a", INFO, [PYTHON], networks=frozenset({"bridge"}))
    assert "has the network 'course'; there are: bridge" in driver.result("j").verdict.text


# ---- a cluster


def test_a_cluster_places_by_networks_and_refuses_in_the_same_words() -> None:
    world = World()
    world.ledger.set_node(node("a", 1, networks=frozenset({"bridge"})))
    world.ledger.set_node(node("b", 1, networks=frozenset({"course"})))
    wanted = replace(cluster_job("1").requirements, networks=frozenset({"course"}))
    world.ledger.add_waiting(replace(cluster_job("1"), requirements=wanted))
    assert world.placed() == {"1": "b"}
    refusal = world.ledger.refusal(replace(wanted, networks=frozenset({"no"})))
    assert isinstance(refusal, Unsatisfiable)
    assert str(refusal) == "no node that has its environment has the network 'no'; there are: bridge, course"
    refusal = world.ledger.refusal(replace(wanted, networks=frozenset({"bridge", "course"})))
    assert "has the network 'bridge' together with 'course'; there are: " in str(refusal)


def test_a_client_refuses_what_no_node_has_said_to_have() -> None:
    needs = replace(NEEDS, networks=("course",))
    assert SeenNode(report=report(), reason="").could_run(needs)  # an earlier version says nothing of them
    signer = Keyring.parse("5a" * 32).signer("exam")
    view = ClusterView(signer, HookManager(), silent_s=15.0)
    envelope = signer.sign("report", replace(report(), networks=("bridge",)).to_json())
    view.update([NodeFields(name="n", report=envelope, incarnation="i", beats=1, want="up", is_claimed=True, seen_s=0.0)])
    assert view.refusal(NEEDS) is None
    assert str(view.refusal(needs)) == "no node that has its environment has the network 'course'; there are: bridge"


def test_networks_are_read_from_messages_and_may_be_missing_there() -> None:
    for networks in (None, (), ("a", "b")):
        assert NodeReport.from_json(replace(report(), networks=networks).to_json()).networks == networks
    assert Needs.from_json(replace(NEEDS, networks=("a",)).to_json()).networks == ("a",)
    assert Needs.from_json('{"environment":"x","memory_mib":1,"cpus":1,"wall_s":1}').networks == ()


# ---- with a fake engine


def test_a_manager_knows_the_networks_of_its_hosts() -> None:
    with FakeEngineServer(networks=["course"]) as fake, JobManager(DockerHost(fake.url)) as manager:
        course = Task("busybox", command="true", network="course", limits=Limits(cpu_time_s=5))
        assert manager.submit(course).result(20).outcome is Outcome.SUCCESS
        with pytest.raises(Unsatisfiable, match=r"has the network 'nonet'; there are: bridge, course$"):
            manager.submit(replace(course, network="nonet"))
        with pytest.raises(Unsatisfiable, match="network 'nonet'"):
            manager.submit(Pipeline([Phase("a", course), Phase("b", replace(course, network="nonet"))]))


def test_a_host_that_does_not_list_its_networks_takes_every_job() -> None:
    with FakeEngineServer() as fake:
        fake.faults.refuse("networks", "403 forbidden", times=1000)
        with JobManager(DockerHost(fake.url)) as manager:
            result = manager.submit(replace(COURSE, environment="busybox")).result(60)
    assert (result.outcome, "network course not found" in result.text) == (Outcome.CRASH, True)


def test_a_swarm_lists_not_all_its_networks() -> None:
    assert _networks(FakeEngine.__new__(FakeEngine), replace(INFO, in_swarm=True)) is None
