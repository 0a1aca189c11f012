"""Merging: the container's word, the result file's and the local answers make one result."""

from __future__ import annotations

import json

import pytest

from jobmanager import Code, Grader, JobInput, Limits, Match, MultipleChoice, Outcome, ProblemResult, Step, Task
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.facts import (
    CapturedOutput,
    Collected,
    ProgramEnd,
    RemovedExternally,
    RunFacts,
    StoppedForProtocolError,
    StudentsLost,
)
from jobmanager.results.merge import local_results, merged_result
from jobmanager.results.verdict import KillReason, crash_verdict, judge, killed_verdict
from tests.support.run_facts import cut_off, exited

QUIZ = {
    "m": Match("42", success_text="Yes.", failure_text="No, 42."),
    "c": MultipleChoice(["a", "b"], failure_text="Look again."),
}
RIGHT, WRONG = {"m": "42", "c": ["a", "b"]}, {"m": "41", "c": ["a", "b"]}
BOTH_WRONG = {"m": "41", "c": "a"}
LIMITS = Limits(output_kib=1)


def request(answers=None, *, problems=None, debug=False):
    task = Task("x", command="true", problems=problems if problems is not None else QUIZ, limits=LIMITS)
    return asked(task, answers, debug)


def asked(task, answers=None, debug=False):
    inputs = JobInput(answers or {})
    return Request(
        job_id="j",
        task=task,
        inputs=inputs,
        runs=(RunRequest(task=task, inputs=inputs),),
        priority=0,
        launcher_name="x",
        debug=debug,
    )


def run(exit_code=0, said=None, answers=RIGHT, problems=None, **facts):
    """The result of a run that ended by itself."""
    result_file = said if said is None or isinstance(said, bytes) else json.dumps(said).encode()
    found = exited(exit_code, result_file=result_file, **facts)
    return merged_result(request(answers, problems=problems), judge(found, LIMITS), found, host="h", timings={"run": 1.0}, steps=())


# ---- local answers


def test_local_answers_are_judged_and_told_with_the_problems_texts():
    assert local_results(request(RIGHT)) == {"m": (Outcome.SUCCESS, "Yes."), "c": (Outcome.SUCCESS, "")}
    assert local_results(request(BOTH_WRONG)) == {"m": (Outcome.FAILED, "No, 42."), "c": (Outcome.FAILED, "Look again.")}
    assert local_results(request({})) == {"m": (Outcome.FAILED, "No, 42."), "c": (Outcome.FAILED, "Look again.")}


def test_problems_that_become_files_are_not_answered_here():
    assert local_results(request({"p": "code", "m": "42"}, problems={"p": Code("p.py"), "m": Match("42")})) == {
        "m": (Outcome.SUCCESS, "")
    }
    assert local_results(request(problems={})) == {}


# ---- merging

# (exit code, what the file says, answers, outcome, grade, text)
TABLE = [
    (0, None, RIGHT, "success", 100, "Yes."),
    (0, None, WRONG, "failed", 0, "No, 42."),
    (0, None, BOTH_WRONG, "failed", 0, "No, 42.\nLook again."),
    (3, None, RIGHT, "failed", 0, "exit code 3\nYes."),
    (3, None, WRONG, "failed", 0, "exit code 3\nNo, 42."),
    (0, {"text": "good"}, RIGHT, "success", 100, "good\nYes."),
    (0, {"text": "good"}, BOTH_WRONG, "failed", 0, "good\nNo, 42.\nLook again."),
    (0, {"grade": 80}, RIGHT, "success", 80, "Yes."),
    (0, {"grade": 150}, RIGHT, "success", 150, "Yes."),
    (0, {"grade": 1000}, RIGHT, "success", 200, "Yes."),
    (0, {"grade": -1}, RIGHT, "success", 0, "Yes."),
    (0, {"grade": 80}, WRONG, "failed", 80, "No, 42."),
    (0, {"result": "success", "grade": 80}, RIGHT, "success", 80, "Yes."),
    (0, {"result": "failed"}, RIGHT, "failed", 0, "Yes."),
    (0, {"result": "failed", "grade": 30, "text": "half"}, RIGHT, "failed", 30, "half\nYes."),
    (1, {"result": "failed", "grade": 30}, RIGHT, "failed", 30, "exit code 1\nYes."),
    (1, {"result": "success", "grade": 100, "text": "ok"}, RIGHT, "failed", 0, "ok\nYes."),
    (1, {"result": "success"}, RIGHT, "failed", 0, "exit code 1\nYes."),
]


