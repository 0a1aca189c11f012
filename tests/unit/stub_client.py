"""A ``Client`` without anything behind it: jobs end when the test says so."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

from jobmanager import JobResult, Outcome
from jobmanager.errors import UnknownJob
from jobmanager.model.listings import QueueInfo


@dataclass
class Given:
    """What ``new_job`` was given."""

    task: object
    inputdata: object
    callback: object
    priority: int
    launcher_name: str
    debug: object
    supersede_key: object = None


class StubClient:
    """Calls back when told to; ``fast``: from another thread before ``new_job`` returns."""

    def __init__(self, *, fast: bool = False, error: Exception | None = None, dies_when_killed: bool = False) -> None:
        self.jobs: dict[str, Given] = {}
        self.killed: list[str] = []
        self._fast, self._error, self._dies_when_killed = fast, error, dies_when_killed
        self._ids = itertools.count(1)
        self.accepted = threading.Event()

    def start(self, *, wait=True):
        """Nothing to start."""

    def close(self):
        """Nothing to close."""

    def new_job(
        self,
        task,
        inputdata=None,
        callback=None,
        *,
        priority=0,
        launcher_name="Unknown",
        debug=False,
        ssh_callback=None,
        job_id=None,
        supersede_key=None,
        wait_s=0.0,
    ):
        if self._error is not None:
            raise self._error
        job_id = job_id or f"job-{next(self._ids)}"
        self.jobs[job_id] = Given(task, inputdata, callback, priority, launcher_name, debug, supersede_key)
        if self._fast:
            self.finish(job_id)
        self.accepted.set()
        return job_id

    def finish(self, job_id, outcome=Outcome.SUCCESS):
        """The job's end, in a thread of its own as a callback manager has."""
        callback = self.jobs[job_id].callback
        thread = threading.Thread(target=callback, args=(JobResult(job_id=job_id, outcome=outcome),))
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "the callback blocks"

    def kill_job(self, job_id):
        self.killed.append(job_id)
        if self._dies_when_killed:
            self.finish(job_id, Outcome.KILLED)
        return True

    def get_job_queue_info(self, job_id):
        return QueueInfo(0, 0.0) if job_id in self.jobs else None

    def get_job_queue_snapshot(self):
        return [], []

    def queue_length(self):
        return 0

    def get_available_environments(self):
        return {}

    def hosts(self):
        return []

    def follow(self, job_id, *, timeout_s=None):
        raise UnknownJob(job_id)

    def stop_following(self):
        """Nobody follows."""
