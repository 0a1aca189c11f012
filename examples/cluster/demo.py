"""A class hands in 200 programs to a cluster of three nodes, while a node, the dispatcher and Redis are killed.

    python examples/cluster/demo.py [--submissions N] [--environment NAME] [HOST_URL ...]

It starts a Redis of its own, three `jobmanager worker`s on the given Docker hosts, and two clients in processes of their own
(`hand_in.py`). The exit code is 0 if every program had one result, and the expected one, and no container is left; 1 if not,
2 if nothing could run. Ctrl-C ends all of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import docker
import psutil
import redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jobmanager import HostInfo, JobManagerError
from jobmanager.remote import ClusterTimeouts, RemoteClient

HERE = Path(__file__).parent
NODES = ("node-1", "node-2", "node-3")
CLIENTS = ("lab-a", "lab-b")
SLOTS = 2  # of each node
# shorter than the defaults: nobody wants to watch a demo for a minute until a lost node is given up
TIMEOUTS = ClusterTimeouts(leader_lease_s=3, beat_s=1, suspect_s=4, node_lost_s=12, client_lease_s=10, settle_s=4)
START_S = 60.0
LEADER_S = 15.0  # until another dispatcher leads
END_S = 30.0
SILENCE_S = 120.0  # without any news from a client: something is wrong


class DemoError(Exception):
    """Nothing can be shown; the text says why."""


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """Redis and the nodes, each a process of its own."""

    folder: Path
    hosts: list[str]
    key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    redis: subprocess.Popen[bytes] | None = None
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    def environment(self) -> dict[str, str]:
        """What workers and clients find their Redis and its key by."""
        timeouts = json.dumps(asdict(TIMEOUTS))
        own = {"JOBMANAGER_REDIS_URL": self.url, "JOBMANAGER_KEY": self.key, "JOBMANAGER_CLUSTER_TIMEOUTS": timeouts}
        return {**os.environ, **own, "PYTHONUNBUFFERED": "1"}

    def start_redis(self) -> None:
        server = shutil.which("redis-server")
        if server is None:
            raise DemoError("there is no redis-server: run `make demo-cluster`, which installs it, or apt-get install redis-server")
        options = ["--dir", str(self.folder), "--port", "0", "--unixsocket", f"{self.folder}/redis.sock"]
        self.redis = self._started([server, str(HERE / "redis.conf"), *options], "redis")
        until = time.monotonic() + START_S
        while not self._redis_answers():
            if self.redis.poll() is not None or time.monotonic() > until:
                raise DemoError(f"redis-server did not start: {self.last_words('redis')}")
            time.sleep(0.05)

    def start_node(self, name: str) -> None:
        host = self.hosts[NODES.index(name) % len(self.hosts)]
        command = [sys.executable, "-m", "jobmanager", "worker", "--name", name, "--slots", str(SLOTS), "--host", host]
        self.nodes[name] = self._started(command, name)

    def start_client(self, name: str, count: int, environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "hand_in.py"), "--client", name, "--count", str(count)]
        command += ["--environment", environment, "--timeouts", json.dumps(asdict(TIMEOUTS))]
        return subprocess.Popen(
            command,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{name}.log").open("ab"),
            text=True,
            start_new_session=True,
        )

    def kill_node(self, name: str) -> None:
        """The worker and all that it has started, at one moment: as when its machine loses power."""
        worker = psutil.Process(self.nodes[name].pid)
        worker.suspend()
        for process in [*worker.children(recursive=True), worker]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes[name].wait()

    def kill_dispatcher(self) -> str:
        """The process of the dispatcher that leads; where it was. After the death of one it takes seconds until another leads."""
        until = time.monotonic() + LEADER_S
        while not (killed := self._kill_leader()) and time.monotonic() < until:
            time.sleep(0.2)
        return killed

    def _kill_leader(self) -> str:
        command = [sys.executable, "-m", "jobmanager", "queue", "--json"]
        shown = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=30, check=False)
        leader = json.loads(shown.stdout)["leader"] if shown.returncode == 0 else ""
        for name, worker in self.nodes.items():
            for process in psutil.Process(worker.pid).children() if worker.poll() is None and name in leader else []:
                if any("dispatcher" in word for word in process.cmdline()):
                    process.kill()
                    return name
        return ""

    def restart_redis(self) -> None:
        """SIGKILL, and start again: what it has answered is in its append-only file."""
        assert self.redis is not None
        self.redis.kill()
        self.redis.wait()
        self.start_redis()

    def last_words(self, name: str) -> str:
        """The end of what a process has said."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """Nodes first, which end what runs there; a second signal kills it. What a killed one has left is removed."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            living = [worker for worker in self.nodes.values() if worker.poll() is None]
            for worker in living:
                worker.send_signal(number)
            until = time.monotonic() + END_S / 3
            for worker in living:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(max(0.0, until - time.monotonic()))
        if self.redis is not None and self.redis.poll() is None:
            self.redis.kill()
            self.redis.wait()
        if any(worker.returncode == -signal.SIGKILL for worker in self.nodes.values()):
            sweep = [sys.executable, "-m", "jobmanager", "sweep", "--yes", *set(self.hosts)]
            subprocess.run(sweep, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)

    def _started(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(  # in a session of its own: ctrl-C on the terminal is for the demo, which ends the others
                command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _redis_answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass
class Class:
    """The clients' processes, and what they say."""

    processes: dict[str, subprocess.Popen[str]]
    said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = field(default_factory=queue.SimpleQueue)

    def listen(self) -> None:
        for name, process in self.processes.items():
            threading.Thread(target=self._read, args=(name, process), daemon=True).start()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.said.put((name, json.loads(line)))
        self.said.put((name, {"what": "ended itself"}))


# --- what has happened ----------------------------------------------------------------------------------------------


@dataclass
class Record:
    """All that the clients have said, and what was broken."""

    total: int
    accepted: Counter[str] = field(default_factory=Counter)  # by job
    ended: Counter[str] = field(default_factory=Counter)  # by job: callbacks
    by_client: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in CLIENTS})
    by_node: Counter[str] = field(default_factory=Counter)  # jobs that ended there
    outcomes: Counter[str] = field(default_factory=Counter)
    placed: Counter[str] = field(default_factory=Counter)  # by job: how often a node was found for it
    surprises: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left: set[str] = field(default_factory=set)  # clients that have all their results

    def note(self, client: str, said: dict[str, Any]) -> None:
        if said["what"] == "accepted":
            self.accepted[said["job"]] += 1
            self.by_client[client]["accepted"] += 1
        elif said["what"] == "placed":
            self.placed[said["job"]] += 1
        elif said["what"] == "ended":
            self.ended[said["job"]] += 1
            self.by_client[client]["ended"] += 1
            self.by_node[said["host"] or "?"] += 1
            self.outcomes[said["outcome"]] += 1
            if said["surprise"]:
                self.surprises.append(f"{said['job']}: {said['surprise']}")
        elif said["what"] == "left":
            self.left.add(client)

    def again(self) -> int:
        """Jobs that were given to a second node, since the first one was lost."""
        return sum(times > 1 for times in self.placed.values())

    def lost(self) -> list[str]:
        return [job for job in self.accepted if not self.ended[job]]

    def doubled(self) -> list[str]:
        return [job for job, times in self.ended.items() if times > 1]


