"""What the doctor says of an engine's versions and settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager.doctor.advice import TRIED, advice, tried
from jobmanager.model.container import EngineAbout

GOOD = EngineAbout(
    engine="28.5.2",
    api="1.51",
    containerd="1.7.28",
    runtime="runc",
    runc="1.3.3",
    operating_system="Debian GNU/Linux 13 (trixie)",
    kernel="6.12.0",
    cgroup="2",
    storage_driver="overlay2",
    live_restore=True,
    security=("apparmor", "seccomp", "cgroupns"),
    cannot_limit=(),
    warnings=(),
)


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "26.1.5", "28.5.0", "v28.5.2-rc.1"])
def test_another_patch_of_an_engine_that_was_tried_is_tried(version: str) -> None:
    assert tried(version) == "tried"


@pytest.mark.parametrize("version", ["19.3.1", "26.10.1", "28.4.0", "128.5.2", "29.0.1", "dev", ""])
def test_of_an_engine_that_was_not_tried_one_hears_which_were(version: str) -> None:
    assert tried(version) == f"not tried: {', '.join(TRIED)} were"


def test_a_good_host_gets_no_advice():
    assert advice(GOOD) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"security": ("apparmor",)}, "no seccomp"),
        ({"security": ("seccomp",)}, "no AppArmor or SELinux"),
        ({"live_restore": False}, "live-restore is off"),
        ({"cannot_limit": ("swap",)}, "cannot limit swap"),
        ({"warnings": ("No swap limit support",)}, "No swap limit support"),
    ],
)
def test_what_an_engine_lacks_is_told(change, said):
    (line,) = advice(replace(GOOD, **change))
    assert said in line
