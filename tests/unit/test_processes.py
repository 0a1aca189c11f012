"""The first and last lines of a child process."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import spawn
from pathlib import Path

import pytest

from jobmanager import JobManager, Outcome, Task
from jobmanager.control import closing as closing_steps
from jobmanager.control.child_process import Child, ChildExited, MessageReceived, how_it_ended
from jobmanager.errors import EngineUnavailable, NotSupported
from jobmanager.ipc import boot, process
from jobmanager.scheduling import hosts
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually


def test_a_parent_whose_pipes_are_closed_a_moment_before_it_is_gone_is_found_to_end(monkeypatch):
    parents = iter([7, 7, 7])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))

    assert process._is_parent_ending(7)


def test_a_parent_that_has_only_closed_its_pipe_is_not_taken_for_one_that_ends(monkeypatch):
    monkeypatch.setattr(process, "_PARENT_EXIT_S", 0.05)

    assert not process._is_parent_ending(os.getppid())


def test_what_a_child_logged_last_is_out_before_it_ends_and_a_record_that_cannot_be_sent_costs_itself():
    sent, flushed = [], []
    handler = process._PipeHandler(sent.append, lambda: flushed.append(len(sent)))
    handler.emit(logging.makeLogRecord({"msg": "%d and %d", "args": (1,)}))
    handler.emit(logging.makeLogRecord({"msg": "last"}))
    handler.flush()

    assert [line.record.getMessage() for line in sent] == ["last"]
    assert flushed == [1]


def test_a_child_that_can_start_no_thread_to_tidy_up_ends_with_its_parent_all_the_same(monkeypatch):
    def none_left(_):
        raise RuntimeError("can't start new thread")

    left = []
    monkeypatch.setattr(process, "_wait_for_end", lambda parent: None)
    monkeypatch.setattr(os, "_exit", left.append)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(threading.Thread, "start", none_left)
        process._exit_with_parent(1, lambda: None)

    assert left == [0]


# ---- what a child imports


def installed(place: Path, *names: str) -> str:
    """A folder in which pip has put packages of these names."""
    for name in names:
        package(place, name)
        (place / f"{name}-1.0.dist-info").mkdir()
    return str(place)


def package(place: Path, name: str) -> str:
    (place / name).mkdir(parents=True)
    (place / name / "__init__.py").write_text("")
    return str(place)


def test_packages_come_from_where_they_were_installed_whatever_of_their_name_lies_before(tmp_path):
    script = tmp_path / "script"
    script.mkdir()
    (script / "docker.py").write_text("")
    flat = package(tmp_path / "flat", "requests")
    right = installed(tmp_path / "right", *boot.NEEDED)

    assert boot.package_folders([str(script), flat, right, installed(tmp_path / "later", "docker")]) == [right]


def test_each_package_may_lie_in_a_place_of_its_own_and_the_caller_s_order_is_kept(tmp_path):
    first = installed(tmp_path / "first", "docker", "requests")
    second = installed(tmp_path / "second", "psutil", "urllib3")

    assert boot.package_folders([second, "/nowhere", first]) == [second, first]


def test_a_package_of_which_nothing_tells_that_it_was_installed_is_taken_as_in_a_zip_file(tmp_path):
    zipped = str(tmp_path / "app.pyz")
    with zipfile.ZipFile(zipped, "w") as packed:
        for name in ("docker", "requests", "urllib3"):
            packed.writestr(f"{name}/__init__.py", "")
    (tmp_path / "docker.py").write_text("")
    right = installed(tmp_path / "right", "psutil")

    assert boot.package_folders([str(tmp_path), zipped, right]) == [zipped, right]


def test_a_package_that_was_installed_to_be_edited_is_found_where_it_lies(tmp_path):
    place = tmp_path / "site-packages"
    installed(place, "requests", "urllib3", "psutil")
    (place / "docker-7.2.0.dist-info").mkdir()  # all that `pip install -e` leaves there, beside a .pth file
    source = package(tmp_path / "source", "docker")
    script = package(tmp_path / "script", "docker")

    assert boot.package_folders([str(place), source, script]) == [str(place), source]


def test_a_child_imports_what_it_needs_and_not_all_public_names():
    code = "import sys, jobmanager._waiter, jobmanager._pool_worker; print(*sys.modules)"

    done = subprocess.run(process.command("builtins:exec", code), env=process.environment(), capture_output=True, check=True)

    imported = set(done.stdout.decode().split())
    assert {"jobmanager", "jobmanager._waiter"} <= imported
    assert not {"jobmanager.manager", "jobmanager.client", "jobmanager.scheduling.ledger"} & imported


def test_a_folder_of_the_caller_s_that_is_no_package_is_not_taken_for_one(tmp_path):
    (tmp_path / "docker").mkdir()

    assert boot.package_folders([str(tmp_path)]) == []


def test_a_child_that_is_started_later_finds_what_the_first_one_found_whatever_has_become_of_the_path(monkeypatch):
    monkeypatch.setattr(process, "_first_path", [])
    monkeypatch.setattr(sys, "path", ["/first", "/second"])
    assert process._path() == ["/first", "/second"]

    monkeypatch.setattr(sys, "path", ["/third", "/second"])

    assert process._path() == ["/first", "/second", "/third"]


def run_in_child(code: str, folder: Path) -> str:
    """What it prints in a process that is started as ours are, in this folder."""
    command = process.command("builtins:exec", code)
    done = subprocess.run(command, env=process.environment(), cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_library_comes_from_where_the_caller_has_it_and_its_folder_is_not_on_the_path(tmp_path):
    package(tmp_path, "jobmanager")

    home = "os.path.dirname(jobmanager.__path__[0])"
    said = run_in_child(f"import jobmanager, os, sys; print(jobmanager.__file__, {home} in sys.path, '' in sys.path)", tmp_path)

    assert said == f"{Path(process.__file__).parents[1] / '__init__.py'} False False"


# ---- where no child can be had


def of(module: str) -> type:
    """A class that is told to come from this module."""
    return type("Patched", (), {"__module__": module})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda patch: patch.setattr(sys, "frozen", True, raising=False), "a frozen application has no Python"),
        (lambda patch: patch.setattr(process, "_is_child", True), "a process that the library has started cannot start"),
        (lambda patch: patch.setattr(socket, "socket", of("gevent._socket3")), "gevent has patched"),
        (lambda patch: patch.setattr(subprocess, "Popen", of("eventlet.green.subprocess")), "eventlet has patched"),
    ],
    ids=["frozen", "child", "gevent", "eventlet"],
)
def test_start_refuses_in_one_line_where_there_can_be_no_children(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    manager = JobManager("unix:///nowhere")
    with monkeypatch.context() as patch:
        spoil(patch)
        with pytest.raises(NotSupported, match=why):
            manager.start()
    manager.close()


UNDER = """
from jobmanager import JobManager
from jobmanager.errors import NotSupported
try:
    JobManager("unix:///x").start()
