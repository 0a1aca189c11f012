"""The Docker adapter: the only place that imports docker, and the one that translates its errors."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
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

from jobmanager.engine.docker.call_limits import CallLimits, enforce_limits, limited
from jobmanager.engine.docker.channel import SocketChannel
from jobmanager.engine.docker.container_config import VOLUME_LABEL, carrier_config, changeable_limits, container_config
from jobmanager.engine.protocol import (
    BeingRemoved,
    Channel,
    EngineError,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    Refused,
    Unreachable,
)
from jobmanager.model._escapes import one_line
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
from jobmanager.model.host import TLS, Address
from jobmanager.model.limits import Limits

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 65536
_MAX_CACHED_IMAGES = 64
_MAX_ERROR_CHARS = 1000  # of an engine's error message
_PULL_TIMEOUT_FACTOR = 10  # a pull may be silent for so many times the timeout
_MAX_PULL_BYTES = 64 * 2**20  # of progress messages: hours of them
_NEWEST_API = "1.44"  # the newest version that this adapter knows; newer engines still support it
_OLDEST_API = "1.41"  # the first with private cgroup namespaces (Engine 20.10)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_OTHER_VERSION = re.compile(r"client version \S+ is too (new|old)")
_TIMED_OUT = re.compile(r"timed out\. \((?:read|connect) timeout=([0-9.]+)\)$")  # urllib3's message
_HINTS = {
    errno.ENOENT: "no socket there: is Docker running?",
    errno.ECONNREFUSED: "nobody listens there: is Docker running?",
}
_NO_ANSWER = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,  # a ValueError only
    docker.errors.StreamParseError,  # a RuntimeError only: an answer that is not JSON
    OSError,
)
_HIDES_ITS_CAUSE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ReadTimeoutError)
_CAN_LIMIT = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU time"}
_STARTED = (204, 304)
_STATUSES = {
    "created": ContainerStatus.CREATED,
    "running": ContainerStatus.RUNNING,
    "restarting": ContainerStatus.RUNNING,
    "paused": ContainerStatus.PAUSED,
}


class _VersionRefused(Unreachable):
    """Another engine, or another release, answers now: the API version is negotiated again."""


class DockerEngine:
    """``Engine`` over the Docker API. One per thread: docker's client is not thread-safe."""

    _api_versions: ClassVar[dict[Address, str]] = {}  # negotiated with each engine, once per process

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._open_client: docker.APIClient | None = None
        self._cached_defaults: dict[str, ImageDefaults] = {}  # by image id

    def info(self) -> EngineInfo:
        with self._request():
            answer = self._client.info()
            return EngineInfo(
                version=_text(answer["ServerVersion"]),
                cores=int(answer.get("NCPU") or 1),
                memory_mib=int(answer.get("MemTotal") or 0) // 2**20,
                now_s=_seconds(answer.get("SystemTime")),
                cgroup=str(answer.get("CgroupVersion") or "1"),
                kernel=str(answer.get("KernelVersion") or ""),
                architecture=str(answer.get("Architecture") or ""),
                engine_id=f"{answer.get('ID')} {answer.get('DockerRootDir')}",  # until Engine 23 a machine's engines share the ID
                in_swarm=(answer.get("Swarm") or {}).get("LocalNodeState") not in (None, "", "inactive"),
            )

    def about(self) -> EngineAbout:
        with self._request():
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
        with self._request():
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

    def networks(self) -> frozenset[str]:
        with self._request():
            return frozenset(_text(network["Name"]) for network in _list(self._client.networks()))

    def image_defaults(self, image: str) -> ImageDefaults:
        if image in self._cached_defaults:  # a removed one is noticed by ``create``
            return self._cached_defaults[image]
        with self._request(missing=ImageMissing):
            answer = self._client.inspect_image(image)
            config = answer.get("Config") or {}
            defaults = ImageDefaults(
                command=tuple(map(str, (*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])))),
                volumes=tuple(sorted(map(str, config.get("Volumes") or {}))),
            )
        if image.startswith("sha256:"):  # the content of an id never changes, that of a name may
            if len(self._cached_defaults) >= _MAX_CACHED_IMAGES:
                self._cached_defaults.clear()
            self._cached_defaults[image] = defaults
        return defaults

    def pull(self, image: str) -> None:
        limits = CallLimits(timeout_s=_PULL_TIMEOUT_FACTOR * self._timeout_s, max_bytes=_MAX_PULL_BYTES, is_stream=True)
        with self._request(missing=ImageMissing, limits=limits):
            client, tag = self._client, None if _has_tag(image) else "latest"
            for answer in client.pull(image, tag=tag, auth_config=_log_in(client, image), stream=True, decode=True):
                if "error" in answer:
                    raise ImageMissing(_short(answer["error"]))

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:
        config = container_config(spec, defaults)
        with self._request(missing=ImageMissing, conflict=NameTaken):
            return _text(self._client.create_container_from_config(config, spec.name)["Id"])

    def create_carrier(self, name: str, image: str, labels: Mapping[str, str], volumes: Sequence[DiskVolume]) -> str:
        config = carrier_config(image, labels, volumes)
        with self._request(missing=ImageMissing, conflict=NameTaken):
            return _text(self._client.create_container_from_config(config, name)["Id"])

    def write_file(self, container: str, path: str, content: bytes, mode: int = 0o644) -> None:
        folder, _, name = path.rpartition("/")
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), mode
        self._unpack(container, folder, {member: content})

    def make_fifos(self, container: str, paths: Sequence[str]) -> None:
        members = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.FIFOTYPE, 0o666
            members[member] = b""
        self._unpack(container, folder, members)

    def _unpack(self, container: str, folder: str, members: Mapping[tarfile.TarInfo, bytes]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", encoding="utf-8") as tar:
            for member, content in members.items():
                tar.addfile(member, io.BytesIO(content))
        with self._request():
            self._client.put_archive(container, folder or "/", packed.getvalue())

    def start(self, container: str) -> None:
        with self._request():
            response = self._client._post(self._client._url("/containers/{0}/start", container))
            self._client._raise_for_status(response)
            if response.status_code not in _STARTED:  # a container that was not started would be waited for
                raise ValueError(f"status {response.status_code} in answer to a start")

    def open_channel(self, container: str) -> Channel:
        with self._request(limits=self._stream_limits()):
            return SocketChannel(self._attach(container, stdin=1, stdout=1, stderr=1))

    def inspect(self, container: str) -> ContainerInfo:
        with self._request():
            answer = self._client.inspect_container(container)
            state = answer["State"]
            status = _STATUSES.get(state["Status"], ContainerStatus.ENDED)
            return ContainerInfo(
                id=_text(answer["Id"]),
                name=_text(answer["Name"]).lstrip("/"),
                status=status,
                labels=_labels(answer["Config"]),
                exit_code=int(state["ExitCode"]) if status is ContainerStatus.ENDED else None,
                oom_killed=bool(state.get("OOMKilled")),
                error=str(state.get("Error") or ""),
                created_at_s=_seconds(answer.get("Created")),
                started_at_s=_seconds(state.get("StartedAt")),
                ended_at_s=_seconds(state.get("FinishedAt")) if status is ContainerStatus.ENDED else 0.0,
                in_removal=state["Status"] in ("removing", "dead"),
                volumes=_volumes(answer),
                ports=_published_ports(answer.get("NetworkSettings", {}).get("Ports") or {}),
            )

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerInfo]:
        with self._request():
            return [
                ContainerInfo(
                    id=_text(container["Id"]),
                    name=_text((container.get("Names") or ["/"])[0]).lstrip("/"),
                    status=_STATUSES.get(container["State"], ContainerStatus.ENDED),
                    labels=_labels(container),
                    created_at_s=float(container.get("Created") or 0),
                    volumes=_volumes(container),
                )
                for container in _list(self._client.containers(all=True, filters={"label": _label_filter(labels)}))
            ]

    def kill(self, container: str) -> None:
        with self._request(conflict=NotRunning):
            self._client.kill(container)

    def set_limits(self, container: str, limits: Limits) -> None:
        with self._request():  # docker-py's own call knows no limit of processes
            url = self._client._url("/containers/{0}/update", container)
            self._client._raise_for_status(self._client._post_json(url, data=changeable_limits(limits)))

    def usage(self, container: str) -> Usage | None:
        with self._request():
            answer = self._client.stats(container, stream=False, one_shot=True)
            cpu_time_ns = int(answer["cpu_stats"]["cpu_usage"]["total_usage"])
            peak = answer["memory_stats"].get("max_usage")
            return Usage(cpu_time_ns=cpu_time_ns, peak_memory_bytes=peak and int(peak)) if cpu_time_ns else None

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        with self._request(limits=CallLimits(timeout_s=self._timeout_s, max_bytes=inf)):
            pieces, _ = self._client.get_archive(container, path, chunk_size=_CHUNK_BYTES)
        with _translated():  # read later, or not to its end: other calls of this thread have limits of their own
            yield from pieces

    def wait_until_ended(self, container: str, timeout_s: float) -> None:
        with self._request(limits=CallLimits(timeout_s=timeout_s)):
            self._client.wait(container)

    def remove(self, container: str) -> None:
        try:
            with self._request(conflict=NoSuchContainer):  # 409: it is being removed already
                self._client.remove_container(container, force=True, v=True)
        except NoSuchContainer:
            self._raise_if_it_exists(container)
        self._remove_volumes_of(container)

    def volumes(self, labels: Mapping[str, str | None]) -> Sequence[VolumeInfo]:
        with self._request():
            return [
                VolumeInfo(
                    name=_text(volume["Name"]),
                    labels=_labels(volume),
                    created_at_s=_seconds(volume.get("CreatedAt")),
                )
                for volume in _list(self._client.volumes(filters={"label": _label_filter(labels)})["Volumes"] or [])
            ]

    def remove_volume(self, name: str) -> None:
        with suppress(NoSuchContainer), self._request():
            self._client.remove_volume(name)

    def close(self) -> None:
        if self._open_client is not None:
            _close_pools(self._open_client)
            self._open_client.close()
            self._open_client = None

    @contextmanager
    def _request(
        self,
        *,
        missing: type[EngineError] = NoSuchContainer,
        conflict: type[EngineError] = Refused,
        limits: CallLimits | None = None,
    ) -> Iterator[None]:
        """Around each call and the reading of its answer: limits it, and translates errors."""
        try:
            with _translated(missing=missing, conflict=conflict), limited(limits or CallLimits(timeout_s=self._timeout_s)):
                yield
        except _VersionRefused:
            self._api_versions.pop(self._address, None)
            self.close()
            raise
        except Unreachable as error:
            if lack := _no_socket(self._address.url):
                raise Unreachable(lack) from error
            raise

    def _stream_limits(self) -> CallLimits:
        return CallLimits(timeout_s=self._timeout_s, max_bytes=inf, is_stream=True)

    @property
    def _client(self) -> docker.APIClient:
        if self._open_client is None:
            if self._address not in self._api_versions:
                self._api_versions[self._address] = self._negotiate_version()
            self._open_client = self._new_client(self._api_versions[self._address])
        return self._open_client

    def _negotiate_version(self) -> str:
        asking = self._new_client(_OLDEST_API)
        try:
            answer = asking.version(api_version=False)
        finally:
            asking.close()
        newest = _text(answer["ApiVersion"])
        if _version(newest) < _version(_OLDEST_API):
            raise Refused(f"Docker Engine {answer.get('Version')} is too old: 20.10 or newer is needed")
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
        except Exception as error:  # noqa: BLE001 - any error about Docker's configuration file; other errors come again below
            client = _ClientWithoutConfig(**settings)
            _log.info("Docker's configuration is ignored: %s: %s", type(error).__name__, _short(error))
        enforce_limits(client)
        client.trust_env = False  # else REQUESTS_CA_BUNDLE replaces the host's own ca_cert, and verify=False
        return client

    def _attach(self, container: str, **streams: int) -> Any:
        return self._client.attach_socket(container, params={**streams, "stream": 1})

    def _remove_volumes_of(self, container: str) -> None:
        """Somebody else, or an engine that only logs the error, may have removed the container without its volume."""
        for volume in self.volumes({VOLUME_LABEL: container}):
            self.remove_volume(volume.name)

    def _raise_if_it_exists(self, container: str) -> None:
        try:
            self.inspect(container)
        except NoSuchContainer:
            return
        raise BeingRemoved(f"removal of {container} is still under way")


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise TypeError(f"{type(answer).__name__} in place of a list")
    return answer


