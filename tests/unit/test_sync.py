"""``ClientSync``: a result or an exception, and a job for which nobody waits any more is killed."""

from __future__ import annotations

import threading

import pytest

from jobmanager import ClientSync, Outcome, Task, sync
from jobmanager.errors import InvalidTask, InvalidValue, JobTimeout
from tests.unit.stub_client import StubClient

TASK = Task("x")


def test_the_result_comes_back():
    client = StubClient(fast=True)

    result = ClientSync(client).new_job(TASK, {"q": "a"}, priority=1, launcher_name="ann", debug=True, supersede_key="k")

    assert result.outcome is Outcome.SUCCESS
    (given,) = client.jobs.values()
    assert (given.inputdata, given.priority, given.launcher_name, given.debug) == ({"q": "a"}, 1, "ann", True)
    assert given.supersede_key == "k"


def test_it_waits_for_a_job_that_ends_later():
    client = StubClient()
    results = []
    caller = threading.Thread(target=lambda: results.append(ClientSync(client).new_job(TASK, timeout_s=30)))
    caller.start()
    client.accepted.wait(10)
    assert results == []

    client.finish(*client.jobs, Outcome.TIMEOUT)
    caller.join(10)

    assert [result.outcome for result in results] == [Outcome.TIMEOUT]
    assert client.killed == []


def test_past_the_callers_patience_the_job_is_killed_and_it_raises():
    client = StubClient(dies_when_killed=True)

    with pytest.raises(JobTimeout, match=r"job \w{32} did not end within 0\.01 s and was killed"):
        ClientSync(client).new_job(TASK, timeout_s=0.01)

    assert client.killed == list(client.jobs)


def test_the_timeout_is_a_timeout_error():
    with pytest.raises(TimeoutError):
        ClientSync(StubClient()).new_job(TASK, timeout_s=0.01)


def test_ctrl_c_kills_the_job_and_comes_through(monkeypatch):
    class Interrupted:
        def put(self, result):
            pass

        def get(self, timeout=None):
            raise KeyboardInterrupt

    client = StubClient()
    monkeypatch.setattr(sync.queue, "SimpleQueue", Interrupted)

    with pytest.raises(KeyboardInterrupt):
        ClientSync(client).new_job(TASK)

    assert client.killed == list(client.jobs)


def test_an_interrupted_caller_kills_a_job_that_was_accepted_though_new_job_had_not_returned():
    class Interrupted(StubClient):
        def new_job(self, *args, **kwargs):
            super().new_job(*args, **kwargs)
            raise KeyboardInterrupt

    client = Interrupted()

    with pytest.raises(KeyboardInterrupt):
        ClientSync(client).new_job(TASK)

    assert client.killed == list(client.jobs) != []


@pytest.mark.parametrize("bad", [0, -1, "5", float("nan"), float("inf"), True])
def test_a_timeout_that_makes_no_sense_is_refused_before_anything_starts(bad):
    client = StubClient()

    with pytest.raises(InvalidValue, match="timeout_s"):
        ClientSync(client).new_job(TASK, timeout_s=bad)

    assert client.jobs == {}


def test_a_timeout_longer_than_the_system_can_wait_is_no_trouble():
    client = StubClient()
    ender = threading.Thread(target=lambda: client.accepted.wait(10) and client.finish(*client.jobs))
    ender.start()

    result = ClientSync(client).new_job(TASK, timeout_s=1e15)

    ender.join(10)
    assert result.outcome is Outcome.SUCCESS


def test_what_the_client_raises_comes_through():
    with pytest.raises(InvalidTask):
        ClientSync(StubClient(error=InvalidTask("no"))).new_job(TASK)
