"""``FakeEngine``: the ``Engine`` protocol spoken with a fake engine's process (``jobmanager.testing``) instead of Docker."""

from __future__ import annotations

import pickle
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from jobmanager.engine import protocol
from jobmanager.engine.pipes import pipes_volume
from jobmanager.engine.protocol import Channel, EngineError, Unreachable
from jobmanager.model.container import (
    ContainerInfo,
    ContainerSpec,
    ContainerStatus,
    DiskVolume,
    EngineAbout,
    EngineInfo,
    Image,
    ImageDefaults,
    Usage,
    VolumeInfo,
)
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.runner.place import RunnerVolume
from jobmanager.testing.fake.wire import PIECE, Inbox, packed

__all__ = ["FakeEngine"]

_MIN_TIMEOUT_S = 0.001
_CHANNEL_BYTES = 2**18  # read at once
_END_POLL_S = 0.002


class FakeEngine:
    """``Engine`` over a fake engine's socket: one connection for calls, one for each open stream. One per thread."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._path = unquote(urlsplit(address.url).path)
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._cached_defaults: dict[str, ImageDefaults] = {}  # by id, as with Docker

    def info(self) -> EngineInfo:
        version, cores, memory_mib, architecture, now_s, available = self._call("info")
        return EngineInfo(
            version=version,
            cores=cores,
            memory_mib=memory_mib,
            now_s=now_s,
            cgroup="1",
            architecture=architecture,
            available_memory_mib=available,
        )

    def about(self) -> EngineAbout:
        version, *_ = self._call("info")
        return EngineAbout(
            engine=version,
            api=version,
            containerd="",
            runtime=version,
            runc="",
            operating_system=version,
            kernel=version,
            cgroup="1",
            storage_driver=version,
            live_restore=False,
            security=(),
            cannot_limit=(),
            warnings=(),
        )

    def images(self) -> list[Image]:
        return [
            Image(id=id_, references=references, labels=labels, created_at_s=created_at_s)
            for id_, references, labels, created_at_s in self._call("images")
        ]

    def networks(self) -> frozenset[str]:
        return frozenset(self._call("networks"))

    def image_defaults(self, image: str) -> ImageDefaults:
        if image not in self._cached_defaults:
            command, volumes = self._call("image_defaults", image)
            self._cached_defaults[image] = ImageDefaults(command=command, volumes=volumes)
        return self._cached_defaults[image] if image.startswith("sha256:") else self._cached_defaults.pop(image)

    def pull(self, image: str) -> None:
        self._call("pull", image)

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:  # noqa: ARG002
        limits = spec.limits
        sizes = (limits.workspace_mib, limits.workspace_inodes, limits.memory_mib, limits.processes, limits.cpus)
        network = "" if spec.network in list(Network) else str(spec.network)
        bounds = (spec.workspace, spec.shares, spec.shared_volume, *sizes, spec.lease_s, network)
        volumes = [(each.name, each.path, each.short_name, each.size_mib, each.inodes, each.read_only) for each in spec.volumes]
        pipes = [_row(pipes_volume(spec.pipes, spec.labels))] if spec.pipes else []
        disk = [*_runner(spec.runner), *pipes]
        return str(self._call("create", spec.name, spec.image, dict(spec.labels), bounds, volumes, disk))

    def create_carrier(self, name: str, image: str, labels: Mapping[str, str], volumes: Sequence[DiskVolume]) -> str:
        return str(self._call("create_carrier", name, image, dict(labels), [_row(each) for each in volumes]))

    def write_file(self, container: str, path: str, content: bytes, mode: int = 0o644) -> None:
        self._call("write_file", container, path, content, mode)

    def make_fifos(self, container: str, paths: Sequence[str]) -> None:
        self._call("make_fifos", container, list(paths))

    def start(self, container: str) -> None:
        self._call("start", container)

    def open_channel(self, container: str) -> Channel:
        return _FakeChannel(self._open_connection("open_channel", container))

    def inspect(self, container: str) -> ContainerInfo:
        return _state(self._call("inspect", container))

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerInfo]:
        return [_state(row) for row in self._call("list", dict(labels))]

    def kill(self, container: str) -> None:
        self._call("kill", container)

    def set_limits(self, container: str, limits: Limits) -> None:
        self._call("set_limits", container, limits.memory_mib, limits.processes)

    def usage(self, container: str) -> Usage | None:
        cpu_time_ns = self._call("usage", container)
        return None if cpu_time_ns is None else Usage(cpu_time_ns=int(cpu_time_ns), peak_memory_bytes=None)

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        tar: bytes = self._call("archive", container, path)
        for at in range(0, len(tar), PIECE):
            yield tar[at : at + PIECE]

    def wait_until_ended(self, container: str, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._call("wait_until_ended", container):
            if time.monotonic() >= until:
                raise Unreachable(f"no answer within {timeout_s:g} s")
            time.sleep(_END_POLL_S)

    def remove(self, container: str) -> None:
        self._call("remove", container)

    def volumes(self, labels: Mapping[str, str | None]) -> Sequence[VolumeInfo]:
        return [
            VolumeInfo(name=name, labels=given, created_at_s=created_at_s)
            for name, given, created_at_s in self._call("volumes", dict(labels))
        ]

    def remove_volume(self, name: str) -> None:
        self._call("remove_volume", name)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, call: str, *arguments: object) -> Any:
        try:
            return self._connected().ask((call, *arguments), self._timeout_s)
        except OSError as error:
            self.close()
            raise Unreachable(f"{self._path}: {error}") from error

    def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.is_dropped():
            self.close()
        if self._connection is None:
            self._connection = _Connection(self._path, self._timeout_s)
        return self._connection

    def _open_connection(self, call: str, container: str) -> _Connection:
        """A new connection on which this call was made."""
        try:
            connection = _Connection(self._path, self._timeout_s)
        except OSError as error:
            raise Unreachable(f"{self._path}: {error}") from error
        try:
            connection.ask((call, container), self._timeout_s)
        except OSError as error:
            connection.close()
            raise Unreachable(f"{self._path}: {error}") from error
        except EngineError:
            connection.close()
            raise
        return connection


class _Connection:
    """Requests and their replies on one socket; data that follows a reply is kept for the next reader."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.inbox = Inbox()
        self.waiting: list[bytes] = []
        self._timeout_s = timeout_s
        try:
            self.socket.settimeout(timeout_s)
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self._readable = select.poll()
        self._readable.register(self.socket, select.POLLIN)

    def ask(self, request: tuple[object, ...], timeout_s: float) -> Any:
        """The reply's value; raises the EngineError that it names, OSError when none came in time."""
        deadline = time.monotonic() + timeout_s
        self._set_timeout(timeout_s)
        self.socket.sendall(packed(request))
        while not self.waiting:
            self._set_timeout(max(deadline - time.monotonic(), _MIN_TIMEOUT_S) if self.inbox.is_partial else timeout_s)
            self.receive()
        failure, value = pickle.loads(self.waiting.pop(0))
        if failure:
            raise getattr(protocol, failure)(value)
        return value

    def receive(self) -> None:
        """Wait for data and parse it. Raises OSError, TimeoutError included."""
        data = self.socket.recv(PIECE)
        if not data:
            raise ConnectionResetError("the engine closed the connection")
        self.waiting += self.inbox.feed(data)

    def is_dropped(self) -> bool:
        """Whether the engine has closed it meanwhile: then a new one is opened before a request is lost."""
        return bool(self._readable.poll(0))  # it has ended, or has an answer that came too late

    def close(self) -> None:
        self.socket.close()

    def _set_timeout(self, timeout_s: float) -> None:
        if timeout_s != self._timeout_s:
            self.socket.settimeout(timeout_s)
            self._timeout_s = timeout_s


