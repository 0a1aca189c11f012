"""What a client knows of the nodes: a reference means the same image as in one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobmanager import HookManager
from jobmanager.remote.cluster_view import ClusterView, SeenNode
from jobmanager.remote.records import Needs, NodeReport
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import NodeFields
from jobmanager.threads.log_thread import drain

NEEDS = Needs(environment="busybox", memory_mib=10, cpus=1.0, wall_s=1.0)


def report() -> NodeReport:
    return NodeReport(
        name="n", incarnation="i", version="1", oldest_schema=1, newest_schema=1, state="up", slots=1, used=0, memory_mib=1024,
        free_memory_mib=1024, cores=1, environments=("python3",), images=("busybox:latest",), machine="m", pid=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "has"),
    [("busybox", True), ("busybox:latest", True), ("docker.io/library/busybox", True), ("python3", True), ("busybox:1", False)],
)
def test_a_node_has_its_environments_and_its_images_under_all_their_names(environment: str, has: bool) -> None:
    assert SeenNode(report=report(), reason="").could_run(replace(NEEDS, environment=environment)) is has


def test_a_node_that_redis_has_lost_is_remembered_until_it_has_had_time_to_come_back() -> None:
    now = 0.0
    signer = Keyring.parse("5a" * 32).signer("exam")
    view = ClusterView(signer, HookManager(), silent_s=15.0, clock=lambda: now)
    envelope = signer.sign("report", report().to_json())
    node = NodeFields(name="n", report=envelope, incarnation="i", beats=1, want="up", is_claimed=True, seen_s=0.0)
    for is_there in (True, False):
        view.update([node] if is_there else [])
        assert view.refusal(NEEDS) is None
        assert [host.up for host in view.hosts()] == [is_there]
    now = 14.0
    view.update([])
    assert view.refusal(NEEDS) is None
    now = 15.0
    view.update([])
    assert view.refusal(NEEDS) is not None and view.hosts() == []


@pytest.mark.parametrize(
    ("changes", "state", "level", "says"),
    [
        ({"want": "drain"}, "up", "INFO", "node n takes no more jobs: it is being drained"),
        ({"want": "pause"}, "paused", "INFO", "node n takes no more jobs: it is paused"),
        ({}, "draining", "INFO", "node n takes no more jobs: it is draining"),
        ({}, "paused", "WARNING", "node n is down: it is paused"),
        ({"is_claimed": False}, "draining", "WARNING", "node n is down: it was not heard of for 15 s, or has left"),
    ],
)
def test_only_what_nobody_has_planned_is_a_warning(
    caplog: pytest.LogCaptureFixture, changes: dict[str, Any], state: str, level: str, says: str
) -> None:
    signer = Keyring.parse("5a" * 32).signer("exam")
    view = ClusterView(signer, HookManager(), silent_s=15.0)

    def seen(state: str, **changes: Any) -> NodeFields:
        envelope = signer.sign("report", replace(report(), state=state).to_json())
        fields: dict[str, Any] = {"incarnation": "i", "beats": 1, "want": "up", "is_claimed": True, "seen_s": 0.0}
        return NodeFields(name="n", report=envelope, **fields | changes)

    view.update([seen("up")])
    with caplog.at_level("INFO", logger="jobmanager"):
        view.update([seen(state, **changes)])
        assert drain(5.0)

        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [(level, says)]
        view.update([seen("up")])
        assert drain(5.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records[1:]] == [(level, "node n is up again")]
