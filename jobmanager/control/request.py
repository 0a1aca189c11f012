"""Makes a ``Request`` of what a caller gives: the rules for a job's id, key, answers and files."""

from __future__ import annotations

import json
import random
import shlex
import uuid
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from jobmanager.client import JOB_DEFAULTS, InputData, ManagerJobOptions
from jobmanager.errors import InvalidInput, InvalidTask
from jobmanager.model import _checks
from jobmanager.model._checks import RESERVED_FOLDER
from jobmanager.model._exact import exact
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER
from jobmanager.model.grader import SCRIPTS
from jobmanager.model.job import JobInput, Request
from jobmanager.model.problems import Answer, Code, File, Match, MultipleChoice
from jobmanager.model.result import Callback
from jobmanager.model.task import Task
from jobmanager.model.volume import volume_of
from jobmanager.ssh import debug_session

INPUT_FILE = f"{RESERVED_FOLDER}/input.json"  # the answers and notes, for a grader to read
_LANGUAGE = "en"
_SHARED = f"{PurePosixPath(SHARED_FOLDER).name}/"  # below the workspace: student containers see it, and may write to it
_MODULE_BYTES = 8192  # about the size of each file that the library itself gives a grader
_MAX_MODULES = 64
_MAX_ID_LENGTH = 200
_MAX_KEY_LENGTH = 1000
_RANDOM = random.SystemRandom()  # the caller's own seed is left alone
_MEMORY_TO_UNPACK = 4 * 2**20  # what PID 1 and tar need beside the files


def job_request(
    task: Task, inputdata: InputData, callback: Callback | None, options: ManagerJobOptions, *, ssh_timeout_s: float
) -> Request:
    """What ``new_job`` was given, checked, as a request.

    Raises:
        InvalidTask, InvalidInput: an argument makes no sense.
    """
    given = {**JOB_DEFAULTS, **options}
    request = _request(task, inputdata, given, ssh_timeout_s)
    if callback is not None:
        _checks.callback("callback", callback, InvalidInput, "result")
    ssh_callback = options.get("ssh_callback")
    if ssh_callback is not None:
        _checks.callback("ssh_callback", ssh_callback, InvalidInput, "host", "port", "user", "password")
    if (request.debug == "ssh") != (ssh_callback is not None):
        raise InvalidInput(
            'debug="ssh" and ssh_callback go together: the callback is told where to log in; new_job of the manager takes it'
        )
    return request


def _request(task: Task, inputdata: InputData, given: Mapping[str, Any], ssh_timeout_s: float) -> Request:
    if not isinstance(task, Task):
        raise InvalidTask(f"task must be a Task, not {task!r}")
    _check_collected(task)
    priority, launcher_name, debug = (exact(given[name]) for name in ("priority", "launcher_name", "debug"))
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidInput(f"priority must be a whole number, not {priority!r}")
    if not isinstance(launcher_name, str):
        raise InvalidInput(f"launcher_name must be a string, not {launcher_name!r}")
    if not isinstance(debug, bool) and debug != "ssh":
        raise InvalidInput(f'debug must be True, False or "ssh", not {debug!r}')
    if debug == "ssh":
        task = _debugged(task, ssh_timeout_s)
    job_id, supersede_key = given["job_id"], given["supersede_key"]
    inputs = with_random_inputs(task, JobInput.of(inputdata))
    return Request(
        job_id=uuid.uuid4().hex if job_id is None else checked_job_id(job_id),
        task=task,
        inputs=inputs,
        files=workspace_files(task, inputs),
        executables=workspace_executables(task, inputs),
        priority=priority,
        launcher_name=launcher_name,
        debug=debug,
        ssh_password=debug_session.new_password() if debug == "ssh" else "",
        supersede_key=None if supersede_key is None else checked_supersede_key(supersede_key),
    )


def _check_collected(task: Task) -> None:
    of_volumes = [pattern for pattern in task.collect if volume_of(pattern) is not None]
    if of_volumes:
        raise InvalidTask(f"collect has {of_volumes[0]!r}, and a task alone has no volumes: a Phase of a Pipeline has them")


def _debugged(task: Task, session_s: float) -> Task:
    if not task.needs_container:
        raise InvalidInput('debug="ssh" needs a task that runs in a container: all problems of this one are answered without')
    if task.user is not None or task.privileged:
        raise InvalidInput(
            'debug="ssh" cannot be had with user or privileged: the SSH server is the user 65534, and has a network;'
            " give a task without them"
        )
    return debug_session.debug_task(task, session_s=session_s)


