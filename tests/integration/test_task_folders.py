"""Task folders as INGInious has them, graded on a real engine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from jobmanager import JobManager, Outcome, Task
from tests.integration.conftest import PATIENCE_S

pytestmark = pytest.mark.engine

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


def test_a_grader_finds_its_courses_files_and_the_archive_where_inginious_has_them(engine_url: str, tmp_path: Path) -> None:
    for name, content in {"sum/task.yaml": TASK, "sum/run": RUN, "$common/judge.sh": JUDGE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    task = Task.from_directory(tmp_path / "sum", common=tmp_path / "$common")

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
