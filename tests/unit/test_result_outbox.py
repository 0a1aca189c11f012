"""The way of results from a node to Redis: repeated until they are there, kept for a while, bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ResponseError

from jobmanager.remote import outbox
from jobmanager.remote.outbox import FinishedJob, ResultOutbox
from tests.conftest import eventually


def result(number: int, envelope: str = "signed") -> FinishedJob:
    return FinishedJob(
        r=f"{number:032x}", token=f"t{number}", client="web", job_id=f"job-{number}", outcome="success", envelope=envelope
    )


class ScriptedRedis:
    """Answers what a test wants, and notes what came."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.answer: Callable[[FinishedJob], str] = lambda _: "done"

    def deliver(self, finished: FinishedJob) -> str:
        answer = self.answer(finished)
        self.came.append(finished.job_id)
        return answer


class Bench:
    """An outbox and both its ends."""

    def __init__(self) -> None:
        self.redis = ScriptedRedis()
        self.settled: list[tuple[str, str]] = []
        self.now = 0.0
        self.outbox = ResultOutbox(
            self.redis.deliver, lambda each, answer: self.settled.append((each.job_id, answer)), clock=lambda: self.now
        )
        self.outbox.start()

    def wait_for(self, *settled: tuple[str, str]) -> None:
        eventually(lambda: self.settled == list(settled) and not len(self.outbox), what=f"{settled}, not {self.settled}")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(outbox, "_FIRST_RETRY_S", 0.01)
    made = Bench()
    yield made
    made.outbox.close(5.0)


def raises(error: Exception) -> Callable[[FinishedJob], str]:
    def answer(_: FinishedJob) -> str:
        raise error

    return answer


def test_results_come_in_their_order(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.outbox.put(result(number))

    bench.wait_for(("job-1", "done"), ("job-2", "done"), ("job-3", "done"))


def test_a_result_is_repeated_until_redis_has_it(bench: Bench) -> None:
    bench.redis.answer = raises(RedisAway("away"))
    bench.outbox.put(result(1))
    assert bench.settled == []

    bench.redis.answer = lambda _: "done"

    bench.wait_for(("job-1", "done"))


def test_a_result_that_redis_refuses_holds_up_no_other(bench: Bench) -> None:
    def answer(each: FinishedJob) -> str:
        if each.job_id == "job-1":
            raise ResponseError("WRONGTYPE")
        return "done"

    bench.redis.answer = answer
    for number in (1, 2):
        bench.outbox.put(result(number))

    eventually(lambda: ("job-2", "done") in bench.settled)
    assert len(bench.outbox) == 1


def test_a_result_that_cannot_be_sent_at_all_costs_only_itself(bench: Bench) -> None:
    bench.redis.answer = raises(RuntimeError("a mistake of ours"))
    bench.outbox.put(result(1))
    bench.wait_for(("job-1", "late"))

    bench.redis.answer = lambda _: "done"
    bench.outbox.put(result(2))

    bench.wait_for(("job-1", "late"), ("job-2", "done"))


def test_what_redis_had_not_long_ago_is_said_again(bench: Bench) -> None:
    bench.outbox.put(result(1))
    bench.wait_for(("job-1", "done"))

    assert bench.outbox.say_again(result(1).r)

    bench.wait_for(("job-1", "done"), ("job-1", "done"))
    bench.outbox.say_all_again()
    bench.wait_for(*[("job-1", "done")] * 3)


def test_what_redis_had_long_ago_or_called_late_is_forgotten(bench: Bench) -> None:
    bench.outbox.put(result(1))
    bench.wait_for(("job-1", "done"))
    bench.redis.answer = lambda _: "late"
    bench.outbox.put(result(2))
    bench.wait_for(("job-1", "done"), ("job-2", "late"))

    bench.now = 61.0

    assert not bench.outbox.say_again(result(1).r)
    assert not bench.outbox.say_again(result(2).r)


def test_what_is_kept_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_KEPT_BYTES", 100)
    for number in (1, 2):
        bench.outbox.put(result(number, "x" * 80))
    bench.wait_for(("job-1", "done"), ("job-2", "done"))

    assert not bench.outbox.say_again(result(1).r)
    assert bench.outbox.say_again(result(2).r)


def test_it_says_when_so_much_waits_that_no_more_jobs_should_be_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_PENDING_BYTES", 100)
    bench.redis.answer = raises(RedisAway("away"))
    bench.outbox.put(result(1, "x" * 80))
    assert not bench.outbox.is_full

    bench.outbox.put(result(2, "x" * 80))

    assert bench.outbox.is_full
    bench.redis.answer = lambda _: "done"
    eventually(lambda: not bench.outbox.is_full)


def test_what_is_another_nodes_now_is_dropped(bench: Bench) -> None:
    bench.redis.answer = raises(RedisAway("away"))
    for number in (1, 2):
        bench.outbox.put(result(number))

    bench.outbox.drop((result(1).r,))
    bench.redis.answer = lambda _: "done"

    eventually(lambda: ("job-2", "done") in bench.settled)
    assert "job-1" not in bench.redis.came


def test_close_waits_for_what_is_on_its_way_and_counts_what_is_left(bench: Bench) -> None:
    go_on = threading.Event()
    bench.redis.answer = lambda _: "done" if go_on.wait(5.0) else "late"
    bench.outbox.put(result(1))
    threading.Timer(0.2, go_on.set).start()

    assert bench.outbox.close(5.0) == 0

    assert bench.settled == [("job-1", "done")]


def test_close_ends_in_time_while_redis_is_away(bench: Bench) -> None:
    bench.redis.answer = raises(RedisAway("away"))
    bench.outbox.put(result(1))

    assert bench.outbox.close(0.2) == 1
