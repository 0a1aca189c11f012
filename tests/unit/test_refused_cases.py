"""What cannot be had together with cases is refused at the call, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import Case, Checker, Floats, Grader, Interactor, JobInput, Limits, Match, Phase, Pipeline, Task
from jobmanager.control.request import job_request
from jobmanager.errors import InvalidInput, InvalidTask

CASES = [Case("1")]
TASK = Task("e", command="c", cases=CASES)
TRUE = Task("e", command="true")


def asked(task: Task | Pipeline, inputs: JobInput | None = None, **options: Any) -> None:
    job_request(task, inputs, None, options, ssh_timeout_s=1.0)  # type: ignore[arg-type]


def test_a_jobs_standard_input_and_a_person_who_logs_in_are_for_tasks_with_one_run() -> None:
    with pytest.raises(InvalidInput, match="a task with cases has the standard input of each case: leave stdin out"):
        asked(TASK, JobInput(stdin="x"))
    with pytest.raises(InvalidInput, match='debug="ssh" is for a task with one run'):
        asked(TASK, debug="ssh", ssh_callback=lambda host, port, user, password: None)
    with pytest.raises(InvalidTask, match="build is for a task with cases"):
        asked(Task("e", build="make", command="c"))


def test_a_phase_with_cases_only_reads_and_its_verdict_is_known_at_its_end() -> None:
    with pytest.raises(InvalidTask, match="only reads volumes"):
        Phase("p", TASK, writes=["out"])
    with pytest.raises(InvalidTask, match="no test reports"):
        Phase("p", TASK, reads=["out"], tests=["/volumes/out/x.xml"])
    with pytest.raises(InvalidTask, match="a phase ends before: give a Checker"):
        Phase("p", Task("e", command="c", cases=[Case(check=lambda case, output: True)]))
    Phase("p", Task("e", command="c", cases=[Case(check=Checker(TRUE))]))


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Task("e"), "needs a command"),
        (Task("e", command="c", cases=CASES), "has no cases of its own"),
        (Task("e", grader=Grader("x")), "needs a command"),
        (Task("e", command="c", collect=["*"]), "collects no files"),
        (Task("e", command="c", problems={"q": Match("a")}), "has no problems"),
        ("true", "must be a Task"),
    ],
)
def test_a_checker_and_an_interactor_are_plain_programs(task: Any, why: str) -> None:
    for judge in (Checker, Interactor):
        with pytest.raises(InvalidTask, match=why):
            judge(task)


def test_an_interactor_is_for_all_cases_and_the_same_for_each() -> None:
    one, other = Interactor(TRUE), Interactor(Task("e", command="false"))
    for cases in ([Case(check=one), Case()], [Case(check=one), Case(check=other)], [Case(check=Checker(TRUE)), Case(check=one)]):
        with pytest.raises(InvalidTask, match="an Interactor is for all cases of a task, and the same one"):
            Task("e", command="c", cases=cases)
    Task("e", command="c", cases=[Case(check=one), Case(check=Interactor(Task("e", command="true")))], stop_at_first_failure=True)


def test_a_check_that_decides_later_cannot_stop_at_the_first_failure() -> None:
    with pytest.raises(InvalidTask, match="is called after the last case"):
        Task("e", command="c", cases=[Case(check=lambda case, output: True)], stop_at_first_failure=True)
    Task("e", command="c", cases=[Case(check=Checker(TRUE))], stop_at_first_failure=True)


def test_a_judge_has_room_for_all_that_it_may_be_given() -> None:
    for judge in (Checker, Interactor):
        small = judge(Task("e", command="c", files={"own": bytes(2**20)}, limits=Limits(workspace_mib=2)))
        with pytest.raises(InvalidTask, match="what the judge of case 1 is given, with its own files, is larger than the"):
            Task("e", command="c", cases=[Case("1", check=small)], limits=Limits(output_kib=1024))
        Task("e", command="c", cases=[Case("1", check=small)], limits=Limits(output_kib=512))


def test_a_task_has_a_bounded_number_of_checkers() -> None:
    with pytest.raises(InvalidTask, match="a task may have 8 different checkers, not 9"):
        Task("e", command="c", cases=[Case(check=Checker(Task("e", command=f"c{number}"))) for number in range(9)])
    same = [Case(check=Checker(Task("e", command="c"))) for _ in range(100)]
    assert len(Task("e", command="c", cases=same).checkers) == 1


def test_names_tolerances_and_sizes_are_checked_at_the_call() -> None:
    with pytest.raises(InvalidTask, match="two cases have the name 'a': number 1 and number 3"):
        Task("e", command="c", cases=[Case(name="a"), Case(), Case(name="a")])
    with pytest.raises(InvalidTask, match="absolute must be a number from 0 on"):
        Floats(absolute=float("nan"))
    with pytest.raises(InvalidTask, match="the files of case big with those of the task are larger than the workspace of 1 MiB"):
        big = Case(name="big", files={"a": b"x" * 2**20})
        Task("e", command="c", files={"b": b"x"}, cases=[Case(), big], limits=Limits(workspace_mib=1))
    with pytest.raises(InvalidTask, match="expected has 65 MiB"):
        Case(expected=b"x" * (65 * 2**20))
