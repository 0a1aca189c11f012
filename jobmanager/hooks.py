"""``HookManager``: tells whoever wants to know what happens in a manager. A hook that raises or is slow harms no job."""

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

_MOST_WAITING = 100_000
_MOST_OUTPUT_WAITING = 16 * 2**20  # bytes
_E = TypeVar("_E", bound=Event)
Hook = Callable[[_E], object]


class HookManager:
    """Hooks by type of event. All are called one after the other in one thread, in the order of events.

    Events are kept for slow hooks up to a bound; past it new ones are dropped, and the log says so.
    """

    def __init__(self) -> None:
        self._hooks: list[tuple[type[Event], Callable[..., object]]] = []
        self._events: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._output_waiting = 0  # bytes of output among the events that wait
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, event_type: type[_E], hook: Hook[_E]) -> None:
        """Have ``hook(event)`` called for every event of this type (``Event``: for all but ``JobOutput``)."""
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise InvalidValue(f"a hook is for a type of event, not for {event_type!r}")
        _checks.callback("a hook", hook, InvalidValue, "event")
        self._hooks.append((event_type, hook))  # no lock: a signal handler may come between

    def wants(self, event_type: type[Event]) -> bool:
        """Whether anybody would be told."""
        return any(_is_for(wanted, event_type) for wanted, _ in self._hooks)

    def fire(self, event: Event) -> bool:
        """Tell of an event; never blocks, never raises. False: nobody will be told."""
        if not self.wants(type(event)):
            return False
        if self._output_waiting + _weight(event) > _MOST_OUTPUT_WAITING:
            _log.debug("hooks are too slow: dropped output of job %s", getattr(event, "job_id", ""))  # the next one tells
            return False
        try:
            self._start()
            self._events.put_nowait(event)
            self._weigh(_weight(event))
            return True
        except queue.Full:
            _log.warning("hooks are too slow: dropped %s", type(event).__name__)
        except RuntimeError as error:  # no thread to be had: too many, or the interpreter is ending
            _log.warning("hooks cannot be told of %s: %s", type(event).__name__, error)
        return False

    def drain(self, timeout_s: float) -> None:
        """Let the thread finish what was told so far and end; a hook that hangs is left behind."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        inside = thread is threading.current_thread()  # of a hook: it cannot wait for itself
        try:
            self._events.put(None, timeout=0.0 if inside else timeout_s)
        except queue.Full:
            self._drop_all()
            with suppress(queue.Full):  # somebody fires faster than that
                self._events.put_nowait(None)
        if not inside:
            thread.join(timeout_s)

    def after_fork(self) -> None:
        """In a forked child: neither thread nor queue nor lock can be used any more; the hooks stay."""
        self._events = queue.Queue(_MOST_WAITING)
        self._output_waiting = 0
        self._thread = None
        self._lock = threading.Lock()

    def _weigh(self, output_bytes: int) -> None:
        with self._lock:
            self._output_waiting += output_bytes

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._call_all, name="jobmanager-hooks", daemon=True)
                thread.start()
                self._thread = thread

    def _drop_all(self) -> None:
        """Make room for the word to end: the thread must see it whenever its hook comes back."""
        _log.warning("hooks are too slow: dropped the last %d events", self._events.qsize())
        with suppress(queue.Empty):
            while True:
                self._weigh(-_weight(self._events.get_nowait()))

    def _call_all(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._tell(event)
            except Exception:  # noqa: BLE001 - the loop's edge: a bug here, or no memory, costs this event
                _log.exception("hooks could not be told of %s", type(event).__name__)

    def _tell(self, event: Event) -> None:
        self._weigh(-_weight(event))
        for wanted, hook in list(self._hooks):
            if _is_for(wanted, type(event)):
                _call(hook, event)


def _is_for(wanted: type[Event], event_type: type[Event]) -> bool:
    """Output costs something, so it comes only to those who asked for it by its name."""
    return issubclass(event_type, wanted) and (event_type is not JobOutput or wanted is JobOutput)


def _weight(event: Event | None) -> int:
    return len(event.data) if isinstance(event, JobOutput) else 0


def _call(hook: Callable[..., object], event: Event) -> None:
    def failed() -> None:
        _log.exception("hook %r failed on %s", hook, type(event).__name__)

    call_user_code(hook, event, failed=failed)
