"""What is known of one run, as its result tells it: also who ended the program."""

from __future__ import annotations

from jobmanager.model.result import KilledBy, Outcome, RunResult
from jobmanager.results.facts import (
    CannotRun,
    ContainerEnded,
    JobNotSent,
    LeaseExpired,
    ProgramExited,
    RemovedExternally,
    RunCutOff,
    RunFacts,
    StoppedForLimit,
    StoppedForProtocolError,
    StudentsLost,
)
from jobmanager.results.verdict import SIGKILL, Verdict, died_of_memory, ended_by_itself, ran_out_of_memory

_KILLER_BY_CAUSE: dict[type, KilledBy] = {
    StudentsLost: "jobmanager",
    LeaseExpired: "jobmanager",
    RemovedExternally: "outsider",
    ContainerEnded: "outsider",
}
_OF_THE_CPU_LIMIT = (SIGKILL, "SIGXCPU")  # what the kernel sends at RLIMIT_CPU


def run_result(verdict: Verdict, facts: RunFacts) -> RunResult:
    """The result of one run by itself."""
    output, peak = facts.output, facts.peak_memory_bytes
    killer = killed_by(verdict, facts)
    return RunResult(
        outcome=verdict.outcome,
        text=verdict.text,
        limit=verdict.limit,
        exit_code=None if facts.end is None else facts.end.exit_code,
        signal=facts.end.signal if facts.end is not None and killer in ("program", "kernel") else None,
        stdout=output.stdout,
        stderr=output.stderr,
        stdout_bytes=output.stdout_bytes,
        stderr_bytes=output.stderr_bytes,
        output_cut=output.is_cut,
        cpu_time_s=facts.cpu_time_s,
        wall_time_s=facts.wall_time_s,
        peak_memory_mib=None if peak is None else round(peak / 2**20, 2),
        evidence=verdict.evidence,
    )


def killed_by(verdict: Verdict, facts: RunFacts | None) -> KilledBy | None:
    """Who ended the program: ``docs/outcomes.md`` has the table."""
    on_request = verdict.outcome is Outcome.KILLED
    if facts is None or isinstance(facts.ending, (JobNotSent, CannotRun)):
        return "jobmanager" if on_request else None
    if ended_by_itself(facts):
        return _signal_sender(verdict, facts)
    if on_request or isinstance(facts.ending, (StoppedForLimit, StoppedForProtocolError)):
        return "jobmanager"
    assert isinstance(facts.ending, RunCutOff)
    if isinstance(facts.ending.cause, ContainerEnded) and died_of_memory(facts.ending.cause.container):
        return "kernel"
    return _KILLER_BY_CAUSE.get(type(facts.ending.cause))


def _signal_sender(verdict: Verdict, facts: RunFacts) -> KilledBy | None:
    end = facts.end
    if end is None or end.signal is None:
        return None
    if end.signal == SIGKILL and verdict.outcome is Outcome.KILLED:
        return "jobmanager"
    if end.signal == SIGKILL and isinstance(facts.ending, ProgramExited) and ran_out_of_memory(facts.ending):
        return "kernel"
    if end.signal in _OF_THE_CPU_LIMIT and verdict.limit == "cpu":
        return "kernel"
    return "program"
