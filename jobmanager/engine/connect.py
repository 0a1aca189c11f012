"""Chooses the engine class for a host's address."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.engine.protocol import Engine
from jobmanager.model.host import Address

__all__ = ["connect", "engine_class"]


def connect(address: Address, timeout_s: float) -> Engine:
    """The engine at this address. Each of its calls ends within ``timeout_s``; the first one connects."""
    return engine_class(address)(address, timeout_s=timeout_s)


def engine_class(address: Address) -> Callable[..., Engine]:
    """The class for this kind of address. It is imported here, so that a fake engine does not need docker's import."""
    if address.url.startswith("fake://"):
        from jobmanager.testing.fake.client import FakeEngine

        return FakeEngine
    from jobmanager.engine.docker.adapter import DockerEngine

    return DockerEngine
