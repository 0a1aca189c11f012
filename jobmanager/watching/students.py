"""Student containers: what a grader asks for by the link is made, followed to its end, and removed.

::

    watch of the grading container ──► said: student, stdin, kill      (its thread: nothing here may hold it up)
    a thread a student                 make, follow (``watching/monitor.py``), judge, remove
    a writer a student                 its standard input
    one writer                         what the runner is told: a grader that does not read holds up nobody

They end with their job: when its watch is over, they are killed, and removed before the grading container is.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from jobmanager._submitter import submit
from jobmanager.engine.labels import STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError, StdinLink
from jobmanager.grading.link import (
    FromRunner,
    KillStudent,
    Nonsense,
    RunStudent,
    StudentInput,
    Unsupported,
    downwards,
    output_message,
)
from jobmanager.ipc.messages import ContainerStarted, GradingSettings, MonitorContainer, StartFailed
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER, ContainerSpec, ContainerState
from jobmanager.model.result import Outcome
from jobmanager.results.facts import Limit, RunFacts
from jobmanager.results.verdict import judge
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.stdin import StdinWriter
from jobmanager.watching.student_budget import Budget, Grant, NotGranted

_log = logging.getLogger(__name__)

_MOST_UNTAKEN = 2**20 + 2**18  # of a student's standard input; the runner keeps to less
_MOST_UNTOLD = 64 * 2**20  # of what students print and the runner does not read
_FOR_THE_REST = 2**20  # of all else that it does not read
_TOKEN_BYTES = 16
_REMOVALS = 3
_REMOVAL_PAUSE_S = 0.5
_FAREWELL_S = 10.0
_KILLED = (Outcome.KILLED, "the grader has ended, or ended it")
_MORE_THREADS = 8  # than students at once: of those that are refused, or being removed


class Watched(Protocol):
    """Where a waiter keeps the watches that it tells to look, and that make a container no stray."""

    def enlist(self, name: str, watch: ContainerMonitor) -> None: ...

    def strike(self, name: str) -> None: ...


class _NotMade(Exception):
    """Why there is no container: the wish's fault, unless the engine is away."""

    def __init__(self, reason: str, outcome: Outcome = Outcome.ERROR) -> None:
        super().__init__(reason)
        self.outcome = outcome


