"""Records that a client returns about its jobs, its hosts and its callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jobmanager.model.as_data import AsData

HAS_HOST = -1  # instead of a number of jobs before it


class _RunningJob(NamedTuple):
    job_id: str
    is_current_client_job: bool  # started by the client that asks
    info: str  # the task's name or environment, and the host
    launcher: str
    started_at: float  # when it was given its host, in seconds since 1970
    max_time: float  # wall-clock limit in seconds
    host: str


class RunningJob(_RunningJob, AsData):
    """A job that has a host."""

    __slots__ = ()


class _WaitingJob(NamedTuple):
    job_id: str
    is_current_client_job: bool
    info: str  # the task's name or environment; what it waits for, when that is memory
    launcher: str
    max_time: float


class WaitingJob(_WaitingJob, AsData):
    """A job that has no host yet."""

    __slots__ = ()


class _QueueInfo(NamedTuple):
    jobs_before: int  # waiting jobs that will be given a host before it, of those that could run it; -1 when it has one
    wait_s: float | None  # until it gets a host, estimated; None: unknown. When it runs, until its wall-clock limit ends it


class QueueInfo(_QueueInfo, AsData):
    """Where a job stands: the old client's pair."""

    __slots__ = ()

    @property
    def is_running(self) -> bool:
        """Whether it has a host."""
        return self.jobs_before == HAS_HOST

    @property
    def remaining_s(self) -> float | None:
        """In how many seconds its wall-clock limit will end it; None while it waits."""
        return self.wait_s if self.is_running else None


class _CallbackInfo(NamedTuple):
    threads: int
    running: int  # threads inside a callback
    waiting: int  # results whose callback has not been called yet


class CallbackInfo(_CallbackInfo, AsData):
    """How busy the callback threads are. When as many run as there are threads, results wait for one to return."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo(AsData):
    """A Docker host as the manager sees it now."""

    name: str
    url: str
    up: bool
    reason: str  # why it is down; empty when up
    running: int  # slots taken: containers that are starting, running or being removed
    limit: int  # slots in all; 0 while the host has never answered
    environments: tuple[str, ...]  # its environments; while it is down, those it had when it was last up
    older_versions: tuple[str, ...] = ()  # those whose image here is older than the newest one on any host
    memory_mib: int = 0  # of the machine; 0 while the host has never answered
    free_memory_mib: int = 0  # the most that a job may ask for to be placed there now
