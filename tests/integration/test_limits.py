"""Every limit holds from outside the program, to the byte and to the process where it can be counted."""

from __future__ import annotations

import io
import tarfile

import psutil
import pytest

from jobmanager import JobManager, JobResult, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit, proof
from tests.support.daemons import PrivateDaemon
from tests.support.programs import RECURSION

pytestmark = pytest.mark.engine

LINES = b"".join(b"%d\n" % number for number in range(1, 20_001))  # what `seq 1 20000` prints


def python(run: Run, program: str, **limits: float) -> JobResult:
    """Runs a Python program that is meant to succeed."""
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(**limits))  # type: ignore[arg-type]
    assert result.outcome is Outcome.SUCCESS, result
    return result


# ---- processes


@pytest.mark.parametrize("processes", [3, 17])
def test_a_program_can_have_exactly_as_many_processes_as_it_may(run: Run, processes: int) -> None:
    program = (
        "import os, time\nmade = 1\n"
        "try:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    made += 1\n"
        "except BlockingIOError: print(made)"
    )
    result = python(run, program, processes=processes)
    assert result.stdout == b"%d\n" % processes
    assert int(proof(result)["fork_refusals"]) >= 1


def test_threads_count_as_processes(run: Run) -> None:
    program = (
        "import os, threading\nhold = threading.Event(); made = 1\n"
        "try:\n  while True:\n    threading.Thread(target=hold.wait, daemon=True).start(); made += 1\n"
        "except RuntimeError: print(made, flush=True); os._exit(0)"
    )
    assert python(run, program, processes=9).stdout == b"9\n"


def test_the_smallest_limits_are_enough_for_the_smallest_program(run: Run, shell: str) -> None:
    limits = Limits(memory_mib=16, processes=1, open_files=32, workspace_mib=1, output_kib=1, archive_mib=1, cpus=0.1)
    result = run(["echo", "hello"], image=shell, limits=limits, collect=["x"])
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"hello\n"), result


# ---- open files


def test_a_program_can_open_exactly_as_many_files_as_it_may(run: Run) -> None:
    program = (
        "import os, sys\ntry:\n  while True: last = os.open('/dev/null', 0)\nexcept OSError as error: print(last + 1, error.errno)"
    )
    assert python(run, program, open_files=40).stdout == b"40 24\n"


def test_a_program_cannot_raise_its_own_limits(run: Run, shell: str) -> None:
    result = run("ulimit -n; ulimit -n 1000 2>&- || echo refused; ulimit -c", image=shell, limits=Limits(open_files=32))
    assert result.stdout == b"32\nrefused\n0\n"


# ---- cores


def test_a_program_gets_no_more_of_the_cores_than_it_may(run: Run) -> None:
    program = (
        "import os, time\nend = time.monotonic() + 1.5; child = os.fork()\nwhile time.monotonic() < end: pass\nchild and os.wait()"
    )
    result = python(run, program, cpus=0.4, cpu_time_s=30)
    assert result.cpu_time_s is not None and result.wall_time_s is not None
    assert 0.1 < result.cpu_time_s <= 0.4 * (result.wall_time_s + 0.5)


# ---- memory


def test_memory_is_counted_for_all_processes_together(run: Run) -> None:
    program = (
        "import os, time\nfor _ in range(3):\n  if os.fork() == 0:\n    held = bytearray(20_000_000); time.sleep(60)\n"
        "print(os.WTERMSIG(os.wait()[1]), flush=True); os._exit(1)"
    )
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(memory_mib=48))
    assert (result.outcome, result.stdout) == (Outcome.OVERFLOW, b"9\n"), result
    assert result.peak_memory_mib is not None and 40 < result.peak_memory_mib <= 48.1


def test_a_program_cannot_swap(run: Run) -> None:
    result = run(["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"], limits=Limits(memory_mib=64))
    assert (result.outcome, result.signal, result.killed_by) == (Outcome.OVERFLOW, "SIGKILL", "kernel")


# ---- the stack

