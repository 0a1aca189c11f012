"""What INGInious's own tests asked of its backend, asked of this one: on the fake engine, and on a real one.

They are recreated by what they check, on one manager for each engine. Which of its cases each of them stands for, and where
those are that are not here, is told in ``docs/coming-from-inginious.md``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobmanager import (
    ClientBuffer,
    ClientSync,
    Code,
    DockerHost,
    HookManager,
    JobFuture,
    JobInput,
    JobManager,
    JobResult,
    Limits,
    Match,
    MultipleChoice,
    Outcome,
    Task,
)
from jobmanager.errors import InvalidTask, UnknownEnvironment
from jobmanager.events import JobEnded, JobQueued
from jobmanager.testing import Exit, FakeEngineServer, Print, ProgramStep, WriteFile
from tests.conftest import BUSYBOX, children, eventually, open_files, our_containers, our_threads, our_volumes

PATIENCE_S = 60.0
AT_ONCE = 10
NOBODY = "unix:///tmp/nobody-listens-here.sock"
HELLO = Task("shell", command="echo hello")

MATCH = Match("42", success_text="Yes.", failure_text="No, 42.")
CHOICE = MultipleChoice(["a", "b"], choices=["a", "b", "c"], success_text="Both.", failure_text="Two of them.")
QUIZ = {"match": MATCH, "choice": CHOICE}
RIGHT: dict[str, object] = {"match": "42", "choice": ["a", "b"]}
WRONG: dict[str, object] = {"match": "41", "choice": ["a"]}


PROGRAMS: dict[str, list[ProgramStep]] = {}  # what the fake engine does for the commands of these tasks


def grading(word: Mapping[str, object], problems: Mapping[str, object] | None = None) -> Task:
    """A task whose program gives a grader's word."""
    command = f"mkdir -p .jobmanager; printf '%s' '{json.dumps(word)}' > .jobmanager/result.json"
    PROGRAMS[command] = [WriteFile(".jobmanager/result.json", json.dumps(word))]
    return Task("shell", command=command, problems=problems)  # type: ignore[arg-type]


def exiting(code: int, problems: Mapping[str, object] | None = None) -> Task:
    command = f"echo said; echo shouted >&2; exit {code}"
    PROGRAMS[command] = [Print("said\n"), Print("shouted\n", stderr=True), Exit(code)]
    return Task("shell", command=command, problems=problems)  # type: ignore[arg-type]


ALL_FINE = {"text": "from the grader", "problems": {"code": ["success", "of the code"]}}
JOBS: dict[str, tuple[Task, dict[str, object]]] = {
    "local, right": (Task("no such environment", problems=QUIZ), RIGHT),
    "local, wrong": (Task("no such environment", problems=QUIZ), WRONG),
    "match, right": (Task("no such environment", problems={"match": MATCH}), {"match": " 42\n"}),
    "choice, right": (Task("no such environment", problems={"choice": CHOICE}), {"choice": ["b", "a"]}),
    "choice, wrong": (Task("no such environment", problems={"choice": CHOICE}), {"choice": ["c"]}),
    "code": (Task("shell", command="sh main.sh", problems={"code": Code("main.sh")}), {"code": "echo mine"}),
    "exit 0": (exiting(0), {}),
    "exit 1": (exiting(1), {}),
    "exit 0, right": (exiting(0, QUIZ), RIGHT),
    "exit 0, wrong": (exiting(0, QUIZ), WRONG),
    "exit 1, right": (exiting(1, QUIZ), RIGHT),
    "grade -5": (grading({"grade": -5}), {}),
    "grade 5000": (grading({"grade": 5000}), {}),
    "grade text": (grading({"grade": "a lot"}), {}),
    "result unknown": (grading({"result": "fantastic"}), {}),
    "all fine, right": (grading(ALL_FINE, QUIZ), RIGHT),
    "all fine, wrong": (grading(ALL_FINE, QUIZ), WRONG),
}


