"""What a ``task.yaml`` says of a program that is run for cases, or of hidden tests. INGInious has no such fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model.case import Case, checked_cases
from jobmanager.model.checker import Checker, Interactor
from jobmanager.model.checks import Check, Exact, Floats, JudgingProgram, Lines, Tokens
from jobmanager.model.grader import SHARED, Grader
from jobmanager.model.limits import Limits
from jobmanager.model.problems import Code, File, Problem
from jobmanager.model.task import Task
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.limits_fields import read_build_limits
from jobmanager.task_folder.marked_yaml import Mistakes

_TESTS, _RUN_BY = "hidden_tests", ("pytest", "unittest")
_CHECKS: Mapping[str, Callable[[], Check]] = {"lines": Lines, "exact": Exact, "tokens": Tokens, "floats": Floats}
_JUDGES: Mapping[str, Callable[[Task], JudgingProgram]] = {"checker": Checker, "interactor": Interactor}
_OF_CASES = ("build", "build_limits", "check", "stop_at_first_failure")  # what only a task with cases has
_CASE = ("name", "stdin", "expected", "points", "args", "cpu_time", "wall_time")
_OF_TESTS = ("run_by", "submission", "files", "cpu_time", "wall_time", "one_process", "student_cpu_time", "student_memory")
STUDENT = "student"  # below a task's folder: what its submissions may read
PROGRAM_FIELDS = {"command", "cases", _TESTS, *_OF_CASES}

_Command = str | list[str]
ReadJudge = Callable[[Path], Task]  # the task of a folder with a checker or an interactor. Raises InvalidTask


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderProgram:
    """A command, and the cases that it is run for."""

    command: _Command
    build: _Command | None = None
    build_limits: Limits | None = None
    cases: tuple[Case, ...] = ()
    stop_at_first_failure: bool = False


def read_program(
    fields: Fields, folder: Path, limits: Limits, mistakes: Mistakes, read_judge: ReadJudge
) -> FolderProgram | None:
    """The program of a task with these limits; None where the file has no ``command``."""
    if fields.has_no_value("command"):
        fields.add_mistake("command", "is empty")
    if fields.has_no_value("cases"):  # or a submission would be right that was never tried
        fields.add_mistake("cases", "is empty: give a folder, or a list of cases")
    needs = next((name for name in ("cases", *_OF_CASES) if name in fields and "command" not in fields), None)
    if needs is not None:
        fields.add_mistake(needs, "needs a command, which is run for each case")
    if "command" not in fields:
        return None
    lone = next((name for name in _OF_CASES if name in fields and "cases" not in fields), None)
    if lone is not None and not (lone.startswith("build") and "problems" not in fields):  # a judge may have a build of its own
        fields.add_mistake(lone, "is for a task with cases")
    if "build_limits" in fields and "build" not in fields:
        fields.add_mistake("build_limits", "is for a task with a build")
    of_build = read_build_limits(fields.fields("build_limits"), mistakes, limits) if "build_limits" in fields else None
    check = _check(fields, folder, read_judge)
    return FolderProgram(
        command=fields.command("command") or "",
        build=fields.command("build"),
        build_limits=of_build,
        cases=_cases(fields, folder, check, mistakes) if check is not None else (),
        stop_at_first_failure=fields.flag("stop_at_first_failure"),
    )


def read_hidden_tests(fields: Fields, problems: Mapping[str, Problem]) -> tuple[Grader | None, Mapping[str, Problem]]:
    """The grader that runs the tests, and the problems: the only one without a file of its own becomes the submission."""
    if _TESTS not in fields:
        return None, problems
    of_tests = fields.fields(_TESTS)
    for unknown in sorted(set(of_tests).difference(_OF_TESTS)):
        of_tests.add_mistake(unknown, f"is none of {', '.join(_OF_TESTS)}")
    run_by = of_tests.text("run_by") or _RUN_BY[0]
    if run_by not in _RUN_BY:
        of_tests.add_mistake("run_by", f"must be {' or '.join(_RUN_BY)}, not {run_by[:60]!r}")
        return None, problems
    submission = of_tests.text("submission") or "solution.py"
    made_by = Grader.pytest if run_by == "pytest" else Grader.unittest
    try:
        grader = made_by(
            submission,
            tests=of_tests.text("files") or "test_*.py",
            cpu_time_s=of_tests.number("cpu_time", unit=" of seconds") or 2.0,
            wall_time_s=of_tests.number("wall_time", unit=" of seconds"),
            one_process=of_tests.flag("one_process"),
            student_cpu_time_s=of_tests.number("student_cpu_time", unit=" of seconds"),
            student_memory_mib=of_tests.whole("student_memory", unit=" of MB"),
        )
    except InvalidTask as error:
        fields.add_mistake(_TESTS, f"make no grader: {error}")
        return None, problems
    written = {key: each for key, each in problems.items() if isinstance(each, (Code, File))}
    named = [each.filename.removeprefix(SHARED) for each in written.values() if each.filename is not None]
    nameless = [key for key, each in written.items() if each.filename is None]
    if len(nameless) > 1 or (nameless and submission in named):
        others = "others are read by nothing: give them a filename, which is a file beside the submission"
        fields.fields("problems").add_mistake(nameless[-1], f"needs a filename: one answer is the submission, and {others}")
    beside = {key: f"{SHARED}{(each.filename or submission).removeprefix(SHARED)}" for key, each in written.items()}
    return grader, {**problems, **{key: replace(written[key], filename=name) for key, name in beside.items()}}


def add_file_mistakes(fields: Fields, problems: Mapping[str, Problem]) -> None:
    """A program reads its answers from files."""
    for key, problem in problems.items():
        if isinstance(problem, (Code, File)) and problem.filename is None:
            fields.fields("problems").add_mistake(key, "needs a filename: the file that the command finds the answer in")


# ---- cases


def _cases(fields: Fields, folder: Path, check: Check | JudgingProgram, mistakes: Mistakes) -> tuple[Case, ...]:
    if "cases" not in fields:
        return ()
    try:
        if fields.is_list("cases"):
            return _listed_cases(fields, folder, check, mistakes)
        return _cases_in_folder(fields, folder, check)
    except (InvalidTask, OSError) as error:
        fields.add_mistake("cases", f"cannot be read: {error}")
        return ()


def _listed_cases(fields: Fields, folder: Path, check: Check | JudgingProgram, mistakes: Mistakes) -> tuple[Case, ...]:
    """Those of a list. With a mistake in one there are none: the numbers of those without a name would be others."""
    found = [_case(each, folder, check, mistakes) for each in fields.list_of_fields("cases")]
    made = [case for case in found if case is not None]
    return checked_cases(made) if len(made) == len(found) else ()


def _cases_in_folder(fields: Fields, folder: Path, check: Check | JudgingProgram) -> tuple[Case, ...]:
    place = _folder_in(fields, "cases", fields.text("cases"), folder)
    if place is None:
        return ()
    linked = min((path.name for path in place.iterdir() if path.is_symlink()), default="")
    if linked:
        raise InvalidTask(f"{linked[:60]!r} is a link, and links are not followed")
    return Case.from_directory(place, check=cast(Check, check))


def _case(fields: Fields, folder: Path, check: Check | JudgingProgram, mistakes: Mistakes) -> Case | None:
    for unknown in sorted(set(fields).difference(_CASE)):
        fields.add_mistake(unknown, f"is no part of a case: there are {', '.join(_CASE)}")
    given, expected = fields.text("stdin") or "", "" if fields.is_empty("expected") else fields.text("expected")
    if expected is None and not isinstance(check, JudgingProgram):
        fields.add_mistake("expected", "is missing: what the command is to print")
    for name, said in (("stdin", given), ("expected", expected or "")):
        if not {"", ".."} & {*said.split("/")} and _checks.names_a_file(said, below=folder):
            fields.add_mistake(name, "names a file, and a case in a list holds the text itself: name a folder of cases")
    before = len(mistakes.found)
    points = fields.number("points", from_zero=True)
    if "args" in fields and not fields.is_list("args"):
        fields.add_mistake("args", "must be a list of words, such as [-n, '3']")
    try:
        return Case(
            given.encode(),
            name=fields.text("name") or "",
            expected=None if expected is None else expected.encode(),
            check=check,
            points=1.0 if points is None else points,
            args=fields.texts("args") if fields.is_list("args") else (),
            cpu_time_s=fields.number("cpu_time", unit=" of seconds"),
            wall_time_s=fields.number("wall_time", unit=" of seconds"),
        )
    except InvalidTask as error:
        if len(mistakes.found) == before:
            mistakes.add(fields.line, str(error))
        return None


def _check(fields: Fields, folder: Path, read_judge: ReadJudge) -> Check | JudgingProgram | None:
    """How outputs are compared; None where that is a mistake."""
    if "check" not in fields:
        return Lines()
    if not fields.is_mapping("check"):
        name = fields.text("check") or ""
        if name in _CHECKS:
            return _CHECKS[name]()
        others = "{floats: 1e-6}, {checker: FOLDER} or {interactor: FOLDER}"
        fields.add_mistake("check", f"must be {', '.join(_CHECKS)}, {others}, not {name[:60]!r}")
        return None
    named = fields.fields("check")
    names = list(named)
    if names == ["floats"]:
        return _floats(named)
    if len(names) == 1 and names[0] in _JUDGES:
        return _judge(named, names[0], folder, read_judge)
    fields.add_mistake("check", "must have one of floats, checker and interactor")
    return None


def _floats(fields: Fields) -> Check | None:
    """One tolerance: absolute or relative, either is enough."""
    try:
        tolerance = float(fields.text("floats") or "x")
        return Floats(absolute=tolerance, relative=tolerance)
    except (ValueError, InvalidTask):
        fields.add_mistake("floats", "must be a tolerance from 0 on, such as 1e-6")
        return None


def _judge(fields: Fields, kind: str, folder: Path, read_judge: ReadJudge) -> JudgingProgram | None:
    place = _folder_in(fields, kind, fields.text(kind), folder)
    if place is None:
        return None
    try:
        return _JUDGES[kind](read_judge(place))
    except InvalidTask as error:
        fields.add_mistake(kind, f"is no task: {error}")
        return None


def _folder_in(fields: Fields, name: str, given: str | None, folder: Path) -> Path | None:
    """A folder in the task's folder. Links are not followed: somebody else may have made them."""
    parts = PurePosixPath(given or "").parts
    if not parts or given is None or given.startswith("/") or ".." in parts:
        fields.add_mistake(name, "must be a folder in the task's folder" + (f", not {given[:60]!r}" if given else ""))
        return None
    if parts[0] == STUDENT:
        fields.add_mistake(name, f"is below {STUDENT}/, which submissions read: put it beside that folder")
        return None
    place = folder
    for part in parts:
        place = place / part
        is_link = os.path.islink(place)
        if is_link or not os.path.isdir(place):
            why = "is a link, and links are not followed" if is_link else "is not there, or is no folder"
            fields.add_mistake(name, f"names {'/'.join(parts)[:60]!r}, which {why}")
            return None
    return place
