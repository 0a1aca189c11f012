"""Clocks that are set forwards or back by an hour while jobs wait and run."""

from __future__ import annotations

import dataclasses
import time

import pytest

from jobmanager.engine import labels as labels_module
from jobmanager.engine.labels import Owner, abandonment_reason, labels
from tests.unit.ledger_driver import Driver

pytestmark = pytest.mark.case(44)

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forwards", "back"])


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
    driver.ledger.host_down("a", "no route")
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
