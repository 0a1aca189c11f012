"""From one run of a job to the next: what a run's end means for the job, and how a later phase gets its container.

A task has one run, and its end is the job's. The rules of a pipeline are in ``phases.py``. A job whose phases have begun stays on
its host, as its volumes are there: a container that cannot be had is tried again, and not elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jobmanager.model.container_states import ContainerEvent, ContainerState
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Outcome
from jobmanager.results.phase_verdict import deadline_verdict, deciding_verdict, phase_verdict
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict, killed_verdict
from jobmanager.scheduling import phases
from jobmanager.scheduling.commands import CheckHost, Command, NotifyPhaseEnded
from jobmanager.scheduling.containers import ContainerRecord, ContainerTable
from jobmanager.scheduling.hosts import HostTable
from jobmanager.scheduling.job_containers import JobContainers
from jobmanager.scheduling.job_record import JobRecord, RunRecord
from jobmanager.scheduling.job_states import JobEvent, JobState

IMAGE_GONE = "its image is gone"
_MAX_REPLACEMENTS = 3  # of the container of a run with cases, because one of them has left something behind
MAX_FAILED_PLACEMENTS = 5  # of one job, before it is a crash


class RunSequence:
    """Leads jobs from run to run. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self,
        hosts: HostTable,
        containers: ContainerTable,
        job_containers: JobContainers,
        *,
        apply: Callable[[JobRecord, JobEvent], None],
        send: Callable[[Command], None],
        host_lost_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        """``apply`` does what follows from a job's event."""
        self._hosts = hosts
        self._containers = containers
        self._job_containers = job_containers
        self._apply = apply
        self._send = send
        self._host_lost_timeout_s = host_lost_timeout_s
        self._clock = clock

    def end_run(self, job: JobRecord, verdict: Verdict, event: JobEvent) -> None:
        """A job's run has ended so. ``event`` is what happens to the job, unless another run follows."""
        if job.pipeline is not None:
            self._end_phase(job, job.pipeline, verdict, event)
            return
        job.verdict = killed_verdict(job.killed) if job.killed and verdict.outcome is not Outcome.KILLED else verdict
        self._apply(job, event)

    def begin(self, job: JobRecord) -> None:
        """It is the turn of a later phase: its container gets it, or is wanted."""
        run = job.run
        if run.container is not None and not run.container.is_wanted:  # started ahead, in vain
            run.container = None
        if run.container is None and self._hosts[job.host or ""].is_up and not self._job_containers.want(job, run):
            self.start_failed(job, None, IMAGE_GONE, unreachable=False)
            return
        self.give(job)

    def go_on_elsewhere(self, job: JobRecord) -> bool:
        """The rest of a run's cases are to have another container on the same host. Returns False when it has had too many.

        The one before is kept until then, as it may have a volume's content.
        """
        run = job.run
        if run.replacements == _MAX_REPLACEMENTS:
            return False
        run.replacements += 1
        run.replaced, run.container = run.container, None
        self.begin(job)
        return True

    def give(self, job: JobRecord) -> None:
        """Give a job's run to its container, if that is ready and none is being removed that could still write to its volumes.

        What is needed next is started meanwhile: a removal takes less time than a start.
        """
        self._job_containers.release_unneeded(job)
        if not self._job_containers.waits_for_removal(job):
            self._job_containers.give(job)
        self._job_containers.prepare(job)

    def is_held_up(self, job: JobRecord) -> bool:
        """Whether a run whose turn it is waits for a container, or for the removal of one."""
        return job.run.container is None or (not job.run.is_given and self._job_containers.waits_for_removal(job))

    def kill(self, job: JobRecord) -> None:
        """A job that runs is to end: its run is, unless it is one that always runs."""
        run = job.run
        if not run.is_given and (run.request.phase is None or run.replacements):
            self.end_run(job, killed_verdict(job.killed or KillReason.KILL_JOB), JobEvent.RUN_ENDED)
        elif not run.is_given:  # a phase that waits for its container
            self._skip(job)
        elif job.course.is_over or run.request.phase is None or run.request.phase.when != "always":
            run.killed = job.killed
            self._job_containers.prepare(job)
            run.kill_waits = True
            self.kill_when_kept(job)

    def kill_when_kept(self, job: JobRecord) -> None:
        """Kill a run that is to end, once another container keeps what is in its volumes, if phases that always run need that."""
        run = job.run
        if run.kill_waits and run.container is not None and not self._job_containers.waits_for_keeper(job):
            run.kill_waits = False
            self._containers.apply(run.container, ContainerEvent.KILL_REQUESTED)

    def start_failed(self, job: JobRecord, record: ContainerRecord | None, reason: str, *, unreachable: bool) -> None:
        """A container of a job that runs could not be started; None: that of its present run was not even asked for."""
        run = job.run if record is None else next((run for run in job.runs if run.container is record), None)
        if run is None:
            return
        run.container = None
        if unreachable:
            if run is job.run:
                self._host_is_away(job)
            return
        job.failed_placements += 1
        self._send(CheckHost(host=job.host or ""))
        if run is job.run and job.failed_placements >= MAX_FAILED_PLACEMENTS:
            text = f"host {job.host} could not start it: {reason}"
            self.end_run(job, crash_verdict("no_host", text), JobEvent.RUN_ENDED)

    def retry(self, job: JobRecord) -> None:
        """Try again to have a container for a phase whose turn it is; one that waits for a removal waits on."""
        if job.run.container is None and self._hosts[job.host or ""].is_up:
            self.begin(job)
        else:
            self._host_is_away(job)

    def _host_is_away(self, job: JobRecord) -> None:
        """A phase waits for its host. One that has started no container for too long is lost, even if it answers checks."""
        run, now = job.run, self._clock()
        run.host_away_since = now if run.host_away_since is None else run.host_away_since
        if now - run.host_away_since >= self._host_lost_timeout_s:
            job.course = replace(job.course, is_over=True)
            text = f"the host could not be reached for {now - run.host_away_since:.0f} s and was given up"
            self.end_run(job, crash_verdict("host_lost", text, "our clock"), JobEvent.RUN_ENDED)

    def _end_phase(self, job: JobRecord, pipeline: Pipeline, verdict: Verdict, event: JobEvent) -> None:
        if job.state is JobState.ASSIGNED:  # nothing has run
            job.course = replace(job.course, is_over=True)
        run = job.run
        run.verdict = phase_verdict(run.request.task, verdict, run.facts, run.limits)
        self._announce_end(job, run, run.verdict)
        if run.container is not None and run.container.state is ContainerState.BUSY:  # its waiters died, or did not report
            self._containers.apply(run.container, ContainerEvent.RELEASED)
        if job.decided_by is None and phases.stops_the_job(pipeline.phases[run.number], run.verdict):
            job.decided_by = run.number
            job.course = replace(job.course, has_failed=True)
        self._go_on(job, pipeline, event)

    def _announce_end(self, job: JobRecord, run: RunRecord, verdict: Verdict) -> None:
        assert run.request.phase is not None and job.host is not None, "a phase ends on a host"
        self._send(
            NotifyPhaseEnded(
                job_id=job.request.job_id,
                phase=run.request.phase.name,
                number=run.number,
                outcome=verdict.outcome,
                host=job.host,
            )
        )

    def _skip(self, job: JobRecord) -> None:
        """A job's run is not given to a container, if it is killed."""
        run = job.run
        run.why_not_run = "" if run.request.phase is None else phases.reason_not_to_run(run.request.phase, job.course)
        if run.why_not_run and job.pipeline is not None:
            self._go_on(job, job.pipeline, JobEvent.RUN_ENDED)

    def _go_on(self, job: JobRecord, pipeline: Pipeline, event: JobEvent) -> None:
        """The next phase, or the end of the job."""
        number = phases.next_phase(pipeline.phases, job.current, job.course)
        for skipped in job.runs[job.current + 1 : number]:
            skipped.why_not_run = phases.reason_not_to_run(pipeline.phases[skipped.number], job.course)
        if number is None:
            job.verdict = _verdict(job, pipeline)
            self._apply(job, event)
            return
        job.current = number
        if phases.allowed_s(pipeline, number, job.running_for_s(self._clock())) <= 0:
            self.end_run(job, deadline_verdict(pipeline.wall_s), event)
        else:
            self._apply(job, JobEvent.PHASE_ENDED)


def _verdict(job: JobRecord, pipeline: Pipeline) -> Verdict:
    if job.killed is not None:
        return killed_verdict(job.killed)
    if job.decided_by is None:
        return Verdict(outcome=Outcome.SUCCESS)
    run = job.runs[job.decided_by]
    assert run.verdict is not None, "a phase that decided has a verdict"
    return deciding_verdict(pipeline.phases[run.number], run.verdict)