@pytest.mark.parametrize(("exit_code", "said", "answers", "outcome", "grade", "text"), TABLE)
def test_exit_code_file_and_local_answers_make_outcome_grade_and_text(exit_code, said, answers, outcome, grade, text):
    result = run(exit_code, said, answers)

    assert (str(result.outcome), result.grade, result.text) == (outcome, grade, text)
    assert type(result.grade) is float


def test_a_file_cannot_turn_a_bad_exit_code_into_a_success_whatever_it_says():
    for said in ({"result": "success"}, {"result": "success", "grade": 200}, {"grade": 200}, {}):
        assert run(1, said).outcome is Outcome.FAILED
    assert run(1, {"result": "success", "grade": 200}).grade == 0


def test_the_files_fields_fill_the_result():
    said = {"problems": {"p": ["success", "fine"]}, "tests": {"t": [1]}, "custom": {"c": None}, "state": "s"}

    result = run(0, said)

    assert result.problems == {"p": ("success", "fine"), "m": ("success", "Yes."), "c": ("success", "")}
    assert (result.tests, result.custom, result.state) == ({"t": [1]}, {"c": None}, "s")


def test_a_file_cannot_overrule_what_was_answered_here():
    result = run(0, {"problems": {"m": ["success", "mine"], "c": ["success", "mine"]}}, BOTH_WRONG)

    assert result.problems == {"m": ("failed", "No, 42."), "c": ("failed", "Look again.")}
    assert result.outcome is Outcome.FAILED


def test_a_graders_failed_is_told_in_the_evidence():
    result = run(0, {"result": "failed"})

    assert ("grader", "failed", "result.json") in [(found.kind, found.value, found.source) for found in result.evidence]


def test_a_file_that_cannot_be_read_is_an_error_that_says_why():
    for answers in (RIGHT, BOTH_WRONG):
        result = run(0, b'{"grade": NaN}', answers)

        assert (result.outcome, result.grade) == (Outcome.ERROR, 0.0)
        assert result.text.startswith("the result file cannot be read: NaN is no JSON")
        assert ("result_file", "result.json") in [(found.kind, found.source) for found in result.evidence]
        assert "exit_code" in [found.kind for found in result.evidence]
        assert result.tests == {}


def test_a_bad_file_of_a_failed_program_is_an_error_too():
    assert run(1, b"[").outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        (lambda said: exited(result_file=said, cpu_time_s=31.0), Outcome.TIMEOUT),
        (lambda said: exited(result_file=said, output=CapturedOutput(stdout_bytes=5000)), Outcome.OVERFLOW),
        (lambda said: exited(1, result_file=said, counters={"oom_kills": 1}), Outcome.OVERFLOW),
        (lambda said: cut_off(RemovedExternally()), Outcome.CRASH),
    ],
)
@pytest.mark.parametrize("said", [b'{"result": "success", "grade": 100, "text": "mine", "tests": {"a": 1}}', b"not JSON"])
def test_limits_rule_over_the_file_whatever_is_in_it(facts, outcome, said):
    found = facts(said)

    result = merged_result(request(RIGHT), judge(found, LIMITS), found, host="h", timings={}, steps=())

    assert (result.outcome, result.grade, result.tests) == (outcome, 0.0, {})
    assert "mine" not in result.text


def test_local_answers_do_not_change_an_outcome_other_than_success():
    found = exited(cpu_time_s=31.0)

    result = merged_result(request(BOTH_WRONG), judge(found, LIMITS), found, host="h", timings={}, steps=())

    assert result.outcome is Outcome.TIMEOUT
    assert result.problems["m"] == ProblemResult(Outcome.FAILED, "No, 42.")


def test_a_killed_job_has_no_grade_and_tells_nothing_of_its_answers():
    result = merged_result(request(RIGHT), killed_verdict(KillReason.KILL_JOB), None, host=None, timings={}, steps=())

    assert (result.outcome, result.grade, result.problems, result.text) == (Outcome.KILLED, 0.0, {}, "killed: kill_job")


def test_a_job_that_never_ran_has_a_result_with_every_field():
    result = merged_result(
        request({}, problems={}), crash_verdict("no_host", "nobody"), None, host=None, timings={"waiting": 2.0}, steps=()
    )

    assert (result.job_id, result.outcome, result.text, result.host) == ("j", Outcome.CRASH, "nobody", None)
    assert (result.stdout, result.exit_code, result.cpu_time_s, result.archive) == (b"", None, None, None)
    assert result.timings == {"waiting": 2.0}


