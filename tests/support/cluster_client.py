"""A client in a process of its own, which a test kills, suspends, and starts again under the same id.

It submits random jobs of known ends until it has submitted enough or the file ``NAME.stop`` is there. Then it waits for all its
jobs, those of the processes before it included, and ends with code 0.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobmanager import JobInput, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.errors import JobManagerError
from jobmanager.remote import ClusterTimeouts, RemoteClient
from tests.conftest import SLOWNESS
from tests.support.cluster import IMAGE, TIMEOUTS_VARIABLE, Cluster
from tests.support.cluster_history import ClusterHistory

_RUN = "from tests.support.cluster_client import main; main()"
_WALL_S = 1.0 * SLOWNESS
_KILLED = "-killed-"  # in the id of a job that never ends by itself
_BIG = 60_000  # bytes: they travel as a blob


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """What a client does."""

    name: str  # its client_id
    folder: str  # of the history
    namespace: str = "test"
    seed: int = 1
    jobs: int = 1000
    in_flight: int = 30
    pause_s: float = 0.05
    command: str = ""  # in place of random jobs
    dies_in_callback: bool = False  # SIGKILL when the first callback has come to its end, and nobody was told


class ClientProcess:
    """One client, in one process after the other."""

    def __init__(self, cluster: Cluster, plan: ClientPlan) -> None:
        self.cluster = cluster
        self.plan = plan
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def history_name(self) -> str:
        """Of the present process, as its history has it."""
        return f"{self.plan.name}-{self.pid}"

    def start(self) -> None:
        log = Path(self.plan.folder) / f"{self.plan.name}.log"
        self.process = self.cluster.start_python(_RUN, json.dumps(asdict(self.plan)), output=log)

    def kill(self, history: ClusterHistory) -> None:
        """SIGKILL; the history is told of it first."""
        assert self.process is not None
        history.process_killed(self.history_name)
        self.process.kill()
        self.process.wait(10)

    @property
    def has_resumed(self) -> bool:
        """Whether the present process has taken up what the one before it has left open."""
        return f"{self.history_name} has resumed" in self.log

    def stop(self) -> None:
        """Let it submit nothing more, and end when all its jobs have ended."""
        (Path(self.plan.folder) / f"{self.plan.name}.stop").touch()

    @property
    def log(self) -> str:
        return (Path(self.plan.folder) / f"{self.plan.name}.log").read_text(errors="replace")


def main() -> None:
    """The process. Its argument is a ClientPlan as JSON."""
    plan = ClientPlan(**json.loads(sys.argv[1]))
    timeouts = ClusterTimeouts(**json.loads(os.environ[TIMEOUTS_VARIABLE]))
    history = ClusterHistory(Path(plan.folder), plan.name)
    client = RemoteClient(namespace=plan.namespace, client_id=plan.name, timeouts=timeouts)
    _start(client, timeouts)
    callback = history.called_back
    if plan.dies_in_callback:
        history.called_back = lambda result: _die_after(callback(result))  # type: ignore[method-assign]
    resumed = client.resume(history.called_back)
    print(f"{history.process} has resumed {len(resumed)} jobs", flush=True)
    for job_id in resumed:
        if _KILLED in job_id:  # the process before this one may not have come to it
            client.kill_job(job_id)
    _Submitter(plan, client, history).run()
    client.close()
    history.close()
    print(f"{history.process} has ended", flush=True)


def _die_after(_: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _start(client: RemoteClient, timeouts: ClusterTimeouts) -> None:
    """As a service manager does it: again, while Redis is away."""
    until = time.monotonic() + 60 * SLOWNESS
    while True:
        try:
            return client.start()
        except JobManagerError as error:
            print(f"it cannot start: {error}", flush=True)
            if time.monotonic() > until:
                raise
            time.sleep(timeouts.beat_s)


class _Submitter:
    def __init__(self, plan: ClientPlan, client: RemoteClient, history: ClusterHistory) -> None:
        self._plan = plan
        self._client = client
        self._history = history
        self._chance = random.Random(f"{plan.seed} {plan.name} {os.getpid()}")
        self._stop = Path(plan.folder) / f"{plan.name}.stop"
        self._accepted: set[str] = set()
        self._kinds: dict[str, Callable[[str], None]] = {
            "hello": self._hello,
            "failing": self._failing,
            "sleeper": self._sleeper,
            "timeout": self._timeout,
            "retried": self._retried,
            "killed": self._killed,
            "stdin": self._stdin,
            "loud": self._loud,
            "pipeline": self._pipeline,
        }

    def run(self) -> None:
        for _ in range(self._plan.jobs):
            if self._stop.exists():
                return
            kind = "given" if self._plan.command else self._chance.choice(tuple(self._kinds))
            job_id = f"{self._plan.name}-{kind}-{secrets.token_hex(5)}"
            if self._plan.command:
                self._submit(job_id, Task(IMAGE, command=self._plan.command), Outcome.SUCCESS)
            else:
                self._kinds[kind](job_id)
            while len(self._accepted) - self._history.count > self._plan.in_flight and not self._stop.exists():
                time.sleep(0.02)
            time.sleep(self._chance.uniform(0, 2 * self._plan.pause_s))

    def _submit(
        self, job_id: str, task: Task | Pipeline, expected: Outcome | None, inputs: JobInput | None = None, **options: Any
    ) -> bool:
        launcher, priority = f"launcher-{self._chance.randrange(3)}", self._chance.choice((0, 0, 0, 5))
        options = {"launcher_name": launcher, "priority": priority, **options}
        is_accepted = not self._history.submit(self._client, task, inputs, job_id=job_id, expected=expected, **options)
        if is_accepted:
            self._accepted.add(job_id)
        return is_accepted

    def _hello(self, job_id: str) -> None:
        self._submit(job_id, Task(IMAGE, command="echo hello"), Outcome.SUCCESS)

    def _failing(self, job_id: str) -> None:
        self._submit(job_id, Task(IMAGE, command="echo no; exit 3"), Outcome.FAILED)

    def _sleeper(self, job_id: str) -> None:
        command = f"sleep {self._chance.uniform(0.1, 2.5):.2f}; echo hello"
        self._submit(job_id, Task(IMAGE, command=command, limits=Limits(wall_time_s=120)), Outcome.SUCCESS)

    def _timeout(self, job_id: str) -> None:
        self._submit(job_id, Task(IMAGE, command="sleep 300", limits=Limits(wall_time_s=_WALL_S)), Outcome.TIMEOUT)

    def _retried(self, job_id: str) -> None:
        command = f"sleep {self._chance.uniform(0.1, 1.5):.2f}; echo hello"
        task = Task(IMAGE, command=command, retries=self._chance.choice((1, 2)), limits=Limits(wall_time_s=120))
        self._submit(job_id, task, Outcome.SUCCESS)

    def _killed(self, job_id: str) -> None:
        task = Task(IMAGE, command="sleep 300", limits=Limits(wall_time_s=600))
        self._history.kill_taken(job_id)
        if self._submit(job_id, task, Outcome.KILLED):
            time.sleep(self._chance.uniform(0, 0.3))
            self._client.kill_job(job_id)

    def _stdin(self, job_id: str) -> None:
        inputs = JobInput(stdin=self._chance.randbytes(_BIG))
        self._submit(job_id, Task(IMAGE, command="wc -c"), Outcome.SUCCESS, inputs)

    def _loud(self, job_id: str) -> None:
        self._submit(job_id, Task(IMAGE, command=f"head -c {_BIG} /dev/zero"), Outcome.SUCCESS)

    def _pipeline(self, job_id: str) -> None:
        phases = [Phase(name, Task(IMAGE, command=f"sleep 0.1; echo {name}")) for name in ("build", "test")]
        self._submit(job_id, Pipeline(phases), Outcome.SUCCESS)
