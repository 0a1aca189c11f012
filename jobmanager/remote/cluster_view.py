"""The nodes of a cluster, as one client sees them: what they can run, and whether a job could ever run on one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from jobmanager.errors import JobRefused, UnknownEnvironment, Unsatisfiable
from jobmanager.events import EnvironmentsChanged, HostDown, HostUp
from jobmanager.hooks import HookManager
from jobmanager.model.listings import HostInfo
from jobmanager.remote.records import SCHEMA, BadMessage, Needs, NodeReport
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import NodeFields
from jobmanager.scheduling.hosts import full_reference, no_network
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MAX_REPORT_BYTES = 4 * 2**20
_TYPE = "docker"  # of every environment so far


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenNode:
    """A node whose last report was signed with our key."""

    report: NodeReport
    reason: str  # why it takes no jobs now; empty when it does
    is_planned: bool = False  # somebody wants it to take none

    def could_run(self, needs: Needs) -> bool:
        """Whether it has what a job needs, when it takes jobs and nothing else runs there."""
        is_large_enough = needs.memory_mib <= self.report.memory_mib and needs.cpus <= self.report.cores
        return self.has_images(needs) and self.has_networks(needs) and is_large_enough

    def has_images(self, needs: Needs) -> bool:
        """Whether it has the environments of a job."""
        names, references = self.report.environments, set(map(full_reference, self.report.images))
        wanted = (needs.environment, *needs.other_environments)
        return all(each in names or full_reference(each) in references for each in wanted)

    def has_networks(self, needs: Needs) -> bool:
        """Whether it has the networks of a job; True while that is not known."""
        return self.report.networks is None or set(needs.networks) <= set(self.report.networks)

    def host_info(self) -> HostInfo:
        """As ``hosts()`` shows it."""
        report = self.report
        return HostInfo(
            name=report.name,
            url=report.machine,
            up=not self.reason,
            reason=self.reason,
            running=report.used,
            limit=report.slots,
            environments=report.environments,
            memory_mib=report.memory_mib,
            free_memory_mib=report.free_memory_mib,
        )


class ClusterView:
    """All nodes, as they were seen last. Thread-safe."""

    def __init__(
        self, signer: Signer, hooks: HookManager, *, silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``silent_s``: after so long a node is called silent, and for so long one is remembered that Redis does not know any more.

        When Redis has lost its data, its nodes come back one after the other: meanwhile no job is refused for what they have.
        """
        self._signer = signer
        self._hooks = hooks
        self._silent_s = silent_s
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._nodes: dict[str, SeenNode] = {}
        self._gone_since: dict[str, float] = {}  # by the names of nodes that Redis does not know any more
        self._unsigned: set[str] = set()
        self._was_filled = False

    def update(self, nodes: Iterable[NodeFields]) -> None:
        """Take in what Redis has of the nodes, and tell the hooks what has changed."""
        seen, unsigned = {}, set()
        for node in nodes:
            if not node.report:
                continue
            try:
                seen[node.name] = self._seen(node)
            except (BadSignature, BadMessage) as error:
                unsigned.add(node.name)
                if node.name not in self._unsigned:
                    _log.warning("what Redis has of node %s is not believed: %s", node.name, error)
        with self._lock:
            before = self._nodes
            seen |= self._gone({name: node for name, node in before.items() if name not in seen and name not in unsigned})
            self._nodes, self._unsigned = seen, unsigned
            is_first, self._was_filled = not self._was_filled, True
        if not is_first:
            self._tell(before, seen)

    def hosts(self) -> list[HostInfo]:
        """A record for each node."""
        return [node.host_info() for _, node in sorted(self._nodes.items())]

    def environments(self) -> dict[str, list[str]]:
        """What the nodes that take jobs can run, by environment type."""
        names = _environments(self._nodes)
        return {_TYPE: sorted(names)} if names else {}

    def address(self, node: str) -> str:
        """Where SSH sessions on a node can be reached."""
        seen = self._nodes.get(node)
        return "" if seen is None else seen.report.address or seen.report.machine

    def refusal(self, needs: Needs) -> JobRefused | None:
        """Why no node could ever run a job; None when one could, also one that is silent or drained now."""
        nodes = list(self._nodes.values())
        if nodes and all(node.report.newest_schema < SCHEMA for node in nodes):
            newest = max(node.report.newest_schema for node in nodes)
            return JobRefused(
                f"this client is newer than every node: it sends jobs in form {SCHEMA}, they read up to {newest}:"
                " upgrade the nodes first"
            )
        if any(node.could_run(needs) for node in nodes):
            return None
        if able := [node for node in nodes if node.has_images(needs)]:
            if not any(node.has_networks(needs) for node in able):
                known = {name for node in able for name in node.report.networks or ()}
                return Unsatisfiable(no_network("node", needs.networks, known))
            largest = max(node.report.memory_mib for node in able), max(node.report.cores for node in able)
            return Unsatisfiable(
                f"no node could ever run it: it asks for {needs.memory_mib} MiB and {needs.cpus:g} cpus, the largest node with its"
                f" environment has {largest[0]} MiB and {largest[1]} cores"
            )
        return UnknownEnvironment(self._unknown(needs, nodes))

    def _unknown(self, needs: Needs, nodes: list[SeenNode]) -> str:
        wanted = " together with ".join(map(repr, (needs.environment, *needs.other_environments)))
        where = f"no node of namespace {self._signer.namespace!r} has the environment or image {wanted}"
        if nodes:
            known = {name for node in nodes for name in (*node.report.environments, *node.report.images)}
            return f"{where}; known: {', '.join(sorted(known)) or 'none'}"
        if self._unsigned:
            return f"{where}: there are nodes, but none has signed with a key of ours; compare the keys of clients and workers"
        return f"{where}: no node was ever seen there; start one with `jobmanager worker`, or compare the namespace"

    def _gone(self, nodes: dict[str, SeenNode]) -> dict[str, SeenNode]:
        """Those that are remembered for now."""
        now = self._clock()
        self._gone_since = {name: self._gone_since.get(name, now) for name in nodes}
        return {
            name: replace(node, reason="it is gone")
            for name, node in nodes.items()
            if now - self._gone_since[name] < self._silent_s
        }

    def _seen(self, node: NodeFields) -> SeenNode:
        report = opened(self._signer, NodeReport, node.report, _MAX_REPORT_BYTES)
        if (report.name, report.incarnation) != (node.name, node.incarnation):
            raise BadMessage("it is another node's report")
        is_planned = node.is_claimed and (node.want != "up" or report.state == "draining")
        return SeenNode(report=report, reason=self._why_not(node, report), is_planned=is_planned)

    def _why_not(self, node: NodeFields, report: NodeReport) -> str:
        if not node.is_claimed:
            return f"it was not heard of for {self._silent_s:g} s, or has left"
        if node.want != "up":
            return {"drain": "it is being drained", "pause": "it is paused"}.get(node.want, "it takes no jobs")
        return "" if report.state == "up" else report.reason or f"it is {report.state}"

    def _tell(self, before: dict[str, SeenNode], now: dict[str, SeenNode]) -> None:
        was_up, is_up = ({name for name, node in nodes.items() if not node.reason} for nodes in (before, now))
        for name in sorted(is_up - was_up):
            if name in before:
                level = logging.INFO if before[name].is_planned else logging.WARNING  # as when it went
                _log.log(level, "node %s is up again", name, extra={"host": name})
            self._hooks.fire(HostUp(at_s=time.time(), host=name))
        for name in sorted(was_up - is_up):
            reason = now[name].reason if name in now else "it is gone"
            if name in now and now[name].is_planned:
                _log.info("node %s takes no more jobs: %s", name, reason, extra={"host": name})
            else:
                _log.warning("node %s is down: %s", name, reason, extra={"host": name})
            self._hooks.fire(HostDown(at_s=time.time(), host=name, reason=reason))
        if (names := _environments(now)) != _environments(before):
            self._hooks.fire(EnvironmentsChanged(at_s=time.time(), environments=tuple(sorted(names))))


def _environments(nodes: dict[str, SeenNode]) -> set[str]:
    return {name for node in nodes.values() if not node.reason for name in node.report.environments}