class Engine:
    """One engine and a manager on it, with hooks: one that remembers what it was told, and one that raises."""

    def __init__(self, url: str, fake: FakeEngineServer | None) -> None:
        self.url = url
        self.fake = fake
        self.queued: dict[str, JobQueued] = {}
        self.raised_for: list[str] = []
        hooks = HookManager()
        hooks.add(JobQueued, lambda event: self.queued.update({event.job_id: event}))
        hooks.add(JobQueued, self._raise)
        hooks.add(JobEnded, self._raise)
        environments = {"shell": BUSYBOX, "broken": "no-such-image:1"}
        self.manager = JobManager(DockerHost(url, max_concurrent_jobs=8), environments=environments, hook_manager=hooks)

    def _raise(self, event: JobQueued | JobEnded) -> None:
        self.raised_for.append(event.job_id)
        raise RuntimeError("a hook of the test")

    def that_it_refuses(self) -> Task:
        """A task that the engine refuses to start, once."""
        if self.fake is not None:
            self.fake.faults.refuse("create", "no such file or directory: /dev/no-such")
        return Task("shell", command="echo never", devices=["/dev/no-such"])

    def of_jobs(self) -> list[str]:
        """Containers and volumes of jobs."""
        if self.fake is not None:
            return [container.name for container in self.fake.containers()]
        return our_containers(self.url) + our_volumes(self.url)


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    threads, processes, files = our_threads(), set(children()), open_files()
    with ExitStack() as stack:
        is_fake = request.param == "fake"
        fake = stack.enter_context(FakeEngineServer([BUSYBOX], programs=PROGRAMS)) if is_fake else None
        engine = Engine(fake.url if fake is not None else request.getfixturevalue("engine_url"), fake)
        stack.enter_context(engine.manager)
        yield engine
    eventually(lambda: our_threads() == threads and set(children()) <= processes and open_files() <= files)


@pytest.fixture(autouse=True)
def nothing_left_behind(engine: Engine) -> Iterator[None]:
    """Of any job; the rest is looked at when the engine's manager is closed."""
    yield
    eventually(lambda: not engine.of_jobs(), what="containers and volumes of jobs are gone")


@pytest.fixture(scope="module")
def results(engine: Engine) -> dict[str, JobResult]:
    """Of all JOBS, run at once."""
    jobs = {name: engine.manager.submit(task, answers) for name, (task, answers) in JOBS.items()}  # type: ignore[arg-type]
    return {name: job.result(PATIENCE_S) for name, job in jobs.items()}


Results = dict[str, JobResult]


# ---- one job, and ten at once


def test_a_callback_gets_the_id_that_new_job_gave_and_a_success(engine: Engine) -> None:
    got: list[JobResult] = []

    job_id = engine.manager.new_job(HELLO, {}, got.append)

    (result,) = eventually(lambda: got)
    assert (result.job_id, result.outcome) == (job_id, Outcome.SUCCESS)


def test_client_sync_returns_a_success(engine: Engine) -> None:
    assert ClientSync(engine.manager).new_job(HELLO, {}, timeout_s=PATIENCE_S).outcome is Outcome.SUCCESS


def test_a_job_in_a_buffer_waits_until_it_is_done_and_its_result_can_be_fetched(engine: Engine) -> None:
    buffer = ClientBuffer(engine.manager)

    job_id = buffer.new_job(Task("shell", command="sleep 1"), {})

    assert buffer.is_waiting(job_id) and not buffer.is_done(job_id)
    eventually(lambda: buffer.is_done(job_id), what="the job is done")
    assert not buffer.is_waiting(job_id)
    assert buffer.get_result(job_id).outcome is Outcome.SUCCESS


def test_ten_threads_that_each_wait_for_a_job_all_get_a_success(engine: Engine) -> None:
    client = ClientSync(engine.manager)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(lambda _: client.new_job(HELLO, {}, timeout_s=PATIENCE_S).outcome, range(AT_ONCE)))

    assert found == [Outcome.SUCCESS] * AT_ONCE


def test_ten_threads_that_each_poll_for_a_job_all_get_a_success(engine: Engine) -> None:
    buffer = ClientBuffer(engine.manager)

    def polled(_: int) -> Outcome:
        job_id = buffer.new_job(HELLO, {})
        eventually(lambda: buffer.is_done(job_id), within_s=PATIENCE_S, what="the job is done")
        return buffer.get_result(job_id).outcome

    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert list(threads.map(polled, range(AT_ONCE))) == [Outcome.SUCCESS] * AT_ONCE


