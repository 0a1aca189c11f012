"""The table of outcomes on a real engine: each cause has its outcome with its proof, and what was printed is kept.

The causes are in ``tests/support/causes.py``; here are those that need an image, a host or a manager of their own.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import psutil
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, Grader, JobFuture, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.runner.binaries import binary
from jobmanager.scheduling import ledger
from tests.conftest import BUSYBOX, SLOWNESS, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit, proof, source
from tests.support.causes import CASES, CAUSES, Cause, apply_external_actions, case_id, ending, promised, submitted
from tests.support.daemons import PrivateDaemon
from tests.support.faults import command_line
from tests.support.printed import wait_until_printed
from tests.support.proxy import INSPECT, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300 * SLOWNESS)]  # the first test waits for all causes


@pytest.fixture(scope="module")
def ended(shared_manager: JobManager, engine_url: str) -> Callable[[Cause, str], JobResult]:
    """Results of all causes, which run side by side."""
    jobs = {(cause.name, image): submitted(shared_manager, cause, image) for cause, image in CASES}
    apply_external_actions(((cause, jobs[cause.name, image]) for cause, image in CASES), shared_manager, engine_url)
    results = {case: job.result(3 * PATIENCE_S) for case, job in jobs.items()}
    return lambda cause, image: results[cause.name, image]


@pytest.mark.case(19, 35, 38)
@pytest.mark.parametrize(("cause", "image"), CASES, ids=map(case_id, CASES))
def test_each_cause_has_its_outcome_its_proof_and_its_output(
    ended: Callable[[Cause, str], JobResult], cause: Cause, image: str
) -> None:
    result = ended(cause, image)
    assert ending(cause, result) in promised(cause)
    assert result.grade == (100.0 if result.outcome is Outcome.SUCCESS else 0.0)
    assert result.output_cut == (cause.cut or "output_cut" in proof(result))
    assert result.host is not None


@pytest.mark.case(38)
def test_what_was_measured_is_past_the_limit(ended: Callable[[Cause, str], JobResult]) -> None:
    for cause, image in CASES:
        shown = proof(ended(cause, image))
        if cause.proof == ("cpu_time_s",):
            assert cause.limits.cpu_time_s <= float(shown["cpu_time_s"]) < cause.limits.cpu_time_s + 4, cause.name
        if cause.proof == ("wall_time_s",):
            assert cause.limits.wall_s <= float(shown["wall_time_s"]) < cause.limits.wall_s + 4, cause.name
        if cause.proof == ("output_bytes",):
            assert int(shown["output_bytes"]) > cause.limits.output_kib * 1024, cause.name


@pytest.mark.case(39)
def test_sigkill_is_told_apart_by_who_killed(ended: Callable[[Cause, str], JobResult]) -> None:
    """The program itself, the kernel for memory, our deadline, a stranger."""
    named = {cause.name: cause for cause in CAUSES}
    killers = ("SIGKILL of its own", "takes too much memory", "attacks PID 1", "a stranger does docker kill")
    results = [ended(named[name], BUSYBOX) for name in killers]
    assert [(result.outcome, result.killed_by, result.evidence[0].kind) for result in results] == [
        (Outcome.FAILED, "program", "signal"),
        (Outcome.OVERFLOW, "kernel", "oom_kills"),
        (Outcome.TIMEOUT, "jobmanager", "wall_time_s"),
        (Outcome.CRASH, "outsider", "stopped_externally"),
    ]
    assert {result.exit_code for result in results} == {None}
    assert len({result.text for result in results}) == 4


# ---- how a program begins


def test_a_program_begins_with_no_signal_blocked_or_ignored(run: Run, shell: str) -> None:
    result = run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], image=shell)
    masks = [int(line.split(b"\t")[1], 16) for line in result.stdout.splitlines()]
    standard = 2**31 - 1  # 1 to 31; the C library keeps 32 and 33 for itself, and whoever starts an engine may ignore them
    assert [mask & standard for mask in masks] == [0, 0]


def test_memory_costs_the_program_its_life_before_pid_1(run: Run, shell: str) -> None:
    result = run("cat /proc/self/oom_score_adj /proc/1/oom_score_adj", image=shell)
    program, pid_1 = map(int, result.stdout.split())
    assert program == 1000 > pid_1


# ---- overflow: output


def test_a_program_that_printed_exactly_what_it_may_is_fine(run: Run, shell: str) -> None:
    result = run("head -c 8000 /dev/zero; head -c 192 /dev/zero >&2", image=shell, limits=Limits(output_kib=8))
    assert (result.outcome, result.output_cut) == (Outcome.SUCCESS, False)
    assert (result.stdout_bytes, result.stderr_bytes) == (8000, 192)


# ---- overflow: memory


def test_a_pid_1_that_the_kernel_killed_for_memory_is_never_taken_for_the_programs_end(
    submit: Submit, running: Callable[[JobFuture], Container], engine_url: str
) -> None:
    """What a program can bring about with luck is done here by root: the engine tells nearly always what it died of."""
    if not engine_url.startswith("unix://"):
        pytest.skip("the processes of this engine's containers are on another machine")
    hog = "echo 0 > /proc/self/oom_score_adj; echo ready; until grep -q 1000 /proc/1/oom_score_adj; do :; done; cat /dev/zero > f"
    job = submit(hog, limits=Limits(memory_mib=16, workspace_mib=64))
    pid_1 = running(job).attrs["State"]["Pid"]
    Path(f"/proc/{pid_1}/oom_score_adj").write_text("1000")
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.evidence[0].kind) in [
        (Outcome.OVERFLOW, "oom_killed"),
        (Outcome.CRASH, "stopped_externally"),
    ]
    assert (result.stdout, result.exit_code, proof(result)["container_exit_code"]) == (b"ready\n", None, 137)


# ---- overflow: processes

BOMB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **words) {
    puts("partial");
    fflush(stdout);
    for (;;) {
        pid_t child = fork();
        if (child < 0)
            _exit(atoi(words[1]));
        if (child == 0)
            for (;;) fork();
    }
}
"""


