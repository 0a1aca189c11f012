"""The verdict: the table of outcomes in ``docs/outcomes.md`` as code. The first line that fits decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from jobmanager.model.container import ContainerInfo
from jobmanager.model.limits import Limits
from jobmanager.model.result import Evidence, LimitName, Outcome
from jobmanager.results.facts import (
    CannotRun,
    CapturedOutput,
    Cause,
    ContainerEnded,
    EndedDuringOutage,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    LeaseExpired,
    Limit,
    LimitHit,
    ProgramEnd,
    ProgramExited,
    RemovedExternally,
    RunFacts,
    StoppedForLimit,
    StoppedForProtocolError,
    StudentsLost,
)

_RUNNER = "the runner"
_SHM = "free space of /dev/shm"
_WORKSPACE = "free space of the workspace"
_CGROUP = "the container's cgroup, read by the runner"
_INSPECT = "inspect"
_OUR_CLOCK = "our clock"
SIGKILL = "SIGKILL"
_KILLED_CODE = 137  # of a container whose PID 1 was killed
_PERMANENT = frozenset({"not_started", "start_refused", "no_host", "queue_timeout"})  # another run would end in the same way


class KillReason(str, Enum):
    """Why a job was killed on request."""

    KILL_JOB = "kill_job"
    CLOSE = "close"
    DRAIN_OVER = "drain time over"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome with its reason."""

    outcome: Outcome
    text: str = ""
    evidence: tuple[Evidence, ...] = ()
    limit: LimitName | None = None  # the one that decided
    cut_off: bool = False  # neither the program nor the task is the reason, so another run may end otherwise


def judge(facts: RunFacts, limits: Limits, killed: KillReason | None = None) -> Verdict:
    """Decide by the first line of the table that fits. All that was found becomes evidence."""
    found = killed_verdict(killed) if killed else _passed_limit(facts, limits) or _by_ending(facts, limits)
    return replace(found, evidence=_without_repeats(found.evidence, _other_evidence(facts, limits)))


def killed_verdict(reason: KillReason) -> Verdict:
    """The job was killed on request, whatever the program was doing."""
    return Verdict(
        outcome=Outcome.KILLED,
        text=f"killed: {reason.value}",
        evidence=(Evidence(kind="requested_by", value=reason.value, source="our own request"),),
    )


def superseded_verdict(by: str) -> Verdict:
    """A newer job with the same key took its place in the queue."""
    killed = killed_verdict(KillReason.SUPERSEDED)
    newer = Evidence(kind="superseded_by", value=by, source="our own request")
    return replace(killed, text=f"killed: superseded by job {by}", evidence=(*killed.evidence, newer))


def crash_verdict(kind: str, text: str, source: str = "jobmanager") -> Verdict:
    """A crash: the job ended for a reason other than the program. ``kind`` and ``source`` are those of the evidence."""
    return Verdict(
        outcome=Outcome.CRASH,
        text=text,
        evidence=(Evidence(kind=kind, value=text, source=source),),
        cut_off=kind not in _PERMANENT,
    )


def with_reruns(verdict: Verdict, cut_off: Sequence[str]) -> Verdict:
    """The verdict of the last run, with the reasons why the runs before it do not count."""
    if not cut_off:
        return verdict
    runs = Evidence(kind="reruns", value=len(cut_off), source="the task's retries")
    reasons = tuple(Evidence(kind="cut_off", value=text, source="an earlier run") for text in cut_off)
    return replace(verdict, evidence=(*verdict.evidence, runs, *reasons))


def end_text(end: ProgramEnd) -> str:
    """How a program ended, in words."""
    return f"exit code {end.exit_code}" if end.signal is None else f"killed by {end.signal}"


def ended_by_itself(facts: RunFacts) -> bool:
    """Whether the program is known to have ended otherwise than by a kill of ours."""
    if facts.end is None:
        return False
    return isinstance(facts.ending, ProgramExited) or facts.end.exit_code is not None or facts.end.signal not in (None, SIGKILL)


def _passed_limit(facts: RunFacts, limits: Limits) -> Verdict | None:
    """A limit that the program had passed when it ended, by the figures. A stop for a limit of time is the earlier proof."""
    stopped_for = facts.ending.limit_hit.limit if isinstance(facts.ending, StoppedForLimit) else None
    if stopped_for in (Limit.WALL, Limit.CPU):
        return None
    by_itself = ended_by_itself(facts)
    if by_itself and facts.cpu_time_s is not None and facts.cpu_time_s > limits.cpu_time_s:
        return _timeout_verdict(Limit.CPU, facts.cpu_time_s, limits)
    if by_itself and facts.wall_time_s is not None and facts.wall_time_s > limits.wall_s:
        return _timeout_verdict(Limit.WALL, facts.wall_time_s, limits)
    if stopped_for is None and not limits.drops_output and facts.output.total_bytes > limits.output_kib * 1024:
        return _output_verdict(facts.output.total_bytes, limits)
    return None


