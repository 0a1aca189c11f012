"""The order of phases: which runs next, whose container is started ahead, and which containers are kept for their volumes."""

from __future__ import annotations

import itertools

import pytest

from jobmanager import Limits, Outcome, Phase, Pipeline, Task
from jobmanager.results.verdict import Verdict
from jobmanager.scheduling.phases import (
    JobCourse,
    allowed_s,
    can_still_run,
    next_phase,
    reason_not_to_run,
    spent_to_release,
    started_ahead,
    stops_the_job,
    volumes_to_keep,
)

TASK = Task("python3", command="x")
GOOD, FAILED, KILLED, OVER = JobCourse(), JobCourse(has_failed=True), JobCourse(is_killed=True), JobCourse(is_over=True)
FOUR = Pipeline(
    [
        Phase("clone", TASK, writes=["work"]),
        Phase("build", TASK, writes=["work"]),
        Phase("test", TASK, reads=["work"], writes=["results"]),
        Phase("report", TASK, reads=["results"], when="always"),
    ]
).phases


def phase(when: str = "on_success", **options: object) -> Phase:
    return Phase("p", TASK, when=when, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("when", "course", "runs"), [
    ("on_success", GOOD, True), ("on_success", FAILED, False), ("on_success", KILLED, False), ("on_success", OVER, False),
    ("on_failure", GOOD, False), ("on_failure", FAILED, True), ("on_failure", KILLED, False), ("on_failure", OVER, False),
    ("always", GOOD, True), ("always", FAILED, True), ("always", KILLED, True), ("always", OVER, False),
])
def test_when_a_phase_runs(when: str, course: JobCourse, runs: bool) -> None:
    assert (reason_not_to_run(phase(when), course) == "") is runs


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_phase_that_runs_on_success_stops_a_job_and_one_that_may_fail_only_by_what_is_not_its_own(outcome: Outcome) -> None:
    verdict = Verdict(outcome=outcome)
    assert stops_the_job(phase(), verdict) is (outcome is not Outcome.SUCCESS)
    assert stops_the_job(phase(allow_failure=True), verdict) is (outcome in (Outcome.CRASH, Outcome.KILLED))
    assert not stops_the_job(phase("always"), verdict)
    assert not stops_the_job(phase("on_failure"), verdict)


@pytest.mark.parametrize(("after", "course", "number"), [
    (0, GOOD, 1), (0, FAILED, 3), (1, KILLED, 3), (2, GOOD, 3), (3, GOOD, None), (0, OVER, None),
])
def test_the_next_phase(after: int, course: JobCourse, number: int | None) -> None:
    assert next_phase(FOUR, after, course) == number


def test_the_containers_of_the_next_two_phases_are_started_ahead_and_one_for_each_volume_with_content() -> None:
    assert started_ahead(FOUR, 0, GOOD) == [1, 2]
    assert started_ahead(FOUR, 1, GOOD) == [2, 3]
    assert started_ahead(FOUR, 2, GOOD) == [3]
    assert started_ahead(FOUR, 3, GOOD) == []
    many = [Phase("a", TASK, writes=["w"]), *(Phase(f"b{number}", TASK) for number in range(4)), Phase("c", TASK, reads=["w"])]
    assert started_ahead(many, 0, GOOD) == [1, 2, 5]
    assert started_ahead(many, 1, GOOD) == [2, 3, 5]


def test_nothing_is_started_ahead_for_phases_that_cannot_run_any_more() -> None:
    assert started_ahead(FOUR, 0, FAILED) == [3]
    assert started_ahead(FOUR, 0, KILLED) == [3]
    assert started_ahead(FOUR, 0, OVER) == []


def test_the_volumes_that_are_kept_are_those_of_phases_that_may_still_run() -> None:
    assert volumes_to_keep(FOUR, 0, GOOD) == {"work", "results"}
    assert volumes_to_keep(FOUR, 2, GOOD) == {"results"}
    assert volumes_to_keep(FOUR, 0, KILLED) == {"results"}
    assert volumes_to_keep(FOUR, 3, GOOD) == set()


def test_a_container_is_released_when_a_newer_one_has_its_volumes_or_nobody_needs_them() -> None:
    assert spent_to_release([(0, ["a"])], safe=[], to_keep=["a"]) == []
    assert spent_to_release([(0, ["a"])], safe=["a"], to_keep=["a"]) == [0]
    assert spent_to_release([(0, ["a"])], safe=[], to_keep=[]) == [0]
    assert spent_to_release([(0, ["a"]), (1, ["a", "b"])], safe=[], to_keep=["a", "b"]) == [0]
    assert spent_to_release([(0, ["a"]), (1, ["b"])], safe=["b"], to_keep=["a", "b"]) == [1]


def test_of_all_small_pipelines_no_volume_is_left_without_a_container_while_a_later_phase_may_need_it() -> None:
    """Whatever was spent, what is kept or waits has each volume that is to be kept and that somebody had."""
    choices = [(), ("a",), ("b",), ("a", "b")]
    for spent_volumes in itertools.product(choices, repeat=3):
        for safe, to_keep in itertools.product(choices, choices):
            spent = list(enumerate(spent_volumes))
            released = spent_to_release(spent, safe, to_keep)
            kept = {name for number, volumes in spent if number not in released for name in volumes} | set(safe)
            had = {name for volumes in spent_volumes for name in volumes}
            assert set(to_keep) & had <= kept


def timed(wall_s: float, when: str = "on_success") -> Task:
    return Task("python3", command=when, limits=Limits(wall_time_s=wall_s))


def test_a_phase_may_take_its_own_limit_or_what_the_deadline_leaves_without_the_reserve() -> None:
    pipeline = Pipeline(
        [Phase("a", timed(50)), Phase("b", timed(50)), Phase("r", timed(10), when="always")], wall_time_s=70
    )
    assert allowed_s(pipeline, 0, 0.0) == 50
    assert allowed_s(pipeline, 1, 20.0) == 40
    assert allowed_s(pipeline, 1, 65.0) == -5
    assert allowed_s(pipeline, 2, 69.0) == 10  # in full, whatever the others took


def test_without_a_deadline_each_phase_has_its_own_limit() -> None:
    pipeline = Pipeline([Phase("a", timed(5)), Phase("b", timed(7))])
    assert allowed_s(pipeline, 1, 1e6) == 7


def test_what_cannot_run_any_more() -> None:
    assert [can_still_run(phase(when), FAILED) for when in ("on_success", "on_failure", "always")] == [False, True, True]
    assert [can_still_run(phase(when), KILLED) for when in ("on_success", "on_failure", "always")] == [False, False, True]
    assert not can_still_run(phase("always"), OVER)
