"""Delivery: a container is given its job, and whoever talks to it afterwards its open standard input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jobmanager.engine.pid1 import payload
from jobmanager.engine.protocol import Engine, EngineError, StdinLink
from jobmanager.grading.bundle import LINK_TOKEN_FILE, bundle
from jobmanager.grading.link import FromRunner, link_token
from jobmanager.ipc.messages import MonitorContainer

_FEED_S = 60.0


class Talk(Protocol):
    """Who talks to a container by its open standard input. All calls come from the watch's thread, and must not block."""

    def opened(self, link: StdinLink) -> None:
        """The container has its job, and its standard input is left open: it is yours to close."""
        ...

    def began(self) -> None:
        """PID 1 has begun the program, so what is written reaches it."""
        ...

    def said(self, message: FromRunner) -> None:
        """A grading container's runner says this."""
        ...

    def broke(self) -> None:
        """The connection to the container broke, while that may go on. May be called more than once."""
        ...

    def over(self) -> None:
        """The container has ended, or is about to be. May be called more than once."""
        ...


def deliver(
    engine: Engine, job: MonitorContainer, talk: Talk | None, still_takes_it: Callable[[], bool], *, started_at_s: float = 0.0
) -> None:
    """Write a job to its container; raises Unreachable and NotRunning. Where nobody talks, standard input ends with it.

    ``still_takes_it`` is asked while nothing is taken. ``started_at_s``: of the container, by the engine's clock; 0: not known.
    """
    if talk is None:
        engine.feed(job.container_id, _packed(job, started_at_s), _FEED_S, still_takes_it)
        return
    link = engine.open_stdin(job.container_id)
    try:
        link.write(_packed(job, started_at_s), _FEED_S, still_takes_it)
    except EngineError:
        link.close()
        raise
    talk.opened(link)


def _packed(job: MonitorContainer, started_at_s: float) -> bytes:
    files = dict(job.files)
    if job.grading is not None:
        files.update(bundle())
        files[LINK_TOKEN_FILE] = link_token(job.token).encode()
    return payload(
        job.token,
        command=job.command,
        env=job.env,
        files=files,
        stdin=job.stdin,
        executables=job.executables,
        made_at_s=started_at_s,
    )
