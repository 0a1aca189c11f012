"""Errors of the commands and the Python module.

GradingError
├── BadValue       an argument is invalid (also a ValueError)
│   └── BadRequest     an invalid request for a student container
├── UnknownInput   the job has no such input (also a KeyError)
├── Unavailable    there is no supervisor
├── CutOff         the supervisor, or the reader of a student's output, went away
├── SubmissionError   the submission raised an exception
└── SubmissionEnded   the process of the submission is gone before it answered
"""


class GradingError(Exception):
    """Root of the errors. The message says what is allowed."""

    exit_code = 2  # of the command that fails for it

    def __str__(self) -> "str":  # a KeyError would show its message quoted
        return str(self.args[0]) if self.args else ""


class BadValue(GradingError, ValueError):
    """An argument is invalid."""


class BadRequest(BadValue):
    """A request for a student container is invalid."""

    exit_code = 251


class UnknownInput(GradingError, KeyError):
    """The job has no such input."""

    exit_code = 1


class Unavailable(GradingError):
    """There is no supervisor to ask for a student container."""

    exit_code = 251


class CutOff(GradingError):
    """The supervisor, or the reader of a student's output, went away before the student's program had ended."""

    exit_code = 254


class SubmissionError(GradingError):
    """The submission raised an exception, in its own process.

    Attributes:
        kinds: the names of its class and of those that it stands on, such as ``["KeyError", "LookupError", "Exception"]``.
        message: its text.
        traceback: where, as text.
    """

    def __init__(self, kinds: "list[str]", message: "str", traceback: "str") -> "None":
        self.kinds = kinds
        self.message = message
        self.traceback = traceback
        GradingError.__init__(self, f"{kinds[0]}: {message}" if message else kinds[0])


class BadTest(BadValue):
    """A test asks for what makes no sense. That is its author's fault, whatever was handed in."""


class SubmissionEnded(GradingError):
    """The process of the submission has ended, or was ended, before it answered.

    Attributes:
        outcome: ``timeout``, ``overflow``, ``failed``, ``crash`` and so on, as of a `StudentEnd`; ``invalid`` for one that sent
            what is no answer.
        reason: a text that names the limit, or how it ended.
        limit: the limit that ended it, as of a `StudentEnd`; None for any other end.
    """

    def __init__(self, outcome: "str", reason: "str", limit: "str | None" = None) -> "None":
        self.outcome = outcome
        self.reason = reason
        self.limit = limit
        GradingError.__init__(self, f"{outcome}: {reason}")
