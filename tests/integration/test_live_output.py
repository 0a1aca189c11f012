"""What a job prints is seen while it runs, by every reader; and no reader holds up anything."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import docker
import pytest
from docker.models.containers import Container

from jobmanager import (
    Grader,
    JobFuture,
    JobManager,
    JobResult,
    Limits,
    LiveOutput,
    Outcome,
    Output,
    Phase,
    PhaseResult,
    Pipeline,
    Task,
)
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.errors import JobTimeout, UnknownJob
from tests.conftest import BUSYBOX, SLOWNESS, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON, Submit
from tests.support.faults import LASTS, SLEEPS, wake
from tests.support.printed import program_runs

SHOWS_ITSELF = "echo ready; echo busy >&2; sleep 1000"  # ends only when it is killed


def read(live: LiveOutput, until: bytes) -> list[Output]:
    """What comes, up to the record that has these bytes."""
    found = []
    for output in live:
        found.append(output)
        if until in output.data:
            return found
    return pytest.fail(f"the output ended before {until!r}: {found}")


def streams(outputs: list[Output]) -> tuple[bytes, bytes]:
    """Both, since the job was last run again."""
    begin = max((at for at, output in enumerate(outputs) if output.starts_again), default=0)
    counted = outputs[begin:]
    return b"".join(o.data for o in counted if not o.stderr), b"".join(o.data for o in counted if o.stderr)


def test_every_reader_sees_what_a_running_job_has_printed_and_the_end_when_it_is_killed(
    shared_manager: JobManager, submit: Submit
) -> None:
    job = submit(SHOWS_ITSELF)
    with shared_manager.follow(job.job_id, timeout_s=PATIENCE_S) as first:  # the job waits, or is being placed
        seen = read(first, b"ready")
        assert not job.done()
        with shared_manager.follow(job.job_id, timeout_s=PATIENCE_S) as late:
            seen_late = read(late, b"ready")
            assert not job.done()
            shared_manager.kill_job(job.job_id)
            seen += first
            seen_late += late

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.KILLED
    assert streams(seen) == streams(seen_late) == (result.stdout, result.stderr) == (b"ready\n", b"busy\n")


def test_a_quiet_job_raises_after_the_time_of_a_step_and_can_be_followed_on(shared_manager: JobManager, submit: Submit) -> None:
    job = submit(SHOWS_ITSELF)
    read(shared_manager.follow(job.job_id), b"ready")
    live = shared_manager.follow(job.job_id, timeout_s=0.1)
    seen = []
    with pytest.raises(JobTimeout):
        seen += [next(live) for _ in range(10)]

    shared_manager.kill_job(job.job_id)

    eventually(lambda: _ends(live), within_s=PATIENCE_S)
    assert job.result(PATIENCE_S).outcome is Outcome.KILLED


def _ends(live: LiveOutput) -> bool:
    try:
        return next(live, None) is None
    except JobTimeout:
        return False


def test_a_reader_that_stops_holds_up_neither_the_deadline_nor_another_reader(shared_manager: JobManager, submit: Submit) -> None:
    limits = Limits(wall_time_s=2 * SLOWNESS, cpu_time_s=60, output_kib=2**20)
    job = submit("while :; do echo 0123456789012345678901234567890123456789; done", limits=limits)
    stopped, quick = (shared_manager.follow(job.job_id, timeout_s=PATIENCE_S) for _ in range(2))
    first = next(stopped)

    seen = list(quick)

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.TIMEOUT
    assert len(streams(seen)[0]) == result.stdout_bytes == len(result.stdout)
    assert streams(seen)[0] == result.stdout
    rest = list(stopped)
    assert len(first.data) + sum(len(output.data) + output.missed_bytes for output in rest) == result.stdout_bytes
    assert result.stdout.endswith(streams(rest)[0])


def test_a_job_past_its_output_limit_tells_how_much_of_it_is_not_there(shared_manager: JobManager, submit: Submit) -> None:
    job = submit("yes", limits=Limits(output_kib=64))

    seen = list(shared_manager.follow(job.job_id, timeout_s=PATIENCE_S))

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.OVERFLOW
    assert streams(seen)[0].startswith(result.stdout)
    assert sum(len(output.data) + output.missed_bytes for output in seen) == result.stdout_bytes > 64 * 1024


def test_a_job_that_is_run_again_starts_its_stream_again(
    shared_manager: JobManager, submit: Submit, running: Callable[[JobFuture], Container]
) -> None:
    job = submit(f"echo ready; echo $HOSTNAME; {SLEEPS}; true", retries=1, limits=LASTS.limits)
    live = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = read(live, b"ready")

    running(job).kill()
    seen += read(live, b"ready")
    eventually(lambda: not wake() and job.done(), within_s=PATIENCE_S, what="it has ended")
    seen += live

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS
    assert [output.starts_again for output in seen].count(True) == 1
    assert streams(seen) == (result.stdout, result.stderr)


def test_a_job_that_has_ended_can_be_followed_until_its_callback_has_returned(shared_manager: JobManager) -> None:
    called, go_on = threading.Event(), threading.Event()
    inside: list[Output] = []

    def callback(result: JobResult) -> None:
        inside.extend(shared_manager.follow(result.job_id))
        called.set()
        go_on.wait(PATIENCE_S)

    job_id = shared_manager.new_job(Task(BUSYBOX, command="echo out; echo err >&2"), callback=callback)
    assert called.wait(PATIENCE_S)
    outside = list(shared_manager.follow(job_id))
    go_on.set()

    assert streams(inside) == streams(outside) == (b"out\n", b"err\n")
    eventually(lambda: _is_unknown(shared_manager, job_id))


def _is_unknown(manager: JobManager, job_id: str) -> bool:
    try:
        manager.follow(job_id).close()
    except UnknownJob:
        return True
    return False


def test_of_a_grading_job_the_grader_is_followed_while_its_student_runs_and_nothing_of_the_protocol_is_seen(
    shared_manager: JobManager, submit: Submit
) -> None:
    student = "echo the student; echo complains >&2; sleep 1000"
    job = submit(image=PYTHON, grader=Grader("echo grading; run_student sh student/it"), files={"student/it": student})

    live = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = read(live, b"complains")
    assert not job.done()
    shared_manager.kill_job(job.job_id)
    seen += live

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.KILLED
    assert streams(seen) == (result.stdout, result.stderr) == (b"grading\nthe student\n", b"complains\n")


# ---- pipelines

TALKS = "for n in $(seq 300); do echo {name} $n; echo {name} complains $n >&2; done; printf '{name} has no last line'"


def talking(name: str, **options: object) -> Phase:
    """A phase that prints to both streams by turns."""
    return Phase(name, Task(BUSYBOX, command=TALKS.format(name=name)), **options)  # type: ignore[arg-type]


def waiting(name: str) -> Phase:
    """A phase that shows itself, and ends only when it is killed."""
    return Phase(name, Task(BUSYBOX, command=SHOWS_ITSELF))


def by_phase(outputs: Sequence[Output]) -> list[tuple[str, bytes, bytes]]:
    """What each phase has printed to both streams, in the order in which they came."""
    return [(phase, *streams(list(its_own))) for phase, its_own in itertools.groupby(outputs, lambda output: output.phase)]


def printed(phases: Sequence[PhaseResult]) -> list[tuple[str, bytes, bytes]]:
    """The same by the results of phases that were run."""
    return [(phase.name, phase.run.stdout, phase.run.stderr) for phase in phases if phase.run is not None]


def no_byte_is_missing(outputs: Sequence[Output]) -> bool:
    return not any(output.missed_bytes or output.starts_again for output in outputs)


def test_every_byte_of_a_pipeline_is_seen_once_phase_by_phase(shared_manager: JobManager) -> None:
    pipeline = Pipeline([talking("build", writes=["work"]), talking("test", reads=["work"]), talking("report")])
    job = shared_manager.submit(pipeline)

    seen = list(shared_manager.follow(job.job_id, timeout_s=PATIENCE_S))

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS
    assert by_phase(seen) == printed(result.phases)
    assert [(name, len(stdout.splitlines()), len(stderr.splitlines())) for name, stdout, stderr in by_phase(seen)] == [
        (name, 301, 300) for name in ("build", "test", "report")
    ]
    assert no_byte_is_missing(seen)


def test_who_joins_in_the_last_phase_sees_those_before_it_and_a_kill_ends_the_stream(shared_manager: JobManager) -> None:
    job = shared_manager.submit(Pipeline([talking("build"), talking("test"), waiting("report")]))
    with shared_manager.follow(job.job_id, timeout_s=PATIENCE_S) as first:
        seen = read(first, b"ready")
        late = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
        seen += first if shared_manager.kill_job(job.job_id) else ()
    alone = list(late)

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.KILLED
    assert [name for name, *_ in by_phase(seen)] == ["build", "test", "report"]
    assert by_phase(seen) == by_phase(alone) == printed(result.phases)
    assert no_byte_is_missing(seen) and no_byte_is_missing(alone)


def test_who_follows_only_the_last_phase_of_a_pipeline_is_given_the_earlier_ones_too(
    shared_manager: JobManager, outsider: docker.DockerClient
) -> None:
    job = shared_manager.submit(Pipeline([talking("build"), waiting("report")]))
    eventually(lambda: _runs(outsider, job, "p2"), within_s=PATIENCE_S)

    live = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = read(live, b"ready")
    shared_manager.kill_job(job.job_id)
    seen += live

    assert by_phase(seen) == printed(job.result(PATIENCE_S).phases)
    assert no_byte_is_missing(seen)


def test_after_a_kill_the_phase_that_always_runs_is_seen_too(shared_manager: JobManager) -> None:
    job = shared_manager.submit(Pipeline([waiting("test"), talking("more"), talking("report", when="always")]))
    live = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = read(live, b"busy")

    shared_manager.kill_job(job.job_id)
    seen += live

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.KILLED
    assert [name for name, *_ in by_phase(seen)] == ["test", "report"]
    assert by_phase(seen) == printed(result.phases)
    assert no_byte_is_missing(seen)


def test_a_reader_that_stops_holds_up_no_phase_and_still_gets_each_as_its_own_bound_allows(shared_manager: JobManager) -> None:
    flood = Task(BUSYBOX, command="yes | head -c 3000000", limits=Limits(output_kib=4096))
    job = shared_manager.submit(Pipeline([Phase(name, flood) for name in ("first", "second", "third")]))
    stopped = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = [next(stopped)]

    result = job.result(PATIENCE_S)
    seen += stopped

    assert result.outcome is Outcome.SUCCESS
    assert [len(phase.run.stdout) for phase in result.phases if phase.run] == [3_000_000] * 3
    assert by_phase(seen) == printed(result.phases)
    assert no_byte_is_missing(seen)


def test_a_pipeline_that_is_run_again_from_its_first_phase_starts_its_stream_again_once(
    shared_manager: JobManager, outsider: docker.DockerClient
) -> None:
    build = Phase("build", Task(BUSYBOX, command="echo built", retries=1))
    test = Phase("test", Task(BUSYBOX, command=f"echo ready; {SLEEPS}; echo $HOSTNAME", retries=1, limits=LASTS.limits))
    job = shared_manager.submit(Pipeline([build, test]))
    live = shared_manager.follow(job.job_id, timeout_s=PATIENCE_S)
    seen = read(live, b"ready")

    _phase_container(outsider, job, "p2").kill()
    seen += read(live, b"ready")
    eventually(lambda: not wake() and job.done(), within_s=PATIENCE_S, what="it has ended")
    seen += live

    result = job.result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    assert [output.starts_again for output in seen].count(True) == 1
    again = [output.starts_again for output in seen].index(True)
    assert [name for name, *_ in by_phase(seen[:again])] == ["build", "test"]
    assert by_phase(seen[again + 1 :]) == printed(result.phases)


def _phase_container(outsider: docker.DockerClient, job: JobFuture, name_end: str) -> Container | None:
    """A container of the job, by the end of its name."""
    containers = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
    return next((container for container in containers if container.name.endswith(name_end)), None)


def _runs(outsider: docker.DockerClient, job: JobFuture, name_end: str) -> bool:
    container = _phase_container(outsider, job, name_end)
    return container is not None and program_runs(container)
