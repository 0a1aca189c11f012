"""A checker judges what cases printed, in a container of its own, by the conventions of testlib."""

from __future__ import annotations

import pytest

from jobmanager import Case, Checker, DockerHost, HookManager, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.events import CaseEnded
from tests.integration.test_cases import BUSYBOX, ECHO, PYTHON, outcomes

pytestmark = pytest.mark.engine

LIMITS = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=10, workspace_mib=8)
SUM = """
import sys
given, printed, expected = (open(path).read().split() for path in sys.argv[1:])
if expected != ["answer"]: sys.exit(3)
if len(printed) != 2: sys.exit(2)
if sum(map(int, printed)) != int(given[0]): sys.exit("not the sum")
"""
CHECKER = Checker(Task(PYTHON, command=["python3", "check.py"], files={"check.py": SUM}, limits=LIMITS))


def judged(manager: JobManager, *printed: str, check: Checker = CHECKER, **fields: object) -> JobResult:
    cases = [Case(f"5\n{text}\n", expected="answer", check=check) for text in printed]
    task = Task(BUSYBOX, command="read five; cat", cases=cases, limits=LIMITS, **fields)  # type: ignore[arg-type]
    return manager.submit(task).result(120)


def test_a_checker_sees_input_output_and_answer_and_says_what_is_right(shared_manager: JobManager) -> None:
    result = judged(shared_manager, "2 3", "1 4", "1 1", "5")
    right, wrong = (Outcome.SUCCESS, True), (Outcome.FAILED, False)
    assert outcomes(result) == [right, right, wrong, wrong], result
    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 50.0, "case 3: its checker says that this is wrong")
    assert result.cases[2].run is not None and result.cases[2].run.stdout == b"1 1\n" == result.stdout
    (said,) = [each.value for each in result.cases[2].run.evidence if each.kind == "checker"]
    assert said == "not the sum"


def test_when_a_checker_finds_all_right_the_job_is_a_success(shared_manager: JobManager) -> None:
    result = judged(shared_manager, "2 3", "4 1")
    assert (result.outcome, result.grade, result.text, result.stdout) == (Outcome.SUCCESS, 100.0, "", b"")


@pytest.mark.parametrize(
    ("program", "outcome", "points", "text"),
    [
        ("exit 0", Outcome.SUCCESS, 1.0, ""),
        ("exit 1", Outcome.FAILED, 0.0, "its checker says that this is wrong"),
        ("exit 4", Outcome.FAILED, 0.0, "its checker says that this is wrong"),
        ("echo points 0.25 well done >&2; exit 7", Outcome.FAILED, 0.25, "its checker gives 0.25 of the points"),
        ("echo points 1 >&2; exit 7", Outcome.SUCCESS, 1.0, ""),
        ("echo points 1.5 >&2; exit 7", Outcome.ERROR, 0.0, "its checker failed: exit code 7"),
        ("exit 7", Outcome.ERROR, 0.0, "its checker failed: exit code 7"),
        ("exit 3", Outcome.ERROR, 0.0, "its checker failed: exit code 3"),
        ("kill -9 $$", Outcome.ERROR, 0.0, "its checker failed: killed by SIGKILL"),
        ("sleep 60", Outcome.ERROR, 0.0, "its checker failed: wall clock limit of 1 s reached"),
        ("yes", Outcome.ERROR, 0.0, "its checker failed: output limit of 4 KiB reached"),
    ],
)
def test_the_exit_code_decides(shared_manager: JobManager, program: str, outcome: Outcome, points: float, text: str) -> None:
    limits = Limits(memory_mib=32, cpu_time_s=5, wall_time_s=1, output_kib=4, workspace_mib=4)
    result = judged(shared_manager, "x", check=Checker(Task(BUSYBOX, command=program, limits=limits)))
    (case,) = result.cases
    assert (case.outcome, case.points, case.text) == (outcome, points, text), result


def test_only_cases_whose_run_ended_well_are_checked_and_each_has_its_own_check(engine_url: str) -> None:
    never = Checker(Task(BUSYBOX, command="exit 3", limits=LIMITS))
    good = Checker(Task(BUSYBOX, command="true", limits=LIMITS))
    cases = [
        Case("raise SystemExit(1)", check=never),
        Case("print(1)", expected="1"),
        Case("print(2)", check=good),
        Case("print(3)", check=lambda case, output: output == b"3\n"),
        Case("print(4)", check=good),
    ]
    hooks, told = HookManager(), list[int]()
    hooks.add(CaseEnded, lambda event: told.append(event.number))
    with JobManager(DockerHost(engine_url), hook_manager=hooks) as manager:
        result = manager.submit(Task(PYTHON, command=["python3", "-c", ECHO], cases=cases, limits=LIMITS)).result(120)
    right = (Outcome.SUCCESS, True)
    assert outcomes(result) == [(Outcome.FAILED, None), right, right, right, right]
    assert (result.outcome, result.grade) == (Outcome.FAILED, 80.0)
    assert sorted(told) == [1, 2, 3, 4, 5] and told[:2] == [1, 2]


def test_a_checker_is_built_once_and_one_that_cannot_be_built_makes_errors(shared_manager: JobManager) -> None:
    built = Checker(Task(BUSYBOX, build="echo true > verdict", command="sh verdict", limits=LIMITS))
    assert outcomes(judged(shared_manager, "1", "2", check=built)) == [(Outcome.SUCCESS, True)] * 2

    broken = Checker(Task(BUSYBOX, build="exit 9", command="true", limits=LIMITS))
    result = judged(shared_manager, "1", check=broken)
    assert (result.outcome, result.cases[0].text) == (
        Outcome.ERROR,
        "its checker was not run: its build ended as failed: exit code 9",
    )


def test_a_checker_never_shares_a_container_with_the_submission_nor_one_check_with_the_next(shared_manager: JobManager) -> None:
    looks = "ls /job /tmp; [ ! -e /tmp/mark ] && [ ! -e /job/secret ] && touch /tmp/mark"
    cases = [Case("x", files={"secret": "s"}, check=Checker(Task(BUSYBOX, command=looks, limits=LIMITS))) for _ in range(3)]
    task = Task(BUSYBOX, command="touch /tmp/mark; cat", cases=cases, limits=LIMITS)
    assert outcomes(shared_manager.submit(task).result(120)) == [(Outcome.SUCCESS, True)] * 3


def test_a_checker_whose_image_is_missing_is_a_crash_and_no_verdict(shared_manager: JobManager) -> None:
    missing = Checker(Task("no-such-image:1", command="true"))
    with pytest.raises(Exception, match="no-such-image"):
        judged(shared_manager, "1", check=missing)
