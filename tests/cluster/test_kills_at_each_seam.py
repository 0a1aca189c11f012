"""SIGKILL and SIGSTOP of nodes, the leader and clients, each at every point of a job's way where they may be.

Several faults come in one history: what one has left behind would be seen by the next one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jobmanager import Outcome
from tests.conftest import SLOWNESS, eventually
from tests.support.cluster import SHORT, Cluster
from tests.support.cluster_client import ClientPlan, ClientProcess
from tests.support.cluster_history import Happening
from tests.support.cluster_trial import ClusterTrial

LONG = "sleep 6; echo hello"
ENDLESS = "sleep 300"


@pytest.fixture
def trial(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterTrial]:
    """A client of two nodes of four slots, whose jobs are judged at the end of the test."""
    with ClusterTrial(cluster, tmp_path) as trial:
        yield trial


# ---- nodes


def test_a_node_that_is_killed_has_run_each_of_its_jobs_at_most_once(cluster: Cluster, trial: ClusterTrial) -> None:
    is_killed_before_it_took_what_was_placed(cluster, trial)
    is_killed_when_it_has_taken_and_not_started(cluster, trial)
    trial.crashes_are_ours("nodes are killed while they run jobs")
    is_killed_while_jobs_run(cluster, trial)
    is_killed_when_a_job_has_ended_and_nobody_was_told(cluster, trial)
    kills_its_worker_each_time(cluster, trial)


def place_on_suspended(cluster: Cluster, trial: ClusterTrial, node: str) -> list[str]:
    """Suspend a worker, and let jobs be placed on it before anybody knows that it is silent."""
    for _ in range(10):
        worker = psutil.Process(cluster.nodes[node].pid)
        has_been_heard(trial, node)
        worker.suspend()  # it alone: the leader may be its child
        jobs = trial.submit_many(8)
        until = time.monotonic() + SHORT.suspect_s
        while time.monotonic() < until:
            if placed := [job_id for job_id in jobs if is_on(trial, job_id, node, "placed")]:
                return placed
        worker.resume()
        trial.wait()
    pytest.fail(f"nothing is ever placed on {node}")


def has_been_heard(trial: ClusterTrial, node: str) -> None:
    """The leader knows that it takes jobs: it has given several signs of life."""
    before = beats_of(trial, node)
    eventually(lambda: beats_of(trial, node) >= before + 3, what=f"{node} gives signs of life")


def beats_of(trial: ClusterTrial, node: str) -> int:
    return next((fields.beats for fields in trial.store.nodes() if fields.name == node), 0)


def is_killed_before_it_took_what_was_placed(cluster: Cluster, trial: ClusterTrial) -> None:
    placed = place_on_suspended(cluster, trial, "node-1")
    cluster.kill("node-1")
    for job_id in placed:  # nobody starts it for now
        assert (trial.result(job_id).outcome, trial.result(job_id).host) == (Outcome.SUCCESS, "node-2")
    cluster.start_node("node-1")


def is_killed_when_it_has_taken_and_not_started(cluster: Cluster, trial: ClusterTrial) -> None:
    """What was popped lies in RQ's list of popped jobs. Redis has popped it already if the worker was waiting for a job."""
    placed = place_on_suspended(cluster, trial, "node-1")
    queue = trial.store.keys.rq_node("node-1")
    trial.redis.lmove(queue, f"{queue}:intermediate", "LEFT", "RIGHT")
    assert trial.redis.llen(f"{queue}:intermediate")
    cluster.kill("node-1")
    cluster.start_node("node-1")
    for job_id in placed:
        assert trial.result(job_id).outcome is Outcome.SUCCESS


def is_killed_while_jobs_run(cluster: Cluster, trial: ClusterTrial) -> None:
    """Without retries they crash, with them they run again; and what the other node runs goes on."""
    once, again = [], []
    for _ in range(2):  # a node has some of each, also when it takes none at first
        once += trial.submit_many(2, LONG)
        again += trial.submit_many(2, LONG, retries=1)
    trial.wait_until_run(*once, *again)
    lost = {job_id for job_id in once if is_on(trial, job_id, "node-1")}
    repeated = {job_id for job_id in again if is_on(trial, job_id, "node-1")}
    assert lost and repeated
    cluster.kill("node-1")
    for job_id in once:
        result = trial.result(job_id)
        assert result.outcome is (Outcome.CRASH if job_id in lost else Outcome.SUCCESS)
        assert ("node_lost" in [each.kind for each in result.evidence]) == (job_id in lost)
    assert {trial.result(job_id).outcome for job_id in again} == {Outcome.SUCCESS}
    assert all(cluster.runs()[job_id] == 1 + (job_id in repeated) for job_id in once + again)
    cluster.start_node("node-1")


def is_killed_when_a_job_has_ended_and_nobody_was_told(cluster: Cluster, trial: ClusterTrial) -> None:
    jobs = trial.submit_many(4, "sleep 0.7; echo hello")
    trial.wait_until_run(*jobs)
    cluster.redis.pause()
    eventually(lambda: not any(cluster.containers().values()), what="all have ended")
    cluster.kill("node-1")
    cluster.redis.resume()
    cluster.start_node("node-1")
    assert {trial.result(job_id).outcome for job_id in jobs} <= {Outcome.CRASH, Outcome.SUCCESS}


