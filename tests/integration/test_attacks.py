"""Attacks on the host and on neighbours, one by one. docs/security.md lists all of them; many have their test in other files."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
from docker.models.containers import Container

from benchmarks.attacks import ATTACKS
from jobmanager import JobFuture, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.docker.container_config import container_config
from jobmanager.model.container import ContainerSpec, ImageDefaults
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit, proof
from tests.support.printed import wait_until_printed

pytestmark = pytest.mark.engine

PROBE = (Path(__file__).parent / "attack_probe.py").read_bytes()
KINDS = [
    *("disguised sockets", "io_uring", "keyrings", "other processes", "the kernel's insides", "mounts", "namespaces"),
    "the whole host",
]


def python(run: Run, program: str, *words: str, **task: object) -> JobResult:
    """Runs a Python program that is meant to succeed."""
    result = run(["python3", "-c", program, *words], image=PYTHON, **task)
    assert result.outcome is Outcome.SUCCESS, result
    return result


@pytest.fixture(scope="module")
def found(shared_manager: JobManager) -> dict[str, Any]:
    """What a probe in a job came back with, while this process listens for it."""
    name = f"jobmanager-test-{secrets.token_hex(8)}"
    addresses = [address for of_one in psutil.net_if_addrs().values() for address in of_one]
    hosts = {address.address for address in addresses if address.family is socket.AF_INET}
    with socket.create_server(("", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        wanted = {"port": listener.getsockname()[1], "hosts": sorted(hosts), "abstract": name}
        task = Task(PYTHON, command=["python3", "probe.py", json.dumps(wanted)], files={"probe.py": PROBE})
        result = shared_manager.submit(task).result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    probed: dict[str, Any] = json.loads(result.stdout)
    return probed


# ---- the kernel


@pytest.mark.parametrize("kind", KINDS)
def test_system_calls_that_no_ordinary_program_needs_are_refused(found: dict[str, Any], kind: str) -> None:
    assert {name: said for name, said in found["calls"][kind].items() if said != "EPERM"} == {}


def test_the_probe_tries_every_kind(found: dict[str, Any]) -> None:
    assert sorted(found["calls"]) == sorted(KINDS)
    assert sum(map(len, found["calls"].values())) > 50


def test_sockets_that_no_ordinary_program_needs_are_refused(found: dict[str, Any]) -> None:
    assert {name: said for name, said in found["sockets"].items() if said != "EPERM"} == {}


def test_ordinary_sockets_and_threads_work(found: dict[str, Any]) -> None:
    assert set(found["ordinary sockets"].values()) == {"done"}
    assert found["clone3"] == "ENOSYS"  # so that a C library falls back on clone


OTHER_KINDS = {
    "32 bits": 'int result = 102; __asm__ volatile("int $0x80" : "+a"(result) : "b"(1), "c"(0) : "memory");',
    "x32": 'long result = 0x40000000 + 39; __asm__ volatile("syscall" : "+a"(result) :: "rcx", "r11", "memory");',
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are ways into a kernel for x86_64")
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_system_calls_of_another_kind_end_the_program(run: Run, kind: str) -> None:
    program = f'#include <stdio.h>\nint main() {{ puts("before"); fflush(stdout); {OTHER_KINDS[kind]} puts("after"); }}'
    result = run("gcc probe.c -o probe && exec ./probe", image=PYTHON, files={"probe.c": program})
    assert (result.signal, result.stdout) == ("SIGSYS", b"before\n"), result


EVERY_CALL = """
import ctypes, errno, json, os, platform, signal
libc = ctypes.CDLL(None, use_errno=True)
refused = []
sync = {"x86_64": 162, "aarch64": 81}[platform.machine()]  # allowed by the engine's own profile, and felt by the host
for number in set(range(470)) - {sync}:
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        os._exit(1 if result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS) else 0)  # ENOSYS: newer than all named
    if os.waitpid(child, 0)[1] == 256:
        refused.append(number)
