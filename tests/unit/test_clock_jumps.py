"""Clocks that are set forwards or back by an hour while jobs wait and run."""

from __future__ import annotations

import dataclasses
import time

import pytest

from jobmanager import Limits
from jobmanager.engine import labels as labels_module
from jobmanager.engine.labels import Owner, abandonment_reason, labels
from jobmanager.engine.protocol import Chunk, NotRunning
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerInfo, ContainerStatus, EngineInfo
from jobmanager.watching.monitor import ContainerMonitor
from tests.unit.ledger_driver import Driver

pytestmark = pytest.mark.case(44)

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forwards", "back"])
TOKEN = "0123456789abcdef"


@JUMPS
def test_a_jump_of_the_wall_clock_ends_no_job_that_waits_or_runs(jump_s, monkeypatch):
    driver = Driver({"a": 1}, queue_timeout_s=100, host_lost_timeout_s=10)
    driver.accept("runs", wall_time_s=50)
    driver.run("runs")
    driver.accept("waits")

    monkeypatch.setattr(driver.ledger, "_wall_clock", lambda: driver.clock.wall() + jump_s)
    driver.clock.now += 49
    driver.ledger.tick()

    assert not driver.results("runs") and not driver.results("waits")
    assert driver.ledger.queue_info("runs").wait_s == pytest.approx(1.0)


@JUMPS
def test_a_jump_of_the_wall_clock_moves_no_deadline_of_a_job(jump_s, monkeypatch):
    driver = Driver({"a": 1}, queue_timeout_s=100)
    driver.accept("runs", wall_time_s=50)
    driver.run("runs")
    driver.accept("waits")

    monkeypatch.setattr(driver.ledger, "_wall_clock", lambda: driver.clock.wall() + jump_s)
    driver.clock.now += 101
    driver.ledger.tick()

    assert driver.result("waits").verdict.evidence[0].kind == "queue_timeout"


@JUMPS
def test_an_owner_here_is_alive_or_dead_whatever_the_clocks_say(jump_s, monkeypatch):
    """A process is named by its start in ticks since the boot, which no clock that is set changes."""
    container = labels("m", "j", lease_s=60, owner=Owner.this_process())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    labels_module._boot.cache_clear()

    assert not abandonment_reason(container, created_at_s=real(), now_s=real() + jump_s)
    assert Owner.parse(container["jobmanager.owner"]) == Owner.this_process()


def test_a_lease_ends_by_the_engines_own_clock_and_not_by_ours(monkeypatch):
    """Of an owner on another machine. An engine's clock that is set forwards by more than the lease ends it early."""
    elsewhere = dataclasses.replace(Owner.this_process(), boot="another machine")
    container = labels("m", "j", lease_s=60, owner=elsewhere)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + HOUR_S)

    assert not abandonment_reason(container, created_at_s=1000.0, now_s=1059.0)
    assert not abandonment_reason(container, created_at_s=1000.0, now_s=1000.0 - HOUR_S)
    assert abandonment_reason(container, created_at_s=1000.0, now_s=1061.0)


class Stream:
    """A container's output: what it holds, then silence for so many reads, then its end."""

    def __init__(self, *chunks, silence=0):
        self._chunks, self._silence = list(chunks), silence

    def read(self, timeout_s):
        if self._chunks:
            return [self._chunks.pop(0)]
        self._silence -= 1
        return [] if self._silence >= 0 else None

    def close(self):
        pass


class StubEngine:
    """A container whose attached stream breaks; its engine's clock is set meanwhile."""

    def __init__(self, jump_s, *, restarted=False):
        self.now_s, self._jump_s = 5000.0, jump_s
        self._restarted = restarted
        self._started_at_s = self.now_s

    def attach(self, container):
        return Stream(said("got 1"), silence=2)

    def feed(self, container, payload, timeout_s, may_go_on):
        self.now_s += self._jump_s
        if self._restarted:
            self._started_at_s = self.now_s

    def logs(self, container):
        end = "end 7 2 - - - 0 -"
        return Stream(said("got 1"), Chunk(False, b"whole\n"), said(end), said(end, stderr=True), said("bye"))

    def inspect(self, container):
        return ContainerInfo(id="c", name="n", status=ContainerStatus.RUNNING, started_at_s=self._started_at_s)

    def info(self):
        return EngineInfo(version="20.10", cores=1, memory_mib=1, now_s=self.now_s, cgroup="1")

    def usage(self, container):
        return None

    def close(self):
        pass

    def kill(self, container):
        raise NotRunning("stub")


def said(words, *, stderr=False):
    return Chunk(stderr, f"\x1e{TOKEN} {words}\n".encode())


def watched(engine):
    job = MonitorContainer(
        job_id="j",
        container_id="c",
        container_name="n",
        token=TOKEN,
        command="true",
        env={},
        files={},
        stdin=b"",
        limits=Limits(wall_time_s=30),
        collect=(),
    )
    return ContainerMonitor(job, engine, host_lost_timeout_s=1.0, send=lambda _: None).run()


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, -0.5, 0.0])
def test_a_jump_of_the_engines_clock_is_no_restart_of_a_container_whose_connection_breaks(jump_s):
    facts = watched(StubEngine(jump_s))

    assert facts.end is not None and facts.end.exit_code == 7
    assert facts.output.stdout == b"whole\n"


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 1.0])
def test_a_restart_is_seen_whatever_the_engines_clock_says(jump_s):
    facts = watched(StubEngine(jump_s, restarted=True))

    assert facts.end is None
    assert facts.container is not None and facts.container.status is ContainerStatus.RUNNING
