"""An sshd that belongs to one test: own port on the loopback, own host key, one user's key, own log."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import psutil

SBIN_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
PACKAGES = ("openssh-server", "openssh-client")
START_TIMEOUT_S = 10.0


class SshdError(Exception):
    """There is no sshd here, or it did not start."""


def installed_sshd() -> str:
    """The path of sshd (it insists on being called by it); installed first when it is missing and we are root."""
    if not (shutil.which("sshd", path=SBIN_PATH) and shutil.which("ssh-keygen")):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SshdError(f"the tests of SSH hosts need sshd: apt-get install {' '.join(PACKAGES)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-qy", "--no-install-recommends", *PACKAGES]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise SshdError(f"{' '.join(command)} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    found = shutil.which("sshd", path=SBIN_PATH)
    assert found is not None
    return found


class Sshd:
    """`with` starts it and ends it with all its sessions. The port stays the same over `stop` and `start`."""

    def __init__(self, folder: Path) -> None:
        self._sshd = installed_sshd()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name in ("host_key", "user_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True, capture_output=True, timeout=30)
        self._write_configs()

    @property
    def client_config(self) -> Path:
        """For `ssh -F`: knows the host's key, and the user's."""
        return self._folder / "client_config"

    def url(self, socket: Path | str) -> str:
        """Of a Docker engine's unix socket, reached through this sshd."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{socket}"

    def start(self) -> None:
        """Returns when it takes connections."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd keeps its unprivileged part; it insists on it
        with (self._folder / "log").open("ab") as log:
            command = [self._sshd, "-D", "-e", "-f", str(self._folder / "config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SshdError(f"sshd did not start: {(self._folder / 'log').read_text().strip()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and its sessions."""
        if self._process is None:
            return
        sessions = self._sessions()
        self._process.kill()
        self._process.wait()
        self._process = None
        _kill(sessions)

    def kill_sessions(self) -> int:
        """End all connections, as when a network breaks; new ones are taken. Returns how many processes had them."""
        sessions = self._sessions()
        _kill(sessions)
        return len(sessions)

    def freeze_sessions(self) -> list[psutil.Process]:
        """Have all connections stand still, without ending any."""
        sessions = self._sessions()
        for session in sessions:
            session.send_signal(signal.SIGSTOP)
        return sessions

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _sessions(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True) if self._process is not None else []

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _write_configs(self) -> None:
        folder = self._folder
        host_key = (folder / "host_key.pub").read_text().split()
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key[0]} {host_key[1]}\n")
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "StrictModes no\nUsePAM no\nAllowStreamLocalForwarding yes\nUseDNS no\n"
        )
        self.client_config.write_text(
            f"Host *\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
            "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
        )


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(processes, timeout=5.0)
