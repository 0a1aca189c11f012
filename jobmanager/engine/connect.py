"""An engine for a host's address."""

from __future__ import annotations

from jobmanager.engine.protocol import Engine
from jobmanager.model.host import Address

__all__ = ["connect"]


def connect(address: Address, timeout_s: float) -> Engine:
    """The engine of that address; every call on it ends within ``timeout_s``. Connects at the first call."""
    if address.url.startswith("fake://"):
        from jobmanager.engine.fake.client import FakeEngine

        return FakeEngine(address, timeout_s=timeout_s)
    from jobmanager.engine.docker import DockerEngine  # only here: who talks to a fake never pays for docker's import

    return DockerEngine(address, timeout_s=timeout_s)
