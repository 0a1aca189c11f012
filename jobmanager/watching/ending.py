"""Which ending a run had, of all that was observed of it: the table of endings in ``docs/outcomes.md`` as code."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobmanager.model.container import ContainerInfo
from jobmanager.results.facts import (
    CannotRun,
    Cause,
    ContainerEnded,
    EndedDuringOutage,
    Ending,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    LeaseExpired,
    LimitHit,
    ProgramEnd,
    ProgramExited,
    RemovedExternally,
    RunCutOff,
    StoppedForLimit,
    StoppedForProtocolError,
    StudentsLost,
)

_LEASE_OVER = 120
_RUNNER_LEFT = {  # its own exit codes; nobody else can make it exit with one
    _LEASE_OVER: "its lease was over",
    121: "it was sent something that made no sense",
    122: "something that it needs failed",
    123: "it was not PID 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What was observed of one run. Several can be true of one."""

    cause: Cause | EngineUnreachable = field(default_factory=ContainerEnded)  # why the container is followed no longer
    never_started: bool = False  # it is proven that the program never started
    limit_hit: LimitHit | None = None  # we stopped it for this
    protocol_error: str = ""  # the invalid or unsupported message of a grading job's supervisor for which we ended the job
    refusal: str = ""  # the runner's reason for not starting the program
    refusal_is_its_own: bool = False  # the program's
    refusal_is_of_this_run: bool = False
    students_lost: bool = False  # a grading job lost its student containers when it needed them
    end: ProgramEnd | None = None  # how the program ended, or was ended
    report_complete: bool = False  # the program ended by itself, and the runner has told all of it
    result_file: bytes | None = None
    ended_during_outage: bool = False  # nobody knows that the container was alive after the last outage
    missing_report: str = ""  # why there is no report of the runner, where that is an error of ours or the engine's


def ending_of(seen: Observations) -> Ending:
    """The first line of the table that fits."""
    cause, container = seen.cause, seen.cause.container if isinstance(seen.cause, ContainerEnded) else None
    if isinstance(cause, EngineUnreachable):
        return JobNotSent(cause=cause)
    if seen.never_started:
        return JobNotSent(cause=_explained(cause, seen))
    if seen.limit_hit is not None:
        return StoppedForLimit(limit_hit=seen.limit_hit, end=seen.end, container=container)
    if seen.protocol_error:
        return StoppedForProtocolError(reason=seen.protocol_error, end=seen.end, container=container)
    if seen.refusal:
        return CannotRun(
            reason=seen.refusal,
            is_its_own=seen.refusal_is_its_own,
            is_of_this_run=seen.refusal_is_of_this_run,
            container=container,
        )
    if isinstance(cause, (HostGivenUp, LeaseExpired)):
        return RunCutOff(cause=cause, end=seen.end)
    if seen.students_lost:
        return RunCutOff(cause=StudentsLost(container=container), end=seen.end)
    if seen.end is not None and seen.report_complete:
        return ProgramExited(end=seen.end, result_file=seen.result_file, container=container)
    return RunCutOff(cause=_explained(cause, seen), end=seen.end)


def _explained(cause: Cause, seen: Observations) -> Cause:
    """Why the runner's report is missing: an outage, or a loss of ours, says more than that the container has ended."""
    if isinstance(cause, (RemovedExternally, HostGivenUp, LeaseExpired)):
        return cause
    if isinstance(cause, ContainerEnded) and cause.container is not None and cause.container.exit_code in _RUNNER_LEFT:
        return _why_it_left(cause.container, cause.container.exit_code)
    if seen.ended_during_outage:
        return EndedDuringOutage(container=cause.container)
    if isinstance(cause, ContainerEnded) and seen.missing_report:
        return InfrastructureFailure(reason=seen.missing_report, container=cause.container)
    return cause


def _why_it_left(container: ContainerInfo, exit_code: int) -> Cause:
    if exit_code == _LEASE_OVER:
        return LeaseExpired(container=container)
    return InfrastructureFailure(reason=f"the container's runner left: {_RUNNER_LEFT[exit_code]}", container=container)
