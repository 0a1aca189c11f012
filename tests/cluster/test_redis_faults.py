"""Redis killed, emptied, stopped, cut off: no job of a living client is lost, and none runs twice.

Several faults come in one history: what one has left behind would be seen by the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jobmanager import Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.errors import RedisUnavailable
from tests.conftest import SLOWNESS, eventually
from tests.support.cluster import IMAGE, SHORT, Cluster
from tests.support.cluster_client import ClientPlan, ClientProcess
from tests.support.cluster_trial import ClusterTrial

TIMEOUTS = replace(SHORT, redis_s=1.0 * SLOWNESS, outage_s=3.0 * SLOWNESS, node_lost_s=15.0 * SLOWNESS)  # no node is given up


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes of four slots."""
    return start_cluster(timeouts=TIMEOUTS)


@pytest.fixture
def trial(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterTrial]:
    """A client, whose jobs are judged at the end of the test."""
    with ClusterTrial(cluster, tmp_path) as trial:
        yield trial


def in_background(trial: ClusterTrial, count: int, pause_s: float = 0.02) -> threading.Thread:
    """Jobs that flow while something is broken."""

    def flow() -> None:
        for _ in range(count):
            trial.submit()
            time.sleep(pause_s)

    thread = threading.Thread(target=flow)
    thread.start()
    return thread


def test_a_redis_that_keeps_its_data_loses_nothing_whatever_is_done_to_it(cluster: Cluster, trial: ClusterTrial) -> None:
    is_killed_twice(cluster, trial)
    is_away_when_jobs_end(cluster, trial)
    has_its_connections_cut_ten_times(cluster, trial)
    is_suspended_for_longer_than_a_call_may_take(cluster, trial)
    trial.wait()


def is_killed_twice(cluster: Cluster, trial: ClusterTrial) -> None:
    longer = trial.submit_many(4, "sleep 1.5; echo hello")
    trial.wait_until_run(*longer)
    flow = in_background(trial, 40)
    for _ in range(2):
        time.sleep(0.2)
        cluster.redis.restart(kill=True)
    flow.join()


def is_away_when_jobs_end(cluster: Cluster, trial: ClusterTrial) -> None:
    trial.wait()
    running = trial.submit_many(6, "sleep 0.7; echo hello")
    trial.wait_until_run(*running)
    cluster.redis.kill()
    time.sleep(1.2 * SLOWNESS)  # they end meanwhile
    cluster.redis.start()
    assert all(trial.result(job_id).outcome is Outcome.SUCCESS for job_id in running)


def has_its_connections_cut_ten_times(cluster: Cluster, trial: ClusterTrial) -> None:
    trial.submit_many(4, "sleep 1; echo hello")
    flow = in_background(trial, 40)
    for _ in range(10):
        time.sleep(0.15)
        cluster.redis.cut_connections()
    flow.join()


def is_suspended_for_longer_than_a_call_may_take(cluster: Cluster, trial: ClusterTrial) -> None:
    """It carries out later what it was sent."""
    trial.submit_many(4, "sleep 1; echo hello")
    cluster.redis.pause()
    flow = in_background(trial, 10)
    time.sleep(TIMEOUTS.redis_s + 0.3 * SLOWNESS)
    cluster.redis.resume()
    flow.join()


def test_a_redis_that_loses_its_data_is_told_all_of_it_again(cluster: Cluster, trial: ClusterTrial, tmp_path: Path) -> None:
    loses_what_waited_was_placed_ran_and_had_ended(cluster, trial, tmp_path)
    loses_it_twice_while_jobs_flow(cluster, trial)
    loses_it_by_flushall(cluster, trial)


def loses_what_waited_was_placed_ran_and_had_ended(cluster: Cluster, trial: ClusterTrial, folder: Path) -> None:
    """A node is suspended when it is given jobs, and a client when its jobs end.

    The suspended node is one that does not lead: the leader itself would place nothing meanwhile.
    """
    plan = ClientPlan(name="suspended", folder=str(folder), jobs=3, command="sleep 3; echo hello")
    other = ClientProcess(cluster, plan)
    other.start()
    eventually(lambda: sum(each.client == "suspended" and each.what == "accepted" for each in trial.happenings()) == 3)
    process = psutil.Process(other.pid)
    process.suspend()
    eventually(lambda: trial.redis.xlen(trial.store.keys.client("suspended", "results")) == 3, what="they end unread")
    running = trial.submit_many(4, "sleep 2; echo hello")
    trial.wait_until_run(*running)
    with cluster.paused(cluster.following_node()):
        placed = trial.submit_many(6)
        eventually(lambda: any(trial.state(job_id) == "placed" for job_id in placed), what="one is placed")
        trial.submit_many(8)
        cluster.lose_redis_data()
    process.resume()
    eventually(lambda: other.process is not None and other.process.poll() == 0, within_s=30, what=f"it ends: {other.log}")
    trial.wait()


def loses_it_twice_while_jobs_flow(cluster: Cluster, trial: ClusterTrial) -> None:
    """The second time nobody has settled yet."""
    running = trial.submit_many(6, "sleep 2; echo hello")
    trial.wait_until_run(*running)
    flow = in_background(trial, 20)
    cluster.lose_redis_data()
    time.sleep(TIMEOUTS.settle_s / 2)
    cluster.lose_redis_data()
    flow.join()
    trial.wait()


def loses_it_by_flushall(cluster: Cluster, trial: ClusterTrial) -> None:
    """The server is the same one: only the generation tells."""
    trial.wait_until_run(*trial.submit_many(6, "sleep 1; echo hello"))
    trial.submit_many(10)
    cluster.remember_jobs()
    with cluster.redis.client() as admin:
        admin.flushall()
    trial.wait()


def test_new_job_says_that_redis_is_away_and_what_was_accepted_all_the_same_ends(cluster: Cluster, trial: ClusterTrial) -> None:
    """A suspended Redis accepts later what it was sent."""
    trial.wait_until_run(trial.submit("sleep 1; echo hello"))
    cluster.redis.pause()
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match="does not answer"):
        trial.client.new_job(Task(IMAGE, command="sleep 300"), None, trial.history.called_back, job_id="nobody-s")
    assert TIMEOUTS.outage_s < time.monotonic() - began < TIMEOUTS.outage_s + 4 * TIMEOUTS.redis_s
    cluster.redis.resume()

    def is_gone() -> bool:
        containers = [each.labels.get(JOB_LABEL) for records in cluster.containers().values() for each in records]
        return "nobody-s" not in containers and not trial.redis.hexists(trial.store.keys.ids, "nobody-s")

    eventually(is_gone, what="it is cancelled")
    trial.wait()
    assert "nobody-s" not in {each.job_id for each in trial.happenings()}
    trial.history.write("submitting", "nobody-s")
    trial.history.write("refused", "nobody-s", text="RedisUnavailable")