print(json.dumps(refused))
"""


def test_no_system_call_is_allowed_that_the_engines_own_profile_refuses(run: Run, outsider: docker.DockerClient) -> None:
    ours = set(json.loads(python(run, EVERY_CALL).stdout))
    image = outsider.images.list(filters={"label": f"jobmanager.environment={PYTHON}"})[0]
    spec = ContainerSpec(name=f"test-{secrets.token_hex(8)}", image=str(image.id), labels={}, limits=Limits())
    config = container_config(spec, ImageDefaults(command=(), volumes=()))
    config |= {"Entrypoint": ["python3", "-c", EVERY_CALL], "OpenStdin": False}
    config["HostConfig"]["SecurityOpt"] = ["no-new-privileges"]
    config["HostConfig"]["LogConfig"] = {"Type": "json-file", "Config": {}}
    container = outsider.containers.get(outsider.api.create_container_from_config(config, spec.name)["Id"])
    try:
        container.start()
        container.wait(timeout=PATIENCE_S)
        the_engines = set(json.loads(container.logs(stderr=False)))
    finally:
        container.remove(force=True, v=True)
    assert len(the_engines) > 20
    assert the_engines - ours == set()
    assert ours - the_engines  # it refuses more


# ---- tracing

TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype, libc.ptrace.argtypes = ctypes.c_long, [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
def ptrace(request, pid, data=None):
    return libc.ptrace(request, pid, None, data)
others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
attached = [pid for pid in others if ptrace(16, pid) == 0]
for pid in attached: os.waitpid(pid, 0x40000000)
print(others == {1}, attached == [], ptrace(0x4200, 1, 1 << 21), flush=True)  # PTRACE_SETOPTIONS: without the filter
"""
HELD = {
    "and computes": ("while True: pass", Outcome.TIMEOUT, "cpu_time_s"),
    "and sleeps": ("time.sleep(60)", Outcome.TIMEOUT, "wall_time_s"),
    "and floods": ("while True: print('x' * 1000)", Outcome.OVERFLOW, "output_bytes"),
    "and wants it killed": ("ptrace(7, 1, 9); time.sleep(60)", Outcome.TIMEOUT, "wall_time_s"),
    "and ends badly": ("os._exit(7)", Outcome.FAILED, "exit_code"),
}


@pytest.mark.parametrize("how", HELD)
def test_no_program_can_trace_pid_1_and_no_limit_is_lost(run: Run, how: str) -> None:
    program, outcome, kind = HELD[how]
    # on a busy machine a second of CPU time takes several
    limits = Limits(cpu_time_s=1, wall_time_s=10 if kind == "wall_time_s" else 60, output_kib=64)
    result = run(["python3", "-c", TRACER + program], image=PYTHON, limits=limits)
    assert (result.outcome, result.evidence[0].kind) == (outcome, kind), result
    assert result.stdout.startswith(b"True True -1\n"), result


def test_the_files_of_the_kernel_are_read_only_or_hidden(found: dict[str, Any]) -> None:
    assert {name: size for name, size in found["masked"].items() if size} == {}
    assert {name: said for name, said in found["hooks"].items() if said not in ("EROFS", "EACCES")} == {}
    assert "/proc/sys/kernel/core_pattern" in found["hooks"]
    assert found["writable"] == []


def test_what_the_kernel_is_set_by_is_mounted_read_only(found: dict[str, Any]) -> None:
    assert {"/", "/sys", "/proc/sys"} <= {path for path, _, options in found["mounts"] if "ro" in options}
    cgroups = [options for _, kind, options in found["mounts"] if kind in ("cgroup", "cgroup2")]
    assert cgroups and all("ro" in options for options in cgroups)


def test_a_crash_starts_no_program_on_the_host(run: Run) -> None:
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    assert python(run, program).stdout == b"(1, 1)\n"  # at 1, and only at 1, a kernel neither writes nor pipes a core


def test_a_setuid_program_of_the_image_gives_no_rights(engine_url: str, outsider: docker.DockerClient) -> None:
    image = outsider.images.list(filters={"label": f"jobmanager.environment={PYTHON}"})[0]
    maker = outsider.containers.create(image, ["sh", "-c", "cp $(which python3) /suid && chmod 4755 /suid"], network_disabled=True)
    maker.start()
    maker.wait(timeout=PATIENCE_S)
    made = maker.commit("jobmanager-test-setuid", "1", changes="LABEL jobmanager.environment=test-setuid")  # else it is python3
    maker.remove()
    try:
        with JobManager(engine_url) as manager:
            program = "import os; print(os.stat('/suid').st_mode & 0o7777 == 0o4755, os.getresuid())"
            result = manager.submit(Task(made.tags[0], command=["/suid", "-c", program])).result(PATIENCE_S)
    finally:
        outsider.images.remove(made.tags[0], force=True)
    assert result.stdout == b"True (65534, 65534, 65534)\n", result


# ---- the host, as far as a network or a descriptor would lead to it


