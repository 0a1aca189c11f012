"""Signs of life: a node's own clock, its name, and data that Redis has lost."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway

from jobmanager.remote.beats import Beats
from jobmanager.remote.intake import NodeIdentity
from jobmanager.remote.node_jobs import NodeJobs
from jobmanager.remote.store import Beat
from jobmanager.remote.timeouts import ClusterTimeouts

TIMEOUTS = ClusterTimeouts(beat_s=1.0, suspect_s=5.0, node_lost_s=10.0)
UP = Beat(is_owner=True)


class ScriptedStore:
    """Redis, as a test wants it."""

    def __init__(self) -> None:
        self.answer: Beat | Exception = UP
        self.lives = "one"
        self.run_id = "first"

    def beat(self, *_: Any) -> Beat:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def life(self) -> tuple[str, str]:
        return self.lives, self.run_id


class Listener:
    """A node that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def report(self) -> str:
        return "signed"

    def answered(self, beat: Beat) -> None:
        self.heard.append(beat.want)

    def name_lost(self) -> None:
        self.heard.append("name lost")

    def cut_off(self) -> None:
        self.heard.append("cut off")

    def data_lost(self) -> None:
        self.heard.append("data lost")


class BeatsBench:
    """Beats whose clock and Redis are the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store, self.listener = ScriptedStore(), Listener()
        identity = NodeIdentity(name="n1", incarnation="i1")
        store: Any = self.store
        self.beats = Beats(store, identity, NodeJobs(1), TIMEOUTS, self.listener, clock=lambda: self.now)

    def after(self, seconds: float) -> list[str]:
        """What the node hears with a sign of life after so long."""
        self.now += seconds
        self.listener.heard.clear()
        self.beats.give()
        return self.listener.heard


@pytest.fixture
def bench() -> BeatsBench:
    return BeatsBench()


def test_each_answer_is_heard(bench: BeatsBench) -> None:
    bench.store.answer = Beat(is_owner=True, want="drain")

    assert bench.after(1.0) == ["drain"]


def test_a_node_that_cannot_reach_redis_for_too_long_is_cut_off_once(bench: BeatsBench) -> None:
    bench.after(0.0)
    bench.store.answer = RedisAway("away")
    assert bench.after(5.0) == []
    assert bench.after(4.9) == []

    assert bench.after(0.1) == ["cut off"]
    assert bench.after(100.0) == []
    bench.store.answer = UP
    assert bench.after(1.0) == ["up"]


def test_a_node_that_was_stopped_is_cut_off_before_it_says_anything(bench: BeatsBench) -> None:
    bench.after(0.0)

    assert bench.after(60.0) == ["cut off", "up"]


def test_it_can_be_cut_off_again(bench: BeatsBench) -> None:
    bench.after(60.0)

    assert bench.after(60.0) == ["cut off", "up"]


def test_a_name_that_another_has_is_heard_and_nothing_else(bench: BeatsBench) -> None:
    bench.store.answer = Beat(is_owner=False)

    assert bench.after(1.0) == ["name lost"]


def test_a_redis_that_was_started_again_may_have_lost_data(bench: BeatsBench) -> None:
    bench.after(1.0)
    bench.store.run_id = "second"

    assert bench.after(1.0) == ["data lost", "up"]
    assert bench.after(1.0) == ["up"]


def test_data_that_was_lost_is_heard_before_the_answer(bench: BeatsBench) -> None:
    bench.after(1.0)
    bench.store.lives = "two"

    assert bench.after(1.0) == ["data lost", "up"]
    assert bench.after(1.0) == ["up"]


def test_what_an_answer_asks_for_may_fail_with_redis(bench: BeatsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Beat) -> None:
        raise RedisAway("away")

    monkeypatch.setattr(bench.listener, "answered", fails)

    assert bench.after(1.0) == []
