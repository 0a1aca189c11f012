"""``JobInput``: what one job brings to its task. ``Request``: a job as the manager accepted it."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from jobmanager.errors import InvalidInput
from jobmanager.model import _checks
from jobmanager.model._checks import RESERVED_FOLDER
from jobmanager.model._exact import make_exact, own
from jobmanager.model.container import GRADING_WORKSPACE, SHARED_FOLDER
from jobmanager.model.grader import SCRIPTS
from jobmanager.model.problems import Answer, Code, File, Match, MultipleChoice
from jobmanager.model.task import Content, Task, executable_names, executable_on_disk, file_contents

INPUT_FILE = f"{RESERVED_FOLDER}/input.json"  # what a grader is told of its job
_LANGUAGE = "en"
_SHARED = f"{PurePosixPath(SHARED_FOLDER).name}/"  # below the workspace: student containers see it, and may write to it
_A_MODULE = 8192  # bytes, about, of each file of ours that a grader is given
_MOST_MODULES = 64
_LONGEST_ID = 200
_LONGEST_KEY = 1000
_RANDOM = random.SystemRandom()  # the caller's own seed is left alone
_MEMORY_TO_UNPACK = 4 * 2**20  # what PID 1 and tar need beside the files


@dataclass(frozen=True, slots=True)
class JobInput:
    """What one job brings: answers to problems, files of its own, standard input.

    Args:
        answers: an answer for each problem id; keys that begin with ``@`` are notes that no problem reads.
        files: workspace files by relative name; they replace the task's files of the same name;
            in a grading job they may not, but for those below ``student/``.
        executables: names of files that may be run, beside those that can be on disk, begin with ``#!`` or are ELF programs.
        stdin: what the program reads from standard input.

    Raises:
        InvalidInput: keys that are not strings, names that leave the workspace, contents of a wrong type.
    """

    answers: Mapping[str, Answer] | None = None
    files: Mapping[str, Content] | None = field(default=None, kw_only=True, repr=False)
    executables: Collection[str] = field(default=(), kw_only=True)
    stdin: bytes | str = field(default=b"", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        make_exact(self, InvalidInput)
        answers = {} if self.answers is None else self.answers
        if not isinstance(answers, Mapping):
            raise InvalidInput(f"answers must map problem ids to answers, not {type(answers).__name__}")
        for key in answers:
            if not isinstance(key, str):
                raise InvalidInput(f"answers must have strings for keys, not {key!r}")
        object.__setattr__(self, "answers", dict(answers))
        executables = executable_names(self.executables, InvalidInput)
        contents = file_contents(self.files, InvalidInput)
        object.__setattr__(self, "executables", executables | executable_on_disk(self.files))
        object.__setattr__(self, "files", contents)
        object.__setattr__(self, "stdin", _stdin(self.stdin))

    @classmethod
    def of(cls, given: JobInput | Mapping[str, Answer] | None) -> JobInput:
        """What a caller gave as input data; a plain mapping is taken for the answers."""
        if isinstance(given, JobInput):
            return own(JobInput, given)
        if given is None or isinstance(given, Mapping):
            return cls(given)
        raise InvalidInput(f"inputdata must be a JobInput or a mapping of answers, not {type(given).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job as the manager accepted it."""

    job_id: str
    task: Task
    inputs: JobInput
    files: Mapping[str, bytes] = field(repr=False)  # everything that goes into the workspace
    priority: int  # lower runs sooner
    launcher_name: str
    debug: bool | str  # "ssh": a person wants to log in
    ssh_password: str = field(default="", repr=False)  # for debug="ssh": what lets a person in
    supersede_key: str | None = None  # it replaces a waiting job of the same key
    executables: frozenset[str] = frozenset()  # names of files that may be run although they do not look like it


def _stdin(given: bytes | str) -> bytes:
    if isinstance(given, (bytes, bytearray)):
        return bytes(given)
    if not isinstance(given, str):
        raise InvalidInput(f"stdin must be bytes or text, not {type(given).__name__}")
    try:
        return given.encode()
    except UnicodeEncodeError:
        raise InvalidInput("stdin holds a lone surrogate and cannot be written as UTF-8; give bytes instead") from None


