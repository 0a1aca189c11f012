"""A small cluster for one test: real `jobmanager worker` processes on one Redis, each with a fake engine of its own.

Whatever a test does to it, at its end nothing may be left: no process, no container, no file. ``with`` proves that.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
import redis

from jobmanager import DockerHost
from jobmanager.control.standalone_engine import open_engine
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.engine.leftovers import remove_leftovers, survey
from jobmanager.remote.keys import Keys
from jobmanager.remote.overview import NodeNow, nodes_now
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.testing import FakeContainerRecord, FakeEngineServer, ProgramStep
from tests.conftest import SLOWNESS, eventually
from tests.support.bound_process import start_bound
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from jobmanager.remote import RemoteClient

SHORT = ClusterTimeouts(
    leader_lease_s=1.0 * SLOWNESS,
    beat_s=0.2 * SLOWNESS,
    suspect_s=1.0 * SLOWNESS,
    node_lost_s=3.0 * SLOWNESS,
    client_lease_s=2.0 * SLOWNESS,
    settle_s=1.0 * SLOWNESS,
    redis_s=2.0 * SLOWNESS,
    outage_s=5.0 * SLOWNESS,
    result_ttl_s=3600.0,
)
NAMESPACE = "test"
IMAGE = "busybox"
UP_S = 30.0
DRAIN_S = 20.0
PATIENCE_S = 10.0  # until what has ended has left nothing
TIMEOUTS_VARIABLE = "JOBMANAGER_CLUSTER_TIMEOUTS"  # JSON of ClusterTimeouts, for workers and dispatchers under test
_MARK = "JOBMANAGER_TEST_CLUSTER"
_ANOTHER_LOCAL_ID = re.compile(r"\.[0-9a-f]{12}$")  # of a job that came back to a node which still had it
# Keys that outlive all jobs, nodes and clients; every other one must have an end of its own
_PERMANENT = re.compile(
    r"jm:[^:]+:(nodes|epochs?|generation|inbox|audit|node:[^:]+:want)|rq:queues|rq:workers(:.*)?|rq:clean_registries:.*"
)


class ClusterError(AssertionError):
    """The cluster is not as a test needs it, or has left something behind."""


@dataclass(slots=True, eq=False)
class Node:
    """One node: its fake engine, which outlives it, and the process of its worker."""

    name: str
    slots: int
    engine: FakeEngineServer
    folder: Path  # its log, and the TMPDIR of its processes
    arguments: tuple[str, ...] = ()  # further ones of `jobmanager worker`
    environment: Mapping[str, str] = field(default_factory=dict)  # of its processes, beside the cluster's own
    process: subprocess.Popen[bytes] | None = None
    was_killed: bool = False  # then what it had in its folder stays: nobody was left to delete it

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of its worker."""
        if self.process is None:
            raise ClusterError(f"{self.name} was not started")
        return self.process.pid

    @property
    def log(self) -> str:
        """What its worker has said."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def family(self) -> list[psutil.Process]:
        """Its worker and all that this has started."""
        try:
            worker = psutil.Process(self.pid)
            return [worker, *worker.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Cluster:
    """Nodes with fake engines on one Redis. `with` starts all and waits until each is up and one leads.

    Args:
        redis_server: it runs, and stays the test's own.
        nodes: how many, with the names ``node-1``, ``node-2`` and so on; or their names.
        slots: of each node.
        dispatch: what the workers are told: ``auto``, or ``never`` (then start a dispatcher yourself).
        timeouts: of workers and clients.
        images: of each fake engine, with their labels.
        programs: what programs do, as steps or as a text.
        namespace: of all keys.
        url: for workers and clients; None: the server's own.
        environment: further variables of the workers.
        arguments: further arguments of each worker.
    """

    def __init__(
        self,
        redis_server: RedisServer,
        nodes: int | tuple[str, ...] = 2,
        *,
        slots: int = 4,
        dispatch: str = "auto",
        timeouts: ClusterTimeouts = SHORT,
        images: Mapping[str, Mapping[str, str]] | tuple[str, ...] = (IMAGE,),
        programs: Mapping[str, str | Sequence[ProgramStep]] | None = None,
        namespace: str = NAMESPACE,
        url: str | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.redis = redis_server
        self.timeouts = timeouts
        self.namespace = namespace
        self.key = secrets.token_hex(32)
        self.keys = Keys(namespace)
        self.nodes: dict[str, Node] = {}
        self._names = nodes if isinstance(nodes, tuple) else tuple(f"node-{number}" for number in range(1, nodes + 1))
        self._slots = slots
        self._dispatch = dispatch
        self._images = images
        self._programs = programs
        self._url = url
        self._more_environment = dict(environment or {})
        self._arguments = arguments
        self._mark = uuid.uuid4().hex
        self._folder: Path | None = None
        self._others: list[subprocess.Popen[bytes]] = []  # dispatchers, and clients in processes of their own
        self._clients: list[RemoteClient] = []
        self._job_ids: dict[str, str] = {}  # by R: what was once in Redis
        self._stack = ExitStack()

    # ---- life

    def start(self) -> None:
        """Start all nodes at once; returns when they are up."""
        try:
            self._start()
        except BaseException:
            self._give_up()
            raise

    def _start(self) -> None:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="jm-cluster-", dir="/tmp")))
        (self._folder / "tmp").mkdir()
        (self._folder / "url").write_text(self.url)
        (self._folder / "key").write_text(self.key)
        for file in ("url", "key"):
            (self._folder / file).chmod(0o600)
        for name in self._names:
            self.add_node(name, wait=False)
        self.wait_until_up()

    def close(self) -> None:
        """End all, and prove that nothing is left.

        Raises:
            ClusterError: something is.
        """
        try:
            self._end_all()
            self._prove_that_nothing_is_left()
        finally:
            self._kill_all()
            self._stack.close()

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._give_up()
        else:
            self.close()

    @property
    def was_started(self) -> bool:
        """Whether it has a folder with logs."""
        return self._folder is not None and self._folder.exists()

    # ---- addresses

    @property
    def url(self) -> str:
        """Of Redis, as workers and clients have it."""
        return self.redis.url if self._url is None else self._url

    def environment(self) -> dict[str, str]:
        """The environment of a process of this cluster, so that ``RemoteClient()`` needs no arguments there."""
        own = {
            "JOBMANAGER_REDIS_URL": self.url,
            "JOBMANAGER_KEY": self.key,
            TIMEOUTS_VARIABLE: json.dumps(asdict(self.timeouts)),
            _MARK: self._mark,
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **own, **self._more_environment}

    def client(self, *, start: bool = True, **options: Any) -> RemoteClient:
        """A client in the test's process, closed at the end; started unless told otherwise."""
        from jobmanager.remote import RemoteClient

        own = {"key": self.key, "namespace": self.namespace, "timeouts": self.timeouts}
        client = RemoteClient(self.url, **{**own, **options})
        self._clients.append(client)
        if start:
            client.start()
        return client

    def start_python(self, program: str, *arguments: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        """A Python program in a process of its own, such as a client that is to be killed. It ends with the cluster."""
        command = [sys.executable, "-c", program, *arguments]
        with (output or self._home / "programs.log").open("ab") as log:
            process = start_bound(command, output=log, environment=self.environment(), folder=Path(__file__).parents[2])
        self._others.append(process)
        return process

    def start_dispatcher(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A dispatcher without a worker."""
        command = [sys.executable, "-m", "jobmanager", "dispatcher", *self._where(), *arguments]
        with (self._home / "dispatchers.log").open("ab") as log:
            process = start_bound(command, output=log, environment=self._worker_environment(self._home))
        self._others.append(process)
        return process

    # ---- nodes

    def add_node(
        self,
        name: str,
        *,
        slots: int | None = None,
        wait: bool = True,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Node:
        """Another node, with an engine of its own."""
        engine = self._stack.enter_context(FakeEngineServer(images=self._images, programs=self._programs))
        folder = self._home / name
        folder.mkdir()
        (folder / "tmp").mkdir()
        slots = self._slots if slots is None else slots
        node = Node(name, slots, engine, folder, (*self._arguments, *arguments), dict(environment or {}))
        self.nodes[name] = node
        self.start_node(name, wait=wait)
        return node

    def start_node(self, name: str, *, wait: bool = True) -> None:
        """Start a node's worker (again), on the same engine."""
        node = self.nodes[name]
        if node.is_running:
            raise ClusterError(f"{name} runs already")
        with (node.folder / "log").open("ab") as log:
            environment = {**self._worker_environment(node.folder), **node.environment}
            node.process = start_bound(self._worker(node), output=log, environment=environment)
        if wait:
            self.wait_until_up(name)

    def kill(self, name: str, *, alone: bool = False) -> None:
        """SIGKILL: the worker and all its processes at one moment, as when the machine is lost; `alone`: the worker only."""
        node = self.nodes[name]
        node.was_killed = True
        worker = psutil.Process(node.pid)
        worker.suspend()  # so that it replaces none of its children
        family = [worker] if alone else node.family()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        assert node.process is not None
        node.process.wait(10)

    def terminate(self, name: str) -> None:
        """SIGTERM: it drains, and ends."""
        assert self.nodes[name].process is not None
        self.nodes[name].process.terminate()

    def wait_for_end(self, name: str, *, within_s: float = DRAIN_S) -> int:
        """Its exit code."""
        process = self.nodes[name].process
        assert process is not None
        eventually(lambda: process.poll() is not None, within_s=within_s, what=f"{name} has ended")
        return process.returncode

    def pause(self, name: str) -> None:
        """SIGSTOP for the worker and all its processes, as when a machine is suspended. Its engine goes on."""
        for each in self.nodes[name].family():
            each.suspend()

    def resume(self, name: str) -> None:
        """SIGCONT for all of them."""
        for each in reversed(self.nodes[name].family()):
            with suppress(psutil.NoSuchProcess):
                each.resume()

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Suspended during the block."""
        self.pause(name)
        try:
            yield
        finally:
            self.resume(name)

    def nodes_now(self) -> dict[str, NodeNow]:
        """What each node says of itself, and whether Redis has heard of it lately."""
        with redis.Redis.from_url(self.redis.admin_url) as client:
            store = ClusterStore(client, self.namespace, self.timeouts)
            return {node.name: node for node in nodes_now(store, Keyring.from_environment(self.key).signer(self.namespace))}

    def is_up(self, name: str) -> bool:
        """Whether this process of it has given a sign of life, and knows what its engine has."""
        now, node = self.nodes_now().get(name), self.nodes[name]
        if now is None or now.report is None or now.state == "down":
            return False
        return now.report.pid == node.pid and bool(now.report.images or now.report.environments)

    def wait_until_up(self, *names: str) -> None:
        """Until these nodes, or all, are up, and somebody leads if anybody is to."""
        for name in names or self.nodes:
            eventually(lambda name=name: self._is_up_or_has_ended(name), within_s=UP_S, what=f"{name} is up")
        if self._dispatch == "auto":
            eventually(self.leader, within_s=UP_S, what="there is a leader")

    # ---- the leader

    def leader(self) -> str:
        """Who leads, as it names itself; empty: nobody."""
        with self.redis.client() as client:
            return client.get(self.keys.leader) or ""

    def leading_node(self) -> str:
        """The node whose dispatcher leads; empty: none."""
        leader = self.leader()
        return next((name for name in self.nodes if re.search(rf"\b{re.escape(name)}\b", leader)), "")

    def following_node(self) -> str:
        """The first node whose dispatcher does not lead."""
        leading = self.leading_node()
        return next(name for name in self.nodes if name != leading)

    def dispatchers(self) -> dict[str, psutil.Process]:
        """The dispatcher of each node that has one, as a process."""
        found = {}
        for name, node in self.nodes.items():
            for each in node.family()[1:]:
                with suppress(psutil.Error):
                    if any("dispatcher" in word for word in each.cmdline()):
                        found[name] = each
        return found

    # ---- what there is

    def containers(self) -> dict[str, list[FakeContainerRecord]]:
        """What each fake engine has."""
        return {name: node.engine.containers() for name, node in self.nodes.items()}

    def runs(self) -> dict[str, int]:
        """How often each job's program was started, by the job's own id, on all nodes together."""
        self.remember_jobs()
        counted: Counter[str] = Counter()
        for node in self.nodes.values():
            for label, times in node.engine.runs().items():
                job_id = _ANOTHER_LOCAL_ID.sub("", label)
                counted[self._job_ids.get(job_id, job_id)] += times
        return dict(counted)

    def remember_jobs(self) -> None:
        """Note which job each R is. Call it before Redis loses its data: `runs` needs it."""
        first = self.keys.job("")
        with suppress(Exception), self.redis.client() as client:  # Redis may be away
            for key in client.scan_iter(match=f"{first}*", count=1000):
                if job_id := client.hget(key, "job_id"):
                    self._job_ids[key.removeprefix(first)] = job_id

    def lose_redis_data(self, *, kill: bool = True) -> None:
        """Restart Redis without what it had."""
        self.remember_jobs()
        self.redis.restart(keep_data=False, kill=kill)

    def keys_without_ttl(self) -> list[str]:
        """Keys that nobody will ever delete, and that are not among those that a cluster keeps."""
        with self.redis.client() as client:
            found = [key for pattern in (f"{self.keys.prefix}*", "rq:*") for key in client.scan_iter(match=pattern, count=1000)]
            return sorted(key for key in found if client.ttl(key) == -1 and not _PERMANENT.fullmatch(key))

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster's workers, dispatchers and programs, whoever their parent is now."""
        return [each for each in psutil.process_iter() if self._is_ours(each)]

    def logs(self) -> str:
        """What all workers and other processes have said."""
        files = sorted(self._home.glob("**/log")) + sorted(self._home.glob("*.log"))
        return "\n".join(f"--- {file.relative_to(self._home)}\n{file.read_text(errors='replace')[-4000:]}" for file in files)

    def run_command(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """``jobmanager ARGUMENTS`` of the command line, with this cluster's Redis, key and namespace."""
        command = [sys.executable, "-m", "jobmanager", *arguments[:1], *self._where(), *arguments[1:]]
        environment = self._worker_environment(self._home)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s * SLOWNESS, check=False)

    # ---- inside

    @property
    def _home(self) -> Path:
        if self._folder is None:
            raise ClusterError("the cluster was not started: use it in a with statement")
        return self._folder

    def _where(self) -> list[str]:
        files = ["--redis-url-file", str(self._home / "url"), "--key-file", str(self._home / "key")]
        return [*files, "--namespace", self.namespace]

    def _worker(self, node: Node) -> list[str]:
        options = ["--host", node.engine.url, "--name", node.name, "--slots", str(node.slots), "--dispatch", self._dispatch]
        return [sys.executable, "-m", "jobmanager", "worker", *self._where(), *options, *node.arguments]

    def _worker_environment(self, folder: Path) -> dict[str, str]:
        environment = self.environment() | {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
        for name in ("JOBMANAGER_REDIS_URL", "JOBMANAGER_KEY", "JOBMANAGER_KEY_FILE"):  # they get files
            environment.pop(name, None)
        return environment

    def _is_up_or_has_ended(self, name: str) -> bool:
        node = self.nodes[name]
        if not node.is_running:
            raise ClusterError(f"{name} has ended while it started: {node.log[-4000:]}")
        return self.is_up(name)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def _end_all(self) -> None:
        self._close_clients()
        for process in self._others:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for name, node in self.nodes.items():
            if node.is_running:
                self.resume(name)
                self.terminate(name)
        for name, node in self.nodes.items():
            if node.process is not None:
                self.wait_for_end(name)
        for process in self._others:
            process.wait(DRAIN_S)

    def _close_clients(self, *, kill: bool = False) -> None:
        while self._clients:
            self._clients.pop().close(drain_timeout_s=DRAIN_S, kill=kill)

    def _prove_that_nothing_is_left(self) -> None:
        self._eventually_none("processes", lambda: [f"{each.pid} {' '.join(each.cmdline())[:120]}" for each in self.processes()])
        for node in self.nodes.values():
            if node.was_killed:
                self._sweep(node)
            self._eventually_none(
                f"containers of {node.name}",
                lambda node=node: [f"{each.name} {each.labels.get(JOB_LABEL, '')}" for each in node.engine.containers()],
            )
            if not node.was_killed:
                self._eventually_none(f"files of {node.name}", lambda node=node: [str(each) for each in node.temporary.iterdir()])
        if self.redis.is_running:
            self._eventually_none("keys without an end", self.keys_without_ttl)

    def _sweep(self, node: Node) -> None:
        """What a killed worker had is found by its label, and removed, as `jobmanager sweep` does it."""
        with open_engine(DockerHost(node.engine.url), timeout_s=10.0) as engine:
            for removal in remove_leftovers(engine, survey(engine).leftovers):
                if removal.error:
                    raise ClusterError(f"{removal.leftover.name} of {node.name} could not be removed: {removal.error}")

    def _eventually_none(self, what: str, look: Callable[[], list[str]]) -> None:
        until = time.monotonic() + PATIENCE_S * SLOWNESS
        while left := look():
            if time.monotonic() > until:
                raise ClusterError(f"{what} are left: {'; '.join(left[:20])}\n{self.logs()}")
            time.sleep(0.05)

    def _give_up(self) -> None:
        """A test has failed: end everything, and show what the processes have said."""
        with suppress(Exception):
            print(self.logs())  # pytest shows it with the failure
        with suppress(Exception):
            self._close_clients(kill=True)
        self._kill_all()
        self._stack.close()

    def _kill_all(self) -> None:
        for process in [*self._others, *(node.process for node in self.nodes.values() if node.process is not None)]:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        shutil.rmtree(self._home, ignore_errors=True) if self._folder else None
