"""Each operation on a job in each state that it may be in: what it answers, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_package
from rq import Queue as RQQueue
from rq.serializers import JSONSerializer

from jobmanager.remote.store import (
    Accepted,
    BlobsMissing,
    ClusterStore,
    DuplicateId,
    HeldPlacement,
    NewJob,
    SeenState,
    WaitQueueFull,
)
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.support.redis_server import RedisServer

R = f"{1:032x}"
JOB = NewJob(r=R, job_id="one", client="web", title="hello", header="header", body="body")
NODE, INCARNATION = "n1", "i1"
STATES = ("unknown", "waiting", "placed", "running", "done")


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[ClusterStore]:
    with redis_package.Redis.from_url(redis_server.socket_url) as connection:
        yield ClusterStore(connection, "exam", ClusterTimeouts())


def place(store: ClusterStore, r: str = R, token: str = "t1") -> str:
    epoch = store.lead("leader")
    store.claim_node(NODE, INCARNATION)
    return store.place_all(epoch, [(r, NODE, INCARNATION, token, "placement", "placed")])[0]


def start(store: ClusterStore, token: str = "t1") -> str:
    return store.start(R, node=NODE, incarnation=INCARNATION, token=token, event="started")


def finish(store: ClusterStore, token: str = "t1", *, attempt: int = 1, **options: Any) -> str:
    what: dict[str, Any] = {"client": "web", "job_id": "one", "result": "result", "outcome": "success", "who": NODE} | options
    return store.finish(R, token=token, attempt=attempt, **what)


def bring_to(store: ClusterStore, state: str) -> None:
    steps: tuple[Callable[[], object], ...] = (
        lambda: store.accept(JOB, max_waiting=10),
        lambda: place(store),
        lambda: start(store),
        lambda: finish(store),
    )
    for step in steps[: STATES.index(state)]:
        step()


def cancel(store: ClusterStore) -> str:
    return store.cancel(R, command="kill it", result="killed")


def requeue(store: ClusterStore) -> str:
    job = store.record(R)
    return store.requeue(store.lead("leader"), R, "t1", "requeued", seen="" if job is None else job.state)


def back(store: ClusterStore) -> str:
    return str(store.back(R, token="t1", reason="no image", exclude=True))


WHAT_EACH_ANSWERS: dict[str, tuple[Callable[[ClusterStore], object], tuple[str, ...]]] = {
    "place": (place, ("not_waiting", "placed", "not_waiting", "not_waiting", "not_waiting")),
    "start": (start, ("gone", "gone", "run", "gone", "gone")),
    "start with another token": (lambda store: start(store, "t0"), ("gone", "gone", "gone", "gone", "gone")),
    "back": (back, ("False", "False", "True", "True", "False")),
    "finish": (lambda store: finish(store, attempt=0), ("done", "late", "done", "done", "done")),
    "finish with another token": (lambda store: finish(store, "t0", attempt=0), ("done", "late", "late", "late", "late")),
    "finish while it waits": (lambda store: finish(store, ""), ("late", "done", "late", "late", "late")),
    "finish by a leader of before": (lambda store: finish(store, epoch="0:x"), ("stale",) * 5),
    "cancel": (cancel, ("gone", "ended", "asked", "asked", "gone")),
    "requeue": (requeue, ("late", "late", "waiting", "waiting", "late")),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", WHAT_EACH_ANSWERS)
def test_what_each_operation_answers_in_each_state(store: ClusterStore, operation: str, state: str) -> None:
    bring_to(store, state)
    operate, answers = WHAT_EACH_ANSWERS[operation]

    assert operate(store) == answers[STATES.index(state)]

    fits_together(store)


def fits_together(store: ClusterStore) -> None:
    """A job is in one place only, and a result is there exactly when it has ended."""
    job, results = store.record(R), store.read_results("web", after="0")
    state = job.state if job is not None else "unknown"
    in_node_queue = R.encode() in store.redis.lrange(store.keys.rq_node(NODE), 0, -1)
    assert store.waiting() == ([R] if state == "waiting" else [])
    assert (R in store.jobs_of(NODE)) == (state in ("placed", "running"))
    assert in_node_queue <= (state in ("placed", "running"))
    assert len(results) == (state == "done")
    if job is not None and state == "waiting":
        assert (job.token, job.node, job.placement) == ("", "", "")


def test_a_job_is_accepted_once_and_the_same_one_again_is_no_error(store: ClusterStore) -> None:
    assert store.accept(JOB, max_waiting=10) == Accepted()
    assert store.accept(JOB, max_waiting=0) == Accepted()  # its answer was lost

    assert store.waiting() == [R]
    assert store.open_jobs("web") == {R: "one"}


def test_an_id_can_be_used_again_once_its_job_has_ended(store: ClusterStore) -> None:
    again = replace(JOB, r=f"{2:032x}", client="script")
    store.accept(JOB, max_waiting=10)
    assert store.accept(again, max_waiting=10) == DuplicateId("web")

    cancel(store)

    assert store.accept(again, max_waiting=10) == Accepted()


def test_a_full_queue_and_missing_blobs_are_told_and_leave_nothing(store: ClusterStore) -> None:
    sha256 = "ab" * 32
    assert store.accept(replace(JOB, blobs=(sha256,)), max_waiting=10) == BlobsMissing((sha256,))
    assert store.accept(JOB, max_waiting=0) == WaitQueueFull(0)

    assert store.record(R) is None and store.waiting() == [] and store.open_jobs("web") == {}
    store.redis.set(store.keys.blob(sha256), b"x")
    assert store.accept(replace(JOB, blobs=(sha256,)), max_waiting=10) == Accepted()
    assert 0 < store.redis.ttl(store.keys.blob(sha256)) <= ClusterTimeouts().result_ttl_s


def test_a_leader_of_before_places_nothing(store: ClusterStore) -> None:
    store.accept(JOB, max_waiting=10)
    store.claim_node(NODE, INCARNATION)
    before = store.lead("first")
    store.redis.delete(store.keys.leader)  # its lease is over
    assert store.lead("second") != before and store.lead("first") == ""

    assert store.place_all(before, [(R, NODE, INCARNATION, "t", "p", "e")]) == ["stale"]

    assert store.waiting() == [R]


def test_the_epoch_is_another_one_even_when_redis_has_lost_the_counter(store: ClusterStore) -> None:
    before = store.lead("first")
    store.redis.flushall()

    assert store.lead("second").split(":")[0] == before.split(":")[0]
    assert store.lead("second") != before


@pytest.mark.parametrize("want", ["drain", "pause"])
def test_nothing_is_placed_on_a_node_that_is_to_take_nothing(store: ClusterStore, want: str) -> None:
    store.accept(JOB, max_waiting=10)

    store.set_want(NODE, want)  # a leader that has read the nodes before does not know it
    answer = place(store)
    store.set_want(NODE, "up")

    assert (answer, place(store)) == ("no_node", "placed")


def test_nothing_is_placed_on_a_node_that_is_another_by_now(store: ClusterStore) -> None:
    store.accept(JOB, max_waiting=10)
    epoch = store.lead("leader")
    store.claim_node(NODE, "another")

    assert store.place_all(epoch, [(R, NODE, INCARNATION, "t", "p", "e")]) == ["no_node"]
    assert store.waiting() == [R]


def test_a_kill_reaches_a_job_before_and_after_its_start(store: ClusterStore) -> None:
    bring_to(store, "placed")
    assert cancel(store) == "asked"
    assert start(store) == "cancelled"
    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 0)]).cancels == {R: "kill it"}
    assert [command for _, command in store.read_commands(NODE, after="0", block_s=0.01)] == ["kill it"]


def test_a_node_hears_what_it_has_lost_and_what_it_should_have(store: ClusterStore) -> None:
    bring_to(store, "running")

    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1)]).lost == ()
    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t0", 1)]).lost == (R,)
    assert store.beat(NODE, INCARNATION, "report", []).unheld == ((R, "running", "t1"),)
    assert not store.beat(NODE, "another", "report", []).is_owner


def test_a_job_of_an_incarnation_of_before_is_for_the_leader_to_decide(store: ClusterStore) -> None:
    bring_to(store, "running")
    store.release_node(NODE, INCARNATION)

    assert store.beat(NODE, "another", "report", []).unheld == ()
    assert store.jobs_of(NODE) == {R: "t1"}


@pytest.mark.parametrize("node_first", [True, False])
@pytest.mark.parametrize("seen", ["waiting", "placed", "running"])
def test_after_data_loss_node_and_client_make_a_job_whole_whoever_is_first(
    store: ClusterStore, node_first: bool, seen: str
) -> None:
    bring_to(store, "running")
    store.redis.flushall()
    where = SeenState() if seen == "waiting" else SeenState(state=seen, node=NODE, incarnation=INCARNATION, token="t1", runs=1)

    def node() -> None:
        store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1)])

    def client() -> None:
        store.announce(JOB, where)

    for each in (node, client) if node_first else (client, node):
        each()

    job = store.record(R)
    assert job is not None and (job.state, job.node, job.token, job.runs) == ("running", NODE, "t1", 1)
    assert (job.header, job.body, job.client) == ("header", "body", "web")
    assert store.redis.ttl(store.keys.job(R)) == -1
    assert store.waiting() == [] and store.jobs_of(NODE) == {R: "t1"}
    assert finish(store) == "done"
    fits_together(store)


def test_a_job_that_was_placed_anew_after_data_loss_is_lost_for_the_node_that_comes_late(store: ClusterStore) -> None:
    store.announce(JOB, SeenState())
    place(store, token="t2")

    beat = store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1)])

    assert beat.lost == (R,)


def fall_back(store: ClusterStore) -> None:
    """Redis' machine has crashed, and the last second of its file is lost: the job waits as before it was placed."""
    bring_to(store, "waiting")
    with store.redis.pipeline() as before:
        for key in (store.keys.job(R), store.keys.rq_job(R), store.keys.rq_wait):
            before.dump(key)
        kept = dict(zip((store.keys.job(R), store.keys.rq_job(R), store.keys.rq_wait), before.execute(), strict=True))
    place(store)
    start(store)
    store.redis.delete(store.keys.node(NODE, "jobs"), store.keys.rq_node(NODE))
    for key, dump in kept.items():
        store.redis.restore(key, 0, dump, replace=True)


