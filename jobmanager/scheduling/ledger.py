"""The ledger decides what happens to each job, and that each job has one result.

It does no I/O: what happens comes in by method calls, what is to be done goes out as commands. It has two tables, of jobs
(``jobs.py``) and of containers (``containers.py``), and leads each report to both: first to the container, then to the job that
needs it, if one does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from jobmanager.errors import Closed, DuplicateJob, QueueFull
from jobmanager.model.container import SSH_USER, EngineInfo, Image
from jobmanager.model.container_states import ContainerEvent
from jobmanager.model.host import DockerHost
from jobmanager.model.job import Request
from jobmanager.model.listings import HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.model.result import Callback, CaseResult, Outcome, RunResult, SSHCallback
from jobmanager.results.facts import LimitHit, RunFacts
from jobmanager.results.verdict import KillReason, Verdict
from jobmanager.scheduling.commands import CheckHost, Command, NotifyHostDown, NotifyJobQueued, PublishSSH
from jobmanager.scheduling.containers import ContainerRecord
from jobmanager.scheduling.durations import Durations
from jobmanager.scheduling.forecast import Forecaster, dispatch_order
from jobmanager.scheduling.hosts import HostConfig, HostStatus, HostTable, MachineTotals, Version
from jobmanager.scheduling.job_record import JobRecord, OutputSource
from jobmanager.scheduling.job_states import JobState
from jobmanager.scheduling.jobs import JobTable
from jobmanager.scheduling.reservation import PlacementView
from jobmanager.scheduling.waiting_queue import QueueEntry, Requirements, WaitingQueue, rounded_up

_MAX_DECIDED = 1000  # results that wait for callbacks; while there are as many, nothing more is started
_OVERDUE_SLACK_S = 60.0  # after every limit, before a missing report is a crash
_NO_IMAGE_S = 20.0  # an image that is being replaced may be missing for a moment


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
        self._room = threading.Condition(self._lock)  # some jobs wait no longer, or some results
        self._hosts = HostTable(map(HostConfig.of, hosts), aliases)
        self._published_at = {host.name: host.published_at for host in hosts}
        self._durations = Durations()
        self._queue = WaitingQueue(clock, self._durations.cost_s, self._hosts.any_up_could_run)
        self._commands: deque[Command] = deque()
        self._jobs = JobTable(
            self._hosts,
            self._queue,
            self._durations,
            send=self._commands.append,
            on_decided=self._changed.notify_all,
            manager_id=manager_id,
            host_lost_timeout_s=host_lost_timeout_s,
            clock=clock,
        )
        self._containers, self._reservations = self._jobs.containers, self._jobs.reservations
        self._forecaster = Forecaster(self._queue, self._hosts, self._containers.slots, self._durations, clock)
        self._max_waiting_jobs = max_waiting_jobs
        self._queue_timeout_s = queue_timeout_s
        self._overdue_s = host_lost_timeout_s + _OVERDUE_SLACK_S
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_number = 0
        self._unrunnable_since: dict[Requirements, float] = {}
        self._accepting = True

    # ---- what callers ask

    def accept(self, request: Request, callback: Callback | None, ssh_callback: SSHCallback | None = None) -> None:
        """Take a job. Raises a JobRefused, and then nothing has changed."""
        first = request.runs[0].task.environment
        requirements = Requirements(
            environment=first,
            memory_mib=request.task.memory_mib,
            cpus=request.task.cpus,
            ends_within_s=rounded_up(request.task.wall_s),
            other_environments=request.task.environments - {first},
            networks=request.task.networks,
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
            if self._jobs.decided >= max_decided:
                raise QueueFull(f"{self._jobs.decided} results wait for their callbacks already: are all callbacks blocked?")
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
                queue_timeout_s=self._queue_timeout_s,
            )
            self._jobs.add(job)
            self._commands.append(NotifyJobQueued(request=request))
            if older is not None:
                self._jobs.supersede(self._jobs[older], by=request.job_id)
            if request.task.needs_container:
                self._queue.add(job.queue_entry())
            else:
                job.verdict = Verdict(outcome=Outcome.SUCCESS)
                self._jobs.answered_locally(job)

    def stop_accepting(self) -> bool:
        """Refuse every further job, and end waiting for hosts. Returns False when that was so already."""
        with self._changed:
            was_accepting, self._accepting = self._accepting, False
            self._changed.notify_all()
            self._room.notify_all()
            return was_accepting

    def wait_for_room(self, timeout_s: float) -> None:
        """Block until a job may find room in the queue, or no more jobs are taken, or the time is over."""
        with self._room:
            self._room.wait_for(lambda: not self._accepting or self._has_room(), timeout_s)

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
            self._jobs.kill(job, reason)
            return True

    def kill_all(self, reason: KillReason) -> None:
        """Request that every job ends."""
        with self._lock:
            for job in self._jobs:
                self.kill(job.request.job_id, reason)

    def queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state is JobState.DONE:
                return None
            if job.state is not JobState.WAITING:
                return QueueInfo(-1, max(0.0, job.request.task.wall_s - job.running_for_s(self._clock())))
            known = self._forecaster.recent(job_id) or self._forecaster.snapshot()
        jobs_before, wait_s = self._forecaster.of(known).wait(job_id)
        return QueueInfo(jobs_before, None if wait_s is None else round(wait_s, 3))

    def queue_length(self) -> int:
        """How many jobs wait for a host."""
        with self._lock:
            return len(self._queue)

    def snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """The jobs that have a host, and the waiting jobs in their order."""
        with self._lock:
            placed = (self._jobs.holder(slot) for slot in self._containers.slots())
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

    def machines(self) -> MachineTotals:
        """What the hosts that are up have, taken together."""
        with self._lock:
            return self._hosts.totals()

    def output_source(self, job_id: str) -> OutputSource | None:
        """Where the output of a job can be read; None when it is unknown, or its callback has returned."""
        with self._lock:
            job = self._jobs.get(job_id)
            return job.output_source if job is not None else None

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
            return self._changed.wait_for(lambda: all(job.state is JobState.DONE for job in self._jobs), timeout_s)

    def give_up_all(self) -> None:
        """End every job that has not ended after its kill: its host does not answer."""
        with self._lock:
            for job in self._jobs:
                if job.state is JobState.RUNNING:
                    self._jobs.give_up(job)

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
            if len(self._queue) and self._jobs.decided < _MAX_DECIDED:
                view = PlacementView(self._hosts, self._reservations, self._clock())
                for entry, host, cost in self._queue.placements(view):
                    self._jobs.place(entry, host, cost)
            commands = list(self._commands)
            self._commands.clear()
            self._room.notify_all()
            return commands

    def container_started(self, container: str, *, container_id: str, image_command: tuple[str, ...], duration_s: float) -> None:
        """A submitter's report: the container waits for its job."""
        with self._lock:
            record = self._containers[container]
            self._hosts[record.slot.host].container_started()
            self._containers.started(
                record, container_id=container_id, image_command=image_command, duration_s=duration_s
            )
            job = self._jobs.owner(record)
            if job is not None:
                self._jobs.container_started(job, record)

    def start_failed(self, container: str, *, reason: str, unreachable: bool, image_missing: bool = False) -> None:
        """A submitter's report: this host cannot start it, another host may."""
        with self._lock:
            record = self._containers[container]
            host, job = record.slot.host, self._jobs.owner(record)
            if unreachable:
                self._jobs.start_unanswered(host, reason)
                self._queue.hosts_changed()
            self._containers.apply(record, ContainerEvent.START_FAILED)
            if job is not None:
                self._jobs.start_failed(
                    job, host, reason, record=record, unreachable=unreachable, image_missing=image_missing
                )

    def start_refused(self, container: str, reason: str) -> None:
        """A submitter's report: no second try would help."""
        with self._lock:
            record = self._containers[container]
            job = self._jobs.owner(record)
            self._containers.apply(record, ContainerEvent.START_FAILED)
            if job is not None:
                self._jobs.start_refused(job, record, reason)

    def volumes_lost(self, container: str, reason: str) -> None:
        """A submitter's report: the container started too late to have what was in its volumes."""
        with self._lock:
            record = self._containers[container]
            job = self._jobs.owner(record)
            self._containers.apply(record, ContainerEvent.START_FAILED)
            if job is not None:
                self._jobs.volumes_lost(job, record, reason)

    def submitter_died(self, container: str, why: str = "") -> None:
        """The process of a submitter ended before its report."""
        with self._lock:
            record = self._containers[container]
            job = self._jobs.owner(record)
            if job is not None:
                self._jobs.submitter_died(job, record, why)
            else:
                self._containers.apply(record, ContainerEvent.SUBMITTER_DIED)

    def job_sent(self, container: str) -> None:
        """A waiter's report: the container has its job."""
        with self._lock:
            job = self._job_of(container)
            if job is not None:
                job.add_step("job_sent", self._clock())

    def secret_missing(self, container: str, reason: str) -> None:
        """A run cannot be sent to its container: a secret of its phase is missing by now."""
        with self._lock:
            record = self._containers.get(container)
            job = self._jobs.owner(record)
            if record is not None and job is not None:
                self._jobs.secret_missing(job, record, reason)

    def ssh_ready(self, container: str, port: int) -> None:
        """A waiter's report: somebody can log in to the container of a debugged job."""
        with self._lock:
            job = self._job_of(container)
            if job is None or job.ssh_callback is None or job.host is None or job.killed:
                return
            job.add_step("ssh_ready", self._clock())
            ssh_callback, job.ssh_callback = job.ssh_callback, None
            address = self._published_at[job.host]
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
                job.run.limit_hit = limit_hit

    def build_done(self, container: str, result: RunResult) -> None:
        """A waiter's report: the build of a job's cases has ended."""
        with self._lock:
            record = self._containers.get(container)
            job = self._jobs.owner(record)
            if record is not None and job is not None:
                self._jobs.build_done(job, record, result)

    def case_done(self, container: str, number: int, result: CaseResult) -> None:
        """A waiter's report: a case of a job has ended."""
        with self._lock:
            record = self._containers.get(container)
            job = self._jobs.owner(record)
            if record is not None and job is not None:
                self._jobs.case_done(job, record, number, result)

    def submitter_told(self, container: str, number: int, text: str) -> str:
        """A waiter's report: a grader shows its submitter a text. Returns the job's id; empty if it was known, or too late."""
        with self._lock:
            job = self._job_of(container)
            if job is None or not job.run.tell(number, text):
                return ""
            return job.request.job_id

    def run_ended(self, container: str, facts: RunFacts) -> None:
        """A waiter's report: the run has ended, and what was seen of it."""
        with self._lock:
            record = self._containers.get(container)
            job = self._jobs.owner(record)
            if record is not None and job is not None:
                record.is_leaving = facts.is_leaving
                self._jobs.run_ended(job, record, facts)

    def waiter_died(self, containers: Sequence[str], *, over: str = "") -> None:
        """Another waiter gets its containers. A job over which several waiters died is a crash: it would end all others, too."""
        with self._lock:
            for container in containers:
                record = self._containers.get(container)
                job = self._jobs.owner(record)
                if record is not None and job is not None:
                    self._jobs.waiter_died(job, record, is_cause=container == over)

    def container_deleted(self, container: str) -> str | None:
        """Container and volume are gone. Returns the id of its job, if it was the last one in the job's slot."""
        with self._changed:
            record = self._containers.get(container)
            if record is None:
                return None
            self._container_gone(record, ContainerEvent.REMOVED)
            return record.slot.job_id if record.slot.is_released and not record.slot.remains else None

    def deletion_failed(self, container: str, *, only_volume_left: bool = False) -> None:
        """A deleter failed: try again later."""
        with self._changed:
            record = self._containers.get(container)
            if record is not None:
                self._container_gone(record, ContainerEvent.VOLUME_LEFT if only_volume_left else ContainerEvent.REMOVAL_FAILED)

    def _container_gone(self, record: ContainerRecord, event: ContainerEvent) -> None:
        """A deleter's report."""
        self._containers.apply(record, event)
        job = self._jobs.holder(record.slot)
        if job is not None:
            self._jobs.container_gone(job)
        self._changed.notify_all()

    def volumes_deleted(self, slot: str) -> None:
        """The volumes of a slot are gone."""
        with self._changed:
            self._containers.left_volumes.deleted(slot)
            self._changed.notify_all()

    def volume_deletion_failed(self, slot: str) -> None:
        """A deleter failed: try again later."""
        with self._changed:
            self._containers.left_volumes.deletion_failed(slot)
            self._changed.notify_all()

    def strays_found(self, host: str, containers: Sequence[str]) -> None:
        """A host has containers with our label that its waiter does not know: those that no job has are deleted."""
        with self._lock:
            self._containers.delete_strays(host, containers)

    def callback_returned(self, job_id: str) -> None:
        """The callback has returned, or there was none: the job is forgotten."""
        with self._changed:
            self._jobs.callback_returned(job_id)
            self._changed.notify_all()
            self._room.notify_all()

    def host_answered(
        self, name: str, info: EngineInfo, images: Sequence[Image], *, networks: frozenset[str] | None = None
    ) -> bool:
        """A host is up, and has these networks; None: unknown. Returns True when it was not up before."""
        with self._changed:
            host = self._hosts[name]
            was_up = host.status is HostStatus.UP
            host.networks = networks
            self._hosts.answered(name, info, images, self._clock())
            is_up_again = host.status is HostStatus.UP and not was_up
            if is_up_again:
                self._queue.hosts_changed()
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
            self._queue.hosts_changed()
            self._changed.notify_all()

    def wait_for_hosts(self, done: Callable[[list[HostStatus]], bool], timeout_s: float) -> None:
        """Block until ``done`` is true of the states of the hosts, or no more jobs are taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._accepting or done([host.status for host in self._hosts]), timeout_s)

    def tick(self) -> None:
        """Check the clock: jobs that waited too long, runs that are overdue, memory that may be free by now."""
        with self._changed:
            now = self._clock()
            for entry in self._queue.timed_out():
                text = f"waited longer than {self._queue_timeout_s:g} s while no host was up that could run it"
                self._jobs.queue_timed_out(self._jobs[entry.job_id], text)
            self._jobs.end_overdue(self._overdue_s)
            self._jobs.retry_phases()
            self._reservations.review(self._queue.req_classes(), self._hosts, now)
            self._forecaster.forget_old()
            self._crash_unrunnable(patience_s=_NO_IMAGE_S)
            waiting = self._queue.all_requirements()
            for host in self._hosts:
                if host.backoff_is_over(now) or any(host.is_worth_a_check(requirements) for requirements in waiting):
                    self._commands.append(CheckHost(host=host.name))

    def _crash_unrunnable(self, *, patience_s: float) -> None:
        """End jobs that need an image or a size that no host has any more. A host that is down may still have it."""
        now = self._clock()
        unrunnable = {
            requirements for requirements in self._queue.all_requirements() if not self._hosts.any_could_run(requirements)
        }
        self._unrunnable_since = {requirements: self._unrunnable_since.get(requirements, now) for requirements in unrunnable}
        given_up = {requirements for requirements, since in self._unrunnable_since.items() if now - since >= patience_s}
        if given_up:
            self._jobs.end_unrunnable(given_up)

    def _has_room(self) -> bool:
        """For any job: one that needs no container finds none already while fewer results wait for their callbacks."""
        return max(len(self._queue), self._jobs.decided) < self._max_waiting_jobs

    def _job_of(self, container: str) -> JobRecord | None:
        """The job whose present run a container has; None when there is none."""
        record = self._containers.get(container)
        job = self._jobs.owner(record)
        return job if job is not None and job.run.container is record else None

    def _missing_memory(self, requirements: Requirements) -> str:
        """Why jobs wait, if memory is what they wait for; empty otherwise."""
        missing = self._hosts.missing_memory(requirements)
        if missing and requirements == self._reservations.requirements:
            return f"{missing}; host {self._reservations.host} is reserved for it"
        return missing


def _listed(entry: QueueEntry, missing: str | None) -> WaitingJob:
    return entry.listed._replace(info=f"{entry.listed.info}, {missing}") if missing else entry.listed
