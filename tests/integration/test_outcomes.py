"""The table of outcomes, line by line, on a real engine: each outcome with its proof, and what was printed is kept."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import docker
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, JobFuture, JobManager, JobResult, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit, proof, source

pytestmark = pytest.mark.engine

END_MARK = "end mark of PID 1"
CGROUP = "the container's cgroup, read by PID 1"
SIGNALS = {"HUP": 1, "INT": 2, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11, "PIPE": 13, "TERM": 15}


def results(jobs: dict[str, JobFuture]) -> dict[str, JobResult]:
    """What jobs that run side by side ended in."""
    return {name: job.result(PATIENCE_S) for name, job in jobs.items()}


# ---- success, failed: the program's own end


def test_a_program_that_ends_with_0_is_a_success(run: Run, shell: str) -> None:
    result = run("echo out; echo err >&2", image=shell)
    assert (result.outcome, result.text, result.exit_code, result.grade) == (Outcome.SUCCESS, "", 0, 100.0)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert proof(result) == {"exit_code": 0}
    assert source(result, "exit_code") == END_MARK


def test_a_program_that_ends_with_another_code_has_failed_with_it(submit: Submit, shell: str) -> None:
    codes = (1, 2, 42, 125, 126, 127, 128, 255)
    found = results({str(code): submit(f"echo partial; exit {code}", image=shell) for code in codes})
    for code in codes:
        result = found[str(code)]
        assert (result.outcome, result.text, result.exit_code) == (Outcome.FAILED, f"exit code {code}", code)
        assert (result.stdout, result.grade) == (b"partial\n", 0.0)
        assert proof(result) == {"exit_code": code}


def test_a_program_that_a_signal_of_its_own_ended_has_failed_as_after_that_signal(submit: Submit, shell: str) -> None:
    found = results({name: submit(f"echo partial; kill -{name} $$; sleep 9", image=shell) for name in SIGNALS})
    for name, number in SIGNALS.items():
        result = found[name]
        assert (result.outcome, result.exit_code) == (Outcome.FAILED, 128 + number), name
        assert result.text == f"exit code {128 + number}, as after SIG{name}"
        assert result.stdout == b"partial\n"
        assert proof(result) == {"exit_code": 128 + number}


def test_a_program_without_a_shell_around_it_dies_by_its_signals_too(submit: Submit) -> None:
    deaths = {
        139: "import ctypes; ctypes.string_at(0)",
        134: "import os; os.abort()",
        130: "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
        137: "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    }
    jobs = {str(code): submit(["python3", "-c", program], image=PYTHON) for code, program in deaths.items()}
    assert {name: result.exit_code for name, result in results(jobs).items()} == {str(code): code for code in deaths}


def test_a_program_begins_with_no_signal_blocked_or_ignored(run: Run, shell: str) -> None:
    result = run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], image=shell)
    masks = [int(line.split(b"\t")[1], 16) for line in result.stdout.splitlines()]
    standard = 2**31 - 1  # 1 to 31; the C library keeps 32 and 33 for itself, and whoever starts an engine may ignore them
    assert [mask & standard for mask in masks] == [0, 0]


def test_what_a_program_left_running_ends_with_it(run: Run, shell: str) -> None:
    result = run("sleep 60 & setsid sleep 60 & (trap '' TERM HUP; sleep 60) & exit 4", image=shell)
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 4)
    assert result.wall_time_s is not None and result.wall_time_s < 20


# ---- timeout


def test_a_program_that_computes_for_too_long_is_stopped_by_its_cpu_time(run: Run, shell: str) -> None:
    result = run("echo partial; while :; do :; done", image=shell, limits=Limits(cpu_time_s=0.5, wall_time_s=30))
    assert_stopped_by_cpu(result, 0.5)
    assert result.text == "CPU time limit of 0.5 s reached"
    assert (result.stdout, result.exit_code, result.grade) == (b"partial\n", None, 0.0)


@pytest.mark.parametrize(
    "program",
    [
        "(while :; do :; done) & (while :; do :; done) & wait",
        "setsid sh -c 'while :; do :; done' & while :; do sleep 1; done",
        "while :; do /bin/true; done",
    ],
    ids=["children", "a_child_with_a_session_of_its_own", "many_short_lived_children"],
)
def test_cpu_time_is_that_of_the_whole_container(run: Run, shell: str, program: str) -> None:
    result = run(f"echo partial; {program}", image=shell, limits=Limits(cpu_time_s=0.5, wall_time_s=30, cpus=2))
    assert_stopped_by_cpu(result, 0.5)
    assert result.stdout == b"partial\n"


def test_a_program_that_computed_for_too_long_but_ended_is_a_timeout_all_the_same(run: Run) -> None:
    result = run("i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done", limits=Limits(cpu_time_s=0.05, wall_time_s=30))
    assert_stopped_by_cpu(result, 0.05)


def assert_stopped_by_cpu(result: JobResult, limit_s: float) -> None:
    assert result.outcome is Outcome.TIMEOUT, result
    assert limit_s <= float(proof(result)["cpu_time_s"]) < limit_s + 4
    assert source(result, "cpu_time_s") == "CPU counter of the whole container"
    assert result.cpu_time_s is not None and result.cpu_time_s >= limit_s


IDLERS = {
    "sleeps": "sleep 60",
    "stops itself": "kill -STOP $$",
    "ignores all signals": "trap '' HUP INT QUIT TERM PIPE ALRM USR1 USR2; while :; do sleep 60; done",
    "hides in the background": "setsid sh -c 'sleep 60' & wait",
    "waits for a fifo": "mkfifo f; cat f",
    "closes its output": "exec >&- 2>&-; sleep 60",
    "attacks PID 1": "while :; do kill -KILL 1; kill -STOP 1; kill -TERM 1; sleep 1; done 2>/dev/null",
}


def test_a_program_that_idles_for_too_long_is_stopped_by_the_wall_clock(submit: Submit, shell: str) -> None:
    limits = Limits(wall_time_s=1.0)
    found = results({name: submit(f"echo partial; {program}", image=shell, limits=limits) for name, program in IDLERS.items()})
    for name, result in found.items():
        assert (result.outcome, result.text) == (Outcome.TIMEOUT, "wall clock limit of 1 s reached"), name
        assert 1.0 <= float(proof(result)["wall_time_s"]) < 5.0
        assert source(result, "wall_time_s") == "our clock"
        assert result.wall_time_s is not None and 1.0 <= result.wall_time_s < 5.0
        assert (result.stdout, result.exit_code) == (b"partial\n", None)


def test_a_program_that_pauses_for_ever_in_python_is_stopped_by_the_wall_clock(run: Run) -> None:
    program = "import signal; print('partial', flush=True); signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); signal.pause()"
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(wall_time_s=1.0))
    assert (result.outcome, result.stdout) == (Outcome.TIMEOUT, b"partial\n")


def test_a_program_that_reads_standard_input_for_ever_meets_its_end_at_once(run: Run, shell: str) -> None:
    result = run("cat; cat /dev/stdin; while read -r line; do echo $line; done; echo end", image=shell)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"end\n")


# ---- overflow: output


@pytest.mark.parametrize(
    "program",
    ["yes", "cat /dev/zero", "yes >&2", "while :; do echo 1; echo 2 >&2; done", "trap '' PIPE; while :; do yes; done"],
    ids=["lines", "no_newline", "stderr", "both", "will_not_end"],
)
def test_a_program_that_prints_for_ever_is_stopped_by_its_output(run: Run, program: str) -> None:
    result = run(program, limits=Limits(output_kib=64))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "output limit of 64 KiB reached")
    assert int(proof(result)["output_bytes"]) > 65536
    assert source(result, "output_bytes") == "bytes counted"
    assert len(result.stdout) + len(result.stderr) == 65536
    assert result.output_cut
    assert result.grade == 0.0


def test_a_program_that_printed_too_much_and_ended_by_itself_is_an_overflow_too(run: Run, shell: str) -> None:
    result = run("head -c 9000 /dev/zero; echo too much >&2; exit 0", image=shell, limits=Limits(output_kib=8))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "output limit of 8 KiB reached")
    assert 8192 < int(proof(result)["output_bytes"]) <= 9009


def test_a_program_that_printed_exactly_what_it_may_is_fine(run: Run, shell: str) -> None:
    result = run("head -c 8000 /dev/zero; head -c 192 /dev/zero >&2", image=shell, limits=Limits(output_kib=8))
    assert (result.outcome, result.output_cut) == (Outcome.SUCCESS, False)
    assert (result.stdout_bytes, result.stderr_bytes) == (8000, 192)


# ---- overflow: memory


def test_a_program_that_takes_too_much_memory_is_an_overflow(run: Run, shell: str) -> None:
    result = run("echo partial; exec dd if=/dev/zero of=/dev/null bs=200M count=1", image=shell, limits=Limits(memory_mib=32))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "memory limit of 32 MiB reached")
    assert (result.stdout, result.exit_code) == (b"partial\n", 137)
    assert (proof(result)["oom_kills"], proof(result)["exit_code"]) == (1, 137)
    assert source(result, "oom_kills") == CGROUP
    assert result.peak_memory_mib is not None and 28 <= result.peak_memory_mib <= 33


def test_a_program_whose_child_took_too_much_memory_is_an_overflow_when_it_ends_badly(run: Run, shell: str) -> None:
    hog = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    result = run(f"echo partial; {hog} || exit 3", image=shell, limits=Limits(memory_mib=32))
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.OVERFLOW, 3, b"partial\n")
    assert proof(result)["oom_kills"] == 1


def test_a_program_whose_child_took_too_much_memory_is_a_success_when_it_ends_with_0(run: Run, shell: str) -> None:
    hog = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    result = run(f"{hog}; echo went on", image=shell, limits=Limits(memory_mib=32))
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"went on\n")
    assert proof(result) == {"exit_code": 0, "oom_kills": 1}


@pytest.mark.parametrize("folder", ["/job", "/tmp", "/dev/shm"])
def test_files_in_memory_count_as_memory(run: Run, shell: str, folder: str) -> None:
    write = f"dd if=/dev/zero of={folder}/f$n bs=4k count=3000 2>/dev/null"
    program = f"echo partial; for n in 1 2 3 4 5 6 7 8; do {write} || exit 5; done; exit 6"
    result = run(program, image=shell, limits=Limits(memory_mib=16, workspace_mib=200))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "memory limit of 16 MiB reached"), result
    assert result.stdout == b"partial\n"
    assert "oom_kills" in proof(result) or "oom_killed" in proof(result)


# ---- overflow: processes

BOMB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **words) {
    if (fork() == 0)
        for (;;) fork();
    puts("partial");
    fflush(stdout);
    usleep(500000);
    _exit(atoi(words[1]));
}
"""
ZOMBIES = """
import os, sys
made = 0
try:
    while True:
        if os.fork() == 0:
            os._exit(0)
        made += 1
except OSError:
    print(made, flush=True)
    os._exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def bomb(shared_manager: JobManager) -> bytes:
    """A fork bomb that runs in every image; given a number, it ends with it, and its children go on."""
    task = Task(PYTHON, command=["gcc", "-static", "-O", "bomb.c", "-o", "bomb"], files={"bomb.c": BOMB}, collect=["bomb"])
    result = shared_manager.submit(task).result(PATIENCE_S)
    assert result.archive is not None, result
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as tar:
        return tar.extractfile("bomb").read()  # type: ignore[union-attr]


def test_a_fork_bomb_that_ends_badly_is_an_overflow(run: Run, shell: str, bomb: bytes) -> None:
    result = run("chmod +x bomb; exec ./bomb 1", image=shell, files={"bomb": bomb}, limits=Limits(processes=40))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "limit of 40 processes reached"), result
    assert (result.exit_code, result.stdout) == (1, b"partial\n")
    assert int(proof(result)["fork_refusals"]) > 0
    assert source(result, "fork_refusals") == CGROUP


def test_a_fork_bomb_that_ends_with_0_is_a_success_and_its_proof_is_told(run: Run, shell: str, bomb: bytes) -> None:
    result = run("chmod +x bomb; exec ./bomb 0", image=shell, files={"bomb": bomb}, limits=Limits(processes=40))
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"partial\n"), result
    assert int(proof(result)["fork_refusals"]) > 0


def test_a_fork_bomb_that_does_not_end_is_stopped_and_harms_no_neighbour(submit: Submit, run: Run, shell: str) -> None:
    bomb = submit(
        "echo partial; b() { b | b & }; b; while :; do sleep 1; b; done 2>/dev/null", image=shell, limits=Limits(wall_time_s=2)
    )
    assert run("echo fine").stdout == b"fine\n"
    result = bomb.result(PATIENCE_S)
    assert result.outcome in (Outcome.TIMEOUT, Outcome.OVERFLOW)
    assert result.stdout == b"partial\n"


def test_dead_children_that_nobody_waits_for_count_as_processes(run: Run) -> None:
    result = run(["python3", "-c", ZOMBIES, "1"], image=PYTHON, limits=Limits(processes=20))
    assert (result.outcome, result.stdout) == (Outcome.OVERFLOW, b"19\n")


def test_the_last_words_come_though_children_fill_all_room_for_processes(run: Run, shell: str) -> None:
    program = "i=0; while [ $i -lt 9 ]; do sleep 60 & i=$((i+1)); done; exit 3"
    result = run(program, image=shell, limits=Limits(processes=10))
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3)


# ---- overflow: workspace

FILL = {
    "bytes": "dd if=/dev/zero of=big bs=64k 2>/dev/null",
    "inodes": "i=0; while touch f$i 2>/dev/null; do i=$((i+1)); done",
}


@pytest.mark.parametrize("what", FILL)
def test_a_program_that_ends_badly_with_a_full_workspace_is_an_overflow(run: Run, shell: str, what: str) -> None:
    result = run(f"echo partial; {FILL[what]}; exit 3", image=shell, limits=Limits(workspace_mib=2))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "workspace of 2 MiB full")
    assert (result.exit_code, result.stdout) == (3, b"partial\n")
    assert proof(result) == {"workspace_full": 1, "exit_code": 3}
    assert source(result, "workspace_full") == "a write into the workspace"


@pytest.mark.parametrize("what", FILL)
def test_a_program_that_ends_with_0_and_a_full_workspace_is_a_success_and_its_proof_is_told(
    run: Run, shell: str, what: str
) -> None:
    result = run(f"{FILL[what]}; exit 0", image=shell, limits=Limits(workspace_mib=2))
    assert result.outcome is Outcome.SUCCESS
    assert proof(result) == {"exit_code": 0, "workspace_full": 1}


def test_a_program_that_locked_its_workspace_has_not_filled_it(run: Run, shell: str) -> None:
    result = run("chmod 0500 .; exit 3", image=shell)
    assert (result.outcome, proof(result)) == (Outcome.FAILED, {"exit_code": 3})


# ---- crash: a stranger's hand


def test_a_container_that_a_stranger_removed_is_a_crash(submit: Submit, running: Callable[[JobFuture], Container]) -> None:
    job = submit("echo ready; sleep 60")
    running(job).remove(force=True)
    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.CRASH
    assert result.text in ("the container was removed by somebody else", "the container was stopped by somebody else")
    assert (result.stdout, result.exit_code, result.grade) == (b"ready\n", None, 0.0)
    assert {"removed", "stopped_by_stranger"} & proof(result).keys()  # it is stopped first, and that can be seen


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_container_that_a_stranger_stopped_is_a_crash(
    submit: Submit, running: Callable[[JobFuture], Container], how: str, shell: str
) -> None:
    job = submit("echo ready; sleep 60", image=shell)
    getattr(running(job), how)()
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.CRASH, "the container was stopped by somebody else")
    assert (result.stdout, result.exit_code) == (b"ready\n", None)
    assert proof(result)["container_exit_code"] == 137


def test_a_container_that_a_stranger_restarted_is_a_crash(submit: Submit, running: Callable[[JobFuture], Container]) -> None:
    job = submit("echo ready; sleep 60", limits=Limits(wall_time_s=30))
    running(job).restart(timeout=0)
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.stdout) == (Outcome.CRASH, b"ready\n")
    assert "somebody else" in result.text
    assert result.wall_time_s is not None and result.wall_time_s < 20


def test_a_container_that_a_stranger_paused_ends_at_its_deadline(submit: Submit, running: Callable[[JobFuture], Container]) -> None:
    job = submit("echo ready; sleep 60", limits=Limits(wall_time_s=2))
    running(job).pause()
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.stdout) == (Outcome.TIMEOUT, b"ready\n")


# ---- crash: it could not be started


@pytest.mark.parametrize("command", ["nosuch", "/bin/nosuch", "./nosuch", "a'b c"])
def test_a_command_that_does_not_exist_is_a_crash(run: Run, shell: str, command: str) -> None:
    result = run([command, "word"], image=shell)
    assert result.outcome is Outcome.CRASH, result
    assert result.text == f"the program was not started: there is no {command!a} that can be run"
    assert (result.exit_code, result.grade) == (None, 0.0)
    assert source(result, "not_started") == "PID 1"


def test_a_command_that_is_not_executable_is_a_crash(run: Run, shell: str) -> None:
    result = run(["./data"], image=shell, files={"data": "echo hello\n"})
    assert (result.outcome, result.exit_code) == (Outcome.CRASH, None)
    assert result.text == "the program was not started: there is no './data' that can be run"


def test_a_command_that_is_a_folder_is_a_crash(run: Run, shell: str) -> None:
    result = run(["./folder"], image=shell, files={"folder/file": ""})
    assert (result.outcome, result.exit_code) == (Outcome.CRASH, None)


def test_a_command_that_the_programs_own_shell_does_not_find_is_the_programs_failure(run: Run, shell: str) -> None:
    result = run("nosuch", image=shell)
    assert (result.outcome, result.exit_code, result.text) == (Outcome.FAILED, 127, "exit code 127")
    assert b"nosuch" in result.stderr


@contextmanager
def image_of(stranger: docker.DockerClient, tag: str, files: dict[str, bytes]) -> Iterator[str]:
    """A tiny image, gone at the end."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    stranger.api.import_image_from_data(packed.getvalue(), repository=f"jobmanager-test-{os.getpid()}", tag=tag)
    yield from _removed_later(stranger, f"jobmanager-test-{os.getpid()}:{tag}")


