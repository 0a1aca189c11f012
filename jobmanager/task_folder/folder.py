"""From a task folder to a Task: what the fields of ``task.yaml`` mean here."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Union

from jobmanager.errors import InvalidTask, InvalidValue
from jobmanager.model.grader import SCRIPTS, Grader
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.model.problems import Code, File, Problem, ProblemType
from jobmanager.model.task import Task, names_below
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.marked_yaml import MOST_BYTES, Mistakes, Unreadable, parse
from jobmanager.task_folder.problem_types import checked, problem

logger = logging.getLogger(__name__)

NAMES = ("task.yaml", "task.yml")
SHARED = "$common"  # beside the task's folder: the files that a course's tasks share
COMMON = "course/common"  # where these are, below the workspace
Common = Union[str, Path, Literal[False], None]
_DOCKER = ("docker", "docker-ssh")
_MCQ = "mcq"  # the environment of tasks that need no container, and its type
_SETTINGS = {"limits", "run_cmd", "network_grading"}
_READ = {"name", "environment", "environment_id", "environment_type", "environment_parameters", "problems", "input_random"}
_OF_A_FRONT = {
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
) -> Task:
    """``Task.from_directory``."""
    folder, own_types = _folder(path), checked(problem_types)
    file = _file(folder)
    mistakes = Mistakes()
    try:
        fields = Fields.of(parse(file.read_bytes(), mistakes), "", mistakes)
    except Unreadable as error:
        raise InvalidTask(f"{file}:{error.line}: {error}") from None
    described = _described(fields, file, environment, limits, own_types, mistakes)
    shared = _shared_folder(folder, common)
    grader = _grader(folder, described, shared, mistakes)
    if mistakes.found:
        raise InvalidTask(mistakes.lines(str(file)))
    if grader is not None:
        _warn_of_what_is_left_out(folder, shared)
    try:
        return Task(
            described.environment,
            grader=grader,
            files=None if shared is None or grader is None else _shared_files(shared, described.limits),
            directory=None if grader is None else folder,
            problems=described.problems,
            limits=described.limits,
            network=described.network,
            random_inputs=described.random_inputs,
            name=name if name is not None else described.name or folder.resolve().name,
        )
    except InvalidTask as error:
        raise InvalidTask(f"{file}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a ``task.yaml`` says."""

    name: str
    environment: str
    in_container: bool  # False: the environment for tasks that need none
    limits: Limits
    run_cmd: str
    network: Network
    problems: dict[str, Problem]
    problems_line: int
    random_inputs: int


def _described(
    fields: Fields,
    file: Path,
    environment: str | None,
    limits: Limits | None,
    own_types: Mapping[str, ProblemType],
    mistakes: Mistakes,
) -> _Described:
    fields.warn_of_others(str(file), _READ | _SETTINGS | _OF_A_FRONT)
    settings = _settings(fields)
    named = fields.text("environment") or fields.text("environment_id") or "default"
    in_container = environment is not None or _in_container(fields, named)
    if "problems" not in fields:
        fields.wrong("problems", "are missing ({} for none)")
    found = _limits(settings.fields("limits"), mistakes)
    return _Described(
        name=fields.text("name") or "",
        environment=environment or named,
        in_container=in_container,
        limits=found if limits is None else limits,
        run_cmd=(settings.text("run_cmd") or "").strip(),
        network=Network.BRIDGE if settings.flag("network_grading") else Network.OFF,
        problems=_problems(fields.fields("problems"), file, own_types, mistakes),
        problems_line=fields.line_of("problems"),
        random_inputs=fields.whole("input_random", least=0) or 0,
    )


def _settings(fields: Fields) -> Fields:
    """Where limits and the like stand: at the top beside ``environment``, else among the environment's parameters."""
    at_the_top = "environment" in fields or "environment_parameters" not in fields
    return fields if at_the_top else fields.fields("environment_parameters")


def _in_container(fields: Fields, environment: str) -> bool:
    kind = (fields.text("environment_type") if "environment" not in fields else None) or (_MCQ if environment == _MCQ else "docker")
    if kind not in (*_DOCKER, _MCQ):
        fields.wrong("environment_type", f"must be {', '.join(_DOCKER)} or {_MCQ}, not {kind[:60]!r}")
    return kind != _MCQ


