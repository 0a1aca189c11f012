"""Makes a ``Request`` of what a caller gives: the rules for a job's id, key and options, and the runs that it has."""

from __future__ import annotations

import random
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobmanager.client import JOB_DEFAULTS, InputData, ManagerJobOptions
from jobmanager.control.secret_store import SecretStore
from jobmanager.control.workspace import check_answers, workspace_executables, workspace_files
from jobmanager.errors import InvalidInput, InvalidTask
from jobmanager.model import _checks
from jobmanager.model.job import JobInput, Request, RunRequest, checked_options
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Callback
from jobmanager.model.task import Task
from jobmanager.model.volume import volume_of
from jobmanager.ssh import debug_session

_NO_COMMAND = (
    "a job for {!r} has files, and its task neither a command nor a grader: the image's own command is run, which may not use"
    " them, and end well all the same. Give Task(command=...)"
)
_MAX_ID_LENGTH = 200
_MAX_KEY_LENGTH = 1000
_RANDOM = random.SystemRandom()  # the caller's own seed is left alone
_NO_SECRETS = SecretStore()


def job_request(
    task: Task | Pipeline,
    inputdata: InputData,
    callback: Callback | None,
    options: ManagerJobOptions,
    *,
    ssh_timeout_s: float,
    secrets: SecretStore | None = _NO_SECRETS,
) -> Request:
    """What ``new_job`` was given, checked, as a request. ``secrets`` None: they are somewhere else, and only named here.

    Raises:
        InvalidTask, InvalidInput: an argument makes no sense.
    """
    given = {**JOB_DEFAULTS, **options}
    request = _request(task, inputdata, given, ssh_timeout_s)
    if isinstance(task, Pipeline) and secrets is not None:
        secrets.check(task)
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


def _request(task: Task | Pipeline, inputdata: InputData, given: Mapping[str, Any], ssh_timeout_s: float) -> Request:
    if not isinstance(task, (Task, Pipeline)):
        raise InvalidTask(f"task must be a Task or a Pipeline, not {task!r}")
    priority, launcher_name, debug = checked_options(given)
    if debug == "ssh":
        task = _debugged(task, ssh_timeout_s)
    job_id, supersede_key = given["job_id"], given["supersede_key"]
    inputs = with_random_inputs(task, JobInput.of(inputdata))
    return Request(
        job_id=uuid.uuid4().hex if job_id is None else checked_job_id(job_id),
        task=task,
        inputs=inputs,
        runs=_runs(task, inputs),
        priority=priority,
        launcher_name=launcher_name,
        debug=debug,
        ssh_password=debug_session.new_password() if debug == "ssh" else "",
        supersede_key=None if supersede_key is None else checked_supersede_key(supersede_key),
    )


def _debugged(task: Task | Pipeline, session_s: float) -> Task:
    if isinstance(task, Pipeline):
        raise InvalidInput('debug="ssh" is for a Task: a Pipeline has several containers; give the task of one phase alone')
    if not task.needs_container:
        raise InvalidInput('debug="ssh" needs a task that runs in a container: all problems of this one are answered without')
    if task.cases:
        raise InvalidInput('debug="ssh" is for a task with one run: give it without its cases')
    if task.user is not None or task.privileged:
        raise InvalidInput(
            'debug="ssh" cannot be had with user or privileged: the SSH server is the user 65534, and has a network;'
            " give a task without them"
        )
    return debug_session.debug_task(task, session_s=session_s)


def _runs(task: Task | Pipeline, inputs: JobInput) -> tuple[RunRequest, ...]:
    if isinstance(task, Pipeline):
        check_answers(task.problems, inputs.answers or {})
        return tuple(_phase_run(task, index, inputs) for index in range(len(task.phases)))
    of_volumes = [pattern for pattern in task.collect if volume_of(pattern) is not None]
    if of_volumes:
        raise InvalidTask(f"collect has {of_volumes[0]!r}, and a task alone has no volumes: a Phase of a Pipeline has them")
    if task.build is not None and not task.cases:
        raise InvalidTask("build is for a task with cases")
    return (_run(task, inputs),)


def _phase_run(pipeline: Pipeline, index: int, inputs: JobInput) -> RunRequest:
    phase = pipeline.phases[index]
    own = _inputs_for(phase.task, inputs) if pipeline.gets_inputs(index) else JobInput()
    try:
        return replace(_run(phase.task, own), phase=phase)
    except InvalidInput as wrong:
        raise InvalidInput(f"phase {phase.name!r}: {wrong}") from None


def _inputs_for(task: Task, inputs: JobInput) -> JobInput:
    """The input without answers to problems that the task does not have."""
    problems, answers = task.problems or {}, inputs.answers or {}
    return replace(inputs, answers={key: answer for key, answer in answers.items() if key in problems or key.startswith("@")})


def _run(task: Task, inputs: JobInput) -> RunRequest:
    if task.cases and inputs.stdin:
        raise InvalidInput("a task with cases has the standard input of each case: leave stdin out")
    files, executables = workspace_files(task, inputs), workspace_executables(task, inputs)
    if files and task.command is None and task.grader is None:
        warnings.warn(_NO_COMMAND.format(task.environment), stacklevel=2)  # Python says it once for each of them
    talks = None if task.interactor is None else _run(task.interactor.task, JobInput())
    checkers = tuple(_run(checker.task, JobInput()) for checker in task.checkers)
    return RunRequest(task=task, inputs=inputs, files=files, executables=executables, interactor=talks, checkers=checkers)


def checked_job_id(job_id: str) -> str:
    """A job id that logs and labels can hold."""
    job_id = _checks.text("job_id", job_id, InvalidInput)
    if len(job_id) > _MAX_ID_LENGTH or not job_id.isprintable():
        raise InvalidInput(f"job_id must be printable and at most {_MAX_ID_LENGTH} characters long")
    return job_id


def with_random_inputs(task: Task | Pipeline, inputs: JobInput) -> JobInput:
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
