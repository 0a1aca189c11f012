"""``JobInput``: the input of one job. ``Request``: a job as the manager accepted it, with its runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobmanager.errors import InvalidInput
from jobmanager.model import _checks
from jobmanager.model._exact import exact, make_exact, own
from jobmanager.model._forms import ANSWERS
from jobmanager.model._keywords import explains_keywords
from jobmanager.model._repr import SHOWN_BY_SIZE
from jobmanager.model.as_data import VersionedAsData
from jobmanager.model.phase import Phase
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.problems import Answer
from jobmanager.model.task import Content, Task, executable_names, executable_on_disk, file_contents

_CALLER = 5  # frames up from a warning: its function, __post_init__, two __init__
_MAX_COMMAND_CHARS = 300  # characters of a command that tell a job class from others


@explains_keywords
@dataclass(frozen=True, slots=True)
class JobInput(VersionedAsData, kind="input", invalid=InvalidInput):
    """The input of one job: answers to problems, files of its own, standard input.

    Args:
        answers: an answer for each problem id; keys that begin with ``@`` are notes that no problem reads.
        files: workspace files by relative name; they replace the task's files of the same name;
            in a grading job only those below ``student/`` may.
        executables: names of files that may be run, beside those that can be on disk, begin with ``#!`` or are ELF programs.
        stdin: what the program reads from standard input: bytes, text, or a Path that is read now.

    Raises:
        InvalidInput: keys that are not strings, names that leave the workspace, contents of a wrong type, a file that cannot be
            read.
    """

    answers: Mapping[str, Answer] | None = field(default=None, metadata=ANSWERS)
    files: Mapping[str, Content] | None = field(default=None, kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)
    executables: Collection[str] = field(default=(), kw_only=True)
    stdin: Content = field(default=b"", kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)

    def __post_init__(self) -> None:
        make_exact(self, InvalidInput)
        answers = {} if self.answers is None else self.answers
        if not isinstance(answers, Mapping):
            raise InvalidInput(f"answers must map problem ids to answers, not {type(answers).__name__}")
        for key in answers:
            if not isinstance(key, str):
                raise InvalidInput(f"answers must have strings for keys, not {key!r}")
        object.__setattr__(self, "answers", {key: _answer(answer) for key, answer in answers.items()})
        executables = executable_names(self.executables, InvalidInput)
        contents = file_contents(self.files, InvalidInput)
        _warn_of_file_names(self.files or {}, self.stdin)
        object.__setattr__(self, "executables", executables | executable_on_disk(self.files))
        object.__setattr__(self, "files", contents)
        object.__setattr__(self, "stdin", _stdin(self.stdin))

    @classmethod
    def of(cls, given: JobInput | Mapping[str, Answer] | None) -> JobInput:
        """The input that a caller gave; a plain mapping is taken for the answers."""
        if isinstance(given, JobInput):
            return own(JobInput, given)
        if given is None or isinstance(given, Mapping):
            return cls(given)
        raise InvalidInput(f"inputdata must be a JobInput or a mapping of answers, not {type(given).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What one container of a job is to run: the job's task, or that of a phase."""

    task: Task
    phase: Phase | None = None  # None: the job is no pipeline
    inputs: JobInput = field(default_factory=JobInput)  # of a phase: its part of the job's input; empty where it gets none
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # everything that goes into the workspace
    executables: frozenset[str] = frozenset()  # names of files that may be run although they do not look like it
    interactor: RunRequest | None = None  # what runs beside each of its cases, and talks with it
    checkers: tuple[RunRequest, ...] = ()  # what judge its cases, in the order of ``Task.checkers``

    @property
    def files_bytes(self) -> int:
        """The size of the files together."""
        return sum(map(len, self.files.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job as the manager accepted it."""

    job_id: str
    task: Task | Pipeline
    inputs: JobInput  # the whole input
    runs: tuple[RunRequest, ...]  # one for a task; one for each phase of a pipeline
    priority: int  # lower runs sooner
    launcher_name: str
    debug: bool | str  # "ssh": a person is going to log in
    ssh_password: str = field(default="", repr=False)  # for debug="ssh"
    supersede_key: str | None = None  # it replaces a waiting job of the same key

    @property
    def title(self) -> str:
        """Its name in listings."""
        return f"{self.task.title} (ssh)" if self.debug == "ssh" else self.task.title

    @property
    def job_class(self) -> str:
        """Jobs of one class are expected to take the same time: those of one task name, or of one command where there is none."""
        if isinstance(self.task, Pipeline):
            return sys.intern(f"pipeline {self.task.title}")
        name = self.task.name or f"{self.task.environment} {self.task.command!r:.{_MAX_COMMAND_CHARS}}"
        return sys.intern(f"{name} (ssh)" if self.debug == "ssh" else name)  # a person needs longer than a program


def checked_options(given: Mapping[str, Any]) -> tuple[int, str, Any]:
    """The priority, the launcher's name and the debug mode of a job, or of all jobs of a batch. Raises InvalidInput."""
    priority, launcher_name, debug = (exact(given[name]) for name in ("priority", "launcher_name", "debug"))
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidInput(f"priority must be a whole number, not {priority!r}")
    if not isinstance(launcher_name, str):
        raise InvalidInput(f"launcher_name must be a string, not {launcher_name!r}")
    if not isinstance(debug, bool) and debug != "ssh":
        raise InvalidInput(f'debug must be True, False or "ssh", not {debug!r}')
    return priority, launcher_name, debug


def _answer(given: Answer) -> Answer:
    """Several values are a list, as in JSON, whatever they came in; those of a set are sorted."""
    if isinstance(given, Set):
        return sorted(given, key=str)
    return list(given) if isinstance(given, tuple) else given


def _warn_of_file_names(files: Mapping[str, Content], stdin: Content) -> None:
    """A text that names a file of ours. It is no error: a submitter could find out by that which files there are."""
    for name, content in (*files.items(), ("stdin", stdin)):
        if _checks.names_a_file(content):
            what = "stdin" if content is stdin else f"file {name!r}"
            warnings.warn(
                f"JobInput: {what} is the text {content!r}, and there is a file of that name: is what is in it meant? Then give"
                f" Path({content!r})",
                stacklevel=_CALLER,
            )


def _stdin(given: Content) -> bytes:
    if isinstance(given, Path):
        return file_contents({"stdin": given}, InvalidInput)["stdin"]
    if isinstance(given, (bytes, bytearray)):
        return bytes(given)
    if not isinstance(given, str):
        raise InvalidInput(f"stdin must be bytes, text or a Path, not {type(given).__name__}")
    try:
        return given.encode()
    except UnicodeEncodeError:
        raise InvalidInput("stdin holds a lone surrogate and cannot be written as UTF-8; give bytes instead") from None
