"""What a result tells of its run: the limit that decided, the signal, and who killed the program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Union

import pytest

from jobmanager import Evidence, Limits, Outcome
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import (
    CapturedOutput,
    ContainerEnded,
    EndedDuringOutage,
    HostGivenUp,
    InfrastructureFailure,
    LeaseExpired,
    Limit,
    ProgramEnd,
    RemovedExternally,
    RunFacts,
    StoppedForProtocolError,
    StudentsLost,
)
from jobmanager.results.run_result import killed_by, run_result
from jobmanager.results.verdict import KillReason, crash_verdict, judge, killed_verdict
from tests.support.run_facts import cannot_run, cut_off, exited, not_sent, stopped_for

LIMITS = Limits(cpu_time_s=10, wall_time_s=20, output_kib=1)
DEAD = ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, exit_code=137)
DEAD_OF_MEMORY = replace(DEAD, oom_killed=True)
KILLED = ProgramEnd(signal="SIGKILL")
NO_ID = RunFacts(ending=StoppedForProtocolError(reason="no id", end=KILLED))


@pytest.mark.parametrize(
    ("facts", "killer", "signal"),
    [
        (exited(0), None, None),
        (exited(137), None, None),
        (exited(3, counters={"oom_kills": 1}), None, None),
        (exited(signal="SIGSEGV"), "program", "SIGSEGV"),
        (exited(signal="SIGKILL"), "program", "SIGKILL"),
        (exited(signal="SIGXFSZ"), "program", "SIGXFSZ"),
        (exited(signal="SIGXCPU"), "program", "SIGXCPU"),
        (exited(signal="SIGXCPU", cpu_time_s=10.5), "kernel", "SIGXCPU"),
        (exited(signal="SIGKILL", cpu_time_s=10.5), "kernel", "SIGKILL"),
        (exited(signal="SIGKILL", wall_time_s=20.5), "program", "SIGKILL"),
        (exited(signal="SIGKILL", counters={"oom_kills": 1}), "kernel", "SIGKILL"),
        (exited(signal="SIGKILL", container=DEAD_OF_MEMORY), "kernel", "SIGKILL"),
        (exited(signal="SIGKILL", container=DEAD_OF_MEMORY, counters={"oom_kills": 0}), "program", "SIGKILL"),
        (exited(signal="SIGSEGV", counters={"oom_kills": 1}), "program", "SIGSEGV"),
        (stopped_for(Limit.WALL, 20.1), "jobmanager", None),
        (stopped_for(Limit.CPU, 10.1, end=KILLED), "jobmanager", None),
        (stopped_for(Limit.OUTPUT, 2000, end=ProgramEnd()), "jobmanager", None),
        (stopped_for(Limit.WALL, 20.1, end=ProgramEnd(exit_code=0)), None, None),
        (stopped_for(Limit.WALL, 20.1, end=ProgramEnd(signal="SIGSEGV")), "program", "SIGSEGV"),
        (NO_ID, "jobmanager", None),
        (cut_off(StudentsLost()), "jobmanager", None),
        (cut_off(LeaseExpired(), end=KILLED), "jobmanager", None),
        (cut_off(RemovedExternally()), "outsider", None),
        (cut_off(ContainerEnded(container=DEAD)), "outsider", None),
        (cut_off(ContainerEnded(container=DEAD_OF_MEMORY)), "kernel", None),
        (cut_off(end=ProgramEnd(exit_code=0)), None, None),
        (cut_off(HostGivenUp()), None, None),
        (cut_off(EndedDuringOutage(container=DEAD)), None, None),
        (cut_off(InfrastructureFailure(reason="no space")), None, None),
        (cannot_run("no such program"), None, None),
        (not_sent(), None, None),
    ],
)
def test_a_result_says_who_killed_its_program_and_the_signal_unless_it_was_our_own(
    facts: RunFacts, killer: Union[str, None], signal: Union[str, None]
) -> None:
    verdict = judge(facts, LIMITS)
    run = run_result(verdict, facts)

    assert (killed_by(verdict, facts), run.signal) == (killer, signal)
    assert run.exit_code == (facts.end and facts.end.exit_code)


@pytest.mark.parametrize(
    ("facts", "killer"),
    [
        (cut_off(ContainerEnded(container=DEAD)), "jobmanager"),
        (cut_off(end=KILLED), "jobmanager"),
        (exited(signal="SIGKILL"), "jobmanager"),
        (not_sent(), "jobmanager"),
        (exited(0), None),
        (exited(signal="SIGSEGV"), "program"),
    ],
)
def test_a_request_has_killed_a_program_that_had_not_ended_before(facts: RunFacts, killer: Union[str, None]) -> None:
    assert killed_by(judge(facts, LIMITS, KillReason.KILL_JOB), facts) == killer


def test_without_a_run_only_a_request_is_known_to_have_ended_the_job() -> None:
    assert killed_by(killed_verdict(KillReason.CLOSE), None) == "jobmanager"
    assert killed_by(crash_verdict("no_host", "nobody"), None) is None


@pytest.mark.parametrize(
    ("facts", "limit"),
    [
        (stopped_for(Limit.WALL, 20.1), "wall"),
        (stopped_for(Limit.CPU, 10.1), "cpu"),
        (exited(wall_time_s=20.1), "wall"),
        (exited(cpu_time_s=10.1), "cpu"),
        (exited(output=CapturedOutput(stdout_bytes=2000)), "output"),
        (exited(1, counters={"oom_kills": 1}), "memory"),
        (exited(1, counters={"fork_refusals": 1, "workspace_full": True}), "processes"),
        (exited(1, counters={"workspace_full": True, "shm_full": True}), "workspace"),
        (exited(1, counters={"shm_full": True}), "shm"),
        (cut_off(ContainerEnded(container=DEAD_OF_MEMORY)), "memory"),
        (exited(0, counters={"oom_kills": 1}), None),
        (exited(1), None),
        (cut_off(RemovedExternally()), None),
        (NO_ID, None),
    ],
)
def test_a_result_has_the_limit_that_decided_its_outcome_and_no_other(facts: RunFacts, limit: Union[str, None]) -> None:
    assert run_result(judge(facts, LIMITS), facts).limit == limit


def test_a_run_result_has_what_was_seen_of_the_run() -> None:
    seen: dict[str, Any] = {"cpu_time_s": 1.5, "wall_time_s": 2.5, "peak_memory_bytes": 3 * 2**20}
    facts = exited(7, output=CapturedOutput(stdout=b"out", stderr=b"err", stdout_bytes=4, stderr_bytes=3), **seen)

    run = run_result(judge(facts, LIMITS), facts)

    assert (run.outcome, run.text, run.exit_code) == (Outcome.FAILED, "exit code 7", 7)
    assert (run.stdout, run.stderr, run.stdout_bytes, run.stderr_bytes, run.output_cut) == (b"out", b"err", 4, 3, True)
    assert (run.cpu_time_s, run.wall_time_s, run.peak_memory_mib) == (1.5, 2.5, 3.0)
    assert run.evidence == (Evidence(kind="exit_code", value=7, source="the runner"),)
