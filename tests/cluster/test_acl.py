"""``examples/cluster/users.acl``: each role can do its work with it on a real Redis, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis, exceptions

from jobmanager import JobInput, Outcome, Task, cli
from jobmanager.remote import RemoteClient
from jobmanager.remote.blobs import BlobReader, BlobUploads, RedisBlobs, hash_of
from jobmanager.remote.connect import open_redis
from jobmanager.remote.output import JobOutputStream
from jobmanager.remote.redis_checks import check_memory, check_redis
from jobmanager.remote.rq_worker import NodeWorker
from jobmanager.remote.store import Accepted, ClusterStore, HeldPlacement, NewJob, SeenState
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.conftest import eventually
from tests.support.cluster import Cluster
from tests.support.redis_server import ADMIN, RedisServer
from tests.unit.test_docs import TOP

FILE = TOP / "examples" / "cluster" / "users.acl"
NOBODY = re.compile(r" #0{64} ")
PASSWORD = "of-a-test"
ROLES = ("client", "node", "dispatcher", "worker", "operator", "viewer")
NAMESPACE = "exam"
DATA = b"x" * 1000
BODY = "jm:exam:job:" + f"{9:032x}"


class Everybody:
    """A store for each role, and the work that each does."""

    def __init__(self, server: RedisServer, stack: ExitStack) -> None:
        self.server = server
        self.urls = {role: server.url_of(f"jobmanager-{role}", PASSWORD) for role in ROLES}
        self.redis = {role: stack.enter_context(open_redis(url, ClusterTimeouts())) for role, url in self.urls.items()}
        self.stores = {role: ClusterStore(redis, NAMESPACE, ClusterTimeouts()) for role, redis in self.redis.items()}
        self.blobs = {role: RedisBlobs(redis, self.stores[role].keys, ttl_s=100) for role, redis in self.redis.items()}

    def denied(self) -> list[str]:
        """What Redis has refused since it was started."""
        with self.server.client() as admin:
            return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in admin.acl_log()]


@pytest.fixture
def everybody(start_redis: Callable[..., RedisServer]) -> Iterator[Everybody]:
    lines = [NOBODY.sub(f" >{PASSWORD} ", line) for line in FILE.read_text().splitlines() if not line.startswith("user admin")]
    with ExitStack() as stack:
        yield Everybody(start_redis(users=lines), stack)


def job(number: int, *blobs: str) -> NewJob:
    r = f"{number:032x}"
    return NewJob(r=r, job_id=f"job-{number}", client="web", title="a title", header="header", body="body", blobs=blobs)


def as_client(store: ClusterStore, blobs: RedisBlobs) -> None:
    check_redis(store.redis, "redis://")
    assert all(store.life())
    assert store.claim_client("web", "me", {"name": "web"}) == ""
    names = BlobUploads(blobs).upload(job(1).r, {hash_of(DATA): DATA}, {hash_of(b"own"): b"own"})
    assert store.accept(job(1, *names), max_waiting=100) == Accepted()
    for number in range(2, 8):
        assert store.accept(job(number), max_waiting=100) == Accepted()
    assert store.announce(job(2), SeenState()) == "there" and store.announce(job(8), SeenState()) == "made"
    assert store.cancel(job(8).r, command="kill", result="killed") == "ended"
    store.ask(job(1).r, client="web", question="1")
    assert store.leader() == "" and store.waiting_count() == len(store.waiting()) == 7
    assert store.waiting_before(job(2).r) == 1 and store.nodes() is not None and store.client("web")
    assert store.want_snapshot(5) == "" and store.last_event("web") and store.record(job(1).r)


def as_dispatcher(store: ClusterStore) -> str:
    epoch = store.lead("leader")
    waiting = store.waiting()
    assert waiting == [job(number).r for number in range(1, 8)]
    assert store.records_by_script(waiting) == store.records(waiting) and None not in store.records(waiting)
    store.read_hints(after="0", block_s=0.01), store.last_hint(), store.pulse(["n1"]), store.time_s(), store.jobs_of("n1")
    store.write_snapshot("s", for_s=5), store.write_shares("s"), store.life(), store.uptime_s(), store.had_leader()
    assert store.is_client_alive("web") and store.shares() == "s" and store.leader() == "leader"
    placements = [(job(number).r, "n1", "i1", f"t{number}", "placement", "event") for number in range(1, 6)]
    assert store.place_all(epoch, placements) == ["placed"] * 5
    assert store.requeue(epoch, job(5).r, "t5", "event", seen="placed") == "waiting"
    what = {"client": "web", "job_id": "job-6", "result": "result", "outcome": "crash", "who": "leader"}
    assert store.finish(job(6).r, token="", epoch=epoch, **what) == "done"
    store.send_event("web", "event"), store.send_command("n1", "command"), store.audit("what", "r", "who"), store.drop_waiting("x")
    store.forget_node("n9")
    return epoch


def as_node(store: ClusterStore, blobs: RedisBlobs, worker: NodeWorker) -> None:
    check_redis(store.redis, "redis://")
    check_memory(store.redis, "redis://")
    worker.register_birth(), worker._beat()
    assert all(store.life())
    for number in range(1, 5):
        assert (found := worker.queue_class.dequeue_any(worker.queues, 1, connection=store.redis)) and found[0].id == job(number).r
    worker.forget("x"), worker._stray(), worker.run_maintenance_tasks()
    fields = store.record(job(1).r)
    assert fields and fields.placement == "placement"
    assert BlobReader(blobs)(hash_of(DATA)) == DATA and BlobReader(blobs.of_job(job(1).r))(hash_of(b"own")) == b"own"
    for number in (1, 2):
        assert store.start(job(number).r, node="n1", incarnation="i1", token=f"t{number}", event="event") == "run"
        worker.show_started(job(number).r)
        worker.show_now()
    assert store.beat("n1", "i1", "report", [HeldPlacement(job(1).r, "t1", 1), HeldPlacement(job(2).r, "t2", 1)]).is_owner
    worker._beat(), store.count_runs(job(1).r, token="", runs=1)
    assert store.back(job(3).r, token="t3", reason="no", exclude=True)
    blobs.of_job(job(1).r).put(hash_of(b"result"), b"result")
    output = JobOutputStream(store.redis, store.keys, job(1).r)
    output.put("piece"), output.unread(), output.remove(), output.put("piece")
    for number in (1, 2):
        what = {"client": "web", "job_id": f"job-{number}", "result": "result", "outcome": "success", "who": "n1"}
        assert store.finish(job(number).r, token=f"t{number}", **what) == "done"
        worker.show_ended(job(number).r, failed=number == 1)
        worker.show_now()
    store.send_event("web", "event"), store.hint("done"), store.read_commands("n1", after="0", block_s=0.01)
    worker.register_death(), store.release_node("n1", "i1"), store.forget_node("n1")


def as_client_at_last(store: ClusterStore, blobs: RedisBlobs) -> None:
    check_memory(store.redis, "redis://")
    results, events = store.read_for_client("web", results_after="0", events_after="0", block_s=0.01)
    assert {r for _, r, _ in results} == {job(number).r for number in (1, 2, 6, 8)} and events
    assert BlobReader(blobs.of_job(job(1).r))(hash_of(b"result")) == b"result"
    for entry, r, _ in results:
        assert store.acknowledge("web", (entry, r), holder="me")
    assert not store.redis.exists(store.keys.job_blobs(job(1).r))
    assert store.cancel(job(4).r, command="kill", result="killed") == "asked"
    store.send_command("n1", "command"), store.read_events("web", after="0"), store.read_results("web", after="0")
    output = JobOutputStream(store.redis, store.keys, job(1).r)
    output.forget(["1-1"]), output.remove(), store.redis.xread({store.keys.output(job(1).r): "0"})
    assert store.open_jobs("web")
    store.release_client("web", "me")


def as_viewer(store: ClusterStore) -> None:
    """What ``jobmanager nodes`` and ``jobmanager queue`` read, and dashboards."""
    store.nodes(), store.jobs_of("n1"), store.waiting(), store.records([job(7).r]), store.leader(), store.time_s()
    redis: Any = store.redis
    redis.smembers("rq:queues"), redis.smembers("rq:workers"), redis.lrange(store.keys.rq_wait, 0, 10), redis.hgetall("rq:job:x")
    redis.zrange("rq:finished:jm.exam.node.n1", 0, 10), redis.zcard("rq:wip:jm.exam.node.n1"), redis.xrange(store.keys.audit)


class Idle:
    """A node without jobs, for RQ's worker."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize("runner", ["node", "worker"], ids=["apart", "together"])
