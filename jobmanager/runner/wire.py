"""Both ends of the runner's channel: frames down, packets up.

The waiter's ends are ``FrameWriter`` and ``PacketReader``. ``FrameReader`` and ``PacketWriter`` are the runner's: the fake engine
has them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

from jobmanager.runner.fields import FrameError
from jobmanager.runner.frames import (
    DOWN_MESSAGE_BYTES,
    UP_MESSAGE_BYTES,
    VERSION,
    DownMessage,
    Hello,
    Status,
    UpMessage,
    decode,
    decode_down,
    decode_up,
    encode,
)

FRAME_PAYLOAD_BYTES = 65_512  # with its header a frame has at most 64 KiB
PACKET_PAYLOAD_BYTES = 65_536
WINDOW_BYTES = 2**20
_FRAME_MAGIC = b"JMD1"
_PACKET_MAGIC = b"JMU1"
_FRAME = struct.Struct("<4sQBBHI")  # magic, session, type, flags, reserved, length; the check follows
_PACKET = struct.Struct("<4sQB3sQI")  # magic, session, kind, reserved, offset, length; the check follows
_MESSAGE = struct.Struct("<B3sII")  # type, reserved, run, length
_CHECK = struct.Struct("<I")
MESSAGE_HEADER_BYTES = _MESSAGE.size  # of a message in the stream
_FRAME_BYTES = _FRAME.size + _CHECK.size
_PACKET_BYTES = _PACKET.size + _CHECK.size
_STATUS, _STREAM = 1, 2
_MORE = 1
_RESERVED = bytes(3)


class FrameWriter:
    """A waiter's messages as bytes for the runner's standard input.

    Args:
        session: drawn at random, 64 bits; the runner obeys the session that began last.
    """

    def __init__(self, session: int) -> None:
        self.session = session

    def begin(self, *, read_from: int, lease_ms: int, after_another: bool = True) -> bytes:
        """The first bytes of a session; the runner's stream is then sent from an offset on.

        ``after_another``: a connection before this one may have ended in the middle of a frame.
        """
        hello = Hello(session=self.session, read_from=read_from, lease_ms=lease_ms)
        zeros = bytes(_FRAME_BYTES + FRAME_PAYLOAD_BYTES) if after_another else b""
        return zeros + self.write(hello)

    def write(self, message: DownMessage) -> bytes:
        """The frames of a message; raises FrameError for one that cannot be sent."""
        payload = encode(message)
        starts = range(0, len(payload), FRAME_PAYLOAD_BYTES) or range(1)  # an empty payload has a frame, too
        pieces = [payload[start : start + FRAME_PAYLOAD_BYTES] for start in starts]
        all_but_the_last = [self._frame(message.NUMBER, piece, flags=_MORE) for piece in pieces[:-1]]
        return b"".join(all_but_the_last) + self._frame(message.NUMBER, pieces[-1], flags=0)

    def _frame(self, number: int, payload: bytes, flags: int) -> bytes:
        head = _FRAME.pack(_FRAME_MAGIC, self.session, number, flags, 0, len(payload))
        return head + _CHECK.pack(crc32(payload, crc32(head))) + payload


class StreamReader:
    """The runner's stream as messages.

    Args:
        read_from: the offset of the first byte; a message starts there.
        keep: is given each whole message as it is in the stream.
    """

    def __init__(self, read_from: int = 0, keep: Callable[[bytes], None] = lambda _: None) -> None:
        self.read_to = read_from  # offset after the last whole message
        self._keep = keep
        self._stream = bytearray()  # from read_to on

    @property
    def received_to(self) -> int:
        """Offset after the last byte."""
        return self.read_to + len(self._stream)

    def feed(self, content: bytes) -> list[UpMessage]:
        """The messages that are complete with these bytes; raises FrameError."""
        self._stream += content
        found: list[UpMessage] = []
        while message := self._next_message():
            found.append(message)
        return found

    def _next_message(self) -> UpMessage | None:
        if len(self._stream) < _MESSAGE.size:
            return None
        number, reserved, run, length = _MESSAGE.unpack_from(self._stream)
        if reserved != _RESERVED or length > UP_MESSAGE_BYTES:
            raise FrameError(f"no message begins at {self.read_to}")
        end = _MESSAGE.size + length
        if len(self._stream) < end:
            return None
        content = bytes(self._stream[:end])
        message = decode_up(number, content[_MESSAGE.size :], run)
        del self._stream[:end]
        self.read_to += end
        self._keep(content)
        return message


class PacketReader:
    """The runner's packets as messages, for one session of a waiter.

    What comes before the session's first packet was for another waiter, and is passed over.

    Args:
        session: the one that its FrameWriter has.
        read_from: the offset in the stream that it began with; a message starts there. Where the first Status says that the
            window does not have it, nothing more comes, and another session is to be begun.
        keep: is given each whole message as it is in the stream.
    """

    def __init__(self, session: int, read_from: int = 0, keep: Callable[[bytes], None] = lambda _: None) -> None:
        self.session = session
        self.begun = False  # a packet of this session has come
        self._received = bytearray()
        self._stream = StreamReader(read_from, keep)
        self._streams = False  # a part of the stream has come

    @property
    def read_to(self) -> int:
        """Offset after the last whole message: what may be acknowledged."""
        return self._stream.read_to

    def feed(self, content: bytes) -> list[Status | UpMessage]:
        """What is complete with these bytes, in its order.

        Raises:
            FrameError: this is not what the runner sends to us; the reader is of no use any more.
        """
        self._received += content
        found: list[Status | UpMessage] = []
        while packet := self._next_packet():
            if packet.kind == _STATUS:
                found.append(self._status(packet))
            elif packet.kind == _STREAM:
                found += self._messages(packet)
            else:
                raise FrameError(f"no packet has the kind {packet.kind}")
        return found

    def _next_packet(self) -> _Packet | None:
        if not self.begun and not self._find_first():
            return None
        if len(self._received) < _PACKET_BYTES:
            return None
        packet = _packet_head(self._received)
        if packet is None:
            raise FrameError("these bytes are no packet")
        if packet.session != self.session:
            raise FrameError("the runner talks to another waiter")
        end = _PACKET_BYTES + packet.length
        if len(self._received) < end:
            return None
        payload = bytes(self._received[_PACKET_BYTES:end])
        del self._received[:end]
        return packet._replace(payload=payload)

    def _find_first(self) -> bool:
        mark = _PACKET_MAGIC + struct.pack("<Q", self.session)
        while (at := self._received.find(mark)) >= 0:
            del self._received[:at]
            if len(self._received) < _PACKET_BYTES:
                return False
            if _packet_head(self._received) is not None:
                self.begun = True
                return True
            del self._received[:1]
        del self._received[: max(0, len(self._received) - len(mark) + 1)]
        return False

    def _status(self, packet: _Packet) -> Status:
        status = decode(Status, packet.payload, stream_bytes=packet.offset)
        at_least = max(status.kept_from, self._stream.received_to if self._streams else 0)
        if status.stream_bytes < at_least:
            raise FrameError(f"the stream has {status.stream_bytes} bytes, and at least {at_least} are due")
        return status

    def _messages(self, packet: _Packet) -> list[UpMessage]:
        if packet.offset != self._stream.received_to:
            raise FrameError(f"the stream goes on at {packet.offset}, and {self._stream.received_to} is due")
        self._streams = True
        return self._stream.feed(packet.payload)


class FrameReader:
    """A waiter's frames as messages: what the runner does with its standard input."""

    def __init__(self) -> None:
        self.session: int | None = None  # of the latest Hello
        self.skipped = 0  # bytes that were no frame
        self._received = bytearray()
        self._number = 0  # type of the message whose pieces are coming; 0: none
        self._pieces = bytearray()

    def feed(self, content: bytes) -> Iterator[DownMessage]:
        """Take bytes; the messages are read one by one as they are asked for, so that those before a nonsense are obeyed.

        Frames of other sessions than the latest are passed over.

        Raises:
            FrameError: while the messages are asked for: a frame of the session makes no sense. The runner faults.
        """
        self._received += content
        return self._messages()

    def _messages(self) -> Iterator[DownMessage]:
        while frame := self._next_frame():
            if message := self._message(frame):
                yield message

    def _next_frame(self) -> _Frame | None:
        while self._find_magic():
            frame = _frame_head(self._received)
            end = _FRAME_BYTES + frame.length
            if frame.length > FRAME_PAYLOAD_BYTES:
                self._skip(1)
            elif len(self._received) < end:
                return None
            elif crc32(self._received[_FRAME_BYTES:end], crc32(self._received[: _FRAME.size])) != frame.check:
                self._skip(1)
            else:
                payload = bytes(self._received[_FRAME_BYTES:end])
                del self._received[:end]
                return frame._replace(payload=payload)
        return None

    def _find_magic(self) -> bool:
        """Whether a whole header is at the front."""
        at = self._received.find(_FRAME_MAGIC)
        if at < 0:
            kept = next(size for size in (3, 2, 1, 0) if self._received.endswith(_FRAME_MAGIC[:size]))
            at = len(self._received) - kept
        self._skip(at)
        return len(self._received) >= _FRAME_BYTES

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._received[:count]

    def _message(self, frame: _Frame) -> DownMessage | None:
        if frame.number == Hello.NUMBER and frame.session != self.session:
            self._number, self._pieces = 0, bytearray()
            self.session = frame.session
        if frame.session != self.session:
            return None
        if frame.flags not in (0, _MORE) or frame.reserved:
            raise FrameError(f"a frame with flags {frame.flags} and reserved {frame.reserved}")
        if self._number not in (0, frame.number):
            raise FrameError(f"a frame of type {frame.number} came between those of a message of type {self._number}")
        self._pieces += frame.payload
        if len(self._pieces) > DOWN_MESSAGE_BYTES:
            raise FrameError("a message is too long")
        if frame.flags & _MORE:
            self._number = frame.number
            return None
        payload, self._number, self._pieces = bytes(self._pieces), 0, bytearray()
        message = decode_down(frame.number, payload, frame.session)
        if isinstance(message, Hello) and message.version != VERSION:
            raise FrameError(f"Hello.version: {message.version}, and this is version {VERSION}")
        return message


