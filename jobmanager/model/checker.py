"""``Checker``: a program of the author's that judges what a case printed, in a container of its own."""

from __future__ import annotations

from dataclasses import dataclass

from jobmanager.errors import InvalidTask
from jobmanager.model._exact import make_exact
from jobmanager.model.as_data import AsData
from jobmanager.model.checks import ProgramCheck
from jobmanager.model.task import Task


@dataclass(frozen=True, slots=True)
class Checker(ProgramCheck, AsData, kind="checker", invalid=InvalidTask):
    """Judges a case whose run ended well, by the conventions of testlib.

    The task's command is run with three words more: the names of the files with the case's input, the submission's output, and
    what is expected. Its exit code decides: 0 is right; 1, 2 and 4 are wrong; 7 is a part of the points, and its standard error
    says which one: ``points 0.5``. Anything else is the checker's own fault, and the case is an ``error``.

    Args:
        task: the program, with limits of its own, which each check has. It may have a ``build``. Its container never has anything
            of the submission but what that printed.

    Raises:
        InvalidTask: the task cannot be a checker's.
    """

    task: Task

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        if not isinstance(self.task, Task):
            raise InvalidTask(f"a checker's task must be a Task, not {self.task!r:.200}")
        task = self.task
        refused = {
            "needs a command": task.command is None,
            "has no cases of its own": bool(task.cases),
            "has no grader": task.grader is not None,
            "collects no files": bool(task.collect),
            "has no problems: a job's input is the submission's": bool(task.problems) or bool(task.random_inputs),
        }
        for what, is_so in refused.items():
            if is_so:
                raise InvalidTask(f"a checker's task {what}")
