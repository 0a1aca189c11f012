"""Nodes: real worker processes and a real Redis; the test takes the client's and the leader's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobmanager import JobInput, Outcome, Task
from jobmanager.testing import FakeEngineServer
from tests.support.hand_made_cluster import HandMadeCluster, WorkerProcess, node_options
from tests.support.redis_server import RedisServer

HELLO = Task("python3", command="echo hello")
LONG = Task("python3", command="echo begun; sleep 60")

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def engine() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images=["python3"], cores=4, memory_mib=8192) as fake:
        yield fake


@pytest.fixture
def cluster(redis_server: RedisServer) -> Iterator[HandMadeCluster]:
    by_hand = HandMadeCluster(redis_server)
    yield by_hand
    by_hand.close()


@pytest.fixture
def start_worker(redis_server: RedisServer, engine: FakeEngineServer, tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as stack:

        def start(name: str = "n1", *more: str, ready: bool = True) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, redis_server.socket_url, *node_options(engine.url, name, *more))
            stack.callback(worker.close)
            return worker.wait_until_ready() if ready else worker

        yield start


def test_a_job_is_run_and_its_result_comes(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()

    r = cluster.run(Task("python3", command="cat"), JobInput(stdin=b"hello"))

    result = cluster.result(r)
    assert (result.outcome, result.stdout, result.job_id, result.host) == (Outcome.SUCCESS, b"hello", f"job-{r[:6]}", "n1")
    assert cluster.state(r) == "done"
    assert cluster.store.jobs_of("n1") == {}
    assert [event.event for event in cluster.events()] == ["started"]
