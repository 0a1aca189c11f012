"""An interactor talks with the submission through two fifos, and judges it, whoever ends first, and whoever dies meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import docker
import pytest

from jobmanager import Case, DockerHost, Evidence, Interactor, JobManager, JobResult, Limits, Outcome, Phase, Pipeline, Task
from jobmanager.engine.labels import JOB_LABEL, STUDENT_LABEL
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.integration.test_cases import PYTHON, Told, outcomes, waiters
from tests.support.daemons import PrivateDaemon
from tests.support.faults import SLEEPS, pause, wake

pytestmark = pytest.mark.engine

LIMITS = Limits(memory_mib=64, cpu_time_s=1, wall_time_s=3, workspace_mib=4)
BRIEF = replace(LIMITS, cpu_time_s=0.3)  # so that a busy machine comes to it within the wall clock, too
GUESS = """
import sys
secret, answer = (int(open(path).read()) for path in (sys.argv[1], sys.argv[3]))
for _ in range(10):
    line = sys.stdin.readline()
    if not line: sys.exit("nothing came")
    guess = int(line)
    print("<=>"[(guess < secret) * 2 + (guess == secret)], flush=True)
    if guess == secret == answer: sys.exit(0)
sys.exit("too many guesses")
"""
BISECTS = """
low, high = 0, 1000
while True:
    print((low + high) // 2, flush=True)
    said = input()
    if said == "=": break
    if said == "<": high = (low + high) // 2 - 1
    else: low = (low + high) // 2 + 1
"""
GUESSING = Interactor(Task(PYTHON, command=["python3", "guess.py"], files={"guess.py": GUESS}, limits=LIMITS))


def interactor(command: str | Sequence[str], limits: Limits = BRIEF, **fields: str) -> Interactor:
    return Interactor(Task(BUSYBOX, command=command, limits=limits, **fields))  # type: ignore[arg-type]


def talk(manager: JobManager, command: str | Sequence[str], check: Interactor, *, inputs: Sequence[str] = ("1",)) -> JobResult:
    cases = [Case(text, expected=text, check=check) for text in inputs]
    return manager.submit(Task(BUSYBOX, command=command, cases=cases, limits=BRIEF)).result(120)


def guess(manager: JobManager, program: str, *secrets: int) -> JobResult:
    cases = [Case(f"{secret}", expected=f"{secret}", check=GUESSING) for secret in secrets]
    task = Task(PYTHON, command=["python3", "main.py"], files={"main.py": program}, cases=cases, limits=LIMITS)
    return manager.submit(task).result(120)


def said(evidence: Sequence[Evidence]) -> list[object]:
    return [each.value for each in evidence if each.kind == "interactor"]


# ---- verdicts


def test_two_programs_talk_and_the_interactors_exit_code_decides(shared_manager: JobManager) -> None:
    right = guess(shared_manager, BISECTS, 0, 500, 777, 1000)
    assert (right.outcome, right.grade, outcomes(right)) == (Outcome.SUCCESS, 100.0, [(Outcome.SUCCESS, True)] * 4), right

    counts = "n = 0\nwhile True:\n print(n, flush=True)\n if input() == '=': break\n n += 1\n"
    wrong = guess(shared_manager, counts, 3, 500)
    assert outcomes(wrong) == [(Outcome.SUCCESS, True), (Outcome.FAILED, False)]
    assert (wrong.outcome, wrong.grade, wrong.text) == (Outcome.FAILED, 50.0, "case 2: its interactor says that this is wrong")
    assert wrong.cases[1].run is not None and said(wrong.cases[1].run.evidence) == ["too many guesses"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    submission: str
    interactor: str
    outcome: Outcome
    correct: bool | None
    text: str = ""
    points: float = 0.0


WRONG = "its interactor says that this is wrong"
ENDINGS = {
    "it leaves early": Ending(submission="true", interactor="read x || exit 1", outcome=Outcome.FAILED, correct=False, text=WRONG),
    "it leaves while the interactor speaks": Ending(
        submission="true",
        interactor="sleep 0.2; while echo x; do :; done",
        outcome=Outcome.FAILED,
        correct=False,
        text="it ended before its interactor had said everything",
    ),
    "it fails, and the interactor then misses it": Ending(
        submission="echo 1; exit 3", interactor="read x; read y || exit 1", outcome=Outcome.FAILED, correct=None, text="exit code 3"
    ),
    "it crashes, and the interactor then misses it": Ending(
        submission="kill -SEGV $$", interactor="read x || exit 1", outcome=Outcome.FAILED, correct=None, text="killed by SIGSEGV"
    ),
    "it fails since the interactor has left": Ending(
        submission="echo 1; read x || exit 3", interactor="read x; exit 1", outcome=Outcome.FAILED, correct=False, text=WRONG
    ),
    "it floods one that has left": Ending(
        submission="yes", interactor="read x; exit 1", outcome=Outcome.FAILED, correct=False, text=WRONG
    ),
    "it floods one that does not read": Ending(
        submission="yes", interactor="sleep 60", outcome=Outcome.TIMEOUT, correct=None, text="wall clock limit of 3 s reached"
    ),
    "it fails after it was found right": Ending(
        submission="read x; sleep 0.3; exit 5", interactor="echo hello", outcome=Outcome.SUCCESS, correct=True, points=1.0
    ),
    "it computes": Ending(
        submission="while :; do :; done",
        interactor="read x || exit 1",
        outcome=Outcome.TIMEOUT,
        correct=None,
        text="CPU time limit of 0.3 s reached",
    ),
    "both wait": Ending(
        submission="read x",
        interactor="read x; exit 1",
        outcome=Outcome.TIMEOUT,
        correct=None,
        text="wall clock limit of 3 s reached",
    ),
    "the interactor gives a part": Ending(
        submission="true",
        interactor="echo points 0.25 >&2; exit 7",
        outcome=Outcome.FAILED,
        correct=False,
        points=0.25,
        text="its interactor gives 0.25 of the points",
    ),
    "the interactor crashes": Ending(
        submission="read x",
        interactor="kill -9 $$",
        outcome=Outcome.ERROR,
        correct=None,
        text="its interactor failed: killed by SIGKILL",
    ),
    "the interactor computes": Ending(
        submission="read x",
        interactor="while :; do :; done",
        outcome=Outcome.ERROR,
        correct=None,
        text="its interactor failed: CPU time limit of 0.3 s reached",
    ),
    "it closes its output and goes on": Ending(
        submission="echo 1; exec 1>&-; read x; sleep 1; [ $x = 2 ]",
        interactor="cat >/dev/null; echo 2",
        outcome=Outcome.SUCCESS,
        correct=True,
        points=1.0,
    ),
    "the interactor closes its output and goes on": Ending(
        submission="cat",
        interactor="echo 1; exec 1>&-; read x; read y; [ $x = 1 ]",
        outcome=Outcome.SUCCESS,
        correct=True,
        points=1.0,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_who_ends_first_is_believed(shared_manager: JobManager, name: str) -> None:
    expected = ENDINGS[name]
    result = talk(shared_manager, expected.submission, interactor(expected.interactor), inputs=("1", "2"))
    for case in result.cases:
        found = (case.outcome, case.correct, case.text, case.points)
        assert found == (expected.outcome, expected.correct, expected.text, expected.points), result


def test_what_is_expected_never_comes_near_the_submission_nor_the_submissions_files_near_the_interactor(
    shared_manager: JobManager,
) -> None:
    looks = "ls /job /tmp /pipes; cat /job/* 2>/dev/null; echo end; read x"
    hears = "while read line; do [ $line = end ] && break; echo $line >&2; done; ls /job >&2; echo; exit 1"
    cases = [Case("input", expected="secret", files={"own": "own"}, check=interactor(hears))]
    result = shared_manager.submit(Task(BUSYBOX, command=looks, cases=cases, limits=LIMITS)).result(60)
    (case,) = result.cases
    assert case.run is not None
    assert said(case.run.evidence) != [] and b"secret" not in case.run.stdout + case.run.stderr


@pytest.mark.parametrize(
    "tries",
    ["mkdir /pipes/x", "rm -f /pipes/*to", "touch /pipes/x", "mv /pipes/*to /pipes/x", "chmod 0 /pipes/*to", "ln -s / /pipes/x"],
)
def test_neither_program_can_change_what_is_in_their_volume(shared_manager: JobManager, tries: str) -> None:
    result = talk(shared_manager, f"{tries} 2>/dev/null && exit 3; true", interactor(f"{tries} 2>/dev/null && exit 3; exit 0"))
    assert outcomes(result) == [(Outcome.SUCCESS, True)], result


def test_nothing_of_one_case_is_there_in_the_next_on_either_side(shared_manager: JobManager) -> None:
    """A word too many, a process that stays and holds the fifos open, and files.

    The interactor says its words in one write: the submission may be gone before a second one, and then was the first to leave.
    """
    marks = "[ -e /tmp/mark ] && exit 3; touch /tmp/mark /job/mark /dev/shm/mark; (setsid sleep 60 &)"
    submission = f"{marks}; echo one; echo too many; read x; [ $x = first ]"
    judge = f"{marks}; read x; [ $x = one ] || exit 1; printf 'first\\ntoo many\\n'; exit 0"
    result = talk(shared_manager, submission, interactor(judge), inputs=[str(number) for number in range(5)])
    assert outcomes(result) == [(Outcome.SUCCESS, True)] * 5, result


def test_an_interactor_is_built_once_and_one_that_cannot_be_built_or_run_makes_errors(shared_manager: JobManager) -> None:
    built = interactor("sh verdict", build="echo 'read x; exit 0' > verdict")
    assert outcomes(talk(shared_manager, "echo 1", built, inputs=("1", "2"))) == [(Outcome.SUCCESS, True)] * 2

    why = "the program was not started: there is no '/nowhere' that can be run"
    for broken, text in (
        (interactor("true", build="exit 9"), "its interactor was not run: its build ended as failed: exit code 9"),
        (interactor(["/nowhere"]), f"its interactor cannot be run: {why}"),
    ):
        result = talk(shared_manager, "read x", broken, inputs=("1", "2"))
        assert [(case.outcome, case.text) for case in result.cases] == [(Outcome.ERROR, text)] * 2


def test_an_interactor_that_cannot_be_built_leaves_the_submissions_build_alone(shared_manager: JobManager) -> None:
    for seconds in ("0", "2"):
        broken = interactor("true", build="exit 9")
        task = Task(BUSYBOX, build=f"sleep {seconds}; echo built", command="true", cases=[Case("", check=broken)], limits=LIMITS)
        result = shared_manager.submit(task).result(60)
        assert (result.outcome, result.build and result.build.stdout) == (Outcome.ERROR, b"built\n"), result
        assert result.cases[0].text == "its interactor was not run: its build ended as failed: exit code 9"


def test_a_submission_that_cannot_be_started_costs_its_interactor_nothing(shared_manager: JobManager) -> None:
    """Its file names an interpreter that is not there: that is its own fault, case by case."""
    cases = [Case(str(number), check=interactor("read x || exit 1")) for number in range(5)]
    files = {"main": "#!/no/such/interpreter\n"}
    result = shared_manager.submit(Task(BUSYBOX, command=["./main"], files=files, cases=cases, limits=LIMITS)).result(60)
    assert [case.outcome for case in result.cases] == [Outcome.FAILED] * 5, result
    walls = [case.run.wall_time_s or 0.0 for case in result.cases if case.run is not None]
    assert len(walls) == 5 and min(walls) >= 0, "none has run for less than no time"


def test_cases_that_come_after_the_first_failure_are_left_out_also_with_an_interactor(shared_manager: JobManager) -> None:
    cases = [Case(code, check=interactor("read code <input; exit $code")) for code in ("0\n", "1\n", "0\n")]
    task = Task(BUSYBOX, command="true", cases=cases, limits=LIMITS, stop_at_first_failure=True)
    result = shared_manager.submit(task).result(60)
    assert outcomes(result) == [(Outcome.SUCCESS, True), (Outcome.FAILED, False), (None, None)]


def test_in_a_phase_an_interactor_talks_with_what_an_earlier_phase_made(shared_manager: JobManager) -> None:
    cases = [Case(str(number), check=interactor("read x; [ $x = made ]")) for number in range(3)]
    pipeline = Pipeline(
        [
            Phase("make", Task(BUSYBOX, command="echo echo made > /volumes/bin/program", limits=LIMITS), writes=["bin"]),
            Phase("test", Task(BUSYBOX, command="sh /volumes/bin/program", cases=cases, limits=LIMITS), reads=["bin"]),
        ]
    )
    result = shared_manager.submit(pipeline).result(120)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100.0), result
    assert [case.correct for case in result.phases[1].cases] == [True] * 3


# ---- who dies meanwhile


TALKS = "n=0; while [ $n -lt 3 ]; do echo $n; read x; n=$((n+1)); done; sleep 0.05"
LISTENS = interactor("read first <input; n=0; while read x; do echo $x; n=$((n+1)); done; [ $n = 3 ]", build="echo made > made")


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=20)
    yield client
    client.close()


def talking(count: int) -> Task:
    cases = [Case(f"{number}\n", name=f"n{number}", check=LISTENS) for number in range(1, count + 1)]
    return Task(BUSYBOX, build="echo made > made", command=TALKS, cases=cases, limits=LIMITS)


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_waiter_that_dies_in_the_middle_costs_no_talk_and_none_is_told_twice(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    told, others = Told(), waiters()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(talking(40))
        for many in (0, 5, 15, 30):
            eventually(lambda: len(told.cases) >= many, what=f"{many} cases have ended", within_s=60)  # noqa: B023
            for waiter in waiters() - others:
                waiter.kill()
        result = job.result(120)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100.0), result
    assert told.cases == [(f"n{number}", number) for number in range(1, 41)]
    assert not our_containers(private_engine.url) and not our_volumes(private_engine.url)


@pytest.mark.case(57)
@pytest.mark.daemon
def test_a_job_that_is_killed_takes_its_interactor_along(private_engine: PrivateDaemon, outsider: docker.DockerClient) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(talking(200))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        assert len(outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})) == 2
        assert manager.kill_job(job.job_id)
        result = job.result(30)
        eventually(lambda: not our_containers(private_engine.url), what="both containers are removed")
        eventually(lambda: not our_volumes(private_engine.url), what="and their volume")
    assert result.outcome is Outcome.KILLED
    ended = [case.outcome for case in result.cases if case.outcome is not None]
    assert 3 <= len(ended) < 200 and set(ended) == {Outcome.SUCCESS}


@pytest.mark.case(57)
@pytest.mark.daemon
def test_an_interactor_that_a_stranger_removes_is_a_crash_and_no_verdict(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    told = Told()
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(talking(200))
        eventually(lambda: len(told.cases) >= 3, what="some cases have ended", within_s=60)
        (container,) = outsider.containers.list(filters={"label": [f"{JOB_LABEL}={job.job_id}", STUDENT_LABEL]})
        container.remove(force=True, v=True)
        result = job.result(60)
        eventually(lambda: not our_containers(private_engine.url), what="nothing is left")
    assert result.outcome is Outcome.CRASH and "its interactor" in result.text, result
    assert {case.outcome for case in result.cases if case.outcome is not None} == {Outcome.SUCCESS}


@pytest.mark.case(57)
@pytest.mark.daemon
def test_where_the_interactors_container_dies_of_a_case_two_others_take_the_place_of_both(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    """It stands still, so that only the engine can end it."""
    told = Told()
    limits = replace(LIMITS, wall_time_s=12)
    check = interactor(f"read case <input; [ $case = 2 ] && sleep 20; read x; [ $case != 4 ] || {SLEEPS}; [ $x = made ]", limits)
    cases = [Case(f"{number}\n", name=f"n{number}", check=check) for number in (1, 2, 3, 4)]
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        program = "sleep 1; sh made; read x"
        job = manager.submit(Task(BUSYBOX, build="echo echo made > made", command=program, cases=cases, limits=limits))
        eventually(lambda: told.cases, what="a case has ended", within_s=60)
        (container,) = outsider.containers.list(filters={"label": [f"{JOB_LABEL}={job.job_id}", STUDENT_LABEL]})
        pause(container)
        eventually(lambda: len(told.cases) == 3, what="the engine has ended the case, and the next has ended", within_s=60)
        (other,) = outsider.containers.list(filters={"label": [f"{JOB_LABEL}={job.job_id}", STUDENT_LABEL]})
        eventually(wake, what="the last case goes on")
        result = job.result(60)
    assert other.id != container.id
    right = (Outcome.SUCCESS, True)
    assert outcomes(result) == [right, (Outcome.TIMEOUT, None), right, right], result
    assert [number for _, number in told.cases] == [1, 2, 3, 4]
