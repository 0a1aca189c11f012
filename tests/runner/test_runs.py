"""Runs of the bare runner: started, fed, limited, stopped, ended, resumed."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobmanager.runner.frames import (
    Ended,
    Fault,
    FromProgram,
    HowEnded,
    InputFrom,
    Kill,
    Leave,
    OutputData,
    RefusalReason,
    ResourceLimit,
    RunnerState,
    Started,
    StartRun,
    Status,
    StoppedBy,
    Taken,
    ToProgram,
    VolumeDevice,
)
from tests.conftest import SLOWNESS, eventually
from tests.support.bare_runner import BareRunner
from tests.support.driven_runner import RunRecord

PYTHON = str(Path(sys.executable).resolve())
WINDOW_BYTES = 2**20
# A program that opens descriptor 3 as its channel.
_CHANNEL = "import socket; s = socket.socket(fileno=3)\n"


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        yield bare


def _sh(runner: BareRunner, script: str, **fields: Any) -> RunRecord:
    return runner.run(["sh", "-c", script], **fields)


def _start_from(runner: BareRunner, kind: InputFrom, argv: list[str], **fields: Any) -> int:
    runner.last_run += 1
    names = tuple(os.fsencode(name) for name in argv)
    runner.send(StartRun(run=runner.last_run, argv=names, cwd=b"/job", stdin=kind, **fields))
    return runner.last_run


def _read_from(runner: BareRunner, kind: InputFrom, argv: list[str], **fields: Any) -> RunRecord:
    return runner.finish(_start_from(runner, kind, argv, **fields))


def _python(code: str) -> list[str]:
    return [PYTHON, "-S", "-c", code]


def _others(runner: BareRunner) -> list[str]:
    """What else is in the runner's namespace."""
    namespace = os.readlink(f"/proc/{runner.pid}/ns/pid")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != runner.pid and os.readlink(process / "ns" / "pid") == namespace:
                found.append((process / "stat").read_text())
        except OSError:
            continue
    return found


def _descriptors(runner: BareRunner) -> int:
    return len(os.listdir(f"/proc/{runner.pid}/fd"))


def _close_its_input(runner: BareRunner) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, runner.stdin.fileno())
    os.close(nowhere)


# How a run ends


@pytest.mark.parametrize("code", [0, 1, 42, 127, 139, 255])
def test_an_exit_code_is_reported_as_it_is(runner: BareRunner, code: int) -> None:
    ended = _sh(runner, f"exit {code}").ended
    assert (ended.how, ended.code, ended.stopped_by) == (HowEnded.EXITED, code, StoppedBy.NOBODY)


