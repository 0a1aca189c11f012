"""Commands: what the ledger decided is to be done. The loop carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.model.job import Request
from jobmanager.model.limits import Limits
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback, CaseResult, JobResult, Outcome, SSHCallback, Step
from jobmanager.model.task import Task
from jobmanager.results.facts import NO_PROGRESS, CasesProgress, LimitHit, RunFacts
from jobmanager.results.pipeline_result import PhaseReport
from jobmanager.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyJobQueued:
    """Tell the hooks that a job was accepted."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyJobPlaced:
    """Tell the hooks that a job has a host."""

    job_id: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyPhaseEnded:
    """Tell the hooks, and who follows the job, that a phase has an outcome."""

    job_id: str
    phase: str
    number: int
    outcome: Outcome
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyCaseEnded:
    """Tell the hooks that a case of a job has ended."""

    job_id: str
    phase: str  # empty for a task
    number: int  # among the task's cases, from 1
    of: int  # how many it has
    result: CaseResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitContainer:
    """Have a submitter make sure that the container of this name exists and runs."""

    host: str
    container: str
    image: str
    request: Request
    run: int = 0  # for which of the job's runs it is
    slot: str = ""  # the names of the job's volumes begin with its name
    volume_holders: tuple[str, ...] = ()  # containers that have what is in its volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorRun:
    """Have a waiter of its host monitor its container."""

    host: str
    container: str
    container_id: str
    image_command: tuple[str, ...]
    request: Request
    run: int  # which of the job's runs it gets
    limits: Limits  # of this run: a phase may have less time than its task
    taken_over: bool
    elapsed_s: float
    limit_hit: LimitHit | None  # the limit for which an earlier waiter was about to stop it
    images: Mapping[str, str]  # for other containers of the job: those of its host by environment; "" is its own
    kill_at_once: bool  # its kill was requested while no waiter monitored it
    engine_id: str  # the engine on which its container was created
    volume_devices: Mapping[str, str] = field(default_factory=dict)  # of its volumes in the containers before, by name
    progress: CasesProgress = NO_PROGRESS  # of a task with cases: what needs not be run any more
    is_built: bool = False  # of a task with cases: this container has run the build
    slot: str = ""  # the names of the job's volumes begin with its name


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryMonitorRun:
    """Its host has no waiter at the moment: later ask the ledger, which knows whether its job still runs."""

    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRun:
    """Have its waiter kill its container."""

    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSSH:
    """Put onto the done queue that somebody can log in to a job's container."""

    job_id: str
    ssh_callback: SSHCallback
    address: str  # of the host's machine
    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """Put the result of a job onto the done queue."""

    request: Request
    callback: Callback | None
    verdict: Verdict
    facts: RunFacts | None  # of a task's last run; None: it was not seen, or ``phases`` have those of a pipeline
    progress: CasesProgress = NO_PROGRESS  # of a task with cases
    phases: tuple[PhaseReport, ...] = ()  # of a pipeline
    decided_by: int | None = None  # of a pipeline: the phase that stopped the job
    host: str | None
    timings: dict[str, float]
    steps: tuple[Step, ...]
    ssh_callback: SSHCallback | None = None  # of debug="ssh", when it was not called yet
    to_submitter: tuple[str, ...] = ()  # what graders told the submitter


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReady:
    """Put a result that came ready, from another machine, onto the done queue."""

    result: JobResult
    callback: Callback | None
    ssh_callback: SSHCallback | None = None  # of debug="ssh", when it was not called yet
    task: Task | Pipeline | None = None  # whose functions are to check its cases


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteContainer:
    """Have a deleter remove it."""

    host: str
    container: str
    is_ours: bool = False  # our submitter reported it; else a container of this name may be another's
    is_leaving: bool = False  # its runner was told to end
    has_others: bool = False  # its waiter has started others beside it
    delay_s: float = field(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolumes:
    """Have a deleter remove the volumes that the containers of a slot had, which are gone."""

    host: str
    slot: str
    names: tuple[str, ...]
    delay_s: float = field(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyHostDown:
    """Tell the log and the hooks that a host is down."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckHost:
    """Have its waiter check it now: it may be down, or its images may have changed."""

    host: str


Command = Union[
    NotifyJobQueued,
    NotifyJobPlaced,
    NotifyPhaseEnded,
    NotifyCaseEnded,
    SubmitContainer,
    MonitorRun,
    RetryMonitorRun,
    KillRun,
    PublishSSH,
    PublishResult,
    DeleteContainer,
    DeleteVolumes,
    NotifyHostDown,
    CheckHost,
]
