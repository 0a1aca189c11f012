"""Somebody who can write everything in Redis, and has no key: nothing of theirs runs, nothing is believed, and the rest goes on.

Each test attacks a cluster of real workers, and then proves: the program that the attacker wants to run has not run, no
container was started that no client asked for, the workers are the same processes as before and have not grown, and jobs
of clients end rightly.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import exceptions
from rq.job import Callback, Job
from rq.serializers import DefaultSerializer, JSONSerializer

from jobmanager import JobInput, JobResult, Outcome, Task
from jobmanager.future import JobFuture
from jobmanager.remote import Keyring
from jobmanager.remote.blobs import hash_of
from jobmanager.remote.payload import Packer, pack_result
from jobmanager.remote.records import ClientEvent, JobHeader, Needs, NodeCommand, NodeReport, Placement, ResultMessage
from jobmanager.remote.signing import Signer
from tests.conftest import eventually
from tests.support.cluster import NAMESPACE, Cluster

PATIENCE_S = 30.0
MAX_GROWTH = 300 * 2**20  # a bomb that went off would be 1 GiB
NODES = ("node-1", "node-2")
GIB = 2**30


@cache
def bomb() -> bytes:
    """A zlib stream of a MiB that inflates to a GiB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    adler = (GIB % 65521) << 16 | 1
    return b"\x78\x9c" + piece * 1024 + last + adler.to_bytes(4, "big")


class Runs:
    """Unpickled, it runs a program."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Attacker:
    """One who has every right in Redis, a key of their own, and whatever they have seen there."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.redis: Any = cluster.redis.client(decode_responses=False)
        self.keys = cluster.keys
        self.marker = folder / "pwned"
        self.command = f"touch {self.marker}"
        self.client = cluster.client(client_id="web")
        self.wrong_key = Keyring.from_environment(secrets.token_bytes(32)).signer(NAMESPACE)
        self.expected_runs = 0
        self._workers = {name: cluster.nodes[name].pid for name in NODES}
        self._memory = self._rss()

    # ---- genuine jobs

    def submit(self, word: str, task: Task | None = None, *, runs: bool = True, **options: Any) -> JobFuture:
        """A client's own job, which says a word."""
        self.expected_runs += runs
        return self.client.submit(task or Task("busybox", command=f"echo {word}"), **options)

    def r_of(self, job: JobFuture) -> str:
        """The R of an open job."""
        return str(eventually(lambda: self.redis.hget(self.keys.ids, job.job_id)).decode())

    def pause(self) -> None:
        """No node takes jobs, so that the attacker has time."""
        self._want("pause")
        eventually(lambda: not any(host.up for host in self.client.hosts()), what="all nodes are paused")

    def resume(self) -> None:
        self._want("up")
        eventually(lambda: all(host.up for host in self.client.hosts()), what="all nodes take jobs")

    def _want(self, want: str) -> None:
        for name in NODES:
            self.redis.set(self.keys.node(name, "want"), want)
            self.redis.xadd(self.keys.inbox, {"kind": "changed", "r": "", "more": name})

    # ---- proofs

    def prove_that_nothing_happened(self) -> None:
        """No foreign program ran, the workers live and have not grown, and jobs of clients still end rightly."""
        words = [secrets.token_hex(4) for _ in range(6)]
        for word, job in [(word, self.submit(word)) for word in words]:
            result = job.result(PATIENCE_S)
            assert (result.outcome, result.stdout_text.strip()) == (Outcome.SUCCESS, word), result
        assert not self.marker.exists()
        assert {name: self.cluster.nodes[name].pid for name in NODES if self.cluster.nodes[name].is_running} == self._workers
        assert sum(self.cluster.runs().values()) == self.expected_runs, self.cluster.runs()
        for pid, rss in self._rss().items():
            assert rss - self._memory.get(pid, 0) < MAX_GROWTH, psutil.Process(pid).cmdline()

    def _rss(self) -> dict[int, int]:
        return {each.pid: each.memory_info().rss for name in NODES for each in self.cluster.nodes[name].family()}

    # ---- tools

    def clean(self) -> None:
        """Take away what would be found left behind."""
        for key in self.redis.scan_iter(match="*evil*"):
            self.redis.delete(key)
        for name in NODES:
            self.redis.delete(self.keys.rq_node(name), f"{self.keys.rq_node(name)}:intermediate", self.keys.node(name, "inbox"))
        self.redis.delete("rq:suspended", self.keys.rq_wait)
        for key in self.redis.scan_iter(match="rq:job:*"):
            if self.redis.ttl(key) == -1:
                self.redis.delete(key)
        for key in self.redis.scan_iter(match=f"{self.keys.prefix}job:*"):
            if self.redis.ttl(key) == -1:
                self.redis.delete(key)
        self.redis.close()


