"""What the ledger knows of a job until its callback has returned, and of its runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobmanager.model.container_states import ContainerState
from jobmanager.model.job import Request, RunRequest
from jobmanager.model.limits import Limits
from jobmanager.model.listings import RunningJob, WaitingJob
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback, SSHCallback, Step
from jobmanager.results.facts import NO_PROGRESS, CasesProgress, LimitHit, RunFacts
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict, killed_verdict
from jobmanager.scheduling.containers import ContainerRecord, Slot
from jobmanager.scheduling.durations import DurationKey
from jobmanager.scheduling.job_states import JobState
from jobmanager.scheduling.phases import JobCourse
from jobmanager.scheduling.waiting_queue import QueueEntry, Requirements

_AT_THE_START = JobCourse()
_MAX_STEPS = 200


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """One run of a job: of its task, or of a phase. It is given a container."""

    number: int  # among the job's runs
    request: RunRequest
    limits: Limits  # a phase may be given less time than its task's limits allow
    container: ContainerRecord | None = None  # the one that is to have it, or has it
    containers: int = 0  # how many were wanted for it: part of their names
    limit_hit: LimitHit | None = None  # the limit for which its waiter was about to stop it
    killed: KillReason | None = None  # it was asked to end
    kill_waits: bool = False  # its container lives until another one keeps its volumes
    verdict: Verdict | None = None  # once it has ended
    facts: RunFacts | None = None  # what was seen of it
    progress: CasesProgress = NO_PROGRESS  # of a task with cases, over all its containers
    is_built: bool = False  # of a task with cases: its present container has run the build
    replaced: ContainerRecord | None = None  # a container that can have no more of its cases: another one is being started
    replacements: int = 0  # how often that was so
    why_not_run: str = ""
    host_away_since: float | None = None  # since when the phase waits for its host
    told: tuple[str, ...] = ()  # what its grader has told the submitter
    last_told: int = 0  # the number of the last of these

    @property
    def container_name(self) -> str:
        """The name of its container; empty while it has none."""
        return self.container.name if self.container is not None else ""

    @property
    def is_given(self) -> bool:
        """Whether a container has it."""
        return self.container is not None and self.container.state is ContainerState.BUSY

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by step."""
        start = {} if self.container is None or self.container.start_s is None else {"start": self.container.start_s}
        return {**start, **(self.facts.timings if self.facts is not None else {})}

    @property
    def output_source(self) -> RunSource:
        """Where its output can be read."""
        phase = self.request.phase.name if self.request.phase is not None else ""
        return RunSource(phase=phase, container=self.container_name, facts=self.facts, progress=self.progress, told=self.told)

    def tell(self, number: int, text: str) -> bool:
        """The grader tells the submitter this. False: it was told before, and another waiter has read it again."""
        if number <= self.last_told:
            return False
        self.told, self.last_told = (*self.told, text), number
        return True

    def busy_for_s(self, now: float) -> float:
        """For how long its container has had it; 0 while none has."""
        since = self.container.busy_since if self.container is not None else None
        return 0.0 if since is None else now - since


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """A job whose callback has not returned yet. Times are those of the ledger's clock, in seconds."""

    request: Request
    callback: Callback | None
    ssh_callback: SSHCallback | None  # None when there is none, or it was called
    number: int
    arrival: int  # its number, or that of the job whose place it took
    accepted_at: float
    accepted_wall_s: float
    requirements: Requirements
    queue_timeout_s: float
    state: JobState = JobState.WAITING
    slot: Slot | None = None  # None while it waits, and when it ends without a host
    runs: list[RunRecord] = field(init=False)
    current: int = 0  # the number of the run whose turn it is
    course: JobCourse = field(init=False)
    decided_by: int | None = None  # the phase that stopped it
    began_at: float | None = None  # when its first run was given a container
    placements: int = 0  # how often it got a slot: part of the slot's name, so that no name is used twice
    times_unreachable: int = 0
    failed_placements: int = 0  # placements without a started program although the host could be reached
    submits_lost: int = 0
    waiters_lost: int = 0  # waiters that died just after they were given it
    cut_off: list[str] = field(default_factory=list)  # why earlier runs were cut off, one text each
    killed: KillReason | None = None
    verdict: Verdict | None = None
    failure_reasons: list[str] = field(default_factory=list)  # why hosts failed to start it, the latest last
    timings: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin_again()

    def begin_again(self) -> None:
        """It has no host, and nothing of it was run."""
        self.slot, self.current, self.course, self.decided_by, self.began_at = None, 0, _AT_THE_START, None, None
        self.runs = [
            RunRecord(number=number, request=request, limits=request.task.limits)
            for number, request in enumerate(self.request.runs)
        ]

    @property
    def run(self) -> RunRecord:
        """The run whose turn it is."""
        return self.runs[self.current]

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline that it runs; None for a task."""
        task = self.request.task
        return task if isinstance(task, Pipeline) else None

    @property
    def host(self) -> str | None:
        """The host that it has, or had at last."""
        return self.slot.host if self.slot is not None else None

    def queue_entry(self) -> QueueEntry:
        """Its entry in the queue."""
        request = self.request
        wall_s = request.task.wall_s
        return QueueEntry(
            job_id=request.job_id,
            requirements=self.requirements,
            priority=request.priority,
            launcher=request.launcher_name,
            arrival=self.arrival,
            duration_key=DurationKey(request.job_class, wall_s),
            timeout_s=self.queue_timeout_s,
            supersede_key=request.supersede_key,
            listed=WaitingJob(request.job_id, True, request.title, request.launcher_name, wall_s),
        )

    def add_step(self, step: str, now: float) -> None:
        """Add a step for a result with ``debug=True``."""
        if len(self.steps) < _MAX_STEPS:
            self.steps.append(Step(name=step, at_s=round(now - self.accepted_at, 4)))

    def set_crash(self, kind: str, text: str, source: str = "jobmanager") -> None:
        """Set its verdict to a crash; to killed when its kill was requested before."""
        self.verdict = killed_verdict(self.killed) if self.killed else crash_verdict(kind, text, source)

    def reasons(self) -> str:
        """Why hosts failed to start it, in brackets."""
        return f" ({'; '.join(self.failure_reasons[-3:])})" if self.failure_reasons else ""

    @property
    def output_source(self) -> OutputSource:
        """Where its output can be read."""
        runs = tuple(run.output_source for run in self.runs[: self.current + 1])
        return OutputSource(placement=self.placements, runs=runs, ended=self.state is JobState.DONE)

    def running_for_s(self, now: float) -> float:
        """For how long it has been running; 0 before."""
        return 0.0 if self.began_at is None else now - self.began_at

    def running_job(self) -> RunningJob:
        """How a listing of jobs with a host shows it."""
        request, wall_s = self.request, self.request.task.wall_s
        started_at = self.accepted_wall_s + self.timings.get("waiting", 0.0)
        info = f"{self.request.title} on {self.host}"
        return RunningJob(request.job_id, True, info, request.launcher_name, started_at, wall_s, self.host or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """Where the output of a run can be read."""

    phase: str = ""  # of a pipeline
    container: str = ""  # empty while it has none
    facts: RunFacts | None = None  # once it has ended, if it was seen
    progress: CasesProgress = NO_PROGRESS  # of its cases
    told: tuple[str, ...] = ()  # what its grader has told the submitter


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSource:
    """Where the output of a job can be read."""

    placement: int  # a later one runs the job again
    runs: tuple[RunSource, ...]  # up to the one whose turn it is
    ended: bool
