"""The simulated world of ``dev.queue_simulation`` with a cluster's ledger in it: hosts are nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from dev.queue_simulation import FOR_EVER_S, MEMORY_MIB, PYTHON, Clock, QueueSimulation
from jobmanager.model.container import Image
from jobmanager.scheduling.cluster import ClusterJob, ClusterLedger, Ending, NodeCapacity
from jobmanager.scheduling.waiting_queue import Requirements, rounded_up


def node(name: str, slots: int = 1, *images: Image, **more: object) -> NodeCapacity:
    """A node that is up, with PYTHON unless other images are given."""
    images = images or (PYTHON,)
    given = {
        "memory_mib": MEMORY_MIB,
        "cores": 4,
        "environments": frozenset(image.labels["jobmanager.environment"] for image in images),
        "images": frozenset(reference for image in images for reference in image.references),
    }
    return NodeCapacity(name=name, slots=slots, **{**given, **more})


def cluster_job(
    key: str,
    *,
    launcher: str = "ann",
    priority: int = 0,
    environment: str = "python3",
    kind: str = "some",
    memory_mib: int = 64,
    wall_s: float = 100.0,
    cpus: float = 1.0,
    supersede_key: str | None = None,
    queue_timeout_s: float = FOR_EVER_S,
    client: str = "web",
    retries: int = 0,
) -> ClusterJob:
    """A job whose id is its key."""
    requirements = Requirements(
        environment=environment, memory_mib=memory_mib, cpus=cpus, ends_within_s=rounded_up(wall_s)
    )
    return ClusterJob(
        key=key,
        job_id=key,
        client=client,
        launcher=launcher,
        priority=priority,
        title=kind,
        job_class=kind,
        requirements=requirements,
        wall_s=wall_s,
        retries=retries,
        supersede_key=supersede_key,
        queue_timeout_s=queue_timeout_s,
    )


class ClusterSimulation(QueueSimulation):
    """Nodes say what they have once a second when ``talk`` is called; jobs run there as told."""

    def __init__(self, hosts: Mapping[str, int], images: Mapping[str, Sequence[Image]] | None = None) -> None:
        clock = Clock()
        super().__init__(ClusterLedger(clock, clock.wall), clock)
        self.endings: list[Ending] = []
        for name, slots in hosts.items():
            self.ledger.set_node(node(name, slots, *(images or {}).get(name, (PYTHON,))))

    def job(self, job_id: str, takes_s: float = 1.0, *, kind: str = "", wall_time_s: float = 100, **more) -> None:
        self.takes_s[job_id] = takes_s
        self.accepted[job_id] = self.now
        job = cluster_job(job_id, kind=kind or f"takes {takes_s:g}", wall_s=wall_time_s, **more)
        if (ending := self.ledger.add_waiting(job)) is not None:
            self.endings.append(ending)
            self.ended[ending.key] = self.now

    def kill(self, job_id: str) -> None:
        """A client kills a job that waits."""
        if not self.ledger.node_of(job_id):
            self.ledger.ended(job_id, ran=False)

    def carry_out(self) -> None:
        for key, name in self.ledger.placements():
            self.started[key], self.host[key] = self.now, name
            self.at(self.now + self.takes_s[key], partial(self._end, key))

    def _end(self, key: str) -> None:
        self.ledger.ended(key, ran=True)
        self.ended[key] = self.now
