"""Problems that need no container: answered in the caller's process."""

from __future__ import annotations

from jobmanager.model.job import Request
from jobmanager.model.problems import Match, MultipleChoice
from jobmanager.model.result import Outcome, ProblemResult


def answered(request: Request) -> dict[str, ProblemResult]:
    """The results of a job's MultipleChoice and Match problems."""
    answers = request.inputs.answers or {}
    found = {}
    for key, problem in (request.task.problems or {}).items():
        if isinstance(problem, (MultipleChoice, Match)):
            right = problem.is_right(answers.get(key))
            found[key] = ProblemResult(
                Outcome.SUCCESS if right else Outcome.FAILED, problem.success_text if right else problem.failure_text
            )
    return found
