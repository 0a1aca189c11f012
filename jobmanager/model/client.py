"""``Client``: what the ways in need of a manager, local or distributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Union, runtime_checkable

from jobmanager.model.job import JobInput
from jobmanager.model.problems import Answer
from jobmanager.model.result import Callback
from jobmanager.model.task import Task

InputData = Union[JobInput, Mapping[str, Answer], None]
Debug = Union[bool, str]  # False, True, or "ssh"
SSHCallback = Callable[[Union[str, None], Union[int, None], Union[str, None], Union[str, None]], object]


class RunningJob(NamedTuple):
    """A job that has a host."""

    job_id: str
    is_current_client_job: bool  # started by the client that asks
    info: str  # the task's name or environment, and the host
    launcher: str
    started_at: float  # when it was given its host, in seconds since 1970
    max_time: float  # wall-clock limit in seconds
    host: str


class WaitingJob(NamedTuple):
    """A job that has no host yet."""

    job_id: str
    is_current_client_job: bool
    info: str  # the task's name or environment; what it waits for, when that is memory
    launcher: str
    max_time: float


class QueueInfo(NamedTuple):
    """Where a job stands."""

    jobs_before: int  # waiting jobs that will be given a host before it, of those that could run it; -1 when it has one
    wait_s: float  # until it is given a host, approximately; when it runs, until its wall-clock limit ends it


class CallbackInfo(NamedTuple):
    """How busy the callback threads are. When as many run as there are threads, results wait for one to return."""

    threads: int
    running: int  # threads inside a callback
    waiting: int  # results whose callback has not been called yet


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """A Docker host as the manager sees it now."""

    name: str
    url: str
    up: bool
    reason: str  # why it is down; empty when up
    running: int  # slots taken: containers that are starting, running or being removed
    limit: int  # slots in all; 0 while the host has never answered
    environments: tuple[str, ...]  # what it has; what it had when it was last up
    older_versions: tuple[str, ...] = ()  # of these, what it has an image of that is older than the newest, here or elsewhere
    memory_mib: int = 0  # what the machine has; 0 while the host has never answered
    free_memory_mib: int = 0  # the most that a job may ask for to be placed there now


@runtime_checkable
class Client(Protocol):
    """What ``ClientSync``, ``ClientBuffer`` and ``ClientFuture`` work with."""

    def start(self) -> None:
        """Begin to take jobs."""

    def close(self) -> None:
        """Take no more jobs, let the accepted ones end, stop everything."""

    def new_job(
        self,
        task: Task,
        inputdata: InputData = None,
        callback: Callback | None = None,
        *,
        priority: int = 0,
        launcher_name: str = "Unknown",
        debug: Debug = False,
        ssh_callback: SSHCallback | None = None,
        job_id: str | None = None,
        supersede_key: str | None = None,
    ) -> str:
        """Accept a job and return its id; the callback is called exactly once, in this process, never from in here."""
        ...

    def kill_job(self, job_id: str) -> bool:
        """Ask for a job's end; False when it has ended already or is unknown."""
        ...

    def get_job_queue_info(self, job_id: str) -> QueueInfo | None:
        """Waiting jobs that will start before it (-1 when it has a host) and seconds; None when it has ended or is unknown."""
        ...

    def get_job_queue_snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """Running and waiting jobs."""
        ...

    def get_available_environments(self) -> dict[str, list[str]]:
        """Names of what can be run now, by environment type."""
        ...
