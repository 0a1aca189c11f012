"""Admission by memory: a job goes where its memory is free, waits where it is not, and holds up nobody meanwhile."""

from __future__ import annotations

import os
from dataclasses import replace

import psutil
import pytest

from jobmanager import DockerHost
from jobmanager.model.container import EngineInfo
from jobmanager.model.host import Address
from jobmanager.results.verdict import KillReason
from jobmanager.watching.host_monitor import _with_available_memory
from tests.unit.ledger_driver import PYTHON, Driver


def gone(driver: Driver, job_id: str) -> None:
    """A job that runs ends, and its container is removed."""
    container = next(watch.container for watch in driver.watches() if watch.request.job_id == job_id)
    driver.end(container)
    driver.ledger.container_deleted(container)


def free(driver: Driver, host: str = "a") -> int:
    return next(record.free_memory_mib for record in driver.ledger.hosts() if record.name == host)


def waits_with(driver: Driver) -> dict[str, str]:
    """What the listing tells of each waiting job."""
    return {job.job_id: job.info for job in driver.ledger.snapshot()[1]}


# ---- what a host has, less what was promised


def test_no_more_memory_is_promised_than_a_host_has():
    driver = Driver({"a": 20})
    for number in range(10):
        driver.accept(f"j{number}", memory_mib=1000)

    assert driver.placed() == {f"j{number}": "a" for number in range(4)}
    assert free(driver) == 96


def test_promised_memory_is_free_again_when_the_container_is_gone_and_no_sooner():
    driver = Driver({"a": 20})
    driver.accept("first", memory_mib=3000)
    container = driver.run("first")
    driver.accept("second", memory_mib=3000)

    driver.end(container)
    assert driver.placed() == {}
    assert driver.deletes() == [container]
    driver.ledger.container_deleted(container)

    assert driver.placed() == {"second": "a"}


def test_a_large_job_that_waits_for_memory_holds_up_no_small_one_that_came_later():
    driver = Driver({"a": 20})
    driver.accept("runs", memory_mib=3000)
    driver.run("runs")

    driver.accept("large", memory_mib=2500, priority=-5)
    driver.accept("as large", memory_mib=2500, priority=-5)
    driver.accept("small", memory_mib=64)

    assert driver.placed() == {"small": "a"}
    gone(driver, "runs")
    assert driver.placed() == {"large": "a"}


def test_a_job_goes_to_a_busier_host_when_the_idle_one_lacks_the_memory():
    driver = Driver({"idle": 20, "busy": 20})
    driver.answers("idle", memory_mib=8192, available_mib=500)
    driver.accept("runs", memory_mib=1500)
    assert driver.run("runs")

    driver.accept("j", memory_mib=2000)

    assert driver.placed() == {"j": "busy"}


def test_a_job_that_is_killed_before_it_began_keeps_its_memory_until_its_container_is_gone():
    driver = Driver({"a": 20})
    driver.accept("killed", memory_mib=4000)
    container = driver.place("killed")
    driver.accept("j", memory_mib=4000)

    driver.ledger.kill("killed", KillReason.KILL_JOB)
    driver.runs(container)
    assert driver.placed() == {}
    driver.ledger.container_deleted(container)

    assert driver.placed() == {"j": "a"}


def test_a_host_that_comes_back_still_owes_what_it_had_promised():
    driver = Driver({"a": 20})
    driver.accept("runs", memory_mib=4000)
    driver.run("runs")
    driver.accept("j", memory_mib=4000)

    driver.ledger.host_down("a", "no route")
    driver.answers("a")
    assert driver.placed() == {}

    gone(driver, "runs")
    assert driver.placed() == {"j": "a"}


# ---- what a host says is available


