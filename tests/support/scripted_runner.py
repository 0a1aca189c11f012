"""A runner in memory: the other end of the codec behind channels, and a clock that only it moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

from jobmanager.engine.protocol import Engine, Unreachable
from jobmanager.runner.frames import Ack, DownMessage, Hello, RunnerState, Status, UpMessage
from jobmanager.runner.wire import FrameReader, PacketWriter


class ScriptedRunner:
    """Says what the test tells it to say, and keeps what it is sent. It is also the engine that opens channels to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.received: list[DownMessage] = []  # all but acknowledgements
        self.acks: list[tuple[float, int]] = []  # when, and up to which offset
        self.hellos: list[Hello] = []
        self.status_fields: dict[str, int] = {}  # what a test has it say of itself
        self.refuses = False  # the engine opens no channel
        self.channels: list[MemoryChannel] = []
        self._to_say: deque[UpMessage] = deque()
        self.begin_anew()

    @property
    def engine(self) -> Engine:
        return cast(Engine, self)

    def clock(self) -> float:
        return self.now

    def open_channel(self, container: str) -> MemoryChannel:
        if self.refuses:
            raise Unreachable(f"no way to {container}")
        self.channels.append(MemoryChannel(self))
        return self.channels[-1]

    @property
    def channel(self) -> MemoryChannel:
        """The latest one."""
        return self.channels[-1]

    def begin_anew(self) -> None:
        """Be another runner: somebody has restarted the container."""
        self._frames = FrameReader()
        self._packets = PacketWriter()

    def say(self, messages: Iterable[UpMessage]) -> None:
        """Say these as soon as the window has room."""
        self._to_say += messages
        self._fill_window()

    @property
    def unsaid(self) -> int:
        """Messages for which the window had no room yet."""
        return len(self._to_say)

    @property
    def kept_from(self) -> int:
        return self._packets.kept_from

    @property
    def stream_bytes(self) -> int:
        return self._packets.stream_bytes

    def take(self, content: bytes) -> None:
        """What is written to its standard input."""
        for message in self._frames.feed(content):
            if isinstance(message, Ack):
                self.acks.append((self.now, message.read_to))
                self._packets.acknowledge(message.read_to)
                self._fill_window()
            elif isinstance(message, Hello):
                self.hellos.append(message)
                self._packets.begin(message.session, message.read_from)
                self._packets.report(self._status())
            else:
                self.received.append(message)

    def give(self) -> bytes:
        """What it writes next."""
        return self._packets.packets()

    def _fill_window(self) -> None:
        while self._to_say and self._packets.write(self._to_say[0]):
            self._to_say.popleft()

    def _status(self) -> Status:
        fields: dict[str, Any] = {"state": RunnerState.IDLE, "input": 0, "messages": 0, "run": 0, **self.status_fields}
        return Status(
            stream_bytes=self.stream_bytes,
            build=bytes(32),
            kept_from=self.kept_from,
            skipped=0,
            put_to=b"",
            cgroup=2,
            dumpable=False,
            **fields,
        )


class MemoryChannel:
    """A channel to a scripted runner. A read that has nothing to give moves the clock on by its timeout."""

    def __init__(self, runner: ScriptedRunner) -> None:
        self.piece_bytes = 2**18  # the most of one read
        self.breaks_after: int | None = None  # bytes that are still read before the connection breaks
        self.stands_still = False  # nothing goes out
        self.ends = False  # once all was read
        self.before = bytearray()  # is read before what the runner gives: what was on its way to somebody else
        self.is_closed = False
        self.read_bytes = 0  # so far
        self._runner = runner
        self._written = bytearray()
        self._woken = False

    def read(self, timeout_s: float) -> bytes | None:
        assert not self.is_closed
        if self.breaks_after == 0:
            return None
        if not self.stands_still:
            written, self._written = bytes(self._written), bytearray()
            self._runner.take(written)
        self.before += b"" if self.stands_still else self._runner.give()
        most = self.piece_bytes if self.breaks_after is None else min(self.piece_bytes, self.breaks_after)
        piece = bytes(self.before[:most])
        del self.before[:most]
        self.read_bytes += len(piece)
        if self.breaks_after is not None:
            self.breaks_after -= len(piece)
        if not piece and self.ends:
            return None
        if not piece and not self._woken:
            self._runner.now += timeout_s
        self._woken = False
        return piece

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self._written += data

    @property
    def unsent(self) -> int:
        return len(self._written)

    def wake(self) -> None:
        self._woken = True

    def close(self) -> None:
        self.is_closed = True


def cuts(content: bytes) -> Iterator[bytes]:
    """Every beginning of some bytes, from none to all."""
    return (content[:size] for size in range(len(content) + 1))
