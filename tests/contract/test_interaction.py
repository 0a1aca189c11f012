"""Two programs that talk through fifos, each in a container of its own: what a waiter finds on each engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.labels import MANAGER_LABEL
from jobmanager.engine.pipes import make_fifos, pipes_volume
from jobmanager.engine.protocol import EngineError
from jobmanager.ipc.messages import CaseDone, CasePlan, CaseRun, JudgePlan, MonitorContainer
from jobmanager.model.container import PIPES, ContainerSpec
from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.facts import RunFacts
from jobmanager.watching import judge_container
from jobmanager.watching.cases_container import DIED_OF_CASE
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.interaction import Interaction
from jobmanager.watching.judge_container import JudgesHost
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.partner import NotClean
from tests.conftest import eventually
from tests.contract.place import PATIENCE_S, Place

LIMITS = Limits(memory_mib=64, workspace_mib=4, cpu_time_s=5, wall_time_s=10)
SAYS, FAILS = "echo one; head -n 1", "echo one; exit 3"


class Registry:
    def register(self, name: str, monitor: ContainerMonitor | CasesMonitor) -> None: ...
    def unregister(self, name: str) -> None: ...


def judges_host(place: Place) -> JudgesHost:
    return JudgesHost(
        name=place.address.host,
        runners=place.runners,
        connect=lambda: connect(place.address, PATIENCE_S),
        lost_timeout_s=PATIENCE_S,
        monitors=Registry(),
        spool_folder="",
    )


def talked(
    place: Place, submission: str, interactor: str, *, cases: int = 2, limits: Limits = LIMITS
) -> tuple[RunFacts, list[CaseResult]]:
    """The facts of the submission's container, and what became of its cases."""
    name = place.named()
    pipes = f"{name}-pipes"
    place.remove_volume_at_the_end(pipes)
    place.started(name=name, limits=limits, pipes=pipes, labels={MANAGER_LABEL: place.label})
    fifos = (f"{PIPES}/{name}-to", f"{PIPES}/{name}-from")
    runs = tuple(CaseRun(number=number, name=str(number), limits=limits) for number in range(1, cases + 1))
    plan = CasePlan(cases=runs, last=cases, clearing_s=60.0)
    job = MonitorContainer(
        job_id="j",
        container_id=place.engine.inspect(name).id,
        container_name=name,
        command=submission,
        env={},
        files={},
        stdin=None,
        limits=limits,
        collect=(),
        cases=plan,
        stdin_fifo=fifos[0],
        stdout_fifo=fifos[1],
    )
    longer = replace(limits, wall_time_s=limits.wall_s + 10)
    theirs = replace(plan, cases=tuple(replace(run, args=("input",), limits=longer) for run in runs))
    other = replace(
        job, container_id="", container_name=place.named(f"{name}-i"), command=interactor, cases=theirs, stdin_fifo=fifos[1],
        stdout_fifo=fifos[0],
    )  # fmt: skip
    spec = ContainerSpec(name=other.container_name, image=place.image, labels={}, limits=limits, pipes=pipes, lease_s=20.0)
    told: list[CaseResult] = []

    def take(message: object) -> bool:
        if isinstance(message, CaseDone):
            told.append(message.result)
        return True

    interaction = Interaction(
        job,
        JudgePlan(spec=spec, job=other),
        judges_host(place),
    )
    monitor = CasesMonitor(job, place.engine, host_lost_timeout_s=PATIENCE_S, send=take, partner=interaction)
    interaction.start()
    facts = monitor.run()
    interaction.close()
    monitor.close(leave=facts.is_leaving)
    eventually(lambda: is_gone(place, spec.name), what="the interactor's container is removed")
    return facts, told


def is_gone(place: Place, name: str) -> bool:
    try:
        place.engine.inspect(name)
    except EngineError:
        return True
    return False


@pytest.mark.parametrize(
    ("submission", "interactor", "outcome", "correct"),
    [
        (SAYS, "head -n 1; exit 0", Outcome.SUCCESS, True),
        (SAYS, "head -n 1; exit 1", Outcome.FAILED, False),
        (FAILS, "cat; exit 1", Outcome.FAILED, None),
        ("true", "sleep 0.5; echo late", Outcome.FAILED, False),
        ("true", "exit 3", Outcome.ERROR, None),
    ],
)
def test_who_ends_first_is_believed(place: Place, submission: str, interactor: str, outcome: Outcome, correct: bool | None) -> None:
    facts, told = talked(place, submission, interactor)
    assert [(result.outcome, result.correct) for result in told] == [(outcome, correct)] * 2, told
    assert facts.is_leaving and not facts.not_clean


def test_where_both_wait_it_is_the_submissions_timeout(place: Place) -> None:
    limits = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=0.5)
    _, told = talked(place, "sleep 60", "sleep 60", cases=1, limits=limits)
    assert [(result.outcome, result.correct, result.run and result.run.limit) for result in told] == [
        (Outcome.TIMEOUT, None, "wall")
    ]


def test_what_cannot_be_run_beside_the_submission_makes_errors_of_its_cases(place: Place) -> None:
    _, told = talked(place, SAYS, "./nowhere")
    assert len(told) == 2 and all(result.outcome is Outcome.ERROR for result in told), told


@pytest.mark.parametrize(("why", "is_judges"), [("a process is left", True), (DIED_OF_CASE, False)])
def test_whose_dirt_it_is_is_told(place: Place, monkeypatch: pytest.MonkeyPatch, why: str, is_judges: bool) -> None:
    class CannotGoOn(CasesMonitor):
        def _follow(self, run: Any) -> RunFacts:
            if run.case is not None and run.case.number > 1:
                raise NotClean(why)
            return super()._follow(run)

    monkeypatch.setattr(judge_container, "CasesMonitor", CannotGoOn)
    facts, told = talked(place, SAYS, "head -n 1; exit 0", cases=3)
    assert [result.outcome for result in told] == [Outcome.SUCCESS]
    assert (facts.not_clean, facts.is_judge_unclean) == (f"its interactor: {why}", is_judges)


def test_fifos_are_made_through_a_carrier_and_again_after_one_that_was_left(place: Place) -> None:
    name, volume = place.named(), pipes_volume(f"{place.named()}-pipes", {"a": "b"}, read_only=False)
    place.remove_volume_at_the_end(volume.name)
    place.engine.create_carrier(name, place.image, {}, ())
    make_fifos(place.engine, volume, name, place.image, [f"{PIPES}/a", f"{PIPES}/b"])
    assert [found.name for found in place.engine.volumes({"a": "b"})] == [volume.name]
    assert is_gone(place, name)