def checked_job_id(job_id: str) -> str:
    """A job id that logs and labels can hold."""
    job_id = _checks.text("job_id", job_id, InvalidInput)
    if len(job_id) > _MAX_ID_LENGTH or not job_id.isprintable():
        raise InvalidInput(f"job_id must be printable and at most {_MAX_ID_LENGTH} characters long")
    return job_id


def with_random_inputs(task: Task, inputs: JobInput) -> JobInput:
    """The input with the random numbers that the task wants in ``@random``: its own ones, or new ones when it has none.

    Raises:
        InvalidInput: its ``@random`` is something else.
    """
    answers, wanted = inputs.answers or {}, task.random_inputs
    if not wanted:
        return inputs
    if "@random" not in answers:
        return replace(inputs, answers={**answers, "@random": [_RANDOM.random() for _ in range(wanted)]})
    given = answers["@random"]
    if not isinstance(given, (list, tuple)) or len(given) != wanted or not all(map(_checks.is_finite, given)):
        raise InvalidInput(f"'@random' must be a list of {wanted} numbers, or be left out")
    return inputs


def checked_supersede_key(key: str) -> str:
    """A supersede key that can be remembered."""
    key = _checks.text("supersede_key", key, InvalidInput)
    if len(key) > _MAX_KEY_LENGTH:
        raise InvalidInput(f"supersede_key must be at most {_MAX_KEY_LENGTH} characters long")
    return key


def workspace_files(task: Task, inputs: JobInput) -> dict[str, bytes]:
    """The task's files, then the answers that are files, then the job's own.

    Raises:
        InvalidInput: unknown problems, missing or mistyped answers, more than the workspace holds.
    """
    problems, answers = task.problems or {}, inputs.answers or {}
    unknown = sorted(key for key in answers if key not in problems and not key.startswith("@"))
    if unknown:
        raise InvalidInput(f"no such problem: {unknown}; the task has {sorted(problems) or 'none'}")
    files: dict[str, bytes] = dict(task.files or {})  # type: ignore[arg-type]
    for key, problem in problems.items():
        if isinstance(problem, (MultipleChoice, Match)):
            _check_answer(key, problem, answers.get(key))
        else:
            content = _file_answer(key, problem, answers.get(key))
            if problem.filename is not None:
                files[problem.filename] = content
    files.update(inputs.files or {})  # type: ignore[arg-type]
    _checks.no_clashes(files, InvalidInput)
    if task.grader is not None:
        _check_grader_is_kept(task, inputs)
        files.update(_grader_files(task, inputs))
    total_bytes = sum(map(len, files.values())) + len(inputs.stdin)
    if total_bytes > task.limits.memory_mib * 2**20 - _MEMORY_TO_UNPACK:
        raise InvalidInput(
            f"the job's files and stdin of {total_bytes / 2**20:.0f} MiB do not fit its memory of {task.limits.memory_mib} MiB,"
            " of which the workspace is a part: raise memory_mib"
        )
    sizes = [*map(len, files.values()), len(inputs.stdin), _command_bytes(task), 1, *_module_sizes(task)]
    if lack := task.limits.workspace_excess(sizes):
        raise InvalidInput(f"the job's files and stdin are {lack}")
    return files


def workspace_executables(task: Task, inputs: JobInput) -> frozenset[str]:
    """Names of workspace files that may be run: the task's, unless the job brings another of that name, and the job's own."""
    return (frozenset(task.executables) - (inputs.files or {}).keys()) | frozenset(inputs.executables)


def _command_bytes(task: Task) -> int:
    """Size of the script that PID 1 writes into the workspace to start the command (``engine/pid1.py``)."""
    command = task.command if task.grader is None else task.grader.run
    words = [command] if isinstance(command, str) else list(command or ())
    variables = [text for variable in (task.env or {}).items() for text in variable]
    return 1024 + sum(len(shlex.quote(word).encode()) + 10 for word in [*words, *words[:1], *variables, *variables])


def _module_sizes(task: Task) -> list[int]:
    """Sizes of the library's own files in a grader's workspace: many small ones."""
    return [] if task.grader is None else [_MODULE_BYTES] * _MAX_MODULES


def _check_grader_is_kept(task: Task, inputs: JobInput) -> None:
    """A submitter's file must not become the grader, nor what it compares with."""
    the_graders = {*SCRIPTS, *(task.files or {})}
    replaced = sorted(name for name in the_graders & set(inputs.files or {}) if not name.startswith(_SHARED))
    if replaced:
        raise InvalidInput(
            f"a file of the job would become {replaced[0]!r}, the grader's: give it another name, or put it below {_SHARED}"
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
            given[key] = "" if answer is None else sorted(answer, key=str) if isinstance(answer, Set) else answer
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