def test_a_host_that_others_have_filled_gets_no_job_for_which_too_little_is_left():
    driver = Driver({"a": 20})
    driver.answers("a", memory_mib=4096, available_mib=500)
    driver.accept("large", memory_mib=501)
    driver.accept("small", memory_mib=500)

    assert driver.placed() == {"small": "a"}

    driver.answers("a", available_mib=1001)  # it cannot have seen the small one yet: that has only just been placed
    assert driver.placed() == {"large": "a"}


def test_what_was_placed_since_the_last_look_is_taken_off_what_is_available():
    driver = Driver({"a": 20})
    driver.answers("a", available_mib=1000)
    for number in range(5):
        driver.accept(f"j{number}", memory_mib=400)

    assert driver.placed() == {"j0": "a", "j1": "a"}
    assert free(driver) == 200


def test_a_look_that_was_under_way_when_a_container_was_placed_has_not_seen_it():
    driver = Driver({"a": 20})
    driver.answers("a", available_mib=1000)
    driver.accept("first", memory_mib=800)
    driver.run("first")
    driver.accept("second", memory_mib=800)

    driver.answers("a", available_mib=1000)
    assert driver.placed() == {}
    driver.answers("a", available_mib=1000)  # this one has, and the first job uses next to nothing

    assert driver.placed() == {"second": "a"}


def test_a_container_that_came_and_went_between_two_looks_leaves_what_is_available_as_it_was():
    driver = Driver({"a": 20})
    driver.answers("a", available_mib=1000)
    for number in range(50):
        driver.accept(f"j{number}", memory_mib=800)
        driver.run(f"j{number}")
        gone(driver, f"j{number}")

    assert free(driver) == 1000


def test_however_much_is_available_no_more_is_promised_than_the_host_has():
    driver = Driver({"a": 20})
    for number in range(3):
        driver.accept(f"j{number}", memory_mib=2000)
    assert driver.placed() == {"j0": "a", "j1": "a"}

    for _ in range(3):
        driver.answers("a", available_mib=4096)  # they use next to nothing of it

    assert driver.placed() == {}
    assert free(driver) == 96


# ---- looking sooner


def test_a_host_is_looked_at_again_while_nothing_but_its_last_look_keeps_a_job_waiting():
    driver = Driver({"a": 20, "b": 20})
    driver.answers("a", available_mib=500)
    driver.answers("b", memory_mib=400)
    driver.accept("j", memory_mib=600)

    driver.ledger.tick()
    assert driver.looks() == ["a"]

    driver.answers("a", available_mib=600)
    assert driver.placed() == {"j": "a"}
    driver.ledger.tick()
    assert driver.looks() == []


def test_no_look_is_ordered_for_memory_that_is_promised():
    driver = Driver({"a": 2})
    driver.accept("runs", memory_mib=4000)
    driver.run("runs")
    driver.answers("a", available_mib=50)
    driver.accept("j", memory_mib=97)

    driver.ledger.tick()

    assert driver.looks() == []


def test_no_look_is_ordered_at_a_host_without_a_free_slot():
    driver = Driver({"a": 1})
    driver.accept("runs")
    driver.run("runs")
    driver.answers("a", available_mib=50)
    driver.accept("j", memory_mib=60)

    driver.ledger.tick()

    assert driver.looks() == []


def test_no_look_is_ordered_when_the_job_that_waited_has_left():
    driver = Driver({"a": 1})
    driver.answers("a", available_mib=50)
    driver.accept("j", memory_mib=60)
    assert driver.placed() == {}
    driver.ledger.kill("j", KillReason.KILL_JOB)

    driver.ledger.tick()

    assert driver.looks() == []


# ---- what a user is told


def test_a_job_that_waits_for_memory_has_all_time_while_its_hosts_are_up_and_the_listing_tells_what_they_have():
    driver = Driver({"a": 20, "b": 20, "away": 1}, queue_timeout_s=100.0)
    driver.answers("a", memory_mib=8192, available_mib=1200)
    driver.ledger.host_down("away", "no route")
    driver.accept("runs", memory_mib=4000)  # takes b
    driver.run("runs")
    driver.accept("j", memory_mib=4000)

    driver.clock.now += 1e5
    driver.ledger.tick()

    assert driver.results("j") == []
    assert waits_with(driver)["j"].startswith("python3, waits for 4000 MiB of free memory; host a has 1200 MiB, host b has 96 MiB")