class PacketWriter:
    """The runner's stream and its window, as bytes for its standard output."""

    def __init__(self) -> None:
        self.session: int | None = None
        self.kept_from = 0  # offset of the first byte that is not acknowledged
        self._sent_to = 0  # offset
        self._streams = False  # the session is sent the stream
        self._window = bytearray()
        self._status = b""

    @property
    def stream_bytes(self) -> int:
        """How many bytes the stream has so far."""
        return self.kept_from + len(self._window)

    @property
    def room(self) -> int:
        """Bytes that the window can take."""
        return WINDOW_BYTES - len(self._window)

    def write(self, message: UpMessage) -> bool:
        """Append a message to the stream; returns false where the window has no room for it now."""
        payload = encode(message)
        if _MESSAGE.size + len(payload) > self.room:
            return False
        self._window += _MESSAGE.pack(message.NUMBER, _RESERVED, message.run, len(payload)) + payload
        return True

    def acknowledge(self, read_to: int) -> None:
        """The other end has the stream up to an offset; raises FrameError where the stream does not have so many bytes."""
        if read_to > self.stream_bytes:
            raise FrameError(f"{read_to} bytes are acknowledged, and the stream has {self.stream_bytes}")
        gone = max(0, read_to - self.kept_from)
        del self._window[:gone]
        self.kept_from += gone
        self._sent_to = max(self._sent_to, self.kept_from)

    def begin(self, session: int, read_from: int) -> None:
        """Send to a new session, from an offset on; nothing but reports where that is not in the window."""
        self.session, self._sent_to, self._status = session, read_from, b""
        self._streams = self.kept_from <= read_from <= self.stream_bytes

    def report(self, status: Status) -> None:
        """Send a status next, before more of the stream."""
        self._status += self._packet(_STATUS, status.stream_bytes, encode(status))

    def packets(self, most: int = PACKET_PAYLOAD_BYTES) -> bytes:
        """The next bytes to send, with at most so many of the stream; empty when all is sent or nobody has begun."""
        if self.session is None:
            return b""
        start = self._sent_to - self.kept_from
        end = start + min(most, PACKET_PAYLOAD_BYTES) if self._streams else start
        piece = bytes(self._window[start:end])
        stream = self._packet(_STREAM, self._sent_to, piece) if piece else b""
        self._sent_to += len(piece)
        status, self._status = self._status, b""
        return status + stream

    def _packet(self, kind: int, offset: int, payload: bytes) -> bytes:
        head = _PACKET.pack(_PACKET_MAGIC, self.session, kind, _RESERVED, offset, len(payload))
        return head + _CHECK.pack(crc32(head)) + payload


def message_head(content: bytes) -> tuple[int, int]:
    """The type of a message of the stream, and the run or request that it belongs to."""
    number, _, run, _ = _MESSAGE.unpack_from(content)
    return number, run


class _Frame(NamedTuple):
    session: int
    number: int
    flags: int
    reserved: int
    length: int
    check: int
    payload: bytes = b""


class _Packet(NamedTuple):
    session: int
    kind: int
    offset: int
    length: int
    payload: bytes = b""


def _frame_head(received: bytearray) -> _Frame:
    _, *numbers = _FRAME.unpack_from(received)
    return _Frame(*numbers, *_CHECK.unpack_from(received, _FRAME.size))


def _packet_head(received: bytearray) -> _Packet | None:
    """The header at the front, or None where there is none: its magic, check or length is wrong."""
    magic, session, kind, reserved, offset, length = _PACKET.unpack_from(received)
    (check,) = _CHECK.unpack_from(received, _PACKET.size)
    checked = magic == _PACKET_MAGIC and check == crc32(received[: _PACKET.size])
    right = checked and reserved == _RESERVED and length <= PACKET_PAYLOAD_BYTES
    return _Packet(session, kind, offset, length) if right else None