def test_a_job_whose_record_fell_back_is_its_nodes_still(store: ClusterStore) -> None:
    fall_back(store)

    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1, attempt=1)]).lost == ()

    assert place(store, token="t2") == "not_waiting"
    assert finish(store) == "done"
    fits_together(store)


def test_a_result_whose_record_fell_back_is_no_late_one(store: ClusterStore) -> None:
    fall_back(store)

    assert finish(store, attempt=1) == "done"
    fits_together(store)


def test_a_job_whose_record_fell_back_is_where_its_client_saw_it(store: ClusterStore) -> None:
    """Its node is cut off, and says nothing."""
    fall_back(store)

    assert store.announce(JOB, SeenState(state="running", node=NODE, incarnation=INCARNATION, token="t1", runs=1)) == "there"

    assert place(store, token="t2") == "not_waiting" and store.waiting() == []
    fits_together(store)
    assert finish(store) == "done"
    fits_together(store)


def test_a_client_s_older_word_moves_no_job(store: ClusterStore) -> None:
    bring_to(store, "placed")
    requeue(store)

    assert store.announce(JOB, SeenState(state="placed", node=NODE, incarnation=INCARNATION, token="t1")) == "there"

    assert store.waiting() == [R]
    fits_together(store)


def test_the_later_one_of_two_placements_counts_after_a_loss_of_data(store: ClusterStore) -> None:
    """Its client had only heard of the first one, which was given back."""
    store.announce(JOB, SeenState(state="placed", node="n0", incarnation="i0", token="t0"))

    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1, attempt=2)]).lost == ()

    fits_together(store)
    assert store.jobs_of("n0") == {}
    assert store.beat("n0", "i0", "report", [HeldPlacement(R, "t0", 1, attempt=1)]).lost == (R,)
    assert finish(store) == "done"