def test_each_signal_is_reported_by_its_number(runner: BareRunner) -> None:
    deadly = set(range(1, 32)) - {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    deadly -= {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    for number in sorted(deadly):
        ended = _sh(runner, f"ulimit -c 0; kill -{number} $$; sleep 60").ended
        assert (ended.how, ended.code, ended.stopped_by) == (HowEnded.SIGNALLED, number, StoppedBy.NOBODY)


def test_both_streams_are_told_apart_and_counted(runner: BareRunner) -> None:
    record = _sh(runner, "echo out; echo error >&2")
    assert (record.stdout, record.stderr) == (b"out\n", b"error\n")
    assert (record.ended.stdout_bytes, record.ended.stderr_bytes, record.ended.left) == (4, 6, False)


def test_output_is_reported_while_the_program_runs(runner: BareRunner) -> None:
    run = _start_from(runner, InputFrom.PIPE, ["sh", "-c", "echo first; read line; echo $line"])
    assert runner.wait_for(OutputData).data == b"first\n"
    runner.send_input(run, b"second\n")
    assert runner.finish(run).stdout == b"first\nsecond\n"


def test_a_run_that_is_over_at_once_is_told_in_one_packet_its_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once is within 2 ms, which a busy machine does not always grant it."""
    with BareRunner(sanitized=False) as runner:
        sent = bytearray()
        receive = runner._receive

        def kept() -> bytes | None:
            content = receive()
            sent.extend(content or b"")
            return content

        def packets_of_a_run() -> int:
            sent.clear()
            assert runner.run(["echo", "hello"], stdin=b"").stdout == b"hello\n"
            return sent.count(b"JMU1")

        monkeypatch.setattr(runner, "_receive", kept)
        runner.wait_for(Status)
        eventually(lambda: packets_of_a_run() == 1, what="a run is told in one packet")


def test_a_program_begins_with_nothing_of_the_runner(runner: BareRunner) -> None:
    code = (
        "import os\n"
        "print(*sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1], os.getsid(0) == os.getpid())\n"
        "print(open('/proc/self/oom_score_adj').read().strip())\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith(('SigBlk', 'SigIgn'))])\n"
        "print(oct(os.umask(0)), os.getcwd())\n"
    )
    record = runner.run([PYTHON, "-S", "-c", code], umask=0o027, cwd=b"/tmp")
    ignored_by_python = f"{1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1:016x}"
    assert record.stdout.decode().splitlines() == ["0 1 2 True", "1000", f"{0:016x} {ignored_by_python}", "0o27 /tmp"]


def test_the_runs_environment_lies_over_the_containers(runner: BareRunner) -> None:
    record = _sh(runner, 'echo "$A:$PATH"; env | grep -c ^PATH=', env=(b"A=b", b"PATH=/bin:/usr/bin"))
    assert record.stdout == b"b:/bin:/usr/bin\n1\n"
    assert _sh(runner, 'echo "$A:$PATH"').stdout.startswith(b":/usr/local/sbin:")


def test_a_run_without_a_locale_has_that_of_utf_8(runner: BareRunner) -> None:
    assert _sh(runner, 'echo "$LANG"').stdout == b"C.UTF-8\n"
    assert _sh(runner, 'echo "$LANG"', env=(b"LANGUAGE=de",)).stdout == b"C.UTF-8\n", "a longer name is another variable"
    for name in (b"LANG", b"LC_ALL", b"LC_CTYPE"):
        for value in (b"C", b""):
            record = _sh(runner, "env | grep -e ^LANG= -e ^LC_", env=(b"=".join((name, value)),))
            assert record.stdout == b"=".join((name, value)) + b"\n"


def test_limits_of_the_kernel_are_set(runner: BareRunner) -> None:
    limits = (
        ResourceLimit(resource=resource.RLIMIT_NOFILE, soft=20, hard=30),
        ResourceLimit(resource=resource.RLIMIT_CORE, soft=0, hard=0),
    )
    assert _sh(runner, "ulimit -Sn; ulimit -Hn; ulimit -c", rlimits=limits).stdout == b"20\n30\n0\n"


def test_a_script_without_a_first_line_is_given_to_the_shell(runner: BareRunner) -> None:
    _sh(runner, "echo 'echo script $1' > /job/script; chmod +x /job/script")
    assert runner.run(["./script", "x"]).stdout == b"script x\n"
    assert runner.run(["script", "x"], env=(b"PATH=/nowhere:/job",)).stdout == b"script x\n"


# Refusals


def test_what_cannot_be_started_says_why(runner: BareRunner) -> None:
    _sh(runner, "echo '#!/nowhere' > /job/lost; chmod +x /job/lost; echo x > /job/closed; mkdir /job/folder")
    cases: list[tuple[list[str], dict[str, Any], RefusalReason, int]] = [
        (["nope"], {}, RefusalReason.NO_SUCH_PROGRAM, errno.ENOENT),
        (["/nope"], {}, RefusalReason.NO_SUCH_PROGRAM, errno.ENOENT),
        ([""], {}, RefusalReason.NO_SUCH_PROGRAM, errno.ENOENT),
        ([], {}, RefusalReason.NO_SUCH_PROGRAM, errno.ENOENT),
        (["/bin/sh/x"], {}, RefusalReason.NO_SUCH_PROGRAM, errno.ENOTDIR),
        (["./folder"], {}, RefusalReason.IS_A_FOLDER, errno.EACCES),
        (["./closed"], {}, RefusalReason.NOT_EXECUTABLE, errno.EACCES),
        (["./lost"], {}, RefusalReason.NO_INTERPRETER, errno.ENOENT),
        (["true"], {"cwd": b"/nowhere"}, RefusalReason.NO_SUCH_FOLDER, errno.ENOENT),
        (["true", "x" * 200_000], {}, RefusalReason.ARGUMENTS_TOO_LONG, errno.E2BIG),
        (["true"], {"rlimits": (ResourceLimit(resource=99, soft=0, hard=0),)}, RefusalReason.OTHER, errno.EINVAL),
        (["true"], {"volumes": (VolumeDevice(path=b"/nowhere", device=b""),)}, RefusalReason.OTHER_DEVICE, errno.ENOENT),
        (["true"], {"volumes": (VolumeDevice(path=b"/job", device=b"1:1"),)}, RefusalReason.OTHER_DEVICE, 0),
    ]
    for argv, fields, why, number in cases:
        refused = runner.run(argv, **fields).refused
        assert (refused.why, refused.errno) == (why, number), (argv, fields)
    assert _sh(runner, "echo fine").stdout == b"fine\n"


def test_the_device_of_a_volume_is_reported(runner: BareRunner) -> None:
    seen = _sh(runner, "stat -c %Hd:%Ld /job || stat -c %d /job").stdout.decode().strip()
    started = _sh(runner, "true", volumes=(VolumeDevice(path=b"/job", device=b""),)).started
    assert started.volumes[0].path == b"/job"
    assert started.volumes[0].device.decode() == seen


# Limits


def test_the_wall_clock_stops_a_run(runner: BareRunner) -> None:
    ended = _sh(runner, "sleep 100", wall_ms=300).ended
    assert (ended.how, ended.code, ended.stopped_by) == (HowEnded.SIGNALLED, signal.SIGKILL, StoppedBy.WALL)
    assert ended.wall_us >= 300_000


def test_cpu_time_of_all_its_processes_stops_a_run(runner: BareRunner) -> None:
    if not runner.has_cgroup:
        pytest.skip("CPU time is counted by the control group, and this machine lets us make none")
    ended = _sh(runner, "(while :; do :; done) & (while :; do :; done) & wait", cpu_us=300_000).ended
    assert ended.stopped_by == StoppedBy.CPU
    assert ended.cpu_us is not None and ended.cpu_us >= 290_000


def test_output_past_its_limit_stops_a_run_and_is_not_reported(runner: BareRunner) -> None:
    record = _sh(runner, "yes", output_bytes=10_000)
    assert record.ended.stopped_by == StoppedBy.OUTPUT
    assert len(record.stdout) == 10_000
    assert record.ended.stdout_bytes > 10_000


def test_output_past_its_limit_counts_when_the_program_has_ended_by_itself(runner: BareRunner) -> None:
    record = _sh(runner, "printf 123456; printf 7 >&2", output_bytes=6)
    assert record.ended.stopped_by == StoppedBy.OUTPUT
    assert len(record.stdout + record.stderr) == 6
    assert (record.ended.stdout_bytes, record.ended.stderr_bytes) == (6, 1)


def test_output_up_to_its_limit_is_no_reason_to_stop(runner: BareRunner) -> None:
    record = _sh(runner, "printf 123456", output_bytes=6)
    assert (record.stdout, record.ended.stopped_by) == (b"123456", StoppedBy.NOBODY)


# Output that is dropped past its limit


def test_output_past_its_limit_is_counted_and_the_program_goes_on(runner: BareRunner) -> None:
    record = _sh(runner, "yes 0123456789 | head -c 3000000; echo end >&2; exit 7", output_bytes=10_000, drops_output=True)
    assert record.stdout == (b"0123456789\n" * 1000)[:10_000]
    assert record.stderr == b""
    assert (record.ended.stdout_bytes, record.ended.stderr_bytes) == (3_000_000, 4)
    assert (record.ended.code, record.ended.stopped_by) == (7, StoppedBy.NOBODY)


def test_both_streams_have_one_limit_and_each_is_reported_from_its_beginning(runner: BareRunner) -> None:
    flood = "yes out | head -c 400000 & yes err | head -c 300000 >&2; wait"
    record = _sh(runner, flood, output_bytes=200_000, drops_output=True)
    assert len(record.stdout) + len(record.stderr) == 200_000
    assert (b"out\n" * 100_000).startswith(record.stdout) and (b"err\n" * 100_000).startswith(record.stderr)
    assert (record.ended.stdout_bytes, record.ended.stderr_bytes) == (400_000, 300_000)
    assert record.ended.stopped_by == StoppedBy.NOBODY


def test_output_that_is_within_its_limit_is_whole_where_more_would_be_dropped(runner: BareRunner) -> None:
    record = _sh(runner, "printf 1234; printf 56 >&2", output_bytes=6, drops_output=True)
    assert (record.stdout, record.stderr) == (b"1234", b"56")
    assert _sh(runner, "seq 100000", drops_output=True).ended.stdout_bytes == 588_895  # without a limit nothing is dropped


def test_a_last_piece_is_cut_where_the_program_has_ended_meanwhile(runner: BareRunner) -> None:
    record = _sh(runner, "printf 123456; printf 7 >&2", output_bytes=6, drops_output=True)
    assert len(record.stdout + record.stderr) == 6
    assert (record.ended.stdout_bytes, record.ended.stderr_bytes) == (6, 1)
    assert (record.ended.code, record.ended.stopped_by) == (0, StoppedBy.NOBODY)


def test_the_other_limits_stop_a_program_whose_output_is_dropped(runner: BareRunner) -> None:
    ended = _sh(runner, "yes", output_bytes=10_000, drops_output=True, wall_ms=300).ended
    assert ended.stopped_by == StoppedBy.WALL
    assert ended.stdout_bytes > 100_000  # what it printed after that, too
    if runner.has_cgroup:
        spins = "yes & while :; do :; done"
        assert _sh(runner, spins, output_bytes=10_000, drops_output=True, cpu_us=300_000).ended.stopped_by == StoppedBy.CPU


def test_a_program_whose_output_is_dropped_is_fed_and_heard(runner: BareRunner) -> None:
    code = (
        _CHANNEL + "import os\nos.write(1, bytes(500_000))\ns.send(os.read(0, 9))\nos.write(1, bytes(500_000))\ns.send(s.recv(9))\n"
    )
    run = _start_from(runner, InputFrom.PIPE, _python(code), channel=True, output_bytes=1000, drops_output=True)
    runner.send_input(run, b"fed")
    assert runner.wait_for(FromProgram).data == b"fed"
    runner.send(ToProgram(run=run, number=0, data=b"heard"))
    record = runner.finish(run)
    assert record.from_program == [b"fed", b"heard"]
    assert (len(record.stdout), record.ended.stdout_bytes, record.ended.code) == (1000, 1_000_000, 0)


def test_what_is_dropped_waits_for_no_waiter_and_the_next_one_is_told_all_of_it(runner: BareRunner) -> None:
    run = _start_from(
        runner, InputFrom.PIPE, ["sh", "-c", "read go; yes | head -c 5000000"], output_bytes=100_000, drops_output=True
    )
    runner.wait_for(Started)
    runner.send_input(run, b"go\n")
    runner.flush()
    runner.detach()
    eventually(lambda: not _others(runner), what="it has ended while nobody reads")
    runner.resume()
    record = runner.finish(run)
    assert record.stdout == b"y\n" * 50_000
    assert (record.ended.stdout_bytes, record.ended.code) == (5_000_000, 0)


def test_a_run_after_one_whose_output_was_dropped_has_all_of_its_own(runner: BareRunner) -> None:
    _sh(runner, "seq 100000", output_bytes=10, drops_output=True)
    record = _sh(runner, "seq 1000", output_bytes=100_000)
    assert record.stdout == b"".join(b"%d\n" % number for number in range(1, 1001))


def test_a_status_says_what_cpu_time_the_run_has_taken_so_far(runner: BareRunner) -> None:
    assert runner.wait_for(Status).cpu_us is None
    run = runner.start(["sh", "-c", "echo begun; while :; do :; done"])
    runner.wait_for(OutputData)

    def cpu_us() -> int | None:
        runner.resume()
        return runner.wait_for(Status).cpu_us

    if runner.has_cgroup:
        eventually(lambda: (cpu_us() or 0) > 100_000, what="it has computed for a while")
    else:
        assert cpu_us() is None
    runner.send(Kill(run=run))
    assert (runner.finish(run).ended.cpu_us or 100_000) >= 100_000
    runner.resume()
    assert runner.wait_for(Status).cpu_us is None


def test_memory_past_its_limit_kills_the_program_and_never_the_runner() -> None:
    with BareRunner(memory_bytes=64 * 2**20, sanitized=False) as runner:
        if not runner.has_cgroup:
            pytest.skip("memory is limited by the control group, and this machine lets us make none")
        for _ in range(3):
            ended = runner.run(_python("x = b'a' * 2**28")).ended
            assert (ended.how, ended.code, ended.stopped_by) == (HowEnded.SIGNALLED, signal.SIGKILL, StoppedBy.NOBODY)
            assert ended.oom_kills == 1
            assert ended.peak_bytes is not None and 60 * 2**20 < ended.peak_bytes <= 64 * 2**20


# Standard input


def test_standard_input_of_each_kind(runner: BareRunner) -> None:
    assert _sh(runner, "cat; echo end").stdout == b"end\n"
    assert runner.run(["cat"], stdin=b"from memory").stdout == b"from memory"
    assert _read_from(runner, InputFrom.MEMORY, ["cat"]).stdout == b""


def test_input_in_memory_can_be_sought_and_not_written(runner: BareRunner) -> None:
    content = random.Random(1).randbytes(3 * 2**20)
    code = (
        "import os, sys, zlib\n"
        "data = sys.stdin.buffer.read(); os.lseek(0, 0, 0); again = os.read(0, 4)\n"
        "print(zlib.crc32(data), again == data[:4])\n"
        "try: os.write(0, b'x')\n"
        "except OSError as error: print(error.errno)\n"
        "try: os.write(os.open('/proc/self/fd/0', os.O_WRONLY), b'x')\n"
        "except OSError as error: print(error.errno)\n"
    )
    seen = runner.run(_python(code), stdin=content).stdout.decode().splitlines()
    assert seen == [f"{zlib.crc32(content)} True", str(errno.EBADF), str(errno.EPERM)]


def test_input_for_a_pipe_is_taken_as_the_program_reads(runner: BareRunner) -> None:
    content = random.Random(2).randbytes(300_000)
    run = _start_from(runner, InputFrom.PIPE, ["cat"])
    sent = taken = 0
    while sent < len(content):
        piece = content[sent : taken + 2**16]
        if piece:
            runner.send_input(run, piece, offset=sent, last=sent + len(piece) == len(content))
            sent += len(piece)
        else:
            taken = runner.wait_for(Taken).input
    record = runner.finish(run)
    assert record.stdout == content
    assert record.taken.input == len(content)


def test_input_for_a_pipe_may_come_before_its_run_and_again(runner: BareRunner) -> None:
    runner.send_input(1, b"begin ", last=False)
    run = _start_from(runner, InputFrom.PIPE, ["cat"])
    runner.send_input(run, b"begin and", last=False)
    runner.send_input(run, b"and end", offset=6)
    assert runner.finish(run).stdout == b"begin and end"


@pytest.mark.parametrize(("offset", "size"), [(1, 1), (0, 2**16 * 3)])
def test_input_that_nobody_may_send_is_a_fault(runner: BareRunner, offset: int, size: int) -> None:
    run = _start_from(runner, InputFrom.PIPE, ["sleep", "100"])
    runner.wait_for(Started)
    runner.send_input(run, bytes(size), offset=offset)
    assert b"INPUT" in runner.wait_for(Fault).text
    assert runner.exit_code() == 121


def test_input_that_its_program_does_not_want_harms_nobody(runner: BareRunner) -> None:
    run = _start_from(runner, InputFrom.PIPE, ["sh", "-c", "exec 0<&-; echo closed; exec sleep 0.1"])
    runner.wait_for(OutputData)
    runner.send_input(run, b"x" * 1000, last=False)
    runner.send_input(run, b"y", offset=1000)
    assert runner.finish(run).ended.code == 0


# Messages


def test_messages_go_both_ways(runner: BareRunner) -> None:
    code = _CHANNEL + "import os\nassert os.environ['JOBMANAGER_CHANNEL'] == '3'\nwhile m := s.recv(9999): s.send(m.upper())\n"
    run = runner.start(_python(code), channel=True)
    for number, text in enumerate([b"one", b"two", b"three"]):
        runner.send(ToProgram(run=run, number=number, data=text))
        answer = runner.wait_for(FromProgram)
        assert (answer.number, answer.data) == (number, text.upper())
    runner.send(ToProgram(run=run, number=1, data=b"two"))  # a new waiter says it again
    runner.send(ToProgram(run=run, number=3, data=b""))
    record = runner.finish(run)
    assert (record.ended.code, record.taken.messages, len(record.from_program)) == (0, 4, 3)


def test_a_last_message_and_empty_ones_are_not_lost(runner: BareRunner) -> None:
    code = _CHANNEL + "for m in (b'', b'a', b'', b'z' * 60000): s.send(m)\n"
    assert runner.run(_python(code), channel=True).from_program == [b"", b"a", b"", b"z" * 60000]


def test_descriptors_that_a_program_sends_along_are_not_kept(runner: BareRunner) -> None:
    runner.run(["true"])
    before = _descriptors(runner)
    code = _CHANNEL + "for n in range(100): socket.send_fds(s, [b'x'], [0, 1, 2])\ninput()\n"
    run = _start_from(runner, InputFrom.PIPE, _python(code), channel=True)
    for _ in range(100):
        runner.wait_for(FromProgram)
    assert _descriptors(runner) <= before + 4  # its pipes and its socket
    runner.send_input(run, b"end\n")
    assert runner.finish(run).ended.code == 0


def test_what_a_program_said_before_it_closed_its_socket_is_not_lost(runner: BareRunner) -> None:
    run = runner.start(_python(_CHANNEL + "s.send(b'hello'); s.recv(1); s.close(); print('closed')"), channel=True)
    for number in range(5):
        runner.send(ToProgram(run=run, number=number, data=b"x" * 100))
    record = runner.finish(run)
    assert (record.from_program, record.stdout) == ([b"hello"], b"closed\n")


# Killing


def test_a_run_is_killed_before_and_after_it_started(runner: BareRunner) -> None:
    run = runner.last_run = 1
    both = StartRun(run=run, argv=(b"sleep", b"100"), cwd=b"/job")
    runner.feed(runner.writer.write(both) + runner.writer.write(Kill(run=run)))
    assert runner.finish(run).refused.why == RefusalReason.KILLED_BEFORE
    run = runner.start(["sleep", "100"])
    runner.wait_for(Started)
    runner.send(Kill(run=run + 1))
    runner.send(Kill(run=run))
    ended = runner.finish(run).ended
    assert (ended.how, ended.stopped_by) == (HowEnded.SIGNALLED, StoppedBy.KILL)


def test_a_run_is_taken_once(runner: BareRunner) -> None:
    first = _sh(runner, "echo once")
    runner.last_run = 0
    runner.start(["echo", "again"])
    runner.last_run = 1
    assert _sh(runner, "echo next").stdout == b"next\n"
    assert first.stdout == b"once\n"
    assert len([message for message in runner.seen if isinstance(message, Started)]) == 2


def test_leaving_ends_the_run_and_is_reported(runner: BareRunner) -> None:
    run = runner.start(["sleep", "100"])
    runner.wait_for(Started)
    runner.send(Leave())
    assert runner.finish(run).ended.stopped_by == StoppedBy.LEAVE
    assert runner.exit_code() == 0


# Sessions


def test_nothing_is_lost_or_repeated_wherever_a_session_breaks_off(runner: BareRunner) -> None:
    choice = random.Random(3)
    run = runner.start(_python("for n in range(20000): print(n)"))
    expected = "".join(f"{n}\n" for n in range(20000)).encode()
    messages: list[object] = []
    while not any(isinstance(message, Ended) for message in messages):
        for _ in range(choice.randrange(1, 6)):
            message = runner.next_message()
            messages.append(message)
            if isinstance(message, Ended):
                break
        else:
            runner.detach()
            runner.discard(choice.randrange(1, 5000))
            runner.resume()
    outputs = [message for message in messages if isinstance(message, OutputData)]
    assert [output.offset for output in outputs] == [sum(len(o.data) for o in outputs[:n]) for n in range(len(outputs))]
    assert b"".join(output.data for output in outputs) == expected
    assert run == 1


def test_a_waiter_that_was_replaced_can_do_nothing(runner: BareRunner) -> None:
    old = runner.writer
    runner.wait_for(Status)
    run = runner.start(["sh", "-c", "sleep 0.2; echo still here"])
    runner.wait_for(Started)
    runner.resume()
    runner.feed(old.write(Kill(run=run)) + old.write(Leave()))
    assert runner.finish(run).stdout == b"still here\n"


def test_a_new_session_learns_what_goes_on(runner: BareRunner) -> None:
    run = runner.start(["sleep", "100"])
    runner.wait_for(Started)
    runner.detach()
    runner.resume()
    status = runner.wait_for(Status)
    assert (status.state, status.run, status.dumpable) == (RunnerState.RUNNING, run, False)


def test_a_full_window_stops_the_program_and_the_wall_clock(runner: BareRunner) -> None:
    runner.acknowledging = False
    run = runner.start(["sh", "-c", "head -c 3000000 /dev/zero; echo end"], wall_ms=1000)
    received = 0
    while received < WINDOW_BYTES * 3 // 4:
        message = runner.next_message()
        received += len(message.data) if isinstance(message, OutputData) else 0
    with pytest.raises(TimeoutError):  # longer than the wall clock allows
        while True:
            runner.next_message(1.5)
    runner.acknowledging = True
    runner.acknowledge()
    record = runner.finish(run)
    assert record.ended.stopped_by == StoppedBy.NOBODY
    assert record.stdout == bytes(3_000_000) + b"end\n"
    assert record.ended.wall_us < 1_000_000


def test_a_lease_ends_the_run_and_the_runner() -> None:
    with BareRunner(lease_s=0.5 * SLOWNESS) as runner:
        run = runner.start(["sleep", "100"])
        runner.wait_for(Started)
        runner.acknowledging = False
        assert runner.finish(run).ended.stopped_by == StoppedBy.LEASE
        assert runner.exit_code() == 120


def test_a_runner_that_nobody_speaks_to_leaves_after_the_lease_of_its_command_line() -> None:
    with BareRunner(lease_s=0.3, begin=False) as runner:
        assert runner.exit_code() == 120


def test_the_end_of_its_input_is_not_the_end_of_a_run_but_the_lease_is() -> None:
    with BareRunner(lease_s=1 * SLOWNESS) as runner:
        run = runner.start(["sh", "-c", "sleep 0.3; echo went on; sleep 100"])
        runner.wait_for(Started)
        runner.acknowledging = False
        _close_its_input(runner)
        assert runner.wait_for(OutputData).data == b"went on\n"
        assert runner.finish(run).ended.stopped_by == StoppedBy.LEASE
        assert runner.exit_code() == 120


def test_a_runner_that_was_frozen_hears_first_what_has_come() -> None:
    lease_s = 1.2 * SLOWNESS
    with BareRunner(lease_s=lease_s) as runner:
        run = runner.start(["sh", "-c", "read line; echo $line"], stdin=b"thawed\n")
        runner.finish(run)
        os.kill(runner.pid, signal.SIGSTOP)
        until = time.monotonic() + 1.5 * lease_s
        runner.acknowledge()
        eventually(lambda: time.monotonic() > until, what="the lease is over")
        os.kill(runner.pid, signal.SIGCONT)
        assert _sh(runner, "echo alive").stdout == b"alive\n"


# What a program leaves behind


def test_places_in_which_nothing_is_free_are_reported(runner: BareRunner) -> None:
    record = _sh(runner, "dd if=/dev/zero of=/tmp/all bs=1M 2>/dev/null; true", places=(b"/job", b"/tmp", b"/nowhere"))
    assert [(place.path, place.blocks, place.inodes) for place in record.ended.full] == [(b"/tmp", True, False)]


def test_what_is_left_in_a_large_pipe_is_reported(runner: BareRunner) -> None:
    code = "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 2**20); os.write(1, bytes(900_000))"
    record = runner.run(_python(code))
    assert (len(record.stdout), record.ended.stdout_bytes) == (900_000, 900_000)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & setsid sleep 1000 & exit 0",
        "(setsid sh -c 'sleep 1000 & sleep 1000' &) ; exit 0",
        "(trap '' TERM HUP INT; sleep 1000) & kill -STOP $!; exit 0",
    ],
)
def test_nothing_of_a_run_lives_on(runner: BareRunner, script: str) -> None:
    ended = _sh(runner, script).ended
    assert (ended.code, ended.left) == (0, False)
    assert _others(runner) == []


def test_a_storm_of_forks_is_ended(runner: BareRunner) -> None:
    code = (
        "import os, signal, time\n"
        "for n in range(60):\n"
        "    if not os.fork():\n"
        "        while True:\n"
        "            if os.fork(): os._exit(0)\n"
        "time.sleep(0.3)\n"
    )
    ended = runner.run(_python(code)).ended
    assert (ended.code, ended.left) == (0, False)
    assert _others(runner) == []


def test_orphans_are_reaped_while_the_run_goes_on(runner: BareRunner) -> None:
    run = _start_from(runner, InputFrom.PIPE, ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do (true &); done; echo done; read line"])
    runner.wait_for(OutputData)
    eventually(lambda: not any(") Z" in stat for stat in _others(runner)), what="the orphans are reaped")
    runner.send_input(run, b"end\n")
    assert runner.finish(run).ended.code == 0


def test_a_hundred_runs_leave_no_descriptor() -> None:
    with BareRunner(sanitized=False) as runner:
        _all_kinds(runner)
        before, memory = _descriptors(runner), _resident_kib(runner)
        for _ in range(25):
            _all_kinds(runner)
        assert _descriptors(runner) == before
        assert _resident_kib(runner) <= memory + 1024  # of its window more pages may have been used


def _all_kinds(runner: BareRunner) -> None:
    assert _sh(runner, "echo x").stdout == b"x\n"
    assert runner.run(["cat"], stdin=b"y", channel=True).stdout == b"y"
    assert _start_and_feed(runner) == b"z"
    assert runner.run(["nope"]).refused.why == RefusalReason.NO_SUCH_PROGRAM


def _start_and_feed(runner: BareRunner) -> bytes:
    run = _start_from(runner, InputFrom.PIPE, ["cat"])
    runner.send_input(run, b"z")
    return runner.finish(run).stdout


def test_its_memory_stays_small_when_much_goes_through() -> None:
    with BareRunner(sanitized=False) as runner:
        assert len(_sh(runner, "head -c 20000000 /dev/zero").stdout) == 20_000_000
        runner.run(["cat"], stdin=bytes(5 * 2**20))
        assert _resident_kib(runner) <= 3.5 * 1024  # at most 1 MiB of its own, the window, the reserve, and the program itself


def test_it_keeps_its_reserve_until_memory_is_short() -> None:
    with BareRunner(memory_bytes=64 * 2**20, sanitized=False) as runner:
        if not runner.has_cgroup:
            pytest.skip("memory is limited by the control group, and this machine lets us make none")
        _sh(runner, "true")
        with_reserve = _resident_kib(runner)
        _sh(runner, "true")
        assert _resident_kib(runner) >= with_reserve
        runner.run(_python("x = b'a' * 2**28"))
        assert _resident_kib(runner) <= with_reserve - 900
        _sh(runner, "true")
        assert _resident_kib(runner) <= with_reserve - 900


def _resident_kib(runner: BareRunner) -> int:
    status = Path(f"/proc/{runner.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))
