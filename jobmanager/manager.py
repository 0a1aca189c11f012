r"""``JobManager``: runs untrusted code in containers, from inside the caller's process.

The way of a job::

    caller's process                              process pool        waiter process (one per host)     Docker host
    new_job ─ problems without a container ─┐
       │                                    │
       ▼  needs one                         │
    waiting queue ─► scheduler ─► submitter ═══════════► create, start ──────────────────────────────► container
     (priority,      (fewest running         │                                                            │ waits
      fair shares,    jobs, has room,        └── container id ──► wait queue ─► attach, send the job ────►│ runs
      arrival)        has the image)                                            output, deadlines, CPU ◄──┘
                                            │                                    │
                                            ▼                                    ▼
                                       done queue ◄────────────────────────── facts, judged
                                            │            └──► deleter ═══► remove container, volume
                                      callback manager (threads) ─► callback, once ─► hooks

Processes and threads of one manager::

    caller's process   jobmanager-executor     does what the main thread asks for (one for all managers)
                       jobmanager-loop         carries out the ledger's commands, receives the children's messages
                       jobmanager-callbacks-N  callback managers (4 by default)
                       jobmanager-*-in, -out   two for each child: its messages
                       jobmanager-hooks        while hooks are set
                       jobmanager-log          while log records wait for your handlers
    children           pool workers            submitters and deleters; twice the cores, at most 8
                       waiters                 one or more for each host
                       tunnels                 one for each host reached by SSH

The ledger (``scheduling/ledger.py``) decides everything that happens to a job; ``control/`` connects it with the world. Its lock,
and the one that guards starting and closing (``control/lifetime.py``), are never held while Docker, a callback or a hook is
called, and never by the main thread, where signal handlers run (``threads/main_thread.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from jobmanager.batch.methods import BatchMethods
from jobmanager.client import InputData, ManagerJobOptions, NamedJobOptions, takes_job_options
from jobmanager.control.lifetime import Lifetime
from jobmanager.control.request import job_request
from jobmanager.control.room import when_there_is_room
from jobmanager.control.running_manager import WHAT, RunningManager
from jobmanager.control.settings import SSH_TIMEOUT_S, Hosts, ManagerSettings
from jobmanager.errors import InvalidInput, InvalidValue
from jobmanager.future import ClientFuture, JobFuture
from jobmanager.hooks import HookManager
from jobmanager.live_output.reader import LiveOutput
from jobmanager.model import _checks
from jobmanager.model._keywords import CLOSE, FOLLOW, START, call_explains_keywords, explains_keywords
from jobmanager.model.listings import CallbackInfo, HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback
from jobmanager.model.task import Task
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.hosts import MachineTotals
from jobmanager.threads.main_thread import outside_main_thread

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["JobManager"]


@explains_keywords
class JobManager(BatchMethods):
    """Runs jobs on Docker hosts. The constructor starts nothing; ``start`` or ``with`` does.

    ``with`` waits for all jobs at its end, and kills them when it is left by an exception.

    Args:
        hosts: DockerHosts, or their urls; None: the engine that DOCKER_HOST or the default socket names.
        environments: names for images. Images labelled ``jobmanager.environment`` have a name without it.
        hook_manager: its hooks are called for everything that happens.
        max_waiting_jobs: how many jobs may wait; past it ``new_job`` raises QueueFull, or waits (``wait_s``).
        queue_timeout_s: how long a job may wait while no host is up that could run it; then it ends as ``crash``. The time behind
            other jobs does not count.
        callback_threads: how many callbacks can run at once.
        pool_size: processes that create and remove containers; None: twice the cores, at most 8.
        host_lost_timeout_s: how long a host may be away before its running jobs end as ``crash``.
        engine_timeout_s: for each single call of the Docker API.
        ssh_timeout_s: how long a session of ``debug="ssh"`` may last.
        secrets: values by name, text or bytes, for phases of a Pipeline that name them. The mapping is kept, not copied, and
            asked at ``new_job`` and when such a phase starts, in one of the library's threads: it must answer at once.
        name: what people call it: a label of its containers and volumes, which ``jobmanager sweep`` shows. At most 64 letters,
            digits, ``_``, ``-`` or ``.``; None: it has no name.

    Raises:
        InvalidValue: an argument makes no sense.
    """

    def __init__(
        self,
        hosts: Hosts = None,
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
        secrets: Mapping[str, str | bytes] | None = None,
        name: str | None = None,
    ) -> None:
        if hook_manager is not None and not isinstance(hook_manager, HookManager):
            raise InvalidValue(f"hook_manager must be a HookManager, not {hook_manager!r}")
        hooks = hook_manager if hook_manager is not None else HookManager()
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
            secrets=secrets,
            name=name,
        )
        self._lifetime = Lifetime(partial(RunningManager, self._settings, hooks), hooks, what=WHAT)

    @call_explains_keywords(START)
    def start(self, *, wait: bool = True) -> None:
        """Start the processes and threads, and wait until every host has answered or a second has passed.

        A second call does nothing. A ``close`` meanwhile, from another thread or a signal handler, ends it at once.

        Args:
            wait: False: return at once, whether a host answers or not. Jobs are accepted, and wait until a host is up;
                ``hosts`` tells which are down, and why.

        Raises:
            EngineUnavailable: no host answers; nothing is left running. With ``wait=False`` only if a host is reached by
                SSH, and this machine has no ``ssh``.
            Closed: the manager was closed.
            NotSupported: this process can have no children of the library's: a frozen application, one that gevent or eventlet
                has patched, one that is such a child itself.
        """
        self._lifetime.start(wait=wait)

    @call_explains_keywords(CLOSE)
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
        self._lifetime.close(drain_timeout_s, kill)

    def __enter__(self) -> JobManager:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(kill=kind is not None)

    @takes_job_options(ManagerJobOptions)
    def new_job(
        self,
        task: Task | Pipeline,
        inputdata: InputData = None,
        callback: Callback | None = None,
        **options: Unpack[ManagerJobOptions],
    ) -> str:
        """Accept a job and return its id.

        Args:
            task: what to run: a Task, or a Pipeline.
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
            wait_s: how long to wait here while the queue is full, in seconds; None: without bound. 0: not at all.

        Raises:
            InvalidTask, InvalidInput: it makes no sense; nothing was started.
            JobRefused: unknown environment, limits that no host has, a full queue, an id in use.
            NotStarted, Closed: not now.
            WouldDeadlock: called inside a callback with a ``wait_s``.
        """
        running = self._lifetime.running()
        settings = self._settings
        request = job_request(
            task, inputdata, callback, options, ssh_timeout_s=settings.ssh_timeout_s, secrets=settings.secrets
        )
        accept = partial(running.ledger.accept, request, callback, options.get("ssh_callback"))
        when_there_is_room(partial(running.change, accept), running.ledger.wait_for_room, options)
        return request.job_id

    @takes_job_options(NamedJobOptions)
    def submit(self, task: Task | Pipeline, inputdata: InputData = None, **options: Unpack[NamedJobOptions]) -> JobFuture:
        """``ClientFuture(self).new_job(...)``: accept a job and return a future of its result."""
        return ClientFuture(self).new_job(task, inputdata, **options)

    def _batch_client(self) -> JobManager:
        return self

    @call_explains_keywords(FOLLOW)
    def follow(self, job_id: str, *, timeout_s: float | None = None) -> LiveOutput:
        """What a job prints, from its beginning, as it comes: an iterator of ``Output`` records, also for ``with``.

        In asyncio it is for ``async for`` and ``async with``. It ends when the job's output has ended. Any number of readers can
        follow one job, waiting ones and ones that have ended and not been called back included; one that does not read on holds
        up nothing.

        Args:
            timeout_s: how long each step may wait, in seconds, before it raises JobTimeout; None: without bound.

        Raises:
            UnknownJob: no such job, or its callback has returned.
            InvalidInput: an argument makes no sense.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        if timeout_s is not None:
            timeout_s = _checks.timeout("timeout_s", timeout_s, zero=True)
        return outside_main_thread(partial(self._lifetime.running().loop.live_outputs.follow, job_id, timeout_s))

    def stop_following(self) -> None:
        """End all readers of live output now; those that ``follow`` returns later end at once. Jobs go on.

        For a web app that shuts down: a server waits for open responses, and one that shows live output ends with its job.
        Call it when the server is told to end, also in a signal handler.
        """
        outside_main_thread(self._lifetime.running().loop.live_outputs.stop)

    def kill_job(self, job_id: str) -> bool:
        """Ask for a job's end; its result is ``killed``. False when it has ended already or is unknown."""
        job_id = _checks.string("job_id", job_id, InvalidInput)
        running = self._lifetime.running()
        return running.change(partial(running.ledger.kill, job_id, KillReason.KILL_JOB))

    def get_job_queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown.

        While it waits: how many of the jobs that wait now are expected to get a host before it, and in how many seconds it is
        expected to get one; None for these seconds while they are not known (docs/queue.md). When it has a host: -1, and in how
        many seconds its wall-clock limit will end it, which is its ``remaining_s``, too. While more than 1,000 jobs wait, the
        answer may be old, by a second for 100,000.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        return outside_main_thread(partial(self._lifetime.running().ledger.queue_info, job_id))

    def get_job_queue_snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """Jobs that have a host, in the order of their acceptance, and jobs that wait, in the order in which they will start.

        That order is the one that is expected now. With 100,000 waiting jobs this takes up to a fifth of a second of CPU time.
        """
        return outside_main_thread(self._lifetime.running().ledger.snapshot)

    def queue_length(self) -> int:
        """How many jobs wait for a host. It costs the same however many they are."""
        return outside_main_thread(self._lifetime.running().ledger.queue_length)

    def get_available_environments(self) -> dict[str, list[str]]:
        """What the hosts that are up can run, by environment type.

        Names from the alias map, and of images labelled ``jobmanager.environment``. A job for one whose hosts are all down
        is taken all the same, and waits.
        """
        return outside_main_thread(self._lifetime.running().ledger.environments)

    def hosts(self) -> list[HostInfo]:
        """A record for each host."""
        return outside_main_thread(self._lifetime.running().ledger.hosts)

    def _machines(self) -> MachineTotals:
        """For a node of a cluster, which announces more than ``hosts`` tells."""
        return outside_main_thread(self._lifetime.running().ledger.machines)

    def callbacks(self) -> CallbackInfo:
        """How busy the callback threads are."""
        return outside_main_thread(self._lifetime.running().callbacks.info)
