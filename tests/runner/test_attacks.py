"""A program of the same user cannot lie about its end, nor starve who watches it: attacks on the runner in a real container.

Each attack can fail: it succeeds on a shell in the runner's place, or it tells what it did. After each, the runner is asked whether
it is as it was, and takes another run.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobmanager.runner.frames import (
    BringPath,
    Clear,
    Cleared,
    Ended,
    FullPlace,
    HowEnded,
    InputFrom,
    Kill,
    OutputData,
    ResourceLimit,
    StoppedBy,
)
from jobmanager.runner.wire import FrameWriter, PacketWriter
from tests.conftest import eventually
from tests.support.container_runner import ContainerRunner, RunnerOnHost
from tests.support.driven_runner import RunnerGone, RunRecord

pytestmark = pytest.mark.engine

PROBE = (Path(__file__).parent / "pid_1_probe.py").read_text()
UNCONFINED = {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]}
MIB = 2**20
# What anybody may see of any process
PUBLIC = {
    *(
        "arch_status",
        "autogroup",
        "cgroup",
        "cmdline",
        "comm",
        "coredump_filter",
        "cpu_resctrl_groups",
        "cpuset",
        "gid_map",
        "limits",
    ),
    *("loginuid", "mountinfo", "mounts", "oom_adj", "oom_score", "oom_score_adj", "projid_map", "sched", "schedstat", "sessionid"),
    *("setgroups", "stat", "statm", "status", "timens_offsets", "uid_map", "wchan"),
}
OTHERS = "[int(name) for name in os.listdir('/proc') if name.isdigit() and int(name) not in (1, os.getpid())]"


@pytest.fixture(scope="module")
def host(engine_url: str) -> Iterator[RunnerOnHost]:
    with RunnerOnHost(engine_url) as brought:
        yield brought


@pytest.fixture
def runner(host: RunnerOnHost) -> Iterator[ContainerRunner]:
    """A runner, of which nothing may be changed at the end; and its container can be cleared for somebody else's run."""
    with ContainerRunner(host) as contained:
        before = _facts(contained)
        yield contained
        assert _facts(contained) == before
        contained.send(Clear(request=1, places=(b"/job", b"/tmp", b"/dev/shm")))
        cleared = contained.wait_for(Cleared)
        assert cleared.clean, cleared.why


def _facts(runner: ContainerRunner) -> dict[str, Any]:
    """How PID 1 is, and who else is there, as a program sees it; the engine says that it runs, and has run all the time."""
    others = runner.run(["python3", "-c", f"import os; print({OTHERS}, sorted(os.listdir('/proc/self/fd')))"]).stdout
    state = runner.state()
    return {**_probe(runner, "facts"), "others": others, "state": (state["Status"], state["Pid"])}


def _probe(runner: ContainerRunner, *names: str) -> dict[str, Any]:
    record = runner.run(["python3", "-c", PROBE, *names])
    assert record.ended.code == 0, record.stderr.decode()
    found: dict[str, Any] = json.loads(record.stdout)
    return found


def _probe_shell(host: RunnerOnHost, *names: str) -> dict[str, Any]:
    """What the same attempts come to beside a shell without any protection."""
    script = ["sh", "-c", 'python3 -c "$@"; sleep 60', "sh", PROBE, *names]
    with ContainerRunner(host, pid_1=script, config=UNCONFINED) as shell:
        found: dict[str, Any] = json.loads(shell.first_line())
        return found


def _python(runner: ContainerRunner, program: str, *words: str, **fields: Any) -> RunRecord:
    return runner.run(["python3", "-c", program, *words], **{"output_bytes": 4 * MIB, "wall_ms": 20_000, **fields})


def _told(record: RunRecord) -> Any:
    """What a program that was meant to come to its end has found out."""
    assert (record.ended.how, record.ended.code, record.ended.stopped_by) == (HowEnded.EXITED, 0, StoppedBy.NOBODY), record
    return json.loads(record.stdout)


# ---- its memory, descriptors and limits


