"""Nothing that the runner, or a grader's supervisor, needs after a program's end is shared with it: its last words always come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import docker
import pytest

from jobmanager import Grader, JobManager, JobResult, Limits, Outcome, Task
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit

pytestmark = pytest.mark.engine

AT_ONCE = 6  # so that pipes stay full for a while
FILLS = """
import os, sys, time
open(".jobmanager/result.json", "w").write('{"result": "failed", "text": "wrong"}')
streams = [int(word) for word in sys.argv[1:]]
for fd in streams:
    os.set_blocking(fd, False)
def fill(fd, size):
    try:
        for _ in range(70_000):
            os.write(fd, b"y" * size)
    except BlockingIOError:
        pass
for _ in range(200):
    for fd in streams:
        fill(fd, 4096)
    time.sleep(0.001)
for fd in streams:
    fill(fd, 1)
"""
SCARCE = """
echo '{"result": "failed", "text": "wrong"}' > .jobmanager/result.json
umask 777; ulimit -f 0; ulimit -n 3; trap '' HUP INT TERM PIPE; exit 0
"""
NAMES = ("IFS_", "CDPATH", "ENV", "PS4", "LANG", "TERM", "A", "TAR_OPTIONS", "LD_PRELOAD_", "JOBMANAGER_X")
GRADER = """
import os, subprocess, sys
import jobmanager_grading as grading
sys.stdout.write("y" * 3000)
sys.stdout.flush()
os.set_blocking(1, False)
try:
    for _ in range(70_000):
        os.write(1, b"y")
except BlockingIOError:
    pass
seen = [grading.run_student(["sh", "-c", "cat; exit %d" % code], b"x" * 100_000) for code in (3, 4)]
grading.set_custom("seen", [[end.exit_code, len(end.stdout)] for end in seen])
grading.set_result("success")
"""


HOLDS = """
import os, socket, sys
silent, _ = socket.socketpair()
try:
    if sys.argv[1] == "splice":
        os.splice(silent.fileno(), 1, 65536)
    else:
        os.sendfile(1, silent.fileno(), None, 65536)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("call", ["splice", "sendfile"])
def test_a_program_cannot_wait_with_the_lock_of_its_output_so_that_nobody_can_end_its_container(
    submit: Submit, call: str
) -> None:
    """Who reads, writes or closes the pipe then, as PID 1 does, cannot be killed. So both calls fail, and programs copy."""
    result = submit(["python3", "-c", HOLDS, call], image=PYTHON, limits=Limits(wall_time_s=20)).result(PATIENCE_S)

    assert (result.outcome, result.stdout_text) == (Outcome.SUCCESS, "Invalid argument\n"), result


@pytest.mark.parametrize("streams", [["1"], ["1", "2"]], ids=["stdout", "both"])
def test_a_program_that_leaves_its_output_full_and_non_blocking_does_not_cost_its_result_file(
    submit: Submit, streams: list[str]
) -> None:
    limits = Limits(output_kib=2**20, wall_time_s=60)
    task = {"image": PYTHON, "files": {"p.py": FILLS}, "limits": limits}
    jobs = [submit(["python3", "p.py", *streams], **task) for _ in range(2 * AT_ONCE)]
    results = [job.result(2 * PATIENCE_S) for job in jobs]
    assert {(result.outcome, result.text, result.exit_code) for result in results} == {(Outcome.FAILED, "wrong", 0)}


def test_a_program_that_lays_down_limits_and_masks_does_not_cost_its_result_file(run: Run, shell: str) -> None:
    result = run(SCARCE, image=shell)
    assert (result.outcome, result.text, result.exit_code) == (Outcome.FAILED, "wrong", 0), result


def test_a_student_that_leaves_its_output_full_and_non_blocking_still_ends_by_itself(run: Run) -> None:
    grader = """#!/bin/sh
for number in 1 2 3; do
  run_student python3 student/p.py 1 2 >/dev/null 2>&1
  feedback-msg -a -m "$? "
done
feedback-result success
"""
    program = FILLS.replace("open(", "0 and open(", 1) + "os._exit(3)\n"
    result = run(
        image=PYTHON,
        grader=Grader(),
        files={"run": grader, "student/p.py": program},
        limits=Limits(output_kib=2**20, wall_time_s=90, memory_mib=64),
    )
    assert (result.outcome, result.text.split()) == (Outcome.SUCCESS, ["3", "3", "3"]), result


def test_a_grader_that_leaves_its_output_full_and_non_blocking_still_talks_to_its_students(run: Run) -> None:
    limits = Limits(output_kib=2**20, wall_time_s=60, memory_mib=64)
    result = run(image=PYTHON, grader=Grader(), files={"run.py": GRADER}, limits=limits)
    assert result.outcome is Outcome.SUCCESS, result
    assert result.custom["seen"] == [[3, 100_000], [4, 100_000]]


# ---- names


@pytest.fixture
def with_env(engine_url: str, outsider: docker.DockerClient) -> Iterator[Callable[[str, Mapping[str, str], str], JobResult]]:
    """Runs a command in an image that has these variables."""
    made: list[str] = []

    def run(image: str, env: Mapping[str, str], command: str) -> JobResult:
        found = "jobmanager-python:4" if image == PYTHON else image
        maker = outsider.containers.create(found, ["true"])
        changes = [*(f"ENV {name}={value}" for name, value in env.items()), "LABEL jobmanager.environment="]
        made.append(maker.commit("jobmanager-test-env", f"v{len(made)}", changes="\n".join(changes)).tags[0])
        maker.remove()
        with JobManager(engine_url) as manager:
            return manager.submit(Task(made[-1], command=command)).result(PATIENCE_S)

    yield run
    for tag in made:
        outsider.images.remove(tag, force=True)


def test_a_program_sees_every_variable_of_its_image_as_it_is_there_and_none_of_the_runners(
    with_env: Callable[[str, Mapping[str, str], str], JobResult], shell: str
) -> None:
    given = {name: f"of-the-image-{name}" for name in NAMES}
    result = with_env(shell, given, "env; exit 3")
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3), result
    seen = dict(line.split("=", 1) for line in result.stdout_text.splitlines())
    assert {name: seen.get(name) for name in given} == given
    assert seen.keys() - given.keys() <= {"HOME", "HOSTNAME", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
