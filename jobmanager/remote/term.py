"""One term of a leader: it knows all jobs and nodes of its namespace, and gives the ones to the others.

Redis is the truth, and what a leader knows is a copy. Whatever it hears of a job only makes it look at the job's record, and
``_reconcile`` brings the copy to what the record says. Hints may be lost: figures that differ make it look again.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from redis import RedisError

from jobmanager.errors import InvalidValue
from jobmanager.model.result import JobResult, Outcome
from jobmanager.remote import queue_snapshot, standings
from jobmanager.remote.client_watch import ClientWatch
from jobmanager.remote.header_reader import ExpiredHeader, HeaderReader, UnreadableHeader
from jobmanager.remote.key_check import say_key
from jobmanager.remote.keys import checked_name
from jobmanager.remote.lease import Lease, NewerIsWanted, TermOver
from jobmanager.remote.node_watch import NodeWatch
from jobmanager.remote.payload import pack_result
from jobmanager.remote.records import BadMessage, ClientEvent, Message, NodeCommand, Placement, ResultMessage, is_r
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore, Hint, JobFields, Pulse
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.results.verdict import KillReason, Verdict, crash_verdict, killed_verdict, superseded_verdict
from jobmanager.scheduling.cluster import ClusterJob, ClusterLedger, Ending, EndingKind
from jobmanager.scheduling.fair_shares import PriorityStanding

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_BLOCK_S = 0.1
_LOOK_S = 1.0
_PIECE = 500  # records that are read in one round trip
_READ_FIRST = 5000  # waiting jobs, before anything is placed
_BATCH = 100  # placements in one
_MAX_PLACEMENTS = 5  # without a start
_OUT_OF_STEP_S = 5.0  # after which figures are compared although hints are on their way
_SHARES_S = 5.0
_SNAPSHOT_S = 2.0
_SNAPSHOT_TTL_S = 60.0
_MAX_TOLD = 10_000  # jobs that are remembered for having been told of
_MAX_ENDED = 200_000  # jobs that are remembered for having ended
_MAX_QUESTION = 200
_RAN = frozenset(
    outcome.value for outcome in (Outcome.SUCCESS, Outcome.FAILED, Outcome.TIMEOUT, Outcome.OVERFLOW, Outcome.ERROR)
)
_ENDING_KINDS = {EndingKind.QUEUE_TIMEOUT: "queue_timeout", EndingKind.NO_NODE: "no_host"}


@dataclass(frozen=True, slots=True)
class _Given:
    """A placement that stands in Redis, as far as is known."""

    token: str
    incarnation: str


class Term:
    """What a leader does, from its election to its end. One thread has it. Any error of Redis ends it.

    Args:
        store: the namespace.
        signer: of the same one.
        timeouts: those of the cluster.
        lease: it is held, and kept meanwhile.
        name: of this dispatcher, in the audit.
        patience_s: for so long it leads while jobs wait that only a newer version can place.
        settle_until: by the clock: until then nothing is placed, as Redis lost data; None: it did not, as far as is known.
    """

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        timeouts: ClusterTimeouts,
        lease: Lease,
        *,
        name: str,
        patience_s: float = math.inf,
        settle_until: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = ClusterLedger(clock, wall_clock)
        self.watch = NodeWatch(signer, timeouts, clock)
        self._clients = ClientWatch(store, timeouts, clock)
        self._store = store
        self._signer = signer
        self._timeouts = timeouts
        self._lease = lease
        self._name = name
        self._patience_s = patience_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._headers = HeaderReader(signer, wall_clock)
        self._given: dict[str, _Given] = {}  # by R: of each placed job
        self._left_alone: set[str] = set()  # R of jobs that wait, and that another version must place
        self._newer: dict[str, float] = {}  # those of them that are for a newer version, and since when they are known
        self._told: OrderedDict[str, None] = OrderedDict()  # R of jobs that the log has been told of
        self._ended: OrderedDict[str, None] = OrderedDict()  # R of jobs that have ended: somebody may write copies of their records
        self._unread: deque[str] = deque()  # R of jobs that waited before this term and were not read yet
        self._position = "0-0"  # of the inbox
        self._ahead_s = 0.0  # of our clock before Redis'
        self._settle_until = settle_until
        self._look_s = min(_LOOK_S, timeouts.beat_s)
        self._next_look = self._next_shares = self._next_snapshot = self._in_step_at = clock()

    # ---- the way of a term

    def take_over(self) -> None:
        """Read what launchers have used, the nodes and their jobs, and the jobs that wait.

        Of many waiting jobs those that came first are read now, and the others between placements: nothing stands still meanwhile.
        """
        pulse = self._store.pulse(())
        self._position, self._ahead_s = pulse.last_hint, self._clock() - pulse.time_s
        self.ledger.restore(self._shares())
        nodes = self._store.nodes()
        self.watch.update(nodes)
        self._set_nodes()
        for node in nodes:
            self._look_at(list(self._store.jobs_of(node.name)))
        say_key(self._store, self._signer)
        waiting = self._waiting()
        self._unread.extend(waiting[_READ_FIRST:])
        self._look_at(waiting[:_READ_FIRST], are_listed=True)
        self._in_step_at = self._clock()
        _LOG.info(
            "dispatcher %s leads (term %s): %d jobs wait, %d are placed on %d nodes",
            *(self._name, self._lease.epoch, len(waiting), len(self._given), len(nodes)),
        )

    def step(self) -> None:
        """Hear what there is, look around when it is time to, and place what can be placed.

        Raises:
            TermOver: another leads, or may lead by now, or should.
            RedisError: Redis does not answer; the term is over, too.
        """
        self._lease.keep()
        block_s = 0.001 if self._unread else _BLOCK_S
        hints, self._position = self._store.read_hints(after=self._position, block_s=block_s)
        self._hear(hints)
        self._look_at([self._unread.popleft() for _ in range(min(_PIECE, len(self._unread)))], are_listed=True)
        if self._clock() >= self._next_look:
            self._next_look = self._clock() + self._look_s
            self._look()
        self._place()
        if self._newer and self._clock() - next(iter(self._newer.values())) >= self._patience_s:
            raise NewerIsWanted("a newer version is to place some jobs")

    def leave(self) -> None:
        """Leave to the next leader, and to others, what they are to know."""
        say_key(self._store, self._signer)
        self._store.write_shares(self._signer.sign(standings.KIND, standings.standings_text(self.ledger.standings())))

    # ---- what is heard

    def _hear(self, hints: Sequence[Hint]) -> None:
        self._look_at(dict.fromkeys(hint.r for hint in hints if hint.kind not in ("ask", "running")))
        for hint in hints:
            if hint.kind == "ask":
                self._answer(hint)
        self._pass_over({hint.more for hint in hints if hint.kind == "back"})

    def _pass_over(self, nodes: Collection[str]) -> None:
        """A node that gave a job back takes none until it has said why, with its next sign of life: else it gets the job again."""
        for node in nodes:
            self.watch.refused(node)
        if nodes:
            self._set_nodes()

    def _answer(self, hint: Hint) -> None:
        """Tell a client where its job stands."""
        try:
            asked = json.loads(hint.more[:1000])
            client, question = checked_name("client", asked["client"]), str(asked["question"])[:_MAX_QUESTION]
        except (ValueError, TypeError, LookupError, RecursionError, InvalidValue):
            return
        job, info = self.ledger.job(hint.r), self.ledger.queue_info(hint.r)
        event = ClientEvent(event="answer", r=hint.r[:32], question=question)
        if job is not None and info is not None:
            client = job.client
            event = ClientEvent(
                event="answer",
                r=job.key,
                node=self.ledger.node_of(job.key),
                question=question,
                jobs_before=info.jobs_before,
                wait_s=info.wait_s,
            )
        self._store.send_event(client, self._signed(event))

    # ---- what is looked at

    def _look(self) -> None:
        """Once a second: the nodes, the figures, the clock."""
        nodes = self._store.nodes()
        self.watch.update(nodes)
        self._set_nodes()
        self._take_back([r for r, given in self._given.items() if self.watch.why_lost(self.ledger.node_of(r), given.incarnation)])
        pulse = self._store.pulse([node.name for node in nodes])
        self._ahead_s = self._clock() - pulse.time_s
        self._compare(pulse)
        for node in nodes:
            if not (node.report or node.is_claimed or pulse.held[node.name]) and node.want == "up":
                self._store.forget_node(node.name)  # names of machines that come and go would add up
        for ending in self.ledger.tick():
            self._end_waiting(ending)
        if self._clients.is_due():
            self._end_abandoned()
        if pulse.wants_snapshot and self._clock() >= self._next_snapshot:
            self._write_snapshot()
        if self._clock() >= self._next_shares:
            self._next_shares = self._clock() + _SHARES_S
            self.leave()

    def _set_nodes(self) -> None:
        capacities = self.watch.capacities()
        for host in self.ledger.hosts():
            if all(host.name != capacity.name for capacity in capacities):
                self.ledger.drop_node(host.name)
        for capacity in capacities:
            self.ledger.set_node(capacity)

    def _compare(self, pulse: Pulse) -> None:
        """Look again at what differs from the figures, unless a hint that tells why is on its way."""
        now = self._clock()
        if _before(pulse.last_hint, self._position):  # the inbox was deleted
            self._position = pulse.last_hint
        elif pulse.last_hint != self._position and now - self._in_step_at < _OUT_OF_STEP_S:
            return
        self._in_step_at = now
        counts = self.ledger.placed_counts()
        for node in pulse.held.keys() | counts.keys():
            if pulse.held.get(node, 0) != counts[node]:
                self._look_at({*self._store.jobs_of(node), *self.ledger.placed_on(node)})
        if not self._unread and pulse.waiting != self.ledger.waiting_count() + len(self._left_alone):
            self._look_at(self._waiting(), are_listed=True)

    def _waiting(self) -> list[str]:
        """R of each job in the list, or in the ledger only. What stands in the list and cannot be a job is taken out."""
        listed = self._store.waiting()
        once = dict.fromkeys(listed)
        strange = [r for r in once if not is_r(r)]
        for r in strange:
            self._store.drop_waiting(r)
        if len(once) < len(listed):
            for r in _twice(listed):
                self._store.drop_waiting(r)
        known = {*self.ledger.waiting(), *self._left_alone}
        return [*(r for r in once if r not in known and is_r(r)), *(known - once.keys())]

    def _look_at(self, rs: Collection[str], *, are_listed: bool = False) -> None:
        """Bring what is known of these jobs to what their records say. ``are_listed``: they stand in the list of waiting jobs."""
        for piece in _pieces([r for r in rs if is_r(r)]):
            self._lease.keep()
            for r, fields in zip(piece, self._store.records_by_script(piece), strict=True):
                try:
                    if are_listed and (fields is None or fields.state != "waiting"):
                        self._store.drop_waiting(r)
                    self._reconcile(r, fields)
                except (RedisError, TermOver):
                    raise
                except Exception:  # noqa: BLE001 - the loop's edge: what anybody may have written must not end the term
                    self._leave_alone(r, fields)

    def _reconcile(self, r: str, fields: JobFields | None) -> None:
        if fields is None:
            self._forget(r, ran=False)
        elif fields.state == "done":
            self._forget(r, ran=fields.outcome in _RAN)
            self._remember_end(r)
        elif r in self._ended:
            self._end_again(r, fields)
        elif fields.state == "waiting":
            self._reconcile_waiting(r, fields)
        elif fields.state in ("placed", "running"):
            self._reconcile_placed(r, fields)

    def _reconcile_waiting(self, r: str, fields: JobFields) -> None:
        if fields.announced and self._settle_until is None:
            self._settle_until = self._clock() + self._timeouts.settle_s
        if r in self._given:
            job, given_back = self.ledger.job(r), self._given.pop(r)
            _LOG.debug("job %s waits again (was placed with %s)", r, given_back.token)
            ending = self.ledger.put_back(r, fields.excluded, fields.reason)
        elif r in self.ledger or (job := self._read(r, fields)) is None:
            return
        else:
            self._left_alone.discard(r)
            ending = self.ledger.add_waiting(job, fields.excluded, self._ours(fields.accepted))
        if ending is not None:
            self._end_waiting(ending)
        if job is not None and r in self.ledger and fields.cancel and self._is_kill(job, fields.cancel):
            self.ledger.ended(r, ran=False)
            self._finish(job, killed_verdict(KillReason.KILL_JOB))
        if job is not None and r in self.ledger and fields.attempt - fields.runs >= _MAX_PLACEMENTS:
            self.ledger.ended(r, ran=False)
            why = f" ({fields.reason})" if fields.reason else ""
            text = f"it was placed {fields.attempt} times, and no node started it{why}"
            self._finish(job, crash_verdict("no_host", text))

    def _is_kill(self, job: ClusterJob, envelope: str) -> bool:
        """Whether its client has asked for its end: its node was told, and has given it back or is lost."""
        try:
            command = opened(self._signer, NodeCommand, envelope)
        except (BadSignature, BadMessage):
            return False
        return (command.command, command.r, command.client) == ("kill", job.key, job.client)

    def _end_abandoned(self) -> None:
        """End the jobs of clients that are gone, and that nobody can resume: those that have a node are killed there."""
        jobs = [job for r in (*self.ledger.waiting(), *self._given) if (job := self.ledger.job(r)) is not None]
        gone = self._clients.gone(job.client for job in jobs)
        verdict = replace(killed_verdict(KillReason.CLOSE), text="its client is gone, and has no id to come back with")
        for job in jobs:
            if job.client in gone and job.key in self._given:
                self._kill(job)
            elif job.client in gone:
                self.ledger.ended(job.key, ran=False)
                self._finish(job, verdict)

    def _kill(self, job: ClusterJob) -> None:
        """Tell the node that has it, as its client would have."""
        command = NodeCommand(
            command="kill",
            r=job.key,
            client=job.client,
            nonce=secrets.token_hex(16),
            at_s=self._wall_clock(),
            reason=KillReason.CLOSE.value,
        )
        self._lease.keep()
        self._store.send_command(self.ledger.node_of(job.key), self._signed(command))

    def _reconcile_placed(self, r: str, fields: JobFields) -> None:
        given = _Given(fields.token, fields.incarnation)
        if self._given.get(r) == given and self.ledger.node_of(r) == fields.node:
            return
        job = self._read(r, fields) if fields.header else None  # its node has announced it before its client has
        self._forget(r, ran=False)
        if job is not None:
            now = self._clock()
            since, accepted_at = self._ours(fields.since), self._ours(fields.accepted)
            self.ledger.add_placed(job, fields.node, now if since is None else since, fields.excluded, accepted_at)
            self._given[r] = given

    def _leave_alone(self, r: str, fields: JobFields | None) -> None:
        """What Redis has of a job makes no sense."""
        if fields is not None and fields.state == "waiting" and r not in self.ledger:
            self._left_alone.add(r)
        if r not in self._told:
            _LOG.exception("what Redis has of job %s makes no sense; it is left alone", r)
        self._tell_once(r, "left alone")

    def _end_again(self, r: str, fields: JobFields) -> None:
        """A job that has ended is there once more. Redis has not lost data in this term: somebody has written it."""
        if (job := self._read(r, fields)) is not None:
            self._tell_once(r, "it has ended, and a copy of its record was written")
            token = "" if fields.state == "waiting" else fields.token
            self._finish(job, crash_verdict("replayed", "it had ended, and a copy of it was sent again"), token=token)

    def _forget(self, r: str, *, ran: bool) -> None:
        self.ledger.ended(r, ran=ran)
        self._given.pop(r, None)
        self._left_alone.discard(r)
        self._newer.pop(r, None)

    def _read(self, r: str, fields: JobFields) -> ClusterJob | None:
        """The job of a record, when its header can be believed. What waits and cannot be is taken out of the list."""
        try:
            return self._headers.read(r, fields)
        except UnreadableHeader as error:
            if fields.state == "waiting":
                self._left_alone.add(r)
                self._newer.setdefault(r, self._clock())
            self._tell_once(r, f"it is left alone, as its header is for another version: {error}")
        except ExpiredHeader as error:
            self._tell_once(r, str(error))
            self._finish(error.job, crash_verdict("expired", "it was sent too long ago, or a copy of it was sent again"))
        except BadSignature as error:
            self._tell_once(r, f"its header is not believed: {error}")
            if fields.state == "waiting":
                self._store.drop_waiting(r)
                self._store.audit("bad header", r, self._name)
        return None

    def _remember_end(self, r: str) -> None:
        self._ended[r] = None
        if len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    def _tell_once(self, r: str, what: str) -> None:
        if r not in self._told:
            _LOG.warning("job %s: %s", r, what)
            self._told[r] = None
            if len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)

    def _ours(self, time_s: float) -> float | None:
        """A time of Redis' clock by ours; None when it is unknown."""
        return min(self._clock(), time_s + self._ahead_s) if time_s else None

    # ---- what is done

    def _place(self) -> None:
        if self._settle_until is not None and self._clock() < self._settle_until:
            return
        for piece in _pieces(self.ledger.placements(), _BATCH):
            self._lease.keep()
            self._place_piece(piece)

    def _place_piece(self, piece: Sequence[tuple[str, str]]) -> None:
        given = {r: _Given(secrets.token_hex(16), self.watch.incarnation(node)) for r, node in piece}
        answers = self._store.place_all(
            self._lease.epoch,
            [
                (
                    *(r, node, given[r].incarnation, given[r].token),
                    self._signed(Placement(r=r, node=node, incarnation=given[r].incarnation, token=given[r].token)),
                    self._signed(
                        ClientEvent(event="placed", r=r, node=node, incarnation=given[r].incarnation, token=given[r].token)
                    ),
                )
                for r, node in piece
            ],
        )
        not_waiting = []
        for (r, node), answer in zip(piece, answers, strict=True):
            if answer == "stale":
                raise TermOver("another dispatcher leads")
            if answer == "no_node":
                self.watch.refused(node)
                if (ending := self.ledger.put_back(r)) is not None:
                    self._end_waiting(ending)
                continue
            self._given[r] = given[r]
            if answer != "placed":  # it waits no more, or our first try placed it and the answer was lost
                not_waiting.append(r)
        if not_waiting:
            self._look_at(not_waiting)
        if any(answer == "no_node" for answer in answers):
            self._set_nodes()

    def _take_back(self, rs: Sequence[str]) -> None:
        """Jobs of lost nodes wait again, or end. Their records are read before their nodes are looked at once more."""
        for piece in _pieces(rs):
            self._lease.keep()
            records = dict(zip(piece, self._store.records_by_script(piece), strict=True))
            self.watch.update(self._store.nodes())
            for r, fields in records.items():
                job = self.ledger.job(r)
                if job is not None and fields is not None and fields.state in ("placed", "running"):
                    why = self.watch.why_lost(fields.node, fields.incarnation)
                    if why:
                        self._take_back_one(job, fields, why)
            self._look_at(piece)

    def _take_back_one(self, job: ClusterJob, fields: JobFields, why: str) -> None:
        _LOG.warning("job %s: %s", job.job_id, why, extra={"job_id": job.job_id, "host": fields.node})
        if fields.state == "running" and fields.runs > job.retries:
            verdict = crash_verdict("node_lost", why, "the dispatcher's clock")
            self._finish(job, verdict, token=fields.token, node=fields.node)
        else:
            event = self._signed(ClientEvent(event="requeued", r=job.key, node=fields.node))
            answer = self._store.requeue(self._lease.epoch, job.key, fields.token, event, seen=fields.state)
            if answer == "stale":
                raise TermOver("another dispatcher leads")

    def _end_waiting(self, ending: Ending) -> None:
        if ending.kind is EndingKind.SUPERSEDED:
            self._finish(ending.job, superseded_verdict(ending.text))
        else:
            self._finish(ending.job, crash_verdict(_ENDING_KINDS[ending.kind], ending.text))

    def _finish(self, job: ClusterJob, verdict: Verdict, *, token: str = "", node: str = "") -> None:
        """A job ends by the dispatcher's word; without a token only if it still waits."""
        self._lease.keep()
        result = JobResult(
            job_id=job.job_id, outcome=verdict.outcome, text=verdict.text, evidence=verdict.evidence, host=node or None
        )
        message = ResultMessage(r=job.key, job_id=job.job_id, token=token, node=node, result=pack_result(result).text)
        answer = self._store.finish(
            job.key,
            token=token,
            client=job.client,
            job_id=job.job_id,
            result=self._signed(message),
            outcome=verdict.outcome.value,
            who=self._name,
            epoch=self._lease.epoch,
        )
        if answer == "stale":
            raise TermOver("another dispatcher leads")

    def _write_snapshot(self) -> None:
        began = self._clock()
        text = queue_snapshot.snapshot_text(*self.ledger.snapshot())
        self._lease.keep()
        self._store.write_snapshot(self._signer.sign(queue_snapshot.KIND, text), for_s=_SNAPSHOT_TTL_S)
        now = self._clock()
        self._next_snapshot = now + max(_SNAPSHOT_S - self._look_s / 2, 10 * (now - began))

    def _shares(self) -> list[PriorityStanding]:
        if not (envelope := self._store.shares()):
            return []
        try:
            return standings.read_standings(self._signer.open(standings.KIND, envelope, standings.MAX_BYTES))
        except (BadSignature, BadMessage) as error:
            _LOG.warning("what the last leader wrote of launchers' shares is not believed: %s", error)
            return []

    def _signed(self, message: Message) -> str:
        return signed(self._signer, message)


def _pieces(items: Sequence[_T], size: int = _PIECE) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _twice(listed: Sequence[str]) -> list[str]:
    counts = Counter(listed)
    return [r for r, count in counts.items() for _ in range(count - 1)]


def _before(entry: str, other: str) -> bool:
    """Whether a stream's entry is older than another."""
    return tuple(map(int, entry.split("-"))) < tuple(map(int, other.split("-")))