def kills_its_worker_each_time(cluster: Cluster, trial: ClusterTrial) -> None:
    poison = trial.submit(ENDLESS, retries=1, expected=Outcome.CRASH)
    for run in (1, 2):
        eventually(lambda run=run: cluster.runs().get(poison) == run, what=f"it runs {run} times")
        node = trial.record(poison).node
        cluster.kill(node)
        cluster.start_node(node)
    assert trial.result(poison).evidence[0].kind == "node_lost"


def is_on(trial: ClusterTrial, job_id: str, node: str, state: str = "running") -> bool:
    fields = trial.record(job_id)
    return fields is not None and (fields.state, fields.node) == (state, node)


def test_a_node_that_goes_on_after_it_was_given_up_changes_nothing(cluster: Cluster, trial: ClusterTrial) -> None:
    """Its jobs end on its engine meanwhile, or go on: the one are late, the others are killed."""
    trial.crashes_are_ours("a node is suspended for longer than node_lost_s")
    short, endless = trial.submit_many(3, LONG, retries=1), trial.submit_many(3, ENDLESS, expected=Outcome.CRASH)
    trial.wait_until_run(*short, *endless)
    lost = [job_id for job_id in short + endless if is_on(trial, job_id, "node-1")]
    with cluster.paused("node-1"):
        for job_id in lost:
            if job_id in endless:
                assert trial.result(job_id).evidence[0].kind == "node_lost"
        for job_id in short:
            assert trial.result(job_id).outcome is Outcome.SUCCESS
    eventually(lambda: not cluster.containers()["node-1"], what="its containers are gone")
    for job_id in endless:
        if job_id not in lost:
            trial.kill(job_id)
    trial.wait()
    assert trial.result(trial.submit()).outcome is Outcome.SUCCESS


# ---- the leader


def test_the_leader_is_killed_and_suspended_and_jobs_go_on(cluster: Cluster, trial: ClusterTrial) -> None:
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
        running = trial.submit_many(4, "sleep 1; echo hello")
        trial.wait_until_run(*running)
        before, leader = cluster.leader(), cluster.dispatchers()[cluster.leading_node()]
        leader.send_signal(number)
        trial.submit_many(10)
        began = time.monotonic()
        eventually(lambda before=before: cluster.leader() not in ("", before), what="another one leads")
        assert time.monotonic() - began < SHORT.leader_lease_s + 4 * SLOWNESS
        trial.wait()
        if number is signal.SIGSTOP:  # it takes itself for the leader, and is not
            flow = trial.submit_many(6)
            leader.resume()
            flow += trial.submit_many(6)
            assert all(trial.result(job_id).outcome is Outcome.SUCCESS for job_id in flow)


def test_what_was_accepted_while_nobody_leads_runs_later(cluster: Cluster, trial: ClusterTrial) -> None:
    for leader in cluster.dispatchers().values():
        leader.suspend()
    eventually(lambda: not cluster.leader(), what="nobody leads")
    waiting = trial.submit_many(5)
    killed = trial.submit()
    assert trial.kill(killed) and trial.result(killed).outcome is Outcome.KILLED  # needs no leader
    assert {trial.state(job_id) for job_id in waiting} == {"waiting"}
    for leader in cluster.dispatchers().values():
        leader.resume()


# ---- clients


def test_a_client_that_is_killed_is_called_back_under_its_id(cluster: Cluster, trial: ClusterTrial, tmp_path: Path) -> None:
    """One dies when results are there that it has not read, one inside a callback, one as it submits."""
    plan = ClientPlan(name="plan", folder=str(tmp_path), jobs=4, command="sleep 3; echo hello")
    unread = ClientProcess(cluster, replace(plan, name="unread"))
    inside = ClientProcess(cluster, replace(plan, name="inside", dies_in_callback=True))
    submitting = ClientProcess(cluster, replace(plan, name="submitting", jobs=200, command="echo hello", pause_s=0.0))
    for client in (unread, inside, submitting):
        client.start()
    eventually(lambda: accepted(trial.happenings(), "unread") == 4, what="all are accepted")
    psutil.Process(unread.pid).suspend()
    eventually(lambda: inside.process is not None and inside.process.poll() == -signal.SIGKILL, what="it dies in its callback")
    trial.history.process_killed(inside.history_name)
    eventually(lambda: accepted(trial.happenings(), "submitting") >= 5)
    submitting.kill(trial.history)
    eventually(lambda: trial.redis.xlen(trial.store.keys.client("unread", "results")) == 4, what="they end unread")
    unread.kill(trial.history)
    again = [
        ClientProcess(cluster, replace(client.plan, jobs=2, dies_in_callback=False)) for client in (unread, inside, submitting)
    ]
    for client in again:
        client.start()
    for client in again:
        eventually(lambda client=client: client.process.poll() == 0, within_s=30, what=f"{client.plan.name} ends: {client.log}")
        assert not trial.store.open_jobs(client.plan.name)


def accepted(happenings: list[Happening], client: str) -> int:
    return sum((each.client, each.what) == (client, "accepted") for each in happenings)
