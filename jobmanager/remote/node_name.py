"""``NodeName``: a name that one worker has at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from jobmanager.errors import InvalidValue
from jobmanager.remote.intake import NodeIdentity
from jobmanager.remote.records import BadMessage, NodeReport
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore, NodeFields
from jobmanager.remote.timeouts import ClusterTimeouts

_MAX_REPORT_BYTES = 4 * 2**20
_MAX_LOOK_S = 1.0


class NodeName:
    """The lock of a node's name. Its signs of life renew it (``beats.py``)."""

    def __init__(self, store: ClusterStore, signer: Signer, node: NodeIdentity, timeouts: ClusterTimeouts) -> None:
        self._store = store
        self._signer = signer
        self._node = node
        self._timeouts = timeouts

    def claim(self, wait: Callable[[float], None], is_interrupted: Callable[[], bool]) -> bool:
        """Take it. That of a worker that has died is free after a while; one that lives shows it by its beats.

        Returns:
            False: interrupted.

        Raises:
            InvalidValue: another worker has it.
        """
        until = time.monotonic() + self._timeouts.suspect_s + self._timeouts.beat_s
        beats_before = self._beats(self._holder())
        while self._store.claim_node(self._node.name, self._node.incarnation):
            holder = self._holder()
            if self._beats(holder) != beats_before or time.monotonic() > until:
                raise InvalidValue(
                    f"another worker has the name {self._node.name}: {self._where(holder)}. Give this one another --name"
                )
            if is_interrupted():
                return False
            wait(min(self._timeouts.beat_s / 2, _MAX_LOOK_S))
        return True

    def release(self) -> None:
        """Give it up, if Redis can be reached."""
        with suppress(RedisError):
            self._store.release_node(self._node.name, self._node.incarnation)

    def _holder(self) -> NodeFields | None:
        return next((node for node in self._store.nodes() if node.name == self._node.name), None)

    @staticmethod
    def _beats(holder: NodeFields | None) -> int:
        return 0 if holder is None else holder.beats

    def _where(self, holder: NodeFields | None) -> str:
        if holder is not None:
            with suppress(BadSignature, BadMessage):
                report = opened(self._signer, NodeReport, holder.report, _MAX_REPORT_BYTES)
                return f"process {report.pid} on {report.machine}"
        return "it has not said where it runs"
