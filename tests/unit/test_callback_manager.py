"""Callback managers: each result once, whatever the callbacks do; who blocks, blocks its own thread."""

from __future__ import annotations

import logging
import os
import queue
import threading

import pytest

from jobmanager import ClientSync, JobInput, JobResult, Outcome, Task, _callback_manager
from jobmanager._callback_manager import CallbackManagers
from jobmanager.errors import WouldDeadlock
from jobmanager.model.job import Request, RunRequest
from jobmanager.model.result import Evidence
from jobmanager.results.verdict import Verdict
from jobmanager.scheduling.commands import PublishReady, PublishResult
from jobmanager.threads.deadlock_guard import refuse_inside_callback
from jobmanager.threads.log_thread import drain
from tests.conftest import eventually
from tests.unit.stub_client import StubClient


def done(job_id, callback=None, outcome=Outcome.SUCCESS):
    task = Task("x", command="true")
    runs = (RunRequest(task=task),)
    request = Request(job_id=job_id, task=task, inputs=JobInput(), runs=runs, priority=0, launcher_name="x", debug=False)
    verdict = Verdict(outcome=outcome, evidence=(Evidence(kind="k", value=1, source="s"),))
    return PublishResult(request=request, callback=callback, verdict=verdict, facts=None, host="h", timings={}, steps=())


class Managers:
    """Callback managers, and what they told."""

    def __init__(self, count):
        self.ended, self.called_back = queue.SimpleQueue(), queue.SimpleQueue()
        self.managers = CallbackManagers(count, on_result=self.ended.put, on_called_back=self.called_back.put)
        self.managers.start()

    def put(self, *args, **kwargs):
        self.managers.put(done(*args, **kwargs))

    def wait_for(self, number):
        """Ids of that many jobs that are over."""
        return [self.called_back.get(timeout=10) for _ in range(number)]


@pytest.fixture
def made():
    """Makes callback managers, and ends their threads."""
    all_made, gates = [], []

    def make(count=1):
        all_made.append(Managers(count))
        return all_made[-1]

    make.gate = lambda: gates.append(threading.Event()) or gates[-1]
    yield make
    for gate in gates:
        gate.set()
    for managers in all_made:
        managers.managers.close(10)


def test_each_callback_gets_its_result_once_in_another_thread(made):
    managers, got = made(3), []
    for number in range(100):
        managers.put(f"j{number}", lambda result: got.append((result.job_id, threading.current_thread().name)))

    managers.wait_for(100)

    assert sorted(job_id for job_id, _ in got) == sorted(f"j{number}" for number in range(100))
    assert all(name.startswith("jobmanager-callbacks-") for _, name in got)


def test_a_job_without_a_callback_ends_all_the_same(made):
    managers = made()
    managers.put("j")

    assert managers.wait_for(1) == ["j"]
    assert managers.ended.get(timeout=10).job_id == "j"


def test_hooks_are_told_of_the_end_before_the_callback_and_the_ledger_after_it(made):
    managers, order = made(), []
    managers.managers._on_result = lambda result: order.append("ended")
    managers.put("j", lambda result: order.append("callback"))
    managers.wait_for(1)
    order.append("called back")

    assert order == ["ended", "callback", "called back"]


@pytest.mark.case(25)
@pytest.mark.parametrize(
    "error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError()], ids=repr
)
def test_a_callback_that_raises_anything_is_logged_and_harms_nobody(made, caplog, error):
    managers, got = made(1), []

    def raises(result):
        raise error

    with caplog.at_level(logging.ERROR, "jobmanager"):
        managers.put("bad", raises)
        managers.put("good", got.append)
        assert managers.wait_for(2) == ["bad", "good"]

    assert [result.job_id for result in got] == ["good"]
    assert drain(10)
    (record,) = caplog.records
    assert "callback of job bad failed" in record.getMessage()
    assert record.exc_info[1] is error
    assert record.job_id == "bad"


def test_a_callback_that_blocks_holds_up_only_its_thread(made):
    managers, gate, got = made(2), made.gate(), []
    managers.put("blocks", lambda result: gate.wait(30))
    for number in range(20):
        managers.put(f"j{number}", got.append)

    assert sorted(managers.wait_for(20)) == sorted(f"j{number}" for number in range(20))
    assert managers.managers.info()[1:] == (1, 0)
    gate.set()
    assert managers.wait_for(1) == ["blocks"]
    assert len(got) == 20


def test_slow_callbacks_are_named_once_and_all_being_blocked_is_said_once(made, caplog, monkeypatch):
    monkeypatch.setattr(_callback_manager, "_SLOW_S", -1.0)  # every callback is slow
    managers, gate = made(2), made.gate()
    with caplog.at_level(logging.WARNING, "jobmanager"):
        managers.managers.log_slow_callbacks()
        assert caplog.records == []

        managers.put("a", lambda result: gate.wait(30))
        eventually(lambda: managers.managers.info()[1:] == (1, 0))
        managers.managers.log_slow_callbacks(), managers.managers.log_slow_callbacks()
        assert drain(10)
        assert ["callback of job a" in record.getMessage() for record in caplog.records] == [True]

        managers.put("b", lambda result: gate.wait(30))
        managers.put("c"), managers.put("d")
        eventually(lambda: managers.managers.info()[1:] == (2, 2))
        managers.managers.log_slow_callbacks(), managers.managers.log_slow_callbacks()

    assert drain(10)
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in said] == ["all 2 callback threads are blocked: 2 results wait"]
    assert len([record for record in caplog.records if "has been running" in record.getMessage()]) == 2
    gate.set()
    assert set(managers.wait_for(4)) == {"a", "b", "c", "d"}


