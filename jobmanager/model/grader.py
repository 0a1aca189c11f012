"""``Grader``: the task author's script that judges a submission, and the student containers that it may have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model._keywords import TESTS, call_explains_keywords, explains_keywords
from jobmanager.model.as_data import AsData
from jobmanager.model.container import SHARED_FOLDER
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network, checked_network

SCRIPTS = ("run", "run.py", "run.sh")  # the first of them that the task has is its grader
SHARED = f"{PurePosixPath(SHARED_FOLDER).name}/"  # below the workspace: student containers see it, and may write to it
_HIDDEN_TESTS = ("python3", "/task/.jobmanager/lib/jobmanager_grading/hidden_tests.py")
_LEAST_OF_TESTS = {  # what the tests need of their own, whatever the submission does
    "output_kib": 256,  # twice what is passed on of what they print
    "processes": 8,  # the tests, a thread for the submission, a helper: five, and some of the tests' own
    "memory_mib": 48,  # pytest
}
_MAX_STUDENTS = 100


@explains_keywords
@dataclass(frozen=True, slots=True)
class Grader(AsData, invalid=InvalidTask):
    """How a grading job is run (``docs/grading.md``).

    Args:
        run: the grader: a list of words run as it is, or a string run by ``sh -c``, in ``/task``; None: the task's file
            ``run``, ``run.py`` or ``run.sh``.
        student_cpu_time_s: CPU seconds of all student containers of a job together; None: as many as the task's limits say.
        student_memory_mib: memory of all student containers that run at once; None: as much as the task's limits say.
        student_network: what a student container may reach.
        student_environments: environments that a host must have for such a job. A grader may also ask for others
            that its host happens to have.
        most_students: student containers at once.
        merge_local: whether the task's MultipleChoice and Match problems are judged here, too, and a wrong answer makes a
            ``success`` a ``failed``; False: the grader alone judges them (``Task.from_directory`` makes it so).

    Raises:
        InvalidTask: an argument makes no sense.
    """

    run: str | Sequence[str] | None = None
    student_cpu_time_s: float | None = field(default=None, kw_only=True)
    student_memory_mib: int | None = field(default=None, kw_only=True)
    student_network: Network | str = field(default=Network.OFF, kw_only=True)
    student_environments: Collection[str] = field(default=(), kw_only=True)
    most_students: int = field(default=8, kw_only=True)
    merge_local: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        freeze = object.__setattr__
        freeze(self, "run", _checks.command("run", self.run, InvalidTask))
        if self.student_cpu_time_s is not None:
            _checks.positive("student_cpu_time_s", self.student_cpu_time_s, InvalidTask)
        if self.student_memory_mib is not None:
            _checks.positive_int("student_memory_mib", self.student_memory_mib, InvalidTask)
        freeze(self, "student_network", checked_network(self.student_network))
        freeze(self, "student_environments", _environments(self.student_environments))
        _checks.positive_int("most_students", self.most_students, InvalidTask, at_most=_MAX_STUDENTS)
        _checks.flag("merge_local", self.merge_local, InvalidTask)

    @classmethod
    @call_explains_keywords(TESTS)
    def pytest(
        cls,
        submission: str = "solution.py",
        *,
        tests: str = "test_*.py",
        cpu_time_s: float = 2.0,
        wall_time_s: float | None = None,
        one_process: bool = False,
        student_cpu_time_s: float | None = None,
        student_memory_mib: int | None = None,
    ) -> Grader:
        """A grader that runs the task's tests with pytest, which the image must have, and the submission in a student container.

        Nothing of the submission is in the process of the tests (``docs/hidden-tests.md``).

        Args:
            submission: the submission's file, below ``student/``: an answer or a file of the job becomes that file.
            tests: which of the task's files are tests (``fnmatch``, of a file's name without its folder).
            cpu_time_s: CPU seconds of a call of the submission.
            wall_time_s: seconds of a call; None: three times its CPU seconds.
            one_process: whether all tests call one process of the submission. False: each test has a fresh one.
            student_cpu_time_s, student_memory_mib: those of all its processes together, as of any grader.

        Raises:
            InvalidTask: an argument makes no sense.
        """
        run = _tests_command("pytest", submission, tests, cpu_time_s, wall_time_s, one_process)
        return cls(run, student_cpu_time_s=student_cpu_time_s, student_memory_mib=student_memory_mib)

    @classmethod
    @call_explains_keywords(TESTS)
    def unittest(
        cls,
        submission: str = "solution.py",
        *,
        tests: str = "test_*.py",
        cpu_time_s: float = 2.0,
        wall_time_s: float | None = None,
        one_process: bool = False,
        student_cpu_time_s: float | None = None,
        student_memory_mib: int | None = None,
    ) -> Grader:
        """The same as ``Grader.pytest``, with Python's own ``unittest``: the image needs nothing but Python."""
        run = _tests_command("unittest", submission, tests, cpu_time_s, wall_time_s, one_process)
        return cls(run, student_cpu_time_s=student_cpu_time_s, student_memory_mib=student_memory_mib)

    @property
    def runs_tests(self) -> bool:
        """Whether it is one that ``pytest`` or ``unittest`` has made."""
        run, words = self.run, len(_HIDDEN_TESTS)
        return isinstance(run, tuple) and run[:words] == _HIDDEN_TESTS and len(run) >= words + 3

    def check_tests(self, files: Collection[str], answers: Collection[str], limits: Limits, *, is_answered: bool) -> None:
        """Refuse a task of which its tests could never judge a submission.

        ``answers``: the files that answers become. ``is_answered``: whether it has problems that could become files.

        Raises:
            InvalidTask: the reason.
        """
        if not self.runs_tests:
            return
        assert self.run is not None
        submission, tests = SHARED + self.run[len(_HIDDEN_TESTS) + 1], self.run[len(_HIDDEN_TESTS) + 2]
        names = [name for name in files if not name.startswith(SHARED)]
        if not any(fnmatchcase(name.rpartition("/")[2], tests) for name in names):
            raise InvalidTask(f"the task's files hold no tests: none is named {tests}, outside {SHARED}")
        beside = sorted(name for name in answers if not name.startswith(SHARED))
        if beside:
            raise InvalidTask(f"an answer would become {beside[0]!r}, beside the tests: name it {SHARED + beside[0]!r}")
        if is_answered and submission not in {*answers, *files}:
            raise InvalidTask(f"no answer becomes {submission!r}, which the tests are to call: give Code({submission!r})")
        for name, least in _LEAST_OF_TESTS.items():
            if getattr(limits, name) < least:
                raise InvalidTask(f"hidden tests need more: {name} must be at least {least}, not {getattr(limits, name)}")

    def students_cpu_time_s(self, limits: Limits) -> float:
        """CPU seconds of all student containers of a task with these limits."""
        return limits.cpu_time_s if self.student_cpu_time_s is None else self.student_cpu_time_s

    def students_memory_mib(self, limits: Limits) -> int:
        """Memory of all student containers of a task with these limits."""
        return limits.memory_mib if self.student_memory_mib is None else self.student_memory_mib


def _tests_command(
    framework: str, submission: str, tests: str, cpu_time_s: float, wall_time_s: float | None, one_process: bool
) -> list[str]:
    submission = _checks.workspace_path(submission, InvalidTask).removeprefix(SHARED)
    if not submission.endswith(".py"):
        raise InvalidTask(f"submission must be a file of Python, such as 'solution.py', not {submission!r}")
    if "/" in _checks.text("tests", tests, InvalidTask):
        raise InvalidTask(f"tests must be a pattern for names of files, without folders, not {tests!r}")
    _checks.positive("cpu_time_s", cpu_time_s, InvalidTask)
    words = [*_HIDDEN_TESTS, framework, submission, tests, f"--cpu-time-s={cpu_time_s:g}"]
    if wall_time_s is not None:
        _checks.positive("wall_time_s", wall_time_s, InvalidTask)
        words.append(f"--wall-time-s={wall_time_s:g}")
    _checks.flag("one_process", one_process, InvalidTask)
    return [*words, *(["--one-process"] if one_process else [])]


def _environments(given: Collection[str]) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise InvalidTask(f"student_environments must be a list of environments, not {given!r}")
    return tuple(_checks.text("a student environment", name, InvalidTask) for name in given)
