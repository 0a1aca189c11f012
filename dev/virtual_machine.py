"""A Docker engine with cgroup v2 in a small virtual machine, for machines that have cgroup v1 only.

    python3 -m dev.virtual_machine [--release NAME] COMMAND...

Runs a command with JOBMANAGER_TEST_HOSTS naming that engine. The machine is User Mode Linux, a whole kernel that runs as
a process: it needs no support of the processor's, and its programs run at nearly this machine's speed, which an emulated
processor's do not by far. The kernel is Debian sid's, in a root of its own: bookworm's (6.1) stops at once on a processor
with AMX. The machine's disk is a Debian of the given release with Debian's engine, made by debootstrap and kept in
`.machine`; what a run writes is forgotten. The command and the machine share a network namespace with nothing else in
it. The machine ends with the command, whatever happens. Needs root, on Debian.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev import apt, dockerd
from dev.console import MachineError, run_quietly, say
from dev.debian_root import bootstrap, need_debootstrap, provide_root
from dev.dockerd import IN_ROOT, POLL_S, SBIN_PATH, DaemonError, DaemonFiles, remove_tree
from dev.machine import CHECKOUT, HOSTS_VARIABLE, IMAGE_VARIABLE, Machine, call, end_in_order

COMMANDS = {"mkfs.ext4": "e2fsprogs", "ip": "iproute2"}
KERNEL_RELEASE, KERNEL_PACKAGES = "sid", ("user-mode-linux",)
KERNEL, KERNEL_MODULES = "/usr/bin/linux.uml", "usr/lib/uml/modules"
PACKAGES = ("docker.io", "iproute2", "kmod")
INIT = Path(__file__).parent / "images" / "virtual_machine_init.sh"
PATIENCE = {"JOBMANAGER_TEST_SLOWNESS": "8"}  # one slow core, and nobody's time is measured there
URL = "tcp://10.0.2.15:2375"  # as INIT has it
PANIC = b"Kernel panic"
READY = b"API listen on [::]:2375"
DISK_SIZE = "8G"  # of a sparse file
MEMORY_MIB = 2560
PACK_TIMEOUT_S = 300.0
LOAD_TIMEOUT_S = 300.0
BOOT_TIMEOUT_S = 120.0
END_TIMEOUT_S = 30.0
PROGRESS_EVERY_S = 10.0
NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
BOOT = """
set -e
ip link set lo up
ip tuntap add dev tap0 mode tap
ip address add 10.0.2.2/24 dev tap0
ip link set tap0 up
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMachine:
    """The files of a machine of one release."""

    folder: Path
    release: str
    kernel_root: Path  # a Debian in which the kernel runs as a process

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def written(self) -> Path:
        """What a run has changed on the disk."""
        return self.folder / "written"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def console(self) -> Path:
        return self.folder / "console"

    def make(self, image_tars: Sequence[Path]) -> None:
        """Make the disk, with the images in its engine, unless it is there."""
        purpose = "a virtual machine's kernel"
        provide_root(self.kernel_root, release=KERNEL_RELEASE, packages=KERNEL_PACKAGES, purpose=purpose, log=self.log)
        if self.disk.exists():
            return
        begun = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        root = self.folder / "root"
        say(f"making a virtual machine with Debian {self.release}: some minutes, once")
        bootstrap(root, release=self.release, packages=PACKAGES, log=self.log)
        shutil.copy(INIT, root / "sbin" / INIT.name)
        (root / "sbin" / INIT.name).chmod(0o755)
        shutil.copytree(self.kernel_root / KERNEL_MODULES, root / "usr/lib/modules", dirs_exist_ok=True)
        with self._engine_in(root) as engine:
            for tar in image_tars:
                say(f"loading {tar.stem} into the virtual machine's engine")
                dockerd.load_image(engine, tar, timeout_s=LOAD_TIMEOUT_S)
        self._pack(root)
        remove_tree(root)
        say(f"made a virtual machine with Debian {self.release} in {time.monotonic() - begun:.0f} s")

    @contextmanager
    def booted(self) -> Iterator[int]:
        """The machine while it runs: a process in its network namespace."""
        begun = time.monotonic()
        self.written.unlink(missing_ok=True)
        in_root = ("sh", "-c", IN_ROOT, "sh", str(self.kernel_root), str(self.folder), str(self.folder))
        command = ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, "sh", "-c", BOOT, "sh", *in_root, *self._kernel_call()]
        with self.console.open("wb") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": SBIN_PATH, "HOME": str(self.folder)},  # where it keeps its `.uml`
                start_new_session=True,  # ctrl-C in the terminal is for us
            )
        try:
            self._wait_until(self._is_ready, process, what="the virtual machine", timeout_s=BOOT_TIMEOUT_S)
            say(f"the virtual machine's engine answers after {time.monotonic() - begun:.0f} s")
            yield process.pid
        finally:
            process.kill()
            process.wait()
            self.written.unlink(missing_ok=True)

    def _is_ready(self) -> bool:
        said = self.console.read_bytes()
        if PANIC in said:  # after which it hangs
            raise MachineError(f"the virtual machine broke down (more in {self.console})")
        return READY in said

    def _kernel_call(self) -> list[str]:
        return [
            *(KERNEL, f"mem={MEMORY_MIB}M", "quiet", f"ubd0={self.written},{self.disk}", "root=/dev/ubda", "rw"),
            *("vec0:transport=tap,ifname=tap0", "seccomp=auto", "con=null", "con0=null,fd:1", f"init=/sbin/{INIT.name}"),
        ]

    @contextmanager
    def _engine_in(self, root: Path) -> Iterator[Path]:
        """The socket of the machine's own engine, run here: what takes it seconds here takes minutes in the machine."""
        with tempfile.TemporaryDirectory(prefix="jobmanager-") as runtime:
            files = DaemonFiles(data=root / "var/lib/docker", runtime=Path(runtime), log=self.log, root=root)
            process = dockerd.start(files, own_network=True)
            try:
                dockerd.wait_until_answers(files, process, timeout_s=LOAD_TIMEOUT_S)
                yield files.socket
            finally:
                dockerd.stop(files, process=process)

    def _pack(self, root: Path) -> None:
        unfinished = self.folder / "unfinished"
        unfinished.unlink(missing_ok=True)
        command = ("mkfs.ext4", "-q", "-F", "-d", str(root), str(unfinished), DISK_SIZE)
        run_quietly(command, what="making its disk", log=self.log, timeout_s=PACK_TIMEOUT_S)
        unfinished.rename(self.disk)

    def _wait_until(self, condition: Callable[[], bool], process: subprocess.Popen[bytes], *, what: str, timeout_s: float) -> None:
        begun = told = time.monotonic()
        while not condition():
            now = time.monotonic()
            if process.poll() is not None:
                raise MachineError(f"{what} ended with status {process.returncode} (more in {self.folder})")
            if now - begun > timeout_s:
                raise MachineError(f"{what} did not answer within {timeout_s:.0f} s (more in {self.folder})")
            if now - told > PROGRESS_EVERY_S:
                say(f"... waiting for {what}: {now - begun:.0f} s so far")
                told = now
            time.sleep(POLL_S)