def test_no_address_of_the_host_can_be_reached(found: dict[str, Any]) -> None:
    assert found["reach"]
    assert set(found["reach"].values()) <= {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"}
    assert found["reach abstract"] == "ECONNREFUSED"


NAMESPACES = "import json, os; print(json.dumps({n: os.readlink('/proc/self/ns/' + n) for n in os.listdir('/proc/self/ns')}))"


def test_every_namespace_but_that_of_users_is_the_jobs_own(submit: Submit, run: Run) -> None:
    beside = submit(["python3", "-c", f"{NAMESPACES}; print('ready', flush=True); import time; time.sleep(60)"], image=PYTHON)
    (theirs,) = (json.loads(line) for line in wait_until_printed(beside, b"ready").splitlines() if line.startswith(b"{"))
    mine = json.loads(python(run, NAMESPACES).stdout)
    beside.cancel()
    for name in ("net", "pid", "mnt", "ipc", "uts", "cgroup"):
        assert len({mine[name], theirs[name], os.readlink(f"/proc/self/ns/{name}")}) == 3, name


def test_a_program_begins_with_the_three_standard_descriptors_only(found: dict[str, Any]) -> None:
    assert found["descriptors"] == [0, 1, 2, 3]  # the last one lists them


# ---- files that are larger than they look


def test_a_file_cannot_pretend_to_be_of_a_terabyte(found: dict[str, Any]) -> None:
    assert found["sparse"] == "EFBIG"


@pytest.mark.case(40)
def test_many_sparse_files_are_not_read(run: Run) -> None:
    program = "for n in range(60): open(f'{n}', 'wb').truncate(100 * 2**20)"
    assert "archive" not in proof(python(run, program, collect=["none"]))
    result = python(run, program, collect=["*"])
    assert proof(result)["archive"] == "they are larger than archive_mib = 16: '0' and what follows are missing"


# ---- CPU time


def test_children_whose_parents_end_first_are_charged_to_the_job(run: Run) -> None:
    program = "burn() { (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done) & }; while :; do (burn; burn; burn); done"
    result = run(program, limits=Limits(cpu_time_s=0.5, wall_time_s=30))
    assert result.outcome is Outcome.TIMEOUT
    assert float(proof(result)["cpu_time_s"]) >= 0.5


# ---- what one job leaves for another

LEAVE = r"""
import ctypes, fcntl, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
for folder in ("/job", "/tmp", "/dev/shm"):
    with open(folder + "/left", "w") as file:
        file.write("left")
made = [libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)]
made.append(libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o666, None))
for name in ("/etc/passwd", "/bin/sh"):
    kept.append(open(name, "rb"))
    fcntl.flock(kept[-1], fcntl.LOCK_EX)
for family, address in ((socket.AF_UNIX, "\0left"), (socket.AF_INET, ("127.0.0.1", 4711))):
    kept.append(socket.socket(family))
    kept[-1].bind(address)
    kept[-1].listen()
print("ready", min(made) >= 0, flush=True)
time.sleep(60)
"""
FIND = r"""
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def reached(family, address):
    with socket.socket(family) as connection:
        return connection.connect_ex(address) == 0
def locked(name):
    with open(name, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
others = [n for n in os.listdir("/proc") if n.isdigit() and int(n) not in (1, os.getpid())]
found = {
    "files": [folder for folder in ("/job", "/tmp", "/dev/shm") if os.listdir(folder) not in ([], [".jobmanager"])],
    "shared memory": libc.shmget(4711, 0, 0) >= 0,
    "semaphores": libc.semget(4711, 0, 0) >= 0,
    "messages": libc.msgget(4711, 0) >= 0,
    "queue": libc.mq_open(b"/left", 0) >= 0,
    "locks": any(map(locked, ("/etc/passwd", "/bin/sh"))),
    "abstract socket": reached(socket.AF_UNIX, "\0left"),
    "port": reached(socket.AF_INET, ("127.0.0.1", 4711)),
    "processes": b"left" in b"".join(open(f"/proc/{n}/cmdline", "rb").read() for n in others),
}
print([name for name, there in found.items() if there])
"""


def test_a_job_finds_nothing_of_one_beside_it_or_before_it(submit: Submit, run: Run) -> None:
    leaver = submit(["python3", "-c", LEAVE], image=PYTHON)
    wait_until_printed(leaver, b"ready True")
    assert python(run, FIND).stdout == b"[]\n"
    leaver.cancel()
    assert python(run, FIND).stdout == b"[]\n"


def test_what_a_job_leaves_would_be_found_where_it_can_be_seen(run: Run) -> None:
    start = "import subprocess, sys\nsubprocess.Popen(['python3', '-c', sys.argv[1]], stdout=subprocess.PIPE).stdout.readline()\n"
    found = python(run, start + FIND, LEAVE).stdout.decode()
    assert found.count("'") // 2 == FIND.count('": ') == 9, found


# ---- an honest job beside an attacker


@pytest.mark.case(35)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_honest_job_beside_an_attack_keeps_its_verdict(
    shared_manager: JobManager, run: Run, running: Callable[[JobFuture], Container], name: str
) -> None:
    attack = ATTACKS[name]
    job = shared_manager.submit(attack.task(BUSYBOX, wall_time_s=2.0))
    if attack.outcome is Outcome.TIMEOUT:  # the others are over too soon to be waited for
        running(job)
    honest = run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i; exit 3", image=BUSYBOX)
    assert (honest.outcome, honest.exit_code, honest.stdout) == (Outcome.FAILED, 3, b"20000\n"), honest
    assert proof(honest) == {"exit_code": 3}
    assert job.result(PATIENCE_S).outcome is attack.outcome
