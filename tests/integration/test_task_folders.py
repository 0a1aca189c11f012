"""Task folders as INGInious has them, graded on a real engine."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from jobmanager import JobManager, Outcome, Task
from tests.integration.conftest import PATIENCE_S

pytestmark = pytest.mark.engine

LINKS = {"archive": "/task/.jobmanager/archive", "course": "/task/course"}
TASK = "environment_id: python3\nproblems: {program: {type: code}, data: {type: file}}\ninput_random: 1\n"
RUN = """\
#!/bin/sh
getinput data:value > /archive/sent
. /course/common/judge.sh
"""
JUDGE = """\
getinput program > student/program.py
said=$(run_student python3 student/program.py)
getinput @random | feedback-msg
if [ "$said" = "$(getinput @random)" ]; then feedback-result success; else feedback-result failed; fi
"""


@pytest.fixture
def image_with_links(engine_url: str) -> Iterator[str]:
    """An image in which a grader finds the folders that INGInious has at the top."""
    name = f"jobmanager-test-links:{uuid.uuid4().hex}"
    client = docker.DockerClient(base_url=engine_url, timeout=30)
    container = client.containers.create("jobmanager-python:1", "true")
    try:
        container.put_archive("/", links())
        container.commit(*name.split(":"), changes=[f"LABEL jobmanager.environment={name}"])
    finally:
        container.remove()
    yield name
    client.images.remove(name)
    client.close()


def links() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, aim in LINKS.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, aim
            tar.addfile(member)
    return packed.getvalue()


def test_a_grader_finds_its_courses_files_and_the_archive_where_inginious_has_them(
    engine_url: str, image_with_links: str, tmp_path: Path
) -> None:
    """Where the image has the two links that docs/task-folders.md shows."""
    for name, content in {"sum/task.yaml": TASK, "sum/run": RUN, "$common/judge.sh": JUDGE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    task = Task.from_directory(tmp_path / "sum", common=tmp_path / "$common", environment=image_with_links)

    with JobManager(engine_url) as manager:
        answers = {"program": "print([0.5])", "data": {"filename": "sent.bin", "value": b"\0\xff"}}
        notes: list[dict[str, object]] = [{"@random": [0.5]}, {"@random": [0.25]}, {}]
        jobs = [manager.submit(task, {**answers, **note}) for note in notes]
        right, wrong, not_given = [job.result(PATIENCE_S) for job in jobs]

    assert (right.outcome, right.text) == (Outcome.SUCCESS, "[0.5]"), right
    assert (wrong.outcome, wrong.text) == (Outcome.FAILED, "[0.25]"), wrong
    made = json.loads(not_given.text)
    assert len(made) == 1
    assert 0 <= made[0] < 1
    assert right.archive is not None
    with tarfile.open(fileobj=io.BytesIO(right.archive)) as tar:
        sent = tar.extractfile("sent")
        assert sent is not None
        assert sent.read() == b"\0\xff"