@pytest.fixture
def attacker(start_cluster: Callable[..., Cluster], tmp_path: Path) -> Iterator[Attacker]:
    attacker = Attacker(start_cluster(nodes=NODES, arguments=("--blob-cache", str(tmp_path / "cache"))), tmp_path)
    yield attacker
    attacker.clean()


# ---- what RQ would run


def rq_records(attacker: Attacker) -> Iterator[tuple[str, dict[bytes | str, Any]]]:
    """Jobs as RQ would run them: the id and the fields of each."""
    for number, serializer in enumerate([JSONSerializer, DefaultSerializer]):
        for name in (f"{0xE1 + number:032x}", f"evil-{number}"):
            record = Job.create(
                "os.system",
                args=(attacker.command,),
                id=name,
                connection=attacker.redis,
                serializer=serializer,
                on_success=Callback("os.system"),
                on_failure=Callback("os.system"),
                on_stopped=Callback("os.system"),
            )
            yield name, record.to_dict()
    code = pickle.dumps(Runs(attacker.command))
    yield f"{0xE5:032x}", {"data": code, "meta": code, "status": "queued", "created_at": code}
    yield f"{0xE6:032x}", {"data": zlib.compress(code), "status": "queued"}
    yield f"{0xE7:032x}", {"data": bomb(), "meta": bomb(), "status": "queued", "exc_info": bomb()}
    yield "evil\r\n\xff", {"data": b"\xff" * 1000}
    yield "evil" * 100_000, {}


def test_nothing_that_stands_in_rqs_records_is_run(attacker: Attacker) -> None:
    queues = [attacker.keys.rq_wait]
    for name in NODES:
        queues += [attacker.keys.rq_node(name), f"{attacker.keys.rq_node(name)}:intermediate"]
    names = []
    for name, fields in rq_records(attacker):
        names.append(name)
        if fields:
            attacker.redis.hset(f"rq:job:{name}", mapping=fields)
        for queue in queues:
            attacker.redis.rpush(queue, name)

    attacker.prove_that_nothing_happened()

    for queue in queues:
        if not queue.endswith(":intermediate"):
            eventually(lambda queue=queue: not attacker.redis.llen(queue), what=f"{queue} is empty")
    for name in names:
        attacker.redis.delete(f"rq:job:{name}")


def test_rq_records_of_our_own_jobs_are_not_read(attacker: Attacker) -> None:
    code = pickle.dumps(Runs(attacker.command))
    attacker.pause()
    jobs = [(str(number), attacker.submit(str(number))) for number in range(3)]
    for (_, job), data in zip(jobs, [bomb(), zlib.compress(code), code], strict=True):
        fields = {"data": data, "meta": code, "func_name": "os.system", "success_callback_name": "os.system"}
        attacker.redis.hset(f"rq:job:{attacker.r_of(job)}", mapping={**fields, "failure_callback_name": "os.system"})
    attacker.resume()

    assert [(word, job.result(PATIENCE_S).stdout_text.strip()) for word, job in jobs] == [(w, w) for w, _ in jobs]
    attacker.prove_that_nothing_happened()


def test_rqs_commands_and_switches_do_nothing(attacker: Attacker) -> None:
    attacker.redis.set("rq:suspended", 1)
    for name in NODES:
        for command in ({"command": "shutdown"}, {"command": "kill-horse"}, {"command": "stop-job", "job_id": "x"}):
            attacker.redis.publish(f"rq:pubsub:{attacker.keys.node_queue(name)}", json.dumps(command))
        attacker.redis.publish(f"rq:pubsub:{attacker.keys.node_queue(name)}", pickle.dumps(Runs(attacker.command)))
        attacker.redis.hset(f"rq:worker:{attacker.keys.node_queue(name)}", "shutdown_requested_date", "2020-01-01T00:00:00Z")

    attacker.prove_that_nothing_happened()


# ---- jobs and placements


