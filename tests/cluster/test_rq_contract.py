"""What we rely on inside RQ: these tests run with the RQ that is installed, and once more with the oldest that is allowed."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker

from jobmanager.errors import InvalidValue
from jobmanager.remote.keys import Keys
from jobmanager.remote.rq_worker import NodeQueue, NodeWorker
from tests.conftest import eventually
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
KEYS = Keys("exam")
R1, R2, R3 = (f"{number:032x}" for number in (1, 2, 3))
FORGED = {  # each of these makes a plain worker of RQ run something, or take all memory
    "data": zlib.compress(b'["os.system", null, ["touch /tmp/never"], {}]'),
    "success_callback_name": "os.system",
    "failure_callback_name": "os.system",
    "stopped_callback_name": "os.system",
    "webhooks": '[{"url": "http://127.0.0.1:1/"}]',
    "meta": "no JSON",
    "timeout": "soon",
    "created_at": "never",
    "status": "no status",
    "retries_left": "7",
    "dependency_ids": "no JSON",
}


class Jobs:
    """A node that keeps what it is given."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.taken: list[str] = []
        self.running: set[str] = set()
        self.signals = 0
        self.draining = False
        self.over = False
        self.changed: SimpleQueue[None] = SimpleQueue()
        self.on_take: Callable[[str], None] = self.running.add

    def has_room(self) -> bool:
        return len(self.running) < self.slots

    def gives_back(self) -> bool:
        return self.draining

    def wait(self, timeout_s: float) -> None:
        try:
            self.changed.get(timeout=min(timeout_s, 0.1))
        except Empty:
            pass

    def take(self, r: str) -> None:
        self.taken.append(r)
        self.on_take(r)

    def is_over(self) -> bool:
        return self.over or self.signals > 0

    def on_signal(self) -> None:
        self.signals += 1


class Running:
    """A worker in a thread of the test."""

    def __init__(self, redis: Redis, jobs: Jobs) -> None:
        self.jobs, self.redis = jobs, redis
        self.worker = NodeWorker(redis, KEYS, "n1", jobs)
        self.worker._install_signal_handlers = lambda: None  # type: ignore[method-assign]  # this is no main thread
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()

    def place(self, r: str, record: dict[str, Any] | None = None) -> None:
        plain = {"status": "queued", "data": zlib.compress(b"[]"), "origin": KEYS.node_queue("n1")}
        self.redis.hset(KEYS.rq_job(r), mapping=record or plain)
        self.redis.rpush(KEYS.rq_node("n1"), r)

    def end(self, r: str, *, failed: bool = False) -> None:
        self.worker.show_ended(r, failed=failed)
        self.jobs.running.discard(r)
        self.jobs.changed.put(None)

    def popped(self) -> list[Any]:
        return self.redis.lrange(KEYS.rq_node("n1") + ":intermediate", 0, -1)

    def close(self) -> None:
        self.jobs.over = True
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    connection = Redis.from_url(redis_server.socket_url, socket_timeout=5.0)
    yield connection
    connection.connection_pool.disconnect()
    gc.collect()  # `close` of the oldest redis that is allowed leaves its connections to this


@pytest.fixture
def start(redis: Redis) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start_worker(slots: int = 2) -> Running:
        started.append(Running(redis, Jobs(slots)))
        return started[-1]

    yield start_worker
    for each in started:
        each.close()


def test_jobs_are_taken_in_order_while_there_is_room(start: Callable[..., Running]) -> None:
    node = start(slots=2)

    for r in (R1, R2, R3):
        node.place(r)

    eventually(lambda: node.jobs.taken == [R1, R2])
    assert node.redis.lrange(KEYS.rq_node("n1"), 0, -1) == [R3.encode()]
    node.end(R1)
    eventually(lambda: node.jobs.taken == [R1, R2, R3])


def test_a_popped_job_is_in_the_intermediate_list_until_it_is_forgotten(start: Callable[..., Running]) -> None:
    node = start()
    node.place(R1)
    eventually(lambda: node.jobs.taken)

    assert node.popped() == [R1.encode()]
    node.worker.forget(R1)
    assert node.popped() == []


