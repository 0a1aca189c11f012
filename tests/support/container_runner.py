"""The runner in a real container, as a job's container will have it: read-only, without capabilities, on an attached connection."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import docker

from jobmanager.engine.connect import connect
from jobmanager.engine.docker.seccomp import seccomp_profile
from jobmanager.engine.docker.streams import FrameParser, close_attached, plain_socket
from jobmanager.engine.labels import Owner
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.model.host import Address
from jobmanager.runner.binaries import binary
from jobmanager.runner.place import RUNNER_PATH
from tests.conftest import SLOWNESS, eventually
from tests.support.driven_runner import DrivenRunner

PYTHON_IMAGE = "jobmanager-python:4"
HOST = "h"
_API = "1.41"
_CHUNK_BYTES = 65536
_LABEL = "jobmanager.runner_test"
_USER = "65534:65534"
_OWNED = "uid=65534,gid=65534,mode=0700"


class RunnerOnHost:
    """The runner's volume on one host, from ``with`` on: the binary that the package brings along."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = connect(Address(host=HOST, url=url), 60 * SLOWNESS)
        self._store = RunnerVolumes(manager_id=secrets.token_hex(6), owner=Owner.this_process(), binary_for=binary)

    def __enter__(self) -> RunnerOnHost:
        self.volume = self._store.ensure(self._engine, HOST)
        return self

    def __exit__(self, *_: object) -> None:
        self._store.release(self._engine, HOST)
        self._engine.remove_volume(self.volume.name)
        self._engine.close()


class ContainerRunner(DrivenRunner):
    """A container whose PID 1 is the runner, from ``with`` on.

    Args:
        host: has the runner's volume.
        protects_pid_1: whether the seccomp profile does.
        pid_1: another program in the runner's place, to see that an attack works on it. It is not driven.
        memory_mib: also of all that is in its folders in memory.
        cpus: how many.
        processes: how many at a time.
        workspace_mib: of the folder /job.
        lease_s: on its command line and in each Hello.
        config: parts of the API's ``HostConfig`` that are otherwise.
    """

    def __init__(
        self,
        host: RunnerOnHost,
        *,
        protects_pid_1: bool = True,
        pid_1: list[str] | None = None,
        memory_mib: int = 128,
        cpus: float = 1,
        processes: int = 64,
        workspace_mib: int = 64,
        lease_s: float = 60,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(lease_s=lease_s)
        self._host = host
        self._pid_1 = pid_1
        self._host_config = {
            "Memory": memory_mib * 2**20,
            "MemorySwap": memory_mib * 2**20,
            "PidsLimit": processes + 1,
            "NanoCpus": int(cpus * 1e9),
            "ShmSize": 16 * 2**20,
            "Tmpfs": {
                "/job": f"rw,exec,size={workspace_mib}m,nr_inodes=20000,{_OWNED},nosuid,nodev",
                "/tmp": "rw,exec,size=16m,mode=1777,nosuid,nodev",
            },
            "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile(protects_pid_1=protects_pid_1)}"],
            "CapDrop": ["ALL"],
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "NetworkMode": "default",
            "LogConfig": {"Type": "none"},
            "Sysctls": {"net.ipv4.tcp_max_tw_buckets": "0"},
            "Mounts": [{"Type": "volume", "Source": host.volume.name, "Target": "/.jobmanager", "ReadOnly": True}],
            **(config or {}),
        }
        self._errors = b""
        self._attached: Any = None
        self._frames = FrameParser()

    def __enter__(self) -> ContainerRunner:
        self.client = docker.APIClient(base_url=self._host.url, version=_API, timeout=60 * SLOWNESS)
        try:
            self.container = self.client.create_container_from_config(self._config())["Id"]
            self._attach()
            self.client.start(self.container)
            if self._pid_1 is None:
                self.resume(0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._detach()
        if hasattr(self, "container"):
            self.client.remove_container(self.container, force=True)
        self.client.close()

    @property
    def pid(self) -> int:
        """Its process, as the machine sees it, where the engine is on this machine."""
        return int(self.state()["Pid"])

    def state(self) -> dict[str, Any]:
        """As the engine tells it."""
        return dict(self.client.inspect_container(self.container)["State"])

    def kill(self) -> float:
        """From outside: how many seconds it takes until the engine says that it has ended."""
        began = time.monotonic()
        self.client.kill(self.container)
        eventually(lambda: not self.state()["Running"], within_s=60, what="the container ends")
        return time.monotonic() - began

    def first_line(self, timeout_s: float = 30) -> bytes:
        """What a program in the runner's place, or one beside it, writes first."""
        written, until = b"", time.monotonic() + timeout_s * SLOWNESS
        while b"\n" not in written:
            assert time.monotonic() < until, f"there is no line: {written!r}"
            select.select([self._ends()[1]], [], [], 1)
            with suppress(BlockingIOError):
                content = self._receive()
                assert content is not None, f"there is no line: {written!r}"
                written += content
        return written.partition(b"\n")[0]

    def exit_code(self, timeout_s: float = 20) -> int:
        """How it left: 137 where a signal ended it. What it still sends is read."""
        self._until(lambda: self._closed, timeout_s, "the runner does not leave")
        return int(self.client.wait(self.container, timeout=timeout_s * SLOWNESS)["StatusCode"])

    def standard_error(self) -> str:
        return self._errors.decode(errors="replace")

    def detach(self) -> None:
        """Be a waiter that died: its connection is closed."""
        self._detach()
        self._arrived.clear()

    def resume(self, read_from: int | None = None, session: int | None = None) -> None:
        if self._attached is None:
            self._attach()
        super().resume(read_from, session)

    def _config(self) -> dict[str, Any]:
        return {
            "Image": PYTHON_IMAGE,
            "Entrypoint": self._pid_1 or [RUNNER_PATH],
            "Cmd": [] if self._pid_1 else [f"{self.lease_s:g}"],
            "User": _USER,
            "WorkingDir": "/",
            "Labels": {_LABEL: "1"},
            "OpenStdin": True,
            "StdinOnce": False,
            "Tty": False,
            "NetworkDisabled": True,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": self._host_config,
        }

    def _attach(self) -> None:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._attached = self.client.attach_socket(self.container, params=params)
        self._frames = FrameParser()
        socket = plain_socket(self._attached)
        assert socket is not None
        socket.setblocking(False)
        self._closed = False

    def _detach(self) -> None:
        if self._attached is not None:
            close_attached(self._attached)
        self._attached = None
        self._unsent.clear()

    def _ends(self) -> tuple[int, int]:
        socket = plain_socket(self._attached)
        assert socket is not None
        return socket.fileno(), socket.fileno()

    def _receive(self) -> bytes | None:
        socket = plain_socket(self._attached)
        assert socket is not None
        if not (received := socket.recv(_CHUNK_BYTES)):
            return None
        pieces = self._frames.feed(received)
        assert not self._frames.is_corrupt
        self._errors += b"".join(content for is_stderr, content in pieces if is_stderr)
        return b"".join(content for is_stderr, content in pieces if not is_stderr)

    def _last_words(self) -> str:
        with suppress(docker.errors.APIError):
            return f"{self.state()} {self.standard_error()}"
        return "it is gone"