def test_what_was_seen_of_the_run_is_in_the_result():
    result = run(
        7, problems={}, output=CapturedOutput(stdout=b"out", stderr=b"err", stdout_bytes=3, stderr_bytes=3),
        collected=Collected(archive=b"tar"), cpu_time_s=1.5, wall_time_s=2.5, peak_memory_bytes=3 * 2**20,
    )  # fmt: skip

    assert (result.stdout, result.stderr, result.exit_code, result.archive, result.host) == (b"out", b"err", 7, b"tar", "h")
    assert (result.cpu_time_s, result.wall_time_s, result.peak_memory_mib, result.output_cut) == (1.5, 2.5, 3.0, False)
    assert result.timings == {"run": 1.0}


def test_a_result_has_the_limit_the_signal_and_who_killed_its_program():
    killed = exited(signal="SIGKILL", counters={"oom_kills": 1})
    result = merged_result(request({}, problems={}), judge(killed, LIMITS), killed, host="h", timings={}, steps=())
    assert (result.exit_code, result.signal, result.killed_by, result.limit) == (None, "SIGKILL", "kernel", "memory")

    waiting = killed_verdict(KillReason.KILL_JOB)
    result = merged_result(request({}, problems={}), waiting, None, host=None, timings={}, steps=())
    assert (result.exit_code, result.signal, result.killed_by, result.limit) == (None, None, "jobmanager", None)


def test_a_grader_that_says_timeout_has_passed_no_limit_itself():
    assert graded({"result": "timeout"}, 1).limit is None


def test_a_silent_grader_that_was_killed_says_by_which_signal():
    found = exited(signal="SIGSEGV")
    result = merged_result(asked(Task("x", grader=Grader("true"))), judge(found, LIMITS), found, host="h", timings={}, steps=())
    assert (result.outcome, result.signal) == (Outcome.CRASH, "SIGSEGV")
    assert "ended without a result: killed by SIGSEGV, and nothing on standard error" in result.text


def test_output_that_was_cut_or_whose_beginning_was_lost_is_marked():
    assert run(output=CapturedOutput(stdout=b"ab", stdout_bytes=5)).output_cut
    assert run(output=CapturedOutput(beginning_lost=True)).output_cut
    assert not run(output=CapturedOutput(stdout=b"ab", stdout_bytes=2)).output_cut


def test_steps_are_told_to_who_asked_for_them():
    found = exited()
    steps = (Step(name="accepted", at_s=0.0),)

    for debug in (True, False):
        result = merged_result(request(RIGHT, debug=debug), judge(found, LIMITS), found, host="h", timings={}, steps=steps)
        assert result.steps == (steps if debug else ())


# ---- graders


def graded(said=None, exit_code=0, answers=None, problems=None, merge_local=True, **facts):
    """The result of a grading job whose grader ended by itself."""
    result_file = said if said is None or isinstance(said, bytes) else json.dumps(said).encode()
    found = exited(exit_code, result_file=result_file, **facts)
    task = Task("x", grader=Grader("true", merge_local=merge_local), problems=problems, limits=LIMITS)
    return merged_result(asked(task, answers), judge(found, LIMITS), found, host="h", timings={}, steps=())


GRADERS = [  # what it says, its exit code, outcome, grade
    ({"result": "success"}, 0, "success", 100),
    ({"result": "success"}, 3, "success", 100),
    ({"result": "success", "grade": 12.5}, 1, "success", 12.5),
    ({"result": "failed"}, 0, "failed", 0),
    ({"result": "failed", "grade": 60}, 0, "failed", 60),
    ({"result": "timeout", "grade": 60}, 0, "timeout", 0),
    ({"result": "overflow"}, 0, "overflow", 0),
    ({"result": "crash"}, 0, "crash", 0),
    ({"result": "error"}, 0, "error", 0),
]


@pytest.mark.parametrize(("said", "exit_code", "outcome", "grade"), GRADERS)
def test_a_graders_word_rules_whatever_its_exit_code(said, exit_code, outcome, grade):
    result = graded({**said, "text": "told"}, exit_code)
    assert (result.outcome, result.grade, result.text) == (outcome, grade, "told")
    assert result.evidence[0].kind == "grader" and result.exit_code == exit_code


def test_a_grader_tells_everything_that_a_result_file_can():
    said = {"result": "failed", "problems": {"q": {"text": "no"}, "r": {"result": "timeout"}, "s": ["success", "yes"]}}
    result = graded({**said, "tests": {"a": 1}, "custom": {"b": [2]}, "state": "s"})
    assert result.problems == {"q": (Outcome.FAILED, "no"), "r": (Outcome.TIMEOUT, ""), "s": (Outcome.SUCCESS, "yes")}
    assert (result.tests, result.custom, result.state) == ({"a": 1}, {"b": [2]}, "s")