def test_a_job_that_was_popped_by_a_worker_that_died_is_found(redis: Redis, start: Callable[..., Running]) -> None:
    redis.rpush(KEYS.rq_node("n1") + ":intermediate", "what is this", R1)

    node = start()
    node.jobs.on_take = lambda r: node.worker.forget(r)

    eventually(lambda: R1 in node.jobs.taken)
    eventually(lambda: node.popped() == [])


def test_what_a_killed_worker_ran_is_shown_no_more(redis: Redis, start: Callable[..., Running]) -> None:
    running = f"rq:wip:{KEYS.node_queue('n1')}"
    redis.zadd(running, {f"{R1}:abandoned": 1})

    node = start()

    eventually(lambda: Worker.all(connection=redis))
    assert redis.zcard(running) == 0
    node.place(R2)
    eventually(lambda: node.jobs.taken == [R2])
    node.worker.show_started(R2)
    eventually(lambda: redis.zcard(running))
    assert 0 < redis.ttl(running) <= 180  # also where no worker of this name comes again


def test_nothing_of_a_record_is_looked_at(start: Callable[..., Running]) -> None:
    node = start(slots=100)

    for number, (name, value) in enumerate(FORGED.items()):
        node.place(f"{number:032x}", {name: value})
    node.place(R3, FORGED)
    node.redis.rpush(KEYS.rq_node("n1"), "e" * 32)  # and one without a record

    eventually(lambda: node.jobs.taken[-1:] == ["e" * 32])
    assert len(node.jobs.taken) == len(FORGED) + 2


def test_what_is_no_id_does_not_stop_the_worker(start: Callable[..., Running]) -> None:
    node = start()
    node.jobs.on_take = lambda r: node.worker.forget(r)
    node.redis.rpush(KEYS.rq_node("n1"), b"\xff\xfe", "../../etc/passwd", "", "x" * 100_000)

    node.place(R1)

    eventually(lambda: R1 in node.jobs.taken)
    eventually(lambda: node.popped() == [])


def test_dashboards_see_a_job_start_and_end(start: Callable[..., Running]) -> None:
    node = start()
    queue = Queue(KEYS.node_queue("n1"), connection=node.redis)
    for r in (R1, R2):
        node.place(r)
    eventually(lambda: len(node.jobs.taken) == 2)

    for r in (R1, R2):
        node.worker.show_started(r)
    eventually(lambda: queue.started_job_registry.count == 2)
    assert sorted(each.split(":")[0] for each in queue.started_job_registry.get_job_ids()) == [R1, R2]  # RQ 2.0 names executions
    job = queue.fetch_job(R1)
    assert job is not None and job.started_at is not None and job.worker_name == "jm.exam.node.n1"
    (execution,) = job.get_executions()
    assert execution.job_id == R1

    node.end(R1)
    node.end(R2, failed=True)
    eventually(lambda: queue.finished_job_registry.count == queue.failed_job_registry.count == 1)
    assert queue.started_job_registry.count == 0
    assert (queue.finished_job_registry.get_job_ids(), queue.failed_job_registry.get_job_ids()) == ([R1], [R2])
    (worker,) = Worker.all(connection=node.redis)
    assert (worker.successful_job_count, worker.failed_job_count) == (1, 1)
    assert not [key for key in node.redis.keys("rq:execution*") if key]


def test_a_worker_is_seen_with_its_process_and_queue(start: Callable[..., Running]) -> None:
    node = start()

    (worker,) = eventually(lambda: Worker.all(connection=node.redis))

    assert (worker.name, worker.pid, worker.queue_names()) == ("jm.exam.node.n1", os.getpid(), ["jm.exam.node.n1"])
    assert node.redis.ttl(worker.key) > 0
    node.close()
    assert Worker.all(connection=node.redis) == []


def test_a_worker_that_was_killed_leaves_a_name_that_can_be_had(redis: Redis, start: Callable[..., Running]) -> None:
    redis.hset("rq:worker:jm.exam.node.n1", mapping={"birth": "2026-11-27T00:00:00.000000Z", "pid": 1})

    start().place(R1)

    eventually(lambda: [each.pid for each in Worker.all(connection=redis)] == [os.getpid()])


def test_the_connection_keeps_its_timeout(start: Callable[..., Running]) -> None:
    node = start()

    assert node.redis.connection_pool.connection_kwargs["socket_timeout"] == 5.0


