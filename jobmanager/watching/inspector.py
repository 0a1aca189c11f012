"""Looks at one container: what an engine says of it, with patience for an engine that is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError, NoSuchContainer, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerState, Phase

_log = logging.getLogger(__name__)

_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class HostLost(Exception):
    """The engine could not be reached for too long."""


class Looks:
    """Looks of one watch, in its thread. ``hurry``: somebody wants an end, and there is no more waiting."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        hurry: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self.outage_s = 0.0  # how long the engine was away
        self._job = job
        self._engine = engine
        self._host_lost_timeout_s = host_lost_timeout_s
        self._hurry = hurry
        self._clock = clock

    def state(self) -> ContainerState:
        """The container's state; an engine that cannot be reached is asked again until it is given up."""
        began, tries = self._clock(), 0
        while True:
            try:
                state = self._look()
            except Unreachable as error:
                waited_s = self._clock() - began
                if tries == 0:
                    _log.warning("host of job %s cannot be reached: %s", self._job.job_id, error)
                if waited_s > self._host_lost_timeout_s:
                    self.outage_s += waited_s
                    raise HostLost from error
                if self._hurry.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)]):
                    raise HostLost from error
                tries += 1
                continue
            if tries:
                self.outage_s += max(0.001, self._clock() - began)
            return state

    def _look(self) -> ContainerState:
        """One look. Where another engine has taken the place of the container's own, that one is away."""
        try:
            return self._engine.inspect(self._job.container_id)
        except NoSuchContainer:
            found = self._engine.info().engine_id if self._job.engine_id else ""
            if found and found != self._job.engine_id:
                raise Unreachable("another engine answers in its place") from None
            raise

    def has_ended(self) -> bool:
        """Whether what was read of it is nothing: an engine shows the workspace of one that has ended as an empty folder."""
        try:
            return self._engine.inspect(self._job.container_id).phase is Phase.ENDED
        except NoSuchContainer:
            return True
        except EngineError:  # it has only just given the files
            return False

    def is_still_there(self) -> bool:
        """Whether the container has not ended; an engine that is away is waited for."""
        try:
            return self.state().phase is not Phase.ENDED
        except (EngineError, HostLost):
            return False

    def is_frozen_by_somebody_else(self) -> bool:
        """Whether it stood still already: not by an earlier waiter's hand, as that leaves word first."""
        try:
            return self._job.stopped is None and self._engine.inspect(self._job.container_id).phase is Phase.PAUSED
        except EngineError:
            return False

    def was_restarted(self, state: ContainerState, *, first_start_s: float, followed_s: float) -> bool:
        """Whether it was started again since, as then its PID 1 knows of no job.

        One that an earlier waiter had (``first_start_s`` is 0) is compared with how long it has been followed, by the
        engine's own clock.
        """
        if first_start_s:
            return state.started_at_s != first_start_s
        try:
            return state.started_at_s > 0 and self._engine.info().now_s - state.started_at_s < followed_s
        except Unreachable:
            return False
