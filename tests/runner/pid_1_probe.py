"""What a program of the same user tries on PID 1, once each: it prints what each attempt came to, as JSON."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator

NUMBERS = {  # of the kernel's calls on x86-64 and on arm64; Python has no function for most of them
    "clone": (56, 220),
    "get_robust_list": (274, 100),
    "ioprio_get": (252, 31),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kill": (62, 129),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "tgkill": (234, 131),
    "tkill": (200, 130),
}
FIRST = 1
FIRST_TOO = 1 << 32 | 1  # the kernel reads 32 bits
SIG_SETTERS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD)
_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> str:
    """``done``, or the name of the error."""
    ctypes.set_errno(0)
    number = NUMBERS[name][platform.machine() == "aarch64"]
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def tried(function: Callable[..., object], *arguments: object) -> str:
    """``done``, or the name of the error."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def read(path: str) -> None:
    if os.path.isdir(path):
        names = os.listdir(path)
        if names:
            os.stat(f"{path}/{names[0]}")
            os.readlink(f"{path}/{names[0]}")
    elif path.rsplit("/", 1)[1] in ("cwd", "root", "exe"):
        os.readlink(path)
    else:
        with open(path, "rb", buffering=0) as file:
            if path.endswith("/mem"):
                with open("/proc/1/maps") as maps:  # where PID 1 has something
                    file.seek(int(maps.read().split("-")[0], 16))
            file.read(64)


def write(path: str) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        if path.endswith("/timerslack_ns"):  # anybody may open it
            os.write(file, b"50000")
    finally:
        os.close(file)


def of_proc() -> dict[str, dict[str, str]]:
    names = sorted(name for name in os.listdir("/proc/self") if name not in ("net", "task", "attr"))
    paths = [f"/proc/1/{name}" for name in names] + ["/proc/1/task/1/mem", "/proc/1/task/1/fd", "/proc/1/task/1/environ"]
    return {path: {"read": tried(read, path), "write": tried(write, path)} for path in paths}


def calls_on_memory_and_descriptors() -> Iterator[tuple[str, str]]:
    buffer = ctypes.create_string_buffer(256)
    pidfd = os.pidfd_open(FIRST)
    vector = struct.pack("QQ", ctypes.addressof(buffer), 8)
    with open("/proc/self/maps") as maps:
        there = struct.pack("QQ", int(maps.read().split("-")[0], 16), 8)
    yield "ptrace attach", call("ptrace", 16, FIRST, 0, 0)
    yield "ptrace seize", call("ptrace", 0x4206, FIRST, 0, 0)
    yield "process_vm_readv", call("process_vm_readv", FIRST, vector, 1, there, 1, 0)
    yield "process_vm_writev", call("process_vm_writev", FIRST, vector, 1, there, 1, 0)
    yield "pidfd_getfd", call("pidfd_getfd", pidfd, 1, 0)
    yield "kcmp", call("kcmp", os.getpid(), FIRST, 0, 0, 0)
    yield "process_madvise", call("process_madvise", pidfd, there, 1, 4, 0)
    yield "process_mrelease", call("process_mrelease", pidfd, 0)
    yield "move_pages", call("move_pages", FIRST, 0, None, None, None, 0)
    yield "migrate_pages", call("migrate_pages", FIRST, 8, buffer, buffer)
    yield "get_robust_list", call("get_robust_list", FIRST, buffer, buffer)
    yield "setpgid", call("setpgid", FIRST, FIRST)
    yield "share a core", call("prctl", 62, 2, FIRST, 0, 0)


def calls_on_limits_and_scheduling() -> Iterator[tuple[str, str]]:
    """They change what they can."""
    one_cpu, weak, attributes = struct.pack("Q", 1), struct.pack("i", 0), struct.pack("IIQiIQQQ", 48, 5, 0, 0, 0, 0, 0, 0)
    lazy = 3 << 13  # I/O priority: only where nobody else wants to
    for first, name in ((FIRST, ""), (FIRST_TOO, " in 64 bits")):
        yield f"prlimit64 NOFILE{name}", call("prlimit64", first, 7, struct.pack("QQ", 200, 200), None)
        yield f"prlimit64 FSIZE{name}", call("prlimit64", first, 1, struct.pack("QQ", 2**40, 2**40), None)
        yield f"sched_setaffinity{name}", call("sched_setaffinity", first, 8, one_cpu)
        yield f"sched_setscheduler BATCH{name}", call("sched_setscheduler", first, 3, weak)
        yield f"sched_setscheduler IDLE{name}", call("sched_setscheduler", first, 5, weak)
        yield f"sched_setparam{name}", call("sched_setparam", first, weak)
        yield f"sched_setattr{name}", call("sched_setattr", first, attributes, 0)
        yield f"setpriority PROCESS{name}", call("setpriority", 0, first, 5)
        yield f"setpriority GROUP{name}", call("setpriority", 1, first, 6)
        yield f"ioprio_set PROCESS{name}", call("ioprio_set", 1, first, lazy | 7)
        yield f"ioprio_set GROUP{name}", call("ioprio_set", 2, first, lazy | 6)
    yield "setpriority USER", call("setpriority", 2, os.getuid(), 7)
    yield "setpriority one's USER", call("setpriority", 2, 0, 8)
    yield "ioprio_set USER", call("ioprio_set", 3, os.getuid(), lazy | 5)


