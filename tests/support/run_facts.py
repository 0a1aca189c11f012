"""The facts of one run as a waiter would report them: a line for each kind of ending."""

from __future__ import annotations

from typing import Any, Union

from jobmanager.model.container import ContainerInfo
from jobmanager.results.facts import (
    CannotRun,
    Cause,
    ContainerEnded,
    EngineUnreachable,
    InfrastructureFailure,
    JobNotSent,
    Limit,
    LimitHit,
    ProgramEnd,
    ProgramExited,
    RunCutOff,
    RunFacts,
    StoppedForLimit,
    StudentsLost,
)

_UNEXPLAINED = ContainerEnded()


def exited(
    exit_code: int = 0,
    *,
    signal: str | None = None,
    result_file: bytes | None = None,
    container: ContainerInfo | None = None,
    counters: dict[str, Any] | None = None,
    **facts: Any,
) -> RunFacts:
    """The program ended by itself. ``counters`` are further fields of its end."""
    end = ProgramEnd(exit_code=None if signal else exit_code, signal=signal, **(counters or {}))
    return RunFacts(ending=ProgramExited(end=end, result_file=result_file, container=container), **facts)


def stopped_for(limit: Limit, measured: float, *, end: ProgramEnd | None = None, **facts: Any) -> RunFacts:
    """It was stopped for a limit."""
    return RunFacts(ending=StoppedForLimit(limit_hit=LimitHit(limit=limit, measured=measured), end=end), **facts)


def cut_off(cause: Union[Cause, StudentsLost] = _UNEXPLAINED, *, end: ProgramEnd | None = None, **facts: Any) -> RunFacts:
    """The runner's report did not come; with an end, not whole."""
    return RunFacts(ending=RunCutOff(cause=cause, end=end), **facts)


def failed_here(reason: str) -> RunFacts:
    """An error on our side, after which nobody knows what the program did."""
    return cut_off(InfrastructureFailure(reason=reason))


def not_sent(cause: Union[Cause, EngineUnreachable] = _UNEXPLAINED) -> RunFacts:
    """It is proven that the program never started."""
    return RunFacts(ending=JobNotSent(cause=cause))


def cannot_run(reason: str) -> RunFacts:
    """The runner did not start it."""
    return RunFacts(ending=CannotRun(reason=reason))
