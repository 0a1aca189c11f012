"""The monitor of a container that has cases: a build, then one run after the other, with nothing left between them.

::

    PUT files ─► RUN build ─► KEEP the workspace ─► CLEAR, put back, RUN case 1 ─► CLEAR, put back, RUN case 2 ─► ... ─► LEAVE

Each run is followed by a ``ContainerMonitor`` of its own over the same link, and told as it ends: a waiter that takes over goes on
with the first run that is not told. A container that cannot be cleared, or that died of a case, is used for no other case; the rest
go on in a new one (``scheduling/run_sequence.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jobmanager.engine.protocol import Engine
from jobmanager.ipc.messages import (
    BuildDone,
    CaseDone,
    CasePlan,
    CaseRun,
    FetchOutput,
    LimitReached,
    MonitorContainer,
    ProgramStarted,
)
from jobmanager.model.limits import SLOWEST_LINK_BYTES_PER_S
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.facts import (
    CannotRun,
    CapturedOutput,
    Ending,
    EngineUnreachable,
    InfrastructureFailure,
    JobNotSent,
    ProgramEnd,
    ProgramExited,
    RunCutOff,
    RunFacts,
)
from jobmanager.results.run_result import run_result
from jobmanager.results.verdict import Verdict, judge
from jobmanager.watching.case_result import case_result, with_streams_cut
from jobmanager.watching.cases_container import DIED_OF_CASE, CannotKeep, CasesContainer, NoMoreRuns
from jobmanager.watching.inspector import ContainerInspector
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.partner import JudgeNotClean, NotClean, Partner, PartnerLost, PartnerUnusable
from jobmanager.watching.run_order import RUN, run_messages, words
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool

_log = logging.getLogger(__name__)

_MOST_AHEAD_BYTES = 2**14  # of what is sent before the case before has ended: a runner takes 64 KiB, perhaps of two cases
_FILE_BYTES = 200  # of a file in a message, beside its name and content
_TURN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run of the container."""

    number: int
    job: MonitorContainer
    case: CaseRun | None = None  # None: the build
    was_sent: bool = False  # the runner has it already


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What all runs of the container used together."""

    cpu_time_s: float = 0.0
    wall_time_s: float = 0.0
    outage_s: float = 0.0
    peak_memory_bytes: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    def add(self, facts: RunFacts) -> None:
        """One run more."""
        self.cpu_time_s += facts.cpu_time_s or 0.0
        self.wall_time_s += facts.wall_time_s or 0.0
        self.outage_s += facts.outage_s
        self.peak_memory_bytes = max(self.peak_memory_bytes, facts.peak_memory_bytes or 0)
        for name, seconds in facts.timings.items():
            self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 4)


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
        partner: Partner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert job.cases is not None, "only a task with cases has such a monitor"
        self._job = replace(job, cases=None, elapsed_s=0.0, hold_s=0.0)  # each run has a clock of its own
        self._hold_s = job.hold_s
        self._was_taken_over = job.taken_over
        self._plan: CasePlan = job.cases
        self._engine = engine
        self._host_lost_timeout_s = host_lost_timeout_s
        self._send = send
        self._partner = partner
        self._clock = clock
        self._kill_requested = threading.Event()
        self._current: ContainerMonitor | None = None
        self._runs_a_case = False  # the current one, and not the build
        self._link = RunnerLink(
            engine,
            job.container_id,
            lease_s=job.lease_s,
            spool=spool or Spool(None),
            is_first=not job.taken_over,
            last_run=RUN + self._plan.last,
            clock=clock,
        )
        self._container = CasesContainer(
            self._job,
            self._plan,
            engine,
            link=self._link,
            inspector=ContainerInspector(
                job, engine, host_lost_timeout_s=host_lost_timeout_s, give_up=self._kill_requested, clock=clock
            ),
            give_up=self._kill_requested,
            clock=clock,
        )
        self._sums = _Sums()
        self._output = CapturedOutput()  # of the build
        self._streams_kept = self._plan.streams_kept
        self._last_told = 0  # the number of a case
        env = (f"{name}={value}" for name, value in self._job.env.items())
        self._bytes_of_a_run = _most_bytes(words(self._job.command)) + _most_bytes(env)
        self._ahead: tuple[_Run | None, int] = None, 0  # the run that was sent ahead, and in which session of the link
        if partner is not None:
            partner.attach_to(self._end_run)

    @property
    def container_id(self) -> str:
        """Id of the monitored container."""
        return self._job.container_id

    def kill(self) -> None:
        """End the container soon; ``run`` then returns the facts."""
        self._kill_requested.set()
        if self._partner is not None:
            self._partner.kill()
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
        """Report the build's output past these offsets once. What cases print is in their results."""
        current = self._current
        if current is not None and not self._container.is_kept:
            current.fetch_output(request)

    def run(self) -> RunFacts:
        """Follow all runs. The facts are those of all together; an error on our side is an ``InfrastructureFailure``."""
        try:
            self._link.give_back(self._link.replayed())
            self._run_all()
        except NotClean as why:
            _log.info("container %s is used for no other case: %s", self._job.container_name, why)
            return self._facts(_exited(), not_clean=str(why), is_judge_unclean=isinstance(why, JudgeNotClean))
        except NoMoreRuns as cut_off:
            return self._facts(cut_off.ending)
        except Exception as error:  # noqa: BLE001 - the thread's edge: a bug must not cost the job its result
            _log.exception("monitoring job %s failed", self._job.job_id)
            return self._facts(RunCutOff(cause=InfrastructureFailure(reason=f"{type(error).__name__}: {error}")))
        return self._facts(_exited())

    def close(self, *, leave: bool = False) -> None:
        """As that of a ``ContainerMonitor``."""
        self._link.finish(leave=leave)

    def _facts(self, ending: Ending, *, not_clean: str = "", is_judge_unclean: bool = False) -> RunFacts:
        """``ending`` says no more than whether all was run that is to be: how each run ended is told already."""
        sums = self._sums
        if self._hold_s:
            self._link.hold(self._hold_s)  # it keeps the volumes that a later phase will have
        return RunFacts(
            ending=ending,
            output=self._output,
            outage_s=sums.outage_s,
            cpu_time_s=round(sums.cpu_time_s, 4),
            wall_time_s=round(sums.wall_time_s, 4),
            peak_memory_bytes=sums.peak_memory_bytes or None,
            timings=sums.timings,
            not_clean=not_clean,
            is_judge_unclean=is_judge_unclean,
            is_leaving=self._link.is_open and not not_clean and not self._hold_s,
        )

    # ---- runs

    def _run_all(self) -> None:
        try:
            for run in self._runs():
                if not self._go_through(run):
                    return
        except PartnerLost as lost:
            self._container.give_up_if_killed()
            raise self._container.cut_off(InfrastructureFailure(reason=str(lost))) from lost
        except PartnerUnusable as why:
            self._tell_unrun(Outcome.ERROR, str(why))
        except CannotKeep as why:
            self._tell_unrun(why.outcome, str(why))

    def _go_through(self, run: _Run) -> bool:
        """Returns whether there may be another run."""
        facts = self._follow(run if run.case is None else self._prepared(run, run.case))
        verdict = judge(facts, run.job.limits)
        if self._kill_requested.is_set() or (verdict.outcome is Outcome.CRASH and not self._is_partners(run, facts)):
            raise NoMoreRuns(self._ending_of(facts))
        outcome = self._tell_build(verdict, facts) if run.case is None else self._tell_case(run.case, verdict, facts)
        judges = self._partner is not None and not self._partner.tells
        if run.case is None and outcome is not Outcome.SUCCESS and self._plan.cases[0].number > 1 and not judges:
            raise NotClean(f"the build was run again, and ended as {outcome}")
        if outcome is not Outcome.SUCCESS and (run.case is None or self._plan.stop_at_first_failure):
            return False
        if facts.end is None and not isinstance(facts.ending, CannotRun) and run.number < RUN + self._plan.last:
            raise NotClean(DIED_OF_CASE)
        return True

    def _runs(self) -> Iterator[_Run]:
        if self._plan.build is not None and not self._plan.is_built and not self._has_built():
            limits = self._plan.build_limits or self._job.limits
            job = replace(self._job, command=self._plan.build, limits=limits, stdin=b"", stdin_fifo="", stdout_fifo="")
            yield _Run(number=RUN, job=job)
        for case in self._plan.cases:
            to_run = case if self._partner is None else self._waited_for(self._partner, case)
            if to_run is not None:
                yield _Run(number=RUN + case.number, job=self._job_of(to_run), case=to_run)

    def _has_built(self) -> bool:
        """Whether an earlier waiter had come to the cases: only who tells of them knows that before it asks the runner."""
        if not self._was_taken_over or self._partner is None or self._partner.tells:
            return False
        return self._container.has_built()

    def _job_of(self, case: CaseRun) -> MonitorContainer:
        """The files of the task are there: they were kept."""
        command = self._job.command
        if case.args:
            command = (*words(command), *((command, *case.args) if isinstance(command, str) else case.args))
        stdin = None if self._job.stdin_fifo else case.stdin
        return replace(self._job, command=command, stdin=stdin, files=case.files, limits=case.limits, secrets={}, collect=())

    def _follow(self, run: _Run) -> RunFacts:
        is_first = self._current is None
        monitor = ContainerMonitor(
            run.job,
            self._engine,
            host_lost_timeout_s=self._host_lost_timeout_s,
            send=partial(self._take_from_monitor, run, tells_start=is_first),
            link=self._link,
            number=run.number,
            is_first=is_first and run.case is None and not self._was_taken_over,
            cpu_before_s=self._sums.cpu_time_s,
            was_sent=run.was_sent,
            clock=self._clock,
        )
        self._runs_a_case = run.case is not None
        self._current = monitor
        is_alone = self._partner is not None and run.case is not None and self._partner.ends(run.case.number)
        if self._kill_requested.is_set() or is_alone:
            monitor.kill()
        if run.was_sent and run.case is not None:
            self._send_ahead(run.case.number + 1)
        began = self._clock()
        facts = monitor.run()
        self._sums.add(facts)
        beside_s = self._clock() - began - (facts.wall_time_s or 0.0) - _sending_s(run)
        if monitor.not_clean:
            raise NotClean(monitor.not_clean)
        was_cleared = bool(run.job.clears)
        self._container.count_run(facts, was_cleared=was_cleared, has_started=monitor.has_started, beside_s=beside_s)
        self._job = replace(self._job, taken_over=False, limit_hit=None)  # what a waiter before had begun has ended
        return facts

    def _take_from_monitor(self, run: _Run, message: object, *, tells_start: bool) -> None:
        """That the job has started is told once."""
        if tells_start or isinstance(message, LimitReached):
            self._send(message)
        if isinstance(message, ProgramStarted) and run.case is not None and not run.was_sent:
            self._send_ahead(run.case.number + 1)

    def _send_ahead(self, number: int) -> None:
        """Send the next case while this one runs, so that its runner goes on without a pause. What is large is not sent ahead."""
        at = number - self._plan.cases[0].number
        has_to_wait = self._partner is not None and (self._partner.runs_beside or not self._partner.tells)
        if has_to_wait or self._plan.stop_at_first_failure or not self._container.has_its_limits or at >= len(self._plan.cases):
            return
        case = self._plan.cases[at]
        if self._bytes_of_a_run + _bytes_of(case) > _MOST_AHEAD_BYTES:
            return
        run = self._cleared(_Run(number=RUN + number, job=self._job_of(case), case=case))
        self._link.send(*run_messages(run.job, made_at_s=time.time(), number=run.number))
        self._ahead = replace(run, was_sent=True), self._link.session

    def _cleared(self, run: _Run) -> _Run:
        """The same, with what the runner has to do before it."""
        clearing_s = self._container.clearing_s + _sending_s(run)
        return replace(run, job=replace(run.job, clears=self._container.places, clearing_s=clearing_s))

    def _ending_of(self, facts: RunFacts) -> Ending:
        """A job of which something was run is not sent to another container."""
        if not isinstance(facts.ending, JobNotSent) or not self._container.has_begun:
            return facts.ending
        cause = facts.ending.cause
        return RunCutOff(cause=InfrastructureFailure(reason=cause.reason) if isinstance(cause, EngineUnreachable) else cause)

    # ---- what became of them

    def _tell_build(self, verdict: Verdict, facts: RunFacts) -> Outcome:
        self._output = facts.output
        self._tell(BuildDone(container_name=self._job.container_name, run=run_result(verdict, facts)))
        return verdict.outcome

    def _tell_case(self, case: CaseRun, verdict: Verdict, facts: RunFacts) -> Outcome:
        result = case_result(case, verdict, facts)
        if self._partner is not None:
            result = self._judged(self._partner, case, result, facts)
        result = with_streams_cut(result, streams_kept=self._streams_kept)
        assert result.run is not None and result.outcome is not None, "it was run"
        self._streams_kept += len(result.run.stdout) + len(result.run.stderr)
        self._tell(CaseDone(container_name=self._job.container_name, number=case.number, result=result))
        return result.outcome

    def _tell_unrun(self, outcome: Outcome, text: str) -> None:
        for case in self._plan.cases:
            if case.number > self._last_told:
                unrun = CaseResult(name=case.name, outcome=outcome, text=text)
                self._tell(CaseDone(container_name=self._job.container_name, number=case.number, result=unrun))

    def _tell(self, message: BuildDone | CaseDone) -> None:
        is_told = self._send(message)
        if isinstance(message, CaseDone):
            self._last_told = message.number
            if self._partner is not None and is_told:
                self._partner.told(message.number)
        if is_told:
            self._link.forget()

    # ---- beside another container

    def _waited_for(self, partner: Partner, case: CaseRun) -> CaseRun | None:
        """The case as it is to be run, once the other side is ready for it; None: it is not to be run here."""
        while not partner.is_ready(case.number, _TURN_S):
            self._container.give_up_if_killed()
            self._container.stay_connected()
        if not partner.tells and partner.is_told(case.number - 1):
            self._link.forget()  # the other side has told what became of the case before
        return partner.case(case)

    def _judged(self, partner: Partner, case: CaseRun, result: CaseResult, facts: RunFacts) -> CaseResult:
        """What has happened to its container meanwhile is found out by whoever follows the next run."""
        is_there = True
        while (judged := partner.judged(case, result, facts, _TURN_S)) is None:
            self._container.give_up_if_killed()
            is_there = is_there and self._can_stay_connected()
        return judged

    def _can_stay_connected(self) -> bool:
        try:
            self._container.stay_connected()
        except (NoMoreRuns, NotClean) as over:
            self._container.give_up_if_killed()
            _log.debug("container %s is gone while a case is judged: %r", self._job.container_name, over)
            return False
        return True

    def _is_partners(self, run: _Run, facts: RunFacts) -> bool:
        """Whether it is for the other side to say what a crash means."""
        return self._partner is not None and run.case is not None and self._partner.takes_blame(run.case.number, facts)

    def _end_run(self) -> None:
        current = self._current
        if current is not None and self._runs_a_case:
            current.kill()

    # ---- between runs

    def _prepared(self, run: _Run, case: CaseRun) -> _Run:
        """The run, so that nothing of the one before is there when it begins, unless the runner has taken it already.

        The runner clears the container just before it starts the program: both are asked for in one go.
        """
        ahead, session = self._ahead
        if ahead is not None and ahead.number == run.number and session == self._link.session and self._link.is_open:
            return ahead
        if self._was_taken_over and self._container.is_taken(run.number):
            self._container.is_kept = True
            return run
        self._container.keep()
        is_used = case.number > 1 or self._plan.build is not None
        if not self._container.has_its_limits:
            if is_used:
                self._container.clear()
            self._container.set_limits()
        elif is_used:
            return self._cleared(run)
        if self._partner is not None and self._partner.runs_beside:  # its container may have to be cleared before both begin
            return replace(run, job=replace(run.job, clearing_s=self._container.clearing_s))
        return run


def _exited() -> ProgramExited:
    return ProgramExited(end=ProgramEnd(exit_code=0))


def _sending_s(run: _Run) -> float:
    """For how long what is sent for it may be on its way."""
    return 0.0 if run.case is None else _bytes_of(run.case) / SLOWEST_LINK_BYTES_PER_S


def _bytes_of(case: CaseRun) -> int:
    files = sum(len(content) for content in case.files.values()) + _most_bytes(case.files) + _FILE_BYTES * len(case.files)
    return len(case.stdin) + files + _most_bytes(case.args)


def _most_bytes(words_: Iterable[str]) -> int:
    """What words take in a message at most: each has its length before it."""
    return sum(4 * len(word) + 8 for word in words_)
