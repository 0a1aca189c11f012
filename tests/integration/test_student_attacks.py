"""Attacks of a submitter's program on its grader: on the files, the result, the processes and the sockets of its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobmanager import Grader, JobInput, JobManager, JobResult, Limits, Network, Outcome, Task
from tests.integration.conftest import PATIENCE_S, PYTHON

pytestmark = pytest.mark.engine

PROBE = (Path(__file__).parent / "student_probe.py").read_text()
ATTEMPTS = ["secrets", "strangers", "ptrace", "symlink", "symlink in tmp", "fifo", "device", "lease", "hard link out", "sockets"]
GRADER = """
import json, os, stat
import jobmanager_grading as grading

token = "0123"
found = {}
for name, options in (("alone", {}), ("shared", {"share_network": True})):
    end = grading.run_student(["python3", "student/probe.py", token, name], **options)
    found[name] = json.loads(end.stdout.splitlines()[0])
    found[name + " said"] = end.stdout[:20000].decode("latin1")
    found[name + " end"] = [end.exit_code, end.outcome, end.stderr.decode("latin1")]
bomb = grading.run_student(["python3", "student/probe.py", "bomb"])
found["bomb end"] = [bomb.exit_code, bomb.outcome]
found["kinds"] = sorted({stat.S_IFMT(os.lstat(os.path.join(folder, name)).st_mode)
    for folder, folders, files in os.walk("student") for name in folders + files})
found["intact"] = open("secret.txt").read(), sorted(os.listdir(".jobmanager")), sorted(os.listdir("/task"))
grading.set_custom("found", found)
grading.set_result("failed")
grading.set_grade(1)
"""


@pytest.fixture(scope="module")
def result(shared_manager: JobManager) -> JobResult:
    """Of a job whose students try everything."""
    files = {"run.py": GRADER, "secret.txt": "the answer is 42", "student/probe.py": PROBE}
    task = Task(
        PYTHON,
        grader=Grader(student_memory_mib=128),
        files=files,
        network=Network.LOOPBACK,
        limits=Limits(memory_mib=128, workspace_mib=8, processes=20, cpu_time_s=30, wall_time_s=90),
    )
    return shared_manager.submit(task, JobInput({"@state": "s"})).result(PATIENCE_S)


@pytest.fixture(scope="module")
def found(result: JobResult) -> dict[str, Any]:
    assert result.outcome is Outcome.FAILED, result
    found = result.custom["found"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("network", ["alone", "shared"])
@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_submitters_program_gets_nowhere(found: dict[str, Any], what: str, network: str) -> None:
    assert not found[network][what], found[network]


def test_a_submitters_program_sees_its_own_container_only(found: dict[str, Any]) -> None:
    assert found["alone"]["listing"] == [".jobmanager", "student"]
    assert set(found["alone"]["signalled"]) <= {1}  # its own PID 1, which takes no notice


def test_forged_answers_archives_and_messages_are_output_and_no_more(result: JobResult, found: dict[str, Any]) -> None:
    assert (result.outcome, result.grade, result.text, result.state) == (Outcome.FAILED, 1, "", "s")
    assert result.archive is None
    assert found["alone end"][:2] == [0, "success"]
    assert "forged" in found["alone said"] and "\x1e0123 bye" in found["alone said"]


def test_files_of_the_shared_folder_are_plain_files_and_folders(found: dict[str, Any]) -> None:
    assert found["kinds"] == [0o040000, 0o100000]


def test_the_grader_is_as_it_was_after_a_fork_bomb_and_a_full_folder(found: dict[str, Any]) -> None:
    secret, private, task = found["intact"]
    assert secret == "the answer is 42"
    assert "result.json" not in private and "forged" not in private
    assert sorted(task) == [".jobmanager", "run.py", "secret.txt", "student"]
    assert found["bomb end"] == [252, "overflow"]
