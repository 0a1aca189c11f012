"""``NodeJobs``: what a node holds, from the job's arrival until Redis has its result. One lock, no input or output."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from jobmanager.remote.records import JobHeader
from jobmanager.remote.store import HeldPlacement

_REMEMBERED = 100_000  # tokens that were used, and jobs whose results Redis has had


class HeldState(str, Enum):
    """Where a job that a node holds is."""

    TAKEN = "taken"  # from the queue; it may never be run here
    RUNNING = "running"  # the node's manager has it
    ENDED = "ended"  # its result is on its way to Redis


@dataclass(slots=True, kw_only=True)
class HeldJob:
    """One placement of a job on this node."""

    header: JobHeader = field(repr=False)
    token: str  # of the placement
    attempt: int = 1  # the number of the placement among the job's
    runs: int = 0  # programs of the job that were started, on any node
    state: HeldState = HeldState.TAKEN
    is_fenced: bool = False  # it is not ours any more: its end is told to nobody
    starts: int = 0  # of programs of it, here
    kill_reason: str = ""  # what the client's command said
    local_id: str = ""  # its id in the node's manager
    is_told: threading.Event = field(default_factory=threading.Event, repr=False)  # all news of it were sent, or there are none

    def __post_init__(self) -> None:
        self.local_id = self.header.job_id

    @property
    def r(self) -> str:
        """Of the job's acceptance."""
        return self.header.r

    def take_other_local_id(self) -> None:
        """The manager has an earlier job of this id still: one that was given up and is being removed."""
        self.local_id = f"{self.header.job_id[:150]}.{self.token[:12]}"


class NodeJobs:
    """The table. A slot is taken from a job's arrival until its end, or until its container is gone when it was fenced."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._jobs: dict[str, HeldJob] = {}  # by token
        self._used_tokens: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()  # R
        self._lock = threading.Lock()
        self._changes: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def used(self) -> int:
        """Slots."""
        with self._lock:
            return self._used()

    def has_room(self) -> bool:
        """Whether a slot is free."""
        with self._lock:
            return self._used() < self.slots

    def wait(self, timeout_s: float) -> None:
        """Until something changed. For one thread, which may be interrupted by signals."""
        try:
            self._changes.get(timeout=timeout_s)
            while True:
                self._changes.get_nowait()
        except queue.Empty:
            pass

    def wake(self) -> None:
        """End a wait. Also for signal handlers."""
        if self._changes.empty():  # else nobody waits
            self._changes.put(None)

    def take(self, job: HeldJob) -> bool:
        """Hold a job. False: its placement was used before."""
        with self._lock:
            if job.token in self._used_tokens:
                return False
            self._used_tokens[job.token] = None
            _bound(self._used_tokens)
            self._jobs[job.token] = job
            return True

    def run(self, job: HeldJob, runs: int) -> bool:
        """It is about to run. False: it was fenced meanwhile."""
        with self._lock:
            job.state, job.runs = HeldState.RUNNING, runs
            return not job.is_fenced

    def count_start(self, job: HeldJob) -> int:
        """A program of it was started. Returns how often that was here; the first time was counted as it was handed over."""
        with self._lock:
            job.starts += 1
            job.runs += job.starts > 1
            return job.starts

    def end(self, job: HeldJob) -> bool:
        """It has ended, and its slot is free. False: it was fenced, and is not held any more."""
        with self._lock:
            job.state = HeldState.ENDED
            if job.is_fenced:
                self._jobs.pop(job.token, None)
        self.wake()
        return not job.is_fenced

    def drop(self, token: str) -> None:
        """Redis has its result, or it was given back, or it is another's."""
        with self._lock:
            self._jobs.pop(token, None)
        self.wake()

    def remember_end(self, r: str) -> None:
        """Redis has had its result: it is not run here again, whoever has a placement for it."""
        with self._lock:
            self._ended[r] = None
            _bound(self._ended)

    def has_ended(self, r: str) -> bool:
        """Whether it has ended here."""
        return r in self._ended

    def fence(self, rs: tuple[str, ...] | None = None) -> list[HeldJob]:
        """These jobs (None: all) are not ours any more. Those that run are returned: kill them. Their results are dropped."""
        with self._lock:
            fenced = [job for job in self._jobs.values() if not job.is_fenced and (rs is None or job.r in rs)]
            for job in fenced:
                job.is_fenced = True
                if job.state is not HeldState.RUNNING:
                    self._jobs.pop(job.token, None)
        self.wake()
        return [job for job in fenced if job.state is HeldState.RUNNING]

    def find(self, r: str) -> HeldJob | None:
        """The job as it is held here."""
        with self._lock:
            return next((job for job in self._jobs.values() if job.r == r and not job.is_fenced), None)

    def find_local(self, local_id: str) -> HeldJob | None:
        """The job that the node's manager knows by this id."""
        with self._lock:
            return next((job for job in self._jobs.values() if job.local_id == local_id and not job.is_fenced), None)

    def held(self) -> list[HeldPlacement]:
        """R, token and runs of each job that was started here and whose result Redis has not."""
        with self._lock:
            return [
                HeldPlacement(job.r, job.token, job.runs, job.attempt)
                for job in self._jobs.values()
                if job.state is not HeldState.TAKEN and not job.is_fenced
            ]

    def running(self) -> list[HeldJob]:
        """Those that the manager has."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state is HeldState.RUNNING]

    def __len__(self) -> int:
        with self._lock:
            return len(self._jobs)

    def _used(self) -> int:
        return sum(job.state is not HeldState.ENDED for job in self._jobs.values())


def _bound(remembered: OrderedDict[str, None]) -> None:
    while len(remembered) > _REMEMBERED:
        remembered.popitem(last=False)
