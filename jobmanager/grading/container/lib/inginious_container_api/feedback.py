"""The answer."""

import sys

import jobmanager_grading as grading
from jobmanager_grading import GradingError, set_grade, set_state, set_tag
from jobmanager_grading import add_tag as tag
from jobmanager_grading import set_custom as set_custom_value
from jobmanager_grading.rst import message_block

__all__ = [
    "get_feedback",
    "load_feedback",
    "save_feedback",
    "set_custom_value",
    "set_feedback_from_tpl",
    "set_global_feedback",
    "set_global_result",
    "set_grade",
    "set_problem_feedback",
    "set_problem_result",
    "set_result",
    "set_state",
    "set_tag",
    "tag",
]


def set_global_result(result: "str") -> "None":
    """The task's result."""
    grading.set_result(result)


def set_problem_result(result: "str", problem_id: "str") -> "None":
    """One problem's result."""
    grading.set_result(result, problem_id)


def set_global_feedback(feedback: "str", append: "bool" = False) -> "None":
    """The feedback on the task."""
    grading.set_feedback(feedback, None, append)


def set_problem_feedback(feedback: "str", problem_id: "str", append: "bool" = False) -> "None":
    """The feedback on one problem."""
    grading.set_feedback(feedback, problem_id, append)


def set_feedback_from_tpl(
    tpl_name: "str", parameters: "dict[str, object]", problem_id: "str | None" = None, append: "bool" = False
) -> "bool":
    """A template as the feedback; where that fails, the reason is the feedback, and False comes back."""
    try:
        grading.set_feedback_from_template(tpl_name, parameters, problem_id, append)
    except GradingError as error:
        sys.stderr.write(f"{error}\n")
        grading.set_feedback(message_block("danger", "", str(error)), problem_id, append)
        return False
    return True


def get_feedback() -> "dict[str, object]":
    """The answer so far; a problem is its text, or its result and text."""
    answer = grading.get_answer()
    problems = answer.get("problems", {})
    shaped = {}
    for name, part in problems.items():  # type: ignore[attr-defined]
        text = part.get("text", "")
        shaped[name] = [part["result"], text] if "result" in part else text
    return dict(answer, problems=shaped) if shaped else answer


def save_feedback(rdict: "dict[str, object]") -> "None":
    """The whole answer at once, in the shape of `get_feedback`."""
    shaped = {}
    for name, part in dict(rdict.get("problems", {})).items():  # type: ignore[call-overload]
        shaped[name] = {"text": part} if isinstance(part, str) else {"result": part[0], "text": part[1]}
    grading.set_answer(dict(rdict, problems=shaped) if shaped else rdict)


load_feedback = get_feedback
set_result = set_global_result
