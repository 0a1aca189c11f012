"""SSH tunnels as the manager sees them: one child for each host that is reached by SSH keeps its tunnel up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from jobmanager._children import Child, Gone, Heard
from jobmanager.errors import EngineUnavailable
from jobmanager.model.host import TLS, Address, DockerHost
from jobmanager.model.messages import TunnelSettings

_MODULE = "jobmanager._tunnel"


class Tunnels:
    """The tunnels of one manager, and where each host's engine is reached. Not thread-safe."""

    def __init__(self, hosts: Sequence[DockerHost], listen: Callable[[Heard | Gone], None]) -> None:
        self._hosts = hosts
        self._listen = listen
        self._folder: Path | None = None
        self._settings: dict[Child, TunnelSettings] = {}

    def start(self) -> dict[str, Address]:
        """Start what is needed; returns the address of every host."""
        return {host.name: self._address(host, number) for number, host in enumerate(self._hosts)}

    def gone(self, child: Child) -> bool:
        """A tunnel's keeper has died: start another. False when the child is none of ours."""
        settings = self._settings.pop(child, None)
        if settings is None:
            return False
        self._keep(settings)
        return True

    def children(self) -> list[Child]:
        """All keepers."""
        return list(self._settings)

    def clean_up(self) -> None:
        """Remove the folder of sockets; after the keepers have ended."""
        self._settings.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _address(self, host: DockerHost, number: int) -> Address:
        if urlsplit(host.url).scheme != "ssh":
            assert host.tls is None or isinstance(host.tls, TLS), "DockerHost has made a TLS of it"
            return Address(host=host.name, url=host.url, tls=host.tls, pull=host.pull)
        if shutil.which("ssh") is None:
            raise EngineUnavailable(f"host {host.name}: there is no ssh on this machine (Debian: apt-get install openssh-client)")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="jobmanager-"))
        socket = self._folder / f"{number}.sock"
        config = None if host.ssh_config is None else str(host.ssh_config)
        self._keep(TunnelSettings(url=host.url, socket=str(socket), ssh_config=config))
        return Address(host=host.name, url=f"unix://{socket}", pull=host.pull)

    def _keep(self, settings: TunnelSettings) -> None:
        child = Child(_MODULE, self._listen)
        child.send(settings)
        self._settings[child] = settings