def forged_job(attacker: Attacker, signer: Signer, r: str, **changes: Any) -> dict[str, Any]:
    """A whole record of a job, signed by somebody."""
    packed = Packer().pack(Task("busybox", command="echo forged"), JobInput())
    header = JobHeader(
        schema=1, r=r, job_id="forged", client="web", launcher="x", priority=-100, title="x", job_class="x",
        needs=Needs(environment="busybox", memory_mib=16, cpus=1.0, wall_s=10.0),
        retries=0, supersede_key=None, queue_timeout_s=100.0, not_after_s=4e9, body=packed.sha256,
    )  # fmt: skip
    where = {"node": "node-1", "incarnation": incarnation(attacker), "token": "t" * 32}
    placement = Placement(r=r, **where)
    record = {
        "state": "waiting", "client": "web", "job_id": "forged", "attempt": 0, "runs": 0, "body": packed.text,
        "header": signer.sign(JobHeader.kind_of_signature, header.to_json()),
        "placement": signer.sign(Placement.kind_of_signature, placement.to_json()), **where,
    }  # fmt: skip
    return {**record, **changes}


def incarnation(attacker: Attacker, node: str = "node-1") -> str:
    return str(attacker.redis.hget(attacker.keys.node(node), "incarnation").decode())


def test_jobs_of_strangers_are_neither_placed_nor_run(attacker: Attacker) -> None:
    ours = Keyring.from_environment(attacker.cluster.key)
    seen = attacker.submit("seen")
    attacker.pause()
    waiting = attacker.submit("waiting")
    genuine = attacker.redis.hgetall(attacker.keys.job(attacker.r_of(waiting)))
    unsigned = forged_job(attacker, attacker.wrong_key, "0" * 32)
    records = [
        forged_job(attacker, attacker.wrong_key, f"{1:032x}"),
        forged_job(attacker, ours.signer("another"), f"{2:032x}"),  # what another namespace's client has signed
        {**unsigned, "header": json.loads(unsigned["header"])["text"], "placement": json.loads(unsigned["placement"])["text"]},
        {**unsigned, "header": "", "placement": ""},
        {**unsigned, "header": pickle.dumps(Runs(attacker.command)), "placement": b"\xff"},
        {**unsigned, "header": genuine[b"header"]},  # a genuine one, for another R
        {**unsigned, "header": genuine[b"header"], "body": genuine[b"body"], "job_id": waiting.job_id},
        {**unsigned, "header": "x" * 10_000_000, "body": "x" * 10_000_000},
    ]
    for number, record in enumerate(records):
        for state, queue in [("waiting", attacker.keys.rq_wait), ("placed", attacker.keys.rq_node("node-1"))]:
            r = f"{number + 1:016x}{state.encode().hex()[:14]:0>16}"
            attacker.redis.hset(attacker.keys.job(r), mapping={**record, "state": state})
            attacker.redis.rpush(queue, r)
            attacker.redis.hset(attacker.keys.node("node-1", "jobs"), r, "t" * 32)
    attacker.redis.xadd(attacker.keys.inbox, {"kind": "new", "r": f"{1:032x}", "more": ""})
    attacker.redis.xadd(attacker.keys.inbox, {b"\xff": b"\xff"})
    attacker.resume()

    assert seen.result(PATIENCE_S).outcome is Outcome.SUCCESS and waiting.result(PATIENCE_S).stdout_text == "waiting\n"
    attacker.prove_that_nothing_happened()


def test_what_was_sent_cannot_be_exchanged(attacker: Attacker) -> None:
    """A body or a file that is not that of the header ends its job with a word, and is not run."""
    large = Task("busybox", command="cat data", files={"data": b"genuine" * 1000})
    attacker.pause()
    one, other = attacker.submit("one", runs=False), attacker.submit("other", runs=False)
    with_files = attacker.submit("", large, runs=False)
    first, second = (attacker.keys.job(attacker.r_of(job)) for job in (one, other))
    body = attacker.redis.hget(first, "body")
    attacker.redis.hset(first, "body", attacker.redis.hget(second, "body"))
    attacker.redis.hset(second, "body", body.replace(b"echo", b"ecHo"))
    attacker.redis.set(attacker.keys.blob(hash_of(b"genuine" * 1000)), b"forged!" * 1000)
    attacker.resume()

    for job in (one, other, with_files):
        result = job.result(PATIENCE_S)
        assert result.outcome is Outcome.CRASH and "on the way" in result.text, result
    again = attacker.submit("", large)
    assert again.result(PATIENCE_S).stdout == b"genuine" * 1000
    attacker.prove_that_nothing_happened()


