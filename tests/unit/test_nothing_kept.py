"""A manager that waits keeps nothing of the jobs that have ended: no input, no callback, and nothing that these hold."""

from __future__ import annotations

import gc
import queue
import weakref
from dataclasses import is_dataclass

from jobmanager import JobInput, JobManager, JobResult, Outcome, Task
from jobmanager.events import Event
from jobmanager.hooks import HookManager
from jobmanager.model.job import Request
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

TASK = Task(environment="busybox", command="true")
STDIN = b"the input of this test" * 100


class Callback:
    def __init__(self) -> None:
        self.results: queue.SimpleQueue[JobResult] = queue.SimpleQueue()

    def __call__(self, result: JobResult) -> None:
        self.results.put(result)


def kept() -> list[str]:
    """What knows of the input, and all else that the library has to say or do about its job. Other tests leave other ones."""
    gc.collect()
    records = [each for each in gc.get_objects() if is_dataclass(type(each))]
    jobs = [each for each in records if isinstance(each, Request) and each.inputs.stdin == STDIN]
    ids = {job.job_id for job in jobs}
    about = [each for each in records if getattr(each, "request", None) in jobs or getattr(each, "job_id", None) in ids]
    inputs = [each for each in records if isinstance(each, JobInput) and each.stdin == STDIN]
    return [type(each).__name__ for each in [*jobs, *about, *inputs]]


def test_input_and_callback_of_a_job_that_has_ended_are_let_go() -> None:
    hooks = HookManager()
    hooks.add(Event, lambda event: None)
    with FakeEngineServer() as server, JobManager(server.url, hook_manager=hooks) as manager:
        for _ in range(3):
            callback = Callback()
            manager.new_job(TASK, JobInput(stdin=STDIN), callback)
            assert callback.results.get(timeout=30).outcome is Outcome.SUCCESS
        seen = weakref.ref(callback)
        del callback, _

        eventually(lambda: seen() is None and kept() == [], what=f"kept: {kept()}")
