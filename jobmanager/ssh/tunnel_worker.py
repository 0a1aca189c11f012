"""The tunnel process: runs ``ssh -N -L`` for one host and starts it again when it ends.

Docker's own SSH support is not used: it starts an ssh for each request, and has no timeouts.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from jobmanager.ipc.messages import TunnelBroken, TunnelOpen, TunnelSettings
from jobmanager.ipc.process import forward_logs
from jobmanager.model._escapes import one_line

_log = logging.getLogger(__name__)

_DEFAULT_REMOTE_SOCKET = "/var/run/docker.sock"
_RETRY_INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_LIVED_LONG_S = 10.0
_POLL_INTERVAL_S = 0.2
_OPENING_POLL_INTERVAL_S = 0.02
_LAST_LINE_S = 1.0
_PR_SET_PDEATHSIG = 1
_socket: str | None = None


def main(connection: Connection) -> None:
    """Keep a tunnel open until ``Shutdown``. Raises EOFError or an OSError when the manager has died."""
    global _socket
    forward_logs(connection.send)
    settings: TunnelSettings = connection.recv()
    _socket = settings.socket
    failures = 0
    while True:
        began, is_open = time.monotonic(), False
        Path(settings.socket).unlink(missing_ok=True)  # left by an ssh that was killed
        tunnel = _start_ssh(settings)
        last_line = _LastLine(tunnel)
        while tunnel.poll() is None:
            if not is_open and os.path.exists(settings.socket):
                is_open = True
                connection.send(TunnelOpen())
            if connection.poll(_POLL_INTERVAL_S if is_open else _OPENING_POLL_INTERVAL_S):
                _terminate(tunnel)
                connection.recv()
                return
        failures = 0 if time.monotonic() - began > _LIVED_LONG_S else failures + 1
        reason = last_line.get()
        connection.send(TunnelBroken(reason=reason))
        _log.info("the ssh tunnel to %s ended: %s", settings.url, reason)
        if connection.poll(_RETRY_INTERVALS_S[min(failures, len(_RETRY_INTERVALS_S)) - 1]):
            connection.recv()
            return


def on_parent_death() -> None:
    """The manager has died: ssh ends with this process, and its socket's folder is removed here."""
    if _socket is not None:
        shutil.rmtree(os.path.dirname(_socket), ignore_errors=True)


def ssh_command(settings: TunnelSettings) -> list[str]:
    """The ssh that forwards a local socket to the engine's."""
    parts = urlsplit(settings.url)
    remote_socket = parts.path if parts.path.strip("/") else _DEFAULT_REMOTE_SOCKET
    options = ["BatchMode=yes", "ExitOnForwardFailure=yes", "StreamLocalBindUnlink=yes", "ConnectTimeout=10",
               "ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlMaster=no", "ControlPath=none"]  # fmt: skip
    return [
        "ssh",
        *(["-F", settings.ssh_config] if settings.ssh_config else []),
        *(word for option in options for word in ("-o", option)),
        *(["-p", str(parts.port)] if parts.port else []),
        *(["-l", parts.username] if parts.username else []),
        "-N", "-T",
        "-L", f"{settings.socket}:{remote_socket}",
        parts.hostname or "",
    ]  # fmt: skip


def _start_ssh(settings: TunnelSettings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ssh_command(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _terminate(tunnel: subprocess.Popen[bytes]) -> None:
    tunnel.terminate()
    try:
        tunnel.wait(2.0)
    except subprocess.TimeoutExpired:
        tunnel.kill()
        tunnel.wait()


class _LastLine:
    """The last line that ssh wrote. A thread reads all of them, as an ssh whose pipe is full would stand still."""

    def __init__(self, tunnel: subprocess.Popen[bytes]) -> None:
        self._tunnel = tunnel
        self._lines: deque[bytes] = deque(maxlen=1)
        self._reader = threading.Thread(target=self._read, name="ssh-stderr", daemon=True)
        self._reader.start()

    def get(self) -> str:
        """One line, once ssh has ended."""
        self._reader.join(_LAST_LINE_S)  # a helper process of ssh may still hold the pipe
        return one_line(self._lines[0].decode("utf-8", "replace")) if self._lines else f"exit code {self._tunnel.returncode}"

    def _read(self) -> None:
        assert self._tunnel.stderr is not None
        with self._tunnel.stderr as stderr:
            for line in stderr:
                if line.strip():
                    self._lines.append(line.strip())
