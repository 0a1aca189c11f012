r"""``JobManager``: runs untrusted code in containers, from inside the caller's process.

The way of a job::

    caller's process                              process pool        waiter process (one per host)     Docker host
    new_job ─ problems without a container ─┐
       │                                    │
       ▼  needs one                         │
    waiting queue ─► scheduler ─► submitter ═══════════► create, start ──────────────────────────────► container
     (priority,      (fewest running         │                                                            │ waits
      arrival,        jobs, has room,        └── container id ──► wait queue ─► attach, give it its job ─►│ runs
      bounded)        has the image)                                            output, deadlines, CPU ◄──┘
                                            │                                    │
                                            ▼                                    ▼
                                       done queue ◄────────────────────────── facts, judged
                                            │            └──► deleter ═══► remove container, volume
                                      callback manager (threads) ─► callback, once ─► hooks

Processes and threads of one manager::

    caller's process   jobmanager-executor     does what the main thread asks for (one for all managers)
                       jobmanager-loop         carries out the ledger's commands, hears the children
                       jobmanager-callbacks-N  callback managers (4 by default)
                       jobmanager-*-in, -out   two for each child: its messages
                       jobmanager-hooks        while hooks are set
                       jobmanager-log          while log records wait for your handlers
    children           pool workers            submitters and deleters; twice the cores, at most 8
                       waiters                 one or more for each host
                       tunnels                 one for each host reached by SSH

The ledger (``scheduling/ledger.py``) decides everything that happens to a job; this file only connects it with the
world. Its lock, and the one that guards starting and closing here, are never held while Docker, a callback or a hook
is called, and never by the main thread, where signal handlers run (``control/main_thread.py``).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.log_thread import drain as drain_logs
from jobmanager.control.log_thread import logger
from jobmanager.control.loop import Loop
from jobmanager.control.main_thread import keep_executor, outside_main_thread, release_executor
from jobmanager.control.request import (
    checked_job_id,
    checked_supersede_key,
    with_random_inputs,
    workspace_executables,
    workspace_files,
)
from jobmanager.control.settings import SSH_TIMEOUT_S, ManagerSettings
from jobmanager.engine.labels import retire
from jobmanager.errors import (
    Closed,
    EngineUnavailable,
    InvalidInput,
    InvalidTask,
    InvalidValue,
    NotStarted,
)
from jobmanager.events import JobEnded, ManagerClosing, ManagerStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.process import refuse_where_impossible
from jobmanager.live_output.reader import LiveOutput
from jobmanager.model import _checks
from jobmanager.model._exact import exact
from jobmanager.model.client import CallbackInfo, Debug, HostInfo, InputData, QueueInfo, RunningJob, SSHCallback, WaitingJob
from jobmanager.model.host import DockerHost
from jobmanager.model.job import JobInput, Request
from jobmanager.model.result import Callback, JobResult
from jobmanager.model.task import Task
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.hosts import HostStatus
from jobmanager.scheduling.ledger import Ledger
from jobmanager.ssh import debug_session

if TYPE_CHECKING:
    from jobmanager.future import JobFuture

__all__ = ["JobManager"]

_log = logger(__name__)
_T = TypeVar("_T")

_READY_S = 1.0  # after which hosts that have not answered are no longer waited for
_ANY_ANSWER_S = 10.0  # for the first word of any host
_GLANCE_S = 0.5  # between looks at whether a drain has become a kill
_THREAD_END_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    """How long each step of closing may take, in seconds."""

    kill_s: float  # for every job to end after it was asked to
    callback_s: float  # without any callback returning, once all jobs have ended
    delete_s: float  # for containers to be gone


_AT_CLOSE = _Patience(kill_s=15.0, callback_s=60.0, delete_s=15.0)
_KILLED_CALLBACK_S = 10.0  # instead, when jobs were killed rather than waited for
_AT_EXIT = _Patience(kill_s=2.0, callback_s=1.0, delete_s=7.0)


class JobManager:
    """Runs jobs on Docker hosts. The constructor starts nothing; ``start`` or ``with`` does.

    ``with`` waits for all jobs at its end, and kills them when it is left by an exception.

    Args:
        hosts: DockerHosts, or their urls; None: the engine that DOCKER_HOST or the default socket names.
        environments: names for images. Images labelled ``jobmanager.environment`` have a name without it.
        hook_manager: told of everything that happens.
        max_waiting_jobs: how many jobs may wait; past it ``new_job`` raises QueueFull.
        queue_timeout_s: a job that waits longer ends as ``crash``.
        callback_threads: how many callbacks can run at once.
        pool_size: processes that create and remove containers; None: twice the cores, at most 8.
        host_lost_timeout_s: how long a host may be away before its running jobs end as ``crash``.
        engine_timeout_s: for each single call of the Docker API.
        ssh_timeout_s: how long a session of ``debug="ssh"`` may last.

    Raises:
        InvalidValue: an argument makes no sense.
    """

    def __init__(
        self,
        hosts: Sequence[DockerHost | str] | DockerHost | str | None = None,
        *,
        environments: Mapping[str, str] | None = None,
        hook_manager: HookManager | None = None,
        max_waiting_jobs: int = 10_000,
        queue_timeout_s: float = 3600.0,
        callback_threads: int = 4,
        pool_size: int | None = None,
        host_lost_timeout_s: float = 60.0,
        engine_timeout_s: float = 30.0,
        ssh_timeout_s: float = SSH_TIMEOUT_S,
    ) -> None:
        if hook_manager is not None and not isinstance(hook_manager, HookManager):
            raise InvalidValue(f"hook_manager must be a HookManager, not {hook_manager!r}")
        self._hooks = hook_manager if hook_manager is not None else HookManager()
        self._settings = ManagerSettings.checked(
            hosts,
            environments,
            max_waiting_jobs=max_waiting_jobs,
            queue_timeout_s=queue_timeout_s,
            callback_threads=callback_threads,
            pool_size=pool_size,
            host_lost_timeout_s=host_lost_timeout_s,
            engine_timeout_s=engine_timeout_s,
            ssh_timeout_s=ssh_timeout_s,
        )
        self._lock = threading.Lock()  # guards what follows: starting, closing
        self._run: _Run | None = None
        self._closed = False
        self._started_before_fork = False
        _managers.add(self)

    def start(self) -> None:
        """Start the processes and threads, and wait until every host has answered or a second has passed.

        A second call does nothing. A ``close`` meanwhile, from another thread or a signal handler, ends it at once.

        Raises:
            EngineUnavailable: no host answers; nothing is left running.
            Closed: the manager was closed.
            NotSupported: this process can have no children of the library's: a frozen application, one that gevent or eventlet
                has patched, one that is such a child itself.
        """
        refuse_where_impossible()
        self._notice_fork()
        run = _Run(self._settings, self._hooks)
        try:
            outside_main_thread(partial(self._start, run), takes_long=True)
        except Closed:  # whoever closes it sees to the rest
            raise
        except BaseException:  # a signal handler's too, and then it is still starting
            outside_main_thread(run.abort, takes_long=True)
            raise

    def _start(self, run: _Run) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._run is not None:
                return
            self._run = run
        try:
            run.start()
        except BaseException:
            with self._lock:
                if not self._closed:
                    self._run = None
            raise
        self._hooks.fire(ManagerStarted(at_s=time.time(), hosts=tuple(host.name for host in self._settings.hosts)))

    def close(self, *, drain_timeout_s: float | None = None, kill: bool = False) -> None:
        """Take no more jobs, let those accepted end, stop everything and leave nothing behind.

        Args:
            drain_timeout_s: how long to wait for jobs, in seconds; then they are killed. None: until they end.
            kill: kill them at once.

        Callbacks that still run when all jobs have ended are waited for beyond that, until none has returned for 60 s,
        or for 10 s when jobs were killed. A second call, from a signal handler too, returns when everything has stopped;
        with ``kill`` it hurries the first. Inside a callback it takes no more jobs, and the rest happens behind the
        callback's back.

        Raises:
            InvalidValue: an argument makes no sense; nothing was closed.
        """
        if drain_timeout_s is not None:
            drain_timeout_s = _checks.timeout("drain_timeout_s", drain_timeout_s, zero=True)
        if not isinstance(kill, bool):
            raise InvalidValue(f"kill must be True or False, not {kill!r}")
        self._notice_fork()
        try:
            outside_main_thread(partial(self._close, drain_timeout_s, kill), takes_long=True)
        except BaseException:  # ctrl-C while jobs were waited for
            outside_main_thread(partial(self._close, 0.0, True), takes_long=True)
            raise

    def _close(self, drain_timeout_s: float | None, kill: bool) -> None:
        with self._lock:
            self._closed = True
            run = self._run
        if run is not None:
            run.close(drain_timeout_s, kill)

    def __enter__(self) -> JobManager:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(kill=kind is not None)

    def new_job(
        self,
        task: Task,
        inputdata: InputData = None,
        callback: Callback | None = None,
        *,
        priority: int = 0,
        launcher_name: str = "Unknown",
        debug: Debug = False,
        ssh_callback: SSHCallback | None = None,
        job_id: str | None = None,
        supersede_key: str | None = None,
    ) -> str:
        """Accept a job and return its id.

        Args:
            task: what to run.
            inputdata: a JobInput, or a mapping of answers.
            callback: called once with the JobResult, in this process, never from in here. Any callable of one
                argument that is no async or generator function.
            priority: lower runs sooner. Among equals launchers take turns, each with its own jobs in the order of their arrival.
            launcher_name: who asks, for fair shares, logs and listings.
            debug: True adds the list of steps with their times to the result; "ssh" also lets a person log in (docs/debugging.md).
            ssh_callback: for ``debug="ssh"`` and nothing else: called once with host, port, user and password of an SSH server
                in the job's container, which takes the place of its command; with four None when there will be none.
            job_id: chosen by the caller; None: made here.
            supersede_key: the job takes the place of the one of the same key that waits, if there is one. That one ends as
                ``killed``, superseded; one that has a host already goes on.

        Raises:
            InvalidTask, InvalidInput: it makes no sense; nothing was started.
            JobRefused: unknown environment, limits that no host has, a full queue, an id in use.
            NotStarted, Closed: not now.
        """
        run = self._running()
        request = _request(task, inputdata, priority, launcher_name, debug, job_id, supersede_key, self._settings.ssh_timeout_s)
        if callback is not None:
            _checks.callback("callback", callback, InvalidInput, "result")
        if ssh_callback is not None:
            _checks.callback("ssh_callback", ssh_callback, InvalidInput, "host", "port", "user", "password")
        if (debug == "ssh") != (ssh_callback is not None):
            raise InvalidInput(
                'debug="ssh" and ssh_callback go together: the callback is told where to log in; new_job of the manager takes it'
            )
        run.change(partial(run.ledger.accept, request, callback, ssh_callback))
        return request.job_id

    def submit(
        self,
        task: Task,
        inputdata: InputData = None,
        *,
        priority: int = 0,
        launcher_name: str = "Unknown",
        debug: Debug = False,
        job_id: str | None = None,
        supersede_key: str | None = None,
    ) -> JobFuture:
        """``ClientFuture(self).new_job(...)``: accept a job and return a future of its result."""
        from jobmanager.future import ClientFuture  # the ways in know the manager's protocol, not the other way round

        return ClientFuture(self).new_job(
            task,
            inputdata,
            priority=priority,
            launcher_name=launcher_name,
            debug=debug,
            job_id=job_id,
            supersede_key=supersede_key,
        )

    def follow(self, job_id: str, *, timeout_s: float | None = None) -> LiveOutput:
        """What a job prints, from its beginning, as it comes: an iterator, also for ``with``, of ``Output`` records.

        It ends when the job's output has ended. Any number of readers can follow one job, waiting ones and ones that have
        ended and not been called back included; one that does not read on holds up nothing.

        Args:
            timeout_s: how long each step may wait, in seconds, before it raises JobTimeout; None: without bound.

        Raises:
            UnknownJob: no such job, or its callback has returned.
            InvalidInput: an argument makes no sense.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        if timeout_s is not None:
            timeout_s = _checks.timeout("timeout_s", timeout_s, zero=True)
        return outside_main_thread(partial(self._running().loop.follow, job_id, timeout_s))

    def kill_job(self, job_id: str) -> bool:
        """Ask for a job's end; its result is ``killed``. False when it has ended already or is unknown."""
        job_id = _checks.string("job_id", job_id, InvalidInput)
        run = self._running()
        return run.change(partial(run.ledger.kill, job_id, KillReason.KILL_JOB))

    def get_job_queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown.

        While it waits: how many of the jobs that wait now will be given a host before it, and in how many seconds it will be
        given one, both as far as can be foreseen (docs/queue.md). When it has a host: -1, and in how many seconds its
        wall-clock limit will end it. While more than 1,000 jobs wait, the answer may be old, by a second for 100,000.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        return outside_main_thread(partial(self._running().ledger.queue_info, job_id))

    def get_job_queue_snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """Jobs that have a host, in the order of their acceptance, and jobs that wait, in the order in which they will start.

        That order is what is to be foreseen now. With 100,000 waiting jobs this takes up to a fifth of a second of CPU time.
        """
        return outside_main_thread(self._running().ledger.snapshot)

    def get_available_environments(self) -> dict[str, list[str]]:
        """What the hosts that are up can run, by environment type.

        Names from the alias map, and of images labelled ``jobmanager.environment``. A job for one whose hosts are all down
        is taken all the same, and waits.
        """
        return outside_main_thread(self._running().ledger.environments)

    def hosts(self) -> list[HostInfo]:
        """A record for each host."""
        return outside_main_thread(self._running().ledger.hosts)

    def callbacks(self) -> CallbackInfo:
        """How busy the callback threads are."""
        return outside_main_thread(self._running().callbacks)

    def _running(self) -> _Run:
        """What runs in this process. In a forked child of the one that started, it is started here first."""
        self._notice_fork()
        run = self._run
        if run is not None:
            return run
        if self._closed:
            raise _closed()
        if not self._started_before_fork:
            raise NotStarted("this JobManager has not been started: call start(), or use it in a with statement")
        self.start()
        return self._running()

    def _notice_fork(self) -> None:
        """For forks that run no hooks of Python's, such as uWSGI's."""
        run = self._run
        if run is not None and run.pid != os.getpid():
            outside_main_thread(partial(self._forget, run))

    def _forget(self, run: _Run) -> None:
        with _fork_lock:
            if self._run is run:
                self._after_fork()

    def _after_fork(self) -> None:
        """In the child: no thread has come along, locks may be held by nobody, and the processes are the parent's."""
        self._lock = threading.Lock()
        self._hooks.after_fork()
        if self._run is not None:
            self._started_before_fork = True
            self._run.abandon()
            self._run = None


