"""Runs in a student container as a submitter's program: tries all that would let it cheat, and prints as JSON what came of it."""

import ctypes
import fcntl
import json
import os
import re
import socket
import subprocess
import sys

SHARED = "/task/student"
SECRETS = ["run.py", "secret.txt", *(f".jobmanager/{name}" for name in ("link", "input.json", "control", "lib", "bin", "answers"))]


def tried(attempt, *arguments):
    """None when it was refused; else what it gave."""
    try:
        return str(attempt(*arguments))
    except (OSError, subprocess.SubprocessError):
        return None


def read(path):
    with open(path, "rb") as file:
        return file.read(200)


def ptrace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None) == -1:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno())


def lease():
    """Whoever opened the file then would have to wait."""
    with open(f"{SHARED}/leased", "w") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def connect(address):
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(address)


def stories():
    """Processes of others: what /proc tells of any that is not ours."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = tried(read, f"/proc/{pid}/cmdline") or ""
        if "grading" in words or "supervisor" in words or "run.py" in words:
            found[pid] = words
    return found


def sockets():
    """All that are listed here, by path or by abstract name, and could be connected to."""
    with open("/proc/net/unix") as table:
        listed = table.read()
    names = {*re.findall(r" (@?/?\S+)$", listed, re.MULTILINE), "/task/.jobmanager/control", f"{SHARED}/../.jobmanager/control"}
    return [name for name in names if tried(connect, name.replace("@", "\0", 1)) is not None]


def forge():
    """An answer, an archive, and lines that look like messages, of our own making."""
    os.makedirs("/task/.jobmanager/archive", exist_ok=True)
    answer = json.dumps({"result": "success", "grade": 200, "text": "forged"})
    for path in ("/task/.jobmanager/result.json", f"{SHARED}/.jobmanager/result.json", "/task/.jobmanager/archive/forged"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(answer)
    for out in ("/proc/self/fd/1", "/proc/1/fd/1"):
        tried(write_lines, out, answer)


def write_lines(path, answer):
    with open(path, "w") as stream:
        for token in sys.argv[1:]:
            for word in ("end 0 0 0 0 0 0 -", "bye", ". e30=", "!"):
                stream.write(f"\x1e{token} {word}\n{answer}\n")


def fill():
    written = 0
    with open(f"{SHARED}/filler", "wb") as file:
        while True:
            written += file.write(bytes(2**20))


def bomb():
    children = []
    try:
        while True:
            children.append(subprocess.Popen(["sleep", "1000"]))
    except OSError:
        return len(children)


def signals():
    """Everybody who can be reached but ourselves."""
    return [pid for pid in range(1, 200) if pid != os.getpid() and tried(os.kill, pid, 0) is not None]


found = {
    "secrets": [name for name in SECRETS if os.path.exists(f"/task/{name}")],
    "listing": sorted(os.listdir("/task")),
    "strangers": stories(),
    "signalled": signals(),
    "ptrace": [pid for pid in range(2, 200) if pid != os.getpid() and tried(ptrace, pid) is not None],
    "symlink": tried(os.symlink, "/etc/passwd", f"{SHARED}/symlink"),
    "symlink in tmp": tried(os.symlink, "/etc/passwd", "/tmp/symlink"),
    "fifo": tried(os.mkfifo, f"{SHARED}/fifo"),
    "device": tried(os.mknod, f"{SHARED}/device", 0o20666, os.makedev(1, 3)),
    "lease": tried(lease),
    "hard link out": tried(os.link, "/etc/passwd", f"{SHARED}/hard"),
    "sockets": sockets(),
}
print(json.dumps(found), flush=True)
forge()
tried(fill)
os.remove(f"{SHARED}/filler")
if "bomb" in sys.argv:
    bomb()
    sys.exit(1)
