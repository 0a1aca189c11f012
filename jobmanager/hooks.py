"""``HookManager``: calls functions for events of a manager. A hook that raises or is slow harms no job."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from jobmanager.errors import InvalidValue
from jobmanager.events import Event, JobOutput
from jobmanager.model import _checks
from jobmanager.threads.log_thread import logger
from jobmanager.threads.user_code import call_user_code

__all__ = ["HookManager"]

_log = logger(__name__)

_MAX_WAITING = 100_000
_MAX_OUTPUT_WAITING_BYTES = 16 * 2**20
_E = TypeVar("_E", bound=Event)
Hook = Callable[[_E], object]


class HookManager:
    """Hooks by type of event. All are called one after the other in one thread, in the order of events.

    Events are kept for slow hooks up to a bound; past it new ones are dropped, and the log says so.
    """

    def __init__(self) -> None:
        self._hooks: list[tuple[type[Event], Callable[..., object]]] = []
        self._events: queue.Queue[Event | None] = queue.Queue(_MAX_WAITING)
        self._output_waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, event_type: type[_E], hook: Hook[_E]) -> None:
        """Have ``hook(event)`` called for every event of this type (``Event``: for all but ``JobOutput``)."""
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise InvalidValue(f"a hook is for a type of event, not for {event_type!r}")
        _checks.callback("a hook", hook, InvalidValue, "event")
        self._hooks.append((event_type, hook))  # no lock: a signal handler may call this

    def wants(self, event_type: type[Event]) -> bool:
        """Whether there is a hook for such an event."""
        return any(_wants(wanted, event_type) for wanted, _ in self._hooks)

    def fire(self, event: Event) -> bool:
        """Queue an event for its hooks; never blocks, never raises. False: no hook will get it."""
        if not self.wants(type(event)):
            return False
        if self._output_waiting_bytes + _output_size(event) > _MAX_OUTPUT_WAITING_BYTES:
            _log.debug("hooks are too slow: dropped output of job %s", getattr(event, "job_id", ""))  # the next one says so
            return False
        try:
            self._start()
            self._events.put_nowait(event)
            self._count_output(_output_size(event))
            return True
        except queue.Full:
            _log.warning("hooks are too slow: dropped %s", type(event).__name__)
        except RuntimeError as error:  # no thread can be started: too many, or the interpreter is ending
            _log.warning("hooks cannot be called for %s: %s", type(event).__name__, error)
        return False

    def drain(self, timeout_s: float) -> None:
        """End the thread after the events so far; a hook that hangs is left running."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        inside_hook = thread is threading.current_thread()  # it cannot wait for itself
        try:
            self._events.put(None, timeout=0.0 if inside_hook else timeout_s)
        except queue.Full:
            self._drop_all()
            with suppress(queue.Full):  # more events came meanwhile
                self._events.put_nowait(None)
        if not inside_hook:
            thread.join(timeout_s)

    def after_fork(self) -> None:
        """Replace thread, queue and lock in a forked child, where they cannot be used any more. The hooks stay."""
        self._events = queue.Queue(_MAX_WAITING)
        self._output_waiting_bytes = 0
        self._thread = None
        self._lock = threading.Lock()

    def _count_output(self, output_bytes: int) -> None:
        with self._lock:
            self._output_waiting_bytes += output_bytes

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._call_all, name="jobmanager-hooks", daemon=True)
                thread.start()
                self._thread = thread

    def _drop_all(self) -> None:
        """Make room for the end mark: the thread must see it when its hook returns."""
        _log.warning("hooks are too slow: dropped the last %d events", self._events.qsize())
        with suppress(queue.Empty):
            while True:
                self._count_output(-_output_size(self._events.get_nowait()))

    def _call_all(self) -> None:
        while self._call_next():
            pass

    def _call_next(self) -> bool:
        """False: it was the last. A call of its own, so that a thread that waits keeps no event."""
        event = self._events.get()
        if event is None:
            return False
        try:
            self._call_hooks(event)
        except Exception:  # noqa: BLE001 - the loop's edge: a bug here, or no memory, costs this event
            _log.exception("hooks could not be called for %s", type(event).__name__)
        return True

    def _call_hooks(self, event: Event) -> None:
        self._count_output(-_output_size(event))
        for wanted, hook in list(self._hooks):
            if _wants(wanted, type(event)):
                _call(hook, event)


def _wants(wanted: type[Event], event_type: type[Event]) -> bool:
    """Whether a hook for ``wanted`` gets such an event. Only hooks for ``JobOutput`` itself get output, as it is expensive."""
    return issubclass(event_type, wanted) and (event_type is not JobOutput or wanted is JobOutput)


def _output_size(event: Event | None) -> int:
    return len(event.data) + len(event.to_submitter) if isinstance(event, JobOutput) else 0


def _call(hook: Callable[..., object], event: Event) -> None:
    def failed() -> None:
        _log.exception("hook %r failed on %s", hook, type(event).__name__)

    call_user_code(hook, event, failed=failed)
