"""An engine for a host's address."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.engine.protocol import Engine
from jobmanager.model.host import Address

__all__ = ["adapter", "connect"]


def connect(address: Address, timeout_s: float) -> Engine:
    """The engine of that address; every call on it ends within ``timeout_s``. Connects at the first call."""
    return adapter(address)(address, timeout_s=timeout_s)


def adapter(address: Address) -> Callable[..., Engine]:
    """What speaks with engines of that kind. It is imported here: who talks to a fake never pays for docker's import."""
    if address.url.startswith("fake://"):
        from jobmanager.testing.fake.client import FakeEngine

        return FakeEngine
    from jobmanager.engine.docker.adapter import DockerEngine

    return DockerEngine
