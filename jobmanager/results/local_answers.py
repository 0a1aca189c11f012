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
            answer = answers.get(key)
            outcome = Outcome.SUCCESS if problem.is_right(answer) else Outcome.FAILED
            found[key] = ProblemResult(outcome, problem.told(answer))
    return found
