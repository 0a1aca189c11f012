"""The outbox of a waiter: what it says reaches a manager that stands still when that goes on, and holds up nobody meanwhile."""

from __future__ import annotations

import logging
from collections import deque
from multiprocessing.connection import Pipe

import pytest

from jobmanager.ipc.messages import (
    Heartbeat,
    HostReachable,
    HostUnreachable,
    LimitReached,
    LogMessage,
    ProgramStarted,
    RunEnded,
    UnknownContainers,
)
from jobmanager.model.container import EngineInfo
from jobmanager.results.facts import Collected, Limit, LimitHit
from jobmanager.watching import outbox
from jobmanager.watching.outbox import Outbox
from tests.support.run_facts import cut_off, failed_here

ANSWERS = HostReachable(info=EngineInfo(version="20.10", cores=2, memory_mib=1024, now_s=1.0, cgroup="2"), images=())
LARGE = RunEnded(job_id="large", container_name="large", facts=cut_off(collected=Collected(archive=bytes(2**23))))
STOPS = LimitReached(container_name="c", limit_hit=LimitHit(limit=Limit.WALL, measured=1.0))


class Pair:
    """An outbox and the manager's end of its pipe."""

    def __init__(self):
        self.manager, self._child = Pipe()
        self.outbox = Outbox(self._child)
        self.outbox.start()

    def received(self, count):
        assert self.manager.poll(10)
        return [self.manager.recv() for _ in range(count)]

    def close(self):
        """The manager goes; what still waits is written to nobody, so that the thread has nothing to do any more."""
        self.manager.close()
        self.outbox.drain(10)
        self._child.close()


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.close()


def log_line(text):
    return LogMessage(record=logging.makeLogRecord({"msg": text}))


def test_what_is_said_comes_whole_and_in_order(pair):
    said = [ProgramStarted(container_name=str(number)) for number in range(100)] + [LARGE, STOPS, Heartbeat()]
    for message in said[:-2]:
        pair.outbox.send(message)
    assert pair.received(101) == said[:-2]
    for message in said[-2:]:
        pair.outbox.send(message)
    assert pair.received(2) == said[-2:]


def test_while_the_manager_stands_still_nobody_waits_for_a_report_that_fills_the_pipe(pair):
    pair.outbox.send(LARGE)
    for number in range(100):
        pair.outbox.send(ProgramStarted(container_name=str(number)))
    pair.outbox.send(STOPS)  # comes back after a moment, though its word is not out

    assert pair.received(102) == [LARGE, *(ProgramStarted(container_name=str(number)) for number in range(100)), STOPS]


def test_what_waits_for_a_manager_that_stands_still_is_bounded(pair, monkeypatch):
    monkeypatch.setattr(outbox, "_MAX_LOG_MESSAGES", 5)
    monkeypatch.setattr(outbox, "_URGENT_S", 0.0)
    pair.outbox.send(LARGE)
    for number in range(10):
        unknown = UnknownContainers(names=(str(number),))
        for message in (Heartbeat(), ANSWERS, HostUnreachable(reason=str(number)), unknown, log_line(str(number))):
            pair.outbox.send(message)
    pair.outbox.send(ANSWERS)

    *before, last = pair.received(9)

    others = [message for message in before if not isinstance(message, LogMessage)]
    assert others == [LARGE, Heartbeat(), UnknownContainers(names=("9",))]
    assert [message.record.getMessage() for message in before if isinstance(message, LogMessage)] == list("01234")
    assert last == ANSWERS


class Unpicklable(str):
    def __reduce__(self):
        raise MemoryError("no room")


def test_a_report_that_cannot_be_sent_costs_its_job_and_the_next_one_comes(pair):
    pair.outbox.send(RunEnded(job_id="j", container_name="c", facts=failed_here(Unpicklable("x"))))
    pair.outbox.send(ProgramStarted(container_name=Unpicklable("x")))
    pair.outbox.send(ProgramStarted(container_name="next"))

    ended, following = pair.received(2)

    assert (ended.job_id, ended.container_name) == ("j", "c")
    assert ended.facts == failed_here("its report cannot be sent: MemoryError: no room")
    assert following == ProgramStarted(container_name="next")


def test_when_the_manager_has_gone_what_is_said_is_lost_and_nothing_waits(pair):
    pair.manager.close()
    for _ in range(3):
        pair.outbox.send(STOPS)
    pair.outbox.drain(10)

    assert not pair.outbox._waiting


def test_who_must_know_that_it_is_written_writes_itself_and_nothing_is_overtaken(pair):
    """A small report is written by its sender where nothing waits; behind another one it waits its turn."""
    assert pair.outbox.send(STOPS)
    assert pair.outbox._waiting == deque() and pair.received(1) == [STOPS]

    pair.outbox.send(LARGE)
    pair.outbox.send(STOPS)
    assert pair.received(2) == [LARGE, STOPS]


def test_a_full_pipe_holds_up_no_sender_for_long(pair):
    small = RunEnded(job_id="j", container_name="c", facts=cut_off(collected=Collected(archive=bytes(2**14))))
    written = 0
    while pair.outbox.send(small):
        written += 1
    assert 5 < written < 500

    assert pair.received(written + 1) == [small] * (written + 1)
    assert pair.outbox.send(STOPS)
    assert pair.received(1) == [STOPS]


def test_a_sender_without_memory_leaves_it_to_the_thread(pair, monkeypatch):
    def no_memory():
        raise MemoryError

    monkeypatch.setattr(pair.outbox, "_takes_more", no_memory)
    assert pair.outbox.send(STOPS)
    assert pair.received(1) == [STOPS]