def test_a_job_that_was_taken_back_from_a_node_is_not_its_any_more(store: ClusterStore) -> None:
    bring_to(store, "running")
    requeue(store)

    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1, attempt=1)]).lost == (R,)
    assert finish(store, attempt=1) == "late"
    fits_together(store)


def test_runs_are_counted_once_however_often_they_are_said(store: ClusterStore) -> None:
    bring_to(store, "running")
    for _ in range(2):  # the answer was lost
        store.count_runs(R, token="t1", runs=2)
    store.count_runs(R, token="t0", runs=5)
    assert runs(store) == 2

    store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 3, attempt=1)])  # that it is three did not come through
    store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 2, attempt=1)])
    assert runs(store) == 3


def runs(store: ClusterStore) -> int:
    job = store.record(R)
    assert job is not None
    return job.runs


def test_a_result_that_comes_before_the_clients_word_is_kept(store: ClusterStore) -> None:
    assert finish(store) == "done"  # Redis knows nothing of the job

    assert store.announce(JOB, SeenState()) == "done"
    assert [(r, result) for _, r, result in store.read_results("web", after="0")] == [(R, "result")]


def test_a_result_is_taken_only_with_its_blobs(store: ClusterStore) -> None:
    bring_to(store, "running")
    assert finish(store, blobs=["b1", "b2"]) == "missing"
    store.redis.hset(store.keys.job_blobs(R), mapping={"b1": b"1", "b2": b"2"})
    assert finish(store, blobs=["b1", "b2"]) == "done"


