"""``jobmanager grade``: submissions to a task folder, all through one manager."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import click

from jobmanager.command_line.answers import FoundSubmission, answer_files, answers_of, given_answers, submissions_in
from jobmanager.command_line.grades import Grade, grades_csv, grades_json, grades_junit, grades_table
from jobmanager.command_line.hosts import FindHosts, on_hosts
from jobmanager.command_line.printing import BAD, FINE, INTERRUPTED, complain, console, error_code, progress
from jobmanager.command_line.watch import changes
from jobmanager.command_line.workspace import pairs
from jobmanager.errors import InvalidInput, JobManagerError
from jobmanager.manager import JobManager
from jobmanager.model.problems import Answer
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.task_folder.folder import SHARED

_AT_ONCE = 200  # jobs that the manager has, so that a long list of submissions is not in memory
_QUEUE_TIMEOUT_S = 7 * 24 * 3600.0
_STDOUT = "-"
_ONE = "answers"  # the name of a submission that is given by --answer alone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is to be graded, and where the grades go."""

    folder: Path
    common: Path | None
    image: str | None
    answers: tuple[str, ...]
    submissions: Path | None
    csv_file: Path | None
    json_file: Path | None
    junit_file: Path | None
    watch: bool

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that it reads."""
        common = self.common or Path(os.path.abspath(self.folder)).parent / SHARED
        return [self.folder, common, *answer_files(self.answers), *([self.submissions] if self.submissions else [])]

    def check(self) -> None:
        """Refuse files that could not be written, before anything runs; and those that would be graded, or be watched."""
        places: list[tuple[str, Path]] = []
        for option, file in (("--csv", self.csv_file), ("--json", self.json_file), ("--junit", self.junit_file)):
            if file is None or str(file) == _STDOUT:
                continue
            place = Path(os.path.abspath(file))
            if place.is_dir() or not os.access(place if place.exists() else place.parent, os.W_OK):
                raise click.UsageError(f"{option}: {str(file)!r} cannot be written")
            same = next((other for other, path in places if path == place), None)
            if same is not None:
                raise click.UsageError(f"{option} and {same} name one file: {str(file)!r}")
            places.append((option, place))
            inside = [path for path in self.inputs if place.is_relative_to(os.path.abspath(path))]
            if inside:
                raise click.UsageError(f"{option}: {str(file)!r} is in {str(inside[0])!r}, which is read: take another folder")

    def task(self) -> Task:
        """The task, and a line on standard error for each doubt about its file."""
        with _doubts_shown():
            return Task.from_directory(self.folder, common=self.common, environment=self.image)


@click.command()
@click.argument("task_folder", type=click.Path(path_type=Path))
@click.option("--answer", "answers", metavar="ID=TEXT", multiple=True, help="An answer, or ID=@FILE; can be repeated.")
@click.option(
    "--submissions",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Grade each folder in it (files named by problem ids), or each file, where one problem takes a file.",
)
@click.option("--image", metavar="IMAGE", help="Run the task in this image or environment, instead of its own.")
@click.option("--environment", "environments", metavar="NAME=IMAGE", multiple=True, help="A further name for an image.")
@click.option("--common", metavar="DIR", type=click.Path(path_type=Path), help="The folder that the course's tasks share.")
@on_hosts
@click.option("--csv", "csv_file", metavar="FILE", type=click.Path(path_type=Path), help="Write the grades there as CSV, too.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="As JSON; -: instead of the table.")
@click.option("--junit", "junit_file", metavar="FILE", type=click.Path(path_type=Path), help="As JUnit XML.")
@click.option("--watch", is_flag=True, help="Grade again whenever a file of the task or of an answer changes. ctrl-C ends it.")
def grade(
    find_hosts: FindHosts,
    task_folder: Path,
    answers: tuple[str, ...],
    submissions: Path | None,
    image: str | None,
    environments: tuple[str, ...],
    common: Path | None,
    csv_file: Path | None,
    json_file: Path | None,
    junit_file: Path | None,
    watch: bool,
) -> int:
    """Grade answers or a folder of submissions by the task in TASK_FOLDER, which has a task.yaml.

    An --answer beside --submissions is for all of them. The exit code is 0 when all are right, 1 when one is not or could not be
    graded, 2 for bad input, such as a mistake in task.yaml, 3 when no host can be reached.
    """
    order = _Order(
        folder=task_folder,
        common=common,
        image=image,
        answers=answers,
        submissions=submissions,
        csv_file=csv_file,
        json_file=json_file,
        junit_file=junit_file,
        watch=watch,
    )
    order.check()
    manager = JobManager(
        find_hosts(), environments=pairs("--environment", environments), queue_timeout_s=_QUEUE_TIMEOUT_S
    )
    if watch:
        with manager:
            for _ in changes(order.inputs):
                _tried(order, manager)
    try:
        task = order.task()  # its mistakes are told without any host
        with manager:
            return _graded(order, task, manager)
    except JobManagerError as problem:
        return _told(problem)


def _tried(order: _Order, manager: JobManager) -> None:
    """What is wrong now may be right after the next change."""
    try:
        _graded(order, order.task(), manager)
    except JobManagerError as problem:
        _told(problem)


def _told(problem: JobManagerError) -> int:
    """An error, a line for each mistake of a task folder."""
    for line in str(problem).splitlines():
        complain(line, 0)
    return error_code(problem)


@contextmanager
def _doubts_shown() -> Iterator[None]:
    """Show what the library logs of a task folder: a field that is mistyped, perhaps."""
    logger, shown = logging.getLogger("jobmanager.task_folder"), _Complaining(logging.WARNING)
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)
        logger.setLevel(level)


class _Complaining(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(f"look: {record.getMessage()}", 0)


# ---- grading


def _graded(order: _Order, task: Task, manager: JobManager) -> int:
    """Grade all, show and write what came of them; returns the exit code."""
    problems = task.problems or {}
    for_all = given_answers(order.answers, problems)
    found = [FoundSubmission(name=_ONE)] if order.submissions is None else submissions_in(order.submissions, problems)
    if not found:
        raise InvalidInput(f"there is no submission in {str(order.submissions)!r}")
    grades: dict[int, Grade] = {}
    try:
        _grade_all(task, found, for_all, manager, grades)
    except KeyboardInterrupt:
        if not order.watch and any(each.result is not None for each in grades.values()):
            _write_what_there_is(order, task, [grades.get(number, _not_graded(each)) for number, each in enumerate(found)])
        raise
    if order.submissions is None and grades[0].refusal:
        raise InvalidInput(grades[0].refusal)
    code = FINE if all(each.is_success for each in grades.values()) else BAD
    _write(order, task, code, [grades[number] for number in range(len(found))])
    return code


def _not_graded(submission: FoundSubmission) -> Grade:
    return Grade(name=submission.name, refusal="not graded: interrupted")


def _write_what_there_is(order: _Order, task: Task, grades: Sequence[Grade]) -> None:
    """After ctrl-C, which counts for more than a file that cannot be written."""
    try:
        _write(order, task, INTERRUPTED, grades)
    except JobManagerError as problem:
        _told(problem)


def _grade_all(
    task: Task, found: Sequence[FoundSubmission], for_all: dict[str, Answer], manager: JobManager, grades: dict[int, Grade]
) -> None:
    """Add a grade for each, by its number, as they end."""
    ended: SimpleQueue[JobResult] = SimpleQueue()
    running: dict[str, int] = {}
    waiting = iter(range(len(found)))
    with progress(task.title, total=len(found)) as show:
        while len(grades) < len(found):
            while len(running) < _AT_ONCE and (number := next(waiting, None)) is not None:
                try:
                    answers = {**for_all, **answers_of(found[number], task.problems or {})}
                    running[manager.new_job(task, answers, ended.put, launcher_name="grade")] = number
                except InvalidInput as refusal:
                    grades[number] = Grade(name=found[number].name, refusal=str(refusal))
            if running:
                result = ended.get()
                number = running.pop(result.job_id)
                grades[number] = Grade(name=found[number].name, result=replace(result, archive=None))
            show(len(grades), len(found), task.title)


def _write(order: _Order, task: Task, code: int, grades: Sequence[Grade]) -> None:
    """The files first: nobody may read standard output any more."""
    as_json = grades_json(task.title, code, grades)
    _replace(order.csv_file, grades_csv(list(task.problems or {}), grades).encode())
    _replace(order.junit_file, grades_junit(task.title, grades))
    if str(order.json_file) == _STDOUT:
        click.echo(as_json, nl=False)
    else:
        _replace(order.json_file, as_json.encode())
        console(quiet=False).print(grades_table(task.title, grades))


def _replace(file: Path | None, content: bytes) -> None:
    """Write a file as a whole: who reads it meanwhile has the old one or the new one."""
    if file is None:
        return
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, file)
    except OSError as problem:
        raise InvalidInput(f"{str(file)!r} cannot be written: {problem.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