def _limits(fields: Fields, mistakes: Mistakes) -> Limits:
    """The old system's limits in our words. Nothing ever enforced ``output``, and its unit differs from course to course."""
    for unknown in sorted(set(fields).difference(("time", "hard_time", "memory", "disk", "output", "hard"))):
        fields.wrong(unknown, "is no limit: there are time, hard_time, memory and disk")
    before = len(mistakes.found)
    said: dict[str, float | None] = {
        "cpu_time_s": fields.number("time", unit=" of seconds"),
        "wall_time_s": fields.number("hard_time", unit=" of seconds"),
    }
    sizes = {"memory_mib": fields.whole("memory", unit=" of MB"), "workspace_mib": fields.whole("disk", unit=" of MB")}
    try:
        return Limits(**{name: value for name, value in {**said, **sizes}.items() if value is not None})  # type: ignore[arg-type]
    except InvalidValue as error:
        if len(mistakes.found) == before:
            mistakes.add(fields.line, f"limits: {error}")
        return Limits()


def _problems(fields: Fields, file: Path, own_types: Mapping[str, ProblemType], mistakes: Mistakes) -> dict[str, Problem]:
    made = {key: problem(key, fields.fields(key), str(file), own_types, mistakes) for key in fields}
    return {key: each for key, each in made.items() if each is not None}


def _grader(folder: Path, described: _Described, common: Path | None, mistakes: Mistakes) -> Grader | None:
    """``run_cmd``, the folder's own script, or the course's; None for a task of local problems only."""
    if described.in_container and described.run_cmd:
        return Grader(described.run_cmd, merge_local=False)
    if described.in_container and any(_is_file(folder / script) for script in SCRIPTS):
        return Grader(merge_local=False)
    shared = _shared_grader(common) if described.in_container else None
    unread = [key for key, each in described.problems.items() if isinstance(each, (Code, File))]
    if unread and shared is None:
        why = f"the folder has no {', '.join(SCRIPTS)}, the file no run_cmd"
        if any((folder / script).is_symlink() for script in SCRIPTS):
            why = f"{why}; links are not followed"
        if not described.in_container:
            why = f"the environment {_MCQ} is for tasks without one"
        mistakes.add(described.problems_line, f"no grader for {', '.join(unread)}: {why}")
    if shared is None and not described.problems and not mistakes.found:
        mistakes.add(described.problems_line, "there is neither a problem nor a grader")
    return shared


def _shared_grader(common: Path | None) -> Grader | None:
    found = [] if common is None else [script for script in SCRIPTS if _is_file(common / script)]
    return Grader([f"{COMMON}/{found[0]}"], merge_local=False) if found else None


def _shared_folder(folder: Path, common: Common) -> Path | None:
    """What the tasks of a course share: the folder that was given, or the one beside the task's."""
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


def _warn_of_what_is_left_out(folder: Path, shared: Path | None) -> None:
    """Folders that a grader would miss without a word."""
    if (folder / "systemfiles").is_dir():
        logger.warning("%s: nothing puts its files into /etc: the root file system is read-only", folder / "systemfiles")
    if shared is not None and (shared / "student").is_dir():
        logger.warning(
            "%s: student containers have no /course; a grader has to copy what they need to /task/student", shared / "student"
        )


def _folder(path: str | Path, what: str = "task folder") -> Path:
    if not isinstance(path, (str, Path)) or not str(path):
        raise InvalidTask(f"a {what} must be given by its path, not {path!r}")
    if "\0" in str(path) or not Path(path).is_dir():
        raise InvalidTask(f"the {what} {str(path)!r} does not exist or is no folder")
    return Path(path)


def _file(folder: Path) -> Path:
    """The folder's ``task.yaml``: a regular file of it, no link that leads elsewhere."""
    for name in NAMES:
        if _is_file(folder / name):
            if (folder / name).stat().st_size > MOST_BYTES:
                raise InvalidTask(f"{folder / name}:1: the file is larger than {MOST_BYTES // 1024} KiB")
            return folder / name
    linked = " (links are not followed)" if any((folder / name).is_symlink() for name in NAMES) else ""
    raise InvalidTask(f"the folder {str(folder)!r} has no task.yaml{linked}")


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
