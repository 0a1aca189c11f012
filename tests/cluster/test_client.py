"""``RemoteClient`` on a real redis-server: what it promises its caller, whatever Redis, nodes and strangers do."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from jobmanager import (
    ClientSync,
    Code,
    HookManager,
    JobInput,
    JobResult,
    Limits,
    LiveOutput,
    Match,
    Outcome,
    Output,
    Phase,
    Pipeline,
    Task,
    errors,
    events,
)
from jobmanager.remote import Keyring, RemoteClient, open_job_watch
from jobmanager.remote.blobs import RedisBlobs
from jobmanager.threads.log_thread import drain
from tests.conftest import eventually
from tests.support.cluster import SHORT
from tests.support.redis_server import RedisServer
from tests.support.scripted_peer import ScriptedPeer, succeeds

KEY = secrets.token_hex(32)
ECHO = Task("busybox", command="echo hello")
PATIENCE_S = 20.0
Start = Callable[..., RemoteClient]
StartPeer = Callable[..., ScriptedPeer]


@pytest.fixture
def start_client(redis_server: RedisServer, start_peer: StartPeer) -> Iterator[Start]:
    """Clients are closed before their nodes are gone."""
    with ExitStack() as stack:

        def start(url: str = redis_server.url, **options: Any) -> RemoteClient:
            client = RemoteClient(url, **{"key": KEY, "namespace": "test", "timeouts": SHORT, **options})
            stack.callback(client.close, kill=True)
            client.start()
            return client

        yield start


@pytest.fixture
def start_peer(redis_server: RedisServer) -> Iterator[StartPeer]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ScriptedPeer(redis_server.url, KEY, **{"timeouts": SHORT, **options}))


@pytest.fixture
def peer(start_peer: StartPeer) -> ScriptedPeer:
    """A node on which each job echoes its words at once."""
    return start_peer(run=succeeds)


@pytest.fixture
def idle_peer(start_peer: StartPeer) -> ScriptedPeer:
    """A node that starts each job, and leaves its end to the test."""
    return start_peer()


@pytest.fixture
def client(start_client: Start, request: pytest.FixtureRequest) -> RemoteClient:
    """A client of the peer that the test has."""
    assert {"peer", "idle_peer", "start_peer"} & set(request.fixturenames), "a client needs a node"
    for name in ("peer", "idle_peer"):
        if name in request.fixturenames:
            request.getfixturevalue(name)
    return start_client()


class Calls:
    """A callback that keeps what it got."""

    def __init__(self) -> None:
        self.results: list[JobResult] = []

    def __call__(self, result: JobResult) -> None:
        self.results.append(result)

    def wait(self, number: int = 1) -> list[JobResult]:
        eventually(lambda: len(self.results) >= number, what=f"{number} results are there: {self.results}")
        return self.results


def said(caplog: pytest.LogCaptureFixture) -> str:
    assert drain(10)
    return caplog.text


# ---- jobs and their ends


def test_a_job_comes_back_with_its_result_in_a_callback_thread(client: RemoteClient, peer: ScriptedPeer) -> None:
    got: list[tuple[JobResult, str]] = []
    job_id = client.new_job(ECHO, callback=lambda result: got.append((result, threading.current_thread().name)))

    eventually(lambda: got)
    result, thread = got[0]
    assert (result.job_id, result.outcome, result.stdout) == (job_id, Outcome.SUCCESS, b"hello\n")
    assert thread.startswith("jobmanager-callbacks-")


def test_what_was_called_back_is_removed_from_redis(client: RemoteClient, peer: ScriptedPeer) -> None:
    calls = Calls()
    for _ in range(20):
        client.new_job(ECHO, callback=calls)
    calls.wait(20)

    name = peer.taken[calls.results[0].job_id].header.client
    eventually(lambda: not peer.redis.exists(peer.keys.client(name, "open")), what="no job is open")
    eventually(lambda: not peer.redis.xlen(peer.keys.client(name, "results")), what="no result is left")


def test_all_options_reach_the_node(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    task = Task("busybox", command="cat", problems={"a": Code("a.txt")}, retries=2, limits=Limits(memory_mib=64, cpu_time_s=3))
    client.new_job(
        task,
        JobInput({"a": "text"}, stdin=b"\xff", files={"own": b"\0"}),
        priority=-3,
        launcher_name="ann",
        debug=True,
        job_id="mine",
        supersede_key="key",
    )
    taken = eventually(lambda: idle_peer.taken.get("mine"))

    header, payload = taken.header, taken.payload
    assert (header.job_id, header.priority, header.launcher, header.supersede_key) == ("mine", -3, "ann", "key")
    assert (header.retries, header.needs.memory_mib, header.needs.environment) == (2, 64, "busybox")
    assert payload.task == task and payload.debug is True
    assert (payload.inputs.answers, payload.inputs.stdin, payload.inputs.files) == ({"a": "text"}, b"\xff", {"own": b"\0"})


def test_a_pipeline_travels_like_any_task(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    build = Phase("build", Task("busybox", command="true"), secrets=["token"])
    job_id = client.new_job(Pipeline([build, Phase("test", Task("busybox", command="true", retries=1), inputs=True)]))
    taken = eventually(lambda: idle_peer.taken.get(job_id))

    assert isinstance(taken.payload.task, Pipeline)
    assert [phase.name for phase in taken.payload.task.phases] == ["build", "test"]
    assert taken.header.retries == 0, "all of it would be run again"


def test_a_job_without_a_container_is_answered_without_redis(
    client: RemoteClient, peer: ScriptedPeer, redis_server: RedisServer
) -> None:
    redis_server.kill()
    calls = Calls()
    task = Task("nowhere", problems={"m": Match("yes")})
    client.new_job(task, {"m": "yes"}, calls)
    client.new_job(task, {"m": "no"}, calls)

    assert sorted(result.outcome.value for result in calls.wait(2)) == ["failed", "success"]
    redis_server.start()


def test_an_id_may_be_used_again_once_its_callback_has_returned(client: RemoteClient, peer: ScriptedPeer) -> None:
    calls, gate = Calls(), threading.Event()

    def blocks(result: JobResult) -> None:
        gate.wait(PATIENCE_S)
        calls(result)

    client.new_job(ECHO, callback=blocks, job_id="one")
    eventually(lambda: client.callbacks().running)
    with pytest.raises(errors.DuplicateJob, match="'one' has not ended yet, or its callback has not returned"):
        client.new_job(ECHO, job_id="one")
    gate.set()
    calls.wait()
    eventually(lambda: not client.callbacks().running)

    assert client.new_job(ECHO, callback=calls, job_id="one") == "one"
    calls.wait(2)


def test_an_id_of_another_client_s_open_job_is_refused(
    client: RemoteClient, idle_peer: ScriptedPeer, start_client: Start
) -> None:
    client.new_job(ECHO, job_id="one")

    with pytest.raises(errors.DuplicateJob, match=r"of client 'anonymous-[0-9a-f]+', has not ended yet"):
        start_client().new_job(ECHO, job_id="one")


def test_a_job_that_waits_is_killed_without_a_leader(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    idle_peer.places = False
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)

    assert client.kill_job(job_id) is True
    (result,) = calls.wait()
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: kill_job")
    assert client.kill_job(job_id) is False
    assert client.kill_job("unknown") is False


def test_a_job_that_runs_is_killed_by_its_node(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)
    eventually(lambda: job_id in idle_peer.taken)

    assert client.kill_job(job_id) is True
    assert calls.wait()[0].outcome is Outcome.KILLED
    assert [command.command for command in idle_peer.commands] == ["kill"]


def test_closing_drains_and_then_nothing_of_the_client_is_left(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    threading.Timer(0.3, lambda: idle_peer.finish(taken, succeeds(taken))).start()

    client.close()

    assert [result.outcome for result in calls.results] == [Outcome.SUCCESS]
    assert not idle_peer.redis.exists(idle_peer.keys.client(taken.header.client, "owner"))
    with pytest.raises(errors.Closed, match="this RemoteClient is closed"):
        client.new_job(ECHO)


def test_closing_with_a_time_limit_kills_what_has_not_ended(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    client.new_job(ECHO, callback=calls)
    eventually(lambda: idle_peer.taken)

    client.close(drain_timeout_s=0.2)

    assert [(result.outcome, result.text) for result in calls.results] == [(Outcome.KILLED, "killed: drain time over")]


def test_leaving_with_by_an_exception_kills(start_peer: StartPeer, redis_server: RedisServer) -> None:
    start_peer(places=False)
    calls = Calls()
    with pytest.raises(ZeroDivisionError), RemoteClient(redis_server.url, key=KEY, namespace="test", timeouts=SHORT) as client:
        client.new_job(ECHO, callback=calls)
        raise ZeroDivisionError

    assert [result.text for result in calls.results] == ["killed: close"]


# ---- what is refused at the call


def test_an_environment_that_no_node_has_is_refused_with_the_known_names(client: RemoteClient, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.UnknownEnvironment, match=r"no node .*'test' has the environment or image 'cobol'; known: busybox"):
        client.new_job(Task("cobol", command="true"))


def test_an_environment_that_only_a_drained_node_has_is_taken_and_waits(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    idle_peer.places = False
    idle_peer.store.set_want("peer", "drain")
    eventually(lambda: not client.hosts()[0].up)
    assert client.hosts()[0].reason == "it is being drained"
    assert client.get_available_environments() == {}
    job_id = client.new_job(ECHO)

    assert client.get_job_queue_info(job_id) is not None


def test_what_is_too_large_for_every_node_is_refused(client: RemoteClient, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.Unsatisfiable, match="no node could ever run it: it asks for 8192 MiB"):
        client.new_job(Task("busybox", command="true", limits=Limits(memory_mib=8192)))


def test_what_cannot_be_sent_is_refused(client: RemoteClient, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.InvalidInput, match="cannot be written as data"):
        client.new_job(ECHO, {"@judge": lambda answer: True})
    with pytest.raises(errors.InvalidTask, match=r"the archive of this task may have 100 MiB .* RemoteClient\(blobs="):
        client.new_job(Task("busybox", command="true", collect=["a"], limits=Limits(archive_mib=100)))


def test_a_full_queue_is_refused(start_client: Start, start_peer: StartPeer) -> None:
    start_peer(places=False)
    client = start_client(max_waiting_jobs=2)
    client.new_job(ECHO), client.new_job(ECHO)

    with pytest.raises(errors.QueueFull, match="2 jobs are waiting already"):
        client.new_job(ECHO)


def test_what_was_uploaded_for_a_job_that_is_refused_is_removed(start_client: Start, start_peer: StartPeer) -> None:
    peer = start_peer(places=False)
    client = start_client(max_waiting_jobs=1)
    client.new_job(ECHO)
    with pytest.raises(errors.QueueFull):
        client.new_job(ECHO, JobInput(stdin=secrets.token_bytes(40_000)))

    assert list(peer.redis.scan_iter(match=f"{peer.keys.prefix}blobs:*")) == []


def test_a_client_that_is_newer_than_all_nodes_is_refused(start_client: Start, start_peer: StartPeer) -> None:
    start_peer(newest_schema=0)

    with pytest.raises(errors.JobRefused, match="this client is newer than every node"):
        start_client().new_job(ECHO)


def test_where_no_node_was_ever_seen_the_namespace_is_named(start_client: Start, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.UnknownEnvironment, match=r"namespace 'elsewhere'.*compare the namespace"):
        start_client(namespace="elsewhere").new_job(ECHO)


def test_where_the_key_is_another_one_that_is_said(start_client: Start, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.UnknownEnvironment, match="none has signed with a key of ours"):
        start_client(key=secrets.token_hex(32)).new_job(ECHO)


def test_without_a_key_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOBMANAGER_KEY", "JOBMANAGER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.InvalidValue, match="a cluster needs a key"):
        RemoteClient("redis://127.0.0.1:1/0")


def test_where_no_redis_is_the_start_says_so_and_leaves_nothing() -> None:
    client = RemoteClient("redis://127.0.0.1:1/0", key=KEY, timeouts=SHORT)

    with pytest.raises(errors.RedisUnavailable, match=r"Redis at redis://127\.0\.0\.1:1/0 cannot be reached"):
        client.start()
    with pytest.raises(errors.NotStarted, match="this RemoteClient has not been started"):
        client.new_job(ECHO)
    client.close()


def test_a_wrong_password_is_said_without_showing_it(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="right")
    client = RemoteClient(server.url_of(password="wrong"), key=KEY, timeouts=SHORT)

    with pytest.raises(errors.RedisUnavailable, match="refuses the user or the password") as refused:
        client.start()
    assert "wrong" not in str(refused.value) and "wrong" not in repr(vars(client))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"namespace": "a b"}, "namespace must be"),
        ({"client_id": ""}, "client_id must be"),
        ({"max_waiting_jobs": 0}, "max_waiting_jobs"),
        ({"queue_timeout_s": 8 * 86400}, "queue_timeout_s must not be more than result_ttl_s"),
        ({"callback_threads": 0}, "callback_threads"),
        ({"blobs": 5}, "blobs must have put and get"),
        ({"timeouts": 5}, "timeouts must be a ClusterTimeouts"),
        ({"hook_manager": 5}, "hook_manager must be a HookManager"),
        ({"key": "abc"}, "at least 64 hexadecimal digits"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidValue, match=says):
        RemoteClient("redis://127.0.0.1:1/0", **{"key": KEY, **options})


# ---- once, whatever Redis has


def test_a_result_that_comes_twice_is_called_back_once(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls, last = Calls(), Calls()
    job_id = client.new_job(ECHO, callback=calls)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    for _ in range(3):
        idle_peer.put_result(taken.header.client, taken.r, idle_peer.result(taken, succeeds(taken)))
    idle_peer.finish(taken, succeeds(taken))
    calls.wait()
    marker = client.new_job(ECHO, callback=last)
    taken = eventually(lambda: idle_peer.taken.get(marker))
    idle_peer.finish(taken, succeeds(taken))
    last.wait()

    assert len(calls.results) == 1
    eventually(lambda: not idle_peer.redis.xlen(idle_peer.keys.client(taken.header.client, "results")), what="all are removed")


@pytest.mark.parametrize("how", ["another key", "another job's", "of another R", "no envelope", "no JSON", "nothing"])
def test_a_forged_result_is_never_believed(
    client: RemoteClient, idle_peer: ScriptedPeer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    calls = Calls()
    first, second = client.new_job(ECHO, callback=calls, job_id="one"), client.new_job(ECHO, job_id="two")
    one, two = eventually(lambda: len(idle_peer.taken) == 2 and [idle_peer.taken[job_id] for job_id in (first, second)])
    lie = JobResult(job_id="one", outcome=Outcome.SUCCESS, grade=200.0)
    stranger = Keyring.from_environment(secrets.token_hex(32)).signer("test")
    forged = {
        "another key": lambda: idle_peer.result(one, lie, signer=stranger),
        "another job's": lambda: idle_peer.result(two, replace(lie, job_id="two")),
        "of another R": lambda: idle_peer.result(one, lie, r="0" * 32),
        "no envelope": lambda: '{"v": 1}',
        "no JSON": lambda: "\x80",
        "nothing": lambda: "",
    }[how]()
    with caplog.at_level(logging.ERROR, "jobmanager"):
        idle_peer.put_result(one.header.client, one.r, forged)
        eventually(lambda: "a result of job one is not believed" in said(caplog))

    assert calls.results == []
    idle_peer.finish(one, JobResult(job_id="one", outcome=Outcome.FAILED))
    assert calls.wait()[0].outcome is Outcome.FAILED
    idle_peer.finish(two, JobResult(job_id="two", outcome=Outcome.FAILED))


def test_a_result_of_a_job_that_nobody_has_is_removed_in_silence(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    idle_peer.put_result(taken.header.client, "f" * 32, "whatever")

    eventually(lambda: not idle_peer.redis.xlen(idle_peer.keys.client(taken.header.client, "results")))
    idle_peer.finish(taken, succeeds(taken))


def test_a_signed_result_that_cannot_be_read_is_a_crash(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    idle_peer.finish(taken, JobResult(job_id="another", outcome=Outcome.SUCCESS))

    (result,) = calls.wait()
    assert (result.job_id, result.outcome) == (job_id, Outcome.CRASH)
    assert "its result came and cannot be read" in result.text


def test_a_flood_of_nonsense_events_costs_nothing_but_themselves(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    unsigned, signed = '{"event":"placed"}', idle_peer.event("phase_ended", taken.r, outcome="splendid")
    others = [idle_peer.event("no such event", taken.r), idle_peer.event("placed", "?")]
    for event in ["", unsigned, "x" * 100_000, signed, *others] * 50:
        idle_peer.store.send_event(taken.header.client, event)
    idle_peer.finish(taken, succeeds(taken))

    assert calls.wait()[0].outcome is Outcome.SUCCESS


# ---- hooks, SSH, the queue


def test_hooks_are_told_of_a_job_in_order(start_client: Start, start_peer: StartPeer) -> None:
    peer, hooks, told = start_peer(), HookManager(), []
    hooks.add(events.Event, told.append)
    client = start_client(hook_manager=hooks)
    job_id = client.new_job(ECHO, launcher_name="ann")
    taken = eventually(lambda: peer.taken.get(job_id))
    peer.tell(taken, "phase_started", phase="build", number=0)
    peer.tell(taken, "phase_ended", phase="build", number=0, outcome="success")
    eventually(lambda: any(isinstance(event, events.PhaseEnded) for event in told))
    peer.finish(taken, succeeds(taken))
    client.close()

    of_job = [event for event in told if getattr(event, "job_id", None) == job_id]
    kinds = ["JobQueued", "JobPlaced", "JobStarted", "PhaseStarted", "PhaseEnded", "JobEnded"]
    assert [type(event).__name__ for event in of_job] == kinds
    assert of_job[0].launcher == "ann" and [event.host for event in of_job[1:5]] == ["peer"] * 4
    assert [type(event).__name__ for event in told if event not in of_job] == ["ManagerStarted", "ManagerClosing"]


def test_hooks_are_told_of_nodes_that_come_and_go(start_client: Start, start_peer: StartPeer) -> None:
    peer, hooks, told = start_peer(), HookManager(), []
    for kind in (events.HostUp, events.HostDown, events.EnvironmentsChanged):
        hooks.add(kind, told.append)
    client = start_client(hook_manager=hooks)
    start_peer(name="other", environments=["python3"])
    eventually(lambda: len(told) == 2)
    peer.store.set_want("other", "pause")
    eventually(lambda: len(told) == 4)

    assert [type(event).__name__ for event in told] == ["HostUp", "EnvironmentsChanged", "HostDown", "EnvironmentsChanged"]
    assert (told[1].environments, told[3].environments) == (("busybox", "python3"), ("busybox",))
    assert [(host.name, host.up, host.reason) for host in client.hosts()] == [("other", False, "it is paused"), ("peer", True, "")]


def test_an_ssh_callback_is_told_where_to_log_in_once(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls, told = Calls(), []
    job_id = client.new_job(ECHO, callback=calls, debug="ssh", ssh_callback=lambda *where: told.append(where))
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    assert taken.payload.debug == "ssh" and taken.payload.task == ECHO, "a node makes the session of it"
    sealed = idle_peer.signer.seal("ssh", b"secret", taken.header.client)
    for _ in range(2):
        idle_peer.tell(taken, "ssh", port=2222, user="worker", sealed=sealed)
    eventually(lambda: told)
    idle_peer.finish(taken, succeeds(taken))
    calls.wait()

    assert told == [("ssh.example.org", 2222, "worker", "secret")]


def test_an_ssh_callback_is_told_when_there_will_be_no_session(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls, told = Calls(), []
    client.new_job(ECHO, callback=calls, job_id="one", debug="ssh", ssh_callback=lambda *where: told.append(where))
    taken = eventually(lambda: idle_peer.taken.get("one"))
    idle_peer.finish(taken, JobResult(job_id="one", outcome=Outcome.CRASH))
    calls.wait()

    assert told == [(None, None, None, None)]


def test_where_a_job_stands_is_what_the_leader_says(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    idle_peer.places = False
    idle_peer.answers = lambda _: (7, 1.5)
    job_id = client.new_job(ECHO)

    assert client.get_job_queue_info(job_id) == (7, 1.5)
    assert client.get_job_queue_info("unknown") is None


def test_where_a_job_stands_is_counted_when_no_leader_answers(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    idle_peer.places = False
    client.new_job(ECHO)
    second = client.new_job(ECHO)

    assert client.get_job_queue_info(second) == (1, None)


def test_a_job_that_runs_says_until_when(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(Task("busybox", command="true", limits=Limits(wall_time_s=100)))
    eventually(lambda: (client.get_job_queue_info(job_id) or (0,))[0] == -1)

    info = client.get_job_queue_info(job_id)
    assert info is not None and info.wait_s is not None and 50 < info.wait_s <= 100
    idle_peer.finish(idle_peer.taken[job_id], succeeds(idle_peer.taken[job_id]))


# ---- Redis comes and goes


def test_what_redis_did_not_hear_is_said_when_it_is_back(
    client: RemoteClient, idle_peer: ScriptedPeer, redis_server: RedisServer
) -> None:
    idle_peer.places = False
    calls = Calls()
    job_id = client.new_job(ECHO, callback=calls)
    redis_server.kill()
    assert client.kill_job(job_id) is True
    redis_server.start()

    assert calls.wait()[0].text == "killed: kill_job"


def test_a_short_outage_is_waited_for(client: RemoteClient, peer: ScriptedPeer, redis_server: RedisServer) -> None:
    calls = Calls()
    redis_server.kill()
    threading.Timer(1.0, redis_server.start).start()
    client.new_job(ECHO, callback=calls)

    assert calls.wait()[0].outcome is Outcome.SUCCESS


def test_a_long_outage_is_an_error_and_nothing_runs_for_nobody(
    start_client: Start, idle_peer: ScriptedPeer, redis_server: RedisServer
) -> None:
    client = start_client(timeouts=replace(SHORT, redis_s=0.3, outage_s=0.5))
    idle_peer.places = False
    redis_server.pause()
    with pytest.raises(errors.RedisUnavailable, match="does not answer"):
        client.new_job(ECHO, job_id="one")
    redis_server.resume()  # what it was sent is still on its way, and it carries that out
    calls = Calls()

    def may_have_its_id_again() -> bool:
        try:
            return client.new_job(ECHO, callback=calls, job_id="one") == "one"
        except (errors.DuplicateJob, errors.RedisUnavailable):
            return False

    eventually(may_have_its_id_again)
    eventually(lambda: idle_peer.store.waiting_count() == 1, what="only the second one waits")
    assert client.kill_job("one")
    assert calls.wait()[0].outcome is Outcome.KILLED


def test_closing_ends_a_call_that_waits_for_redis(start_client: Start, idle_peer: ScriptedPeer, redis_server: RedisServer) -> None:
    client = start_client(timeouts=replace(SHORT, redis_s=0.3, outage_s=60.0))
    raised: list[BaseException] = []

    def submit() -> None:
        with pytest.raises(errors.Closed) as error:
            client.new_job(ECHO)
        raised.append(error.value)

    redis_server.kill()
    thread = threading.Thread(target=submit)
    thread.start()
    eventually(lambda: client._lifetime.running().jobs.unfinished() == 1, what="it tries")
    client.close()
    thread.join(PATIENCE_S)

    assert raised
    redis_server.start()


def test_open_jobs_are_announced_when_redis_has_lost_its_data(
    start_redis: Callable[..., RedisServer], start_client: Start
) -> None:
    server = start_redis(appendonly=False)
    with ScriptedPeer(server.url, KEY, timeouts=SHORT, places=False) as peer:
        client = start_client(server.url)
        calls = Calls()
        ids = [client.new_job(Task("busybox", command=f"echo {number}"), callback=calls) for number in range(20)]
        server.restart(keep_data=False)
        eventually(lambda: peer.store.waiting_count() == 20)
        peer._run, peer.places = succeeds, True

        results = calls.wait(20)
    assert sorted(result.job_id for result in results) == sorted(ids)
    assert sorted(int(result.stdout) for result in results) == list(range(20))


def test_a_kill_is_said_again_when_redis_has_lost_it(start_redis: Callable[..., RedisServer], start_client: Start) -> None:
    server = start_redis(appendonly=False)
    with ScriptedPeer(server.url, KEY, timeouts=SHORT, places=False) as peer:
        client = start_client(server.url)
        calls = Calls()
        client.new_job(ECHO, callback=calls, job_id="one")
        server.kill()
        client.kill_job("one")
        server.restart(keep_data=False)

        assert calls.wait()[0].outcome is Outcome.KILLED
        eventually(lambda: peer.store.waiting_count() == 0)


# ---- clients with an id of their own


def test_two_clients_of_one_id_are_refused_with_the_holder_s_name(start_client: Start, peer: ScriptedPeer) -> None:
    start_client(client_id="web")

    with pytest.raises(errors.InvalidValue, match=rf"the client_id 'web' is in use, by process {os.getpid()} on "):
        start_client(client_id="web")


def test_the_record_of_a_client_says_which_kind_it_is(start_client: Start, peer: ScriptedPeer) -> None:
    start_client(client_id="web")
    anonymous = start_client()

    job_id = anonymous.new_job(ECHO)
    name = eventually(lambda: peer.taken.get(job_id)).header.client
    assert peer.store.client("web")["kind"] == "fixed"
    assert peer.store.client(name)["kind"] == "anonymous"


def test_resume_is_for_clients_with_an_id(client: RemoteClient, peer: ScriptedPeer) -> None:
    with pytest.raises(errors.InvalidValue, match="resume is for a client with a client_id"):
        client.resume(print)


# ---- the ways in


def test_the_ways_in_work_over_it(client: RemoteClient, peer: ScriptedPeer) -> None:
    assert ClientSync(client).new_job(ECHO, timeout_s=PATIENCE_S).stdout == b"hello\n"
    assert client.submit(ECHO).result(PATIENCE_S).stdout == b"hello\n"


def test_files_too_large_for_the_record_are_uploaded_once_for_a_task(start_client: Start, start_peer: StartPeer) -> None:
    peer = start_peer(places=False)
    client = start_client()
    task = Task("busybox", command="true", files={"big": secrets.token_bytes(3 * 2**20)})
    client.new_job(task)
    blobs = sorted(peer.redis.scan_iter(match=f"{peer.keys.prefix}blob:*"))
    client.new_job(task)

    assert len(blobs) == 2, "the file, and the task itself"
    assert sorted(peer.redis.scan_iter(match=f"{peer.keys.prefix}blob:*")) == blobs


# ---- live output


def follow_soon(client: RemoteClient, peer: ScriptedPeer, job_id: str) -> LiveOutput:
    """A reader whose request the node has."""
    reader = client.follow(job_id, timeout_s=PATIENCE_S)
    eventually(lambda: [command for command in peer.commands if command.command == "follow"])
    return reader


def test_what_a_job_prints_is_read_while_it_runs_and_the_rest_from_its_result(
    client: RemoteClient, idle_peer: ScriptedPeer
) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    with follow_soon(client, idle_peer, job_id) as reader:
        idle_peer.print(taken, Output(stderr=False, data=b"one "), Output(stderr=True, data=b"oops"))
        assert [next(reader), next(reader)] == [Output(stderr=False, data=b"one "), Output(stderr=True, data=b"oops")]
        result = JobResult(
            job_id=job_id, outcome=Outcome.SUCCESS, stdout=b"one two", stdout_bytes=7, stderr=b"oops", stderr_bytes=4
        )
        idle_peer.finish(taken, result)

        assert list(reader) == [Output(stderr=False, data=b"two")]


def test_what_a_grader_tells_is_read_once_and_the_rest_of_it_from_the_result(
    client: RemoteClient, idle_peer: ScriptedPeer
) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    with follow_soon(client, idle_peer, job_id) as reader:
        for _ in range(2):
            idle_peer.print(taken, Output(stderr=False, data=b"", to_submitter="one"), Output(stderr=False, data=b"hidden"))
        assert [next(reader).to_submitter, next(reader).data] == ["one", b"hidden"]
        told = JobResult(
            job_id=job_id, outcome=Outcome.SUCCESS, stdout=b"hidden", stdout_bytes=6, to_submitter=("one", "two")
        )
        idle_peer.finish(taken, told)

        assert list(reader) == [Output(stderr=False, data=b"", to_submitter="two")]


def test_readers_that_are_stopped_end_and_so_do_later_ones(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    reader = follow_soon(client, idle_peer, job_id)

    client.stop_following()

    assert list(reader) == list(client.follow(job_id)) == []
    idle_peer.finish(taken, succeeds(taken))


def test_a_job_is_followed_before_it_has_a_node(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    idle_peer.places = False
    job_id = client.new_job(ECHO)
    with client.follow(job_id, timeout_s=PATIENCE_S) as reader:
        idle_peer.places = True
        taken = eventually(lambda: idle_peer.taken.get(job_id))
        eventually(lambda: idle_peer.commands, what="its node is asked for its output")
        idle_peer.print(taken, Output(stderr=False, data=b"hello\n"))

        assert next(reader) == Output(stderr=False, data=b"hello\n")
        idle_peer.finish(taken, succeeds(taken))
        assert list(reader) == []


def test_pieces_that_come_twice_count_once_and_missed_ones_are_told(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    with follow_soon(client, idle_peer, job_id) as reader:
        for _ in range(2):
            idle_peer.print(taken, Output(stderr=False, data=b"abc"), Output(stderr=False, data=b"xyz", missed_bytes=4))
        result = JobResult(job_id=job_id, outcome=Outcome.SUCCESS, stdout=b"abc1234xyz!", stdout_bytes=11)
        eventually(lambda: not idle_peer.redis.xlen(idle_peer.keys.output(taken.r)), what="all pieces are read")
        idle_peer.finish(taken, result)

        outputs = list(reader)
    assert [(output.data, output.missed_bytes) for output in outputs[:2]] == [(b"abc", 0), (b"", 4)]
    assert b"".join(output.data for output in outputs[2:]) == b"xyz!"


def test_forged_output_is_never_shown(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    stranger = Keyring.from_environment(secrets.token_hex(32)).signer("test")
    with follow_soon(client, idle_peer, job_id) as reader:
        idle_peer.print(taken, Output(stderr=False, data=b"a lie"), signer=stranger)
        idle_peer.print(taken, Output(stderr=False, data=b"hello"))

        assert next(reader).data == b"hello"
        idle_peer.finish(taken, succeeds(taken))


def test_a_job_that_starts_again_elsewhere_is_shown_from_the_beginning(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    taken = eventually(lambda: idle_peer.taken.get(job_id))
    with follow_soon(client, idle_peer, job_id) as reader:
        idle_peer.print(taken, Output(stderr=False, data=b"first"))
        assert next(reader).data == b"first"
        first, taken.token = taken.token, "another"
        idle_peer.print(taken, Output(stderr=False, data=b"second"))

        assert next(reader).starts_again
        assert next(reader).data == b"second"
        taken.token = first
        idle_peer.finish(taken, succeeds(taken))


def test_the_output_of_an_ended_job_is_read_until_its_callback_has_returned(client: RemoteClient, peer: ScriptedPeer) -> None:
    read: list[bytes] = []
    follow = client.follow  # inside a callback nothing may be waited for, and nothing has to be
    client.new_job(ECHO, callback=lambda result: read.extend(output.data for output in follow(result.job_id)), job_id="one")
    eventually(lambda: read)

    assert read == [b"hello\n"]
    eventually(lambda: not client.callbacks().running)
    with pytest.raises(errors.UnknownJob, match="no job with the id 'one'"):
        client.follow("one")


def test_a_node_is_told_when_nobody_follows_any_more(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    job_id = client.new_job(ECHO)
    eventually(lambda: job_id in idle_peer.taken)
    follow_soon(client, idle_peer, job_id).close()

    eventually(lambda: idle_peer.commands[-1].command == "unfollow")
    idle_peer.finish(idle_peer.taken[job_id], succeeds(idle_peer.taken[job_id]))


def test_a_client_whose_id_another_process_has_taken_ends_its_jobs_and_leaves_the_other_one_s_alone(
    start_client: Start, idle_peer: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """It stood still for longer than its lease."""
    calls = Calls()
    client = start_client(client_id="web")
    client.new_job(ECHO, callback=calls, job_id="one")
    eventually(lambda: "one" in idle_peer.taken)
    idle_peer.redis.set(idle_peer.keys.client("web", "owner"), "another process")

    (result,) = calls.wait()
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "client_id_taken")
    assert "another process has taken the client id web" in said(caplog)
    with pytest.raises(errors.Closed):
        client.new_job(ECHO)
    idle_peer.put_result("web", "f" * 32, "of a job of the other one")
    client.close()
    assert [r for _, r, _ in idle_peer.store.read_results("web", after="0")] == ["f" * 32], "the other one has not read it yet"
    assert list(idle_peer.store.open_jobs("web").values()) == ["one"], "it is the other one's now"
    assert idle_peer.redis.get(idle_peer.keys.client("web", "owner")) == b"another process"
    idle_peer.finish(idle_peer.taken["one"], succeeds(idle_peer.taken["one"]))


def test_a_process_that_stood_still_removes_nothing_of_the_one_that_has_its_id_now(
    start_client: Start, idle_peer: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not noticed yet."""
    client = start_client(client_id="web", timeouts=replace(SHORT, beat_s=0.9))
    idle_peer.redis.set(idle_peer.keys.client("web", "owner"), "another process")
    idle_peer.put_result("web", "f" * 32, "of a job of the other one")
    running = client._lifetime.running()
    eventually(lambda: running._keeper._acknowledged or running._is_replaced)
    running._keeper._say()

    assert [r for _, r, _ in idle_peer.store.read_results("web", after="0")] == ["f" * 32]


