"""Events for hooks: one frozen record for each kind."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from jobmanager.model.job import JobInput, Request
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import CaseResult, JobResult, Outcome
from jobmanager.model.task import Task

__all__ = [
    "CaseEnded",
    "EnvironmentsChanged",
    "Event",
    "HostDown",
    "HostUp",
    "JobDeleted",
    "JobEnded",
    "JobOutput",
    "JobPlaced",
    "JobQueued",
    "JobStarted",
    "ManagerClosing",
    "ManagerStarted",
    "PhaseEnded",
    "PhaseStarted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event in a manager; the root of all."""

    at_s: float  # seconds since 1970 (UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStarted(Event):
    """``start`` has returned: hosts have answered, or a second has passed."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerClosing(Event):
    """``close`` was called; no more jobs are taken."""

    unfinished: int  # jobs that have not ended yet


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueued(Event):
    """A job was accepted."""

    job_id: str
    launcher: str
    priority: int
    task: Task | Pipeline = field(repr=False)
    inputs: JobInput = field(repr=False)

    @classmethod
    def now(cls, request: Request) -> JobQueued:
        """The event of a job that was accepted now."""
        return cls(
            at_s=time.time(),
            job_id=request.job_id,
            launcher=request.launcher_name,
            priority=request.priority,
            task=request.task,
            inputs=request.inputs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlaced(Event):
    """A host was chosen; a container is being created there."""

    job_id: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Event):
    """The container runs, and the job is being sent to it: of a pipeline, its first phase."""

    job_id: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """A phase's container runs, and the phase is being sent to it."""

    job_id: str
    phase: str
    number: int  # of the phase, from 0: its place in ``JobResult.phases``
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutput(Event):
    """The job's program has printed something. Only hooks for this very type get it, as each piece costs a message."""

    job_id: str
    stderr: bool  # else standard output
    data: bytes = field(repr=False)  # at most 64 KiB
    missed_bytes: int = 0  # of this stream, before this data: hooks were too slow for them, or they were not kept
    starts_again: bool = False  # what came before does not count: the job is run again
    phase: str = ""  # the phase of a pipeline that printed it; empty for a task, and with ``starts_again``
    to_submitter: str = ""  # what the grader tells the submitter; there is no data then


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseEnded(Event):
    """A case has ended. One that is not run has no event."""

    job_id: str
    number: int  # among the task's cases, from 1: its place in ``JobResult.cases``
    of: int  # how many cases the task has
    result: CaseResult
    phase: str = ""  # the phase of a pipeline whose case it is; empty for a task


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded(Event):
    """A phase has an outcome. One that is not run has none; one that could not be started has one, and was not started."""

    job_id: str
    phase: str
    number: int  # of the phase, from 0: its place in ``JobResult.phases``
    outcome: Outcome
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """The result is known; its callback is about to be called."""

    job_id: str
    result: JobResult = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeleted(Event):
    """The job's last container is gone, with its volume, and its slot is free. A pipeline's volumes are removed next."""

    job_id: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUp(Event):
    """A host answers (again)."""

    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDown(Event):
    """A host does not answer."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentsChanged(Event):
    """The environments of the hosts that are up have changed: a host or an image has come or gone."""

    environments: tuple[str, ...]  # as it is now
