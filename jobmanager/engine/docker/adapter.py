"""The Docker adapter: the only place that imports docker, and the one that translates its errors."""

from __future__ import annotations

import errno
import io
import logging
import re
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from math import inf
from typing import Any, ClassVar

import docker
import docker.auth
import docker.errors
import docker.tls
import requests.exceptions
import urllib3.exceptions

from jobmanager.engine.docker.config import VOLUME_LABEL, container_config
from jobmanager.engine.docker.streams import LogStream, SocketStream, plain_socket, shut
from jobmanager.engine.docker.transport import LEAST_BYTES_PER_S, Patience, bound, within
from jobmanager.engine.protocol import (
    BeingRemoved,
    EngineError,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    OutputStream,
    Refused,
    StdinLink,
    Unreachable,
)
from jobmanager.model._escapes import one_line
from jobmanager.model.container import (
    ContainerPhase,
    ContainerSpec,
    ContainerState,
    EngineAbout,
    EngineInfo,
    Image,
    ImageDefaults,
    Usage,
    VolumeState,
)
from jobmanager.model.host import TLS, Address

_log = logging.getLogger(__name__)

_PIECE = 65536
_SEND_GLANCE_S = 1.0
_MOST_KNOWN_IMAGES = 64
_MOST_WORDS = 1000  # of an engine's error, in characters
_TIMES_FOR_PULL = 10  # the timeout, before an engine that fetches an image may be silent for too long
_MOST_PULL_BYTES = 64 * 2**20  # of what it says meanwhile: hours of progress
_NEWEST_API = "1.44"  # what this adapter was written against; newer engines still speak it
_OLDEST_API = "1.41"  # the first with private cgroup namespaces (Engine 20.10)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_OTHER_VERSION = re.compile(r"client version \S+ is too (new|old)")
_TIMED_OUT = re.compile(r"timed out\. \((?:read|connect) timeout=([0-9.]+)\)$")  # urllib3's words
_HINTS = {
    errno.ENOENT: "no socket there: is Docker running?",
    errno.ECONNREFUSED: "nobody listens there: is Docker running?",
}
_NO_ANSWER = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,  # a ValueError only
    docker.errors.StreamParseError,  # a RuntimeError only: an answer that is no JSON
    OSError,
)
_HIDE_THE_CAUSE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ReadTimeoutError)
_CAN_LIMIT = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU time"}
_STARTED = (204, 304)
_PHASES = {
    "created": ContainerPhase.CREATED,
    "running": ContainerPhase.RUNNING,
    "restarting": ContainerPhase.RUNNING,
    "paused": ContainerPhase.PAUSED,
}


class _VersionRefused(Unreachable):
    """Another engine answers there now, or another release of it: what it speaks is asked anew."""