def test_each_role_can_do_its_work(everybody: Everybody, runner: str) -> None:
    stores, blobs = everybody.stores, everybody.blobs
    claimed = stores[runner].claim_node("n1", "i1")
    worker = NodeWorker(everybody.redis[runner], stores[runner].keys, "n1", Idle())

    as_client(stores["client"], blobs["client"])
    leading = "worker" if runner == "worker" else "dispatcher"
    as_dispatcher(stores[leading])
    as_node(stores[runner], blobs[runner], worker)
    as_client_at_last(stores["client"], blobs["client"])
    for role in ("viewer", "operator"):
        as_viewer(stores[role])
    stores["operator"].set_want("n1", "drain"), stores["operator"].audit("want", "", "n1"), stores["operator"].hint("changed")
    stores["operator"].set_want("n1", "up"), stores["operator"].forget_node("n1")
    stores[leading].resign("leader")

    assert claimed == "" and everybody.denied() == []


def test_a_whole_cluster_works_with_it(everybody: Everybody, start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(everybody.server, nodes=1, url=everybody.urls["worker"])
    large = Task("busybox", command="cat data", files={"data": DATA * 100})
    options: dict[str, Any] = {"key": cluster.key, "namespace": cluster.namespace, "timeouts": cluster.timeouts}
    with RemoteClient(everybody.urls["client"], **options) as client:
        jobs = [client.submit(large, JobInput(files={"own": DATA * 100})) for _ in range(3)]
        killed = client.submit(Task("busybox", command="sleep 60"))
        eventually(lambda: [each for each in client.get_job_queue_snapshot()[0] if each.job_id == killed.job_id], within_s=20)
        client.kill_job(killed.job_id)
        results = [job.result(30) for job in [*jobs, killed]]
        assert client.get_available_environments() is not None
        assert client.queue_length() == 0

    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 3 + [Outcome.KILLED]
    assert everybody.denied() == []


FOR_NOBODY = [
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "/"), ("KEYS", "*"), ("SHUTDOWN",), ("SAVE",),
    ("MONITOR",), ("ACL", "LIST"), ("ACL", "SETUSER", "x"), ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"), ("REPLICAOF", "127.0.0.1", "1"), ("MODULE", "LIST"), ("SLOWLOG", "GET"),
    ("SWAPDB", "0", "1"), ("EVAL", "return 1", "0"), ("FCALL", "x", "0"),
    ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("MIGRATE", "127.0.0.1", "1", "a", "0", "1"), ("SORT", "a"),
    ("PUBLISH", "rq:pubsub:x", "{}"), ("SUBSCRIBE", "rq:pubsub:x"),
    ("SET", "other", "x"), ("GET", "other"), ("SET", "jm:exam:else", "x"), ("SET", "rq", "x"),
]  # fmt: skip
FOR_EACH: dict[str, list[tuple[str, ...]]] = {
    "client": [
        ("SET", "jm:exam:leader", "me"), ("INCR", "jm:exam:epoch"), ("HSET", "jm:exam:node:n1", "report", "x"),
        ("SET", "jm:exam:node:n1:want", "drain"), ("SET", "jm:exam:node:n1:owner", "x"), ("SET", "jm:exam:snapshot", "x"),
        ("SET", "jm:exam:shares", "x"), ("GET", "jm:exam:shares"), ("HSET", "rq:worker:x", "a", "b"), ("SADD", "rq:workers", "x"),
        ("LPUSH", "rq:queue:default", "x"),
    ],
    "node": [
        ("SET", "jm:exam:leader", "me"), ("INCR", "jm:exam:epoch"), ("SET", "jm:exam:snapshot", "x"),
        ("SET", "jm:exam:shares", "x"), ("XRANGE", "jm:exam:inbox", "-", "+"),
        ("XRANGE", "jm:exam:client:web:results", "-", "+"), ("HGETALL", "jm:exam:client:web:open"),
    ],
    "dispatcher": [
        ("GET", "jm:exam:blob:" + "0" * 64), ("SET", "jm:exam:blob:" + "0" * 64, "x"),
        ("XRANGE", "jm:exam:client:web:results", "-", "+"), ("XRANGE", "jm:exam:out:1", "-", "+"),
        ("HSET", "rq:worker:x", "a", "b"),
    ],
    "worker": [("XRANGE", "jm:exam:client:web:results", "-", "+"), ("HGETALL", "jm:exam:client:web:open")],
    "operator": [
        ("SET", "jm:exam:leader", "me"), ("HSET", BODY, "a", "b"), ("RPUSH", "rq:queue:jm.exam.wait", "x"),
        ("EVALSHA", "0" * 40, "0"), ("GET", "jm:exam:blob:" + "0" * 64), ("DEL", "rq:job:x"), ("SCRIPT", "LOAD", "return 1"),
        ("DEL", "jm:exam:node:n1"), ("DEL", "jm:exam:node:n1:jobs"), ("SET", "jm:exam:node:n1:owner", "x"),
    ],
    "viewer": [
        ("SET", "jm:exam:leader", "me"), ("HSET", BODY, "a", "b"), ("SET", "jm:exam:node:n1:want", "drain"), ("DEL", "rq:job:x"),
        ("GET", "jm:exam:blob:" + "0" * 64), ("XRANGE", "jm:exam:client:web:results", "-", "+"), ("EVALSHA", "0" * 40, "0"),
        ("SCRIPT", "LOAD", "return 1"), ("XADD", "jm:exam:audit", "*", "a", "b"), ("LREM", "rq:queue:jm.exam.wait", "1", "x"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_do_anything_else(everybody: Everybody, role: str) -> None:
    allowed = []
    with Redis.from_url(everybody.urls[role]) as redis:
        for command in [*FOR_NOBODY, *FOR_EACH[role]]:
            try:
                redis.execute_command(*command)
            except exceptions.NoPermissionError:
                continue
            except exceptions.ResponseError as error:
                allowed.append((command, str(error)))
            else:
                allowed.append((command, ""))

    assert allowed == []


def test_scripts_give_no_role_more_than_its_keys(everybody: Everybody) -> None:
    """A client that may load scripts may not touch with them what it may not touch without."""
    redis = everybody.redis["client"]
    for call in ("'SET', 'jm:exam:leader', 'me'", "'GET', 'other'", "'FLUSHALL'", "'KEYS', '*'"):
        script = redis.script_load(f"return redis.call({call})")
        with pytest.raises(exceptions.ResponseError, match=r"user executing the script can't"):
            redis.evalsha(script, 0)


def test_the_file_as_it_is_lets_nobody_in(start_redis: Callable[..., RedisServer]) -> None:
    lines = FILE.read_text().splitlines()
    server = start_redis(users=lines)
    users = [line.split()[1] for line in lines]

    assert users == ["default", "admin", *(f"jobmanager-{role}" for role in ROLES)]
    for user in users:
        for password in ("", "0" * 64, "#" + "0" * 64):
            with pytest.raises(exceptions.AuthenticationError), Redis.from_url(server.url_of(user, password)) as redis:
                redis.ping()
    assert ADMIN not in users


# ---- the command line


def test_operators_steer_with_their_user_and_viewers_only_look(
    everybody: Everybody, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOBMANAGER_KEY", "ab" * 32)
    for node in ("n1", "n2"):
        everybody.stores["node"].beat(node, "i1", "not signed", [])
    everybody.stores["node"].release_node("n2", "i1")

    codes = {}
    for role in ("viewer", "operator"):
        monkeypatch.setenv("JOBMANAGER_REDIS_URL", everybody.urls[role])
        commands = (["nodes"], ["queue"], ["nodes", "pause", "n1"], ["nodes", "forget", "n2"])
        codes[role] = [cli.run([*command, "--namespace", NAMESPACE]) for command in commands]

    assert codes == {"viewer": [1, 0, 3, 3], "operator": [1, 0, 0, 0]}  # 1: the node's report is not signed, so it counts as down
    assert "does not let this user do that" in capsys.readouterr().err
    assert [(node.name, node.want) for node in everybody.stores["node"].nodes()] == [("n1", "pause")]
