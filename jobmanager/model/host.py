"""``DockerHost``: one Docker daemon and how to reach it."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from jobmanager.errors import InvalidHost
from jobmanager.model import _checks
from jobmanager.model._exact import exact, make_exact, own
from jobmanager.model._keywords import explains_keywords

_SCHEMES = ("unix", "tcp", "ssh", "fake")
_MAX_WAITERS = 64
_PULLS = ("never", "missing")
_LOOPBACK = "127.0.0.1"
_LETTERS_OF_ADDRESSES = frozenset(string.ascii_letters + string.digits + ".-_:%")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5}")
_USER_AND_HOST = re.compile(r"(?:ssh:/?)?([A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)")
_EXAMPLES = "unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host"


@explains_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Certificates for a daemon that listens on TCP. Files are PEM; a folder with Docker's names is ``TLS.folder``."""

    ca_cert: str | Path | None = None  # the authority that signed the daemon's certificate; None: the system's authorities
    client_cert: str | Path | None = None  # the client's certificate; goes with client_key
    client_key: str | Path | None = None
    verify: bool = True  # check the daemon's certificate, and that it names the url's host

    def __post_init__(self) -> None:
        make_exact(self, InvalidHost)
        for name in ("ca_cert", "client_cert", "client_key"):
            path = getattr(self, name)
            if path is not None:
                _readable(name, path)
                object.__setattr__(self, name, exact(os.fspath(path)))
        if (self.client_cert is None) != (self.client_key is None):
            raise InvalidHost("TLS: client_cert and client_key go together")

    @classmethod
    def folder(cls, path: str | Path, *, verify: bool = True) -> TLS:
        """The certificates of a folder as for DOCKER_CERT_PATH: ca.pem, cert.pem, key.pem."""
        folder = Path(path)
        return cls(ca_cert=folder / "ca.pem", client_cert=folder / "cert.pem", client_key=folder / "key.pem", verify=verify)