def test_no_command_of_rq_is_listened_to(start: Callable[..., Running]) -> None:
    node = start()
    eventually(lambda: Worker.all(connection=node.redis))

    assert node.redis.publish("rq:pubsub:jm.exam.node.n1", '{"command": "shutdown"}') == 0


def test_suspend_of_rq_changes_nothing(redis: Redis, start: Callable[..., Running]) -> None:
    redis.set("rq:suspended", 1)

    node = start()
    node.place(R1)

    eventually(lambda: node.jobs.taken == [R1])


def test_an_outage_ends_no_worker(redis_server: RedisServer, start: Callable[..., Running]) -> None:
    node = start()
    node.jobs.on_take = lambda r: node.worker.forget(r)
    node.place(R1)
    eventually(lambda: node.popped() == [] and node.jobs.taken == [R1])

    redis_server.restart(kill=True)
    redis_server.cut_connections()
    with redis_server.client() as other:
        other.rpush(KEYS.rq_node("n1"), R2)

    eventually(lambda: R2 in node.jobs.taken)


def test_a_worker_registers_again_when_redis_lost_its_data(redis_server: RedisServer, start: Callable[..., Running]) -> None:
    node = start()
    eventually(lambda: Worker.all(connection=node.redis))

    redis_server.restart(keep_data=False)

    with redis_server.client() as other:
        eventually(lambda: other.hexists("rq:worker:jm.exam.node.n1", "birth"))


def test_maintenance_fails_no_job_and_puts_none_into_a_queue(start: Callable[..., Running]) -> None:
    node = start()
    eventually(lambda: Worker.all(connection=node.redis))
    node.redis.zadd(f"rq:wip:{KEYS.node_queue('n1')}", {f"{R1}:abandoned": 1})
    node.redis.hset(KEYS.rq_job(R1), mapping={"status": "started", "data": b"", "retries_left": 3})

    node.worker.run_maintenance_tasks()

    assert node.redis.zcard(f"rq:wip:{KEYS.node_queue('n1')}") == 1
    assert node.redis.hget(KEYS.rq_job(R1), "status") == b"started"


def test_jobs_that_ended_long_ago_are_shown_no_more(start: Callable[..., Running]) -> None:
    node = start()
    finished = f"rq:finished:{KEYS.node_queue('n1')}"
    node.redis.zadd(finished, {R2: 1})
    node.place(R1)
    eventually(lambda: node.jobs.taken == [R1])

    node.worker.show_started(R1)
    node.end(R1)

    eventually(lambda: node.redis.zrange(finished, 0, -1) == [R1.encode()])
    assert 0 < node.redis.ttl(finished) <= 3600


def test_a_prefix_of_rqs_own_is_refused(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeQueue, "redis_queue_namespace_prefix", "other:queue:")

    with pytest.raises(InvalidValue, match="RQ_KEY_PREFIX"):
        NodeWorker(redis, KEYS, "n1", Jobs(1))


def test_a_signal_sets_a_flag_and_interrupts_nothing(redis: Redis) -> None:
    jobs = Jobs(1)
    worker = NodeWorker(redis, KEYS, "n1", jobs)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM])  # while it waits for a job
    timer.start()
    try:
        worker.run()
    finally:
        timer.join()
        for number, handler in before.items():
            signal.signal(number, handler)

    assert jobs.signals == 1


@pytest.mark.timeout(400)
def test_the_oldest_allowed_rq_passes_these_tests(tmp_path: Path) -> None:
    if os.environ.get("JOBMANAGER_TEST_OLDEST_RQ"):
        assert version("rq") == oldest("rq")
        return
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    wanted = [f"rq=={oldest('rq')}", f"redis=={oldest('redis')}", "docker", "psutil", "pytest", "pytest-timeout"]
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
    if re.search("No matching distribution|Max retries|Could not fetch", installed.stderr):
        pytest.skip(f"no package index answers: {installed.stderr.strip()[-300:]}")
    assert installed.returncode == 0, installed.stderr

    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env=os.environ | {"JOBMANAGER_TEST_OLDEST_RQ": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert ran.returncode == 0, ran.stdout[-5000:]


def oldest(package: str) -> str:
    """The oldest version that the extra allows."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found = re.search(rf"^{package}>=([0-9.]+)", setup["options.extras_require"]["rq"], re.MULTILINE)
    assert found is not None
    return found[1] + ".0" * (2 - found[1].count("."))
