"""What a dispatcher sees of a cluster, without one: nodes that only beat, and jobs whose programs are nobody's."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import redis

from jobmanager.model.result import JobResult
from jobmanager.remote.blobs import BlobReader
from jobmanager.remote.connect import open_redis
from jobmanager.remote.dispatcher import Dispatcher
from jobmanager.remote.dispatcher_process import DispatcherSettings
from jobmanager.remote.payload import unpack_result
from jobmanager.remote.records import SCHEMA, ClientEvent, JobHeader, Needs, NodeReport, Placement, ResultMessage
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore, HeldPlacement, JobFields, NewJob, SeenState
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.conftest import eventually
from tests.support.cluster import SHORT
from tests.support.redis_server import RedisServer

NAMESPACE = "exam"
CLIENT = "web"
BEAT_S = 0.1


class BeatingNode:
    """A node of which only the sign of life is real. ``run`` and ``end`` are what its jobs would do."""

    def __init__(self, world: DispatchWorld, name: str, **report: Any) -> None:
        self.name = name
        self.incarnation = secrets.token_hex(8)
        self.held: dict[str, str] = {}  # token by R, of what it has started
        self.report = NodeReport(
            name=name,
            incarnation=self.incarnation,
            version="1",
            oldest_schema=SCHEMA,
            newest_schema=SCHEMA,
            state="up",
            machine="here",
            pid=1,
            used=0,
            **{
                "slots": 2,
                "memory_mib": 4096,
                "free_memory_mib": 4096,
                "cores": 4,
                "environments": ("python3",),
                "images": (),
                **report,
            },
        )
        self.lost: set[str] = set()
        self._world = world
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"beats of {name}")
        eventually(lambda: not world.store.claim_node(name, self.incarnation), what="the name is free")
        self._thread.start()

    def fall_silent(self) -> None:
        """No more beats; its name is free after a while."""
        self._stop.set()
        self._thread.join()

    def taken(self) -> list[str]:
        """R of what lies in its queue."""
        key = self._world.store.keys.rq_node(self.name)
        return [r.decode() for r in self._world.store.redis.lrange(key, 0, -1)]

    def run(self, r: str) -> str:
        """Take a job out of the queue, and start it; what Redis answers."""
        placement = self.placement(r)
        self._world.store.redis.lrem(self._world.store.keys.rq_node(self.name), 1, r)
        answer = self._world.store.start(r, node=self.name, incarnation=self.incarnation, token=placement.token)
        if answer == "run":
            self.held[r] = placement.token
        return answer

    def placement(self, r: str) -> Placement:
        """What the leader has signed."""
        fields = self._world.store.record(r)
        assert fields is not None
        return Placement.from_json(self._world.signer.open("placement", fields.placement, 10_000))

    def end(self, r: str, outcome: str = "success") -> str:
        """Its program has ended."""
        token = self.held.pop(r)
        job_id = self._world.job_ids[r]
        return self._world.store.finish(
            r, token=token, client=CLIENT, job_id=job_id, result="signed", outcome=outcome, who=self.name
        )

    def _beat(self) -> None:
        with redis.Redis.from_url(self._world.server.socket_url) as connection:
            store = ClusterStore(connection, NAMESPACE, self._world.timeouts)
            while not self._stop.wait(BEAT_S):
                report = self._world.signer.sign("report", self.report.to_json())
                with suppress(redis.RedisError):  # it is away
                    held = [HeldPlacement(r, token, 1) for r, token in list(self.held.items())]
                    beat = store.beat(self.name, self.incarnation, report, held)
                    self.lost |= {*beat.lost}


class DispatchWorld:
    """Redis, keys, and whoever is started on them; all ends with ``with``."""

    def __init__(self, server: RedisServer, timeouts: ClusterTimeouts = SHORT) -> None:
        self.server = server
        self.timeouts = timeouts
        self.keyring = Keyring.parse(secrets.token_hex(32))
        self.signer = self.keyring.signer(NAMESPACE)
        self.redis = redis.Redis.from_url(server.socket_url)
        self.store = ClusterStore(self.redis, NAMESPACE, timeouts)
        self.job_ids: dict[str, str] = {}
        self.jobs: dict[str, NewJob] = {}
        self._nodes: list[BeatingNode] = []
        self._dispatchers: list[tuple[threading.Event, threading.Thread]] = []

    def __enter__(self) -> DispatchWorld:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stop, _ in self._dispatchers:
            stop.set()
        for node in self._nodes:
            node.fall_silent()
        for _, thread in self._dispatchers:
            thread.join(20)
            assert not thread.is_alive()
        self.redis.close()

    def settings(self, name: str) -> DispatcherSettings:
        return DispatcherSettings(
            url=self.server.socket_url, namespace=NAMESPACE, keyring=self.keyring, timeouts=self.timeouts, name=name
        )

    def dispatcher(self, name: str = "d", store: type[ClusterStore] = ClusterStore) -> Dispatcher:
        """One in a thread of its own; it leads or not."""
        connection = open_redis(self.server.socket_url, self.timeouts)
        dispatcher = Dispatcher(store(connection, NAMESPACE, self.timeouts), self.keyring, self.timeouts, name)
        stop = threading.Event()

        def run() -> None:
            with connection:
                dispatcher.run(stop)

        thread = threading.Thread(target=run, name=f"dispatcher {name}")
        thread.start()
        self._dispatchers.append((stop, thread))
        return dispatcher

    def stop_dispatchers(self) -> None:
        """All of them, so that none leads."""
        for stop, _ in self._dispatchers:
            stop.set()
        for _, thread in self._dispatchers:
            thread.join(20)

    def leader(self) -> str:
        return (self.redis.get(self.store.keys.leader) or b"").decode()

    def leads(self, name: str = "d") -> None:
        eventually(lambda: self.leader().startswith(f"{name}:"), what=f"{name} leads")

    def node(self, name: str = "n1", **report: Any) -> BeatingNode:
        node = BeatingNode(self, name, **report)
        self._nodes.append(node)
        return node

    def job(self, job_id: str, *, accept: bool = True, client: str = CLIENT, **more: Any) -> str:
        """A job of a client; its R."""
        r = secrets.token_hex(16)
        needs = Needs(**{"environment": "python3", "memory_mib": 64, "cpus": 1.0, "wall_s": 10.0, **more.pop("needs", {})})
        header = JobHeader(
            schema=SCHEMA,
            r=r,
            job_id=job_id,
            client=client,
            title="task",
            job_class="task",
            needs=needs,
            not_after_s=more.pop("not_after_s", time.time() + 3600),
            body="0" * 64,
            **{"launcher": "ann", "priority": 0, "retries": 0, "supersede_key": None, "queue_timeout_s": 600.0, **more},
        )
        new = NewJob(r=r, job_id=job_id, client=client, title="task", header=self.signer.sign("job", header.to_json()), body="b")
        self.job_ids[r], self.jobs[r] = job_id, new
        if accept:
            self.store.accept(new, max_waiting=10**6)
        return r

    def announce(self, r: str, **seen: Any) -> str:
        return self.store.announce(self.jobs[r], SeenState(**seen))

    def forge(self, r: str, header: str) -> None:
        """What somebody without the key may write: a job in the list."""
        self.store.accept(replace(NewJob(r=r, job_id=r, client=CLIENT, title="x", header=header, body="")), max_waiting=10**6)

    def fields(self, r: str) -> JobFields:
        fields = self.store.record(r)
        assert fields is not None
        return fields

    def is_on(self, r: str) -> str:
        """The node that a job is placed on."""
        return eventually(lambda: self.fields(r).node, what="it is placed")

    def results(self) -> dict[str, JobResult]:
        """By job id; each was signed."""
        found = {}
        for _, r, envelope in self.store.read_results(CLIENT, after="0"):
            if envelope != "signed":
                message = ResultMessage.from_json(self.signer.open("result", envelope, 10**6))
                assert message.r == r
                found[message.job_id] = unpack_result(message.result, BlobReader())
        return found

    def result(self, job_id: str) -> JobResult:
        return eventually(lambda: self.results().get(job_id), what=f"{job_id} has ended")

    def events(self, event: str) -> list[ClientEvent]:
        entries = self.store.read_events(CLIENT, after="0")
        read = [ClientEvent.from_json(self.signer.open("event", envelope, 10_000)) for _, envelope in entries]
        return [each for each in read if each.event == event]

    def audited(self, what: str) -> list[str]:
        entries = self.redis.xrange(self.store.keys.audit)
        return [fields[b"r"].decode() for _, fields in entries if fields[b"what"] == what.encode()]
