"""Sessions in student containers, of which there are none here."""

import sys

__all__ = ["ssh_student"]


def ssh_student(*_: "object", **__: "object") -> "int":
    """Says so, and returns 251: not available."""
    sys.stderr.write("ssh_student: there are no sessions in student containers; run_student runs a command in one\n")
    return 251
