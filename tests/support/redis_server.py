"""A redis-server that belongs to one test: own folder, own socket and port, and every fault that one may have."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import redis

from tests.support.bound_process import start_bound
from tests.support.daemons import Certificates

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.01
ADMIN = "testbed"  # where there are rules for users: the one with every right, for this class


class RedisServerError(Exception):
    """There is no redis-server here, or it did not start."""


class RedisServer:
    """A ``redis-server`` on a unix socket; with `tcp` or `tls` on a port of 127.0.0.1, too. Both stay the same over `restart`.

    `with` starts it and ends it. It ends with the test process, also when that one is killed. Its data is an append-only
    file, which SIGKILL does not harm; with ``appendonly=False`` nothing outlives the process.

    Args:
        appendonly: keep the data on disk.
        password: of the user ``default``.
        users: lines of an ACL file, each ``user NAME ...``. A user of ours with all rights is added.
        tcp: listen on a port.
        tls: listen with TLS on a port, in place of one without; client certificates are looked at when shown.
        max_memory: such as ``"4mb"``; empty: no limit.
        policy: what is done when the memory is full.
        settings: further lines of its configuration, which replace the others.
    """

    def __init__(
        self,
        *,
        appendonly: bool = True,
        password: str = "",
        users: Sequence[str] = (),
        tcp: bool = False,
        tls: Certificates | None = None,
        max_memory: str = "",
        policy: str = "noeviction",
        settings: Sequence[str] = (),
    ) -> None:
        self.password = password
        self._users = [*users, f"user {ADMIN} on nopass ~* &* +@all"] if users else []
        self._tls = tls
        self._port = _free_port() if tcp or tls is not None else 0
        self._settings = [
            f"appendonly {'yes' if appendonly else 'no'}",
            f"maxmemory {max_memory or 0}",
            f"maxmemory-policy {policy}",
            *settings,
        ]
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # ---- addresses

    @property
    def url(self) -> str:
        """For clients: of the port where it has one, else of the socket; with the password of ``default``."""
        return self.url_of(password=self.password)

    @property
    def socket_url(self) -> str:
        """Of the unix socket, with the password of ``default``."""
        return f"unix://{f':{quote(self.password)}@' if self.password else ''}{self._home / 'redis.sock'}"

    @property
    def admin_url(self) -> str:
        """Of the unix socket, for a user with every right."""
        return f"unix://{ADMIN}@{self._home / 'redis.sock'}" if self._users else self.socket_url

    def url_of(self, user: str = "", password: str = "", *, with_certificate: bool = True) -> str:
        """The same for another user, or with another password; `with_certificate`: whether a client trusts our authority."""
        who = f"{quote(user)}:{quote(password)}@" if user or password else ""
        if not self._port:
            return f"unix://{who}{self._home / 'redis.sock'}"
        if self._tls is None:
            return f"redis://{who}127.0.0.1:{self._port}/0"
        files = {
            "ssl_ca_certs": self._tls.ca,
            "ssl_certfile": self._tls.client_cert,
            "ssl_keyfile": self._tls.client_key,
        }
        return f"rediss://{who}127.0.0.1:{self._port}/0" + (f"?{urlencode(files)}" if with_certificate else "")

    def client(self, **options: Any) -> redis.Redis[str]:
        """A client of the test's own, over the socket and with every right; answers are text. Close it, or use it in `with`."""
        options = {"decode_responses": True, "socket_timeout": 10.0} | options
        return redis.Redis.from_url(self.admin_url, **options)

    @property
    def pid(self) -> int:
        """Of the process, also when it has ended."""
        if self._process is None:
            raise RedisServerError("not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._home / "log").read_text(errors="replace")

    def data_files(self) -> list[Path]:
        """What it has written of its data."""
        return [path for path in (self._home / "appendonlydir").rglob("*") if path.is_file()]

    # ---- life

    def start(self) -> None:
        """Returns when it answers and has read its data."""
        if self.is_running:
            raise RedisServerError("this redis-server runs already")
        command = _installed()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="jm-redis-", dir="/tmp"))  # a socket's path must be short
        self._write_config()
        with (self._home / "log").open("ab") as log:
            self._process = start_bound([command, str(self._home / "redis.conf")], output=log, folder=self._home)
        self._wait_until_answers()

    def kill(self) -> None:
        """SIGKILL. What it has answered is in the append-only file."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._end(signal.SIGTERM)

    def restart(self, *, keep_data: bool = True, kill: bool = False) -> None:
        """End it, if it runs, and start it again; without `keep_data` it has lost everything."""
        if self.is_running:
            self.kill() if kill else self.stop()
        if not keep_data:
            self._delete_data()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are taken by the kernel, and nobody answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def cut_connections(self) -> int:
        """End the connections of all clients, but take new ones. Returns how many."""
        with self.client() as admin:
            kinds = ("normal", "pubsub")
            return sum(int(admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")) for kind in kinds)

    def close(self) -> None:
        """End it, whatever a test has done to it, and delete its folder."""
        if self.is_running:
            self._send(signal.SIGKILL)
            assert self._process is not None
            self._process.wait(STOP_TIMEOUT_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._process = None

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- inside

    @property
    def _home(self) -> Path:
        if self._folder is None:
            raise RedisServerError("not started: use it in a with statement")
        return self._folder

    def _write_config(self) -> None:
        lines = [f"dir {self._home}", f"unixsocket {self._home / 'redis.sock'}", "unixsocketperm 700", 'save ""']
        if self._tls is None:
            lines += [f"port {self._port}", "bind 127.0.0.1"]
        else:
            lines += ["port 0", f"tls-port {self._port}", "bind 127.0.0.1", "tls-auth-clients optional"]
            lines += [f"tls-ca-cert-file {self._tls.ca}"]
            lines += [f"tls-cert-file {self._tls.server_cert}", f"tls-key-file {self._tls.server_key}"]
        if self.password:
            lines += [f"requirepass {self.password}"]
        if self._users:
            (self._home / "users.acl").write_text("\n".join(self._users) + "\n")
            lines += [f"aclfile {self._home / 'users.acl'}"]
        (self._home / "redis.conf").write_text("\n".join([*lines, *self._settings]) + "\n")

    def _wait_until_answers(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not self.is_running or time.monotonic() > until:
                raise RedisServerError(f"redis-server did not start: {self.log[-2000:].strip()}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        """Whether it is there and has read its data."""
        try:
            with self.client(socket_timeout=1.0) as admin:
                return bool(admin.ping())
        except redis.RedisError:  # one that still loads says so in an error, too
            return False

    def _end(self, number: int) -> None:
        if not self.is_running:
            raise RedisServerError("this redis-server does not run")
        self._send(number)
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT_S)

    def _send(self, number: int) -> None:
        assert self._process is not None, "start it first"
        self._process.send_signal(number)

    def _delete_data(self) -> None:
        shutil.rmtree(self._home / "appendonlydir", ignore_errors=True)
        for file in self._home.glob("*.rdb"):
            file.unlink()


def _installed() -> str:
    """The program's path."""
    found = shutil.which("redis-server", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/bin")
    if found is None:
        raise RedisServerError("the tests of many machines need redis-server: run `python3 -m dev.machine redis`")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