def calls_on_oneself() -> Iterator[tuple[str, str]]:
    """What programs need."""
    mask = struct.pack("Q", sum(1 << cpu for cpu in os.sched_getaffinity(0)))
    for number, name in ((0, "oneself"), (os.getpid(), "one's number")):
        yield f"sched_setaffinity {name}", call("sched_setaffinity", number, 8, mask)
        yield f"sched_setscheduler {name}", call("sched_setscheduler", number, 0, struct.pack("i", 0))
        yield f"sched_setparam {name}", call("sched_setparam", number, struct.pack("i", 0))
        yield f"sched_setattr {name}", call("sched_setattr", number, struct.pack("IIQiIQQQ", 48, 0, 0, 0, 0, 0, 0, 0), 0)
    yield "setpriority oneself", call("setpriority", 0, 0, 1)
    yield "ioprio_set oneself", call("ioprio_set", 1, 0, 2 << 13 | 4)
    yield "prlimit64 oneself", call("prlimit64", 0, 7, None, ctypes.create_string_buffer(16))


def signals() -> Iterator[tuple[str, str]]:
    pidfd = os.pidfd_open(FIRST)
    forged = ctypes.create_string_buffer(128)
    for number in range(1, 65):
        struct.pack_into("iii", forged, 0, number, 0, -1)  # as if by sigqueue
        yield f"kill {number}", call("kill", FIRST, number)
        yield f"tkill {number}", call("tkill", FIRST, number)
        yield f"tgkill {number}", call("tgkill", FIRST, FIRST, number)
        yield f"pidfd_send_signal {number}", call("pidfd_send_signal", pidfd, number, None, 0)
        yield f"rt_sigqueueinfo {number}", call("rt_sigqueueinfo", FIRST, number, forged)
        yield f"rt_tgsigqueueinfo {number}", call("rt_tgsigqueueinfo", FIRST, FIRST, number, forged)


def signals_of_descriptors() -> Iterator[tuple[str, str]]:
    for number in SIG_SETTERS:
        yield f"a socket's {number}", tried(_ask_for_signal, FIRST, number)
        yield f"a folder's {number}", tried(_ask_for_notice, FIRST, number)


def _ask_for_signal(target: int, number: int) -> None:
    one, other = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, target)
    fcntl.fcntl(one, fcntl.F_SETSIG, number)
    fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL) | os.O_ASYNC)
    other.send(b"x")


def _ask_for_notice(target: int, number: int) -> None:
    folder = os.open("/tmp", os.O_RDONLY)
    fcntl.fcntl(folder, fcntl.F_SETOWN, target)
    fcntl.fcntl(folder, fcntl.F_SETSIG, number)
    fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)
    os.close(os.open(f"/tmp/notice-{number}", os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(f"/tmp/notice-{number}")


def counted_signals_of_descriptors() -> int:
    """How many of them come where they may: here."""
    came: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    for ask in (_ask_for_signal, _ask_for_notice):
        ask(os.getpid(), signal.SIGUSR1)
    return len(came)


def facts() -> dict[str, str]:
    """How PID 1 is limited and scheduled, as anybody sees it."""
    with open("/proc/1/stat") as stat, open("/proc/1/limits") as limits, open("/proc/1/status") as status:
        fields = stat.read().rpartition(")")[2].split()
        masks = [line for line in status if line.startswith(("Cpus_allowed:", "SigBlk", "SigIgn", "SigCgt"))]
        number = NUMBERS["ioprio_get"][platform.machine() == "aarch64"]
        priority = _libc.syscall(ctypes.c_long(number), ctypes.c_long(1), ctypes.c_long(FIRST))
        named = {"nice": fields[16], "policy": fields[38], "group": fields[2], "session": fields[3], "io": str(priority)}
        return {**named, "limits": limits.read(), "masks": "".join(masks)}


def unwritable() -> dict[str, str]:
    """What would let somebody in everywhere."""
    groups = [f"/sys/fs/cgroup/{part}" for part in ("cgroup.procs", "cpu/tasks", "memory/memory.limit_in_bytes", "pids/pids.max")]
    files = ["/.jobmanager/runner", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", *groups]
    names = ["/.jobmanager/x", "/dev/x", "/sys/fs/cgroup/x", "/x"]
    looked_at = {path: tried(write, path) for path in files}
    made = {path: tried(os.open, path, os.O_CREAT | os.O_WRONLY) for path in names}
    moved = {"rename": tried(os.rename, "/.jobmanager/runner", "/.jobmanager/x"), "unlink": tried(os.unlink, "/.jobmanager/runner")}
    return {**looked_at, **made, **moved, "chmod": tried(os.chmod, "/.jobmanager/runner", 0o777)}


PROBES: dict[str, Callable[[], object]] = {
    "proc": of_proc,
    "memory": lambda: dict(calls_on_memory_and_descriptors()),
    "scheduling": lambda: dict(calls_on_limits_and_scheduling()),
    "oneself": lambda: dict(calls_on_oneself()),
    "signals": lambda: dict(signals()),
    "asynchronous": lambda: dict(signals_of_descriptors()),
    "counted": counted_signals_of_descriptors,
    "unwritable": unwritable,
    "facts": facts,
}

if __name__ == "__main__":
    print(json.dumps({name: PROBES[name]() for name in sys.argv[1:]}), flush=True)