OF_A_CLIENT = ("client:web:open", "client:web:results", "client:web:events")
OF_A_NODE = ("node:n1", "node:n1:jobs", "node:n1:want", "node:n1:owner", "nodes")


@pytest.mark.parametrize(
    "key", ["ids", "inbox", "audit", "leader", "epoch", "epochs", f"job:{R}", *OF_A_CLIENT, *OF_A_NODE]
)
def test_what_is_of_another_type_than_ours_stops_nobody(store: ClusterStore, key: str) -> None:
    store.redis.zadd(store.keys.prefix + key, {"rubbish": 1})
    bring_to(store, "running")
    assert store.beat(NODE, INCARNATION, "report", [HeldPlacement(R, "t1", 1, attempt=1)]).lost == ()

    assert finish(store) == "done"
    assert [(r, result) for _, r, result in store.read_results("web", after="0")] == [(R, "result")]
    fits_together(store)


@pytest.mark.parametrize("read", ["records", "states", "record"])
def test_a_record_that_is_none_is_read_as_none(store: ClusterStore, read: str) -> None:
    store.redis.set(store.keys.job(R), "rubbish")

    found = {
        "records": lambda: store.records_by_script([R])[0],
        "states": lambda: store.states([R])[0][0] or None,
        "record": lambda: store.record(R),
    }[read]()

    assert found is None


def test_what_a_leader_reads_first_may_be_rubbish(store: ClusterStore) -> None:
    for key in (store.keys.shares, store.keys.generation):
        store.redis.zadd(key, {"rubbish": 1})
    store.redis.set(f"{store.keys.prefix}epochs", "many")

    assert store.shares() == store.generation() == "" and store.generation()
    assert store.lead("leader").startswith("1:")


