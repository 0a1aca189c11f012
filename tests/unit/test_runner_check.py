"""What the doctor says of a runner: by its status, by the calls that it lets through, and by an engine's refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager.doctor import runner_check
from jobmanager.doctor.runner_check import CALLS, CGROUP, MEMORY, NAMES, PIPES, STARTS
from jobmanager.runner.binaries import build_id
from jobmanager.runner.frames import RunnerState, Status

GOOD = Status(
    stream_bytes=0,
    build=build_id(),
    state=RunnerState.IDLE,
    run=0,
    kept_from=0,
    input=0,
    messages=0,
    skipped=0,
    put_to=b"",
    cgroup=2,
    dumpable=False,
)


def failing(status: Status = GOOD, let_through: list[str] | None = ()) -> dict[str, str]:  # type: ignore[assignment]
    """What does not hold, and what was seen of it."""
    seen = runner_check._Seen(status=status, let_through=let_through, why_not_tried="it exited with 127")
    reports = list(runner_check._reports(seen, "x86_64"))
    assert tuple(report.name for report in reports) == NAMES
    return {report.name: report.seen for report in reports if not report.enforced}


def test_nothing_is_wrong_with_a_good_runner() -> None:
    assert failing() == {}


@pytest.mark.parametrize(
    ("status", "name", "said"),
    [
        (replace(GOOD, build=bytes(32)), STARTS, "not the one that this package brings"),
        (replace(GOOD, dumpable=True), MEMORY, "a program can read and change"),
        (replace(GOOD, cgroup=0), CGROUP, "no cgroup found"),
    ],
)
def test_what_a_runner_says_of_itself_is_one_line_each(status: Status, name: str, said: str) -> None:
    ((found, seen),) = failing(status).items()
    assert found == name and said in seen


def test_calls_that_are_let_through_are_named_in_their_line() -> None:
    seen = failing(let_through=["setpriority", "splice", "sched_setattr"])
    assert seen.keys() == {CALLS, PIPES}
    assert seen[CALLS].endswith("setpriority, sched_setattr")
    assert seen[PIPES].endswith("splice")


def test_calls_that_could_not_be_tried_do_not_count_as_refused() -> None:
    seen = failing(let_through=None)
    assert seen == {CALLS: "not tried: it exited with 127", PIPES: "not tried: it exited with 127"}


@pytest.mark.parametrize(
    ("engine", "advice"),
    [
        ("write /var/lib/docker/volumes: no space left on device", "make room on its disk"),
        ("mkdir /var/lib/docker/volumes/x: read-only file system", "its folder of volumes is read-only"),
        ('exec: "/.jobmanager/runner":\n permission denied', "it lets nothing in a volume be executed"),
        ("exec /.jobmanager/runner: exec format error", "its machine does not run programs of the architecture that it names"),
    ],
)
def test_an_engines_refusal_is_one_line_that_begins_with_what_to_do(engine: str, advice: str) -> None:
    said = runner_check._advised(engine)
    assert said.startswith(advice) and said.endswith(" ".join(engine.split()))
    assert "\n" not in said


def test_a_runner_that_goes_each_time_before_its_start_is_told() -> None:
    said = runner_check._advised("/.jobmanager/runner: no such file or directory", is_start=True)
    assert said.startswith("something removes the volume")
