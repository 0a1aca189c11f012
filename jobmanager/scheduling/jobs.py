"""The jobs of one manager until their callbacks have returned: what each event of a job's life means.

``job_states.TRANSITIONS`` says which actions follow from which event; this file says what each action does. The containers
that jobs need have a table of their own (``containers.py``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from jobmanager.model.container_states import ContainerEvent
from jobmanager.model.job import Request
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.results.facts import JobNotSent, RunFacts
from jobmanager.results.verdict import KillReason, judge, killed_verdict, superseded_verdict, with_reruns
from jobmanager.scheduling.commands import CheckHost, Command, MonitorRun, NotifyHostDown, PublishResult, SubmitContainer
from jobmanager.scheduling.containers import ContainerRecord, ContainerTable, Slot
from jobmanager.scheduling.durations import Durations
from jobmanager.scheduling.hosts import Host, HostStatus, HostTable
from jobmanager.scheduling.job_record import JobRecord, RunRecord
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from jobmanager.scheduling.reservation import ReservationPolicy
from jobmanager.scheduling.waiting_queue import Cost, QueueEntry, Requirements, WaitingQueue

_MAX_FAILED_PLACEMENTS = 5  # of one job, before it is a crash
_MAX_SUBMITS_LOST = 10
_MAX_WAITERS_LOST = 3  # before the job is taken for the cause
_MAX_TIMES_UNREACHABLE = 200  # a host may answer every check and no start
_TOKEN_BYTES = 16
_IMAGE_GONE = "its image is gone"


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
        clock: Callable[[], float],
    ) -> None:
        """``send`` takes commands; ``on_decided`` is called when a result is decided."""
        self.decided = 0  # jobs whose callback has not returned yet
        self.containers = ContainerTable(hosts, send, monitor=self._monitor, on_slot_freed=self._slot_freed)
        self.reservations = ReservationPolicy(self._remaining_limit_s)
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
            JobAction.GIVE_RUN: self._give_run,
            JobAction.KILL: self._kill,
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
        job.add_step("accepted", self._clock())

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
        self._apply(job, JobEvent.HOST_ASSIGNED)

    def container_started(self, job: JobRecord, duration_s: float) -> None:
        """The container of its run is ready."""
        job.timings["start"] = round(duration_s, 4)
        self._apply(job, JobEvent.CONTAINER_STARTED)

    def start_failed(
        self, job: JobRecord, host: str, reason: str, *, unreachable: bool, image: str = "", image_missing: bool = False
    ) -> None:
        """Its host cannot start it; another one may."""
        job.failure_reasons = [*job.failure_reasons[-2:], f"{host}: {reason}"]
        if unreachable:  # the host is passed over until it answers again
            job.times_unreachable += 1
        else:
            job.failed_placements += 1
            if not (image_missing and self._hosts[host].forget_image(image)):
                job.requirements = replace(job.requirements, excluded=job.requirements.excluded | {host})
            self._send(CheckHost(host=host))
        self._apply(job, JobEvent.START_FAILED)

    def start_refused(self, job: JobRecord, reason: str) -> None:
        """No host can start it."""
        job.set_crash("start_refused", f"host {job.host} could not start it: {reason}", "the engine's answer")
        self._apply(job, JobEvent.START_REFUSED)

    def submitter_died(self, job: JobRecord, record: ContainerRecord, why: str) -> None:
        """The submitter of its container died: another one is asked, unless too many have died."""
        job.submits_lost += 1
        if job.submits_lost > _MAX_SUBMITS_LOST:
            last = f", at last: {why}" if why else ""
            job.set_crash("submitter_died", f"the submitter process died {job.submits_lost} times while starting it{last}")
            self.containers.apply(record, ContainerEvent.START_FAILED)
            self._apply(job, JobEvent.START_REFUSED)
            return
        job.add_step("submitter_died", self._clock())
        submit = self._submit(job, record.name)
        if submit is None:
            self.containers.apply(record, ContainerEvent.START_FAILED)
            self.start_failed(job, record.slot.host, _IMAGE_GONE, unreachable=False)
        else:
            record.submit = submit
            self.containers.apply(record, ContainerEvent.SUBMITTER_DIED)

    def run_ended(self, job: JobRecord, record: ContainerRecord, facts: RunFacts) -> None:
        """A waiter's report: the run has ended, and what was seen of it."""
        if not self.containers.apply(record, ContainerEvent.RUN_ENDED):
            return
        if isinstance(facts.ending, JobNotSent) and not job.killed:
            self._job_not_sent(job, facts.ending)
            return
        verdict = judge(facts, job.request.task.limits, job.killed)
        if verdict.cut_off and self._run_again(job, verdict.text):
            return
        job.run.facts, job.verdict = facts, verdict
        job.timings.update(facts.timings)
        record.slot.ran_to_end = not job.killed
        self._apply(job, JobEvent.RUN_ENDED)

    def waiter_died(self, job: JobRecord, record: ContainerRecord, *, is_cause: bool) -> None:
        """Another waiter gets its container. ``is_cause``: the waiter died just after it was given this job."""
        job.waiters_lost += is_cause
        if job.waiters_lost >= _MAX_WAITERS_LOST:
            job.set_crash("waiter_died", f"the waiter process died {job.waiters_lost} times when it was given this job")
            self._apply(job, JobEvent.WAITERS_LOST)
        elif self.containers.apply(record, ContainerEvent.WAITER_DIED):
            job.add_step("waiter_died", self._clock())

    def kill(self, job: JobRecord, reason: KillReason) -> None:
        """It is to end."""
        if job.killed is None:
            job.killed = reason
            job.verdict = killed_verdict(reason)
            self._apply(job, JobEvent.KILL_REQUESTED)

    def supersede(self, job: JobRecord, *, by: str) -> None:
        """A newer job takes its place in the queue."""
        job.killed = KillReason.SUPERSEDED
        job.verdict = superseded_verdict(by)
        self._apply(job, JobEvent.KILL_REQUESTED)

    def give_up(self, job: JobRecord) -> None:
        """It has not ended after its kill: its host does not answer."""
        job.set_crash("given_up", "its host did not answer while the manager was closing")
        self._apply(job, JobEvent.OVERDUE)

    def end_overdue(self, grace_s: float) -> None:
        """End the jobs whose run has taken so much longer than every limit."""
        text = f"no report from the waiter {grace_s:g} s after every time limit"
        for slot in list(self.containers.slots()):
            job = self.holder(slot)
            if job is None or job.run.busy_for_s(self._clock()) <= _longest_s(job.request) + grace_s:
                continue
            if not self._run_again(job, text):
                job.set_crash("overdue", text)
                self._apply(job, JobEvent.OVERDUE)

    def queue_timed_out(self, job: JobRecord, text: str) -> None:
        """It has waited for too long."""
        job.set_crash("queue_timeout", f"{text}{job.reasons(self._hosts.missing_memory(job.requirements))}")
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
        assert job.slot is not None, "a job has a slot before its containers"
        submit = self._submit(job, job.slot.name)
        if submit is None:
            self.start_failed(job, job.slot.host, _IMAGE_GONE, unreachable=False)
            return
        job.run = RunRecord(token=secrets.token_hex(_TOKEN_BYTES))
        job.run.container = self.containers.want(job.slot, submit)

    def _submit(self, job: JobRecord, container: str) -> SubmitContainer | None:
        """Have a container made for its run, from the image that its host has now; None when it has none."""
        assert job.slot is not None, "a job has a slot before its containers"
        image = self._hosts[job.slot.host].image(job.request.task.environment)
        if image is None:
            return None
        return SubmitContainer(host=job.slot.host, container=container, image=image, request=job.request)

    def _give_run(self, job: JobRecord) -> None:
        assert job.run.container is not None, "a container has started"
        self.containers.apply(job.run.container, ContainerEvent.RUN_GIVEN)

    def _kill(self, job: JobRecord) -> None:
        assert job.run.container is not None, "a job that runs has a container"
        self.containers.apply(job.run.container, ContainerEvent.KILL_REQUESTED)

    def _release(self, job: JobRecord) -> None:
        if job.slot is not None:
            self.containers.release_slot(job.slot)

    def _monitor(self, record: ContainerRecord, taken_over: bool) -> None:
        """Have a waiter follow the run of a container."""
        job = self._jobs[record.slot.job_id]
        if record.busy_since is None:
            record.busy_since = self._clock()
        self._send(
            MonitorRun(
                host=record.slot.host,
                container=record.name,
                container_id=record.id,
                image_command=record.image_command,
                request=job.request,
                token=job.run.token,
                taken_over=taken_over,
                elapsed_s=job.run.busy_for_s(self._clock()),
                limit_hit=job.run.limit_hit,
                images=self._images_for(job, record),
                kill_at_once=job.killed is not None,
                engine_id=record.slot.engine_id,
            )
        )

    def _images_for(self, job: JobRecord, record: ContainerRecord) -> dict[str, str]:
        """The images for the student containers of a grading job, by environment."""
        if job.request.task.grader is None:
            return {}
        return {**self._hosts[record.slot.host].images(), "": record.image}

    def _requeue(self, job: JobRecord) -> None:
        job.slot, job.run = None, RunRecord()
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
        self.decided += 1
        self._on_decided()
        self._send(
            PublishResult(
                request=job.request,
                callback=job.callback,
                ssh_callback=job.ssh_callback,
                verdict=with_reruns(job.verdict, job.cut_off),
                facts=job.run.facts,
                host=job.host,
                timings=job.timings,
                steps=tuple(job.steps),
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

    def _slot_freed(self, slot: Slot) -> None:
        """A slot is free again: its launcher pays what it cost, and the duration is recorded."""
        if slot.cost is not None:
            self._queue.settle(slot.cost)
            if slot.ran_to_end:
                self._durations.record(slot.cost.duration_key.job_class, self._clock() - slot.cost.started_at)

    def _remaining_limit_s(self, slot_name: str) -> float:
        """For how long the job of a slot may still hold its memory, at most."""
        job = self.holder(self.containers.slot(slot_name))
        return 0.0 if job is None else max(0.0, job.request.task.limits.wall_s - job.run.busy_for_s(self._clock()))


def _longest_s(request: Request) -> float:
    """How long a run can take over the slowest link."""
    limits = request.task.limits
    standstill_s = 0.0 if request.task.grader is None else limits.standstill_s
    moved_bytes = sum(map(len, request.files.values())) + limits.output_kib * 1024
    return limits.wall_s + standstill_s + moved_bytes / SLOWEST_LINK_BYTES_PER_S
