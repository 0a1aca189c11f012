"""Problems, result files, and what both make of a run: as hostile as a program can be, it gains nothing by them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from queue import SimpleQueue

import docker
import pytest

from jobmanager import Code, Evidence, JobInput, JobManager, JobResult, Limits, Match, MultipleChoice, Outcome, ProblemResult, Task
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.errors import InvalidInput
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, proof

pytestmark = pytest.mark.engine

QUIZ = {
    "capital": Match("Paris", success_text="Right, Paris.", failure_text="Think of a tower."),
    "primes": MultipleChoice(["2", "3"], choices=["1", "2", "3", "4"]),
}
RIGHT = {"capital": " Paris\n", "primes": ["3", "2"]}
WRONG = {"capital": "Rome", "primes": ["2", "3"]}
WORD = {
    "result": "failed",
    "grade": 62.5,
    "text": "half of it, é",
    "tests": {"first": True, "second": {"expected": 1, "found": [None, 2.5]}},
    "custom": {"time": 0.25},
    "state": "the grader's memory",
    "problems": {"code": ["failed", "line 3"], "style": {"result": "success", "text": "tidy"}},
}


def says(word: object, *, code: int = 0) -> str:
    """A command that leaves a result file behind."""
    return f"cat > .jobmanager/result.json <<'EOF'\n{json.dumps(word)}\nEOF\nexit {code}"


# ---- problems without a container


def test_a_job_of_local_problems_only_makes_no_container(shared_manager: JobManager, outsider: docker.DockerClient) -> None:
    task = Task("no such environment", problems=QUIZ)
    job = shared_manager.submit(task, RIGHT)
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.grade, result.host, result.exit_code) == (Outcome.SUCCESS, 100.0, None, None)
    assert result.text == "Right, Paris."
    assert result.problems == {
        "capital": ProblemResult(Outcome.SUCCESS, "Right, Paris."),
        "primes": ProblemResult(Outcome.SUCCESS, ""),
    }
    assert (result.stdout, result.cpu_time_s, result.wall_time_s, result.archive) == (b"", None, None, None)
    assert not outsider.api.containers(all=True, filters={"label": f"{JOB_LABEL}={job.job_id}"})


def test_a_wrong_answer_to_a_local_problem_is_a_failure(shared_manager: JobManager) -> None:
    result = shared_manager.submit(Task("any", problems=QUIZ), WRONG).result(PATIENCE_S)
    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 0.0, "Think of a tower.")
    assert result.problems["capital"] == (Outcome.FAILED, "Think of a tower.")
    assert result.problems["primes"].outcome is Outcome.SUCCESS


def test_an_answer_that_is_missing_is_a_wrong_one(shared_manager: JobManager) -> None:
    result = shared_manager.submit(Task("any", problems=QUIZ), {}).result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.FAILED, "Think of a tower.\nWrong answer.")


def test_a_quiz_from_a_task_folder_tells_the_feedback_of_what_was_chosen(shared_manager: JobManager, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "environment: mcq\n"
        "problems:\n"
        "  even: {type: multiple_choice, choices: [{text: 1, feedback: Odd.}, {text: 2, valid: on, feedback: The only prime.}]}\n"
        "  half: {type: match, answer: 21}\n"
    )
    task = Task.from_directory(tmp_path)

    right = shared_manager.submit(task, {"even": 1, "half": "21"}).result(PATIENCE_S)
    wrong = shared_manager.submit(task, {"even": "0", "half": "21"}).result(PATIENCE_S)

    assert (right.outcome, right.text, right.host) == (Outcome.SUCCESS, "The only prime.", None)
    assert (wrong.outcome, wrong.text) == (Outcome.FAILED, "Wrong answer.\nOdd.")
    assert wrong.problems["half"].outcome is Outcome.SUCCESS
    with pytest.raises(InvalidInput, match="problem 'even': no such choice: 2; there are 0, 1"):
        shared_manager.submit(task, {"even": 2})


def test_local_results_come_through_the_done_queue_and_not_inside_new_job(shared_manager: JobManager) -> None:
    results: SimpleQueue[tuple[str, JobResult]] = SimpleQueue()
    job_id = shared_manager.new_job(
        Task("any", problems=QUIZ), RIGHT, lambda result: results.put((threading.current_thread().name, result))
    )
    thread, result = results.get(timeout=PATIENCE_S)
    assert thread.startswith("jobmanager-callbacks")
    assert (result.job_id, result.outcome) == (job_id, Outcome.SUCCESS)


# ---- both kinds


def test_a_right_program_and_right_answers_are_a_success(run: Run, shell: str) -> None:
    problems = {**QUIZ, "code": Code("main.sh")}
    result = run(["sh", "main.sh"], JobInput({**RIGHT, "code": "echo fine"}), image=shell, problems=problems)
    assert (result.outcome, result.grade, result.stdout) == (Outcome.SUCCESS, 100.0, b"fine\n")
    assert (result.text, set(result.problems)) == ("Right, Paris.", {"capital", "primes"})


def test_a_wrong_local_answer_makes_a_right_program_a_failure(run: Run) -> None:
    result = run("true", JobInput(WRONG), problems=QUIZ)
    assert (result.outcome, result.grade, result.exit_code) == (Outcome.FAILED, 0.0, 0)
    assert result.text == "Think of a tower."


def test_a_wrong_program_stays_one_with_right_answers(run: Run) -> None:
    result = run("exit 3", JobInput(RIGHT), problems=QUIZ)
    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 0.0, "exit code 3\nRight, Paris.")


def test_what_the_program_and_the_answers_say_is_joined(run: Run) -> None:
    result = run(says({"text": "well done", "problems": {"code": ["success", "neat"]}}), JobInput(WRONG), problems=QUIZ)
    assert (result.outcome, result.text) == (Outcome.FAILED, "well done\nThink of a tower.")
    assert set(result.problems) == {"code", "capital", "primes"}


def test_a_program_cannot_answer_a_local_problem(run: Run) -> None:
    result = run(says({"result": "success", "problems": {"capital": ["success", "mine"]}}), JobInput(WRONG), problems=QUIZ)
    assert result.outcome is Outcome.FAILED
    assert result.problems["capital"] == (Outcome.FAILED, "Think of a tower.")


def test_answers_are_judged_after_a_timeout_too(run: Run) -> None:
    result = run("sleep 60", JobInput(WRONG), problems=QUIZ, limits=Limits(wall_time_s=1))
    assert (result.outcome, result.grade) == (Outcome.TIMEOUT, 0.0)
    assert result.problems["capital"].outcome is Outcome.FAILED


# ---- the result file


def test_a_result_file_fills_every_field(run: Run, shell: str) -> None:
    result = run(says(WORD), image=shell)
    assert (result.outcome, result.grade, result.text, result.state) == (
        Outcome.FAILED,
        62.5,
        "half of it, é",
        "the grader's memory",
    )
    assert (result.tests, result.custom) == (WORD["tests"], WORD["custom"])
    assert result.problems == {"code": (Outcome.FAILED, "line 3"), "style": (Outcome.SUCCESS, "tidy")}
    assert (result.stdout, result.stderr, result.exit_code) == (b"", b"", 0)
    assert Evidence(kind="grader", value="failed", source="result.json") in result.evidence
    outcome_and_text, grade, problems, tests, custom, archive = result
    assert (outcome_and_text, grade, archive) == ((Outcome.FAILED, "half of it, é"), 62.5, None)
    assert (problems, tests, custom) == (result.problems, result.tests, result.custom)


@pytest.mark.parametrize(("said", "grade"), [(150, 150.0), (1e9, 200.0), (-5, 0.0), (0.5, 0.5)])
def test_a_grade_is_kept_within_0_and_200(run: Run, said: float, grade: float) -> None:
    result = run(says({"grade": said}))
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, grade)


def test_a_result_file_cannot_turn_a_bad_exit_code_into_a_success(run: Run, shell: str) -> None:
    result = run(says({"result": "success", "grade": 200, "text": "all fine"}, code=3), image=shell)
    assert (result.outcome, result.grade, result.exit_code, result.text) == (Outcome.FAILED, 0.0, 3, "all fine")


def test_a_grade_below_a_bad_exit_code_counts_when_it_does_not_contradict(run: Run) -> None:
    result = run(says({"grade": 30, "text": "a third"}, code=1))
    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 30.0, "a third")


@pytest.mark.parametrize(
    ("program", "limits", "outcome"),
    [
        ("sleep 60", Limits(wall_time_s=1), Outcome.TIMEOUT),
        ("yes", Limits(output_kib=8), Outcome.OVERFLOW),
        ("exec dd if=/dev/zero of=/dev/null bs=200M", Limits(memory_mib=32), Outcome.OVERFLOW),
    ],
    ids=["timeout", "output", "memory"],
)
def test_a_result_file_does_not_count_when_a_limit_was_reached(run: Run, program: str, limits: Limits, outcome: Outcome) -> None:
    word = json.dumps({"result": "success", "grade": 100, "text": "mine"})
    result = run(f"echo '{word}' > .jobmanager/result.json; {program}", limits=limits)
    assert (result.outcome, result.grade) == (outcome, 0.0)
    assert "mine" not in result.text


UNREADABLE = {
    "not JSON": "printf '{' > $file",
    "not UTF-8": r"printf '{\"text\": \"\377\"}' > $file",
    "not an object": "echo '[]' > $file",
    "an unknown field": "echo '{\"points\": 3}' > $file",
    "a field twice": 'echo \'{"grade": 1, "grade": 2}\' > $file',
    "NaN": "echo '{\"grade\": NaN}' > $file",
    "a grade that is text": 'echo \'{"grade": "100"}\' > $file',
    "a word that nobody knows": 'echo \'{"result": "timeout"}\' > $file',
    "a lone surrogate": r"echo '{\"text\": \"\ud800\"}' | tr -d '\001' > $file",
    "100,000 brackets": "head -c 100000 /dev/zero | tr '\\0' '[' > $file",
    "too large": "head -c 2000000 /dev/zero | tr '\\0' ' ' > $file",
    "a number of a megabyte": "{ printf '{\"grade\": '; head -c 1000000 /dev/zero | tr '\\0' 1; echo '}'; } > $file",
    "an empty file": ": > $file",
    "a folder": "mkdir $file",
    "a fifo": "mkfifo $file",
    "a link to another file": "echo '{}' > f; ln -s ../f $file",
    "a link to nothing": "ln -s nothing $file",
    "a link to itself": "ln -s result.json $file",
    "a link to a fifo": "mkfifo f; ln -s /job/f $file",
    "zeros for ever": "ln -s /dev/zero $file",
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_result_file_that_cannot_be_read_is_an_error(run: Run, how: str) -> None:
    result = run(f"file=.jobmanager/result.json; echo out; {UNREADABLE[how]}; exit 0", image=PYTHON)
    assert (result.outcome, result.grade, result.exit_code) == (Outcome.ERROR, 0.0, 0), result
    assert result.text.startswith("the result file cannot be read: ")
    assert result.stdout == b"out\n"
    assert proof(result)["result_file"]


ABSENT = {
    "none": "true",
    "no folder at all": "rm -r .jobmanager",
    "a file for a folder": "rm -r .jobmanager; echo '{' > .jobmanager",
    "a folder elsewhere": "rm -r .jobmanager; ln -s /etc .jobmanager",
    "a loop of folders": "rm -r .jobmanager; ln -s .jobmanager .jobmanager",
}


@pytest.mark.parametrize("how", ABSENT)
def test_what_is_no_result_file_counts_for_nothing_and_holds_nothing_up(run: Run, shell: str, how: str) -> None:
    result = run(f"file=.jobmanager/result.json; echo out; {ABSENT[how]}; exit 0", image=shell)
    assert (result.outcome, result.grade, result.stdout) == (Outcome.SUCCESS, 100.0, b"out\n"), result


def test_a_result_file_without_the_right_to_read_counts(run: Run) -> None:
    result = run("umask 777; echo '{\"grade\": 1}' > .jobmanager/result.json")
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 1.0), result


# ---- forgery

FORGED = r"""
import os
def frame(kind, payload):
    return b"JMU1" + bytes(8) + bytes([kind]) + bytes(3) + bytes(8) + len(payload).to_bytes(4, "little") + bytes(4) + payload