@contextmanager
def image_without(stranger: docker.DockerClient, tool: str) -> Iterator[str]:
    """Debian without one of its tools, gone at the end."""
    python = stranger.images.list(filters={"label": f"jobmanager.environment={PYTHON}"})[0]
    maker = stranger.containers.create(python.id, ["sh", "-c", f"rm $(command -v {tool})"], network_disabled=True)
    try:
        maker.start()
        maker.wait(timeout=30)
        maker.commit(f"jobmanager-test-{os.getpid()}", f"no-{tool}", changes="LABEL jobmanager.environment=")
    finally:
        maker.remove(force=True)
    yield from _removed_later(stranger, f"jobmanager-test-{os.getpid()}:no-{tool}")


def _removed_later(stranger: docker.DockerClient, reference: str) -> Iterator[str]:
    try:
        yield reference
    finally:
        stranger.images.remove(reference, force=True)


def only_job(engine_url: str, image: str) -> JobResult:
    """What a job ends in that a manager of its own runs."""
    with JobManager(engine_url) as manager:
        return manager.submit(Task(image, command=["true"])).result(PATIENCE_S)


def test_an_image_without_sh_is_refused_with_what_it_needs(engine_url: str, stranger: docker.DockerClient) -> None:
    with image_of(stranger, "no-sh", {"hello": b"hello"}) as image:
        result = only_job(engine_url, image)
    assert result.outcome is Outcome.CRASH
    assert "has no sh: jobmanager needs sh, head and tar in an image" in result.text
    assert source(result, "start_refused") == "the engine's answer"


