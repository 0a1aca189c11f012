"""``Beats``: a node's signs of life, and what it does about the answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from redis.exceptions import RedisError

from jobmanager.remote.intake import NodeIdentity
from jobmanager.remote.node_jobs import NodeJobs
from jobmanager.remote.store import Beat, ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_JOIN_S = 5.0


class HearsBeats(Protocol):
    """The node, as its beats see it."""

    def report(self) -> str:
        """What it says of itself, signed."""

    def answered(self, beat: Beat) -> None:
        """Redis has answered."""

    def name_lost(self) -> None:
        """Another worker has its name."""

    def cut_off(self) -> None:
        """Redis was not reached for so long that its jobs are given up elsewhere."""

    def data_lost(self) -> None:
        """Redis has lost data, or may have."""


class Beats:
    """The thread. The time without an answer is measured by this process's own clock, from before the last call that had one."""

    def __init__(
        self,
        store: ClusterStore,
        node: NodeIdentity,
        jobs: NodeJobs,
        timeouts: ClusterTimeouts,
        listener: HearsBeats,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._node = node
        self._jobs = jobs
        self._timeouts = timeouts
        self._listener = listener
        self._clock = clock
        self._last_answer: float | None = None  # there was none to miss
        self._is_silent = False
        self._is_cut_off = False
        self._life: tuple[str, str] | None = None  # of Redis
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jobmanager-beats", daemon=True)

    def start(self) -> None:
        """Give signs of life from now on."""
        self._thread.start()

    def close(self) -> None:
        """Give no more."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def soon(self) -> None:
        """Something has changed that others should know."""
        self._wake.set()

    def give(self) -> None:
        """One sign of life."""
        now = self._clock()
        self._look_at_clock(now)
        try:
            beat = self._store.beat(self._node.name, self._node.incarnation, self._listener.report(), self._jobs.held())
            life = self._store.life()
        except RedisError as error:
            self._went_silent(error)
            return
        if not beat.is_owner:
            self._listener.name_lost()
            return
        self._heard(now)
        try:
            self._act_on(beat, life)
        except RedisError as error:
            _log.debug("what a beat asks for is done after the next one: %s", error)

    def _act_on(self, beat: Beat, life: tuple[str, str]) -> None:
        if self._life not in (None, life):
            _log.warning("Redis was started again, or has lost its data: results that it had not long ago are sent again")
            self._listener.data_lost()
        self._life = life
        self._listener.answered(beat)

    def _run(self) -> None:
        while not self._closing:
            try:
                self.give()
            except Exception:  # noqa: BLE001 - the thread's edge: a node without beats is lost
                _log.exception("a sign of life failed")
            self._wake.wait(self._timeouts.beat_s)
            self._wake.clear()

    def _look_at_clock(self, now: float) -> None:
        silent_s = 0.0 if self._last_answer is None else now - self._last_answer
        if silent_s >= self._timeouts.node_lost_s and not self._is_cut_off:
            self._is_cut_off = True
            _log.error("Redis was not reached for %.0f s: all jobs of this node are given up", silent_s)
            self._listener.cut_off()

    def _went_silent(self, error: RedisError) -> None:
        if not self._is_silent:
            _log.warning("Redis does not answer, and is tried again: %s", error)
        self._is_silent = True

    def _heard(self, now: float) -> None:
        if self._is_silent:
            _log.warning("Redis answers again")
        self._is_silent = self._is_cut_off = False
        self._last_answer = now
