"""Root file systems of Debian releases, made by debootstrap: for images, for virtual machines, and for other releases' engines."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from dev import apt
from dev.console import MachineError, run_quietly, say
from dev.dockerd import remove_tree

SCRIPTS = Path("/usr/share/debootstrap/scripts")
DEBOOTSTRAP_TIMEOUT_S = 1200.0
MIRROR_TIMEOUT_S = 20.0
UNNEEDED = (  # files that debootstrap leaves; their folders stay, apt does not work without
    *("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/info"),
    *("usr/share/locale", "usr/share/lintian", "debootstrap"),
)
# Its mounts end with it, and it ends with us, also when we are killed
CONTAINED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")


def need_debootstrap(*, purpose: str, log: Path) -> None:
    if os.geteuid() != 0:
        raise MachineError(f"{purpose} needs root: run this once as root")
    apt.need_commands({"debootstrap": "debootstrap", "setpriv": "util-linux"}, purpose=purpose, log=log)


def bootstrap(root: Path, *, release: str, packages: Sequence[str], log: Path) -> None:
    """Make the file system of a Debian with these packages in the folder `root`, in place of what is there."""
    mirror, _ = apt.debian_mirror()
    _need_release(mirror, release)
    remove_tree(root)
    options = ("--variant=minbase", f"--include={','.join(packages)}")
    command = (*CONTAINED, "debootstrap", *options, release, str(root), mirror)
    environment = os.environ | apt.proxy()
    run_quietly(command, what=f"debootstrap {release}", log=log, timeout_s=DEBOOTSTRAP_TIMEOUT_S, env=environment)
    _remove_unneeded(root)


def _remove_unneeded(root: Path) -> None:
    for path in (path for name in UNNEEDED for path in (root / name).rglob("*")):
        if path.is_symlink() or not path.is_dir():
            path.unlink()


def install_into(root: Path, packages: Sequence[str], *, log: Path) -> None:
    """Install packages in a root that `bootstrap` has made, by its own apt: debootstrap does not choose between alternatives."""
    install = "apt-get update && apt-get install --yes --no-install-recommends " + " ".join(packages)
    script = f'mount -t proc proc "$0/proc" && exec chroot "$0" sh -c "{install}"'  # Java is not installed without /proc
    environment = os.environ | apt.proxy() | {"DEBIAN_FRONTEND": "noninteractive"}
    command = (*CONTAINED, "sh", "-c", script, str(root))
    run_quietly(command, what=f"installing {' '.join(packages)}", log=log, timeout_s=DEBOOTSTRAP_TIMEOUT_S, env=environment)
    _remove_unneeded(root)


def provide_root(root: Path, *, release: str, packages: Sequence[str], purpose: str, log: Path) -> None:
    """Make sure that `root` is a Debian with these packages; what was made once is kept."""
    if root.exists():
        return
    need_debootstrap(purpose=purpose, log=log)
    say(f"making a root for {purpose}: about a minute, once")
    unfinished = root.with_name(f"{root.name}.unfinished")
    bootstrap(unfinished, release=release, packages=packages, log=log)
    unfinished.rename(root)


def _need_release(mirror: str, release: str) -> None:
    """Debootstrap would try for long where no archive answers."""
    if not (SCRIPTS / release).exists():
        raise MachineError(f"debootstrap knows no Debian {release}")
    proxies = {name.removesuffix("_proxy"): url for name, url in apt.proxy().items()}
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler(proxies)] if proxies else []))
    try:
        opener.open(f"{mirror.rstrip('/')}/dists/{release}/Release", timeout=MIRROR_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise MachineError(f"{mirror} has no Debian {release} for us ({error})") from error