@explains_keywords
@dataclass(frozen=True, slots=True)
class DockerHost:
    """One Docker daemon.

    Args:
        url: ``unix:///path``, ``tcp://host:port`` or ``ssh://[user@]host[:port][/path/of/docker.sock]``.
        name: its name in results, logs and listings; the url by default.
        max_concurrent_jobs: how many jobs at once; None: twice its cores, and no more than it has
            times 256 MiB of memory.
        tls: a TLS, or a folder with ca.pem, cert.pem and key.pem; for tcp only.
        waiters: how many waiter processes watch its containers.
        pull: "never", or "missing" to let the host fetch an image that it lacks.
        ssh_config: a file for ``ssh -F``, for ssh only; None: the caller's own settings.
        address: where its published ports are reached, for ``debug="ssh"``; None: the url's host, 127.0.0.1 for a unix socket.

    Raises:
        InvalidHost: a url that makes no sense, certificates that are missing.
    """

    url: str
    name: str = field(default="", kw_only=True)
    max_concurrent_jobs: int | None = field(default=None, kw_only=True)
    tls: TLS | str | Path | None = field(default=None, kw_only=True)
    waiters: int = field(default=1, kw_only=True)
    pull: str = field(default="never", kw_only=True)
    ssh_config: str | Path | None = field(default=None, kw_only=True)
    address: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidHost)
        object.__setattr__(self, "tls", own(TLS, self.tls))
        _check_url(self.url)
        scheme = urlsplit(self.url).scheme
        if self.max_concurrent_jobs is not None:
            _checks.positive_int("max_concurrent_jobs", self.max_concurrent_jobs, InvalidHost)
        _checks.positive_int("waiters", self.waiters, InvalidHost, at_most=_MAX_WAITERS)
        if self.pull not in _PULLS:
            raise InvalidHost(f"pull must be one of {_PULLS}, not {self.pull!r}")
        if self.tls is not None and scheme != "tcp":
            raise InvalidHost(f"tls is for tcp urls, not for {self.url!r}")
        if self.ssh_config is not None:
            if scheme != "ssh":
                raise InvalidHost(f"ssh_config is for ssh urls, not for {self.url!r}")
            _readable("ssh_config", self.ssh_config)
            object.__setattr__(self, "ssh_config", exact(os.fspath(self.ssh_config)))
        if self.address is not None:
            _check_address(self.address)
        if isinstance(self.tls, (str, Path)):
            object.__setattr__(self, "tls", TLS.folder(self.tls))
        elif self.tls is not None and not isinstance(self.tls, TLS):
            raise InvalidHost(f"tls must be a TLS or a folder of certificates, not {self.tls!r}")
        object.__setattr__(self, "name", _checks.text("name", self.url if self.name == "" else self.name, InvalidHost))

    @property
    def published_at(self) -> str:
        """The name or IP address at which its published ports are reached."""
        return self.address or urlsplit(self.url).hostname or _LOOPBACK

    @property
    def is_published_here_only(self) -> bool:
        """Whether its published ports are reached from the engine's own machine only."""
        return self.published_at == "localhost" or _is_loopback(self.published_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a child process needs to reach a host's engine."""

    host: str  # the host's name
    url: str  # never ssh: a tunnel's local end stands in for it
    tls: TLS | None = None
    pull: str = "never"
    tunnelled: bool = False  # the url is the local end of a tunnel to another machine

    @classmethod
    def of(cls, host: DockerHost, *, tunnel: str | None = None) -> Address:
        """A host's address: its own url, or the url of its tunnel's local end."""
        if tunnel is not None:
            return cls(host=host.name, url=tunnel, pull=host.pull, tunnelled=True)
        assert host.tls is None or isinstance(host.tls, TLS), "DockerHost has made a TLS of it"
        return cls(host=host.name, url=host.url, tls=host.tls, pull=host.pull)


def _check_url(url: str) -> None:
    if not isinstance(url, str):
        raise InvalidHost(f"a host's url must be a string such as {_EXAMPLES}, not {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise InvalidHost(f"host url {url!r}: {problem}") from None
    if parts.scheme not in _SCHEMES:
        raise InvalidHost(f"host url {url!r} makes no sense: {_instead_of(url)}")
    if parts.scheme in ("unix", "fake") and (parts.netloc or not parts.path.startswith("/") or not parts.path.strip("/")):
        raise InvalidHost(f"host url {url!r} needs the absolute path of a socket: {_EXAMPLES}")
    if parts.scheme in ("tcp", "ssh") and not parts.hostname:
        raise InvalidHost(f"host url {url!r} names no host: {_instead_of(url)}")
    if parts.scheme == "ssh" and (parts.hostname or "").startswith("-"):
        raise InvalidHost(f"host url {url!r}: a host's name cannot begin with '-'")
    if parts.scheme == "tcp" and port is None:
        raise InvalidHost(f"host url {url!r} names no port (2376 is usual with TLS)")


def _instead_of(url: str) -> str:
    near = _near_url(url)
    return f"did you mean {near}?" if near else f"give {_EXAMPLES}"


def _near_url(url: str) -> str:
    """What may be meant by a url whose kind is missing or another client's; empty: who knows."""
    if url.startswith("/") and url.strip("/"):
        return f"unix://{url}"
    kind, separator, rest = url.partition("://")
    if separator and kind in ("http", "https") and rest:
        return f"tcp://{rest.rstrip('/')}"
    if login := _USER_AND_HOST.fullmatch(url):
        return f"ssh://{login[1]}"
    if url in ("localhost", "127.0.0.1", "local"):
        return "unix:///var/run/docker.sock"
    return f"tcp://{url}" if _HOST_AND_PORT.fullmatch(url) and url.partition(":")[0] not in _SCHEMES else ""


def _check_address(address: str) -> None:
    if not isinstance(address, str) or not address or not set(address) <= _LETTERS_OF_ADDRESSES or address.startswith("-"):
        raise InvalidHost(f"address must be a machine's name or IP address, such as grader.example.org, not {address!r}")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:  # a name
        return False


def _readable(name: str, path: str | Path) -> None:
    if not isinstance(path, (str, Path)):
        raise InvalidHost(f"{name} must be a file's path, not {path!r}")
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise InvalidHost(f"{name}: no file that can be read at {os.fspath(path)!r}")
