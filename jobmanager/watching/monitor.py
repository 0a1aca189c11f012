"""One container's watch: gives it its job, follows it to its end, and says what was seen.

A watch runs in a thread of its waiter and has an engine connection of its own. It reads the container's output
without pause, since an attached container stands still while nobody reads; at most every ``_GLANCE_S`` it looks at
the clock, at the CPU counter when that could have reached its limit, and at whether somebody asked for the end.
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
from jobmanager.model.container import ContainerState, Phase
from jobmanager.results.facts import Limit, LimitHit, RunFacts
from jobmanager.watching.collect import Collected, collected_of
from jobmanager.watching.delivery import Talk, deliver
from jobmanager.watching.inspector import HostLost, Looks
from jobmanager.watching.limit_clock import Meter
from jobmanager.watching.output_reporter import Showing
from jobmanager.watching.silence import Rest, Silence
from jobmanager.watching.transcript import Output, Tap, Transcript

_log = logging.getLogger(__name__)

_GLANCE_S = 0.25  # the longest that a kill or a deadline waits for the loop
_ACTING_GLANCE_S = 0.05
_FROZEN_GLANCE_S = 0.25  # what a frozen container had printed has come when nothing comes for so long
_FIRST_OUTPUT_S = 2.0  # in which a log that is read from its beginning may catch up, before a deadline is looked at
_MOST_STOPS_LOST = 3
_RETRY_S = 0.1


class _Over(Enum):
    COMPLETE = auto()  # PID 1 has said everything
    LIMIT = auto()  # a limit was reached
    ASKED = auto()  # somebody asked for the end
    BROKEN = auto()  # the stream ended: the container has, or the connection broke
    SILENT = auto()  # the stream says no more, although it should
    GIVEN_UP = auto()  # PID 1 has not said everything, and is not waited for any longer


class _NotYetBegun(Exception):
    """The engine could not be reached before the job was given to the container: another host can have it at once."""


class ContainerMonitor:
    """Follows one container. ``run`` is called once, in a thread; ``kill`` and ``look`` from anywhere."""

    def __init__(
        self,
        job: MonitorContainer,
        engine: Engine,
        *,
        host_lost_timeout_s: float,
        send: Callable[[ProgramStarted | SSHReady | LimitReached | OutputChunk], None],
        on_output: Callable[[bool, bytes], None] | None = None,
        talk: Talk | None = None,
        cpu_left_s: Callable[[float], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_output`` is handed what the program prints as it comes: whether it is standard error, and the bytes.

        It is called in the thread of ``run`` and must not block. After a connection broke it may miss some; it hears nothing twice.
        ``cpu_left_s`` is told what the container has used and says how much more it may, where that is less than its limit.
        """
        self._job = job
        self._engine = engine
        self._send = send
        self._clock = clock
        self._showing = Showing(job.job_id, send)
        self._tap = None if on_output is None else Tap(on_output)
        self._talk = talk
        self._kill_asked = threading.Event()
        self._look_asked = threading.Event()
        self._looks = Looks(job, engine, host_lost_timeout_s=host_lost_timeout_s, hurry=self._kill_asked, clock=clock)
        self._meter = Meter(job, engine, cpu_left_s=cpu_left_s, clock=clock)
        self._reads_log = self._delivered = False
        self._transcript = self._new_transcript()
        self._heard = Output()  # before the log took the place of the container's own stream
        self._told_began = self._told_door = False
        self._may_have_begun = job.taken_over  # the program: False is proof that nobody has given it to PID 1
        self._fed_whole = False  # by this watch itself
        self._catching_up_until = 0.0
        self._first_start_s = 0.0  # by the engine's clock; 0 where an earlier waiter delivered the job
        self._stopped: LimitHit | None = None
        self._stop_was_lost = False  # the latest one: the engine did not answer
        self._stops_lost = 0
        self._stopped_at: float | None = None  # somebody asked for its end, or a limit was reached
        self._is_frozen = False
        self._was_frozen = False  # by somebody else
        self._ended_at: float | None = None  # the program, by itself
        self._end_heard: EndMark | None = None  # before the log took the place of the container's own stream
        self._rest: Rest | None = None  # of what PID 1 says, once the program has ended
        self._heard_all = False
        self._late_output_bytes = 0  # that came only when it had been stopped
        self._collected = Collected()
        self._nonsense, self._is_cut_off = "", False
        self._survived_outage_s = 0.0
        self._timings: dict[str, float] = {}

    @property
    def container_id(self) -> str:
        """Of the container that it follows."""
        return self._job.container_id

    def kill(self) -> None:
        """End the container soon; ``run`` comes back with what was seen."""
        self._kill_asked.set()

    def look(self) -> None:
        """The container is said to have ended: look."""
        self._look_asked.set()

    def show(self, asked: FetchOutput) -> None:
        """Somebody follows the job: say what it prints."""
        self._showing.ask(asked)

    def refuse(self, nonsense: str) -> None:
        """End the container soon, for what its runner said."""
        self._nonsense = self._nonsense or nonsense
        self.kill()

    def cut_off(self) -> None:
        """End the container soon, as it waits for what will never come: the connection to its student containers broke."""
        self._is_cut_off = True
        self.kill()

    def stand_still(self) -> None:
        """Its wall clock stands still, until ``goes_on`` was called as often: what it waits for is our doing. Bounded in all."""
        self._meter.stand_still()

    def goes_on(self) -> None:
        self._meter.goes_on()

    def wall_left_s(self) -> float:
        """What is left of its wall-clock limit."""
        return self._job.limits.wall_s - self._meter.wall_time_s()

    def run(self) -> RunFacts:
        """Follow the container to its end. Whatever goes wrong on our side is told as its trouble."""
        try:
            return self._run()
        except Exception as error:  # noqa: BLE001 - the thread's edge: no more threads to be had, or a bug, must not cost the job its result
            _log.exception("watching job %s failed", self._job.job_id)
            return replace(self._facts(trouble=f"{type(error).__name__}: {error}"), end=None)  # more may be missing
        finally:
            self._be_silent()

    def _run(self) -> RunFacts:
        try:
            state = self._follow_to_the_end()
        except NoSuchContainer:
            return self._facts(gone=True)
        except HostLost:
            return self._facts(host_lost=True)
        except _NotYetBegun as error:
            return self._facts(unreachable=str(error))
        except EngineError as error:
            return self._facts(trouble=f"the engine refused to go on with it: {error}")
        self._be_silent()
        self._transcript.finish()
        if self._stopped_at is None:
            self._collected = self._collect()
        return self._facts(state=state)

    # ---- the way to the end

    def _follow_to_the_end(self) -> ContainerState | None:
        """Returns the container's state when it ended without PID 1's word."""
        stream = self._take_over() if self._job.taken_over else self._deliver()
        while True:
            over = self._follow_and_stop(stream)
            if over not in (_Over.BROKEN, _Over.SILENT):
                return None
            outage_before = self._looks.outage_s
            self._engine.close()  # an engine that is being shut down still answers on old connections, and takes no new ones
            state = self._looks.state()
            has_ended = state.phase is Phase.ENDED or self._was_restarted(state)
            came_to_its_end = over is _Over.BROKEN and stream is not None
            if has_ended and self._looks.outage_s == outage_before and (came_to_its_end or self._is_silent_for_good(over)):
                self._transcript.finish()
                self._heard_all = came_to_its_end
                if state.in_removal:
                    raise NoSuchContainer(self._job.container_name)  # soon: whoever looks later must see the same
                return state
            if self._is_silent_for_good(over):
                return None
            if not has_ended:
                self._survived_outage_s = self._looks.outage_s
            if self._looks.outage_s != outage_before:
                self._catching_up_until = 0.0  # the engine needs as long again to show its log
            self._kill_asked.wait(_RETRY_S)
            stream = self._reread() if self._delivered else self._take_over()

    def _is_silent_for_good(self, over: _Over) -> bool:
        """Whether neither the container's own stream nor its log says what is missing."""
        return over is _Over.SILENT and self._reads_log

    def _follow_and_stop(self, stream: OutputStream | None) -> _Over:
        over = self._glance()  # a log that ends at once, again and again, must not keep us from looking at the clocks
        if stream is None:
            if over in (_Over.LIMIT, _Over.ASKED):
                self._stopped_at = self._clock()
                self._take_and_kill()
            return over or _Over.BROKEN
        try:
            over = over or self._follow(stream)
            if over is _Over.LIMIT:
                over = self._freeze(stream)
            if over in (_Over.LIMIT, _Over.ASKED):
                self._end(stream)
            return over
        finally:
            stream.close()

    def _deliver(self) -> OutputStream | None:
        """Attach, then feed: in this order nothing of the output can be missed. None when that did not work."""
        began = self._clock()
        try:
            self._first_start_s = self._engine.inspect(self._job.container_id).started_at_s
            stream = self._engine.attach(self._job.container_id)
        except Unreachable as error:
            raise _NotYetBegun(str(error)) from error
        except NotRunning:
            return None
        if not self._feed():
            stream.close()
            return None
        self._timings["deliver"] = round(self._clock() - began, 4)
        return stream

    def _take_over(self) -> OutputStream | None:
        """Somebody may have delivered the job before: the log tells. If not, it is delivered now.

        A delivery that broke off in the middle cannot be repeated, and need not be: PID 1 ends when its input does.
        """
        stream = self._reread()
        if stream is None:
            return None
        silence = Silence(self._looks, self._clock)
        while not silence.is_proven:
            chunks = stream.read(_GLANCE_S)
            if chunks:
                self._delivered = True
                self._tell_that_it_broke()
                self._transcript.read(chunks)
                self._showing.look(self._transcript)
                return stream
            if chunks is None:  # it has ended, or cannot be reached
                return stream
            if silence.is_long():  # a log that stays empty belongs to a container that had no job yet
                silence.looked()
        if self._feed():
            return stream
        stream.close()
        return None

    def _reread(self) -> OutputStream | None:
        """The output again from its beginning, as the log kept it.

        Until it has been read, no deadline is looked at; nor for ever, as a log may not be readable any more.
        """
        if self._delivered:
            self._tell_that_it_broke()
        self._heard = self._transcript.output(self._heard)
        self._end_heard = self._end_mark
        self._reads_log = True
        self._transcript = self._new_transcript()
        self._catching_up_until = self._catching_up_until or self._clock() + _FIRST_OUTPUT_S
        try:
            return self._engine.logs(self._job.container_id)
        except Unreachable:
            return None

    def _feed(self) -> bool:
        job = self._job
        self._may_have_begun = True
        try:
            deliver(self._engine, job, self._talk, self._can_still_take_it, started_at_s=self._first_start_s)
        except (Unreachable, NotRunning) as error:
            _log.warning("job %s could not be delivered whole: %s", job.job_id, error)
            return False
        self._delivered = self._fed_whole = True
        self._meter.start(self._clock())
        return True

    def _tell_that_it_broke(self) -> None:
        if self._talk is not None:
            self._talk.broke()

    def _be_silent(self) -> None:
        if self._talk is not None:
            self._talk.over()

    def _can_still_take_it(self) -> bool:
        """Asked while a container takes nothing of its job: one that has ended never will."""
        return not self._kill_asked.is_set() and self._engine.inspect(self._job.container_id).phase is not Phase.ENDED

    def _follow(self, stream: OutputStream) -> _Over:
        silence = Silence(self._looks, self._clock)
        while True:
            chunks = stream.read(_GLANCE_S)
            if chunks is None:
                return _Over.BROKEN
            if chunks:
                silence.broken()
            elif self._has_gone_silent(silence):
                return _Over.SILENT
            self._take_in(chunks)
            if not chunks:
                self._catching_up_until = 0.0
            if self._transcript.began and not self._told_began:
                self._told_began = True
                self._send(ProgramStarted(container_name=self._job.container_name))
                if self._talk is not None:
                    self._talk.began()
            if self._job.with_ssh and self._transcript.door_open and not self._told_door:
                self._tell_door()
            over = self._glance()
            if over is not None:
                return over

    def _take_in(self, chunks: list[Chunk]) -> None:
        self._transcript.read(chunks)
        self._showing.look(self._transcript)
        if self._rest is not None:
            self._rest.came(sum(len(chunk.data) for chunk in chunks))

    def _has_gone_silent(self, silence: Silence) -> bool:
        """Whether the stream lacks what it should have: the program has ended, or the container is said to have."""
        if not silence.is_long() or (self._ended_at is None and not self._look_asked.is_set()):
            return False
        state = silence.looked()
        if self._ended_at is None and state.phase is not Phase.ENDED:
            self._look_asked.clear()
            silence.broken()
        return silence.is_proven

    def _tell_door(self) -> None:
        try:
            ports = self._engine.inspect(self._job.container_id).ports
        except EngineError as error:  # asked again soon
            _log.debug("ports of %s: %s", self._job.container_name, error)
            return
        if not ports:
            raise Refused("it published no port: a session needs a bridge network that can be reached from outside")
        self._told_door = True
        self._send(SSHReady(container_name=self._job.container_name, port=next(iter(ports.values()))))

    def _glance(self) -> _Over | None:
        """Whether it is over, by what has been read and by the clock."""
        transcript = self._transcript
        if transcript.end is not None and self._ended_at is None:
            self._program_ended()
        if transcript.complete:
            self._heard_all = True
            return _Over.COMPLETE
        if self._printed_too_much:
            return self._reached(LimitHit(limit=Limit.OUTPUT, measured=transcript.output_bytes))
        if self._kill_asked.is_set():
            return _Over.ASKED
        if self._rest is not None:
            return self._waits_for_the_rest(self._rest)
        if self._clock() < self._catching_up_until:  # its end may be in the log already
            return None
        stopped = self._meter.reached(transcript.cpu_before_ns)
        return None if stopped is None else self._reached(stopped)

    def _waits_for_the_rest(self, rest: Rest) -> _Over | None:
        """An end that a program said in PID 1's place frees it from no limit but that of wall clock, and not for long."""
        if rest.is_late:
            return _Over.GIVEN_UP
        stopped = self._meter.reached_cpu(self._transcript.cpu_before_ns) if rest.takes_long else None
        return None if stopped is None else self._reached(stopped)

    def _program_ended(self) -> None:
        self._ended_at = self._clock()
        self._rest = Rest(self._clock)

    def _has_ended_unheard(self) -> bool:
        """Whether the program had ended by itself, and PID 1's word of it is late, or lost with a log that cannot be written."""
        if self._transcript.end is not None:
            return False
        try:
            return any(self._engine.archive(self._job.container_id, trace_of_the_end(self._job.token, self._job.workspace)))
        except Unreachable:
            self._stop_was_lost = True  # or as good as that: it is to be asked again
            return False
        except EngineError:
            return False

    def _reached(self, stopped: LimitHit) -> _Over:
        self._stopped = stopped
        self._send(LimitReached(container_name=self._job.container_name, stopped=stopped))
        return _Over.LIMIT

    # ---- the end

    def _freeze(self, stream: OutputStream) -> _Over:
        """A limit was reached. What it turns out to be: where the link or the engine was behind, the program may have ended before.

        A stop that the engine did not take was none, so all is looked at again once it answers.
        """
        assert self._stopped is not None, "a limit was reached"
        self._stopped_at, self._stop_was_lost = self._clock(), False
        printed_before = self._transcript.output_bytes
        self._read_while(stream, self._pause)
        self._until_nothing_comes(stream)
        if self._stopped.limit is Limit.WALL and self._has_ended_in_time():
            self._go_on()
            return self._follow(stream) if self._transcript.end is not None or self._reads_log else _Over.SILENT
        if self._stop_was_lost and self._stops_lost < _MOST_STOPS_LOST:
            self._stops_lost += 1
            self._stopped = self._stopped_at = None
            return _Over.BROKEN
        self._late_output_bytes = self._transcript.output_bytes - printed_before
        return _Over.LIMIT

    def _has_ended_in_time(self) -> bool:
        end = self._transcript.end
        if end is None:
            return self._has_ended_unheard()
        return end.wall_s is None or self._meter.without_standstill_s(end.wall_s) <= self._job.limits.wall_s

    def _go_on(self) -> None:
        """It was frozen in vain: let PID 1 say the rest."""
        self._stopped = self._stopped_at = None
        if self._ended_at is None:
            self._program_ended()
        try:
            self._engine.unpause(self._job.container_id)
        except EngineError as error:
            _log.debug("unpause of %s: %s", self._job.container_name, error)

    def _end(self, stream: OutputStream) -> None:
        """Kill it, and hear what it had printed until then. After a limit it is frozen: what it used and made is taken first."""
        if self._stopped_at is None:
            self._stopped_at = self._clock()
        printed_before = self._transcript.output_bytes
        self._read_while(stream, self._take_and_kill)
        self._be_silent()
        self._until_it_ends(stream)
        self._late_output_bytes += self._transcript.output_bytes - printed_before

    def _read_while(self, stream: OutputStream, act: Callable[[], None]) -> None:
        """While the engine is at it, since what is attached and unread it cannot stop."""
        with ThreadPoolExecutor(1, thread_name_prefix="jobmanager-stop") as thread:
            acting = thread.submit(self._guarded, act)
            while not acting.done():
                chunks = stream.read(_ACTING_GLANCE_S)
                if chunks is None:
                    break
                self._take_in(chunks)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 - the thread's edge: a stop that was not carried out is none
            self._stop_was_lost = True
            _log.exception("stopping job %s failed", self._job.job_id)

    def _until_nothing_comes(self, stream: OutputStream) -> None:
        """What a frozen container had printed; one that goes on could print for ever."""
        while self._is_frozen and not self._printed_too_much and (chunks := stream.read(_FROZEN_GLANCE_S)):
            self._take_in(chunks)

    def _until_it_ends(self, stream: OutputStream) -> None:
        """As the stream of a container does that has ended. Not for ever: the engine may not have taken the kill."""
        silence, rest = Silence(self._looks, self._clock), Rest(self._clock)
        while not (silence.is_proven or rest.is_late or self._printed_too_much):
            chunks = stream.read(_GLANCE_S)
            if chunks is None:
                self._heard_all = True
                return
            if chunks:
                silence.broken()
                rest.came(sum(len(chunk.data) for chunk in chunks))
                self._take_in(chunks)
            elif silence.is_long():
                try:
                    silence.looked()
                except (EngineError, HostLost):
                    return

    def _take_and_kill(self) -> None:
        if self._stopped is not None:
            self._meter.measure(self._transcript.cpu_before_ns)
            self._collected = self._collect()
        self._kill()

    def _kill(self) -> None:
        try:
            self._engine.kill(self._job.container_id)
        except EngineError as error:
            _log.debug("kill of %s: %s", self._job.container_name, error)  # its removal follows

    def _pause(self) -> None:
        """Once it has ended its counters are gone and its workspace is empty, so both are read while it is frozen."""
        try:
            self._engine.pause(self._job.container_id)
            self._is_frozen = True
        except EngineError as error:
            self._stop_was_lost = isinstance(error, Unreachable)
            self._is_frozen = isinstance(error, NotRunning)  # also the word for one that is frozen already
            self._was_frozen = not self._stops_lost and self._looks.is_frozen_by_somebody_else()
            _log.debug("pause of %s: %s", self._job.container_name, error)

    def _collect(self) -> Collected:
        is_over = self._ended_at is not None or self._stopped is not None
        wanted = (self._job.collect or self._job.grading) and is_over and not self._kill_asked.is_set()
        if not wanted or self._transcript.refusal:
            return Collected()
        began = self._clock()
        found = collected_of(self._job, self._engine, self._looks)
        self._timings["collect"] = round(self._clock() - began, 4)
        return found

    def _was_restarted(self, state: ContainerState) -> bool:
        followed_s = self._meter.wall_time_s()
        return self._looks.was_restarted(state, first_start_s=self._first_start_s, followed_s=followed_s)

    @property
    def _has_begun(self) -> bool:
        """Whether the program, or PID 1 on its behalf, was heard of; a log that took the stream's place may know less."""
        return self._told_began or self._transcript.began

    def _was_cut_short(self) -> bool:
        """Whether PID 1 could not unpack because a delivery broke off, rather than for the files' own sake."""
        return self._transcript.refusal == CANNOT_UNPACK and not self._fed_whole

    def _is_untouched(self, state: ContainerState | None) -> bool:
        """Whether the program never began: nobody gave it to PID 1, or PID 1 says that it did not get all of it."""
        if self._has_begun:
            return False
        left_without_it = state is not None and state.exit_code == NOT_DELIVERED and not self._transcript.refusal
        return not self._may_have_begun or self._was_cut_short() or left_without_it

    def _stopped_by_us(self, *, ended_unheard: bool) -> LimitHit | None:
        """Our kill for a limit, or that of an earlier waiter which did not live to tell of the end."""
        return self._stopped or (self._job.stopped if ended_unheard and self._end_mark is None else None)

    @property
    def _printed_too_much(self) -> bool:
        """Whether nothing more of its output is of use."""
        return self._transcript.output_bytes > self._job.limits.output_kib * 1024

    @property
    def _end_mark(self) -> EndMark | None:
        return self._transcript.end or self._end_heard

    def _new_transcript(self) -> Transcript:
        if self._tap is not None:
            self._tap.begin_again()
        job = self._job
        token = link_token(job.token) if job.grading is not None else None
        hear = None if self._talk is None else self._talk.said
        return Transcript(job.token, job.limits.output_kib * 1024, self._tap, link_token=token, hear=hear)

    def _facts(
        self,
        *,
        state: ContainerState | None = None,
        gone: bool = False,
        unreachable: str = "",
        host_lost: bool = False,
        trouble: str = "",
    ) -> RunFacts:
        transcript, output = self._transcript, self._transcript.output(self._heard)
        if self._stopped is not None and not self._has_begun:
            trouble = trouble or "the container did not take its job in time"
        if self._ended_at is not None and self._end_mark is None and self._stopped is None:
            trouble = trouble or "how it ended was lost with the container's log, which the engine could not write"
        end, wall_s, cpu_time_s = self._end_mark, self._wall_time_s(), self._cpu_time_s()
        return RunFacts(
            program_started=self._has_begun,
            never_started=self._is_untouched(state),
            unreachable_reason=unreachable,
            end=end,
            limit_hit=self._stopped_by_us(ended_unheard=gone or state is not None) if self._has_begun else None,
            refusal="" if self._was_cut_short() else transcript.refusal,
            state=state,
            container_removed=gone,
            paused_externally=self._was_frozen,
            outage_s=self._looks.outage_s,
            survived_outage_s=self._survived_outage_s,
            host_lost=host_lost,
            infrastructure_error=trouble,
            link_broke=transcript.link_broke or (self._is_cut_off and end is None),
            protocol_error=self._nonsense,
            stdout=output.stdout,
            stderr=output.stderr,
            stdout_bytes=output.stdout_bytes,
            stderr_bytes=output.stderr_bytes,
            log_rotated=transcript.beginning_lost,
            output_from_log=self._reads_log and self._has_begun,
            result_file=transcript.result_file,
            archive=self._collected.archive,
            archive_error=self._collected.trouble,
            not_collected=self._collected.passed_over,
            output_incomplete=self._has_begun and not (self._heard_all or gone or self._printed_too_much),
            final_report_incomplete=end is not None and not transcript.complete,
            late_output_bytes=self._late_output_bytes,
            cpu_time_s=None if cpu_time_s is None else round(cpu_time_s, 4),
            wall_time_s=round(wall_s, 4),
            peak_memory_bytes=end.peak_memory_bytes if end is not None else self._meter.peak_memory_bytes,
            timings={**self._timings, "run": round(wall_s, 4)},
        )

    def _wall_time_s(self) -> float:
        """Our clock's, which hears of an end late where the link is slow; the container's own is not later than that."""
        ours_s = self._meter.wall_time_s(self._stopped_at if self._ended_at is None else self._ended_at)
        if self._stopped is not None:
            return max(ours_s, self._stopped.measured) if self._stopped.limit is Limit.WALL else ours_s
        end = self._end_mark
        return ours_s if end is None or end.wall_s is None else min(ours_s, self._meter.without_standstill_s(end.wall_s))

    def _cpu_time_s(self) -> float | None:
        """PID 1's figure; of a program that we stopped not less than what the engine had told."""
        end, counted_s = self._end_mark, self._meter.cpu_time_s
        if end is None or end.cpu_ns is None:
            return counted_s
        return end.cpu_ns / 1e9 if self._stopped is None else max(end.cpu_ns / 1e9, counted_s or 0.0)
