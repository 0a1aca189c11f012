"""A program whose main thread is interrupted by signals: run as ``python -m tests.unit.interrupted SCENARIO URL``.

A signal is raised before the first line, the second, and so on, of what the main thread does in the library, until a
call came to its end without one. So every moment has its turn, whatever the machine does.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from jobmanager import ClientBuffer, ClientSync, DockerHost, JobInput, JobManager, JobResult, Task
from jobmanager.errors import JobManagerError, UnknownJob
from tests.conftest import children, eventually, our_threads

TASK = Task("busybox", command="true")
SLEEPER = Task("busybox", command="sleep 3000")
LIFETIME = ("manager", "control", "threads/main_thread")  # files and folders of ours
LONGEST_S = 240.0  # a hang is what this is for; a busy machine is only slow


class Moment:
    """Raises SIGTERM before line ``number`` of what the main thread does in our files while it is entered."""

    def __init__(self, number: int, files: tuple[str, ...] = ("",)) -> None:
        self.left = number
        self._files = files

    def __enter__(self) -> Moment:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    @property
    def has_come(self) -> bool:
        return self.left <= 0

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        path = frame.f_code.co_filename
        if not any(f"{os.sep}jobmanager{os.sep}{name}" in path for name in self._files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)
        return self._trace


def each_moment(act: Callable[[Moment], None], *files: str, every: int = 1) -> None:
    moments = 0
    while True:
        moment = Moment(1 + moments * every, files or ("",))
        act(moment)
        if not moment.has_come:
            break
        moments += 1
    print(moments, "moments")


def nothing_is_left() -> None:
    eventually(lambda: not our_threads() and not children(), what=f"left: {our_threads()} {children()}")


def handled_by(handler: Callable[[], object]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: handler())


def interrupt() -> None:
    raise KeyboardInterrupt


# ---- scenarios


def closed_while_it_starts(url: str) -> None:
    def act(moment: Moment) -> None:
        manager = JobManager(url)
        handled_by(lambda: manager.close(kill=True))
        with suppress(JobManagerError), moment:
            manager.start()
        manager.close()
        nothing_is_left()

    each_moment(act, *LIFETIME, every=2)


def closed_while_it_closes(url: str) -> None:
    def act(moment: Moment) -> None:
        results: list[JobResult] = []
        manager = JobManager(url, pool_size=1)
        manager.start()
        handled_by(lambda: manager.close(kill=True))
        manager.new_job(SLEEPER, None, results.append)
        with moment:
            manager.close(drain_timeout_s=0.05)
        assert len(results) == 1
        nothing_is_left()

    each_moment(act, *LIFETIME, every=3)


def raised_while_it_starts_and_closes(url: str) -> None:
    def act(moment: Moment) -> None:
        manager = JobManager(url, pool_size=1)
        handled_by(interrupt)
        with suppress(KeyboardInterrupt), moment:
            manager.start()
            manager.close()
        manager.close()
        nothing_is_left()

    each_moment(act, *LIFETIME, every=3)


def called_from_a_handler_at_every_moment(url: str) -> None:
    """The handler does everything that can be done, in the middle of the same."""
    results: list[JobResult] = []
    ids: list[str] = []
    with JobManager(DockerHost(url, max_concurrent_jobs=8)) as manager:
        buffer = ClientBuffer(manager)
        kept = manager.new_job(SLEEPER)

        def everything() -> None:
            ids.append(manager.new_job(TASK, None, results.append))
            ids.append(manager.new_job(TASK, None, results.append))
            manager.kill_job(ids[-1])
            manager.get_job_queue_info(ids[-2])
            manager.get_job_queue_snapshot()
            manager.get_available_environments()
            manager.hosts()
            manager.callbacks()
            with manager.follow(kept, timeout_s=0) as reader, suppress(JobManagerError):
                next(reader)
            future = manager.submit(SLEEPER)
            future.cancel()
            assert not buffer.is_done(buffer.new_job(SLEEPER))

        handled_by(everything)

        def act(moment: Moment) -> None:
            with moment:
                everything()
            for each in list(buffer._waiting):
                manager.kill_job(each)

        each_moment(act)
        ClientSync(manager).new_job(TASK)
        manager.kill_job(kept)
        eventually(lambda: len(results) == len(ids), what=f"{len(results)} of {len(ids)} were called back")
    assert sorted(result.job_id for result in results) == sorted(ids)
    nothing_is_left()


def raised_in_every_call(url: str) -> None:
    """What was accepted is called back once, whatever the interrupted caller knows of it."""
    results: list[JobResult] = []
    with JobManager(DockerHost(url, max_concurrent_jobs=8)) as manager:
        handled_by(interrupt)

        def act(moment: Moment) -> None:
            with suppress(KeyboardInterrupt), moment:
                job_id = manager.new_job(SLEEPER, None, results.append)
                manager.kill_job(job_id)
                manager.get_job_queue_snapshot()
                manager.hosts()
                with suppress(UnknownJob), manager.follow(manager.new_job(TASK)) as reader:  # it may be over before it is followed
                    list(reader)
                manager.submit(TASK).result(10)
            for job in manager.get_job_queue_snapshot()[1]:
                manager.kill_job(job.job_id)

        each_moment(act, *LIFETIME, "client", "live_output", "future")
        manager.close(kill=True)
    assert len({result.job_id for result in results}) == len(results)
    nothing_is_left()


def raised_in_a_batch(url: str) -> None:
    """Whatever line ctrl-C comes at: nothing of the batch goes on, and the next one has the file."""
    with tempfile.TemporaryDirectory() as folder, JobManager(DockerHost(url, max_concurrent_jobs=8)) as manager:
        handled_by(interrupt)
        count = itertools.count()

        def act(moment: Moment) -> None:
            inputs = [JobInput(stdin=str(next(count))) for _ in range(2)]
            with suppress(KeyboardInterrupt), moment:
                for _ in manager.map(TASK, inputs, results=f"{folder}/results", at_once=2):
                    pass
            gc.collect()
            if moment.has_come:
                eventually(lambda: manager.get_job_queue_snapshot() == ([], []))
            else:
                assert len(list(manager.map(TASK, inputs, results=f"{folder}/results"))) == 2

        each_moment(act, "batch", every=5)
    nothing_is_left()


def waiting_for_hosts(url: str) -> None:
    """The main thread waits in ``start``, as the engine takes connections and does not answer; then the signal comes."""
    manager = JobManager(url)
    handled_by(lambda: manager.close(kill=True))

    def when_it_waits() -> None:
        eventually(children)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_it_waits).start()
    with suppress_and_say():
        manager.start()
    nothing_is_left()


def draining(url: str) -> None:
    """The end of ``with`` waits for a job that sleeps; then the signal comes."""
    results: list[JobResult] = []
    manager = JobManager(url)
    handled_by(lambda: manager.close(kill=True))

    def when_it_drains() -> None:
        eventually(lambda: manager._lifetime._closed and manager.hosts()[0].running)
        os.kill(os.getpid(), signal.SIGTERM)

    with manager:
        manager.new_job(SLEEPER, None, results.append)
        threading.Thread(target=when_it_drains).start()
    print(*(result.outcome.value for result in results))
    nothing_is_left()


def at_exit(url: str) -> None:
    """Nobody has closed it; the signal comes while the interpreter's end does."""
    results: list[JobResult] = []
    manager = JobManager(url)
    manager.start()
    handled_by(lambda: manager.close(kill=True))
    manager.new_job(SLEEPER, None, lambda result: (results.append(result), os.kill(os.getpid(), signal.SIGTERM)))


class suppress_and_say(suppress):
    """Prints the library's error."""

    def __init__(self) -> None:
        super().__init__(JobManagerError)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        print(type(error).__name__)
        return super().__exit__(kind, error, trace)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    globals()[sys.argv[1]](sys.argv[2])