class _ClientWithoutConfig(docker.APIClient):  # type: ignore[misc]
    """docker's client without its configuration file, which is needed for pulling images only."""

    @property
    def _general_configs(self) -> dict[str, Any]:
        return {"auths": {}}  # if this were empty, the file would be read again

    @_general_configs.setter
    def _general_configs(self, found: Any) -> None:
        pass


def _log_in(client: docker.APIClient, image: str) -> dict[str, str] | None:
    """None: docker uses its configuration. {}: no log-in, where that cannot be read; public images need none."""
    try:
        docker.auth.get_config_header(client, docker.auth.resolve_repository_name(image)[0])
    except Exception as error:  # noqa: BLE001 - a credential helper that is missing, or whose answer is invalid
        _log.warning("image %s is pulled without a log-in: %s: %s", image, type(error).__name__, _short(error))
        return {}
    return None


def _text(answer: Any) -> str:
    if not isinstance(answer, str):
        raise TypeError(f"{type(answer).__name__} in place of a text")
    return answer


def _labels(answer: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (answer.get("Labels") or {}).items()}


def _volumes(container: Mapping[str, Any]) -> dict[str, str]:
    mounts = container.get("Mounts") or ()
    return {str(mount["Destination"]): str(mount["Name"]) for mount in mounts if mount.get("Type") == "volume"}


