"""``Grader``: the task author's script that judges a submission, and the student containers that it may have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network, checked_network

SCRIPTS = ("run", "run.py", "run.sh")  # the first of them that the task has is its grader
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

    def students_cpu_time_s(self, limits: Limits) -> float:
        """CPU seconds of all student containers of a task with these limits."""
        return limits.cpu_time_s if self.student_cpu_time_s is None else self.student_cpu_time_s

    def students_memory_mib(self, limits: Limits) -> int:
        """Memory of all student containers of a task with these limits."""
        return limits.memory_mib if self.student_memory_mib is None else self.student_memory_mib


def _environments(given: Collection[str]) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise InvalidTask(f"student_environments must be a list of environments, not {given!r}")
    return tuple(_checks.text("a student environment", name, InvalidTask) for name in given)
