"""The process pool's sharing of workers, with children that are only remembered."""

from __future__ import annotations

import math

import pytest

from jobmanager.control import worker_pool
from jobmanager.control.worker_pool import LostRequest, PendingRequest, ProcessPool
from jobmanager.ipc.messages import RemoveContainer, Shutdown, WarmUp
from jobmanager.model.host import Address

ADDRESS = Address(host="a", url="unix:///x")


class StubChild:
    made: list[StubChild]

    def __init__(self, module: str, listen: object) -> None:
        self.sent: list[object] = []
        self.killed = False
        StubChild.made.append(self)

    def send(self, message: object) -> None:
        self.sent.append(message)

    def kill(self) -> None:
        self.killed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> ProcessPool:
    StubChild.made = []
    monkeypatch.setattr(worker_pool, "Child", StubChild)
    return ProcessPool(lambda heard: None, size=4, max_in_flight=lambda host: 32, clock=clock)


def pending(host: str, number: int) -> PendingRequest:
    request = RemoveContainer(address=Address(host=host, url="unix:///x"), name=f"c{number}", manager_id="m", timeout_s=30)
    return PendingRequest(host=host, container=f"c{number}", request=request)


def requests(child: StubChild) -> list[object]:
    return [message for message in child.sent if not isinstance(message, WarmUp)]


def busy() -> int:
    return sum(bool(requests(child)) for child in StubChild.made)


def all_ready(pool: ProcessPool) -> None:
    """Those that are starting say that they are ready, and are given requests."""
    for child in StubChild.made:
        pool.ready(child)  # type: ignore[arg-type]
    pool.dispatch()


