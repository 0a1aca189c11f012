"""A person with an ssh client, who reaches a private daemon's published ports, and an image with an sshd to log in to."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import docker

from tests.conftest import BUSYBOX
from tests.support.daemons import PrivateDaemon
from tests.support.sshd import installed_sshd

IMAGE = "jobmanager-sshd:1"
_PROGRAMS = ("ssh-keygen", "/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
_SESSION_PROGRAMS = ("/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth")  # of newer versions


def make_image(daemon: PrivateDaemon, *, base: str = BUSYBOX) -> None:
    """An image of the tests, and in it this machine's sshd with its libraries."""
    client = docker.APIClient(base_url=daemon.url, version="1.41", timeout=60)
    try:
        container = client.create_container(base, ["true"])["Id"]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path in _sshd_files():
                tar.add(os.path.realpath(path), path)
        client.put_archive(container, "/", packed.getvalue())
        client.commit(container, *IMAGE.split(":"))
        client.remove_container(container)
    finally:
        client.close()


def _sshd_files() -> list[str]:
    found = [installed_sshd(), *(shutil.which(name) for name in (*_PROGRAMS, *_SESSION_PROGRAMS))]
    programs = [path for path in found if path]
    libraries: set[str] = set()
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=10).stdout
        libraries.update(re.findall(r"(?<=\s)/\S+", said))
    return [*programs, *sorted(libraries)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What ``ssh_callback`` was given."""

    host: str
    port: int
    user: str
    password: str


class Person:
    """Somebody in a daemon's network namespace."""

    def __init__(self, daemon: PrivateDaemon, folder: Path) -> None:
        self._inside = ["nsenter", f"--net=/proc/{daemon.pid}/ns/net"]
        self._askpass = folder / "askpass"
        self._askpass.write_text('#!/bin/sh\necho "$PASSWORD"\n')
        self._askpass.chmod(0o755)

    def start(self, login: Login, *command: str, password: str | None = None) -> subprocess.Popen[bytes]:
        """An ssh under way; its streams are pipes."""
        known = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        once = ["-o", "NumberOfPasswordPrompts=1", "-p", str(login.port)]
        told = {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force", "PASSWORD": password or login.password}
        return subprocess.Popen(
            [*self._inside, "ssh", *known, *once, *command[:-1], f"{login.user}@{login.host}", *command[-1:]],
            env={**os.environ, **told},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def runs(
        self, login: Login, *command: str, password: str | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Options of ssh, and as the last word what is to be run there, to its end."""
        with self.start(login, *command, password=password) as ssh:
            out, err = ssh.communicate(stdin, timeout=30)
        return subprocess.CompletedProcess(ssh.args, ssh.returncode, out, err)