@pytest.mark.parametrize("tool", ["tar", "head"])
def test_an_image_without_a_tool_that_is_needed_is_refused_in_words(
    engine_url: str, stranger: docker.DockerClient, tool: str
) -> None:
    with image_without(stranger, tool) as image:
        result = only_job(engine_url, image)
    assert (result.outcome, result.text) == (Outcome.CRASH, f"the program was not started: the image has no {tool}")


def test_an_image_that_is_removed_while_its_job_waits_is_a_crash(engine_url: str, stranger: docker.DockerClient) -> None:
    with (
        image_of(stranger, "short-lived", {"hello": b"hello"}) as image,
        JobManager(DockerHost(engine_url, max_concurrent_jobs=1)) as manager,
    ):
        first = manager.submit(Task(BUSYBOX, command="sleep 1"))
        waiting = manager.submit(Task(image, command=["true"]))
        stranger.images.remove(image)
        result = waiting.result(PATIENCE_S)
        assert first.result(PATIENCE_S).outcome is Outcome.SUCCESS
        stranger.images.get(BUSYBOX).tag(image)  # so that the end of `with` finds what it removes
    assert result.outcome is Outcome.CRASH
    assert "image" in result.text.lower()
    assert (result.exit_code, result.stdout) == (None, b"")


# ---- killed


