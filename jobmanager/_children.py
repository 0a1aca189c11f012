"""A child process as its parent sees it: messages out, messages in, and its end.

Two threads for each child keep the manager's own loop free: a child that is stopped in the middle of a message, or
that reads nothing, holds up nobody but itself.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobmanager._log_thread import hand_on, logger
from jobmanager.engine.processes import end_process, start_process
from jobmanager.model.messages import LogLine

_log = logger(__name__)
_JOIN_S = 2.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Heard:
    """A child said something."""

    child: Child
    message: Any


@dataclass(frozen=True, slots=True)
class Gone:
    """A child has ended; nothing more will come of it."""

    child: Child


class Child:
    """A running child process. ``listen`` gets Heard for each message and Gone once, from a thread of its own."""

    def __init__(self, module: str, listen: Callable[[Heard | Gone], None]) -> None:
        self._process, self._connection = start_process(module)
        self._listen = listen
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        name = f"jobmanager-{module.rpartition('.')[2].strip('_')}-{next(_numbers)}"
        self._threads = [
            threading.Thread(target=self._write, name=f"{name}-out", daemon=True),
            threading.Thread(target=self._read, name=f"{name}-in", daemon=True),
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:  # no more threads to be had, or the interpreter is ending
            self._process.kill()
            self._process.wait()
            self.send(None)
            self._connection.close()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Say something; never blocks. What is said to one that is gone is lost."""
        self._outbox.put(message)

    def kill(self) -> None:
        """SIGKILL; Gone follows."""
        self._process.kill()

    def end(self, grace_s: float) -> None:
        """See out a child that was told to leave: make it leave after a while, and let go of everything."""
        end_process(self._process, grace_s)
        for thread in self._threads:
            thread.join(_JOIN_S)

    def abandon(self) -> None:
        """In a forked process: the child is not ours, only its pipe's copy is."""
        self._connection.close()

    def _write(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)
        except OSError:
            pass  # it has gone; the reader tells

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, LogLine):
                    hand_on(message.record)
                else:
                    self._listen(Heard(self, message))
        except (EOFError, OSError):
            pass
        except Exception:  # noqa: BLE001 - the loop's edge: what cannot be read ends the child, not our hearing of its end
            _log.exception("a message of child %d could not be read", self.pid)
        self._process.kill()  # its pipe is closed, so it is of no use any more
        self._process.wait()
        self.send(None)
        self._threads[0].join()
        self._connection.close()
        self._listen(Gone(self))
