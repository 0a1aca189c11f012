"""What goes into the workspace of a run: the task's files, answers that are files, the job's own, and what a grader reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from jobmanager.errors import InvalidInput
from jobmanager.grading.bundle import bundle
from jobmanager.model import _checks
from jobmanager.model._checks import RESERVED_FOLDER
from jobmanager.model.container import GRADING_WORKSPACE
from jobmanager.model.grader import SCRIPTS, SHARED
from jobmanager.model.job import JobInput
from jobmanager.model.problems import Answer, Code, File, Match, MultipleChoice, Problem
from jobmanager.model.task import Task

INPUT_FILE = f"{RESERVED_FOLDER}/input.json"  # the answers and notes, for a grader to read
_LANGUAGE = "en"
_MEMORY_OF_PID_1 = 4 * 2**20  # the runner's reserve, its window and a message that comes, 1 MiB each, and the kernel's own
_ONE_BLOCK = 1  # of the workspace stays free: if none is at the end, the program has filled it


def check_answers(problems: Mapping[str, Problem], answers: Mapping[str, Answer]) -> None:
    """Refuse answers to unknown problems, and what cannot be an answer to one that needs no container.

    Raises:
        InvalidInput: there is such an answer.
    """
    unknown = sorted(key for key in answers if key not in problems and not key.startswith("@"))
    if unknown:
        raise InvalidInput(f"no such problem: {unknown}; the task has {sorted(problems) or 'none'}")
    for key, problem in problems.items():
        if isinstance(problem, (MultipleChoice, Match)):
            _check_answer(key, problem, answers.get(key))


def workspace_files(task: Task, inputs: JobInput) -> dict[str, bytes]:
    """The task's files, then the answers that are files, then the job's own.

    Raises:
        InvalidInput: unknown problems, missing or mistyped answers, more than the workspace holds.
    """
    problems, answers = task.problems or {}, inputs.answers or {}
    check_answers(problems, answers)
    files: dict[str, bytes] = dict(task.files or {})  # type: ignore[arg-type]
    for key, problem in problems.items():
        if isinstance(problem, (Code, File)):
            content = _file_answer(key, problem, answers.get(key))
            if problem.filename is not None:
                files[problem.filename] = content
    files.update(inputs.files or {})  # type: ignore[arg-type]
    _checks.no_clashes(files, InvalidInput)
    if task.grader is not None:
        _check_grader_is_kept(task, inputs)
        files.update(_grader_files(task, inputs))
    total_bytes = sum(map(len, files.values())) + len(inputs.stdin)  # type: ignore[arg-type]  # bytes by now
    if total_bytes > task.limits.memory_mib * 2**20 - _MEMORY_OF_PID_1:
        raise InvalidInput(
            f"the job's files and stdin of {total_bytes / 2**20:.0f} MiB do not fit its memory of {task.limits.memory_mib} MiB,"
            " of which the workspace is a part: raise memory_mib"
        )
    ours = {} if task.grader is None else bundle()
    if lack := task.limits.workspace_excess([*map(len, [*files.values(), *ours.values()]), _ONE_BLOCK]):
        raise InvalidInput(f"the job's files are {lack}")
    return files


def workspace_executables(task: Task, inputs: JobInput) -> frozenset[str]:
    """Names of workspace files that may be run: the task's, unless the job brings another of that name, and the job's own."""
    return frozenset(task.executables).difference(inputs.files or {}) | frozenset(inputs.executables)


def _check_grader_is_kept(task: Task, inputs: JobInput) -> None:
    """A submitter's file must not become the grader, nor what it compares with."""
    the_graders = {*SCRIPTS, *(task.files or {})}
    brought = {name for name in inputs.files or {} if not name.startswith(SHARED)}
    if brought and task.grader is not None and task.grader.runs_tests:  # a conftest.py would run with the tests
        raise InvalidInput(f"a file of the job would become {min(brought)!r}, beside the tests: put it below {SHARED}")
    replaced = sorted(the_graders & brought)
    if replaced:
        raise InvalidInput(
            f"a file of the job would become {replaced[0]!r}, the grader's: give it another name, or put it below {SHARED}"
        )


def _grader_files(task: Task, inputs: JobInput) -> dict[str, bytes]:
    """``input.json``, and the uploads whose problem names no file."""
    if inputs.stdin:
        raise InvalidInput("a grading job has no standard input: give it a file, or a note such as answers={'@text': ...}")
    answers = inputs.answers or {}
    if not isinstance(answers.get("@state", ""), str):
        raise InvalidInput(f"@state must be the text that an earlier result had as its state, not {answers['@state']!r}")
    notes: dict[str, object] = {key: value for key, value in answers.items() if key.startswith("@")}
    files: dict[str, bytes] = {}
    given: dict[str, object] = {}
    for number, (key, problem) in enumerate((task.problems or {}).items()):
        answer = answers.get(key)
        if isinstance(problem, File) and answer is not None:
            name = problem.filename or f"{RESERVED_FOLDER}/answers/{number}"
            if problem.filename is None:
                files[name] = problem.content(answer)
            upload_name = problem.own_name(answer) or PurePosixPath(name).name
            given[key] = {"filename": upload_name, "path": f"{GRADING_WORKSPACE}/{name}"}
        elif answer is not None or isinstance(problem, (Code, File)):
            given[key] = "" if answer is None else answer
    language = notes.get("@lang")
    whole = {**notes, "answers": given, "language": language if isinstance(language, str) and language else _LANGUAGE}
    return {**files, INPUT_FILE: _json(whole)}


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=True).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"answers and notes must be such as JSON can hold: {error}") from None


def _check_answer(key: str, problem: MultipleChoice | Match, answer: Answer | None) -> None:
    try:
        problem.check(answer)
    except InvalidInput as wrong:
        raise InvalidInput(f"problem {key!r}: {wrong}") from None


def _file_answer(key: str, problem: Code | File, answer: Answer | None) -> bytes:
    if answer is None:
        if problem.optional:
            return b""
        becomes = "" if problem.filename is None else f"; it becomes the file {problem.filename!r}"
        raise InvalidInput(f"problem {key!r} has no answer{becomes}")
    try:
        return problem.content(answer)
    except InvalidInput as wrong:
        raise InvalidInput(f"problem {key!r}: {wrong}") from None