def _by_ending(facts: RunFacts, limits: Limits) -> Verdict:
    ending = facts.ending
    if isinstance(ending, StoppedForLimit):
        return _stopped_verdict(ending.limit_hit, facts.output.total_bytes, limits)
    if isinstance(ending, StoppedForProtocolError):
        return _protocol_error_verdict(ending.reason)
    if isinstance(ending, CannotRun):
        return _not_started_verdict(ending)
    if isinstance(ending, ProgramExited):
        return _overflow(ending, limits) or _by_end(ending.end)
    return _without_report(ending.cause, facts, limits)


def _not_started_verdict(ending: CannotRun) -> Verdict:
    """The task is wrong, or the image. A script that cannot be run as it is written is the program's failure."""
    text = f"the program was not started: {ending.reason}"
    if not ending.is_its_own:
        return crash_verdict("not_started", text, _RUNNER)
    return Verdict(outcome=Outcome.FAILED, text=text, evidence=(Evidence(kind="not_started", value=text, source=_RUNNER),))


def _stopped_verdict(hit: LimitHit, output_bytes: int, limits: Limits) -> Verdict:
    if hit.limit is Limit.OUTPUT:
        return _output_verdict(max(output_bytes, int(hit.measured)), limits)
    return _timeout_verdict(hit.limit, hit.measured, limits)


def _timeout_verdict(limit: Limit, measured: float, limits: Limits) -> Verdict:
    if limit is Limit.CPU:
        text, source = f"CPU time limit of {limits.cpu_time_s:g} s reached", "CPU counter of the whole container"
    else:
        text, source = f"wall clock limit of {limits.wall_s:g} s reached", _OUR_CLOCK
    evidence = (Evidence(kind=limit.value, value=round(measured, 4), source=source),)
    return Verdict(outcome=Outcome.TIMEOUT, text=text, evidence=evidence, limit="cpu" if limit is Limit.CPU else "wall")


def _output_verdict(counted: int, limits: Limits) -> Verdict:
    return _overflow_verdict("output", "output_bytes", counted, "bytes counted", f"output limit of {limits.output_kib} KiB reached")


def _protocol_error_verdict(reason: str) -> Verdict:
    evidence = (Evidence(kind="protocol_error", value=reason, source="the grading supervisor"),)
    return Verdict(outcome=Outcome.ERROR, text=f"the grading container was stopped: {reason}", evidence=evidence)


def _without_report(cause: Cause | StudentsLost | EngineUnreachable, facts: RunFacts, limits: Limits) -> Verdict:
    if isinstance(cause, HostGivenUp):
        text = f"the host could not be reached for {facts.outage_s:.0f} s and was given up"
        return crash_verdict("host_lost", text, _OUR_CLOCK)
    if isinstance(cause, StudentsLost):
        return crash_verdict("link_broke", "the grader was cut off from its student containers", "the grading supervisor")
    if isinstance(cause, RemovedExternally):
        return crash_verdict("removed", "the container was removed by somebody else", _INSPECT)
    if isinstance(cause, EndedDuringOutage):
        text = "the engine could not be reached when the container ended"
        return crash_verdict("ended_during_outage", text, "our record of the outage")
    if isinstance(cause, InfrastructureFailure):
        return crash_verdict("infrastructure_error", cause.reason)
    if isinstance(cause, LeaseExpired):
        text = "the container had heard nothing of this library for so long that it ended the program"
        return crash_verdict("lease_expired", text, _RUNNER)
    if isinstance(cause, ContainerEnded) and died_of_memory(cause.container):
        return _memory_verdict(facts.end, limits)
    return crash_verdict("stopped_externally", "the container was stopped by somebody else", _INSPECT)


def _memory_verdict(end: ProgramEnd | None, limits: Limits) -> Verdict:
    """The runner counted what the kernel killed for memory; the engine knows it of the whole container."""
    text = f"memory limit of {limits.memory_mib} MiB reached"
    if end is not None and end.oom_kills:
        return _overflow_verdict("memory", "oom_kills", end.oom_kills, _CGROUP, text)
    return _overflow_verdict("memory", "oom_killed", 1, _INSPECT, text)


def ran_out_of_memory(ending: ProgramExited) -> bool:
    """Whether the kernel killed processes for memory. Where it does not count them, the engine may know it."""
    if ending.end.oom_kills is None:
        return ending.container is not None and ending.container.oom_killed
    return ending.end.oom_kills > 0


def died_of_memory(container: ContainerInfo | None) -> bool:
    """Whether PID 1 was killed for memory. Newer engines say ``oom_killed`` also when another process was."""
    return container is not None and container.oom_killed and container.exit_code == _KILLED_CODE


