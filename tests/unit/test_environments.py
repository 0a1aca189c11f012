"""Environments: which are there now, and which of several images of one name is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager import DockerHost, HookManager, Outcome, Task
from jobmanager.control.environment_reporter import EnvironmentReporter
from jobmanager.errors import UnknownEnvironment
from jobmanager.ipc.messages import StartFailed
from jobmanager.model.container import Image
from jobmanager.results.verdict import KillReason
from jobmanager.threads.log_thread import drain
from tests.unit.ledger_driver import PYTHON, C, Driver

NEWER = Image(id="sha256:new", references=("python:4",), labels=PYTHON.labels, created_at_s=2.0)
SAME_NAME_NEWER = Image(id="sha256:new", references=("python:3",), labels={}, created_at_s=2.0)


def older_versions(driver: Driver) -> dict[str, tuple[str, ...]]:
    return {host.name: host.older_versions for host in driver.ledger.hosts()}


def images_of(driver: Driver) -> dict[str, str]:
    """Jobs placed just now, and their images."""
    return {order.request.job_id: order.image for order in driver.submits()}


def test_an_image_that_gets_its_name_after_it_was_seen_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver({"a": 1, "b": 1})
    reporter = EnvironmentReporter(driver.ledger, HookManager())
    for host, image in (("a", PYTHON), ("b", replace(NEWER, references=())), ("b", NEWER)):
        driver.answers(host, image)
        reporter.host_answered(host, (image,), was_down=False)

    assert drain(30)
    (told,) = (record.getMessage() for record in caplog.records)
    assert "environment python3 is several images" in told


# ---- hosts that come and go


def test_an_environment_is_available_while_a_host_that_has_it_is_up():
    driver = Driver({"a": 1, "b": 1}, aliases={"cc": "gcc:13"}, up=False)
    assert driver.ledger.environments() == {"docker": []}

    driver.answers("a", PYTHON)
    driver.answers("b", PYTHON, C)
    assert driver.ledger.environments() == {"docker": ["c", "cc", "python3"]}

    driver.ledger.host_down("b", "away")
    assert driver.ledger.environments() == {"docker": ["python3"]}
    assert [host.environments for host in driver.ledger.hosts()] == [("python3",), ("c", "cc", "python3")]

    driver.answers("b", PYTHON, C)
    assert driver.ledger.environments() == {"docker": ["c", "cc", "python3"]}


def test_a_job_for_an_environment_whose_hosts_are_all_down_is_taken_and_waits_as_long_as_any_may():
    driver = Driver({"a": 1, "b": 1}, queue_timeout_s=100.0)
    driver.answers("b", C)
    driver.ledger.host_down("b", "away")

    driver.accept("first", Task("c"))
    assert driver.placed() == {}
    driver.clock.now += 101
    driver.ledger.tick()
    assert driver.result("first").verdict.outcome is Outcome.CRASH

    driver.accept("second", Task("c"))
    driver.answers("b", C)
    assert driver.placed() == {"second": "b"}


def test_an_empty_label_names_nothing():
    driver = Driver({"a": 1}, up=False)

    driver.answers("a", Image(id="sha256:e", references=("e:1",), labels={"jobmanager.environment": ""}, created_at_s=1.0))

    assert driver.ledger.environments() == {"docker": []}


def test_an_environment_goes_with_its_image_and_comes_back_with_it():
    driver = Driver({"a": 1}, aliases={"cc": "gcc:13"})
    driver.answers("a", C)
    driver.answers("a", PYTHON)
    assert driver.ledger.environments() == {"docker": ["python3"]}
    with pytest.raises(UnknownEnvironment):
        driver.accept("j", Task("c"))

    driver.answers("a", C)

    assert driver.ledger.environments() == {"docker": ["c", "cc"]}


# ---- several versions


def test_between_hosts_the_newest_version_is_taken_and_waited_for():
    driver = Driver({"older": 4, "newer": 1})
    driver.answers("newer", NEWER)

    for number in range(3):
        driver.accept(f"j{number}")

    assert driver.placed() == {"j0": "newer"}
    driver.finish("jobmanager-m-1-1")
    assert driver.placed() == {"j1": "newer"}


def test_an_older_version_is_taken_while_no_host_with_the_newest_is_up():
    driver = Driver({"older": 4, "newer": 4})
    driver.answers("newer", NEWER)
    driver.ledger.host_down("newer", "away")
    driver.accept("first")
    assert images_of(driver) == {"first": PYTHON.id}

    driver.answers("newer", NEWER)
    driver.accept("second")
    assert images_of(driver) == {"second": NEWER.id}


def test_a_job_that_is_too_large_for_the_host_with_the_newest_version_runs_in_an_older_one():
    driver = Driver({"older": 4, "newer": 4})
    driver.answers("newer", NEWER, memory_mib=512)

    driver.accept("large", memory_mib=1024)
    driver.accept("small", memory_mib=64)

    assert images_of(driver) == {"large": PYTHON.id, "small": NEWER.id}


def test_a_job_that_the_host_with_the_newest_version_could_not_start_runs_in_an_older_one():
    driver = Driver({"older": 4, "newer": 4})
    driver.answers("newer", NEWER)
    driver.accept("j")
    container = driver.place("j")

    driver.start_reported(container, StartFailed(reason="no such runtime", unreachable=False))

    assert images_of(driver) == {"j": PYTHON.id}


def test_images_that_an_alias_names_on_several_hosts_are_versions_too():
    driver = Driver({"older": 4, "newer": 4}, aliases={"mine": "python:3"})
    driver.answers("newer", SAME_NAME_NEWER)

    driver.accept("j", Task("mine"))

    assert driver.placed() == {"j": "newer"}
    assert set(driver.ledger.versions()) == {"mine"}
    assert older_versions(driver) == {"older": ("mine",), "newer": ()}


def test_an_image_that_a_task_names_itself_is_taken_wherever_it_is():
    driver = Driver({"older": 1, "newer": 1})
    driver.answers("newer", SAME_NAME_NEWER)

    driver.accept("first", Task("python:3"))
    driver.accept("second", Task("python:3"))

    assert sorted(driver.placed().values()) == ["newer", "older"]
    assert driver.ledger.versions() == {}


def test_a_host_that_may_fetch_an_image_is_not_behind_one_that_has_it():
    hosts = [
        DockerHost("unix:///s", name="has", max_concurrent_jobs=1),
        DockerHost("unix:///t", name="may", max_concurrent_jobs=1, pull="missing"),
    ]
    driver = Driver(hosts, aliases={"mine": "python:3"})
    driver.answers("may", C)

    driver.accept("first", Task("mine"))
    driver.accept("second", Task("mine"))

    assert sorted(driver.placed().values()) == ["has", "may"]


@pytest.mark.parametrize(
    "copy",
    [
        Image(id="sha256:of the index", references=("python:3",), labels=PYTHON.labels, created_at_s=PYTHON.created_at_s),
        Image(id=PYTHON.id, references=("python:3",), labels=PYTHON.labels, created_at_s=9.0),
    ],
    ids=["another id", "another time"],
)
def test_copies_of_one_image_are_no_versions_whatever_engines_say_of_them(copy):
    driver = Driver({"a": 1, "b": 1})
    driver.answers("b", copy)

    driver.accept("first")
    driver.accept("second")

    assert sorted(driver.placed().values()) == ["a", "b"]
    assert driver.ledger.versions() == {}
    assert older_versions(driver) == {"a": (), "b": ()}


def test_versions_are_told_the_newest_first_and_hosts_tell_what_they_have_an_older_one_of():
    driver = Driver({"older": 1, "both": 1, "newest": 1, "other": 1})
    driver.answers("both", PYTHON, NEWER)
    driver.answers("newest", NEWER)
    driver.answers("other", C)

    (versions,) = driver.ledger.versions().values()

    assert [(version.host, version.image) for version in versions] == [
        ("both", NEWER),
        ("newest", NEWER),
        ("older", PYTHON),
        ("both", PYTHON),
    ]
    assert older_versions(driver) == {"older": ("python3",), "both": ("python3",), "newest": (), "other": ()}


def test_when_the_last_older_version_is_gone_there_are_no_versions_any_more():
    driver = Driver({"older": 1, "newer": 1})
    driver.answers("newer", NEWER)
    assert set(driver.ledger.versions()) == {"python3"}

    driver.answers("older", NEWER)

    assert driver.ledger.versions() == {}
    assert older_versions(driver) == {"older": (), "newer": ()}


def test_a_job_that_waits_for_memory_on_the_host_with_the_newest_version_says_so():
    driver = Driver({"older": 4, "newer": 4})
    driver.answers("newer", NEWER, available_mib=10)
    driver.accept("j", memory_mib=100)

    assert driver.placed() == {}
    (waiting,) = driver.ledger.snapshot()[1]
    assert waiting.info == "python3, waits for 100 MiB of free memory; host newer has 10 MiB"
    assert driver.ledger.kill("j", KillReason.KILL_JOB)
