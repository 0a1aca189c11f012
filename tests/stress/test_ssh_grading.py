"""A person logs in to a grading container, and starts the grader there by hand: on an image with Python and an sshd, of 300 MB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, Grader, JobInput, JobManager, Limits, Outcome, Task
from jobmanager.ssh import debug_session
from tests.conftest import eventually, our_containers, our_volumes
from tests.integration.test_ssh_debug import Heard
from tests.stress.conftest import PYTHON
from tests.support.daemons import PrivateDaemon
from tests.support.ssh_client import IMAGE, Person, make_image

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

RUN = """#!/bin/sh
run_student cat student/answer > said
feedback-msg -m "the student said $(cat said)"
feedback-grade 70
feedback-result success
"""


@pytest.fixture(scope="module")
def daemon(python_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path_factory.mktemp("ssh-grading"), bridge=True) as daemon:
        daemon.load_image(python_tar)
        make_image(daemon, base=PYTHON)
        yield daemon


@pytest.mark.parametrize("grader", [Grader(), Grader("sh ./run")], ids=["its script", "its command"])
def test_a_grader_that_is_started_by_hand_in_a_session_has_its_commands_and_its_students(
    daemon: PrivateDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grader: Grader
) -> None:
    monkeypatch.setattr(debug_session, "_GRACE_S", 1)
    person, heard = Person(daemon, tmp_path), Heard()
    task = Task(IMAGE, grader=grader, files={"run": RUN, "student/answer": "42"}, limits=Limits(memory_mib=128))
    with JobManager(DockerHost(daemon.url)) as manager:
        manager.new_job(task, JobInput({"@lang": "en"}), heard.result, debug="ssh", ssh_callback=heard.ssh)
        login = heard.login()
        asked = person.runs(login, "pwd; getinput @lang")
        run = person.runs(login, "sh .jobmanager/run; echo exit code $?")
        result = heard.end()

    assert asked.stdout == b"/task\nen"
    assert run.stdout == b"exit code 0\n", run
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 70.0), result
    assert "the student said 42" in result.text
    eventually(lambda: not our_containers(daemon.url) and not our_volumes(daemon.url), what="nothing is left behind")
