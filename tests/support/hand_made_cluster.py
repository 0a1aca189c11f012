"""One cluster for a test: worker processes, and a client and a leader whose steps the test takes one by one."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from redis import Redis

from jobmanager import JobInput, JobResult, Task
from jobmanager.model.pipeline import Pipeline
from jobmanager.remote.blobs import BlobReader, RedisBlobs
from jobmanager.remote.payload import Packer, unpack_result
from jobmanager.remote.records import SCHEMA, ClientEvent, JobHeader, Needs, NodeCommand, NodeReport, Placement, ResultMessage
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore, JobFields, NewJob
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.conftest import eventually
from tests.support.bound_process import start_bound
from tests.support.redis_server import RedisServer

KEY = "5a" * 32
NAMESPACE = "exam"
CLIENT = "web"
TIMEOUTS = ClusterTimeouts(beat_s=0.2, suspect_s=1.5, node_lost_s=4.0, leader_lease_s=1.0, settle_s=1.0, redis_s=2.0)
ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A ``jobmanager worker`` of a test. What it says is in ``log``."""

    def __init__(self, folder: Path, url: str, *arguments: str, timeouts: ClusterTimeouts = TIMEOUTS, key: str = KEY) -> None:
        self._log = folder / f"worker-{secrets.token_hex(4)}.log"
        environment = {
            **os.environ,
            "JOBMANAGER_REDIS_URL": url,
            "JOBMANAGER_KEY": key,
            "JOBMANAGER_CLUSTER_TIMEOUTS": json.dumps(asdict(timeouts)),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "jobmanager", "worker", "--namespace", NAMESPACE, *arguments]
        with self._log.open("wb") as log:
            self.process = start_bound(command, output=log, environment=environment, folder=folder)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_ready(self) -> WorkerProcess:
        eventually(lambda: "takes jobs" in self.log or self.process.poll() is not None, what=f"a worker: {self.log}")
        assert self.process.poll() is None, self.log
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end: {self.log}") from None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


class HandMadeCluster:
    """A client and a leader in the test's own hands."""

    def __init__(self, server: RedisServer, timeouts: ClusterTimeouts = TIMEOUTS) -> None:
        self.redis = Redis.from_url(server.socket_url)
        self.timeouts = timeouts
        self.store = ClusterStore(self.redis, NAMESPACE, timeouts)
        self.signer = Keyring.parse(KEY).signer(NAMESPACE)
        self.blobs = RedisBlobs(self.redis, self.store.keys, ttl_s=600)
        self._packer = Packer()
        self._entry = "0-0"
        self.results: dict[str, list[JobResult]] = {}  # by R, whatever came
        self.messages: dict[str, ResultMessage] = {}

    def close(self) -> None:
        self.redis.close()

    # ---- the client

    def accept(self, task: Task | Pipeline, inputs: JobInput | None = None, **changes: Any) -> str:
        """Hand a job over; its R. ``changes`` are of its header."""
        r = secrets.token_hex(16)
        packed = self._packer.pack(task, inputs or JobInput(), debug=changes.pop("debug", False))
        self.blobs.put_all(packed.shared)
        self.blobs.of_job(r).put_all(packed.own)
        header = replace(_header(r, task, packed.sha256), **changes)
        body = changes.get("text", packed.text)
        job = NewJob(r=r, job_id=header.job_id, client=CLIENT, title=header.title, header=signed(self.signer, header), body=body)
        self.store.accept(job, max_waiting=1000)
        return r

    def read_results(self) -> None:
        for entry, r, envelope in self.store.read_results(CLIENT, after=self._entry):
            self._entry = entry
            message = opened(self.signer, ResultMessage, envelope, 10**8)
            reader = BlobReader(self.blobs.of_job(r), self.blobs)
            self.messages[r] = message
            self.results.setdefault(r, []).append(unpack_result(message.result, reader))

    def result(self, r: str, within_s: float = 20.0) -> JobResult:
        """The one result of a job."""
        eventually(lambda: self.read_results() or r in self.results, within_s=within_s, what=f"a result of {r}")
        (result,) = self.results[r]
        return result

    def events(self) -> list[ClientEvent]:
        return [opened(self.signer, ClientEvent, envelope) for _, envelope in self.store.read_events(CLIENT, after="0-0")]

    def command(self, r: str, command: str, **changes: Any) -> NodeCommand:
        return replace(
            NodeCommand(command=command, r=r, client=CLIENT, nonce=secrets.token_hex(8), at_s=time.time(), reason="kill_job"),
            **changes,
        )

    def kill(self, r: str) -> str:
        return self.store.cancel(r, command=signed(self.signer, self.command(r, "kill")), result="")

    # ---- the leader

    def place(self, r: str, node: str = "n1", **changes: Any) -> str:
        """Give a job to a node; its token. ``changes`` are of its placement."""
        report = self.report(node)
        placement = Placement(r=r, node=node, incarnation=report.incarnation, token=secrets.token_hex(16))
        epoch = self.store.lead("test")
        envelope = signed(self.signer, replace(placement, **changes))
        answer = self.store.place_all(epoch, [(r, node, placement.incarnation, placement.token, envelope, "")])
        assert answer == ["placed"]
        return placement.token

    def run(self, task: Task | Pipeline, inputs: JobInput | None = None, *, node: str = "n1", **changes: Any) -> str:
        """Accept and place."""
        r = self.accept(task, inputs, **changes)
        self.place(r, node)
        return r

    def report(self, node: str = "n1") -> NodeReport:
        """What a node said last."""
        eventually(lambda: [each for each in self.store.nodes() if each.name == node and each.report], what=f"node {node}")
        (fields,) = (each for each in self.store.nodes() if each.name == node)
        return opened(self.signer, NodeReport, fields.report, 10**7)

    def record(self, r: str) -> JobFields:
        found = self.store.record(r)
        assert found is not None
        return found

    def state(self, r: str) -> str:
        return self.record(r).state

    def wait_for_state(self, r: str, *states: str, within_s: float = 20.0) -> None:
        eventually(lambda: self.state(r) in states, within_s=within_s, what=f"{r} is {' or '.join(states)}")


def _header(r: str, task: Task | Pipeline, sha256: str) -> JobHeader:
    retries = task.retries if isinstance(task, Task) else 0
    environments = sorted(task.environments)
    needs = Needs(environment=environments[0], memory_mib=task.memory_mib, cpus=task.cpus, wall_s=task.wall_s)
    return JobHeader(
        schema=SCHEMA,
        r=r,
        job_id=f"job-{r[:6]}",
        client=CLIENT,
        launcher="somebody",
        priority=0,
        title="a job",
        job_class="",
        needs=needs,
        retries=retries,
        supersede_key=None,
        queue_timeout_s=3600,
        not_after_s=time.time() + 3600,
        body=sha256,
    )


def node_options(url: str, name: str = "n1", *more: str) -> Sequence[str]:
    """The arguments of a worker that has one Docker host, and leaves dispatching to the test."""
    return ["--host", url, "--name", name, "--dispatch", "never", *more]
