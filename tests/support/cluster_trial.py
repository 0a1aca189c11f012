"""One client of a test's cluster, whose every job is written down: at the end the history must be right, and nothing be left."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from jobmanager import JobInput, JobResult, Outcome, Task
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore, JobFields
from tests.conftest import eventually
from tests.support.cluster import IMAGE, Cluster
from tests.support.cluster_history import ClusterHistory, Happening, cluster_violations, read_happenings

HELLO = "echo hello"


class ClusterTrial:
    """Use it in ``with``: at its end all jobs must have ended, each as it may, and Redis must have nothing open for the client.

    Args:
        cluster: it runs.
        folder: for the history.
        client_id: of the client.
        options: further ones of the client.
    """

    def __init__(self, cluster: Cluster, folder: Path, client_id: str = "web", **options: Any) -> None:
        self.cluster = cluster
        self.folder = folder
        self.client_id = client_id
        self.history = ClusterHistory(folder, client_id)
        self.client = cluster.client(client_id=client_id, **options)
        self.results: dict[str, JobResult] = {}
        again = Retry(ConstantBackoff(0.05), 200)  # tests kill it: what they ask it themselves waits until it is back
        errors: list[type[Exception]] = [redis.ConnectionError, redis.TimeoutError]
        self.redis = redis.Redis.from_url(cluster.redis.socket_url, socket_timeout=10.0, retry=again, retry_on_error=errors)
        self.store = ClusterStore(self.redis, cluster.namespace, cluster.timeouts)
        self.signer = Keyring.parse(cluster.key).signer(cluster.namespace)
        self._r: dict[str, str] = {}  # by job id
        self._accepted = 0

    def __enter__(self) -> ClusterTrial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
                self.prove()
        finally:
            self.client.close(kill=error is not None)
            self.redis.close()
            self.history.close()

    # ---- jobs

    def submit(
        self,
        command: str = HELLO,
        *,
        expected: Outcome | None = Outcome.SUCCESS,
        retries: int = 0,
        inputs: JobInput | None = None,
        **options: Any,
    ) -> str:
        """The id of a job that the client was told is accepted."""
        job_id = f"{self.client_id}-{secrets.token_hex(4)}"
        assert self.try_to_submit(job_id, command, expected=expected, retries=retries, inputs=inputs, **options)
        return job_id

    def try_to_submit(
        self,
        job_id: str,
        command: str = HELLO,
        *,
        expected: Outcome | None = Outcome.SUCCESS,
        retries: int = 0,
        inputs: JobInput | None = None,
        **options: Any,
    ) -> bool:
        """Whether it was accepted."""
        task = Task(IMAGE, command=command, retries=retries)
        is_accepted = not self.history.submit(_Noting(self), task, inputs, job_id=job_id, expected=expected, **options)
        self._accepted += is_accepted
        return is_accepted

    def submit_many(self, count: int, command: str = HELLO, **options: Any) -> list[str]:
        return [self.submit(command, **options) for _ in range(count)]

    def kill(self, job_id: str) -> bool:
        self.history.kill_taken(job_id)
        return self.client.kill_job(job_id)

    def crashes_are_ours(self, why: str) -> None:
        """From now on jobs may crash."""
        self.history.fault(why)

    # ---- what became of them

    def wait(self, within_s: float = 40.0) -> None:
        """Until each accepted job was called back."""
        eventually(lambda: self.history.count >= self._accepted, within_s=within_s, what=f"all are called back: {self.missing()}")

    def missing(self) -> list[str]:
        """Accepted, and not called back so far."""
        return [f"{job_id}: {self.record(job_id)}" for job_id in self._r if job_id not in self.results]

    def result(self, job_id: str, within_s: float = 40.0) -> JobResult:
        return eventually(lambda: self.results.get(job_id), within_s=within_s, what=f"a result of {job_id}: {self.missing()}")

    def r(self, job_id: str) -> str:
        """Its R, while it is open."""
        if job_id not in self._r:
            found = self.redis.hget(self.store.keys.ids, job_id)
            if found is not None:
                self._r[job_id] = found.decode()
        return self._r.get(job_id, "")

    def record(self, job_id: str) -> JobFields | None:
        with suppress(redis.RedisError):
            r = self.r(job_id)
            return self.store.record(r) if r else None
        return None

    def state(self, job_id: str) -> str:
        fields = self.record(job_id)
        return "" if fields is None else fields.state

    def wait_for_state(self, job_id: str, *states: str) -> None:
        eventually(lambda: self.state(job_id) in states, what=f"{job_id} is {states}, not {self.record(job_id)}")

    def wait_until_run(self, *job_ids: str) -> None:
        """Until the programs of these have been started."""
        eventually(lambda: self.cluster.runs().keys() >= {*job_ids}, what=f"{job_ids} run")

    def happenings(self) -> list[Happening]:
        return read_happenings(self.folder)

    def prove(self) -> None:
        """The history is right, and nobody has the client's jobs any more."""
        violations = cluster_violations(self.happenings(), self.cluster.runs())
        assert not violations, violations
        eventually(lambda: not self.open(), what=f"the client has nothing open: {self.open()}")

    def open(self) -> dict[str, str]:
        """The client's open jobs, as Redis has them."""
        return self.store.open_jobs(self.client_id)


class _Noting:
    """The trial's client, which notes each result in the trial, too."""

    def __init__(self, trial: ClusterTrial) -> None:
        self._trial = trial

    def new_job(self, task: Any, inputdata: Any = None, callback: Any = None, **options: Any) -> str:
        def called_back(result: JobResult) -> None:
            callback(result)
            self._trial.results[result.job_id] = result

        job_id = self._trial.client.new_job(task, inputdata, called_back, **options)
        self._trial.r(job_id)
        return job_id
