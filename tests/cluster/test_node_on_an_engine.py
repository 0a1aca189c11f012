"""A node with a real Docker engine: what its end leaves there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobmanager import JobInput, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.hand_made_cluster import HandMadeCluster, WorkerProcess, node_options
from tests.support.redis_server import RedisServer

LONG = Task(BUSYBOX, command="echo begun; sleep 60")


@pytest.fixture
def by_hand(redis_server: RedisServer) -> Iterator[HandMadeCluster]:
    cluster = HandMadeCluster(redis_server)
    yield cluster
    cluster.close()


@pytest.fixture
def start_worker(redis_server: RedisServer, engine_url: str, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    with ExitStack() as stack:

        def start() -> WorkerProcess:
            worker = WorkerProcess(tmp_path, redis_server.socket_url, *node_options(engine_url))
            stack.callback(worker.close)
            return worker.wait_until_ready()

        yield start


@pytest.mark.engine
def test_a_job_runs_and_a_worker_that_is_told_twice_to_end_leaves_nothing(
    by_hand: HandMadeCluster, start_worker: Callable[[], WorkerProcess], engine_url: str
) -> None:
    worker = start_worker()
    assert by_hand.result(by_hand.run(Task(BUSYBOX, command="cat"), JobInput(stdin=b"hello"))).stdout == b"hello"
    r = by_hand.run(LONG)
    by_hand.wait_for_state(r, "running")  # the container that is there may be that of the first job
    eventually(lambda: our_containers(engine_url))

    worker.send(signal.SIGTERM)
    eventually(lambda: by_hand.report().state == "draining")
    worker.send(signal.SIGTERM)

    assert worker.wait() == 130
    assert by_hand.result(r).outcome is Outcome.CRASH
    assert (our_containers(engine_url), our_volumes(engine_url)) == ([], [])


@pytest.mark.engine
def test_the_containers_of_a_worker_that_was_killed_are_removed_by_the_next_one(
    by_hand: HandMadeCluster, start_worker: Callable[[], WorkerProcess], engine_url: str
) -> None:
    worker = start_worker()
    r = by_hand.run(LONG)
    by_hand.wait_for_state(r, "running")
    eventually(lambda: our_containers(engine_url))

    worker.process.kill()
    start_worker()

    eventually(lambda: our_containers(engine_url) == [], what="its containers are gone")
    by_hand.read_results()
    assert by_hand.results == {}  # nobody but the dispatcher decides about its jobs
    assert by_hand.result(by_hand.run(Task(BUSYBOX, command="echo again"))).stdout == b"again\n"
