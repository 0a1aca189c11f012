"""Nodes: real worker processes and a real Redis; the test takes the client's and the leader's steps."""

from __future__ import annotations

import base64
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobmanager import JobInput, Outcome, Phase, Pipeline, Task
from jobmanager.model.container import ContainerStatus
from jobmanager.remote.output import OutputPiece
from jobmanager.remote.records import SCHEMA, JobHeader, Placement
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import Keyring
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually
from tests.support.hand_made_cluster import NAMESPACE, TIMEOUTS, HandMadeCluster, WorkerProcess, node_options
from tests.support.redis_server import RedisServer

HELLO = Task("python3", command="echo hello")
LONG = Task("python3", command="echo begun; sleep 60")
SOON = Task("python3", command="sleep 3; echo over")
STRANGER = Keyring.parse("77" * 32).signer(NAMESPACE)

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

        def start(name: str = "n1", *more: str, ready: bool = True, url: str = redis_server.socket_url) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, url, *node_options(engine.url, name, *more))
            stack.callback(worker.close)
            return worker.wait_until_ready() if ready else worker

        yield start


def running(engine: FakeEngineServer) -> list[str]:
    """The containers that run."""
    return [each.name for each in engine.containers() if each.status is ContainerStatus.RUNNING]


# ---- a job's way


