"""Long random histories of a whole cluster: whatever dies meanwhile, each job has one right result and runs as often as it may.

``JOBMANAGER_STRESS_SEED=7`` draws another history, ``1,2,3`` three of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.cluster_soak import ClusterPlan, ClusterSoak
from tests.support.redis_server import RedisServer

SEEDS = [int(seed) for seed in os.environ.get("JOBMANAGER_STRESS_SEED", "1,2,3").split(",")]
FOR_S = float(os.environ.get("JOBMANAGER_STRESS_S", "90"))


@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("keeps_data", [True, False], ids=["with data", "without"])
def test_a_random_history_of_a_cluster_breaks_no_rule(
    seed: int, keeps_data: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer() as server, Cluster(server, 3) as cluster:
        plan = ClusterPlan(seed=seed, for_s=FOR_S, keeps_data=keeps_data)
        report = ClusterSoak(cluster, plan, tmp_path).run()
        with capsys.disabled():
            print(f"\nseed {seed}\n{report.page}")
        assert not report.violations, "\n".join(report.violations[:40])
