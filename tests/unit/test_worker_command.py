"""`jobmanager worker`: what it refuses before it starts anything, and what it tells the client of an SSH session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobmanager import cli
from jobmanager.command_line.printing import USAGE
from jobmanager.errors import InvalidValue
from jobmanager.remote import worker_command
from jobmanager.remote.node_events import NodeEvents
from jobmanager.remote.node_jobs import NodeJobs
from jobmanager.remote.records import ClientEvent
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import Keyring
from jobmanager.remote.worker_command import FileSecrets, default_name
from tests.unit.test_node_jobs import job

KEY = "5a" * 32
PLACE = ["worker", "--redis", "redis://127.0.0.1:1/0"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMANAGER_KEY", KEY)
    monkeypatch.delenv("JOBMANAGER_KEY_FILE", raising=False)
    monkeypatch.setattr(worker_command, "log_to_stderr", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "n 1"], "--name must be 1 to 64 letters"),
        (["--secret", "token"], "--secret must be like NAME=VALUE, not 'token'"),
        (["--secret", "token=/nowhere"], "the file of the secret 'token' cannot be read"),
        (["--environment", "=image"], "--environment must be like"),
        (["--host", "ftp://host"], "host url 'ftp://host' makes no sense"),
        (["--tls", "/tmp"], "--tls is for tcp hosts, and none is given"),
        (["--blobs", "/nowhere/at/all"], "is no folder"),
        (["--slots", "0"], "--slots"),
        (["--redis", "redis://:secret@h/0"], "a password among a program's arguments"),
        (["--namespace", "a b"], "namespace must be"),
        (["--key-file", "/nowhere"], "the key file /nowhere cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_with_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*PLACE, *arguments]) == USAGE

    error = capsys.readouterr().err
    assert said in error and "secret@" not in error
    assert len(error.strip().splitlines()) == 1 or "Usage" in error


def test_a_worker_without_a_key_is_told_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOBMANAGER_KEY")

    assert cli.run(PLACE) == USAGE

    assert "secrets.token_hex(32)" in capsys.readouterr().err


def test_secrets_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"first")
    secrets = FileSecrets({"token": str(file)})
    assert secrets["token"] == b"first"

    file.write_bytes(b"second")

    assert dict(secrets) == {"token": b"second"}
    assert "second" not in repr(secrets) and str(tmp_path) not in repr(secrets)
    file.unlink()
    with pytest.raises(InvalidValue, match="the secret 'token' cannot be read"):
        secrets["token"]


@pytest.mark.parametrize(
    ("machine", "name"),
    [("lab-1.example.org", "lab-1-example-org"), ("-x", "x"), ("...", "node"), ("x" * 100, "x" * 64)],
)
def test_a_machines_name_becomes_that_of_a_node(machine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_command.socket, "gethostname", lambda: machine)

    assert default_name() == name


def test_where_a_person_can_log_in_is_told_with_a_password_that_only_the_client_can_read() -> None:
    sent: list[tuple[str, str]] = []

    class Store:
        def send_event(self, client: str, event: str) -> None:
            sent.append((client, event))

    signer = Keyring.parse(KEY).signer("exam")
    store: Any = Store()
    events = NodeEvents(store, signer, "n1", NodeJobs(1))

    events.tell_ssh(job(1), "127.0.0.1", 40022, "root", "word of pass")
    events.tell_ssh(job(2), None, None, None, None)  # there will be none: the job's end says so

    ((client, envelope),) = sent
    event = opened(signer, ClientEvent, envelope)
    assert (client, event.event, event.r, event.node) == ("web", "ssh", job(1).r, "n1")
    assert (event.port, event.user) == (40022, "root")
    assert "word of pass" not in envelope
    assert signer.unseal("ssh", event.sealed, "web") == b"word of pass"