@pytest.fixture(scope="module")
def bomb(shared_manager: JobManager) -> bytes:
    """A fork bomb that runs in every image: once it is refused a process it ends with a number, and its children go on."""
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


def test_the_last_words_come_though_children_fill_all_room_for_processes(run: Run, shell: str) -> None:
    program = "i=0; while [ $i -lt 9 ]; do sleep 60 & i=$((i+1)); done; exit 3"
    result = run(program, image=shell, limits=Limits(processes=10))
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3)


# ---- overflow: workspace


def test_a_program_that_locked_its_workspace_has_not_filled_it(run: Run, shell: str) -> None:
    result = run("chmod 0500 .; exit 3", image=shell)
    assert (result.outcome, proof(result)) == (Outcome.FAILED, {"exit_code": 3})


# ---- crash: it could not be started


@contextmanager
def image_of(outsider: docker.DockerClient, tag: str, files: dict[str, bytes]) -> Iterator[str]:
    """A tiny image, gone at the end."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    outsider.api.import_image_from_data(packed.getvalue(), repository=f"jobmanager-test-{os.getpid()}", tag=tag)
    yield from _removed_later(outsider, f"jobmanager-test-{os.getpid()}:{tag}")


def _removed_later(outsider: docker.DockerClient, reference: str) -> Iterator[str]:
    try:
        yield reference
    finally:
        outsider.images.remove(reference, force=True)


def test_an_image_without_a_shell_runs_a_list_of_words_and_says_what_it_needs_for_a_text(
    engine_url: str, outsider: docker.DockerClient
) -> None:
    """The runner needs nothing of an image. A static program of ours stands for somebody's."""
    program = binary(outsider.info()["Architecture"]).content
    with image_of(outsider, "no-sh", {"program": program}) as image, JobManager(engine_url) as manager:
        ran, text = (manager.submit(Task(image, command=command)).result(PATIENCE_S) for command in (["/program"], "/program"))
    assert (ran.outcome, ran.text) == (Outcome.FAILED, "exit code 123")  # what it ends with where it is not PID 1
    assert (text.outcome, text.evidence[0].kind) == (Outcome.CRASH, "not_started")
    assert "the image has no sh" in text.text


def test_a_students_container_needs_nothing_of_its_image_either(engine_url: str, outsider: docker.DockerClient) -> None:
    grader = """
import jobmanager_grading as grading
ends = [grading.run_student(command, environment=IMAGE) for command in (["/program"], ["sh", "-c", "true"])]
grading.set_custom("ends", [[end.exit_code, end.text] for end in ends])
grading.set_result("success")
"""
    program = binary(outsider.info()["Architecture"]).content
    with image_of(outsider, "no-sh-students", {"program": program}) as image, JobManager(engine_url) as manager:
        task = Task(PYTHON, grader=Grader(), files={"run.py": grader.replace("IMAGE", repr(image))})
        result = manager.submit(task).result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    ran, shell = result.custom["ends"]
    assert ran[0] == 123  # what it ends with where it is not PID 1
    assert (shell[0], "there is no 'sh'" in shell[1]) == (251, True), shell


@pytest.mark.case(18)
def test_an_image_that_is_removed_while_its_job_waits_is_a_crash(
    engine_url: str, outsider: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_NO_IMAGE_S", 1.0)  # for when its host notices it first
    with (
        image_of(outsider, "short-lived", {"hello": b"hello"}) as image,
        JobManager(DockerHost(engine_url, max_concurrent_jobs=1)) as manager,
    ):
        first = manager.submit(Task(BUSYBOX, command="sleep 1"))
        waiting = manager.submit(Task(image, command=["true"]))
        outsider.images.remove(image)
        result = waiting.result(PATIENCE_S)
        assert first.result(PATIENCE_S).outcome is Outcome.SUCCESS
        outsider.images.get(BUSYBOX).tag(image)  # so that the end of `with` finds what it removes
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.CRASH, None, b"")
    assert result.evidence[0].kind == "no_host"


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


# ---- crash: its host


