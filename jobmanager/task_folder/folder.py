"""Makes a Task of a task folder: the meaning of the fields of ``task.yaml``."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Union

from jobmanager.errors import InvalidTask
from jobmanager.model.grader import SCRIPTS, Grader
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.model.problems import Code, File, Problem, ProblemType
from jobmanager.model.task import Task, names_below
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.limits_fields import read_limits
from jobmanager.task_folder.marked_yaml import MAX_BYTES, Mistakes, UnreadableYAML, parse_yaml
from jobmanager.task_folder.problem_types import checked_types, read_problem
from jobmanager.task_folder.program_fields import (
    PROGRAM_FIELDS,
    STUDENT,
    FolderProgram,
    add_file_mistakes,
    read_hidden_tests,
    read_program,
)

logger = logging.getLogger(__name__)

NAMES = ("task.yaml", "task.yml")
SHARED = "$common"  # beside the task's folder: the files that a course's tasks share
COMMON = "course/common"  # the folder below the workspace that gets them
Common = Union[str, Path, Literal[False], None]
_DOCKER = ("docker", "docker-ssh")
_MCQ = "mcq"  # the environment of tasks that need no container, and its type
_SETTINGS = {"limits", "run_cmd", "network_grading"}
_READ = {"name", "environment", "environment_id", "environment_type", "problems", "input_random"}
_FRONT_END_FIELDS = {
    "author", "contact_url", "context", "order", "accessible", "groups", "weight", "evaluate", "submission_limit",
    "stored_submissions", "categories", "tags", "file", "regenerate_input_random", "responseIsHTML", "ssh_allowed",
}  # fmt: skip


def read_task(
    path: str | Path,
    *,
    common: Common,
    environment: str | None,
    limits: Limits | None,
    problem_types: Mapping[str, ProblemType] | None,
    name: str | None,
    is_judge: bool = False,
) -> Task:
    """``Task.from_directory``."""
    folder, own_types = _folder(path), checked_types(problem_types)
    file = _file(folder)
    mistakes = Mistakes()
    try:
        fields = Fields.of(parse_yaml(file.read_bytes(), mistakes), "", mistakes)
    except UnreadableYAML as error:
        raise InvalidTask(f"{file}:{error.line}: {error}") from None
    task_file = _read_fields(fields, file, environment, limits, own_types, mistakes)
    title = name if name is not None else task_file.name or folder.resolve().name
    program = read_program(fields, folder, task_file.limits, mistakes, _read_judge)
    if program is not None:
        _check_program(fields, folder, task_file, mistakes, is_judge=is_judge)
        return _made(file, mistakes, lambda: _task_of_program(folder, task_file, program, title, is_judge=is_judge))
    shared = _shared_folder(folder, common)
    grader = _grader(folder, task_file, shared, mistakes)
    if grader is not None and not mistakes.found:
        _warn_of_unused_folders(folder, shared)
    return _made(file, mistakes, lambda: _graded_task(folder, task_file, grader, shared, title))


def _made(file: Path, mistakes: Mistakes, make: Callable[[], Task]) -> Task:
    """The task, unless something in the file is wrong."""
    if mistakes.found:
        raise InvalidTask(mistakes.lines(str(file)))
    try:
        return make()
    except InvalidTask as error:
        raise InvalidTask(f"{file}: {error}") from None


def _graded_task(folder: Path, task_file: _TaskFile, grader: Grader | None, shared: Path | None, title: str) -> Task:
    """A task with a grader, or one of local problems only, which needs no file."""
    return Task(
        task_file.environment,
        grader=grader,
        files=None if shared is None or grader is None else _shared_files(shared, task_file.limits),
        directory=None if grader is None else folder,
        problems=task_file.problems,
        limits=task_file.limits,
        network=task_file.network,
        random_inputs=task_file.random_inputs,
        name=title,
    )


def _task_of_program(folder: Path, task_file: _TaskFile, program: FolderProgram, title: str, *, is_judge: bool) -> Task:
    """A task with a command, and perhaps with cases."""
    return Task(
        task_file.environment,
        command=program.command,
        build=program.build,
        build_limits=program.build_limits,
        cases=program.cases,
        stop_at_first_failure=program.stop_at_first_failure,
        files=_program_files(folder, task_file.limits, is_judge=is_judge),
        problems=task_file.problems,
        limits=task_file.limits,
        network=task_file.network,
        random_inputs=task_file.random_inputs,
        name=title,
    )


def _read_judge(folder: Path) -> Task:
    """The task of a folder in a task folder: a checker or an interactor, which has no submission, and so all its files."""
    return read_task(folder, common=False, environment=None, limits=None, problem_types=None, name=None, is_judge=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskFile:
    """The fields of a ``task.yaml``."""

    name: str
    environment: str
    in_container: bool  # False: the environment for tasks that need none
    limits: Limits
    run_cmd: str
    network: Network
    problems: Mapping[str, Problem]
    problems_line: int
    hidden_tests: Grader | None
    hidden_tests_line: int  # 0: the file has none, not even wrong ones
    random_inputs: int


def _read_fields(
    fields: Fields,
    file: Path,
    environment: str | None,
    limits: Limits | None,
    own_types: Mapping[str, ProblemType],
    mistakes: Mistakes,
) -> _TaskFile:
    settings = _settings(fields)
    read_at_the_top = _READ | PROGRAM_FIELDS | (_SETTINGS if settings is fields else {"environment_parameters"})
    fields.warn_of_unknown(str(file), read_at_the_top | _FRONT_END_FIELDS)
    named = fields.text("environment") or fields.text("environment_id") or "default"
    in_container = environment is not None or _in_container(fields, named)
    if "problems" not in fields and "command" not in fields:
        fields.add_mistake("problems", "are missing ({} for none)")
    found = read_limits(settings.fields("limits"), mistakes)
    problems = _problems(fields.fields("problems"), file, own_types, mistakes)
    hidden_tests, problems = read_hidden_tests(fields, problems)
    return _TaskFile(
        name=fields.text("name") or "",
        environment=environment or named,
        in_container=in_container,
        limits=found if limits is None else limits,
        run_cmd=(settings.text("run_cmd") or "").strip(),
        network=Network.BRIDGE if settings.flag("network_grading") else Network.OFF,
        problems=problems,
        problems_line=fields.line_of("problems"),
        hidden_tests=hidden_tests,
        hidden_tests_line=fields.line_of("hidden_tests") if "hidden_tests" in fields else 0,
        random_inputs=fields.whole("input_random", least=0) or 0,
    )


def _settings(fields: Fields) -> Fields:
    """The fields with limits and the like: those at the top beside ``environment``, else the environment's parameters."""
    at_the_top = "environment" in fields or "environment_parameters" not in fields
    return fields if at_the_top else fields.fields("environment_parameters")