THREADS = """
import threading
hold = threading.Barrier(101)
threads = [threading.Thread(target=hold.wait) for _ in range(100)]
for thread in threads: thread.start()
hold.wait()
for thread in threads: thread.join()
print(len(threads))
"""
C_THREADS = """
#include <pthread.h>
#include <stdio.h>
static pthread_barrier_t hold;
static void *wait_for_all(void *given) {
    volatile char frame[100000];
    frame[0] = frame[99999] = 1;
    pthread_barrier_wait(&hold);
    return given;
}
int main(void) {
    pthread_t threads[100];
    pthread_barrier_init(&hold, NULL, 100);
    for (int n = 0; n < 100; n++)
        if (pthread_create(&threads[n], NULL, wait_for_all, NULL)) return 1;
    for (int n = 0; n < 100; n++) pthread_join(threads[n], NULL);
    puts("100");
}
"""


def test_the_stack_is_as_large_as_the_memory_limit(run: Run) -> None:
    program = "gcc -O0 deep.c -o deep && ./deep 30000"  # 30 MB; the usual limit is 8
    result = run(program, image=PYTHON, files={"deep.c": RECURSION}, limits=Limits(memory_mib=64))
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"came back\n"), result


def test_recursion_without_end_is_an_overflow_of_memory(run: Run) -> None:
    program = "gcc -O0 deep.c -o deep && exec ./deep 2000000000"
    result = run(program, image=PYTHON, files={"deep.c": RECURSION}, limits=Limits(memory_mib=64))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "memory limit of 64 MiB reached"), result


def test_a_program_may_raise_its_stack_as_far_as_it_likes(run: Run, shell: str) -> None:
    result = run("ulimit -Ss; ulimit -Hs; ulimit -s unlimited; ulimit -Ss", image=shell, limits=Limits(memory_mib=32))
    assert result.stdout == b"32768\nunlimited\nunlimited\n", result


@pytest.mark.parametrize("memory_mib", [64, 512])
def test_a_hundred_threads_fit_a_small_memory(run: Run, memory_mib: int) -> None:
    assert python(run, THREADS, memory_mib=memory_mib, processes=110).stdout == b"100\n"
    limits = Limits(memory_mib=memory_mib, processes=110)
    result = run("gcc -pthread threads.c -o threads && ./threads", image=PYTHON, files={"threads.c": C_THREADS}, limits=limits)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"100\n"), result


# ---- workspace, /tmp, shared memory


@pytest.mark.parametrize(("folder", "mib"), [("/job", 3), ("/tmp", 3), ("/dev/shm", 252)])
def test_files_fill_no_more_than_they_may(run: Run, shell: str, folder: str, mib: int) -> None:
    program = f"while cat /dev/zero > {folder}/f 2>/dev/null; do :; done; wc -c < {folder}/f; rm {folder}/f"
    result = run(program, image=shell, limits=Limits(workspace_mib=3))
    assert result.outcome is Outcome.SUCCESS, result
    assert mib * 2**20 - 65536 <= int(result.stdout) <= mib * 2**20


def test_shared_memory_is_as_large_as_the_memory_limit_allows(run: Run) -> None:
    program = (
        "from multiprocessing.shared_memory import SharedMemory\n"
        "block = SharedMemory(create=True, size=200 * 2**20)\nblock.buf[:] = bytes([7]) * block.size\n"
        "print(block.size // 2**20, block.buf[-1])\nblock.close()\nblock.unlink()"
    )
    assert python(run, program, memory_mib=512).stdout == b"200 7\n"


@pytest.mark.parametrize("folder", ["/job", "/tmp"])
def test_there_are_no_more_files_than_there_may_be(run: Run, folder: str) -> None:
    program = (
        "import os\ntry:\n"
        f"  for n in range(10**6): os.close(os.open(f'{folder}/{{n}}', os.O_CREAT))\n"
        "except OSError as error: print(n, error.errno)"
    )
    number, errno = python(run, program, workspace_mib=1).stdout.split()
    assert (1000 <= int(number) <= Limits(workspace_mib=1).workspace_inodes, errno) == (True, b"28")


def test_a_sparse_file_takes_no_more_than_the_workspace_when_it_is_collected(run: Run) -> None:
    result = run("dd if=/dev/zero of=huge bs=1 count=0 seek=4000000000; ls -l huge", collect=["huge"])
    assert (result.outcome, result.archive is None or len(result.archive) < 1000) == (Outcome.SUCCESS, True), result
    assert "archive_mib" in str(proof(result)["archive"])


# ---- output


