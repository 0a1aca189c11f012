"""Writes to a container's open standard input from a thread of its own: a container that reads nothing holds up nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from jobmanager.engine.protocol import EngineError, StdinLink
from jobmanager.model._checks import YEAR_S

_log = logging.getLogger(__name__)


class StdinWriter:
    """What is put is written in its order, once the container is known to take it.

    ``opened`` and ``begin`` come from the container's watch: first it has its job, then PID 1 has said so. Thread-safe.
    """

    def __init__(
        self,
        *,
        most_bytes: int,
        on_written: Callable[[int], None] = lambda _: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_written`` is told how many bytes were taken, ``on_broken`` that no more will be. Both in the writer's thread."""
        self._most_bytes = most_bytes
        self._on_written = on_written
        self._on_broken = on_broken
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._link: StdinLink | None = None
        self._ends = False  # after what waits
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, data: bytes, *, spare: int = 0) -> bool:
        """Write this, sooner or later; False when too much waits already. Nothing is written after the end.

        ``spare``: bytes that are left for what is put by others.
        """
        with self._changed:
            if self._closed or self._ends:
                return True
            if self._waiting_bytes + len(data) > self._most_bytes - spare:
                return False
            self._pieces.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify()
            return True

    def end(self) -> None:
        """Close the standard input once all is written."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def opened(self, link: StdinLink) -> None:
        """The container has its job, and its standard input is open: it is closed by us."""
        with self._changed:
            if self._closed:
                link.close()
            else:
                self._link = link

    def begin(self) -> None:
        """What is written now reaches the program."""
        with self._changed:
            if self._link is None or self._closed or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._write_all, args=(self._link,), name="stdin-writer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write no more, and close the standard input. Never blocks."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify()
            if self._link is not None:
                self._link.close()
                self._link = None

    def _write_all(self, link: StdinLink) -> None:
        try:
            while (data := self._next()) is not None:
                link.write(data, YEAR_S, lambda: not self._closed)
                self._on_written(len(data))
        except EngineError:
            pass
        except Exception:  # noqa: BLE001 - the loop's edge: a bug here ends what is written, not the knowledge of that
            _log.exception("standard input could not be written")
        was_closed = self._closed
        self.close()
        if not was_closed and not self._ends:
            self._on_broken()

    def _next(self) -> bytes | None:
        """What is to be written next; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ends or self._closed)
            if self._closed or not self._pieces:
                return None
            data = self._pieces.popleft()
            self._waiting_bytes -= len(data)
            return data
