"""Long random histories: every job has one right result whatever dies meanwhile. ``make stress`` runs them.

``JOBMANAGER_STRESS_SEED=7`` draws another history, ``1,2,3`` three of them. The page that is printed tells what was in it; when
a rule is broken, the whole history stays in a file, whose place is told.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.soak import Plan, Report, soak_fake, soak_real

pytestmark = pytest.mark.case(46)

SEEDS = [int(seed) for seed in os.environ.get("JOBMANAGER_STRESS_SEED", "1").split(",")]
_MOST_SHOWN = 20


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history_on_real_engines_breaks_no_rule(
    seed: int, image_tar: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        seed=seed, jobs=2_000, warm_up_jobs=100, in_flight=40, kills_within_s=8.0, child_faults=60, daemon_faults=20
    )
    path = _history_file("real", seed)
    report = soak_real(plan, tmp_path, Path(image_tar), path)
    _judge(report, path, capsys)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_random_history_on_fake_engines_breaks_no_rule(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        seed=seed, jobs=100_000, warm_up_jobs=5_000, in_flight=400, kills_within_s=1.0, child_faults=100, daemon_faults=100
    )
    path = _history_file("fake", seed)
    report = soak_fake(plan, path)
    _judge(report, path, capsys)


def _history_file(engines: str, seed: int) -> Path:
    return Path(tempfile.mkdtemp(prefix="jobmanager-soak-")) / f"history-{engines}-{seed}.jsonl"


def _judge(report: Report, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{report.page}")
    shown = "\n".join(f"{found.rule}: {found.about}: {found.text}" for found in report.violations[:_MOST_SHOWN])
    assert not report.violations, f"{len(report.violations)} violations, the history is in {path}\n{shown}"
    path.unlink()
    path.parent.rmdir()
