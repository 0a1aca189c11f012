"""Which Docker hosts a command is for, and what is answered for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from jobmanager.command_line.printing import FINE, complain, console, error_code
from jobmanager.control.settings import default_host
from jobmanager.errors import InvalidHost, JobManagerError
from jobmanager.model.host import DockerHost


def for_hosts(command: Callable[..., int]) -> Callable[..., int]:
    """The arguments of every command that looks after hosts."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")(command)
    command = click.option("--ssh-config", metavar="FILE", help="For ssh -F, for ssh hosts. Default: your own settings.")(command)
    command = click.option("--tls", metavar="DIR", help="Folder with ca.pem, cert.pem and key.pem, for tcp hosts.")(command)
    return click.argument("hosts", nargs=-1, metavar="[HOST]...")(command)


def named_hosts(urls: Sequence[str], tls: str | None, ssh_config: str | None) -> list[DockerHost]:
    """The named hosts, each with the options for its kind of url; else the default one."""
    if not urls and tls is None and ssh_config is None:
        return [default_host()]
    urls = list({url.rstrip("/"): url for url in urls}.values()) or [default_host().url]
    schemes = {DockerHost(url).url: urlsplit(url).scheme for url in urls}
    for option, given, scheme in (("--tls", tls, "tcp"), ("--ssh-config", ssh_config, "ssh")):
        if given is not None and scheme not in schemes.values():
            raise InvalidHost(f"{option} is for {scheme} hosts, and none is given")
    return [
        DockerHost(url, tls=tls if scheme == "tcp" else None, ssh_config=ssh_config if scheme == "ssh" else None)
        for url, scheme in schemes.items()
    ]


@dataclass(kw_only=True)
class HostAnswers:
    """What was found on each host, and the exit code of the command."""

    as_json: bool
    code: int = FINE
    records: list[dict[str, object]] = field(default_factory=list)

    @property
    def console(self) -> Console:
        """Prints tables; quiet when JSON is wanted."""
        return console(quiet=self.as_json)

    def add(self, record: dict[str, object], code: int) -> None:
        """One host's record, and the exit code for it."""
        self.records.append(record)
        self.code = max(self.code, code)

    @contextmanager
    def about(self, host: DockerHost) -> Iterator[None]:
        """Report a host that fails, so that the others follow."""
        try:
            yield
        except JobManagerError as problem:
            complain(str(problem), 0)
            self.add({"host": host.name, "url": host.url, "problem": str(problem)}, error_code(problem))

    def finish(self) -> int:
        """Print the JSON, where it is wanted; returns the exit code of the command."""
        if self.as_json:
            click.echo(json.dumps({"exit_code": self.code, "hosts": self.records}, indent=2))
        return self.code


# ---- for commands that run jobs


def on_hosts(command: Callable[..., int]) -> Callable[..., int]:
    """The options of every command that runs jobs. Its first argument is a function that makes the DockerHosts of them."""

    @wraps(command)
    def with_hosts(urls: tuple[str, ...], tls: str | None, ssh_config: str | None, pull: bool, **others: Any) -> int:
        return command(partial(_chosen, urls, tls, ssh_config, pull=pull), **others)

    options = (
        click.option("--host", "urls", metavar="URL", multiple=True, help="A Docker host; can be repeated. Default: DOCKER_HOST."),
        click.option("--tls", metavar="DIR", help="Folder with ca.pem, cert.pem and key.pem, for tcp hosts."),
        click.option("--ssh-config", metavar="FILE", help="For ssh -F, for ssh hosts. Default: your own settings."),
        click.option("--pull", is_flag=True, help="Let a host fetch an image that it lacks."),
    )
    decorated: Callable[..., int] = with_hosts
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


FindHosts = Callable[[], list[DockerHost]]  # raises InvalidHost


def _chosen(urls: Sequence[str], tls: str | None, ssh_config: str | None, *, pull: bool) -> list[DockerHost]:
    return [replace(host, pull="missing" if pull else "never") for host in named_hosts(urls, tls, ssh_config)]
