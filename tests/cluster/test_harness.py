"""The cluster of the tests does what its tests rely on, and notices what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, JobManager, Outcome, Task
from tests.conftest import eventually
from tests.support import cluster as harness
from tests.support.cluster import IMAGE, Cluster, ClusterError
from tests.support.cluster_history import ClusterHistory, cluster_violations, read_happenings
from tests.support.redis_server import RedisServer

QUICK = Task(IMAGE, command="exit 3")


@pytest.fixture
def history(tmp_path: Path) -> Iterator[ClusterHistory]:
    with ClusterHistory(tmp_path, "web") as log:
        yield log


def submit(cluster: Cluster, history: ClusterHistory, count: int, task: Task = QUICK, prefix: str = "job") -> None:
    client = cluster.client(client_id=history.client)
    for number in range(count):
        assert history.submit(client, task, job_id=f"{prefix}-{number}", expected=Outcome.FAILED) == ""


def test_jobs_run_on_all_nodes_and_the_history_says_that_all_is_well(
    cluster: Cluster, history: ClusterHistory, tmp_path: Path
) -> None:
    submit(cluster, history, 20)

    eventually(lambda: history.count == 20, what="every job is called back")
    assert all(sum(node.engine.runs().values()) for node in cluster.nodes.values())
    assert cluster_violations(read_happenings(tmp_path), cluster.runs()) == []


def test_a_killed_node_is_started_again_on_its_engine(cluster: Cluster, history: ClusterHistory, tmp_path: Path) -> None:
    submit(cluster, history, 8, Task(IMAGE, command="sleep 1; exit 3"))
    eventually(lambda: cluster.nodes["node-1"].engine.containers(), what="it runs some")

    history.fault("node-1 is killed")
    cluster.kill("node-1")
    assert not cluster.nodes["node-1"].is_running
    cluster.start_node("node-1")

    eventually(lambda: history.count == 8, within_s=30, what="every job is called back")
    assert cluster_violations(read_happenings(tmp_path), cluster.runs()) == []


def test_another_node_leads_while_the_leader_s_is_suspended(cluster: Cluster) -> None:
    first = cluster.leading_node()
    assert first in cluster.nodes
    with cluster.paused(first):
        eventually(lambda: cluster.leading_node() not in ("", first), what="the other node leads")
    assert set(cluster.dispatchers()) == set(cluster.nodes)


def test_a_cluster_can_be_without_a_dispatcher_and_one_be_alone(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(nodes=1, dispatch="never")
    assert (cluster.leader(), cluster.dispatchers()) == ("", {})

    cluster.start_dispatcher()

    result = cluster.client().submit(QUICK).result(30)
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3)


def test_commands_are_run_for_this_cluster(cluster: Cluster) -> None:
    done = cluster.run_command("nodes", "drain", "node-1", "--until-empty", "--timeout", "20")
    assert done.returncode == 0, done.stderr
    assert "asked to drain" in done.stdout


# ---- what is left


def test_a_container_that_is_left_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE_S", 0.5)
    cluster = Cluster(redis_server, nodes=1, dispatch="never")
    cluster.start()
    with JobManager(DockerHost(cluster.nodes["node-1"].engine.url)) as manager:
        future = manager.submit(Task(IMAGE, command="sleep 60"))
        eventually(lambda: cluster.containers()["node-1"], what="the container is there")
        with pytest.raises(ClusterError, match="containers of node-1 are left"):
            cluster.close()
        manager.close(kill=True)
    assert future.done()


def test_a_key_that_nobody_will_delete_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE_S", 0.5)
    cluster = Cluster(redis_server, nodes=1, dispatch="never")
    cluster.start()
    with redis_server.client() as client:
        client.set(cluster.keys.job("0" * 32), "for ever")

    with pytest.raises(ClusterError, match=f"keys without an end are left: {cluster.keys.job('0' * 32)}"):
        cluster.close()


def test_a_file_that_is_left_is_noticed(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE_S", 0.5)
    cluster = Cluster(redis_server, nodes=1, dispatch="never")
    cluster.start()
    (cluster.nodes["node-1"].temporary / "left").touch()

    with pytest.raises(ClusterError, match="files of node-1 are left"):
        cluster.close()
