"""The output reporter: sends what a container prints to the manager, when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobmanager.ipc.messages import FetchOutput, OutputChunk
from jobmanager.watching.transcript import Transcript

_MAX_CHUNK_BYTES = 65536


class OutputReporter:
    """Answers each ``FetchOutput`` once, as soon as there is something. Keeps no second copy of the output."""

    def __init__(self, job_id: str, send: Callable[[OutputChunk], object]) -> None:
        self._job_id = job_id
        self._send = send
        self._lock = threading.Lock()
        self._request: FetchOutput | None = None
        self._transcript: Transcript | None = None

    def request(self, request: FetchOutput) -> None:
        """Take a request, from another thread than the monitor's."""
        with self._lock:
            self._request = request
        self._reply()

    def update(self, transcript: Transcript) -> None:
        """The transcript has grown."""
        self._transcript = transcript
        if self._request is not None:
            self._reply()

    def _reply(self) -> None:
        with self._lock:
            request, transcript = self._request, self._transcript
            if request is None or transcript is None:
                return
            pieces = transcript.since(request.stdout_from, request.stderr_from, _MAX_CHUNK_BYTES)
            if not pieces:
                return
            self._request = None
        self._send(OutputChunk(job_id=self._job_id, container_name=request.container_name, pieces=tuple(pieces)))
