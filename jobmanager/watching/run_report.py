"""What a monitor reports of its run: facts, from the transcript, the clocks, and what it has noted itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import (
    Cause,
    Collected,
    ContainerEnded,
    EngineUnreachable,
    InfrastructureFailure,
    LeaseExpired,
    Limit,
    LimitHit,
    ProgramEnd,
    RemovedExternally,
    RunFacts,
)
from jobmanager.runner.frames import Ended, HowEnded, RefusalReason, StoppedBy
from jobmanager.watching.ending import Observations, ending_of
from jobmanager.watching.limit_clock import LimitClock
from jobmanager.watching.transcript import Transcript

_OF_ONE_RUN = (RefusalReason.PUT_FAILED, RefusalReason.NO_PROCESS)
_LIMITS = {StoppedBy.WALL: Limit.WALL, StoppedBy.CPU: Limit.CPU, StoppedBy.OUTPUT: Limit.OUTPUT}


@dataclass(slots=True, kw_only=True)
class RunNotes:
    """What a monitor notes of its run, beside what the runner has told."""

    may_have_started: bool  # the program; False is proof that no runner was given it
    limit_hit: LimitHit | None  # for which it is, or was, stopped by a waiter
    refusal: str = ""  # why it is not run, in words
    protocol_error: str = ""  # of a grading container's supervisor
    link_lost: bool = False  # we ended a grading container, as it could not have the students that it waits for
    supervisor_gave_up: bool = False  # it says itself that it was cut off from them
    was_paused_externally: bool = False
    collected: Collected = field(default_factory=Collected)
    timings: dict[str, float] = field(default_factory=dict)  # seconds by step

    @classmethod
    def of(cls, job: MonitorContainer) -> RunNotes:
        """At the beginning: of a job that is taken over, what the waiter before has told."""
        return cls(may_have_started=job.taken_over, limit_hit=job.limit_hit)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """All that the facts are made of."""

    notes: RunNotes
    transcript: Transcript
    limit_clock: LimitClock
    outage_s: float  # how long the engine could not be reached
    survived_outage_s: float  # after so much of that the container was seen alive

    def cause_of_the_end(self) -> Cause:
        """Why nothing more is followed, where the runner has said its last."""
        ended = self.transcript.ended
        if ended is None:
            return ContainerEnded()
        if ended.stopped_by is StoppedBy.LEASE:
            return LeaseExpired()
        if ended.how is HowEnded.NEVER_REAPED or ended.left:
            return InfrastructureFailure(reason="its processes could not be ended")
        return ContainerEnded()

    def facts(self, cause: Cause | EngineUnreachable, *, is_end_known: bool = True) -> RunFacts:
        """What was seen. ``cause`` is why nothing more is followed; a program that ended by itself may have ended before.

        ``is_end_known``: False where more may be missing than the end of its container tells.
        """
        notes, transcript, end = self.notes, self.transcript, self.transcript.end
        may_have_printed = transcript.started is not None or (notes.may_have_started and not notes.refusal)
        wall_s, cpu_time_s = self._wall_time_s(end), self._cpu_time_s(end)
        return RunFacts(
            ending=ending_of(self._observations(cause, end if is_end_known else None)),
            output=transcript.output(is_incomplete=may_have_printed and not transcript.is_over),
            collected=notes.collected,
            paused_externally=notes.was_paused_externally,
            outage_s=self.outage_s,
            cpu_time_s=None if cpu_time_s is None else round(cpu_time_s, 4),
            wall_time_s=round(wall_s, 4),
            peak_memory_bytes=end.peak_memory_bytes if end is not None else self.limit_clock.peak_memory_bytes,
            timings={**notes.timings, "run": round(wall_s, 4)},
            volume_devices=transcript.volume_devices,
        )

    def _observations(self, cause: Cause | EngineUnreachable, end: ProgramEnd | None) -> Observations:
        """All that says how the run ended."""
        notes, transcript = self.notes, self.transcript
        ended, refused = transcript.ended, transcript.refused
        ended_by_itself = ended is not None and ended.stopped_by is StoppedBy.NOBODY
        return Observations(
            cause=cause,
            never_started=transcript.started is None and not notes.may_have_started and not notes.refusal,
            limit_hit=self._limit_hit(cause),
            protocol_error=notes.protocol_error,
            refusal=notes.refusal,
            refusal_is_its_own=refused is not None and refused.why is RefusalReason.NO_INTERPRETER,
            refusal_is_of_this_run=refused is not None and refused.why in _OF_ONE_RUN,
            students_lost=notes.supervisor_gave_up or (notes.link_lost and not ended_by_itself),
            end=end,
            report_complete=ended_by_itself,
            result_file=transcript.result_file,
            ended_during_outage=self.outage_s > self.survived_outage_s and ended is None,
            missing_report=self._missing_report(),
        )

    def _limit_hit(self, cause: Cause | EngineUnreachable) -> LimitHit | None:
        """The limit for which the runner stopped it, or a waiter."""
        ended = self.transcript.ended
        if ended is None:
            was_killed = isinstance(cause, (RemovedExternally, ContainerEnded)) and self.transcript.started is not None
            return self.notes.limit_hit if was_killed else None
        limit = _LIMITS.get(ended.stopped_by)
        if limit is not None:
            return LimitHit(limit=limit, measured=_measured(ended, limit))
        return self.notes.limit_hit if ended.stopped_by is StoppedBy.KILL else None

    def _missing_report(self) -> str:
        """Why there is no report, where that is an error of ours or the engine's; empty otherwise."""
        if self.notes.limit_hit is not None and self.transcript.started is None:
            return "the container did not take its job in time"
        return ""

    def _wall_time_s(self, end: ProgramEnd | None) -> float:
        """By the runner's clock, less what a grader did not have to pay for; by ours where it has not told."""
        if end is None or end.wall_s is None:
            return max(0.0, self.limit_clock.wall_time_s())  # before its start, that is the time for which it may still be cleared
        return self.limit_clock.less_pauses_s(end.wall_s)

    def _cpu_time_s(self, end: ProgramEnd | None) -> float | None:
        if end is None or end.cpu_ns is None:
            return self.limit_clock.cpu_time_s
        return end.cpu_ns / 1e9


def _measured(ended: Ended, limit: Limit) -> float:
    if limit is Limit.OUTPUT:
        return ended.stdout_bytes + ended.stderr_bytes
    return ended.wall_us / 1e6 if limit is Limit.WALL else (ended.cpu_us or 0) / 1e6
