"""The ledger of a cluster: which of the waiting jobs goes to which node, and whose turn it is.

It has the rules of the in-process ledger, with nodes as its hosts: a node gets the whole job and says when it has ended. So
there are no containers here, and no results: a job is its key, what it needs, and who waits for it. It does no I/O.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from jobmanager.errors import JobRefused
from jobmanager.model.listings import HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.scheduling.durations import DurationKey, Durations
from jobmanager.scheduling.fair_shares import Account, PriorityStanding
from jobmanager.scheduling.forecast import Forecaster, dispatch_order
from jobmanager.scheduling.hosts import Host, HostConfig, HostStatus, HostTable, full_reference
from jobmanager.scheduling.reservation import PlacementView, ReservationPolicy
from jobmanager.scheduling.waiting_queue import Cost, QueueEntry, Requirements, WaitingQueue

NO_NODE_S = 20.0  # a node that has the environment may be away for a moment
_MAX_NODES_NAMED = 3
_MAX_REASONS = 3
_US = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapacity:
    """What a node said of itself last, and whether it is given jobs."""

    name: str
    slots: int  # jobs at once
    memory_mib: int  # that its jobs may be promised in all
    free_memory_mib: int | None = None  # of it, not promised and available when it said so; None: unknown
    cores: int
    environments: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()  # references
    networks: frozenset[str] | None = None  # of its hosts, by name; None: unknown
    takes_jobs: bool = True
    reason: str = ""  # why it takes none, such as "drained"

    @property
    def available_memory_mib(self) -> int | None:
        """What the scheduler calls it."""
        return self.free_memory_mib


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob:
    """A job of some client, as far as it matters for its place and its turn."""

    key: str  # no other job ever has it
    job_id: str  # the caller's; of one client at a time
    client: str
    launcher: str
    priority: int  # lower is sooner
    title: str  # in listings
    job_class: str  # jobs of one class are expected to take the same time
    requirements: Requirements
    wall_s: float  # the wall-clock limit
    retries: int = 0  # how often it may be run again after its node was lost
    supersede_key: str | None = None  # it replaces a waiting job of this key, whoever's it is
    queue_timeout_s: float


class EndingKind(str, Enum):
    """Why a job ends that waits."""

    QUEUE_TIMEOUT = "queue_timeout"
    NO_NODE = "no_node"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A job that is to end without a run. It is out of the ledger."""

    job: ClusterJob
    kind: EndingKind
    text: str  # for its result; of a superseded one: the id of the newer job

    @property
    def key(self) -> str:
        """The key of the job."""
        return self.job.key


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterListing:
    """A job in a listing."""

    client: str  # whose it is
    job: RunningJob | WaitingJob  # ``is_current_client_job`` is False


@dataclass(slots=True, kw_only=True, eq=False)
class _JobRecord:
    """A job that waits, or is placed. Times are those of the ledger's clock."""

    job: ClusterJob
    accepted_at: float
    arrival: int
    requirements: Requirements  # the job's, without the nodes that gave it back
    reasons: list[str] = field(default_factory=list)  # why nodes gave it back, the latest last
    node: str = ""  # empty while it waits
    since: float = 0.0  # when it was placed
    cost: Cost | None = None  # of its slot

    @property
    def name(self) -> str:
        """The name of its slot."""
        return self.job.key

    @property
    def host(self) -> str:
        """Where its slot is."""
        return self.node

    @property
    def is_released(self) -> bool:
        """A slot is free as soon as its job needs it no more."""
        return False

    @property
    def duration_key(self) -> DurationKey:
        """What it is expected to take."""
        return DurationKey(self.job.job_class, self.job.wall_s)

    @property
    def is_placed(self) -> bool:
        """Whether it has a node."""
        return bool(self.node)

    def queue_entry(self) -> QueueEntry:
        """Its entry in the queue."""
        job = self.job
        return QueueEntry(
            job_id=job.key,
            requirements=self.requirements,
            priority=job.priority,
            launcher=job.launcher,
            arrival=self.arrival,
            duration_key=self.duration_key,
            timeout_s=job.queue_timeout_s,
            supersede_key=job.supersede_key,
            listed=WaitingJob(job.job_id, False, job.title, job.launcher, job.wall_s),
        )


