"""``Checker`` and ``Interactor``: programs of the author's, in a container of their own, that judge a case."""

from __future__ import annotations

from dataclasses import dataclass

from jobmanager.errors import InvalidTask
from jobmanager.model._exact import make_exact
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import AsData
from jobmanager.model.checks import ProgramCheck, ProgramInteractor
from jobmanager.model.task import Task


@explains_keywords
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
        _check_task("a checker", self.task)


@explains_keywords
@dataclass(frozen=True, slots=True)
class Interactor(ProgramInteractor, AsData, kind="interactor", invalid=InvalidTask):
    """Talks with the submission while that runs, and judges what it hears, by the conventions of testlib.

    Both programs run at once, each in a container of its own, and each one's standard output is the other one's standard input.
    The task's command is run with three words more: the names of a file with the case's input, of one that it may write, and of
    one with what is expected. The submission is given nothing but what the interactor says. The exit code decides as that of a
    ``Checker`` does.

    Who ends first is believed: a submission that ends badly before its interactor has ended keeps its own outcome, and after that
    it is the interactor's word that counts. Where both wait for each other until the submission's time is up, it is a ``timeout``.

    Args:
        task: the program, with limits of its own, which it has in each case. It may have a ``build``. Its wall clock limit is for
            the time after the submission has ended.

    Raises:
        InvalidTask: the task cannot be an interactor's.
    """

    task: Task

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        _check_task("an interactor", self.task)


def _check_task(whose: str, task: object) -> None:
    if not isinstance(task, Task):
        raise InvalidTask(f"{whose}'s task must be a Task, not {task!r:.200}")
    refused = {
        "needs a command": task.command is None,
        "has no cases of its own": bool(task.cases),
        "has no grader": task.grader is not None,
        "collects no files": bool(task.collect),
        "has no problems: a job's input is the submission's": bool(task.problems) or bool(task.random_inputs),
    }
    for what, is_so in refused.items():
        if is_so:
            raise InvalidTask(f"{whose}'s task {what}")
