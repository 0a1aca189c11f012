"""Versions that differ: clients, nodes and leaders of which some read a form of jobs that others do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobmanager import Outcome, Task
from jobmanager.errors import JobRefused
from jobmanager.remote.records import SCHEMA
from tests.conftest import eventually
from tests.support.cluster import IMAGE, Cluster
from tests.support.cluster_trial import ClusterTrial

# For all of Python that is started with it: the version after this one
NEWER = f"""\
import sys
import jobmanager.remote.dispatcher, jobmanager.remote.worker_command
for name, module in list(sys.modules.items()):
    if name.startswith("jobmanager.remote.") and name != "jobmanager.remote.payload" and hasattr(module, "SCHEMA"):
        module.SCHEMA = {SCHEMA + 1}
"""


def test_versions_that_differ(start_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = start_cluster(nodes=("old",))
    with ClusterTrial(cluster, tmp_path) as trial:
        a_client_that_is_newer_than_all_nodes_is_told_so(trial, monkeypatch)
        unknown_fields_cost_nothing(cluster, trial)
        start_newer_node(cluster, tmp_path)
        a_newer_node_reads_what_an_older_client_sends(trial)
        a_newer_client_has_its_jobs_run_where_they_are_read(cluster, trial, monkeypatch)
        trial.wait()
        assert trial.result(trial.submit()).outcome is Outcome.SUCCESS  # an older client's, of a newer leader


def a_client_that_is_newer_than_all_nodes_is_told_so(trial: ClusterTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        be_newer(patch)
        with pytest.raises(JobRefused, match=r"newer than every node: .* upgrade the nodes first"):
            trial.client.new_job(Task(IMAGE, command="echo hello"), None, trial.history.called_back)
    trial.submit()


def unknown_fields_cost_nothing(cluster: Cluster, trial: ClusterTrial) -> None:
    """In a job's record they are not looked at. A report with one is a newer node's: it is given nothing by an older leader."""
    running = trial.submit_many(4, "sleep 1; echo hello")
    trial.wait_until_run(*running)
    waiting = trial.submit()
    for job_id in (*running, waiting):
        trial.redis.hset(trial.store.keys.job(trial.r(job_id)), mapping={"of_tomorrow": "1"})
    (node,) = (node for node in trial.store.nodes() if node.name == "old")
    report = json.loads(trial.signer.open("report", node.report, 10**7))
    report |= {"name": "future", "incarnation": "f" * 32, "of_tomorrow": 1}
    trial.store.beat("future", "f" * 32, trial.signer.sign("report", json.dumps(report)), [])
    assert trial.result(waiting).host == "old"
    trial.store.release_node("future", "f" * 32)
    trial.store.forget_node("future")


def start_newer_node(cluster: Cluster, folder: Path) -> None:
    (folder / "newer").mkdir()
    (folder / "newer" / "sitecustomize.py").write_text(NEWER)
    cluster.add_node("new", environment={"PYTHONPATH": str(folder / "newer")})


def a_newer_node_reads_what_an_older_client_sends(trial: ClusterTrial) -> None:
    jobs = trial.submit_many(8, "sleep 0.5; echo hello")
    results = [trial.result(job_id) for job_id in jobs]
    assert {result.outcome for result in results} == {Outcome.SUCCESS}
    assert "new" in {result.host for result in results}


def a_newer_client_has_its_jobs_run_where_they_are_read(
    cluster: Cluster, trial: ClusterTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older leader cannot place them, and makes way for a newer one."""
    eventually(lambda: "new" in {host.name for host in trial.client.hosts()}, what="the client has seen the newer node")
    with monkeypatch.context() as patch:
        be_newer(patch)
        jobs = trial.submit_many(8, "sleep 0.3; echo hello")
    results = [trial.result(job_id) for job_id in jobs]
    assert {(result.outcome, result.host) for result in results} == {(Outcome.SUCCESS, "new")}
    assert cluster.leading_node() == "new"


def be_newer(patch: pytest.MonkeyPatch) -> None:
    """The client of this process."""
    for module in ("sender", "cluster_view"):
        patch.setattr(f"jobmanager.remote.{module}.SCHEMA", SCHEMA + 1)