def test_nothing_of_pid_1_can_be_read_or_written_through_proc(runner: ContainerRunner, host: RunnerOnHost) -> None:
    found, shell = _probe(runner, "proc")["proc"], _probe_shell(host, "proc")["proc"]
    readable = {path.rsplit("/", 1)[1] for path, tried in found.items() if tried["read"] == "done"}
    assert readable <= PUBLIC
    assert [path for path, tried in found.items() if tried["write"] == "done"] == []
    assert {path for path, tried in shell.items() if tried["read"] == "done"} > {
        f"/proc/1/{name}" for name in ("mem", "fd", "environ", "ns")
    }
    assert {path for path, tried in shell.items() if tried["write"] == "done"} > {
        f"/proc/1/{name}" for name in ("mem", "oom_score_adj")
    }


def test_no_call_reaches_its_memory_or_descriptors(runner: ContainerRunner, host: RunnerOnHost) -> None:
    found, shell = _probe(runner, "memory")["memory"], _probe_shell(host, "memory")["memory"]
    assert [name for name, tried in found.items() if tried == "done"] == []
    assert {name for name, tried in shell.items() if tried == "done"} > {"ptrace attach", "pidfd_getfd", "kcmp"}


def test_its_limits_and_scheduling_stay_as_they_are(runner: ContainerRunner, host: RunnerOnHost) -> None:
    found = _probe(runner, "facts", "scheduling", "oneself")
    assert set(found["scheduling"].values()) == {"EPERM"}
    assert set(found["oneself"].values()) == {"done"}
    shell = _probe_shell(host, "scheduling", "facts")
    worked = {name for name, tried in shell["scheduling"].items() if tried == "done"}
    assert worked > {
        "prlimit64 NOFILE",
        "prlimit64 NOFILE in 64 bits",
        "sched_setscheduler IDLE",
        "setpriority USER",
        "ioprio_set USER",
    }
    assert (shell["facts"]["nice"], shell["facts"]["policy"]) == ("8", "5") != (found["facts"]["nice"], found["facts"]["policy"])


def test_nothing_that_it_was_started_from_can_be_replaced(runner: ContainerRunner) -> None:
    assert "done" not in _probe(runner, "unwritable")["unwritable"].values()


def test_the_runner_refuses_to_run_as_anybody_elses_child(runner: ContainerRunner) -> None:
    assert runner.run(["/.jobmanager/runner", "60"]).ended.code == 123


# ---- signals


def test_every_signal_to_pid_1_is_dropped(runner: ContainerRunner, host: RunnerOnHost) -> None:
    found = _probe(runner, "signals")["signals"]
    assert (len(found), set(found.values())) == (6 * 64, {"done"})
    trap = ["sh", "-c", 'trap "exit 42" INT TERM; python3 -c "$@" > /dev/null; exit 1', "sh", PROBE, "signals"]
    with ContainerRunner(host, pid_1=trap) as shell:
        assert shell.client.wait(shell.container, timeout=60)["StatusCode"] == 42


def test_descriptors_that_send_signals_do_nothing_to_pid_1(runner: ContainerRunner) -> None:
    found = _probe(runner, "asynchronous", "counted")
    assert set(found["asynchronous"].values()) == {"done"}
    assert found["counted"] == 2


def test_a_program_that_kills_everybody_kills_only_its_own(runner: ContainerRunner) -> None:
    program = f"""
import json, os, signal
children = [os.fork() or signal.pause() for _ in range(5)]
os.kill(-1, signal.SIGKILL)
print(json.dumps([os.waitpid(child, 0)[1] for child in children] + {OTHERS}))
"""
    assert _told(_python(runner, program)) == [9] * 5


