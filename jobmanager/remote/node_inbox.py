"""``NodeInbox``: commands of clients to the node that has their jobs, and the output of those that are followed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from redis.exceptions import RedisError

from jobmanager.errors import UnknownJob
from jobmanager.live_output.reader import LiveOutput
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.output import MAX_UNREAD, JobOutputStream, OutputPiece, output_pieces
from jobmanager.remote.records import BadMessage, NodeCommand
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_BEGINNING = "0-0"
_BLOCK_S = 1.0
_PAUSE_S = 0.5  # after an error
_JOIN_S = 5.0
_MAX_NONCES = 100_000
_HANDED_OVER_S = 10.0  # in which a job that was started is handed to the manager
_HANDED_OVER_CHECK_S = 0.02
_UNREAD_S = 0.1  # between two looks whether the client has read


class NodeInbox:
    """The thread that reads a node's commands. Each is taken once, and only with a signature.

    Args:
        kill: what is done when a job of this node is to be killed.
        follow: opens what a job of this node prints.
    """

    def __init__(
        self,
        store: ClusterStore,
        signer: Signer,
        node: str,
        jobs: NodeJobs,
        *,
        kill: Callable[[HeldJob, NodeCommand], None],
        follow: Callable[[HeldJob], LiveOutput],
        redis_s: float = 5.0,
    ) -> None:
        """``redis_s``: the time limit of each call of the connection."""
        self._block_s = min(_BLOCK_S, redis_s / 2)
        self._store = store
        self._signer = signer
        self._node = node
        self._jobs = jobs
        self._kill = kill
        self._open = follow
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._followers: dict[str, _Follower] = {}  # by R
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobmanager-commands", daemon=True)

    def start(self) -> None:
        """Begin with what stands there: what is older concerns jobs that this node does not have."""
        self._thread.start()

    def close(self) -> None:
        """Read no more, and end all that is followed."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        for follower in self._followers.values():
            follower.close()

    def carry_out(self, envelope: str) -> None:
        """One command, if it is one."""
        try:
            command = opened(self._signer, NodeCommand, envelope)
        except (BadSignature, BadMessage) as reason:
            _log.warning("a command is not carried out: %s", reason)
            return
        if command.nonce in self._nonces:
            _log.warning("a command is not carried out a second time", extra={"r": command.r})
            return
        self._nonces[command.nonce] = None
        while len(self._nonces) > _MAX_NONCES:
            self._nonces.popitem(last=False)
        job = self._jobs.find(command.r)
        if job is None or job.header.client != command.client:
            return
        if command.command == "kill":
            self._kill(job, command)
        elif command.command == "follow":
            self._follow(job)
        elif command.command == "unfollow":
            self._end_follower(job.r)

    def _run(self) -> None:
        after = _BEGINNING
        while not self._closing.is_set():
            try:
                for entry, envelope in self._store.read_commands(self._node, after=after, block_s=self._block_s):
                    after = entry
                    self._guarded(envelope)
            except RedisError as error:
                _log.debug("no commands can be read: %s", error)
                self._closing.wait(_PAUSE_S)
            self._forget_ended()

    def _guarded(self, envelope: str) -> None:
        try:
            self.carry_out(envelope)
        except Exception:  # noqa: BLE001 - the thread's edge: it costs this command only
            _log.exception("a command failed")

    def _follow(self, job: HeldJob) -> None:
        """From the beginning, also when it is followed already: its client has lost what it had."""
        self._end_follower(job.r)
        stream = JobOutputStream(self._store.redis, self._store.keys, job.r)
        self._followers[job.r] = _Follower(job, self._open, stream, self._signer)

    def _end_follower(self, r: str) -> None:
        if (follower := self._followers.pop(r, None)) is not None:
            follower.close()

    def _forget_ended(self) -> None:
        for r in [r for r, follower in self._followers.items() if not follower.is_alive()]:
            self._end_follower(r)


class _Follower:
    """Sends what one job prints, as its client reads it."""

    def __init__(
        self, job: HeldJob, follow: Callable[[HeldJob], LiveOutput], stream: JobOutputStream, signer: Signer
    ) -> None:
        self._job = job
        self._follow = follow
        self._output: LiveOutput | None = None  # until the job was handed to the manager
        self._stream = stream
        self._signer = signer
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobmanager-follow", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._closing.set()
        if self._output is not None:
            self._output.close()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._output = self._opened()
            if self._closing.is_set():
                self._output.close()
            for piece in output_pieces(self._job.r, self._job.token, self._output):
                if self._closing.is_set():
                    return
                self._send(piece)
        except UnknownJob as error:
            _log.debug("job %s cannot be followed: %s", self._job.header.job_id, error)
        except Exception:  # noqa: BLE001 - the thread's edge: the job goes on unwatched
            _log.exception("the output of job %s is followed no more", self._job.header.job_id)

    def _opened(self) -> LiveOutput:
        """Its client hears that it has started just before it is handed to the manager."""
        until = time.monotonic() + _HANDED_OVER_S
        while True:
            try:
                return self._follow(self._job)
            except UnknownJob:
                if time.monotonic() > until or self._closing.wait(_HANDED_OVER_CHECK_S):
                    raise

    def _send(self, piece: OutputPiece) -> None:
        envelope = signed(self._signer, piece)
        while not self._closing.is_set():
            try:
                if self._stream.unread() < MAX_UNREAD:
                    self._stream.put(envelope)
                    return
            except RedisError as error:
                _log.debug("output of job %s is sent again: %s", self._job.header.job_id, error)
            self._closing.wait(_UNREAD_S)