def _in_container(fields: Fields, environment: str) -> bool:
    kind = (fields.text("environment_type") if "environment" not in fields else None) or (_MCQ if environment == _MCQ else "docker")
    if kind not in (*_DOCKER, _MCQ):
        fields.add_mistake("environment_type", f"must be {', '.join(_DOCKER)} or {_MCQ}, not {kind[:60]!r}")
    return kind != _MCQ


def _problems(fields: Fields, file: Path, own_types: Mapping[str, ProblemType], mistakes: Mistakes) -> Mapping[str, Problem]:
    made = {key: read_problem(key, fields.fields(key), str(file), own_types, mistakes) for key in fields}
    return {key: each for key, each in made.items() if each is not None}


def _grader(folder: Path, task_file: _TaskFile, common: Path | None, mistakes: Mistakes) -> Grader | None:
    """Hidden tests, ``run_cmd``, the folder's own script, or the course's; None for a task of local problems only."""
    if task_file.hidden_tests is not None:
        if not task_file.in_container:
            mistakes.add(task_file.hidden_tests_line, f"hidden_tests need a container, and {_MCQ} is for tasks without one")
        _refuse_a_script(folder, task_file, task_file.hidden_tests_line, "hidden tests", mistakes)
        return task_file.hidden_tests
    if task_file.in_container and task_file.run_cmd:
        return Grader(task_file.run_cmd, merge_local=False)
    if task_file.in_container and any(_is_file(folder / script) for script in SCRIPTS):
        return Grader(merge_local=False)
    shared = _shared_grader(common) if task_file.in_container else None
    unread = [key for key, each in task_file.problems.items() if isinstance(each, (Code, File))]
    if unread and shared is None and not task_file.hidden_tests_line:
        why = f"the folder has no {', '.join(SCRIPTS)}, the file no run_cmd"
        if any((folder / script).is_symlink() for script in SCRIPTS):
            why = f"{why}; links are not followed"
        if not task_file.in_container:
            why = f"the environment {_MCQ} is for tasks without one"
        mistakes.add(task_file.problems_line, f"no grader for {', '.join(unread)}: {why}")
    if shared is None and not task_file.problems and not mistakes.found:
        mistakes.add(task_file.problems_line, "there is neither a problem nor a grader")
    return shared


