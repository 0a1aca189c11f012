"""Node and leader in one, without a container: a thread of the test that does with a client's jobs what the test says."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

import redis

from jobmanager import JobResult, Outcome, Output
from jobmanager.remote.blobs import BlobReader, RedisBlobs
from jobmanager.remote.keys import Keys
from jobmanager.remote.output import JobOutputStream, output_pieces
from jobmanager.remote.payload import Unpacked, Unpacker, pack_result
from jobmanager.remote.records import SCHEMA, ClientEvent, JobHeader, NodeCommand, NodeReport, ResultMessage
from jobmanager.remote.signing import Keyring, Signer
from jobmanager.remote.store import ClusterStore, HeldPlacement
from jobmanager.remote.timeouts import ClusterTimeouts

TURN_S = 0.01
BEAT_S = 0.1


class Taken:
    """A job that the peer has taken."""

    def __init__(self, header: JobHeader, payload: Unpacked, token: str) -> None:
        self.header, self.payload, self.token = header, payload, token

    @property
    def r(self) -> str:
        return self.header.r

    @property
    def command(self) -> object:
        return getattr(self.payload.task, "command", None)


class ScriptedPeer:
    """One node that runs what it is sent by a function of the test, or keeps it until the test finishes it.

    Args:
        url: of Redis.
        key: of the cluster.
        run: what a job becomes; None: nothing, until ``finish`` is called.
        environments: what it says to have.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeouts: ClusterTimeouts,
        run: Callable[[Taken], JobResult | None] | None = None,
        name: str = "peer",
        namespace: str = "test",
        environments: Sequence[str] = ("busybox",),
        newest_schema: int = SCHEMA,
        places: bool = True,
    ) -> None:
        self.redis = redis.Redis.from_url(url, socket_timeout=5.0)
        self.store = ClusterStore(self.redis, namespace, timeouts)
        self.signer: Signer = Keyring.from_environment(key).signer(namespace)
        self.keys = Keys(namespace)
        self._blobs = RedisBlobs(self.redis, self.keys, ttl_s=60.0)
        self.name = name
        self.incarnation = secrets.token_hex(8)
        self.taken: dict[str, Taken] = {}  # by job id, also when they have ended
        self.answers: Callable[[str], tuple[int, float | None] | None] = lambda _: None  # of the leader, by R
        self.commands: list[NodeCommand] = []
        self.places = places
        self._run = run
        self._holds: dict[str, str] = {}  # tokens by R
        self._hints_after = "0-0"
        self._commands_after = "0-0"
        self._next_beat = 0.0
        self._report = NodeReport(
            name=name,
            incarnation=self.incarnation,
            version="test",
            oldest_schema=1,
            newest_schema=newest_schema,
            state="up",
            slots=4,
            used=0,
            memory_mib=4096,
            free_memory_mib=4096,
            cores=4,
            environments=tuple(environments),
            images=(),
            machine="here",
            pid=1,
            address="ssh.example.org",
        )
        self._unpacker = Unpacker()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scripted-peer", daemon=True)

    def __enter__(self) -> ScriptedPeer:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self.redis.close()

    # ---- what a test does

    def say(self, **changes: object) -> None:
        """Another report from now on."""
        self._report = replace(self._report, **changes)  # type: ignore[arg-type]
        self.beat()

    def beat(self) -> None:
        report = self.signer.sign("report", self._report.to_json())
        self.store.beat(self.name, self.incarnation, report, [HeldPlacement(r, token, 1) for r, token in self._holds.items()])

    def result(self, taken: Taken, result: JobResult, *, r: str | None = None, signer: Signer | None = None) -> str:
        """A signed result."""
        message = ResultMessage(
            r=taken.r if r is None else r,
            job_id=taken.header.job_id,
            token=taken.token,
            node=self.name,
            result=pack_result(result).text,
        )
        return (signer or self.signer).sign("result", message.to_json())

    def finish(self, taken: Taken, result: JobResult) -> str:
        self._holds.pop(taken.r, None)
        return self.store.finish(
            taken.r,
            token=taken.token,
            client=taken.header.client,
            job_id=taken.header.job_id,
            result=self.result(taken, result),
            outcome=result.outcome.value,
            who=self.name,
        )

    def tell(self, taken: Taken, event: str, **fields: object) -> None:
        """Send its client news."""
        self.store.send_event(taken.header.client, self.event(event, taken.r, **fields))

    def event(self, event: str, r: str, **fields: object) -> str:
        news = ClientEvent(event=event, r=r, node=self.name, incarnation=self.incarnation, **fields)  # type: ignore[arg-type]
        return self.signer.sign("event", news.to_json())

    def print(self, taken: Taken, *outputs: Output, signer: Signer | None = None) -> None:
        """Send a client what its job prints, from the beginning, and not that it has ended."""
        stream = JobOutputStream(self.redis, self.keys, taken.r)
        for piece in output_pieces(taken.r, taken.token, outputs):
            if not piece.ended:
                stream.put((signer or self.signer).sign("output", piece.to_json()))

    def put_result(self, client: str, r: str, envelope: str) -> None:
        """Write straight into a client's stream, as whoever may write to Redis can."""
        self.redis.xadd(self.keys.client(client, "results"), {"r": r, "e": envelope})

    # ---- what it does

    def _work(self) -> None:
        while not self._stop.wait(TURN_S):
            with suppress(redis.RedisError, OSError):
                self._turn()

    def _turn(self) -> None:
        if time.monotonic() > self._next_beat:
            self._next_beat = time.monotonic() + BEAT_S
            self.beat()
        hints, self._hints_after = self.store.read_hints(after=self._hints_after, block_s=0.001)
        for hint in hints:
            if hint.kind == "ask":
                self._answer(hint.r, json.loads(hint.more))
        for entry, envelope in self.store.read_commands(self.name, after=self._commands_after, block_s=0.001):
            self._commands_after = entry
            self._obey(NodeCommand.from_json(self.signer.open("command", envelope, 65536)))
        if self.places:
            for r in self.store.waiting():
                self.take(r)

    def _answer(self, r: str, asked: dict[str, str]) -> None:
        answer = self.answers(r)
        if answer is not None:
            news = self.event("answer", r, question=asked["question"], jobs_before=answer[0], wait_s=answer[1])
            self.store.send_event(asked["client"], news)

    def _obey(self, command: NodeCommand) -> None:
        self.commands.append(command)
        taken = next((taken for taken in self.taken.values() if taken.r == command.r), None)
        if command.command == "kill" and taken is not None:
            text = f"killed: {command.reason}"
            self.finish(taken, JobResult(job_id=taken.header.job_id, outcome=Outcome.KILLED, text=text))

    def take(self, r: str) -> Taken | None:
        """Place a job here, and start it."""
        fields = self.store.record(r)
        if fields is None:
            return None
        header = JobHeader.from_json(self.signer.open("job", fields.header, 65536))
        assert header.r == r
        payload = self._unpacker.unpack(
            fields.body, shared=BlobReader(self._blobs), own=BlobReader(self._blobs.of_job(r))
        )
        taken = Taken(header, payload, secrets.token_hex(8))
        epoch = self.store.lead(self.name)
        placed = self.event("placed", r, token=taken.token)
        if self.store.place_all(epoch, [(r, self.name, self.incarnation, taken.token, "x", placed)]) != ["placed"]:
            return None
        started = self.event("started", r, token=taken.token)
        answer = self.store.start(r, node=self.name, incarnation=self.incarnation, token=taken.token, event=started)
        if answer == "cancelled":
            self.finish(taken, JobResult(job_id=header.job_id, outcome=Outcome.KILLED, text="killed"))
        if answer != "run":
            return None
        self._holds[r] = taken.token
        self.taken[header.job_id] = taken
        if self._run is not None and (result := self._run(taken)) is not None:
            self.finish(taken, result)
        return taken


def succeeds(taken: Taken) -> JobResult:
    """What a run of ``echo`` gives."""
    words = str(taken.command).removeprefix("echo ")
    printed = f"{words}\n".encode()
    return JobResult(
        job_id=taken.header.job_id, outcome=Outcome.SUCCESS, grade=100.0, stdout=printed, stdout_bytes=len(printed), exit_code=0
    )
