"""The ledger decides what happens to each job, and that each job has one result.

It does no I/O: what happens comes in by method calls, what is to be done goes out as commands. ``job_states.TRANSITIONS`` says
which actions follow from which event; this file says what each action means.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jobmanager.errors import Closed, DuplicateJob, QueueFull
from jobmanager.model.container import SSH_USER, EngineInfo, Image
from jobmanager.model.host import DockerHost
from jobmanager.model.job import Request
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.model.listings import HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.model.result import Callback, Outcome, SSHCallback
from jobmanager.results.facts import LimitHit, RunFacts
from jobmanager.results.verdict import KillReason, Verdict, judge, killed_verdict, superseded_verdict, with_reruns
from jobmanager.scheduling.commands import (
    CheckHost,
    Command,
    KillJob,
    MonitorJob,
    NotifyHostDown,
    NotifyJobQueued,
    PublishResult,
    PublishSSH,
    SubmitJob,
)
from jobmanager.scheduling.containers import ContainerRecord, ContainerTable
from jobmanager.scheduling.durations import Durations
from jobmanager.scheduling.forecast import Forecaster, dispatch_order
from jobmanager.scheduling.hosts import Host, HostStatus, HostTable, Version
from jobmanager.scheduling.job_record import JobRecord, OutputSource
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from jobmanager.scheduling.reservation import PlacementView, ReservationPolicy
from jobmanager.scheduling.waiting_queue import Cost, QueueEntry, Requirements, WaitingQueue, rounded_up

_MAX_FAILED_PLACEMENTS = 5  # of one job, before it is a crash
_MAX_SUBMITS_LOST = 10
_MAX_WAITERS_LOST = 3  # before the job is taken for the cause
_MAX_TIMES_UNREACHABLE = 200  # a host may answer every check and no start
_MAX_DECIDED = 1000  # results that wait for callbacks; while there are as many, nothing more is started
_OVERDUE_SLACK_S = 60.0  # after every limit, before a missing report is a crash
_NO_IMAGE_S = 20.0  # an image that is being replaced may be missing for a moment
_TOKEN_BYTES = 16


def _longest_s(request: Request) -> float:
    """How long a run can take over the slowest link."""
    limits = request.task.limits
    standstill_s = 0.0 if request.task.grader is None else limits.standstill_s
    moved_bytes = sum(map(len, request.files.values())) + limits.output_kib * 1024
    return limits.wall_s + standstill_s + moved_bytes / SLOWEST_LINK_BYTES_PER_S


class Ledger:
    """The jobs of one manager until their callbacks have returned, their containers, and the hosts. Thread-safe."""

    def __init__(
        self,
        hosts: Sequence[DockerHost],
        aliases: Mapping[str, str],
        *,
        manager_id: str,
        max_waiting_jobs: int,
        queue_timeout_s: float,
        host_lost_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._hosts = HostTable(hosts, aliases)
        self._durations = Durations()
        self._queue = WaitingQueue(clock, self._durations.cost_s)
        self._jobs: dict[str, JobRecord] = {}
        self._commands: deque[Command] = deque()
        self._containers = ContainerTable(self._hosts, self._commands.append, self._slot_freed)
        self._reservations = ReservationPolicy(self._remaining_limit_s)
        self._forecaster = Forecaster(self._queue, self._hosts, self._containers, self._durations, clock)
        self._manager_id = manager_id
        self._max_waiting_jobs = max_waiting_jobs
        self._queue_timeout_s = queue_timeout_s
        self._overdue_s = host_lost_timeout_s + _OVERDUE_SLACK_S
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_number = 0
        self._unrunnable_since: dict[Requirements, float] = {}
        self._decided = 0  # jobs whose callback has not returned yet
        self._accepting = True
        self._actions: Mapping[JobAction, Callable[[JobRecord], None]] = {
            JobAction.SUBMIT: self._submit,
            JobAction.MONITOR: self._monitor,
            JobAction.REASSIGN: self._reassign,
            JobAction.KILL: self._kill,
            JobAction.REQUEUE: self._requeue,
            JobAction.PUBLISH: self._publish,
            JobAction.DELETE: lambda job: self._containers.delete(job.container),
        }

    # ---- what callers ask

    def accept(self, request: Request, callback: Callback | None, ssh_callback: SSHCallback | None = None) -> None:
        """Take a job. Raises a JobRefused, and then nothing has changed."""
        grader = request.task.grader
        requirements = Requirements(
            environment=request.task.environment,
            memory_mib=request.task.memory_mib,
            cpus=request.task.limits.cpus,
            ends_within_s=rounded_up(request.task.limits.wall_s),
            student_environments=frozenset() if grader is None else frozenset(grader.student_environments),
        )
        with self._lock:
            if not self._accepting:
                raise Closed("this JobManager is closed, or closing: it takes no more jobs")
            if request.job_id in self._jobs:
                raise DuplicateJob(f"a job with the id {request.job_id!r} has not ended yet, or its callback has not returned")
            older = self._queue.holder(request.supersede_key)
            max_decided = self._max_waiting_jobs
            if request.task.needs_container:
                max_decided = max(max_decided, _MAX_DECIDED)
                if (refusal := self._hosts.refusal(requirements)) is not None:
                    raise refusal
                if len(self._queue) - (older is not None) >= self._max_waiting_jobs:
                    raise QueueFull(f"{len(self._queue)} jobs are waiting already: try again later, or raise max_waiting_jobs")
            if self._decided >= max_decided:
                raise QueueFull(f"{self._decided} results wait for their callbacks already: are all callbacks blocked?")
            self._last_number += 1
            job = JobRecord(
                request=request,
                callback=callback,
                ssh_callback=ssh_callback,
                number=self._last_number,
                arrival=self._jobs[older].arrival if older is not None else self._last_number,
                accepted_at=self._clock(),
                accepted_wall_s=self._wall_clock(),
                requirements=requirements,
            )
            self._jobs[request.job_id] = job
            job.add_step("accepted", self._clock())
            self._commands.append(NotifyJobQueued(request=request))
            if older is not None:
                self._superseded(self._jobs[older], by=request.job_id)
            if request.task.needs_container:
                self._queue.add(job.queue_entry(self._clock()))
            else:
                job.state, job.verdict = JobState.DONE, Verdict(outcome=Outcome.SUCCESS)
                self._publish(job)

    def stop_accepting(self) -> bool:
        """Refuse every further job, and end waiting for hosts. Returns False when that was so already."""
        with self._changed:
            was_accepting, self._accepting = self._accepting, False
            self._changed.notify_all()
            return was_accepting

    def is_accepting(self) -> bool:
        """Whether it takes jobs."""
        with self._lock:
            return self._accepting

    def kill(self, job_id: str, reason: KillReason) -> bool:
        """Request that a job ends. Returns False when it has ended or is unknown."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state is JobState.DONE:
                return False
            if job.killed is None:
                job.killed = reason
                job.verdict = killed_verdict(reason)
                self._apply(job, JobEvent.KILL_REQUESTED)
            return True

    def kill_all(self, reason: KillReason) -> None:
        """Request that every job ends."""
        with self._lock:
            for job_id in list(self._jobs):
                self.kill(job_id, reason)

    def queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state is JobState.DONE:
                return None
            if job.state is not JobState.WAITING:
                return QueueInfo(-1, max(0.0, job.request.task.limits.wall_s - job.running_for_s(self._clock())))
            known = self._forecaster.recent(job_id) or self._forecaster.snapshot()
        jobs_before, wait_s = self._forecaster.of(known).wait(job_id)
        return QueueInfo(jobs_before, None if wait_s is None else round(wait_s, 3))

    def snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """The jobs that have a host, and the waiting jobs in their order."""
        with self._lock:
            placed = (self._job_of(name) for name in self._containers.names())
            jobs = sorted((job for job in placed if job is not None), key=lambda job: job.number)
            running = [job.running_job() for job in jobs]
            missing_memory = {
                req_class: missing
                for req_class in self._queue.req_classes()
                if (missing := self._missing_memory(req_class.requirements))
            }
            snapshot = self._forecaster.snapshot()
        order = dispatch_order(snapshot)
        if not missing_memory:
            return running, [entry.listed for entry in order]
        return running, [_listed(entry, missing_memory.get(entry.priority_class.req_class)) for entry in order]

    def environments(self) -> dict[str, list[str]]:
        """The environments of the hosts that are up, by environment type."""
        with self._lock:
            return self._hosts.environments()

    def versions(self) -> Mapping[str, Sequence[Version]]:
        """The environments that have several images, and these images, the newest first."""
        with self._lock:
            return self._hosts.versions()

    def hosts(self) -> list[HostInfo]:
        """All hosts."""
        with self._lock:
            return self._hosts.host_infos()

    def output_source(self, job_id: str) -> OutputSource | None:
        """Where the output of a job can be read; None when it is unknown, or its callback has returned."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            return OutputSource(container=job.container, ended=job.state is JobState.DONE, facts=job.facts)

    def unfinished(self) -> int:
        """The number of jobs whose callback has not returned."""
        with self._lock:
            return len(self._jobs)

    def containers(self) -> dict[str, str]:
        """The containers, and their hosts."""
        with self._lock:
            return self._containers.hosts()

    def wait_until_decided(self, timeout_s: float) -> bool:
        """Block until every result is decided. Returns False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: all(job.state is JobState.DONE for job in self._jobs.values()), timeout_s)

    def give_up_all(self) -> None:
        """End every job that has not ended after its kill: its host does not answer."""
        with self._lock:
            for job in list(self._jobs.values()):
                if job.state is not JobState.DONE:
                    job.set_crash("given_up", "its host did not answer while the manager was closing")
                    self._apply(job, JobEvent.OVERDUE)

    def wait_until_called_back(self, timeout_s: float | None) -> bool:
        """Block until every callback has returned. Returns False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout_s)

    def wait_until_deleted(self, timeout_s: float) -> bool:
        """Block until containers and volumes are gone, or volumes cannot be removed. Returns False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(self._containers.are_gone, timeout_s)

    # ---- what the loop reports

    def take_commands(self) -> list[Command]:
        """Place the jobs that can be placed. Returns everything that is to be done now."""
        with self._lock:
            if len(self._queue) and self._decided < _MAX_DECIDED:
                view = PlacementView(self._hosts, self._reservations, self._clock())
                for entry, host, cost in self._queue.placements(view):
                    self._place(entry, host, cost)
            commands = list(self._commands)
            self._commands.clear()
            return commands

    def container_started(self, container: str, *, container_id: str, image_command: tuple[str, ...], duration_s: float) -> None:
        """A submitter's report: the container waits for its job."""
        with self._lock:
            record = self._containers[container]
            record.is_ours = True
            self._hosts[record.host].container_started()
            job = self._job_or_delete(container)
            if job is not None:
                job.container_id, job.image_command = container_id, image_command
                job.timings["start"] = round(duration_s, 4)
                self._apply(job, JobEvent.CONTAINER_STARTED)

    def start_failed(self, container: str, *, reason: str, unreachable: bool, image_missing: bool = False) -> None:
        """A submitter's report: this host cannot start it, another host may."""
        with self._lock:
            host = self._containers[container].host
            if unreachable:
                self._start_unanswered(host, reason)
            job = self._job_or_delete(container)
            if job is not None:
                self._start_failed(job, host, reason, unreachable=unreachable, image_missing=image_missing)

    def start_refused(self, container: str, reason: str) -> None:
        """A submitter's report: no second try would help."""
        with self._lock:
            host = self._containers[container].host
            job = self._job_or_delete(container)
            if job is not None:
                job.set_crash("start_refused", f"host {host} could not start it: {reason}", "the engine's answer")
                self._apply(job, JobEvent.START_REFUSED)

    def submitter_died(self, container: str, why: str = "") -> None:
        """The process of a submitter ended before its report."""
        with self._lock:
            job = self._job_or_delete(container)
            if job is not None:
                self._submitter_died(job, why)

    def job_sent(self, container: str) -> None:
        """A waiter's report: the container has its job."""
        with self._lock:
            job = self._job_of(container)
            if job is not None:
                job.add_step("job_sent", self._clock())

    def ssh_ready(self, container: str, port: int) -> None:
        """A waiter's report: somebody can log in to the container of a debugged job."""
        with self._lock:
            job = self._job_of(container)
            if job is None or job.ssh_callback is None or job.host is None or job.killed:
                return
            job.add_step("ssh_ready", self._clock())
            ssh_callback, job.ssh_callback = job.ssh_callback, None
            address = self._hosts[job.host].config.published_at
            self._commands.append(
                PublishSSH(
                    job_id=job.request.job_id,
                    ssh_callback=ssh_callback,
                    address=address,
                    port=port,
                    user=SSH_USER,
                    password=job.request.ssh_password,
                )
            )

    def limit_reached(self, container: str, limit_hit: LimitHit) -> None:
        """A waiter's report: it is about to stop the container for a limit."""
        with self._lock:
            job = self._job_of(container)
            if job is not None:
                job.limit_hit = limit_hit

    def run_ended(self, container: str, facts: RunFacts) -> None:
        """A waiter's report: the run has ended, and what was seen of it."""
        with self._lock:
            job = self._job_of(container)
            if job is None or job.state is not JobState.RUNNING:
                return
            if facts.never_started and not (facts.refusal or job.killed):
                self._job_not_sent(job, facts)
                return
            verdict = judge(facts, job.request.task.limits, job.killed)
            if verdict.cut_off and self._run_again(job, verdict.text):
                return
            job.facts, job.verdict = facts, verdict
            job.timings.update(facts.timings)
            self._containers[container].ran_to_end = not job.killed
            self._apply(job, JobEvent.RUN_ENDED)

    def waiter_died(self, containers: Sequence[str], *, over: str = "") -> None:
        """Another waiter gets its containers. A job over which several waiters died is a crash: it would end all others, too."""
        with self._lock:
            for container in containers:
                job = self._job_of(container)
                if job is None:
                    continue
                job.waiters_lost += container == over
                if job.waiters_lost >= _MAX_WAITERS_LOST:
                    job.set_crash("waiter_died", f"the waiter process died {job.waiters_lost} times when it was given this job")
                    self._apply(job, JobEvent.WAITERS_LOST)
                else:
                    self._apply(job, JobEvent.WAITER_DIED)

    def container_deleted(self, container: str) -> str | None:
        """Container and volume are gone. Returns the id of its job."""
        with self._changed:
            record = self._containers.deleted(container)
            self._changed.notify_all()
            return record.job_id if record is not None else None

    def deletion_failed(self, container: str, *, only_volume_left: bool = False) -> None:
        """A deleter failed: try again later."""
        with self._changed:
            self._containers.delete_failed(container, only_volume_left=only_volume_left)
            self._changed.notify_all()

    def strays_found(self, host: str, containers: Sequence[str]) -> None:
        """A host has containers with our label that its waiter does not know: those that no job has are deleted."""
        with self._lock:
            self._containers.delete_strays(host, containers)

    def callback_returned(self, job_id: str) -> None:
        """The callback has returned, or there was none: the job is forgotten."""
        with self._changed:
            if self._jobs.pop(job_id, None) is not None:
                self._decided -= 1
            self._changed.notify_all()

    def host_answered(self, name: str, info: EngineInfo, images: Sequence[Image]) -> bool:
        """A host is up. Returns True when it was not before."""
        with self._changed:
            host = self._hosts[name]
            was_up = host.status is HostStatus.UP
            self._hosts.answered(name, info, images, self._clock())
            is_up_again = host.status is HostStatus.UP and not was_up
            if is_up_again:
                self._crash_unrunnable(patience_s=0.0)
            self._changed.notify_all()
            return is_up_again

    def host_down(self, name: str, reason: str) -> None:
        """A host is down."""
        with self._changed:
            host = self._hosts[name]
            if host.status is not HostStatus.DOWN:
                self._commands.append(NotifyHostDown(host=name, reason=reason))
            host.went_down(reason)
            self._changed.notify_all()

    def wait_for_hosts(self, done: Callable[[list[HostStatus]], bool], timeout_s: float) -> None:
        """Block until ``done`` is true of the states of the hosts, or no more jobs are taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._accepting or done([host.status for host in self._hosts]), timeout_s)

    def tick(self) -> None:
        """Check the clock: jobs that waited too long, runs that are overdue, memory that may be free by now."""
        with self._changed:
            now = self._clock()
            for entry in self._queue.waited_longer_than(self._queue_timeout_s):
                self._queue_timed_out(self._jobs[entry.job_id])
            for name in self._containers.names():
                job = self._job_of(name)
                if job is not None and job.running_for_s(now) > _longest_s(job.request) + self._overdue_s:
                    self._overdue(job)
            self._reservations.review(self._queue.req_classes(), self._hosts, now)
            self._forecaster.forget_old()
            self._crash_unrunnable(patience_s=_NO_IMAGE_S)
            waiting = self._queue.all_requirements()
            for host in self._hosts:
                if host.backoff_is_over(now) or any(host.is_worth_a_check(requirements) for requirements in waiting):
                    self._commands.append(CheckHost(host=host.name))

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

    def _place(self, entry: QueueEntry, host: Host, cost: Cost) -> None:
        job = self._jobs[entry.job_id]
        job.placements += 1
        job.host = host.name
        job.engine_id = host.info.engine_id if host.info is not None else ""
        job.container = f"jobmanager-{self._manager_id}-{job.number}-{job.placements}"
        job.token = secrets.token_hex(_TOKEN_BYTES)
        job.timings["waiting"] = round(self._clock() - job.accepted_at, 4)
        self._containers.add(job.container, job.request.job_id, host, job.requirements.memory_mib, cost)
        self._reservations.placed(host, entry, self._clock())
        self._apply(job, JobEvent.HOST_ASSIGNED)

    def _slot_freed(self, record: ContainerRecord) -> None:
        """A slot is free again: its launcher pays what it cost, and the duration is recorded."""
        if record.cost is not None:
            self._queue.settle(record.cost)
            if record.ran_to_end:
                self._durations.record(record.cost.duration_key.job_class, self._clock() - record.cost.started_at)

    def _superseded(self, job: JobRecord, *, by: str) -> None:
        job.killed = KillReason.SUPERSEDED
        job.verdict = superseded_verdict(by)
        self._apply(job, JobEvent.KILL_REQUESTED)

    def _submit(self, job: JobRecord) -> None:
        assert job.host is not None
        image = self._hosts[job.host].image(job.request.task.environment)
        if image is None:
            self._start_failed(job, job.host, "its image is gone", unreachable=False)
            return
        job.image = image
        self._commands.append(SubmitJob(host=job.host, container=job.container, image=image, request=job.request))

    def _monitor(self, job: JobRecord, *, taken_over: bool = False) -> None:
        assert job.host is not None
        if job.container_started_at is None:
            job.container_started_at = self._clock()
        self._commands.append(
            MonitorJob(
                host=job.host,
                container=job.container,
                container_id=job.container_id,
                image_command=job.image_command,
                request=job.request,
                token=job.token,
                taken_over=taken_over,
                elapsed_s=job.running_for_s(self._clock()),
                limit_hit=job.limit_hit,
                images=self._images_for(job),
                kill_at_once=job.killed is not None,
                engine_id=job.engine_id,
            )
        )

    def _images_for(self, job: JobRecord) -> dict[str, str]:
        """The images for the student containers of a grading job, by environment."""
        if job.request.task.grader is None or job.host is None:
            return {}
        return {**self._hosts[job.host].images(), "": job.image}

    def _reassign(self, job: JobRecord) -> None:
        self._monitor(job, taken_over=True)

    def _kill(self, job: JobRecord) -> None:
        self._commands.append(KillJob(container=job.container))

    def _requeue(self, job: JobRecord) -> None:
        job.host, job.container, job.container_started_at, job.limit_hit = None, "", None, None
        may_try = job.failed_placements < _MAX_FAILED_PLACEMENTS and job.times_unreachable < _MAX_TIMES_UNREACHABLE
        newer = self._queue.holder(job.request.supersede_key)
        if newer is not None:
            job.killed, job.verdict = KillReason.SUPERSEDED, superseded_verdict(newer)
        elif may_try and self._hosts.any_could_run(job.requirements):
            self._queue.add(job.queue_entry(self._clock()))
            return
        else:
            job.set_crash("no_host", f"no host could start it{job.reasons()}")
        job.state = JobState.DONE
        self._publish(job)

    def _publish(self, job: JobRecord) -> None:
        assert job.verdict is not None
        self._decided += 1
        self._changed.notify_all()
        self._commands.append(
            PublishResult(
                request=job.request,
                callback=job.callback,
                ssh_callback=job.ssh_callback,
                verdict=with_reruns(job.verdict, job.cut_off),
                facts=job.facts,
                host=job.host,
                timings=job.timings,
                steps=tuple(job.steps),
            )
        )

    def _start_failed(self, job: JobRecord, host: str, reason: str, *, unreachable: bool, image_missing: bool = False) -> None:
        job.failure_reasons = [*job.failure_reasons[-2:], f"{host}: {reason}"]
        if unreachable:  # the host is passed over until it answers again
            job.times_unreachable += 1
        else:
            job.failed_placements += 1
            if not (image_missing and self._hosts[host].forget_image(job.image)):
                job.requirements = replace(job.requirements, excluded=job.requirements.excluded | {host})
            self._commands.append(CheckHost(host=host))
        self._apply(job, JobEvent.START_FAILED)

    def _job_not_sent(self, job: JobRecord, facts: RunFacts) -> None:
        """Nothing was run: another container may have the job. A host that does not answer does not count against the job."""
        assert job.host is not None
        reason = facts.unreachable_reason or facts.infrastructure_error or "the container ended before it had its job"
        job.failure_reasons = [*job.failure_reasons[-2:], f"{job.host}: {reason}"]
        if facts.unreachable_reason or facts.host_lost:
            job.times_unreachable += 1
            self._start_unanswered(job.host, reason)
        else:
            job.failed_placements += 1
        self._apply(job, JobEvent.JOB_NOT_SENT)

    def _run_again(self, job: JobRecord, why: str) -> bool:
        """Run a job again whose run was cut off, if its task allows that and nobody has requested its kill."""
        assert job.host is not None
        if job.killed or len(job.cut_off) >= job.request.task.retries:
            return False
        job.cut_off.append(f"{job.host}: {why}")
        job.requirements = replace(job.requirements, avoided=job.requirements.avoided | {job.host})
        self._apply(job, JobEvent.CUT_OFF)
        return True

    def _queue_timed_out(self, job: JobRecord) -> None:
        reasons = job.reasons(self._hosts.missing_memory(job.requirements))
        job.set_crash("queue_timeout", f"waited longer than {self._queue_timeout_s:g} s for a host{reasons}")
        self._apply(job, JobEvent.QUEUE_TIMEOUT)

    def _overdue(self, job: JobRecord) -> None:
        text = f"no report from the waiter {self._overdue_s:g} s after every time limit"
        if not self._run_again(job, text):
            job.set_crash("overdue", text)
            self._apply(job, JobEvent.OVERDUE)

    def _submitter_died(self, job: JobRecord, why: str) -> None:
        job.submits_lost += 1
        if job.submits_lost > _MAX_SUBMITS_LOST:
            last = f", at last: {why}" if why else ""
            job.set_crash("submitter_died", f"the submitter process died {job.submits_lost} times while starting it{last}")
            self._apply(job, JobEvent.START_REFUSED)
        else:
            self._apply(job, JobEvent.SUBMITTER_DIED)

    def _start_unanswered(self, name: str, reason: str) -> None:
        host = self._hosts[name]
        if host.status is not HostStatus.DOWN:
            self._commands.append(NotifyHostDown(host=name, reason=reason))
        host.start_unanswered(reason, self._clock())
        self._commands.append(CheckHost(host=name))

    def _crash_unrunnable(self, *, patience_s: float) -> None:
        """End jobs that need an image or a size that no host has any more. A host that is down may still have it."""
        now = self._clock()
        unrunnable = {
            requirements for requirements in self._queue.all_requirements() if not self._hosts.any_could_run(requirements)
        }
        self._unrunnable_since = {requirements: self._unrunnable_since.get(requirements, now) for requirements in unrunnable}
        given_up = {requirements for requirements, since in self._unrunnable_since.items() if now - since >= patience_s}
        if not given_up:
            return
        for job in [self._jobs[entry.job_id] for entry in self._queue]:
            if job.requirements in given_up:
                refusal = self._hosts.refusal(replace(job.requirements, excluded=frozenset()))
                job.set_crash("no_host", f"{refusal or 'no host could start it'}{job.reasons()}")
                self._apply(job, JobEvent.QUEUE_TIMEOUT)

    # ---- look-ups

    def _job_of(self, container: str) -> JobRecord | None:
        """The job that a container still belongs to; None when there is none."""
        record = self._containers.get(container)
        job = self._jobs.get(record.job_id) if record is not None else None
        return job if job is not None and job.container == container and job.state is not JobState.DONE else None

    def _job_or_delete(self, container: str) -> JobRecord | None:
        """The job that a container belongs to; a container without one is deleted."""
        job = self._job_of(container)
        if job is None:
            self._containers.delete(container)
        return job

    def _remaining_limit_s(self, container: str) -> float:
        """For how long a container may still hold its memory, at most."""
        job = self._job_of(container)
        return 0.0 if job is None else max(0.0, job.request.task.limits.wall_s - job.running_for_s(self._clock()))

    def _missing_memory(self, requirements: Requirements) -> str:
        """Why jobs wait, if memory is what they wait for; empty otherwise."""
        missing = self._hosts.missing_memory(requirements)
        if missing and requirements == self._reservations.requirements:
            return f"{missing}; host {self._reservations.host} is reserved for it"
        return missing


def _listed(entry: QueueEntry, missing: str | None) -> WaitingJob:
    return entry.listed._replace(info=f"{entry.listed.info}, {missing}") if missing else entry.listed
