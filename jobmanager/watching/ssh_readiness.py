"""The end of a debug session's start: its server is ready, and the manager is told at which port."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobmanager.engine.protocol import Engine, EngineError, Refused
from jobmanager.ipc.messages import MonitorContainer, SSHReady
from jobmanager.model._escapes import one_line

_log = logging.getLogger(__name__)

_READY = "ready"
_MAX_REASON_CHARS = 500


class SSHReadiness:
    """What the server in one container says of itself, once."""

    def __init__(self, job: MonitorContainer, engine: Engine, send: Callable[[SSHReady], object]) -> None:
        self._job = job
        self._engine = engine
        self._send = send
        self._is_ready = self._is_told = False

    def take(self, text: str) -> str:
        """It is ready, or cannot be started: returns why in one line, or nothing."""
        self._is_ready = self._is_ready or text == _READY
        return "" if text == _READY else one_line(text[:_MAX_REASON_CHARS])

    def tell(self) -> None:
        """Tell the manager once it is ready; raises Refused where nobody could log in."""
        if not self._is_ready or self._is_told or not self._job.with_ssh:
            return
        try:
            ports = self._engine.inspect(self._job.container_id).ports
        except EngineError as error:  # the next turn tries again
            _log.debug("ports of %s: %s", self._job.container_name, error)
            return
        if not ports:
            raise Refused("it published no port: a session needs a bridge network that can be reached from outside")
        self._is_told = True
        self._send(SSHReady(container_name=self._job.container_name, port=next(iter(ports.values()))))
