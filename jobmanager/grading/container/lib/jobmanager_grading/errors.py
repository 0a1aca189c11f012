"""What a grader can do wrong.

GradingError
├── BadValue       an argument makes no sense (also a ValueError)
│   └── BadRequest     no student container can be asked for so
├── UnknownInput   the job brought no such input (also a KeyError)
├── Unavailable    there is no supervisor to ask
└── CutOff         the supervisor, or who reads a student's output, went away
"""


class GradingError(Exception):
    """The message says what would do."""

    exit_code = 2  # of the command that fails for it

    def __str__(self) -> "str":  # a KeyError would show its message quoted
        return str(self.args[0]) if self.args else ""


class BadValue(GradingError, ValueError):
    """An argument makes no sense."""


class BadRequest(BadValue):
    """No student container can be asked for so."""

    exit_code = 251


class UnknownInput(GradingError, KeyError):
    """The job brought no such input."""

    exit_code = 1


class Unavailable(GradingError):
    """There is no supervisor to ask for a student container."""

    exit_code = 251


class CutOff(GradingError):
    """The supervisor, or who reads a student's output, went away before the student had ended."""

    exit_code = 254
