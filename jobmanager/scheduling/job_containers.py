"""The containers of jobs' runs: which are wanted, which is given its run, which are kept for their volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jobmanager.model.container_states import ContainerEvent, ContainerState
from jobmanager.model.limits import Limits
from jobmanager.scheduling import phases
from jobmanager.scheduling.commands import Command, MonitorRun, SubmitContainer
from jobmanager.scheduling.containers import ContainerRecord, ContainerTable
from jobmanager.scheduling.hosts import HostTable
from jobmanager.scheduling.job_record import JobRecord, RunRecord
from jobmanager.scheduling.volumes import pipes_name, volume_name

_WITH_VOLUMES = frozenset({ContainerState.READY, ContainerState.BUSY, ContainerState.SPENT})


class JobContainers:
    """Gives jobs' runs their containers. Not thread-safe: the ledger's lock guards it."""

    def __init__(
        self, hosts: HostTable, containers: ContainerTable, send: Callable[[Command], None], clock: Callable[[], float]
    ) -> None:
        self._hosts = hosts
        self._containers = containers
        self._send = send
        self._clock = clock

    def want(self, job: JobRecord, run: RunRecord) -> bool:
        """Have a container made for a run. Returns False when its host has no image for it."""
        assert job.slot is not None, "a job has a slot before its containers"
        run.containers += 1
        run.is_built = False
        submit = self._submit(job, run, self._name(job, run))
        if submit is None:
            return False
        job.slot.volumes = _all_volumes(job)
        run.container = self._containers.want(job.slot, submit)
        return True

    def make_again(self, job: JobRecord, record: ContainerRecord) -> bool:
        """A submitter died: have its container made by another one, or found. Returns False when the image is gone."""
        assert record.submit is not None
        submit = self._submit(job, job.runs[record.submit.run], record.name)
        if submit is None:
            return False
        record.submit = submit
        return self._containers.apply(record, ContainerEvent.SUBMITTER_DIED)

    def give(self, job: JobRecord) -> None:
        """Give the run whose turn it is to its container, if that is ready."""
        run = job.run
        if run.container is None or not self._containers.apply(run.container, ContainerEvent.RUN_GIVEN):
            return
        if run.replaced is not None:
            self._containers.apply(run.replaced, ContainerEvent.RELEASED)
            run.replaced = None

    def prepare(self, job: JobRecord) -> None:
        """Have the containers started that are needed ahead, and let those go that are needed no more."""
        if job.pipeline is None or job.slot is None:
            return
        for number in phases.started_ahead(job.pipeline.phases, job.current, job.course):
            run = job.runs[number]
            if run.container is None and self._hosts[job.slot.host].is_up:
                self.want(job, run)
        self.release_unneeded(job)

    def waits_for_removal(self, job: JobRecord) -> bool:
        """Whether a container is being removed that the run whose turn it is must not run beside."""
        return any(
            run.container is not None and run.container.state is ContainerState.REMOVING and _writes_with(job, run)
            for run in job.runs
        )

    def waits_for_keeper(self, job: JobRecord) -> bool:
        """Whether a container is being started that is to keep what is in the volumes of the run whose turn it is."""
        if job.pipeline is None:
            return False
        pipeline_phases = job.pipeline.phases
        kept_by = {state: set[str]() for state in ContainerState}
        for run in job.runs[job.current + 1 :]:
            if run.container is not None:
                kept_by[run.container.state].update(pipeline_phases[run.number].volumes)
        needed = {*pipeline_phases[job.current].volumes} & phases.volumes_to_keep(pipeline_phases, job.current, job.course)
        return not (needed - kept_by[ContainerState.READY]).isdisjoint(kept_by[ContainerState.STARTING])

    def monitor(self, job: JobRecord, record: ContainerRecord, *, taken_over: bool) -> None:
        """Have a waiter send a container its run, and follow it."""
        now = self._clock()
        if record.busy_since is None:
            record.busy_since = now
            job.began_at = now if job.began_at is None else job.began_at
        run = job.run
        if not taken_over:
            run.limits = self._limits(job, run, now)
        self._send(
            MonitorRun(
                host=record.slot.host,
                container=record.name,
                container_id=record.id,
                image_command=record.image_command,
                request=job.request,
                run=run.number,
                limits=run.limits,
                taken_over=taken_over,
                elapsed_s=run.busy_for_s(now),
                limit_hit=run.limit_hit,
                images=self._images_for(run, record),
                kill_at_once=run.killed is not None,
                engine_id=record.slot.engine_id,
                volume_devices=_devices(job, run),
                progress=run.progress,
                is_built=run.is_built,
                slot=record.slot.name,
            )
        )

    def _limits(self, job: JobRecord, run: RunRecord, now: float) -> Limits:
        limits = run.request.task.limits
        if job.pipeline is None:
            return limits
        left_s = phases.allowed_s(job.pipeline, run.number, job.running_for_s(now))
        return limits if left_s >= limits.wall_s else replace(limits, wall_time_s=max(left_s, 0.001))

    def _submit(self, job: JobRecord, run: RunRecord, container: str) -> SubmitContainer | None:
        """Have a container made for a run, from the image that its host has now; None when it has none."""
        assert job.slot is not None, "a job has a slot before its containers"
        slot = job.slot
        image = self._hosts[slot.host].image(run.request.task.environment)
        if image is None:
            return None
        return SubmitContainer(
            host=slot.host,
            container=container,
            image=image,
            request=job.request,
            run=run.number,
            slot=slot.name,
            volume_holders=_holders(job, run),
        )

    def release_unneeded(self, job: JobRecord) -> None:
        """Let those containers of a job go that are needed no more."""
        if job.pipeline is None:
            return
        pipeline_phases, course = job.pipeline.phases, job.course
        safe: set[str] = set()
        spent = []
        for run in job.runs:
            state = run.container.state if run.container is not None else None
            volumes = pipeline_phases[run.number].volumes
            will_run = run.number > job.current and phases.can_still_run(pipeline_phases[run.number], course)
            if state is ContainerState.READY and will_run:
                safe.update(volumes)
            elif state is ContainerState.SPENT or (state is ContainerState.READY and run.number != job.current):
                spent.append((run.number, volumes))
            elif state is ContainerState.STARTING and run.number != job.current and not will_run:
                self._release(run)
        relied_on = _relied_on(job)
        to_keep = set(phases.volumes_to_keep(pipeline_phases, job.current, course))
        if job.run.container is None or job.run.container.state not in _WITH_VOLUMES:
            to_keep.update(pipeline_phases[job.current].volumes)
        for number in phases.spent_to_release(spent, safe, to_keep):
            if job.runs[number].container_name not in relied_on and not (job.run.is_given and _writes_with(job, job.runs[number])):
                self._release(job.runs[number])

    def _release(self, run: RunRecord) -> None:
        if run.container is not None:
            self._containers.apply(run.container, ContainerEvent.RELEASED)

    def _name(self, job: JobRecord, run: RunRecord) -> str:
        assert job.slot is not None
        again = f".{run.containers}" if run.containers > 1 else ""
        if job.pipeline is not None:
            return f"{job.slot.name}-p{run.number + 1}{again}"
        return f"{job.slot.name}{again}"

    def _images_for(self, run: RunRecord, record: ContainerRecord) -> dict[str, str]:
        """The images for the other containers that a waiter starts, by environment: a grading run's students, what judges cases."""
        if run.request.task.grader is None and run.request.interactor is None and not run.request.checkers:
            return {}
        return {**self._hosts[record.slot.host].images(), "": record.image}