def test_a_job_whose_result_somebody_has_deleted_ends(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    client.new_job(ECHO, callback=calls, job_id="one")
    taken = eventually(lambda: idle_peer.taken.get("one"))
    idle_peer.redis.hset(idle_peer.keys.job(taken.r), "state", "done")

    (result,) = calls.wait()
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "result_lost")


def test_a_client_whose_stream_of_results_is_none_any_more_reads_on(client: RemoteClient, idle_peer: ScriptedPeer) -> None:
    calls = Calls()
    client.new_job(ECHO, callback=calls, job_id="one")
    taken = eventually(lambda: idle_peer.taken.get("one"))
    idle_peer.redis.delete(results := idle_peer.keys.client(taken.header.client, "results"))
    idle_peer.redis.set(results, "rubbish")

    eventually(lambda: not idle_peer.redis.exists(results))
    idle_peer.finish(taken, succeeds(taken))
    assert calls.wait()[0].outcome is Outcome.SUCCESS


def test_a_job_whose_record_somebody_has_deleted_is_said_again(start_client: Start, start_peer: StartPeer) -> None:
    peer = start_peer(places=False)
    client, calls = start_client(), Calls()
    client.new_job(ECHO, callback=calls)
    (r,) = peer.store.waiting()
    peer.redis.delete(peer.keys.job(r), peer.keys.rq_wait)
    peer._run, peer.places = succeeds, True

    assert calls.wait()[0].outcome is Outcome.SUCCESS