def test_a_header_that_was_exchanged_runs_nothing_and_its_job_can_be_killed(attacker: Attacker) -> None:
    attacker.pause()
    one, other = attacker.submit("one", runs=False), attacker.submit("other")
    first, second = (attacker.keys.job(attacker.r_of(job)) for job in (one, other))
    attacker.redis.hset(first, mapping={name: attacker.redis.hget(second, name) for name in ("header", "body")})
    attacker.resume()

    assert other.result(PATIENCE_S).stdout_text == "other\n"
    attacker.client.kill_job(one.job_id)  # or the leader has given it up: each node has refused it
    result = one.result(PATIENCE_S)
    assert result.outcome in (Outcome.KILLED, Outcome.CRASH) and result.stdout == b"", result
    attacker.prove_that_nothing_happened()


def test_a_placement_counts_once_for_one_node_in_one_life(attacker: Attacker) -> None:
    """What was signed for a job that has ended is of no use: not here, not elsewhere, not after a restart."""
    other = attacker.cluster.leading_node()
    attacker.redis.set(attacker.keys.node(other, "want"), "pause")
    eventually(lambda: sum(host.up for host in attacker.client.hosts()) == 1)
    job = attacker.submit("", Task("busybox", command="sleep 1; echo once"))
    r = attacker.r_of(job)
    eventually(lambda: attacker.redis.hget(attacker.keys.job(r), "state") == b"running")
    old = attacker.redis.hgetall(attacker.keys.job(r))
    assert job.result(PATIENCE_S).stdout_text == "once\n"
    node = old[b"node"].decode()
    attacker.resume()

    def show_again(name: str) -> None:
        attacker.redis.delete(attacker.keys.job(r))
        attacker.redis.hset(attacker.keys.job(r), mapping={**old, b"state": b"placed", b"node": name})
        attacker.redis.hset(attacker.keys.node(name, "jobs"), r, old[b"token"])
        attacker.redis.rpush(attacker.keys.rq_node(name), r)

    for name in NODES:
        show_again(name)
        eventually(lambda name=name: not attacker.redis.llen(attacker.keys.rq_node(name)))
    attacker.prove_that_nothing_happened()

    attacker.cluster.terminate(node)
    attacker.cluster.wait_for_end(node)
    attacker.cluster.start_node(node)
    attacker._workers[node] = attacker.cluster.nodes[node].pid
    show_again(node)
    attacker.prove_that_nothing_happened()


# ---- results, news, commands, reports


def test_results_of_strangers_are_not_believed(attacker: Attacker) -> None:
    ours = Keyring.from_environment(attacker.cluster.key)
    calls: list[JobResult] = []
    slow = Task("busybox", command="sleep 2; echo true; false")
    attacker.expected_runs += 1
    job_id = attacker.client.new_job(slow, callback=calls.append)
    r = attacker.redis.hget(attacker.keys.ids, job_id).decode()
    eventually(lambda: attacker.redis.hget(attacker.keys.job(r), "state") == b"running")
    token = attacker.redis.hget(attacker.keys.job(r), "token").decode()
    text = pack_result(JobResult(job_id=job_id, outcome=Outcome.SUCCESS, grade=100.0, text="forged")).text
    forged = ResultMessage(r=r, job_id=job_id, token=token, node="node-1", result=text)
    message, of_another = forged.to_json(), replace(forged, r="0" * 32).to_json()
    with_another_id = replace(forged, job_id="another").to_json()
    envelopes = [
        b"", b"{}", b"\xff", message, pickle.dumps(Runs(attacker.command)), bomb(),
        attacker.wrong_key.sign("result", message),
        ours.signer("another").sign("result", message),
        ours.signer(NAMESPACE).sign("event", message),
        ours.signer(NAMESPACE).sign("result", of_another),  # a genuine one, of another job
        ours.signer(NAMESPACE).sign("result", with_another_id),
    ]  # fmt: skip
    for envelope in envelopes:
        attacker.redis.xadd(attacker.keys.client("web", "results"), {"r": r, "e": envelope})
    attacker.redis.xadd(attacker.keys.client("web", "results"), {"a": "b"})

    (result,) = eventually(lambda: calls, within_s=PATIENCE_S)

    assert (result.outcome, result.stdout_text, result.grade) == (Outcome.FAILED, "true\n", 0.0)
    true_one = ours.signer(NAMESPACE).sign("result", message)  # as if it was kept, and is shown once more
    for envelope in [true_one, *envelopes]:
        attacker.redis.xadd(attacker.keys.client("web", "results"), {"r": r, "e": envelope})
    attacker.prove_that_nothing_happened()
    assert len(calls) == 1


