"""Student containers: started for a grader that asks over the link, followed to their end, and removed.

::

    monitor of the grading container ──► on_message: student, stdin, kill   (its thread: nothing here may block it)
    a thread per student container       start, follow (``watching/monitor.py``), judge, remove
    a writer per student container       its standard input
    one writer                           messages to the supervisor: a grader that does not read them blocks nobody

They end with their job: when its monitor ends, they are killed, and removed before the grading container is.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from jobmanager._deleter import delete_students
from jobmanager._submitter import submit
from jobmanager.engine.labels import STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError, StdinLink
from jobmanager.grading.link import (
    KillStudent,
    ProtocolViolation,
    RunStudent,
    StudentInput,
    SupervisorMessage,
    UnsupportedRequest,
    message_to_supervisor,
    output_message,
)
from jobmanager.ipc.messages import ContainerStarted, GradingSettings, MonitorContainer, StartFailed
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER, ContainerInfo, ContainerSpec
from jobmanager.model.result import Outcome
from jobmanager.results.facts import CannotRun, Limit, RunFacts, StoppedForLimit
from jobmanager.results.verdict import judge
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.stdin import StdinWriter
from jobmanager.watching.student_budget import Allocation, BudgetExceeded, StudentBudget

_log = logging.getLogger(__name__)

_MAX_UNWRITTEN_STDIN_BYTES = 2**20 + 2**18  # of one student; the supervisor sends less ahead
_MAX_UNREAD_OUTPUT_BYTES = 64 * 2**20  # of all students, that the supervisor has not read
_RESERVED_BYTES = 2**20  # for other messages to the supervisor
_TOKEN_BYTES = 16
_REMOVAL_TRIES = 3
_REMOVAL_PAUSE_S = 0.5
_CLOSE_TIMEOUT_S = 10.0
_KILLED = (Outcome.KILLED, "the grader has ended, or ended it")
_EXTRA_THREADS = 8  # beside one per student that may run: for those that are refused or being removed


class MonitorRegistry(Protocol):
    """A waiter's monitors. It has them check their containers, and reports other containers as unknown."""

    def register(self, name: str, monitor: ContainerMonitor) -> None: ...

    def unregister(self, name: str) -> None: ...


class _StudentNotStarted(Exception):
    """Why there is no container: the request's fault, unless the outcome says otherwise."""

    def __init__(self, reason: str, outcome: Outcome = Outcome.ERROR) -> None:
        super().__init__(reason)
        self.outcome = outcome


