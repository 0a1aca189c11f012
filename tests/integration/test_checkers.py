"""A checker judges what cases printed, in a container of its own, by the conventions of testlib."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from jobmanager import Case, Checker, DockerHost, JobManager, JobResult, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.engine.labels import JOB_LABEL, STUDENT_LABEL
from tests.conftest import eventually, our_containers
from tests.integration.test_cases import BUSYBOX, ECHO, PYTHON, Told, outcomes, waiters
from tests.support.daemons import PrivateDaemon

pytestmark = pytest.mark.engine

LIMITS = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=10, workspace_mib=8)
SUM = """
import sys
given, printed, expected = (open(path).read().split() for path in sys.argv[1:])
if expected != ["answer"]: sys.exit(3)
if len(printed) != 2: sys.exit(2)
if sum(map(int, printed)) != int(given[0]): sys.exit("not the sum")
"""
NO_POINTS = (
    "its checker failed: exit code 7 is a part of the points, and its standard error has no line 'points P' with P from 0 to 1"
)
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
        ("echo points 1.5 >&2; exit 7", Outcome.ERROR, 0.0, NO_POINTS),
        ("exit 7", Outcome.ERROR, 0.0, NO_POINTS),
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
    told = Told()
    with JobManager(DockerHost(engine_url), hook_manager=told.hooks) as manager:
        result = manager.submit(Task(PYTHON, command=["python3", "-c", ECHO], cases=cases, limits=LIMITS)).result(120)
    right = (Outcome.SUCCESS, True)
    assert outcomes(result) == [(Outcome.FAILED, None), right, right, right, right]
    assert (result.outcome, result.grade) == (Outcome.FAILED, 80.0)
    assert [number for _, number in told.cases] == [1, 2, 3, 4, 5]


def test_a_checker_is_built_once_and_one_that_cannot_be_built_makes_errors(shared_manager: JobManager) -> None:
    built = Checker(Task(BUSYBOX, build="echo true > verdict", command="sh verdict", limits=LIMITS))
    assert outcomes(judged(shared_manager, "1", "2", check=built)) == [(Outcome.SUCCESS, True)] * 2

    broken = Checker(Task(BUSYBOX, build="exit 9", command="true", limits=LIMITS))
    result = judged(shared_manager, "1", check=broken)
    assert (result.outcome, result.cases[0].text) == (
        Outcome.ERROR,
        "its checker was not run: its build ended as failed: exit code 9",
    )


def test_an_output_that_does_not_fit_beside_what_its_checker_has_built_costs_that_case_alone(shared_manager: JobManager) -> None:
    limits = Limits(memory_mib=64, cpu_time_s=5, wall_time_s=10, workspace_mib=4)
    check = Checker(Task(BUSYBOX, build="head -c 3400000 /dev/zero > large", command="cmp input output", limits=limits))
    cases = [Case("1\n", check=check), Case("1000000\n", check=check), Case("2\n", check=check)]
    program = "read n; if [ $n -gt 9 ]; then head -c $n /dev/zero; else echo $n; fi"
    result = shared_manager.submit(Task(BUSYBOX, command=program, cases=cases, limits=LIMITS)).result(120)
    assert outcomes(result) == [(Outcome.SUCCESS, True), (Outcome.ERROR, None), (Outcome.SUCCESS, True)], result
    assert "its files do not fit into the workspace" in result.cases[1].text


def test_a_second_checker_that_cannot_be_built_is_an_error_of_its_own_cases(shared_manager: JobManager) -> None:
    good = Checker(Task(BUSYBOX, command="true", limits=LIMITS))
    broken = Checker(Task(BUSYBOX, build="exit 9", command="true", limits=LIMITS))
    cases = [Case("1", check=good), Case("2", check=broken), Case("3", check=good), Case("4", check=broken)]
    result = shared_manager.submit(Task(BUSYBOX, command="true", cases=cases, limits=LIMITS)).result(120)
    why = "its checker was not run: its build ended as failed: exit code 9"
    assert [case.text for case in result.cases] == ["", why, "", why], result
    assert [case.points for case in result.cases] == [1.0, 0.0, 1.0, 0.0]


def test_a_checker_never_shares_a_container_with_the_submission_nor_one_check_with_the_next(shared_manager: JobManager) -> None:
    looks = "ls /job /tmp; [ ! -e /tmp/mark ] && [ ! -e /job/secret ] && touch /tmp/mark"
    cases = [Case("x", files={"secret": "s"}, check=Checker(Task(BUSYBOX, command=looks, limits=LIMITS))) for _ in range(3)]
    task = Task(BUSYBOX, command="touch /tmp/mark; cat", cases=cases, limits=LIMITS)
    assert outcomes(shared_manager.submit(task).result(120)) == [(Outcome.SUCCESS, True)] * 3


def test_a_checker_whose_image_is_missing_is_a_crash_and_no_verdict(shared_manager: JobManager) -> None:
    missing = Checker(Task("no-such-image:1", command="true"))
    with pytest.raises(Exception, match="no-such-image"):
        judged(shared_manager, "1", check=missing)


def test_a_check_is_made_before_the_job_goes_on_so_it_can_stop_at_the_first_failure(shared_manager: JobManager) -> None:
    result = judged(shared_manager, "2 3", "1 1", "4 1", stop_at_first_failure=True)
    assert outcomes(result) == [(Outcome.SUCCESS, True), (Outcome.FAILED, False), (None, None)]


def test_in_a_phase_a_checker_judges_what_an_earlier_phase_made_and_decides_what_follows(shared_manager: JobManager) -> None:
    cases = [Case(f"5\n{text}\n", expected="answer", check=CHECKER) for text in ("2 3", "1 1")]
    pipeline = Pipeline(
        [
            Phase("make", Task(BUSYBOX, command="echo 'read five; cat' > /volumes/bin/program", limits=LIMITS), writes=["bin"]),
            Phase("test", Task(BUSYBOX, command="sh /volumes/bin/program", cases=cases, limits=LIMITS), reads=["bin"]),
            Phase("after", Task(BUSYBOX, command="true", limits=LIMITS)),
        ]
    )
    result = shared_manager.submit(pipeline).result(120)
    assert (result.outcome, result.grade) == (Outcome.FAILED, 50.0), result
    assert [(case.outcome, case.correct) for case in result.phases[1].cases] == [(Outcome.SUCCESS, True), (Outcome.FAILED, False)]
    assert result.phases[2].run is None


def test_what_checkers_say_and_outputs_may_be_much_larger_than_what_is_kept_of_them(shared_manager: JobManager) -> None:
    """60 cases: 60 MiB of output and as much of what the checker says, where 1 MiB is kept of all that failed."""
    says = "[ $(wc -c < output) = 1000000 ] || exit 3; echo points 0.5 >&2; head -c 900000 /dev/zero >&2; exit 7"
    check = Checker(Task(BUSYBOX, command=says, limits=LIMITS))
    cases = [Case(str(number), check=check) for number in range(60)]
    task = Task(BUSYBOX, command="head -c 1000000 /dev/zero", cases=cases, limits=LIMITS)
    result = shared_manager.submit(task).result(300)
    assert [case.points for case in result.cases] == [0.5] * 60, result.text
    assert result.grade == 50.0 and sum(len(case.run.stdout) for case in result.cases if case.run) <= 2**20


def test_a_checker_that_reaches_a_limit_costs_one_case(shared_manager: JobManager) -> None:
    greedy = "read n < input; [ $n = 2 ] && exec tail /dev/zero; exit 0"
    limits = Limits(memory_mib=16, cpu_time_s=5, wall_time_s=10, workspace_mib=4)
    check = Checker(Task(BUSYBOX, command=greedy, build="echo made", limits=limits))
    cases = [Case(f"{number}\n", check=check) for number in (1, 2, 3)]
    result = shared_manager.submit(Task(BUSYBOX, command="true", cases=cases, limits=LIMITS)).result(120)
    assert [case.outcome for case in result.cases] == [Outcome.SUCCESS, Outcome.ERROR, Outcome.SUCCESS], result
    assert result.cases[1].text == "its checker failed: memory limit of 16 MiB reached"


# ---- who dies meanwhile


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=20)
    yield client
    client.close()


def checked(count: int) -> Task:
    """Each check takes a moment, and counts how often it has begun: a second time is another result."""
    check = Checker(Task(BUSYBOX, build="echo made > made", command="sleep 0.1; [ -e made ] && cmp input output", limits=LIMITS))
    cases = [Case(f"{number}\n", name=f"n{number}", check=check) for number in range(1, count + 1)]
    return Task(BUSYBOX, build="echo made > made", command="[ -e made ] && cat", cases=cases, limits=LIMITS)


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_waiter_that_dies_in_the_middle_costs_no_check_and_none_is_told_twice(private_engine: PrivateDaemon) -> None:
    told, others = Told(), waiters()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(checked(40))
        for many in (0, 5, 15, 30):
            eventually(lambda: len(told.cases) >= many, what=f"{many} cases have ended", within_s=60)  # noqa: B023
            for waiter in waiters() - others:
                waiter.kill()
        result = job.result(120)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100.0), result
    assert told.cases == [(f"n{number}", number) for number in range(1, 41)]
    assert not our_containers(private_engine.url)


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_job_that_is_killed_takes_its_checkers_along(private_engine: PrivateDaemon, outsider: docker.DockerClient) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(checked(500))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        assert len(outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})) == 2
        assert manager.kill_job(job.job_id)
        result = job.result(30)
        eventually(lambda: not our_containers(private_engine.url), what="both containers are removed")
    assert result.outcome is Outcome.KILLED
    ended = [case.outcome for case in result.cases if case.outcome is not None]
    assert 3 <= len(ended) < 500 and set(ended) == {Outcome.SUCCESS}


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_checker_that_a_stranger_removes_is_a_crash_and_no_verdict(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(checked(500))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        (container,) = outsider.containers.list(filters={"label": [f"{JOB_LABEL}={job.job_id}", STUDENT_LABEL]})
        container.remove(force=True, v=True)
        result = job.result(60)
        eventually(lambda: not our_containers(private_engine.url), what="nothing is left")
    assert result.outcome is Outcome.CRASH and "its checker" in result.text, result
    assert {case.outcome for case in result.cases if case.outcome is not None} == {Outcome.SUCCESS}
