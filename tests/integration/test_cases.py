"""Many cases in one container: each has its own verdict, whatever the one before did, and whoever dies meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import unified_diff

import docker
import psutil
import pytest

from jobmanager import (
    Case,
    DockerHost,
    HookManager,
    JobInput,
    JobManager,
    JobResult,
    Limits,
    Outcome,
    Phase,
    Pipeline,
    Task,
    Volume,
)
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.events import CaseEnded
from tests.conftest import BUSYBOX, eventually
from tests.support.daemons import PrivateDaemon
from tests.support.faults import SLEEPS, pause, processes, wake

pytestmark = pytest.mark.engine

PYTHON = "jobmanager-python:4"
SMALL = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=10, workspace_mib=8)
ECHO = "import sys; exec(sys.stdin.read())"


def run(manager: JobManager, task: Task | Pipeline) -> JobResult:
    return manager.submit(task).result(120)


def outcomes(result: JobResult) -> list[tuple[Outcome | None, bool | None]]:
    return [(case.outcome, case.correct) for case in result.cases]


# ---- what a judge tells apart


def test_each_way_to_fail_is_told_apart_without_reading_words(shared_manager: JobManager) -> None:
    programs = {
        "right": "print(42)",
        "wrong": "print(41)",
        "raises": "raise SystemExit(3)",
        "crashes": "import os; os.kill(os.getpid(), 11)",
        "slow": "while True: pass",
        "silent": "import time; time.sleep(60)",
        "memory": "x = bytearray(10**9); print(42)",
        "floods": "while True: print('x' * 1000)",
    }
    cases = [
        Case(code, name=name, expected="42\n", cpu_time_s=1, wall_time_s=2 if name == "silent" else 60, output_kib=8)
        for name, code in programs.items()
    ]
    result = run(shared_manager, Task(PYTHON, command=["python3", "-c", ECHO], cases=cases, limits=SMALL))

    told = {case.name: (case.outcome, case.correct, case.run.limit, case.run.signal) for case in result.cases if case.run}
    assert told == {
        "right": (Outcome.SUCCESS, True, None, None),
        "wrong": (Outcome.FAILED, False, None, None),
        "raises": (Outcome.FAILED, None, None, None),
        "crashes": (Outcome.FAILED, None, None, "SIGSEGV"),
        "slow": (Outcome.TIMEOUT, None, "cpu", None),
        "silent": (Outcome.TIMEOUT, None, "wall", None),
        "memory": (Outcome.OVERFLOW, None, "memory", told["memory"][3]),
        "floods": (Outcome.OVERFLOW, None, "output", None),
    }
    assert (result.outcome, result.text) == (Outcome.FAILED, "case wrong: line 1: '41' is not what is expected")
    assert result.grade == 12.5 and result.tests["right"] is True and result.tests["slow"] is False


def test_a_build_that_fails_says_why_and_no_case_is_run(shared_manager: JobManager) -> None:
    result = run(shared_manager, Task(BUSYBOX, build="echo no such header >&2; exit 1", command="cat", cases=[Case("1")]))
    assert (result.outcome, result.text, result.grade) == (Outcome.FAILED, "build: exit code 1", 0.0)
    assert result.build is not None and result.build.stderr == b"no such header\n" == result.stderr
    assert outcomes(result) == [(None, None)]


def test_a_build_that_never_ends_is_stopped(shared_manager: JobManager) -> None:
    limits = Limits(wall_time_s=0.5)
    result = run(shared_manager, Task(BUSYBOX, build="sleep 60", build_limits=limits, command="cat", cases=[Case("1")]))
    assert (result.outcome, result.limit) == (Outcome.TIMEOUT, "wall")
    assert outcomes(result) == [(None, None)]


def test_a_build_may_have_more_memory_and_processes_than_the_cases(shared_manager: JobManager) -> None:
    uses = "x = bytearray(100 * 2**20); print('enough')"
    forks = "import os\nfor _ in range(20): os.fork() or os._exit(0)"
    cases = [Case(uses, name="memory"), Case(forks + "\nprint('enough')", name="processes"), Case("print(1)", expected="1")]
    task = Task(
        PYTHON,
        build=["python3", "-c", f"{uses}\n{forks}"],
        build_limits=Limits(memory_mib=256, processes=40, workspace_mib=8),
        command=["python3", "-c", ECHO],
        cases=cases,
        limits=Limits(memory_mib=64, processes=10, workspace_mib=8),
    )
    result = run(shared_manager, task)
    assert result.build is not None and result.build.stdout == b"enough\n", result
    assert result.cases[0].outcome is Outcome.OVERFLOW and result.cases[2].correct, result
    assert result.cases[0].run is not None and result.cases[0].run.limit == "memory"
    assert result.cases[1].run is not None and result.cases[1].run.limit == "processes", result


def test_the_peak_of_memory_says_where_it_is_a_lower_bound(shared_manager: JobManager) -> None:
    cases = [Case(f"x = bytearray({mib} * 2**20); x[::4096] = bytes(len(x) // 4096)") for mib in (10, 40, 20)]
    limits = Limits(memory_mib=128, workspace_mib=8)
    result = run(shared_manager, Task(PYTHON, command=["python3", "-c", ECHO], cases=cases, limits=limits))
    told = [
        (round((case.run.peak_memory_mib or 0) / 10), any(each.kind == "peak_memory" for each in case.run.evidence))
        for case in result.cases
        if case.run is not None
    ]
    assert [is_bound for _, is_bound in told] == [False, False, True], told
    assert told[0][0] >= 1 and told[1][0] >= 4 and 2 <= told[2][0] <= 3, told


@pytest.mark.parametrize(
    ("leaves", "why"),
    [
        ("head -c 40000000 /dev/zero > large", "takes more than half of the memory limit of 64 MiB"),
        ("truncate -s 40000000 holes", "takes more than half of the memory limit of 64 MiB"),
        ("d=.; for i in $(seq 70); do d=$d/d; done; mkdir -p $d", "has more than 100,000 files, or folders more than 64 deep"),
    ],
)
def test_what_a_build_leaves_too_much_of_is_its_overflow_and_no_crash(shared_manager: JobManager, leaves: str, why: str) -> None:
    """As a crash it would gain another run."""
    limits = Limits(memory_mib=64, workspace_mib=48)
    task = Task(BUSYBOX, build=leaves, command="true", cases=[Case("1"), Case("2")], limits=limits, retries=1)
    result = run(shared_manager, task)
    text = f"what its cases begin with {why}, and each case needs it anew"
    assert [(case.outcome, case.text) for case in result.cases] == [(Outcome.OVERFLOW, text)] * 2, result
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, f"case 1: {text}") and result.build is not None


def test_a_large_tree_is_read_by_all_cases_from_a_volume_and_never_copied(shared_manager: JobManager) -> None:
    make = Task(BUSYBOX, command="head -c 100000000 /dev/zero > /volumes/tree/large", limits=Limits(memory_mib=128))
    cases = [Case(expected="100000000\n") for _ in range(3)]
    test = Task(BUSYBOX, command="wc -c < /volumes/tree/large", cases=cases, limits=Limits(memory_mib=32, workspace_mib=4))
    phases = [Phase("make", make, writes=["tree"]), Phase("test", test, reads=["tree"])]
    result = run(shared_manager, Pipeline(phases, volumes={"tree": Volume(size_mib=110)}))
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100.0), result


# ---- nothing goes from one case to the next

PROBE = r"""
import os, stat
for place in ("/job", "/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp", "/run"):
    for folder, folders, names in os.walk(place):
        for path in [folder, *(os.path.join(folder, name) for name in sorted(folders + names))]:
            seen = os.lstat(path)
            ours = not path.startswith("/job/") or ".jobmanager" in path
            times = "" if ours else seen.st_mtime_ns
            print(path, oct(seen.st_mode), seen.st_uid, seen.st_nlink, times, os.listxattr(path, follow_symlinks=False))
            if stat.S_ISREG(seen.st_mode): print(open(path, "rb").read(1000))
    if os.access(place, os.W_OK):
        free = os.statvfs(place)
        print(place, free.f_bfree, free.f_ffree)