def _all_volumes(job: JobRecord) -> tuple[str, ...]:
    """The engine's names of all volumes that a job's containers have in common."""
    assert job.slot is not None, "a job has a slot before its containers"
    named = [volume_name(job.slot.name, name) for name in job.pipeline.volumes or ()] if job.pipeline is not None else []
    talks = any(run.request.interactor is not None for run in job.runs)
    return (*named, *([pipes_name(job.slot.name)] if talks else []))


def _holders(job: JobRecord, run: RunRecord) -> tuple[str, ...]:
    """For each volume of a run that may have content, the newest container that has it."""
    if job.pipeline is None:
        return ()
    phases_ = job.pipeline.phases
    had = {name for each in job.runs[: run.number] if each.container is not None for name in phases_[each.number].volumes}
    newest = {
        name: container.name
        for each in job.runs
        for container in (each.container if each is not run else run.replaced,)
        if container is not None and container.state in _WITH_VOLUMES
        for name in phases_[each.number].volumes
    }
    return tuple(dict.fromkeys(newest[name] for name in phases_[run.number].volumes if name in had and name in newest))


def _devices(job: JobRecord, run: RunRecord) -> dict[str, str]:
    """The devices of a run's volumes, by name, as the first run saw them that had them."""
    if run.request.phase is None:
        return {}
    seen: dict[str, str] = {}
    for each in job.runs[: run.number]:
        seen = {**(each.facts.volume_devices if each.facts is not None else {}), **seen}
    return {name: seen[name] for name in run.request.phase.volumes if name in seen}


def _relied_on(job: JobRecord) -> set[str]:
    """The containers that are to be there until others have started: their submitters ask for them by name."""
    starting = [run.container for run in job.runs if run.container and run.container.state is ContainerState.STARTING]
    return {name for record in starting if record.submit is not None for name in record.submit.volume_holders}


def _writes_with(job: JobRecord, run: RunRecord) -> bool:
    """Whether another run's program may still be there, and shares a volume with the run whose turn it is.

    Its end may be forged. It is frozen, and goes on for a moment when it is removed.
    """
    if job.pipeline is None or run is job.run or run.container is None or run.container.busy_since is None:
        return False
    return not {*job.pipeline.phases[run.number].writes}.isdisjoint(job.pipeline.phases[job.current].volumes)
