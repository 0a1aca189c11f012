"""``RemoteClient``: hands jobs to a cluster over Redis, with the interface of ``JobManager``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from jobmanager.batch.methods import BatchMethods
from jobmanager.client import InputData, ManagerJobOptions, NamedJobOptions, takes_job_options
from jobmanager.control.lifetime import Lifetime
from jobmanager.control.request import job_request
from jobmanager.control.room import when_there_is_room
from jobmanager.control.settings import SSH_TIMEOUT_S
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
from jobmanager.remote.blobs import BlobStore
from jobmanager.remote.client_settings import ClientSettings
from jobmanager.remote.connect import redis_errors, shown_url
from jobmanager.remote.open_jobs import WHAT
from jobmanager.remote.running_client import RunningClient
from jobmanager.remote.signing import Keyring
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.threads.main_thread import outside_main_thread

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RemoteClient"]

_DEFAULT_TIMEOUTS = ClusterTimeouts()
_T = TypeVar("_T")


@explains_keywords
class RemoteClient(BatchMethods):
    """Has jobs run by the nodes of a cluster. The constructor starts nothing; ``start`` or ``with`` does.

    ``with`` waits for all jobs at its end, and kills them when it is left by an exception. It lives in a process as a
    ``JobManager`` does: after a fork the child is a client of its own.

    Args:
        url: of Redis; None: what JOBMANAGER_REDIS_URL says.
        key: the cluster's key, as bytes or hexadecimal digits, or a Keyring; None: what JOBMANAGER_KEY or JOBMANAGER_KEY_FILE
            say. Nothing is done without one.
        namespace: which of several clusters on one Redis.
        client_id: a name under which results wait for the next process, should this one die (``resume``). One process at a time
            may have it. None: a new one, whose jobs end when their process does.
        hook_manager: its hooks are called for everything that happens to this client's jobs, and for nodes.
        max_waiting_jobs: how many jobs of all clients may wait; past it ``new_job`` raises QueueFull.
        queue_timeout_s: how long a job may wait while no node is up that could run it; then it ends as ``crash``. The time behind
            other jobs does not count.
        callback_threads: how many callbacks can run at once.
        blobs: where large files go, in place of Redis: a FolderStore, or what has ``put`` and ``get`` as it has. Nodes need the
            same one.
        timeouts: the leases and timeouts of the cluster, the same for all its clients and nodes.

    Raises:
        InvalidValue: an argument makes no sense, or there is no url or key.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: Keyring | bytes | str | None = None,
        namespace: str = "default",
        client_id: str | None = None,
        hook_manager: HookManager | None = None,
        max_waiting_jobs: int = 100_000,
        queue_timeout_s: float = 3600.0,
        callback_threads: int = 4,
        blobs: BlobStore | None = None,
        timeouts: ClusterTimeouts = _DEFAULT_TIMEOUTS,
    ) -> None:
        if hook_manager is not None and not isinstance(hook_manager, HookManager):
            raise InvalidValue(f"hook_manager must be a HookManager, not {hook_manager!r}")
        hooks = hook_manager if hook_manager is not None else HookManager()
        self._settings = ClientSettings.checked(
            url,
            key=key,
            namespace=namespace,
            client_id=client_id,
            max_waiting_jobs=max_waiting_jobs,
            queue_timeout_s=queue_timeout_s,
            callback_threads=callback_threads,
            blobs=blobs,
            timeouts=timeouts,
        )
        self._lifetime = Lifetime(partial(RunningClient, self._settings, hooks), hooks, what=WHAT)

    def __repr__(self) -> str:
        settings = self._settings
        return f"RemoteClient({shown_url(settings.url)!r}, namespace={settings.namespace!r}, client_id={settings.client_id!r})"

    @call_explains_keywords(START)
    def start(self, *, wait: bool = True) -> None:
        """Reach Redis, take the client's id and start the threads. A second call does nothing.

        Args:
            wait: changes nothing here: no node is waited for in any case, and Redis must answer.

        Raises:
            RedisUnavailable: Redis does not answer, or refuses what is asked; nothing is left running.
            InvalidValue: another process has the client's id.
            Closed: the client was closed.
            NotSupported: gevent or eventlet has patched the standard library.
        """
        self._lifetime.start(wait=wait)

    @call_explains_keywords(CLOSE)
    def close(self, *, drain_timeout_s: float | None = None, kill: bool = False) -> None:
        """Take no more jobs, let those of this process end, stop everything. The cluster goes on.

        Args:
            drain_timeout_s: how long to wait for jobs, in seconds; then they are killed. None: until they end.
            kill: kill them at once.

        Callbacks are waited for as by ``JobManager.close``. What a process before this one has left open, and nobody has resumed,
        goes on and waits for the next one.

        Raises:
            InvalidValue: an argument makes no sense; nothing was closed.
        """
        if drain_timeout_s is not None:
            drain_timeout_s = _checks.timeout("drain_timeout_s", drain_timeout_s, zero=True)
        if not isinstance(kill, bool):
            raise InvalidValue(f"kill must be True or False, not {kill!r}")
        self._lifetime.close(drain_timeout_s, kill)

    def __enter__(self) -> RemoteClient:
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
        """Hand a job to the cluster and return its id. ``JobManager.new_job`` says what each argument means.

        A job that needs no container is answered in this process. Secrets of phases are only named; a node has their values.

        Raises:
            InvalidTask, InvalidInput: it makes no sense, or cannot be sent, such as a function; nothing was started.
            JobRefused: no node ever had its environment, or is large enough; too many jobs wait; its id is in use; this client is
                newer than all nodes.
            RedisUnavailable: Redis did not answer for ``outage_s``, or refused. Should the job have been accepted all the same, it
                is cancelled when Redis answers again.
            NotStarted, Closed: not now.
            WouldDeadlock: called inside a callback with a ``wait_s``.
        """
        running = self._lifetime.running()
        request = job_request(task, inputdata, callback, options, ssh_timeout_s=SSH_TIMEOUT_S, secrets=None)
        accept = partial(running.accept, task, request, callback, options.get("ssh_callback"))
        accepted = partial(outside_main_thread, accept, takes_long=request.task.needs_container)
        return when_there_is_room(accepted, running.wait_for_room, options)

    @takes_job_options(NamedJobOptions)
    def submit(self, task: Task | Pipeline, inputdata: InputData = None, **options: Unpack[NamedJobOptions]) -> JobFuture:
        """``ClientFuture(self).new_job(...)``: hand a job over and return a future of its result."""
        return ClientFuture(self).new_job(task, inputdata, **options)

    def _batch_client(self) -> RemoteClient:
        return self

    def resume(self, callback: Callback) -> set[str]:
        """Take up what a process before this one, with the same ``client_id``, has left open.

        The callback is called once for each of these jobs: at once for those whose results have come meanwhile. Where the other
        process had called back and died before it could say so, a job is called back again; its ``job_id`` tells.

        Returns:
            The ids of these jobs. They can be followed, killed and asked for as this process's own.

        Raises:
            InvalidInput: the callback is none.
            InvalidValue: the client has no ``client_id`` of its own.
        """
        _checks.callback("callback", callback, InvalidInput, "result")
        if self._settings.client_id is None:
            raise InvalidValue("resume is for a client with a client_id: without one, no process comes before this one")
        return outside_main_thread(partial(self._lifetime.running().adopt, callback), takes_long=True)

    @call_explains_keywords(FOLLOW)
    def follow(self, job_id: str, *, timeout_s: float | None = None) -> LiveOutput:
        """What a job prints, from its beginning, as it comes: ``JobManager.follow`` says how.

        Raises:
            UnknownJob: no such job of this process, or its callback has returned.
            InvalidInput: an argument makes no sense.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        if timeout_s is not None:
            timeout_s = _checks.timeout("timeout_s", timeout_s, zero=True)
        return outside_main_thread(partial(self._lifetime.running().follow, job_id, timeout_s), takes_long=True)

    def stop_following(self) -> None:
        """End all readers of live output now; those that ``follow`` returns later end at once. Jobs go on."""
        outside_main_thread(self._lifetime.running().stop_following)

    def kill_job(self, job_id: str) -> bool:
        """Ask for a job's end; its result is ``killed``. False when it has ended already or is unknown in this process.

        While Redis is away it is remembered, and asked for later.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        return outside_main_thread(partial(self._lifetime.running().kill, job_id), takes_long=True)

    def get_job_queue_info(self, job_id: str) -> QueueInfo | None:
        """Where a job stands; None when it has ended or is unknown in this process. ``JobManager`` says what it means.

        The dispatcher is asked. When it does not answer within two seconds, the jobs are counted that came before this one, and the
        time is unknown.

        Raises:
            RedisUnavailable: Redis does not answer.
        """
        job_id = _checks.string("job_id", job_id, InvalidInput)
        return self._asked(partial(self._lifetime.running().queue.queue_info, job_id))

    def get_job_queue_snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """All jobs of the cluster that have a node, and those that wait, in the order in which they are expected to start.

        The dispatcher writes it every two seconds while somebody asks.

        Raises:
            RedisUnavailable: Redis does not answer.
        """
        return self._asked(self._lifetime.running().queue.snapshot)

    def queue_length(self) -> int:
        """How many jobs of the cluster wait for a node.

        Raises:
            RedisUnavailable: Redis does not answer.
        """
        return self._asked(self._lifetime.running().queue.length)

    def get_available_environments(self) -> dict[str, list[str]]:
        """What the nodes that take jobs can run, by environment type; a few seconds old."""
        return outside_main_thread(self._lifetime.running().view.environments)

    def hosts(self) -> list[HostInfo]:
        """A record for each node, a few seconds old. Those that are silent, drained or paused are down, and say so."""
        return outside_main_thread(self._lifetime.running().view.hosts)

    def callbacks(self) -> CallbackInfo:
        """How busy the callback threads are."""
        return outside_main_thread(self._lifetime.running().callbacks.info)

    def _asked(self, question: Callable[[], _T]) -> _T:
        with redis_errors(self._settings.url):
            return outside_main_thread(question, takes_long=True)
