"""The monitor of one container: has its runner run the job, follows that to its end, and reports facts.

A monitor runs in a thread of its waiter and has an engine connection of its own. What it does in which state is a table
(``monitor_states.py``). Beside it stand the three things that end a monitor in any state: the container has ended, it is gone,
or its host cannot be reached for too long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from jobmanager.engine.protocol import (
    Engine,
    EngineError,
    NoSuchContainer,
)
from jobmanager.ipc.messages import (
    FetchOutput,
    LimitReached,
    MonitorContainer,
    OutputChunk,
    ProgramStarted,
    SSHReady,
    SubmitterTold,
)
from jobmanager.model._escapes import one_line
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import (
    ContainerEnded,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    LimitHit,
    RemovedExternally,
    RunFacts,
)
from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    Ended,
    Entries,
    Fault,
    FromProgram,
    Kill,
    OutputData,
    Piece,
    ProgramStream,
    RefusalReason,
    RunRefused,
    Started,
    Status,
    Taken,
    UpMessage,
)
from jobmanager.watching.backstop import Advice, Backstop
from jobmanager.watching.connection import ContainerOver, RunnerConnection, UnreachableBeforeStart
from jobmanager.watching.file_requests import FileRequests
from jobmanager.watching.inspector import ContainerInspector, HostLost
from jobmanager.watching.limit_clock import LimitClock
from jobmanager.watching.monitor_states import TRANSITIONS, MonitorAction, MonitorEvent, MonitorState
from jobmanager.watching.output_reporter import OutputReporter
from jobmanager.watching.program_session import ProgramSession
from jobmanager.watching.refusals import NO_COMMAND, refusal_text
from jobmanager.watching.run_order import RUN
from jobmanager.watching.run_report import RunNotes, RunReport
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from jobmanager.watching.ssh_readiness import SSHReadiness
from jobmanager.watching.transcript import Transcript

_log = logging.getLogger(__name__)

_MAX_WAIT_S = 1.0  # of the loop; what other threads want wakes it
_KILL_PATIENCE_S = 1.0  # for the end after a KILL
_ENGINE_PATIENCE_S = 30.0  # for the end after the engine was told to kill
_PATIENCE_S = {MonitorState.STOPPING: _KILL_PATIENCE_S, MonitorState.KILLED: _ENGINE_PATIENCE_S}
_OVERDUE_WAIT_S = 0.05
_LAST_WORDS_S = 1.0  # for what is on its way from a container that has ended


class _ReportLost(Exception):
    """The run is over, as its runner says, and how it ended does not come."""


class ContainerMonitor:
    """Follows one run of a container. ``run`` is called once, in a thread; the other methods may be called from any thread."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        send: Callable[[ProgramStarted | SSHReady | LimitReached | OutputChunk | SubmitterTold], object],
        spool: Spool | None = None,
        session: ProgramSession | None = None,
        cpu_left_s: Callable[[float], float] | None = None,
        link: RunnerLink | None = None,
        number: int = RUN,
        is_first: bool = True,
        cpu_before_s: float = 0.0,
        was_sent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the monitor of a container's first run, or of a later one.

        Args:
            cpu_left_s: takes the CPU seconds used and returns how many more are allowed; default: up to the limit.
            link: of the container, which had a run before; None: a new one.
            number: of the run.
            is_first: nobody has spoken to the container's runner, unless the job is taken over.
            cpu_before_s: CPU seconds that the container's earlier runs took.
            was_sent: the runner has been sent the run in this session of the link, while the run before went on.
        """
        self.state = MonitorState.NEW
        self.not_clean = ""  # why the container could not be cleared before the run, which was not started then
        self._job = job
        self._engine = engine
        self._send = send
        self._clock = clock
        self._session = session
        self._kill_requested = threading.Event()
        self._check_requested = threading.Event()
        self._number = number
        self._had_link = link is not None
        self._link = link or RunnerLink(
            engine,
            job.container_id,
            lease_s=job.lease_s,
            spool=spool or Spool(None),
            is_first=not job.taken_over,
            clock=clock,
        )
        self._transcript = Transcript(job)
        self._reporter = OutputReporter(job.job_id, send)
        self._backstop = Backstop(job.limits, clock)
        self._limit_clock = LimitClock(job, engine, cpu_left_s=cpu_left_s, cpu_before_s=cpu_before_s, clock=clock)
        self._inspector = ContainerInspector(
            job, engine, host_lost_timeout_s=host_lost_timeout_s, give_up=self._kill_requested, clock=clock
        )
        self._connection = RunnerConnection(
            job,
            engine,
            self._link,
            self._inspector,
            number=number,
            is_first=is_first and not job.taken_over,
            give_up=self._kill_requested,
            clock=clock,
            was_sent_ahead=was_sent,
        )
        self._actions: Mapping[MonitorAction, Callable[[], None]] = {
            MonitorAction.SEND_RUN: self._send_run,
            MonitorAction.NOTE_SENT: self._note_sent,
            MonitorAction.TELL_START: self._tell_start,
            MonitorAction.ASK_RUNNER: self._ask_runner,
            MonitorAction.SEND_KILL: self._send_kill,
            MonitorAction.KILL_CONTAINER: self._kill_container,
            MonitorAction.COLLECT: self._collect,
        }
        self._seen_status: Status | None = None
        self._notes = RunNotes.of(job)
        self._over: ContainerInfo | None = None  # its state, seen before its channel ended
        self._over_since = 0.0
        self._told_at = 0.0
        self._files = FileRequests(job, self._link.send, clock)
        self._ssh = SSHReadiness(job, engine, send)

    @property
    def container_id(self) -> str:
        """Id of the monitored container."""
        return self._job.container_id

    @property
    def has_started(self) -> bool:
        """Whether the runner has told that the program was started."""
        return self._transcript.started is not None

    def kill(self) -> None:
        """End the container soon; ``run`` then returns the facts."""
        self._kill_requested.set()
        self._link.wake()

    def check(self) -> None:
        """Check soon whether the container has ended."""
        self._check_requested.set()
        self._link.wake()

    def wake(self) -> None:
        """Something waits to be sent to the program."""
        self._link.wake()

    def fetch_output(self, request: FetchOutput) -> None:
        """Report the output past these offsets once."""
        self._reporter.request(request)

    def end_for_protocol_error(self, reason: str) -> None:
        """End the container soon, as its supervisor violated the protocol, or asked for what it cannot have."""
        self._notes.protocol_error = self._notes.protocol_error or reason
        self.kill()

    def end_for_lost_link(self) -> None:
        """End the container soon, as the connection to its student containers broke while it waits for them."""
        self._notes.link_lost = True
        self.kill()

    def supervisor_gave_up(self) -> None:
        """A grading container's supervisor says that it was cut off while it needed its students."""
        self._notes.supervisor_gave_up = True

    def report_ssh(self, text: str) -> None:
        """A debug session's server says that it is ready, or why it cannot be started. In the thread of ``run``."""
        reason = self._ssh.take(text)
        self._notes.refusal = self._notes.refusal or reason

    def report_told(self, number: int, text: str) -> None:
        """The grader shows the submitter a text. In the thread of ``run``."""
        self._send(SubmitterTold(container_name=self._job.container_name, number=number, text=text))

    def pause_wall_clock(self) -> None:
        """Pause the wall clock, as the container waits for us. The sum of all pauses is bounded."""
        self._limit_clock.pause()

    def resume_wall_clock(self) -> None:
        """End one pause. The clock runs again when there were as many calls as of ``pause_wall_clock``."""
        self._limit_clock.resume()

    def wall_time_left_s(self) -> float:
        """Seconds left of the wall-clock limit."""
        return self._job.limits.wall_s - self._limit_clock.wall_time_s()

    def run(self) -> RunFacts:
        """Follow the container to its end. An error on our side is reported as an ``InfrastructureFailure``."""
        try:
            return self._run()
        except Exception as error:  # noqa: BLE001 - the thread's edge: no more threads to be had, or a bug, must not cost the job its result
            _log.exception("monitoring job %s failed", self._job.job_id)
            failure = InfrastructureFailure(reason=f"{type(error).__name__}: {error}")
            return self._report().facts(failure, is_end_known=False)
        finally:
            self._end_session()

    def close(self, *, leave: bool = False) -> None:
        """Let the connection go; ``leave``: and the container, as the facts said (``is_leaving``) and the manager has received."""
        self._link.finish(leave=leave)

    def _run(self) -> RunFacts:
        try:
            self._follow()
        except ContainerOver as over:
            if over.state is not None and over.state.in_removal:
                return self._report().facts(RemovedExternally())  # soon: a later check must have the same result
            return self._report().facts(ContainerEnded(container=over.state))
        except NoSuchContainer:
            return self._report().facts(RemovedExternally())
        except HostLost:
            return self._report().facts(HostGivenUp())
        except UnreachableBeforeStart as error:
            return self._report().facts(EngineUnreachable(reason=str(error)))
        except EngineError as error:
            return self._report().facts(InfrastructureFailure(reason=f"the engine refused to go on with it: {error}"))
        except _ReportLost:
            return self._report().facts(InfrastructureFailure(reason="how it ended did not come over the connection to its host"))
        except FrameError as error:
            return self._report().facts(InfrastructureFailure(reason=f"its runner cannot be understood: {error}"))
        facts = self._report().facts(self._report().cause_of_the_end())
        if not self._job.hold_s:
            return replace(facts, is_leaving=self._link.is_open)
        self._link.hold(self._job.hold_s)  # it keeps the volumes that a later phase will have
        return facts

    # ---- following

    def _follow(self) -> None:
        """Until the state is OVER, or an exception tells what has ended it."""
        if not self._job.command:
            self._notes.refusal = NO_COMMAND
            return
        if not self._had_link:
            self._take_all(self._link.replayed())
        if self._connection.was_sent_ahead:
            self._apply(MonitorEvent.SENT_AHEAD)
        self._look_at_the_status()
        while self.state is not MonitorState.OVER:
            if self._link.is_open or self._link.has_more:
                self._receive()
            else:
                self._try_to_connect()
            for event in self._due():
                self._apply(event)

    def _apply(self, event: MonitorEvent) -> None:
        follows = TRANSITIONS.get((self.state, event))
        if follows is None:
            return
        self.state, action = follows
        if action is not None:
            self._actions[action]()

    def _try_to_connect(self) -> None:
        try:
            self._connection.connect()
        except (HostLost, NoSuchContainer, ContainerOver):
            if self.state is not MonitorState.COLLECTING:
                raise
            self._files.give_up("the container ended before its files were read")
            self._look_at_the_files()
            return
        if self._connection.was_sent_ahead:
            self._apply(MonitorEvent.SENT_AHEAD)

    def _receive(self) -> None:
        self._pump()
        messages = self._link.receive(self._wait_s())
        self._take_all(messages or [])
        if self._files.is_working and self._link.is_open:
            self._go_on_collecting(None)
        if messages:
            self._reporter.update(self._transcript)
        self._look_at_the_status()

    def _look_at_the_status(self) -> None:
        status = self._link.status
        if status is not None and status is not self._seen_status:
            self._seen_status = status
            self._take_status(status)

    def _wait_s(self) -> float:
        """How long there is nothing to do if nothing comes."""
        waits = [0.0 if self._files.is_working else _MAX_WAIT_S]
        if self.state in (MonitorState.NEW, MonitorState.SENT, MonitorState.RUNNING):
            left_s = self._limit_clock.next_check_s()
            waits.append(left_s if left_s > 0 else _OVERDUE_WAIT_S)
        if self.state is MonitorState.STOPPING:
            waits.append(self._told_at + _KILL_PATIENCE_S - self._clock())
        return max(0.01, min(waits))

    def _take_all(self, messages: list[UpMessage]) -> None:
        """Those of this run. What an earlier waiter left may tell of others, too: each has a monitor of its own."""
        for at, message in enumerate(messages):
            is_of_a_run = not getattr(message, "request", 0) and not isinstance(message, Fault)
            if is_of_a_run and message.run > self._number:
                self._link.give_back(messages[at:])
                return
            if not is_of_a_run or message.run == self._number:
                self._take(message)

    def _take(self, message: UpMessage) -> None:
        self._transcript.take(message)
        if isinstance(message, OutputData):
            if self._session is not None:
                self._session.on_output(message.stream is ProgramStream.STDERR, message.data)
        elif isinstance(message, FromProgram):
            self._take_programs_message(message.data)
        elif isinstance(message, Taken):
            self._program_has_taken(message)
        elif isinstance(message, Started):
            self._apply(MonitorEvent.STARTED)
        elif isinstance(message, RunRefused):
            self._notes.refusal = refusal_text(message, self._job)
            if message.why is RefusalReason.NOT_CLEAN:
                self.not_clean = one_line(message.what.decode("utf-8", "replace"))
            self._apply(MonitorEvent.REFUSED)
        elif isinstance(message, Ended):
            self._apply(MonitorEvent.ENDED)
        elif isinstance(message, (Entries, Piece)):
            if message.request:
                self._go_on_collecting(message)
        elif isinstance(message, Fault):
            raise FrameError(one_line(message.text.decode("utf-8", "replace")[:500]))

    def _take_programs_message(self, data: bytes) -> None:
        if self._session is not None:
            self._session.on_message(data)
        elif self._job.with_ssh:
            self.report_ssh(data.decode("utf-8", "replace"))

    def _program_has_taken(self, taken: Taken) -> None:
        if self._session is None:
            return
        if self._session.input is not None:
            self._session.input.taken(taken.input)
        if self._session.messages is not None:
            self._session.messages.taken(taken.messages)

    def _take_status(self, status: Status) -> None:
        """A session has begun."""
        self._transcript.beginning_lost = self._transcript.beginning_lost or self._link.beginning_lost
        if self._transcript.started is not None and status.run < self._number:
            raise ContainerOver(self._inspector.inspect())  # it was restarted by somebody
        if not status.run and self.state is MonitorState.NEW and not self._had_link and self._is_restarted():
            raise ContainerOver(self._inspector.inspect())
        self._resume_pumps(status)
        self._apply(MonitorEvent.CONNECTED)
        if status.run == self._number and status.cpu_us:  # none that runs has taken nothing: that is a counter which stands still
            self._limit_clock.runner_counts(status.cpu_us / 1e6)
        advice = self._backstop.answered(status, status.stream_bytes - self._link.read_to, run=self._number)
        if advice is Advice.STOP:
            self._stop_if_overdue()

    def _stop_if_overdue(self) -> None:
        """The runner lives, and has not stopped its run."""
        hit = self._limit_clock.limit_reached()
        if hit is None:
            self._backstop.was_in_time()
            return
        self._hit(hit)
        self._apply(MonitorEvent.STOP)

    def _is_restarted(self) -> bool:
        """Whether a runner that knows of no run is not the one to which an earlier waiter spoke."""
        if not self._job.taken_over or not self._job.elapsed_s:
            return False
        state = self._inspector.inspect()
        return self._inspector.was_restarted(state, first_start_s=0.0, followed_s=self._limit_clock.wall_time_s())

    def _resume_pumps(self, status: Status) -> None:
        if self._session is None:
            return
        if self._session.input is not None:
            self._session.input.resume(status.input)
        if self._session.messages is not None:
            self._session.messages.resume(status.messages)

    def _pump(self) -> None:
        if self._session is None or self.state not in (MonitorState.RUNNING, MonitorState.STOPPING):
            return
        if self._session.input is not None:
            self._link.send(*self._session.input.due(self._number))
        if self._session.messages is not None:
            self._link.send(*self._session.messages.due(self._number))

    # ---- what is due by the clocks, or was asked for by others

    def _due(self) -> Iterator[MonitorEvent]:
        if self._check_requested.is_set():
            self._check_requested.clear()
            self._look_whether_it_ended()
        if self._over is not None and self._clock() - self._over_since > _LAST_WORDS_S:
            raise ContainerOver(self._over)
        self._ssh.tell()
        if self._kill_requested.is_set() or (self._notes.refusal and self._job.with_ssh):
            yield MonitorEvent.STOP
        if self.state in (MonitorState.NEW, MonitorState.SENT, MonitorState.RUNNING):
            yield from self._due_by_limits()
        elif self.state is MonitorState.STOPPING and self._notes.limit_hit is not None:
            yield from self._take_advice(self._backstop.overdue(self._link.silent_s))  # it may have ended before
        elif self._is_unanswered():
            self._told_at = self._clock()
            yield MonitorEvent.UNANSWERED
        self._look_after_the_link()

    def _due_by_limits(self) -> Iterator[MonitorEvent]:
        """Before the program is known to have started, too: a runner that an earlier waiter gave its run may be at its end."""
        hit = self._limit_clock.limit_reached()
        if hit is None:
            return
        if self.state is MonitorState.RUNNING and self._limit_clock.enforces(hit.limit):
            self._hit(hit)
            yield MonitorEvent.STOP
        else:
            yield from self._take_advice(self._backstop.overdue(self._link.silent_s), hit)

    def _take_advice(self, advice: Advice, hit: LimitHit | None = None) -> Iterator[MonitorEvent]:
        if advice in (Advice.STOP, Advice.KILL):
            if hit is not None:
                self._hit(hit)
            yield MonitorEvent.STOP if advice is Advice.STOP else MonitorEvent.UNANSWERED
        elif advice is Advice.ASK:
            yield MonitorEvent.OVERDUE
        elif advice is Advice.CONNECT:
            self._link.close()
        elif advice is Advice.GIVE_UP:
            raise _ReportLost

    def _is_unanswered(self) -> bool:
        """Whether a KILL is without effect: while anything comes, the end may be behind it."""
        patience_s = _PATIENCE_S.get(self.state)
        return patience_s is not None and min(self._clock() - self._told_at, self._link.silent_s) > patience_s

    def _look_after_the_link(self) -> None:
        """A connection on which nothing comes may be dead."""
        if not self._connection.is_dead():
            return
        if self.state is MonitorState.COLLECTING:
            self._link.close()  # what was asked for is asked for again
        else:
            self._connection.try_it()

    def _look_whether_it_ended(self) -> None:
        try:
            state = self._inspector.inspect()
        except (NoSuchContainer, HostLost):
            if self.state is not MonitorState.COLLECTING:
                raise
            return
        if state.status is ContainerStatus.ENDED and self._over is None:
            self._over, self._over_since = state, self._clock()

    # ---- actions

    def _send_run(self) -> None:
        self._notes.may_have_started = True
        status = self._link.status
        if status is None or status.run >= self._number or self._connection.was_sent_ahead:
            return
        self._limit_clock.start(self._clock() + self._job.clearing_s)  # again when it has started
        for message in self._connection.run_messages():
            self._link.send(message)

    def _note_sent(self) -> None:
        self._notes.may_have_started = True
        self._limit_clock.start(self._clock() + self._job.clearing_s)

    def _tell_start(self) -> None:
        self._notes.timings.setdefault("send", round(self._connection.age_s, 4))
        if not self._job.taken_over:
            self._limit_clock.start(self._clock())
        self._send(ProgramStarted(container_name=self._job.container_name))
        if self._session is not None:
            self._session.on_start()

    def _ask_runner(self) -> None:
        self._connection.ping()

    def _send_kill(self) -> None:
        self._told_at = self._clock()
        self._link.send(Kill(run=self._number))

    def _kill_container(self) -> None:
        """The channel is closed first: an engine cannot stop a container whose output somebody holds and does not read."""
        self._told_at = self._clock()
        self._link.close()
        self._limit_clock.measure()
        self._notes.was_paused_externally = self._inspector.is_paused_externally()
        try:
            self._engine.kill(self._job.container_id)
        except EngineError as error:
            _log.debug("kill of %s: %s", self._job.container_name, error)  # the deleter removes it anyway

    def _hit(self, hit: LimitHit) -> None:
        self._notes.limit_hit = hit
        self._send(LimitReached(container_name=self._job.container_name, limit_hit=hit))

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.on_end()

    # ---- files

    def _collect(self) -> None:
        """Ask the runner for the first file. After a lost connection all is asked for again."""
        self._end_session()
        if self._kill_requested.is_set() or not self._files.are_wanted:
            self.state = MonitorState.OVER
            return
        self._files.begin()
        self._look_at_the_files()

    def _go_on_collecting(self, message: Entries | Piece | None) -> None:
        self._files.go_on(message)
        self._look_at_the_files()

    def _look_at_the_files(self) -> None:
        if self._files.result is not None:
            self._notes.collected = self._files.result
            self._notes.timings["collect"] = round(self._files.took_s, 4)
            self._apply(MonitorEvent.COLLECTED)

    def _report(self) -> RunReport:
        return RunReport(
            notes=self._notes,
            transcript=self._transcript,
            limit_clock=self._limit_clock,
            outage_s=self._inspector.outage_s,
            survived_outage_s=self._connection.survived_outage_s,
        )