def let_it_work(pool: ProcessPool, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        pool.dispatch()
        all_ready(pool)


def test_a_request_waits_for_a_worker_that_is_there_and_after_a_moment_another_one_is_started(
    pool: ProcessPool, clock: Clock
) -> None:
    pool.warm_up(ADDRESS)
    all_ready(pool)
    for number in range(3):
        pool.put(pending("a", number))
    pool.dispatch()
    assert (len(StubChild.made), busy(), pool.due_at()) == (1, 1, worker_pool._PATIENCE_S)

    pool.replied(StubChild.made[0])  # type: ignore[arg-type]
    pool.dispatch()
    assert (len(StubChild.made), len(requests(StubChild.made[0]))) == (1, 2)

    clock.now = 1.0
    pool.dispatch()
    assert (len(StubChild.made), busy(), pool.due_at()) == (2, 1, math.inf)  # the other one gets ready
    all_ready(pool)
    assert (busy(), pool.due_at()) == (2, math.inf)


def test_whoever_is_free_first_takes_the_request(pool: ProcessPool, clock: Clock) -> None:
    pool.warm_up(ADDRESS)
    all_ready(pool)
    pool.put(pending("a", 1))
    pool.put(pending("a", 2))
    pool.dispatch()
    clock.now = 1.0
    pool.dispatch()
    assert len(StubChild.made) == 2

    pool.replied(StubChild.made[0])  # type: ignore[arg-type]
    pool.dispatch()
    assert [len(requests(child)) for child in StubChild.made] == [2, 0]
    all_ready(pool)
    assert [len(requests(child)) for child in StubChild.made] == [2, 0]


def test_there_are_soon_twice_as_many_up_to_the_size(pool: ProcessPool, clock: Clock) -> None:
    for number in range(30):
        pool.put(pending("a", number))
    seen = []
    for _ in range(4):
        clock.now += 1.0
        for _ in range(5):
            pool.dispatch()
        seen.append(len(StubChild.made))
        all_ready(pool)
        clock.now -= 1.0  # none of them is stuck
    assert seen == [1, 2, 4, 4]


def test_a_host_that_hangs_leaves_workers_to_the_others(pool: ProcessPool, clock: Clock) -> None:
    for number in range(30):
        pool.put(pending("hangs", number))
    let_it_work(pool, clock, 30)
    before = busy()

    pool.put(pending("good", 100))
    let_it_work(pool, clock, 1)

    assert busy() == before + 1
    assert before <= 8


def test_a_worker_that_hangs_past_every_timeout_is_killed(pool: ProcessPool, clock: Clock) -> None:
    pool.put(pending("hangs", 1))
    pool.dispatch()
    all_ready(pool)
    clock.now = 100.0
    pool.end_hung_workers()
    assert not StubChild.made[0].killed
    clock.now = 1000.0
    pool.end_hung_workers()
    assert StubChild.made[0].killed
    assert pool.died(StubChild.made[0]) == LostRequest(pending=pending("hangs", 1), hung=True)  # type: ignore[arg-type]


def test_so_is_one_that_does_not_get_ready(pool: ProcessPool, clock: Clock) -> None:
    pool.warm_up(ADDRESS)
    pool.end_hung_workers()
    assert not StubChild.made[0].killed
    clock.now = 100.0
    pool.end_hung_workers()
    assert StubChild.made[0].killed
    assert pool.died(StubChild.made[0]) is None and pool.workers() == []  # type: ignore[arg-type]


def test_a_worker_that_died_gives_its_request_back_and_a_free_one_nothing(pool: ProcessPool, clock: Clock) -> None:
    pool.put(pending("a", 1))
    pool.put(pending("a", 2))
    let_it_work(pool, clock, 1)
    first, second = StubChild.made
    pool.replied(second)  # type: ignore[arg-type]

    assert pool.died(first) == LostRequest(pending=pending("a", 1), hung=False)  # type: ignore[arg-type]
    assert pool.died(second) is None  # type: ignore[arg-type]
    assert pool.workers() == []


def test_a_stand_in_that_gets_ready_when_it_is_no_longer_needed_leaves_and_not_the_one_that_works(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    StubChild.made = []
    monkeypatch.setattr(worker_pool, "Child", StubChild)
    pool = ProcessPool(lambda heard: None, size=1, max_in_flight=lambda host: 32, clock=clock)
    pool.put(pending("a", 1))
    pool.dispatch()
    all_ready(pool)
    pool.put(pending("a", 2))
    clock.now = 5.0
    pool.dispatch()
    working, stand_in = StubChild.made
    pool.replied(working)  # type: ignore[arg-type]
    pool.dispatch()
    assert len(requests(working)) == 2
    pool.ready(stand_in)  # type: ignore[arg-type]
    pool.dispatch()
    assert isinstance(stand_in.sent[-1], Shutdown) and len(requests(working)) == 2


def test_one_that_dies_while_it_starts_costs_nothing_where_another_one_works(pool: ProcessPool, clock: Clock) -> None:
    pool.put(pending("a", 1))
    pool.put(pending("a", 2))
    pool.dispatch()
    all_ready(pool)
    clock.now = 1.0
    pool.dispatch()
    assert pool.died(StubChild.made[1]) is None  # type: ignore[arg-type]
    pool.dispatch()
    assert len(StubChild.made) == 2  # another one is started after a while
    let_it_work(pool, clock, 3)
    assert busy() == 2


def test_one_that_dies_while_it_starts_for_one_host_costs_no_request_of_another_that_hangs(pool: ProcessPool, clock: Clock) -> None:
    for number in range(30):
        pool.put(pending("hangs", number))
    let_it_work(pool, clock, 30)
    for idle in list(pool._idle):
        pool.died(idle)
    for number in range(3):
        pool.put(pending("good", number))
    lost = []
    for _ in range(3):
        clock.now += 2.0
        pool.dispatch()
        (starting,) = pool._starting
        lost.append(pool.died(starting))
    assert lost == [LostRequest(pending=pending("good", number), hung=False) for number in range(3)]


def test_one_that_dies_before_it_is_ready_takes_the_first_request_along_so_that_it_is_not_started_for_ever(
    pool: ProcessPool, clock: Clock
) -> None:
    pool.put(pending("b", 1))
    pool.put(pending("a", 2))
    pool.dispatch()
    assert pool.died(StubChild.made[0]) == LostRequest(pending=pending("b", 1), hung=False)  # type: ignore[arg-type]
    clock.now = 2.0
    pool.dispatch()
    assert pool.died(StubChild.made[1]) == LostRequest(pending=pending("a", 2), hung=False)  # type: ignore[arg-type]
    pool.dispatch()
    assert len(StubChild.made) == 2 and pool.due_at() == math.inf


@pytest.mark.parametrize("error", [OSError("no more processes"), MemoryError()])
def test_a_worker_that_cannot_be_started_leaves_the_request_waiting_and_is_tried_again_after_a_while(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, error: Exception, clock: Clock
) -> None:
    tries = 0

    def refuse(module: str, listen: object) -> StubChild:
        nonlocal tries
        tries += 1
        raise error

    monkeypatch.setattr(worker_pool, "Child", refuse)
    pool.put(pending("a", 1))
    for _ in range(10):
        pool.dispatch()
    assert (tries, pool.due_at()) == (1, worker_pool._RETRY_S)
    monkeypatch.setattr(worker_pool, "Child", StubChild)
    let_it_work(pool, clock, 2)
    assert busy() == 1
