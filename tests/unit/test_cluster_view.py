"""What a client knows of the nodes: a reference means the same image as in one process."""

from __future__ import annotations

import pytest

from jobmanager.remote.cluster_view import SeenNode
from jobmanager.remote.records import Needs, NodeReport


@pytest.mark.parametrize(
    ("environment", "has"),
    [("busybox", True), ("busybox:latest", True), ("docker.io/library/busybox", True), ("python3", True), ("busybox:1", False)],
)
def test_a_node_has_its_environments_and_its_images_under_all_their_names(environment: str, has: bool) -> None:
    report = NodeReport(
        name="n", incarnation="i", version="1", oldest_schema=1, newest_schema=1, state="up", slots=1, used=0, memory_mib=1024,
        free_memory_mib=1024, cores=1, environments=("python3",), images=("busybox:latest",), machine="m", pid=1,
    )  # fmt: skip

    assert SeenNode(report=report, reason="").could_run(Needs(environment=environment, memory_mib=10, cpus=1.0, wall_s=1.0)) is has
