"""``Task``: what to run. Reusable and immutable; checked when made."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from jobmanager.errors import InvalidTask, InvalidValue
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact, own
from jobmanager.model._forms import NOT_DATA
from jobmanager.model._keywords import explains_keywords
from jobmanager.model._repr import SHOWN_BY_SIZE
from jobmanager.model.as_data import VersionedAsData
from jobmanager.model.case import CASE_LIMITS, Case, case_name, checked_cases
from jobmanager.model.checks import JudgingProgram, ProgramCheck, ProgramInteractor
from jobmanager.model.container import GRADING_WORKSPACE, WORKSPACE
from jobmanager.model.grader import SCRIPTS, Grader
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network, checked_network, own_networks
from jobmanager.model.problems import Code, File, Match, MultipleChoice, Problem, ProblemType
from jobmanager.model.volume import file_pattern

Content = bytes | str | Path
FIXED_LIMITS = ("open_files", "workspace_mib", "archive_mib", "cpus")  # a container's, for all its runs

_MAX_BYTES = 2**30  # read into memory for one job
_MAX_RETRIES = 100
_MAX_CHECKERS = 8
_CLEARING_S, _CLEARING_OF_A_CASE_S = 30.0, 0.5  # a full tree of 100,000 files takes a second or two
_MAX_RANDOM_INPUTS = 10_000
_MAX_DEVICES = 16
_MAX_DEVICE_LENGTH = 255
_MAX_ID = 2**31 - 1  # of a user or a group
_USER = re.compile(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_DEVICE = re.compile(r"/dev(/[A-Za-z0-9_+@,=-][A-Za-z0-9_.+@,=-]*)+")


@explains_keywords
@dataclass(frozen=True, slots=True)
class Task(VersionedAsData, kind="task", invalid=InvalidTask):
    """What to run: an environment, a command, files, problems, limits.

    Args:
        environment: an environment's name, or an image reference.
        command: a list of words run as it is, or a string run by ``sh -c``; None runs the image's own command.
            It runs in ``/job``, the workspace (the image's ``WORKDIR`` is not heeded), as a user that is not root.
        files: workspace files by relative name; content as bytes, text, or a Path that is read now.
        directory: a folder whose regular files are read now and put into ``files`` too; the task itself has none then.
        executables: names of files that may be run, beside those that can be on disk, begin with ``#!`` or are ELF programs.
        problems: questions by id; a Code or File answer becomes that file in the workspace, if it has a filename.
        limits: what the job may use.
        network: off by default.
        env: environment variables of the program; beside them ``LANG=C.UTF-8`` where neither they nor the image set a locale.
        grader: judges the submission, instead of a command, and may run it in student containers.
        collect: patterns (``fnmatch``, a folder's name for all in it) of workspace files that come back; in a ``Phase``
            also ``/volumes/NAME/PATTERN``.
        retries: how often it may be run again, on another host if one has room, when a run was cut off for a reason that is
            neither the program's nor the task's: the host is lost, the engine died, somebody else removed the container.
            0: the program is started at most once, and a run that was cut off is a ``crash``.
        random_inputs: how many random numbers (from 0 to below 1) a job's ``@random`` holds; made for a job that brings none.
        name: free text for logs and queue listings; tasks of one name share an estimate of how long they take.
        user: who runs the program, as the image's ``/etc/passwd`` and ``/etc/group`` have it: ``UID``, ``UID:GID``, ``NAME`` or
            ``NAME:GROUP``. None: 65534, which owns nothing. Not together with a grader.
        devices: devices of the host that the program may read and write, such as ``/dev/kvm``. Not together with a grader.
        privileged: whether the program has all rights on the host's machine, as ``docker run --privileged`` gives them. Only
            for programs that you trust with that machine. Not together with a network or a grader.
        build: a command that runs once before the cases, which then begin with what it has left in the workspace. When it fails,
            no case is run, and ``JobResult.build`` says why.
        build_limits: what the build may use of memory, processes, CPU time, wall clock and output; None: as a case. What a
            container fixes (open files, workspace, cpus) is the same for all runs.
        cases: the command is run once for each of them, in one container, and nothing goes from one to the next. Not together
            with a grader, a standard input or files to collect.
        stop_at_first_failure: whether the cases after the first one that is no success are left out.

    Raises:
        InvalidTask: anything that no host could run.
    """

    environment: str
    command: str | Sequence[str] | None = field(default=None, kw_only=True)
    grader: Grader | None = field(default=None, kw_only=True)
    files: Mapping[str, Content] | None = field(default=None, kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)
    directory: str | Path | None = field(default=None, kw_only=True, metadata=NOT_DATA)
    executables: Collection[str] = field(default=(), kw_only=True)
    problems: Mapping[str, Problem] | None = field(default=None, kw_only=True)
    limits: Limits = field(default_factory=Limits, kw_only=True)
    network: Network | str = field(default=Network.OFF, kw_only=True)
    env: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False)
    collect: Sequence[str] = field(default=(), kw_only=True)
    retries: int = field(default=0, kw_only=True)
    random_inputs: int = field(default=0, kw_only=True)
    name: str = field(default="", kw_only=True)
    user: str | None = field(default=None, kw_only=True)
    devices: Sequence[str] = field(default=(), kw_only=True)
    privileged: bool = field(default=False, kw_only=True)
    build: str | Sequence[str] | None = field(default=None, kw_only=True)
    build_limits: Limits | None = field(default=None, kw_only=True)
    cases: Sequence[Case] = field(default=(), kw_only=True, repr=False, metadata=SHOWN_BY_SIZE)
    stop_at_first_failure: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.cases, list) and not self.cases:  # from a pattern that fits no file, mostly
            raise InvalidTask("cases is an empty list: leave it out for a task with one run")
        make_exact(self, InvalidTask)
        freeze = object.__setattr__
        freeze(self, "limits", own(Limits, self.limits))
        freeze(self, "grader", own(Grader, self.grader))
        _checks.text("environment", self.environment, InvalidTask)
        if not isinstance(self.limits, Limits):
            raise InvalidTask(f"limits must be a Limits, not {self.limits!r}")
        if self.build_limits is not None and not isinstance(self.build_limits, Limits):
            raise InvalidTask(f"build_limits must be a Limits, not {self.build_limits!r}")
        if not isinstance(self.name, str):
            raise InvalidTask(f"name must be a string, not {self.name!r}")
        freeze(self, "command", _checks.command("command", self.command, InvalidTask))
        named = executable_names(self.executables, InvalidTask)
        (files, executables), problems = _all_files(self.directory, self.files, self.limits), _problems(self.problems)
        answered = [problem for problem in problems.values() if isinstance(problem, (Code, File))]
        answers = [problem.filename for problem in answered if problem.filename]
        _checks.no_clashes({*files, *answers}, InvalidTask)
        _check_grader(self.grader, self.command, files, answers)
        if self.grader is not None:
            self.grader.check_tests(files, answers, self.limits, is_answered=bool(answered))
        _check_filenames(self.grader, problems)
        freeze(self, "files", files)
        freeze(self, "directory", None)  # its files are in `files` now
        freeze(self, "executables", named | executables)
        freeze(self, "problems", problems)
        freeze(self, "network", checked_network(self.network))
        freeze(self, "env", _env(self.env))
        _checks.fits_a_start(_words(self.command if self.grader is None else self.grader.run, self.env), InvalidTask)
        freeze(self, "collect", _patterns(self.collect))
        _checks.count("retries", self.retries, InvalidTask, at_most=_MAX_RETRIES)
        _checks.count("random_inputs", self.random_inputs, InvalidTask, at_most=_MAX_RANDOM_INPUTS)
        _check_user(self.user)
        freeze(self, "devices", _devices(self.devices))
        _checks.flag("privileged", self.privileged, InvalidTask)
        _check_rights(self)
        freeze(self, "build", _checks.command("build", self.build, InvalidTask))
        freeze(self, "build_limits", own(Limits, self.build_limits))
        freeze(self, "cases", checked_cases(self.cases))
        _checks.flag("stop_at_first_failure", self.stop_at_first_failure, InvalidTask)
        _check_cases(self)

    @classmethod
    def from_directory(
        cls,
        path: str | Path,
        *,
        common: str | Path | Literal[False] | None = None,
        environment: str | None = None,
        limits: Limits | None = None,
        problem_types: Mapping[str, ProblemType] | None = None,
        name: str | None = None,
    ) -> Task:
        """A task folder with its ``task.yaml`` (``docs/task-folders.md``; needs the extra ``yaml``).

        Args:
            path: the folder; its regular files come along when there is a grader.
            common: a folder that a course's tasks share; its files come along in ``course/common``. None: the folder
                ``$common`` beside this one, where there is one; False: none.
            environment: instead of the file's.
            limits: instead of the file's.
            problem_types: types of problems besides those that are known, by name: ``Code``, ``File``, ``Match`` or
                ``MultipleChoice``, whose fields they have, or a function that makes one of these of the problem's fields,
                which it is given as a dict of what was written.
            name: instead of the file's, or the folder's own.

        Raises:
            InvalidTask: everything that is wrong with the file, a line for each, with its line number.
            NotSupported: PyYAML is missing.
        """
        from jobmanager.task_folder.folder import read_task

        return read_task(
            path, common=common, environment=environment, limits=limits, problem_types=problem_types, name=name
        )

    @property
    def needs_container(self) -> bool:
        """False when problems alone make the task and all of them can be answered in process."""
        local = self.problems and all(isinstance(p, (MultipleChoice, Match)) for p in self.problems.values())
        return not (local and self.command is None and self.grader is None)

    @property
    def environments(self) -> frozenset[str]:
        """The environments that a host must have for it, with those of its student containers, checkers and interactor."""
        students = self.grader.student_environments if self.grader else ()
        talks = [self.interactor.task.environment] if self.interactor is not None else []
        return frozenset([self.environment, *students, *talks, *(check.task.environment for check in self.checkers)])

    @property
    def networks(self) -> frozenset[str]:
        """The networks of its own that a host must have for it, with those of its students, checkers and interactor."""
        students = [self.grader.student_network] if self.grader else []
        talks = [self.interactor.task.network] if self.interactor is not None else []
        return own_networks([self.network, *students, *talks, *(check.task.network for check in self.checkers)])

    @property
    def cpus(self) -> float:
        """Cores that it can use."""
        return self.limits.cpus

    @property
    def wall_s(self) -> float:
        """The wall-clock limit in seconds, with its default: that of all runs together."""
        if not self.cases:
            return self.limits.wall_s
        build_s = 0.0 if self.build is None else (self.build_limits or self.limits).wall_s
        checks_s = sum(check.task.checking_s(len(self.checked_by(check))) for check in self.checkers)
        alike = {(case.cpu_time_s, case.wall_time_s): case for case in self.cases}  # it is asked for often: limits are made once
        counts = Counter((case.cpu_time_s, case.wall_time_s) for case in self.cases)
        runs_s = sum(self.limits_of(alike[own]).wall_s * count for own, count in counts.items())
        talks_s = 0.0 if self.interactor is None else self.interactor.task.checking_s(len(self.cases))
        return build_s + runs_s + checks_s + talks_s

    def checking_s(self, cases: int) -> float:
        """The wall-clock limit of a checker's task for so many cases together."""
        return (0.0 if self.build is None else self.first_limits.wall_s) + self.limits.wall_s * cases

    @property
    def interactor(self) -> ProgramInteractor | None:
        """With whom its command talks in each of its cases."""
        check = self.cases[0].check if self.cases else None
        return check if isinstance(check, ProgramInteractor) else None

    @property
    def checkers(self) -> tuple[ProgramCheck, ...]:
        """The different checkers of its cases, in the order of the first case of each."""
        found: list[ProgramCheck] = []
        for case in self.cases:
            check = case.check
            if isinstance(check, ProgramCheck) and not any(check is other or check == other for other in found):
                found.append(check)
        return tuple(found)

    def checked_by(self, checker: ProgramCheck) -> tuple[int, ...]:
        """The numbers of the cases, from 1 on, that a checker judges."""
        checks = enumerate((case.check for case in self.cases), 1)
        return tuple(number for number, check in checks if check is checker or check == checker)

    @property
    def first_limits(self) -> Limits:
        """What its container is made with: the limits of the build, where there is one."""
        return self.limits if self.build is None or self.build_limits is None else self.build_limits

    def limits_of(self, case: Case) -> Limits:
        """What one of its cases may use."""
        own = {name: value for name in CASE_LIMITS if (value := getattr(case, name)) is not None}
        return replace(self.limits, **own) if own else self.limits

    @property
    def title(self) -> str:
        """Its name in listings: its own, or that of its environment."""
        return self.name or self.environment

    @property
    def workspace(self) -> str:
        """The folder in the container that has its files."""
        return WORKSPACE if self.grader is None else GRADING_WORKSPACE

    @property
    def memory_mib(self) -> int:
        """Memory that a host must have for it: its own, that of its judges or students, and of files in the shared folder.

        Such files are in memory that is charged to the container that wrote them, and to none once that has ended.
        """
        if self.grader is None:
            judges = self.checkers if self.interactor is None else (self.interactor,)
            beside = sum(judge.task.memory_mib for judge in judges)
            return max(self.limits.memory_mib, self.first_limits.memory_mib) + beside
        return self.limits.memory_mib + self.grader.students_memory_mib(self.limits) + self.limits.workspace_mib


def clearing_s(cases: int) -> float:
    """For how long a container may be cleared between so many cases, all of them together."""
    return _CLEARING_S + _CLEARING_OF_A_CASE_S * cases if cases else 0.0


def file_contents(files: Mapping[str, Content] | None, error: type[InvalidValue], limits: Limits | None = None) -> dict[str, bytes]:
    """Checked names with their bytes; paths are read now, unless they are larger than the limits allow."""
    if files is None:
        return {}
    if not isinstance(files, Mapping):
        raise error(f"files must map names to contents, not {type(files).__name__}")
    checked = {_checks.workspace_path(name, error): content for name, content in files.items()}
    sizes = [_size(name, content, error) for name, content in checked.items() if isinstance(content, Path)]
    if limits is not None and (lack := limits.workspace_excess(sizes)):
        raise error(f"the files are {lack}")
    if sum(sizes) > _MAX_BYTES:
        raise error(f"the files are larger than {_MAX_BYTES // 2**20} MiB, which is more than any job may bring")
    return {name: _content(name, content, error) for name, content in checked.items()}


def executable_names(names: Collection[str], error: type[InvalidValue]) -> frozenset[str]:
    """Checked names of files that may be run."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise error(f"executables must be a list of file names, not {names!r}")
    return frozenset(_checks.workspace_path(name, error) for name in names)


def executable_on_disk(files: Mapping[str, Content] | None) -> frozenset[str]:
    """The names of checked files whose mode on disk lets somebody run them."""
    paths = {name: content for name, content in (files or {}).items() if isinstance(content, Path)}
    return frozenset(str(PurePosixPath(name)) for name, path in paths.items() if _can_be_run(path))


def _can_be_run(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o111)
    except OSError:
        return False


def _size(name: str, path: Path, error: type[InvalidValue]) -> int:
    """A regular file's size. Anything else, a fifo or a device, could block for ever or never end."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as problem:
        raise error(f"file {name!r} cannot be read: {problem}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise error(f"file {name!r} cannot be read: no regular file at {str(path)!r}")
    return found.st_size


def _content(name: str, content: Content, error: type[InvalidValue]) -> bytes:
    if isinstance(content, (bytes, bytearray)):
        return bytes(content)
    if isinstance(content, str):
        if error is InvalidTask:  # the author's; of a job's files the submitter may be the author, who is told nothing of ours
            _checks.no_file_name(f"file {name!r}", content, error)
        try:
            return content.encode()
        except UnicodeEncodeError:
            raise error(f"file {name!r} holds a lone surrogate; give bytes instead") from None
    if isinstance(content, Path):
        try:
            return content.read_bytes()
        except OSError as problem:
            raise error(f"file {name!r} cannot be read: {problem}") from problem
    raise error(f"file {name!r} must be bytes, text or a Path, not {type(content).__name__}")


def _all_files(
    directory: str | Path | None, files: Mapping[str, Content] | None, limits: Limits
) -> tuple[dict[str, bytes], frozenset[str]]:
    """Names with their bytes, and the names whose mode on disk lets somebody run them."""
    below = {} if directory is None else _directory_files(directory, limits)
    given = file_contents(files, InvalidTask, limits)
    found = {**file_contents(below, InvalidTask), **given}
    if lack := limits.workspace_excess([len(content) for content in found.values()]):
        raise InvalidTask(f"the task's files are {lack}")
    return found, (executable_on_disk(below) - given.keys()) | executable_on_disk(files)


def _directory_files(given: str | Path, limits: Limits) -> dict[str, Path]:
    """All regular files below a folder; links are not followed, so nothing outside it comes in."""
    if not isinstance(given, (str, Path)):
        raise InvalidTask(f"directory must be a folder's path, not {given!r}")
    directory = Path(given)
    if not str(given):  # or it would be the current one
        raise InvalidTask("directory must be a folder's path, not '': '.' is the current folder")
    if not directory.is_dir():
        raise InvalidTask(f"directory {str(directory)!r} does not exist or is no folder")
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    if lack := limits.workspace_excess([path.stat().st_size for path in paths]):
        raise InvalidTask(f"directory {str(directory)!r} is {lack}")
    return names_below(directory, paths)


def names_below(folder: Path, paths: Collection[Path]) -> dict[str, Path]:
    """Files by their names in a folder. The bytes of a name must be UTF-8, whatever the caller's locale is."""
    names = {}
    for path in paths:
        try:
            names[os.fsencode(path.relative_to(folder).as_posix()).decode()] = path
        except UnicodeDecodeError:
            raise InvalidTask(f"the name of the file {os.fsencode(path)!r} is no UTF-8: rename it, or leave it out") from None
    return names


def _problems(problems: Mapping[str, Problem] | None) -> dict[str, Problem]:
    if problems is None:
        return {}
    if not isinstance(problems, Mapping):
        raise InvalidTask(f"problems must map ids to problems, not {type(problems).__name__}")
    for key, problem in problems.items():
        _checks.text("a problem's id", key, InvalidTask)
        if not isinstance(problem, (MultipleChoice, Match, Code, File)):
            raise InvalidTask(f"problem {key!r} must be a MultipleChoice, Match, Code or File, not {problem!r}")
    return dict(problems)


def _check_grader(grader: Grader | None, command: object, files: Collection[str], answers: Collection[str]) -> None:
    if grader is None:
        return
    if not isinstance(grader, Grader):
        raise InvalidTask(f"grader must be a Grader, not {grader!r}")
    if command is not None:
        raise InvalidTask("a task has a command or a grader, not both: Grader(run=...) names the grader's own command")
    replaced = sorted(set(SCRIPTS) & set(answers))
    if replaced:
        raise InvalidTask(f"an answer would become the file {replaced[0]!r}, the grader's: give the problem another file name")
    if grader.run is None and not set(SCRIPTS) & set(files):
        raise InvalidTask(f"the task's files hold no grader to run, which is {_one_of(SCRIPTS)}; or give Grader(run=...)")


def _check_cases(task: Task) -> None:
    if not task.cases:
        if task.stop_at_first_failure:
            raise InvalidTask("stop_at_first_failure is for a task with cases")
        return
    if task.grader is not None:
        raise InvalidTask("a task has cases or a grader, not both: a grader runs its own")
    if task.command is None:
        raise InvalidTask("a task with cases needs a command: it is run for each of them")
    if task.collect:
        raise InvalidTask("a task with cases collects no files")
    fixed = [name for name in FIXED_LIMITS if task.build_limits is not None and _differs(task, name)]
    if fixed:
        value = getattr(task.limits, fixed[0])
        same = f"give {fixed[0]}={value!r} there, too"
        raise InvalidTask(
            f"build_limits has another {fixed[0]} than limits: it is the container's, for the build and all cases: {same}"
        )
    brought = [len(content) for content in (task.files or {}).values()]  # type: ignore[arg-type]
    for number, case in enumerate(task.cases, 1):
        sizes = [len(content) for content in (case.files or {}).values()]  # type: ignore[arg-type]
        if sizes and (lack := task.limits.workspace_excess([*brought, *sizes])):
            raise InvalidTask(f"the files of case {case_name(case, number)} with those of the task are {lack}")
        if isinstance(case.check, JudgingProgram) and (lack := _judges_excess(task, case, case.check.task)):
            raise InvalidTask(f"what the judge of case {case_name(case, number)} is given, with its own files, is {lack}")
    if task.stop_at_first_failure and any(case.is_checked_later for case in task.cases):
        raise InvalidTask("a check that is a function is called after the last case: it cannot stop at the first failure")
    interactors = [case.check for case in task.cases if isinstance(case.check, ProgramInteractor)]
    differ = any(each is not interactors[0] and each != interactors[0] for each in interactors)
    if interactors and (differ or len(interactors) < len(task.cases)):
        raise InvalidTask("an Interactor is for all cases of a task, and the same one: put other cases into another task")
    if len(task.checkers) > _MAX_CHECKERS:
        raise InvalidTask(f"a task may have {_MAX_CHECKERS} different checkers, not {len(task.checkers)}: each has a container")


def _judges_excess(task: Task, case: Case, judge: Task) -> str:
    """Why the workspace of what judges a case cannot hold what it is given; empty when it can, however much the case prints."""
    own = [len(content) for content in (judge.files or {}).values()]  # type: ignore[arg-type]
    given = [len(case.stdin), len(case.expected or b""), task.limits_of(case).output_kib * 1024]  # type: ignore[arg-type]
    return judge.limits.workspace_excess([*own, *given])


def _differs(task: Task, name: str) -> bool:
    return bool(getattr(task.build_limits, name) != getattr(task.limits, name))


def _check_filenames(grader: Grader | None, problems: Mapping[str, Problem]) -> None:
    unread = [key for key, each in problems.items() if isinstance(each, (Code, File)) and each.filename is None]
    if unread and grader is None:
        raise InvalidTask(f"problem {unread[0]!r} needs a filename: only a grader reads answers that become no file")
    becomes: dict[str, str] = {}
    for key, each in problems.items():
        name = each.filename if isinstance(each, (Code, File)) else None
        if name is not None and becomes.setdefault(name, key) != key:
            raise InvalidTask(f"problems {becomes[name]!r} and {key!r} would both become the file {name!r}")


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _env(env: Mapping[str, str] | None) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise InvalidTask(f"env must map names to values, not {type(env).__name__}")
    return {
        _checks.variable(name, InvalidTask): _checks.plain(f"variable {name}", value, InvalidTask) for name, value in env.items()
    }


def _words(command: str | Sequence[str] | None, env: Mapping[str, str] | None) -> list[str]:
    """Everything that the kernel receives to start the program."""
    words = [command] if isinstance(command, str) else list(command or ())
    return words + [f"{name}={value}" for name, value in (env or {}).items()]


def _patterns(collect: Sequence[str]) -> tuple[str, ...]:
    if isinstance(collect, str) or not isinstance(collect, Sequence):
        raise InvalidTask(f"collect must be a list of patterns, not {collect!r}")
    return tuple(file_pattern(pattern) for pattern in collect)


def _check_user(user: str | None) -> None:
    if user is None:
        return
    parts = user.split(":") if isinstance(user, str) else []
    known = all(_USER.fullmatch(part) and not (part.isdigit() and int(part) > _MAX_ID) for part in parts)
    if not known or len(parts) not in (1, 2):
        shown = user[:80] if isinstance(user, str) else user
        raise InvalidTask(f"user must be text such as '1000', '1000:1000', 'name' or 'name:group', not {shown!r}")


def _devices(given: Sequence[str]) -> tuple[str, ...]:
    devices = _checks.several("devices", given, "paths such as '/dev/kvm'", InvalidTask, at_most=_MAX_DEVICES)
    paths = tuple(_checks.text("a device", each, InvalidTask) for each in devices)  # type: ignore[arg-type]
    for path in paths:
        if len(path) > _MAX_DEVICE_LENGTH or not _DEVICE.fullmatch(path):
            raise InvalidTask(f"device {path[:80]!r}: must be an absolute path below /dev, such as '/dev/kvm', without '..'")
    _checks.no_duplicates("devices", paths, InvalidTask)
    return paths


def _check_rights(task: Task) -> None:
    """What has rights on the host's machine must not reach anything, and a grader needs none."""
    given = [name for name in ("user", "devices", "privileged") if getattr(task, name)]
    if task.grader is not None and given:
        raise InvalidTask(f"a task with a grader cannot have {given[0]}: the grading container has fixed rights; leave it out")
    if task.privileged and task.network not in (Network.OFF, Network.LOOPBACK):
        raise InvalidTask(
            "a privileged task must have network=Network.OFF or Network.LOOPBACK: it has the rights of the host's machine, so it"
            " must reach nothing; fetch what it needs in another task, or another phase"
        )
