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


def holes(runc: str, runtime: str = "runc") -> set[str]:
    said = " ".join(advice(replace(GOOD, runc=runc, runtime=runtime)))
    return {cve for cve in ("CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881") if cve in said}


OLD = {"CVE-2024-21626"}
NEW = {"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}


def test_a_good_host_gets_no_advice():
    assert advice(GOOD) == ()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.0.0-rc95", OLD | NEW),
        ("1.1.5+ds1", OLD | NEW),
        ("v1.1.11", OLD | NEW),
        ("1.1.12", NEW),
        ("1.1.12-0ubuntu3", NEW),
        ("1.2.7", NEW),
        ("1.2.8", set()),
        ("1.2.10", set()),
        ("1.3.0-rc.1", NEW),
        ("1.3.2", NEW),
        ("1.3.3", set()),
        ("1.4.0-rc.2", NEW),
        ("1.4.0~rc2+ds1", NEW),
        ("1.4.0-rc.3", set()),
        ("1.4.0", set()),
        ("1.5.1", set()),
        ("2.0.0", set()),
        ("", set()),
        ("unknown", set()),
    ],
)
def test_the_holes_of_a_runc_are_those_that_its_branch_had_not_mended_yet(version, expected):
    assert holes(version) == expected


def test_an_engine_whose_default_runtime_is_another_is_not_warned_of_runc():
    assert holes("1.1.5", runtime="runsc") == set()
    assert holes("1.1.5", runtime="io.containerd.runc.v2") == OLD | NEW


def test_a_number_alone_is_never_called_a_hole_for_sure():
    assert all("unless your distribution has patched it" in line for line in advice(replace(GOOD, runc="1.1.5")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"security": ("apparmor",)}, "no seccomp"),
        ({"security": ("seccomp",)}, "neither AppArmor nor SELinux"),
        ({"live_restore": False}, "live-restore is off"),
        ({"cannot_limit": ("swap",)}, "cannot limit swap"),
        ({"warnings": ("No swap limit support",)}, "No swap limit support"),
    ],
)
def test_what_an_engine_lacks_is_told(change, said):
    (line,) = advice(replace(GOOD, **change))
    assert said in line
