"""A Docker daemon started by hand: in folders of its own, with a containerd of its own, and leaving nothing behind.

`dev/machine.py` runs the engines of the demo and the tests with it, `tests/support/daemons.py` the daemons that tests break on
purpose. Everything that a daemon starts (containerd, one shim per container) carries the path of the daemon's exec root
on its command line: that is how its processes are told from those of any other daemon.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SBIN_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
LONGEST_UNIX_PATH = 107  # bytes in sockaddr_un.sun_path, less the closing zero
LONGEST_SOCKET_NAME = "exec/containerd/containerd-debug.sock"
KILL_TIMEOUT_S = 10.0
CONTAINERD_END_TIMEOUT_S = 5.0
POLL_S = 0.05
# Another root: data and runtime folder are at the same paths inside, so what is known of a daemon by its paths holds there,
# too. Of this machine's mounts it keeps none, or what another daemon has unmounted would live on here.
IN_ROOT = """
set -e
root=$1 data=$2 runtime=$3
shift 3
mount --bind "$root" "$root"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
for folder in "$runtime" "$data"; do
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done
cd "$root"
pivot_root . .
umount --lazy .
cd /
exec "$@"
"""


class DaemonError(Exception):
    """A daemon did not start, or something of it could not be ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFiles:
    """Where one daemon keeps everything."""

    data: Path  # images and containers: on a disk with room
    runtime: Path  # socket, pid file and exec root: a short path, see `fits_sockets`
    log: Path
    root: Path | None = None  # another Debian's, whose dockerd is run in it; None: this machine's dockerd

    @property
    def socket(self) -> Path:
        return self.runtime / "docker.sock"

    @property
    def pid_file(self) -> Path:
        return self.runtime / "pid"

    @property
    def exec_root(self) -> Path:
        return self.runtime / "exec"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


def fits_sockets(runtime: Path) -> bool:
    """Whether every unix socket that a daemon makes below `runtime` has a path that the kernel takes."""
    return len(os.fsencode(runtime / LONGEST_SOCKET_NAME)) <= LONGEST_UNIX_PATH


