"""Showing: a watch's word to the manager about what its container prints, when it is asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobmanager.ipc.messages import FetchOutput, OutputChunk
from jobmanager.watching.transcript import Transcript

_MOST_AT_ONCE = 65536


class Showing:
    """Answers each ``FetchOutput`` once, as soon as there is something. Keeps no second copy of the output."""

    def __init__(self, job_id: str, send: Callable[[OutputChunk], None]) -> None:
        self._job_id = job_id
        self._send = send
        self._lock = threading.Lock()
        self._asked: FetchOutput | None = None
        self._transcript: Transcript | None = None

    def ask(self, asked: FetchOutput) -> None:
        """The manager wants to know; from another thread than the watch's."""
        with self._lock:
            self._asked = asked
        self._answer()

    def look(self, transcript: Transcript) -> None:
        """The watch has read something."""
        self._transcript = transcript
        if self._asked is not None:
            self._answer()

    def _answer(self) -> None:
        with self._lock:
            asked, transcript = self._asked, self._transcript
            if asked is None or transcript is None:
                return
            pieces = transcript.since(asked.stdout_from, asked.stderr_from, _MOST_AT_ONCE)
            if not pieces:
                return
            self._asked = None
        self._send(OutputChunk(job_id=self._job_id, container_name=asked.container_name, pieces=tuple(pieces)))