def test_commands_and_news_of_strangers_are_not_believed(attacker: Attacker) -> None:
    job = attacker.submit("", Task("busybox", command="sleep 2; echo true"))
    r = attacker.r_of(job)
    eventually(lambda: attacker.redis.hget(attacker.keys.job(r), "state") == b"running")
    ours = Keyring.from_environment(attacker.cluster.key)
    kill = NodeCommand(command="kill", r=r, client="web", nonce="n" * 32, at_s=4e9, reason="forged").to_json()
    event = ClientEvent(event="requeued", r=r, node="node-1", token="t" * 32).to_json()
    signed = [attacker.wrong_key.sign(kind, text) for kind, text in [("command", kill), ("event", event)]]
    others = [ours.signer("another").sign(kind, text) for kind, text in [("command", kill), ("event", event)]]
    for command, news in (signed, others, (kill, event), (b"\xff", b"\xff"), (bomb(), bomb()), reversed(others)):
        attacker.redis.hset(attacker.keys.job(r), "cancel", command)
        for name in NODES:
            attacker.redis.xadd(attacker.keys.node(name, "inbox"), {"e": command})
        attacker.redis.xadd(attacker.keys.client("web", "events"), {"e": news})
        attacker.redis.xadd(attacker.keys.inbox, {"kind": "done", "r": r, "more": command})

    result = job.result(PATIENCE_S)

    assert (result.outcome, result.stdout_text) == (Outcome.SUCCESS, "true\n"), result
    attacker.prove_that_nothing_happened()


def test_a_node_that_does_not_have_the_key_gets_no_job_and_is_not_shown(attacker: Attacker) -> None:
    before = {host.name for host in attacker.client.hosts()}
    genuine = attacker.redis.hget(attacker.keys.node("node-1"), "report")
    report = NodeReport(
        name="evil", incarnation="i", version="9", oldest_schema=1, newest_schema=1, state="up", slots=1000, used=0,
        memory_mib=10**6, free_memory_mib=10**6, cores=1000, environments=("busybox", "forged"), images=("busybox",),
        machine="evil", pid=1,
    ).to_json()  # fmt: skip
    for envelope in (attacker.wrong_key.sign("report", report), report, genuine, b"\xff"):
        attacker.redis.sadd(attacker.keys.nodes, "evil")
        attacker.redis.hset(attacker.keys.node("evil"), mapping={"report": envelope, "incarnation": "i", "beats": 1})
        attacker.redis.set(attacker.keys.node("evil", "owner"), "i")
        for _ in range(3):
            attacker.redis.hincrby(attacker.keys.node("evil"), "beats", 1)
            attacker.prove_that_nothing_happened()
        assert not attacker.redis.llen(attacker.keys.rq_node("evil"))
    assert {host.name for host in attacker.client.hosts()} == before
    assert "forged" not in str(attacker.client.get_available_environments())
    attacker.redis.srem(attacker.keys.nodes, "evil")


_STAYS_S = 60  # what a stranger wrote at last, and nobody has replaced, would be taken for a key that the library has left


def test_a_queue_of_strangers_is_not_shown(attacker: Attacker) -> None:
    for _ in range(20):
        attacker.redis.set(attacker.keys.snapshot, attacker.wrong_key.sign("snapshot", '{"running":[["forged"]]}'), ex=_STAYS_S)
        attacker.redis.set(attacker.keys.shares, pickle.dumps(Runs(attacker.command)), ex=_STAYS_S)
        assert "forged" not in str(attacker.client.get_job_queue_snapshot())

    attacker.prove_that_nothing_happened()


def test_keys_of_another_type_stop_nobody_for_longer_than_they_are_there(attacker: Attacker) -> None:
    keys = [
        attacker.keys.inbox, attacker.keys.snapshot_wanted, attacker.keys.shares,
        attacker.keys.node("node-1", "inbox"), attacker.keys.client("web", "events"),
    ]  # fmt: skip
    for key in keys:
        kept = attacker.redis.dump(key)
        attacker.redis.delete(key)
        attacker.redis.hset(key, "a", "b")
        with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
            attacker.redis.get(key)
        eventually(lambda: True)
        attacker.redis.delete(key)
        if kept is not None:
            attacker.redis.restore(key, 0, kept)

    attacker.prove_that_nothing_happened()