class DockerEngine:
    """``Engine`` over the Docker API. One per thread: docker's client is not thread-safe."""

    _api_versions: ClassVar[dict[Address, str]] = {}  # what each engine was found to speak; asked once a process

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client_made: docker.APIClient | None = None
        self._known_defaults: dict[str, ImageDefaults] = {}  # by image id

    def info(self) -> EngineInfo:
        with self._asking():
            said = self._client.info()
            return EngineInfo(
                version=_text(said["ServerVersion"]),
                cores=int(said.get("NCPU") or 1),
                memory_mib=int(said.get("MemTotal") or 0) // 2**20,
                now_s=_seconds(said.get("SystemTime")),
                cgroup=str(said.get("CgroupVersion") or "1"),
                kernel=str(said.get("KernelVersion") or ""),
                engine_id=f"{said.get('ID')} {said.get('DockerRootDir')}",  # before Engine 23 a machine's engines share the first
            )

    def about(self) -> EngineAbout:
        with self._asking():
            info, version = self._client.info(), self._client.version(api_version=False)
            components = {str(part.get("Name")): str(part.get("Version")) for part in version.get("Components") or ()}
            return EngineAbout(
                engine=str(version.get("Version", "")),
                api=str(version.get("ApiVersion", "")),
                containerd=components.get("containerd", ""),
                runtime=str(info.get("DefaultRuntime", "")),
                runc=components.get("runc", ""),
                operating_system=str(info.get("OperatingSystem", "")),
                kernel=str(info.get("KernelVersion", "")),
                cgroup=str(info.get("CgroupVersion") or "1"),
                storage_driver=str(info.get("Driver", "")),
                live_restore=bool(info.get("LiveRestoreEnabled")),
                security=tuple(option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()),
                cannot_limit=tuple(what for key, what in _CAN_LIMIT.items() if not info.get(key)),
                warnings=tuple(str(warning).removeprefix("WARNING: ") for warning in info.get("Warnings") or ()),
            )

    def images(self) -> list[Image]:
        with self._asking():
            return [
                Image(
                    id=_text(image["Id"]),
                    references=tuple(
                        reference
                        for reference in [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]
                        if "<none>" not in reference
                    ),
                    labels=_labels(image),
                    created_at_s=float(image.get("Created") or 0),
                    size_bytes=int(image.get("Size") or 0),
                )
                for image in _list(self._client.images())
            ]

    def image_defaults(self, image: str) -> ImageDefaults:
        if image in self._known_defaults:  # one that is gone since is missed by ``create``
            return self._known_defaults[image]
        with self._asking(missing=ImageMissing):
            said = self._client.inspect_image(image)
            config = said.get("Config") or {}
            defaults = ImageDefaults(
                command=tuple(map(str, (*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])))),
                volumes=tuple(sorted(map(str, config.get("Volumes") or {}))),
            )
        if image.startswith("sha256:"):  # an id stands for the same content for ever, a name does not
            if len(self._known_defaults) >= _MOST_KNOWN_IMAGES:
                self._known_defaults.clear()
            self._known_defaults[image] = defaults
        return defaults

    def pull(self, image: str) -> None:
        patience = Patience(timeout_s=_TIMES_FOR_PULL * self._timeout_s, most_bytes=_MOST_PULL_BYTES, is_stream=True)
        with self._asking(missing=ImageMissing, patience=patience):
            client, tag = self._client, None if _has_tag(image) else "latest"
            for said in client.pull(image, tag=tag, auth_config=_log_in(client, image), stream=True, decode=True):
                if "error" in said:
                    raise ImageMissing(_short(said["error"]))

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:
        config = container_config(spec, defaults)
        with self._asking(missing=ImageMissing, conflict=NameTaken):
            return _text(self._client.create_container_from_config(config, spec.name)["Id"])

    def write_file(self, container: str, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        packed, member = io.BytesIO(), tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        with tarfile.open(fileobj=packed, mode="w", encoding="utf-8") as tar:
            tar.addfile(member, io.BytesIO(content))
        with self._asking():
            self._client.put_archive(container, folder or "/", packed.getvalue())

    def start(self, container: str) -> None:
        with self._asking():
            response = self._client._post(self._client._url("/containers/{0}/start", container))
            self._client._raise_for_status(response)
            if response.status_code not in _STARTED:  # what was not started would be waited for
                raise ValueError(f"status {response.status_code} in answer to a start")

    def attach(self, container: str) -> OutputStream:
        with self._asking(patience=self._for_a_stream()):
            return SocketStream(self._attach(container, stdout=1, stderr=1))

    def logs(self, container: str) -> OutputStream:
        with self._asking(patience=self._for_a_stream()):
            response = self._client._get(
                self._client._url("/containers/{0}/logs", container),
                params={"stdout": 1, "stderr": 1, "follow": 1, "tail": "all"},
                stream=True,
            )
            self._client._raise_for_status(response)
            return LogStream(response)

    def feed(self, container: str, payload: bytes, timeout_s: float, still_takes_input: Callable[[], bool] = lambda: True) -> None:
        link = self.open_stdin(container)
        try:
            link.write(payload, timeout_s, still_takes_input)
        finally:
            link.close()

    def open_stdin(self, container: str) -> StdinLink:
        with self._asking(patience=self._for_a_stream()):
            return _SocketLink(self._attach(container, stdin=1))

    def inspect(self, container: str) -> ContainerState:
        with self._asking():
            said = self._client.inspect_container(container)
            state = said["State"]
            phase = _PHASES.get(state["Status"], ContainerPhase.ENDED)
            return ContainerState(
                id=_text(said["Id"]),
                name=_text(said["Name"]).lstrip("/"),
                phase=phase,
                labels=_labels(said["Config"]),
                exit_code=int(state["ExitCode"]) if phase is ContainerPhase.ENDED else None,
                oom_killed=bool(state.get("OOMKilled")),
                error=str(state.get("Error") or ""),
                created_at_s=_seconds(said.get("Created")),
                started_at_s=_seconds(state.get("StartedAt")),
                in_removal=state["Status"] in ("removing", "dead"),
                volumes=_volumes(said),
                ports=_published(said.get("NetworkSettings", {}).get("Ports") or {}),
            )

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerState]:
        with self._asking():
            return [
                ContainerState(
                    id=_text(container["Id"]),
                    name=_text((container.get("Names") or ["/"])[0]).lstrip("/"),
                    phase=_PHASES.get(container["State"], ContainerPhase.ENDED),
                    labels=_labels(container),
                    created_at_s=float(container.get("Created") or 0),
                    volumes=_volumes(container),
                )
                for container in _list(self._client.containers(all=True, filters={"label": _wanted(labels)}))
            ]

    def kill(self, container: str) -> None:
        with self._asking(conflict=NotRunning):
            self._client.kill(container)

    def pause(self, container: str) -> None:
        with self._asking(conflict=NotRunning):
            self._client.pause(container)

    def unpause(self, container: str) -> None:
        with self._asking():
            self._client.unpause(container)

    def usage(self, container: str) -> Usage | None:
        with self._asking():
            said = self._client.stats(container, stream=False, one_shot=True)
            cpu_time_ns = int(said["cpu_stats"]["cpu_usage"]["total_usage"])
            peak = said["memory_stats"].get("max_usage")
            return Usage(cpu_time_ns=cpu_time_ns, peak_memory_bytes=peak and int(peak)) if cpu_time_ns else None

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        with self._asking(patience=Patience(timeout_s=self._timeout_s, most_bytes=inf)):
            pieces, _ = self._client.get_archive(container, path, chunk_size=_PIECE)
        with _translated():  # read by and by, or never to its end: other calls of this thread have a patience of their own
            yield from pieces

    def remove(self, container: str) -> None:
        try:
            with self._asking(conflict=NoSuchContainer):  # 409: its removal is under way already
                self._client.remove_container(container, force=True, v=True)
        except NoSuchContainer:
            self._raise_if_still_there(container)
        self._remove_volumes_of(container)

    def volumes(self, labels: Mapping[str, str | None]) -> Sequence[VolumeState]:
        with self._asking():
            return [
                VolumeState(
                    name=_text(volume["Name"]),
                    labels=_labels(volume),
                    created_at_s=_seconds(volume.get("CreatedAt")),
                )
                for volume in _list(self._client.volumes(filters={"label": _wanted(labels)})["Volumes"] or [])
            ]

    def remove_volume(self, name: str) -> None:
        with suppress(NoSuchContainer), self._asking():
            self._client.remove_volume(name)

    def close(self) -> None:
        if self._client_made is not None:
            _close_pools(self._client_made)
            self._client_made.close()
            self._client_made = None

    @contextmanager
    def _asking(
        self,
        *,
        missing: type[EngineError] = NoSuchContainer,
        conflict: type[EngineError] = Refused,
        patience: Patience | None = None,
    ) -> Iterator[None]:
        """Around each call, and the reading of its answer, which may be nonsense."""
        try:
            with _translated(missing=missing, conflict=conflict), within(patience or Patience(timeout_s=self._timeout_s)):
                yield
        except _VersionRefused:
            self._api_versions.pop(self._address, None)
            self.close()
            raise

    def _for_a_stream(self) -> Patience:
        return Patience(timeout_s=self._timeout_s, most_bytes=inf, is_stream=True)

    @property
    def _client(self) -> docker.APIClient:
        if self._client_made is None:
            if self._address not in self._api_versions:
                self._api_versions[self._address] = self._negotiated()
            self._client_made = self._new_client(self._api_versions[self._address])
        return self._client_made

    def _negotiated(self) -> str:
        asking = self._new_client(_OLDEST_API)
        try:
            said = asking.version(api_version=False)
        finally:
            asking.close()
        newest = _text(said["ApiVersion"])
        if _version(newest) < _version(_OLDEST_API):
            raise Refused(f"Docker Engine {said.get('Version')} is too old: 20.10 or newer is needed")
        return min(newest, _NEWEST_API, key=_version)

    def _new_client(self, version: str) -> docker.APIClient:
        tls = self._address.tls
        settings = {
            "base_url": self._address.url,
            "version": version,
            "timeout": self._timeout_s,
            "tls": False if tls is None else _tls_config(tls),
            "num_pools": 4,
        }
        try:
            client = docker.APIClient(**settings)
            if not all(isinstance(word, str) for pair in client._general_configs.get("HttpHeaders", {}).items() for word in pair):
                raise ValueError("HttpHeaders are no headers")
        except Exception as error:  # noqa: BLE001 - whatever docker makes of its file; the second try tells what else it is
            client = _Unconfigured(**settings)
            _log.info("Docker's configuration is left out: %s: %s", type(error).__name__, _short(error))
        bound(client)
        client.trust_env = False  # else REQUESTS_CA_BUNDLE replaces the host's own ca_cert, and verify=False
        return client

    def _attach(self, container: str, **streams: int) -> Any:
        return self._client.attach_socket(container, params={**streams, "stream": 1})

    def _remove_volumes_of(self, container: str) -> None:
        """The container may have been removed without its volume: by somebody else, or by an engine that only logs it."""
        for volume in self.volumes({VOLUME_LABEL: container}):
            self.remove_volume(volume.name)

    def _raise_if_still_there(self, container: str) -> None:
        try:
            self.inspect(container)
        except NoSuchContainer:
            return
        raise BeingRemoved(f"removal of {container} is still under way")


