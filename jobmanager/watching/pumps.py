"""What a program is to be sent while it runs: its standard input and its messages, never more than its runner has room for.

Any thread puts something in. The monitor's thread sends what is due, and tells what the runner has said: ``TAKEN``, or after a new
session ``STATUS``. What the program has not taken is kept, so that it can be sent again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from jobmanager.runner.frames import Input, ToProgram

PIECE_BYTES = 60 * 1024  # the most of one message to the runner
_ROOM_BYTES = 64 * 1024  # what the runner may have and the program has not taken
_MESSAGE_COST = 4  # bytes of room that a message takes beside its own


class InputPump:
    """The bytes of a program's standard input. Thread-safe.

    Args:
        max_bytes: the most that waits, what was sent and is not taken included.
        on_taken: is given how many more bytes the program has taken, in the monitor's thread.
    """

    def __init__(self, *, max_bytes: int, on_taken: Callable[[int], None] = lambda _: None) -> None:
        self._max_bytes = max_bytes
        self._on_taken = on_taken
        self._lock = threading.Lock()
        self._waiting = bytearray()  # from _taken on
        self._taken = self._sent = 0  # offsets
        self._ends = self._end_is_sent = self._closed = False

    def put(self, data: bytes, *, reserve: int = 0) -> bool:
        """Send this later; False when too much waits already. After the end this does nothing.

        ``reserve``: bytes that are kept free for other data.
        """
        with self._lock:
            if self._closed or self._ends:
                return True
            if len(self._waiting) + len(data) > self._max_bytes - reserve:
                return False
            self._waiting += data
            return True

    def end(self) -> None:
        """The input ends after what waits."""
        with self._lock:
            self._ends = True

    def due(self, run: int) -> list[Input]:
        """What can be sent now; it counts as sent."""
        with self._lock:
            pieces: list[Input] = []
            while not self._closed and (piece := self._next_piece(run)):
                pieces.append(piece)
            return pieces

    def taken(self, total: int) -> None:
        """The program has taken so many bytes since its start."""
        with self._lock:
            count = max(0, total - self._taken)
            del self._waiting[:count]
            self._taken += count
            self._sent = max(self._sent, self._taken)
        if count:
            self._on_taken(count)

    def resume(self, total: int) -> None:
        """Another session has begun, and the program has taken so many bytes: the rest is sent again."""
        self.taken(total)
        with self._lock:
            self._sent, self._end_is_sent = self._taken, False

    def close(self) -> None:
        """Send nothing more, and forget what waits."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _next_piece(self, run: int) -> Input | None:
        room = self._taken + _ROOM_BYTES - self._sent
        start = self._sent - self._taken
        data = bytes(self._waiting[start : start + min(room, PIECE_BYTES)])
        is_last = self._ends and start + len(data) == len(self._waiting)
        if not data and (not is_last or self._end_is_sent):
            return None
        piece = Input(run=run, offset=self._sent, last=is_last, data=data)
        self._sent += len(data)
        self._end_is_sent = is_last
        return piece


class MessagePump:
    """The messages for a program's channel. Thread-safe.

    Args:
        max_bytes: the most that waits, what was sent and is not taken included.
        on_taken: is given how many more messages the program has taken, in the monitor's thread.
        on_resumed: is called when it is known how many a program has taken of an earlier waiter, too; in the same thread.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        on_taken: Callable[[int], None] = lambda _: None,
        on_resumed: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_bytes = max_bytes
        self._on_taken, self._on_resumed = on_taken, on_resumed
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()  # from number _taken on
        self._waiting_bytes = 0
        self._taken = self._sent = 0  # numbers
        self._room = _ROOM_BYTES
        self._closed = False

    def put(self, data: bytes, *, reserve: int = 0) -> bool:
        """Send this later; False when too much waits already.

        ``reserve``: bytes that are kept free for other messages.

        Raises:
            ValueError: it is longer than a message can be.
        """
        if len(data) > PIECE_BYTES:
            raise ValueError(f"a message has {len(data)} bytes, and at most {PIECE_BYTES} can be sent")
        with self._lock:
            if self._closed:
                return True
            if self._waiting_bytes + _cost(data) > self._max_bytes - reserve:
                return False
            self._waiting.append(data)
            self._waiting_bytes += _cost(data)
            return True

    def due(self, run: int) -> list[ToProgram]:
        """What can be sent now; it counts as sent."""
        with self._lock:
            messages: list[ToProgram] = []
            while self._sent - self._taken < len(self._waiting):
                data = self._waiting[self._sent - self._taken]
                if _cost(data) > self._room:
                    break
                messages.append(ToProgram(run=run, number=self._sent, data=data))
                self._sent += 1
                self._room -= _cost(data)
            return messages

    def taken(self, count: int) -> None:
        """The program has taken so many messages since its start."""
        with self._lock:
            more = max(0, count - self._taken)
            for _ in range(min(more, len(self._waiting))):
                self._drop_first()
            self._taken = max(self._taken, count)
            self._sent = max(self._sent, self._taken)
        if more:
            self._on_taken(more)

    def resume(self, count: int) -> None:
        """Another session has begun, and the program has taken so many messages: the rest is sent again."""
        self.taken(count)
        with self._lock:
            self._sent, self._room = self._taken, _ROOM_BYTES
        self._on_resumed()

    def close(self) -> None:
        """Send nothing more, and forget what waits."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._waiting_bytes = 0

    def _drop_first(self) -> None:
        data = self._waiting.popleft()
        self._waiting_bytes -= _cost(data)
        if self._sent > self._taken:
            self._room += _cost(data)
        self._taken += 1


def _cost(data: bytes) -> int:
    return len(data) + _MESSAGE_COST
