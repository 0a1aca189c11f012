"""Debian packages: what is there, and installing what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.console import MachineError, run_quietly, say
from dev.dockerd import SBIN_PATH

UPDATE_TIMEOUT_S = 300.0
INSTALL_TIMEOUT_S = 900.0
POLICY = Path("/usr/sbin/policy-rc.d")  # what a package asks before it starts its service
OPTIONS = ("-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120")


def has_command(name: str) -> bool:
    return shutil.which(name, path=SBIN_PATH) is not None


def is_installed(package: str) -> bool:
    if not has_command("dpkg-query"):
        return False
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def need_commands(packages: Mapping[str, str], *, purpose: str, log: Path) -> None:
    """Make sure of commands; `packages` names the package of each. Raises MachineError when one cannot be had."""
    missing = {package for command, package in packages.items() if not has_command(command)}
    if missing:
        install(sorted(missing), purpose=purpose, log=log)


def install(packages: Sequence[str], *, purpose: str, log: Path) -> None:
    """Install packages; without the right to, say in one line what to run."""
    by_hand = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0:
        raise MachineError(f"{purpose} needs packages that are missing; run as root: {by_hand}")
    if not has_command("apt-get"):
        raise MachineError(f"{purpose} needs {', '.join(packages)}, and this machine has no apt-get: install them by hand")
    say(f"installing {' '.join(packages)} ({purpose})")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    refresh(log=log)
    command = ["apt-get", *OPTIONS, "install", "--yes", "--no-install-recommends", *packages]
    run_quietly(command, what=by_hand, log=log, timeout_s=INSTALL_TIMEOUT_S, env=environment)


@contextmanager
def no_services(policy: Path = POLICY) -> Iterator[None]:
    """What is installed meanwhile does not start its service. A policy that the machine has already is left as it is."""
    if os.geteuid() != 0 or policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def refresh(*, log: Path) -> None:
    """Fetch the package lists. A source that does not answer is no reason to stop: the lists may be there already."""
    try:
        run_quietly(["apt-get", *OPTIONS, "update"], what="apt-get update", log=log, timeout_s=UPDATE_TIMEOUT_S)
    except MachineError as error:
        say(f"going on with the package lists that are here ({error})")


def unpack(package: str, folder: Path, *, log: Path) -> None:
    """Download a package and unpack it into `folder`, without installing it."""
    folder.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", *OPTIONS, "download", package]
    try:
        run_quietly(download, what=f"downloading {package}", log=log, timeout_s=INSTALL_TIMEOUT_S, cwd=folder)
    except MachineError:
        if os.geteuid() != 0:
            raise
        refresh(log=log)
        run_quietly(download, what=f"downloading {package}", log=log, timeout_s=INSTALL_TIMEOUT_S, cwd=folder)
    for archive in folder.glob(f"{package}_*.deb"):
        run_quietly(["dpkg-deb", "--extract", str(archive), str(folder)], what=f"unpacking {package}", log=log, timeout_s=60.0)


def debian_mirror() -> tuple[str, str]:
    """Url and release of the Debian archive that this machine's apt uses."""
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        origin, component, release, url = (line.split() + [""] * 4)[:4]
        if (origin, component) == ("Debian", "main") and release.isalpha() and url.startswith("http"):
            return url, release
    return "http://deb.debian.org/debian", "bookworm"


def proxy() -> dict[str, str]:
    """The proxy that apt is told to use, as the environment variable that other programs read."""
    query = ["apt-config", "shell", "http_proxy", "Acquire::http::Proxy"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    name, _, value = answer.partition("=")
    return {name: value.strip("'")} if value.strip("'") not in ("", "DIRECT") else {}
