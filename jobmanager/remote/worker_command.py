"""``jobmanager worker``: one node of a cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click

from jobmanager.control.settings import default_host
from jobmanager.errors import InvalidHost, InvalidValue
from jobmanager.hooks import HookManager
from jobmanager.manager import JobManager
from jobmanager.model.host import DockerHost
from jobmanager.remote.blobs import BlobCache, FolderStore
from jobmanager.remote.connect import open_redis
from jobmanager.remote.dispatcher_process import DispatcherChild, DispatcherSettings
from jobmanager.remote.keys import checked_name
from jobmanager.remote.node import Node, NodeSettings
from jobmanager.remote.options import ClusterAddress, for_cluster
from jobmanager.remote.store import ClusterStore

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_MIB = 2**20
_MAX_SECRET_BYTES = 64 * 1024 + 1  # a byte more than a phase may be given, so that it is refused


@click.command(short_help="Be a node of a cluster: run jobs that come through Redis.")
@for_cluster
@click.option("--name", metavar="NAME", help="The node's name. Default: this machine's.")
@click.option("--host", "urls", metavar="URL", multiple=True, help="A Docker host; can be repeated. Default: DOCKER_HOST.")
@click.option("--tls", metavar="DIR", help="Folder with ca.pem, cert.pem and key.pem, for tcp hosts.")
@click.option("--ssh-config", metavar="FILE", help="For ssh -F, for ssh hosts. Default: your own settings.")
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Jobs at once, at most. Default: what the hosts can run.")
@click.option("--environment", "environments", metavar="NAME=IMAGE", multiple=True, help="A further name for an image.")
@click.option("--secret", "secrets", metavar="NAME=FILE", multiple=True, help="A secret for phases, read when one starts.")
@click.option("--advertise", metavar="ADDRESS", default="", help="Where others reach this machine, for debug=\"ssh\".")
@click.option("--blobs", metavar="DIR", help="The folder that clients and nodes share, if they have one.")
@click.option("--blob-cache", metavar="DIR", help="Where large parts of tasks are kept. Default: ~/.cache/jobmanager/blobs.")
@click.option("--blob-cache-mib", type=click.IntRange(min=1), default=1024, show_default=True, metavar="N", help="How much of it.")
@click.option(
    "--dispatch",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Whether it may be elected to give the jobs of all clients to all nodes.",
)
def worker(
    address: ClusterAddress,
    name: str | None,
    urls: tuple[str, ...],
    tls: str | None,
    ssh_config: str | None,
    slots: int | None,
    environments: tuple[str, ...],
    secrets: tuple[str, ...],
    advertise: str,
    blobs: str | None,
    blob_cache: str | None,
    blob_cache_mib: int,
    dispatch: str,
) -> int:
    """Run jobs that come through Redis, in containers of this machine's Docker hosts.

    SIGTERM or ctrl-C: it takes no more jobs, gives back what it has not started, and ends when the last job has; a second one
    ends it at once. The exit codes are 0, 130 after a second signal, and 1 when another worker has taken its name.
    """
    log_to_stderr()
    hooks = HookManager()
    named = checked_name("--name", name) if name is not None else default_name()
    manager = JobManager(
        _hosts(urls, tls, ssh_config, advertise or None),
        environments=dict(_pair("--environment", each) for each in environments),
        hook_manager=hooks,
        secrets=FileSecrets(dict(_pair("--secret", each) for each in secrets)),
        name=named,
    )
    settings = NodeSettings(
        name=named,
        url=address.url,
        slots=slots,
        address=advertise,
        blob_store=None if blobs is None else FolderStore(blobs),
        blob_cache=BlobCache(blob_cache or _cache_folder(), blob_cache_mib * _MIB),
    )
    with open_redis(address.url, address.timeouts) as redis:
        store = ClusterStore(redis, address.namespace, address.timeouts)
        dispatcher = _dispatcher(address, settings.name) if dispatch == "auto" else None
        return Node(store, address.signer, manager, hooks, settings, address.timeouts, dispatcher=dispatcher).run()


class FileSecrets(Mapping[str, bytes]):
    """The contents of files by name, as they are when they are asked for."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = dict(files)
        for name in self._files:
            self[name]

    def __getitem__(self, name: str) -> bytes:
        path = self._files[name]
        try:
            with open(path, "rb") as file:
                return file.read(_MAX_SECRET_BYTES)
        except OSError as error:
            raise InvalidValue(f"the file of the secret {name!r} cannot be read: {path}: {error.strerror}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"FileSecrets({sorted(self._files)})"


def default_name() -> str:
    """This machine's name, as far as it can be the name of a node."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()).lstrip("-_")[:64] or "node"


def log_to_stderr() -> None:
    """What the library and RQ have to say, a line each."""
    logging.basicConfig(level=logging.WARNING, format=_FORMAT, stream=sys.stderr)
    logging.getLogger("jobmanager").setLevel(logging.INFO)
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)


def _hosts(urls: Sequence[str], tls: str | None, ssh_config: str | None, address: str | None) -> list[DockerHost]:
    urls = urls or [default_host().url]
    schemes = {url: urlsplit(url).scheme for url in urls}
    for option, given, scheme in (("--tls", tls, "tcp"), ("--ssh-config", ssh_config, "ssh")):
        if given is not None and scheme not in schemes.values():
            raise InvalidHost(f"{option} is for {scheme} hosts, and none is given")
    return [
        DockerHost(
            url,
            tls=tls if scheme == "tcp" else None,
            ssh_config=ssh_config if scheme == "ssh" else None,
            address=address if scheme in ("unix", "fake") else None,
        )
        for url, scheme in schemes.items()
    ]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise InvalidValue(f"{option} must be like NAME=VALUE, not {text!r}")
    return name, value


def _cache_folder() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobmanager" / "blobs")


def _dispatcher(address: ClusterAddress, name: str) -> DispatcherChild:
    return DispatcherChild(
        DispatcherSettings(
            url=address.url, namespace=address.namespace, keyring=address.keyring, timeouts=address.timeouts, name=name
        )
    )
