r"""Everything of a remote client that runs between one start and its close, in one process.

::

    new_job ──► sender ═══► Redis ═══► mailbox ──► open jobs ──► callback threads ──► callback, once
                  keeper ═══► (lease, kills, acknowledgements, all open jobs again when Redis has lost them)
"""

from __future__ import annotations

import os
import time

from redis import exceptions

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.closing import THREAD_END_S, Closing
from jobmanager.control.lifetime import closed
from jobmanager.errors import JobRefused, RedisUnavailable
from jobmanager.events import JobEnded, JobQueued, ManagerStarted
from jobmanager.hooks import HookManager
from jobmanager.ipc.process import check_standard_library
from jobmanager.live_output.reader import LiveOutput
from jobmanager.model.job import Request
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback, JobResult, Outcome, SSHCallback
from jobmanager.model.task import Task
from jobmanager.remote.blobs import BlobReader, BlobUploads, RedisBlobs
from jobmanager.remote.client_name import ClientName
from jobmanager.remote.client_settings import ClientSettings
from jobmanager.remote.cluster_view import ClusterView
from jobmanager.remote.connect import open_redis, redis_errors
from jobmanager.remote.followed_jobs import FollowedJobs
from jobmanager.remote.job_news import JobNews
from jobmanager.remote.keeper import Keeper
from jobmanager.remote.key_check import check_key
from jobmanager.remote.mailbox import Mailbox
from jobmanager.remote.open_jobs import WHAT, OpenJob, OpenJobs
from jobmanager.remote.payload import Packer, unpack_result
from jobmanager.remote.queue_view import QueueView
from jobmanager.remote.records import ResultMessage
from jobmanager.remote.redis_checks import check_memory, check_redis
from jobmanager.remote.sender import Sender, SenderLimits, needs_of
from jobmanager.remote.store import ClusterStore
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict
from jobmanager.scheduling.commands import PublishReady, PublishResult
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_ROOM_CHECK_S = 0.2  # between two looks at a full queue
_NO_ENTRY = "0-1"  # of a job that was given up: Redis never has such an entry


