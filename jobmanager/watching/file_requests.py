"""The requests for a run's files, as its monitor makes them: one after the other, and all again where a connection was lost."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import Collected
from jobmanager.runner.frames import Entries, Fetch, ListFolder, Piece
from jobmanager.watching.collect import Collecting, Working, collecting

_TRIES = 3  # over new connections


class FileRequests:
    """Belongs to one monitor, and runs in its thread.

    Args:
        send: has a request sent to the runner.
    """

    def __init__(self, job: MonitorContainer, send: Callable[[ListFolder | Fetch], None], clock: Callable[[], float]) -> None:
        self.result: Collected | None = None  # once it is known
        self.took_s = 0.0
        self.is_working = False  # `go_on(None)` is to be called in each turn
        self._job = job
        self._send = send
        self._clock = clock
        self._began_at: float | None = None
        self._tries = 0
        self._collecting: Collecting | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether the job wants any file."""
        job = self._job
        return bool(job.collect or job.grading or job.tests)

    def begin(self) -> None:
        """Ask for the first file, on a connection that was just made, or is still the first."""
        self._tries += 1
        if self._tries > _TRIES:
            self.give_up("the connection to the host did not last until they had come")
            return
        self._began_at = self._clock() if self._began_at is None else self._began_at
        self._collecting = collecting(self._job)
        self.go_on(None)

    def go_on(self, message: Entries | Piece | None) -> None:
        """Take the next message of an answer; or None: at the beginning, and while it works."""
        if self._collecting is None:
            return
        try:
            wanted = self._collecting.send(message)
        except StopIteration as done:
            self._end(done.value)
            return
        self.is_working = isinstance(wanted, Working)
        if wanted is not None and not isinstance(wanted, Working):
            self._send(wanted)

    def give_up(self, why: str) -> None:
        """Nothing more will come."""
        self._end(Collected(error=why))

    def _end(self, result: Collected) -> None:
        self.result, self._collecting, self.is_working = result, None, False
        self.took_s = 0.0 if self._began_at is None else self._clock() - self._began_at