def checked_job_id(job_id: str) -> str:
    """A job id that logs and labels can hold."""
    job_id = _checks.text("job_id", job_id, InvalidInput)
    if len(job_id) > _LONGEST_ID or not job_id.isprintable():
        raise InvalidInput(f"job_id must be printable and at most {_LONGEST_ID} characters long")
    return job_id


def with_random_inputs(task: Task, inputs: JobInput) -> JobInput:
    """The input with as many random numbers in ``@random`` as the task wants: those that it brings, else new ones.

    Raises:
        InvalidInput: it brings something else.
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


def checked_key(key: str) -> str:
    """A supersede key that can be remembered."""
    key = _checks.text("supersede_key", key, InvalidInput)
    if len(key) > _LONGEST_KEY:
        raise InvalidInput(f"supersede_key must be at most {_LONGEST_KEY} characters long")
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
        _check_it_brings_no_grader(task, inputs)
        files.update(_files_for_the_grader(task, inputs))
    brought = sum(map(len, files.values())) + len(inputs.stdin)
    if brought > task.limits.memory_mib * 2**20 - _MEMORY_TO_UNPACK:
        raise InvalidInput(
            f"the job's files and stdin of {brought / 2**20:.0f} MiB do not fit its memory of {task.limits.memory_mib} MiB,"
            " of which the workspace is a part: raise memory_mib"
        )
    sizes = [*map(len, files.values()), len(inputs.stdin), _command_bytes(task), 1, *_ours(task)]
    if lack := task.limits.workspace_lack(sizes):
        raise InvalidInput(f"the job's files and stdin are {lack}")
    return files


def executables_of(task: Task, inputs: JobInput) -> frozenset[str]:
    """Names of workspace files that may be run: the task's, unless the job brings another of that name, and the job's own."""
    return (frozenset(task.executables) - (inputs.files or {}).keys()) | frozenset(inputs.executables)


def _command_bytes(task: Task) -> int:
    """What the command and its variables take in the workspace, where they are a script (``engine/pid1.py``)."""
    command = task.command if task.grader is None else task.grader.run
    words = [command] if isinstance(command, str) else list(command or ())
    twice = [text for variable in (task.env or {}).items() for text in variable]
    return 1024 + sum(len(shlex.quote(word).encode()) + 10 for word in [*words, *words[:1], *twice, *twice])


def _ours(task: Task) -> list[int]:
    """What of ours goes along into a grader's workspace: many small files."""
    return [] if task.grader is None else [_A_MODULE] * _MOST_MODULES


def _check_it_brings_no_grader(task: Task, inputs: JobInput) -> None:
    """A submitter's file must not become the grader, nor what it compares with."""
    the_graders = {*SCRIPTS, *(task.files or {})}
    replaced = sorted(name for name in the_graders & set(inputs.files or {}) if not name.startswith(_SHARED))
    if replaced:
        raise InvalidInput(
            f"a file of the job would become {replaced[0]!r}, the grader's: give it another name, or put it below {_SHARED}"
        )


def _files_for_the_grader(task: Task, inputs: JobInput) -> dict[str, bytes]:
    """``input.json``, and the uploads that become no file of the task's."""
    if inputs.stdin:
        raise InvalidInput("a grading job has no standard input: give it a file, or a note such as answers={'@text': ...}")
    answers = inputs.answers or {}
    if not isinstance(answers.get("@state", ""), str):
        raise InvalidInput(f"@state must be the text that an earlier result had as its state, not {answers['@state']!r}")
    said: dict[str, object] = {key: value for key, value in answers.items() if key.startswith("@")}
    files: dict[str, bytes] = {}
    told: dict[str, object] = {}
    for number, (key, problem) in enumerate((task.problems or {}).items()):
        answer = answers.get(key)
        if isinstance(problem, File) and answer is not None:
            name = problem.filename or f"{RESERVED_FOLDER}/answers/{number}"
            if problem.filename is None:
                files[name] = problem.content(answer)
            own_name = problem.own_name(answer) or PurePosixPath(name).name
            told[key] = {"filename": own_name, "path": f"{GRADING_WORKSPACE}/{name}"}
        elif answer is not None or isinstance(problem, (Code, File)):
            told[key] = "" if answer is None else sorted(answer, key=str) if isinstance(answer, Set) else answer
    language = said.get("@lang")
    whole = {**said, "answers": told, "language": language if isinstance(language, str) and language else _LANGUAGE}
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
