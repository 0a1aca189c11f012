"""The built programs that the package brings along. `python -m dev.runner_build` makes them from the sources beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jobmanager.errors import InvalidHost

ENGINE_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}  # an engine's word: ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """The program for one architecture."""

    architecture: str  # x86_64 or aarch64
    content: bytes = field(repr=False)  # a static ELF file
    sha256: str  # of the content, in hex


def binary(architecture: str) -> Binary:
    """The program for an engine's architecture, in the engine's word, such as ``x86_64`` or ``arm64``.

    Raises:
        InvalidHost: there is none for it.
    """
    if architecture not in ENGINE_ARCHITECTURES:
        raise InvalidHost(f"there is no runner for the architecture {architecture!r}, only for x86_64 and aarch64")
    return _loaded(ENGINE_ARCHITECTURES[architecture])


@cache
def build_id() -> bytes:
    """What a runner of this package says as ``build`` in its status: SHA-256 of its sources and of how they were built."""
    return bytes.fromhex(_read("build_id").decode().strip())


@cache
def _loaded(architecture: str) -> Binary:
    content = _read(f"runner-{architecture}")
    return Binary(architecture=architecture, content=content, sha256=hashlib.sha256(content).hexdigest())


def _read(name: str) -> bytes:
    return (files("jobmanager.runner") / "bin" / name).read_bytes()