def now(record: Record, hosts: list[HostInfo]) -> Group:
    """The display while it goes on."""
    nodes = Table("node", "state", "running", "ended", "why", title="nodes", title_justify="left")
    for host in hosts:
        state = Text("up", "green") if host.up else Text("down", "bold red")
        running = f"{host.running} of {host.limit}" if host.limit else str(host.running)
        nodes.add_row(host.name, state, running, str(ended_on(record, host.name)), host.reason or "")
    clients = Table("client", "accepted", "called back", title="clients", title_justify="left")
    for name, counted in record.by_client.items():
        clients.add_row(name, str(counted["accepted"]), str(counted["ended"]))
    return Group(nodes, clients, *(Text(line, "yellow") for line in record.broken))


def ended_on(record: Record, node: str) -> int:
    return sum(times for host, times in record.by_node.items() if host.partition("/")[0] == node)


def outcome(record: Record, containers: list[str]) -> tuple[Table, bool]:
    """The table at the end, and whether all is as it must be."""
    rows = [
        ("handed in", record.total, record.total),
        ("accepted", sum(record.accepted.values()), record.total),
        ("called back", len(record.ended), record.total),
        ("lost", len(record.lost()), 0),
        ("called back twice", len(record.doubled()), 0),
        ("ended otherwise than expected", len(record.surprises), 0),
        ("containers left", len(containers), 0),
    ]
    table = Table("", "", "must be", "")
    for name, found, must_be in rows:
        table.add_row(name, str(found), str(must_be), Text("ok", "green") if found == must_be else Text("WRONG", "bold red"))
    return table, all(found == must_be for _, found, must_be in rows)