class Students:
    """All student containers of one grading job; a ``Talk`` with its runner."""

    def __init__(
        self, job: MonitorContainer, *, connect: Callable[[], Engine], host_lost_timeout_s: float, watched: Watched
    ) -> None:
        assert job.grading is not None
        self._job = job
        self._grading: GradingSettings = job.grading
        self._connect = connect
        self._host_lost_timeout_s = host_lost_timeout_s
        self._watched = watched
        self._lock = threading.Lock()
        self._running: dict[int, _Student] = {}
        self._highest_id = 0
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._to_runner = StdinWriter(most_bytes=_MOST_UNTOLD + _FOR_THE_REST, on_broken=self.broke)

    def of(self, watch: ContainerMonitor) -> None:
        """The grading container's watch, before it begins."""
        self._refuse_job, self._cut_job_off = watch.refuse, watch.cut_off
        self._stand_still, self._go_on = watch.stand_still, watch.goes_on
        self._budget = Budget(
            self._job.limits,
            cpu_time_s=self._grading.cpu_time_s,
            memory_mib=self._grading.memory_mib,
            most_students=self._grading.most_students,
            wall_left_s=watch.wall_left_s,
        )

    # ---- what the watch says

    def opened(self, link: StdinLink) -> None:
        self._to_runner.opened(link)

    def began(self) -> None:
        self._to_runner.begin()

    def said(self, message: FromRunner) -> None:
        if self._is_over.is_set():
            self._said_too_late(message)
        elif isinstance(message, RunStudent):
            self._run_student(message)
        elif isinstance(message, (StudentInput, KillStudent)):
            self._pass_on(message)
        elif isinstance(message, Unsupported):
            self._refuse_job(message.reason)
        elif isinstance(message, Nonsense):
            self._answer_nonsense(message)

    def broke(self) -> None:
        """The link is of no use any more. Its other end notices, but not where an engine comes back and holds it open."""
        with self._lock:
            somebody_waits = bool(self._running) and not self._is_over.is_set()
        self.over()
        if somebody_waits:
            self._cut_job_off()

    def over(self) -> None:
        """The job has ended, or the link has: so do its students, those of an earlier waiter too."""
        with self._lock:
            was_over = self._is_over.is_set()
            self._is_over.set()
            running = list(self._running.values())
        if self._job.taken_over and not was_over:
            with suppress(RuntimeError):  # no more threads to be had; whoever deletes the grading container looks again
                self._begin_thread(self._remove_what_is_left, "students-sweep")
        self._to_runner.close()
        for student in running:
            student.kill()

    def close(self) -> None:
        """Wait until nothing is left of them, but not for ever: whoever deletes the grading container looks again."""
        self.over()
        until = time.monotonic() + _FAREWELL_S
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))

    # ---- what is done

    def _said_too_late(self, message: FromRunner) -> None:
        """A wish that is new: what was heard before comes again with the log. Of an earlier waiter's it cannot be known."""
        if isinstance(message, (RunStudent, Unsupported)) and message.id > self._highest_id and not self._job.taken_over:
            self._cut_job_off()

    def _run_student(self, asked: RunStudent) -> None:
        if asked.id <= self._highest_id:
            self._refuse_job(f"the runner asked for student {asked.id} twice")
            return
        self._highest_id = asked.id
        most_output = self._job.limits.output_kib * 1024
        student = _Student(asked, tell=self._tell, relay=self._relay, most_output=most_output, begun=self._go_on)
        with self._lock:
            has_room = len(self._running) < self._grading.most_students + _MORE_THREADS
            if has_room:
                self._running[asked.id] = student
        self._stand_still()  # until it has begun, or is known not to: how long that takes is not the grader's doing
        if not has_room:
            student.tell_end(Outcome.ERROR, "too many student containers at once")
            return
        try:
            self._begin_thread(lambda: self._see_to(student), f"student-{asked.id}")
        except RuntimeError as error:  # no more threads to be had
            with self._lock:
                del self._running[asked.id]
            student.tell_end(Outcome.CRASH, str(error))

    def _pass_on(self, message: StudentInput | KillStudent) -> None:
        with self._lock:
            student = self._running.get(message.id)
        if student is None:  # it has ended meanwhile
            if message.id > self._highest_id:
                self._refuse_job(f"the runner spoke of student {message.id}, which it never asked for")
        elif isinstance(message, KillStudent):
            student.kill()
        else:
            student.feed(message.data)

    def _answer_nonsense(self, nonsense: Nonsense) -> None:
        if nonsense.id is None or nonsense.id <= self._highest_id:
            self._refuse_job(nonsense.reason)
            return
        self._highest_id = nonsense.id
        self._tell(downwards("end", nonsense.id, **_end(Outcome.ERROR, nonsense.reason, None)))

    def _relay(self, line: bytes) -> bool:
        """What a student printed; False when the runner is too far behind."""
        return self._to_runner.put(line, spare=_FOR_THE_REST)

    def _tell(self, line: bytes) -> None:
        if not self._to_runner.put(line):
            _log.warning("job %s: its grader does not read what it is told of its students, and is cut off", self._job.job_id)
            self.broke()

    def _see_to(self, student: _Student) -> None:
        """A student's thread."""
        try:
            grant = self._budget.take(student.asked)
            self._live(student, grant)
        except NotGranted as error:
            student.tell_end(Outcome.TIMEOUT if error.timeout else Outcome.ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the grader its student's end
            _log.exception("student %d of job %s failed", student.asked.id, self._job.job_id)
            student.tell_end(Outcome.CRASH, f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                del self._running[student.asked.id]

    def _live(self, student: _Student, grant: Grant) -> None:
        name = f"{self._job.container_name}-s{student.asked.id}"
        used_s: float | None = 0.0
        engine: Engine | None = None
        student.granted(lambda: self._budget.ends(grant))
        try:
            engine = self._connect()
            if self._is_over.is_set() or student.is_killed:
                student.tell_end(*_KILLED)
                return
            made = self._made(name, student.asked, grant, engine)
            used_s = None
            facts = self._followed(name, made, student, grant, engine)
            used_s = facts.cpu_time_s
            student.tell_end(*_judged(facts, grant, killed=student.is_killed), facts)
        except _NotMade as why:
            student.tell_end(why.outcome, str(why))
        finally:
            self._budget.ended(grant, used_s)
            try:
                if engine is not None:
                    self._remove(engine, name)
                    engine.close()
            finally:
                self._budget.gone(grant)

    def _made(self, name: str, asked: RunStudent, grant: Grant, engine: Engine) -> ContainerStarted:
        """The container; raises _NotMade."""
        image = self._grading.images.get(asked.environment) or self._grading.images.get(f"{asked.environment}:latest")
        if image is None:
            raise _NotMade(f"this host has no environment {asked.environment!r}")
        try:
            spec = self._spec(name, image, asked, grant, engine.inspect(self._job.container_id))
        except EngineError as error:
            raise _NotMade(f"the grading container could not be looked at: {error}", Outcome.CRASH) from error
        reply = submit(engine, spec)
        if not isinstance(reply, ContainerStarted):
            away = isinstance(reply, StartFailed) and reply.unreachable
            reason = f"the student container could not be started: {reply.reason}"
            raise _NotMade(reason, Outcome.CRASH if away else Outcome.ERROR)
        return reply

    def _spec(self, name: str, image: str, asked: RunStudent, grant: Grant, grading: ContainerState) -> ContainerSpec:
        return ContainerSpec(
            name=name,
            image=image,
            labels={**grading.labels, STUDENT_LABEL: grading.name},
            limits=grant.limits,
            network=self._grading.network,
            workspace=GRADING_WORKSPACE,
            shared_volume=grading.volumes[SHARED_FOLDER],
            network_of=grading.id if asked.share_network else "",
        )

    def _followed(self, name: str, made: ContainerStarted, student: _Student, grant: Grant, engine: Engine) -> RunFacts:
        asked = student.asked
        job = MonitorContainer(
            job_id=self._job.job_id,
            container_id=made.container_id,
            container_name=name,
            token=secrets.token_hex(_TOKEN_BYTES),
            command=asked.command,
            env=asked.env,
            files={},
            stdin=None,
            limits=grant.limits,
            collect=(),
            workspace=GRADING_WORKSPACE,
        )
        watch = ContainerMonitor(
            job,
            engine,
            host_lost_timeout_s=self._host_lost_timeout_s,
            send=lambda _: None,
            on_output=student.printed,
            talk=student,
            cpu_left_s=lambda used_s: self._budget.cpu_left_s(grant, used_s),
        )
        student.follow(watch)
        if self._is_over.is_set():
            student.kill()
        self._watched.enlist(name, watch)
        try:
            return watch.run()
        finally:
            self._watched.strike(name)

    def _remove(self, engine: Engine, name: str) -> None:
        for _ in range(_REMOVALS):
            try:
                engine.remove(name)
                return
            except EngineError as error:
                _log.debug("student container %s is not removed yet: %s", name, error)
                time.sleep(_REMOVAL_PAUSE_S)

    def _remove_what_is_left(self) -> None:
        engine = self._connect()
        try:
            with suppress(EngineError):  # whoever deletes the grading container looks again
                for found in engine.list({STUDENT_LABEL: self._job.container_name}):
                    engine.remove(found.id)
        finally:
            engine.close()

    def _begin_thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]


class _Student:
    """One student container, from the grader's request to its end; a ``Talk`` with its program."""

    def __init__(
        self,
        asked: RunStudent,
        *,
        tell: Callable[[bytes], None],
        relay: Callable[[bytes], bool],
        most_output: int,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """``begun`` is called once: its program has begun, or never will."""
        self.asked = asked
        self._begun: Callable[[], None] | None = begun
        self._output_left = most_output  # of what it prints until it is stopped for that, the grader hears no more
        self.is_killed = False
        self._tell = tell
        self._relay = relay
        self._watch: ContainerMonitor | None = None
        self._give_back: Callable[[], None] = lambda: None
        self._input = StdinWriter(most_bytes=_MOST_UNTAKEN, on_written=self._taken)
        self._too_much = self._is_ahead = False

    def granted(self, give_back: Callable[[], None]) -> None:
        """It has a place; ``give_back`` is called when it is killed, as that is free soon."""
        self._give_back = give_back
        if self.is_killed:
            give_back()

    def follow(self, watch: ContainerMonitor) -> None:
        """It has a container."""
        self._watch = watch
        if self.is_killed:
            watch.kill()

    def kill(self) -> None:
        self.is_killed = True
        self._give_back()
        if self._watch is not None:
            self._watch.kill()

    def feed(self, data: bytes) -> None:
        """Standard input; nothing: its end."""
        if not data:
            self._input.end()
        elif not self._input.put(data):
            self._too_much = True
            self.kill()

    def printed(self, stderr: bool, data: bytes) -> None:
        told = data[: self._output_left]
        self._output_left -= len(told)
        if told and not self._is_ahead and not self._relay(output_message(self.asked.id, stderr, told)):
            self._is_ahead = True  # whoever kept all of it would keep ever more
            self.kill()

    def tell_end(self, outcome: Outcome, text: str = "", facts: RunFacts | None = None) -> None:
        """The last that the grader hears of it."""
        if self._too_much:
            outcome, text = Outcome.ERROR, "more of its standard input was sent than it takes"
        if self._is_ahead:
            outcome, text = Outcome.OVERFLOW, f"{_MOST_UNTOLD // 2**20} MiB of what it printed wait for its grader to read them"
        self._is_begun()
        self._tell(downwards("end", self.asked.id, **_end(outcome, text, facts)))

    def opened(self, link: StdinLink) -> None:
        self._input.opened(link)

    def began(self) -> None:
        self._is_begun()
        self._tell(downwards("started", self.asked.id))
        self._input.begin()

    def _is_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()

    def said(self, message: FromRunner) -> None:
        """It has no runner."""

    def broke(self) -> None:
        self.over()

    def over(self) -> None:
        self._input.close()

    def _taken(self, count: int) -> None:
        self._tell(downwards("taken", self.asked.id, bytes=count))


def _judged(facts: RunFacts, grant: Grant, *, killed: bool) -> tuple[Outcome, str]:
    if killed:
        return _KILLED
    if facts.refusal:
        return Outcome.ERROR, facts.refusal
    verdict = judge(facts, grant.limits)
    stopped = facts.limit_hit
    if stopped is not None and stopped.limit is Limit.CPU and stopped.measured < grant.limits.cpu_time_s:
        return verdict.outcome, "the CPU time of all student containers together is used up"
    return verdict.outcome, verdict.text


def _end(outcome: Outcome, text: str, facts: RunFacts | None) -> dict[str, object]:
    peak = None if facts is None else facts.peak_memory_bytes
    return {
        "outcome": outcome.value,
        "text": text,
        "exit_code": None if facts is None or facts.end is None else facts.end.exit_code,
        "cpu_time_s": None if facts is None else facts.cpu_time_s,
        "wall_time_s": None if facts is None else facts.wall_time_s,
        "peak_memory_mib": None if peak is None else round(peak / 2**20, 2),
    }
