"""The open jobs of one client: what it must know of each until its callback has returned.

A job is decided once, under the table's lock, whatever Redis delivers twice. It stays in the table until its callback has
returned, so that its id is not used again before. While it is not decided, what was sent is kept: when Redis has lost its data,
it is announced again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from jobmanager.control.lifetime import closed
from jobmanager.errors import DuplicateJob, QueueFull
from jobmanager.model.job import Request
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback, JobResult, SSHCallback
from jobmanager.model.task import Task
from jobmanager.remote.payload import Packed
from jobmanager.remote.store import NewJob, SeenState
from jobmanager.results.verdict import KillReason, Verdict, killed_verdict

WHAT = "RemoteClient"  # in messages
_MAX_DECIDED = 1000  # results that wait for callbacks, at least; while there are as many, no more are read


@dataclass(slots=True, kw_only=True)
class OpenJob:
    """A job whose callback has not returned yet. The table's lock guards what changes."""

    job_id: str
    r: str = ""  # empty: it needs no container, and Redis knows nothing of it
    callback: Callback | None = None
    ssh_callback: SSHCallback | None = None  # None when there is none, or it was called
    wall_s: float = 0.0
    title: str = ""
    launcher: str = ""
    sent: NewJob | None = None  # None: it needs no container, or a process before this one has sent it
    packed: Packed | None = field(default=None, repr=False)  # with its blobs, should they have to be uploaded again
    request: Request | None = field(default=None, repr=False)  # until it is accepted
    task: Task | Pipeline | None = field(default=None, repr=False)  # whose functions are to check its cases
    losses: int = 0  # how often Redis had lost data when it was about to be sent
    is_accepted: bool = False
    seen: SeenState = field(default_factory=SeenState)
    placed_at: float = 0.0  # when it was seen to have a node, by the clock
    killed: KillReason | None = None
    result: JobResult | None = field(default=None, repr=False)  # once it is decided
    entries: list[str] = field(default_factory=list)  # of its result in the client's stream