def test_output_is_cut_at_its_limit_to_the_byte(run: Run, shell: str) -> None:
    result = run(["seq", "1", "20000"], image=shell, limits=Limits(output_kib=3))
    assert result.outcome is Outcome.OVERFLOW
    assert result.stdout == LINES[:3072]
    assert (result.stdout_cut_at, result.stderr_cut_at, result.output_cut) == (3072, None, True)
    assert 3072 < result.stdout_bytes <= len(LINES)


def test_both_streams_share_one_limit(submit: Submit) -> None:
    limits = Limits(output_kib=4)
    job = submit("seq 1 20000 | head -c 3000; sleep 0.3; seq 1 20000 | head -c 3000 >&2", limits=limits)
    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.OVERFLOW
    assert (result.stdout, result.stderr) == (LINES[:3000], LINES[:1096])
    assert (result.stdout_cut_at, result.stderr_cut_at) == (None, 1096)
    assert (result.stdout_bytes, result.stderr_bytes) == (3000, 3000)


def test_output_within_its_limit_is_whole(run: Run, shell: str) -> None:
    result = run("seq 1 20000; seq 1 20000 >&2", image=shell)
    assert (result.stdout, result.stderr) == (LINES, LINES)
    assert (result.stdout_cut_at, result.stderr_cut_at, result.output_cut) == (None, None, False)
    assert (result.stdout_bytes, result.stderr_bytes) == (len(LINES), len(LINES))


@pytest.mark.case(36)
@pytest.mark.parametrize("flood", ["yes", "cat /dev/zero"], ids=["lines", "no_newline"])
def test_a_flood_takes_nothing_of_the_hosts_disk_and_little_of_our_memory(private_engine: PrivateDaemon, flood: str) -> None:
    others = set(psutil.Process().children())
    files, grown = set[str](), [0]
    with JobManager(private_engine.url) as manager:
        manager.submit(Task(BUSYBOX, command="head -c 500000 /dev/zero")).result(PATIENCE_S)
        eventually(lambda: not our_containers(private_engine.url), what="it is gone")
        ours = [psutil.Process(), *(child for child in psutil.Process().children() if child not in others)]
        before = sum(process.memory_info().rss for process in ours)
        job = manager.submit(Task(BUSYBOX, command=flood, limits=Limits(wall_time_s=60, output_kib=1024)))

        def measured_until_done() -> bool:
            files.update(path.name for path in private_engine.data.glob("containers/*/**/*log*"))
            grown.append(sum(process.memory_info().rss for process in ours) - before)
            return job.done()

        eventually(measured_until_done, within_s=PATIENCE_S)
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "output limit of 1024 KiB reached")
    assert not files
    assert max(grown) < 32 * 2**20


# ---- collected files


def test_collected_files_are_cut_at_a_whole_file(run: Run) -> None:
    result = run("for n in a b c; do head -c 500000 /dev/zero > $n; done", limits=Limits(archive_mib=1), collect=["?"])
    assert result.outcome is Outcome.SUCCESS
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as tar:
        assert [member.size for member in tar] == [500_000, 500_000]
    assert "larger than archive_mib = 1" in str(proof(result)["archive"])


def test_a_program_that_ends_by_itself_past_its_wall_clock_limit_is_a_timeout(run: Run, shell: str) -> None:
    result = run(["sleep", "1"], image=shell, limits=Limits(wall_time_s=0.9))
    assert (result.outcome, result.evidence[0].kind) == (Outcome.TIMEOUT, "wall_time_s"), result
    assert result.wall_time_s is not None and result.wall_time_s > 0.9


def test_a_figure_past_its_limit_never_goes_with_a_success(submit: Submit) -> None:
    """Programs that end about when their limits are reached."""
    spins = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"
    tried = [(["sleep", "1"], Limits(wall_time_s=1 + number / 100)) for number in range(-2, 4)]
    tried += [(["sh", "-c", spins], Limits(cpu_time_s=0.1 * number, wall_time_s=60)) for number in range(1, 7)]
    jobs = [(submit(command, limits=limits), limits) for command, limits in tried]
    for job, limits in jobs:
        result = job.result(PATIENCE_S)
        assert result.wall_time_s is not None and result.cpu_time_s is not None
        left_s = min(limits.wall_s - result.wall_time_s, limits.cpu_time_s - result.cpu_time_s)  # 0: rounded, so it may be either
        assert left_s <= 0 or result.outcome is Outcome.SUCCESS, (limits, result)
        assert left_s >= 0 or result.outcome is Outcome.TIMEOUT, (limits, result)