class _FakeChannel:
    """A container's standard input and output on a connection of its own."""

    def __init__(self, connection: _Connection) -> None:
        self._socket = connection.socket
        self._socket.setblocking(False)
        self._unsent = bytearray()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._is_open = True
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)

    def read(self, timeout_s: float) -> bytes | None:
        if not self._is_open:
            return None
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._send()
                if (data := self._receive()) is not None:
                    return data or None
                if not self._wait(max(0.0, deadline - time.monotonic())):
                    return b""
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        self._unsent += data

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def wake(self) -> None:
        with suppress(OSError):  # it is woken already, or closed
            self._waker.send(b"\0")

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.wake()
            for each in (self._socket, self._woken, self._waker):
                each.close()

    def _send(self) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(_CHANNEL_BYTES)
        except BlockingIOError:
            return None

    def _wait(self, timeout_s: float) -> bool:
        """Wait until bytes can go or come; False once it is woken, or nothing came in time."""
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        ready = {number for number, _ in self._poll.poll(timeout_s * 1000)}
        if self._woken.fileno() in ready:
            self._woken.recv(PIECE)
            return False
        return bool(ready)


@lru_cache(maxsize=16)
def _runner(sha256: str) -> list[tuple[str, str, dict[str, str], bool]]:
    """The volume with the runner, if the container has one."""
    return [_row(RunnerVolume(sha256=sha256).mount())] if sha256 else []


def _row(volume: DiskVolume) -> tuple[str, str, dict[str, str], bool]:
    return volume.name, volume.path, dict(volume.labels), volume.read_only


def _state(row: tuple[str, str, str, dict[str, str], float, int | None, bool, float, float, dict[str, str]]) -> ContainerInfo:
    id_, name, status, labels, created_at_s, exit_code, oom_killed, started_at_s, ended_at_s, volumes = row
    return ContainerInfo(
        id=id_,
        name=name,
        status=ContainerStatus(status),
        labels=labels,
        exit_code=exit_code,
        oom_killed=oom_killed,
        created_at_s=created_at_s,
        started_at_s=started_at_s,
        ended_at_s=ended_at_s,
        volumes=volumes,
    )
