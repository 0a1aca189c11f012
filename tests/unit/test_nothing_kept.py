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


class Callback:
    def __init__(self) -> None:
        self.results: queue.SimpleQueue[JobResult] = queue.SimpleQueue()

    def __call__(self, result: JobResult) -> None:
        self.results.put(result)


def kept() -> list[str]:
    """What knows of a job, and what the library has to say or do about one."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, (Request, JobInput, Event))]
    return [type(each).__name__ for each in found] + [
        type(each).__name__ for each in gc.get_objects() if is_dataclass(type(each)) and hasattr(each, "request")
    ]


def test_input_and_callback_of_a_job_that_has_ended_are_let_go() -> None:
    hooks = HookManager()
    hooks.add(Event, lambda event: None)
    with FakeEngineServer() as server, JobManager(server.url, hook_manager=hooks) as manager:
        for _ in range(3):
            callback = Callback()
            manager.new_job(TASK, JobInput(stdin="x" * 1000), callback)
            assert callback.results.get(timeout=30).outcome is Outcome.SUCCESS
        seen = weakref.ref(callback)
        del callback, _

        eventually(lambda: seen() is None and kept() == [], what=f"kept: {kept()}")