# ---- hooks


def test_a_hook_is_told_of_a_new_job_with_its_task_and_its_input(engine: Engine) -> None:
    answers = {"match": "42", "choice": ["a"], "@username": "me"}

    job = engine.manager.submit(JOBS["local, right"][0], answers, launcher_name="me")

    assert job.result(PATIENCE_S).outcome is Outcome.FAILED
    told = eventually(lambda: engine.queued.get(job.job_id))
    assert (told.task, told.inputs, told.launcher) == (JOBS["local, right"][0], JobInput(answers), "me")


def test_hooks_that_raise_stop_no_job_and_are_told_of_the_next_one_too(engine: Engine) -> None:
    jobs = [engine.manager.submit(HELLO) for _ in range(2)]

    assert [job.result(PATIENCE_S).outcome for job in jobs] == [Outcome.SUCCESS] * 2
    eventually(lambda: all(engine.raised_for.count(job.job_id) == 2 for job in jobs), what="hooks were told of both ends")


# ---- what is answered without a container, and what is not


def test_answers_that_need_no_container_never_reach_the_host(engine: Engine, results: Results) -> None:
    assert (results["local, right"].outcome, results["local, right"].host) == (Outcome.SUCCESS, None)
    if engine.fake is not None:
        assert results["local, right"].job_id not in engine.fake.runs()


def test_code_reaches_the_host_and_runs_there(engine: Engine, results: Results) -> None:
    assert (results["code"].outcome, results["code"].stdout) == (Outcome.SUCCESS, b"mine\n")
    if engine.fake is not None:
        assert engine.fake.runs()[results["code"].job_id] == 1


def test_a_match_that_is_right_is_a_success(results: Results) -> None:
    assert results["match, right"].outcome is Outcome.SUCCESS


def test_right_choices_are_a_success_with_a_grade_of_100(results: Results) -> None:
    assert (results["choice, right"].outcome, results["choice, right"].grade) == (Outcome.SUCCESS, 100.0)


def test_wrong_choices_are_a_failure_with_a_grade_of_0(results: Results) -> None:
    assert (results["choice, wrong"].outcome, results["choice, wrong"].grade) == (Outcome.FAILED, 0.0)


# ---- grades


@pytest.mark.parametrize("name", ["local, right", "exit 0", "exit 0, right"])
def test_a_success_is_graded_100(results: Results, name: str) -> None:
    assert (results[name].outcome, results[name].grade) == (Outcome.SUCCESS, 100.0)


@pytest.mark.parametrize("name", ["local, wrong", "exit 1", "exit 1, right"])
def test_a_failure_is_graded_0(results: Results, name: str) -> None:
    assert (results[name].outcome, results[name].grade) == (Outcome.FAILED, 0.0)


def test_a_grade_below_zero_is_zero(results: Results) -> None:
    assert results["grade -5"].grade == 0.0


def test_a_grade_above_200_is_200(results: Results) -> None:
    assert results["grade 5000"].grade == 200.0


def test_a_grade_that_is_no_number_is_zero_and_an_error_that_says_so(results: Results) -> None:
    result = results["grade text"]
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0.0)
    assert "grade" in result.text


# ---- what the container and the answers say, put together


def test_a_result_that_nobody_knows_is_an_error(results: Results) -> None:
    assert results["result unknown"].outcome is Outcome.ERROR
    assert "result is neither" in results["result unknown"].text


def test_what_a_program_printed_comes_back(results: Results) -> None:
    assert (results["exit 0"].stdout, results["exit 0"].stderr) == (b"said\n", b"shouted\n")


def test_texts_of_several_answers_are_lines_of_one(results: Results) -> None:
    assert results["local, wrong"].text == "No, 42.\nTwo of them."


def test_a_right_program_with_wrong_answers_is_a_failure(results: Results) -> None:
    assert results["exit 0, wrong"].outcome is Outcome.FAILED


def test_a_wrong_program_with_right_answers_is_a_failure(results: Results) -> None:
    assert results["exit 1, right"].outcome is Outcome.FAILED


def test_a_right_program_with_right_answers_is_a_success(results: Results) -> None:
    assert results["exit 0, right"].outcome is Outcome.SUCCESS


