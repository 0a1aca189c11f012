"""An engine with ``userns-remap``: a container's users are others on the host, and volumes are mounted there."""

from __future__ import annotations

import io
import pwd
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from jobmanager import Case, DockerHost, Grader, Interactor, JobManager, Limits, Outcome, Task
from jobmanager.doctor import examine
from tests.conftest import BUSYBOX
from tests.integration.conftest import PYTHON, Run
from tests.support.daemons import PrivateDaemon

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

_REMAPPED = "dockremap"  # the user that the engine makes, with a range of ids
_IMAGES = (BUSYBOX, "jobmanager-python:4")
GRADER = """
import os
import jobmanager_grading as grading

open("student/question", "w").write("for the student\\n")
end = grading.run_student(["sh", "-c", "cat question && cp question answer && touch /task/mine"], folder="student")
grading.set_result("success" if end.exit_code == 0 and open("student/answer").read() == "for the student\\n" else "failed")
print(end.stdout, end.stderr)
os.makedirs(".jobmanager/archive", exist_ok=True)
open(".jobmanager/archive/report", "w").write("report")
"""


@pytest.fixture(scope="module")
def remapped_user() -> Iterator[None]:
    """The user is as before afterwards: not there, unless it was."""
    was_there = _REMAPPED in {user.pw_name for user in pwd.getpwall()}
    yield
    if not was_there:
        subprocess.run(["userdel", _REMAPPED], check=True, capture_output=True)  # takes its range of ids along


@pytest.fixture(scope="module")
def daemon(engine_urls: list[str], remapped_user: None) -> Iterator[PrivateDaemon]:
    folder = Path(tempfile.mkdtemp(prefix="jm-remap-", dir="/tmp"))
    folder.chmod(0o711)  # its containers' users pass through
    (folder / "data").mkdir(mode=0o711)
    try:
        with PrivateDaemon(folder, extra_args=("--userns-remap=default",)) as daemon:
            for image in _IMAGES:
                daemon.load_image(_saved(engine_urls[0], image, folder / "image.tar"))
            yield daemon
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def engine_url(daemon: PrivateDaemon) -> str:
    """The file's manager and the look at what is left behind are for this engine."""
    return daemon.url


def _saved(url: str, image: str, tar: Path) -> Path:
    with closing(docker.APIClient(base_url=url, version="1.41", timeout=60)) as client, tar.open("wb") as file:
        file.writelines(client.get_image(image))
    return tar


def files_of(archive: bytes | None) -> dict[str, bytes]:
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_the_program_is_the_same_user_inside_and_another_one_on_the_host(run: Run, shell: str) -> None:
    result = run("id -u; read -r inside outside many < /proc/self/uid_map; echo $inside $((outside > 0)) $many", image=shell)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"65534\n0 1 65536\n"), result


def test_files_come_in_can_be_changed_and_come_back(run: Run, shell: str) -> None:
    program = "cat given && echo more >> given && mkdir made && mv given made/copy && echo x > /tmp/x && echo x > /dev/shm/x"
    result = run(program, image=shell, files={"given": "text\n"}, collect=["*"])
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"text\n"), result
    assert files_of(result.archive) == {"made/copy": b"text\nmore\n"}


def test_the_workspace_has_its_size(run: Run, shell: str) -> None:
    result = run("cat /dev/zero > f || exit 3", image=shell, limits=Limits(workspace_mib=2))
    assert (result.outcome, result.text) == (Outcome.OVERFLOW, "workspace of 2 MiB full"), result


def test_a_grader_and_its_student_share_their_folder(run: Run) -> None:
    result = run(image=PYTHON, grader=Grader(), files={"run.py": GRADER})
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"b'for the student\\n' b''\n"), result
    assert files_of(result.archive) == {"report": b"report"}


@pytest.mark.timeout(180)
def test_a_submission_talks_with_its_interactor_and_nothing_is_left_for_the_next_case(engine_url: str) -> None:
    """The fifos belong to another user on the host; places are cleared by the user that is remapped."""
    check = Interactor(Task(BUSYBOX, command="read x; echo $x; [ $x = 1 ]"))
    program = "[ -e /tmp/x ] && exit 3; touch /tmp/x; echo 1; read x; [ $x = 1 ]"
    with JobManager(DockerHost(engine_url)) as manager:
        result = manager.submit(Task(BUSYBOX, command=program, cases=[Case("", check=check) for _ in range(3)])).result(60)
    assert [(case.outcome, case.correct) for case in result.cases] == [(Outcome.SUCCESS, True)] * 3, result


def test_two_programs_run_in_one_student_container(run: Run) -> None:
    grader = """
import jobmanager_grading as grading
with grading.open_submission() as submission:
    ends = [submission.run(["sh", "-c", "ls /tmp; touch /tmp/x; echo y >> student/kept"]) for _ in range(3)]
print([end.stdout for end in ends], open("student/kept").read().split())
grading.set_result("success")
"""
    result = run(image=PYTHON, grader=Grader(), files={"run.py": grader})
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"[b'', b'', b''] ['y', 'y', 'y']\n"), result


def test_the_doctor_finds_that_every_limit_holds_and_says_that_users_are_remapped(daemon: PrivateDaemon) -> None:
    report = examine(DockerHost(daemon.url), image=BUSYBOX)
    assert report.all_enforced, [probe for probe in report.probes if not probe.enforced]
    assert "userns" in report.about.security
