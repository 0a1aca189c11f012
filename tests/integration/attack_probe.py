"""Runs inside a job, on the image's bare Python: tries what no job may do, and prints as JSON what came of it."""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
room = ctypes.create_string_buffer(4096)
path = ctypes.create_string_buffer(b"/tmp")
text = ctypes.create_string_buffer(b"probe")
null = ctypes.create_string_buffer(b"/dev/null")
none = ctypes.c_void_p(None)
me = os.getpid()
NEW = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000}
NEW["net"] = 0x40000000

# kind: {call: (number on x86_64, on aarch64, arguments with which it would succeed, or fail otherwise, were it let through)}
CALLS = {
    "disguised sockets": {
        "vsock by a number of which the kernel takes the low half": (41, 198, 2**32 + 40, socket.SOCK_STREAM, 0),
    },
    "io_uring": {
        "io_uring_setup": (425, 425, 1, room),
        "io_uring_enter": (426, 426, -1, 0, 0, 0, none, 0),
        "io_uring_register": (427, 427, -1, 0, none, 0),
    },
    "keyrings": {
        "add_key": (248, 217, b"user", text, text, 1, -3),
        "request_key": (249, 218, b"user", text, none, 0),
        "keyctl": (250, 219, 0, -3, 0),
    },
    "other processes": {
        "process_vm_readv": (310, 270, me, none, 0, none, 0, 0),
        "process_vm_writev": (311, 271, me, none, 0, none, 0, 0),
        "kcmp": (312, 272, me, me, 2, 0, 0),
        "pidfd_getfd": (438, 438, -1, 0, 0),
        "process_madvise": (440, 440, -1, none, 0, 0, 0),
    },
    "the kernel's insides": {
        "userfaultfd": (323, 282, 1),
        "bpf": (321, 280, 0, room, 48),
        "perf_event_open": (298, 241, room, 0, -1, -1, 0),
        "init_module": (175, 105, none, 0, none),
        "finit_module": (313, 273, -1, none, 0),
        "delete_module": (176, 106, text, 0),
        "kexec_load": (246, 104, 0, 0, none, 0),
        "kexec_file_load": (320, 294, -1, -1, 0, none, 0),
        "syslog": (103, 116, 3, room, 100),
        "modify_ldt": (154, None, 0, room, 16),
        "iopl": (172, None, 0),
        "ioperm": (173, None, 0x3F8, 1, 0),
    },
    "mounts": {
        "mount": (165, 40, null, path, b"tmpfs", 0, none),
        "umount2": (166, 39, path, 2),
        "pivot_root": (155, 41, path, path),
        "chroot": (161, 51, path),
        "open_tree": (428, 428, -100, path, 1),
        "move_mount": (429, 429, -100, path, -100, path, 0),
        "fsopen": (430, 430, b"tmpfs", 0),
        "fsmount": (432, 432, -1, 0, 0),
        "mount_setattr": (442, 442, -100, path, 0, room, 32),
        "open_by_handle_at": (304, 265, -1, none, 0),
        "fanotify_init": (300, 262, 0, 0),
    },
    "namespaces": {
        **{f"unshare {name}": (272, 97, flag) for name, flag in NEW.items()},
        "setns": (308, 268, -1, 0),
        "clone user": (56, 220, NEW["user"] | signal.SIGCHLD, 0, 0, 0, 0),
    },
    "the whole host": {
        "reboot": (169, 142, 0xFEE1DEAD, 0x28121969, 0, none),
        "settimeofday": (164, 170, room, none),
        "clock_settime": (227, 112, 0, room),
        "adjtimex": (159, 171, room),
        "clock_adjtime": (305, 266, 0, room),
        "swapon": (167, 224, path, 0),
        "swapoff": (168, 225, path),
        "acct": (163, 89, none),
        "quotactl": (179, 60, 0, none, 0, none),
        "sethostname": (170, 161, text, 1),
        "setdomainname": (171, 162, text, 1),
        "sync": (162, 81),
        "syncfs": (306, 267, 0),
        "io_setup": (206, 0, 1, room),
        "personality without random addresses": (135, 92, 0x40000),
    },
}
SOCKETS = {
    "vsock": (40, socket.SOCK_STREAM, 0),
    "vsock datagram": (40, socket.SOCK_DGRAM, 0),
    "AF_ALG": (38, socket.SOCK_SEQPACKET, 0),
    "packet": (17, socket.SOCK_RAW, 3),
    "raw": (2, socket.SOCK_RAW, 1),
    "raw IPv6": (10, socket.SOCK_RAW, 58),
    "netfilter": (16, socket.SOCK_RAW, 12),
    "audit": (16, socket.SOCK_RAW, 9),
    "key": (15, socket.SOCK_RAW, 2),
    "CAN": (29, socket.SOCK_RAW, 1),
    "RDS": (21, socket.SOCK_SEQPACKET, 0),
    "TIPC": (30, socket.SOCK_SEQPACKET, 0),
    "bluetooth": (31, socket.SOCK_RAW, 1),
    "KCM": (41, socket.SOCK_DGRAM, 0),
    "SMC": (43, socket.SOCK_STREAM, 0),
    "XDP": (44, socket.SOCK_RAW, 0),
}
ORDINARY_SOCKETS = {
    "unix": (1, socket.SOCK_STREAM, 0),
    "TCP": (2, socket.SOCK_STREAM, 0),
    "UDP over IPv6": (10, socket.SOCK_DGRAM, 0),
    "list of addresses": (16, socket.SOCK_RAW, 0),
}
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi"]
MASKED += ["/proc/timer_list", "/proc/timer_stats", "/sys/firmware"]
HOOKS = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"]


