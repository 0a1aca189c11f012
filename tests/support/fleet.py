"""Docker hosts of every kind at once: by a unix socket, by TCP with TLS, by SSH; each with a daemon of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmanager import TLS, DockerHost
from tests.support.daemons import PrivateDaemon, make_certificates
from tests.support.sshd import Sshd

SLOTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A host and its daemon, which is at hand here whatever the way to it."""

    host: DockerHost
    daemon: PrivateDaemon


@contextmanager
def fleet(folder: Path, image_tar: Path, *, of_each: int) -> Iterator[list[Member]]:
    """So many hosts of each kind, with the image of the tests."""
    certificates = make_certificates(folder / "certificates")
    tls = TLS(ca_cert=certificates.ca, client_cert=certificates.client_cert, client_key=certificates.client_key)
    with ExitStack() as stack:
        sshd = stack.enter_context(Sshd(folder / "sshd"))
        members: list[Member] = []
        for kind, number in itertools.product(("unix", "tls", "ssh"), range(1, of_each + 1)):
            daemon = PrivateDaemon(folder / f"{kind}{number}", tls=certificates if kind == "tls" else None)
            stack.callback(daemon.stop)
            daemon.start()
            way: dict[str, Any] = {"url": daemon.url}
            if kind == "tls":
                way = {"url": daemon.tls_url, "tls": tls}
            elif kind == "ssh":
                way = {"url": sshd.url(daemon.url.removeprefix("unix://")), "ssh_config": sshd.client_config}
            host = DockerHost(**way, name=f"{kind}{number}", max_concurrent_jobs=SLOTS)
            members.append(Member(host=host, daemon=daemon))
        for member in members:
            member.daemon.wait_until_answers()
            member.daemon.load_image(image_tar)
        yield members
