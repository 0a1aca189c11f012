"""Task folders as INGInious has them, graded on a real engine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from jobmanager import Code, JobManager, JobResult, Outcome, Task
from tests.integration.conftest import PATIENCE_S

pytestmark = pytest.mark.engine

TASK = "environment_id: python3\nproblems: {program: {type: code}, data: {type: file}}\ninput_random: 1\n"
RUN = """\
#!/bin/sh
getinput data:value > /archive/sent
. /course/common/judge.sh
"""
JUDGE = """\
getinput program > student/program.py
said=$(run_student python3 student/program.py)
getinput @random | feedback-msg
if [ "$said" = "$(getinput @random)" ]; then feedback-result success; else feedback-result failed; fi
"""


def test_a_grader_finds_its_courses_files_and_the_archive_where_inginious_has_them(engine_url: str, tmp_path: Path) -> None:
    for name, content in {"sum/task.yaml": TASK, "sum/run": RUN, "$common/judge.sh": JUDGE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    task = Task.from_directory(tmp_path / "sum", common=tmp_path / "$common")

    with JobManager(engine_url) as manager:
        answers = {"program": "print([0.5])", "data": {"filename": "sent.bin", "value": b"\0\xff"}}
        notes: list[dict[str, object]] = [{"@random": [0.5]}, {"@random": [0.25]}, {}]
        jobs = [manager.submit(task, {**answers, **note}) for note in notes]
        right, wrong, not_given = [job.result(PATIENCE_S) for job in jobs]

    assert (right.outcome, right.text) == (Outcome.SUCCESS, "[0.5]"), right
    assert (wrong.outcome, wrong.text) == (Outcome.FAILED, "[0.25]"), wrong
    made = json.loads(not_given.text)
    assert len(made) == 1
    assert 0 <= made[0] < 1
    assert right.archive is not None
    with tarfile.open(fileobj=io.BytesIO(right.archive)) as tar:
        sent = tar.extractfile("sent")
        assert sent is not None
        assert sent.read() == b"\0\xff"


# ---- folders as course authors write them


LIMITS = "environment_id: python3\nenvironment_parameters: {limits: {time: '5', memory: '64'}}\n"


def graded(manager: JobManager, folder: Path, problems: str, run: str, answers: dict[str, object], **options: object) -> JobResult:
    """The result of a submission to a folder of a course."""
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(f"{LIMITS}problems:\n{problems}")
    (folder / "run").write_text(f"#!/bin/sh\n{run}")
    task = Task.from_directory(folder, **options)  # type: ignore[arg-type]
    return manager.submit(task, answers).result(PATIENCE_S)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("colour", "outcome", "grade"),
    [("green", Outcome.SUCCESS, 100.0), ("red", Outcome.FAILED, 0.0), ("to be written", Outcome.FAILED, 0.0)],
)
def test_beside_a_grader_of_a_folder_the_grader_alone_judges_its_problems(
    shared_manager: JobManager, tmp_path: Path, colour: str, outcome: Outcome, grade: float
) -> None:
    # given: answers in the file that nobody meant, as the grader knows better
    problems = """\
    colour: {type: match, answer: to be written}
    free: {type: match, answer: ''}
    choice: {type: multiple_choice, choices: [{text: a, valid: true}, {text: b}]}
"""
    run = """\
if [ "$(getinput colour)-$(getinput free)-$(getinput choice)" = green-anything-1 ]; then
    feedback-result success
    feedback-msg -i choice -m "Well chosen."
else
    feedback-result failed
fi
"""
    # when:
    answers = {"colour": colour, "free": "anything", "choice": "1"}
    result = graded(shared_manager, tmp_path / "colours", problems, run, answers)
    # then:
    assert (result.outcome, result.grade, result.text) == (outcome, grade, ""), result
    told = {name: said.text for name, said in result.problems.items()}
    assert told == ({"choice": "Well chosen."} if outcome is Outcome.SUCCESS else {})


def test_a_grader_uses_what_stands_beside_its_task(shared_manager: JobManager, tmp_path: Path) -> None:
    (tmp_path / "$common" / "tools").mkdir(parents=True)
    (tmp_path / "$common" / "tools" / "judge.sh").write_text('[ "$1" = 7 ]\n')
    run = 'sh /course/common/tools/judge.sh "$(getinput sum)" && feedback-result success || feedback-result failed\n'

    results = [
        graded(shared_manager, tmp_path / "sum", "    sum: {type: code}\n", run, {"sum": answer}).outcome for answer in ("7", "8")
    ]

    assert results == [Outcome.SUCCESS, Outcome.FAILED]


def test_a_grader_has_the_answer_to_a_problem_of_a_type_of_ones_own(shared_manager: JobManager, tmp_path: Path) -> None:
    problems = "    drawing: {type: turtle, colours: [red]}\n"
    run = '[ "$(getinput drawing)" = "forward 10" ] && feedback-result success || feedback-result failed\n'

    results = [
        graded(shared_manager, tmp_path / "turtle", problems, run, {"drawing": answer}, problem_types={"turtle": Code}).outcome
        for answer in ("forward 10", "left 90")
    ]

    assert results == [Outcome.SUCCESS, Outcome.FAILED]


WANTS = [
    ("ssh_student --setup-script 'sh student/prepare'", "ssh_student: there are no sessions in student containers"),
    ("run_student --run-as-root true", "run_student --run-as-root: no program is root here"),
]


@pytest.mark.parametrize(("wants", "reason"), WANTS, ids=["session", "root"])
def test_a_grader_of_a_folder_that_wants_what_there_is_not_is_an_error_and_no_success(
    shared_manager: JobManager, tmp_path: Path, wants: str, reason: str
) -> None:
    # given: a shell that goes on after what failed, and has said success before
    run = f"feedback-result success\n{wants}\n[ -e student/wrong ] || feedback-result success\n"
    # when:
    result = graded(shared_manager, tmp_path / "door", "    q: {type: code}\n", run, {"q": "x"})
    # then:
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0.0), result
    assert result.text == f"the grading container was stopped: {reason}"


def test_a_grader_of_a_folder_that_mistypes_its_result_is_an_error_and_no_success(
    shared_manager: JobManager, tmp_path: Path
) -> None:
    run = "feedback-result success\nfeedback-result fail\n"
    result = graded(shared_manager, tmp_path / "typo", "    q: {type: code}\n", run, {"q": "x"})
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0.0), result
    assert "result is neither success nor failed" in result.text and "but 'fail'" in result.text
