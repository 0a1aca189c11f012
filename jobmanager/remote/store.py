"""``ClusterStore``: what a cluster keeps in Redis, as typed operations. It decides nothing and verifies nothing.

Each operation that changes a job is one Lua script. Each can be repeated when its answer was lost.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Union

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError, ResponseError

from jobmanager.remote.keys import Keys
from jobmanager.remote.rq_records import rq_job_fields
from jobmanager.remote.scripts import Scripts
from jobmanager.remote.timeouts import ClusterTimeouts

_INBOX_PIECE = 1000
READ_AT_ONCE = 1000  # entries of each of a client's streams
_MAX_KEY_CHECK = 4095
_MAX_FIELD_BYTES = 2**20  # of a job's record
_NODE_TTL_S = 86400  # of a node's record, from each sign of life on: lua/beat.lua


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as its client hands it over."""

    r: str
    job_id: str
    client: str
    title: str  # for dashboards
    header: str  # a signed JobHeader
    body: str = field(repr=False)  # empty when it is a blob
    blobs: tuple[str, ...] = ()  # names of what must be there


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job is the cluster's now."""


@dataclass(frozen=True, slots=True)
class DuplicateId:
    """An open job has this id."""

    client: str


@dataclass(frozen=True, slots=True)
class WaitQueueFull:
    """So many jobs wait."""

    waiting: int


@dataclass(frozen=True, slots=True)
class BlobsMissing:
    """These are not there (any more): upload them, and try again."""

    sha256: tuple[str, ...]


Acceptance = Union[Accepted, DuplicateId, WaitQueueFull, BlobsMissing]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenState:
    """Where a client saw its job last."""

    state: Literal["waiting", "placed", "running"] = "waiting"
    node: str = ""
    incarnation: str = ""
    token: str = ""
    runs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFields:
    """A job's record. Nothing in it can be trusted but what is signed."""

    state: str
    client: str = ""
    job_id: str = ""
    node: str = ""
    incarnation: str = ""
    token: str = ""
    accepted: float = 0.0  # by Redis' clock, in seconds since 1970; 0: unknown
    since: float = 0.0  # the same, of its present state
    announced: bool = False  # its client said it again, as Redis had lost data: some node may still run it
    attempt: int = 0  # placements so far
    runs: int = 0  # how often a node has started it
    header: str = field(default="", repr=False)
    body: str = field(default="", repr=False)
    placement: str = ""
    cancel: str = ""
    excluded: tuple[str, ...] = ()  # nodes that gave it back
    reason: str = ""  # why, at last
    outcome: str = ""


class HeldPlacement(NamedTuple):
    """What a node says of a job that it has started and whose result Redis has not."""

    r: str
    token: str
    runs: int  # of the job, on any node
    attempt: int = 1  # the number of this placement among the job's


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a node hears when it gives a sign of life."""

    is_owner: bool  # False: another worker has its name
    want: str = "up"  # "up", "drain", "pause"
    lost: tuple[str, ...] = ()  # R of what it holds and must not go on with
    cancels: Mapping[str, str] = field(default_factory=dict)  # by R: a signed NodeCommand
    unheld: tuple[tuple[str, str, str], ...] = ()  # R, state, token of what it should hold, and does not


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFields:
    """A node's record."""

    name: str
    report: str = field(default="", repr=False)  # a signed NodeReport
    incarnation: str = ""
    beats: int = 0  # grows with each sign of life
    want: str = "up"
    is_claimed: bool = False  # a worker holds its name
    seen_s: float | None = None  # since its last sign of life, in seconds


_ALL_FIELDS = tuple(JobFields.__dataclass_fields__)
_WITHOUT_BODY = tuple(name for name in _ALL_FIELDS if name not in ("body", "placement"))


@dataclass(frozen=True, slots=True)
class Hint:
    """What the leader is told. Hints may be lost: the lists and records are the truth."""

    kind: str  # "new", "running", "done", "back", "changed", "ask"
    r: str
    more: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """How things stand at one moment, in figures."""

    last_hint: str  # the newest entry of the leader's inbox
    waiting: int  # jobs
    time_s: float  # Redis' own clock, in seconds since 1970
    wants_snapshot: bool  # somebody reads snapshots of the queue
    held: Mapping[str, int]  # by node: jobs that are placed or running there


