"""One student container, on its way through the table of every container (``model/container_states.py``).

Its owner is a grading container. It needs no ledger: a thread of its own starts it, follows it and removes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from jobmanager._deleter import delete
from jobmanager._submitter import submit
from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import ContainerRemoved, ContainerStarted, GradingSettings, MonitorContainer, StartFailed
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER, ContainerSpec, ContainerStatus
from jobmanager.model.container_states import ContainerAction, ContainerEvent, ContainerState, apply_event
from jobmanager.model.limits import Limits
from jobmanager.model.result import LimitName, Outcome
from jobmanager.results.facts import CannotRun, Limit, RunFacts, StoppedForLimit
from jobmanager.results.verdict import Verdict, judge
from jobmanager.runner.fields import FrameError
from jobmanager.runner.place import SHM
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.run_order import RUN
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from jobmanager.watching.student_budget import Allocation, BudgetExceeded, StudentBudget
from jobmanager.watching.student_program import StudentProgram
from jobmanager.watching.student_states import TRANSITIONS, WAITS, StudentEvent, StudentState

_log = logging.getLogger(__name__)

_CLEARING_S = 30.0  # at most, between two programs
_IDLE_TURN_S = 1.0
_LAST_RUN = 2**32 - 1
_RUNNING = ContainerStatus.RUNNING
_REMOVAL_TRIES = 3
_REMOVAL_PAUSE_S = 0.5
_KILLED = (Outcome.KILLED, "the grader has ended, or ended it")

_Events = tuple[ContainerEvent, ...]
_OVER = (ContainerState.SPENT, ContainerState.REMOVING, ContainerState.GONE, ContainerState.UNWANTED)
_RUN_OVER = (ContainerEvent.RUN_ENDED, ContainerEvent.RELEASED)
_IF_IT_RAISES: Mapping[ContainerAction, _Events] = {
    ContainerAction.START: (ContainerEvent.START_FAILED,),
    ContainerAction.MONITOR: _RUN_OVER,
    ContainerAction.REMOVE: (ContainerEvent.REMOVAL_FAILED,),
    ContainerAction.REMOVE_LATER: (ContainerEvent.REMOVAL_FAILED,),
}


class MonitorRegistry(Protocol):
    """A waiter's monitors. It has them check their containers, and reports other containers as unknown."""

    def register(self, name: str, monitor: ContainerMonitor | CasesMonitor) -> None: ...

    def unregister(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingContainer:
    """The owner of student containers, and what they have from it."""

    job: MonitorContainer
    settings: GradingSettings
    budget: StudentBudget
    host: str
    runners: RunnerVolumes
    host_lost_timeout_s: float
    monitors: MonitorRegistry


class _StudentNotStarted(Exception):
    """Why there is no container: the request's fault, unless the outcome says otherwise."""

    def __init__(self, reason: str, outcome: Outcome = Outcome.ERROR) -> None:
        super().__init__(reason)
        self.outcome = outcome


class StudentContainer:
    """A container for one program, or for one after the other, with nothing left between them but the shared folder.

    ``run`` is called once, in a thread of its own; the other methods by any thread, at any moment.
    """

    def __init__(self, program: StudentProgram, owner: GradingContainer, *, is_kept: bool = False) -> None:
        """``is_kept``: it stays for other programs (``give``) until it is killed, or cannot be used for one more."""
        self.program = program
        self.refused: StudentProgram | None = None  # a program that it was given and has not run, as it could not be cleared for it
        self.state = ContainerState.WANTED
        self.student_state = StudentState.BUSY
        self._is_kept = is_kept
        self._given: StudentProgram | None = None  # while the state is GIVEN, and until it is handed back
        self._runs = 0
        self._cpu_before_s = 0.0  # of its earlier programs
        self._link: RunnerLink | None = None  # of one that is kept: over all its runs
        self._owner = owner
        self._lock = threading.RLock()
        self._due: deque[ContainerAction] = deque()
        self._actions: Mapping[ContainerAction, Callable[[], _Events]] = {  # REASSIGN never: its waiter is that of its owner
            ContainerAction.START: self._start,
            ContainerAction.MONITOR: self._follow_run,
            ContainerAction.REMOVE: self._remove,
            ContainerAction.REMOVE_LATER: self._remove_later,
            ContainerAction.FREE: self._free,
            ContainerAction.FORGET: lambda: (),  # ``run`` returns
        }
        self._engine: Engine
        self._spec: ContainerSpec
        self._monitor: ContainerMonitor
        self._allocation: Allocation | None = None  # its place in the budget
        self._run_killed = self._is_leaving = False
        self._removal_tries = 0

    def run(self, engine: Engine) -> None:
        """Carry out what is due until nothing is. What came of an action is told by the events that follow from it."""
        self._engine = engine
        self._apply(self._prepare())
        while self._due:
            for event in self._carry_out(self._due.popleft()):
                self._apply(event)

    def kill(self) -> None:
        """Have its run killed; as long as it has none, release it. Never blocks."""
        with self._lock:  # in between it could be given its run
            was_waiting = self.student_state in WAITS
            self._turn(StudentEvent.CLOSED)
            if self._link is not None:
                self._link.wake()
            if not self._apply(ContainerEvent.KILL_REQUESTED):
                self._apply(ContainerEvent.RELEASED)
        allocation = self._allocation
        if allocation is not None and was_waiting:
            self._owner.budget.mark_removing(allocation)
        elif allocation is not None:
            self._owner.budget.mark_stopping(allocation)

    def kill_program(self, program: StudentProgram) -> None:
        """End this program; one that is kept may be given another one."""
        with self._lock:
            is_unbegun = program in (self._given, self.refused)
            if is_unbegun:
                self._turn(StudentEvent.WITHDRAWN)
                self._given = self.refused = None
            elif program is not self.program or self.student_state in WAITS:
                return  # it has ended
            elif self._is_kept and self._runs:
                self._kill_run()
            else:
                self.kill()
        if is_unbegun:
            program.report_end(*_KILLED)

    def take_refused(self) -> StudentProgram | None:
        """A program that it was given and has not run, and that is still wanted."""
        with self._lock:
            refused, self.refused = self.refused, None
            return refused

    def give(self, program: StudentProgram) -> bool:
        """Have it run another program. Returns whether it will: it may be busy, or needed no more."""
        with self._lock:
            if self.state is not ContainerState.BUSY or not self._turn(StudentEvent.PROGRAM_GIVEN):
                return False
            self._given = program
            assert self._link is not None, "it had a run"
            self._link.wake()
            return True

    @property
    def is_over(self) -> bool:
        """Whether it will have no other program."""
        return self.student_state is StudentState.CLOSED or self.state in _OVER

    def _turn(self, event: StudentEvent) -> bool:
        """Whether the event changes what it is there for. With the lock held."""
        follows = TRANSITIONS.get((self.student_state, event))
        self.student_state = follows or self.student_state
        return follows is not None

    def _apply(self, event: ContainerEvent) -> bool:
        with self._lock:
            actions = apply_event(self, event)
            for action in actions or ():
                if action is ContainerAction.KILL:
                    self._kill_run()  # at once: the thread of ``run`` follows what is to be killed
                else:
                    self._due.append(action)
            return actions is not None

    def _prepare(self) -> ContainerEvent:
        """Get all that it needs before its host is asked for it."""
        try:
            self._allocation = self._owner.budget.allocate(self.program.request)
            if self.state is ContainerState.WANTED:  # it may have been released while it waited for its place
                self._spec = self._new_spec(self._allocation.limits)
        except BudgetExceeded as error:
            why = _of_budget(error)
            self._end(why.outcome, why.text, limit=why.limit)
        except _StudentNotStarted as why:
            self._end(why.outcome, str(why))
        except Exception as error:  # noqa: BLE001 - as in _carry_out
            self._end_for_bug(error)
        else:
            return ContainerEvent.START_DUE
        return ContainerEvent.RELEASED

    def _carry_out(self, action: ContainerAction) -> _Events:
        try:
            return self._actions[action]()
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the grader its student's end
            self._end_for_bug(error)
            return _IF_IT_RAISES.get(action, ())

    # ---- actions

    def _start(self) -> _Events:
        """Once it is ready it has a monitor, which is what a kill of its run needs."""
        reply = submit(self._engine, self._spec, self._owner.runners, host=self._owner.host)
        if isinstance(reply, ContainerStarted):
            self._monitor = self._new_monitor(reply.container_id)
            return ContainerEvent.STARTED, ContainerEvent.RUN_GIVEN
        unreachable = isinstance(reply, StartFailed) and reply.unreachable
        outcome = Outcome.CRASH if unreachable else Outcome.ERROR
        self._end(outcome, f"the student container could not be started: {reply.reason}")
        return (ContainerEvent.START_FAILED,)

    def _follow_run(self) -> _Events:
        """Its program; where it is kept, one after the other."""
        try:
            while True:
                self._runs += 1
                facts = self._follow_program()
                stays = self._stays(is_usable=facts.end is not None and not self._monitor.not_clean)
                if self._monitor.not_clean:
                    self._refuse(self.program)
                else:
                    assert self._allocation is not None, "what was started has its place"
                    verdict = Verdict(outcome=_KILLED[0], text=_KILLED[1]) if self._run_killed else _judged(facts, self._allocation)
                    self._end(verdict.outcome, verdict.text, facts, limit=verdict.limit, is_kept=stays)
                if not stays or not self._take_another():
                    return _RUN_OVER
        finally:
            with self._lock:
                self._turn(StudentEvent.CLOSED)
            self._monitor.close(leave=self._is_leaving)

    def _follow_program(self) -> RunFacts:
        self._owner.monitors.register(self._spec.name, self._monitor)
        try:
            facts = self._monitor.run()
            self._is_leaving = facts.is_leaving
            self._cpu_before_s += facts.cpu_time_s or 0.0
            return facts
        finally:
            self._owner.monitors.unregister(self._spec.name)

    def _stays(self, *, is_usable: bool) -> bool:
        """Whether it waits for another program. To be known before the end is told: the next one may come at once."""
        with self._lock:
            self._turn(StudentEvent.RUN_OVER if is_usable and self._is_kept else StudentEvent.CLOSED)
            return self.student_state is StudentState.IDLE

    def _refuse(self, program: StudentProgram) -> None:
        """It has not been started: another container is to have it."""
        _log.info("student container %s is used for no other program: %s", self._spec.name, self._monitor.not_clean)
        assert self._allocation is not None, "what was started has its place"
        self._owner.budget.mark_stopped(self._allocation, 0.0)
        program.begin_again()
        with self._lock:
            self.refused = program

    def _take_another(self) -> bool:
        """Wait for the next program. Its runner hears of us meanwhile, or it would leave. Returns False when there will be none."""
        self._run_killed = False
        while True:
            with self._lock:
                if self.student_state not in WAITS:
                    break
                program, self._given = self._given, None
                why_not = None if program is None else self._begin(program)
                if program is not None:
                    self._turn(StudentEvent.BEGUN if why_not is None else StudentEvent.WITHDRAWN)
                if self.student_state is StudentState.BUSY:
                    return True
            if program is not None and why_not is not None:
                # Without the lock: it asks for that of all students
                program.report_end(why_not.outcome, why_not.text, limit=why_not.limit)
            elif not self._stay_connected():
                break
        with self._lock:
            self._turn(StudentEvent.CLOSED)
            self.refused, self._given = self._given, None
        assert self._allocation is not None, "it had a run"
        self._owner.budget.mark_removing(self._allocation)
        return False

    def _begin(self, program: StudentProgram) -> Verdict | None:
        """Why it cannot begin; None: it has a monitor."""
        self.program = program
        assert self._allocation is not None, "it had a run"
        try:
            self._allocation = self._owner.budget.allocate_again(self._allocation, program.request)
        except BudgetExceeded as error:
            return _of_budget(error)
        self._monitor = self._new_monitor(self._monitor.container_id)
        return None

    def _stay_connected(self) -> bool:
        """Returns whether its runner is there."""
        assert self._link is not None, "it is kept"
        try:
            if not self._link.is_open:
                self._link.connect()
            return self._link.receive(_IDLE_TURN_S) is not None or self._engine.inspect(self._spec.name).status is _RUNNING
        except (EngineError, FrameError) as error:
            _log.debug("student container %s is lost while it waits: %s", self._spec.name, error)
            return False

    def _kill_run(self) -> None:
        self._run_killed = True
        self._monitor.kill()

    def _remove(self) -> _Events:
        self._end(*_KILLED)  # it was released before it had a run, if its end was not told
        name, manager_id = self._spec.name, self._spec.labels.get(MANAGER_LABEL, "")
        reply = delete(self._engine, name, manager_id, is_ours=False, is_leaving=self._is_leaving)
        if isinstance(reply, ContainerRemoved):
            return (ContainerEvent.REMOVED,)
        _log.debug("student container %s is not removed yet: %s", name, reply.reason)
        return (ContainerEvent.VOLUME_LEFT if reply.only_volume_left else ContainerEvent.REMOVAL_FAILED,)

    def _remove_later(self) -> _Events:
        """Try again, but not for ever: the deleter of the grading container looks again."""
        self._removal_tries += 1
        if self._removal_tries == _REMOVAL_TRIES:
            return self._free()
        time.sleep(_REMOVAL_PAUSE_S)
        return self._remove()

    def _free(self) -> _Events:
        self._end(*_KILLED)
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            self._owner.budget.release(allocation)
        return ()

    # ---- its end, and what it is made of

    def _end(
        self,
        outcome: Outcome,
        text: str,
        facts: RunFacts | None = None,
        *,
        limit: LimitName | None = None,
        is_kept: bool = False,
    ) -> None:
        """Nothing of it runs any more: tell the budget, then the grader, who may ask for another. Only the first call counts."""
        if self._allocation is not None:
            self._owner.budget.mark_stopped(self._allocation, None if facts is None else facts.cpu_time_s, is_kept=is_kept)
        if self.program is not self.refused:
            self.program.report_end(outcome, text, facts, limit=limit)

    def _end_for_bug(self, error: Exception) -> None:
        _log.error("student %d of job %s failed", self.program.request.id, self._owner.job.job_id, exc_info=error)
        self._end(Outcome.CRASH, f"{type(error).__name__}: {error}")

    def _new_spec(self, limits: Limits) -> ContainerSpec:
        """Raises _StudentNotStarted."""
        owner, request = self._owner, self.program.request
        images = owner.settings.images
        image = images.get(request.environment) or images.get(f"{request.environment}:latest")
        if image is None:
            raise _StudentNotStarted(f"this host has no environment {request.environment!r}")
        try:
            grading = self._engine.inspect(owner.job.container_id)
        except EngineError as error:
            raise _StudentNotStarted(f"the grading container could not be inspected: {error}", Outcome.CRASH) from error
        return ContainerSpec(
            name=f"{owner.job.container_name}-s{request.id}",
            image=image,
            labels={**grading.labels, STUDENT_LABEL: grading.name},
            limits=limits,
            network=owner.settings.network,
            workspace=GRADING_WORKSPACE,
            lease_s=owner.job.lease_s,
            shared_volume=grading.volumes[SHARED_FOLDER],
            network_of=grading.id if request.share_network else "",
        )

    def _new_monitor(self, container_id: str) -> ContainerMonitor:
        budget, allocation = self._owner.budget, self._allocation
        assert allocation is not None, "what was started has its place"
        run = MonitorContainer(
            job_id=self._owner.job.job_id,
            container_id=container_id,
            container_name=self._spec.name,
            lease_s=self._owner.job.lease_s,
            command=self.program.request.command,
            env=self.program.request.env,
            files={},
            stdin=None,
            limits=allocation.limits,
            collect=(),
            workspace=GRADING_WORKSPACE,
            clears=(GRADING_WORKSPACE, "/tmp", SHM) if self._runs else (),
            puts_back=False,
            clearing_s=_CLEARING_S if self._runs else 0.0,
        )
        if self._is_kept and self._link is None:
            lease_s = self._owner.job.lease_s
            self._link = RunnerLink(
                self._engine, container_id, lease_s=lease_s, spool=Spool(None), is_first=True, last_run=_LAST_RUN
            )
        monitor = ContainerMonitor(
            run,
            self._engine,
            link=self._link,
            number=RUN + self._runs,
            is_first=not self._runs,
            cpu_before_s=self._cpu_before_s,
            host_lost_timeout_s=self._owner.host_lost_timeout_s,
            send=lambda _: None,
            session=self.program,
            cpu_left_s=lambda used_s: budget.cpu_left_s(allocation, used_s),
        )
        program = self.program
        program.attach_to(wake=monitor.wake, kill=lambda: self.kill_program(program))
        return monitor


def _judged(facts: RunFacts, allocation: Allocation) -> Verdict:
    """Where it had less CPU time than it asked for, it is the budget that was reached: others have used up the rest."""
    limits = allocation.limits
    if isinstance(facts.ending, CannotRun):
        return Verdict(outcome=Outcome.ERROR, text=facts.ending.reason)
    verdict = judge(facts, limits)
    limit_hit = facts.ending.limit_hit if isinstance(facts.ending, StoppedForLimit) else None
    if limit_hit is not None and limit_hit.limit is Limit.CPU and limit_hit.measured < limits.cpu_time_s:
        return replace(verdict, text="the CPU time of all student containers together is used up", limit="budget")
    return replace(verdict, limit="budget") if verdict.limit == "cpu" and allocation.has_less_cpu else verdict


def _of_budget(exceeded: BudgetExceeded) -> Verdict:
    outcome = Outcome.TIMEOUT if exceeded.timeout else Outcome.ERROR
    return Verdict(outcome=outcome, text=str(exceeded), limit="budget" if exceeded.timeout else None)
