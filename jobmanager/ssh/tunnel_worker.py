"""The keeper of one SSH tunnel: a process that runs ``ssh -N -L`` and starts it again when it ends.

One tunnel a host, as docker's own SSH support starts an ssh for each request and knows no timeouts.
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

_SOCKET_THERE = "/var/run/docker.sock"
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_LIVED_LONG_S = 10.0
_GLANCE_S = 0.2
_OPENING_GLANCE_S = 0.02
_LAST_WORDS_S = 1.0
_PR_SET_PDEATHSIG = 1
_socket: str | None = None


def main(connection: Connection) -> None:
    """Keep a tunnel up until told to stop. Raises EOFError or an OSError when the manager has gone without that word."""
    global _socket
    forward_logs(connection.send)
    settings: TunnelSettings = connection.recv()
    _socket = settings.socket
    failures = 0
    while True:
        began, is_open = time.monotonic(), False
        Path(settings.socket).unlink(missing_ok=True)  # of an ssh that was killed
        tunnel = _open(settings)
        words = _LastWords(tunnel)
        while tunnel.poll() is None:
            if not is_open and os.path.exists(settings.socket):
                is_open = True
                connection.send(TunnelOpen())
            if connection.poll(_GLANCE_S if is_open else _OPENING_GLANCE_S):
                _shut(tunnel)
                connection.recv()
                return
        failures = 0 if time.monotonic() - began > _LIVED_LONG_S else failures + 1
        reason = words.get()
        connection.send(TunnelBroken(reason=reason))
        _log.info("the ssh tunnel to %s ended: %s", settings.url, reason)
        if connection.poll(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1]):
            connection.recv()
            return


def orphaned() -> None:
    """The manager has gone without a word: ssh ends with this process, its socket's folder is removed here."""
    if _socket is not None:
        shutil.rmtree(os.path.dirname(_socket), ignore_errors=True)


def ssh_command(settings: TunnelSettings) -> list[str]:
    """The ssh that forwards a local socket to the engine's."""
    parts = urlsplit(settings.url)
    there = parts.path if parts.path.strip("/") else _SOCKET_THERE
    options = ["BatchMode=yes", "ExitOnForwardFailure=yes", "StreamLocalBindUnlink=yes", "ConnectTimeout=10",
               "ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlMaster=no", "ControlPath=none"]  # fmt: skip
    return [
        "ssh",
        *(["-F", settings.ssh_config] if settings.ssh_config else []),
        *(word for option in options for word in ("-o", option)),
        *(["-p", str(parts.port)] if parts.port else []),
        *(["-l", parts.username] if parts.username else []),
        "-N", "-T",
        "-L", f"{settings.socket}:{there}",
        parts.hostname or "",
    ]  # fmt: skip


def _open(settings: TunnelSettings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ssh_command(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_die_with_keeper if sys.platform == "linux" else None,
    )


def _die_with_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _shut(tunnel: subprocess.Popen[bytes]) -> None:
    tunnel.terminate()
    try:
        tunnel.wait(2.0)
    except subprocess.TimeoutExpired:
        tunnel.kill()
        tunnel.wait()


class _LastWords:
    """What ssh said last. It is read all the time: an ssh that nobody listens to stands still in the end."""

    def __init__(self, tunnel: subprocess.Popen[bytes]) -> None:
        self._tunnel = tunnel
        self._lines: deque[bytes] = deque(maxlen=1)
        self._reader = threading.Thread(target=self._read, name="ssh-words", daemon=True)
        self._reader.start()

    def get(self) -> str:
        """One line, once ssh has ended."""
        self._reader.join(_LAST_WORDS_S)  # a helper of ssh's may still hold the pipe
        return one_line(self._lines[0].decode("utf-8", "replace")) if self._lines else f"exit code {self._tunnel.returncode}"

    def _read(self) -> None:
        assert self._tunnel.stderr is not None
        with self._tunnel.stderr as said:
            for line in said:
                if line.strip():
                    self._lines.append(line.strip())
