"""The thread that keeps a client in Redis: its lease, its open jobs, and all that could not be said while Redis was away."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from jobmanager.model.result import JobResult
from jobmanager.remote.open_job_watch import OpenJobWatch
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.payload import pack_result
from jobmanager.remote.records import NodeCommand, ResultMessage
from jobmanager.remote.sender import Sender
from jobmanager.remote.signed_messages import signed
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.results.verdict import KillReason, crash_verdict, killed_verdict
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_JOIN_S = 6.0
_ACKNOWLEDGED_AT_ONCE = 100


class Keeper:
    """Says what a client has to say. ``wake`` when there is something; ``start``, then ``close``."""

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        jobs: OpenJobs,
        sender: Sender,
        *,
        client: str,
        holder: str,
        queue_timeout_s: float,
        has_read_all: Callable[[], bool],
        keep_name: Callable[[], None],
        look_at_nodes: Callable[[], None],
        look_at_memory: Callable[[], None],
        on_data_lost: Callable[[], None],
        each_beat: Callable[[], None],
        timeouts: ClusterTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._signer = signer
        self._jobs = jobs
        self._sender = sender
        self._client = client
        self._holder = holder
        self._queue_timeout_s = queue_timeout_s
        self._keep_name = keep_name
        self._look_at_nodes = look_at_nodes
        self._look_at_memory = look_at_memory
        self._on_data_lost = on_data_lost
        self._each_beat = each_beat
        self._timeouts = timeouts
        self._clock = clock
        self._acknowledged: deque[tuple[str, str]] = deque()  # entries and R
        self._gone_since: dict[str, float] = {}  # by R: since when Redis knows nothing of a job
        self._redis_was: tuple[str, str] | None = None  # its run and generation; None: it was not asked yet
        self._away_since: float | None = None
        self._watch = OpenJobWatch(
            store,
            jobs,
            say_again=self._say_again,
            read_again=on_data_lost,
            has_read_all=has_read_all,
            end_waiting=self._end_waiting,
            queue_timeout_s=queue_timeout_s,
            patience_s=2 * timeouts.settle_s,
            clock=clock,
        )
        self._woken = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._keep_until_closed, name="jobmanager-remote-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread. It has to be said before which Redis it is: a change is noticed from now on."""
        self._redis_was = self._redis_is()
        self._thread.start()

    def wake(self) -> None:
        """There is something to say."""
        self._woken.set()

    def acknowledge(self, entry: str, r: str) -> None:
        """A result is needed no more."""
        self._acknowledged.append((entry, r))
        self._woken.set()

    def close(self) -> None:
        """End the thread, and say what is left to say, if Redis is there."""
        self._closing = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def say_kill(self, job: OpenJob, reason: KillReason) -> str:
        """Tell Redis that a job is to end: ``ended``, ``asked`` or ``gone``. Raises redis' own errors."""
        answer = self._store.cancel(
            job.r, command=self._kill_command(job.r, reason), result=self._killed(job.r, job.job_id, reason)
        )
        self._jobs.kill_said(job)
        return answer

    def _keep_until_closed(self) -> None:
        next_beat = 0.0
        while not self._closing:
            if (now := self._clock()) >= next_beat:
                next_beat = now + self._timeouts.beat_s
                self._guarded(self._beat)
                self._guarded(self._each_beat)
            self._guarded(self._say)
            self._woken.wait(max(0.0, next_beat - self._clock()))
            self._woken.clear()
        self._guarded(self._say)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (RedisError, OSError) as error:
            if self._away_since is None:
                self._away_since = self._clock()
                _log.warning("Redis does not answer, and what is to be said waits until it does: %s", error)
        except Exception:  # noqa: BLE001 - the loop's edge
            _log.exception("the keeper of a client met an error and goes on")

    def _beat(self) -> None:
        redis_is = self._redis_is()
        if self._away_since is not None:
            _log.info("Redis answers again, after %.1f s", self._clock() - self._away_since)
            self._away_since = None
        self._keep_name()
        if redis_is != self._redis_was:
            self._announce()
            self._redis_was = redis_is
        self._look_at_nodes()
        self._look_at_memory()
        self._watch.look()

    def _redis_is(self) -> tuple[str, str]:
        return self._store.life()

    def _announce(self) -> None:
        """Redis was started again, or has lost its data: every open job is there, or is said again."""
        jobs = self._jobs.data_lost()
        made = self._say_again(jobs)
        if made:
            _log.warning("Redis has lost its data: %d of %d open jobs were said again", made, len(jobs))
        self._on_data_lost()

    def _say_again(self, jobs: list[OpenJob]) -> int:
        return sum(self._sender.announce_all(jobs))

    def _end_waiting(self, job: OpenJob) -> None:
        """It has waited too long, and no dispatcher says so."""
        why = f"waited longer than {self._queue_timeout_s:g} s, and no dispatcher placed it"
        verdict = crash_verdict("queue_timeout", why)
        result = JobResult(job_id=job.job_id, outcome=verdict.outcome, text=verdict.text, evidence=verdict.evidence)
        message = ResultMessage(r=job.r, job_id=job.job_id, token="", node="", result=pack_result(result).text)
        self._store.finish(
            job.r,
            token="",
            client=self._client,
            job_id=job.job_id,
            result=signed(self._signer, message),
            outcome=result.outcome.value,
            who=self._client,
        )

    def _say(self) -> None:
        while self._acknowledged:
            some = [self._acknowledged[number] for number in range(min(len(self._acknowledged), _ACKNOWLEDGED_AT_ONCE))]
            if not self._store.acknowledge(self._client, *some, holder=self._holder):
                break  # another process may have the name: the next beat tells
            for _ in some:
                self._acknowledged.popleft()
        perhaps_lost = self._jobs.perhaps_lost()
        self._say_again(perhaps_lost)
        self._jobs.not_lost(perhaps_lost)
        for job, reason in self._jobs.unsaid_kills():
            self.say_kill(job, reason)
        for r in self._jobs.withdrawn():
            self._take_back(r)

    def _take_back(self, r: str) -> None:
        """Cancel what may have been accepted. A request that was cut off may still be on its way, so it is asked for twice."""
        reason = KillReason.KILL_JOB
        answer = self._store.cancel(r, command=self._kill_command(r, reason), result=self._killed(r, "", reason))
        since = self._gone_since.setdefault(r, self._clock())
        if answer != "gone" or self._clock() - since > 2 * self._timeouts.redis_s:
            self._jobs.is_gone(r)
            del self._gone_since[r]

    def _kill_command(self, r: str, reason: KillReason) -> str:
        command = NodeCommand(
            command="kill", r=r, client=self._client, nonce=secrets.token_hex(16), at_s=time.time(), reason=reason.value
        )
        return signed(self._signer, command)

    def _killed(self, r: str, job_id: str, reason: KillReason) -> str:
        """The result of a job that ends while it waits."""
        verdict = killed_verdict(reason)
        result = JobResult(job_id=job_id, outcome=verdict.outcome, text=verdict.text, evidence=verdict.evidence)
        message = ResultMessage(r=r, job_id=job_id, token="", node="", result=pack_result(result).text)
        return signed(self._signer, message)