def _refuse_a_script(folder: Path, task_file: _TaskFile, line: int, what: str, mistakes: Mistakes) -> None:
    """Of two things that could judge, nobody would know which one does."""
    script = task_file.run_cmd or next((script for script in SCRIPTS if _is_file(folder / script)), "")
    if script:
        mistakes.add(line, f"there are {what}, and a grader, too: {script[:60]}")


def _check_program(fields: Fields, folder: Path, task_file: _TaskFile, mistakes: Mistakes, *, is_judge: bool) -> None:
    """What a task with a command cannot have."""
    if not task_file.in_container:
        fields.add_mistake("command", f"needs a container, and the environment {_MCQ} is for tasks without one")
    if not is_judge and task_file.network is not Network.OFF:
        fields.add_mistake("command", "and network_grading do not go together: a command runs the submission, no grader")
    if not is_judge:  # all files of a judge's folder are its own
        _refuse_a_script(folder, task_file, fields.line_of("command"), "a command", mistakes)
    if task_file.hidden_tests is not None:
        fields.add_mistake("command", "and hidden_tests do not go together: hidden tests call the submission")
    add_file_mistakes(fields, task_file.problems)


def _program_files(folder: Path, limits: Limits, *, is_judge: bool) -> dict[str, Path]:
    """What a command finds in its workspace: the files for submissions, never the cases; all files of a judge's folder."""
    place = folder if is_judge else folder / STUDENT
    if place.is_symlink() or not place.is_dir():
        return {}
    found = sorted(path for path in place.rglob("*") if _is_file(path) and not (is_judge and path.name in NAMES))
    if lack := limits.workspace_excess([path.stat().st_size for path in found]):
        raise InvalidTask(f"the files of {str(place)!r} are {lack}")
    return names_below(place, found)


def _shared_grader(common: Path | None) -> Grader | None:
    found = [] if common is None else [script for script in SCRIPTS if _is_file(common / script)]
    return Grader([f"{COMMON}/{found[0]}"], merge_local=False) if found else None


def _shared_folder(folder: Path, common: Common) -> Path | None:
    """The folder with the files that a course's tasks share: the given one, or the one beside the task's."""
    if common is not None:
        return None if common is False else _folder(common, "common folder")
    beside = Path(os.path.abspath(folder)).parent / SHARED
    if beside.is_symlink():
        logger.warning("%s is a link, which is not followed: give common=", beside)
        return None
    return beside if beside.is_dir() else None


def _shared_files(folder: Path, limits: Limits) -> dict[str, Path]:
    found = sorted(path for path in folder.rglob("*") if _is_file(path))
    if lack := limits.workspace_excess([path.stat().st_size for path in found]):
        raise InvalidTask(f"the files that come along of {str(folder)!r} are {lack}, or give common=False")
    return {f"{COMMON}/{name}": path for name, path in names_below(folder, found).items()}


def _warn_of_unused_folders(folder: Path, shared: Path | None) -> None:
    """Log folders that have no effect here, although a grader may need them."""
    if (folder / "systemfiles").is_dir():
        logger.warning("%s: nothing puts its files into /etc: the root file system is read-only", folder / "systemfiles")
    if shared is not None and (shared / STUDENT).is_dir():
        logger.warning(
            "%s: student containers have no /course; a grader has to copy what they need to /task/student", shared / STUDENT
        )


def _folder(path: str | Path, what: str = "task folder") -> Path:
    if not isinstance(path, (str, Path)) or not str(path):
        raise InvalidTask(f"a {what} must be given by its path, not {path!r}")
    if "\0" in str(path) or not Path(path).is_dir():
        raise InvalidTask(f"the {what} {str(path)!r} does not exist or is no folder")
    return Path(path)


def _file(folder: Path) -> Path:
    """The folder's ``task.yaml``: a regular file, no link."""
    for name in NAMES:
        if _is_file(folder / name):
            if (folder / name).stat().st_size > MAX_BYTES:
                raise InvalidTask(f"{folder / name}:1: the file is larger than {MAX_BYTES // 1024} KiB")
            return folder / name
    linked = " (links are not followed)" if any((folder / name).is_symlink() for name in NAMES) else ""
    raise InvalidTask(f"the folder {str(folder)!r} has no task.yaml{linked}")


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