class _Node(Host):
    """A node as a host: it has names of environments and of images, and looks itself for the image of each."""

    def __init__(self, name: str) -> None:
        super().__init__(HostConfig(name=name), {})
        self._names: frozenset[str] = frozenset()
        self._references: frozenset[str] = frozenset()

    def announced(self, capacity: NodeCapacity) -> None:
        """What it said last."""
        self.config = HostConfig(name=self.name, limit=capacity.slots)
        self._names = capacity.environments
        self._references = frozenset(map(full_reference, capacity.images))
        self.networks = capacity.networks
        self.status = HostStatus.UP if capacity.takes_jobs else HostStatus.DOWN
        self.reason = "" if capacity.takes_jobs else capacity.reason
        self._checked(capacity)

    def release(self, slot: str) -> None:
        """A slot is free again. What the node said to be free last was without its memory."""
        taken, machine = self.taken.get(slot), self.machine
        if taken is not None and self._is_seen(taken) and isinstance(machine, NodeCapacity) and machine.free_memory_mib is not None:
            self.machine = replace(machine, free_memory_mib=machine.free_memory_mib + taken.memory_mib)
        super().release(slot)

    def image(self, environment: str) -> str | None:
        """The environment itself when the node has it."""
        known = environment in self._names or full_reference(environment) in self._references
        return environment if known else None

    def environments(self) -> frozenset[str]:
        """The environments that can be run there."""
        return self._names

    def references(self) -> set[str]:
        """Every image reference there."""
        return set(self._references)


