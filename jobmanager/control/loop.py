"""The loop: one thread that carries out the ledger's commands and takes what the children report.

All that a child reports, and its end, comes through one inbox. So nothing here needs a lock. Nothing here waits for an
engine: that is what the children are for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from jobmanager._callback_manager import CallbackManagers
from jobmanager.control.child_process import ChildExited, MessageReceived, SendFailed
from jobmanager.control.children import Children
from jobmanager.control.dispatch import Dispatch
from jobmanager.control.environment_reporter import EnvironmentReporter
from jobmanager.control.reports import Reports
from jobmanager.control.settings import ManagerSettings
from jobmanager.control.timers import Timers
from jobmanager.hooks import HookManager
from jobmanager.live_output.fan_out import LiveOutputFanOut
from jobmanager.scheduling.commands import Command
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_TICK_S = 1.0
_JOIN_S = 5.0


class _Wake:
    """The ledger has changed."""


class _Close:
    """Leave the loop."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A job has a new reader of its output."""

    job_id: str


_Item = Union[MessageReceived, ChildExited, SendFailed, _Wake, _Close, _Followed]


class Loop:
    """Connects one ledger with its children. ``start``, then ``wake`` whenever the ledger has changed, then ``close``."""

    def __init__(
        self,
        ledger: Ledger,
        callbacks: CallbackManagers,
        hooks: HookManager,
        settings: ManagerSettings,
        *,
        manager_id: str,
    ) -> None:
        self._ledger = ledger
        self._callbacks = callbacks
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._children = Children(self._inbox.put, settings, manager_id=manager_id, cannot_start=ledger.host_down)
        self.live_outputs = LiveOutputFanOut(
            hooks,
            source_of=ledger.output_source,
            fetch=self._children.waiters.fetch_output,
            on_followed=lambda job_id: self._inbox.put(_Followed(job_id)),
        )
        self._timers = Timers()
        environments = EnvironmentReporter(ledger, hooks)
        self._reports = Reports(
            ledger,
            hooks,
            self._children,
            live_outputs=self.live_outputs,
            timers=self._timers,
            environments=environments,
        )
        self._dispatch = Dispatch(
            ledger,
            callbacks,
            hooks,
            self._children,
            live_outputs=self.live_outputs,
            timers=self._timers,
            environments=environments,
            settings=settings,
            manager_id=manager_id,
        )
        self._commands: deque[Command] = deque()
        self._next_tick = 0.0
        self._thread = threading.Thread(target=self._turn_until_closed, name="jobmanager-loop", daemon=True)

    def start(self) -> None:
        """Start the children and the thread."""
        self._children.start()
        self._thread.start()

    def wake(self) -> None:
        """The ledger has changed."""
        self._inbox.put(_Wake())

    def close(self) -> None:
        """End the thread, then the children."""
        self._inbox.put(_Close())
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        self._children.close()
        self.live_outputs.close()

    def abandon(self) -> None:
        """In a forked child: let go of the pipes; thread and children are the parent's."""
        self.live_outputs.abandon()
        self._children.abandon()

    def _turn_until_closed(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """False: it was the last. A call of its own, so that the thread keeps no message while it waits for the next."""
        item = self._next()
        if isinstance(item, _Close):
            return False
        _guarded(self._take, item)
        _guarded(self._do_what_is_due)
        _guarded(self._take_commands)
        _guarded(self._children.pool.dispatch)
        return True

    def _next(self) -> _Item:
        due_at = min(self._next_tick, self._timers.next_at() or self._next_tick, self._children.pool.due_at())
        try:
            return self._inbox.get(timeout=max(0.0, due_at - time.monotonic()))
        except queue.Empty:
            return _Wake()

    def _take(self, item: _Item) -> None:
        if isinstance(item, _Followed):
            self.live_outputs.update(item.job_id)
        elif isinstance(item, (MessageReceived, ChildExited, SendFailed)):
            self._reports.take(item)

    def _do_what_is_due(self) -> None:
        while (command := self._timers.take_due()) is not None:
            self._dispatch.carry_out(command)
        if (now := time.monotonic()) >= self._next_tick:
            self._next_tick = now + _TICK_S
            for work in (self._ledger.tick, self._callbacks.log_slow_callbacks, *self._children.due_work()):
                _guarded(work)

    def _take_commands(self) -> None:
        self._commands.extend(self._ledger.take_commands())
        while self._commands:
            self._dispatch.carry_out(self._commands.popleft())


def _guarded(step: Callable[..., None], *arguments: object) -> None:
    try:
        step(*arguments)
    except Exception:  # noqa: BLE001 - the loop's edge: one bad message must not stop all jobs
        _log.exception("the manager's loop met an error and goes on")
