"""A pipeline as a request: which phase gets which part of the job's input, and what is refused at the call."""

from __future__ import annotations

import json

import pytest

from jobmanager import Code, File, Grader, JobInput, Limits, Match, MultipleChoice, Task
from jobmanager.control.request import job_request
from jobmanager.control.workspace import INPUT_FILE
from jobmanager.errors import InvalidInput
from jobmanager.model.phase import Phase
from jobmanager.model.pipeline import Pipeline

CLONE = Phase("clone", Task("git", command="clone", files={"key": b"1", "tool": b"2"}, executables=["tool"]), writes=["work"])
BUILD = Phase("build", Task("gcc", command="make", files={"Makefile": b"all:"}), writes=["work"])
PROGRAM, NOTES, PLANET = Code("main.c"), File("notes"), Match("Earth")


def request_of(pipeline, inputdata=None, **options):
    return job_request(pipeline, inputdata, None, options, ssh_timeout_s=1.0)


def test_each_phase_is_a_run_with_its_own_files():
    pipeline = Pipeline([CLONE, BUILD])
    request = request_of(pipeline, JobInput(files={"url": "x"}, executables=["url"], stdin="in"))

    assert request.task is pipeline
    clone, build = request.runs
    assert (clone.phase, clone.task, build.phase, build.task) == (CLONE, CLONE.task, BUILD, BUILD.task)
    assert (clone.files, clone.executables) == ({"key": b"1", "tool": b"2", "url": b"x"}, {"tool", "url"})
    assert (build.files, build.executables) == ({"Makefile": b"all:"}, frozenset())
    assert (clone.files_bytes, build.files_bytes) == (3, 4)
    assert (clone.inputs.stdin, build.inputs) == (b"in", JobInput())


def test_the_input_goes_to_the_first_phase_and_to_those_that_ask_for_it_and_to_no_other():
    again = Phase("again", Task("x", command="true"), inputs=True)
    request = request_of(Pipeline([CLONE, BUILD, again]), JobInput({"@user": "ann"}, files={"url": "x"}, stdin="in"))

    assert [("url" in run.files, run.inputs.stdin, run.inputs.answers) for run in request.runs] == [
        (True, b"in", {"@user": "ann"}),
        (False, b"", {}),
        (True, b"in", {"@user": "ann"}),
    ]


def test_each_phase_gets_the_answers_to_its_own_problems():
    pipeline = Pipeline(
        [
            Phase("build", Task("gcc", command="make", problems={"program": PROGRAM, "planet": PLANET})),
            Phase("check", Task("x", command="check", problems={"notes": NOTES, "program": PROGRAM}), inputs=True),
            Phase("grade", Task("x", grader=Grader("true"), problems={"notes": NOTES, "free": Code()}), inputs=True),
        ]
    )
    request = request_of(pipeline, {"program": "p", "notes": b"n", "planet": "Mars", "free": "f", "@lang": "fr"})

    build, check, grade = request.runs
    assert build.files == {"main.c": b"p"}
    assert check.files == {"main.c": b"p", "notes": b"n"}
    assert grade.files["notes"] == b"n" and "main.c" not in grade.files
    assert json.loads(grade.files[INPUT_FILE])["answers"].keys() == {"notes", "free"}
    assert build.inputs.answers == {"program": "p", "planet": "Mars", "@lang": "fr"}
    assert request.inputs.answers["notes"] == b"n"


def test_an_answer_that_no_phase_has_a_problem_for_is_refused_and_what_is_known_is_named():
    pipeline = Pipeline([Phase("a", Task("x", problems={"p": PROGRAM})), Phase("b", Task("x", problems={"n": NOTES}), inputs=True)])

    with pytest.raises(InvalidInput, match=r"no such problem: \['z'\]; the task has \['n', 'p'\]"):
        request_of(pipeline, {"p": "x", "n": b"x", "z": "x"})


@pytest.mark.parametrize(
    ("inputdata", "says"),
    [
        ({"n": b"x"}, "phase 'a': problem 'p' has no answer; it becomes the file 'main.c'"),
        ({"p": "x"}, "phase 'b': problem 'n' has no answer"),
        ({"p": "x", "n": 5}, "phase 'b': problem 'n': a File problem takes bytes"),
        ({"p": "x", "n": b"x", "choice": "4"}, "problem 'choice': no such choice: 4; there are 1, 2"),
        (JobInput({"p": "x", "n": b"x"}, files={"big": bytes(2**20)}), "phase 'b': the job's files are larger than the"),
        (JobInput({"p": "x", "n": b"x"}, files={"main.c/x": b""}), "phase 'a': 'main.c' is a file and the folder of 'main.c/x'"),
    ],
    ids=["no answer", "none in a later phase", "wrong type", "local problem without an input", "too large", "clash"],
)
def test_an_input_that_does_not_fit_a_phase_is_refused_at_the_call_and_the_phase_is_named(inputdata, says):
    pipeline = Pipeline(
        [
            Phase("a", Task("x", problems={"p": PROGRAM})),
            Phase("b", Task("x", problems={"n": NOTES}, limits=Limits(workspace_mib=1)), inputs=True),
            Phase("c", Task("x", command="true", problems={"choice": MultipleChoice("1", ["1", "2"])})),
        ]
    )

    with pytest.raises(InvalidInput) as refused:
        request_of(pipeline, inputdata)

    assert says in str(refused.value)


def test_all_phases_get_the_same_random_numbers():
    pipeline = Pipeline(
        [
            Phase("a", Task("x", command="true", random_inputs=3)),
            Phase("b", Task("x", command="true", random_inputs=3), inputs=True),
            Phase("c", Task("x", command="true")),
        ]
    )
    request = request_of(pipeline)

    numbers = request.inputs.answers["@random"]
    assert len(numbers) == 3
    assert [run.inputs.answers.get("@random") for run in request.runs] == [numbers, numbers, None]
    with pytest.raises(InvalidInput, match="'@random' must be a list of 3 numbers"):
        request_of(pipeline, {"@random": [0.5]})


def test_a_person_cannot_log_in_to_a_pipeline():
    with pytest.raises(InvalidInput, match=r'debug="ssh" is for a Task: a Pipeline has several containers'):
        request_of(Pipeline([CLONE]), debug="ssh", ssh_callback=print)


def test_a_phase_collects_from_its_volumes():
    collecting = Phase("clone", Task("git", command="clone", collect=["/volumes/work/*"]), writes=["work"])

    assert request_of(Pipeline([collecting])).runs[0].task.collect == ("/volumes/work/*",)


def test_a_request_shows_no_file_of_a_phase():
    assert "hidden" not in repr(request_of(Pipeline([CLONE]), JobInput(files={"a": b"hidden"})).runs)