for number in (1, 2, *range(3, 64)):
    for forged in (b"\x1e- end 0 1 1 0 0 0 -\n", frame(1, bytes(64)), frame(2, bytes(64))):
        for path in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}"):
            try:
                with open(path, "wb", buffering=0) as file:
                    file.write(forged)
            except OSError:
                pass
os._exit(7)
"""


@pytest.mark.case(41)
def test_forged_words_of_the_runner_are_only_output(run: Run) -> None:
    result = run(["python3", "-c", FORGED], image=PYTHON)
    assert (result.outcome, result.exit_code, result.grade) == (Outcome.FAILED, 7, 0.0), result
    for output in (result.stdout, result.stderr):
        assert output.count(b"JMU1") == 2 and b"end 0 1 1 0 0 0 -" in output


@pytest.mark.parametrize(
    ("sent", "outcome", "grade"),
    [
        ("def double(x): return 2 * x\n", Outcome.SUCCESS, 100.0),
        ("def double(x): return 0\n", Outcome.FAILED, 0.0),
        ("import os; os._exit(0)\n", Outcome.SUCCESS, 100.0),
    ],
    ids=["right", "wrong", "forged"],
)
def test_without_a_grader_a_submission_decides_its_own_result_as_the_documents_warn(
    shared_manager: JobManager, sent: str, outcome: Outcome, grade: float
) -> None:
    # given: a task whose own tests import what was sent in
    tests = "from solution import double\nassert double(2) == 4\n"
    problems = {"p": Code("solution.py")}
    task = Task(PYTHON, command=["python3", "test_it.py"], files={"test_it.py": tests}, problems=problems)
    # when:
    result = shared_manager.submit(task, {"p": sent}).result(PATIENCE_S)
    # then: a program that never answered has passed them
    assert (result.outcome, result.grade) == (outcome, grade)


@pytest.mark.case(41)
def test_a_perfect_result_on_standard_output_is_only_output(run: Run, shell: str) -> None:
    word = json.dumps({"result": "success", "grade": 100})
    result = run(f"echo '{word}'; (echo '{word}' > /proc/1/fd/1) 2> /dev/null; exit 1", image=shell)
    assert (result.outcome, result.grade) == (Outcome.FAILED, 0.0)
    assert result.stdout.decode() == f"{word}\n"


def test_shell_words_in_a_tasks_names_and_values_are_never_run(run: Run, shell: str) -> None:
    evil = "'; touch /job/pwned; echo '$(touch /job/pwned)`touch /job/pwned`\n}; touch /job/pwned; {"
    result = run(["ls"], JobInput(stdin=evil), image=shell, env={"EVIL": evil}, files={"a": evil})
    assert result.stdout == b"a\n"
    assert b"pwned" not in run([evil], image=shell).stdout
