"""What a task asks for becomes its container's specification."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import Case, CaseResult, Checker, Interactor, JobInput, Limits, Outcome, RunResult, Task
from jobmanager.control.launch import container_spec, monitor_message
from jobmanager.control.secret_store import SecretStore
from jobmanager.engine.labels import Owner
from jobmanager.ipc.messages import CasePlan
from jobmanager.model.container import ContainerSpec
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.facts import CasesProgress
from jobmanager.scheduling.commands import MonitorRun, SubmitContainer


def spec_of(task: Task) -> ContainerSpec:
    runs = (RunRequest(task=task),)
    request = Request(job_id="j", task=task, inputs=JobInput(), runs=runs, priority=0, launcher_name="x", debug=False)
    command = SubmitContainer(host="h", container="c", image="i", request=request)
    return container_spec(command, manager_id="m", owner=Owner.this_process(), loopback_only=True, runner_lease_s=90.0)


def test_the_rights_that_a_task_names_are_its_containers() -> None:
    asked = spec_of(Task("x", user="1000:1000", devices=["/dev/kvm"], privileged=True))
    plain = spec_of(Task("x"))

    assert (asked.user, asked.devices, asked.privileged) == ("1000:1000", ("/dev/kvm",), True)
    assert (plain.user, plain.devices, plain.privileged) == (None, (), False)


# ---- cases

RIGHT = CaseResult(name="", outcome=Outcome.SUCCESS)
WRONG = CaseResult(name="", outcome=Outcome.FAILED, correct=False)


def plan_of(task: Task, progress: CasesProgress) -> CasePlan | None:
    talks = None if task.interactor is None else RunRequest(task=task.interactor.task, files={"talk.py": b"x"})
    checkers = tuple(RunRequest(task=checker.task, files={"check.py": b"x"}) for checker in task.checkers)
    runs = (RunRequest(task=task, interactor=talks, checkers=checkers),)
    request = Request(job_id="j", task=task, inputs=JobInput(), runs=runs, priority=0, launcher_name="x", debug=False)
    command = MonitorRun(
        host="h",
        container="c",
        container_id="1",
        image_command=(),
        request=request,
        run=0,
        limits=task.limits,
        taken_over=True,
        elapsed_s=1.0,
        limit_hit=None,
        images={"python3:latest": "sha256:9"},
        kill_at_once=False,
        engine_id="",
        slot="s",
        progress=progress,
        is_built=progress.build is not None,
    )
    return monitor_message(command, SecretStore(None), runner_lease_s=90.0).cases


@pytest.mark.parametrize(
    ("task", "progress", "left"),
    [
        ({}, CasesProgress(), ["1", "2", "3"]),
        ({}, CasesProgress(cases=(RIGHT,)), ["2", "3"]),
        ({}, CasesProgress(cases=(WRONG,)), ["2", "3"]),
        ({}, CasesProgress(cases=(RIGHT, RIGHT, RIGHT)), []),
        ({"stop_at_first_failure": True}, CasesProgress(cases=(RIGHT,)), ["2", "3"]),
        ({"stop_at_first_failure": True}, CasesProgress(cases=(WRONG,)), []),
        ({"build": "make"}, CasesProgress(build=RunResult(outcome=Outcome.FAILED)), []),
    ],
)
def test_a_waiter_that_takes_over_is_given_the_cases_that_are_still_to_be_run(
    task: dict[str, Any], progress: CasesProgress, left: list[str]
) -> None:
    cases = [Case(expected="x"), Case(expected="x"), Case(expected="x")]
    plan = plan_of(Task("e", command="c", cases=cases, **task), progress)
    assert plan is not None and ([case.name for case in plan.cases], plan.last) == (left, 3)


def test_an_interactor_is_given_what_the_submission_is_not() -> None:
    """It has the input and the answer, and time beyond the submission's; both have the two fifos, crossed."""
    check = Interactor(Task("python3", command=["python3", "talk.py"], limits=Limits(wall_time_s=7)))
    cases = [Case("in1", expected="out1", check=check), Case("in2", expected="out2", check=check, wall_time_s=5)]
    plan = plan_of(Task("e", command="c", cases=cases, limits=Limits(wall_time_s=3)), CasesProgress(cases=(RIGHT,)))
    assert plan is not None and plan.interactor is not None
    (case,), spec, job = plan.cases, plan.interactor.spec, plan.interactor.job
    assert (case.number, case.stdin, case.expected, case.files) == (2, b"", None, {})
    assert (spec.name, spec.image, spec.pipes, job.files) == ("c-i", "sha256:9", "s-pipes", {"talk.py": b"x"})
    assert (job.stdin_fifo, job.stdout_fifo) == ("/pipes/c-from", "/pipes/c-to")
    assert job.cases is not None and job.cases.last == 2
    (talk,) = job.cases.cases
    assert (talk.number, talk.args, talk.files) == (2, ("input", "output", "answer"), {"input": b"in2", "answer": b"out2"})
    assert talk.limits.wall_s == 5 + 7


def test_a_checker_is_given_only_the_cases_that_it_judges_and_that_are_left() -> None:
    one, other, over = (Checker(Task("python3", command=[word], build="make")) for word in ("one", "other", "over"))
    cases = [Case("in1", check=over), Case("in2", expected="out2", check=one), Case("in3", check=other), Case("in4", check=one)]
    plan = plan_of(Task("e", command="c", cases=[*cases, Case(expected="x")]), CasesProgress(cases=(RIGHT,)))
    assert plan is not None and [case.expected for case in plan.cases] == [None, None, None, b"x"]
    assert [judge.spec.name for judge in plan.checkers] == ["c-c2", "c-c3"]
    first = plan.checkers[0].job
    assert first.cases is not None and (first.command, first.stdin, first.files) == (("one",), b"", {"check.py": b"x"})
    assert (first.cases.build, first.cases.last, [case.number for case in first.cases.cases]) == ("make", 4, [2, 4])
    assert first.cases.cases[0].files == {"input": b"in2", "answer": b"out2"}
