"""A short random history on real and on fake engines; ``make stress`` runs long ones, and says more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.soak import Plan, soak_fake, soak_real

pytestmark = pytest.mark.case(46)


@pytest.mark.timeout(300)
def test_a_short_random_history_on_real_engines_breaks_no_rule(image_tar: str, tmp_path: Path) -> None:
    plan = Plan(seed=1, jobs=100, warm_up_jobs=20, in_flight=30, kills_within_s=5.0, child_faults=8, daemon_faults=3)
    report = soak_real(plan, tmp_path, Path(image_tar), tmp_path / "history.jsonl")
    assert not report.violations, f"{report.violations[:5]}\n{report.page}\nthe history is in {tmp_path}"


@pytest.mark.timeout(300)
def test_a_short_random_history_on_fake_engines_breaks_no_rule(tmp_path: Path) -> None:
    plan = Plan(seed=1, jobs=2_500, warm_up_jobs=500, in_flight=300, kills_within_s=1.0, child_faults=10, daemon_faults=10)
    report = soak_fake(plan, tmp_path / "history.jsonl")
    assert not report.violations, f"{report.violations[:5]}\n{report.page}\nthe history is in {tmp_path}"
