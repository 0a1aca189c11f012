"""``HookManager``: tells whoever wants to know what happens in a manager. A hook that raises or is slow harms no job."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
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
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._call_all, name="jobmanager-hooks", daemon=True)
                self._thread.start()
        try:
            self._events.put_nowait(event)
        except queue.Full:
            _log.warning("hooks are too slow: dropped %s", type(event).__name__)

    def drain(self, timeout_s: float) -> None:
        """Let the thread finish what was told so far and end; a hook that hangs is left behind."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return
        try:
            self._events.put(None, timeout=timeout_s)
        except queue.Full:
            return
        thread.join(timeout_s)

    def after_fork(self) -> None:
        """In a forked child: neither thread nor queue nor lock can be used any more; the hooks stay."""
        self._events = queue.Queue(_MOST_WAITING)
        self._thread = None
        self._lock = threading.Lock()

    def _call_all(self) -> None:
        while (event := self._events.get()) is not None:
            for wanted, hook in list(self._hooks):
                if isinstance(event, wanted):
                    _call(hook, event)


def _call(hook: Callable[..., object], event: Event) -> None:
    try:
        hook(event)
    except Exception:  # noqa: BLE001 - the loop's edge: a user's hook may raise anything
        _log.exception("hook %r failed on %s", hook, type(event).__name__)
