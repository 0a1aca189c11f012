"""What the manager knows of its waiters: which containers each has, whatever becomes of their jobs."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import DockerHost, Limits
from jobmanager.control import waiters as waiters_module
from jobmanager.control.waiters import Waiters
from jobmanager.ipc.messages import KillContainer, MonitorContainer
from jobmanager.model.host import Address


class RecordedChild:
    """A child that only remembers what it was told."""

    made: list[RecordedChild]

    def __init__(self, *_: object) -> None:
        self.told: list[Any] = []
        self.made.append(self)

    def send(self, message: object) -> None:
        self.told.append(message)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[RecordedChild]:
    monkeypatch.setattr(RecordedChild, "made", [], raising=False)
    monkeypatch.setattr(waiters_module, "Child", RecordedChild)
    return RecordedChild.made


def two_hosts() -> Waiters:
    hosts = [DockerHost("unix:///s", name=name) for name in "ab"]
    waiters = Waiters(
        lambda _: None, hosts, manager_id="m", engine_timeout_s=1.0, host_lost_timeout_s=1.0, cannot_start=lambda *_: None
    )
    waiters.start({name: Address(host=name, url="unix:///s") for name in "ab"})
    return waiters


def run_of(job_id: str, container: str) -> MonitorContainer:
    return MonitorContainer(
        job_id=job_id,
        container_id="c",
        container_name=container,
        command="true",
        env={},
        files={},
        stdin=b"",
        limits=Limits(),
        collect=(),
    )


def test_a_late_report_of_a_jobs_earlier_container_takes_nothing_from_the_waiter_of_its_later_one(children):
    """As when a run was given up as overdue, and its waiter had only been slow."""
    waiters = two_hosts()
    waiters.monitor("a", run_of("j", "first"))
    waiters.monitor("b", run_of("j", "second"))

    waiters.run_ended("first")
    waiters.kill("second")

    kills = [message for message in children[1].told if isinstance(message, KillContainer)]
    assert kills == [KillContainer(container_name="second")]
    assert waiters.child_exited(children[1]).containers == ("second",)
    assert waiters.child_exited(children[0]).containers == ()


def test_a_waiter_that_dies_is_said_to_have_died_over_the_first_of_what_it_had_not_read(children):
    waiters = two_hosts()
    for container in ("read", "poison", "behind"):
        waiters.monitor("a", run_of("j", container))
    waiters.message_received(children[0])
    waiters.acknowledged("read")

    lost = waiters.child_exited(children[0])

    assert (lost.over, lost.containers) == ("poison", ("behind", "poison", "read"))


def test_a_waiter_that_dies_before_its_first_word_or_having_read_all_dies_over_nothing(children):
    waiters = two_hosts()
    waiters.monitor("a", run_of("j", "unread"))
    waiters.monitor("b", run_of("k", "ended"))
    waiters.message_received(children[1])
    waiters.run_ended("ended")

    assert [waiters.child_exited(child).over for child in children[:2]] == ["", ""]


@pytest.mark.parametrize("error", [OSError("no more processes"), MemoryError()])
def test_a_waiter_that_cannot_be_started_is_started_later_and_the_others_at_once(children, monkeypatch, error):
    left = [error]

    def refuse_once(*arguments):
        if left:
            raise left.pop()
        return RecordedChild(*arguments)

    monkeypatch.setattr(waiters_module, "Child", refuse_once)
    now, silent = [0.0], []
    hosts = [DockerHost("unix:///s", name=name) for name in "ab"]
    waiters = Waiters(
        lambda _: None,
        hosts,
        manager_id="m",
        engine_timeout_s=1.0,
        host_lost_timeout_s=1.0,
        cannot_start=lambda host, why: silent.append(host),
        clock=lambda: now[0],
    )
    waiters.start({name: Address(host=name, url="unix:///s") for name in "ab"})
    assert (silent, len(children)) == (["a"], 1)

    now[0] = 10.0
    waiters.run_due()

    assert len(children) == 2