def test_a_job_that_waits_can_be_killed(engine_url: str) -> None:
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=1)) as manager:
        first = manager.submit(Task(BUSYBOX, command="sleep 60"))
        waiting = manager.submit(Task(BUSYBOX, command="sleep 60"))
        assert manager.kill_job(waiting.job_id)
        result = waiting.result(PATIENCE_S)
        assert manager.kill_job(first.job_id)
        first.result(PATIENCE_S)
        assert not manager.kill_job(waiting.job_id)
    assert (result.outcome, result.text, result.host) == (Outcome.KILLED, "killed: kill_job", None)
    assert (proof(result), source(result, "requested_by")) == ({"requested_by": "kill_job"}, "our own request")
    assert (result.stdout, result.exit_code, result.cpu_time_s, result.grade) == (b"", None, None, 0.0)


def test_a_job_that_runs_can_be_killed(
    shared_manager: JobManager, submit: Submit, running: Callable[[JobFuture], Container], shell: str
) -> None:
    job = submit("echo ready; trap '' TERM INT HUP; while :; do sleep 60; done", image=shell)
    running(job)
    assert shared_manager.kill_job(job.job_id)
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.KILLED, "killed: kill_job")
    assert proof(result) == {"requested_by": "kill_job"}
    assert (result.stdout, result.exit_code, result.grade) == (b"ready\n", None, 0.0)
    assert result.host is not None
    eventually(lambda: not shared_manager.kill_job(job.job_id))


