"""Orders: what the ledger wants done in the world. The manager carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from jobmanager.model.client import SSHCallback
from jobmanager.model.job import Request
from jobmanager.model.result import Callback, Step
from jobmanager.results.facts import RunFacts, Stopped
from jobmanager.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceJob:
    """Tell the hooks that a job was accepted."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitJob:
    """Have a submitter make sure that the container of this name exists and runs."""

    host: str
    container: str
    image: str
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchJob:
    """Put it on its host's wait queue."""

    host: str
    container: str
    container_id: str
    image_command: tuple[str, ...]
    request: Request
    token: str
    taken_over: bool
    elapsed_s: float
    stopped: Stopped | None  # an earlier waiter was about to stop it for that
    images: Mapping[str, str]  # of a grading job: what its host has, by environment; "" is its own
    kill_at_once: bool  # somebody asked for its end while nobody watched
    engine_id: str  # of the engine that it was placed on


@dataclass(frozen=True, slots=True, kw_only=True)
class FindWaiter:
    """Its host has no waiter at the moment: ask the ledger again, which knows what has happened to its job meanwhile."""

    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopJob:
    """Have its waiter kill it."""

    host: str
    job_id: str
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverSSH:
    """Onto the done queue: somebody can log in to a job's container."""

    job_id: str
    ssh_callback: SSHCallback
    address: str  # of the machine
    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverJob:
    """Onto the done queue."""

    request: Request
    callback: Callback | None
    verdict: Verdict
    facts: RunFacts | None
    host: str | None
    timings: dict[str, float]
    steps: tuple[Step, ...]
    ssh_callback: SSHCallback | None = None  # for debug="ssh", when nobody could log in


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteContainer:
    """Have a deleter remove it."""

    host: str
    container: str
    job_id: str
    made: bool = False  # it is known to be ours; else the name may be a stranger's
    delay_s: float = field(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceHostDown:
    """Tell the log and the hooks."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtHost:
    """Have its waiter look at once: it is suspected to be down, or its images to have changed."""

    host: str


Order = Union[
    AnnounceJob, SubmitJob, WatchJob, FindWaiter, StopJob, DeliverSSH, DeliverJob, DeleteContainer, AnnounceHostDown, LookAtHost
]
