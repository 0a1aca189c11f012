"""The monitor of one container: sends it the job, follows it to its end, and reports facts.

A monitor runs in a thread of its waiter and has an engine connection of its own. It reads the container's output
without pause, as an attached container blocks while its output is not read. At least every ``_POLL_INTERVAL_S`` it checks
the clock, the CPU counter when that could have reached its limit, and whether a kill was requested.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum, auto

from jobmanager.engine.pid1 import CANNOT_UNPACK, NOT_DELIVERED, EndMark, trace_of_the_end
from jobmanager.engine.protocol import (
    Chunk,
    Engine,
    EngineError,
    NoSuchContainer,
    NotRunning,
    OutputStream,
    Refused,
    Unreachable,
)
from jobmanager.grading.link import link_token
from jobmanager.ipc.messages import FetchOutput, LimitReached, MonitorContainer, OutputChunk, ProgramStarted, SSHReady
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import (
    CapturedOutput,
    Cause,
    Collected,
    ContainerEnded,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    Limit,
    LimitHit,
    RemovedExternally,
    RunFacts,
)
from jobmanager.watching.collect import collected_of
from jobmanager.watching.ending import Observations, ending_of
from jobmanager.watching.inspector import ContainerInspector, HostLost
from jobmanager.watching.limit_clock import LimitClock
from jobmanager.watching.output_reporter import OutputReporter
from jobmanager.watching.stdin import StdinSession, send_job
from jobmanager.watching.stream_timeouts import ReportDeadline, SilenceDetector
from jobmanager.watching.transcript import OutputForwarder, Transcript

_log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.25  # bounds the delay of a kill and of a deadline
_STOPPING_POLL_INTERVAL_S = 0.05
_PAUSED_POLL_INTERVAL_S = 0.25  # a paused container's output is complete when nothing comes for so long
_LOG_CATCH_UP_S = 2.0  # deadlines are not checked for so long while a log is read from its beginning
_MAX_FAILED_STOPS = 3
_TRIES_TO_FREEZE = 5
_RETRY_S = 0.1


class _FollowResult(Enum):
    COMPLETE = auto()  # PID 1's report is complete
    LIMIT_REACHED = auto()
    KILL_REQUESTED = auto()
    STREAM_ENDED = auto()  # the container ended, or the connection broke
    STREAM_SILENT = auto()  # nothing more comes, although it should
    ABANDONED = auto()  # PID 1's report is incomplete and too late


class _UnreachableBeforeStart(Exception):
    """The engine could not be reached before the job was sent: another host can run it at once."""


class ContainerMonitor:
    """Follows one container. ``run`` is called once, in a thread; the other methods may be called from any thread."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        send: Callable[[ProgramStarted | SSHReady | LimitReached | OutputChunk], None],
        on_output: Callable[[bool, bytes], None] | None = None,
        session: StdinSession | None = None,
        cpu_left_s: Callable[[float], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_output`` is called with the program's output as it comes: whether it is standard error, and the bytes.

        It is called in the thread of ``run`` and must not block. After a broken connection some output may be missing; none
        comes twice. ``cpu_left_s`` takes the CPU seconds used and returns how many more are allowed; default: up to the limit.
        """
        self._job = job
        self._engine = engine
        self._send = send
        self._clock = clock
        self._reporter = OutputReporter(job.job_id, send)
        self._forwarder = None if on_output is None else OutputForwarder(on_output)
        self._session = session
        self._kill_requested = threading.Event()
        self._check_requested = threading.Event()
        self._inspector = ContainerInspector(
            job, engine, host_lost_timeout_s=host_lost_timeout_s, give_up=self._kill_requested, clock=clock
        )
        self._limit_clock = LimitClock(job, engine, cpu_left_s=cpu_left_s, clock=clock)
        self._reads_log = self._job_sent = False
        self._transcript = self._new_transcript()
        self._earlier_output = CapturedOutput()  # before the log took the place of the container's own stream
        self._start_reported = self._ssh_reported = False
        self._may_have_started = job.taken_over  # the program; False is proof that the job was never sent
        self._sent_whole = False  # by this monitor itself
        self._catching_up_until = 0.0
        self._container_started_at_s = 0.0  # by the engine's clock; 0 where an earlier waiter sent the job
        self._limit_hit: LimitHit | None = None
        self._stop_failed = False  # the latest one: the engine did not answer
        self._failed_stops = 0
        self._stopped_at: float | None = None  # by a kill or for a limit
        self._is_paused = self._was_paused_by_us = False
        self._stays_frozen = False  # after a limit, as it shares volumes that others may need
        self._was_paused_externally = False
        self._ended_at: float | None = None  # when the program's own end was noticed
        self._earlier_end_mark: EndMark | None = None  # before the log took the place of the container's own stream
        self._report_deadline: ReportDeadline | None = None  # from the program's end on
        self._stream_complete = False
        self._late_output_bytes = 0  # received after the stop
        self._collected = Collected()
        self._protocol_error, self._link_lost = "", False
        self._survived_outage_s = 0.0
        self._timings: dict[str, float] = {}

    @property
    def container_id(self) -> str:
        """Id of the monitored container."""
        return self._job.container_id

    def kill(self) -> None:
        """End the container soon; ``run`` then returns the facts."""
        self._kill_requested.set()

    def check(self) -> None:
        """Check soon whether the container has ended."""
        self._check_requested.set()

    def fetch_output(self, request: FetchOutput) -> None:
        """Report the output past these offsets once."""
        self._reporter.request(request)

    def end_for_protocol_error(self, reason: str) -> None:
        """End the container soon, as its supervisor violated the protocol, or asked for what it cannot have."""
        self._protocol_error = self._protocol_error or reason
        self.kill()

    def end_for_lost_link(self) -> None:
        """End the container soon, as the connection to its student containers broke while it waits for them."""
        self._link_lost = True
        self.kill()

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
            return self._facts(failure, is_end_known=False)  # more may be missing
        finally:
            self._end_session()

    def _run(self) -> RunFacts:
        try:
            state = self._follow_to_the_end()
        except NoSuchContainer:
            return self._facts(RemovedExternally())
        except HostLost:
            return self._facts(HostGivenUp())
        except _UnreachableBeforeStart as error:
            return self._facts(EngineUnreachable(reason=str(error)))
        except EngineError as error:
            return self._facts(InfrastructureFailure(reason=f"the engine refused to go on with it: {error}"))
        self._end_session()
        self._transcript.finish()
        if self._stopped_at is None:
            self._freeze_for_its_volumes()
            self._collected = self._collect()
        return self._facts(ContainerEnded(container=state))

    # ---- following

    def _follow_to_the_end(self) -> ContainerInfo | None:
        """Returns the container's state when it ended without PID 1's report."""
        stream = self._take_over() if self._job.taken_over else self._send_job()
        while True:
            over = self._follow_once(stream)
            if over not in (_FollowResult.STREAM_ENDED, _FollowResult.STREAM_SILENT):
                return None
            outage_before = self._inspector.outage_s
            self._engine.close()  # an engine that is being shut down still answers on old connections, and takes no new ones
            state = self._inspector.inspect()
            has_ended = state.status is ContainerStatus.ENDED or self._was_restarted(state)
            came_to_its_end = over is _FollowResult.STREAM_ENDED and stream is not None
            if has_ended and self._inspector.outage_s == outage_before and (came_to_its_end or self._is_silent_for_good(over)):
                self._transcript.finish()
                self._stream_complete = came_to_its_end
                if state.in_removal:
                    raise NoSuchContainer(self._job.container_name)  # soon: a later check must have the same result
                return state
            if self._is_silent_for_good(over):
                return None
            if not has_ended:
                self._survived_outage_s = self._inspector.outage_s
            if self._inspector.outage_s != outage_before:
                self._catching_up_until = 0.0  # the engine needs as long again to show its log
            self._kill_requested.wait(_RETRY_S)
            stream = self._reread() if self._job_sent else self._take_over()

    def _is_silent_for_good(self, over: _FollowResult) -> bool:
        """Whether neither the container's own stream nor its log has the rest."""
        return over is _FollowResult.STREAM_SILENT and self._reads_log

    def _follow_once(self, stream: OutputStream | None) -> _FollowResult:
        over = self._check_limits()  # first, as a log may end at once, again and again
        if stream is None:
            if over in (_FollowResult.LIMIT_REACHED, _FollowResult.KILL_REQUESTED):
                self._stopped_at = self._clock()
                self._collect_and_kill()
            return over or _FollowResult.STREAM_ENDED
        try:
            over = over or self._follow(stream)
            if over is _FollowResult.LIMIT_REACHED:
                over = self._pause_for_limit(stream)
            if over in (_FollowResult.LIMIT_REACHED, _FollowResult.KILL_REQUESTED):
                self._stop(stream)
            return over
        finally:
            stream.close()

    def _send_job(self) -> OutputStream | None:
        """Attach, then send: in this order no output is missed. None when the container took no job."""
        began = self._clock()
        try:
            self._container_started_at_s = self._engine.inspect(self._job.container_id).started_at_s
            stream = self._engine.attach(self._job.container_id)
        except Unreachable as error:
            raise _UnreachableBeforeStart(str(error)) from error
        except NotRunning:
            return None
        if not self._write_job():
            stream.close()
            return None
        self._timings["send"] = round(self._clock() - began, 4)
        return stream

    def _take_over(self) -> OutputStream | None:
        """An earlier waiter may have sent the job: then the log is not empty. Otherwise it is sent now.

        A job that was sent in part cannot be sent again, and need not be: PID 1 ends when its input does.
        """
        stream = self._reread()
        if stream is None:
            return None
        silence = SilenceDetector(self._inspector, self._clock)
        while not silence.is_confirmed:
            chunks = stream.read(_POLL_INTERVAL_S)
            if chunks:
                self._job_sent = True
                self._report_disconnect()
                self._transcript.read(chunks)
                self._reporter.update(self._transcript)
                return stream
            if chunks is None:  # the container has ended, or cannot be reached
                return stream
            if silence.check_is_due():  # a log that stays empty belongs to a container that had no job yet
                silence.check()
        if self._write_job():
            return stream
        stream.close()
        return None

    def _reread(self) -> OutputStream | None:
        """The output from its beginning, as the log has it.

        No deadline is checked until the log has been read, or for ``_LOG_CATCH_UP_S``, as it may be unreadable.
        """
        if self._job_sent:
            self._report_disconnect()
        self._earlier_output = self._transcript.output(self._earlier_output)
        self._earlier_end_mark = self._end_mark
        self._reads_log = True
        self._transcript = self._new_transcript()
        self._catching_up_until = self._catching_up_until or self._clock() + _LOG_CATCH_UP_S
        try:
            return self._engine.logs(self._job.container_id)
        except Unreachable:
            return None

    def _write_job(self) -> bool:
        job = self._job
        self._may_have_started = True
        try:
            send_job(self._engine, job, self._session, self._still_takes_input, started_at_s=self._container_started_at_s)
        except (Unreachable, NotRunning) as error:
            _log.warning("job %s could not be sent whole: %s", job.job_id, error)
            return False
        self._job_sent = self._sent_whole = True
        self._limit_clock.start(self._clock())
        return True

    def _report_disconnect(self) -> None:
        if self._session is not None:
            self._session.on_disconnect()

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.on_end()

    def _still_takes_input(self) -> bool:
        """Whether it is worth waiting while the container reads nothing: one that has ended never will."""
        if self._kill_requested.is_set():
            return False
        return self._engine.inspect(self._job.container_id).status is not ContainerStatus.ENDED

    def _follow(self, stream: OutputStream) -> _FollowResult:
        silence = SilenceDetector(self._inspector, self._clock)
        while True:
            chunks = stream.read(_POLL_INTERVAL_S)
            if chunks is None:
                return _FollowResult.STREAM_ENDED
            if chunks:
                silence.reset()
            elif self._is_silent(silence):
                return _FollowResult.STREAM_SILENT
            self._process(chunks)
            if not chunks:
                self._catching_up_until = 0.0
            if self._transcript.began and not self._start_reported:
                self._start_reported = True
                self._send(ProgramStarted(container_name=self._job.container_name))
                if self._session is not None:
                    self._session.on_start()
            if self._job.with_ssh and self._transcript.ssh_ready and not self._ssh_reported:
                self._report_ssh_ready()
            over = self._check_limits()
            if over is not None:
                return over

    def _process(self, chunks: list[Chunk]) -> None:
        self._transcript.read(chunks)
        self._reporter.update(self._transcript)
        if self._report_deadline is not None:
            self._report_deadline.extend(sum(len(chunk.data) for chunk in chunks))

    def _is_silent(self, silence: SilenceDetector) -> bool:
        """Whether the stream is dead: the program has ended, or the container may have, and nothing comes."""
        if not silence.check_is_due() or (self._ended_at is None and not self._check_requested.is_set()):
            return False
        state = silence.check()
        if self._ended_at is None and state.status is not ContainerStatus.ENDED:
            self._check_requested.clear()
            silence.reset()
        return silence.is_confirmed

    def _report_ssh_ready(self) -> None:
        try:
            ports = self._engine.inspect(self._job.container_id).ports
        except EngineError as error:  # the next turn tries again
            _log.debug("ports of %s: %s", self._job.container_name, error)
            return
        if not ports:
            raise Refused("it published no port: a session needs a bridge network that can be reached from outside")
        self._ssh_reported = True
        self._send(SSHReady(container_name=self._job.container_name, port=next(iter(ports.values()))))

    def _check_limits(self) -> _FollowResult | None:
        """Whether following ends here, by what has been read and by the clocks."""
        transcript = self._transcript
        if transcript.end is not None and self._ended_at is None:
            self._program_ended()
        if transcript.complete:
            self._stream_complete = True
            return _FollowResult.COMPLETE
        if self._output_limit_exceeded:
            return self._report_limit(LimitHit(limit=Limit.OUTPUT, measured=transcript.output_bytes))
        if self._kill_requested.is_set():
            return _FollowResult.KILL_REQUESTED
        if self._report_deadline is not None:
            return self._check_report_deadline(self._report_deadline)
        if self._clock() < self._catching_up_until:  # the end may be in the log already
            return None
        limit_hit = self._limit_clock.limit_reached(transcript.cpu_before_ns)
        return None if limit_hit is None else self._report_limit(limit_hit)

    def _check_report_deadline(self, deadline: ReportDeadline) -> _FollowResult | None:
        """The end mark may be the program's forgery: CPU time stays limited, and the wall clock is, by the deadline."""
        if deadline.has_passed:
            return _FollowResult.ABANDONED
        limit_hit = self._limit_clock.cpu_limit_reached(self._transcript.cpu_before_ns) if deadline.is_slow else None
        return None if limit_hit is None else self._report_limit(limit_hit)

    def _program_ended(self) -> None:
        self._ended_at = self._clock()
        self._report_deadline = ReportDeadline(self._clock)

    def _has_unreported_end(self) -> bool:
        """Whether the program has ended by itself, but PID 1's report is late, or lost as the log could not be written."""
        if self._transcript.end is not None:
            return False
        try:
            return any(self._engine.archive(self._job.container_id, trace_of_the_end(self._job.token, self._job.workspace)))
        except Unreachable:
            self._stop_failed = True  # unknown, so the stop is tried again
            return False
        except EngineError:
            return False

    def _report_limit(self, limit_hit: LimitHit) -> _FollowResult:
        self._limit_hit = limit_hit
        self._send(LimitReached(container_name=self._job.container_name, limit_hit=limit_hit))
        return _FollowResult.LIMIT_REACHED

    # ---- stopping

    def _pause_for_limit(self, stream: OutputStream) -> _FollowResult:
        """Pause the container at a limit, then check again: its own end in time may arrive late over a slow link.

        Where the engine did not pause it, everything is checked again once the engine answers.
        """
        assert self._limit_hit is not None, "a limit was reached"
        self._stopped_at, self._stop_failed = self._clock(), False
        printed_before = self._transcript.output_bytes
        self._read_while(stream, self._pause)
        self._read_until_quiet(stream)
        if self._limit_hit.limit is Limit.WALL and self._has_ended_in_time():
            self._resume()
            return self._follow(stream) if self._transcript.end is not None or self._reads_log else _FollowResult.STREAM_SILENT
        if self._stop_failed and self._failed_stops < _MAX_FAILED_STOPS:
            self._failed_stops += 1
            self._limit_hit = self._stopped_at = None
            return _FollowResult.STREAM_ENDED
        self._late_output_bytes = self._transcript.output_bytes - printed_before
        return _FollowResult.LIMIT_REACHED

    def _has_ended_in_time(self) -> bool:
        end = self._transcript.end
        if end is None:
            return self._has_unreported_end()
        return end.wall_s is None or self._limit_clock.less_pauses_s(end.wall_s) <= self._job.limits.wall_s

    def _resume(self) -> None:
        """Undo the pause: the program had ended in time, and PID 1 can report the rest."""
        self._limit_hit = self._stopped_at = None
        if self._ended_at is None:
            self._program_ended()
        try:
            self._engine.unpause(self._job.container_id)
        except EngineError as error:
            _log.debug("unpause of %s: %s", self._job.container_name, error)

    def _stop(self, stream: OutputStream) -> None:
        """Kill the container and read the output until its end. After a limit its usage and files are taken first.

        One that shares volumes stays frozen after a limit: it may be the only one that has what is in them.
        """
        if self._stopped_at is None:
            self._stopped_at = self._clock()
        printed_before = self._transcript.output_bytes
        self._read_while(stream, self._collect_and_kill)
        self._end_session()
        if self._stays_frozen:
            self._stream_complete = True
        else:
            self._read_until_end(stream)
        self._late_output_bytes += self._transcript.output_bytes - printed_before

    def _read_while(self, stream: OutputStream, act: Callable[[], None]) -> None:
        """Read while the engine acts: it cannot stop a container whose attached stream is not read."""
        with ThreadPoolExecutor(1, thread_name_prefix="jobmanager-stop") as thread:
            acting = thread.submit(self._guarded, act)
            while not acting.done():
                chunks = stream.read(_STOPPING_POLL_INTERVAL_S)
                if chunks is None:
                    break
                self._process(chunks)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 - the thread's edge: the stop counts as failed
            self._stop_failed = True
            _log.exception("stopping job %s failed", self._job.job_id)

    def _read_until_quiet(self, stream: OutputStream) -> None:
        """Read the output of a paused container; one that runs on could print for ever."""
        while self._is_paused and not self._output_limit_exceeded and (chunks := stream.read(_PAUSED_POLL_INTERVAL_S)):
            self._process(chunks)

    def _read_until_end(self, stream: OutputStream) -> None:
        """Read until the stream ends, but not for ever: the engine may not have carried out the kill."""
        silence, deadline = SilenceDetector(self._inspector, self._clock), ReportDeadline(self._clock)
        while not (silence.is_confirmed or deadline.has_passed or self._output_limit_exceeded):
            chunks = stream.read(_POLL_INTERVAL_S)
            if chunks is None:
                self._stream_complete = True
                return
            if chunks:
                silence.reset()
                deadline.extend(sum(len(chunk.data) for chunk in chunks))
                self._process(chunks)
            elif silence.check_is_due():
                try:
                    silence.check()
                except (EngineError, HostLost):
                    return

    def _collect_and_kill(self) -> None:
        if self._limit_hit is not None:
            self._limit_clock.measure(self._transcript.cpu_before_ns)
            self._collected = self._collect()
        self._stays_frozen = self._limit_hit is not None and self._was_paused_by_us and bool(self._job.volume_mib)
        if not self._stays_frozen:
            self._kill()

    def _kill(self) -> None:
        try:
            self._engine.kill(self._job.container_id)
        except EngineError as error:
            _log.debug("kill of %s: %s", self._job.container_name, error)  # the deleter removes it anyway

    def _pause(self) -> None:
        """Pause the container: its counters and its workspace can be read only before its end."""
        try:
            self._engine.pause(self._job.container_id)
            self._is_paused = self._was_paused_by_us = True
        except EngineError as error:
            self._was_paused_by_us = False
            self._stop_failed = isinstance(error, Unreachable)
            self._is_paused = isinstance(error, NotRunning)  # also raised for a container that is paused already
            self._was_paused_externally = not self._failed_stops and self._inspector.is_paused_externally()
            _log.debug("pause of %s: %s", self._job.container_name, error)

    def _freeze_for_its_volumes(self) -> None:
        """A container that shares volumes may be kept for them, and nobody watches it then: nothing may run in it any more.

        PID 1 has killed all, but a program can forge its report, and would write to the volumes while a later phase runs.
        """
        if not self._job.volume_mib:
            return
        for _ in range(_TRIES_TO_FREEZE):
            try:
                self._engine.pause(self._job.container_id)
            except (NoSuchContainer, NotRunning):  # also raised for a container that is paused already
                return
            except EngineError as error:  # runc gives up when the container's processes hardly get to run
                _log.debug("pause of %s: %s", self._job.container_name, error)
            else:
                return
        self._kill()

    def _collect(self) -> Collected:
        is_over = self._ended_at is not None or self._limit_hit is not None
        wanted = (self._job.collect or self._job.grading or self._job.tests) and is_over and not self._kill_requested.is_set()
        if not wanted or self._transcript.refusal:
            return Collected()
        began = self._clock()
        found = collected_of(self._job, self._engine, self._inspector)
        self._timings["collect"] = round(self._clock() - began, 4)
        return found

    def _was_restarted(self, state: ContainerInfo) -> bool:
        followed_s = self._limit_clock.wall_time_s()
        return self._inspector.was_restarted(state, first_start_s=self._container_started_at_s, followed_s=followed_s)

    @property
    def _has_started(self) -> bool:
        """Whether the program has started, by the stream or the log; the log may have less."""
        return self._start_reported or self._transcript.began

    def _was_partly_sent(self) -> bool:
        """Whether PID 1 could not unpack because sending broke off, and not because of the files."""
        return self._transcript.refusal == CANNOT_UNPACK and not self._sent_whole

    def _never_started(self, state: ContainerInfo | None) -> bool:
        """Whether it is proven that the program never started: the job was not sent, or PID 1 did not receive all of it."""
        if self._has_started:
            return False
        ended_without_job = state is not None and state.exit_code == NOT_DELIVERED and not self._transcript.refusal
        return not self._may_have_started or self._was_partly_sent() or ended_without_job

    def _our_limit_hit(self, cause: Cause | EngineUnreachable) -> LimitHit | None:
        """Our stop for a limit, or that of an earlier waiter which died before it could report the end."""
        if not self._has_started:
            return None
        ended = isinstance(cause, RemovedExternally) or (isinstance(cause, ContainerEnded) and cause.container is not None)
        return self._limit_hit or (self._job.limit_hit if ended and self._end_mark is None else None)

    @property
    def _output_limit_exceeded(self) -> bool:
        """Whether more output than allowed has come."""
        return self._transcript.output_bytes > self._job.limits.output_kib * 1024

    @property
    def _end_mark(self) -> EndMark | None:
        return self._transcript.end or self._earlier_end_mark

    def _new_transcript(self) -> Transcript:
        if self._forwarder is not None:
            self._forwarder.restart()
        job = self._job
        token = link_token(job.token) if job.grading is not None else None
        on_message = None if self._session is None else self._session.on_message
        return Transcript(job.token, job.limits.output_kib * 1024, self._forwarder, link_token=token, on_message=on_message)

    def _facts(self, cause: Cause | EngineUnreachable, *, is_end_known: bool = True) -> RunFacts:
        """What was seen. ``cause`` is why nothing more is followed; a program that ended by itself may have ended before."""
        wall_s, cpu_time_s, end = self._wall_time_s(), self._cpu_time_s(), self._end_mark
        return RunFacts(
            ending=ending_of(self._observations(cause, end if is_end_known else None)),
            output=self._captured_output(removed=isinstance(cause, RemovedExternally)),
            collected=self._collected,
            paused_externally=self._was_paused_externally,
            outage_s=self._inspector.outage_s,
            cpu_time_s=None if cpu_time_s is None else round(cpu_time_s, 4),
            wall_time_s=round(wall_s, 4),
            peak_memory_bytes=end.peak_memory_bytes if end is not None else self._limit_clock.peak_memory_bytes,
            timings={**self._timings, "run": round(wall_s, 4)},
            volume_devices=self._transcript.volume_devices,
        )

    def _observations(self, cause: Cause | EngineUnreachable, end: EndMark | None) -> Observations:
        """All that says how the run ended."""
        transcript, container = self._transcript, cause.container if isinstance(cause, ContainerEnded) else None
        return Observations(
            cause=cause,
            never_started=self._never_started(container),
            limit_hit=self._our_limit_hit(cause),
            protocol_error=self._protocol_error,
            refusal="" if self._was_partly_sent() else transcript.refusal,
            students_lost=transcript.link_broke or (self._link_lost and self._end_mark is None),
            end=end,
            report_complete=transcript.complete,
            result_file=transcript.result_file,
            ended_during_outage=self._inspector.outage_s > self._survived_outage_s,
            missing_report=self._missing_report(),
        )

    def _captured_output(self, *, removed: bool) -> CapturedOutput:
        is_whole = self._stream_complete or removed or self._output_limit_exceeded
        return replace(
            self._transcript.output(self._earlier_output),
            beginning_lost=self._transcript.beginning_lost,
            is_incomplete=self._has_started and not is_whole,
            from_log=self._reads_log and self._has_started,
            late_bytes=self._late_output_bytes,
        )

    def _missing_report(self) -> str:
        """Why there is no report of PID 1, where that is an error of ours or the engine's; empty otherwise."""
        if self._ended_at is not None and self._end_mark is None and self._limit_hit is None:
            return "how it ended was lost with the container's log, which the engine could not write"
        if self._limit_hit is not None and not self._has_started:
            return "the container did not take its job in time"
        return ""

    def _wall_time_s(self) -> float:
        """By our clock, or by the container's where that is less: over a slow link we notice an end late."""
        ours_s = self._limit_clock.wall_time_s(self._stopped_at if self._ended_at is None else self._ended_at)
        if self._limit_hit is not None:
            return max(ours_s, self._limit_hit.measured) if self._limit_hit.limit is Limit.WALL else ours_s
        end = self._end_mark
        return ours_s if end is None or end.wall_s is None else min(ours_s, self._limit_clock.less_pauses_s(end.wall_s))

    def _cpu_time_s(self) -> float | None:
        """By PID 1's report; for a program that we stopped at least what the engine had counted."""
        end, counted_s = self._end_mark, self._limit_clock.cpu_time_s
        if end is None or end.cpu_ns is None:
            return counted_s
        return end.cpu_ns / 1e9 if self._limit_hit is None else max(end.cpu_ns / 1e9, counted_s or 0.0)
