"""A manager that waits keeps nothing of the jobs that have ended: no input, no callback, and nothing that these hold."""

from __future__ import annotations

import gc
import queue
import weakref
from dataclasses import is_dataclass

from jobmanager import JobInput, JobManager, JobResult, Outcome, Task
from jobmanager.events import Event
from jobmanager.hooks import HookManager
from jobmanager.scheduling.waiting_queue import QueueEntry
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

TASK = Task(environment="busybox", command="true")
STDIN = b"the input of this test" * 100


class Callback:
    def __init__(self) -> None:
        self.results: queue.SimpleQueue[JobResult] = queue.SimpleQueue()

    def __call__(self, result: JobResult) -> None:
        self.results.put(result)


def kept(job_ids: set[str]) -> list[str]:
    """What knows of the input, and all else that the library has to say or do about these jobs. Other tests leave other ones."""
    gc.collect()
    found = []
    for each in gc.get_objects():
        is_input = isinstance(each, JobInput) and each.stdin == STDIN
        if is_input or (is_dataclass(type(each)) and getattr(each, "job_id", None) in job_ids):
            found.append(type(each).__name__)
    return [name for name in found if name != QueueEntry.__name__]  # it is small; a heap keeps up to 50 of those that have left


def test_input_and_callback_of_a_job_that_has_ended_are_let_go() -> None:
    hooks = HookManager()
    hooks.add(Event, lambda event: None)
    with FakeEngineServer() as server, JobManager(server.url, hook_manager=hooks) as manager:
        job_ids = set()
        for _ in range(3):
            callback = Callback()
            job_ids.add(manager.new_job(TASK, JobInput(stdin=STDIN), callback))
            assert callback.results.get(timeout=30).outcome is Outcome.SUCCESS
        seen = weakref.ref(callback)
        del callback, _

        eventually(lambda: seen() is None and kept(job_ids) == [], what="nothing is kept")
