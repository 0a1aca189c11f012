"""Starting a container on an engine that may fail for a moment."""

from __future__ import annotations

import logging

from jobmanager.engine.protocol import BeingRemoved, Engine, EngineFailed
from jobmanager.engine.runner_volume import is_runner_missing

__all__ = ["start"]

_log = logging.getLogger(__name__)


def start(engine: Engine, container: str) -> None:
    """Start it, and once more where the engine fails. Raises what ``Engine.start`` raises.

    The first process of a container is the OCI runtime's own, and has the container's limits already. It is a program in Go, and
    may die of them: with few ``processes``, if it needs another thread at a bad moment (runc issue 1914; such a start fails
    with "cannot start a stopped process" or "connection reset by peer"). Nothing of the image has run then, and the next start
    is likely to go well. Where the container runs after all, nothing runs twice: PID 1 waits for a waiter to send the job.
    """
    try:
        engine.start(container)
    except BeingRemoved:
        raise
    except EngineFailed as error:
        if is_runner_missing(error):  # what helps then is to bring it
            raise
        _log.info("container %s is started once more: %s", container, error)
        engine.start(container)
