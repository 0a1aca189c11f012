"""The best loop that one can write by hand with docker-py, without a manager and without our runner.

A container is as safe and as limited as a job's, but for what the runner enforces. The command is its entry point, it has no
network, no volume and no log. The loop attaches before it starts the container, reads to the end, and asks for the exit code; a
thread of its own removes what has ended.
"""

from __future__ import annotations

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import docker

from benchmarks.bare import api_version
from jobmanager.engine.docker.container_config import container_config
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.task import Task

_TIMEOUT_S = 60
_MOST_WAITING = 4  # removals that the loop runs ahead of


class HandLoop:
    """One connection for running and one for removing. One per thread."""

    def __init__(self, url: str, task: Task) -> None:
        self._client, self._remover = _client(url), _client(url)
        self._config = _config(task)
        self._background = ThreadPoolExecutor(1)
        self._removals: list[Future[None]] = []

    def run(self) -> str:
        """A job from its container's creation to its exit code. Returns the container, which waits to be removed."""
        container = self._client.create_container_from_config(self._config, f"jobmanager-bench-{secrets.token_hex(6)}")["Id"]
        output = self._client.attach(container, stdout=True, stderr=True, stream=True, demux=True)
        self._client.start(container)
        for _ in output:
            pass
        code = self._client.wait(container)["StatusCode"]
        if code:
            raise RuntimeError(f"exit code {code}")
        return str(container)

    def remove(self, container: str) -> None:
        """Begin its removal, unless too many are under way."""
        self._removals.append(self._background.submit(self._remover.remove_container, container, v=True, force=True))
        while len(self._removals) > _MOST_WAITING:
            self._removals.pop(0).result()

    def finish(self) -> None:
        """Wait until all are removed."""
        while self._removals:
            self._removals.pop(0).result()

    def close(self) -> None:
        """Let go of the connections."""
        self._background.shutdown()
        self._client.close()
        self._remover.close()


def _client(url: str) -> Any:
    return docker.APIClient(base_url=url, version=api_version(url), timeout=_TIMEOUT_S)


def _config(task: Task) -> dict[str, Any]:
    """A job's own body for the create call, with the command in the place of the runner."""
    spec = ContainerSpec(name="", image=task.environment, labels={}, limits=task.limits, network=task.network, runner="")
    config = container_config(spec, ImageDefaults(command=(), volumes=()))
    config["HostConfig"]["Mounts"] = []
    return {**config, "Entrypoint": list(task.command or ("true",)), "OpenStdin": False}