# --- talking to a daemon ------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def api(path: Path, method: str, target: str, *, body: Path | None = None, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """One call of the Docker API over the unix socket `path`: the status and what it answered.

    Raises OSError (a timeout is one) or http.client.HTTPException when nobody answers.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        if body is None:
            connection.request(method, target)
        else:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(body.stat().st_size)}
            with body.open("rb") as stream:
                connection.request(method, target, body=stream, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answers(path: Path, *, timeout_s: float = 5.0) -> bool:
    """Whether a daemon answers at the unix socket `path`."""
    try:
        return api(path, "GET", "/_ping", timeout_s=timeout_s)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def version(path: Path) -> str:
    """Which Docker Engine answers at the unix socket `path`."""
    return str(json.loads(api(path, "GET", "/version")[1])["Version"])


def load_image(path: Path, tar: Path, *, timeout_s: float = 120.0) -> None:
    """Load the images in `tar` (made by `docker save`) into the daemon at the unix socket `path`."""
    status, answer = api(path, "POST", "/images/load?quiet=1", body=tar, timeout_s=timeout_s)
    if status != 200 or b'"error"' in answer:
        raise DaemonError(f"{tar} could not be loaded: {answer.decode(errors='replace').strip()}")


# --- starting -----------------------------------------------------------------------------------------------------


def start(
    files: DaemonFiles,
    *,
    own_network: bool,
    bridge: bool = False,
    flags: Sequence[str] = (),
    listener: socket.socket | None = None,
) -> subprocess.Popen[bytes]:
    """Start a daemon and return at once; `wait_until_answers` tells when it is there.

    With `own_network` it lives in a network namespace of its own, without bridge and firewall rules: as a second daemon in
    the first one's namespace it would delete the first one's bridge. With `bridge` too it has a bridge of its own there, whose
    published ports only that namespace reaches. With `files.root` it has a mount namespace of its own, too, which ends with
    its last process. `listener` is a listening TCP socket of *our*
    namespace, which the daemon serves too (handed over as systemd would).
    """
    for folder in (files.data, files.exec_root, files.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    files.pid_file.unlink(missing_ok=True)  # a daemon refuses to start when that number has become any other process
    _forget_dead_containerd(files)
    command = [
        *("dockerd", "--data-root", str(files.data), "--exec-root", str(files.exec_root)),
        *("--host", files.url, "--pidfile", str(files.pid_file)),
        *(("--iptables=false", "--ip6tables=false") if own_network else ()),
        *(("--bridge", "none") if own_network and not bridge else ()),
        *(("--host", "fd://") if listener else ()),
        *flags,
    ]
    if listener is not None:  # socket activation: the first descriptor is 3, and the receiver checks its own process id
        command = ["sh", "-c", 'exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", *command]
    if own_network and bridge:
        command = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    if files.root is not None:
        command = ["unshare", "--mount", "sh", "-c", IN_ROOT, "sh", *map(str, (files.root, files.data, files.runtime)), *command]
    if own_network:
        command = ["unshare", "--net", *command]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    with files.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if listener is None else listener.fileno(),
            stdout=log,
            stderr=log,
            env=environment | {"PATH": SBIN_PATH},
            start_new_session=True,  # ctrl-C in the terminal is for us, not for the daemon
        )


def _forget_dead_containerd(files: DaemonFiles) -> None:
    """After a daemon was killed the kernel kills its containerd, a moment later: one started meanwhile would wait for it."""
    pid_file = files.exec_root / "containerd" / "containerd.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text() or 0)
    deadline = time.monotonic() + CONTAINERD_END_TIMEOUT_S
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if not _is_alive(pid):
        pid_file.unlink(missing_ok=True)


def wait_until_answers(files: DaemonFiles, process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """Return when the daemon answers. Raises DaemonError when it has ended or `timeout_s` is over."""
    deadline = time.monotonic() + timeout_s
    while not answers(files.socket, timeout_s=max(0.1, min(5.0, deadline - time.monotonic()))):
        if process.poll() is not None:
            raise DaemonError(f"dockerd ended with status {process.returncode}: {_last_complaint(files.log)}")
        if time.monotonic() > deadline:
            raise DaemonError(f"dockerd did not answer within {timeout_s:.0f} s: {_last_complaint(files.log)}")
        time.sleep(POLL_S)


def _last_complaint(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    complaints = [line for line in lines if "level=error" in line or "level=fatal" in line or "failed" in line]
    return f"{(complaints or lines or ['no word from it'])[-1]} (more in {log})"


def daemon_pid(files: DaemonFiles) -> int | None:
    """The process id of the running daemon that keeps its things in `files`; None when there is none."""
    for pid, arguments in _command_lines():
        if _is_dockerd(arguments) and str(files.exec_root) in arguments:
            return pid
    return None


def daemon_pids() -> list[int]:
    """The process ids of all daemons on this machine, whoever started them."""
    return [pid for pid, arguments in _command_lines() if _is_dockerd(arguments)]


def network_of(pid: int) -> Path | None:
    """The name of a process's network namespace; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:
        return None


def _is_dockerd(arguments: Sequence[str]) -> bool:
    return Path(arguments[0]).name == "dockerd"


# --- ending -------------------------------------------------------------------------------------------------------


def stop(files: DaemonFiles, *, process: subprocess.Popen[bytes] | None = None, timeout_s: float = 15.0) -> None:
    """End the daemon of `files`, its containers, containerd, shims and mounts, in whatever state it is.

    Politely at first; what is left after `timeout_s` is killed, found by the exec root. The data folder stays. `process` is
    the daemon as our child, when it is one. Raises DaemonError when a process or a mount cannot be ended.
    """
    pid = daemon_pid(files)
    if pid is None and process is not None and process.poll() is None:
        pid = process.pid  # not dockerd yet: still on its way through `unshare`
    if pid is not None:
        _ask_to_end(files, pid, process, timeout_s=timeout_s)
    _kill_the_rest(files)
    if process is not None:
        process.wait(timeout=KILL_TIMEOUT_S)
    _unmount_below(files.data, files.exec_root)
    shutil.rmtree(files.exec_root, ignore_errors=True)
    files.pid_file.unlink(missing_ok=True)
    files.socket.unlink(missing_ok=True)


def _ask_to_end(files: DaemonFiles, pid: int, process: subprocess.Popen[bytes] | None, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    _signal([pid, *_own_processes(files)], signal.SIGCONT)  # a paused one would not hear us
    with suppress(OSError, http.client.HTTPException, ValueError):
        _kill_containers(files.socket, timeout_s=timeout_s / 2)  # else it waits 10 s for each that ignores SIGTERM
    _signal([pid], signal.SIGTERM)
    while time.monotonic() < deadline:
        if process is not None:
            process.poll()  # reaps it
        if not _is_alive(pid):
            return
        time.sleep(POLL_S)


def _kill_containers(path: Path, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    _, listing = api(path, "GET", "/containers/json", timeout_s=timeout_s)
    for container in json.loads(listing):
        left_s = max(0.1, deadline - time.monotonic())
        api(path, "POST", f"/containers/{container['Id']}/kill", timeout_s=left_s)


def _kill_the_rest(files: DaemonFiles) -> None:
    """Kill what a daemon leaves when it did not end cleanly: containerd, shims, and the containers' own processes."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    pids = set(_own_processes(files))
    if pids:
        _thaw_containers(files)
        pids |= _descendants(pids)
    while pids:
        _signal(pids, signal.SIGKILL)
        time.sleep(POLL_S)
        pids = {pid for pid in pids if _is_alive(pid)} | set(_own_processes(files))
        if time.monotonic() > deadline:
            raise DaemonError(f"processes of the daemon in {files.runtime} do not end: {sorted(pids)}")
    for group in _cgroups(files):
        with suppress(OSError):
            group.rmdir()
    for address in files.exec_root.glob("containerd/daemon/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)  # the shim's socket, outside our folders


def _own_processes(files: DaemonFiles) -> list[int]:
    return [pid for pid, arguments in _command_lines() if _belongs_to(files, arguments)]


def _belongs_to(files: DaemonFiles, arguments: Sequence[str]) -> bool:
    if not Path(arguments[0]).name.startswith(("dockerd", "containerd", "runc")):
        return False  # somebody who looks at our log
    return any(part == str(files.exec_root) or f"{files.exec_root}/" in part for part in arguments)


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it has just ended
                arguments = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
                if arguments:  # a zombie and a kernel thread have none
                    yield int(entry.name), [os.fsdecode(part) for part in arguments]


def _descendants(pids: set[int]) -> set[int]:
    parents = {int(entry.name): _stat(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = set(pids)
    while more := {pid for pid, (_, parent) in parents.items() if parent in found} - found:
        found |= more
    return found - pids


def _stat(pid: int | str) -> tuple[str, int]:
    """State and parent of a process; ("", 0) when it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return state, int(parent)


def _is_alive(pid: int) -> bool:
    return _stat(pid)[0] not in ("", "Z", "X")


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _cgroups(files: DaemonFiles) -> list[Path]:
    """The control groups of this daemon's containers, which a daemon that was killed leaves behind."""
    root = Path("/sys/fs/cgroup")
    places = ("docker/{}", "*/docker/{}", "system.slice/docker-{}.scope", "*/system.slice/docker-{}.scope")
    containers = files.data / "containers"
    ids = [entry.name for entry in containers.iterdir()] if containers.is_dir() else []
    return [group for name in ids for place in places for group in root.glob(place.format(name))]


def _thaw_containers(files: DaemonFiles) -> None:
    for group in _cgroups(files):
        with suppress(OSError):  # cgroup v1 only: there a frozen process does not die of SIGKILL
            if (group / "freezer.state").exists():
                (group / "freezer.state").write_text("THAWED")


# --- mounts -------------------------------------------------------------------------------------------------------


def mounts_below(folder: Path) -> list[Path]:
    """The mount points at or below `folder`, the deepest first."""
    points: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))  # a blank is written as \040
        if point == folder or folder in point.parents:
            points.append(point)
    return sorted(points, key=lambda point: len(point.parts), reverse=True)


def _unmount_below(*folders: Path) -> None:
    for folder in folders:
        for options in ((), ("--lazy",)):
            for point in mounts_below(folder):
                subprocess.run(["umount", *options, str(point)], capture_output=True, timeout=KILL_TIMEOUT_S, check=False)
        if left := mounts_below(folder):
            raise DaemonError(f"still mounted: {', '.join(map(str, left))}")


def remove_tree(folder: Path) -> None:
    """Delete `folder`, but never through a mount: raises DaemonError when something is mounted below it."""
    if left := mounts_below(folder):
        raise DaemonError(f"{folder} is not deleted, something is mounted there: {', '.join(map(str, left))}")
    if folder.exists():
        shutil.rmtree(folder)