class ClusterLedger:
    """All jobs of a cluster that wait or are placed, and its nodes. Not thread-safe: one thread has it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._hosts = HostTable((), {}, noun="node")
        self._durations = Durations()
        self._queue = WaitingQueue(clock, self._durations.cost_s, self._hosts.any_up_could_run)
        self._reservations = ReservationPolicy(self._left_s)
        self._forecaster = Forecaster(self._queue, self._hosts, self._slots, self._durations, clock)
        self._jobs: dict[str, _JobRecord] = {}
        self._placed: dict[str, _JobRecord] = {}  # in the order of their placements
        self._unrunnable_since: dict[Requirements, float] = {}
        self._last_arrival = 0

    def __contains__(self, key: object) -> bool:
        return key in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    # ---- nodes

    def set_node(self, capacity: NodeCapacity) -> None:
        """A node has come, or has said something new, or is given jobs no more, or again."""
        node = self._hosts.get(capacity.name)
        if node is None:
            node = _Node(capacity.name)
            self._hosts.add(node)
            for record in self._placed_on(capacity.name):
                self._hosts.take(node, record.name, record.requirements.memory_mib)
        assert isinstance(node, _Node)
        was_up = node.is_up
        node.announced(capacity)
        if node.is_up is not was_up:
            self._queue.hosts_changed()

    def drop_node(self, name: str) -> None:
        """A node has gone. Its jobs stay placed there until they are put back or ended."""
        self._hosts.drop(name)
        self._queue.hosts_changed()

    def placed_on(self, node: str) -> list[str]:
        """The keys of the jobs that are placed on a node."""
        return [record.name for record in self._placed_on(node)]

    def placed_counts(self) -> Counter[str]:
        """How many jobs are placed on each node."""
        return Counter(record.node for record in self._placed.values())

    def hosts(self) -> list[HostInfo]:
        """How users see the nodes."""
        return self._hosts.host_infos()

    def environments(self) -> dict[str, list[str]]:
        """The environments of the nodes that are given jobs, by environment type."""
        return self._hosts.environments()

    def refusal(self, requirements: Requirements) -> JobRefused | None:
        """Why no node could ever run such a job; None when one could, as far as is known."""
        return self._hosts.refusal(requirements)

    # ---- jobs

    def add_waiting(
        self,
        job: ClusterJob,
        excluded: Collection[str] = (),
        accepted_at: float | None = None,
    ) -> Ending | None:
        """A job waits. Returns the one that ends for it, or itself when a newer one of its supersede key waits already.

        Args:
            job: not in the ledger yet.
            excluded: the nodes that gave it back.
            accepted_at: when it was accepted, by the ledger's clock: this is its place; None: now, and after all others.
        """
        record = self._record(job, excluded, accepted_at)
        older = self._jobs.get(self._queue.holder(job.supersede_key) or "")
        if older is not None and record.accepted_at < older.accepted_at:
            return _superseded(job, by=older.job)
        if older is not None:
            record.arrival = older.arrival
            self._forget(older)
        self._jobs[job.key] = record
        self._queue.add(record.queue_entry())
        return None if older is None else _superseded(older.job, by=job)

    def add_placed(
        self, job: ClusterJob, node: str, since: float, excluded: Collection[str] = (), accepted_at: float | None = None
    ) -> None:
        """A job was placed on a node by an earlier leader, at this time of the ledger's clock."""
        record = self._record(job, excluded, since if accepted_at is None else accepted_at)
        self._jobs[job.key] = record
        self._place(record, node, since, self._queue.hold(job.priority, job.launcher, record.duration_key, since))

    def placements(self) -> list[tuple[str, str]]:
        """Place the jobs that can be placed. Returns their keys, each with its node, whose slot it has taken."""
        now, placed = self._clock(), []
        if len(self._queue):
            for entry, host, cost in self._queue.placements(PlacementView(self._hosts, self._reservations, now)):
                self._reservations.placed(host, entry, now)
                self._place(self._jobs[entry.job_id], host.name, now, cost)
                placed.append((entry.job_id, host.name))
        return placed

    def not_placed(self, key: str) -> None:
        """A placement did not come about, as the job did not wait any more."""
        self.ended(key, ran=False)

    def ended(self, key: str, *, ran: bool) -> None:
        """A job has ended, placed or not; nothing when it is unknown. ``ran``: to its own end, so that its duration counts."""
        record = self._jobs.get(key)
        if record is None:
            return
        if ran and record.is_placed:
            self._durations.record(record.job.job_class, self._clock() - record.since)
        self._forget(record)

    def put_back(self, key: str, excluded: Collection[str] = (), reason: str = "") -> Ending | None:
        """A placed job waits again, at its old place. Returns its end when a newer one of its supersede key waits.

        Args:
            key: of a placed job; nothing happens when it is not.
            excluded: nodes that are not to have it again.
            reason: why its node gave it back.
        """
        record = self._placed.get(key)
        if record is None:
            return None
        self._free(record)
        if reason:
            record.reasons = [*record.reasons, f"{record.node}: {reason}"][-_MAX_REASONS:]
        record.node = ""
        newer = self._queue.holder(record.job.supersede_key)
        if newer is not None:
            del self._jobs[key]
            return _superseded(record.job, by=self._jobs[newer].job)
        record.requirements = replace(record.requirements, excluded=record.requirements.excluded.union(excluded))
        self._queue.add(record.queue_entry())
        return None

    def tick(self) -> list[Ending]:
        """Look at the clock. Returns the jobs that have waited for too long, and those that no node could run any more."""
        now = self._clock()
        endings = [*self._timed_out(), *self._without_node(now)]
        self._reservations.review(self._queue.req_classes(), self._hosts, now)
        self._forecaster.forget_old()
        return endings

    # ---- what is asked

    def job(self, key: str) -> ClusterJob | None:
        """A job; None when it is unknown."""
        record = self._jobs.get(key)
        return None if record is None else record.job

    def node_of(self, key: str) -> str:
        """The node that a job is placed on; empty when it is on none."""
        record = self._placed.get(key)
        return "" if record is None else record.node

    def waiting(self) -> list[str]:
        """The keys of the jobs that wait; those that have waited longest first."""
        return [entry.job_id for entry in self._queue]

    def waiting_count(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def queue_info(self, key: str) -> QueueInfo | None:
        """Where a job stands; None when it is unknown."""
        record = self._jobs.get(key)
        if record is None:
            return None
        if record.is_placed:
            return QueueInfo(-1, self._left_s(key))
        jobs_before, wait_s = self._forecaster.of(self._forecaster.recent(key) or self._forecaster.snapshot()).wait(key)
        return QueueInfo(jobs_before, None if wait_s is None else round(wait_s, 3))

    def snapshot(self) -> tuple[list[ClusterListing], list[ClusterListing]]:
        """The jobs that are placed, and the waiting jobs in their order."""
        placed = [ClusterListing(client=record.job.client, job=self._running_job(record)) for record in self._placed.values()]
        why = {req_class: self._what_is_missing(req_class.requirements) for req_class in self._queue.req_classes()}
        waiting = [
            ClusterListing(
                client=self._jobs[entry.job_id].job.client, job=_listed(entry, why[entry.priority_class.req_class])
            )
            for entry in dispatch_order(self._forecaster.snapshot())
        ]
        return placed, waiting

    def standings(self) -> list[PriorityStanding]:
        """What launchers have used, for the next leader."""
        held_s: dict[Account, float] = {}
        for record in self._placed.values():
            if record.cost is not None:
                held_s[record.cost.account] = held_s.get(record.cost.account, 0.0) + record.cost.expected_s
        return self._queue.shares.standings(held_s)

    def restore(self, standings: Iterable[PriorityStanding]) -> None:
        """Go on with what an earlier leader wrote down, before any job is added."""
        self._queue.shares.restore(standings)

    # ---- within

    def _record(self, job: ClusterJob, excluded: Collection[str], accepted_at: float | None) -> _JobRecord:
        now = self._clock()
        arrival = round((now if accepted_at is None else accepted_at) * _US)
        if accepted_at is None:
            arrival = max(arrival, self._last_arrival + 1)
        self._last_arrival = max(self._last_arrival, arrival)
        requirements = replace(job.requirements, excluded=job.requirements.excluded.union(excluded))
        return _JobRecord(
            job=job, accepted_at=now if accepted_at is None else accepted_at, arrival=arrival, requirements=requirements
        )

    def _place(self, record: _JobRecord, node: str, since: float, cost: Cost) -> None:
        record.node, record.since, record.cost = node, since, cost
        self._placed[record.name] = record
        host = self._hosts.get(node)
        if host is not None:
            self._hosts.take(host, record.name, record.requirements.memory_mib)

    def _free(self, record: _JobRecord) -> None:
        """Its slot is free again."""
        del self._placed[record.name]
        host = self._hosts.get(record.node)
        if host is not None:
            host.release(record.name)
        if record.cost is not None:
            self._queue.settle(record.cost)
            record.cost = None

    def _forget(self, record: _JobRecord) -> None:
        """A job leaves the ledger."""
        del self._jobs[record.name]
        if record.is_placed:
            self._free(record)
        else:
            self._queue.remove(record.name)

    def _timed_out(self) -> list[Ending]:
        found = []
        for record in [self._jobs[entry.job_id] for entry in self._queue.timed_out()]:
            job = record.job
            text = f"waited longer than {job.queue_timeout_s:g} s while no node was up that could run it{self._reasons(record)}"
            self._forget(record)
            found.append(Ending(job=job, kind=EndingKind.QUEUE_TIMEOUT, text=text))
        return found

    def _without_node(self, now: float) -> list[Ending]:
        """The jobs that need what no node has any more. While there is no node at all they wait for one."""
        unrunnable = (
            {requirements for requirements in self._queue.all_requirements() if not self._hosts.any_could_run(requirements)}
            if len(self._hosts)
            else set()
        )
        self._unrunnable_since = {requirements: self._unrunnable_since.get(requirements, now) for requirements in unrunnable}
        given_up = {requirements for requirements, since in self._unrunnable_since.items() if now - since >= NO_NODE_S}
        if not given_up:
            return []
        found = []
        for record in [self._jobs[entry.job_id] for entry in self._queue]:
            if record.requirements in given_up:
                refusal = self._hosts.refusal(replace(record.requirements, excluded=frozenset()))
                text = f"{refusal or 'no node could start it'}{_in_brackets(record.reasons)}"
                self._forget(record)
                found.append(Ending(job=record.job, kind=EndingKind.NO_NODE, text=text))
        return found

    def _reasons(self, record: _JobRecord) -> str:
        missing = self._what_is_missing(record.requirements)
        return _in_brackets([*record.reasons, *([missing] if missing else [])])

    def _what_is_missing(self, requirements: Requirements) -> str:
        """Why jobs wait, when it is not only for a slot; empty otherwise."""
        missing = self._hosts.missing_memory(requirements)
        if missing and requirements == self._reservations.requirements:
            return f"{missing}; node {self._reservations.host} is reserved for it"
        if missing or self._hosts.able(requirements):
            return missing
        if not len(self._hosts):
            return "waits for a node: there is none"
        could = sorted((host for host in self._hosts if host.could_run(requirements)), key=lambda host: host.name)
        named = [f"node {host.name} ({host.reason})" for host in could[:_MAX_NODES_NAMED]]
        return f"waits for {' or '.join(named)}" if named else "waits: no node has what it needs"

    def _running_job(self, record: _JobRecord) -> RunningJob:
        job = record.job
        started_at = self._wall_clock() - (self._clock() - record.since)
        info = f"{job.title} on {record.node}"
        return RunningJob(job.job_id, False, info, job.launcher, started_at, job.wall_s, record.node)

    def _placed_on(self, node: str) -> list[_JobRecord]:
        return [record for record in self._placed.values() if record.node == node]

    def _slots(self) -> Iterable[_JobRecord]:
        """The slots that are taken, of nodes that are there."""
        return [record for record in self._placed.values() if self._hosts.get(record.node) is not None]

    def _left_s(self, key: str) -> float:
        """For how long a placed job may still have its slot, at most."""
        record = self._placed.get(key)
        return 0.0 if record is None else max(0.0, record.job.wall_s - (self._clock() - record.since))


def _superseded(job: ClusterJob, *, by: ClusterJob) -> Ending:
    return Ending(job=job, kind=EndingKind.SUPERSEDED, text=by.job_id)


def _in_brackets(reasons: Collection[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""


def _listed(entry: QueueEntry, missing: str) -> WaitingJob:
    return entry.listed._replace(info=f"{entry.listed.info}, {missing}") if missing else entry.listed