def need_machine(folder: Path) -> None:
    if not apt.has_command("apt-get") or os.geteuid() != 0:
        raise MachineError("the virtual machine needs root, on Debian")
    need_debootstrap(purpose="a virtual machine", log=folder / "log")
    apt.need_commands(COMMANDS, purpose="a virtual machine", log=folder / "log")


def run(options: argparse.Namespace) -> int:
    machine = Machine(options.state.resolve())
    virtual = VirtualMachine(
        folder=machine.state / f"uml-{options.release}", release=options.release, kernel_root=machine.state / "uml-kernel"
    )
    with machine.locked():
        need_machine(virtual.folder)
        tars = machine.image_tars()
        virtual.make(tars)
    with virtual.booted() as pid:
        command = ["nsenter", "--target", str(pid), "--net", *options.command]
        return call(command, os.environ | PATIENCE | {HOSTS_VARIABLE: URL, IMAGE_VARIABLE: str(tars[0])})


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m dev.virtual_machine", description="An engine with cgroup v2")
    parser.add_argument("--state", type=Path, default=CHECKOUT / ".machine", help="folder for everything (default: %(default)s)")
    parser.add_argument("--release", default="bookworm", help="the Debian inside (default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run")
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("run what? For example: python3 -m dev.virtual_machine .venv/bin/python -m pytest tests/contract")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, end_in_order)
    try:
        return run(options)
    except (MachineError, DaemonError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
