"""A waiter's end of the channel to a container's runner: sessions, acknowledgements, signs of life.

::

    runner's stream ──► packets ──► messages for the monitor
                                └─► once 256 KiB were read: the spool, then ACK

The runner keeps each byte until it is acknowledged, so a lost connection loses nothing. What is acknowledged is in the spool
before, so a dead waiter loses nothing, too. Most runs report less than 256 KiB: nothing of them is written to a disk, and a waiter
that takes over reads all of it from the runner's window.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from jobmanager.engine.protocol import Channel, Engine
from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    VERSION,
    Ack,
    Clear,
    Cleared,
    DownMessage,
    Ended,
    Entries,
    Fetch,
    Input,
    Keep,
    Kept,
    Leave,
    ListFolder,
    Piece,
    RunRefused,
    Status,
    ToProgram,
    UpMessage,
)
from jobmanager.runner.wire import FrameWriter, PacketReader, StreamReader, message_head
from jobmanager.watching.run_order import RUN
from jobmanager.watching.spool import Spool

_log = logging.getLogger(__name__)

_REQUESTS = (ListFolder, Fetch, Clear, Keep)
_ANSWERS = (Entries, Piece, Cleared, Kept)
_UNACKNOWLEDGED_BYTES = 2**18
_FLUSH_S, _FLUSH_TURN_S = 1.0, 0.1
_SIGNS_IN_A_LEASE = 8
_SIGN_OF_LIFE_S = 5.0
_REQUEST_BITS = 31  # of the number where those of a session begin


class RunnerLink:
    """The channel to one container's runner. One thread uses it, and any thread may call ``wake``.

    The link goes on over lost connections and over waiters: each message of the stream is handed out once. Only the answers to
    ``LIST``, ``FETCH``, ``CLEAR`` and ``KEEP`` belong to the session that asked: those of an earlier session are passed over, so
    that whoever asks again, with the same numbers, is not given a part of an old answer.

    Args:
        container_id: of a running container.
        lease_s: how long the runner shall wait for a sign of life.
        spool: the container's own.
        is_first: no waiter has spoken to this runner before.
        last_run: the number of the container's last run: what comes after its end is not kept for a next waiter.
    """

    def __init__(
        self,
        engine: Engine,
        container_id: str,
        *,
        lease_s: float,
        spool: Spool,
        is_first: bool = False,
        last_run: int = RUN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status: Status | None = None  # the latest one of this session
        self.beginning_lost = False  # a part of the stream is nowhere: an earlier waiter has read it, or it was another runner's
        self.session = 0  # a number of its own for each session
        self.read_to = 0  # offset in the stream after the last message that was read
        self._engine = engine
        self._container_id = container_id
        self._lease_s = lease_s
        self._spool = spool
        self._clock = clock
        self._is_first = is_first
        self._last_run = last_run
        self._channel: Channel | None = None
        self._writer, self._reader = FrameWriter(0), PacketReader(0)
        self._requests_from = self._requests_to = 0  # what was added to the numbers of this session's requests; the last one
        self._is_loaded = False
        self._run_is_over = False  # the last message of the last run was read: nothing after it is spooled
        self._unspooled = bytearray()
        self._acknowledged_to = 0
        self._arrived: list[UpMessage] = []  # and not handed out
        self._is_woken = False
        self._wrote_at = self._heard_at = clock()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._channel is not None

    @property
    def silent_s(self) -> float:
        """Seconds since the last byte, or since the connection was made."""
        return self._clock() - self._heard_at

    @property
    def unsent(self) -> int:
        """Bytes that were sent and have not gone out yet."""
        return self._channel.unsent if self._channel is not None else 0

    def replayed(self) -> list[UpMessage]:
        """What an earlier waiter has read and kept; to be asked for once, before ``connect``."""
        self._is_loaded = True
        begins_at, kept = self._spool.load()
        reader = StreamReader(begins_at)
        try:
            messages = reader.feed(kept)
        except FrameError as error:
            _log.warning("what an earlier waiter has kept of container %s makes no sense: %s", self._container_id, error)
            self._spool.remove()
            return []
        self._spool.cut(reader.read_to)
        self.read_to = self._acknowledged_to = reader.read_to
        self._run_is_over = any(isinstance(each, (Ended, RunRefused)) and each.run >= self._last_run for each in messages)
        return list(self._without_old_answers(messages))

    def connect(self, *then: DownMessage) -> None:
        """Open a channel, in the place of the last one, and begin a session after what was read.

        ``then`` goes out at once, and not after the ``STATUS``: for a runner to which nobody has spoken yet.

        A ``STATUS`` comes first. If the runner does not have what comes next, it goes on with the first byte that the runner has.

        Raises:
            EngineError: what ``Engine.open_channel`` raises.
        """
        if not self._is_loaded:
            self.replayed()
        self.close()
        self._channel = self._engine.open_channel(self._container_id)
        self._heard_at = self._clock()
        self._begin(self._channel, self._lease_s, is_new=not self._is_first)
        self._is_first = False
        for message in then:
            self._write(self._channel, self._writer.write(self._numbered(message)))

    def receive(self, timeout_s: float) -> list[UpMessage] | None:
        """The messages that come next, in the stream's order; None: the connection is lost, and the link is closed.

        It waits for at most so many seconds; less where it is woken or a sign of life is due. Acknowledgements and signs of life
        are written as they are due, and all that is written goes out meanwhile. When a ``STATUS`` has come, nothing is handed out
        before the next call, so that whoever asks for messages has seen the status of their session.

        Raises:
            FrameError: this is not what a runner sends. The link is closed.
        """
        if self._arrived:
            return self._hand_out()
        if self._channel is None:
            return None
        self._give_sign_of_life(self._channel)
        wait_s = 0.0 if self._is_woken else max(0.0, min(timeout_s, self._sign_is_due_at() - self._clock()))
        self._is_woken = False
        content = self._channel.read(wait_s)
        if content is None:
            self.close()
            return None
        if not content:
            return []
        self._heard_at = self._clock()
        before = self.status
        try:
            self._take(self._channel, content)
        except FrameError:
            self.close()
            raise
        return self._hand_out() if self.status is before else []

    def give_back(self, messages: list[UpMessage]) -> None:
        """Have these messages, which were received last, handed out again: they are of a later run."""
        self._arrived = [*messages, *self._arrived]

    def forget(self) -> None:
        """All that was read is told, and no later waiter need report it."""
        if not self._arrived:
            self._unspooled.clear()
            self._spool.forget(self.read_to)

    def drop_before(self, run: int) -> None:
        """What has arrived of earlier runs is told already, and answers are an earlier session's."""
        self._arrived = [each for each in self._arrived if each.run >= run and not getattr(each, "request", 0)]

    @property
    def has_more(self) -> bool:
        """Whether messages have arrived that were not handed out: also while the link is not open."""
        return bool(self._arrived)

    def send(self, *messages: DownMessage) -> None:
        """Have messages sent, in this order, while ``receive`` waits. While the link is not open this does nothing.

        What was written and had not reached the runner when the connection was lost is not sent again: the next ``STATUS`` says
        what the runner has. Until it has come, a program's input and messages are passed over, since those before them may be
        missing: a pump sends them again.

        Raises:
            FrameError: a message that cannot be sent.
        """
        due = [message for message in messages if self.status is not None or not isinstance(message, (Input, ToProgram))]
        if self._channel is not None and due:
            self._write(self._channel, b"".join(self._writer.write(self._numbered(message)) for message in due))

    def ping(self) -> None:
        """Begin another session on the same connection: a ``STATUS`` has to come. For a link that may be dead."""
        if self._channel is not None:
            self._begin(self._channel, self._lease_s)

    def hold(self, lease_s: float) -> None:
        """Begin the last session: nobody will read any more, and the runner keeps the container for so long."""
        if self._channel is not None:
            self._begin(self._channel, lease_s)

    def wake(self) -> None:
        """End a wait of ``receive``, or the next one. Any thread may call this."""
        self._is_woken = True
        channel = self._channel
        if channel is not None:
            channel.wake()

    def finish(self, *, leave: bool) -> None:
        """Close the connection for good, once what was sent is out. Never raises.

        Args:
            leave: tell the runner to end, and with it the container. Else it stays until its container is removed, or for its
                lease.
        """
        try:
            if leave:
                self.send(Leave())
            until = self._clock() + _FLUSH_S
            while self.is_open and self.unsent and self._clock() < until:
                self.receive(_FLUSH_TURN_S)
        except Exception as error:  # noqa: BLE001 - all is told already, and its deleter ends it anyway
            _log.debug("not all that was sent reached container %s: %s", self._container_id, error)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one. ``connect`` opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # ---- sessions

    def _begin(self, channel: Channel, lease_s: float, *, is_new: bool = False) -> None:
        session, lease_ms = random.getrandbits(64), max(1, round(lease_s * 1000))
        self.status = None
        self.session = session
        self._requests_from = self._requests_to = random.getrandbits(_REQUEST_BITS)
        self._writer = FrameWriter(session)
        self._reader = PacketReader(session, self.read_to, self._keep)
        self._write(channel, self._writer.begin(read_from=self.read_to, lease_ms=lease_ms, after_another=is_new))

    def _take(self, channel: Channel, content: bytes) -> None:
        for item in self._reader.feed(content):
            if isinstance(item, UpMessage):
                self._arrived.append(item)
            else:
                self._take_status(channel, item)
        self.read_to = max(self.read_to, self._reader.read_to)
        self._acknowledge(channel)

    def _hand_out(self) -> list[UpMessage]:
        messages, self._arrived = self._arrived, []
        return list(self._without_old_answers(messages))

    def _take_status(self, channel: Channel, status: Status) -> None:
        if status.version != VERSION:
            raise FrameError(f"the runner speaks version {status.version}, and this is version {VERSION}")
        self.status = status
        self._acknowledged_to = status.kept_from  # the last acknowledgement may have been lost with its connection
        if not status.kept_from <= self.read_to <= status.stream_bytes:
            self._begin_again(channel, status)

    def _begin_again(self, channel: Channel, status: Status) -> None:
        """What an earlier waiter has acknowledged is gone, or this is another runner, as somebody has restarted the container.

        What is gone after the end of a run is only answers.
        """
        is_another = status.stream_bytes < self.read_to
        if is_another or not self._run_is_over:
            self.beginning_lost = True
            self._spool.remove()
        self._run_is_over &= not is_another
        self.read_to = status.kept_from
        self._begin(channel, self._lease_s)

    # ---- requests

    def _numbered(self, message: DownMessage) -> DownMessage:
        if not isinstance(message, _REQUESTS):
            return message
        number = self._requests_from + message.request
        self._requests_to = max(self._requests_to, number)
        return replace(message, request=number)

    def _without_old_answers(self, messages: list[UpMessage]) -> Iterator[UpMessage]:
        for message in messages:
            if not isinstance(message, _ANSWERS) or not message.request:
                yield message
            elif self._requests_from < message.request <= self._requests_to:
                number = message.request - self._requests_from
                yield replace(message, request=number, run=number)

    # ---- acknowledging

    def _keep(self, content: bytes) -> None:
        """A message is whole."""
        if not self._run_is_over:
            self._unspooled += content
            number, run = message_head(content)
            self._run_is_over = number in (Ended.NUMBER, RunRefused.NUMBER) and run >= self._last_run

    def _acknowledge(self, channel: Channel) -> None:
        if self.read_to - self._acknowledged_to < _UNACKNOWLEDGED_BYTES:
            return
        self._spool.append(bytes(self._unspooled))
        self._unspooled.clear()
        self._acknowledged_to = self.read_to
        self._write(channel, self._writer.write(Ack(read_to=self.read_to)))

    def _sign_is_due_at(self) -> float:
        return self._wrote_at + min(self._lease_s / _SIGNS_IN_A_LEASE, _SIGN_OF_LIFE_S)

    def _give_sign_of_life(self, channel: Channel) -> None:
        """Unless something is on its way: a connection on which nothing moves is not filled with more."""
        if self._clock() < self._sign_is_due_at():
            return
        if channel.unsent:
            self._wrote_at = self._clock()
        else:
            self._write(channel, self._writer.write(Ack(read_to=self._acknowledged_to)))

    def _write(self, channel: Channel, content: bytes) -> None:
        channel.write(content)
        self._wrote_at = self._clock()