for table in ("msg", "sem", "shm"): print(open(f"/proc/sysvipc/{table}").read())
for number in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
    try: print("process", number == 1 or number == os.getpid(), open(f"/proc/{number}/comm").read())
    except OSError: pass
print(sorted(os.listdir("/proc/self/fd")), os.getcwd(), os.umask(0o22), sorted(os.environ.items()))
print(os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0)), open("/proc/self/oom_score_adj").read())
print(open("/proc/net/unix").read().count("\n"), open("/proc/self/limits").read())
"""
LEFT_BEHIND = {
    "files": "[open(f'{p}/x{i}', 'w').write('y') for p in ('/job', '/tmp', '/dev/shm') for i in range(100)]",
    "the files that are there": "import os; open('/job/given', 'w').write('changed'); os.unlink('/job/made')",
    "the folders' modes": "import os; [os.chmod(p, 0) for p in ('/job/folder', '/tmp', '/job')]",
    "times": "import os; [os.utime(p, (1, 1)) for p in ('/job', '/job/given', '/job/made', '/tmp')]",
    "a write that no time shows": "import mmap; f = open('/job/made', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0]; m[0] = 88",
    "links": "import os; os.symlink('/etc/passwd', '/job/l'); os.link('/job/given', '/job/h'); os.symlink('/job', '/tmp/loop')",
    "a file in the place of a folder": "import os; os.rename('/job/folder', '/job/other'); open('/job/folder', 'w')",
    "a deep tree": "import os\nfor i in range(1000): os.mkdir('d'); os.chdir('d')",
    "long names and odd ones": "[open(b'/tmp/' + n, 'w') for n in (b'x' * 255, b'-rf', b' ', b'*', b'a\\nb', b'\\xff\\xfe')]",
    "many files": "for i in range(7000): open(f'/tmp/{i}', 'w').close()",
    "a sparse file": "open('/job/sparse', 'w').truncate(90 * 2**20)",
    "a full disk": "f = open('/job/full', 'wb', 0)\ntry:\n  while True: f.write(b'x' * 65536)\nexcept OSError: pass",
    "no inodes": "try:\n  for i in range(10**6): open(f'/job/{i}', 'w').close()\nexcept OSError: pass",
    "a fifo and a socket": "import os, socket; os.mkfifo('/job/f'); socket.socket(socket.AF_UNIX).bind('/job/s')",
    "an abstract socket": (
        "import socket, os, time; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'x'); os.fork() or time.sleep(60)"
    ),
    "a daemon": "import os, time\nif not os.fork():\n  os.setsid()\n  if not os.fork(): time.sleep(100)",
    "a daemon that ignores signals": (
        "import os, signal, time\nif not os.fork():\n  os.setsid(); [signal.signal(n, 1) for n in (1, 2, 3, 15)]\n"
        "  while True: time.sleep(1); open('/job/again', 'w')"
    ),
    "a stopped process": "import os, time, signal\np = os.fork()\nif not p: time.sleep(100)\nos.kill(p, signal.SIGSTOP)",
    "a process that holds a deleted file": (
        "import os, time\nf = open('/job/held', 'wb'); f.write(b'x' * 10**6); f.flush(); os.unlink('/job/held')\n"
        "if not os.fork(): time.sleep(100)"
    ),
    "System V objects": (
        "import ctypes; c = ctypes.CDLL(None); c.shmget(7, 65536, 0o1777); c.msgget(7, 0o1777); c.semget(7, 3, 0o1777)"
    ),
    "POSIX shared memory and queues": (
        "import ctypes; c = ctypes.CDLL('librt.so.1')\n"
        "c.shm_open(b'/x', 66, 511); c.sem_open(b'/y', 64, 511, 1); c.mq_open(b'/z', 66, 511, None)"
    ),
    "attributes": "import os\ntry: os.setxattr('/job', 'user.x', b'y')\nexcept OSError: pass",
    "priorities and limits": (
        "import os, resource; os.nice(19); resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); os.sched_setaffinity(0, {0})"
    ),
    "memory in files": "open('/dev/shm/x', 'wb').write(b'x' * 30 * 2**20)",
    "a mount point's own folder": "import os, shutil; shutil.rmtree('/job', ignore_errors=True); os.chdir('/tmp')",
    "a current folder that is gone": "import os; os.mkdir('/tmp/gone'); os.chdir('/tmp/gone'); os.rmdir('/tmp/gone')",
}


def test_no_case_finds_anything_of_the_one_before(shared_manager: JobManager) -> None:
    """A probe tells all that it sees. It is run before and after each attempt to leave something behind."""
    seen: list[bytes] = []

    def keep(_: Case, output: bytes) -> bool:
        seen.append(output)
        return True

    probes = itertools.count()
    cases: list[Case] = [Case(PROBE, name="probe before", check=keep)]
    for name, attempt in LEFT_BEHIND.items():
        cases += [Case(attempt, name=name), Case(PROBE, name=f"probe {next(probes)} after {name}", check=keep)]
    task = Task(
        PYTHON,
        build="mkdir folder && echo made > made && chmod 640 made && ln -s made link",
        command=["python3", "-c", ECHO],
        files={"given": "given\n"},
        cases=cases,
        limits=Limits(memory_mib=400, workspace_mib=100, processes=30, output_kib=256, cpu_time_s=20, wall_time_s=60),
    )
    result = run(shared_manager, task)

    failed = [case for case in result.cases if case.outcome is not Outcome.SUCCESS]
    assert {case.name: (case.text, case.run and case.run.stderr[-200:]) for case in failed} == {}
    names = [case.name for case in result.cases if case.name.startswith("probe")]
    assert b"made" in seen[0] and len(seen) == len(LEFT_BEHIND) + 1
    first = seen[0].decode().splitlines()
    changes = {name: list(unified_diff(first, output.decode().splitlines(), n=0)) for name, output in zip(names, seen, strict=True)}
    assert {name: change for name, change in changes.items() if change} == {}


def test_a_hundred_thousand_files_are_gone_before_the_next_case(shared_manager: JobManager) -> None:
    makes = "for i in range(100_000): open(f'/job/{i}', 'w').close()"
    counts = "import os; print(len(os.listdir('/job')))"
    cases = [Case(counts, expected="1"), Case(makes), Case(counts, expected="1")]
    limits = Limits(memory_mib=512, workspace_mib=1600, wall_time_s=60, cpu_time_s=30)
    result = run(shared_manager, Task(PYTHON, command=["python3", "-c", ECHO], cases=cases, limits=limits))
    assert outcomes(result) == [(Outcome.SUCCESS, True), (Outcome.SUCCESS, None), (Outcome.SUCCESS, True)], result


# ---- who dies meanwhile


@dataclass
class Told:
    """What a manager's hooks were told of cases."""

    hooks: HookManager = field(default_factory=HookManager)
    cases: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hooks.add(CaseEnded, self._take)

    def _take(self, event: CaseEnded) -> None:
        self.cases.append((event.result.name, event.number))


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=20)
    yield client
    client.close()


