"""``ClientFuture``: a future's result is the job's, and cancelling it kills the job, from asyncio too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading

import pytest

from jobmanager import ClientFuture, Outcome, Task
from jobmanager.errors import UnknownEnvironment, WouldDeadlock
from jobmanager.threads import deadlock_guard
from tests.unit.stub_client import StubClient

TASK = Task("x")


def test_a_future_holds_the_jobs_result_and_its_id():
    client = StubClient()
    future = ClientFuture(client).new_job(
        TASK, {"q": "a"}, priority=2, launcher_name="ann", debug=True, job_id="mine", supersede_key="k"
    )
    given = client.jobs["mine"]
    assert (given.inputdata, given.priority, given.launcher_name, given.debug) == ({"q": "a"}, 2, "ann", True)
    assert given.supersede_key == "k"
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()

    client.finish("mine", Outcome.CRASH)

    assert future.job_id == "mine"
    assert future.result(0).outcome is Outcome.CRASH
    assert future.exception(0) is None


def test_a_callback_that_is_quicker_than_new_job_is_not_lost():
    future = ClientFuture(StubClient(fast=True)).new_job(TASK)

    assert future.result(0).job_id == future.job_id


def test_what_the_client_raises_comes_through():
    with pytest.raises(UnknownEnvironment):
        ClientFuture(StubClient(error=UnknownEnvironment("no"))).new_job(TASK)


def test_cancelling_kills_the_job_and_its_result_is_forgotten():
    client = StubClient()
    future = ClientFuture(client).new_job(TASK)

    assert future.cancel()

    assert client.killed == [future.job_id]
    assert future.cancelled()
    client.finish(future.job_id, Outcome.KILLED)  # comes in peace
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_cancelling_a_job_that_ends_at_once_is_no_trouble():
    client = StubClient(dies_when_killed=True)
    future = ClientFuture(client).new_job(TASK)

    assert future.cancel()
    assert future.cancelled()


def test_a_job_that_is_done_cannot_be_cancelled_and_is_not_killed():
    client = StubClient(fast=True)
    future = ClientFuture(client).new_job(TASK)

    assert not future.cancel()
    assert client.killed == []
    assert future.result(0).outcome is Outcome.SUCCESS


def test_waiting_for_a_future_inside_a_callback_is_refused_unless_it_is_there_already():
    client = StubClient()
    future = ClientFuture(client).new_job(TASK)
    deadlock_guard._thread.runs_callbacks_of = os.getpid()
    try:
        with pytest.raises(WouldDeadlock):
            future.result()
        client.finish(future.job_id)
        assert future.result().outcome is Outcome.SUCCESS
    finally:
        deadlock_guard._thread.runs_callbacks_of = None


def test_what_a_future_says_of_itself_needs_no_lock_which_a_signal_handler_may_have_interrupted():
    client = StubClient()
    future = ClientFuture(client).new_job(TASK)
    held, seen = threading.Event(), threading.Event()

    def hold():
        with future._condition:
            held.set()
            seen.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    said = (future.done(), future.cancelled(), future.running())
    still_held = not seen.is_set()
    seen.set()
    holder.join(30)

    assert still_held and said == (False, False, False)
    client.finish(future.job_id)
    assert (future.done(), future.cancelled(), future.running()) == (True, False, False)


def test_what_is_called_when_a_future_is_done_is_called_outside_the_main_thread_and_may_use_the_client():
    client = StubClient()
    client.finish((ended := ClientFuture(client).new_job(TASK)).job_id)
    to_cancel, others, threads = ClientFuture(client).new_job(TASK), [], []

    def submit_another(_):
        threads.append(threading.current_thread())
        others.append(ClientFuture(client).new_job(TASK))

    ended.add_done_callback(submit_another)
    to_cancel.add_done_callback(submit_another)
    assert to_cancel.cancel()

    assert len(others) == 2
    assert threading.main_thread() not in threads


def test_futures_can_be_waited_for_together():
    client = StubClient()
    futures = [ClientFuture(client).new_job(TASK) for _ in range(5)]
    for future in reversed(futures):
        client.finish(future.job_id)

    done, waiting = concurrent.futures.wait(futures, timeout=10)

    assert done == set(futures)
    assert not waiting


def _in_another_thread(client, job_id):
    return asyncio.get_running_loop().run_in_executor(None, client.finish, job_id)


def test_a_future_can_be_awaited():
    client = StubClient()

    async def main():
        futures = [ClientFuture(client).new_job(TASK) for _ in range(3)]
        for future in futures:
            await _in_another_thread(client, future.job_id)
        return [(await future).job_id for future in futures] == [future.job_id for future in futures]

    assert asyncio.run(main())


def test_cancelling_the_task_that_awaits_kills_the_job():
    client = StubClient()

    async def main():
        future = ClientFuture(client).new_job(TASK)
        begun = asyncio.Event()

        async def wait():
            begun.set()
            return await future

        task = asyncio.create_task(wait())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return future

    future = asyncio.run(main())
    assert future.cancelled()
    assert client.killed == [future.job_id]


def test_a_timeout_of_asyncio_kills_the_job():
    client = StubClient()

    async def main():
        future = ClientFuture(client).new_job(TASK)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.01)
        return future

    future = asyncio.run(main())
    assert client.killed == [future.job_id]


def test_two_that_await_one_job_both_get_its_result():
    client = StubClient()

    async def main():
        future = ClientFuture(client).new_job(TASK)

        async def wait():
            return await future

        both = asyncio.gather(wait(), wait())
        await _in_another_thread(client, future.job_id)
        return await both

    first, second = asyncio.run(main())
    assert first is second


def wait_for_one_of(client: StubClient, futures, **how):
    """``asyncio.wait`` for futures of which the first ends meanwhile."""

    async def main():
        asyncio.get_running_loop().call_later(0, client.finish, futures[0].job_id)
        return await asyncio.wait_for(asyncio.wait(futures, **how), timeout=30)

    return asyncio.run(main())


def test_asyncio_wait_returns_when_the_first_of_several_jobs_has_ended():
    client = StubClient()
    futures = [ClientFuture(client).new_job(TASK) for _ in range(3)]

    done, pending = wait_for_one_of(client, futures, return_when=asyncio.FIRST_COMPLETED)

    assert [future.result().job_id for future in done] == [futures[0].job_id]
    assert len(pending) == 2 and not client.killed
    client.finish(futures[1].job_id)  # nothing of the loop, which is closed, waits for it any more
    assert futures[1].result(0).outcome is Outcome.SUCCESS


def test_asyncio_wait_returns_when_all_jobs_have_ended_also_those_that_had_before():
    client = StubClient()
    ended, running = (ClientFuture(client).new_job(TASK) for _ in range(2))
    client.finish(ended.job_id)

    done, pending = wait_for_one_of(client, [running, ended])

    assert len(done) == 2 and not pending


def test_asyncio_wait_with_a_time_returns_what_has_not_ended():
    futures = [ClientFuture(StubClient()).new_job(TASK)]

    async def main():
        return await asyncio.wait(futures, timeout=0.01)

    done, pending = asyncio.run(main())
    assert not done and len(pending) == 1


def test_what_is_added_in_an_event_loop_is_called_there_and_elsewhere_when_the_loop_is_closed():
    client, calls = StubClient(), []
    first, second = (ClientFuture(client).new_job(TASK) for _ in range(2))

    async def main():
        called = asyncio.Event()
        first.add_done_callback(lambda _: (calls.append(threading.get_ident()), called.set()))
        second.add_done_callback(lambda _: calls.append(threading.get_ident()))
        client.finish(first.job_id)
        await called.wait()

    asyncio.run(main())
    client.finish(second.job_id)
    assert calls[0] == threading.get_ident() != calls[1]


def test_what_was_added_can_be_removed():
    client, calls = StubClient(), []
    future = ClientFuture(client).new_job(TASK)
    future.add_done_callback(calls.append)

    assert (future.remove_done_callback(calls.append), future.remove_done_callback(print)) == (1, 0)
    client.finish(future.job_id)
    assert calls == []
