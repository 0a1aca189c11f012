"""The ledger: the one place that decides what becomes of a job, and that it ends in one result.

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
from jobmanager.scheduling.forecast import Forecast, Forecaster
from jobmanager.scheduling.hosts import Host, HostStatus, HostTable
from jobmanager.scheduling.job_record import JobRecord, OutputSource
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from jobmanager.scheduling.reservation import ReservationPolicy, Room
from jobmanager.scheduling.versions import Version
from jobmanager.scheduling.waiting_queue import Charge, Needs, Place, WaitingQueue, rounded_up

_MOST_FAILURES = 5  # of one job, before what keeps failing is called a crash
_MOST_SUBMITS_LOST = 10
_MOST_WAITERS_LOST = 3  # before they are thought to die of the job itself
_MOST_TIMES_UNREACHABLE = 200  # a host that answers when looked at and breaks off every submit
_MOST_DECIDED = 1000  # results in memory that wait for callbacks; while there are as many, nothing more is started
_OVERDUE_SLACK_S = 60.0  # past every limit, before a waiter's silence is called a crash
_NO_IMAGE_S = 20.0  # an image that is being replaced may be away for a moment
_TOKEN_BYTES = 16


def _longest_s(request: Request) -> float:
    """How long a run can take, by a link that is as slow as may be."""
    limits = request.task.limits
    standstill_s = 0.0 if request.task.grader is None else limits.standstill_s
    moved_bytes = sum(map(len, request.files.values())) + limits.output_kib * 1024
    return limits.wall_s + standstill_s + moved_bytes / SLOWEST_LINK_BYTES_PER_S


class Ledger:
    """All jobs of one manager that have not been called back, their containers, and the hosts. Thread-safe."""

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
        self._queue = WaitingQueue(clock, self._durations.expected_s)
        self._jobs: dict[str, JobRecord] = {}
        self._commands: deque[Command] = deque()
        self._containers = ContainerTable(self._hosts, self._commands.append, self._freed)
        self._holding = ReservationPolicy(self._may_run_for_s)
        self._outlooks = Forecaster(self._queue, self._hosts, self._containers, self._durations, clock)
        self._manager_id = manager_id
        self._max_waiting_jobs = max_waiting_jobs
        self._queue_timeout_s = queue_timeout_s
        self._overdue_s = host_lost_timeout_s + _OVERDUE_SLACK_S
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_number = 0
        self._hopeless_since: dict[Needs, float] = {}
        self._decided = 0  # jobs that wait for their callback, or are in it
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
        """Take a job. Raises JobRefused's children, and then nothing has changed."""
        grader = request.task.grader
        needs = Needs(
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
            most_decided = self._max_waiting_jobs
            if request.task.needs_container:
                most_decided = max(most_decided, _MOST_DECIDED)
                if (refusal := self._hosts.refusal(needs)) is not None:
                    raise refusal
                if len(self._queue) - (older is not None) >= self._max_waiting_jobs:
                    raise QueueFull(f"{len(self._queue)} jobs are waiting already: try again later, or raise max_waiting_jobs")
            if self._decided >= most_decided:
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
                needs=needs,
            )
            self._jobs[request.job_id] = job
            job.note("accepted", self._clock())
            self._commands.append(NotifyJobQueued(request=request))
            if older is not None:
                self._superseded(self._jobs[older], by=request.job_id)
            if request.task.needs_container:
                self._queue.add(job.place(self._clock()))
            else:
                job.state, job.verdict = JobState.DONE, Verdict(outcome=Outcome.SUCCESS)
                self._publish(job)

    def stop_accepting(self) -> bool:
        """Refuse every further job, and wait for no host; False when that was so already."""
        with self._changed:
            was_open, self._accepting = self._accepting, False
            self._changed.notify_all()
            return was_open

    def is_accepting(self) -> bool:
        """Whether it takes jobs."""
        with self._lock:
            return self._accepting

    def kill(self, job_id: str, reason: KillReason) -> bool:
        """Ask for a job's end; False when it has ended or is unknown."""
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
        """Ask for the end of every job."""
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
            known = self._outlooks.recent(job_id) or self._outlooks.picture()
        jobs_before, wait_s = self._outlooks.of(known).turn(job_id)
        return QueueInfo(jobs_before, round(wait_s, 3))

    def snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """Jobs that have a host, and those that wait, in their order."""
        with self._lock:
            held = (self._job_of(name) for name in self._containers.names())
            jobs = sorted((job for job in held if job is not None), key=lambda job: job.number)
            running = [job.running_job() for job in jobs]
            lacks = {line: lack for line in self._queue.lines() if (lack := self._lack(line.needs))}
            picture = self._outlooks.picture()
        order = Forecast(picture).order
        if not lacks:
            return running, [place.listed for place in order]
        return running, [_listed(place, lacks.get(place.group.line)) for place in order]

    def environments(self) -> dict[str, list[str]]:
        """What the hosts that are up can run, by environment type."""
        with self._lock:
            return self._hosts.environments()

    def versions(self) -> Mapping[str, Sequence[Version]]:
        """The environments that stand for several images, and these, the newest first."""
        with self._lock:
            return self._hosts.versions()

    def hosts(self) -> list[HostInfo]:
        """All hosts."""
        with self._lock:
            return self._hosts.records()

    def output_source(self, job_id: str) -> OutputSource | None:
        """Where a job's output is to be had; None when it is unknown, or has been called back."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            return OutputSource(container=job.container, ended=job.state is JobState.DONE, facts=job.facts)

    def unfinished(self) -> int:
        """How many jobs have not been called back."""
        with self._lock:
            return len(self._jobs)

    def containers(self) -> dict[str, str]:
        """Containers that hold a slot, and their hosts."""
        with self._lock:
            return self._containers.hosts()

    def wait_until_decided(self, timeout_s: float) -> bool:
        """Block until every job's result is decided; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: all(job.state is JobState.DONE for job in self._jobs.values()), timeout_s)

    def give_up_all(self) -> None:
        """Decide every job that was to be killed and has not ended: its host does not answer."""
        with self._lock:
            for job in list(self._jobs.values()):
                if job.state is not JobState.DONE:
                    job.say_crash("given_up", "its host did not answer while the manager was closing")
                    self._apply(job, JobEvent.OVERDUE)

    def wait_until_called_back(self, timeout_s: float | None) -> bool:
        """Block until every job has been called back; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout_s)

    def wait_until_deleted(self, timeout_s: float) -> bool:
        """Block until no container holds a slot, and volumes are gone or will not go; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(self._containers.are_gone, timeout_s)

    # ---- what the manager reports

    def take_commands(self) -> list[Command]:
        """Place what can be placed, and everything that is to be done now."""
        with self._lock:
            if len(self._queue) and self._decided < _MOST_DECIDED:
                self._queue.place_all(Room(self._hosts, self._holding, self._clock()), self._place)
            commands = list(self._commands)
            self._commands.clear()
            return commands

    def container_started(self, container: str, *, container_id: str, image_command: tuple[str, ...], duration_s: float) -> None:
        """A submitter's report: the container waits for its job."""
        with self._lock:
            held = self._containers[container]
            held.made = True
            self._hosts[held.host].started_one()
            job = self._job_or_delete(container)
            if job is not None:
                job.container_id, job.image_command = container_id, image_command
                job.timings["start"] = round(duration_s, 4)
                self._apply(job, JobEvent.CONTAINER_STARTED)

    def host_cannot_start(self, container: str, *, reason: str, unreachable: bool, image_missing: bool = False) -> None:
        """A submitter's report: this host cannot start it, another one may."""
        with self._lock:
            host = self._containers[container].host
            if unreachable:
                self._start_unanswered(host, reason)
            job = self._job_or_delete(container)
            if job is not None:
                self._host_failed(job, host, reason, unreachable=unreachable, image_missing=image_missing)

    def start_refused(self, container: str, reason: str) -> None:
        """A submitter's report: no second try would help."""
        with self._lock:
            host = self._containers[container].host
            job = self._job_or_delete(container)
            if job is not None:
                job.say_crash("start_refused", f"host {host} could not start it: {reason}", "the engine's answer")
                self._apply(job, JobEvent.START_REFUSED)

    def submitter_died(self, container: str, why: str = "") -> None:
        """The process of a submitter ended before its report."""
        with self._lock:
            job = self._job_or_delete(container)
            if job is not None:
                self._submitter_died(job, why)

    def job_sent(self, container: str) -> None:
        """A waiter's word: the job was delivered."""
        with self._lock:
            job = self._job_of(container)
            if job is not None:
                job.note("job_sent", self._clock())

    def ssh_ready(self, container: str, port: int) -> None:
        """A waiter's word: somebody can log in to a debugged job's container."""
        with self._lock:
            job = self._job_of(container)
            if job is None or job.ssh_callback is None or job.host is None or job.killed:
                return
            job.note("ssh_ready", self._clock())
            told, job.ssh_callback = job.ssh_callback, None
            address = self._hosts[job.host].config.published_at
            self._commands.append(
                PublishSSH(
                    job_id=job.request.job_id,
                    ssh_callback=told,
                    address=address,
                    port=port,
                    user=SSH_USER,
                    password=job.request.ssh_password,
                )
            )

    def limit_reached(self, container: str, stopped: LimitHit) -> None:
        """A waiter's word: it is about to stop the container for a limit."""
        with self._lock:
            job = self._job_of(container)
            if job is not None:
                job.stopped = stopped

    def run_ended(self, container: str, facts: RunFacts) -> None:
        """A waiter's report."""
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
            self._containers[container].ran = not job.killed
            self._apply(job, JobEvent.RUN_ENDED)

    def waiter_died(self, containers: Sequence[str], *, over: str = "") -> None:
        """Its list goes to another waiter; not for ever the container that it died over, or all others would share its fate."""
        with self._lock:
            for container in containers:
                job = self._job_of(container)
                if job is None:
                    continue
                job.waiters_lost += container == over
                if job.waiters_lost >= _MOST_WAITERS_LOST:
                    job.say_crash("waiter_died", f"the waiter process died {job.waiters_lost} times when it was given this job")
                    self._apply(job, JobEvent.WAITERS_LOST)
                else:
                    self._apply(job, JobEvent.WAITER_DIED)

    def container_deleted(self, container: str) -> str | None:
        """Nothing of it is left: its slot is free. Returns its job's id."""
        with self._changed:
            held = self._containers.deleted(container)
            self._changed.notify_all()
            return held.job_id if held is not None else None

    def deletion_failed(self, container: str, *, only_volume_left: bool = False) -> None:
        """Try again later."""
        with self._changed:
            self._containers.delete_failed(container, only_volume_left=only_volume_left)
            self._changed.notify_all()

    def strays_found(self, host: str, containers: Sequence[str]) -> None:
        """A host has containers with our label that its waiter was never told about: those of nobody are deleted."""
        with self._lock:
            self._containers.delete_strays(host, containers)

    def callback_returned(self, job_id: str) -> None:
        """Its callback has returned, or there was none: the job is over."""
        with self._changed:
            if self._jobs.pop(job_id, None) is not None:
                self._decided -= 1
            self._changed.notify_all()

    def host_answered(self, name: str, info: EngineInfo, images: Sequence[Image]) -> bool:
        """A host is up; True when it was not before."""
        with self._changed:
            host = self._hosts[name]
            was_up = host.status is HostStatus.UP
            self._hosts.answers(name, info, images, self._clock())
            is_up_again = host.status is HostStatus.UP and not was_up
            if is_up_again:
                self._crash_what_nobody_can_run(patience_s=0.0)
            self._changed.notify_all()
            return is_up_again

    def host_down(self, name: str, reason: str) -> None:
        """A host is down."""
        with self._changed:
            self._down(name, reason)
            self._changed.notify_all()

    def wait_for_hosts(self, done: Callable[[list[HostStatus]], bool], timeout_s: float) -> None:
        """Block until ``done`` says so of the hosts' states, or no more jobs are taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._accepting or done([host.status for host in self._hosts]), timeout_s)

    def tick(self) -> None:
        """Look at the clock: jobs that waited too long, runs that are overdue, memory that may be free by now."""
        with self._changed:
            now = self._clock()
            for place in self._queue.waited_longer_than(self._queue_timeout_s):
                self._waited_too_long(self._jobs[place.job_id])
            for name in self._containers.names():
                job = self._job_of(name)
                if job is not None and job.running_for_s(now) > _longest_s(job.request) + self._overdue_s:
                    self._overdue(job)
            self._holding.review(self._queue.lines(), self._hosts, now)
            self._outlooks.forget_old()
            self._crash_what_nobody_can_run(patience_s=_NO_IMAGE_S)
            waiting = self._queue.all_needs()
            for host in self._hosts:
                if host.has_rested(now) or any(host.is_worth_a_look(needs) for needs in waiting):
                    self._commands.append(CheckHost(host=host.name))

    # ---- what is done

    def _apply(self, job: JobRecord, event: JobEvent) -> None:
        transition = TRANSITIONS[event].get(job.state)
        if transition is None:
            return
        job.note(event.name.lower(), self._clock())
        if job.state is JobState.WAITING and transition.to is JobState.DONE:
            self._queue.remove(job.request.job_id)
        job.state = transition.to
        for action in transition.actions:
            self._actions[action](job)

    def _place(self, place: Place, host: Host, charge: Charge) -> None:
        job = self._jobs[place.job_id]
        job.placements += 1
        job.host = host.name
        job.engine_id = host.info.engine_id if host.info is not None else ""
        job.container = f"jobmanager-{self._manager_id}-{job.number}-{job.placements}"
        job.token = secrets.token_hex(_TOKEN_BYTES)
        job.timings["waiting"] = round(self._clock() - job.accepted_at, 4)
        self._containers.hold(job.container, job.request.job_id, host, job.needs.memory_mib, charge)
        self._holding.placed(host, place, self._clock())
        self._apply(job, JobEvent.HOST_ASSIGNED)

    def _freed(self, held: ContainerRecord) -> None:
        """A slot is free again: what was expected of its job is set right."""
        if held.charge is not None:
            self._queue.settle(held.charge)
            if held.ran:
                self._durations.record(held.charge.sort.kind, self._clock() - held.charge.at)

    def _superseded(self, job: JobRecord, *, by: str) -> None:
        job.killed = KillReason.SUPERSEDED
        job.verdict = superseded_verdict(by)
        self._apply(job, JobEvent.KILL_REQUESTED)

    def _submit(self, job: JobRecord) -> None:
        assert job.host is not None
        image = self._hosts[job.host].image(job.request.task.environment)
        if image is None:
            self._host_failed(job, job.host, "its image is gone", unreachable=False)
            return
        job.image = image
        self._commands.append(SubmitJob(host=job.host, container=job.container, image=image, request=job.request))

    def _monitor(self, job: JobRecord, *, taken_over: bool = False) -> None:
        assert job.host is not None
        if job.began_at is None:
            job.began_at = self._clock()
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
                stopped=job.stopped,
                images=self._images_for(job),
                kill_at_once=job.killed is not None,
                engine_id=job.engine_id,
            )
        )

    def _images_for(self, job: JobRecord) -> dict[str, str]:
        """What the student containers of a grading job may be made of."""
        if job.request.task.grader is None or job.host is None:
            return {}
        return {**self._hosts[job.host].images(), "": job.image}

    def _reassign(self, job: JobRecord) -> None:
        self._monitor(job, taken_over=True)

    def _kill(self, job: JobRecord) -> None:
        assert job.host is not None
        self._commands.append(KillJob(host=job.host, job_id=job.request.job_id, container=job.container))

    def _requeue(self, job: JobRecord) -> None:
        job.host, job.container, job.began_at, job.stopped = None, "", None, None
        may_try = job.failures < _MOST_FAILURES and job.times_unreachable < _MOST_TIMES_UNREACHABLE
        newer = self._queue.holder(job.request.supersede_key)
        if newer is not None:
            job.killed, job.verdict = KillReason.SUPERSEDED, superseded_verdict(newer)
        elif may_try and self._hosts.anybody_could(job.needs):
            self._queue.add(job.place(self._clock()))
            return
        else:
            job.say_crash("no_host", f"no host could start it{job.because()}")
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

    def _host_failed(self, job: JobRecord, host: str, reason: str, *, unreachable: bool, image_missing: bool = False) -> None:
        job.trouble = [*job.trouble[-2:], f"{host}: {reason}"]
        if unreachable:  # it is passed over until it answers again
            job.times_unreachable += 1
        else:
            job.failures += 1
            if not (image_missing and self._hosts[host].forget_image(job.image)):
                job.needs = replace(job.needs, excluded=job.needs.excluded | {host})
            self._commands.append(CheckHost(host=host))
        self._apply(job, JobEvent.HOST_FAILED)

    def _job_not_sent(self, job: JobRecord, facts: RunFacts) -> None:
        """Another container may have it: nothing was run. A host that does not answer is not the job's fault."""
        assert job.host is not None
        reason = facts.unreachable_reason or facts.infrastructure_error or "the container ended before it had its job"
        job.trouble = [*job.trouble[-2:], f"{job.host}: {reason}"]
        if facts.unreachable_reason or facts.host_lost:
            job.times_unreachable += 1
            self._start_unanswered(job.host, reason)
        else:
            job.failures += 1
        self._apply(job, JobEvent.JOB_NOT_SENT)

    def _run_again(self, job: JobRecord, why: str) -> bool:
        """A run that was cut off counts only when the task allows no other, or somebody has asked for the job's end."""
        assert job.host is not None
        if job.killed or len(job.cut_off) >= job.request.task.retries:
            return False
        job.cut_off.append(f"{job.host}: {why}")
        job.needs = replace(job.needs, avoided=job.needs.avoided | {job.host})
        self._apply(job, JobEvent.CUT_OFF)
        return True

    def _waited_too_long(self, job: JobRecord) -> None:
        because = job.because(self._hosts.lack_of_memory(job.needs))
        job.say_crash("queue_timeout", f"waited longer than {self._queue_timeout_s:g} s for a host{because}")
        self._apply(job, JobEvent.QUEUE_TIMEOUT)

    def _overdue(self, job: JobRecord) -> None:
        words = f"no report from the waiter {self._overdue_s:g} s after every time limit"
        if not self._run_again(job, words):
            job.say_crash("overdue", words)
            self._apply(job, JobEvent.OVERDUE)

    def _submitter_died(self, job: JobRecord, why: str) -> None:
        job.submits_lost += 1
        if job.submits_lost > _MOST_SUBMITS_LOST:
            last = f", at last: {why}" if why else ""
            job.say_crash("submitter_died", f"the submitter process died {job.submits_lost} times while starting it{last}")
            self._apply(job, JobEvent.START_REFUSED)
        else:
            self._apply(job, JobEvent.SUBMITTER_DIED)

    def _start_unanswered(self, name: str, reason: str) -> None:
        host = self._hosts[name]
        if host.status is not HostStatus.DOWN:
            self._commands.append(NotifyHostDown(host=name, reason=reason))
        host.broke_off(reason, self._clock())
        self._commands.append(CheckHost(host=name))

    def _down(self, name: str, reason: str) -> None:
        host = self._hosts[name]
        if host.status is not HostStatus.DOWN:
            self._commands.append(NotifyHostDown(host=name, reason=reason))
        host.silent(reason)

    def _crash_what_nobody_can_run(self, *, patience_s: float) -> None:
        """What waits for an image, or a size, that no host has any more; a host that is down may still have it."""
        now = self._clock()
        hopeless = {needs for needs in self._queue.all_needs() if not self._hosts.anybody_could(needs)}
        self._hopeless_since = {needs: self._hopeless_since.get(needs, now) for needs in hopeless}
        given_up = {needs for needs, since in self._hopeless_since.items() if now - since >= patience_s}
        if not given_up:
            return
        for job in [self._jobs[place.job_id] for place in self._queue]:
            if job.needs in given_up:
                refusal = self._hosts.refusal(replace(job.needs, excluded=frozenset()))
                job.say_crash("no_host", f"{refusal or 'no host could start it'}{job.because()}")
                self._apply(job, JobEvent.QUEUE_TIMEOUT)

    # ---- small answers

    def _job_of(self, container: str) -> JobRecord | None:
        """The job that a container still belongs to."""
        held = self._containers.get(container)
        job = self._jobs.get(held.job_id) if held is not None else None
        return job if job is not None and job.container == container and job.state is not JobState.DONE else None

    def _job_or_delete(self, container: str) -> JobRecord | None:
        """The job that a container belongs to; a container without one is deleted."""
        job = self._job_of(container)
        if job is None:
            self._containers.delete(container)
        return job

    def _may_run_for_s(self, container: str) -> float:
        """For how long a container may still hold its memory, at most."""
        job = self._job_of(container)
        return 0.0 if job is None else max(0.0, job.request.task.limits.wall_s - job.running_for_s(self._clock()))

    def _lack(self, needs: Needs) -> str:
        """The memory that jobs wait for, if that is what they wait for."""
        lack = self._hosts.lack_of_memory(needs)
        return f"{lack}; host {self._holding.host} is held back for it" if lack and needs == self._holding.needs else lack


def _listed(place: Place, lack: str | None) -> WaitingJob:
    return place.listed._replace(info=f"{place.listed.info}, {lack}") if lack else place.listed