def test_a_stream_whose_ids_are_used_up_is_begun_anew(store: ClusterStore) -> None:
    bring_to(store, "running")
    store.redis.xadd(store.keys.client("web", "results"), {"r": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")

    assert finish(store) == "done"
    assert [(r, result) for _, r, result in store.read_results("web", after="0")] == [(R, "result")]


def test_an_acknowledged_result_is_gone(store: ClusterStore) -> None:
    bring_to(store, "done")
    (entry, r, _), = store.read_results("web", after="0")

    store.claim_client("web", "me", {"name": "web"})
    assert store.acknowledge("web", (entry, r), holder="me")

    assert store.read_results("web", after="0") == [] and store.open_jobs("web") == {}


@pytest.mark.parametrize("holder", ["another process", None])
def test_only_the_process_that_has_a_client_s_id_acknowledges(store: ClusterStore, holder: str | None) -> None:
    bring_to(store, "done")
    (entry, r, _), = store.read_results("web", after="0")
    if holder is not None:
        store.claim_client("web", holder, {"name": "web"})

    assert not store.acknowledge("web", (entry, r), holder="me")

    assert len(store.read_results("web", after="0")) == 1 and store.open_jobs("web") == {R: "one"}


def test_the_state_of_many_jobs_and_since_when(store: ClusterStore) -> None:
    bring_to(store, "running")

    (state, for_s), nothing = store.states([R, "f" * 32])

    assert (state, nothing) == ("running", ("", 0.0)) and 0 <= for_s < 60


def test_everything_that_stays_after_a_job_has_a_time_to_live(store: ClusterStore) -> None:
    bring_to(store, "done")

    stays = {"nodes", "epoch", "epochs", "generation", "inbox", "audit"}
    without = [key.decode() for key in store.redis.scan_iter() if store.redis.ttl(key) == -1]
    of_rq = {key for key in without if key.startswith("rq:")}
    assert {key.removeprefix(store.keys.prefix) for key in without if key not in of_rq} <= stays
    assert of_rq <= {"rq:queues"}


def test_a_name_is_kept_by_who_holds_it(store: ClusterStore) -> None:
    assert store.claim_node(NODE, "a") == "" and store.claim_node(NODE, "a") == ""
    assert store.claim_node(NODE, "b") == "a"

    store.release_node(NODE, "b")
    assert store.claim_node(NODE, "b") == "a"
    store.release_node(NODE, "a")
    assert store.claim_node(NODE, "b") == ""
    assert store.claim_client("web", "p1", {"pid": "1"}) == "" and store.claim_client("web", "p2", {"pid": "2"}) == "p1"
    assert store.client("web") == {"pid": "1"}


def test_rqs_own_record_is_small_and_names_a_function_that_says_what_to_start(store: ClusterStore) -> None:
    store.accept(replace(JOB, job_id="é" * 200, title="a title that is much too long for a dashboard"), max_waiting=10)

    record = store.redis.hgetall(store.keys.rq_job(R))
    assert max(map(len, record.values())) <= 64
    assert store.redis.object("encoding", store.keys.rq_job(R)) in (b"listpack", b"ziplist")
    queue = RQQueue(store.keys.wait_queue, connection=store.redis, serializer=JSONSerializer)
    (job,) = queue.jobs
    with pytest.raises(RuntimeError, match="start `jobmanager worker` instead"):
        job.func()


def test_a_job_that_its_node_has_just_started_is_not_taken_back_as_one_that_was_not(store: ClusterStore) -> None:
    bring_to(store, "running")
    assert store.requeue(store.lead("leader"), R, "t1", "event", seen="placed") == "changed"
    assert store.requeue(store.lead("leader"), R, "t1", "event", seen="running") == "waiting"


def test_a_leader_sees_all_figures_at_once(store: ClusterStore) -> None:
    bring_to(store, "placed")
    store.accept(replace(JOB, r=f"{2:032x}", job_id="two"), max_waiting=10)

    pulse = store.pulse([NODE, "other"])

    assert (pulse.waiting, pulse.held, pulse.wants_snapshot) == (1, {NODE: 1, "other": 0}, False)
    assert pulse.last_hint == store.last_hint() != "0-0"
    job = store.record(R)
    assert job is not None and pulse.time_s - 60 < job.accepted <= job.since <= pulse.time_s


def test_snapshot_and_shares_are_kept_for_who_asks(store: ClusterStore) -> None:
    assert store.want_snapshot(9) == "" and store.shares() == ""
    store.write_snapshot("signed", for_s=9)
    store.write_shares("signed too")
    assert (store.pulse([]).wants_snapshot, store.want_snapshot(9), store.shares()) == (True, "signed", "signed too")


def test_a_field_that_is_longer_than_any_of_ours_is_not_read(store: ClusterStore) -> None:
    store.accept(JOB, max_waiting=10)
    store.redis.hset(store.keys.job(R), "body", "x" * (2**20 + 1))
    store.redis.hset(store.keys.job(R), "more", "x" * 2**25)

    job = store.record(R)

    assert job is not None and (job.state, job.job_id, job.header, job.body) == ("waiting", "one", "header", "")


def test_rqs_own_record_says_where_a_job_stands(store: ClusterStore) -> None:
    seen = []
    for state in STATES[1:]:
        store.redis.flushdb()
        bring_to(store, state)
        seen.append(store.redis.hget(store.keys.rq_job(R), "status"))

    assert seen == [b"queued", b"queued", b"started", b"finished"]
