"""What the ledger remembers of a job until it has been called back."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from jobmanager.model.job import Request
from jobmanager.model.listings import RunningJob, WaitingJob
from jobmanager.model.result import Callback, SSHCallback, Step
from jobmanager.results.facts import LimitHit, RunFacts
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict, killed_verdict
from jobmanager.scheduling.durations import Sort
from jobmanager.scheduling.job_states import JobState
from jobmanager.scheduling.waiting_queue import Needs, Place

_MOST_STEPS = 200
_KIND_LENGTH = 300  # characters of a command that tell it from others


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """A job that has not been called back yet. Times are those of the ledger's clock, in seconds."""

    request: Request
    callback: Callback | None
    ssh_callback: SSHCallback | None  # None when there is nobody to tell, or no more
    number: int
    arrival: int  # its number, or that of the job whose place it took
    accepted_at: float
    accepted_wall_s: float
    needs: Needs
    state: JobState = JobState.WAITING
    host: str | None = None
    container: str = ""
    engine_id: str = ""  # of its host, when it was placed
    container_id: str = ""
    image: str = ""
    image_command: tuple[str, ...] = ()
    token: str = ""
    placements: int = 0  # makes its containers' names: one is never used again
    times_unreachable: int = 0
    failures: int = 0  # placements that came to nothing although the host could be reached
    submits_lost: int = 0
    waiters_lost: int = 0  # while they were given it
    began_at: float | None = None
    cut_off: list[str] = field(default_factory=list)  # why runs of it ended before their time
    stopped: LimitHit | None = None  # its waiter said that it was about to stop it for that
    killed: KillReason | None = None
    verdict: Verdict | None = None
    facts: RunFacts | None = None
    trouble: list[str] = field(default_factory=list)  # why hosts could not
    timings: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is called in listings."""
        named = self.request.task.name or self.request.task.environment
        return f"{named} (ssh)" if self.request.ssh_password else named

    @property
    def kind(self) -> str:
        """Jobs of one kind are expected to take the same time: those of one name, or of one command where there is none."""
        task = self.request.task
        told_apart = task.name or f"{task.environment} {task.command!r:.{_KIND_LENGTH}}"
        return sys.intern(f"{told_apart} (ssh)" if self.request.ssh_password else told_apart)  # a person takes longer

    def place(self, now: float) -> Place:
        """Its place in the queue, from now on."""
        request = self.request
        wall_s = request.task.limits.wall_s
        return Place(
            job_id=request.job_id,
            needs=self.needs,
            priority=request.priority,
            launcher=request.launcher_name,
            arrival=self.arrival,
            sort=Sort(self.kind, wall_s),
            waiting_since=now,
            supersede_key=request.supersede_key,
            listed=WaitingJob(request.job_id, True, self.title, request.launcher_name, wall_s),
        )

    def note(self, step: str, now: float) -> None:
        """Remember a step for those who debug."""
        if len(self.steps) < _MOST_STEPS:
            self.steps.append(Step(name=step, at_s=round(now - self.accepted_at, 4)))

    def say_crash(self, kind: str, text: str, source: str = "jobmanager") -> None:
        """Its verdict is a crash, unless somebody has asked for its end before."""
        self.verdict = killed_verdict(self.killed) if self.killed else crash_verdict(kind, text, source)

    def because(self, lack: str = "") -> str:
        """What hosts said of it, and what it lacks, in brackets."""
        reasons = [*self.trouble[-3:], *([lack] if lack else [])]
        return f" ({'; '.join(reasons)})" if reasons else ""

    def running_for_s(self, now: float) -> float:
        """How long its container has been running; 0 when it has none."""
        return 0.0 if self.began_at is None else now - self.began_at

    def running_job(self) -> RunningJob:
        """It in a listing of jobs that have a host."""
        request, wall_s = self.request, self.request.task.limits.wall_s
        started_at = self.accepted_wall_s + self.timings.get("waiting", 0.0)
        info = f"{self.title} on {self.host}"
        return RunningJob(request.job_id, True, info, request.launcher_name, started_at, wall_s, self.host or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSource:
    """Where a job's output is to be had."""

    container: str  # empty while it has none
    ended: bool
    facts: RunFacts | None  # once it has ended, if anything was seen of its run
