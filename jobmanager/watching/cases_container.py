"""A container that has cases, between its runs: connected, its workspace kept, and cleared of what a run has left."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError, NoSuchContainer, Unreachable
from jobmanager.ipc.messages import CasePlan, MonitorContainer
from jobmanager.model.result import Outcome
from jobmanager.results.facts import (
    Cause,
    ContainerEnded,
    Ending,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    RemovedExternally,
    RunCutOff,
    RunFacts,
)
from jobmanager.results.verdict import died_of_memory
from jobmanager.runner.frames import Clear, Cleared, DownMessage, Keep, Kept, UpMessage
from jobmanager.runner.place import SHM
from jobmanager.watching.connection import ContainerOver, RunnerConnection
from jobmanager.watching.inspector import ContainerInspector, HostLost
from jobmanager.watching.partner import NotClean
from jobmanager.watching.run_order import RUN, file_messages
from jobmanager.watching.runner_link import RunnerLink

__all__ = ["DIED_OF_CASE", "CannotKeep", "CasesContainer", "NoMoreRuns"]

_log = logging.getLogger(__name__)

DIED_OF_CASE = "it died of the case before"
_TURN_S = 1.0
_FIRST_ANSWER_S = 60.0  # for a runner's first word to a waiter that takes over
_LEAST_CLEARING_S = 1.0
_BESIDE_KEPT_MIB = 4  # what is kept is in memory twice: as files, and as what they are put back from
_TOO_LONG = "clearing it takes too long"


class NoMoreRuns(Exception):
    """Neither the program nor its traces are why nothing more is run."""

    def __init__(self, ending: Ending) -> None:
        super().__init__()
        self.ending = ending


class CannotKeep(Exception):
    """What its cases are to begin with is too much to be put back for each of them: another container would not help."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class CasesContainer:
    """For the thread of a ``CasesMonitor``.

    Every method that speaks with the container raises ``NoMoreRuns``, or ``NotClean`` where another container may go on.
    """

    def __init__(
        self,
        job: MonitorContainer,
        plan: CasePlan,
        engine: Engine,
        *,
        link: RunnerLink,
        inspector: ContainerInspector,
        give_up: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._job = job
        self._plan = plan
        self._engine = engine
        self._link = link
        self._give_up = give_up
        self._clock = clock
        self._connection = RunnerConnection(
            job, engine, link, inspector, number=RUN, is_first=False, give_up=give_up, clock=clock
        )
        self._has_connected = False
        self._requests = 0
        self._clearing_left_s = plan.clearing_s
        self.places = (job.workspace, "/tmp", SHM)
        self.has_begun = job.taken_over  # whether any run may have been started in it
        self.is_kept = False  # whether the runner has what the cases begin with
        self.has_its_limits = not plan.changes_limits(job.limits)

    @property
    def clearing_s(self) -> float:
        """For how long clearing it may take now."""
        return max(_LEAST_CLEARING_S, self._clearing_left_s)

    def count_run(self, facts: RunFacts, *, was_cleared: bool, has_started: bool, beside_s: float) -> None:
        """A run has ended, and took so long beside its program. Raises NotClean: it did not start, since clearing took too long."""
        self.has_begun = self.has_begun or not isinstance(facts.ending, JobNotSent)
        if not was_cleared:
            return
        self._clearing_left_s -= max(0.0, beside_s)
        if not has_started and isinstance(facts.ending, RunCutOff) and self._clearing_left_s <= 0:
            raise NotClean(_TOO_LONG)

    # ---- connected

    def connect(self) -> None:
        """Have a connection with its runner."""
        if self._link.is_open:
            return
        if not self.has_begun and not self._has_connected:
            self._connect_at_first()
        try:
            while not self._link.is_open:
                self.give_up_if_killed()
                self._connection.connect()
        except ContainerOver as over:
            if self.has_begun and died_of_memory(over.state):
                raise NotClean(DIED_OF_CASE) from over
            gone = over.state is not None and over.state.in_removal
            raise self.cut_off(RemovedExternally() if gone else ContainerEnded(container=over.state)) from over
        except NoSuchContainer as error:
            raise self.cut_off(RemovedExternally()) from error
        except HostLost as error:
            raise self.cut_off(HostGivenUp()) from error
        except EngineError as error:
            raise self.cut_off(InfrastructureFailure(reason=f"the engine refused to go on with it: {error}")) from error

    def _connect_at_first(self) -> None:
        """Nobody has spoken to this runner. Where that does not succeed now, it is tried as after any lost connection."""
        self._has_connected = True
        try:
            self._link.connect()
        except Unreachable as error:
            raise NoMoreRuns(JobNotSent(cause=EngineUnreachable(reason=str(error)))) from error
        except EngineError as error:
            _log.debug("container %s cannot be attached to: %s", self._job.container_name, error)

    def stay_connected(self) -> None:
        """Its runner leaves when it hears nothing for long."""
        self.connect()
        arrived = self._link.receive(0.0) or []  # where there was something, nothing was read
        self._link.give_back([*arrived, *((self._link.receive(0.0) or []) if arrived else [])])

    def give_up_if_killed(self) -> None:
        """Raises NoMoreRuns: somebody has killed it."""
        if self._give_up.is_set():
            raise self.cut_off(ContainerEnded())

    def cut_off(self, cause: Cause) -> NoMoreRuns:
        """Why nothing more is run in it."""
        return NoMoreRuns(RunCutOff(cause=cause) if self.has_begun else JobNotSent(cause=cause))

    # ---- taken over

    def has_built(self) -> bool:
        """Whether the runner of an earlier waiter had come to the cases."""
        arrived, until = list[UpMessage](), self._clock() + _FIRST_ANSWER_S
        while self._link.status is None:
            self._wait_for_first_answer(until)
            arrived += self._link.receive(_TURN_S) or []
        self._link.give_back(arrived)
        return self._link.status.run > RUN

    def is_taken(self, number: int) -> bool:
        """Whether the runner has taken this run, or a later one, of an earlier waiter."""
        self._link.drop_before(number)
        until = self._clock() + _FIRST_ANSWER_S
        while self._link.status is None and not self._link.has_more:
            self._wait_for_first_answer(until)
            self._link.give_back(self._link.receive(_TURN_S) or [])
            self._link.drop_before(number)
        taken = 0 if self._link.status is None else self._link.status.run
        self.is_kept = self.is_kept or taken > RUN
        return self._link.has_more or taken >= number

    def _wait_for_first_answer(self, until: float) -> None:
        self.give_up_if_killed()
        if self._clock() > until:
            raise self.cut_off(InfrastructureFailure(reason="its runner does not answer"))
        self.connect()

    # ---- made ready for a case

    def keep(self) -> None:
        """Have the runner keep what the cases begin with, unless it has. Raises CannotKeep, too."""
        if self.is_kept:
            return
        if self._plan.build is None:
            self.connect()
            self._link.send(*file_messages(self._job, made_at_s=self._made_at_s()))
        most = (self._job.limits.memory_mib - _BESIDE_KEPT_MIB) * 2**20 // 2
        kept = self._ask(lambda number: Keep(request=number, path=self._job.workspace.encode(), most=most))
        assert isinstance(kept, Kept)
        if kept.errno == errno.EFBIG:
            much = f"more than half of the memory limit of {self._job.limits.memory_mib} MiB, and each case needs it anew"
            raise CannotKeep(Outcome.OVERFLOW, f"what its cases begin with takes {much}")
        if kept.errno == errno.E2BIG:
            many = "more than 100,000 files, or folders more than 64 deep"
            raise CannotKeep(Outcome.OVERFLOW, f"what its cases begin with has {many}, and each case needs it anew")
        if kept.errno:
            raise NotClean(f"what its cases begin with cannot be kept (errno {kept.errno})")
        self.is_kept = True

    def set_limits(self) -> None:
        """From those of the build to those of the cases. A container that is taken over may have them already: again then."""
        try:
            self._engine.set_limits(self._job.container_id, self._job.limits)
        except NoSuchContainer as error:
            raise self.cut_off(RemovedExternally()) from error
        except Unreachable as error:
            raise self.cut_off(InfrastructureFailure(reason=f"its limits could not be set: {error}")) from error
        except EngineError as error:
            raise NotClean(f"what the build has left does not fit into the limits of a case: {error}") from error
        self.has_its_limits = True

    def clear(self) -> None:
        """Clear it of what the run before has left, and put back what was kept."""
        places = tuple(place.encode() for place in self.places)
        cleared = self._ask(lambda number: Clear(request=number, put_back=True, places=places))
        assert isinstance(cleared, Cleared)
        if not cleared.clean:
            raise NotClean(cleared.why.decode("utf-8", "replace"))

    def _made_at_s(self) -> float:
        try:
            return self._engine.inspect(self._job.container_id).started_at_s
        except EngineError:
            return time.time()

    def _ask(self, request: Callable[[int], DownMessage]) -> Kept | Cleared:
        """The answer; asked again over a new connection where one is lost."""
        began = self._clock()
        until = began + self._clearing_left_s
        try:
            while self._clock() < until:
                self.give_up_if_killed()
                self.connect()
                self._requests += 1
                self._link.send(request(self._requests))
                answer = self._answer(until)
                if answer is not None:
                    return answer
        finally:
            self._clearing_left_s -= self._clock() - began
        raise NotClean(_TOO_LONG)

    def _answer(self, until: float) -> Kept | Cleared | None:
        while self._link.is_open and self._clock() < until and not self._give_up.is_set():
            for message in self._link.receive(min(_TURN_S, max(0.0, until - self._clock()))) or ():
                if isinstance(message, (Kept, Cleared)) and message.request == self._requests:
                    return message
        return None
