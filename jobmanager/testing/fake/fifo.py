"""A fifo of the fake engine: a program of one container writes what that of another one reads."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from jobmanager.testing.fake.process import Feed


class _End(Enum):
    NEVER_OPENED = 0
    OPEN = 1
    CLOSED = 2


class Fifo:
    """One writer and one reader at a time. Nobody waits for the other one to open it; what is written before is kept for him."""

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._feed = Feed(ended=False)
        self._wake: Callable[[], None] = lambda: None
        self._writer = self._reader = _End.NEVER_OPENED

    def open_to_write(self) -> None:
        if self._writer is _End.CLOSED:
            self._begin_anew()
        self._writer = _End.OPEN

    def open_to_read(self, wake: Callable[[], None]) -> Feed:
        """What comes to the reader; ``wake`` is called when there is more."""
        if self._reader is _End.CLOSED:
            self._begin_anew()
        self._reader, self._wake = _End.OPEN, wake
        return self._feed

    def write(self, data: bytes) -> bool:
        """Whether somebody may still read it."""
        if self._reader is _End.CLOSED:
            return False
        self._feed.add(data)
        self._wake()
        return True

    def close_to_write(self) -> None:
        """Its writer has ended."""
        self._writer, self._feed.ended = _End.CLOSED, True
        self._wake()

    def close_to_read(self) -> None:
        """Its reader has ended."""
        self._reader, self._wake = _End.CLOSED, lambda: None