def test_being_blocked_again_is_said_again(made, caplog, monkeypatch):
    monkeypatch.setattr(_callback_manager, "_SLOW_S", -1.0)
    managers = made(1)
    for job_id in "ab":
        gate = made.gate()
        managers.put(job_id, lambda result, gate=gate: gate.wait(30))
        eventually(lambda: managers.managers.info()[1:] == (1, 0))
        managers.managers.log_slow_callbacks()
        gate.set()
        managers.wait_for(1)
        managers.managers.log_slow_callbacks()

    assert drain(10)
    assert len([record for record in caplog.records if "are blocked" in record.getMessage()]) == 2


def test_waiting_is_refused_in_callbacks_only_and_says_what_to_do(made):
    managers, raised = made(), []

    def waits(result):
        with pytest.raises(WouldDeadlock, match="submit with a callback instead") as error:
            ClientSync(StubClient(fast=True)).new_job(Task("x"))
        raised.append(error)
        with pytest.raises(WouldDeadlock):
            refuse_inside_callback()

    managers.put("j", waits)
    managers.wait_for(1)

    assert len(raised) == 1
    refuse_inside_callback()  # not here
    assert ClientSync(StubClient(fast=True)).new_job(Task("x")).outcome is Outcome.SUCCESS


def test_a_process_that_a_callback_forks_may_wait_for_jobs(made):
    managers, codes = made(), []

    def forks(result):
        pid = os.fork()
        if pid == 0:
            try:
                refuse_inside_callback()
            except WouldDeadlock:
                os._exit(1)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    managers.put("j", forks)
    managers.wait_for(1)

    assert codes == [0]


def test_a_result_that_cannot_be_put_together_is_an_error_and_the_callback_is_called(made, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise TypeError("a bug of ours")

    monkeypatch.setattr(_callback_manager, "merged_result", broken)
    managers, got = made(), []
    managers.put("j", got.append)
    managers.wait_for(1)

    (result,) = got
    assert (result.outcome, result.job_id) == (Outcome.CRASH, "j")
    assert "TypeError: a bug of ours" in result.text
    assert result.evidence[0].kind == "k"
    assert drain(10)
    assert "merging the result of job j failed" in caplog.text


def test_a_result_that_came_ready_is_passed_on_as_it_is_by_the_same_way(made):
    managers, got = made(), []
    result = JobResult(job_id="j", outcome=Outcome.FAILED, text="as it came", stdout=b"x")
    managers.managers.put(PublishReady(result=result, callback=got.append))

    assert managers.wait_for(1) == ["j"]
    assert managers.ended.get(timeout=10) is result
    assert got == [result]


def test_who_waits_for_an_ssh_server_is_told_that_none_will_be_there_before_a_ready_result_comes(made):
    managers, got = made(), []
    ready = PublishReady(
        result=JobResult(job_id="j", outcome=Outcome.CRASH),
        callback=lambda result: got.append(result.outcome),
        ssh_callback=lambda *where: got.append(where),
    )
    managers.managers.put(ready)
    managers.wait_for(1)

    assert got == [(None, None, None, None), Outcome.CRASH]


def test_closing_lets_everything_that_was_put_be_called(made):
    managers, got = made(2), []
    for number in range(50):
        managers.put(f"j{number}", got.append)

    managers.managers.close(10)

    assert len(got) == 50


def test_closing_does_not_wait_for_a_callback_that_never_returns(made):
    managers, gate = made(2), made.gate()
    managers.put("blocks", lambda result: gate.wait(30))
    eventually(lambda: managers.managers.info()[1:][0] == 1)

    managers.managers.close(0.01)

    assert managers.managers.info()[1:][0] == 1


def test_closing_inside_a_callback_does_not_wait_for_itself(made):
    managers = made(1)
    managers.put("j", lambda result: managers.managers.close(30))

    assert managers.wait_for(1) == ["j"]


def test_who_is_inside_a_callback_is_known(made):
    managers, inside = made(1), []
    managers.put("j", lambda result: inside.append(managers.managers.is_current_thread()))
    managers.wait_for(1)

    assert inside == [True]
    assert not managers.managers.is_current_thread()


def test_any_callable_is_a_callback(made):
    import functools

    managers, got = made(1), []

    class Keeper:
        def method(self, result):
            got.append(result)

        __call__ = method

    for callback in (
        Keeper().method,
        Keeper(),
        functools.partial(Keeper.method, Keeper()),
        lambda result: got.append(result),
        got.append,
    ):
        managers.put("j", callback)
    managers.wait_for(5)

    assert [type(result) for result in got] == [JobResult] * 5