def _list(said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise TypeError(f"{type(said).__name__} in place of a list")
    return said


class _Unconfigured(docker.APIClient):  # type: ignore[misc]
    """docker's client without its configuration file, which is of use for fetching images only."""

    @property
    def _general_configs(self) -> dict[str, Any]:
        return {"auths": {}}  # an empty one would have the file read again

    @_general_configs.setter
    def _general_configs(self, found: Any) -> None:
        pass


def _log_in(client: docker.APIClient, image: str) -> dict[str, str] | None:
    """None: as Docker's configuration says. Nothing, where that cannot be read: public images come without."""
    try:
        docker.auth.get_config_header(client, docker.auth.resolve_repository_name(image)[0])
    except Exception as error:  # noqa: BLE001 - a helper that is missing, or says anything at all
        _log.warning("image %s is fetched without a log-in: %s: %s", image, type(error).__name__, _short(error))
        return {}
    return None


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise TypeError(f"{type(said).__name__} in place of a text")
    return said


def _labels(said: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (said.get("Labels") or {}).items()}


def _volumes(container: Mapping[str, Any]) -> dict[str, str]:
    mounts = container.get("Mounts") or ()
    return {str(mount["Destination"]): str(mount["Name"]) for mount in mounts if mount.get("Type") == "volume"}


def _published(ports: Mapping[str, Any]) -> dict[int, int]:
    """TCP ports from inside to outside. One that is published for IPv4 and IPv6 can have two numbers: that of IPv4."""
    found = {inside: sorted(places, key=lambda place: ":" in place["HostIp"]) for inside, places in ports.items() if places}
    return {int(inside.partition("/")[0]): int(places[0]["HostPort"]) for inside, places in found.items()}


def _wanted(labels: Mapping[str, str | None]) -> Sequence[str]:
    """Labels as a filter takes them."""
    return [key if value is None else f"{key}={value}" for key, value in labels.items()]


@contextmanager
def _translated(
    *, missing: type[EngineError] = NoSuchContainer, conflict: type[EngineError] = Refused
) -> Iterator[None]:
    """Whatever goes wrong, in our words. What 404 and 409 mean depends on the call.

    Docker's client reads parts of an answer that may not be there, in any shape; what it then raises is the engine's
    nonsense, which is as good as no answer.
    """
    try:
        yield
    except EngineError:
        raise
    except docker.errors.APIError as error:
        raise _api_error(error, missing, conflict) from error
    except _NO_ANSWER as error:
        raise Unreachable(_short(_innermost(error))) from error
    except docker.errors.DockerException as error:
        raise Unreachable(_short(error)) from error
    except Exception as error:
        raise Unreachable(f"its answer makes no sense ({type(error).__name__}: {_short(error)})") from error


def _api_error(error: docker.errors.APIError, missing: type[EngineError], conflict: type[EngineError]) -> EngineError:
    words = _short(error.explanation or error)
    status = error.status_code
    if status == 400 and _OTHER_VERSION.search(words):
        return _VersionRefused(words)
    if status == 404:
        return missing(words)
    if status == 409:
        return conflict(words)
    return EngineFailed(words) if status is not None and status >= 500 else Refused(words)


def _innermost(error: BaseException) -> str:
    """The reason that a person can use: requests wraps urllib3's error, which wraps the socket's."""
    while True:
        if (waited := _TIMED_OUT.search(str(error))) is not None:
            return f"no answer within {waited[1]} s"
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ if isinstance(error, _HIDE_THE_CAUSE) else None
        if inner is None:
            break
        error = inner
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{error} ({_HINTS[error.errno]})" if error.errno in _HINTS else str(error)


def _short(words: object) -> str:
    """An engine's words, of which there may be megabytes."""
    return one_line(str(words).strip()[:_MOST_WORDS])


def _close_pools(client: docker.APIClient) -> None:
    """A TCP client leaves that to the pools' end, and whoever holds a stream holds its pool."""
    for adapter in client.adapters.values():
        pools = adapter.poolmanager.pools if hasattr(adapter, "poolmanager") else {}
        for key in pools.keys():  # noqa: SIM118 - no mapping: it cannot be iterated over
            pools[key].close()


class _SocketLink:
    """An attached standard input."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached

    def write(self, data: bytes, timeout_s: float, still_takes_input: Callable[[], bool] = lambda: True) -> None:
        with _translated():
            plain = plain_socket(self._attached)
            if plain is None:
                raise Unreachable("the standard input was closed")
            _send_all(plain, data, timeout_s, still_takes_input)

    def close(self) -> None:
        shut(self._attached)


def _send_all(plain: socket.socket, payload: bytes, timeout_s: float, still_takes_input: Callable[[], bool]) -> None:
    began = time.monotonic()
    plain.settimeout(_SEND_GLANCE_S)
    left = memoryview(payload)
    while left:
        if time.monotonic() - began > timeout_s + (len(payload) - len(left)) / LEAST_BYTES_PER_S:
            raise TimeoutError(f"{len(left)} of {len(payload)} bytes were not taken in time")
        try:
            left = left[plain.send(left) :]
        except TimeoutError:
            if not still_takes_input():
                raise NotRunning("it has ended, and did not take all of its standard input") from None


def _tls_config(tls: TLS) -> docker.tls.TLSConfig:
    pair = (str(tls.client_cert), str(tls.client_key)) if tls.client_cert is not None else None
    return docker.tls.TLSConfig(
        client_cert=pair, ca_cert=str(tls.ca_cert) if tls.ca_cert is not None else None, verify=tls.verify
    )


def _has_tag(image: str) -> bool:
    return ":" in image.rsplit("/", 1)[-1] or "@" in image


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _seconds(stamp: str | None) -> float:
    """An engine's RFC 3339 time with nanoseconds as seconds since 1970; 0 for none."""
    found = _STAMP.fullmatch(stamp or "")
    if found is None:
        return 0.0
    whole, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(whole + ("+00:00" if zone in (None, "Z") else zone))
    except ValueError:
        return 0.0
    return moment.timestamp() + float(f"0{fraction or ''}")
