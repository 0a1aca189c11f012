"""What goes on in a cluster, as its operators see it: read from Redis alone. Only what is signed is believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobmanager.remote.records import BadMessage, JobHeader, NodeReport
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore, JobFields, NodeFields

_AT_MOST_BYTES = 2**20  # an envelope with a report or a header
_PIECE = 1000
UNKNOWN = "?"  # the environment of a job whose header is not signed with our key


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNow:
    """A node, as it reports itself."""

    name: str
    state: str  # "up", "draining", "paused", "down"
    reason: str  # why it takes no jobs
    want: str  # what operators asked for: "up", "drain", "pause"
    jobs: int  # placed or running there, as Redis has it
    seen_s: float | None  # since its last sign of life, in seconds
    report: NodeReport | None  # its own words; None: there are none that can be believed

    @property
    def takes_jobs(self) -> bool:
        """Whether the dispatcher may give it some."""
        return self.state == "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentNow:
    """The jobs of one environment."""

    environment: str
    waiting: int = 0
    oldest_s: float | None = None  # how long the oldest of them has waited
    placed: int = 0
    running: int = 0
    nodes: int = 0  # that have it and take jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNow:
    """All jobs that have not ended."""

    leader: str  # empty: nobody places jobs
    slots: int  # of nodes that take jobs
    free_slots: int
    environments: tuple[EnvironmentNow, ...] = ()

    @property
    def waiting(self) -> int:
        """Jobs without a node."""
        return sum(each.waiting for each in self.environments)

    @property
    def placed(self) -> int:
        """Jobs that their node has not started yet."""
        return sum(each.placed for each in self.environments)

    @property
    def running(self) -> int:
        """Jobs that their node has started."""
        return sum(each.running for each in self.environments)

    @property
    def oldest_s(self) -> float | None:
        """How long the oldest waiting job has waited."""
        return max((each.oldest_s for each in self.environments if each.oldest_s is not None), default=None)


def nodes_now(store: ClusterStore, signer: Signer) -> list[NodeNow]:
    """All nodes that were seen in the last day or have jobs, by name."""
    return [_node(fields, signer, jobs=len(store.jobs_of(fields.name))) for fields in store.nodes()]


def queue_now(store: ClusterStore, signer: Signer) -> QueueNow:
    """All jobs that have not ended, by environment. Reads each job's header: a second for some 20,000."""
    nodes = nodes_now(store, signer)
    taking = {node.name: node.report for node in nodes if node.takes_jobs and node.report is not None}
    waiting = store.waiting()
    counts: Counter[tuple[str, str]] = Counter()
    oldest: dict[str, float] = {}
    for environment, _, waited_s in _jobs(store, signer, waiting):
        counts[environment, "waiting"] += 1
        oldest[environment] = max(oldest.get(environment, 0.0), waited_s)
    for environment, state, _ in _jobs(store, signer, [r for node in nodes for r in store.jobs_of(node.name)]):
        counts[environment, state] += 1
    return QueueNow(
        leader=store.leader(),
        slots=sum(report.slots for report in taking.values()),
        free_slots=sum(max(0, taking[node.name].slots - node.jobs) for node in nodes if node.name in taking),
        environments=tuple(
            EnvironmentNow(
                environment=name,
                waiting=counts[name, "waiting"],
                oldest_s=oldest.get(name),
                placed=counts[name, "placed"],
                running=counts[name, "running"],
                nodes=sum(name in report.environments for report in taking.values()),
            )
            for name in sorted({name for name, _ in counts}.union(*(report.environments for report in taking.values())))
        ),
    )


def _node(fields: NodeFields, signer: Signer, *, jobs: int) -> NodeNow:
    report = None
    if not fields.report:
        state, reason = "down", "it has never given a sign of life"
    else:
        try:
            report = NodeReport.from_json(signer.open(NodeReport.kind_of_signature, fields.report, _AT_MOST_BYTES))
            if report.name != fields.name:
                raise BadMessage(f"it is of {report.name!r}")
            state, reason = (report.state, report.reason) if fields.is_claimed else ("down", "no sign of life")
        except (BadSignature, BadMessage) as problem:
            report, state, reason = None, "down", f"its report is not believed: {problem}"
    return NodeNow(
        name=fields.name, state=state, reason=reason, want=fields.want, jobs=jobs, seen_s=fields.seen_s, report=report
    )


def _jobs(store: ClusterStore, signer: Signer, rs: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Environment, state, and seconds since it was accepted, of each job that has not ended."""
    now_s = store.time_s()
    for start in range(0, len(rs), _PIECE):
        for job in store.records(rs[start : start + _PIECE]):
            if job is not None and job.state != "done":
                yield _environment(job, signer), job.state, max(0.0, now_s - job.accepted) if job.accepted else 0.0


def _environment(job: JobFields, signer: Signer) -> str:
    try:
        return JobHeader.from_json(signer.open(JobHeader.kind_of_signature, job.header, _AT_MOST_BYTES)).needs.environment
    except (BadSignature, BadMessage):
        return UNKNOWN
