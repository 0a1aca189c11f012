"""What the manager is compared with: the same calls with the same options by hand, and ``containers.run``."""

from __future__ import annotations

import secrets
import time
from typing import Any

import docker

from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.model.task import Task
from jobmanager.runner.binaries import binary
from jobmanager.runner.frames import Ended
from jobmanager.watching.run_order import run_messages
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool

_TIMEOUT_S = 60
_NO_VOLUMES = ImageDefaults(command=(), volumes=())


class BareLoop:
    """One connection to an engine that runs jobs one after the other, with no manager around it. One per thread."""

    def __init__(self, url: str, task: Task) -> None:
        address = Address(host="bench", url=url)
        self._engine = connect(address, _TIMEOUT_S)
        self._runners = RunnerVolumes(manager_id=secrets.token_hex(6), owner=Owner.this_process(), binary_for=binary)
        self._runner = self._runners.ensure(self._engine, address.host).sha256
        self._task = task

    def run(self) -> str:
        """A job from its container's creation to its last word. Returns the container, which waits to be removed."""
        spec = ContainerSpec(
            name=f"jobmanager-bench-{secrets.token_hex(6)}",
            image=self._task.environment,
            labels={"jobmanager.bench": "1"},
            limits=self._task.limits,
            network=self._task.network,
            runner=self._runner,
        )
        container = self._engine.create(spec, _NO_VOLUMES)
        self._engine.start(container)
        link = RunnerLink(self._engine, container, lease_s=_TIMEOUT_S, spool=Spool(None))
        try:
            link.connect()
            _received(link)  # the status
            link.send(*run_messages(self._job(container), made_at_s=0.0))
            while not any(isinstance(message, Ended) for message in _received(link)):
                pass
        finally:
            link.close()
        return container

    def remove(self, container: str) -> None:
        """What the manager does in the background."""
        self._engine.remove(container)

    def close(self) -> None:
        """Let go of the connection."""
        self._runners.release(self._engine, "bench")
        self._engine.close()

    def _job(self, container: str) -> MonitorContainer:
        task = self._task
        return MonitorContainer(
            job_id="bench",
            container_id=container,
            container_name=container,
            command=task.command or "true",  # type: ignore[arg-type]
            env=task.env or {},
            files=task.files or {},  # type: ignore[arg-type]
            stdin=b"",
            limits=task.limits,
            collect=(),
        )


class BareLibrary:
    """``docker.from_env().containers.run``: what most people write first. One per thread."""

    def __init__(self, url: str, task: Task) -> None:
        self._client = docker.DockerClient(base_url=url, version=api_version(url), timeout=_TIMEOUT_S)
        self._image, self._command = task.environment, task.command or "true"

    def run(self) -> str:
        """A job from its container's creation to its removal."""
        self._client.containers.run(self._image, self._command, network_mode="none", remove=True)
        return ""

    def remove(self, container: str) -> None:
        """It has done that."""

    def finish(self) -> None:
        """It has done that, too."""

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _received(link: RunnerLink) -> list[Any]:
    messages = link.receive(_TIMEOUT_S)
    if messages is None or link.silent_s >= _TIMEOUT_S:
        raise RuntimeError("the container ended early, or says nothing")
    return messages


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
