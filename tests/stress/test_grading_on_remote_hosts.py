"""Grading jobs with student containers on hosts of all kinds: their links and streams go over TLS, and through a tunnel of SSH."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait
from pathlib import Path

import pytest

from jobmanager import Code, Grader, JobInput, JobManager, Limits, Outcome, Task
from tests.conftest import eventually, our_containers, our_volumes
from tests.stress.conftest import PYTHON
from tests.support.fleet import fleet

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

RUN = """#!/bin/sh
getinput code > student/answer.py
for word in one two three; do
  printf '%s\\n' "$word" | run_student python3 student/answer.py > "said-$word"
  echo "$word $?"
done
[ "$(cat said-one said-two said-three | wc -c)" = 600012 ] && feedback-result success || feedback-result failed
archive -a said-two
"""
ANSWER = "import sys; word = input(); print(word[:3], 'x' * 199_999); sys.exit(len(word))"
TASK = Task(
    PYTHON,
    grader=Grader(),
    files={"run": RUN},
    problems={"code": Code("code.txt")},
    limits=Limits(memory_mib=128, wall_time_s=120),
)


def test_graders_and_their_students_run_on_hosts_of_all_kinds(python_tar: Path, tmp_path: Path) -> None:
    with fleet(tmp_path, python_tar, of_each=1) as members:
        with JobManager([member.host for member in members]) as manager:
            eventually(lambda: all(record.up for record in manager.hosts()), what="all hosts are up")
            futures = [manager.submit(TASK, JobInput({"code": ANSWER})) for _ in range(2 * len(members))]
            wait(futures, timeout=120)
            results = [future.result(0) for future in futures]

        assert Counter(result.host for result in results) == {member.host.name: 2 for member in members}
        for result in results:
            assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"one 3\ntwo 3\nthree 5\n"), result
            assert result.archive is not None
        assert not any(our_containers(member.daemon.url) or our_volumes(member.daemon.url) for member in members)
