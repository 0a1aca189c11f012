"""Sessions in student containers, of which there are none here."""

from jobmanager_grading import student

from .run_student import code_of

__all__ = ["ssh_student"]


def ssh_student(*_: "object", **__: "object") -> "int":
    """Ends the job as an error."""
    return code_of(lambda: student.end_the_job("ssh_student: there are no sessions in student containers"))