def _overflow(ending: ProgramExited, limits: Limits) -> Verdict | None:
    """A limit of the kernel's that the program had hit, unless it ended well all the same."""
    end = ending.end
    if end.exit_code == 0:
        return None
    if ran_out_of_memory(ending):
        return _memory_verdict(end, limits)
    if end.fork_refusals:
        text = f"limit of {limits.processes} processes reached"
        return _overflow_verdict("processes", "fork_refusals", end.fork_refusals, _CGROUP, text)
    if end.workspace_full:
        return _overflow_verdict("workspace", "workspace_full", 1, _WORKSPACE, f"workspace of {limits.workspace_mib} MiB full")
    if end.shm_full:
        return _overflow_verdict("shm", "shm_full", 1, _SHM, f"/dev/shm of {limits.shm_mib} MiB full")
    return None


def _overflow_verdict(limit: LimitName, kind: str, value: int, source: str, text: str) -> Verdict:
    evidence = (Evidence(kind=kind, value=value, source=source),)
    return Verdict(outcome=Outcome.OVERFLOW, text=text, evidence=evidence, limit=limit)


def _by_end(end: ProgramEnd) -> Verdict:
    if end.signal is None and end.exit_code is None:
        return crash_verdict("infrastructure_error", "the program was killed and did not end", _RUNNER)
    outcome = Outcome.SUCCESS if end.exit_code == 0 else Outcome.FAILED
    text = "" if outcome is Outcome.SUCCESS else end_text(end)
    return Verdict(outcome=outcome, text=text, evidence=_how_it_ended(end))


def _how_it_ended(end: ProgramEnd) -> tuple[Evidence, ...]:
    if end.signal is not None:
        return (Evidence(kind="signal", value=end.signal, source=_RUNNER),)
    return () if end.exit_code is None else (Evidence(kind="exit_code", value=end.exit_code, source=_RUNNER),)


def _other_evidence(facts: RunFacts, limits: Limits) -> tuple[Evidence, ...]:
    """What was found beside the deciding evidence; it does not change the outcome."""
    found = [*_how_it_ended(facts.end)] if facts.end is not None and ended_by_itself(facts) else []
    found += [*_counter_evidence(facts.end), *_container_evidence(facts.container)]
    if facts.outage_s > 0:
        found.append(Evidence(kind="outage_s", value=round(facts.outage_s, 1), source="our record of the outage"))
    if facts.paused_externally:
        found.append(Evidence(kind="paused_externally", value="the container had been paused by somebody else", source=_INSPECT))
    found += _output_evidence(facts.output, limits)
    if facts.collected.error:
        found.append(Evidence(kind="archive", value=facts.collected.error, source="collecting"))
    if facts.collected.not_collected:
        found.append(Evidence(kind="not_collected", value=facts.collected.not_collected, source="collecting"))
    return tuple(found)


def _output_evidence(output: CapturedOutput, limits: Limits) -> list[Evidence]:
    found = []
    dropped = output.total_bytes - limits.output_kib * 1024
    if limits.drops_output and dropped > 0:
        value = f"{dropped} bytes past {limits.output_kib} KiB were dropped"
        found.append(Evidence(kind="output_cut", value=value, source=_RUNNER))
    if output.beginning_lost:
        found.append(Evidence(kind="output_cut", value="the first part was lost with a waiter process", source=_RUNNER))
    if output.is_incomplete:
        found.append(Evidence(kind="output_cut", value="the rest was not received", source="the connection to the host"))
    return found


def _container_evidence(container: ContainerInfo | None) -> list[Evidence]:
    if container is None:
        return []
    found = []
    if container.exit_code is not None:
        found.append(Evidence(kind="container_exit_code", value=container.exit_code, source=_INSPECT))
    if container.oom_killed:
        found.append(Evidence(kind="oom_killed", value=1, source=_INSPECT))
    return found


def _counter_evidence(end: ProgramEnd | None) -> list[Evidence]:
    found: list[Evidence] = []
    if end is None:
        return found
    if end.oom_kills:
        found.append(Evidence(kind="oom_kills", value=end.oom_kills, source=_CGROUP))
    if end.fork_refusals:
        found.append(Evidence(kind="fork_refusals", value=end.fork_refusals, source=_CGROUP))
    if end.workspace_full:
        found.append(Evidence(kind="workspace_full", value=1, source=_WORKSPACE))
    if end.shm_full:
        found.append(Evidence(kind="shm_full", value=1, source=_SHM))
    return found


def _without_repeats(first: tuple[Evidence, ...], more: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    kinds = {evidence.kind for evidence in first}
    return first + tuple(evidence for evidence in more if evidence.kind not in kinds)