except NotSupported as no:
    print(no)
"""


@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("gevent", "from gevent import monkey; monkey.patch_all(socket=False, subprocess=False)"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_start_refuses_in_one_line_under_the_real_ones(library: str, patch: str) -> None:
    pytest.importorskip(library)

    command = [sys.executable, "-W", "ignore", "-c", patch + UNDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.startswith(f"{library} has patched the standard library")


INTERPRETERS = ["python", "python3", "python3.11", "python3.13t", "python3.11-dbg", "Python", "pypy3", "pypy3.10"]


@pytest.mark.parametrize("name", INTERPRETERS)
def test_an_interpreter_is_known_by_its_whole_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: f"/opt/{name}")

    assert process._python() == f"/opt/{name}"


@pytest.mark.parametrize("name", ["python-grader", "pythonista", "uwsgi", "my-python3", "", "app"])
def test_a_program_that_only_begins_like_one_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: f"/opt/{name}")

    assert process._python() == os.path.join(sys.exec_prefix, "bin", "python3")


# ---- why a child died


def last_of(module: str) -> ChildExited:
    heard: list[MessageReceived | ChildExited] = []
    child = Child(module, heard.append)
    gone = eventually(lambda: next((each for each in heard if isinstance(each, ChildExited)), None), within_s=30)
    child.end(1.0)
    return gone


def test_a_child_says_itself_what_it_could_not_import() -> None:
    assert last_of("jobmanager._nothing").why == "ModuleNotFoundError: No module named 'jobmanager._nothing'"


def test_a_child_whose_main_function_fails_says_why() -> None:
    assert last_of("jobmanager.errors").why == "AttributeError: module 'jobmanager.errors' has no attribute 'main'"


@pytest.mark.parametrize(("code", "said"), [(1, "exit code 1"), (-9, "ended by SIGKILL"), (-50, "ended by signal 50")])
def test_a_child_that_could_say_nothing_is_known_by_its_end(code: int, said: str) -> None:
    assert how_it_ended(code) == said


def unavailable(manager: JobManager) -> str:
    with pytest.raises(EngineUnavailable) as refused:
        manager.start()
    manager.close()
    return str(refused.value)


def test_start_says_that_there_is_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: "/nowhere/python3")

    assert "cannot be started: [Errno 2] No such file or directory: '/nowhere/python3'" in unavailable(JobManager("unix:///x"))


def test_start_says_that_the_interpreter_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 77\n")
    python.chmod(0o755)
    monkeypatch.setattr(spawn, "get_executable", lambda: str(python))

    assert "died at once: exit code 77" in unavailable(JobManager("unix:///x"))


def test_start_says_what_the_waiter_could_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_path", list)

    assert "ModuleNotFoundError: No module named 'psutil'" in unavailable(JobManager("unix:///x"))


def test_start_says_what_the_docker_adapter_could_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    psutil_alone = tmp_path / "psutil"
    psutil_alone.symlink_to(Path(sys.modules["psutil"].__file__ or "").parent)
    monkeypatch.setattr(process, "_path", lambda: [str(tmp_path)])

    assert "ModuleNotFoundError: No module named 'docker'" in unavailable(JobManager("unix:///x"))


def test_a_job_over_which_every_pool_worker_dies_says_why_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    command = process.command

    def without_workers(target: str, *arguments: object, report_to: int | None = None) -> list[str]:
        arguments = ("jobmanager.errors", *arguments[1:]) if arguments[0] == "jobmanager._pool_worker" else arguments
        return command(target, *arguments, report_to=report_to)

    monkeypatch.setattr(process, "command", without_workers)
    monkeypatch.setattr(hosts, "_BACKOFF_S", (0.1,))
    monkeypatch.setattr(closing_steps, "AT_CLOSE", replace(closing_steps.AT_CLOSE, delete_s=0.5))
    with FakeEngineServer() as fake, JobManager(fake.url) as manager:
        result = manager.submit(Task("busybox", command="true")).result(60)

    assert result.outcome is Outcome.CRASH
    assert "AttributeError: module 'jobmanager.errors' has no attribute 'main'" in result.text