def test_a_container_that_is_gone_when_it_is_looked_for_was_removed(
    engine_url: str, running: Callable[[JobFuture], Container]
) -> None:
    if not engine_url.startswith("unix://"):
        pytest.skip("the proxy reaches an engine by a unix socket only")
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        job = manager.submit(Task(BUSYBOX, command="echo ready; sleep 60"))
        container = running(job)
        with proxy.hold(INSPECT) as held:
            container.kill()
            assert held.reached.wait(20)
            container.remove(force=True)
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.CRASH, "the container was removed by somebody else")
    assert (result.stdout, proof(result).keys(), source(result, "removed")) == (b"ready\n", {"removed", "output_cut"}, "inspect")


@pytest.mark.parametrize("printed", [100_000, 500_000])
def test_output_that_a_killed_waiter_has_read_is_whole(engine_url: str, outsider: docker.DockerClient, printed: int) -> None:
    """Less than the runner keeps, and more, which the waiter before has kept."""
    others = {child.pid for child in psutil.Process().children()}
    program = f"yes '' | head -n {printed}; echo ready; until [ -f go ]; do sleep 0.1; done; exit 7"
    with JobManager(engine_url) as manager:
        job = manager.submit(Task(BUSYBOX, command=program))
        wait_until_printed(job, b"ready")
        (container,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        for child in psutil.Process().children():
            if child.pid not in others and "jobmanager._waiter" in command_line(child):
                child.kill()
        assert container.exec_run(["touch", "/job/go"], user="65534:65534").exit_code == 0
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.exit_code, result.output_cut) == (Outcome.FAILED, 7, False)
    assert result.stdout == b"\n" * printed + b"ready\n"


def test_a_host_that_does_not_come_back_in_time_is_a_crash_that_keeps_what_was_printed(private_engine: PrivateDaemon) -> None:
    manager = JobManager(private_engine.url, host_lost_timeout_s=1)
    manager.start()
    try:
        job = manager.submit(Task(BUSYBOX, command="echo ready; sleep 60"))
        wait_until_printed(job, b"ready")
        private_engine.kill()
        result = job.result(PATIENCE_S)
    finally:
        private_engine.restart()
        manager.close(kill=True)
    assert (result.outcome, result.evidence[0].kind, result.stdout) == (Outcome.CRASH, "host_lost", b"ready\n")
    assert "could not be reached" in result.text


def test_a_job_that_waited_longer_than_it_may_is_a_crash(engine_url: str) -> None:
    with JobManager([DockerHost(engine_url), DockerHost("unix:///nowhere.sock", name="away")], queue_timeout_s=1) as manager:
        result = manager.submit(Task("perhaps-away:1", command="true")).result(PATIENCE_S)
    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "queue_timeout")
    assert "longer than 1 s" in result.text


def test_a_job_that_waits_behind_others_for_longer_than_its_queue_timeout_is_run(engine_url: str) -> None:
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=1), queue_timeout_s=0.5) as manager:
        jobs = [manager.submit(Task(BUSYBOX, command="sleep 1")) for _ in range(3)]
        results = [job.result(PATIENCE_S) for job in jobs]
    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 3
    assert max(result.timings["waiting"] for result in results) > 1


# ---- the figures


def test_cpu_time_wall_time_and_memory_are_what_the_program_used(run: Run) -> None:
    program = (
        "import time; end = time.process_time() + 0.5; held = bytearray(50_000_000)\n"
        "while time.process_time() < end: pass\n"
        "time.sleep(0.5)"
    )
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(memory_mib=128))
    assert result.outcome is Outcome.SUCCESS
    assert result.cpu_time_s is not None and 0.5 <= result.cpu_time_s < 0.5 + 0.5 * SLOWNESS
    assert result.wall_time_s is not None and 1.0 <= result.wall_time_s < 10.0 * SLOWNESS
    assert result.peak_memory_mib is not None and 47 <= result.peak_memory_mib < 75


def test_a_program_that_does_nothing_used_next_to_nothing(run: Run, shell: str) -> None:
    result = run(["true"], image=shell)
    assert result.cpu_time_s is not None and 0 < result.cpu_time_s < 0.2 * SLOWNESS
    assert result.wall_time_s is not None and 0 < result.wall_time_s < 5 * SLOWNESS
    assert result.peak_memory_mib is not None and 0 < result.peak_memory_mib < 20
    assert set(result.timings) >= {"waiting", "start", "send", "run"}


def test_a_container_whose_run_is_over_leaves_by_itself_and_is_not_killed(
    shared_manager: JobManager, outsider: docker.DockerClient
) -> None:
    began_s = time.time() - 1
    job = shared_manager.submit(Task(BUSYBOX, command=["true"]))
    assert job.result(PATIENCE_S).outcome is Outcome.SUCCESS
    filters = {"label": f"{JOB_LABEL}={job.job_id}", "type": "container"}

    def actions() -> list[str]:
        return [event["Action"] for event in outsider.events(since=began_s, until=time.time(), filters=filters, decode=True)]

    eventually(lambda: "destroy" in actions(), what="its container is removed")
    assert "kill" not in actions()
