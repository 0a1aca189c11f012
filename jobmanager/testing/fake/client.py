"""``FakeEngine``: the ``Engine`` protocol spoken with a fake engine's process (``jobmanager.testing``) instead of Docker."""

from __future__ import annotations

import pickle
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from jobmanager.engine import protocol
from jobmanager.engine.protocol import Chunk, EngineError, OutputStream, StdinLink, Unreachable
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
from jobmanager.testing.fake.wire import PIECE, STDERR, Inbox, packed

__all__ = ["FakeEngine"]

_MIN_TIMEOUT_S = 0.001


class FakeEngine:
    """``Engine`` over a fake engine's socket: one connection for calls, one for each open stream. One per thread."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._path = unquote(urlsplit(address.url).path)
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None

    def info(self) -> EngineInfo:
        version, cores, memory_mib, now_s, available = self._call("info")
        return EngineInfo(
            version=version,
            cores=cores,
            memory_mib=memory_mib,
            now_s=now_s,
            cgroup="1",
            architecture="x86_64",
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

    def image_defaults(self, image: str) -> ImageDefaults:
        command, volumes = self._call("image_defaults", image)
        return ImageDefaults(command=command, volumes=volumes)

    def pull(self, image: str) -> None:
        self._call("pull", image)

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:  # noqa: ARG002
        limits = spec.limits
        folders = (spec.workspace, spec.shares, spec.shared_volume)
        bounds = (*folders, limits.workspace_mib, limits.workspace_inodes, limits.output_kib, limits.cpus)
        volumes = [(each.name, each.path, each.short_name, each.size_mib, each.inodes, each.read_only) for each in spec.volumes]
        return str(self._call("create", spec.name, spec.image, dict(spec.labels), bounds, volumes))

    def create_carrier(self, name: str, image: str, labels: Mapping[str, str], volumes: Sequence[DiskVolume]) -> str:
        rows = [(each.name, each.path, dict(each.labels), each.read_only) for each in volumes]
        return str(self._call("create_carrier", name, image, dict(labels), rows))

    def write_file(self, container: str, path: str, content: bytes, mode: int = 0o644) -> None:
        self._call("write_file", container, path, content, mode)

    def start(self, container: str) -> None:
        self._call("start", container)

    def attach(self, container: str) -> OutputStream:
        return self._stream("attach", container)

    def logs(self, container: str) -> OutputStream:
        return self._stream("logs", container)

    def feed(
        self,
        container: str,
        payload: bytes,
        timeout_s: float,
        still_takes_input: Callable[[], bool] = lambda: True,  # noqa: ARG002 - a fake container takes all of it at once
    ) -> None:
        self._call("feed", container, payload, timeout_s=timeout_s)

    def open_stdin(self, container: str) -> StdinLink:
        return _FakeStdin(self._open_connection("open_stdin", container), self._path, self._timeout_s)

    def inspect(self, container: str) -> ContainerInfo:
        return _state(self._call("inspect", container))

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerInfo]:
        return [_state(row) for row in self._call("list", dict(labels))]

    def kill(self, container: str) -> None:
        self._call("kill", container)

    def pause(self, container: str) -> None:
        self._call("pause", container)

    def unpause(self, container: str) -> None:
        self._call("unpause", container)

    def usage(self, container: str) -> Usage | None:
        cpu_time_ns = self._call("usage", container)
        return None if cpu_time_ns is None else Usage(cpu_time_ns=int(cpu_time_ns), peak_memory_bytes=None)

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        tar: bytes = self._call("archive", container, path)
        for at in range(0, len(tar), PIECE):
            yield tar[at : at + PIECE]

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

    def _call(self, call: str, *arguments: object, timeout_s: float | None = None) -> Any:
        try:
            return self._connected().ask((call, *arguments), timeout_s or self._timeout_s)
        except OSError as error:
            self.close()
            raise Unreachable(f"{self._path}: {error}") from error

    def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.is_dropped():
            self.close()
        if self._connection is None:
            self._connection = _Connection(self._path, self._timeout_s)
        return self._connection

    def _stream(self, call: str, container: str) -> OutputStream:
        return _FakeStream(self._open_connection(call, container))

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


class _FakeStream:
    """A container's output on a connection of its own."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def read(self, timeout_s: float) -> list[Chunk] | None:
        if not self._connection.waiting:
            try:
                self._connection.socket.settimeout(max(timeout_s, _MIN_TIMEOUT_S))
                self._connection.receive()
            except TimeoutError:
                return []
            except OSError:
                return None
        came, self._connection.waiting = self._connection.waiting, []
        return [Chunk(body[:1] == STDERR, body[1:]) for body in came]

    def close(self) -> None:
        try:
            self._connection.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads it
        except OSError:
            pass  # the engine has closed it
        self._connection.close()


class _FakeStdin:
    """A container's standard input on a connection of its own."""

    def __init__(self, connection: _Connection, path: str, timeout_s: float) -> None:
        self._connection = connection
        self._path = path
        self._timeout_s = timeout_s

    def write(self, data: bytes, timeout_s: float, still_takes_input: Callable[[], bool] = lambda: True) -> None:  # noqa: ARG002
        try:
            self._connection.ask(("write", data), min(timeout_s, self._timeout_s))
        except OSError as error:
            raise Unreachable(f"{self._path}: {error}") from error

    def close(self) -> None:
        with suppress(OSError):  # the engine has closed it
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()


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
