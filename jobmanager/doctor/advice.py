"""Advice on a Docker host: what its engine reports about itself that the operator should know."""

from __future__ import annotations

import re

from jobmanager.model.container import EngineAbout

TRIED = ("20.10", "26.1", "28.5")  # the engines that our tests have run on: see docs/hosts.md
_VERSION = re.compile(r"v?(\d+\.\d+)\.\d+", re.ASCII)


def advice(about: EngineAbout) -> tuple[str, ...]:
    """A sentence for each thing that should be looked at; none of them says that a limit does not hold."""
    return (
        *about.warnings,
        *(f"the engine says that it cannot limit {what}" for what in about.cannot_limit),
        *_missing_protection(about),
    )


def tried(engine: str) -> str:
    """Whether the library's tests have run on this version of the engine, or on another patch of it."""
    version = _VERSION.match(engine)
    if version is not None and version[1] in TRIED:
        return "tried"
    return f"not tried: {', '.join(TRIED)} were"


def _missing_protection(about: EngineAbout) -> tuple[str, ...]:
    found = []
    if "seccomp" not in about.security:
        found.append("the engine has no seccomp: system calls are not filtered")
    if not {"apparmor", "selinux"} & set(about.security):
        found.append("no AppArmor or SELinux on this host")
    if not about.live_restore:
        found.append("live-restore is off: when the daemon ends, so do all jobs on this host, as crash")
    return tuple(found)
