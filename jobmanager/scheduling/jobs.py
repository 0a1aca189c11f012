"""The jobs of one manager until their callbacks have returned: what each event of a job's life means.

``job_states.TRANSITIONS`` says which actions follow from which event; this file says what each action does. The containers
that jobs need have a table of their own (``containers.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from jobmanager.model.container_states import ContainerEvent, ContainerState
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.model.result import CaseResult, RunResult
from jobmanager.model.task import clearing_s
from jobmanager.results.case_results import cases_verdict
from jobmanager.results.facts import HostGivenUp, JobNotSent, RunCutOff, RunFacts
from jobmanager.results.pipeline_result import PhaseReport
from jobmanager.results.verdict import (
    KillReason,
    crash_verdict,
    judge,
    killed_verdict,
    superseded_verdict,
    with_reruns,
)
from jobmanager.scheduling import phases
from jobmanager.scheduling.commands import CheckHost, Command, NotifyCaseEnded, NotifyHostDown, NotifyJobPlaced, PublishResult
from jobmanager.scheduling.containers import ContainerRecord, ContainerTable, Slot
from jobmanager.scheduling.durations import Durations
from jobmanager.scheduling.hosts import Host, HostStatus, HostTable
from jobmanager.scheduling.job_containers import JobContainers
from jobmanager.scheduling.job_record import JobRecord, RunRecord
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from jobmanager.scheduling.reservation import ReservationPolicy
from jobmanager.scheduling.run_sequence import IMAGE_GONE, MAX_FAILED_PLACEMENTS, RunSequence
from jobmanager.scheduling.waiting_queue import Cost, QueueEntry, Requirements, WaitingQueue

_MAX_SUBMITS_LOST = 10
_MAX_WAITERS_LOST = 3  # before the job is taken for the cause
_MAX_TIMES_UNREACHABLE = 200  # a host may answer every check and no start


class JobTable:
    """All jobs, by id. ``apply`` follows the table of a job's life. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self,
        hosts: HostTable,
        queue: WaitingQueue,
        durations: Durations,
        *,
        send: Callable[[Command], None],
        on_decided: Callable[[], None],
        manager_id: str,
        host_lost_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        """``send`` takes commands; ``on_decided`` is called when a result is decided."""
        self.decided = 0  # jobs whose callback has not returned yet
        self.containers = ContainerTable(hosts, send, monitor=self._monitor, on_slot_freed=self._slot_freed)
        self.reservations = ReservationPolicy(self._remaining_limit_s)
        self._job_containers = JobContainers(hosts, self.containers, send, clock)
        self._sequence = RunSequence(
            hosts,
            self.containers,
            self._job_containers,
            apply=self._apply,
            send=send,
            host_lost_timeout_s=host_lost_timeout_s,
            clock=clock,
        )
        self._hosts = hosts
        self._queue = queue
        self._durations = durations
        self._send = send
        self._on_decided = on_decided
        self._manager_id = manager_id
        self._clock = clock
        self._jobs: dict[str, JobRecord] = {}
        self._actions: Mapping[JobAction, Callable[[JobRecord], None]] = {
            JobAction.WANT_CONTAINER: self._want_container,
            JobAction.GIVE_RUN: self._sequence.give,
            JobAction.NEXT_RUN: self._sequence.begin,
            JobAction.KILL: self._sequence.kill,
            JobAction.RELEASE: self._release,
            JobAction.REQUEUE: self._requeue,
            JobAction.PUBLISH: self._publish,
        }

    def __getitem__(self, job_id: str) -> JobRecord:
        return self._jobs[job_id]

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> JobRecord | None:
        """A job; None when it is unknown, or its callback has returned."""
        return self._jobs.get(job_id)

    def add(self, job: JobRecord) -> None:
        """A job was accepted."""
        self._jobs[job.request.job_id] = job
        job.add_step("accepted", job.accepted_at)

    def callback_returned(self, job_id: str) -> None:
        """A job is forgotten."""
        if self._jobs.pop(job_id, None) is not None:
            self.decided -= 1

    def owner(self, record: ContainerRecord | None) -> JobRecord | None:
        """The job that needs a container; None when none does."""
        return None if record is None or not record.is_wanted else self.holder(record.slot)

    def holder(self, slot: Slot | None) -> JobRecord | None:
        """The job that has a slot; None when none does."""
        return None if slot is None or slot.is_released else self._jobs.get(slot.job_id)

    # ---- what happens to a job

    def place(self, entry: QueueEntry, host: Host, cost: Cost) -> None:
        """A host has room for a job."""
        job = self._jobs[entry.job_id]
        job.placements += 1
        job.slot = self.containers.take_slot(
            f"jobmanager-{self._manager_id}-{job.number}-{job.placements}",
            host,
            job_id=entry.job_id,
            memory_mib=job.requirements.memory_mib,
            cost=cost,
        )
        job.timings["waiting"] = round(self._clock() - job.accepted_at, 4)
        self.reservations.placed(host, entry, self._clock())
        self._send(NotifyJobPlaced(job_id=entry.job_id, host=host.name))
        self._apply(job, JobEvent.HOST_ASSIGNED)

    def container_started(self, job: JobRecord, record: ContainerRecord) -> None:
        """A container of it is ready."""
        if record is not job.run.container:  # it is for a later phase
            self._job_containers.prepare(job)
            self._sequence.kill_when_kept(job)
            return
        if job.current == 0 and record.start_s is not None:
            job.timings["start"] = record.start_s
        self._apply(job, JobEvent.CONTAINER_STARTED)

    def start_failed(
        self,
        job: JobRecord,
        host: str,
        reason: str,
        *,
        record: ContainerRecord | None = None,
        unreachable: bool,
        image_missing: bool = False,
    ) -> None:
        """Its host cannot start it; another one may, unless phases of it have run there."""
        job.failure_reasons = [*job.failure_reasons[-2:], f"{host}: {reason}"]
        image = record.image if record is not None else ""
        if job.state is JobState.RUNNING:
            self._sequence.start_failed(job, record, reason, unreachable=unreachable)
            return
        if unreachable:  # the host is passed over until it answers again
            job.times_unreachable += 1
        else:
            job.failed_placements += 1
            if not (image_missing and self._has_another_image(host, image, job)):
                job.requirements = replace(job.requirements, excluded=job.requirements.excluded | {host})
            self._send(CheckHost(host=host))
        self._apply(job, JobEvent.START_FAILED)

    def _has_another_image(self, host: str, gone: str, job: JobRecord) -> bool:
        """Whether the host may be tried again, after an image was gone there: it knew of the image, or has another one by now.

        A look at the host may have seen that it is gone before the submitter's answer came.
        """
        was_known = self._hosts[host].forget_image(gone)
        return was_known or self._hosts[host].image(job.requirements.environment) not in (None, gone)

    def start_refused(self, job: JobRecord, record: ContainerRecord, reason: str) -> None:
        """No host can start it."""
        if record is not job.run.container:  # it is for a later phase, whose turn may never come
            return
        text = f"host {job.host} could not start it: {reason}"
        self._sequence.end_run(job, crash_verdict("start_refused", text, "the engine's answer"), JobEvent.START_REFUSED)

    def volumes_lost(self, job: JobRecord, record: ContainerRecord, reason: str) -> None:
        """What was in the volumes of a later phase is lost."""
        if record is job.run.container:  # else it is found once more when it is that phase's turn
            verdict = crash_verdict("volumes_lost", f"its volumes were lost: {reason}", "inspect")
            self._sequence.end_run(job, verdict, JobEvent.RUN_ENDED)

    def submitter_died(self, job: JobRecord, record: ContainerRecord, why: str) -> None:
        """The submitter of its container died: another one is asked, unless too many have died."""
        job.submits_lost += 1
        if job.submits_lost > _MAX_SUBMITS_LOST:
            last = f", at last: {why}" if why else ""
            text = f"the submitter process died {job.submits_lost} times while starting it{last}"
            self.containers.apply(record, ContainerEvent.START_FAILED)
            if record is job.run.container:  # else it is for a later phase, whose turn may never come
                self._sequence.end_run(job, crash_verdict("submitter_died", text), JobEvent.START_REFUSED)
            return
        job.add_step("submitter_died", self._clock())
        if not self._job_containers.make_again(job, record):
            self.containers.apply(record, ContainerEvent.START_FAILED)
            self.start_failed(job, record.slot.host, IMAGE_GONE, record=record, unreachable=False)

    def container_gone(self, job: JobRecord) -> None:
        """One of its containers is removed: a phase may have waited for that."""
        container = job.run.container
        if job.state is JobState.RUNNING and container is not None and container.state is ContainerState.READY:
            self._sequence.give(job)

    def run_ended(self, job: JobRecord, record: ContainerRecord, facts: RunFacts) -> None:
        """A waiter's report: the run has ended, and what was seen of it."""
        if not self.containers.apply(record, ContainerEvent.RUN_ENDED):
            return
        run = job.run
        if isinstance(facts.ending, JobNotSent) and not run.killed:
            self._job_not_sent(job, facts.ending)
            return
        verdict = judge(facts, run.limits, run.killed)
        if verdict.cut_off and self._run_again(job, verdict.text):
            return
        if facts.not_clean and not run.killed and self._sequence.go_on_elsewhere(job):
            job.add_step("not_clean", self._clock())
            return
        if run.request.task.cases:
            verdict = cases_verdict(run.request.task, run.progress, verdict, facts)
        run.facts = facts
        if job.pipeline is None:
            job.timings.update(facts.timings)
        elif isinstance(facts.ending, RunCutOff) and isinstance(facts.ending.cause, HostGivenUp):
            job.course = replace(job.course, is_over=True)
        self._sequence.end_run(job, verdict, JobEvent.RUN_ENDED)

    def build_done(self, job: JobRecord, record: ContainerRecord, result: RunResult) -> None:
        """A waiter's report: the build of its cases has ended in this container. What counts is how the first one ended."""
        run = job.run
        if record is run.container:
            run.is_built = True
            run.progress = replace(run.progress, build=run.progress.build or result)

    def case_done(self, job: JobRecord, record: ContainerRecord, number: int, result: CaseResult) -> None:
        """A waiter's report: the case of this number has ended. It may come again from a waiter that took over."""
        run = job.run
        if record is not run.container or number != len(run.progress.cases) + 1:
            return
        run.progress, run.limit_hit = replace(run.progress, cases=(*run.progress.cases, result)), None
        phase = run.request.phase.name if run.request.phase is not None else ""
        of = len(run.request.task.cases)
        self._send(NotifyCaseEnded(job_id=job.request.job_id, phase=phase, number=number, of=of, result=result))

    def secret_missing(self, job: JobRecord, record: ContainerRecord, reason: str) -> None:
        """Its phase cannot be sent to the container: a secret is missing."""
        if self.containers.apply(record, ContainerEvent.RUN_ENDED):
            self._sequence.end_run(job, crash_verdict("secret_missing", reason, "JobManager(secrets=...)"), JobEvent.RUN_ENDED)

    def waiter_died(self, job: JobRecord, record: ContainerRecord, *, is_cause: bool) -> None:
        """Another waiter gets its container. ``is_cause``: the waiter died just after it was given this job."""
        if record.state is not ContainerState.BUSY:
            return
        job.waiters_lost += is_cause
        if job.waiters_lost >= _MAX_WAITERS_LOST:
            text = f"the waiter process died {job.waiters_lost} times when it was given this job"
            job.course = replace(job.course, is_over=True)
            self._sequence.end_run(job, crash_verdict("waiter_died", text), JobEvent.WAITERS_LOST)
        else:
            self.containers.apply(record, ContainerEvent.WAITER_DIED)
            job.add_step("waiter_died", self._clock())

    def kill(self, job: JobRecord, reason: KillReason) -> None:
        """It is to end. Phases that always run are still run after the first ``kill_job``, and not after the second."""
        if job.killed is not None and (job.pipeline is None or job.course.is_over):
            return
        is_over = job.killed is not None or reason is not KillReason.KILL_JOB
        job.course = replace(job.course, is_killed=True, is_over=is_over)
        job.killed = job.killed or reason
        job.verdict = killed_verdict(job.killed)
        self._apply(job, JobEvent.KILL_REQUESTED)

    def supersede(self, job: JobRecord, *, by: str) -> None:
        """A newer job takes its place in the queue."""
        job.killed = KillReason.SUPERSEDED
        job.verdict = superseded_verdict(by)
        self._apply(job, JobEvent.KILL_REQUESTED)

    def give_up(self, job: JobRecord) -> None:
        """It has not ended after its kill: its host does not answer."""
        job.course = replace(job.course, is_over=True)
        text = "its host did not answer while the manager was closing"
        if job.run.is_given:
            self._sequence.end_run(job, crash_verdict("given_up", text), JobEvent.OVERDUE)
        else:
            job.set_crash("given_up", text)
            self._apply(job, JobEvent.OVERDUE)

    def end_overdue(self, grace_s: float) -> None:
        """End the jobs whose run has taken so much longer than every limit."""
        text = f"no report from the waiter {grace_s:g} s after every time limit"
        for slot in list(self.containers.slots()):
            job = self.holder(slot)
            if job is None or job.run.busy_for_s(self._clock()) <= _longest_s(job.run) + grace_s:
                continue
            if not self._run_again(job, text):
                job.course = replace(job.course, is_over=True)
                self._sequence.end_run(job, crash_verdict("overdue", text), JobEvent.OVERDUE)

    def retry_phases(self) -> None:
        """Have containers made for phases that wait for one, and runs killed that waited for one that cannot be had."""
        for slot in list(self.containers.slots()):
            job = self.holder(slot)
            if job is None or job.state is not JobState.RUNNING:
                continue
            if self._sequence.is_held_up(job):
                self._sequence.retry(job)
            else:
                self._sequence.kill_when_kept(job)

    def queue_timed_out(self, job: JobRecord, text: str) -> None:
        """It has waited for too long."""
        job.set_crash("queue_timeout", f"{text}{job.reasons()}")
        self._apply(job, JobEvent.QUEUE_TIMEOUT)

    def end_unrunnable(self, given_up: set[Requirements]) -> None:
        """End the waiting jobs with these requirements: no host can have them any more."""
        for job in [self._jobs[entry.job_id] for entry in self._queue]:
            if job.requirements in given_up:
                refusal = self._hosts.refusal(replace(job.requirements, excluded=frozenset()))
                job.set_crash("no_host", f"{refusal or 'no host could start it'}{job.reasons()}")
                self._apply(job, JobEvent.QUEUE_TIMEOUT)

    def answered_locally(self, job: JobRecord) -> None:
        """It needs no container."""
        job.state = JobState.DONE
        self._publish(job)

    def start_unanswered(self, name: str, reason: str) -> None:
        """A host did not answer the start of a container."""
        host = self._hosts[name]
        if host.status is not HostStatus.DOWN:
            self._send(NotifyHostDown(host=name, reason=reason))
        host.start_unanswered(reason, self._clock())
        self._send(CheckHost(host=name))

    # ---- actions

    def _apply(self, job: JobRecord, event: JobEvent) -> None:
        transition = TRANSITIONS[event].get(job.state)
        if transition is None:
            return
        job.add_step(event.name.lower(), self._clock())
        if job.state is JobState.WAITING and transition.to is JobState.DONE:
            self._queue.remove(job.request.job_id)
        job.state = transition.to
        for action in transition.actions:
            self._actions[action](job)

    def _want_container(self, job: JobRecord) -> None:
        if not self._job_containers.want(job, job.run):
            self.start_failed(job, job.host or "", IMAGE_GONE, unreachable=False)

    def _release(self, job: JobRecord) -> None:
        if job.slot is not None:
            self.containers.release_slot(job.slot)

    def _monitor(self, record: ContainerRecord, taken_over: bool) -> None:
        """Have a waiter follow the run of a container."""
        self._job_containers.monitor(self._jobs[record.slot.job_id], record, taken_over=taken_over)

    def _requeue(self, job: JobRecord) -> None:
        job.begin_again()
        may_try = job.failed_placements < MAX_FAILED_PLACEMENTS and job.times_unreachable < _MAX_TIMES_UNREACHABLE
        newer = self._queue.holder(job.request.supersede_key)
        if newer is not None:
            job.killed, job.verdict = KillReason.SUPERSEDED, superseded_verdict(newer)
        elif may_try and self._hosts.any_could_run(job.requirements):
            self._queue.add(job.queue_entry())
            return
        else:
            job.set_crash("no_host", f"no host could start it{job.reasons()}")
        job.state = JobState.DONE
        self._publish(job)

    def _publish(self, job: JobRecord) -> None:
        assert job.verdict is not None
        if job.slot is not None:
            job.slot.ran_to_end = job.run.facts is not None and not job.killed
        self.decided += 1
        self._on_decided()
        self._send(
            PublishResult(
                request=job.request,
                callback=job.callback,
                ssh_callback=job.ssh_callback,
                verdict=with_reruns(job.verdict, job.cut_off),
                facts=job.runs[0].facts if job.pipeline is None else None,
                progress=job.run.progress,
                phases=_reports(job),
                decided_by=job.decided_by,
                host=job.host,
                timings=job.timings,
                steps=tuple(job.steps),
                to_submitter=tuple(text for run in job.runs for text in run.told),
            )
        )

    def _job_not_sent(self, job: JobRecord, ending: JobNotSent) -> None:
        """Nothing was run: another container may have the job. A host that does not answer does not count against the job."""
        assert job.host is not None
        job.failure_reasons = [*job.failure_reasons[-2:], f"{job.host}: {ending.reason}"]
        if ending.is_unreachable:
            job.times_unreachable += 1
            self.start_unanswered(job.host, ending.reason)
        else:
            job.failed_placements += 1
        if job.current or job.run.progress.has_begun:
            verdict = crash_verdict("phase_not_started", f"it was not started: {ending.reason}")
            self._sequence.end_run(job, verdict, JobEvent.RUN_ENDED)
        else:
            self._apply(job, JobEvent.JOB_NOT_SENT)

    def _run_again(self, job: JobRecord, why: str) -> bool:
        """Run a job again whose run was cut off, if its task allows that and nobody has requested its kill.

        Not for a phase that cannot stop the job, as what is decided is decided.
        """
        assert job.host is not None
        phase = job.run.request.phase
        decides = phase is None or phase.when == "on_success"
        if not decides or job.killed or len(job.cut_off) >= self._retries(job):
            return False
        job.cut_off.append(f"{job.host}: {why}")
        job.requirements = replace(job.requirements, avoided=job.requirements.avoided | {job.host})
        self._apply(job, JobEvent.CUT_OFF)
        return True

    def _retries(self, job: JobRecord) -> int:
        """How often it may be run again: as often as the tasks of its present run and of each run before allow."""
        runs = job.runs[:1] if job.pipeline is None else job.runs[: job.current + 1]
        return min(run.request.task.retries for run in runs)

    def _slot_freed(self, slot: Slot) -> None:
        """A slot is free again: its launcher pays what it cost, and the duration is recorded."""
        if slot.cost is not None:
            self._queue.settle(slot.cost)
            if slot.ran_to_end:
                self._durations.record(slot.cost.duration_key.job_class, self._clock() - slot.cost.started_at)

    def _remaining_limit_s(self, slot_name: str) -> float:
        """For how long the job of a slot may still hold its memory, at most."""
        job = self.holder(self.containers.slot(slot_name))
        return 0.0 if job is None else max(0.0, job.request.task.wall_s - job.running_for_s(self._clock()))


def _longest_s(run: RunRecord) -> float:
    """How long a run can take over the slowest link."""
    task = run.request.task
    limits = task.limits
    standstill_s = 0.0 if task.grader is None else limits.standstill_s
    cases = len(task.cases)
    moved_bytes = run.request.files_bytes + limits.output_kib * 1024 * max(1, cases)
    return task.wall_s + standstill_s + clearing_s(cases) + moved_bytes / SLOWEST_LINK_BYTES_PER_S


def _reports(job: JobRecord) -> tuple[PhaseReport, ...]:
    if job.pipeline is None:
        return ()
    why_not = phases.KILLED if job.killed is KillReason.KILL_JOB else phases.OVER
    return tuple(
        PhaseReport(
            verdict=run.verdict,
            facts=run.facts,
            progress=run.progress,
            why_not_run=run.why_not_run or why_not,
            timings=run.timings,
        )
        for run in job.runs
    )
