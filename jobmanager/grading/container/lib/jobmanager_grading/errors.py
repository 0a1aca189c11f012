"""Errors of the commands and the Python module.

GradingError
├── BadValue       an argument is invalid (also a ValueError)
│   └── BadRequest     an invalid request for a student container
├── UnknownInput   the job has no such input (also a KeyError)
├── Unavailable    there is no supervisor
└── CutOff         the supervisor, or the reader of a student's output, went away
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