# ---- error


def test_a_result_file_that_cannot_be_read_is_an_error(run: Run, shell: str) -> None:
    result = run("echo partial; echo '{nonsense' > .jobmanager/result.json", image=shell)
    assert result.outcome is Outcome.ERROR
    assert result.text.startswith("the result file cannot be read: it is not JSON")
    assert (result.stdout, result.exit_code, result.grade) == (b"partial\n", 0, 0.0)
    assert source(result, "result_file") == "result.json"
    assert proof(result)["exit_code"] == 0


# ---- the figures


def test_cpu_time_wall_time_and_memory_are_what_the_program_used(run: Run) -> None:
    program = (
        "import time; end = time.process_time() + 0.5; held = bytearray(50_000_000)\n"
        "while time.process_time() < end: pass\n"
        "time.sleep(0.5)"
    )
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(memory_mib=128))
    assert result.outcome is Outcome.SUCCESS
    assert result.cpu_time_s is not None and 0.5 <= result.cpu_time_s < 1.0
    assert result.wall_time_s is not None and 1.0 <= result.wall_time_s < 10.0
    assert result.peak_memory_mib is not None and 47 <= result.peak_memory_mib < 75


def test_a_program_that_does_nothing_used_next_to_nothing(run: Run, shell: str) -> None:
    result = run(["true"], image=shell)
    assert result.cpu_time_s is not None and 0 < result.cpu_time_s < 0.2
    assert result.wall_time_s is not None and 0 < result.wall_time_s < 5
    assert result.peak_memory_mib is not None and 0 < result.peak_memory_mib < 20
    assert set(result.timings) >= {"waiting", "start", "deliver", "run"}