def test_a_job_is_run_and_its_result_comes(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()

    r = cluster.run(Task("python3", command="cat"), JobInput(stdin=b"hello"))

    result = cluster.result(r)
    assert (result.outcome, result.stdout, result.job_id, result.host) == (Outcome.SUCCESS, b"hello", f"job-{r[:6]}", "n1")
    assert cluster.state(r) == "done"
    assert cluster.store.jobs_of("n1") == {}
    assert [event.event for event in cluster.events()] == ["started"]


def test_a_result_that_is_large_comes_whole(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()

    r = cluster.run(Task("python3", command="head -c 300000 /dev/zero"))

    assert cluster.result(r).stdout == bytes(300_000)
    assert cluster.messages[r].blobs


def test_an_input_that_is_large_comes_whole(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()
    inputs = JobInput(stdin=os.urandom(200_000))

    r = cluster.run(Task("python3", command="wc -c", files={"large": os.urandom(100_000)}), inputs)

    assert cluster.result(r).stdout.strip() == b"200000"


def test_a_node_holds_no_more_jobs_than_it_has_slots(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker("n1", "--slots", "2")
    long = [cluster.run(LONG) for _ in range(2)]
    for r in long:
        cluster.wait_for_state(r, "running")

    third = cluster.run(HELLO)
    eventually(lambda: cluster.report().used == 2)
    assert cluster.state(third) == "placed"
    assert cluster.redis.lrange(cluster.store.keys.rq_node("n1"), 0, -1) == [third.encode()]

    cluster.kill(long[0])
    assert cluster.result(third).outcome is Outcome.SUCCESS


def test_the_report_says_what_the_node_has(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    worker = start_worker("n1", "--slots", "3", "--advertise", "grader.example.org", "--environment", "py=python3")

    report = cluster.report()

    assert (report.slots, report.used, report.cores, report.memory_mib) == (3, 0, 4, 8192)
    assert (report.environments, report.address, report.pid) == (("py",), "grader.example.org", worker.process.pid)
    assert any("python3" in image for image in report.images)
    assert (report.state, report.machine) == ("up", socket.gethostname())
    assert report.oldest_schema <= SCHEMA <= report.newest_schema


def test_phases_are_told_as_they_begin_and_end(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()

    r = cluster.run(Pipeline([Phase("build", HELLO), Phase("test", HELLO)]))

    assert cluster.result(r).outcome is Outcome.SUCCESS
    told = [(event.event, event.phase, event.outcome) for event in cluster.events()]
    assert told == [
        ("started", "", ""),
        ("phase_started", "build", ""),
        ("phase_ended", "build", "success"),
        ("phase_started", "test", ""),
        ("phase_ended", "test", "success"),
    ]


def test_a_job_that_this_node_cannot_run_is_given_back_and_not_placed_here_again(
    cluster: HandMadeCluster, start_worker: StartWorker
) -> None:
    start_worker()

    r = cluster.run(Task("rust", command="true"))

    cluster.wait_for_state(r, "waiting")
    record = cluster.record(r)
    assert (record.excluded, record.runs) == (("n1",), 0)
    assert "rust" in record.reason


def test_a_job_of_a_newer_client_is_given_back(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()

    r = cluster.run(HELLO, schema=SCHEMA + 1)

    cluster.wait_for_state(r, "waiting")
    assert cluster.record(r).excluded == ("n1",)


def test_retries_that_another_node_has_used_are_used(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()
    r = cluster.accept(replace(LONG, retries=2))
    cluster.redis.hset(cluster.store.keys.job(r), "runs", 1)  # as after a node that was lost
    cluster.place(r)

    for times in (1, 2):
        eventually(lambda times=times: sum(engine.runs().values()) == times and running(engine))
        engine.faults.remove_container(running(engine)[0])

    assert cluster.result(r).outcome is Outcome.CRASH
    assert sum(engine.runs().values()) == 2
    assert cluster.record(r).runs == 3
    assert [event.event for event in cluster.events()] == ["started", "started"]


# ---- what is not signed, or was before


def forged_placements(cluster: HandMadeCluster, r: str) -> dict[str, str]:
    incarnation = cluster.report().incarnation
    good = Placement(r=r, node="n1", incarnation=incarnation, token="a" * 32)
    return {
        "of a stranger": signed(STRANGER, good),
        "nothing": "",
        "of another node": signed(cluster.signer, replace(good, node="n2")),
        "of another life of this node": signed(cluster.signer, replace(good, incarnation="b" * 32)),
        "of another job": signed(cluster.signer, replace(good, r="c" * 32)),
        "of another time": signed(cluster.signer, replace(good, token="d" * 32)),
        "as something else": cluster.signer.sign("header", good.to_json()),
    }


def test_no_placement_that_is_not_signed_for_this_very_node_is_run(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    for name, envelope in forged_placements(cluster, cluster.accept(HELLO)).items():
        r = cluster.accept(HELLO)
        incarnation = cluster.report().incarnation
        fields = {"state": "placed", "node": "n1", "incarnation": incarnation, "token": "a" * 32, "placement": envelope}
        cluster.redis.hset(cluster.store.keys.job(r), mapping=fields)
        cluster.redis.rpush(cluster.store.keys.rq_node("n1"), r)
        cluster.wait_for_state(r, "waiting")
        assert cluster.record(r).reason or True, name

    good = cluster.run(HELLO)
    assert cluster.result(good).outcome is Outcome.SUCCESS
    assert sum(engine.runs().values()) == 1, worker.log
    assert cluster.redis.llen(cluster.store.keys.rq_node("n1") + ":intermediate") == 0


def test_a_placement_is_used_once(cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer) -> None:
    worker = start_worker()
    r = cluster.run(LONG)
    eventually(engine.runs)
    before = cluster.redis.hgetall(cluster.store.keys.job(r))

    cluster.redis.rpush(cluster.store.keys.rq_node("n1"), r)
    eventually(lambda: "second time" in worker.log)
    cluster.kill(r)
    assert cluster.result(r).outcome is Outcome.KILLED

    cluster.redis.hset(cluster.store.keys.job(r), mapping={**before, "state": "placed"})  # all as it was when it was placed
    cluster.redis.rpush(cluster.store.keys.rq_node("n1"), r)
    cluster.wait_for_state(r, "waiting", "done")  # it is given back; or a beat comes first, and its result is said again
    assert sum(engine.runs().values()) == 1


def test_a_job_that_has_ended_here_is_not_run_again_by_a_new_placement(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()
    r = cluster.accept(HELLO)
    before = cluster.redis.hgetall(cluster.store.keys.job(r))
    cluster.place(r)
    assert cluster.result(r).outcome is Outcome.SUCCESS

    cluster.redis.delete(cluster.store.keys.job(r))
    cluster.redis.hset(cluster.store.keys.job(r), mapping=before)
    cluster.place(r)

    eventually(lambda: cluster.read_results() or len(cluster.results[r]) == 2)
    assert cluster.results[r][1].evidence[0].kind == "replayed"
    assert sum(engine.runs().values()) == 1


def test_a_header_of_a_stranger_is_not_run(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()
    r = cluster.accept(HELLO)
    header = opened(cluster.signer, JobHeader, cluster.record(r).header)
    cluster.redis.hset(cluster.store.keys.job(r), "header", signed(STRANGER, header))

    cluster.place(r)

    cluster.wait_for_state(r, "waiting")
    assert not engine.runs()


def test_a_body_that_was_changed_ends_as_a_signed_crash(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()
    r = cluster.accept(HELLO)
    cluster.redis.hset(cluster.store.keys.job(r), "body", cluster.record(r).body.replace("hello", "gruss"))

    cluster.place(r)

    result = cluster.result(r)
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "changed")
    assert not engine.runs()


def test_a_blob_that_was_swapped_ends_as_a_signed_crash(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()
    r = cluster.accept(HELLO, JobInput(stdin=b"x" * 100_000))
    blobs = cluster.store.keys.job_blobs(r)
    for name in cluster.redis.hkeys(blobs):
        cluster.redis.hset(blobs, name, b"y" * 100_000)

    cluster.place(r)

    result = cluster.result(r)
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "blob_lost")
    assert not engine.runs()


def test_commands_of_strangers_and_those_that_came_before_are_not_carried_out(
    cluster: HandMadeCluster, start_worker: StartWorker
) -> None:
    worker = start_worker()
    r = cluster.run(LONG)
    cluster.wait_for_state(r, "running")
    follow = signed(cluster.signer, cluster.command(r, "follow"))

    cluster.store.send_command("n1", signed(STRANGER, cluster.command(r, "kill")))
    cluster.store.send_command("n1", signed(cluster.signer, cluster.command(r, "kill", client="another")))
    cluster.store.send_command("n1", "no envelope")
    cluster.store.send_command("n1", follow)
    cluster.store.send_command("n1", follow)

    eventually(lambda: "a second time" in worker.log)
    time.sleep(3 * TIMEOUTS.beat_s)  # as long as a kill would take
    assert cluster.state(r) == "running"


# ---- kill, follow


def test_a_running_job_is_killed_with_its_reason(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()
    r = cluster.run(LONG)
    cluster.wait_for_state(r, "running")

    command = cluster.command(r, "kill", reason="close")
    assert cluster.store.cancel(r, command=signed(cluster.signer, command), result="") == "asked"

    result = cluster.result(r)
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: close")


def test_a_kill_whose_command_was_lost_is_seen_with_the_next_beat(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()
    r = cluster.run(LONG)
    cluster.wait_for_state(r, "running")

    cluster.redis.hset(cluster.store.keys.job(r), "cancel", signed(cluster.signer, cluster.command(r, "kill")))

    assert cluster.result(r).outcome is Outcome.KILLED


def test_a_job_that_was_killed_before_its_node_took_it_is_not_run(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    worker.send(signal.SIGSTOP)
    r = cluster.run(HELLO)
    cluster.kill(r)
    worker.send(signal.SIGCONT)

    assert cluster.result(r).outcome is Outcome.KILLED
    assert not engine.runs()


def test_a_job_that_is_followed_sends_what_it_prints(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker()
    r = cluster.run(Task("python3", command="echo one; sleep 3; echo two"))
    cluster.wait_for_state(r, "running")

    cluster.store.send_command("n1", signed(cluster.signer, cluster.command(r, "follow")))

    def pieces() -> list[OutputPiece]:
        entries: list[Any] = cluster.redis.xrange(cluster.store.keys.output(r))
        return [opened(cluster.signer, OutputPiece, fields[b"e"], 10**6) for _, fields in entries]

    eventually(lambda: pieces() and pieces()[-1].ended)
    assert b"".join(base64.b64decode(piece.data) for piece in pieces()) == b"one\ntwo\n"


def test_a_job_whose_secret_the_node_does_not_have_is_given_back_and_the_reason_says_where_to_give_it(
    cluster: HandMadeCluster, start_worker: StartWorker
) -> None:
    start_worker()
    r = cluster.run(Pipeline([Phase("report", HELLO, secrets=["token"])]))
    cluster.wait_for_state(r, "waiting")

    record = cluster.record(r)
    assert record.excluded == ("n1",)
    assert record.reason == (
        "phase 'report' wants the secret 'token', which is not there: give JobManager(secrets={'token': ...}), or on a node"
        " jobmanager worker --secret token=FILE"
    )


# ---- drain and stop


def test_a_node_that_is_told_to_end_ends_its_jobs_and_gives_back_the_others(
    cluster: HandMadeCluster, start_worker: StartWorker
) -> None:
    worker = start_worker("n1", "--slots", "1")
    first, second = cluster.run(SOON), cluster.run(HELLO)
    cluster.wait_for_state(first, "running")

    worker.send(signal.SIGTERM)

    cluster.wait_for_state(second, "waiting")
    assert worker.wait() == 0
    assert cluster.result(first).stdout == b"over\n"
    assert cluster.record(second).excluded == ()
    assert not cluster.redis.exists(cluster.store.keys.node("n1", "owner"))


def test_a_second_signal_ends_it_at_once(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    plain, with_retries = cluster.run(LONG), cluster.run(replace(LONG, retries=1))
    for r in (plain, with_retries):
        cluster.wait_for_state(r, "running")

    worker.send(signal.SIGTERM)
    eventually(lambda: cluster.report().state == "draining")
    worker.send(signal.SIGTERM)

    assert worker.wait() == 130
    result = cluster.result(plain)
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "node_lost")
    assert cluster.state(with_retries) == "running"  # the dispatcher's to decide
    assert engine.containers() == []


def test_the_operator_drains_pauses_and_resumes(cluster: HandMadeCluster, start_worker: StartWorker) -> None:
    start_worker("n1", "--slots", "1")
    long = cluster.run(LONG)
    cluster.wait_for_state(long, "running")
    r = cluster.accept(HELLO)
    for want, state in (("drain", "draining"), ("pause", "paused")):
        cluster.place(r)  # and not started, as there is no room
        cluster.store.set_want("n1", want)
        eventually(lambda state=state: cluster.report().state == state)
        cluster.wait_for_state(r, "waiting")
        assert cluster.state(long) == "running"
        cluster.store.set_want("n1", "up")
        eventually(lambda: cluster.report().state == "up")

    cluster.kill(long)
    cluster.place(r)
    assert cluster.result(r).outcome is Outcome.SUCCESS


def test_a_node_whose_engine_is_away_takes_nothing(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    start_worker()

    engine.faults.stop()

    eventually(lambda: cluster.report().state == "paused")
    assert "Docker" in cluster.report().reason
    engine.faults.start_again()
    eventually(lambda: cluster.report().state == "up")


# ---- death


def test_a_worker_that_was_killed_is_followed_by_one_of_its_name(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker("n1", "--slots", "1")
    first, second = cluster.run(LONG), cluster.run(HELLO)
    cluster.wait_for_state(first, "running")
    before = cluster.report().incarnation

    worker.process.kill()
    start_worker("n1", "--slots", "1")

    assert cluster.report().incarnation != before
    eventually(lambda: engine.containers() == [], what="the old worker's containers are swept")
    eventually(lambda: cluster.redis.llen(cluster.store.keys.rq_node("n1")) == 0)  # what was placed on the old one is not run
    assert (cluster.state(first), cluster.state(second)) == ("running", "placed")  # the dispatcher's to decide
    epoch = cluster.store.lead("test")
    for r in (first, second):
        assert cluster.store.requeue(epoch, r, cluster.record(r).token, "", seen=cluster.state(r)) == "waiting"
    cluster.place(second)
    assert cluster.result(second).outcome is Outcome.SUCCESS


def test_a_job_that_was_popped_and_not_started_is_run_once(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    worker.send(signal.SIGSTOP)
    r = cluster.run(HELLO)
    queue = cluster.store.keys.rq_node("n1")
    cluster.redis.lmove(queue, f"{queue}:intermediate")  # as RQ does it; the answer is lost
    worker.send(signal.SIGCONT)

    assert cluster.result(r).outcome is Outcome.SUCCESS
    assert sum(engine.runs().values()) == 1


def test_a_job_that_is_in_no_list_any_more_is_run_once(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    worker.send(signal.SIGSTOP)
    r = cluster.run(HELLO)
    cluster.redis.delete(cluster.store.keys.rq_node("n1"))
    worker.send(signal.SIGCONT)

    assert cluster.result(r).outcome is Outcome.SUCCESS
    assert sum(engine.runs().values()) == 1


def test_a_node_that_was_stopped_for_too_long_gives_up_its_jobs(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    ended, long = cluster.run(SOON), cluster.run(LONG)
    for r in (ended, long):
        cluster.wait_for_state(r, "running")

    worker.send(signal.SIGSTOP)
    time.sleep(TIMEOUTS.node_lost_s + 0.5)
    epoch = cluster.store.lead("test")
    for r in (ended, long):
        assert cluster.store.requeue(epoch, r, cluster.record(r).token, "", seen=cluster.state(r)) == "waiting"
    worker.send(signal.SIGCONT)

    eventually(lambda: engine.containers() == [], what="its containers are gone")
    eventually(lambda: cluster.report().used == 0)
    assert (cluster.state(ended), cluster.state(long)) == ("waiting", "waiting")
    cluster.read_results()
    assert cluster.results == {}
    cluster.place(ended)  # and it takes jobs again, these too
    assert cluster.result(ended).stdout == b"over\n"


def test_a_worker_that_waits_for_its_name_outlives_an_outage_of_redis(
    cluster: HandMadeCluster, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    owner = cluster.store.keys.node("n1", "owner")
    cluster.redis.set(owner, "one that has died", px=60_000)
    worker = start_worker(ready=False)
    eventually(lambda: "engine.sock is up" in worker.log, what="it waits for its name")
    redis_server.kill()
    eventually(lambda: "Redis is tried again every" in worker.log or worker.process.poll() is not None, what="it notices")
    redis_server.start()
    cluster.redis.delete(owner)
    worker.wait_until_ready()
    assert cluster.result(cluster.run(HELLO)).outcome is Outcome.SUCCESS


def test_a_node_gives_up_its_jobs_when_redis_is_away_for_too_long(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer, redis_server: RedisServer
) -> None:
    start_worker()
    r = cluster.run(LONG)
    cluster.wait_for_state(r, "running")
    eventually(lambda: running(engine))

    redis_server.pause()
    try:
        eventually(lambda: engine.containers() == [], what="its container is gone")
    finally:
        redis_server.resume()

    result = cluster.result(r)  # nobody else has decided it
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "node_lost")
    assert cluster.result(cluster.run(HELLO)).outcome is Outcome.SUCCESS


def test_a_job_with_retries_left_waits_again_when_its_node_was_cut_off(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer, redis_server: RedisServer
) -> None:
    start_worker()
    r = cluster.run(replace(LONG, retries=1))
    eventually(lambda: running(engine))

    redis_server.pause()
    try:
        eventually(lambda: engine.containers() == [], what="its container is gone")
    finally:
        redis_server.resume()

    cluster.wait_for_state(r, "waiting")
    assert cluster.record(r).runs == 1


def test_results_wait_until_redis_is_back(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer, redis_server: RedisServer
) -> None:
    worker = start_worker()
    rs = [cluster.run(SOON) for _ in range(3)]
    for r in rs:
        cluster.wait_for_state(r, "running")

    redis_server.kill()
    eventually(lambda: "is sent again" in worker.log)
    redis_server.start()

    assert [cluster.result(r).stdout for r in rs] == [b"over\n"] * 3


def test_what_runs_while_redis_loses_its_data_ends_with_its_result(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer, redis_server: RedisServer
) -> None:
    start_worker()
    done, running_on = cluster.run(HELLO), cluster.run(Task("python3", command="sleep 3; echo over"))
    cluster.result(done)
    cluster.wait_for_state(running_on, "running")

    redis_server.restart(keep_data=False, kill=True)
    cluster.results.clear()
    cluster._entry = "0-0"

    eventually(lambda: list(cluster.store.jobs_of("n1")) == [running_on])
    assert cluster.state(running_on) == "running"
    assert cluster.result(running_on).stdout == b"over\n"
    assert cluster.result(done).outcome is Outcome.SUCCESS  # said once more
    assert sum(engine.runs().values()) == 2


# ---- names and addresses


def test_a_second_worker_of_a_name_is_refused_with_the_first_ones_process(
    cluster: HandMadeCluster, start_worker: StartWorker
) -> None:
    first = start_worker()

    second = start_worker("n1", ready=False)

    assert second.wait() == 2
    assert f"another worker has the name n1: process {first.process.pid} on {socket.gethostname()}" in second.log
    assert cluster.result(cluster.run(HELLO)).outcome is Outcome.SUCCESS


def test_a_worker_whose_name_was_taken_ends(
    cluster: HandMadeCluster, start_worker: StartWorker, engine: FakeEngineServer
) -> None:
    worker = start_worker()
    r = cluster.run(LONG)
    cluster.wait_for_state(r, "running")

    cluster.redis.set(cluster.store.keys.node("n1", "owner"), "another")

    assert worker.wait() == 1
    assert "another worker has the name n1 now" in worker.log
    assert engine.containers() == []
    assert cluster.redis.get(cluster.store.keys.node("n1", "owner")) == b"another"


def test_a_worker_waits_for_a_redis_that_is_not_there_yet(
    cluster: HandMadeCluster, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    redis_server.kill()
    worker = start_worker(ready=False)
    eventually(lambda: "cannot be reached" in worker.log)

    redis_server.start()

    worker.wait_until_ready()
    assert cluster.result(cluster.run(HELLO)).outcome is Outcome.SUCCESS


def test_a_signal_ends_a_worker_that_waits_for_redis(start_worker: StartWorker, redis_server: RedisServer) -> None:
    redis_server.kill()
    worker = start_worker(ready=False)
    eventually(lambda: "cannot be reached" in worker.log)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0


def test_a_wrong_password_ends_a_worker_with_one_line(
    start_redis: Callable[..., RedisServer], start_worker: StartWorker
) -> None:
    server = start_redis(password="right")

    worker = start_worker(ready=False, url=server.socket_url.replace("right", "wrong-one"))

    assert worker.wait() == 3
    assert "refuses the user or the password" in worker.log
    assert "Traceback" not in worker.log and "wrong-one" not in worker.log


def test_a_worker_without_an_engine_ends_with_one_line(redis_server: RedisServer, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, redis_server.socket_url, *node_options("unix:///nowhere.sock"))

    assert worker.wait() == 3
    assert "Traceback" not in worker.log
