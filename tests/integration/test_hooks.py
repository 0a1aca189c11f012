"""Hooks on a real engine: what happens is told in its order, and no hook harms a job."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from jobmanager import DockerHost, HookManager, JobManager, JobResult, Outcome, Phase, Pipeline, Task
from jobmanager.errors import UnknownEnvironment
from jobmanager.events import (
    EnvironmentsChanged,
    Event,
    HostUp,
    JobDeleted,
    JobEnded,
    JobOutput,
    JobPlaced,
    JobQueued,
    JobStarted,
    ManagerClosing,
    ManagerStarted,
    PhaseEnded,
    PhaseStarted,
)
from tests.conftest import BUSYBOX, eventually
from tests.integration.conftest import PATIENCE_S

PRINTS = Task(BUSYBOX, command="echo one; echo two >&2; exit 3")
ENDLESS = Task(BUSYBOX, command="echo ready; sleep 1000")


def test_everything_that_happens_to_a_job_and_its_manager_is_told_in_its_order(engine_url: str) -> None:
    told: list[Event] = []
    hooks = HookManager()
    hooks.add(Event, told.append)
    hooks.add(JobOutput, told.append)
    host = DockerHost(engine_url, name="a")
    with JobManager(host, environments={"shell": BUSYBOX}, hook_manager=hooks) as manager:
        result = manager.submit(PRINTS, launcher_name="ann", priority=5, job_id="j").result(PATIENCE_S)
        with pytest.raises(UnknownEnvironment):
            manager.new_job(Task("there is no such", command="true"))
        eventually(lambda: any(isinstance(event, JobDeleted) for event in told), what="the container is gone")

    of_the_job = [event for event in told if hasattr(event, "job_id")]
    before, after = told[: told.index(of_the_job[0])], told[told.index(of_the_job[-1]) + 1 :]
    assert {type(event) for event in before} >= {ManagerStarted, HostUp, EnvironmentsChanged}
    assert {event.host for event in told if isinstance(event, HostUp)} == {"a"}
    assert any(isinstance(event, EnvironmentsChanged) and "shell" in event.environments for event in told)
    deleted = next(event for event in of_the_job if isinstance(event, JobDeleted))
    assert (deleted.job_id, deleted.host) == ("j", "a")
    of_the_job.remove(deleted)  # after the end; or before it, where the callback threads are busy
    queued, placed, started, *output, ended = of_the_job
    assert isinstance(queued, JobQueued) and (queued.job_id, queued.launcher, queued.priority) == ("j", "ann", 5)
    assert isinstance(placed, JobPlaced) and (placed.job_id, placed.host) == ("j", "a")
    assert isinstance(started, JobStarted) and (started.job_id, started.host) == ("j", "a")
    assert all(isinstance(event, JobOutput) and event.job_id == "j" for event in output)
    assert b"".join(event.data for event in output if isinstance(event, JobOutput) and not event.stderr) == b"one\n"
    assert b"".join(event.data for event in output if isinstance(event, JobOutput) and event.stderr) == b"two\n"
    assert isinstance(ended, JobEnded) and (ended.job_id, ended.result) == ("j", result)
    assert [event.unfinished for event in after if isinstance(event, ManagerClosing)] == [0]


def test_the_phases_of_a_pipeline_are_told_in_their_order_and_the_job_itself_once(engine_url: str) -> None:
    told: list[Event] = []
    hooks = HookManager()
    hooks.add(Event, told.append)
    hooks.add(JobOutput, told.append)
    pipeline = Pipeline(
        [
            Phase("build", Task(BUSYBOX, command="echo built"), writes=["work"]),
            Phase("test", PRINTS, reads=["work"]),
            Phase("more", PRINTS),
            Phase("report", Task(BUSYBOX, command="echo sent"), when="always"),
        ]
    )
    with JobManager(DockerHost(engine_url, name="a"), hook_manager=hooks) as manager:
        result = manager.submit(pipeline, job_id="j").result(PATIENCE_S)
        eventually(lambda: any(isinstance(event, JobDeleted) for event in told), what="the containers are gone")

    of_the_job = [event for event in told if hasattr(event, "job_id")]
    assert {event.job_id for event in of_the_job} == {"j"}  # type: ignore[attr-defined]
    of_the_job = [event for event in of_the_job if not isinstance(event, JobDeleted)]
    assert [_named(event) for event in _without_doubles(of_the_job)] == [
        "JobQueued", "JobPlaced", "JobStarted",
        "PhaseStarted 0 build", "JobOutput build", "PhaseEnded 0 build success",
        "PhaseStarted 1 test", "JobOutput test", "PhaseEnded 1 test failed",
        "PhaseStarted 3 report", "JobOutput report", "PhaseEnded 3 report success",
        "JobEnded",
    ]  # fmt: skip
    assert [event.host for event in told if isinstance(event, (JobDeleted, PhaseStarted, PhaseEnded))] == ["a"] * 7
    assert (result.outcome, [phase.outcome for phase in result.phases]) == (
        Outcome.FAILED,
        [Outcome.SUCCESS, Outcome.FAILED, None, Outcome.SUCCESS],
    )


def _named(event: Event) -> str:
    fields = [str(getattr(event, name)) for name in ("number", "phase", "outcome") if hasattr(event, name)]
    return " ".join([type(event).__name__, *fields])


def _without_doubles(events: list[Event]) -> list[Event]:
    """Output may come in several pieces."""
    return [event for before, event in itertools.pairwise([None, *events]) if not type(event) is type(before) is JobOutput]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that whoever hangs at it can leave."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_hooks_that_raise_or_hang_harm_neither_jobs_nor_readers_nor_closing(engine_url: str, gate: threading.Event) -> None:
    raised, hangs = list[Event](), threading.Event()
    results: list[JobResult] = []

    def raises(event: Event) -> None:
        raised.append(event)
        raise SystemExit(1)

    def hang(event: JobEnded) -> None:
        hangs.set()
        gate.wait(PATIENCE_S)

    hooks = HookManager()
    hooks.add(Event, raises)
    hooks.add(JobOutput, raises)
    hooks.add(JobEnded, hang)
    with JobManager(engine_url, hook_manager=hooks) as manager:
        manager.new_job(PRINTS, callback=results.append)
        eventually(lambda: results, what="the job is called back")
        assert hangs.wait(PATIENCE_S)
        live = manager.follow(manager.new_job(ENDLESS, callback=results.append), timeout_s=PATIENCE_S)
        seen = [next(live)]
        reader = threading.Thread(target=lambda: seen.extend(live))
        reader.start()

        manager.close(kill=True)
        reader.join(PATIENCE_S)

    assert {type(event) for event in raised} >= {ManagerStarted, JobQueued, JobStarted, JobOutput, JobEnded}
    assert (results[0].outcome, results[0].stdout, results[0].stderr) == (Outcome.FAILED, b"one\n", b"two\n")
    assert (results[1].outcome, results[1].stdout) == (Outcome.KILLED, b"ready\n")
    assert not reader.is_alive()
    assert [output.data for output in seen] == [b"ready\n"]
