"""How the process of an SSH tunnel ends. A stand-in takes the place of ssh."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import pytest

from jobmanager.ipc.messages import Shutdown, TunnelBroken, TunnelOpen, TunnelSettings
from jobmanager.ssh import tunnel_worker

STAYS = 'for last; do case $last in *:*) : > "${last%%:*}"; esac; done; exec sleep 60'  # -L socket:there is made as a file
FAILS = "exit 255"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Connection, Connection]]:
    """The manager's end and the tunnel process's."""
    monkeypatch.setattr(tunnel_worker, "forward_logs", lambda send: None)
    manager, worker = Pipe()
    with manager, worker:
        yield manager, worker


def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str) -> TunnelSettings:
    stand_in = tmp_path / "bin" / "ssh"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n{ssh}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
    return TunnelSettings(url="ssh://root@somewhere", socket=str(tmp_path / "0.sock"), ssh_config=None)


@pytest.mark.parametrize("ssh", [STAYS, FAILS], ids=["up", "down"])
def test_a_tunnel_process_returns_after_a_shutdown_message(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str
) -> None:
    manager, worker = pipe
    manager.send(settings(tmp_path, monkeypatch, ssh))
    manager.send(Shutdown())

    tunnel_worker.main(worker)


@pytest.mark.parametrize(("ssh", "last"), [(STAYS, TunnelOpen), (FAILS, TunnelBroken)], ids=["up", "down"])
def test_a_tunnel_process_whose_manager_is_gone_raises_so_that_its_folder_is_removed(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str, last: type
) -> None:
    manager, worker = pipe
    manager.send(settings(tmp_path, monkeypatch, ssh))
    send = worker.send

    def send_the_last(message: object) -> None:
        send(message)
        assert isinstance(message, last)
        manager.close()

    monkeypatch.setattr(worker, "send", send_the_last, raising=False)

    with pytest.raises((EOFError, ConnectionResetError)):  # the second where it had not read all
        tunnel_worker.main(worker)
