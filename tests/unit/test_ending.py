"""The table of endings (docs/outcomes.md): of all that was seen of one run, the first line that fits is its ending."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import (
    CannotRun,
    ContainerEnded,
    EndedDuringOutage,
    Ending,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    LeaseExpired,
    Limit,
    LimitHit,
    ProgramEnd,
    ProgramExited,
    RemovedExternally,
    RunCutOff,
    RunFacts,
    StoppedForLimit,
    StoppedForProtocolError,
)
from jobmanager.watching.ending import Observations, ending_of
from tests.unit.test_docs import table, text_of

EXITED = ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, exit_code=137)
END = ProgramEnd(exit_code=3)
HIT = LimitHit(limit=Limit.WALL, measured=20.1)
LINES: dict[str, dict[str, Any]] = {  # what is seen of a run that a line fits
    "`JobNotSent`": {"never_started": True},
    "`StoppedForLimit`": {"limit_hit": HIT},
    "`StoppedForProtocolError`": {"protocol_error": "no id"},
    "`CannotRun`": {"refusal": "no tar"},
    "`RunCutOff` by `HostGivenUp`": {"cause": HostGivenUp()},
    "`RunCutOff` by `LeaseExpired`": {"cause": LeaseExpired()},
    "`RunCutOff` by `StudentsLost`": {"students_lost": True},
    "`ProgramExited`": {"end": END, "report_complete": True},
    "`RunCutOff` by `RemovedExternally`": {"cause": RemovedExternally()},
    "`RunCutOff` by `EndedDuringOutage`": {"ended_during_outage": True},
    "`RunCutOff` by `InfrastructureFailure`": {"missing_report": "lost with the log"},
    "`RunCutOff` by `ContainerEnded`": {},
}


def named(ending: Ending) -> str:
    name = f"`{type(ending).__name__}`"
    return f"{name} by `{type(ending.cause).__name__}`" if isinstance(ending, RunCutOff) else name


def test_the_table_in_the_documentation_has_these_lines_in_this_order() -> None:
    rows = table(text_of("docs/outcomes.md"), "", "ending", "when")
    assert [row[1] for row in rows] == list(LINES)


def test_of_two_lines_that_fit_a_run_the_upper_one_is_its_ending() -> None:
    for upper, lower in itertools.combinations_with_replacement(LINES, 2):
        assert named(ending_of(Observations(**{**LINES[lower], **LINES[upper]}))) == upper, (upper, lower)


@pytest.mark.parametrize(
    "cause", [RemovedExternally(), HostGivenUp(), InfrastructureFailure(reason="no space"), EngineUnreachable(reason="refused")]
)
def test_a_job_that_was_not_sent_has_its_cause(cause: Any) -> None:
    assert ending_of(Observations(cause=cause, never_started=True)) == JobNotSent(cause=cause)


def test_only_an_engine_that_did_not_answer_is_no_fault_of_the_job_that_was_not_sent() -> None:
    unreachable = [EngineUnreachable(reason="refused"), HostGivenUp()]
    others = [ContainerEnded(), RemovedExternally(), EndedDuringOutage(), InfrastructureFailure(reason="no space")]

    assert [JobNotSent(cause=cause).is_unreachable for cause in [*unreachable, *others]] == [True] * 2 + [False] * 4


def test_an_outage_explains_a_failure_but_no_removal() -> None:
    failed = Observations(cause=InfrastructureFailure(reason="no space"), ended_during_outage=True)
    removed = Observations(cause=RemovedExternally(), ended_during_outage=True)

    assert ending_of(failed) == RunCutOff(cause=EndedDuringOutage())
    assert ending_of(removed) == RunCutOff(cause=RemovedExternally())


def test_a_failure_has_its_own_reason_and_not_that_of_the_missing_report() -> None:
    seen = Observations(cause=InfrastructureFailure(reason="no space"), missing_report="lost with the log")

    assert ending_of(seen) == RunCutOff(cause=InfrastructureFailure(reason="no space"))


@pytest.mark.parametrize("outage", [False, True])
def test_a_runner_that_left_by_itself_was_not_stopped_by_anybody(outage: bool) -> None:
    left = {code: replace(EXITED, exit_code=code) for code in (0, 119, 120, 121, 122, 123, 124, 137)}
    found = {
        code: ending_of(Observations(cause=ContainerEnded(container=state), ended_during_outage=outage))
        for code, state in left.items()
    }

    assert found[120] == RunCutOff(cause=LeaseExpired(container=left[120]))
    causes = {code: ending.cause for code, ending in found.items() if isinstance(ending, RunCutOff)}
    assert [code for code, cause in causes.items() if isinstance(cause, InfrastructureFailure)] == [121, 122, 123]


@pytest.mark.parametrize(
    ("seen", "ending"),
    [
        ({"limit_hit": HIT}, StoppedForLimit(limit_hit=HIT, end=END, container=EXITED)),
        ({"protocol_error": "no id"}, StoppedForProtocolError(reason="no id", end=END, container=EXITED)),
        ({"refusal": "no tar"}, CannotRun(reason="no tar", container=EXITED)),
        ({"report_complete": True}, ProgramExited(end=END, result_file=b"{}", container=EXITED)),
        ({"ended_during_outage": True}, RunCutOff(cause=EndedDuringOutage(container=EXITED), end=END)),
        ({"missing_report": "lost"}, RunCutOff(cause=InfrastructureFailure(reason="lost", container=EXITED), end=END)),
        ({}, RunCutOff(cause=ContainerEnded(container=EXITED), end=END)),
    ],
)
def test_what_was_seen_beside_it_is_kept_for_the_evidence(seen: dict[str, Any], ending: Ending) -> None:
    found = ending_of(Observations(cause=ContainerEnded(container=EXITED), end=END, result_file=b"{}", **seen))

    assert found == ending
    assert RunFacts(ending=found).container == EXITED
