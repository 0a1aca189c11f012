"""The monitor of a container that has cases: a build, then one run after the other, with nothing left between them.

::

    PUT files ─► RUN build ─► KEEP the workspace ─► RUN case 1 ─► CLEAR, put back ─► RUN case 2 ─► ... ─► LEAVE

Each run is followed by a ``ContainerMonitor`` of its own over the same link. A container that cannot be cleared, or that died of a
case, is not used for the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.ipc.messages import CasePlan, CaseRun, FetchOutput, MonitorContainer
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.comparing import compare
from jobmanager.results.facts import InfrastructureFailure, RunCutOff, RunFacts
from jobmanager.results.run_result import run_result
from jobmanager.results.verdict import judge
from jobmanager.runner.frames import Clear, Cleared, DownMessage, Keep, Kept
from jobmanager.runner.place import SHM
from jobmanager.watching.connection import ContainerOver, RunnerConnection
from jobmanager.watching.inspector import ContainerInspector, HostLost
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.run_order import RUN, file_messages, words
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool

_log = logging.getLogger(__name__)

_ANSWER_S = 60.0  # for clearing a container: a hostile tree may take half of that
_TURN_S = 1.0
_KEPT_STREAMS_BYTES = 2**20  # of all cases that failed together
_FIRST_CASE = RUN + 1


class NotClean(Exception):
    """The container is not to be used for another case; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run of the container."""

    number: int
    job: MonitorContainer
    case: CaseRun | None = None  # None: the build


class CasesMonitor:
    """Follows the runs of one container. ``run`` is called once, in a thread; the other methods may be called from any thread."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        send: Callable[[Any], object],
        spool: Spool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert job.cases is not None, "only a task with cases has such a monitor"
        self._job = job
        self._plan: CasePlan = job.cases
        self._engine = engine
        self._host_lost_timeout_s = host_lost_timeout_s
        self._send = send
        self._clock = clock
        self._kill_requested = threading.Event()
        self._current: ContainerMonitor | None = None
        last = RUN + len(self._plan.cases)
        self._link = RunnerLink(
            engine,
            job.container_id,
            lease_s=job.lease_s,
            spool=spool or Spool(None),
            is_first=not job.taken_over,
            last_run=last,
            clock=clock,
        )
        self._inspector = ContainerInspector(
            job, engine, host_lost_timeout_s=host_lost_timeout_s, give_up=self._kill_requested, clock=clock
        )
        self._requests = 0
        self._cpu_s = 0.0
        self._streams_left = _KEPT_STREAMS_BYTES
        self._is_kept = False

    @property
    def container_id(self) -> str:
        """Id of the monitored container."""
        return self._job.container_id

    def kill(self) -> None:
        """End the container soon; ``run`` then returns the facts."""
        self._kill_requested.set()
        current = self._current
        if current is not None:
            current.kill()
        self._link.wake()

    def check(self) -> None:
        """Check soon whether the container has ended."""
        current = self._current
        if current is not None:
            current.check()

    def fetch_output(self, request: FetchOutput) -> None:
        """Report the output past these offsets once."""
        current = self._current
        if current is not None:
            current.fetch_output(request)

    def run(self) -> RunFacts:
        """Follow all runs: the facts of the last one, with the results of all."""
        self._link.give_back(self._link.replayed())
        build, cases, facts = None, list[CaseResult](), None
        for run in self._runs():
            try:
                self._prepare(run)
            except NotClean as why:
                _log.info("container %s is used for no other case: %s", self._job.container_name, why)
                facts = facts or RunFacts(ending=RunCutOff(cause=InfrastructureFailure(reason=str(why))))
                break
            facts = self._follow(run)
            if run.case is None:
                verdict = judge(facts, run.job.limits)
                build = run_result(verdict, facts)
                if verdict.outcome is not Outcome.SUCCESS:
                    break
            else:
                cases.append(self._case_result(run.case, facts))
                self._tell(cases[-1], len(cases))
                if self._stops_after(cases[-1], facts):
                    break
        assert facts is not None, "there is a case"
        return replace(facts, build=build, cases=tuple(cases), is_leaving=self._link.is_open)

    def close(self, *, leave: bool = False) -> None:
        """As that of a ``ContainerMonitor``."""
        self._link.finish(leave=leave)

    # ---- runs

    def _runs(self) -> Iterator[_Run]:
        if self._plan.build is not None:
            limits = self._plan.build_limits or self._job.limits
            yield _Run(number=RUN, job=replace(self._job, command=self._plan.build, limits=limits, cases=None))
        for number, case in enumerate(self._plan.cases, _FIRST_CASE):
            yield _Run(number=number, job=self._job_of(case), case=case)

    def _job_of(self, case: CaseRun) -> MonitorContainer:
        """The files of the task are there: they were kept."""
        command = self._job.command
        if case.args:
            command = (*words(command), *((command, *case.args) if isinstance(command, str) else case.args))
        return replace(
            self._job, command=command, stdin=case.stdin, files=case.files, limits=case.limits, secrets={}, cases=None, collect=()
        )

    def _follow(self, run: _Run) -> RunFacts:
        monitor = ContainerMonitor(
            run.job,
            self._engine,
            host_lost_timeout_s=self._host_lost_timeout_s,
            send=self._send,
            link=self._link,
            number=run.number,
            is_first=self._current is None and run.case is None,
            cpu_before_s=self._cpu_s,
            clock=self._clock,
        )
        self._current = monitor
        if self._kill_requested.is_set():
            monitor.kill()
        facts = monitor.run()
        self._cpu_s += facts.cpu_time_s or 0.0
        return facts

    def _stops_after(self, result: CaseResult, facts: RunFacts) -> bool:
        """Whether nothing more is run in this container."""
        is_over = facts.end is None or self._kill_requested.is_set()
        return is_over or (self._plan.stop_at_first_failure and result.outcome is not Outcome.SUCCESS)

    # ---- between them

    def _prepare(self, run: _Run) -> None:
        """Nothing of the run before may be there when the next one begins, unless the runner has taken that already."""
        if run.case is None:
            return
        if self._job.taken_over:
            self._learn_status()
        if self._is_taken(run.number):
            return
        if not self._is_kept:
            self._keep()
            self._is_kept = True
        if run.number > _FIRST_CASE or self._plan.build is not None:
            self._clear()

    def _learn_status(self) -> None:
        """What the runner has taken of an earlier waiter."""
        until = self._clock() + _ANSWER_S
        while self._link.status is None and not self._link.has_more and not self._kill_requested.is_set():
            if self._clock() > until:
                raise NotClean("its runner does not answer")
            self._connect()
            self._link.give_back(self._link.receive(_TURN_S) or [])

    def _is_taken(self, number: int) -> bool:
        return self._link.has_more or (self._link.status is not None and self._link.status.run >= number)

    def _keep(self) -> None:
        if self._plan.build is None:
            self._connect()
            for message in file_messages(self._job, made_at_s=self._made_at_s()):
                self._link.send(message)
        most = self._job.limits.workspace_mib * 2**20 * 2
        kept = self._ask(lambda number: Keep(request=number, path=self._job.workspace.encode(), most=most))
        assert isinstance(kept, Kept)
        if kept.errno:
            raise NotClean(f"what the build has left cannot be kept (errno {kept.errno})")

    def _made_at_s(self) -> float:
        try:
            return self._engine.inspect(self._job.container_id).started_at_s
        except EngineError:
            return time.time()

    def _clear(self) -> None:
        places = (self._job.workspace.encode(), b"/tmp", SHM.encode())
        cleared = self._ask(lambda number: Clear(request=number, put_back=True, places=places))
        assert isinstance(cleared, Cleared)
        if not cleared.clean:
            raise NotClean(cleared.why.decode("utf-8", "replace"))

    def _ask(self, request: Callable[[int], DownMessage]) -> Kept | Cleared:
        """The answer; asked again over a new connection where one is lost."""
        until = self._clock() + _ANSWER_S
        while self._clock() < until and not self._kill_requested.is_set():
            self._connect()
            self._requests += 1
            self._link.send(request(self._requests))
            answer = self._answer(until)
            if answer is not None:
                return answer
        raise NotClean("it was not cleared in time")

    def _answer(self, until: float) -> Kept | Cleared | None:
        while self._link.is_open and self._clock() < until and not self._kill_requested.is_set():
            for message in self._link.receive(_TURN_S) or ():
                if isinstance(message, (Kept, Cleared)) and message.request == self._requests:
                    return message
        return None

    def _connect(self) -> None:
        connection = RunnerConnection(
            self._job,
            self._engine,
            self._link,
            self._inspector,
            number=RUN,
            is_first=False,
            give_up=self._kill_requested,
            clock=self._clock,
        )
        try:
            while not self._link.is_open and not self._kill_requested.is_set():
                connection.connect()
        except (ContainerOver, HostLost, EngineError) as error:
            raise NotClean(f"its container is gone: {error}") from error

    # ---- what became of them

    def _case_result(self, case: CaseRun, facts: RunFacts) -> CaseResult:
        verdict = judge(facts, case.limits)
        run = run_result(verdict, facts)
        outcome, text, correct = verdict.outcome, verdict.text, None
        if outcome is Outcome.SUCCESS and case.check is not None and case.expected is not None:
            comparison = compare(case.check, case.expected, run.stdout)
            correct = comparison.is_correct
            if not correct:
                outcome, text = Outcome.FAILED, comparison.difference
        keeps = outcome is not Outcome.SUCCESS and len(run.stdout) + len(run.stderr) <= self._streams_left
        if keeps:
            self._streams_left -= len(run.stdout) + len(run.stderr)
        else:
            run = replace(run, stdout=b"", stderr=b"")
        points = case.points if outcome is Outcome.SUCCESS and correct is not False else 0.0
        return CaseResult(name=case.name, outcome=outcome, text=text, correct=correct, points=points, run=run)

    def _tell(self, result: CaseResult, number: int) -> None:
        """Told live in the next step."""