class RunningClient:
    """One client that runs. ``start`` and ``close`` once each, from any threads but the main one."""

    def __init__(self, settings: ClientSettings, hooks: HookManager) -> None:
        """Raises NotSupported: gevent or eventlet has patched the standard library."""
        check_standard_library()
        self.pid = os.getpid()
        self._settings = settings
        self._hooks = hooks
        self._is_replaced = False
        self._too_full: RedisUnavailable | None = None
        timeouts, signer = settings.timeouts, settings.keyring.signer(settings.namespace)
        self._redis = open_redis(settings.url, timeouts)
        self.store = ClusterStore(self._redis, settings.namespace, timeouts)
        self._name = ClientName(self.store, settings.client_id, lease_s=timeouts.client_lease_s)
        self.client_id = self._name.name
        self._blobs = RedisBlobs(self._redis, self.store.keys, ttl_s=timeouts.result_ttl_s)
        self.jobs = OpenJobs(max_decided=settings.max_waiting_jobs, publish=self._publish)
        self.callbacks = CallbackManagers(
            settings.callback_threads, on_result=self._on_result, on_called_back=self._called_back
        )
        self.view = ClusterView(signer, hooks, silent_s=timeouts.suspect_s)
        self._sender = Sender(
            self.store,
            signer,
            BlobUploads(self._blobs, settings.blobs),
            Packer(has_store=settings.blobs is not None),
            client=self.client_id,
            url=settings.url,
            limits=SenderLimits(max_waiting_jobs=settings.max_waiting_jobs, queue_timeout_s=settings.queue_timeout_s),
            timeouts=timeouts,
        )
        self._followed = FollowedJobs(self.store, signer, self.jobs, hooks, client=self.client_id)
        self._news = JobNews(
            self.jobs,
            self.view,
            hooks,
            signer,
            client=self.client_id,
            followed=self._followed,
            put=self.callbacks.put,
            accepted=self._accepted,
        )
        self.queue = QueueView(self.store, signer, self.jobs, self._news, client=self.client_id)
        self._mailbox = Mailbox(
            self.store,
            signer,
            self.jobs,
            client=self.client_id,
            read_result=self._read_result,
            on_result=self._publish,
            on_event=self._news.take,
            acknowledge=self._keeper_acknowledges,
            redis_s=timeouts.redis_s,
        )
        self._keeper = Keeper(
            self.store,
            signer,
            self.jobs,
            self._sender,
            client=self.client_id,
            holder=self._name.holder,
            queue_timeout_s=settings.queue_timeout_s,
            has_read_all=self._mailbox.has_read_all,
            keep_name=self._keep_name,
            look_at_nodes=self._look_at_nodes,
            on_data_lost=self._mailbox.read_again,
            each_beat=self.callbacks.log_slow_callbacks,
            look_at_memory=self._look_at_memory,
            timeouts=timeouts,
        )
        self._closing = Closing(self.jobs, self.callbacks, hooks, what=WHAT, wake=self._keeper.wake, stop=lambda _: self._stop())

    # ---- life

    def start(self, *, wait: bool) -> None:  # noqa: ARG002 - no node is waited for
        """Take the client's id, see the nodes, start the threads.

        Raises:
            Closed: somebody has closed it meanwhile.
            RedisUnavailable: Redis does not answer, or refuses what is asked.
            InvalidValue: another process has the client's id, or the workers have another key.
        """
        self._closing.begin()
        with redis_errors(self._settings.url):
            check_redis(self._redis, self._settings.url)
            check_key(self.store, self._settings.keyring.signer(self._settings.namespace))
            self._name.claim()
            self._look_at_nodes()
            self.jobs.inherit(self.store.open_jobs(self.client_id))
        with self._closing.starting(), redis_errors(self._settings.url):
            self.callbacks.start()
            self._mailbox.start()
            self._keeper.start()
        if not self.jobs.is_accepting():
            raise closed(WHAT)
        self._hooks.fire(ManagerStarted(at_s=time.time(), hosts=tuple(host.name for host in self.view.hosts())))

    def abandon(self) -> None:
        """In a forked child: all of this is the parent's."""
        self._closing.abandon()
        self._followed.abandon()

    def abort(self) -> None:
        """Undo a start that failed, or goes on."""
        self._closing.abort()

    def close(self, drain_timeout_s: float | None, kill: bool) -> None:
        """Let jobs end, or end them, then stop."""
        self._closing.close(drain_timeout_s, kill)

    def _stop(self) -> None:
        """Callbacks first, as what they have returned from is acknowledged; then the client's id is given up."""
        self.callbacks.close(THREAD_END_S)
        self._mailbox.close()
        self._keeper.close()
        self._followed.close()
        self._name.release()
        self._redis.close()

    # ---- what the keeper does at each beat

    def _keep_name(self) -> None:
        if not self._is_replaced and not self._name.keep():
            _log.error("another process has taken the client id %s: this one gets no results any more", self.client_id)
            self._is_replaced = True
            self.jobs.stop_accepting()
            for job in self.jobs.undecided():
                self.jobs.give_up(job, crash_verdict("client_id_taken", "another process has taken the client id"))

    def _look_at_nodes(self) -> None:
        self.view.update(self.store.nodes())

    def _look_at_memory(self) -> None:
        try:
            check_memory(self._redis, self._settings.url)
            self._too_full = None
        except RedisUnavailable as error:
            if isinstance(error.__cause__, exceptions.RedisError):
                raise error.__cause__ from None
            self._too_full = error

    # ---- jobs

    def accept(
        self, task: Task | Pipeline, request: Request, callback: Callback | None, ssh_callback: SSHCallback | None
    ) -> str:
        """Take a job: ``RemoteClient.new_job`` says what this raises. Returns its id."""
        if not request.task.needs_container:
            return self._answer(request, callback)
        if self._too_full is not None:
            raise self._too_full
        self._check_fits(request)
        job = self._sender.open_job(task, request, callback, ssh_callback)
        self.jobs.add(job)
        try:
            self._sender.hand_over(job, is_wanted=self.jobs.is_accepting)
        except JobRefused:
            self.jobs.refused(job)
            raise
        except BaseException:
            if self.jobs.withdraw(job):
                self._keeper.wake()
                raise
        self._accepted(job)
        return request.job_id

    def wait_for_room(self, timeout_s: float) -> None:
        """Block until a job may find room in the cluster's queue, or no more jobs are taken, or the time is over."""
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0 and self.jobs.is_accepting():
            try:
                if self.store.waiting_count() < self._settings.max_waiting_jobs and not self.jobs.is_full_of_results():
                    return
            except (exceptions.RedisError, OSError):  # handing over the job says so, or waits for Redis
                return
            self.jobs.wait_until_refusing(min(left_s, _ROOM_CHECK_S))

    def kill(self, job_id: str) -> bool:
        """Request that a job ends; said again later if Redis is away. False when it has ended or is unknown."""
        job = self.jobs.by_id(job_id)
        if job is None or not self.jobs.kill(job, KillReason.KILL_JOB):
            return False
        try:
            return self._keeper.say_kill(job, KillReason.KILL_JOB) != "gone" or job.result is None
        except (exceptions.RedisError, OSError):
            self.jobs.say_kill_later(job)
            return True

    def adopt(self, callback: Callback) -> set[str]:
        """Give a callback to what a process before this one has left open: the ids."""
        adopted = self.jobs.adopt(callback)
        self._mailbox.read_again()
        return adopted

    def follow(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        """One more reader of what a job prints; raises UnknownJob."""
        return self._followed.follow(job_id, timeout_s)

    def stop_following(self) -> None:
        """End all readers, and those that come later."""
        self._followed.stop()

    def _check_fits(self, request: Request) -> None:
        """Raises JobRefused: no node could ever run it. Nodes may have come since they were looked at."""
        needs = needs_of(request)
        if self.view.refusal(needs) is None:
            return
        with redis_errors(self._settings.url):
            self._look_at_nodes()
        if (refusal := self.view.refusal(needs)) is not None:
            raise refusal

    def _answer(self, request: Request, callback: Callback | None) -> str:
        """A job that needs no container."""
        job = OpenJob(job_id=request.job_id, callback=callback, request=request)
        self.jobs.add(job)
        self._accepted(job)
        self.jobs.decide(job, JobResult(job_id=job.job_id, outcome=Outcome.SUCCESS))
        self.callbacks.put(
            PublishResult(
                request=request,
                callback=callback,
                verdict=Verdict(outcome=Outcome.SUCCESS),
                facts=None,
                host=None,
                timings={},
                steps=(),
            )
        )
        return request.job_id

    def _accepted(self, job: OpenJob) -> None:
        """The hooks are told once, before anything else of it."""
        request = self.jobs.accepted(job)
        if request is not None:
            self._hooks.fire(JobQueued.now(request))

    # ---- results

    def _read_result(self, message: ResultMessage) -> JobResult:
        stores = (self._blobs.of_job(message.r), self._blobs, *((self._settings.blobs,) if self._settings.blobs else ()))
        return unpack_result(message.result, BlobReader(*stores))

    def _publish(self, job: OpenJob, result: JobResult) -> None:
        """A job has its result."""
        self._accepted(job)
        self._followed.ended(job, result)
        self.callbacks.put(PublishReady(result=result, callback=job.callback, ssh_callback=job.ssh_callback, task=job.task))

    def _on_result(self, result: JobResult) -> None:
        self._hooks.fire(JobEnded(at_s=time.time(), job_id=result.job_id, result=result))

    def _called_back(self, job_id: str) -> None:
        job = self.jobs.called_back(job_id)
        if job is not None and job.r and not self._is_replaced:
            for entry in job.entries or [_NO_ENTRY]:
                self._keeper.acknowledge(entry, job.r)

    def _keeper_acknowledges(self, entry: str, r: str) -> None:
        if not self._is_replaced:
            self._keeper.acknowledge(entry, r)
