"""``Phase``: one container of a pipeline, what it may do to the job's volumes, and its secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact, own
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData
from jobmanager.model.problems import Code, File
from jobmanager.model.task import Task
from jobmanager.model.volume import file_pattern, volume_of

When = Literal["on_success", "on_failure", "always"]
Blame = Literal["submitter", "course"]
_MAX_VOLUMES = 16
_MAX_SECRETS = 32
_MAX_PATTERNS = 64


@explains_keywords
@dataclass(frozen=True, slots=True)
class Secret(AsData, invalid=InvalidTask):
    """A secret that a phase gets, by the name that ``JobManager(secrets=...)`` has it under.

    Args:
        name: its name.
        variable: the environment variable that holds it; None: the file ``.jobmanager/secrets/NAME`` in the workspace.

    Raises:
        InvalidTask: an argument makes no sense.
    """

    name: str
    variable: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        _checks.short_name("a secret's name", self.name, InvalidTask)
        if self.variable is not None:
            _checks.variable(self.variable, InvalidTask)


@explains_keywords
@dataclass(frozen=True, slots=True)
class Phase(AsData, invalid=InvalidTask):
    """One step of a ``Pipeline``: a task in a container of its own, with rights of its own.

    A volume ``work`` is the folder ``/volumes/work`` in each phase that names it, and in no other. What a phase writes
    there counts as its memory, so its task's ``memory_mib`` must have room for that.

    Args:
        name: tells it from the pipeline's other phases.
        task: what it runs. Its ``collect`` may have patterns ``/volumes/NAME/PATTERN`` of volumes that the phase names.
        reads: volumes that it has, and cannot write to.
        writes: volumes that it reads and writes.
        wipe: shell patterns, such as ``work/reports/*.json``, of what is removed from volumes that it writes, before its
            program starts. The first part is the volume. Symbolic links are not followed. If something is left, the
            program is not started.
        inputs: whether it gets the job's ``JobInput``. The first phase does in any case.
        secrets: names of secrets, or Secrets.
        when: ``on_success``: while no phase has stopped the job; ``on_failure``: after one has; ``always``: after a
            failure, a timeout and a kill, too.
        allow_failure: whether the job goes on when it fails. It says nothing about a phase that runs after the job was
            stopped, as its failing changes no verdict in any case.
        blame: whose fault it is when it stops the job. ``course``: the job is a ``crash``, not the submitter's program.
        tests: patterns as in ``collect`` of test reports that it leaves: JUnit XML or JSON.

    Raises:
        InvalidTask: an argument makes no sense; the message names the phase.
    """

    name: str
    task: Task
    reads: Sequence[str] = field(default=(), kw_only=True)
    writes: Sequence[str] = field(default=(), kw_only=True)
    wipe: Sequence[str] = field(default=(), kw_only=True)
    inputs: bool = field(default=False, kw_only=True)
    secrets: Sequence[str | Secret] = field(default=(), kw_only=True)
    when: When = field(default="on_success", kw_only=True)
    allow_failure: bool = field(default=False, kw_only=True)
    blame: Blame = field(default="submitter", kw_only=True)
    tests: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        _checks.short_name("a phase's name", self.name, InvalidTask)
        try:
            self._check()
        except InvalidTask as wrong:
            raise InvalidTask(f"phase {self.name!r}: {wrong}") from None

    @property
    def volumes(self) -> tuple[str, ...]:
        """All volumes that it names."""
        return (*self.reads, *self.writes)

    @property
    def named_secrets(self) -> tuple[Secret, ...]:
        """Its secrets, of which each has become a Secret."""
        return tuple(secret for secret in self.secrets if isinstance(secret, Secret))

    def _check(self) -> None:
        freeze = object.__setattr__
        _check_task(self.task)
        for name in ("reads", "writes"):
            freeze(self, name, _volume_names(name, getattr(self, name)))
        if both := sorted({*self.reads} & {*self.writes}):
            raise InvalidTask(f"volume {both[0]!r} is in reads and in writes: name it in writes alone, which includes reading")
        freeze(self, "wipe", _wiped(self.wipe, self.writes))
        freeze(self, "secrets", _secrets(self.secrets, self.task))
        freeze(self, "tests", tuple(map(file_pattern, _texts("tests", self.tests))))
        for pattern in (*self.task.collect, *self.tests):
            if (volume := volume_of(pattern)) is not None and volume not in self.volumes:
                raise InvalidTask(f"{pattern!r} is in the volume {volume!r}, which it does not have: name it in reads or in writes")
        if self.task.cases:
            _check_cases(self)
        for name in ("inputs", "allow_failure"):
            _checks.flag(name, getattr(self, name), InvalidTask)
        _checks.choice("when", self.when, get_args(When), InvalidTask)
        _checks.choice("blame", self.blame, get_args(Blame), InvalidTask)


def _check_cases(phase: Phase) -> None:
    if phase.writes:
        raise InvalidTask("a phase with cases only reads volumes: what one case wrote there, the next one would find")
    if phase.tests:
        raise InvalidTask("a phase with cases has no test reports: its cases are its tests")
    if any(case.is_checked_later for case in phase.task.cases):
        raise InvalidTask("a check that is a function is called when the job has ended, and a phase ends before: give a Checker")


def wants_inputs(task: Task) -> str:
    """What of a task needs a job's input; empty when nothing does."""
    answered = [key for key, problem in (task.problems or {}).items() if isinstance(problem, (Code, File))]
    if answered:
        return f"problem {answered[0]!r} needs an answer"
    return "random_inputs are part of a job's input" if task.random_inputs else ""


def _check_task(task: Task) -> None:
    if not isinstance(task, Task):
        raise InvalidTask(f"task must be a Task, not {task!r}")
    if not task.needs_container:
        raise InvalidTask("its task has only problems that are answered without a container: give it a command, or leave it out")


def _texts(name: str, given: Sequence[str]) -> tuple[str, ...]:
    patterns = _checks.several(name, given, "patterns", InvalidTask, at_most=_MAX_PATTERNS)
    return tuple(_checks.text(f"a pattern in {name}", each, InvalidTask) for each in patterns)  # type: ignore[arg-type]


def _volume_names(name: str, given: Sequence[str]) -> tuple[str, ...]:
    several = _checks.several(name, given, "volumes", InvalidTask, at_most=_MAX_VOLUMES)
    names = tuple(_checks.short_name("a volume's name", each, InvalidTask) for each in several)  # type: ignore[arg-type]
    _checks.no_duplicates(name, names, InvalidTask)
    return names


def _wiped(given: Sequence[str], writes: Sequence[str]) -> tuple[str, ...]:
    patterns = _texts("wipe", given)
    for pattern in patterns:
        volume, *below = pattern.split("/")
        if not pattern.isprintable() or not {"", ".", ".."}.isdisjoint((volume, *below)):
            raise InvalidTask(f"wipe {pattern!r}: write VOLUME/PATTERN, without empty parts, '.', '..' or control characters")
        if volume not in writes:
            raise InvalidTask(f"wipe {pattern!r}: {volume!r} is no volume that it writes: {', '.join(writes) or 'it writes none'}")
        if not below:
            raise InvalidTask(f"wipe {pattern!r}: say what in the volume; '{volume}/*' is everything whose name begins with no '.'")
        _checks.path_length(PurePosixPath(pattern), InvalidTask)
    return patterns


def _secrets(given: Sequence[str | Secret], task: Task) -> tuple[Secret, ...]:
    several = _checks.several("secrets", given, "names or Secrets", InvalidTask, at_most=_MAX_SECRETS)
    secrets = tuple(_secret(each) for each in several)
    _checks.no_duplicates("secrets", [secret.name for secret in secrets], InvalidTask)
    variables = [secret.variable for secret in secrets if secret.variable is not None]
    _checks.no_duplicates("secrets", variables, InvalidTask)
    if clash := sorted({*variables} & {*(task.env or {})}):
        raise InvalidTask(f"variable {clash[0]} is set by a secret and by the task's env: take it out of one of them")
    return secrets


def _secret(given: object) -> Secret:
    if isinstance(given, str):
        return Secret(given)
    if not isinstance(given, Secret):
        raise InvalidTask(f"secrets must be names or Secrets, not {given!r}")
    return own(Secret, given)
