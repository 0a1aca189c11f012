"""The verdict of a phase, and of the job that it stopped."""

from __future__ import annotations

from jobmanager import Limits, Outcome, Phase, Task
from jobmanager.results.facts import Limit
from jobmanager.results.phase_verdict import deadline_verdict, deciding_verdict, phase_verdict
from jobmanager.results.verdict import judge
from tests.support.run_facts import exited, stopped_for

TASK = Task("python3", command="x", limits=Limits(wall_time_s=10))
OF_THE_COURSE = Phase("clone", TASK, blame="course")


def test_what_the_course_is_to_blame_for_is_a_crash_that_says_so() -> None:
    facts = exited(3)
    verdict = deciding_verdict(OF_THE_COURSE, phase_verdict(TASK, judge(facts, TASK.limits), facts, TASK.limits))
    assert (verdict.outcome, verdict.text) == (Outcome.CRASH, "not your program: phase 'clone': exit code 3")


def test_its_own_limit_is_the_courses_fault_and_the_jobs_deadline_is_not() -> None:
    facts = stopped_for(Limit.WALL, 10.1)
    own = deciding_verdict(OF_THE_COURSE, phase_verdict(TASK, judge(facts, TASK.limits), facts, TASK.limits))
    assert own.outcome is Outcome.CRASH

    left = Limits(wall_time_s=2)
    cut = deciding_verdict(OF_THE_COURSE, phase_verdict(TASK, judge(facts, left), facts, left))
    assert (cut.outcome, cut.text) == (
        Outcome.TIMEOUT, "phase 'clone': the job's deadline left it 2.0 s, and they were over",
    )  # fmt: skip
    none_left = deciding_verdict(OF_THE_COURSE, deadline_verdict(60))
    assert (none_left.outcome, none_left.text) == (
        Outcome.TIMEOUT, "phase 'clone': the job's deadline of 60 s left no time for it",
    )  # fmt: skip