def test_the_text_is_the_containers_and_then_the_answers(results: Results) -> None:
    assert results["all fine, right"].text == "from the grader\nYes.\nBoth."
    assert results["all fine, wrong"].text == "from the grader\nNo, 42.\nTwo of them."


def test_problems_have_the_texts_of_the_container_and_of_the_answers(results: Results) -> None:
    assert results["all fine, wrong"].problems == {
        "code": (Outcome.SUCCESS, "of the code"),
        "match": (Outcome.FAILED, "No, 42."),
        "choice": (Outcome.FAILED, "Two of them."),
    }


# ---- hosts, files and names that are not there


def test_a_host_that_answers_is_told_to_be_up(engine: Engine) -> None:
    assert [host.up for host in engine.manager.hosts()] == [True]


def test_a_job_that_no_host_takes_in_time_is_a_crash_and_its_callback_is_called(engine: Engine) -> None:
    hosts = [DockerHost(engine.url, name="without the image"), DockerHost(NOBODY, name="away")]
    got: list[JobResult] = []
    with JobManager(hosts, queue_timeout_s=0.5) as manager:
        assert [host.up for host in manager.hosts()] == [True, False]
        manager.new_job(Task("perhaps-there:1", command="true"), {}, got.append)
        (result,) = eventually(lambda: got, what="its callback is called")

    assert (result.outcome, result.evidence[0].kind) == (Outcome.CRASH, "queue_timeout")


def test_a_job_that_the_engine_refuses_is_a_crash_and_the_next_one_is_not(engine: Engine) -> None:
    refused = engine.manager.submit(engine.that_it_refuses()).result(PATIENCE_S)

    assert (refused.outcome, refused.stdout) == (Outcome.CRASH, b"")
    assert "/dev/no-such" in refused.text
    assert engine.manager.submit(HELLO).result(PATIENCE_S).outcome is Outcome.SUCCESS


def test_an_alias_for_an_image_that_is_not_there_harms_only_jobs_that_ask_for_it(engine: Engine) -> None:
    (names,) = engine.manager.get_available_environments().values()
    assert "shell" in names and "broken" not in names
    with pytest.raises(UnknownEnvironment, match="'broken'"):
        engine.manager.submit(Task("broken", command="true"))
    assert engine.manager.submit(HELLO).result(PATIENCE_S).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("what", ["missing", "too large"])
def test_files_that_cannot_be_sent_are_refused_before_anything_runs_and_other_jobs_run(
    engine: Engine, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "task"
    if what == "too large":
        folder.mkdir()
        (folder / "large").write_bytes(bytes(2 * 2**20))
    beside = engine.manager.submit(HELLO)

    with pytest.raises(InvalidTask, match=str(folder)):
        engine.manager.submit(Task("shell", command="true", directory=folder, limits=Limits(workspace_mib=1)))

    assert beside.result(PATIENCE_S).outcome is Outcome.SUCCESS


def test_a_job_has_its_tasks_files_as_they_were_when_the_task_was_made_and_none_of_an_earlier_job(
    engine: Engine, tmp_path: Path
) -> None:
    def listed(directory: Path | None) -> JobFuture:
        return engine.manager.submit(Task("shell", command="ls; cat changes; cat goes", directory=directory))

    (tmp_path / "changes").write_text("before\n")
    (tmp_path / "goes").write_text("still there\n")
    first = listed(tmp_path)
    (tmp_path / "changes").write_text("after\n")
    (tmp_path / "goes").unlink()
    second = listed(tmp_path)

    assert first.result(PATIENCE_S).stdout == b"changes\ngoes\nbefore\nstill there\n"
    assert second.result(PATIENCE_S).stdout == b"changes\nafter\n"
    assert b"changes" not in listed(None).result(PATIENCE_S).stdout


def test_callbacks_may_be_bound_methods_that_no_other_process_could_have(engine: Engine) -> None:
    class Waiting:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be pickled
            self.results: list[JobResult] = []

        def ended(self, result: JobResult) -> None:
            with self.lock:
                self.results.append(result)

    waiting = Waiting()
    callback: Callable[[JobResult], None] = waiting.ended
    engine.manager.new_job(HELLO, {}, callback)

    assert eventually(lambda: waiting.results)[0].outcome is Outcome.SUCCESS