class StudentContainers:
    """All student containers of one grading job, and the ``StdinSession`` with its supervisor."""

    def __init__(
        self, job: MonitorContainer, *, connect: Callable[[], Engine], host_lost_timeout_s: float, monitors: MonitorRegistry
    ) -> None:
        assert job.grading is not None
        self._job = job
        self._grading: GradingSettings = job.grading
        self._connect = connect
        self._host_lost_timeout_s = host_lost_timeout_s
        self._monitors = monitors
        self._lock = threading.Lock()
        self._running: dict[int, _StudentContainer] = {}
        self._highest_id = 0
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._to_supervisor = StdinWriter(max_bytes=_MAX_UNREAD_OUTPUT_BYTES + _RESERVED_BYTES, on_broken=self.on_disconnect)

    def attach_to(self, monitor: ContainerMonitor) -> None:
        """Called before the grading container's monitor runs."""
        self._end_for_protocol_error, self._end_for_lost_link = monitor.end_for_protocol_error, monitor.end_for_lost_link
        self._pause_wall_clock, self._resume_wall_clock = monitor.pause_wall_clock, monitor.resume_wall_clock
        self._budget = StudentBudget(
            self._job.limits,
            cpu_time_s=self._grading.cpu_time_s,
            memory_mib=self._grading.memory_mib,
            most_students=self._grading.most_students,
            wall_time_left_s=monitor.wall_time_left_s,
        )

    # ---- called by the monitor

    def on_open(self, link: StdinLink) -> None:
        self._to_supervisor.open(link)

    def on_start(self) -> None:
        self._to_supervisor.start()

    def on_message(self, message: SupervisorMessage) -> None:
        if self._ended.is_set():
            self._end_if_new(message)
        elif isinstance(message, RunStudent):
            self._run_student(message)
        elif isinstance(message, (StudentInput, KillStudent)):
            self._pass_on(message)
        elif isinstance(message, UnsupportedRequest):
            self._end_for_protocol_error(message.reason)
        elif isinstance(message, ProtocolViolation):
            self._answer_violation(message)

    def on_disconnect(self) -> None:
        """The link is broken. Its other end may not notice, as an engine that comes back can hold it open."""
        with self._lock:
            grader_waits = bool(self._running) and not self._ended.is_set()
        self.on_end()
        if grader_waits:
            self._end_for_lost_link()

    def on_end(self) -> None:
        """The job or the link has ended: end its students too, also those of an earlier waiter."""
        with self._lock:
            had_ended = self._ended.is_set()
            self._ended.set()
            running = list(self._running.values())
        if self._job.taken_over and not had_ended:
            with suppress(RuntimeError):  # no more threads; the deleter of the grading container looks again
                self._start_thread(self._remove_leftovers, "students-sweep")
        self._to_supervisor.close()
        for student in running:
            student.kill()

    def close(self) -> None:
        """Wait until all are removed, but not for ever: the deleter of the grading container looks again."""
        self.on_end()
        until = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))

    # ---- requests of the supervisor

    def _end_if_new(self, message: SupervisorMessage) -> None:
        """A new request can no longer be served. One that was served before comes again when the log is read.

        After a take-over nobody knows which were served.
        """
        if isinstance(message, (RunStudent, UnsupportedRequest)) and message.id > self._highest_id and not self._job.taken_over:
            self._end_for_lost_link()

    def _run_student(self, request: RunStudent) -> None:
        if request.id <= self._highest_id:
            self._end_for_protocol_error(f"the supervisor asked for student {request.id} twice")
            return
        self._highest_id = request.id
        student = _StudentContainer(
            request,
            send=self._send,
            send_output=self._send_output,
            max_output_bytes=self._job.limits.output_kib * 1024,
            on_started=self._resume_wall_clock,
        )
        with self._lock:
            has_room = len(self._running) < self._grading.most_students + _EXTRA_THREADS
            if has_room:
                self._running[request.id] = student
        self._pause_wall_clock()  # until it has started or failed: the grader does not pay for that time
        if not has_room:
            student.report_end(Outcome.ERROR, "too many student containers at once")
            return
        try:
            self._start_thread(lambda: self._run(student), f"student-{request.id}")
        except RuntimeError as error:  # no more threads
            with self._lock:
                del self._running[request.id]
            student.report_end(Outcome.CRASH, str(error))

    def _pass_on(self, message: StudentInput | KillStudent) -> None:
        with self._lock:
            student = self._running.get(message.id)
        if student is None:  # it has ended
            if message.id > self._highest_id:
                self._end_for_protocol_error(f"the supervisor spoke of student {message.id}, which it never asked for")
        elif isinstance(message, KillStudent):
            student.kill()
        else:
            student.write_stdin(message.data)

    def _answer_violation(self, violation: ProtocolViolation) -> None:
        if violation.id is None or violation.id <= self._highest_id:
            self._end_for_protocol_error(violation.reason)
            return
        self._highest_id = violation.id
        self._send(message_to_supervisor("end", violation.id, **_end(Outcome.ERROR, violation.reason, None)))

    def _send_output(self, line: bytes) -> bool:
        """Send a student's output to the supervisor; False when it is too far behind."""
        return self._to_supervisor.put(line, reserve=_RESERVED_BYTES)

    def _send(self, line: bytes) -> None:
        if not self._to_supervisor.put(line):
            _log.warning("job %s: its grader does not read messages about its students, and is disconnected", self._job.job_id)
            self.on_disconnect()

    def _run(self, student: _StudentContainer) -> None:
        """The thread of one student container."""
        try:
            allocation = self._budget.allocate(student.request)
            self._run_in_container(student, allocation)
        except BudgetExceeded as error:
            student.report_end(Outcome.TIMEOUT if error.timeout else Outcome.ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the grader its student's end
            _log.exception("student %d of job %s failed", student.request.id, self._job.job_id)
            student.report_end(Outcome.CRASH, f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                del self._running[student.request.id]

    def _run_in_container(self, student: _StudentContainer, allocation: Allocation) -> None:
        name = f"{self._job.container_name}-s{student.request.id}"
        used_s: float | None = 0.0
        engine: Engine | None = None
        student.on_allocated(lambda: self._budget.mark_stopping(allocation))
        try:
            engine = self._connect()
            if self._ended.is_set() or student.is_killed:
                student.report_end(*_KILLED)
                return
            started = self._start(name, student.request, allocation, engine)
            used_s = None
            facts = self._follow(name, started, student, allocation, engine)
            used_s = facts.cpu_time_s
            student.report_end(*_judged(facts, allocation, killed=student.is_killed), facts)
        except _StudentNotStarted as why:
            student.report_end(why.outcome, str(why))
        finally:
            self._budget.mark_stopped(allocation, used_s)
            try:
                if engine is not None:
                    self._remove(engine, name)
                    engine.close()
            finally:
                self._budget.release(allocation)

    def _start(self, name: str, request: RunStudent, allocation: Allocation, engine: Engine) -> ContainerStarted:
        """Raises _StudentNotStarted."""
        image = self._grading.images.get(request.environment) or self._grading.images.get(f"{request.environment}:latest")
        if image is None:
            raise _StudentNotStarted(f"this host has no environment {request.environment!r}")
        try:
            spec = self._spec(name, image, request, allocation, engine.inspect(self._job.container_id))
        except EngineError as error:
            raise _StudentNotStarted(f"the grading container could not be inspected: {error}", Outcome.CRASH) from error
        reply = submit(engine, spec)
        if not isinstance(reply, ContainerStarted):
            unreachable = isinstance(reply, StartFailed) and reply.unreachable
            reason = f"the student container could not be started: {reply.reason}"
            raise _StudentNotStarted(reason, Outcome.CRASH if unreachable else Outcome.ERROR)
        return reply

    def _spec(
        self, name: str, image: str, request: RunStudent, allocation: Allocation, grading: ContainerInfo
    ) -> ContainerSpec:
        return ContainerSpec(
            name=name,
            image=image,
            labels={**grading.labels, STUDENT_LABEL: grading.name},
            limits=allocation.limits,
            network=self._grading.network,
            workspace=GRADING_WORKSPACE,
            shared_volume=grading.volumes[SHARED_FOLDER],
            network_of=grading.id if request.share_network else "",
        )

    def _follow(
        self, name: str, started: ContainerStarted, student: _StudentContainer, allocation: Allocation, engine: Engine
    ) -> RunFacts:
        job = MonitorContainer(
            job_id=self._job.job_id,
            container_id=started.container_id,
            container_name=name,
            token=secrets.token_hex(_TOKEN_BYTES),
            command=student.request.command,
            env=student.request.env,
            files={},
            stdin=None,
            limits=allocation.limits,
            collect=(),
            workspace=GRADING_WORKSPACE,
        )
        monitor = ContainerMonitor(
            job,
            engine,
            host_lost_timeout_s=self._host_lost_timeout_s,
            send=lambda _: None,
            on_output=student.on_output,
            session=student,
            cpu_left_s=lambda used_s: self._budget.cpu_left_s(allocation, used_s),
        )
        student.follow(monitor)
        if self._ended.is_set():
            student.kill()
        self._monitors.register(name, monitor)
        try:
            return monitor.run()
        finally:
            self._monitors.unregister(name)

    def _remove(self, engine: Engine, name: str) -> None:
        for _ in range(_REMOVAL_TRIES):
            try:
                engine.remove(name)
                return
            except EngineError as error:
                _log.debug("student container %s is not removed yet: %s", name, error)
                time.sleep(_REMOVAL_PAUSE_S)

    def _remove_leftovers(self) -> None:
        engine = self._connect()
        try:
            with suppress(EngineError):  # the deleter of the grading container looks again
                delete_students(engine, self._job.container_name)
        finally:
            engine.close()

    def _start_thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]


class _StudentContainer:
    """One student container, from the grader's request to its end, and the ``StdinSession`` with its program."""

    def __init__(
        self,
        request: RunStudent,
        *,
        send: Callable[[bytes], None],
        send_output: Callable[[bytes], bool],
        max_output_bytes: int,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_started`` is called once: the program has started, or never will."""
        self.request = request
        self.is_killed = False
        self._on_started: Callable[[], None] | None = on_started
        self._output_left = max_output_bytes  # what is printed past that until the stop is not sent to the grader
        self._send = send
        self._send_output = send_output
        self._monitor: ContainerMonitor | None = None
        self._mark_stopping: Callable[[], None] = lambda: None
        self._stdin = StdinWriter(max_bytes=_MAX_UNWRITTEN_STDIN_BYTES, on_written=self._report_written)
        self._stdin_overflowed = self._output_overflowed = False

    def on_allocated(self, mark_stopping: Callable[[], None]) -> None:
        """It has its share of the budget. ``mark_stopping`` is called when it is killed, as that is free soon."""
        self._mark_stopping = mark_stopping
        if self.is_killed:
            mark_stopping()

    def follow(self, monitor: ContainerMonitor) -> None:
        """It has a container."""
        self._monitor = monitor
        if self.is_killed:
            monitor.kill()

    def kill(self) -> None:
        self.is_killed = True
        self._mark_stopping()
        if self._monitor is not None:
            self._monitor.kill()

    def write_stdin(self, data: bytes) -> None:
        """Write standard input; empty data ends it."""
        if not data:
            self._stdin.end()
        elif not self._stdin.put(data):
            self._stdin_overflowed = True
            self.kill()

    def on_output(self, stderr: bool, data: bytes) -> None:
        sent = data[: self._output_left]
        self._output_left -= len(sent)
        if sent and not self._output_overflowed and not self._send_output(output_message(self.request.id, stderr, sent)):
            self._output_overflowed = True  # more would only take more memory
            self.kill()

    def report_end(self, outcome: Outcome, text: str = "", facts: RunFacts | None = None) -> None:
        """Send the last message about it to the grader."""
        if self._stdin_overflowed:
            outcome, text = Outcome.ERROR, "more of its standard input was sent than it takes"
        if self._output_overflowed:
            unread_mib = _MAX_UNREAD_OUTPUT_BYTES // 2**20
            outcome, text = Outcome.OVERFLOW, f"{unread_mib} MiB of what it printed wait for its grader to read them"
        self._report_started()
        self._send(message_to_supervisor("end", self.request.id, **_end(outcome, text, facts)))

    def on_open(self, link: StdinLink) -> None:
        self._stdin.open(link)

    def on_start(self) -> None:
        self._report_started()
        self._send(message_to_supervisor("started", self.request.id))
        self._stdin.start()

    def _report_started(self) -> None:
        on_started, self._on_started = self._on_started, None
        if on_started is not None:
            on_started()

    def on_message(self, message: SupervisorMessage) -> None:
        """A student container has no supervisor."""

    def on_disconnect(self) -> None:
        self.on_end()

    def on_end(self) -> None:
        self._stdin.close()

    def _report_written(self, count: int) -> None:
        self._send(message_to_supervisor("taken", self.request.id, bytes=count))


def _judged(facts: RunFacts, allocation: Allocation, *, killed: bool) -> tuple[Outcome, str]:
    if killed:
        return _KILLED
    if isinstance(facts.ending, CannotRun):
        return Outcome.ERROR, facts.ending.reason
    verdict = judge(facts, allocation.limits)
    limit_hit = facts.ending.limit_hit if isinstance(facts.ending, StoppedForLimit) else None
    if limit_hit is not None and limit_hit.limit is Limit.CPU and limit_hit.measured < allocation.limits.cpu_time_s:
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
