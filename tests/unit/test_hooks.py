"""Hooks: told in order, and whatever they do harms no job."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from jobmanager import HookManager, JobInput, JobResult, Outcome, Task, events, hooks
from jobmanager.errors import InvalidValue
from jobmanager.threads.log_thread import drain
from tests.conftest import our_threads


def queued(number):
    return events.JobQueued(at_s=0.0, job_id=f"j{number}", launcher="x", priority=0, task=Task("x"), inputs=JobInput())


HOST_UP = events.HostUp(at_s=0.0, host="h")


def test_hooks_are_called_in_the_order_of_events_for_the_types_that_they_asked_for():
    manager, jobs, everything = HookManager(), [], []
    manager.add(events.JobQueued, jobs.append)
    manager.add(events.Event, everything.append)
    fired = [queued(0), HOST_UP, queued(1), queued(2)]

    for event in fired:
        manager.fire(event)
    manager.drain(10)

    assert everything == fired
    assert jobs == [fired[0], fired[2], fired[3]]


def test_without_hooks_there_is_no_thread():
    manager = HookManager()
    manager.fire(HOST_UP)
    manager.add(events.JobQueued, print)
    manager.fire(HOST_UP)

    assert our_threads() == []
    assert not manager.wants(events.HostUp)
    assert manager.wants(events.JobQueued)
    manager.drain(0)


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_hook_that_raises_anything_is_logged_and_the_others_and_later_events_come_through(caplog, error):
    manager, got = HookManager(), []

    def raises(event):
        raise error

    manager.add(events.HostUp, raises)
    manager.add(events.HostUp, got.append)
    with caplog.at_level(logging.ERROR, "jobmanager"):
        for _ in range(3):
            manager.fire(HOST_UP)
        manager.drain(10)

    assert got == [HOST_UP] * 3
    assert drain(10)
    assert len(caplog.records) == 3
    assert "failed on HostUp" in caplog.text


def test_a_slow_hook_holds_up_nobody_who_fires_and_loses_nothing():
    manager, gate, got = HookManager(), threading.Event(), []
    manager.add(events.JobQueued, lambda event: gate.wait(30) and got.append(event.job_id))
    for number in range(1000):
        manager.fire(queued(number))
    assert got == []

    gate.set()
    manager.drain(10)

    assert got == [f"j{number}" for number in range(1000)]


def test_what_waits_for_a_slow_hook_is_bounded_and_what_is_dropped_is_said(monkeypatch, caplog):
    monkeypatch.setattr(hooks, "_MAX_WAITING", 5)
    manager, gate, begun, got = HookManager(), threading.Event(), threading.Event(), []

    def slow(event):
        begun.set()
        gate.wait(30)
        got.append(event.job_id)

    manager.add(events.JobQueued, slow)
    manager.fire(queued(0))
    begun.wait(10)
    for number in range(1, 10):
        manager.fire(queued(number))
    gate.set()
    manager.drain(10)

    assert got == [f"j{number}" for number in range(6)]
    assert drain(10)
    assert caplog.text.count("dropped JobQueued") == 4


def test_a_hook_that_hangs_is_left_behind_when_it_is_drained():
    manager, gate, begun = HookManager(), threading.Event(), threading.Event()
    manager.add(events.HostUp, lambda event: begun.set() or gate.wait(30))
    manager.fire(HOST_UP)
    begun.wait(10)

    manager.drain(0.01)

    assert our_threads() == ["jobmanager-hooks"]
    gate.set()  # and its thread ends as soon as it returns: the fixture looks


def test_a_hook_that_hangs_before_a_full_queue_ends_its_thread_too(monkeypatch):
    monkeypatch.setattr(hooks, "_MAX_WAITING", 3)
    manager, gate, begun = HookManager(), threading.Event(), threading.Event()
    manager.add(events.HostUp, lambda event: begun.set() or gate.wait(30))
    for _ in range(2):
        manager.fire(HOST_UP)
        begun.wait(10)
    for _ in range(9):
        manager.fire(HOST_UP)

    manager.drain(0.01)
    gate.set()


def test_draining_inside_a_hook_does_not_wait_for_itself_and_leaves_no_thread():
    manager, drained = HookManager(), threading.Event()
    manager.add(events.HostUp, lambda event: manager.drain(30) or drained.set())

    manager.fire(HOST_UP)

    assert drained.wait(10)


def test_after_draining_hooks_can_be_told_again():
    manager, got = HookManager(), queue.SimpleQueue()
    manager.add(events.HostUp, got.put)
    for _ in range(3):
        manager.fire(HOST_UP)
        assert got.get(timeout=10) == HOST_UP
        manager.drain(10)

    assert our_threads() == []


@pytest.mark.case(53)
def test_a_thread_that_cannot_be_started_costs_the_event_and_nothing_else(monkeypatch, caplog):
    manager = HookManager()
    manager.add(events.HostUp, print)

    def no_more(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    manager.fire(HOST_UP)
    monkeypatch.undo()

    assert drain(10)
    assert "can't start new thread" in caplog.text
    got = []
    manager.add(events.HostUp, got.append)
    manager.fire(HOST_UP)
    manager.drain(10)
    assert got == [HOST_UP]


@pytest.mark.parametrize("bad", [int, None, "JobQueued", HOST_UP, JobResult])
def test_a_hook_is_for_a_type_of_event(bad):
    with pytest.raises(InvalidValue, match="a hook is for a type of event"):
        HookManager().add(bad, print)


def test_a_hook_must_be_callable():
    with pytest.raises(InvalidValue, match="must be callable, not 5"):
        HookManager().add(events.Event, 5)


def test_every_event_is_told_to_who_asks_for_all():
    kinds = [getattr(events, name) for name in events.__all__]

    assert all(issubclass(kind, events.Event) and kind.__dataclass_params__.frozen for kind in kinds)
    assert len(kinds) > 5
    ended = events.JobEnded(at_s=1.0, job_id="j", result=JobResult(job_id="j", outcome=Outcome.SUCCESS, stdout=b"secret"))
    assert "secret" not in repr(ended)
