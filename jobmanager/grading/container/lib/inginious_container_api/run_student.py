"""The submitter's program, in a student container."""

import sys

from jobmanager_grading import GradingError, student

__all__ = ["run_student", "run_student_simple"]


def run_student(
    cmd: "str",
    container: "str | None" = None,
    time_limit: "float" = 0,
    hard_time_limit: "float" = 0,
    memory_limit: "int" = 0,
    share_network: "bool" = False,
    working_dir: "str | None" = None,
    stdin: "int | None" = None,
    stdout: "int | None" = None,
    stderr: "int | None" = None,
    signal_handler_callback: "Callable[[Callable[..., None]], object] | None" = None,
    ssh: "bool" = False,
    start_student_as_root: "bool" = False,
    teardown_script: "str" = "",
) -> "int":
    """Run a command with file descriptors as its streams (None: nothing, or dropped); its exit code.

    251 stands for "could not be started", 252 for overflow, 253 for timeout, 254 for everything else.

    Args:
        signal_handler_callback: is given a function that kills the command.
    """
    if ssh or start_student_as_root:
        lacking = "there are no sessions in student containers" if ssh else "no program is root here"
        return code_of(lambda: student.end_the_job(f"run_student: {lacking}"))
    killer = student.Killer()

    def run() -> "student.StudentEnd":
        asked = student.request(
            cmd,
            environment=container or "",
            cpu_time_s=time_limit,
            wall_time_s=hard_time_limit,
            memory_mib=memory_limit,
            share_network=share_network,
            folder=working_dir,
            teardown=teardown_script or "",
        )
        return student.carry_student(asked, stdin, stdout, stderr, killer)

    try:
        if signal_handler_callback is not None:
            signal_handler_callback(killer)
        return code_of(run)
    finally:
        killer.close()


def run_student_simple(
    cmd: "str",
    cmd_input: "str | bytes | None" = None,
    container: "str | None" = None,
    time_limit: "float" = 0,
    hard_time_limit: "float" = 0,
    memory_limit: "int" = 0,
    share_network: "bool" = False,
    working_dir: "str | None" = None,
    stdout_err_fuse: "bool" = False,
    text: "str | bool" = "utf-8",
) -> "tuple[object, ...]":
    """Run a command on an input: its standard output, standard error and exit code; fused: both outputs as one, and the exit code.

    Args:
        text: the outputs' encoding (what cannot be decoded is replaced), or False for bytes.
    """
    written = ([], [])  # type: tuple[list[bytes], list[bytes]]

    def run() -> "student.StudentEnd":
        asked = student.request(
            cmd,
            environment=container or "",
            cpu_time_s=time_limit,
            wall_time_s=hard_time_limit,
            memory_mib=memory_limit,
            share_network=share_network,
            folder=working_dir,
        )
        return student.capture_student(asked, cmd_input or b"", written[0], written[0 if stdout_err_fuse else 1])

    code = code_of(run)
    stdout, stderr = [_decoded(b"".join(pieces), text) for pieces in written]
    return (stdout, code) if stdout_err_fuse else (stdout, stderr, code)


run, run_simple = run_student, run_student_simple  # as they were first called


def code_of(run: "Callable[[], student.StudentEnd]") -> "int":
    """The exit code; of what is not the program's own, the reason goes to standard error."""
    try:
        end = run()
    except GradingError as error:
        return _complain(str(error), error.exit_code)
    if end.text and end.exit_code in (student.NOT_STARTED, student.CUT_OFF):
        return _complain(end.text, end.exit_code)
    return end.exit_code


def _complain(reason: "str", code: "int") -> "int":
    sys.stderr.write("run_student: {}\n".format(reason.encode("ascii", "backslashreplace").decode("ascii")))
    return code


def _decoded(data: "bytes", text: "str | bool") -> "str | bytes":
    return data.decode(text, "replace") if isinstance(text, str) else data


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
