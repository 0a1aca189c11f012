"""A dispatcher in a process of its own: a worker's child, or alone (``jobmanager dispatcher``).

A child is told which cluster it is for over its standard input, as arguments and environment can be read by others. It ends
when that pipe is closed, or when its parent is another one: so it never outlives its worker.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from jobmanager.ipc.boot import continue_when_parent_ends
from jobmanager.remote.connect import open_redis
from jobmanager.remote.dispatcher import Dispatcher
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts

_LOG = logging.getLogger(__name__)
_PARENT_CHECK_S = 1.0
_END_S = 10.0
_PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # by how many children in a row have ended by themselves
_GOOD_S = 60.0  # a child that lived so long was no failure
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """Which cluster a dispatcher is for."""

    url: str = field(repr=False)
    namespace: str
    keyring: Keyring
    timeouts: ClusterTimeouts
    name: str  # for logs: that of its node, for one

    def to_json(self) -> str:
        """For a child's standard input, and for nothing else: the keys are in it."""
        own = {"url": self.url, "namespace": self.namespace, "keys": self.keyring.secret_text(), "name": self.name}
        return json.dumps({**own, "timeouts": asdict(self.timeouts)})

    @classmethod
    def from_json(cls, text: str) -> DispatcherSettings:
        """What a parent has written."""
        data = json.loads(text)
        keyring, timeouts = Keyring.parse(data.pop("keys")), ClusterTimeouts(**data.pop("timeouts"))
        return cls(keyring=keyring, timeouts=timeouts, **data)


def run_dispatcher(settings: DispatcherSettings, stop: threading.Event) -> None:
    """Be a dispatcher until ``stop`` is set."""
    with open_redis(settings.url, settings.timeouts) as redis:
        store = ClusterStore(redis, settings.namespace, settings.timeouts)
        Dispatcher(store, settings.keyring, settings.timeouts, settings.name).run(stop)


def run_alone(settings: DispatcherSettings) -> None:
    """Be a dispatcher in this process's main thread, until SIGTERM or SIGINT."""
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        run_dispatcher(settings, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class DispatcherChild:
    """A worker's dispatcher. ``look`` is to be called now and then: it starts another one when it has ended.

    One thread has it: the kernel's notice of the parent's end is bound to the thread that starts a child.
    """

    def __init__(self, settings: DispatcherSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._ends = 0  # in a row
        self._start_at = clock()

    @property
    def pid(self) -> int | None:
        """Of the process; None when there is none."""
        return None if self._process is None else self._process.pid

    def look(self) -> None:
        """Start it, or another one when it has ended and some time has passed."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._ends = 1 if self._clock() - self._started_at >= _GOOD_S else self._ends + 1
            self._start_at = self._clock() + _PAUSES_S[min(self._ends, len(_PAUSES_S) - 1)]
            _LOG.warning("the dispatcher of %s has ended with code %d; another one is started", self._settings.name, code)
            self._let_go()
        if self._process is None and self._clock() >= self._start_at:
            self._start()

    def close(self, timeout_s: float = _END_S) -> None:
        """End it: it lets others lead at once. It is killed when it has not ended in time."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._let_go()

    def _start(self) -> None:
        here = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        self._started_at = self._clock()
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended already: the next look sees it
            self._process.stdin.write(f"{self._settings.to_json()}\n".encode())
            self._process.stdin.flush()

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process = None


def main() -> None:
    """The child."""
    parent = os.getppid()
    continue_when_parent_ends()
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal or the service manager: its worker says when it ends
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format=_FORMAT, stream=sys.stderr)
    stop = threading.Event()
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        return
    settings = DispatcherSettings.from_json(line.decode())
    threading.Thread(target=_end_with_parent, args=(parent, stop), daemon=True).start()
    run_dispatcher(settings, stop)


def _end_with_parent(parent: int, stop: threading.Event) -> None:
    """Set ``stop`` when the pipe from the parent is closed. A sibling may hold it open: so look for another parent, too."""
    while not stop.is_set():
        readable, _, _ = select.select([0], [], [], _PARENT_CHECK_S)
        if os.getppid() != parent or (readable and not os.read(0, 4096)):
            stop.set()


if __name__ == "__main__":
    main()