_managers: weakref.WeakSet[JobManager] = weakref.WeakSet()
_fork_lock = threading.Lock()


def _after_fork() -> None:
    global _fork_lock
    _fork_lock = threading.Lock()
    for manager in list(_managers):
        manager._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Run:
    """Everything that runs between one start and its close, in one process."""

    def __init__(self, settings: ManagerSettings, hooks: HookManager) -> None:
        self.pid = os.getpid()
        self._hooks = hooks
        self._closing = threading.Lock()
        self._started = False
        self._stopped = False
        self._kill_asked = threading.Event()
        manager_id = self._manager_id = uuid.uuid4().hex[:12]
        self.ledger = Ledger(
            settings.hosts,
            settings.environments,
            manager_id=manager_id,
            max_waiting_jobs=settings.max_waiting_jobs,
            queue_timeout_s=settings.queue_timeout_s,
            host_lost_timeout_s=settings.host_lost_timeout_s,
        )
        self._callbacks = CallbackManagers(
            settings.callback_threads, on_result=self._ended, on_called_back=self.ledger.callback_returned
        )
        self.loop = Loop(self.ledger, self._callbacks, self._hooks, settings, manager_id=manager_id)

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        atexit.unregister(self._at_exit)
        self.loop.abandon()

    def start(self) -> None:
        """Start threads and children, and wait for the hosts. Raises Closed as soon as somebody closes it."""
        with self._closing:
            if self._stopped:
                raise _closed()
            self._started = True
            keep_executor()
            self._callbacks.start()
            self.loop.start()
            atexit.register(self._at_exit)
        self.ledger.wait_for_hosts(_all_have_answered, _READY_S)
        self.ledger.wait_for_hosts(_enough_have_answered, _ANY_ANSWER_S)
        if not self.ledger.is_accepting():
            raise _closed()
        records = self.ledger.hosts()
        if not any(host.up for host in records):
            raise EngineUnavailable(_nobody_answers(records))
        for host in records:
            if not host.up:  # one that answered with an error is in the log already
                _log.info("starting without host %s: %s", host.name, host.reason, extra={"host": host.name})

    def change(self, change: Callable[[], _T]) -> _T:
        """Change the ledger; the loop does what follows from that."""
        try:
            return outside_main_thread(change)
        finally:
            self.loop.wake()

    def callbacks(self) -> CallbackInfo:
        """How busy the callback threads are."""
        return self._callbacks.info()

    def abort(self) -> None:
        """Undo a start that failed, or goes on; what another thread has submitted meanwhile is called back."""
        self.close(0.0, kill=True, patience=_AT_EXIT)

    def close(self, drain_timeout_s: float | None, kill: bool, patience: _Patience | None = None) -> None:
        """Let jobs end, or end them, then stop. Never in the main thread."""
        patience = patience or _AT_CLOSE
        if self.ledger.stop_accepting():
            self._hooks.fire(ManagerClosing(at_s=time.time(), unfinished=self.ledger.unfinished()))
        if kill:
            self._kill_all(KillReason.CLOSE)
        if self._callbacks.is_current_thread():  # it cannot wait for itself
            threading.Thread(target=self._close, args=(drain_timeout_s, patience), name="jobmanager-close").start()
            return
        self._close(drain_timeout_s, patience)

    def _close(self, drain_timeout_s: float | None, patience: _Patience) -> None:
        with self._closing:
            if not self._stopped:
                self._drain(drain_timeout_s, patience)
                self._stop(patience)

    def _drain(self, drain_timeout_s: float | None, patience: _Patience) -> None:
        """Wait for all jobs; those still there when the time is over are killed."""
        until = None if drain_timeout_s is None else time.monotonic() + drain_timeout_s
        while not self._kill_asked.is_set():
            left_s = _GLANCE_S if until is None else min(_GLANCE_S, until - time.monotonic())
            if self.ledger.wait_until_decided(max(0.0, left_s)):
                break
            if left_s <= 0:
                self._kill_all(KillReason.DRAIN_OVER)
        if not self.ledger.wait_until_decided(patience.kill_s):
            self.ledger.give_up_all()
            self.loop.wake()
        self._wait_for_callbacks(patience)

    def _wait_for_callbacks(self, patience: _Patience) -> None:
        """As long as they come back one after the other."""
        grace_s = min(patience.callback_s, _KILLED_CALLBACK_S) if self._kill_asked.is_set() else patience.callback_s
        before, left = -1, self.ledger.unfinished()
        while left and left != before:
            if self.ledger.wait_until_called_back(grace_s):
                return
            before, left = left, self.ledger.unfinished()
        if left:
            _log.error("%d callbacks have not returned; their threads are left behind", left)

    def _kill_all(self, reason: KillReason) -> None:
        self._kill_asked.set()
        self.ledger.kill_all(reason)
        self.loop.wake()

    def _stop(self, patience: _Patience) -> None:
        """Containers first, as the pool is needed for that; then the loop with all children, then the threads."""
        if not self.ledger.wait_until_deleted(patience.delete_s):
            _log.error("left on their hosts, to be swept when they answer again: %s", self.ledger.containers())
        self.loop.close()
        retire(self._manager_id)
        self._callbacks.close(_THREAD_END_S)
        self._hooks.drain(_THREAD_END_S)
        drain_logs(_THREAD_END_S)
        atexit.unregister(self._at_exit)
        self._stopped = True
        if self._started:
            release_executor()

    def _at_exit(self) -> None:
        """The interpreter ends without close()."""
        if self.pid == os.getpid():
            outside_main_thread(self.abort, takes_long=True)

    def _ended(self, result: JobResult) -> None:
        self._hooks.fire(JobEnded(at_s=time.time(), job_id=result.job_id, result=result))


