"""A manager's private folder goes with the manager, also when that is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobmanager.control import children as children_module
from jobmanager.control.children import Children
from jobmanager.control.manager_folder import ManagerFolder
from jobmanager.control.secret_store import SecretStore
from jobmanager.control.settings import ManagerSettings
from jobmanager.model.host import DockerHost
from tests.conftest import eventually

_MANAGER = """
import sys, time
from jobmanager.ipc.messages import Heartbeat, WaiterSettings
from jobmanager.ipc.process import start_process
from jobmanager.model.host import Address

process, pipe = start_process("jobmanager._waiter")
pipe.send(WaiterSettings(
    address=Address(host="h", url="fake:///nowhere/engine.sock"), manager_id="m", owner="", monitors_host=sys.argv[2] == "True",
    engine_timeout_s=1, host_lost_timeout_s=1, host_check_interval_s=9, reconcile_interval_s=9, spool_folder=sys.argv[1],
))
while not isinstance(pipe.recv(), Heartbeat):
    pass
print(process.pid, flush=True)
time.sleep(1000)
"""


def test_a_folder_is_made_when_it_is_asked_for_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = ManagerFolder()
    assert list(tmp_path.iterdir()) == []

    path = folder.path

    assert folder.path == path and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "file").write_text("x")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("monitors_host", [True, False])
def test_a_manager_that_is_killed_leaves_no_spool(tmp_path: Path, monitors_host: bool) -> None:
    folder = tmp_path / "spools"
    folder.mkdir()
    (folder / "container").write_bytes(b"x" * 1000)
    manager = subprocess.Popen([sys.executable, "-c", _MANAGER, str(folder), str(monitors_host)], stdout=subprocess.PIPE, text=True)
    assert manager.stdout is not None
    with manager.stdout as told:
        waiter = int(told.readline())
        assert folder.exists()

        manager.send_signal(signal.SIGKILL)
        manager.wait(10)

    eventually(lambda: not folder.exists(), what="the folder is gone")
    eventually(lambda: not os.path.exists(f"/proc/{waiter}"), what="the waiter is gone")


class NoChild:
    """In the place of a child process: keeps what it is sent."""

    made: list[NoChild]

    def __init__(self, *_: object) -> None:
        self.made.append(self)
        self.told: list[object] = []

    def send(self, message: object) -> None:
        self.told.append(message)


@pytest.fixture
def waiters(monkeypatch: pytest.MonkeyPatch) -> list[NoChild]:
    monkeypatch.setattr(NoChild, "made", [], raising=False)
    monkeypatch.setattr("jobmanager.control.waiters.Child", NoChild)
    monkeypatch.setattr(children_module, "stop_children", lambda _: None)
    return NoChild.made


def children_of_two_hosts() -> Children:
    settings = ManagerSettings(
        hosts=tuple(DockerHost("unix:///s", name=name) for name in "ab"),
        environments={},
        max_waiting_jobs=1,
        queue_timeout_s=1.0,
        callback_threads=1,
        pool_size=1,
        host_lost_timeout_s=1.0,
        engine_timeout_s=1.0,
        ssh_timeout_s=1.0,
        secrets=SecretStore({}),
    )
    return Children(lambda *_: None, settings, manager_id="m", cannot_start=lambda *_: None)


def test_all_waiters_of_a_manager_have_one_folder_until_it_closes(
    waiters: list[NoChild], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    children = children_of_two_hosts()

    children.start()

    (folder,) = tmp_path.iterdir()
    assert [waiter.told[0].spool_folder for waiter in waiters] == [str(folder), str(folder)]  # type: ignore[attr-defined]
    children.close()
    assert list(tmp_path.iterdir()) == []


def test_a_manager_without_a_place_for_the_folder_starts_without_one(
    waiters: list[NoChild], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not" / "there"))
    children = children_of_two_hosts()

    children.start()

    assert [waiter.told[0].spool_folder for waiter in waiters] == ["", ""]  # type: ignore[attr-defined]
    children.close()
