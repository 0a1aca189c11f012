"""For graders written in Python: what the job brought, what the answer is, and student containers.

>>> import jobmanager_grading as grading
>>> if grading.get_input("sum") == "3":
...     grading.set_result("success")

It needs Python 3.6 and its standard library only. The commands of the same names (``getinput``, ``feedback-result``, ...)
and ``inginious_container_api`` stand on it.
"""

from .answer import (
    RESULTS,
    add_tag,
    get_answer,
    set_answer,
    set_custom,
    set_feedback,
    set_grade,
    set_result,
    set_state,
    set_tag,
    set_test,
)
from .errors import BadValue, CutOff, GradingError, SubmissionEnded, SubmissionError, Unavailable, UnknownInput
from .inputs import all_inputs, get_input, language

__all__ = [
    "RESULTS",
    "BadValue",
    "CutOff",
    "GradingError",
    "SubmissionEnded",
    "SubmissionError",
    "Unavailable",
    "UnknownInput",
    "add_tag",
    "all_inputs",
    "archive",
    "get_answer",
    "get_input",
    "language",
    "open_submission",
    "parse_template",
    "run_student",
    "set_answer",
    "set_custom",
    "set_feedback",
    "set_feedback_from_template",
    "set_grade",
    "set_result",
    "set_state",
    "set_tag",
    "set_test",
    "tell_submitter",
    "unarchive",
]


def parse_template(template: "str", output: "str" = "") -> "None":
    """Fill in a template with the job's answers: `templates.parse_template`."""
    from .templates import parse_template as parse

    parse(template, output)


def set_feedback_from_template(
    name: "str", values: "dict[str, object] | None" = None, problem: "str | None" = None, append: "bool" = False
) -> "None":
    """Fill in a feedback template and make it the feedback: `templates.feedback_of`."""
    from .templates import feedback_of

    set_feedback(feedback_of(name, values or {}), problem, append)


def archive(path: "str", subfolder: "str" = "") -> "None":
    """Give a file back to the caller: `files.archive`."""
    from .files import archive as add

    add(path, subfolder)


def unarchive(name: "str", subfolder: "str" = "") -> "None":
    """Do not give it back after all: `files.unarchive`."""
    from .files import unarchive as remove

    remove(name, subfolder)


def run_student(command: "str | list[str]", stdin: "bytes | str" = b"", **limits: "object") -> "StudentEnd":
    """Run a command in a student container and wait for its end: `student.run_student`."""
    from .student import run_student as run

    return run(command, stdin, **limits)


def tell_submitter(text: "str") -> "None":
    """Show the submitter a text while the grader runs: `student.tell_submitter`."""
    from .student import tell_submitter as tell

    tell(text)


def open_submission(
    environment: "str" = "", memory_mib: "int" = 0, share_network: "bool" = False, name: "str" = ""
) -> "Submission":
    """A student container for many programs, one after the other: `submission.Submission`."""
    from .submission import Submission

    return Submission(environment, memory_mib, share_network, name)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from .student import StudentEnd
    from .submission import Submission
