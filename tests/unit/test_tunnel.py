"""The keeper of an SSH tunnel: how it ends. A stand-in for ssh, as only the keeper is looked at here."""

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
    """The manager's end and the keeper's."""
    monkeypatch.setattr(tunnel_worker, "forward_logs", lambda send: None)
    manager, keeper = Pipe()
    with manager, keeper:
        yield manager, keeper


def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str) -> TunnelSettings:
    stand_in = tmp_path / "bin" / "ssh"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n{ssh}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
    return TunnelSettings(url="ssh://root@somewhere", socket=str(tmp_path / "0.sock"), ssh_config=None)


@pytest.mark.parametrize("ssh", [STAYS, FAILS], ids=["up", "down"])
def test_a_keeper_that_is_told_to_stop_returns(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str
) -> None:
    manager, keeper = pipe
    manager.send(settings(tmp_path, monkeypatch, ssh))
    manager.send(Shutdown())

    tunnel_worker.main(keeper)


@pytest.mark.parametrize(("ssh", "last"), [(STAYS, TunnelOpen), (FAILS, TunnelBroken)], ids=["up", "down"])
def test_a_keeper_whose_manager_is_gone_tells_so_that_its_folder_is_tidied_up(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str, last: type
) -> None:
    manager, keeper = pipe
    manager.send(settings(tmp_path, monkeypatch, ssh))
    send = keeper.send

    def send_the_last(message: object) -> None:
        send(message)
        assert isinstance(message, last)
        manager.close()

    monkeypatch.setattr(keeper, "send", send_the_last, raising=False)

    with pytest.raises((EOFError, ConnectionResetError)):  # the second where it had not read all
        tunnel_worker.main(keeper)
