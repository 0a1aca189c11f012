"""Where each host's engine is reached: at its own url, or through a tunnel."""

from __future__ import annotations

from collections.abc import Sequence

from jobmanager.control.tunnels import Tunnels, needs_tunnel
from jobmanager.model.host import Address, DockerHost


def start_addresses(hosts: Sequence[DockerHost], tunnels: Tunnels) -> dict[str, Address]:
    """Start the tunnels that these hosts need; returns the address of every host by its name.

    Raises:
        EngineUnavailable: a tunnel cannot be started.
    """
    addresses = tunnels.start()
    for host in hosts:
        if not needs_tunnel(host):
            addresses[host.name] = Address.of(host)
    return addresses
