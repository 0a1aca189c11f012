"""The nodes, as the leader sees them: what they have, whether they live, and whose jobs are lost.

A node lives while its count of beats grows. When it grew last is told by this process's own clock, never by two clocks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobmanager.remote.records import SCHEMA, BadMessage, NodeReport
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import NodeFields
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.scheduling.cluster import NodeCapacity

_LOG = logging.getLogger(__name__)
_MAX_REPORT_BYTES = 4 * 2**20
_REASONS = {"drain": "drained", "pause": "paused"}


@dataclass(slots=True)
class _WatchedNode:
    heard_at: float  # when its beats grew last, or when it was first looked for
    beats: int = -1
    envelope: str = ""  # of the report
    report: NodeReport | None = None  # None: there is none that can be believed
    is_claimed: bool = False
    want: str = "up"
    refused_at: int = -2  # its beats when Redis took no placement for it, or it gave a job back


class NodeWatch:
    """All nodes that were ever seen in this term, or that have jobs."""

    def __init__(self, signer: Signer, timeouts: ClusterTimeouts, clock: Callable[[], float] = time.monotonic) -> None:
        self._signer = signer
        self._timeouts = timeouts
        self._clock = clock
        self._nodes: dict[str, _WatchedNode] = {}

    def update(self, nodes: Iterable[NodeFields]) -> None:
        """What Redis has of them now."""
        now, seen = self._clock(), set()
        for fields in nodes:
            seen.add(fields.name)
            node = self._nodes.setdefault(fields.name, _WatchedNode(now))
            if fields.beats != node.beats:
                node.heard_at = now
            node.beats, node.is_claimed, node.want = fields.beats, fields.is_claimed, fields.want
            if fields.report != node.envelope:
                node.envelope, node.report = fields.report, self._read(fields)
        for name in self._nodes.keys() - seen:  # its jobs are lost once its time is over
            self._nodes[name].is_claimed, self._nodes[name].report, self._nodes[name].envelope = False, None, ""

    def capacities(self) -> list[NodeCapacity]:
        """What they have, of those whose reports can be believed, and whether they are given jobs."""
        return [_capacity(report, self._reason(node)) for node in self._nodes.values() if (report := node.report) is not None]

    def incarnation(self, name: str) -> str:
        """The present one of a node; empty when it is unknown."""
        node = self._nodes.get(name)
        return "" if node is None or node.report is None else node.report.incarnation

    def refused(self, name: str) -> None:
        """Redis has taken no placement for it, or it gave a job back: it gets none until its next beat."""
        node = self._nodes.get(name)
        if node is not None:
            node.refused_at = node.beats

    def why_lost(self, name: str, incarnation: str) -> str:
        """Why the jobs of a node's incarnation will never end there; empty when they may."""
        node = self._nodes.setdefault(name, _WatchedNode(self._clock()))
        if incarnation and node.report is not None and node.is_claimed and node.report.incarnation != incarnation:
            return f"its node {name} was started again"
        if self._clock() - node.heard_at >= self._timeouts.node_lost_s:
            return f"its node {name} was not heard of for {self._timeouts.node_lost_s:g} s"
        return ""

    def _reason(self, node: _WatchedNode) -> str:
        """Why it is given no jobs; empty when it is."""
        report = node.report
        assert report is not None
        if not node.is_claimed or node.refused_at == node.beats or self._clock() - node.heard_at >= self._timeouts.suspect_s:
            return "silent"
        if node.want != "up":
            return _REASONS.get(node.want, "it takes no jobs")
        if report.state != "up":
            return report.reason or report.state
        if not report.oldest_schema <= SCHEMA <= report.newest_schema:
            return f"another version: it reads jobs of form {report.oldest_schema} to {report.newest_schema}"
        return ""

    def _read(self, fields: NodeFields) -> NodeReport | None:
        if not fields.report:
            return None
        try:
            report = NodeReport.from_json(self._signer.open(NodeReport.kind_of_signature, fields.report, _MAX_REPORT_BYTES))
        except (BadSignature, BadMessage) as error:
            _LOG.warning("node %s is given no jobs, as its report is not believed: %s", fields.name, error)
            return None
        if (report.name, report.incarnation) != (fields.name, fields.incarnation) or min(report.slots, report.memory_mib) < 0:
            _LOG.warning("node %s is given no jobs: its report is another node's, or makes no sense", fields.name)
            return None
        return report


def _capacity(report: NodeReport, reason: str) -> NodeCapacity:
    return NodeCapacity(
        name=report.name,
        slots=report.slots,
        memory_mib=report.memory_mib,
        free_memory_mib=report.free_memory_mib,
        cores=report.cores,
        environments=frozenset(report.environments),
        images=frozenset(report.images),
        networks=None if report.networks is None else frozenset(report.networks),
        takes_jobs=not reason,
        reason=reason,
    )
