"""A container's standard input: it gets the job, and then, where a session keeps it open, further messages."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from jobmanager.engine.pid1 import payload
from jobmanager.engine.protocol import Engine, EngineError, StdinLink
from jobmanager.grading.bundle import LINK_TOKEN_FILE, bundle
from jobmanager.grading.link import SupervisorMessage, link_token
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model._checks import YEAR_S

_log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 60.0


class StdinSession(Protocol):
    """Talks to a container over its open standard input. The monitor's thread calls it, so no method may block."""

    def on_open(self, link: StdinLink) -> None:
        """The container has its job. The session owns its standard input, and closes it."""
        ...

    def on_start(self) -> None:
        """PID 1 has started the program: what is written now reaches it."""
        ...

    def on_message(self, message: SupervisorMessage) -> None:
        """A grading container's supervisor has sent this."""
        ...

    def on_disconnect(self) -> None:
        """The connection to the container broke; the container may go on. May be called more than once."""
        ...

    def on_end(self) -> None:
        """The container has ended, or is about to be ended. May be called more than once."""
        ...


def send_job(
    engine: Engine,
    job: MonitorContainer,
    session: StdinSession | None,
    still_takes_input: Callable[[], bool],
    *,
    started_at_s: float = 0.0,
) -> None:
    """Write the job to its container; raises Unreachable and NotRunning. Without a session, standard input ends with it.

    ``still_takes_input`` is called while the container reads nothing. ``started_at_s``: the container's start by the engine's
    clock; 0: unknown.
    """
    if session is None:
        engine.feed(job.container_id, _packed(job, started_at_s), _SEND_TIMEOUT_S, still_takes_input)
        return
    link = engine.open_stdin(job.container_id)
    try:
        link.write(_packed(job, started_at_s), _SEND_TIMEOUT_S, still_takes_input)
    except EngineError:
        link.close()
        raise
    session.on_open(link)


def _packed(job: MonitorContainer, started_at_s: float) -> bytes:
    files = dict(job.files)
    if job.grading is not None:
        files.update(bundle())
        files[LINK_TOKEN_FILE] = link_token(job.token).encode()
    return payload(
        job.token,
        command=job.command,
        env=job.env,
        files=files,
        stdin=job.stdin,
        executables=job.executables,
        made_at_s=started_at_s,
        wipe=job.wipe,
        secrets=job.secrets,
        volume_devices=job.volume_devices,
    )


class StdinWriter:
    """Writes to an open standard input from a thread of its own, so that a container that reads nothing blocks nobody.

    Data is written in the order of ``put``, from ``start`` on. Thread-safe.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        on_written: Callable[[int], None] = lambda _: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_written`` gets the number of bytes written; ``on_broken``: no more will be. Both in the writer's thread."""
        self._max_bytes = max_bytes
        self._on_written = on_written
        self._on_broken = on_broken
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._link: StdinLink | None = None
        self._ends = False  # after the waiting data
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, data: bytes, *, reserve: int = 0) -> bool:
        """Write this later; False when too much waits already. After the end nothing is written.

        ``reserve``: bytes that are kept free for other data.
        """
        with self._changed:
            if self._closed or self._ends:
                return True
            if self._waiting_bytes + len(data) > self._max_bytes - reserve:
                return False
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify()
            return True

    def end(self) -> None:
        """Close the standard input once all is written."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def open(self, link: StdinLink) -> None:
        """Take over this standard input; ``close`` closes it."""
        with self._changed:
            if self._closed:
                link.close()
            else:
                self._link = link

    def start(self) -> None:
        """Begin to write: the program reads it from now on."""
        with self._changed:
            if self._link is None or self._closed or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._write_all, args=(self._link,), name="stdin-writer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write no more, and close the standard input. Never blocks."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
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
        except Exception:  # noqa: BLE001 - the loop's edge: a bug here must still be reported by on_broken
            _log.exception("standard input could not be written")
        was_closed = self._closed
        self.close()
        if not was_closed and not self._ends:
            self._on_broken()

    def _next(self) -> bytes | None:
        """The next data to write; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends or self._closed)
            if self._closed or not self._waiting:
                return None
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            return data