def called(number, *arguments):
    """The error's name, or what came back."""
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result == -1:
        return errno.errorcode[ctypes.get_errno()]
    if result == 0 and number in (56, 220):
        os._exit(0)  # a child that must not be
    return result


def tried(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def opened(family, kind, protocol):
    socket.socket(family, kind, protocol).close()


def files_under(*folders):
    for folder in folders:
        for where, _, names in os.walk(folder):
            yield from (os.path.join(where, name) for name in names)


def writable(names):
    found = []
    for name in names:
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        found.append(name)
    return found


def readable_bytes(name):
    try:
        if os.path.isdir(name):
            return len(os.listdir(name))
        with open(name, "rb") as file:
            return len(file.read(100))
    except OSError:
        return 0


def sparse():
    with open("/tmp/sparse", "wb") as file:
        file.truncate(2**40)


def reach(address):
    socket.create_connection(address, timeout=2).close()


def reach_abstract(name):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(b"\0" + name.encode())


def mounts():
    with open("/proc/self/mountinfo") as file:
        return [(line.split()[4], line.partition(" - ")[2].split()[0], line.split()[5].split(",")) for line in file]


def kernel_files():
    yield from files_under("/proc/sys", "/sys/fs/cgroup", "/sys/kernel", "/sys/module", "/sys/power")
    yield from (f"/proc/{name}" for name in os.listdir("/proc") if os.path.isfile(f"/proc/{name}"))


wanted = json.loads(sys.argv[1])
print(
    json.dumps(
        {
            "calls": {
                kind: {name: called(row[COLUMN], *row[2:]) for name, row in rows.items() if row[COLUMN] is not None}
                for kind, rows in CALLS.items()
            },
            "clone3": called(435, room, 64),
            "sockets": {name: tried(opened, *row) for name, row in SOCKETS.items()},
            "ordinary sockets": {name: tried(opened, *row) for name, row in ORDINARY_SOCKETS.items()},
            "masked": {name: readable_bytes(name) for name in MASKED},
            "hooks": {name: tried(os.open, name, os.O_WRONLY) for name in HOOKS if os.path.exists(name)},
            "mounts": mounts(),
            "writable": writable(kernel_files()),
            "sparse": tried(sparse),
            "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
            "reach": {host: tried(reach, (host, wanted["port"])) for host in wanted["hosts"]},
            "reach abstract": tried(reach_abstract, wanted["abstract"]),
        }
    )
)