class ClusterStore:
    """The operations on one namespace. Raises redis' own errors: the caller decides what an outage means."""

    def __init__(self, redis: Redis, namespace: str, timeouts: ClusterTimeouts) -> None:
        self.redis = redis
        self.keys = Keys(namespace)
        self.timeouts = timeouts
        self._scripts = Scripts(redis)
        self._first = (self.keys.prefix, self.keys.rq_wait)
        self._ttl_s = int(timeouts.result_ttl_s)

    # ---- jobs: what clients do

    def accept(self, job: NewJob, *, max_waiting: int) -> Acceptance:
        """Hand a job over. A second time with the same R is no error."""
        rq = _flat(rq_job_fields(self.redis, job, self.keys.wait_queue, self._ttl_s))
        answer = self._call(
            "accept", job.r, job.job_id, job.client, job.header, job.body, max_waiting, self._ttl_s, json.dumps(job.blobs), *rq
        )
        kind, detail = _text(answer[0]), _text(answer[1]) if len(answer) > 1 else ""
        if kind == "duplicate":
            return DuplicateId(detail)
        if kind == "full":
            return WaitQueueFull(int(detail))
        return BlobsMissing(tuple(json.loads(detail))) if kind == "missing" else Accepted()

    def announce(self, job: NewJob, seen: SeenState) -> str:
        """Hand over an open job again, as Redis lost data: ``there``, ``joined`` to what its node said, ``made``, or ``done``."""
        rq = _flat(rq_job_fields(self.redis, job, self.keys.wait_queue, self._ttl_s))
        where = (seen.state, seen.node, seen.incarnation, seen.token, seen.runs)
        return _text(self._call("announce", job.r, job.job_id, job.client, job.header, job.body, *where, self._ttl_s, *rq))

    def cancel(self, r: str, *, command: str, result: str) -> str:
        """Kill a job: ``ended`` (it waited, and has this signed result), ``asked`` (its node is told), ``gone``."""
        return _text(self._call("cancel", r, command, result, self._ttl_s))

    def read_results(self, client: str, *, after: str, block_s: float | None = None) -> list[tuple[str, str, str]]:
        """Results for a client: entry, R, signed ResultMessage. ``after`` is "0" or the last entry."""
        entries = self._read(self.keys.client(client, "results"), after, block_s, count=100)
        return [(entry, _text(fields.get(b"r", b"")), _text(fields.get(b"e", b""))) for entry, fields in entries]

    def acknowledge(self, client: str, *results: tuple[str, str], holder: str) -> bool:
        """Results, as entry and R, were called back: they are needed no more, and neither are the jobs' own blobs.

        False: nothing was done, as ``holder`` does not have the client's id.
        """
        return bool(self._call("acknowledge", client, holder, *(part for result in results for part in result)))

    def open_jobs(self, client: str) -> dict[str, str]:
        """R and job id of each job whose result a client has not acknowledged."""
        return {_text(r): _text(job_id) for r, job_id in self.redis.hgetall(self.keys.client(client, "open")).items()}

    def read_events(self, client: str, *, after: str, block_s: float | None = None) -> list[tuple[str, str]]:
        """Events for a client: entry, signed ClientEvent. ``after`` is an entry, or "$"."""
        entries = self._read(self.keys.client(client, "events"), after, block_s, count=1000)
        return [(entry, _text(fields.get(b"e", b""))) for entry, fields in entries]

    def read_for_client(
        self, client: str, *, results_after: str, events_after: str, block_s: float
    ) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        """Results and events, as soon as there is one of either."""
        results, events = self.keys.client(client, "results"), self.keys.client(client, "events")
        after: dict[Any, Any] = {results: results_after, events: events_after}
        answer = self.redis.xread(after, count=READ_AT_ONCE, block=max(1, int(block_s * 1000)))
        found = {_text(key): entries for key, entries in _streams(answer)}
        return (
            [(_text(e), _text(f.get(b"r", b"")), _text(f.get(b"e", b""))) for e, f in found.get(results, ()) if f],
            [(_text(e), _text(f.get(b"e", b""))) for e, f in found.get(events, ()) if f],
        )

    def read_outputs(self, after: Mapping[str, str], *, block_s: float) -> list[tuple[str, list[tuple[str, str]]]]:
        """What followed jobs have printed, by R: entries and signed OutputPieces. ``after``: by R the last entry, or "0"."""
        by_key = {self.keys.output(r): r for r in after}
        streams: dict[Any, Any] = {self.keys.output(r): entry for r, entry in after.items()}
        answer = self.redis.xread(streams, count=100, block=_ms(block_s))
        return [
            (by_key[_text(key)], [(_text(entry), _text(fields.get(b"e", b""))) for entry, fields in entries if fields])
            for key, entries in _streams(answer)
        ]

    def last_event(self, client: str) -> str:
        """The newest entry of a client's events; "0-0" when there is none."""
        newest = self.redis.xrevrange(self.keys.client(client, "events"), count=1)
        return _text(newest[0][0]) if newest else "0-0"

    def ask(self, r: str, *, client: str, question: str) -> None:
        """Ask the leader where a job stands; the answer is an event."""
        self.hint("ask", r, json.dumps({"client": client, "question": question}))

    def waiting_before(self, r: str) -> int | None:
        """How many jobs came before a waiting one; None when it does not wait."""
        place: int | None = self.redis.lpos(self.keys.rq_wait, r)  # type: ignore[assignment]
        return place

    # ---- jobs: what nodes do

    def record(self, r: str) -> JobFields | None:
        """A job's record; None when there is none. What is longer than anything of ours is not read, and empty."""
        values = self._call("record", r, _MAX_FIELD_BYTES, *_ALL_FIELDS)
        named = zip(_ALL_FIELDS, values, strict=True)
        return _job_fields({name: _text(value) for name, value in named if value is not None})

    def records(self, rs: Sequence[str]) -> list[JobFields | None]:
        """The records of many in one round trip, without what is for their nodes: bodies, placements, cancels."""
        with self.redis.pipeline(transaction=False) as together:
            for r in rs:
                together.hmget(self.keys.job(r), _WITHOUT_BODY)
            answers = together.execute()
        named = (zip(_WITHOUT_BODY, answer, strict=True) for answer in answers)
        return [_job_fields({name: _text(value) for name, value in each if value is not None}) for each in named]

    def states(self, rs: Sequence[str]) -> list[tuple[str, float]]:
        """The state of each job, empty for one without a record, and for how many seconds it has been so."""
        with self.redis.pipeline(transaction=False) as together:
            together.time()
            for r in rs:
                together.hmget(self.keys.job(r), "state", "since")
            (seconds, microseconds), *answers = together.execute(raise_on_error=False)
        now_s = seconds + microseconds / 1e6
        known = (answer if isinstance(answer, list) else (None, None) for answer in answers)  # else it is no record at all
        return [(_text(state or b""), max(0.0, now_s - (_seconds(_text(since or b"")) or now_s))) for state, since in known]

    def start(self, r: str, *, node: str, incarnation: str, token: str, event: str = "") -> str:
        """``run`` it; or it was ``cancelled`` (finish it as killed), or is ``gone``: another's, or ended."""
        return _text(self._call("start", r, node, incarnation, token, event))

    def count_runs(self, r: str, *, token: str, runs: int) -> None:
        """A node has started a program of its job once more; so often it was started by now, on all nodes."""
        self._call("count", r, token, runs)

    def back(self, r: str, *, token: str, reason: str, exclude: bool) -> bool:
        """Give a job back that was not run. ``exclude``: it is not to come here again. False: it was not here any more."""
        return bool(self._call("back", r, token, reason, int(exclude)))

    def finish(
        self,
        r: str,
        *,
        token: str,
        client: str,
        job_id: str,
        result: str,
        outcome: str,
        who: str,
        attempt: int = 1,
        epoch: str = "",
        blobs: Iterable[str] = (),
    ) -> str:
        """Its one result: ``done``; ``late``: it is not this placement's any more, or has one; ``stale``: not the leader's.

        ``missing``: not all of these blobs of the job are there. An empty token: only while it waits.
        """
        what = (epoch, r, token, client, job_id, result, outcome, self._ttl_s, who, attempt)
        return _text(self._call("finish", *what, *blobs))

    # ---- nodes

    def beat(self, node: str, incarnation: str, report: str, held: Iterable[HeldPlacement]) -> Beat:
        """A node's sign of life, and what it is to do about it."""
        flat = [part for each in held for part in each]
        answer = self._call("beat", node, incarnation, report, _ms(self.timeouts.suspect_s), *flat)
        if not answer[0]:
            return Beat(is_owner=False)
        return Beat(
            is_owner=True,
            want=_text(answer[1]),
            lost=tuple(map(_text, answer[2])),
            cancels={_text(r): _text(command) for r, command in answer[3]},
            unheld=tuple((_text(r), _text(state), _text(token)) for r, state, token in answer[4]),
        )

    def claim_node(self, node: str, incarnation: str) -> str:
        """Take a node's name: empty, or the incarnation that holds it."""
        return self._claim(self.keys.node(node, "owner"), incarnation, self.timeouts.suspect_s)

    def release_node(self, node: str, incarnation: str) -> None:
        """Give a node's name up."""
        self._call("release", self.keys.node(node, "owner"), incarnation)

    def forget_node(self, node: str) -> None:
        """A node will not come back, and has no jobs. It is told of again with its next sign of life."""
        self.redis.srem(self.keys.nodes, node)

    def nodes(self) -> list[NodeFields]:
        """All nodes that were seen in the last day, or that still have jobs."""
        names = sorted(map(_text, self.redis.smembers(self.keys.nodes)))
        with self.redis.pipeline(transaction=False) as together:
            for name in names:
                together.hgetall(self.keys.node(name))
                together.get(self.keys.node(name, "want"))
                together.get(self.keys.node(name, "owner"))
                together.pttl(self.keys.node(name))
            answers = together.execute()
        return [_node_fields(name, *answers[4 * number : 4 * number + 4]) for number, name in enumerate(names)]

    def jobs_of(self, node: str) -> dict[str, str]:
        """R and token of each job that was placed on a node and has not ended."""
        return {_text(r): _text(token) for r, token in self.redis.hgetall(self.keys.node(node, "jobs")).items()}

    def set_want(self, node: str, want: str) -> None:
        """What the operator wants of a node: ``up``, ``drain``, ``pause``."""
        if want == "up":
            self.redis.delete(self.keys.node(node, "want"))
        else:
            self.redis.set(self.keys.node(node, "want"), want)

    def send_command(self, node: str, command: str) -> None:
        """Put a signed command into a node's inbox."""
        key = self.keys.node(node, "inbox")
        with self.redis.pipeline() as together:
            together.xadd(key, {"e": command}, maxlen=10_000, approximate=True)
            together.expire(key, 86400)
            together.execute()

    def read_commands(self, node: str, *, after: str, block_s: float) -> list[tuple[str, str]]:
        """Commands for a node: entry, signed NodeCommand. ``after`` is an entry, or "$"."""
        entries = self._read(self.keys.node(node, "inbox"), after, block_s, count=100)
        return [(entry, _text(fields.get(b"e", b""))) for entry, fields in entries]

    # ---- the leader

    def lead(self, who: str) -> str:
        """Become the leader, or stay it: the epoch; empty when another is."""
        return _text(self._call("lead", who, _ms(self.timeouts.leader_lease_s)))

    def resign(self, who: str) -> None:
        """Be the leader no more."""
        self._call("release", self.keys.leader, who)

    def leader(self) -> str:
        """Who leads; empty: nobody."""
        return _text(self.redis.get(self.keys.leader) or b"")

    def place_all(self, epoch: str, placements: Sequence[tuple[str, str, str, str, str, str]]) -> list[str]:
        """Give waiting jobs to nodes: (R, node, incarnation, token, signed Placement, signed event) each.

        Answers in the same order: ``placed``, ``not_waiting``, ``no_node``; ``stale``: not the leader any more.
        """
        if len(placements) == 1:  # a pipeline would first ask whether Redis has the script
            return [_text(self._call("place", epoch, *placements[0]))]
        with self.redis.pipeline(transaction=False) as together:
            for placement in placements:
                self._call("place", epoch, *placement, on=together)
            return list(map(_text, together.execute()))

    def requeue(self, epoch: str, r: str, token: str, event: str, *, seen: str) -> str:
        """Take a job back from a lost node: ``waiting``, ``late``, ``stale``; ``changed``: its state is not that one any more."""
        return _text(self._call("requeue", epoch, r, token, event, seen))

    def waiting(self) -> list[str]:
        """R of each waiting job, in the order of arrival."""
        return list(map(_text, self.redis.lrange(self.keys.rq_wait, 0, -1)))

    def time_s(self) -> float:
        """Redis' own clock, in seconds since 1970."""
        seconds, microseconds = self.redis.time()
        return seconds + microseconds / 1e6

    def waiting_count(self) -> int:
        """How many jobs wait."""
        return self.redis.llen(self.keys.rq_wait)

    def pulse(self, nodes: Sequence[str]) -> Pulse:
        """What a leader compares with what it knows, all at one moment."""
        with self.redis.pipeline() as together:
            together.xrevrange(self.keys.inbox, count=1)
            together.llen(self.keys.rq_wait)
            together.time()
            together.exists(self.keys.snapshot_wanted)
            for node in nodes:
                together.hlen(self.keys.node(node, "jobs"))
            newest, waiting, (seconds, microseconds), wanted, *held = together.execute()
        return Pulse(
            last_hint=_text(newest[0][0]) if newest else "0-0",
            waiting=waiting,
            time_s=seconds + microseconds / 1e6,
            wants_snapshot=bool(wanted),
            held=dict(zip(nodes, held, strict=True)),
        )

    def want_snapshot(self, for_s: float) -> str:
        """Ask the leader for snapshots of the queue for a while, and read the last one: signed; empty when there is none."""
        self.redis.set(self.keys.snapshot_wanted, 1, px=_ms(for_s))
        return _text(self.redis.get(self.keys.snapshot) or b"")

    def write_snapshot(self, snapshot: str, *, for_s: float) -> None:
        """A signed snapshot of the queue."""
        self.redis.set(self.keys.snapshot, snapshot, px=_ms(for_s))

    def shares(self) -> str:
        """What the last leader wrote of what launchers have used: signed; empty when it did not."""
        return self._string(self.keys.shares)

    def write_shares(self, shares: str) -> None:
        """For the next leader."""
        self.redis.set(self.keys.shares, shares, ex=3600)

    def records_by_script(self, rs: Sequence[str]) -> list[JobFields | None]:
        """``records`` of some hundreds at once, in a third of the time, for who may run scripts."""
        if not rs:
            return []
        answers = json.loads(_text(self._call("records", json.dumps(_WITHOUT_BODY), *rs)))
        named = (zip(_WITHOUT_BODY, answer, strict=True) for answer in answers)
        return [_job_fields({name: value for name, value in each if value is not False}) for each in named]

    def drop_waiting(self, r: str) -> None:
        """Take something out of the list that is no job."""
        self.redis.lrem(self.keys.rq_wait, 1, r)

    def last_hint(self) -> str:
        """The newest entry of the leader's inbox; "0-0" when there is none."""
        newest = self.redis.xrevrange(self.keys.inbox, count=1)
        return _text(newest[0][0]) if newest else "0-0"

    def read_hints(self, *, after: str, block_s: float) -> tuple[list[Hint], str]:
        """What the leader is told, and the last entry."""
        entries = self._read(self.keys.inbox, after, block_s, count=_INBOX_PIECE)
        hints = [Hint(*(_text(fields.get(name, b"")) for name in (b"kind", b"r", b"more"))) for _, fields in entries]
        return hints, entries[-1][0] if entries else after

    def hint(self, kind: str, r: str = "", more: str = "") -> None:
        """Tell the leader something."""
        self.redis.xadd(self.keys.inbox, {"kind": kind, "r": r, "more": more}, maxlen=10_000, approximate=True)

    def send_event(self, client: str, event: str) -> None:
        """Tell a client something: a signed ClientEvent."""
        key = self.keys.client(client, "events")
        with self.redis.pipeline() as together:
            together.xadd(key, {"e": event}, maxlen=10_000, approximate=True)
            together.expire(key, 3600)
            together.execute()

    def audit(self, what: str, r: str, who: str) -> None:
        """Write into the audit stream."""
        self.redis.xadd(self.keys.audit, {"what": what, "r": r, "who": who}, maxlen=100_000, approximate=True)

    # ---- clients

    def claim_client(self, client: str, holder: str, about: Mapping[str, str]) -> str:
        """Take a client's id, or keep it: empty, or who holds it."""
        other = self._claim(self.keys.client(client, "owner"), holder, self.timeouts.client_lease_s)
        if not other:
            self.redis.hset(self.keys.client(client), items=_flat(about))
            self.redis.expire(self.keys.client(client), self._ttl_s)
        return other

    def client(self, client: str) -> dict[str, str]:
        """What a client said of itself; empty when there is none."""
        return {_text(name): _text(value) for name, value in self.redis.hgetall(self.keys.client(client)).items()}

    def release_client(self, client: str, holder: str) -> None:
        """Give a client's id up."""
        self._call("release", self.keys.client(client, "owner"), holder)

    def is_client_alive(self, client: str) -> bool:
        """Whether a process holds the id."""
        return bool(self.redis.exists(self.keys.client(client, "owner")))

    def key_check(self) -> str:
        """What the last leader has signed so that others can compare keys; empty when there was none for a while."""
        try:
            return _text(self.redis.getrange(self.keys.key_check, 0, _MAX_KEY_CHECK))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return ""  # somebody has written something else there

    def say_key_check(self, envelope: str, *, for_s: int) -> None:
        """Say it again."""
        self.redis.set(self.keys.key_check, envelope, ex=for_s)

    # ---- Redis itself

    def generation(self) -> str:
        """Changes when Redis has lost its data."""
        self.redis.set(self.keys.generation, secrets.token_hex(8), nx=True)
        return self._string(self.keys.generation)

    def life(self) -> tuple[str, str]:
        """Changes when Redis has lost its data, or was started again, perhaps with older data than it had."""
        return self.generation(), str(self._server_facts().get("run_id", ""))

    def uptime_s(self) -> float:
        """Since Redis was started; infinite when it may not be asked."""
        return float(self._server_facts().get("uptime_in_seconds", "inf"))

    def had_leader(self) -> bool:
        """Whether anybody ever led, as far as Redis knows."""
        return bool(self.redis.exists(self.keys.epoch))

    def _server_facts(self) -> Mapping[str, Any]:
        try:
            return self.redis.info("server")
        except NoPermissionError:
            return {}

    def drop_rubbish(self, client: str) -> None:
        """Remove what is no stream where a client's streams should be: it could read nothing any more."""
        for part in ("results", "events"):
            if _text(self.redis.type(self.keys.client(client, part))) not in ("stream", "none"):
                self.redis.unlink(self.keys.client(client, part))

    def _string(self, key: str) -> str:
        """What stands there; empty when there is nothing, or something of another type, which then goes."""
        try:
            return _text(self.redis.get(key) or b"")
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            self.redis.unlink(key)
            return ""

    def _claim(self, key: str, who: str, lease_s: float) -> str:
        return _text(self._call("claim", key, who, _ms(lease_s)))

    def _call(self, script: str, *arguments: str | int | float, on: Pipeline | None = None) -> Any:
        return self._scripts[script](args=[*self._first, *arguments], client=on)

    def _read(
        self, key: str, after: str, block_s: float | None, *, count: int
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        block = None if block_s is None else max(1, int(block_s * 1000))
        answer = self.redis.xread({key: after}, count=count, block=block)
        return [(_text(entry), fields) for _, entries in _streams(answer) for entry, fields in entries if fields]


def _streams(answer: Any) -> list[tuple[Any, Any]]:
    """What XREAD answers, in either protocol of Redis."""
    if isinstance(answer, dict):
        return [(key, entries[0] if len(entries) == 1 else entries) for key, entries in answer.items()]
    return list(answer or ())


def _job_fields(raw: Mapping[str, str]) -> JobFields | None:
    if "state" not in raw:
        return None
    read: dict[str, Any] = {name: raw.get(name, "") for name in JobFields.__dataclass_fields__}
    read["accepted"], read["since"] = _seconds(read["accepted"]), _seconds(read["since"])
    read["announced"] = bool(read["announced"])
    read["attempt"], read["runs"] = _whole(read["attempt"]), _whole(read["runs"])
    read["excluded"] = _names(read["excluded"])
    return JobFields(**read)


def _names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _node_fields(
    name: str, raw: Mapping[bytes, bytes], want: bytes | None, owner: bytes | None, left_ms: int
) -> NodeFields:
    return NodeFields(
        name=name,
        report=_text(raw.get(b"report", b"")),
        incarnation=_text(raw.get(b"incarnation", b"")),
        beats=_whole(_text(raw.get(b"beats", b"0"))),
        want=_text(want or b"up"),
        is_claimed=owner is not None,
        seen_s=max(0.0, _NODE_TTL_S - left_ms / 1000) if left_ms >= 0 else None,
    )


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def _seconds(text: str) -> float:
    return float(text) if len(text) < 24 and text.replace(".", "", 1).isdecimal() else 0.0


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
