"""A child process as its parent sees it: messages out, messages in, and its end.

Two threads for each child keep the manager's own loop free: a child that is stopped in the middle of a message, or
that reads nothing, holds up nobody but itself.
"""

from __future__ import annotations

import io
import itertools
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Union

from jobmanager.ipc.messages import LogMessage, Shutdown
from jobmanager.ipc.process import end_process, start_process
from jobmanager.threads.log_thread import forward, logger

_log = logger(__name__)
_JOIN_S = 2.0
_STOP_TIMEOUT_S = 2.0  # for all together
_MIN_STOP_TIMEOUT_S = 0.05  # for each
_DYING_S = 0.5  # between the end of its pipe and its own end: its exit code shall be its own, not that of our SIGKILL
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A child has sent a message."""

    child: Child
    message: Any


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child has ended; nothing more will come of it."""

    child: Child
    why: str = ""  # its own last words, or its signal, or its exit code


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A message could not be sent to a child, which lives on."""

    child: Child
    message: Any
    reason: str


Listener = Callable[[Union[MessageReceived, ChildExited, SendFailed]], None]


class Child:
    """A running child process. ``listen`` gets MessageReceived for each message and ChildExited once, from threads of its own."""

    def __init__(self, module: str, listen: Listener) -> None:
        self._process, self._connection = start_process(module)
        self._listen = listen
        self._last_report = ""
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
        """Send a message; never blocks. A message to a child that has exited is lost."""
        self._outbox.put(message)

    def kill(self) -> None:
        """SIGKILL; ChildExited follows."""
        self._process.kill()

    def end(self, grace_s: float) -> None:
        """Wait for a child that has got a Shutdown; kill it after ``grace_s``. Then wait for its threads."""
        end_process(self._process, grace_s)
        for thread in self._threads:
            thread.join(_JOIN_S)

    def abandon(self) -> None:
        """In a forked process: the child is not ours, only its pipe's copy is."""
        self._connection.close()

    def _write(self) -> None:
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """False: it was the last. A call of its own, so that a thread that waits keeps no job's input."""
        message = self._outbox.get()
        if message is None:
            return False
        try:
            data = pickled(message)
        except Exception as error:  # noqa: BLE001 - the loop's edge: what cannot be sent costs itself, not all that comes after it
            _log.exception("%s cannot be sent to child %d", type(message).__name__, self.pid)
            self._listen(SendFailed(self, message, f"it cannot be sent to a child process: {type(error).__name__}: {error}"))
            return True
        try:
            self._connection.send_bytes(data)
        except Exception as error:  # noqa: BLE001 - half a message may be out, so the child can read nothing more
            if not isinstance(error, OSError):  # else it has exited; the reader reports that
                _log.exception("writing to child %d failed: ending it", self.pid)
            self._process.kill()
            return False
        return True

    def _receive(self, data: bytes) -> None:
        try:
            message = pickle.loads(data)
        except Exception:  # noqa: BLE001 - the loop's edge: it costs this message; a job's report is missed when it is overdue
            _log.exception("a message of child %d of %d bytes cannot be read", self.pid, len(data))
            return
        if isinstance(message, LogMessage):
            forward(message.record)
        elif isinstance(message, str):
            self._last_report = message
        else:
            self._listen(MessageReceived(self, message))

    def _read(self) -> None:
        try:
            while True:
                self._receive(self._connection.recv_bytes())
        except (EOFError, OSError):
            pass
        except Exception:  # noqa: BLE001 - the loop's edge: half a message has been read, so nothing more can be
            _log.exception("reading from child %d failed: ending it", self.pid)
        end_process(self._process, _DYING_S)  # its pipe is closed, so it is of no use any more
        self.send(None)
        self._threads[0].join()
        self._connection.close()
        self._listen(ChildExited(self, why=self._last_report or how_it_ended(self._process.returncode)))


def stop_children(children: Sequence[Child]) -> None:
    """Send all children a Shutdown, then wait for each; those that hang are killed."""
    for child in children:
        child.send(Shutdown())
    until = time.monotonic() + _STOP_TIMEOUT_S
    for child in children:
        child.end(max(_MIN_STOP_TIMEOUT_S, until - time.monotonic()))


def pickled(message: Any) -> bytes:
    """A message for a child. Raises PicklingError for what only the caller's own modules could make: no child imports them."""
    target = io.BytesIO()
    _Pickler(target, pickle.HIGHEST_PROTOCOL).dump(message)
    return target.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Asked for all that is no plain built-in value."""
        kind = value if isinstance(value, (type, FunctionType)) else type(value)
        if kind.__module__.partition(".")[0] not in ("jobmanager", "builtins"):
            raise pickle.PicklingError(f"{kind.__module__}.{kind.__qualname__} is none of the library's own types")
        return NotImplemented


def how_it_ended(code: int) -> str:
    """An exit code of ``subprocess`` in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"ended by signal {-code}"