class OpenJobs:
    """The table. Thread-safe."""

    def __init__(
        self,
        *,
        max_decided: int,
        publish: Callable[[OpenJob, JobResult], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``publish`` gets jobs that are given up, with their result."""
        self._changed = threading.Condition()  # guards what follows
        self._by_id: dict[str, OpenJob] = {}
        self._by_r: dict[str, OpenJob] = {}
        self._inherited: dict[str, OpenJob] = {}  # by R: of a process before this one that had the client's id
        self._withdrawn: set[str] = set()  # R of what may have been accepted although new_job raised
        self._to_kill: dict[str, KillReason] = {}  # by R: kills that Redis has not been told
        self._losses = 0  # how often Redis has lost data
        self._perhaps_lost: list[OpenJob] = []  # accepted before it lost data, or after
        self._decided = 0
        self._max_decided = max(max_decided, _MAX_DECIDED)
        self._publish = publish
        self._accepting = True
        self._clock = clock

    # ---- new jobs

    def add(self, job: OpenJob) -> None:
        """Take a job in before it is sent: its result may be quicker than the answer.

        Raises:
            Closed: no more jobs are taken.
            DuplicateJob: an open one has its id.
            QueueFull: too many results wait for callbacks.
        """
        with self._changed:
            if not self._accepting:
                raise closed(WHAT)
            if job.job_id in self._by_id:
                raise DuplicateJob(f"a job with the id {job.job_id!r} has not ended yet, or its callback has not returned")
            if self._decided >= self._max_decided:
                raise QueueFull(f"{self._decided} results wait for their callbacks already: are all callbacks blocked?")
            self._by_id[job.job_id] = job
            job.losses = self._losses
            if job.r:
                self._by_r[job.r] = job

    def accepted(self, job: OpenJob) -> Request | None:
        """The cluster has it. Its request for the first one who says so, else None."""
        with self._changed:
            if not job.is_accepted and job.killed is not None and job.result is None and job.r:
                self._to_kill[job.r] = job.killed  # Redis did not know the job yet when it was told
            job.is_accepted = True
            if job.losses != self._losses:
                job.losses = self._losses
                self._perhaps_lost.append(job)
            request, job.request = job.request, None
            return request

    def refused(self, job: OpenJob) -> None:
        """The cluster has not taken it."""
        with self._changed:
            self._forget(job)

    def withdraw(self, job: OpenJob) -> bool:
        """Nobody knows whether it was accepted, and ``new_job`` is going to raise. False: it was, for its result is here."""
        with self._changed:
            if job.result is not None or job.is_accepted:
                return False
            self._forget(job)
            self._withdrawn.add(job.r)
            return True

    def withdrawn(self) -> list[str]:
        """R of each job that was withdrawn and may be in Redis."""
        with self._changed:
            return list(self._withdrawn)

    def is_gone(self, r: str) -> None:
        """A withdrawn job is not in Redis any more."""
        with self._changed:
            self._withdrawn.discard(r)

    def inherit(self, open_before: dict[str, str]) -> None:
        """Take in what a process before this one had open: job ids by R."""
        with self._changed:
            for r, job_id in open_before.items():
                if r not in self._by_r and job_id not in self._by_id:
                    job = OpenJob(job_id=job_id, r=r, is_accepted=True)
                    self._by_id[job_id] = self._by_r[r] = self._inherited[r] = job

    def adopt(self, callback: Callback) -> set[str]:
        """Let what was inherited have a callback, and be as any other job: the ids."""
        with self._changed:
            adopted, self._inherited = list(self._inherited.values()), {}
            for job in adopted:
                job.callback = callback
            return {job.job_id for job in adopted}

    def accepted_and_undecided(self) -> list[OpenJob]:
        """The jobs that the cluster has, or had, and that have no result."""
        with self._changed:
            return [job for job in self._own() if job.r and job.is_accepted and job.result is None]

    # ---- what is seen

    def by_id(self, job_id: str) -> OpenJob | None:
        """The open job of this id."""
        return self._by_id.get(job_id)

    def by_r(self, r: str) -> OpenJob | None:
        """The open job that was sent as this R."""
        return self._by_r.get(r)

    def saw(self, job: OpenJob, seen: SeenState) -> bool:
        """A node has it, or it waits again. False: that is no news."""
        with self._changed:
            if job.result is not None or job.seen == seen:
                return False
            if seen.state != "waiting" and job.seen.token != seen.token:
                job.placed_at = self._clock()
            job.seen = seen
            return True

    def take_ssh_callback(self, job: OpenJob) -> SSHCallback | None:
        """Its SSH callback, once, unless it is decided."""
        with self._changed:
            if job.result is not None:
                return None
            ssh_callback, job.ssh_callback = job.ssh_callback, None
            return ssh_callback

    def running_for_s(self, job: OpenJob) -> float:
        """For how long it has had its node."""
        return max(0.0, self._clock() - job.placed_at)

    # ---- ends

    def decide(self, job: OpenJob, result: JobResult, entry: str = "") -> OpenJob | None:
        """Its one result. The job, for whoever is the first and is to have it called back; None: it was decided before.

        None as well for an inherited job that nobody has adopted: its result stays in Redis.
        """
        with self._changed:
            if job.r in self._inherited or self._by_id.get(job.job_id) is not job:
                return None
            if entry and entry not in job.entries:
                job.entries.append(entry)
            if job.result is not None:
                return None
            job.result, job.sent, job.packed, job.is_accepted = result, None, None, True
            self._decided += 1
            self._to_kill.pop(job.r, None)
            self._changed.notify_all()
            return job

    def called_back(self, job_id: str) -> OpenJob | None:
        """Its callback has returned: it is open no more."""
        with self._changed:
            job = self._by_id.get(job_id)
            if job is None or job.result is None:
                return None
            self._decided -= 1
            self._forget(job)
            return job

    def is_full_of_results(self) -> bool:
        """Whether so many results wait for callbacks that no more are to be read."""
        return self._decided >= self._max_decided

    # ---- kills

    def kill(self, job: OpenJob, reason: KillReason) -> bool:
        """Its end is wanted. False: it is decided."""
        with self._changed:
            if job.result is not None:
                return False
            job.killed = job.killed or reason
            return True

    def say_kill_later(self, job: OpenJob) -> None:
        """Redis could not be told that its end is wanted."""
        with self._changed:
            if job.result is None and job.r and job.killed is not None:
                self._to_kill[job.r] = job.killed

    def kill_all(self, reason: KillReason) -> None:
        """Want the end of every job of this process. What was inherited goes on, unless it was adopted."""
        with self._changed:
            for job in self._own():
                if self.kill(job, reason):
                    self.say_kill_later(job)

    def unsaid_kills(self) -> list[tuple[OpenJob, KillReason]]:
        """The kills that Redis has not been told."""
        with self._changed:
            return [(self._by_r[r], reason) for r, reason in self._to_kill.items() if r in self._by_r]

    def kill_said(self, job: OpenJob) -> None:
        """Redis has been told."""
        with self._changed:
            self._to_kill.pop(job.r, None)

    def data_lost(self) -> list[OpenJob]:
        """Redis has lost data: each job that is to be announced again. Their kills are to be said again, too."""
        with self._changed:
            self._losses += 1
            jobs = [job for job in self._by_r.values() if job.result is None]
            self._to_kill.update({job.r: job.killed for job in jobs if job.killed is not None})
            return [job for job in jobs if job.sent is not None and job.is_accepted]

    def perhaps_lost(self) -> list[OpenJob]:
        """Jobs of which nobody knows whether they were accepted before or after Redis lost data."""
        with self._changed:
            self._perhaps_lost = [job for job in self._perhaps_lost if job.sent is not None]
            return list(self._perhaps_lost)

    def not_lost(self, jobs: Collection[OpenJob]) -> None:
        """These were said again."""
        with self._changed:
            self._perhaps_lost = [job for job in self._perhaps_lost if all(job is not each for each in jobs)]

    def undecided(self) -> list[OpenJob]:
        """All jobs of this process that have no result."""
        with self._changed:
            return [job for job in self._own() if job.result is None]

    # ---- the table's end, as ``Drain`` wants it

    def stop_accepting(self) -> bool:
        """Refuse every further job. Returns False when that was so already."""
        with self._changed:
            was_accepting, self._accepting = self._accepting, False
            self._changed.notify_all()
            return was_accepting

    def is_accepting(self) -> bool:
        """Whether it takes jobs."""
        return self._accepting

    def wait_until_refusing(self, timeout_s: float) -> None:
        """Block until no more jobs are taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._accepting, timeout_s)

    def unfinished(self) -> int:
        """The number of jobs of this process whose callback has not returned."""
        with self._changed:
            return len(self._by_id) - len(self._inherited)

    def wait_until_decided(self, timeout_s: float) -> bool:
        """Block until every result is there. Returns False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._decided == len(self._by_id) - len(self._inherited), timeout_s)

    def give_up_all(self) -> None:
        """End every job that has not ended after its kill: Redis or its node does not answer."""
        for job in self.undecided():
            self.give_up(job, killed_verdict(job.killed or KillReason.CLOSE))

    def give_up(self, job: OpenJob, verdict: Verdict) -> None:
        """End a job whose result will not come."""
        result = JobResult(job_id=job.job_id, outcome=verdict.outcome, text=verdict.text, evidence=verdict.evidence)
        if (ready := self.decide(job, result)) is not None:
            self._publish(ready, result)

    def wait_until_called_back(self, timeout_s: float | None) -> bool:
        """Block until every callback has returned. Returns False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._by_id) == len(self._inherited), timeout_s)

    def _own(self) -> Iterator[OpenJob]:
        return (job for job in self._by_id.values() if job.r not in self._inherited)

    def _forget(self, job: OpenJob) -> None:
        self._by_id.pop(job.job_id, None)
        self._by_r.pop(job.r, None)
        self._inherited.pop(job.r, None)
        self._to_kill.pop(job.r, None)
        self._changed.notify_all()
