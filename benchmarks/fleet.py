"""A cluster to measure: Redis, and real workers on fake engines, or on one that is given."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from jobmanager.remote import RemoteClient
from jobmanager.remote.keys import Keys
from jobmanager.testing import FakeEngineServer
from tests.support.bound_process import start_bound
from tests.support.redis_server import RedisServer

IMAGE = "busybox"
_NAMESPACE = "bench"
_UP_S = 60.0
_END_S = 30.0
_ROLES = {
    "jobmanager.remote.dispatcher_process": "dispatchers",
    "jobmanager worker": "workers",
    "jobmanager._waiter": "waiters and pools of the nodes",
    "jobmanager._pool_worker": "waiters and pools of the nodes",
    "jobmanager.testing.fake.server": "fake engines",
}


class Fleet:
    """``with`` starts all, and ends all.

    Args:
        nodes: how many workers.
        slots: of each.
        url: of an engine for all of them; None: each has a fake one.
    """

    def __init__(self, nodes: int, *, slots: int, url: str | None = None) -> None:
        self.redis = RedisServer()  # with an append-only file, as docs/many-machines.md wants it
        self.engines: list[str] = []  # of each node
        self._nodes = nodes
        self._slots = slots
        self._url = url
        self._key = secrets.token_hex(32)
        self._stack = ExitStack()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._log = Path()

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    @property
    def log(self) -> str:
        """What all workers have said."""
        return self._log.read_text(errors="replace")

    def client(self, **options: Any) -> RemoteClient:
        """A client that was started; it ends with the fleet."""
        own = {"key": self._key, "namespace": _NAMESPACE}
        return self._stack.enter_context(RemoteClient(self.redis.url, **{**own, **options}))

    def kill_leader(self) -> None:
        """SIGKILL for the process that leads."""
        with self.redis.client() as redis:
            leader = (redis.get(Keys(_NAMESPACE).leader) or "").partition(":")[0]
        for number, worker in enumerate(self._workers):
            if leader == _name(number):
                for child in psutil.Process(worker.pid).children():
                    if _role(child) == "dispatchers":
                        child.kill()
                        return
        raise RuntimeError(f"nobody leads, or somebody unknown: {leader!r}")

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        spent: dict[str, float] = defaultdict(float)
        caller = psutil.Process()
        for process in [caller, *caller.children(recursive=True)]:
            try:
                times = process.cpu_times()
                role = "Redis" if process.pid == self.redis.pid else "client" if process == caller else _role(process)
            except psutil.NoSuchProcess:
                continue
            spent[role] += times.user + times.system
        return spent

    def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="jm-bench-", dir="/tmp")))
        self._stack.enter_context(self.redis)
        self._stack.callback(self._end_workers)
        self._log = folder / "log"
        (folder / "url").write_text(self.redis.url)
        (folder / "key").write_text(self._key)
        (folder / "key").chmod(0o600)
        for number in range(self._nodes):
            self.engines.append(self._url or self._stack.enter_context(FakeEngineServer([IMAGE])).url)
            self._workers.append(self._start_worker(folder, number))
        self._wait_until_up()

    def _start_worker(self, folder: Path, number: int) -> subprocess.Popen[bytes]:
        where = ["--redis-url-file", str(folder / "url"), "--key-file", str(folder / "key"), "--namespace", _NAMESPACE]
        what = ["--host", self.engines[-1], "--name", _name(number), "--slots", str(self._slots)]
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "jobmanager", "worker", *where, *what]
            return start_bound(command, output=log, environment={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")})

    def _wait_until_up(self) -> None:
        until, keys = time.monotonic() + _UP_S, Keys(_NAMESPACE)
        with self.redis.client() as redis:
            while redis.scard(keys.nodes) < self._nodes or not redis.get(keys.leader):
                if time.monotonic() > until or any(worker.poll() is not None for worker in self._workers):
                    raise RuntimeError(f"the cluster does not start: {self.log}")
                time.sleep(0.05)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(_END_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _end(self) -> None:
        self._stack.close()


def _name(number: int) -> str:
    return f"node-{number + 1}"


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for part, role in _ROLES.items() if part in line), process.name())