def numbered(count: int, **fields: float) -> Sequence[Case]:
    return [Case(f"{number}\n", name=f"n{number}", expected=f"{number}", **fields) for number in range(1, count + 1)]  # type: ignore[arg-type]


def waiters() -> set[psutil.Process]:
    return set(processes("jobmanager._waiter"))


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_waiter_that_dies_in_the_middle_costs_no_case_and_none_is_told_twice(private_engine: PrivateDaemon) -> None:
    told, others = Told(), waiters()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        task = Task(BUSYBOX, build="echo p > p", command="sleep 0.05; cat", cases=numbered(60), limits=SMALL)
        job = manager.submit(task)
        for many in (5, 20, 40):
            eventually(lambda: len(told.cases) >= many, what=f"{many} cases have ended", within_s=60)  # noqa: B023
            for waiter in waiters() - others:
                waiter.kill()
        result = job.result(120)

    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100.0), result
    assert outcomes(result) == [(Outcome.SUCCESS, True)] * 60
    assert told.cases == [(f"n{number}", number) for number in range(1, 61)]


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_job_that_is_killed_in_the_middle_keeps_the_cases_that_ended(private_engine: PrivateDaemon) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(Task(BUSYBOX, command="sleep 0.1; cat", cases=numbered(100), limits=SMALL))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        assert manager.kill_job(job.job_id)
        result = job.result(30)

    assert (result.outcome, result.grade) == (Outcome.KILLED, 0.0)
    ended = [case.outcome for case in result.cases if case.outcome is not None]
    assert 3 <= len(ended) < 100 and set(ended) == {Outcome.SUCCESS}


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_container_that_a_stranger_removes_is_a_crash_and_no_case_is_run_again(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(Task(BUSYBOX, command="sleep 0.1; cat", cases=numbered(100), limits=SMALL))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        (container,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        container.remove(force=True, v=True)
        result = job.result(30)

    assert result.outcome is Outcome.CRASH, result
    assert [name for name, _ in told.cases] == [f"n{number}" for number in range(1, len(told.cases) + 1)]


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_container_that_died_of_a_case_is_replaced_and_that_case_keeps_its_outcome(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    """It stands still when its limit is over, so that only the engine can end it."""
    told = Told()
    cases = [*numbered(2), Case("", name="stands still", wall_time_s=10), *numbered(4)[2:]]
    program = f"read word || sleep 60; cat made; echo $word; [ $word != 4 ] || {SLEEPS}; true"
    expected = [replace(case, wall_time_s=case.wall_time_s or 60) for case in cases]
    expected = [replace(case, expected=b"made\n" + case.expected) if case.expected else case for case in expected]  # type: ignore[operator]
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(Task(BUSYBOX, build="echo made > made", command=program, cases=expected, limits=SMALL))
        eventually(lambda: len(told.cases) == 2, what="two cases have ended", within_s=60)
        (container,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        pause(container)
        eventually(lambda: len(told.cases) == 4, what="the engine has ended the case, and the next has ended", within_s=60)
        (other,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        eventually(wake, what="the last case goes on")
        result = job.result(60)

    assert outcomes(result) == [
        (Outcome.SUCCESS, True),
        (Outcome.SUCCESS, True),
        (Outcome.TIMEOUT, None),
        (Outcome.SUCCESS, True),
        (Outcome.SUCCESS, True),
    ], result
    assert other.id != container.id
    assert (result.outcome, result.limit, result.grade) == (Outcome.TIMEOUT, "wall", 80.0)
    assert [number for _, number in told.cases] == [1, 2, 3, 4, 5]


# ---- in a phase


def test_cases_in_a_phase_run_on_what_an_earlier_phase_made(shared_manager: JobManager) -> None:
    pipeline = Pipeline(
        [
            Phase("build", Task(BUSYBOX, command="echo cat > /volumes/bin/program", limits=SMALL), writes=["bin"]),
            Phase("test", Task(BUSYBOX, command="sh /volumes/bin/program", cases=numbered(3), limits=SMALL), reads=["bin"]),
            Phase("report", Task(BUSYBOX, command="cat /volumes/bin/program", limits=SMALL), reads=["bin"]),
        ]
    )
    result = manager_result(shared_manager, pipeline)
    assert result.outcome is Outcome.SUCCESS, result
    assert [case.correct for case in result.phases[1].cases] == [True] * 3
    assert result.phases[2].run is not None and result.phases[2].run.stdout == b"cat\n"


def manager_result(manager: JobManager, pipeline: Pipeline) -> JobResult:
    return manager.submit(pipeline, JobInput()).result(120)
