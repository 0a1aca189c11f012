"""A client ends its waiting job by its own word only when nobody is there to place it, or nobody can know that it waits."""

from __future__ import annotations

import pytest

from dev.queue_simulation import Clock
from jobmanager.remote.open_job_watch import OpenJobWatch
from jobmanager.remote.open_jobs import OpenJob

TIMEOUT_S = 100.0
LONG_S = 1000.0
JOB = OpenJob(job_id="one", r="r" * 32, is_accepted=True)


class World:
    """A store that says what the test wants, and the watch."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.is_led, self.listed, self.waits_for_s = True, [JOB.r], 0.0
        self.lists_read = 0
        self.ended: list[OpenJob] = []
        self.watch = OpenJobWatch(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            say_again=lambda jobs: pytest.fail("nothing is lost"),
            read_again=lambda: pytest.fail("nothing is lost"),
            has_read_all=lambda: True,
            end_waiting=self.ended.append,
            queue_timeout_s=TIMEOUT_S,
            patience_s=20.0,
            clock=self.clock,
        )

    def leader(self) -> str:
        return "somebody" if self.is_led else ""

    def waiting(self) -> list[str]:
        self.lists_read += 1
        return self.listed

    def states(self, rs: list[str]) -> list[tuple[str, float]]:
        return [("waiting", self.waits_for_s)]

    def accepted_and_undecided(self) -> list[OpenJob]:
        return [JOB]

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            self.clock.now += 5
            self.waits_for_s += 5
            self.watch.look()


def test_a_job_that_waits_behind_others_is_left_to_the_dispatcher_however_long_it_waits() -> None:
    world = World()
    world.passes(LONG_S)
    assert world.ended == [] and world.lists_read < LONG_S / 50


def test_a_job_ends_when_no_dispatcher_has_lived_for_its_time_in_the_queue() -> None:
    world = World()
    world.passes(LONG_S)
    world.is_led = False
    world.passes(TIMEOUT_S)
    assert world.ended == []
    world.passes(100)
    assert world.ended and set(map(id, world.ended)) == {id(JOB)}


def test_a_job_whose_place_in_the_list_was_deleted_ends() -> None:
    world = World()
    world.listed = []
    world.passes(TIMEOUT_S)
    assert world.ended == []
    world.passes(150)
    assert world.ended
