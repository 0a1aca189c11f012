"""The students of one grading job: the session with its supervisor, which asks for them over the link.

::

    monitor of the grading container ──► on_message: student, stdin, kill   (its thread: nothing here may block it)
                                     ◄── ``messages``: what it sends to the supervisor, as far as that takes it
    a thread per student container       start, follow, judge, remove (``student_container.py``)

They end with their job: when its monitor ends, they are killed, and removed before the grading container is. They do not outlive
their waiter either: the next one cannot go on with them. It asks the supervisor which are open, and cuts the job off if any is.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace

from jobmanager._deleter import delete_students
from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.grading.link import (
    EACH_TOLD_BYTES,
    MAX_TOLD_BYTES,
    CloseContainer,
    KillStudent,
    LinkLost,
    LinkReader,
    OpenContainer,
    OpenStudents,
    ProtocolViolation,
    RunStudent,
    SSHReport,
    StudentInput,
    SupervisorMessage,
    TellSubmitter,
    UnsupportedRequest,
    open_students_question,
    pieces,
)
from jobmanager.ipc.messages import GradingSettings, MonitorContainer
from jobmanager.model.result import Outcome
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.pumps import MessagePump
from jobmanager.watching.student_budget import StudentBudget
from jobmanager.watching.student_container import GradingContainer, MonitorRegistry, StudentContainer
from jobmanager.watching.student_program import MAX_UNREAD_OUTPUT_BYTES, StudentProgram, end_message

_log = logging.getLogger(__name__)

_RESERVED_BYTES = 2**20  # for other messages to the supervisor
_CLOSE_TIMEOUT_S = 10.0
_QUESTION_BITS = 50
_MOST_OPENED = 100  # names; containers are bounded by the budget
_EXTRA_THREADS = 8  # beside one per student that may run: for those that are refused or being removed


class StudentContainers:
    """All student containers of one grading job, and the ``ProgramSession`` with its supervisor."""

    input = None

    def __init__(
        self,
        job: MonitorContainer,
        *,
        host: str,
        runners: RunnerVolumes,
        connect: Callable[[], Engine],
        host_lost_timeout_s: float,
        monitors: MonitorRegistry,
    ) -> None:
        assert job.grading is not None
        self._job = job
        self._grading: GradingSettings = job.grading
        self._connect = connect
        self._host_lost_timeout_s = host_lost_timeout_s
        self._monitors = monitors
        self._lock = threading.Lock()
        self._running: dict[int, tuple[StudentContainer, StudentProgram]] = {}  # by the program's id
        self._containers = 0  # that are there, or are being made or removed
        self._opened: dict[str, OpenContainer] = {}  # by name
        self._kept: dict[str, StudentContainer] = {}  # the same, once they have had a program
        self._highest_id = 0
        self._told_bytes = 0
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.messages = MessagePump(max_bytes=MAX_UNREAD_OUTPUT_BYTES + _RESERVED_BYTES, on_resumed=self._ask_what_is_open)
        self._question = random.getrandbits(_QUESTION_BITS) + 1 if job.taken_over else 0  # 0: it was answered, or there is none
        self._has_asked = False
        self._host, self._runners = host, runners
        self._reader = LinkReader()
        self._sending = threading.Lock()  # the pieces of a message go one after the other

    def attach_to(self, monitor: ContainerMonitor) -> None:
        """Called before the grading container's monitor runs."""
        self._wake, self._gave_up, self._report_ssh = monitor.wake, monitor.supervisor_gave_up, monitor.report_ssh
        self._report_told = monitor.report_told
        self._end_for_protocol_error, self._end_for_lost_link = monitor.end_for_protocol_error, monitor.end_for_lost_link
        self._pause_wall_clock, self._resume_wall_clock = monitor.pause_wall_clock, monitor.resume_wall_clock
        budget = StudentBudget(
            self._job.limits,
            cpu_time_s=self._grading.cpu_time_s,
            memory_mib=self._grading.memory_mib,
            most_students=self._grading.most_students,
            wall_time_left_s=monitor.wall_time_left_s,
        )
        self._owner = GradingContainer(
            job=self._job,
            settings=self._grading,
            budget=budget,
            host=self._host,
            runners=self._runners,
            host_lost_timeout_s=self._host_lost_timeout_s,
            monitors=self._monitors,
        )

    # ---- called by the monitor

    def on_start(self) -> None:
        """Nothing is sent before it is asked for."""

    def on_output(self, stderr: bool, data: bytes) -> None:
        """What a grader prints is its job's output."""

    def on_message(self, data: bytes) -> None:
        message = self._reader.feed(data)
        if message is not None:
            self._take(message)

    def _take(self, message: SupervisorMessage) -> None:
        if isinstance(message, LinkLost):
            self._gave_up()
        elif isinstance(message, SSHReport):
            self._report_ssh(message.text)
        elif self._ended.is_set():
            return
        elif isinstance(message, TellSubmitter):
            self._tell_submitter(message)
        elif isinstance(message, OpenStudents):
            self._learn_what_is_open(message)
        elif self._question:  # asked of the waiter before, or of us: whatever is open will be told
            self._highest_id = max(self._highest_id, getattr(message, "id", None) or 0)
        elif isinstance(message, RunStudent):
            self._run_student(message)
        elif isinstance(message, (StudentInput, KillStudent)):
            self._pass_on(message)
        elif isinstance(message, (OpenContainer, CloseContainer)):
            self._open_or_close(message)
        elif isinstance(message, UnsupportedRequest):
            self._end_for_protocol_error(message.reason)
        elif isinstance(message, ProtocolViolation):
            self._answer_violation(message)

    def on_end(self) -> None:
        """The job has ended: end its students, too, also those of an earlier waiter."""
        with self._lock:
            had_ended = self._ended.is_set()
            self._ended.set()
            running = {*(student for student, _ in self._running.values()), *self._kept.values()}
        if self._job.taken_over and not had_ended:
            with suppress(RuntimeError):  # no more threads; the deleter of the grading container looks again
                self._start_thread(self._remove_leftovers, "students-sweep")
        self.messages.close()
        for student in running:
            student.kill()

    def close(self) -> None:
        """Wait until all are removed, but not for ever: the deleter of the grading container looks again."""
        self.on_end()
        until = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))

    # ---- after another waiter

    def _ask_what_is_open(self) -> None:
        if self._question and not self._has_asked:
            self._has_asked = True
            self._send(open_students_question(self._question))

    def _learn_what_is_open(self, answer: OpenStudents) -> None:
        """Of an open student nobody knows what its grader was told. One that has ended concerns nobody any more."""
        if answer.question != self._question:  # of a waiter between that one and us
            return
        self._question = 0
        self._opened = {each.name: each for each in answer.containers}
        if answer.ids:
            self._end_for_lost_link()

    # ---- requests of the supervisor

    def _tell_submitter(self, message: TellSubmitter) -> None:
        """The supervisor refuses what is too much; a grader may have made it say anything."""
        self._told_bytes += len(message.text.encode()) + EACH_TOLD_BYTES
        if self._told_bytes <= MAX_TOLD_BYTES:
            self._report_told(message.number, message.text)

    def _is_new(self, number: int) -> bool:
        if number <= self._highest_id:
            self._end_for_protocol_error(f"the supervisor asked for student {number} twice")
            return False
        self._highest_id = number
        return True

    def _open_or_close(self, message: OpenContainer | CloseContainer) -> None:
        """A name is open from now on, or no more. A container of that name is made when its first program comes."""
        if not self._is_new(message.id):
            return
        name = message.name
        if isinstance(message, CloseContainer):
            with self._lock:
                is_open, kept = self._opened.pop(name, None) is not None, self._kept.pop(name, None)
            if kept is not None:
                kept.kill()
            why = "" if is_open else f"no container has the name {name!r}"
        elif name in self._opened:
            why = f"a container of the name {name!r} is open already"
        elif name in self._grading.images or f"{name}:latest" in self._grading.images:
            why = f"{name!r} is the name of an environment: give the container another one"
        elif len(self._opened) >= _MOST_OPENED:
            why = f"{_MOST_OPENED} containers are open: close some"
        else:
            self._opened[name], why = message, ""
        self._send(end_message(message.id, Outcome.ERROR if why else Outcome.SUCCESS, why))

    def _run_student(self, request: RunStudent) -> None:
        if not self._is_new(request.id):
            return
        opened = self._opened.get(request.environment)
        program = self._new_program(request if opened is None else _as_opened(request, opened))
        self._pause_wall_clock()  # until it has started or failed: the grader does not pay for that time
        if opened is not None and request.memory_mib not in (0, opened.memory_mib):
            why = f"container {opened.name!r} has its memory for all its programs: give it where the container is opened"
            program.report_end(Outcome.ERROR, why)
        else:
            self._place(program, "" if opened is None else opened.name)

    def _place(self, program: StudentProgram, name: str) -> None:
        """Give a program to the container of that name, if there is one; else to a new one."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept.give(program):
                self._running[program.request.id] = kept, program
                return
        if kept is not None and not kept.is_over:
            program.report_end(Outcome.ERROR, f"a program runs in container {name!r} already")
            return
        self._start(StudentContainer(program, self._owner, is_kept=bool(name)), name)

    def _start(self, student: StudentContainer, name: str) -> None:
        if not self._add(student, name):
            student.program.report_end(Outcome.ERROR, "too many student containers at once")
            return
        if self._ended.is_set():  # meanwhile
            student.kill()
        try:
            self._start_thread(lambda: self._run(student, name), f"student-{student.program.request.id}")
        except RuntimeError as error:  # no more threads
            self._drop(student, name)
            student.program.report_end(Outcome.CRASH, str(error))

    def _new_program(self, request: RunStudent) -> StudentProgram:
        return StudentProgram(
            request,
            send=self._send,
            send_output=self._send_output,
            max_output_bytes=self._job.limits.output_kib * 1024,
            on_started=self._resume_wall_clock,
            on_end=lambda: self._forget(request.id),
        )

    def _forget(self, number: int) -> None:
        with self._lock:
            self._running.pop(number, None)

    def _add(self, student: StudentContainer, name: str) -> bool:
        with self._lock:
            has_room = self._containers < self._grading.most_students + _EXTRA_THREADS
            if has_room:
                self._containers += 1
                self._running[student.program.request.id] = student, student.program
                if name:
                    self._kept[name] = student
            return has_room

    def _drop(self, student: StudentContainer, name: str) -> None:
        with self._lock:
            self._containers -= 1
            if self._kept.get(name) is student:
                del self._kept[name]

    def _pass_on(self, message: StudentInput | KillStudent) -> None:
        with self._lock:
            student, program = self._running.get(message.id, (None, None))
        if student is None or program is None:  # it has ended
            if message.id > self._highest_id:
                self._end_for_protocol_error(f"the supervisor spoke of student {message.id}, which it never asked for")
        elif isinstance(message, KillStudent) or not program.write_stdin(message.data):
            student.kill_program(program)

    def _answer_violation(self, violation: ProtocolViolation) -> None:
        if violation.id is None or violation.id <= self._highest_id:
            self._end_for_protocol_error(violation.reason)
            return
        self._highest_id = violation.id
        self._send(end_message(violation.id, Outcome.ERROR, violation.reason))

    def _send_output(self, message: bytes) -> bool:
        """Send a student's output to the supervisor; False when it is too far behind."""
        return self._put(message, reserve=_RESERVED_BYTES)

    def _send(self, message: bytes) -> None:
        if not self._put(message) and not self._ended.is_set():
            _log.warning("job %s: its grader does not read messages about its students, and is ended", self._job.job_id)
            self._end_for_lost_link()

    def _put(self, message: bytes, *, reserve: int = 0) -> bool:
        first, *others = pieces(message)
        with self._sending:
            if not self.messages.put(first, reserve=reserve + 2 * sum(map(len, others))):
                return False
            for piece in others:
                self.messages.put(piece)
        self._wake()
        return True

    def _run(self, student: StudentContainer, name: str) -> None:
        """The thread of one student container."""
        try:
            with closing(self._connect()) as engine:
                student.run(engine)
        except Exception as error:  # noqa: BLE001 - the thread's edge: a bug here must not cost the grader its student's end
            _log.exception("student %d of job %s failed", student.program.request.id, self._job.job_id)
            student.program.report_end(Outcome.CRASH, f"{type(error).__name__}: {error}")
        finally:
            self._drop(student, name)
        refused = student.take_refused()
        if refused is not None and not self._ended.is_set() and name in self._opened:
            self._place(refused, name)
        elif refused is not None:
            refused.report_end(Outcome.KILLED, "its container was closed")

    def _remove_leftovers(self) -> None:
        with closing(self._connect()) as engine, suppress(EngineError):  # the deleter of the grading container looks again
            delete_students(engine, self._job.container_name)

    def _start_thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]


def _as_opened(request: RunStudent, opened: OpenContainer) -> RunStudent:
    """A program for a container that is kept has what that was opened with."""
    return replace(
        request, environment=opened.environment, memory_mib=opened.memory_mib, share_network=opened.share_network
    )
