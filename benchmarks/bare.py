"""What the manager is compared with: the same calls with the same options by hand, and ``containers.run``."""

from __future__ import annotations

import secrets
import socket
import time
from typing import Any

import docker

from jobmanager.engine.docker.container_config import container_config
from jobmanager.engine.pid1 import payload
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.task import Task

_TIMEOUT_S = 60
_PIECE = 65536
_NO_VOLUMES = ImageDefaults(command=(), volumes=())


class BareLoop:
    """One connection to an engine that runs jobs one after the other, with no manager around it. One per thread."""

    def __init__(self, url: str, task: Task) -> None:
        self._client = docker.APIClient(base_url=url, version=api_version(url), timeout=_TIMEOUT_S)
        self._task = task

    def run(self) -> str:
        """A job from its container's creation to its last word. Returns the container, which waits to be removed."""
        token = secrets.token_hex(16)
        spec = ContainerSpec(
            name=f"jobmanager-bench-{token[:12]}",
            image=self._task.environment,
            labels={"jobmanager.bench": "1"},
            limits=self._task.limits,
            network=self._task.network,
        )
        container = self._client.create_container_from_config(container_config(spec, _NO_VOLUMES), spec.name)["Id"]
        self._client.start(container)
        output = self._attach(container, stdout=1, stderr=1)
        self._feed(container, token)
        _read_to_the_end(output, token.encode())
        output.close()
        return str(container)

    def remove(self, container: str) -> None:
        """What the manager does in the background."""
        self._client.remove_container(container, force=True, v=True)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _attach(self, container: str, **streams: int) -> Any:
        return self._client.attach_socket(container, params={**streams, "stream": 1})

    def _feed(self, container: str, token: str) -> None:
        task = self._task
        packed = payload(token, command=task.command, env=task.env or {}, files=task.files or {}, stdin=b"")  # type: ignore[arg-type]
        stdin = self._attach(container, stdin=1)
        stdin._sock.sendall(packed)
        stdin._sock.shutdown(socket.SHUT_RDWR)
        stdin.close()


class BareLibrary:
    """``docker.from_env().containers.run``: what most people write first. One per thread."""

    def __init__(self, url: str, task: Task) -> None:
        self._client = docker.DockerClient(base_url=url, version=api_version(url), timeout=_TIMEOUT_S)
        self._image = task.environment

    def run(self) -> str:
        """A job from its container's creation to its removal."""
        self._client.containers.run(self._image, "true", network_mode="none", remove=True)
        return ""

    def remove(self, container: str) -> None:
        """It has done that."""

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _read_to_the_end(output: Any, token: bytes) -> None:
    """PID 1 says ``end`` on both streams, then ``bye``."""
    said = b""
    plain = output._sock
    plain.settimeout(_TIMEOUT_S)
    while said.count(token + b" end") < 2 or token + b" bye" not in said:
        piece = plain.recv(_PIECE)
        if not piece:
            raise RuntimeError(f"the container ended early: {said!r}")
        said += piece


_versions: dict[str, str] = {}


def api_version(url: str) -> str:
    """Asked once, so that no measured client pays for it."""
    if url not in _versions:
        client = docker.APIClient(base_url=url, version="1.41", timeout=_TIMEOUT_S)
        newest = str(client.version(api_version=False)["ApiVersion"])
        _versions[url] = min(newest, "1.44", key=lambda text: tuple(map(int, text.split("."))))
        client.close()
    return _versions[url]


def timed_s(run: Any) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    began = time.perf_counter()
    value = run()
    return time.perf_counter() - began, value
