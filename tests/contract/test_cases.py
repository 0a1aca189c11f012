"""Many runs in one container, with nothing left between them: what a waiter's monitor of cases finds on each engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from jobmanager.ipc.messages import BuildDone, CaseDone, CasePlan, CaseRun, MonitorContainer
from jobmanager.model.checks import Lines
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER
from jobmanager.model.limits import Limits
from jobmanager.model.result import CaseResult, Outcome, RunResult
from jobmanager.results.facts import RunFacts
from jobmanager.runner.frames import Clear, Cleared, Entries, ListFolder, Put
from jobmanager.runner.place import SHM
from jobmanager.watching import cases_container
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.runner_link import RunnerLink
from tests.contract.place import PATIENCE_S, Place

LIMITS = Limits(memory_mib=64, workspace_mib=4, cpu_time_s=5, wall_time_s=10)


def case(name: str = "", **fields: Any) -> CaseRun:
    return CaseRun(name=name, **{"number": 0, "limits": LIMITS, "check": Lines(), **fields})


@dataclass
class Followed:
    """What a monitor has told, and its facts at last."""

    facts: RunFacts | None = None
    build: RunResult | None = None
    cases: list[CaseResult] = field(default_factory=list)

    def take(self, message: object) -> bool:
        if isinstance(message, BuildDone):
            self.build = message.run
        if isinstance(message, CaseDone):
            assert message.number == len(self.cases) + 1
            self.cases.append(message.result)
        return True


def followed(place: Place, *cases: CaseRun, command: Any = "cat", files: dict[str, bytes] | None = None, **plan: Any) -> Followed:
    told = Followed()
    numbered = tuple(replace(each, number=number) for number, each in enumerate(cases, 1))
    name = place.started(limits=LIMITS)
    job = MonitorContainer(
        job_id="j",
        container_id=place.engine.inspect(name).id,
        container_name=name,
        command=command,
        env={},
        files=files or {},
        stdin=b"",
        limits=LIMITS,
        collect=(),
        cases=CasePlan(cases=numbered, last=len(numbered), clearing_s=60.0, **plan),
    )
    monitor = CasesMonitor(job, place.engine, host_lost_timeout_s=PATIENCE_S, send=told.take)
    told.facts = monitor.run()
    monitor.close(leave=told.facts.is_leaving)
    return told


def told(results: list[CaseResult]) -> list[tuple[str, Outcome | None, bool | None]]:
    return [(result.name, result.outcome, result.correct) for result in results]


def test_each_case_has_its_own_input_and_its_own_verdict(place: Place) -> None:
    facts = followed(
        place,
        case("right", stdin=b"1\n", expected=b"1"),
        case("wrong", stdin=b"2\n", expected=b"3"),
        case("nothing to compare", stdin=b"4\n"),
    )
    assert told(facts.cases) == [
        ("right", Outcome.SUCCESS, True),
        ("wrong", Outcome.FAILED, False),
        ("nothing to compare", Outcome.SUCCESS, None),
    ]
    assert facts.cases[1].text == "line 1: '2' is not what is expected"
    assert [result.points for result in facts.cases] == [1.0, 0.0, 1.0]
    assert facts.cases[1].run is not None and facts.cases[1].run.stdout == b"2\n"
    assert facts.facts is not None and facts.facts.is_leaving and not facts.facts.not_clean


def test_the_tasks_files_and_a_cases_own_are_there_in_each_case_and_not_in_the_next(place: Place) -> None:
    facts = followed(
        place,
        case("own", files={"own": b"x\n"}, args=("task", "own"), expected=b"t\nx\n"),
        case("no longer", args=("task", "own")),
        case("again", args=("task",), expected=b"t\n"),
        command=("cat",),
        files={"task": b"t\n"},
    )
    outcomes = [("own", Outcome.SUCCESS, True), ("no longer", Outcome.FAILED, None), ("again", Outcome.SUCCESS, True)]
    assert told(facts.cases) == outcomes


def test_a_build_is_run_once_and_what_it_left_is_there_in_each_case(place: Place) -> None:
    cases = [case(str(number), args=("product",), expected=b"made") for number in range(3)]
    files = {"build-it": b"#!/bin/sh\necho made > product\n"}
    facts = followed(place, *cases, command=("cat",), files=files, build=("./build-it",))
    assert facts.build is not None and facts.build.outcome is Outcome.SUCCESS
    assert [result.outcome for result in facts.cases] == [Outcome.SUCCESS] * 3


def test_a_build_may_have_other_limits_of_memory_and_processes_than_the_cases(place: Place) -> None:
    facts = followed(
        place, case("after"), build="true", build_limits=replace(LIMITS, memory_mib=96, processes=10, cpu_time_s=9), command="true"
    )
    assert facts.build is not None and [result.outcome for result in facts.cases] == [Outcome.SUCCESS]


def test_after_a_build_that_fails_no_case_is_run(place: Place) -> None:
    facts = followed(place, case("never"), build="echo why; exit 3")
    assert facts.build is not None and (facts.build.outcome, facts.build.exit_code) == (Outcome.FAILED, 3)
    assert (facts.build.stdout, facts.cases) == (b"why\n", [])


def test_a_case_that_fails_can_be_the_last_one(place: Place) -> None:
    cases = [case("a", stdin=b"1", expected=b"2"), case("b", stdin=b"1", expected=b"1")]
    assert len(followed(place, *cases).cases) == 2
    assert told(followed(place, *cases, stop_at_first_failure=True).cases) == [("a", Outcome.FAILED, False)]


@pytest.mark.parametrize("command", ["exit 3", "sleep 60", "yes"])
def test_a_case_that_ends_badly_leaves_the_next_one_as_it_is(place: Place, command: str) -> None:
    limits = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=0.5, output_kib=4)
    outcomes = {"exit 3": Outcome.FAILED, "sleep 60": Outcome.TIMEOUT, "yes": Outcome.OVERFLOW}
    facts = followed(place, case("bad", limits=limits), case("bad again", limits=limits), command=command)
    assert [result.outcome for result in facts.cases] == [outcomes[command]] * 2
    assert all(result.run is not None and (result.run.wall_time_s or 0) < 5 for result in facts.cases)


def test_a_container_that_cannot_be_cleared_runs_no_other_case(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_container, "SHM", "/.jobmanager")  # nobody can empty it
    told = followed(place, case("a", stdin=b"1", expected=b"1"), case("b"), case("c"))
    assert [result.name for result in told.cases] == ["a"]
    assert told.facts is not None and told.facts.not_clean.startswith("/.jobmanager") and not told.facts.is_leaving


def test_a_hundred_cases_have_the_verdicts_of_one(place: Place) -> None:
    cases = [case(str(number), stdin=b"%d\n" % number, expected=b"%d" % (number if number % 7 else -1)) for number in range(1, 101)]
    facts = followed(place, *cases)
    assert [result.correct for result in facts.cases] == [bool(number % 7) for number in range(1, 101)]


def test_a_folder_that_others_share_stays_when_the_workspace_around_it_is_cleared(place: Place) -> None:
    """As between the programs of a student container that is kept."""
    name = place.started(limits=LIMITS, shares=True, workspace=GRADING_WORKSPACE)
    link = place.linked(name)
    for path in (f"{GRADING_WORKSPACE}/own", f"{SHARED_FOLDER}/shared"):
        link.send(Put(path=path.encode(), mode=0o644, mtime_s=0, offset=0, last=True, data=b"x"))
    link.send(Clear(request=1, put_back=False, places=(GRADING_WORKSPACE.encode(), b"/tmp", SHM.encode())))
    (cleared,) = received(link, Cleared)
    assert (cleared.clean, cleared.why) == (True, b"")
    link.send(ListFolder(request=2, path=GRADING_WORKSPACE.encode()))
    (listed,) = received(link, Entries)
    assert {entry.path for entry in listed.entries} == {b"student", b"student/shared"}


def received(link: RunnerLink, kind: type[Any]) -> list[Any]:
    """The messages of a kind, as soon as there are any."""
    found: list[Any] = []
    while not found:
        messages = link.receive(PATIENCE_S)
        assert messages is not None, "the connection is lost"
        found = [message for message in messages if isinstance(message, kind)]
    return found
