"""What the inspector of a container makes of an engine's answers. The stand-in answers what a test says, call by call."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from jobmanager.engine.protocol import NoSuchContainer
from jobmanager.watching.inspector import ContainerInspector

STATE = SimpleNamespace(status="running")
MISSING = NoSuchContainer("no such container")


class ScriptedEngine:
    """Gives its answers one after the other, and says which calls came."""

    def __init__(self, *answers: tuple[str, Any]) -> None:
        self._answers = list(answers)

    def inspect(self, _: str) -> Any:
        return self._next("inspect")

    def info(self) -> Any:
        return SimpleNamespace(engine_id=self._next("info"))

    def is_done(self) -> bool:
        return not self._answers

    def _next(self, call: str) -> Any:
        expected, answer = self._answers.pop(0)
        assert call == expected
        if isinstance(answer, Exception):
            raise answer
        return answer


def inspector(engine: ScriptedEngine) -> ContainerInspector:
    job = SimpleNamespace(job_id="j", container_id="c", engine_id="ours", limit_hit=None)
    return ContainerInspector(job, engine, host_lost_timeout_s=60, give_up=threading.Event(), clock=lambda: 0.0)  # type: ignore[arg-type]


def test_a_container_that_its_own_engine_does_not_know_twice_is_missing() -> None:
    engine = ScriptedEngine(("inspect", MISSING), ("info", "ours"), ("inspect", MISSING))

    with pytest.raises(NoSuchContainer):
        inspector(engine).inspect()

    assert engine.is_done()


@pytest.mark.case(51)
def test_a_container_that_another_engine_does_not_know_is_asked_for_until_its_own_answers() -> None:
    engine = ScriptedEngine(("inspect", MISSING), ("info", "another"), ("inspect", STATE))

    assert inspector(engine).inspect() is STATE
    assert engine.is_done()


@pytest.mark.case(51)
def test_a_missing_container_is_asked_for_again_as_the_answer_may_be_another_engines_that_has_just_left() -> None:
    engine = ScriptedEngine(("inspect", MISSING), ("info", "ours"), ("inspect", STATE))

    assert inspector(engine).inspect() is STATE
    assert engine.is_done()
