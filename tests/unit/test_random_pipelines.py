"""Pipelines made at random, in a world that reports at random: whatever happens, these promises hold."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from jobmanager import Limits, Phase, Pipeline, Task, Volume
from jobmanager.results.facts import (
    ContainerEnded,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    Limit,
    RemovedExternally,
)
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import (
    DeleteContainer,
    DeleteVolumes,
    KillRun,
    MonitorRun,
    PublishResult,
    SubmitContainer,
)
from tests.support.run_facts import cannot_run, cut_off, exited, not_sent, stopped_for
from tests.unit.ledger_driver import Driver

MEMORY_MIB = 4096  # of each host
SEEDS = range(60)
WORST_S = 20_000  # in which every job has ended once nothing goes wrong any more
ENDINGS = [
    *[exited()] * 6,
    *[exited(1)] * 2,
    stopped_for(Limit.WALL, 9.0),
    stopped_for(Limit.OUTPUT, 1e6),
    cannot_run("no such file"),
    not_sent(),
    not_sent(EngineUnreachable(reason="no answer")),
    cut_off(ContainerEnded()),
    cut_off(RemovedExternally()),
    cut_off(InfrastructureFailure(reason="oops")),
    cut_off(HostGivenUp(), outage_s=70.0),
]
OVER = {"host_lost", "waiter_died", "overdue", "given_up"}  # after these, not even what always runs is run


def random_pipeline(choose: random.Random) -> Pipeline:
    written: list[str] = []
    phases = []
    for number in range(choose.randint(1, 5)):
        writes = [name for name in "abc" if choose.random() < 0.3]
        reads = [name for name in written if name not in writes and choose.random() < 0.5]
        written += [name for name in writes if name not in written]
        limits = Limits(wall_time_s=choose.choice([10.0, 40.0]), memory_mib=choose.choice([64, 256]))
        phases.append(
            Phase(
                f"p{number}",
                Task("python3", command="x", limits=limits, retries=choose.choice([0, 0, 1, 2])),
                reads=reads,
                writes=writes,
                when=choose.choice(["on_success", "on_success", "on_failure", "always"]) if number else "on_success",
                allow_failure=choose.random() < 0.2,
                blame=choose.choice(["submitter", "course"]),
            )
        )
    reserve_s = sum(phase.task.wall_s for phase in phases[1:] if phase.when == "always")
    return Pipeline(
        phases,
        volumes={name: Volume(choose.choice([1, 64])) for name in written},
        wall_time_s=choose.choice([None, None, reserve_s + 15.0, reserve_s + 60.0]),
    )


@dataclass(kw_only=True)
class Place:
    """What a job has on a host, while it has a slot there."""

    job_id: str
    pipeline: Pipeline
    phases: dict[str, int] = field(default_factory=dict)  # of the containers that were to be made, and are not gone
    with_volumes: set[str] = field(default_factory=set)  # containers that run, and which nobody asked to remove
    given: list[int] = field(default_factory=list)  # runs, in their order
    lost: set[str] = field(default_factory=set)  # volumes that phases had, and for a moment no container
    volumes_deleted: int = 0

    def is_removed(self, container: str) -> None:
        """A container is no more; a volume that no other one has is empty from now on."""
        self.with_volumes.discard(container)
        kept = {volume for other in self.with_volumes for volume in self._volumes(self.phases[other])}
        used = {volume for number in self.given for volume in self._volumes(number)}
        self.lost |= used - kept

    def _volumes(self, number: int) -> tuple[str, ...]:
        return self.pipeline.phases[number].volumes


class World:
    """Carries out a ledger's commands as the roles would, and asserts what must hold at each of them."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.driver = Driver({name: self.choose.randint(1, 3) for name in "ab"[: self.choose.randint(1, 2)]}, queue_timeout_s=1e6)
        self.ledger = self.driver.ledger
        self.pipelines: dict[str, Pipeline] = {}
        self.places: dict[str, Place] = {}
        self.to_start: dict[str, tuple[str, ...]] = {}  # containers, and those that have what is in their volumes
        self.monitored: dict[str, str] = {}  # containers, and their hosts
        self.to_delete: set[str] = set()
        self.volumes_to_delete: set[str] = set()
        self.unlucky: set[str] = set()  # jobs whose volumes may be lost: a container that was to keep them could not be had
        self.lost: set[str] = set()  # jobs whose host was given up
        self.kills: Counter[str] = Counter()
        self.not_sent: Counter[str] = Counter()  # how often a run of a job was not begun
        self.given: Counter[str] = Counter()  # how often the first run of a job was given
        self.results: dict[str, PublishResult] = {}

    # ---- what the ledger commands

    def carry_out(self) -> None:
        for command in self.driver.carry_out():
            if isinstance(command, SubmitContainer):
                self._submit(command)
            elif isinstance(command, MonitorRun):
                self._monitor(command)
            elif isinstance(command, KillRun):
                self._place_of(command.container).is_removed(command.container)
            elif isinstance(command, DeleteContainer):
                self._delete(command.container)
            elif isinstance(command, DeleteVolumes):
                self._delete_volumes(command)
            elif isinstance(command, PublishResult):
                self._publish(command)
        self._memory_is_counted_once()

    def _submit(self, command: SubmitContainer) -> None:
        job_id = command.request.job_id
        assert job_id not in self.results, "a container for a job that has ended"
        place = self.places.setdefault(command.slot, Place(job_id=job_id, pipeline=self.pipelines[job_id]))
        assert command.container not in self.to_start, "one container is given to two submitters"
        assert not place.volumes_deleted
        place.phases[command.container] = command.run
        self.to_start[command.container] = command.volume_holders

    def _monitor(self, command: MonitorRun) -> None:
        place = self._place_of(command.container)
        assert command.container not in self.monitored, "two waiters have one container"
        self.monitored[command.container] = command.host
        if command.taken_over:
            return
        assert command.container in place.with_volumes, "a run is given to a container that does not run"
        assert command.run not in place.given, "a run is given twice in one place"
        assert not place.given or command.run > place.given[-1], "phases out of their order"
        is_allowed = self.kills[place.job_id] == 0 or (
            self.kills[place.job_id] == 1 and place.pipeline.phases[command.run].when == "always"
        )
        assert is_allowed, "a run is given after a kill"
        lost = place.lost & {*place.pipeline.phases[command.run].volumes}
        assert not lost, f"no container kept volume {lost} for phase {command.run}"
        place.given.append(command.run)
        self.given[place.job_id] += command.run == 0
        may_repeat = place.pipeline.phases[0].task.retries + self.not_sent[place.job_id]
        assert self.given[place.job_id] <= 1 + may_repeat, "a run is given twice"

    def _delete(self, container: str) -> None:
        place = self._place_of(container)
        self.to_delete.add(container)
        place.is_removed(container)

    def _delete_volumes(self, command: DeleteVolumes) -> None:
        place = self.places[command.slot]
        assert not place.phases, "the volumes of containers that are still there"
        assert set(command.names) == {f"{command.slot}-v-{name}" for name in place.pipeline.volumes or ()}
        place.volumes_deleted += 1
        self.volumes_to_delete.add(command.slot)

    def _publish(self, command: PublishResult) -> None:
        job_id = command.request.job_id
        assert job_id not in self.results, "a job has two results"
        self.results[job_id] = command
        self._what_always_runs_has_run(command)
        self.ledger.callback_returned(job_id)

    def _what_always_runs_has_run(self, result: PublishResult) -> None:
        job_id = result.request.job_id
        reports = result.phases
        verdicts = [result.verdict, *(report.verdict for report in reports if report.verdict is not None)]
        kinds = {found.kind for verdict in verdicts for found in verdict.evidence}
        assert "volumes_lost" not in kinds or job_id in self.unlucky, "nobody kept the volumes of a container until it had them"
        is_over = self.kills[job_id] > 1 or job_id in self.lost or bool(kinds & OVER)
        has_begun = reports[0].facts is not None
        for phase, report in zip(self.pipelines[job_id].phases, reports, strict=True):
            assert report.verdict is not None or report.why_not_run
            if phase.when == "always" and has_begun and not is_over:
                assert report.verdict is not None, f"{phase.name} was not run: {report.why_not_run}"

    def _memory_is_counted_once(self) -> None:
        containers = self.ledger.containers()
        taken: Counter[str] = Counter()
        last = {}  # the place of each job that it took at last
        for place in self.places.values():
            last[place.job_id] = place
            if place.phases:
                taken[containers[next(iter(place.phases))]] += place.pipeline.memory_mib
        for job in self.ledger.snapshot()[0]:
            if not last[job.job_id].phases:  # the container of its next phase cannot be had yet
                taken[job.host] += last[job.job_id].pipeline.memory_mib
        for host in self.ledger.hosts():
            if host.free_memory_mib is not None:
                assert host.free_memory_mib == MEMORY_MIB - taken[host.name]

    def _place_of(self, container: str) -> Place:
        return self.places[container.rsplit("-p", 1)[0]]

    # ---- what the world reports

    def accept(self) -> None:
        job_id = f"j{len(self.pipelines)}"
        self.pipelines[job_id] = random_pipeline(self.choose)
        self.driver.accept(job_id, self.pipelines[job_id], launcher=self.choose.choice("xy"))

    def start_is_reported(self, *, well: bool = False) -> None:
        if not self.to_start:
            return
        container = self.choose.choice(sorted(self.to_start))
        holders = self.to_start.pop(container)
        place = self._place_of(container)
        bad = ["failed", "unreachable", "refused", "died", *(["engine restarted"] if place.given else [])]
        report = "started" if well else self.choose.choice(["started"] * 8 + bad)
        if report != "started":
            self.unlucky.add(place.job_id)
        if report == "engine restarted" or (report == "started" and not place.with_volumes.issuperset(holders)):
            self.ledger.volumes_lost(container, "no")
        elif report == "started":
            place.with_volumes.add(container)
            self.driver.runs(container)
        elif report == "refused":
            self.ledger.start_refused(container, "no")
        elif report == "died":
            self.ledger.submitter_died(container)
        else:
            self.ledger.start_failed(container, reason="no", unreachable=report == "unreachable")

    def run_ends(self, *, well: bool = False) -> None:
        if not self.monitored:
            return
        container = self.choose.choice(sorted(self.monitored))
        del self.monitored[container]
        facts = exited() if well else self.choose.choice(ENDINGS)
        place = self._place_of(container)
        self.not_sent[place.job_id] += isinstance(facts.ending, JobNotSent)
        if facts == ENDINGS[-1]:
            self.lost.add(place.job_id)
        self.ledger.run_ended(container, facts)

    def waiter_dies(self) -> None:
        if not self.monitored:
            return
        host = self.choose.choice(sorted(self.monitored.values()))
        lost = sorted(container for container, where in self.monitored.items() if where == host)
        for container in lost:
            del self.monitored[container]
        self.ledger.waiter_died(lost, over=self.choose.choice(["", lost[0]]))

    def container_is_deleted(self, *, well: bool = False) -> None:
        if not self.to_delete:
            return
        container = self.choose.choice(sorted(self.to_delete))
        self.to_delete.discard(container)
        if not well and self.choose.random() < 0.2:
            self.ledger.deletion_failed(container)
            return
        del self._place_of(container).phases[container]
        self.monitored.pop(container, None)
        self.ledger.container_deleted(container)

    def volumes_are_deleted(self, *, well: bool = False) -> None:
        for slot in sorted(self.volumes_to_delete):
            self.volumes_to_delete.discard(slot)
            if well or self.choose.random() < 0.8:
                self.ledger.volumes_deleted(slot)
            else:
                self.places[slot].volumes_deleted -= 1
                self.ledger.volume_deletion_failed(slot)

    def is_killed(self) -> None:
        begun = {place.job_id for place in self.places.values() if place.given} - {*self.results}
        if not self.pipelines:
            return
        job_id = self.choose.choice(sorted(begun or self.pipelines))
        reason = self.choose.choice([KillReason.KILL_JOB] * 3 + [KillReason.CLOSE])
        if self.ledger.kill(job_id, reason):
            self.kills[job_id] += 1 if reason is KillReason.KILL_JOB else 2

    def host_changes(self) -> None:
        host = self.choose.choice(self.driver.names)
        if self.choose.random() < 0.15:
            self.unlucky.update(place.job_id for place in self.places.values())
            self.ledger.host_down(host, "gone")
        else:
            self.driver.answers(host, memory_mib=MEMORY_MIB)

    def time_passes(self) -> None:
        self.driver.clock.now += self.choose.choice([1.0, 1.0, 5.0, 20.0, 300.0])
        self.ledger.tick()

    # ---- all of it

    def anything_happens(self) -> None:
        happening = self.choose.choice(
            [self.accept]
            + [self.start_is_reported] * 4
            + [self.run_ends] * 4
            + [self.container_is_deleted] * 2
            + [self.volumes_are_deleted, self.waiter_dies, self.is_killed, self.host_changes, self.time_passes]
        )
        happening()
        self.carry_out()

    def everything_goes_well(self) -> None:
        """Until all jobs have ended, and nothing is left of them."""
        begin = self.driver.clock.now
        while self.ledger.unfinished() or self.ledger.containers() or self.volumes_to_delete:
            assert self.driver.clock.now < begin + WORST_S, f"{self.ledger.unfinished()} jobs do not end"
            for host in self.driver.names:
                self.driver.answers(host, memory_mib=MEMORY_MIB)
            self.carry_out()
            for happening in (self.start_is_reported, self.run_ends, self.container_is_deleted, self.volumes_are_deleted):
                happening(well=True)
                self.carry_out()
            self.driver.clock.now += 1.0
            self.ledger.tick()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_to_pipelines_each_has_one_result_and_nothing_is_left(seed: int) -> None:
    world = World(seed)
    for _ in range(150):
        world.anything_happens()
    world.everything_goes_well()

    assert set(world.results) == set(world.pipelines)
    assert not any(world.driver.slots().values())
    for slot, place in world.places.items():
        assert place.volumes_deleted == bool(place.pipeline.volumes), slot
