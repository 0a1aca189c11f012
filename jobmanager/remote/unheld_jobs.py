"""``UnheldJobs``: jobs that a node should have, by their records, and does not."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.remote.intake import crash
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.node_results import NodeResults
from jobmanager.remote.records import BadMessage, JobHeader
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_STRAY_BEATS = 3  # a placed job that was not taken for so many beats is looked for by its R


class UnheldJobs:
    """What each sign of life says of them, and what is done.

    One that was placed is in the queue, mostly; RQ's list may have been lost. One that is running was given up when Redis was
    away for too long, or has ended, and Redis has lost that.

    Args:
        look_for: has a placed job taken, which is in no list.
        has_room: whether the node takes a job now.
    """

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        node: str,
        jobs: NodeJobs,
        results: NodeResults,
        *,
        look_for: Callable[[str], None],
        has_room: Callable[[], bool],
    ) -> None:
        self._store = store
        self._signer = signer
        self._node = node
        self._jobs = jobs
        self._results = results
        self._look_for = look_for
        self._has_room = has_room
        self._beats: dict[str, int] = {}  # by R: for how many it is not held

    def told(self, unheld: tuple[tuple[str, str, str], ...]) -> None:
        """R, state and token of each, as the last sign of life has shown them. Raises redis' errors."""
        before = self._beats
        self._beats = {r: before.get(r, 0) + 1 for r, _, _ in unheld}
        for r, state, token in unheld:
            if self._jobs.find(r) is not None or self._results.outbox.say_again(r):
                continue
            if state != "placed":
                self._give_up(r, token)
            elif self._beats[r] >= _STRAY_BEATS and self._has_room():
                self._look_for(r)

    def _give_up(self, r: str, token: str) -> None:
        """It ran here, and does not any more."""
        fields = self._store.record(r)
        if fields is None or fields.token != token:
            return
        try:
            header = opened(self._signer, JobHeader, fields.header)
            if header.r != r:
                raise BadMessage("its header is that of another job")
        except (BadSignature, BadMessage) as reason:
            _log.warning("a job that this node does not have cannot be ended: %s", reason, extra={"r": r})
            return
        why = f"its node {self._node} was cut off, and gave it up"
        if fields.runs <= header.retries:
            self._store.count_runs(r, token=token, runs=fields.runs + 1)  # `back` takes one off: that is for jobs that were not run
            self._store.back(r, token=token, reason=why, exclude=False)
        else:
            lost = HeldJob(header=header, token=token)
            self._results.send(lost, crash(lost, why, "node_lost"))