def test_a_job_that_waits_too_long_ends_although_no_dispatcher_lives(
    start_client: Start, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_job_watch, "_UNDISPATCHED_S", 0.5)
    peer = start_peer(places=False)
    client, calls = start_client(queue_timeout_s=0.2), Calls()
    client.new_job(ECHO, callback=calls)

    (result,) = calls.wait()
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "queue_timeout")
    assert peer.store.waiting() == []


def test_what_was_uploaded_for_a_task_is_not_uploaded_again_with_each_job(
    start_client: Start, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_peer(places=False)
    client, uploaded = start_client(), []
    put_all = RedisBlobs.put_all
    monkeypatch.setattr(RedisBlobs, "put_all", lambda blobs, some: (uploaded.extend(some), put_all(blobs, some)))
    task = Task("busybox", command="true", files={"big": secrets.token_bytes(10_000)})
    client.new_job(task)
    before = list(uploaded)
    client._lifetime.running()._keeper._say()
    client.new_job(task)

    assert before and uploaded == before


def test_resumed_jobs_that_redis_has_lost_end(start_redis: Callable[..., RedisServer], start_client: Start) -> None:
    server = start_redis(appendonly=False)
    with ScriptedPeer(server.url, KEY, timeouts=SHORT, places=False) as peer:
        peer.redis.hset(peer.keys.client("web", "open"), "f" * 32, "one")
        client, calls = start_client(server.url, client_id="web"), Calls()

        assert client.resume(calls) == {"one"}
        (result,) = calls.wait()
    assert (result.job_id, result.outcome, result.evidence[0].kind) == ("one", Outcome.CRASH, "redis_lost_data")


# ---- users of Redis, and RedisServers that may not be used


def test_all_of_it_works_with_the_rights_of_the_client_s_user(
    start_redis: Callable[..., RedisServer], start_client: Start
) -> None:
    """``examples/cluster/users.acl`` with a password for it."""
    lines = (Path(__file__).parents[2] / "examples/cluster/users.acl").read_text().splitlines()
    rights = next(line for line in lines if line.startswith("user jobmanager-client "))
    server = start_redis(users=["user default on nopass ~* &* +@all", rights.replace("0" * 64, sha256(b"pw").hexdigest())])
    with ScriptedPeer(server.url, KEY, timeouts=SHORT) as peer:
        client, calls = start_client(server.url_of("jobmanager-client", "pw"), client_id="web"), Calls()
        assert client.resume(calls) == set()
        first = client.new_job(Task("busybox", command="true", files={"big": bytes(200_000)}), callback=calls)
        second = client.new_job(ECHO, callback=calls)
        taken = eventually(lambda: peer.taken.get(second))
        with follow_soon(client, peer, second) as reader:
            peer.print(taken, Output(stderr=False, data=b"hello"))
            assert next(reader).data == b"hello"
        peer.answers = lambda _: (0, None)
        assert client.get_job_queue_snapshot()[0] and client.hosts() and client.get_job_queue_info(second) is not None
        assert client.kill_job(second) and client.kill_job(first)
        calls.wait(2)
        client.close()
    assert [result.outcome for result in calls.results] == [Outcome.KILLED] * 2


def test_a_redis_that_evicts_is_refused(start_redis: Callable[..., RedisServer]) -> None:
    client = RemoteClient(start_redis(max_memory="64mb", policy="allkeys-lru").url, key=KEY, timeouts=SHORT)

    with pytest.raises(errors.RedisUnavailable, match="set maxmemory-policy noeviction"):
        client.start()


def test_while_redis_is_nearly_full_no_job_is_taken(start_redis: Callable[..., RedisServer], start_client: Start) -> None:
    server = start_redis(max_memory="32mb")
    with ScriptedPeer(server.url, KEY, timeouts=SHORT, run=succeeds) as peer:
        client, calls = start_client(server.url), Calls()
        client.new_job(ECHO, callback=calls)
        calls.wait()
        others = []
        while peer.redis.info("memory")["used_memory"] < 0.85 * 32 * 2**20:
            others.append(f"other {len(others)}")
            peer.redis.set(others[-1], bytes(200_000))

        def is_refused() -> bool:
            try:
                client.new_job(ECHO)
            except errors.RedisUnavailable as error:
                return "nearly full" in str(error)
            return False

        eventually(is_refused)
        peer.redis.delete(*others)
        eventually(lambda: not is_refused())


def test_cut_connections_are_made_again(client: RemoteClient, peer: ScriptedPeer, redis_server: RedisServer) -> None:
    calls = Calls()
    for number in range(1, 6):
        redis_server.cut_connections()
        client.new_job(ECHO, callback=calls)
        calls.wait(number)


def test_a_client_shows_which_cluster_it_is_for_and_no_password() -> None:
    client = RemoteClient("redis://ada:s3cret@redis.example.org:6379/2?health_check_interval=3", key="ab" * 32, client_id="web")

    assert repr(client) == "RemoteClient('redis://redis.example.org:6379/2', namespace='default', client_id='web')"
