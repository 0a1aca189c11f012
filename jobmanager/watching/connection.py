"""How a monitor comes to its runner, and comes back to it: a connection that is lost is made again, one that is silent is tried."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from jobmanager.engine.protocol import Engine, NotRunning, Refused, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.runner.frames import DownMessage
from jobmanager.watching.inspector import ContainerInspector
from jobmanager.watching.run_order import run_messages
from jobmanager.watching.runner_link import RunnerLink

_log = logging.getLogger(__name__)

_RETRY_S = 0.1
_STATUS_S = 5.0  # for a runner's first word on a new connection
_SILENCE_S = 10.0  # after which a runner is asked whether it lives
_SETTLED_S = 1.0  # a connection that has lasted so long


class UnreachableBeforeStart(Exception):
    """The engine could not be reached before the job was sent: another host can run it at once."""


class ContainerOver(Exception):
    """The container has ended, and all that its runner said was read."""

    def __init__(self, state: ContainerInfo | None) -> None:
        super().__init__()
        self.state = state


class RunnerConnection:
    """Keeps one container's link connected. One thread uses it.

    Args:
        number: of the run.
        is_first: nobody has spoken to this runner, so that the run can be sent ahead.
        give_up: set when the run is to be killed: nothing more is sent ahead, and no pause holds that up.
    """

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        link: RunnerLink,
        inspector: ContainerInspector,
        *,
        number: int,
        is_first: bool,
        give_up: threading.Event,
        clock: Callable[[], float],
        was_sent_ahead: bool = False,
    ) -> None:
        self.was_sent_ahead = was_sent_ahead  # the run, in this session and before its STATUS, or while the run before went on
        self.survived_outage_s = 0.0  # after so much of outages the container was seen alive
        self._job = job
        self._engine = engine
        self._link = link
        self._inspector = inspector
        self._number = number
        self._is_first = is_first
        self._give_up = give_up
        self._clock = clock
        self._connected_at: float | None = None
        self._began_at_s = 0.0  # when the container was started, by the engine's clock; 0: not known

    @property
    def age_s(self) -> float:
        """Seconds since the connection was made, or last tried."""
        return 0.0 if self._connected_at is None else self._clock() - self._connected_at

    def connect(self) -> None:
        """Connect; where that does not succeed now, the link stays closed, and the caller tries again.

        Raises:
            UnreachableBeforeStart: nobody has connected before, and the engine does not answer.
            ContainerOver, NoSuchContainer, HostLost: there is nothing to connect to any more.
        """
        is_first = self._connected_at is None and self._is_first
        try:
            if is_first:
                self._connect_at_first()
            else:
                self._look()
                self.was_sent_ahead = False
                self._link.connect()
            self._connected_at = self._clock()
        except Unreachable as error:
            if is_first:
                raise UnreachableBeforeStart(str(error)) from error
            self._connected_at = self._clock()  # so that there is a pause, should the engine answer all but this
        except (NotRunning, Refused) as error:  # it has just ended, or somebody has paused it
            _log.debug("container %s cannot be attached to: %s", self._job.container_name, error)
            self._connected_at = self._clock() if self._connected_at is None else self._connected_at
            self._give_up.wait(_RETRY_S)

    def run_messages(self) -> Iterator[DownMessage]:
        """The files and the run."""
        return run_messages(self._job, made_at_s=self._began_at_s or time.time(), number=self._number)

    def ping(self) -> None:
        """Ask the runner whether it lives."""
        self._connected_at = self._clock()
        self.was_sent_ahead = False  # what a runner has not begun by then, it forgets with the next session
        self._link.ping()

    def is_dead(self) -> bool:
        """Whether nothing has come on it for so long that the runner is to be asked, or another connection to be made."""
        if not self._link.is_open:
            return False
        return self.age_s > _STATUS_S if self._link.status is None else self._link.silent_s > _SILENCE_S

    def try_it(self) -> None:
        """One on which nothing comes: ask the runner, or close it where it has been asked."""
        if self._link.status is None:
            self._link.close()
        else:
            self.ping()

    def _connect_at_first(self) -> None:
        """Nobody has spoken to this runner: it is given the run at once, and its first ``STATUS`` only confirms that it lives."""
        if self._give_up.is_set():
            self._link.connect()
            return
        self._began_at_s = self._start_by_the_engines_clock()
        self._link.connect(*self.run_messages())
        self.was_sent_ahead = True

    def _start_by_the_engines_clock(self) -> float:
        """When the container was started; 0 where no file has a time that a program could compare."""
        if not self._job.files and self._job.grading is None:
            return 0.0
        return self._engine.inspect(self._job.container_id).started_at_s

    def _look(self) -> None:
        """Whether the container is still there; an engine that does not answer is waited for."""
        self._engine.close()  # an engine that is being shut down still answers on old connections, and takes no new ones
        outage_before = self._inspector.outage_s
        state = self._inspector.inspect()
        if state.status is ContainerStatus.ENDED:
            raise ContainerOver(state)
        if self._inspector.outage_s > outage_before:
            self.survived_outage_s = self._inspector.outage_s
        elif self.age_s < _SETTLED_S:
            self._give_up.wait(_RETRY_S)  # an engine that drops each connection at once is not asked without a pause
