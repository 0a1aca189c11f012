"""SSH tunnels as the manager sees them: one child for each host that is reached by SSH keeps its tunnel up."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jobmanager.control.child_process import Child, Listener
from jobmanager.errors import EngineUnavailable
from jobmanager.ipc.messages import TunnelBroken, TunnelOpen, TunnelSettings
from jobmanager.model.host import Address, DockerHost
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MODULE = "jobmanager.ssh.tunnel_worker"
_RESTART_PAUSE_S = 1.0
_SETTLED_S = 1.0  # after its opening; only then do waiters see the host through it


@dataclass(slots=True, kw_only=True)
class _Tunnel:
    """One tunnel process, and the last that it reported."""

    host: str
    settings: TunnelSettings
    opened_at: float | None = None
    problem: str = ""


class Tunnels:
    """The tunnels of one manager. Not thread-safe."""

    def __init__(
        self,
        hosts: Sequence[DockerHost],
        listen: Listener,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._listen = listen
        self._clock = clock
        self._folder: Path | None = None
        self._tunnels: dict[Child, _Tunnel] = {}
        self._to_start: list[tuple[float, str, TunnelSettings]] = []

    def start(self) -> dict[str, Address]:
        """Start one for each host that needs one; returns those hosts' addresses by name."""
        return {host.name: self._open(host, number) for number, host in enumerate(self._hosts) if needs_tunnel(host)}

    def message_received(self, child: Child, message: TunnelOpen | TunnelBroken) -> str | None:
        """A tunnel process has reported. Returns its host; None for any other child."""
        tunnel = self._tunnels.get(child)
        if tunnel is None:
            return None
        tunnel.opened_at = self._clock() if isinstance(message, TunnelOpen) else None
        tunnel.problem = "" if isinstance(message, TunnelOpen) else f"the ssh tunnel ended: {message.reason}"
        return tunnel.host

    def why_unreachable(self, host: str, seen: str) -> str | None:
        """Why a host does not answer. None while its tunnel is being opened: then the reason is not known.

        ``seen`` is the reason that a waiter found. Without a tunnel a waiter finds a missing socket at most.
        """
        for tunnel in self._tunnels.values():
            if tunnel.host == host and tunnel.opened_at is None:
                return tunnel.problem or None
            if tunnel.host == host and tunnel.opened_at is not None and self._clock() - tunnel.opened_at < _SETTLED_S:
                return None
        return seen

    def child_exited(self, child: Child) -> bool:
        """A tunnel process has died: start another. False for any other child."""
        tunnel = self._tunnels.pop(child, None)
        if tunnel is None:
            return False
        self._to_start.append((self._clock() + _RESTART_PAUSE_S, tunnel.host, tunnel.settings))
        return True

    def run_due(self) -> None:
        """Start what waits to be started again."""
        now = self._clock()
        due = [entry for entry in self._to_start if entry[0] <= now]
        self._to_start = [entry for entry in self._to_start if entry[0] > now]
        for _, host, settings in due:
            try:
                self._keep(host, settings)
            except OSError as error:  # no memory, no descriptor, no process to be had: perhaps later
                _log.error("the tunnel process of host %s cannot be started: %s", host, error)
                self._to_start.append((now + _RESTART_PAUSE_S, host, settings))

    def children(self) -> list[Child]:
        """All tunnel processes."""
        return list(self._tunnels)

    def clean_up(self) -> None:
        """Remove the folder of sockets; after the tunnel processes have ended."""
        self._tunnels.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _open(self, host: DockerHost, number: int) -> Address:
        if shutil.which("ssh") is None:
            raise EngineUnavailable(f"host {host.name}: there is no ssh on this machine (Debian: apt-get install openssh-client)")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="jobmanager-"))
        socket = self._folder / f"{number}.sock"
        config = None if host.ssh_config is None else str(host.ssh_config)
        try:
            self._keep(host.name, TunnelSettings(url=host.url, socket=str(socket), ssh_config=config))
        except OSError as error:
            raise EngineUnavailable(f"host {host.name}: its tunnel process cannot be started: {error}") from error
        return Address.of(host, tunnel=f"unix://{socket}")

    def _keep(self, host: str, settings: TunnelSettings) -> None:
        child = Child(_MODULE, self._listen)
        child.send(settings)
        self._tunnels[child] = _Tunnel(host=host, settings=settings)


def needs_tunnel(host: DockerHost) -> bool:
    """Whether a host is reached by SSH."""
    return urlsplit(host.url).scheme == "ssh"
