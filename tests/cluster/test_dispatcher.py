"""The dispatcher on a real Redis: who leads, what it places, what it takes back, and what it does not believe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis

from jobmanager import Outcome, Task, cli
from jobmanager.command_line.printing import UNREACHABLE
from jobmanager.errors import InvalidValue
from jobmanager.remote import term
from jobmanager.remote.dispatcher_process import DispatcherChild, run_dispatcher
from jobmanager.remote.key_check import check_key
from jobmanager.remote.keys import ANONYMOUS
from jobmanager.remote.queue_snapshot import KIND, MAX_BYTES, read_snapshot
from jobmanager.remote.records import NodeCommand
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import Keyring, Signer
from jobmanager.remote.store import ClusterStore, HeldPlacement
from tests.conftest import SLOWNESS, eventually
from tests.support.cluster import IMAGE, SHORT
from tests.support.dispatching import BEAT_S, CLIENT, NAMESPACE, DispatchWorld
from tests.support.redis_server import RedisServer


@pytest.fixture
def world(redis_server: RedisServer) -> Iterator[DispatchWorld]:
    with DispatchWorld(redis_server) as world:
        yield world


@pytest.fixture
def start_child(world: DispatchWorld) -> Iterator[Callable[[str], DispatcherChild]]:
    """Starts a dispatcher in a process of its own."""
    children = []

    def start(name: str) -> DispatcherChild:
        child = DispatcherChild(world.settings(name))
        children.append(child)
        child.look()
        return child

    yield start
    for child in children:
        if child.pid is not None:
            os.kill(child.pid, signal.SIGCONT)
        child.close()


# ---- placing


def test_a_job_is_given_to_a_node_with_a_signed_placement_and_its_client_is_told(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")

    assert world.is_on(r) == "n1"

    placement, fields = node.placement(r), world.fields(r)
    assert (placement.r, placement.node, placement.incarnation) == (r, "n1", node.incarnation)
    assert placement.token == fields.token and len(placement.token) == 32
    assert node.taken() == [r] and world.store.waiting() == []
    (event,) = world.events("placed")
    assert (event.r, event.node, event.token) == (r, "n1", placement.token)


def test_no_node_gets_more_than_it_has_slots_for_and_the_next_job_comes_when_one_has_ended(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node(slots=2)
    rs = [world.job(str(number)) for number in range(4)]
    eventually(lambda: len(node.taken()) == 2)
    first, second = node.taken()
    assert node.run(first) == "run" and node.run(second) == "run"
    time.sleep(0.5 * SLOWNESS)
    assert node.taken() == []

    assert node.end(first) == "done"

    eventually(lambda: len(node.taken()) == 1)
    assert {first, second, *node.taken()} < {*rs}


def test_priorities_and_launchers_of_all_clients_count(world: DispatchWorld) -> None:
    anns = [world.job(f"ann {number}", launcher="ann") for number in range(3)]
    bob, urgent = world.job("bob", launcher="bob"), world.job("urgent", priority=-1)
    world.dispatcher()
    world.leads()
    node = world.node(slots=1)
    order = []
    for _ in range(5):
        (r,) = eventually(node.taken)
        order.append(r)
        node.run(r)
        node.end(r)
    assert order[0] == urgent and order.index(bob) <= 2 and [r for r in order if r in anns] == anns


def test_a_drained_node_gets_nothing_and_who_waits_for_it_is_told_so(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node()
    special = world.node("n2", environments=("special",))
    world.store.set_want("n2", "drain")
    time.sleep(0.5 * SLOWNESS)
    r = world.job("one", needs={"environment": "special"})
    plain = world.job("two")
    assert world.is_on(plain) == "n1"

    def listed() -> list[str]:
        snapshot = world.store.want_snapshot(5.0)
        waiting = read_snapshot(world.signer.open(KIND, snapshot, MAX_BYTES), CLIENT)[1] if snapshot else ()
        return [job.info for job in waiting]

    eventually(lambda: listed() == ["task, waits for node n2 (drained)"])
    assert not special.taken()
    world.store.set_want("n2", "up")
    assert world.is_on(r) == "n2"


def test_a_job_that_its_node_gave_back_goes_to_another_one(world: DispatchWorld) -> None:
    world.dispatcher()
    nodes = {"n1": world.node("n1"), "n2": world.node("n2")}
    r = world.job("one")
    first = world.is_on(r)
    other = "n2" if first == "n1" else "n1"

    assert world.store.back(r, token=nodes[first].placement(r).token, reason="its image is gone", exclude=True)

    eventually(lambda: world.fields(r).node == other)


def test_a_job_that_comes_back_each_time_without_a_start_ends(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    seen = set()
    while "one" not in world.results():
        fields = world.fields(r)
        if fields.state == "placed" and fields.token not in seen:
            seen.add(fields.token)
            world.store.back(r, token=fields.token, reason="no room", exclude=False)
        time.sleep(0.01)
    assert len(seen) == 5
    result = world.result("one")
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "no_host")
    assert node.taken() == []


def test_a_node_whose_name_nobody_holds_is_given_nothing(world: DispatchWorld) -> None:
    world.dispatcher()
    gone = world.node("gone", environments=("python3",), slots=50)
    eventually(lambda: any(node.report for node in world.store.nodes()))
    gone.fall_silent()
    world.store.release_node("gone", gone.incarnation)
    r = world.job("one")
    time.sleep(0.5 * SLOWNESS)
    assert world.fields(r).state == "waiting"
    world.node("n1")
    assert world.is_on(r) == "n1"


# ---- jobs that end without a run


def test_a_job_that_waits_too_long_ends(world: DispatchWorld) -> None:
    world.dispatcher()
    world.job("one", queue_timeout_s=0.3)
    result = world.result("one")
    assert result.outcome is Outcome.CRASH and "waited longer than 0.3 s while no node was up" in result.text
    assert result.evidence[0].kind == "queue_timeout" and world.store.waiting() == []


def test_a_job_that_waits_behind_another_for_longer_than_its_queue_timeout_is_run(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node("n1", slots=1)
    assert world.is_on(world.job("first")) == "n1"
    second = world.job("second", queue_timeout_s=0.1)
    time.sleep(2.5 * SLOWNESS)
    assert world.fields(second).state == "waiting"


def test_a_newer_job_of_the_same_key_ends_the_older_one(world: DispatchWorld) -> None:
    world.dispatcher()
    world.leads()
    world.job("old", supersede_key="k")
    new = world.job("new", supersede_key="k")
    result = world.result("old")
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: superseded by job new")
    assert world.store.waiting() == [new]


def test_a_job_that_is_killed_while_it_waits_is_forgotten(world: DispatchWorld) -> None:
    dispatcher = world.dispatcher()
    r = world.job("one")
    eventually(lambda: dispatcher.term is not None and r in dispatcher.term.ledger)
    assert world.store.cancel(r, command="kill", result="signed") == "ended"
    eventually(lambda: dispatcher.term is not None and r not in dispatcher.term.ledger)


# ---- what is asked


def test_a_client_is_told_where_its_job_stands(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node(slots=1)
    world.is_on(world.job("placed"))
    rs = [world.job(str(number)) for number in range(3)]
    world.store.ask(rs[2], client=CLIENT, question="q1")
    world.store.ask("0" * 32, client=CLIENT, question="q2")
    world.store.hint("ask", "0" * 32, "[]")
    world.store.hint("ask", "nonsense", '{"client": "../x", "question": 1}')
    eventually(lambda: len(world.events("answer")) == 2)
    known, unknown = world.events("answer")
    assert (known.r, known.question, known.jobs_before) == (rs[2], "q1", 2)
    assert (unknown.question, unknown.jobs_before) == ("q2", -2)


def test_a_snapshot_is_written_while_somebody_reads_it(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node(slots=1)
    running = world.job("one")
    world.is_on(running)
    world.job("two", launcher="bob")
    envelope = eventually(lambda: world.store.want_snapshot(5.0))
    placed, waiting = read_snapshot(world.signer.open(KIND, envelope, MAX_BYTES), CLIENT)
    others = read_snapshot(world.signer.open(KIND, envelope, MAX_BYTES), "another")
    assert [(job.job_id, job.is_current_client_job, job.host) for job in placed] == [("one", True, "n1")]
    assert [(job.job_id, job.launcher) for job in waiting] == [("two", "bob")]
    assert not others[0][0].is_current_client_job


# ---- who leads


def test_one_of_two_leads_and_the_other_takes_over_when_it_leaves(world: DispatchWorld, start_child) -> None:
    children = {"a": start_child("a"), "b": start_child("b")}
    first = eventually(world.leader).split(":")[0]
    second = "b" if first == "a" else "a"
    r = world.job("one")

    children[first].close()

    world.leads(second)
    world.node()
    assert world.is_on(r) == "n1"


def test_another_takes_over_within_the_lease_when_the_leader_is_killed(world: DispatchWorld, start_child) -> None:
    child = start_child("a")
    world.leads("a")
    world.dispatcher("b")
    world.node()
    before = world.job("before")
    world.is_on(before)
    began = time.monotonic()

    os.kill(child.pid, signal.SIGKILL)
    after = world.job("after")

    assert world.is_on(after) == "n1"
    assert time.monotonic() - began < 2 * world.timeouts.leader_lease_s + 1 * SLOWNESS
    child.look()  # it is started again later
    assert child.pid is None


def test_a_leader_that_was_stopped_past_its_lease_places_nothing(world: DispatchWorld, start_child) -> None:
    child = start_child("a")
    world.leads("a")
    os.kill(child.pid, signal.SIGSTOP)
    world.dispatcher("b")
    world.leads("b")
    node = world.node(slots=50)
    rs = [world.job(str(number)) for number in range(20)]
    os.kill(child.pid, signal.SIGCONT)
    rs += [world.job(str(number)) for number in range(20, 40)]
    eventually(lambda: len(node.taken()) == 40)
    time.sleep(0.5 * SLOWNESS)
    assert sorted(node.taken()) == sorted(rs) and {world.fields(r).attempt for r in rs} == {1}
    assert world.leader().startswith("b:")


def test_a_leader_that_is_stopped_while_it_places_is_refused_by_redis(world: DispatchWorld) -> None:
    places, go_on, answers = threading.Event(), threading.Event(), []

    class Slow(ClusterStore):
        def place_all(self, epoch, placements):
            places.set()
            go_on.wait(30)
            answers.extend(super().place_all(epoch, placements))
            return answers

    world.dispatcher("a", Slow)
    world.leads("a")
    world.node()
    r = world.job("one")
    assert places.wait(20)

    world.dispatcher("b")
    world.is_on(r)
    token = world.fields(r).token
    go_on.set()

    eventually(lambda: answers)
    assert answers == ["stale"] and world.fields(r).token == token and world.fields(r).attempt == 1


def test_the_next_leader_knows_what_is_placed_and_what_launchers_have_used(world: DispatchWorld) -> None:
    first = world.dispatcher("a")
    node = world.node(slots=1)
    r = world.job("long", launcher="ann")
    world.is_on(r)
    node.run(r)
    eventually(world.store.shares)
    (stop, thread), *_ = world._dispatchers
    stop.set()
    thread.join(20)
    anns, bobs = world.job("ann's", launcher="ann"), world.job("bob's", launcher="bob")

    second = world.dispatcher("b")

    eventually(lambda: second.term is not None and second.term.ledger.waiting_count() == 2)
    assert second.term is not None and second.term.ledger.placed_on("n1") == [r] and first.term is None
    time.sleep(0.3 * SLOWNESS)
    assert node.taken() == []
    node.end(r)
    assert eventually(node.taken) == [bobs] and world.fields(anns).state == "waiting"


def test_a_child_ends_with_its_parent(world: DispatchWorld, tmp_path: Path) -> None:
    program = (
        "import sys, time; from jobmanager.remote.dispatcher_process import *;"
        "child = DispatcherChild(DispatcherSettings.from_json(sys.stdin.readline())); child.look(); print(child.pid, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        parent.stdin.write(world.settings("d").to_json() + "\n")
        parent.stdin.flush()
        child = psutil.Process(int(parent.stdout.readline()))
        world.leads("d")
        words = " ".join(child.cmdline()) + str(child.environ())
        assert world.keyring.first.secret.hex() not in words and "redis.sock" not in words

        parent.kill()

        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, within_s=5)
    assert world.leader() == ""  # it has let others lead


# ---- nodes that are lost


def test_a_job_that_ran_on_a_lost_node_ends_as_a_crash_with_proof(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    world.is_on(r)
    node.run(r)
    token = node.held[r]
    node.fall_silent()
    began = time.monotonic()

    result = world.result("one")

    assert time.monotonic() - began > 0.8 * world.timeouts.node_lost_s
    assert (result.outcome, result.host, result.evidence[0].kind) == (Outcome.CRASH, "n1", "node_lost")
    assert result.text == f"its node n1 was not heard of for {world.timeouts.node_lost_s:g} s"
    late = world.store.finish(r, token=token, client=CLIENT, job_id="one", result="late", outcome="success", who="n1")
    assert late == "late"
    assert len(world.store.read_results(CLIENT, after="0")) == 1


def test_a_job_with_retries_is_run_again_on_another_node_and_no_more_often_than_they_allow(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node("n1")
    r = world.job("one", retries=1)
    world.is_on(r)
    node.run(r)
    first = node.held[r]
    node.fall_silent()
    other = world.node("n2")

    eventually(lambda: other.taken() == [r])

    assert [event.event for event in world.events("requeued")] == ["requeued"]
    assert world.store.finish(r, token=first, client=CLIENT, job_id="one", result="x", outcome="success", who="n1") == "late"
    other.run(r)
    other.fall_silent()
    world.node("n3")
    assert world.result("one").evidence[0].kind == "node_lost"
    assert world.fields(r).runs == 2


def test_a_job_that_a_lost_node_has_not_started_waits_again(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node("n1")
    r = world.job("one")
    world.is_on(r)
    node.fall_silent()
    world.node("n2")
    eventually(lambda: world.fields(r).node == "n2")
    assert node.taken() == [] and world.fields(r).attempt == 2


def test_jobs_of_a_node_that_was_started_again_are_decided_at_once(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node("n1")
    ran, placed = world.job("ran"), world.job("placed")
    world.is_on(ran), world.is_on(placed)
    node.run(ran)
    node.fall_silent()
    world.store.release_node("n1", node.incarnation)
    again = world.node("n1")
    began = time.monotonic()

    assert world.result("ran").text == "its node n1 was started again"
    eventually(lambda: world.fields(placed).incarnation == again.incarnation)

    assert time.monotonic() - began < world.timeouts.node_lost_s


def test_a_node_that_is_silent_for_a_moment_keeps_its_jobs_and_gets_no_new_ones(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node("n1")
    r = world.job("one")
    world.is_on(r)
    node.run(r)
    held = dict(node.held)
    node.fall_silent()
    time.sleep(1.3 * world.timeouts.suspect_s)
    waits = world.job("two")
    time.sleep(0.4 * SLOWNESS)
    assert world.fields(waits).state == "waiting"

    def beats() -> bool:
        report = world.signer.sign("report", node.report.to_json())
        beat = world.store.beat("n1", node.incarnation, report, [HeldPlacement(r, token, 1) for r, token in held.items()])
        return beat.lost == () and world.fields(waits).node == "n1"

    eventually(beats)
    assert world.fields(r).state == "running" and world.fields(r).attempt == 1


# ---- what is not believed


@pytest.mark.parametrize("forged", ["", "{}", "nonsense", "of another key", "of another job"])
def test_a_forged_header_is_taken_out_of_the_queue_and_written_down(
    world: DispatchWorld, caplog: pytest.LogCaptureFixture, forged: str
) -> None:
    world.dispatcher()
    world.leads()
    node = world.node()
    good = world.job("good")
    world.is_on(good)
    node.run(good)
    header = world.jobs[good].header
    if forged == "of another key":
        header = header.replace('"mac":"', '"mac":"00')[: len(header)]
    elif forged != "of another job":
        header = forged
    r = "f" * 32

    world.forge(r, header)

    eventually(lambda: world.audited("bad header") == [r])
    world.redis.rpush(world.store.keys.rq_wait, r, "no job", "0" * 32)
    eventually(lambda: world.store.waiting() == [])
    another = world.job("another")
    assert world.is_on(another) == "n1"
    assert not node.taken().count(r) and world.fields(r).attempt == 0
    assert sum("its header is not believed" in record.message for record in caplog.records) == 1


def test_a_job_that_was_sent_long_ago_ends_as_it_may_be_a_replay(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node()
    world.job("old", not_after_s=time.time() - 1)
    assert world.result("old").evidence[0].kind == "expired"


@pytest.mark.parametrize("state", ["waiting", "placed", "running"])
def test_a_job_that_has_ended_is_not_placed_again_whoever_writes_its_record_anew(world: DispatchWorld, state: str) -> None:
    dispatcher = world.dispatcher()
    node = world.node()
    r = world.job("one")
    assert world.is_on(r) == "n1" and node.taken() == [r] and node.run(r) == "run"
    copy = world.redis.hgetall(world.store.keys.job(r))
    assert node.end(r) == "done"
    eventually(lambda: dispatcher.term is not None and r not in dispatcher.term.ledger)

    world.redis.hset(world.store.keys.job(r), mapping={**copy, b"state": state})
    if state == "waiting":
        world.redis.hset(world.store.keys.job(r), "token", "")
        world.redis.rpush(world.store.keys.rq_wait, r)
    else:
        world.redis.hset(world.store.keys.node("n1", "jobs"), r, copy[b"token"])

    eventually(lambda: world.fields(r).state == "done", what="its record is that of a job that has ended")
    assert node.taken() == [] and world.store.waiting() == []
    assert world.is_on(world.job("two")) == "n1"


def test_a_node_whose_report_is_not_signed_is_given_nothing(world: DispatchWorld, caplog: pytest.LogCaptureFixture) -> None:
    world.dispatcher()
    world.store.claim_node("evil", "i")
    world.store.beat("evil", "i", "report", [])
    r = world.job("one")
    eventually(lambda: "its report is not believed" in caplog.text)
    assert world.fields(r).state == "waiting"
    world.node()
    assert world.is_on(r) == "n1"


def test_a_job_of_a_newer_version_is_left_for_who_can_read_it(world: DispatchWorld) -> None:
    dispatcher = world.dispatcher()
    world.node()
    r = world.job("new", accept=False)
    header = world.signer.sign("job", world.signer.open("job", world.jobs[r].header, 10_000).replace('"schema":1', '"schema":2'))
    world.store.accept(replace(world.jobs[r], header=header), max_waiting=10)
    assert world.is_on(world.job("one")) == "n1"
    time.sleep(1.5 * SLOWNESS)
    assert world.store.waiting() == [r] and dispatcher.term is not None and r not in dispatcher.term.ledger


# ---- what gets lost


def test_lost_hints_cost_a_moment(world: DispatchWorld) -> None:
    class Deaf(ClusterStore):
        def read_hints(self, *, after, block_s):
            return [], super().read_hints(after=after, block_s=block_s)[1]

    dispatcher = world.dispatcher(store=Deaf)
    node, other = world.node("n1", slots=1), world.node("n2", slots=0)
    first = world.job("one")
    assert world.is_on(first) == "n1"
    second, killed = world.job("two"), world.job("three")
    world.store.cancel(killed, command="kill", result="signed")
    node.run(first)
    node.end(first)
    assert eventually(node.taken, within_s=5) == [second]
    assert dispatcher.term is not None and killed not in dispatcher.term.ledger

    world.store.back(second, token=node.placement(second).token, reason="no", exclude=True)
    other.report = replace(other.report, slots=1)

    assert eventually(other.taken, within_s=5) == [second]


def test_hints_are_heard_again_after_the_inbox_was_deleted(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node(slots=50)
    rs = []
    for number in range(30):
        rs.append(world.job(str(number)))
        world.redis.delete(world.store.keys.inbox)
    eventually(lambda: sorted(node.taken()) == sorted(rs), within_s=5)
    began = time.monotonic()
    world.is_on(world.job("last"))
    assert time.monotonic() - began < 1.0 * SLOWNESS


def test_redis_is_started_again_with_its_data_and_all_goes_on(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    world.is_on(r)
    node.run(r)

    world.server.restart(kill=True)

    waits = eventually(lambda: _tries(lambda: world.job("two")))
    assert world.is_on(waits) == "n1"
    assert world.fields(r).state == "running" and world.fields(r).attempt == 1


def test_redis_is_started_again_without_its_data_and_nothing_is_placed_before_all_have_said_what_they_have(
    start_redis: Callable[..., RedisServer],
) -> None:
    with DispatchWorld(start_redis(appendonly=False)) as world:
        world.dispatcher("a")
        world.dispatcher("b")
        nodes = {name: world.node(name) for name in ("n1", "n2")}
        ran, waits = world.job("ran"), world.job("waits", needs={"environment": "nowhere"})
        where = nodes[world.is_on(ran)]
        where.run(ran)
        token = where.held[ran]

        world.server.restart(kill=True, keep_data=False)
        began = time.monotonic()
        eventually(lambda: _tries(lambda: world.announce(waits)))
        world.announce(ran)  # its client has not heard that it runs
        new = world.job("new")

        eventually(lambda: world.fields(ran).state == "running")
        assert world.is_on(new) in nodes
        assert time.monotonic() - began > 0.5 * world.timeouts.settle_s
        assert (world.fields(ran).token, where.lost) == (token, set())
        assert world.fields(waits).state == "waiting"
        assert where.end(ran) == "done"


def test_a_dispatcher_that_starts_after_redis_has_places_nothing_before_all_have_said_what_they_have(
    start_redis: Callable[..., RedisServer],
) -> None:
    """They are on one machine that crashed: it has not seen that Redis is an older one."""
    with DispatchWorld(start_redis(), timeouts=replace(SHORT, settle_s=4.0)) as world:
        world.store.lead("before"), world.store.resign("before")
        world.server.restart(kill=True)
        began = time.monotonic()
        world.dispatcher()
        world.node()

        assert world.is_on(world.job("new")) == "n1"
        assert time.monotonic() - began > 2.5


def test_names_of_nodes_that_were_not_seen_for_a_day_are_forgotten(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node()
    world.store.redis.sadd(world.store.keys.nodes, "gone", "drained")
    world.store.set_want("drained", "drain")

    eventually(lambda: {node.name for node in world.store.nodes()} == {"n1", "drained"})


def test_a_dispatcher_waits_for_redis(world: DispatchWorld) -> None:
    world.server.stop()
    world.dispatcher()
    time.sleep(0.5 * SLOWNESS)
    world.server.start()
    world.leads()


def test_connections_that_are_cut_do_no_harm(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node(slots=200)
    rs = []
    for number in range(60):
        rs.append(eventually(lambda number=number: _tries(lambda: world.job(f"{number} {time.monotonic()}"))))
        if number % 10 == 0:
            world.server.cut_connections()
    eventually(lambda: {*rs} <= {*node.taken()})
    assert {world.fields(r).attempt for r in rs} == {1} and len(node.taken()) == len({*node.taken()})


def _tries(what: Callable[[], object]) -> object:
    """What comes of it; nothing while Redis is away."""
    import redis

    try:
        return what()
    except redis.RedisError:
        time.sleep(BEAT_S)
        return None


# ---- from the command line


def test_jobs_run_on_nodes_of_which_none_dispatches_when_a_dispatcher_is_started_beside_them(start_cluster) -> None:
    cluster = start_cluster(dispatch="never")
    client = cluster.client()
    eventually(lambda: any(host.memory_mib for host in client.hosts()), what="a host of a node has answered")
    result: list[object] = []
    client.new_job(Task(IMAGE, command="exit 3"), callback=result.append)
    time.sleep(0.5 * SLOWNESS)
    assert not result and cluster.leader() == ""

    process = cluster.start_dispatcher("--name", "beside")

    eventually(lambda: result)
    assert result[0].exit_code == 3 and cluster.leader().startswith("beside:")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10 * SLOWNESS) == 0 and cluster.leader() == ""


def test_workers_have_a_dispatcher_each_and_one_of_them_leads(start_cluster) -> None:
    cluster = start_cluster(nodes=2)
    first = cluster.leading_node()
    assert set(eventually(lambda: len(cluster.dispatchers()) == 2 and cluster.dispatchers())) == {"node-1", "node-2"}
    cluster.dispatchers()[first].kill()
    client = cluster.client()
    eventually(lambda: all(host.memory_mib for host in client.hosts()), what="the hosts of both have answered")
    results: list[object] = []
    for _ in range(10):
        client.new_job(Task(IMAGE, command="exit 0"), callback=results.append)
    eventually(lambda: len(results) == 10)
    assert {result.outcome for result in results} == {Outcome.SUCCESS}
    assert {result.host for result in results} == {"node-1", "node-2"}
    eventually(lambda: len(cluster.dispatchers()) == 2, what="another one was started")


def test_a_redis_that_refuses_the_dispatcher_ends_it_with_a_line_that_says_why(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_redis(password="right")
    monkeypatch.setenv("JOBMANAGER_REDIS_URL", server.url_of(password="wrong"))
    monkeypatch.setenv("JOBMANAGER_KEY", "ab" * 32)

    assert cli.run(["dispatcher"]) == UNREACHABLE

    said = capsys.readouterr().err
    assert "refuses the user or the password" in said and "wrong" not in said


def test_a_node_that_gives_a_job_back_gets_it_again_only_after_its_next_sign_of_life(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    world.is_on(r)
    given_back = 0
    until = time.monotonic() + 3 * BEAT_S
    while time.monotonic() < until:  # it is ending, and has not said so yet
        if (fields := world.fields(r)).state == "placed":
            given_back += world.store.back(r, token=fields.token, reason="it takes no jobs now", exclude=False)
        time.sleep(BEAT_S / 50)

    assert 1 <= given_back <= 4
    assert world.fields(r).state != "done"
    assert world.is_on(r) == node.name


# ---- another key


def test_a_dispatcher_with_another_key_does_not_lead_and_drops_no_job(
    world: DispatchWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.dispatcher("good")
    world.leads("good")
    world.stop_dispatchers()
    r = world.job("one")
    others = replace(world.settings("bad"), keyring=Keyring.parse("ab" * 32))
    stop = threading.Event()
    thread = threading.Thread(target=run_dispatcher, args=(others, stop))
    thread.start()
    try:
        eventually(lambda: "does not stand for election" in caplog.text, what="it has seen that its key is another one")
        time.sleep(2 * world.timeouts.leader_lease_s)
        assert not world.leader() and world.store.waiting() == [r]
    finally:
        stop.set()
        thread.join()

    world.node()
    world.dispatcher("good again")
    assert world.is_on(r) == "n1"


def test_who_has_another_key_is_refused_at_the_start_and_who_has_both_is_not(world: DispatchWorld) -> None:
    world.dispatcher()
    world.leads()
    eventually(world.store.key_check, what="the leader has said which key it has")
    other, both = Keyring.parse("ab" * 32), Keyring.parse(f"{'ab' * 32}\n{world.keyring.secret_text()}")

    with pytest.raises(InvalidValue, match=r"the key is not the one of namespace 'exam'.* Compare the key files") as refused:
        check_key(world.store, other.signer(NAMESPACE))
    assert "abab" not in str(refused.value)
    check_key(world.store, both.signer(NAMESPACE))
    check_key(world.store, world.signer)


# ---- what nobody wants any more


def kill(world: DispatchWorld, r: str, signer: Signer | None = None) -> str:
    command = NodeCommand(command="kill", r=r, client=CLIENT, nonce="n", at_s=time.time(), reason="kill_job")
    return world.store.cancel(r, command=signed(signer or world.signer, command), result="signed")


@pytest.mark.parametrize("how", ["its node is lost", "its node gives it back"])
def test_a_job_that_was_killed_does_not_wait_again(world: DispatchWorld, how: str) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    token = (world.is_on(r), node.placement(r).token)[1]
    assert kill(world, r) == "asked"

    if how == "its node is lost":
        node.fall_silent()
    else:
        world.store.back(r, token=token, reason="no room", exclude=False)

    result = world.result("one")
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: kill_job")


def test_a_kill_that_nobody_of_ours_signed_is_none(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("one")
    token = (world.is_on(r), node.placement(r).token)[1]
    kill(world, r, Keyring.parse("ab" * 32).signer(NAMESPACE))

    world.store.back(r, token=token, reason="no room", exclude=False)

    eventually(lambda: world.fields(r).state == "placed" and world.fields(r).token != token, what="it is placed again")


def test_what_a_client_without_an_id_left_waiting_ends_and_what_one_with_an_id_left_waits_on(world: DispatchWorld) -> None:
    world.dispatcher()
    world.node(slots=0)
    lone = f"{ANONYMOUS}1"
    left, kept, other = world.job("left", client=lone), world.job("kept"), world.job("other", client=f"{ANONYMOUS}2")
    with keeps_its_name(world, f"{ANONYMOUS}2"):
        eventually(lambda: world.fields(left).state == "done", what="it has ended")

        assert world.fields(left).outcome == "killed"
        assert {world.fields(r).state for r in (kept, other)} == {"waiting"}


def test_what_a_client_without_an_id_left_running_is_killed_by_its_node(world: DispatchWorld) -> None:
    world.dispatcher()
    node = world.node()
    r = world.job("left", client=f"{ANONYMOUS}1")
    world.is_on(r)
    node.run(r)

    ((_, envelope), *_) = eventually(lambda: world.store.read_commands("n1", after="0", block_s=0.1), what="its node is told")

    command = opened(world.signer, NodeCommand, envelope)
    assert (command.command, command.r, command.client) == ("kill", r, f"{ANONYMOUS}1")


def test_of_many_waiting_jobs_a_new_leader_places_the_first_before_it_has_read_the_last(
    world: DispatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term, "_READ_FIRST", 2)
    monkeypatch.setattr(term, "_PIECE", 2)
    jobs = [world.job(f"job {number}") for number in range(8)]
    last = world.job("urgent", priority=-1)
    node = world.node(slots=1)
    eventually(lambda: any(fields.beats for fields in world.store.nodes()), what="the node beats")
    world.dispatcher()

    assert world.is_on(jobs[0]) == "n1"
    eventually(lambda: world.store.waiting_count() == 8, what="one is placed")
    node.run(jobs[0])
    time.sleep(5 * BEAT_S)  # the others are read
    node.end(jobs[0])

    assert world.is_on(last) == "n1"


@contextmanager
def keeps_its_name(world: DispatchWorld, client: str) -> Iterator[None]:
    stop = threading.Event()

    def claim() -> None:
        with redis.Redis.from_url(world.server.socket_url) as connection:
            store = ClusterStore(connection, NAMESPACE, world.timeouts)
            while not stop.wait(world.timeouts.client_lease_s / 10):
                store.claim_client(client, "holder", {"kind": "anonymous"})

    world.store.claim_client(client, "holder", {"kind": "anonymous"})
    thread = threading.Thread(target=claim)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
