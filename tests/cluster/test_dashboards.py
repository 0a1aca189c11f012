"""RQ's dashboards on our queues: rq-dashboard as a program, and RQ's own command."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobmanager import ClientFuture, JobFuture, Task
from jobmanager.remote.keys import Keys
from tests.conftest import eventually
from tests.support.bound_process import start_bound
from tests.support.cluster import IMAGE, NAMESPACE, Cluster
from tests.support.redis_server import RedisServer

KEYS = Keys(NAMESPACE)
HELLO = Task(IMAGE, command="echo hello", name="say hello")
LONG = Task(IMAGE, command="sleep 60")
NODE = "node-1"


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis(tcp=True)


@pytest.fixture
def one_node(server: RedisServer, start_cluster: Callable[..., Cluster]) -> Cluster:
    return start_cluster(server, nodes=(NODE,), slots=2)


@pytest.fixture
def ask(server: RedisServer, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """What rq-dashboard answers: its pages are made of this."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "rq-dashboard"
    with (tmp_path / "log").open("wb") as log:
        process = start_bound([str(program), "--json", "--bind", "127.0.0.1", "--port", str(port), "-u", server.url], output=log)

    def answer(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/0/data/{path}", timeout=10) as response:
            return json.load(response)

    def is_there() -> bool:
        try:
            return bool(answer("queues.json"))
        except OSError:
            return False

    try:
        eventually(is_there, what=f"rq-dashboard answers: {(tmp_path / 'log').read_text()}")
        yield answer
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def waiting(one_node: Cluster) -> Iterator[JobFuture]:
    """A job has ended, two run, and this one waits for a slot."""
    client = ClientFuture(one_node.client())
    client.new_job(HELLO).result(20)
    running = [client.new_job(LONG) for _ in range(2)]
    eventually(lambda: len(one_node.containers()[NODE]) == 2)
    last = client.new_job(HELLO)
    yield last
    assert not any(future.done() for future in (*running, last))
    for future in (*running, last):
        future.cancel()


def test_rq_dashboard_shows_queues_workers_and_jobs(
    one_node: Cluster, waiting: JobFuture, ask: Callable[[str], Any]
) -> None:
    node_queue = KEYS.node_queue(NODE)

    def queues() -> dict[str, Any]:
        return {queue["name"]: queue for queue in ask("queues.json")["queues"]}

    eventually(lambda: queues()[KEYS.wait_queue]["count"] == 1)
    eventually(lambda: queues()[node_queue]["started_job_registry_count"] == 2)
    assert queues()[node_queue]["finished_job_registry_count"] == 1
    (worker,) = ask("workers.json")["workers"]
    assert (worker["name"], worker["pid"], worker["queues"]) == (node_queue, one_node.nodes[NODE].pid, [node_queue])
    assert worker["successful_job_count"] == 1
    (ended,) = ask(f"jobs/{node_queue}/finished/8/asc/1.json")["jobs"]
    assert "say hello" in ended["description"]
    (waits,) = ask(f"jobs/{KEYS.wait_queue}/queued/8/asc/1.json")["jobs"]
    assert waiting.job_id in waits["description"]
    job = ask(f"job/{ended['id']}.json")
    assert (job["status"], job["origin"]) == ("finished", node_queue)
    assert job["started_at"] and job["ended_at"]


@pytest.mark.usefixtures("waiting")
def test_rq_info_shows_the_node_and_its_jobs_and_changes_nothing(server: RedisServer) -> None:
    def info() -> str:
        command = [sys.executable, "-m", "rq.cli", "info", "--raw", "--url", server.url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    eventually(lambda: "busy" in info() and "2 executing" in info(), what="the worker is busy")
    assert f"queue {KEYS.node_queue(NODE)} 0, 2 executing, 1 finished, 0 failed" in info()
    assert f"queue {KEYS.wait_queue} 1, 0 executing" in info()
    assert "jobs: 1 finished, 0 failed" in info()
