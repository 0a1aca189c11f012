"""What a JobManager was given, checked: one record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from jobmanager.control.secret_store import SecretStore
from jobmanager.errors import InvalidHost, InvalidValue
from jobmanager.model import _checks
from jobmanager.model._exact import own
from jobmanager.model.host import TLS, DockerHost

DEFAULT_URL = "unix:///var/run/docker.sock"
SSH_TIMEOUT_S = 1800.0
_MAX_CALLBACK_THREADS = 1000
_MAX_POOL_WORKERS = 1000
_DEFAULT_POOL_WORKERS = 8  # at most

Hosts = Union[Sequence[Union[DockerHost, str]], DockerHost, str, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """Settings of one manager; ``JobManager`` says what each means."""

    hosts: tuple[DockerHost, ...]
    environments: Mapping[str, str]  # images by name
    max_waiting_jobs: int
    queue_timeout_s: float
    callback_threads: int
    pool_size: int
    host_lost_timeout_s: float
    engine_timeout_s: float
    ssh_timeout_s: float
    secrets: SecretStore = field(repr=False)
    name: str = ""  # for labels on hosts; empty: none

    @classmethod
    def checked(
        cls,
        hosts: Hosts,
        environments: Mapping[str, str] | None,
        *,
        max_waiting_jobs: int,
        queue_timeout_s: float,
        callback_threads: int,
        pool_size: int | None,
        host_lost_timeout_s: float,
        engine_timeout_s: float,
        ssh_timeout_s: float,
        secrets: Mapping[str, str | bytes] | None,
        name: str | None = None,
    ) -> ManagerSettings:
        """The settings that these arguments stand for. Raises InvalidValue where one makes no sense."""
        if pool_size is None:
            pool_size = min(_DEFAULT_POOL_WORKERS, 2 * (os.cpu_count() or 1))
        return cls(
            hosts=tuple(_hosts(hosts)),
            environments=_environments(environments),
            max_waiting_jobs=_checks.positive_int("max_waiting_jobs", max_waiting_jobs),
            queue_timeout_s=_checks.timeout("queue_timeout_s", queue_timeout_s),
            callback_threads=_checks.positive_int("callback_threads", callback_threads, at_most=_MAX_CALLBACK_THREADS),
            pool_size=_checks.positive_int("pool_size", pool_size, at_most=_MAX_POOL_WORKERS),
            host_lost_timeout_s=_checks.timeout("host_lost_timeout_s", host_lost_timeout_s),
            engine_timeout_s=_checks.timeout("engine_timeout_s", engine_timeout_s),
            ssh_timeout_s=_checks.timeout("ssh_timeout_s", ssh_timeout_s),
            secrets=SecretStore(secrets),
            name="" if name is None else _checks.short_name("name", name, InvalidValue),
        )


def default_host() -> DockerHost:
    """What ``hosts=None`` stands for: the host that DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH name, as for Docker's SDK.

    Raises:
        InvalidHost: the variables make no sense.
    """
    url = os.environ.get("DOCKER_HOST") or DEFAULT_URL
    verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    folder = os.environ.get("DOCKER_CERT_PATH") or (str(Path.home() / ".docker") if verify else "")
    if url.startswith("tcp://") and folder:
        return DockerHost(url, tls=TLS.folder(folder, verify=verify))
    return DockerHost(url)


def _hosts(given: Hosts) -> list[DockerHost]:
    if given is None:
        return [default_host()]
    if not isinstance(given, (Sequence, DockerHost)):
        raise InvalidHost(f"hosts must be a list of DockerHosts or urls, not {given!r}")
    several = [given] if isinstance(given, (DockerHost, str)) else list(given)
    hosts = [DockerHost(host) if isinstance(host, str) else own(DockerHost, host) for host in several]
    if not hosts:
        raise InvalidHost("hosts is empty: give at least one DockerHost, or None for the default engine")
    for host in hosts:
        if not isinstance(host, DockerHost):
            raise InvalidHost(f"hosts must be DockerHosts or urls, not {host!r}")
    first: dict[str, DockerHost] = {}
    for host in hosts:
        other = first.setdefault(host.url.rstrip("/"), host)
        if other is not host:  # each would give away the whole machine
            named = "" if other.name == host.name else f", as {other.name!r} and as {host.name!r}"
            raise InvalidHost(f"the same host twice: {host.url!r}{named}")
    names = [host.name for host in hosts]
    if len(set(names)) != len(names):
        raise InvalidHost(f"two hosts have one name: {sorted(name for name in names if names.count(name) > 1)[0]!r}")
    return hosts


def _environments(given: Mapping[str, str] | None) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidValue(f"environments must map names to images, not {type(given).__name__}")
    return {
        _checks.text("an environment's name", name): _checks.text(f"the image of environment {name!r}", image)
        for name, image in given.items()
    }
