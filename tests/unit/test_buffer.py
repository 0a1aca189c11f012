"""``ClientBuffer``: every id that it gave is known until its result is fetched or has expired."""

from __future__ import annotations

import threading

import pytest

from jobmanager import ClientBuffer, Outcome, Task
from jobmanager.errors import InvalidValue, QueueFull, UnknownJob
from tests.unit.ledger_driver import Clock
from tests.unit.stub_client import StubClient

TASK = Task("x")


def test_a_job_waits_until_it_is_done_and_its_result_is_fetched_once():
    client = StubClient()
    buffer = ClientBuffer(client)

    job_id = buffer.new_job(TASK, {"q": "a"}, priority=3, launcher_name="ann", debug=True, supersede_key="k")
    assert (buffer.is_waiting(job_id), buffer.is_done(job_id)) == (True, False)
    given = client.jobs[job_id]
    assert (given.task, given.inputdata, given.priority, given.launcher_name, given.debug) == (TASK, {"q": "a"}, 3, "ann", True)
    assert given.supersede_key == "k"

    client.finish(job_id, Outcome.FAILED)
    assert (buffer.is_waiting(job_id), buffer.is_done(job_id)) == (False, True)
    assert buffer.get_result(job_id).outcome is Outcome.FAILED
    for ask in (buffer.get_result, buffer.is_done, buffer.is_waiting):
        with pytest.raises(UnknownJob, match=job_id):
            ask(job_id)


def test_an_unknown_id_raises_wherever_it_is_given():
    buffer = ClientBuffer(StubClient())

    for ask in (buffer.get_result, buffer.is_done, buffer.is_waiting):
        with pytest.raises(UnknownJob, match="nobody"):
            ask("nobody")
        with pytest.raises(LookupError):
            ask("nobody")


def test_the_result_of_a_job_that_is_not_done_raises_and_takes_nothing_away():
    client = StubClient()
    buffer = ClientBuffer(client)
    job_id = buffer.new_job(TASK)

    with pytest.raises(UnknownJob):
        buffer.get_result(job_id)

    assert buffer.is_waiting(job_id)
    client.finish(job_id)
    assert buffer.get_result(job_id).job_id == job_id


def test_a_callback_that_is_quicker_than_new_job_is_not_lost():
    buffer = ClientBuffer(StubClient(fast=True))

    job_id = buffer.new_job(TASK)

    assert buffer.is_done(job_id)
    assert buffer.get_result(job_id).job_id == job_id


def test_a_job_that_was_refused_leaves_nothing_behind():
    buffer = ClientBuffer(StubClient(error=QueueFull("full")))

    with pytest.raises(QueueFull):
        buffer.new_job(TASK)

    assert not buffer._waiting
    assert not buffer._done


def test_a_result_that_nobody_fetches_expires_and_a_waiting_job_does_not():
    client, clock = StubClient(), Clock()
    buffer = ClientBuffer(client, keep_results_s=60.0, clock=clock)
    early, late, never = (buffer.new_job(TASK) for _ in range(3))
    client.finish(early)
    clock.now += 40
    client.finish(late)

    clock.now += 20
    assert buffer.is_done(early)
    clock.now += 0.1
    with pytest.raises(UnknownJob, match="has expired"):
        buffer.is_done(early)
    assert buffer.get_result(late).job_id == late
    clock.now += 1e6
    assert buffer.is_waiting(never)


def test_expired_results_are_let_go_without_being_asked_for():
    client, clock = StubClient(fast=True), Clock()
    buffer = ClientBuffer(client, keep_results_s=10.0, clock=clock)

    for _ in range(500):
        clock.now += 1
        buffer.new_job(TASK)

    assert len(buffer._done) <= 11


def test_without_a_limit_results_are_kept_for_ever():
    client, clock = StubClient(fast=True), Clock()
    buffer = ClientBuffer(client, clock=clock)
    job_id = buffer.new_job(TASK)

    clock.now += 1e9

    assert buffer.is_done(job_id)


@pytest.mark.parametrize("bad", [0, -1, "60", float("nan"), True])
def test_how_long_results_are_kept_must_be_a_number_above_zero(bad):
    with pytest.raises(InvalidValue, match="keep_results_s"):
        ClientBuffer(StubClient(), keep_results_s=bad)


def test_many_threads_lose_nothing():
    client = StubClient(fast=True)
    buffer = ClientBuffer(client)
    fetched = []

    def work():
        for _ in range(100):
            job_id = buffer.new_job(TASK)
            assert buffer.is_done(job_id)
            fetched.append(buffer.get_result(job_id).job_id == job_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert fetched == [True] * 400
    assert not buffer._waiting
    assert not buffer._done
