"""Long random histories, seeded: every job has one right result whatever dies meanwhile. ``make stress`` runs them."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter

import psutil
import pytest

from jobmanager import DockerHost, JobManager, JobResult, Limits, Task
from jobmanager.testing import FakeEngineServer
from tests.conftest import BUSYBOX, eventually
from tests.daemons import PrivateDaemon

SEED = int(os.environ.get("JOBMANAGER_STRESS_SEED", "1"))
JOBS_ON_FAKE = 20_000
JOBS_ON_REAL = 300
MOST_WAITING = 500


class History:
    """What was submitted, and what came back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.expected: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.wrong: list[JobResult] = []

    def submit(self, manager: JobManager, image: str, number: int) -> None:
        code = number % 5
        job_id = f"job-{number}"
        self.expected[job_id] = code
        task = Task(image, command=f"echo {job_id}; exit {code}", limits=Limits(wall_time_s=120))
        manager.new_job(task, callback=self._called_back, job_id=job_id)

    def _called_back(self, result: JobResult) -> None:
        with self._lock:
            self.calls[result.job_id] += 1
            right = (result.exit_code, result.stdout_text) == (self.expected[result.job_id], f"{result.job_id}\n")
            if not right:
                self.wrong.append(result)

    def check(self) -> None:
        assert self.calls.keys() == self.expected.keys(), "lost"
        assert max(self.calls.values()) == 1, "doubled"
        assert not self.wrong, self.wrong[:3]


def run_history(manager: JobManager, image: str, jobs: int, kills: int, within_s: float) -> History:
    """Submit jobs while children are killed at random moments."""
    chance = random.Random(SEED)
    history = History()
    kill_at = sorted(chance.sample(range(jobs), kills), reverse=True)
    for number in range(jobs):
        history.submit(manager, image, number)
        if kill_at and number >= kill_at[-1]:
            kill_at.pop()
            victims = [child for child in psutil.Process().children() if _is_ours(child)]
            if victims:
                chance.choice(victims).kill()
        eventually(lambda: len(manager.get_job_queue_snapshot()[1]) < MOST_WAITING, within_s=within_s)
    eventually(lambda: sum(history.calls.values()) >= jobs, within_s=within_s, what="all jobs have ended")
    return history


def _is_ours(process: psutil.Process) -> bool:
    try:
        return "jobmanager.engine.processes" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.timeout(1200)
def test_a_long_random_history_on_the_fake_engine_loses_and_doubles_nothing() -> None:
    with (
        FakeEngineServer(images=["fake"]) as fake,
        JobManager(DockerHost(fake.url, max_concurrent_jobs=8)) as manager,
    ):
        run_history(manager, "fake", JOBS_ON_FAKE, kills=200, within_s=600).check()


@pytest.mark.timeout(1200)
def test_a_random_history_on_a_real_engine_loses_and_doubles_nothing(private_engine: PrivateDaemon) -> None:
    with JobManager(DockerHost(private_engine.url, max_concurrent_jobs=6)) as manager:
        run_history(manager, BUSYBOX, JOBS_ON_REAL, kills=30, within_s=600).check()