# --- the story ------------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """What is broken when: each at a share of the results."""

    cluster: Cluster
    record: Record
    steps: list[tuple[float, Callable[[], str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = [
            (0.15, self._kill_node),
            (0.35, self._kill_dispatcher),
            (0.55, self._restart_redis),
            (0.65, self._start_node),
        ]

    def go_on(self) -> None:
        while self.steps and len(self.record.ended) >= self.steps[0][0] * self.record.total:
            _, step = self.steps.pop(0)
            self.record.broken.append(f"after {len(self.record.ended)} results: {step()}")

    def _kill_node(self) -> str:
        self.cluster.kill_node(NODES[1])
        return f"{NODES[1]} was killed, with all its processes"

    def _kill_dispatcher(self) -> str:
        where = self.cluster.kill_dispatcher()
        return f"the dispatcher, a process of {where}, was killed" if where else "no dispatcher was found"

    def _restart_redis(self) -> str:
        self.cluster.restart_redis()
        return "Redis was killed and started again"

    def _start_node(self) -> str:
        self.cluster.start_node(NODES[1])
        return f"{NODES[1]} was started again"


def follow(cluster: Cluster, pupils: Class, record: Record, watcher: RemoteClient, console: Console) -> None:
    """Show what happens until both clients have left."""
    story = Story(cluster, record)
    last_news = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while len(record.left) < len(CLIENTS):
            with suppress(queue.Empty):
                name, said = pupils.said.get(timeout=0.2)
                record.note(name, said)
                last_news = time.monotonic()
                if said["what"] == "ended itself" and name not in record.left:
                    raise DemoError(f"the client {name} has ended: {cluster.last_words(name)}")
            if time.monotonic() - last_news > SILENCE_S:
                raise DemoError(f"no news for {SILENCE_S:g} s; {len(record.lost())} results are missing")
            before = len(record.broken)
            story.go_on()
            if console.is_terminal:
                live.update(now(record, watcher.hosts()), refresh=True)
            else:
                print(*record.broken[before:], sep="\n", end="\n" if record.broken[before:] else "", flush=True)


def wait_for_nodes(cluster: Cluster, watcher: RemoteClient) -> None:
    until = time.monotonic() + START_S
    while sum(host.up for host in watcher.hosts()) < len(NODES):
        for name, worker in cluster.nodes.items():
            if worker.poll() is not None:
                raise DemoError(f"{name} has ended: {cluster.last_words(name)}")
        if time.monotonic() > until:
            raise DemoError(f"the nodes did not come up in {START_S:g} s: {cluster.last_words(NODES[0])}")
        time.sleep(0.2)


# --- containers -----------------------------------------------------------------------------------------------------


def containers(hosts: list[str]) -> set[str]:
    """Names of all containers on these hosts that a manager has made."""
    found = set()
    for host in hosts:
        client = docker.DockerClient(base_url=host, timeout=30)
        try:
            listed = client.api.containers(all=True, filters={"label": "jobmanager.manager"})
            found |= {each["Names"][0].lstrip("/") for each in listed}
        finally:
            client.close()
    return found


def left_of(hosts: list[str], before: set[str]) -> list[str]:
    """Containers that were not there before; the engine may need a moment for the last ones."""
    until = time.monotonic() + END_S
    while (left := containers(hosts) - before) and time.monotonic() < until:
        time.sleep(0.5)
    return sorted(left)


# --- the program ----------------------------------------------------------------------------------------------------


@contextmanager
def running_cluster(hosts: list[str]) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="jobmanager-demo-") as folder:
        cluster = Cluster(Path(folder), hosts)
        try:
            cluster.start_redis()
            for name in NODES:
                cluster.start_node(name)
            yield cluster
        finally:
            cluster.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade a class's programs on a cluster, while parts of it are killed.")
    parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts, shared out to the nodes")
    parser.add_argument("--submissions", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--environment", default="python3", help="an environment with Python and gcc (default: %(default)s)")
    options = parser.parse_args()
    hosts = options.hosts or [os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"]
    console = Console() if sys.stdout.isatty() else Console(width=120)
    record = Record(options.submissions)
    begun = time.monotonic()
    before = containers(hosts)
    with running_cluster(hosts) as cluster, ExitStack() as stack:
        print(f"started Redis and {len(NODES)} nodes of {SLOTS} slots on {', '.join(hosts)}", flush=True)
        watcher = stack.enter_context(RemoteClient(cluster.url, key=cluster.key, timeouts=TIMEOUTS))
        wait_for_nodes(cluster, watcher)
        counts = [options.submissions - options.submissions // 2, options.submissions // 2]
        started = {
            name: cluster.start_client(name, count, options.environment) for name, count in zip(CLIENTS, counts, strict=True)
        }
        pupils = Class(started)
        stack.callback(pupils.close)
        pupils.listen()
        print(f"{len(CLIENTS)} clients hand in {options.submissions} programs", flush=True)
        follow(cluster, pupils, record, watcher, console)
    table, is_right = outcome(record, left_of(hosts, before))
    if console.is_terminal:
        console.print(*(Text(line, "yellow") for line in record.broken), sep="\n")
    took_s = time.monotonic() - begun
    outcomes = ", ".join(f"{times} {name}" for name, times in record.outcomes.most_common())
    console.print(table)
    console.print(f"{outcomes}; {record.again()} had a second node, since the first was lost; {took_s:.0f} s in all")
    print("\n".join([*record.surprises, *record.lost(), *record.doubled()]) or "nothing was lost or doubled")
    return 0 if is_right else 1


def end_in_order(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_in_order)
    logging.getLogger("jobmanager").setLevel(logging.ERROR)  # that a node is down is no news here
    try:
        sys.exit(main())
    except (DemoError, JobManagerError, docker.errors.DockerException) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
