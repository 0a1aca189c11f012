"""The process pool's sharing of workers, with children that are only remembered."""

from __future__ import annotations

import pytest

from jobmanager.control import worker_pool
from jobmanager.control.worker_pool import LostRequest, PendingRequest, ProcessPool
from jobmanager.ipc.messages import RemoveContainer
from jobmanager.model.host import Address


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


def busy() -> int:
    return sum(bool(child.sent) for child in StubChild.made)


def test_a_host_that_hangs_leaves_workers_to_the_others(pool: ProcessPool, clock: Clock) -> None:
    for number in range(30):
        pool.put(pending("hangs", number))
    for second in range(1, 30):
        clock.now = float(second)
        pool.dispatch()
    before = busy()

    pool.put(pending("good", 100))

    assert busy() == before + 1
    assert before <= 8


def test_a_worker_that_hangs_past_every_timeout_is_killed(pool: ProcessPool, clock: Clock) -> None:
    pool.put(pending("hangs", 1))
    clock.now = 100.0
    pool.end_hung_workers()
    assert not StubChild.made[0].killed
    clock.now = 1000.0
    pool.end_hung_workers()
    assert StubChild.made[0].killed
    assert pool.died(StubChild.made[0]) == LostRequest(pending=pending("hangs", 1), hung=True)


def test_a_worker_that_died_gives_its_ticket_back_and_a_free_one_nothing(pool: ProcessPool) -> None:
    pool.warm_up(2)
    pool.put(pending("a", 1))
    working = next(child for child in StubChild.made if child.sent)
    free = next(child for child in StubChild.made if not child.sent)

    assert pool.died(working) == LostRequest(pending=pending("a", 1), hung=False)
    assert pool.died(free) is None
    assert pool.workers() == []


@pytest.mark.parametrize("error", [OSError("no more processes"), MemoryError()])
def test_a_worker_that_cannot_be_started_leaves_the_request_waiting(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(module: str, listen: object) -> StubChild:
        raise error

    monkeypatch.setattr(worker_pool, "Child", refuse)
    pool.put(pending("a", 1))
    monkeypatch.setattr(worker_pool, "Child", StubChild)
    pool.dispatch()
    assert busy() == 1
