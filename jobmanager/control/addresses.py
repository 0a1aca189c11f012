"""Where each host's engine is reached: at its own url, or through a tunnel."""

from __future__ import annotations

from collections.abc import Sequence

from jobmanager.control.tunnels import Tunnels, needs_tunnel
from jobmanager.model.host import TLS, Address, DockerHost


def start_addresses(hosts: Sequence[DockerHost], tunnels: Tunnels) -> dict[str, Address]:
    """Start the tunnels that these hosts need; returns the address of every host by its name.

    Raises:
        EngineUnavailable: a tunnel cannot be started.
    """
    addresses = tunnels.start()
    for host in hosts:
        if not needs_tunnel(host):
            assert host.tls is None or isinstance(host.tls, TLS), "DockerHost has made a TLS of it"
            addresses[host.name] = Address(host=host.name, url=host.url, tls=host.tls, pull=host.pull)
    return addresses
