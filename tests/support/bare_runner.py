"""The runner without Docker: PID 1 of namespaces of its own, with private places, on pipes.

It sees a container's folders: `/job`, `/tmp` and `/dev/shm` are its own, `/.jobmanager/runner` is the program, and the machine's
programs and libraries are there, read-only. Its control groups are its own, too, where the machine lets us make some.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import pytest

from tests.conftest import SLOWNESS, eventually
from tests.support.driven_runner import DrivenRunner, RunnerGone

SOURCES = Path(__file__).resolve().parents[2] / "jobmanager" / "runner" / "src"
NOBODY = 65534
SANITIZER_EXIT_CODE = 99
_SANITIZERS = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_FLAGS = {True: _SANITIZERS, False: ("-Os", "-static")}
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ASAN_OPTIONS": f"detect_leaks=0:exitcode={SANITIZER_EXIT_CODE}",  # looking for leaks needs ptrace, which the runner refuses
    "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={SANITIZER_EXIT_CODE}",
}
_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--mount", "--ipc")
_V1_CONTROLLERS = ("cpuacct", "cpu", "memory", "pids")
_PLACES = r"""
set -e
root=$1 binary=$2 user=$3 lease=$4 folders=$5
shift 5
mount -t tmpfs -o mode=755 tmpfs "$root"
for folder in $folders; do
    if [ -L "$folder" ]; then cp -P "$folder" "$root/"; continue; fi
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done
mkdir "$root/proc"
mount --bind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
while [ $# -gt 0 ]; do  # a group, and where a container sees it
    echo 0 > "$1/cgroup.procs"
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done
cd "$root"
mkdir dev tmp job .jobmanager dev/shm dev/mqueue
for device in null zero full random urandom; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
mount -t tmpfs -o mode=1777,size=64m tmpfs tmp
mount -t tmpfs -o uid=$user,gid=$user,mode=0700,size=64m,nr_inodes=200000 tmpfs job
mount -t mqueue mqueue dev/mqueue
cp "$binary" .jobmanager/runner
chmod 555 .jobmanager/runner
mount -o remount,ro "$root"
as_user="setpriv --reuid=$user --regid=$user --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
[ "$user" != 0 ] || as_user=
"""
_EACH_CASE = _PLACES + r"""
for sent in "$CASES"/*.down; do
    case=${sent%.down}
    { code=0
      unshare --pid --fork --mount-proc=proc chroot . $as_user /.jobmanager/runner "$lease" 2>"$case.errors" || code=$?
      echo $code > "$case.code"
    } < "$sent" | cat > "$case.up"
done
"""
_START = _PLACES + 'exec chroot . $as_user /.jobmanager/runner "$lease"'
_KILLED = "unshare: sigprocmask unblock failed: Invalid argument\n"  # its way to say that SIGKILL ended the child


class BareRunner(DrivenRunner):
    """A runner, from ``with`` on; at the end everything in its namespaces is killed.

    Args:
        binary: the program; by default it is built from the sources.
        sanitized: whether that build has the sanitizers. Without them it is static, as for measuring its memory.
        user: whom it runs as.
        lease_s: on its command line and in each Hello.
        begin: whether a session is begun at once. Its Status is the first message.
        memory_bytes: limit of its control group, as far as the machine lets us make one.
        own_cgroup: whether it has control groups of its own; without, it sees none.
    """

    def __init__(
        self,
        *,
        binary: Path | None = None,
        sanitized: bool = True,
        user: int = NOBODY,
        lease_s: float = 60,
        begin: bool = True,
        memory_bytes: int | None = None,
        own_cgroup: bool = True,
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("namespaces need root")
        super().__init__(lease_s=lease_s)
        self.binary = binary or runner_binary(sanitized=sanitized)
        self.user = user
        self.has_cgroup = False
        self._begin, self._memory_bytes, self._own_cgroup = begin, memory_bytes, own_cgroup
        self._groups: list[tuple[Path, str]] = []

    def __enter__(self) -> BareRunner:
        self._stderr = tempfile.TemporaryFile()
        self._groups = _make_groups(self._memory_bytes) if self._own_cgroup else []
        self.has_cgroup = bool(self._groups)
        root = self.binary.parent / "root"
        root.mkdir(exist_ok=True)
        groups = [str(part) for pair in self._groups for part in pair]
        arguments = [str(root), str(self.binary), str(self.user), f"{self.lease_s:g}", _folders(), *groups]
        self._process = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _START, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_ENVIRONMENT,
            cwd="/",
            bufsize=0,
        )
        self.stdin, self.stdout = (cast(IO[bytes], pipe) for pipe in (self._process.stdin, self._process.stdout))
        for pipe in (self.stdin, self.stdout):
            fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_NONBLOCK)
        if self._begin:
            self.resume(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._process.poll() is None and (pid := self._first_child()):
            os.kill(pid, signal.SIGKILL)
        self._process.wait(60)  # the kernel ends the namespace's other processes before
        self.stdin.close()
        self.stdout.close()
        report = self.standard_error()
        self._stderr.close()
        for group, _ in self._groups:
            eventually(partial(_removed, group), what=f"{group} has no process left")
        if kind is None:
            assert report == "", f"the runner wrote to standard error:\n{report}"

    @property
    def pid(self) -> int:
        """Its process, as the machine sees it."""
        pid = self._first_child()
        if not pid:
            raise RunnerGone(self._last_words())
        return pid

    def _ends(self) -> tuple[int, int]:
        return self.stdin.fileno(), self.stdout.fileno()

    def _receive(self) -> bytes | None:
        return os.read(self.stdout.fileno(), 2**18) or None

    def discard(self, most: int) -> None:
        """Throw away what is there to be read: what an engine does while nobody is attached."""
        with suppress(BlockingIOError):
            os.read(self.stdout.fileno(), most)

    def exit_code(self, timeout_s: float = 20) -> int:
        """How it left: negative where a signal ended it. What it still sends is read."""
        self._until(lambda: self._closed, timeout_s, "the runner does not leave")
        code = self._process.wait(timeout_s * SLOWNESS)
        return -signal.SIGKILL if _KILLED in self._written_to_stderr() else code

    def standard_error(self) -> str:
        return self._written_to_stderr().replace(_KILLED, "")

    def _written_to_stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _first_child(self) -> int | None:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(OSError, IndexError):
            return int(children.read_text().split()[0])
        return None

    def _last_words(self) -> str:
        return f"it left with {self._process.wait(20 * SLOWNESS)}{self.standard_error()}"


@dataclass(frozen=True, kw_only=True)
class CaseEnd:
    """How a runner ended that was given some bytes."""

    code: int  # exit code, or 128 and the signal
    up: bytes  # all that it sent
    errors: str  # what it wrote to standard error


def run_cases(cases: Sequence[bytes], folder: Path, *, lease_s: float = 20, timeout_s: float = 100) -> list[CaseEnd]:
    """Give the bytes of each case to a runner of its own, with sanitizers, one after the other; they end with a Leave."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    binary = runner_binary()
    root = binary.parent / "root"
    root.mkdir(exist_ok=True)
    for number, case in enumerate(cases):
        (folder / f"{number:06}.down").write_bytes(case)
    arguments = [str(root), str(binary), str(NOBODY), f"{lease_s:g}", _folders()]
    environment = {**_ENVIRONMENT, "CASES": str(folder)}
    command = [*_UNSHARE, "--kill-child", "sh", "-c", _EACH_CASE, "sh", *arguments]  # with its first process all others end
    subprocess.run(command, env=environment, cwd="/", check=True, timeout=timeout_s * SLOWNESS)
    return [_case_end(folder / f"{number:06}") for number in range(len(cases))]


def _case_end(case: Path) -> CaseEnd:
    code, errors = (case.with_suffix(suffix).read_text(errors="replace") for suffix in (".code", ".errors"))
    return CaseEnd(code=int(code), up=case.with_suffix(".up").read_bytes(), errors=errors)


def runner_binary(*, sanitized: bool = True) -> Path:
    """The program, built from the sources for this machine; what was built before of the same sources is used again."""
    files = sorted(SOURCES.glob("*.[ch]"))
    flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", *_FLAGS[sanitized])
    digest = hashlib.sha256(repr(flags).encode())
    for file in files:
        digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    folder = Path(tempfile.gettempdir()) / f"jobmanager-bare-runner-{os.geteuid()}-{digest.hexdigest()[:20]}"
    binary = folder / "runner"
    if not binary.exists():
        draft = Path(tempfile.mkdtemp())
        programs = [str(file) for file in files if file.suffix == ".c"]
        build_id = f'-DBUILD_ID="{digest.hexdigest()}"'
        subprocess.run(["gcc", *flags, build_id, "-o", str(draft / "runner"), *programs], check=True)
        draft.chmod(0o755)
        with suppress(OSError):  # somebody else was faster
            draft.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
    return binary


def _folders() -> str:
    """The machine's folders that programs need: those of the system, and this Python's."""
    system = ("/bin", "/sbin", "/usr", "/etc", "/sys", *map(str, sorted(Path("/").glob("lib*"))))
    python = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)}
    return " ".join([*system, *sorted(place for place in python if not place.startswith("/usr"))])


def _make_groups(memory_bytes: int | None) -> list[tuple[Path, str]]:
    """Control groups for one runner, and where it sees each; none where the machine lets us make none."""
    top, name = Path("/sys/fs/cgroup"), f"jobmanager-bare-{uuid.uuid4().hex[:12]}"
    second = (top / "cgroup.controllers").exists()
    wanted = [(top / name, str(top))] if second else [(top / part / name, str(top / part)) for part in _V1_CONTROLLERS]
    made: list[tuple[Path, str]] = []
    for folder, seen_at in wanted:
        with suppress(OSError):
            folder.mkdir()
            made.append((folder, seen_at))
            limit = folder / ("memory.max" if second else "memory.limit_in_bytes")
            if memory_bytes is not None and limit.exists():
                limit.write_text(str(memory_bytes))
    return made


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()
