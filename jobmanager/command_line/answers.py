"""Answers to a task's problems, from arguments and files: ``--answer`` and ``--submissions``.

Submissions may come from strangers: links are not followed, and what is no regular file is not opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import click

from jobmanager.command_line.printing import complain
from jobmanager.errors import InvalidInput
from jobmanager.model import _checks
from jobmanager.model._escapes import one_line
from jobmanager.model.problems import Answer, Code, File, MultipleChoice, Problem

MAX_FILE_MIB = 64  # of one answer
_RANDOM = "@random"
_SHOWN = 80  # characters of a name that a message repeats
_IGNORED = ("__pycache__", "__MACOSX")

Problems = Mapping[str, Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSubmission:
    """A submission before it is read: its files by the ids of their problems."""

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    mistake: str = ""  # why it cannot be graded


def given_answers(given: Iterable[str], problems: Problems) -> dict[str, Answer]:
    """The answers of ID=TEXTs and ID=@FILEs.

    Raises:
        InvalidInput: an id that is unknown or stands there twice, a file that cannot be read.
    """
    answers: dict[str, Answer] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise click.UsageError(f"--answer: give ID=TEXT or ID=@FILE, not {each[:_SHOWN]!r}")
        if key in answers:
            raise InvalidInput(f"--answer: {key!r} is given twice")
        if value.startswith("@"):
            answers[key] = _answer_of_file(key, problems.get(key), Path(value[1:]), is_trusted=True)
        else:
            if _checks.names_a_file(value):
                complain(f"look: --answer {key}: {value!r} is a file's name: give {key}=@{value} for what is in it", 0)
            answers[key] = _answer_of_text(key, problems.get(key), value)
    return answers


def answer_files(given: Iterable[str]) -> list[Path]:
    """The files that ID=@FILEs name."""
    values = (each.partition("=")[2] for each in given)
    return [Path(value[1:]) for value in values if value.startswith("@")]


def submissions_in(folder: Path, problems: Problems) -> list[FoundSubmission]:
    """Each folder in it, with files that are named by their problems, or as the task names the files of answers.

    Where one problem takes a file, each file, too. What is no submission is one with a mistake. Names that begin with a dot are
    left out.
    """
    uploads = [key for key, problem in problems.items() if isinstance(problem, (Code, File))]
    return [_found(path, uploads, problems) for path in _shown_files(folder)]


def answers_of(submission: FoundSubmission, problems: Problems) -> dict[str, Answer]:
    """What its files hold. Raises InvalidInput."""
    if submission.mistake:
        raise InvalidInput(submission.mistake)
    return {key: _answer_of_file(key, problems.get(key), path) for key, path in submission.files.items()}


# ---- which files


def _shown_files(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as problem:
        raise InvalidInput(f"{str(folder)!r} cannot be read: {problem.strerror}") from None
    return [path for path in found if not path.name.startswith(".") and path.name not in _IGNORED]


def _found(path: Path, uploads: list[str], problems: Problems) -> FoundSubmission:
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            return FoundSubmission(name=path.name, files=_files_by_problem(path, problems))
        if len(uploads) != 1:
            raise InvalidInput(
                f"a file alone is no submission: {len(uploads)} problems of the task take a file. Make a folder of it, with a file"
                f" for each problem: {', '.join(problems)}"
            )
        return FoundSubmission(name=path.name, files={uploads[0]: _regular(path)})
    except (InvalidInput, OSError) as mistake:
        return FoundSubmission(name=path.name, mistake=str(mistake))


def _files_by_problem(folder: Path, problems: Problems) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in _shown_files(folder):
        key = _problem_of(path.name, problems)
        if key is None:
            named = [f"{each} ({file})" if (file := _filename(problem)) else each for each, problem in problems.items()]
            what = "folder" if stat.S_ISDIR(path.lstat().st_mode) else "file"
            raise InvalidInput(f"the {what} {_name(path)} is for no problem: the task has {', '.join(named) or 'none'}")
        if key in files:
            raise InvalidInput(f"two files are for problem {key!r}: {_name(files[key])} and {_name(path)}")
        files[key] = _regular(path)
    return files


def _problem_of(name: str, problems: Problems) -> str | None:
    """The problem that a file of this name answers: the one for which the task names such a file, or by its id."""
    named = [key for key, problem in problems.items() if _filename(problem) == name]
    if len(named) == 1:
        return named[0]
    return next((key for key in (name, name.partition(".")[0]) if key in problems), None)


def _filename(problem: Problem) -> str:
    """The name that the task gives the file of an answer, without its folder; empty: none."""
    return PurePosixPath((problem.filename if isinstance(problem, (Code, File)) else None) or "").name


def _regular(path: Path) -> Path:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise InvalidInput(f"{_name(path)} is {'a link, which is not followed' if stat.S_ISLNK(mode) else 'no regular file'}")
    return path


def _name(path: Path) -> str:
    return f"'{one_line(path.name[:_SHOWN])}'"


# ---- what an answer is


def _answer_of_text(key: str, problem: Problem | None, text: str) -> Answer:
    if key == _RANDOM:
        return _numbers(text)
    if isinstance(problem, MultipleChoice):
        chosen = text.replace(",", " ").split()
        return chosen[0] if len(chosen) == 1 and not problem.multiple else chosen  # as a frontend sends them
    if isinstance(problem, Code) and problem.single_line:
        return text.rstrip("\r\n")
    return text


def _answer_of_file(key: str, problem: Problem | None, path: Path, *, is_trusted: bool = False) -> Answer:
    content = _read(path, is_trusted=is_trusted)
    if isinstance(problem, File):
        return {"filename": path.name, "value": content}
    try:
        return _answer_of_text(key, problem, content.decode())
    except UnicodeDecodeError as problem_of_text:
        raise InvalidInput(f"{_name(path)} is no text in UTF-8: {problem_of_text.reason} in byte {problem_of_text.start}") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.replace(",", " ").split()]
    except ValueError:
        raise InvalidInput(f"{_RANDOM} must be numbers from 0 to 1 with commas between them, not {text[:_SHOWN]!r}") from None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read(path: Path, *, is_trusted: bool) -> bytes:
    try:
        with open(path, "rb", opener=os.open if is_trusted else _open_no_link) as file:
            content = file.read(MAX_FILE_MIB * 2**20 + 1)
    except (OSError, ValueError) as problem:
        raise InvalidInput(f"{str(path)!r} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(content) > MAX_FILE_MIB * 2**20:
        raise InvalidInput(f"{_name(path)} is larger than {MAX_FILE_MIB} MiB")
    return content