@pytest.mark.parametrize("answers", [RIGHT, BOTH_WRONG, {}])
@pytest.mark.parametrize("word", ["success", "failed", "timeout"])
def test_a_grader_that_judges_alone_says_all_that_is_said_of_local_problems(answers, word):
    said = {"result": word, "text": "told", "problems": {"m": {"result": "success", "text": "Well."}}}
    result = graded(said, answers=answers, problems=QUIZ, merge_local=False)
    assert (result.outcome, result.grade, result.text) == (word, 100 if word == "success" else 0, "told")
    assert result.problems == {"m": (Outcome.SUCCESS, "Well.")}


@pytest.mark.parametrize(("answers", "outcome"), [(RIGHT, "success"), (WRONG, "failed"), ({}, "failed")])
def test_beside_a_grader_of_a_task_built_in_python_a_wrong_local_answer_makes_a_success_a_failure(answers, outcome):
    result = graded({"result": "success", "text": "told"}, answers=answers, problems=QUIZ)
    assert (result.outcome, set(result.problems)) == (outcome, {"m", "c"})


def test_whoever_judges_alone_when_a_grader_was_stopped_its_local_answers_are_not_told():
    found = {"output": CapturedOutput(stdout_bytes=2**20)}
    assert graded({"result": "success"}, answers=BOTH_WRONG, problems=QUIZ, merge_local=False, **found).problems == {}
    assert set(graded({"result": "success"}, answers=BOTH_WRONG, problems=QUIZ, **found).problems) == {"m", "c"}


def test_a_silent_grader_is_a_crash_with_its_exit_code_and_the_end_of_its_complaint():
    result = graded(None, 127, output=CapturedOutput(stderr=b"x" * 5000 + b"\nrun: no such file\n"))
    assert (result.outcome, result.grade) == (Outcome.CRASH, 0)
    assert "exit code 127" in result.text and result.text.endswith("run: no such file")
    assert len(result.text) < 3000
    assert "nothing on standard error" in graded(None, 0).text
    output = CapturedOutput(stderr="red \x1b[31m\n\tturned \u202e".encode())
    assert "red \\x1b[31m\n\tturned \\u202e" in graded(None, 1, output=output).text


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"garbage", "not JSON"),
        ({"text": "x"}, "set no result"),
        ({"result": "killed"}, "neither success nor failed nor timeout"),
        ({"result": "success", "grade": "A"}, "grade is no number"),
        ({"result": "success", "problems": {"q": {"text": 5}}}, "text of problem 'q' is no text"),
    ],
)
def test_a_grader_that_makes_no_sense_is_an_error_with_the_reason(said, reason):
    result = graded(said)
    assert result.outcome is Outcome.ERROR and reason in result.text


def test_a_state_that_the_grader_does_not_set_stays():
    brought = {"@state": "before"}
    assert graded({"result": "success"}, answers=brought).state == "before"
    assert graded({"result": "success", "state": ""}, answers=brought).state == ""
    assert graded({"result": "success", "state": "after"}, answers=brought).state == "after"
    assert graded(None, answers=brought).state == "before"
    assert graded(b"garbage", answers=brought).state == "before"
    assert graded({"result": "success"}, answers={"@state": 5}).state == ""
    assert run(0, None).state == ""


def test_a_local_answer_and_a_grader_are_merged():
    result = graded({"result": "success", "text": "good"}, answers=WRONG, problems=QUIZ)
    assert (result.outcome, result.grade, result.text) == (Outcome.FAILED, 0, "good\nNo, 42.")


def test_what_a_grader_says_of_a_problem_that_is_answered_here_stands_before_the_answers_text():
    said = {"result": "success", "problems": {"m": ["success", "See chapter 3."], "c": ["success", ""]}}
    result = graded(said, answers=WRONG, problems=QUIZ)
    assert result.problems == {"m": (Outcome.FAILED, "See chapter 3.\nNo, 42."), "c": (Outcome.SUCCESS, "")}


def test_a_grader_that_was_cut_off_from_its_students_is_a_crash_that_may_be_run_again():
    found = cut_off(StudentsLost(), end=ProgramEnd(exit_code=254))
    verdict = judge(found, LIMITS)
    assert (verdict.outcome, verdict.cut_off) == (Outcome.CRASH, True)


def test_a_supervisor_that_speaks_nonsense_is_an_error():
    verdict = judge(RunFacts(ending=StoppedForProtocolError(reason="no id")), LIMITS)
    assert verdict.outcome is Outcome.ERROR and "no id" in verdict.text
