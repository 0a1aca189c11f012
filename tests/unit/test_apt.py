"""Packages are installed without the services that they bring."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dev import apt


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_while_packages_are_installed_no_service_may_be_started(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with apt.no_services(policy):
        assert subprocess.run([policy, "redis-server", "start"], check=False).returncode == 101  # "forbidden", in Debian's policy
    assert not policy.exists()


def test_a_policy_of_the_machine_s_own_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("mine")
    with apt.no_services(policy):
        assert policy.read_text() == "mine"
    assert policy.read_text() == "mine"