def _published_ports(ports: Mapping[str, Any]) -> dict[int, int]:
    """TCP ports: container port to host port. One that is published for IPv4 and IPv6 may have two: IPv4's is taken."""
    found = {inside: sorted(places, key=lambda place: ":" in place["HostIp"]) for inside, places in ports.items() if places}
    return {int(inside.partition("/")[0]): int(places[0]["HostPort"]) for inside, places in found.items()}


def _label_filter(labels: Mapping[str, str | None]) -> Sequence[str]:
    """Labels in the format of a filter."""
    return [key if value is None else f"{key}={value}" for key, value in labels.items()]


@contextmanager
def _translated(
    *, missing: type[EngineError] = NoSuchContainer, conflict: type[EngineError] = Refused
) -> Iterator[None]:
    """Translates every error into an EngineError. The meaning of 404 and 409 depends on the call.

    Docker's client reads fields of an answer that may be missing or of any type. What it then raises means that the answer is
    invalid, which counts as no answer.
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
    text = _short(error.explanation or error)
    status = error.status_code
    if status == 400 and _OTHER_VERSION.search(text):
        return _VersionRefused(text)
    if status == 404:
        return missing(text)
    if status == 409:
        return conflict(text)
    return EngineFailed(text) if status is not None and status >= 500 else Refused(text)


def _innermost(error: BaseException) -> str:
    """The cause that helps a person: requests wraps urllib3's error, which wraps the socket's."""
    while True:
        if (waited := _TIMED_OUT.search(str(error))) is not None:
            return f"no answer within {waited[1]} s"
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ if isinstance(error, _HIDES_ITS_CAUSE) else None
        if inner is None:
            break
        error = inner
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{error} ({_HINTS[error.errno]})" if error.errno in _HINTS else str(error)


def _no_socket(url: str) -> str:
    """That a unix url leads to something else; empty where it does not. The kernel says only that nobody listens there."""
    path = url.removeprefix("unix://")
    try:
        is_other = path != url and not stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""
    return f"{path} is no socket" if is_other else ""


def _short(text: object) -> str:
    """An error message in one line of bounded length: an engine may send megabytes."""
    return one_line(str(text).strip()[:_MAX_ERROR_CHARS])


def _close_pools(client: docker.APIClient) -> None:
    """Close a TCP client's connections, which it leaves to the pools' end: an open stream keeps its pool alive."""
    for adapter in client.adapters.values():
        pools = adapter.poolmanager.pools if hasattr(adapter, "poolmanager") else {}
        for key in pools.keys():  # noqa: SIM118 - no mapping: it cannot be iterated over
            pools[key].close()


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
    """Seconds since 1970 of an engine's RFC 3339 time with nanoseconds; 0 for none."""
    found = _TIMESTAMP.fullmatch(stamp or "")
    if found is None:
        return 0.0
    whole, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(whole + ("+00:00" if zone in (None, "Z") else zone))
    except ValueError:
        return 0.0
    return moment.timestamp() + float(f"0{fraction or ''}")