def test_a_job_that_waited_too_long_for_something_else_does_not_blame_the_memory():
    driver = Driver({"a": 1, "b": 1}, queue_timeout_s=100.0, host_lost_timeout_s=1e4)
    driver.answers("a", available_mib=10)
    driver.accept("runs", wall_time_s=1000)
    driver.run("runs")
    driver.accept("j")  # b has the memory, and no slot

    assert waits_with(driver) == {"j": "python3"}
    driver.ledger.host_down("a", "no route")
    driver.ledger.host_down("b", "no route")
    driver.clock.now += 101
    driver.ledger.tick()

    assert "memory" not in driver.result("j").verdict.text


def test_only_the_hosts_with_the_most_free_memory_are_named():
    driver = Driver({f"h{number}": 1 for number in range(50)})
    for number in range(50):
        driver.answers(f"h{number}", available_mib=number)
    driver.accept("j", memory_mib=60)

    assert waits_with(driver) == {
        "j": "python3, waits for 60 MiB of free memory; host h49 has 49 MiB, host h48 has 48 MiB, host h47 has 47 MiB"
    }


def test_the_listing_tells_which_jobs_wait_for_memory_and_hosts_tell_what_they_have():
    driver = Driver({"a": 20})
    driver.answers("a", memory_mib=8192, available_mib=2000)
    driver.accept("large", memory_mib=4000)
    driver.accept("small", memory_mib=100)
    driver.run("small")

    assert waits_with(driver) == {"large": "python3, waits for 4000 MiB of free memory; host a has 1900 MiB"}
    (host,) = driver.ledger.hosts()
    assert (host.memory_mib, host.free_memory_mib) == (8192, 1900)


def test_a_host_that_has_never_answered_says_nothing_of_memory():
    (host,) = Driver({"a": 1}, up=False).ledger.hosts()

    assert (host.memory_mib, host.free_memory_mib) == (0, 0)


def test_more_memory_used_than_was_thought_is_told_as_none_free():
    driver = Driver([DockerHost("unix:///s", name="a")])
    driver.accept("j", memory_mib=1000)
    driver.run("j")
    driver.answers("a", PYTHON, available_mib=10)

    assert free(driver) == 0


# ---- whose memory the kernel tells


HERE = EngineInfo(
    version="20.10",
    cores=1,
    memory_mib=psutil.virtual_memory().total // 2**20,
    now_s=0.0,
    cgroup="2",
    kernel=os.uname().release,
)
SOCKET = Address(host="a", url="unix:///var/run/docker.sock")


def test_an_engine_behind_a_unix_socket_with_this_machine_s_memory_and_kernel_has_this_machine_s_free_memory():
    found = _with_available_memory(HERE, SOCKET).available_memory_mib

    assert found is not None
    assert 0 < found < HERE.memory_mib


@pytest.mark.parametrize(
    ("info", "address"),
    [
        (replace(HERE, kernel="6.6.1-linuxkit"), SOCKET),
        (replace(HERE, memory_mib=HERE.memory_mib - 1), SOCKET),
        (HERE, replace(SOCKET, tunnelled=True)),
        (HERE, replace(SOCKET, url="tcp://127.0.0.1:2376")),
        (replace(HERE, kernel=""), replace(SOCKET, url="fake:///engine.sock")),
    ],
    ids=["a virtual machine", "another machine", "a tunnel to a machine of the same kind", "tcp", "a fake"],
)
def test_of_an_engine_that_may_be_elsewhere_nothing_tells_what_is_free(info, address):
    assert _with_available_memory(info, address).available_memory_mib is None
