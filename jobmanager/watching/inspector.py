"""The inspector of one container: its state, asked for again while the engine cannot be reached."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError, NoSuchContainer, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerInfo, ContainerStatus

_log = logging.getLogger(__name__)

_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class HostLost(Exception):
    """The engine could not be reached for too long."""


class ContainerInspector:
    """Belongs to one monitor, and runs in its thread. Once ``give_up`` is set, an unreachable engine is not waited for."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        give_up: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self.outage_s = 0.0  # how long the engine could not be reached
        self._job = job
        self._engine = engine
        self._host_lost_timeout_s = host_lost_timeout_s
        self._give_up = give_up
        self._clock = clock

    def inspect(self) -> ContainerInfo:
        """The container's state; an unreachable engine is asked again until ``host_lost_timeout_s``, then raises HostLost."""
        began, tries = self._clock(), 0
        while True:
            try:
                state = self._inspect_once()
            except Unreachable as error:
                waited_s = self._clock() - began
                if tries == 0:  # the manager says once that the host is down, for all its jobs
                    _log.debug("host of job %s cannot be reached: %s", self._job.job_id, error)
                if waited_s > self._host_lost_timeout_s:
                    self.outage_s += waited_s
                    raise HostLost from error
                if self._give_up.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)]):
                    raise HostLost from error
                tries += 1
                continue
            if tries:
                self.outage_s += max(0.001, self._clock() - began)
            return state

    def _inspect_once(self) -> ContainerInfo:
        """One call. Another engine at the same address counts as an unreachable one."""
        try:
            return self._engine.inspect(self._job.container_id)
        except NoSuchContainer:
            found = self._engine.info().engine_id if self._job.engine_id else ""
            if found and found != self._job.engine_id:
                raise Unreachable("another engine answers in its place") from None
            return self._engine.inspect(self._job.container_id)  # the first answer may be another engine's, which has just left

    def is_paused_externally(self) -> bool:
        """Whether somebody else has paused it. An earlier waiter reports ``LimitReached`` before it pauses."""
        try:
            return self._job.limit_hit is None and self._engine.inspect(self._job.container_id).status is ContainerStatus.PAUSED
        except EngineError:
            return False

    def was_restarted(self, state: ContainerInfo, *, first_start_s: float, followed_s: float) -> bool:
        """Whether the container was restarted: then its PID 1 has no job.

        Where an earlier waiter sent the job (``first_start_s`` is 0), the engine's clock tells how long it has run, which is
        compared with how long it has been followed.
        """
        if first_start_s:
            return state.started_at_s != first_start_s
        try:
            return state.started_at_s > 0 and self._engine.info().now_s - state.started_at_s < followed_s
        except Unreachable:
            return False
