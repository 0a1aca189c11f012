"""``HookManager``: tells whoever wants to know what happens in a manager. A hook that raises or is slow harms no job."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from jobmanager.errors import InvalidValue
from jobmanager.events import Event

__all__ = ["HookManager"]

_log = logging.getLogger(__name__)

_MOST_WAITING = 100_000
_E = TypeVar("_E", bound=Event)
Hook = Callable[[_E], object]


class HookManager:
    """Hooks by type of event. All are called one after the other in one thread, in the order of events.

    Events are kept for slow hooks up to a bound; past it new ones are dropped, and the log says so.
    """

    def __init__(self) -> None:
        self._hooks: list[tuple[type[Event], Callable[..., object]]] = []
        self._events: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, event_type: type[_E], hook: Hook[_E]) -> None:
        """Have ``hook(event)`` called for every event of this type (``Event``: for all)."""
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise InvalidValue(f"a hook is for a type of event, not for {event_type!r}")
        if not callable(hook):
            raise InvalidValue(f"a hook must be callable, not {hook!r}")
        with self._lock:
            self._hooks.append((event_type, hook))

    def wants(self, event_type: type[Event]) -> bool:
        """Whether anybody would be told."""
        return any(issubclass(event_type, wanted) for wanted, _ in self._hooks)

    def fire(self, event: Event) -> None:
        """Tell of an event; never blocks, never raises."""
        if not self.wants(type(event)):
            return
        try:
            self._start()
            self._events.put_nowait(event)
        except queue.Full:
            _log.warning("hooks are too slow: dropped %s", type(event).__name__)
        except RuntimeError as error:  # no thread to be had: too many, or the interpreter is ending
            _log.warning("hooks cannot be told of %s: %s", type(event).__name__, error)

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
        self._thread = None
        self._lock = threading.Lock()

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
                self._events.get_nowait()

    def _call_all(self) -> None:
        while (event := self._events.get()) is not None:
            for wanted, hook in list(self._hooks):
                if isinstance(event, wanted):
                    _call(hook, event)


def _call(hook: Callable[..., object], event: Event) -> None:
    try:
        hook(event)
    except BaseException:  # noqa: BLE001 - the loop's edge: SystemExit too must not end the thread
        _log.exception("hook %r failed on %s", hook, type(event).__name__)