@pytest.mark.parametrize("number", [14, 17], ids=["SIGALRM", "SIGCHLD"])
def test_a_flood_of_the_signals_that_it_listens_to_changes_nothing(runner: ContainerRunner, number: int) -> None:
    program = f"""
import os, sys
children = [os.fork() for _ in range(4)]
if 0 in children:
    while True: os.kill(1, {number})
written = 0
while written < 3 * 2**20: written += os.write(1, b"0123456789abcdef" * 4096)
os._exit(7)
"""
    record = _python(runner, program)
    assert (record.ended.how, record.ended.code, record.ended.stopped_by) == (HowEnded.EXITED, 7, StoppedBy.NOBODY)
    assert record.stdout == b"0123456789abcdef" * (len(record.stdout) // 16) and len(record.stdout) >= 3 * MIB


@pytest.mark.parametrize("number", [14, 17], ids=["SIGALRM", "SIGCHLD"])
def test_a_flood_of_signals_ends_at_the_wall_limit(runner: ContainerRunner, number: int) -> None:
    record = _python(runner, f"import os\nfor _ in range(5): os.fork()\nwhile True: os.kill(1, {number})", wall_ms=1000)
    assert record.ended.stopped_by is StoppedBy.WALL


def test_forged_words_of_a_childs_end_are_not_believed(runner: ContainerRunner) -> None:
    program = """
import ctypes, os, platform, struct, time
number = 138 if platform.machine() == "aarch64" else 129
word = ctypes.create_string_buffer(128)
struct.pack_into("iiiiiii", word, 0, 17, 0, -1, 0, os.getpid(), os.getuid(), 0)  # SIGCHLD of this process, by rt_sigqueueinfo
assert ctypes.CDLL(None).syscall(number, 1, 17, word) == 0
time.sleep(0.2)
os._exit(9)
"""
    ended = _python(runner, program).ended
    assert (ended.how, ended.code) == (HowEnded.EXITED, 9) and ended.wall_us >= 200_000


# ---- descriptors and the channel


def test_a_program_has_no_descriptor_but_its_own(runner: ContainerRunner) -> None:
    program = (
        "import json, os\nprint(json.dumps({fd: os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd')[:-1]}))"
    )
    for fields, numbers in (({}, "012"), ({"channel": True}, "0123")):
        found = _told(_python(runner, program, **fields))
        assert "".join(sorted(found)) == numbers
        assert found["0"] == "/dev/null" and found["1"].startswith("pipe:") and found["2"] != found["1"]


def test_what_a_program_reads_cannot_be_changed(runner: ContainerRunner) -> None:
    program = """
import errno, fcntl, json, os
def tried(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
again = os.open("/proc/self/fd/0", os.O_RDWR)
print(json.dumps([
    tried(os.write, 0, b"x"), tried(os.write, again, b"x"), tried(os.ftruncate, again, 0), tried(os.ftruncate, again, 99),
    tried(fcntl.fcntl, again, 1033, 16), os.read(0, 99).decode(), os.pread(again, 99, 0).decode()]))
"""
    found = _told(_python(runner, program, stdin=b"what was given"))
    assert found == ["EBADF", "EPERM", "EPERM", "EPERM", "EPERM", "what was given", "what was given"]


def test_pipes_that_are_opened_again_and_changed_do_not_hold_the_runner_up(runner: ContainerRunner) -> None:
    program = """
import fcntl, os, signal
for fd in (0, 1, 2):
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        new = os.open(f"/proc/self/fd/{fd}", mode)
        for flags in (0, os.O_NONBLOCK, os.O_NONBLOCK | os.O_DIRECT | os.O_ASYNC):
            fcntl.fcntl(new, fcntl.F_SETFL, flags)
        for size in (4096, 1 << 20, 4096):
            fcntl.fcntl(new, 1031, size)
fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT)  # each write is a packet from here on
for part in range(300): os.write(1, b"%04d" % part * 1000)
while os.fork() == 0: signal.pause()  # somebody keeps them all
os._exit(5)
"""
    record = _python(runner, program, stdin=InputFrom.PIPE)
    assert (record.ended.code, record.ended.stopped_by) == (5, StoppedBy.NOBODY)
    assert record.stdout == b"".join(b"%04d" % part * 1000 for part in range(300))


def test_a_program_that_knows_the_session_cannot_write_a_packet_or_a_frame(runner: ContainerRunner) -> None:
    """The worst that could be: it knows what nobody tells it. What it writes is its output, and no more."""
    packets, session = PacketWriter(), runner.writer.session
    packets.begin(session, 0)
    lie = Ended(
        run=runner.last_run + 1, how=HowEnded.EXITED, code=0, stopped_by=StoppedBy.NOBODY, cpu_us=1, wall_us=1, peak_bytes=1,
        peak_is_exact=True, oom_kills=0, fork_refusals=0, stdout_bytes=0, stderr_bytes=0, full=(), left=False,
    )  # fmt: skip
    packets.write(lie)
    forged = packets.packets() + FrameWriter(session).write(Kill(run=runner.last_run + 1))
    program = """
import os, sys
forged = bytes.fromhex(sys.argv[1])
for _ in range(50):
    for fd in (1, 2):
        os.write(fd, forged)
sys.exit(3)
"""
    record = _python(runner, program, forged.hex())
    assert (record.ended.how, record.ended.code, record.ended.stopped_by) == (HowEnded.EXITED, 3, StoppedBy.NOBODY)
    assert record.stdout == record.stderr == forged * 50


def test_messages_of_every_size_come_whole_or_cut(runner: ContainerRunner) -> None:
    program = """
import json, socket
channel = socket.socket(fileno=3)
sizes = [0, 1, 65523, 65524, 65525, 100_000, 0, 7]
for size in sizes: channel.send(b"m" * size)
print(json.dumps(sizes))
"""
    record = _python(runner, program, channel=True)
    assert [len(message) for message in record.from_program] == [min(size, 65524) for size in _told(record)]


def test_endless_messages_and_output_end_at_the_wall_limit(runner: ContainerRunner) -> None:
    program = """
import os, socket
channel = socket.socket(fileno=3)
os.fork(), os.fork()
while True:
    channel.send(b"m" * 50)
    channel.send(b"")
    os.write(1, b"x")
"""
    ended = _python(runner, program, channel=True, wall_ms=700, output_bytes=64 * MIB).ended
    assert ended.stopped_by is StoppedBy.WALL


def test_a_reader_that_stands_still_stops_the_program_and_not_the_runner(runner: ContainerRunner) -> None:
    runner.acknowledging = False
    run = runner.start(["python3", "-c", "import os\nwhile True: os.write(1, b'x' * 65536)"], output_bytes=1 << 40, wall_ms=60_000)
    seen = 0
    while seen < MIB - 80_000:
        seen += len(runner.wait_for(OutputData).data)
    runner.send(Kill(run=run))
    runner.acknowledging = True
    runner.acknowledge()
    ended = runner.finish(run).ended
    assert ended.stopped_by is StoppedBy.KILL and ended.stdout_bytes < 3 * MIB


def test_a_socket_that_lingers_and_comes_by_the_channel_does_not_hold_the_runner_up(runner: ContainerRunner) -> None:
    """Whoever lets go of it last waits. The runner is late, so that each child has let go before."""
    program = """
import array, json, os, socket, struct, time
channel = socket.socket(fileno=3)
def lingering(seconds):
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname())
    other = server.accept()[0]
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    try:
        while True: one.send(bytes(4096))
    except BlockingIOError: pass
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    return one, other
def attack():
    one, other = lingering(1000)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))]
    for _ in range(150): channel.send(b"before")
    channel.sendmsg([b"rights"], rights)
    one.close()
    channel.send(b"let go")
    time.sleep(60)
one, other = lingering(1)
before = time.monotonic()
one.close()
channel.send(json.dumps(time.monotonic() - before).encode())
for _ in range(5): os.fork() or attack()
time.sleep(60)
"""
    record = _python(runner, program, channel=True, wall_ms=10_000)
    assert record.ended.stopped_by is StoppedBy.WALL
    assert json.loads(record.from_program[0]) > 0.9
    assert record.from_program.count(b"rights") == 5 and b"let go" in record.from_program


def test_descriptors_of_all_kinds_that_come_by_the_channel_are_let_go(runner: ContainerRunner) -> None:
    program = """
import array, ctypes, json, os, socket
libc = ctypes.CDLL(None)
channel = socket.socket(fileno=3)
sent = 0
for _ in range(20):
    ours, theirs = socket.socketpair()
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno(), theirs.fileno(), 3]))])
    kinds = [*os.pipe(), ours.fileno(), theirs.fileno(), 3, libc.inotify_init(), libc.epoll_create(1), libc.memfd_create(b"m", 0)]
    channel.sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", kinds * (250 // len(kinds))))])
    for kind in {*kinds} - {3}: os.close(kind)
    ours.detach(), theirs.detach()
    sent += 1
print(json.dumps(sent))
"""
    record = _python(runner, program, channel=True)
    assert len(record.from_program) == _told(record) == 20


HOLDING = """
import errno, json, os, socket, sys, time
def tried(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
silent, keeps_it_open = socket.socketpair()
def hold(pipe):
    if sys.argv[1] == "splice": os.splice(silent.fileno(), pipe, 4096)
    else: os.sendfile(pipe, silent.fileno(), None, 4096)
"""


@pytest.mark.parametrize("call", ["splice", "sendfile"])
def test_a_pipe_cannot_be_held_while_the_runner_reads_it(runner: ContainerRunner, host: RunnerOnHost, call: str) -> None:
    """A reader of a pipe that is held is in the kernel's state D: not even SIGKILL ends it, and no engine its container."""
    program = HOLDING + "print(json.dumps(tried(hold, 1)))"
    assert _told(_python(runner, program, call)) == "EINVAL"
    on_its_own = (
        HOLDING
        + """
read, write = os.pipe()
holder = os.fork() or hold(write)
while open(f"/proc/{holder}/wchan").read() in ("0", ""): time.sleep(0.01)  # until it waits for the socket
time.sleep(0.1)
reader = os.fork() or os._exit(len(os.read(read, 1)))
states = set()
until = time.monotonic() + 10
while "D" not in states and time.monotonic() < until: states.add(open(f"/proc/{reader}/stat").read().rpartition(")")[2].split()[0])
os.kill(reader, 9)
time.sleep(0.2)
still = open(f"/proc/{reader}/stat").read().rpartition(")")[2].split()[0]
os.kill(holder, 9)
print(json.dumps([sorted(states)[0], still, os.waitpid(reader, 0)[1]]))
"""
    )
    with ContainerRunner(host, protects_pid_1=False) as unprotected:
        assert _told(_python(unprotected, on_its_own, call)) == ["D", "D", 9]


@pytest.mark.parametrize("call", ["splice", "sendfile"])
def test_a_program_cannot_keep_its_container_by_its_output(host: RunnerOnHost, call: str) -> None:
    """PID 1 reads its pipes and closes them when it ends: it would wait for a holder that lives until PID 1 has ended."""
    argv = ["python3", "-c", HOLDING + "print(json.dumps(tried(hold, 1)), flush=True); time.sleep(1000)", call]
    with ContainerRunner(host) as protected:
        protected.start(argv)
        assert json.loads(protected.wait_for(OutputData).data) == "EINVAL"
        protected.kill()
    with ContainerRunner(host, protects_pid_1=False) as unprotected:
        unprotected.start(argv)
        unprotected.flush()
        holder = eventually(lambda: _waiting_for_a_socket(unprotected), what="the pipe is held")
        try:
            os.kill(unprotected.pid, signal.SIGKILL)
            eventually(lambda: _kernel_state(unprotected.pid) == "D", what="PID 1 waits for the pipe")
            assert unprotected.state()["Running"]
        finally:
            os.kill(holder, signal.SIGKILL)
        eventually(lambda: not unprotected.state()["Running"], what="the container ends")


def _waiting_for_a_socket(runner: ContainerRunner) -> int:
    """The program's process, as the machine numbers it, once it waits; 0 before."""
    waiting = [child.pid for child in psutil.Process(runner.pid).children() if _waits_in(child.pid).startswith("unix_")]
    return waiting[0] if waiting else 0


def _waits_in(pid: int) -> str:
    """The kernel's function that a process waits in; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


def _kernel_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---- processes that outlive the run, and who is believed


def test_nobody_outlives_a_run(runner: ContainerRunner) -> None:
    program = """
import ctypes, json, os, platform, signal, time
libc = ctypes.CDLL(None, use_errno=True)
def daemon(then):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                if number not in (9, 19, 32, 33): signal.signal(number, signal.SIG_IGN)
            then()
            while True: time.sleep(60)
        os._exit(0)
def tracer():
    traced = os.fork() or signal.pause()
    libc.ptrace(16, traced, 0, 0)
    os.waitpid(traced, 0x40000000)
    os.kill(traced, 9)  # it is dead, and stays while it is traced
def sibling():
    number = 220 if platform.machine() == "aarch64" else 56
    child = libc.syscall(number, 0x8000 | 17, 0, 0, 0, 0)  # CLONE_PARENT
    while child == 0: time.sleep(60)
def adopts():
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    daemon(lambda: None)
def waits_for_vfork():
    child = libc.syscall(220 if platform.machine() == "aarch64" else 56, 0x4000 | 17, 0, 0, 0, 0)  # CLONE_VFORK
    while child == 0: time.sleep(60)
for kind in (lambda: None, tracer, sibling, adopts, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
    daemon(kind)
daemon(waits_for_vfork)
libc.syscall(220 if platform.machine() == "aarch64" else 56, 0x8000 | 17, 0, 0, 0, 0) or signal.pause()
def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file: return file.read().rpartition(")")[2].split()[:2]
    except OSError: return None  # it has just ended
def found():
    return [state for state in map(state_of, filter(str.isdigit, os.listdir("/proc"))) if state]
until = time.monotonic() + 10
while time.monotonic() < until:
    states = found()
    kinds = {state for state, _ in states}
    if {"Z", "T"} <= kinds and len(states) >= 12: break
    time.sleep(0.02)
print(json.dumps([len(states), sorted(kinds & {"Z", "T"}), sum(parent == "1" for _, parent in states) > 1]), flush=True)
os._exit(0)
"""
    record = _python(runner, program)
    count, kinds, has_siblings = _told(record)
    assert (kinds, has_siblings) == (["T", "Z"], True) and count >= 12
    assert not record.ended.left


@pytest.mark.parametrize("signal_at_end", [0, 9, 17], ids=["none", "SIGKILL", "SIGCHLD"])
def test_a_siblings_end_is_not_taken_for_the_programs(runner: ContainerRunner, signal_at_end: int) -> None:
    program = f"""
import ctypes, os, platform, time
libc = ctypes.CDLL(None)
ends = []
for code in range(20):
    child = libc.syscall(220 if platform.machine() == "aarch64" else 56, 0x8000 | {signal_at_end}, 0, 0, 0, 0)
    if child == 0: os._exit(0 if os.getppid() == 1 else 1)
    assert child > 0
    ends.append(child)
while any(os.path.exists(f"/proc/{{end}}") for end in ends): time.sleep(0.01)  # PID 1 has reaped them all
os.write(1, b"all gone")
os._exit(44)
"""
    record = _python(runner, program)
    assert (record.stdout, record.ended.how, record.ended.code) == (b"all gone", HowEnded.EXITED, 44)


def test_a_program_that_its_child_holds_when_it_ends_runs_into_its_limit(runner: ContainerRunner) -> None:
    """Its parent is told of its end only when the one who traces it lets go."""
    program = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
program = os.getpid()
libc.prctl(0x59616d61, -1, 0, 0, 0)  # where only children may be traced
if os.fork() == 0:
    assert libc.ptrace(0x4206, program, 0, 0) == 0
    os.write(1, b"held")
    while True: time.sleep(60)
while open("/proc/self/status").read().split("TracerPid:")[1].split()[0] == "0": time.sleep(0.01)
os._exit(0)
"""
    record = _python(runner, program, wall_ms=5000)
    assert (record.stdout, record.ended.stopped_by, record.ended.left) == (b"held", StoppedBy.WALL, False)


def test_a_program_cannot_turn_the_second_stage_against_the_runner(runner: ContainerRunner) -> None:
    """It may start it: then it is a program like any other, and what it tells by descriptor 4 nobody reads."""
    record = runner.run(["/.jobmanager/runner", "--launch", "/", "18", "", "", "0", "0", "sh", "-c", "exit 6"], wall_ms=20_000)
    assert (record.ended.how, record.ended.code) in ((HowEnded.EXITED, 6), (HowEnded.EXITED, 127))


# ---- filling what both have


def test_a_fork_storm_ends_at_the_wall_limit(runner: ContainerRunner) -> None:
    program = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    ended = _python(runner, program, wall_ms=5000).ended
    assert (ended.stopped_by, ended.left) == (StoppedBy.WALL, False) and ended.fork_refusals > 0


def test_orphans_without_end_do_not_hold_the_runner_up(runner: ContainerRunner) -> None:
    program = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(3): os.fork()
while True:
    try:
        if os.fork() == 0:
            os.fork()
            os._exit(0)
    except OSError: pass
"""
    ended = _python(runner, program, wall_ms=1500).ended
    assert (ended.stopped_by, ended.left) == (StoppedBy.WALL, False)


def test_busy_threads_do_not_take_the_processor_from_the_runner(runner: ContainerRunner) -> None:
    program = """
import os
for _ in range(5): os.fork()
while True: pass
"""
    ended = _python(runner, program, cpu_us=500_000, cpus_milli=1000).ended
    assert ended.stopped_by is StoppedBy.CPU and ended.cpu_us >= 500_000


def test_a_program_that_takes_all_memory_dies_and_the_runner_lives(runner: ContainerRunner) -> None:
    program = """
import os
if len(os.sched_getaffinity(0)): os.fork()
taken = []
while True: taken.append(bytearray(b"x" * 2**20))
"""
    for _ in range(3):
        ended = _python(runner, program).ended
        assert (ended.how, ended.code) == (HowEnded.SIGNALLED, 9) and ended.oom_kills > 0


# Smaller than the runner. It ends when the memory is full, and then hardly any is free
SMALL_FILLER = "cat /proc/self/oom_score_adj; exec dd if=/dev/zero of=/job/file bs=4096"


def test_files_that_fill_the_memory_kill_the_program_and_not_the_runner(host: RunnerOnHost) -> None:
    """And what the runner sends then needs memory: it has kept some."""
    brought = BringPath(path=b"/job/brought", most=MIB)
    for _ in range(4):
        with ContainerRunner(host, memory_mib=64, workspace_mib=200) as runner:
            record = runner.run(["sh", "-c", f"head -c 700000 /dev/zero > /job/brought; {SMALL_FILLER}"], bring=(brought,))
            assert (record.stdout, record.ended.how, record.ended.code) == (b"1000\n", HowEnded.SIGNALLED, 9)
            assert record.ended.oom_kills > 0
            assert sum(len(piece.data) for piece in record.pieces) == 700_000


def test_a_program_that_makes_itself_as_dear_as_the_runner_gains_nothing_but_the_containers_end(host: RunnerOnHost) -> None:
    """It may lower its score to that of PID 1. Then one of them dies, and the engine says why: never a crash of the runner's."""
    for _ in range(4):
        with ContainerRunner(host, memory_mib=64, workspace_mib=200) as runner:
            run = runner.start(["sh", "-c", f"echo 0 > /proc/$$/oom_score_adj; {SMALL_FILLER}"], wall_ms=20_000)
            assert runner.wait_for(OutputData).data == b"0\n"
            try:
                ended = runner.finish(run).ended
                assert (ended.how, ended.code) == (HowEnded.SIGNALLED, 9) and ended.oom_kills > 0
            except RunnerGone:
                state = eventually(lambda: (now := runner.state())["Status"] == "exited" and now, what="the container has ended")
                assert (state["ExitCode"], state["OOMKilled"]) == (137, True)


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_a_full_workspace_is_told_and_holds_nobody_up(runner: ContainerRunner, what: str) -> None:
    program = """
import errno, os, sys
try:
    for number in range(100_000):
        with open(f"/job/{number}", "wb", buffering=0) as file:
            while sys.argv[1] == "blocks": file.write(bytes(2**20)) or os._exit(1)
except OSError as error:
    os._exit(error.errno)
"""
    record = _python(runner, program, what, places=(b"/job", b"/tmp"))
    assert (record.ended.how, record.ended.code) == (HowEnded.EXITED, 28)
    assert record.ended.full == (FullPlace(path=b"/job", blocks=what == "blocks", inodes=what == "inodes"),)


def test_what_is_counted_for_all_containers_of_a_user_does_not_stop_a_neighbours_runner(host: RunnerOnHost) -> None:
    """Pipes, inotify instances and queued signals: one container has them all."""
    program = """
import ctypes, errno, fcntl, json, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
instances = 0
while libc.inotify_init1(0) >= 0: instances += 1
refused = errno.errorcode[ctypes.get_errno()]
pipes, pages = [], 0
try:
    while pages < 2**17:
        pipes.append(os.pipe())
        pages += fcntl.fcntl(pipes[-1][0], 1031, 2**20) // 4096
except OSError as error: full = errno.errorcode[error.errno]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
queued = 0
while libc.sigqueue(os.getpid(), signal.SIGRTMIN, 0) == 0 and queued < 2**20: queued += 1
print(json.dumps([instances, refused, pages, full, queued]), flush=True)
time.sleep(60)
"""
    with ContainerRunner(host) as hog, ContainerRunner(host) as neighbour:
        run = hog.start(["python3", "-c", program], wall_ms=60_000)
        instances, refused, pages, full, queued = json.loads(hog.wait_for(OutputData).data)
        assert (refused, full) == ("EMFILE", "EPERM") and instances > 0 and pages > 8000 and 0 < queued < 2**20
        for fields in ({"stdin": b"x" * 100_000}, {"channel": True}):
            record = neighbour.run(["python3", "-c", "import os, sys; sys.stdout.write('x' * 200_000); os._exit(3)"], **fields)
            record = neighbour.run(["sh", "-c", "head -c 200000 /dev/zero; sleep 0.1 & wait; exit 3"], **fields)
            assert (len(record.stdout), record.ended.code) == (200_000, 3)
        hog.send(Kill(run=run))
        assert hog.finish(run).ended.stopped_by is StoppedBy.KILL


def test_a_program_without_rights_of_its_own_cannot_take_them_from_the_next_run(runner: ContainerRunner) -> None:
    limits = (ResourceLimit(resource=7, soft=20, hard=20), ResourceLimit(resource=1, soft=4096, hard=4096))
    program = (
        "import os, resource; os.nice(19); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(resource.getrlimit(7)[0])"
    )
    assert _told(_python(runner, program, rlimits=limits)) == 20


# ---- what a run leaves in its container


@pytest.mark.parametrize("buckets", ["0", "100"])
def test_no_connection_of_a_run_is_in_the_next_ones_way(host: RunnerOnHost, buckets: str) -> None:
    program = """
import errno, json, socket
def serve():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 5555))
        server.listen()
        one = socket.create_connection(("127.0.0.1", 5555))
        other = server.accept()[0]
        other.close()
        assert one.recv(1) == b""
        one.close()
try: serve(), print(json.dumps("served"))
except OSError as error: print(json.dumps(errno.errorcode[error.errno]))
"""
    with ContainerRunner(host, config={"Sysctls": {"net.ipv4.tcp_max_tw_buckets": buckets}}) as runner:
        assert _told(_python(runner, program)) == "served"
        assert _told(_python(runner, program)) == ("served" if buckets == "0" else "EADDRINUSE")
