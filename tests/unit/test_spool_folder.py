"""The folder of a manager's spools goes with the manager, also when that is killed."""

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
from jobmanager.control.secret_store import SecretStore
from jobmanager.control.settings import ManagerSettings
from jobmanager.control.spool_folder import SpoolFolder, remove_abandoned
from jobmanager.model.host import DockerHost
from jobmanager.watching.spool import Spool
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


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_folder_is_made_with_the_first_thing_that_is_kept_and_is_private(temporary: Path) -> None:
    folder = SpoolFolder()
    spool = Spool.in_folder(folder.path, "container")
    assert spool.load() == (0, b"") and list(temporary.iterdir()) == []

    spool.append(b"x")

    (path,) = temporary.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder.remove()
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_what_a_process_left_that_was_killed_with_all_its_waiters_is_removed_by_the_next_manager(temporary: Path) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from jobmanager.control.spool_folder import SpoolFolder\nfrom jobmanager.watching.spool import Spool\n"
        "Spool.in_folder(SpoolFolder().path, 'container').append(b'x'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(temporary)], check=True)
    own, strangers = SpoolFolder(), temporary / "jobmanager-spool-of-somebody"
    Spool.in_folder(own.path, "container").append(b"x")
    strangers.mkdir()
    assert len(list(temporary.iterdir())) == 3

    remove_abandoned()

    assert {str(path) for path in temporary.iterdir()} == {own.path, str(strangers)}


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
    monkeypatch.setattr("jobmanager.control.worker_pool.ProcessPool.warm_up", lambda *_: None)
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


def test_all_waiters_of_a_manager_have_one_folder_until_it_closes(waiters: list[NoChild], temporary: Path) -> None:
    children = children_of_two_hosts()
    children.start()

    folders = {waiter.told[0].spool_folder for waiter in waiters}  # type: ignore[attr-defined]
    assert len(waiters) == 2 and len(folders) == 1
    Spool.in_folder(folders.pop(), "container").append(b"x")
    assert len(list(temporary.iterdir())) == 1
    children.close()
    assert list(temporary.iterdir()) == []


def test_a_manager_without_a_place_for_the_folder_keeps_nothing(
    waiters: list[NoChild], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not" / "there"))
    children = children_of_two_hosts()

    children.start()

    Spool.in_folder(waiters[0].told[0].spool_folder, "container").append(b"x")  # type: ignore[attr-defined]
    assert not (tmp_path / "not").exists()
    children.close()