def _request(
    task: Task,
    inputdata: InputData,
    priority: int,
    launcher_name: str,
    debug: Debug,
    job_id: str | None,
    supersede_key: str | None = None,
    ssh_timeout_s: float = SSH_TIMEOUT_S,
) -> Request:
    """A job's parts, checked."""
    if not isinstance(task, Task):
        raise InvalidTask(f"task must be a Task, not {task!r}")
    priority, launcher_name, debug = exact(priority), exact(launcher_name), exact(debug)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidInput(f"priority must be a whole number, not {priority!r}")
    if not isinstance(launcher_name, str):
        raise InvalidInput(f"launcher_name must be a string, not {launcher_name!r}")
    if not isinstance(debug, bool) and debug != "ssh":
        raise InvalidInput(f'debug must be True, False or "ssh", not {debug!r}')
    if debug == "ssh":
        task = _debugged(task, ssh_timeout_s)
    inputs = with_random_inputs(task, JobInput.of(inputdata))
    return Request(
        job_id=uuid.uuid4().hex if job_id is None else checked_job_id(job_id),
        task=task,
        inputs=inputs,
        files=workspace_files(task, inputs),
        executables=workspace_executables(task, inputs),
        priority=priority,
        launcher_name=launcher_name,
        debug=debug,
        ssh_password=debug_session.new_password() if debug == "ssh" else "",
        supersede_key=None if supersede_key is None else checked_supersede_key(supersede_key),
    )


def _debugged(task: Task, session_s: float) -> Task:
    if not task.needs_container:
        raise InvalidInput('debug="ssh" needs a task that runs in a container: all problems of this one are answered without')
    return debug_session.debugged(task, session_s=session_s)


def _closed() -> Closed:
    return Closed("this JobManager is closed, or closing: make another one")


def _all_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UNKNOWN not in statuses


def _enough_have_answered(statuses: Sequence[HostStatus]) -> bool:
    return HostStatus.UP in statuses or _all_have_answered(statuses)


def _nobody_answers(hosts: Sequence[HostInfo]) -> str:
    said = "; ".join(f"{host.url}: {host.reason}" for host in hosts)
    return f"no Docker host answers ({said}); start the engine, or set DOCKER_HOST, or give hosts=[...]"
