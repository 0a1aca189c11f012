"""Advice on a Docker host: what its engine tells about itself that the one who runs it should know.

A distribution may have patched an old version without changing its number, so a number alone is a warning at most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobmanager.model.container import EngineAbout

TRIED = ("20.10", "26.1", "28.5")  # the engines that our tests have run on: see docs/hosts.md
_RUNC = ("runc", "io.containerd.runc.v2")
_FINAL = 1_000_000  # a release stands after all its candidates
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:[-~]rc\.?(\d+))?", re.ASCII)

Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hole:
    """A hole in runc, and the first versions without it: one for each branch, the oldest first."""

    cves: str
    fixed: tuple[str, ...]


_HOLES = (
    _Hole(cves="CVE-2024-21626", fixed=("1.1.12",)),
    _Hole(cves="CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881", fixed=("1.2.8", "1.3.3", "1.4.0-rc.3")),
)


def advice(about: EngineAbout) -> tuple[str, ...]:
    """A sentence for each thing that should be looked at; none of them says that a limit does not hold."""
    return (
        *about.warnings,
        *(f"the engine says that it cannot limit {what}" for what in about.cannot_limit),
        *_holes(about),
        *_missing_protection(about),
    )


def tried(engine: str) -> str:
    """Whether the library's tests have run on this version of the engine, or on another patch of it."""
    version = _version(engine)
    if version is not None and f"{version[0]}.{version[1]}" in TRIED:
        return "tried"
    return f"not tried: {', '.join(TRIED)} were"


def _holes(about: EngineAbout) -> tuple[str, ...]:
    version = _version(about.runc)
    if about.runtime not in _RUNC or version is None:
        return ()
    return tuple(
        f"runc {about.runc} has {hole.cves}, unless your distribution has patched it; fixed in {', '.join(hole.fixed)}"
        for hole in _HOLES
        if _has(hole, version)
    )


def _has(hole: _Hole, version: Version) -> bool:
    """Whether a version is older than the fix of its own branch, or than every fix."""
    fixes = [fix for text in hole.fixed if (fix := _version(text)) is not None]
    of_its_branch = [fix for fix in fixes if fix[:2] == version[:2]]
    return version < min(of_its_branch or fixes)


def _missing_protection(about: EngineAbout) -> tuple[str, ...]:
    found = []
    if "seccomp" not in about.security:
        found.append("the engine has no seccomp: system calls are not filtered")
    if not {"apparmor", "selinux"} & set(about.security):
        found.append("neither AppArmor nor SELinux stands behind the other barriers")
    if not about.live_restore:
        found.append("live-restore is off: when the daemon ends, so do all jobs on this host, as crash")
    return tuple(found)


def _version(text: str) -> Version | None:
    found = _VERSION.match(text)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch), int(candidate) if candidate else _FINAL
