"""Which program is the grader, and how it is started."""

import errno
import os

from . import place

NOT_FOUND, NOT_STARTED = 127, 126  # exit codes, as a shell has them
_ORDER = ("run", "run.py", "run.sh")


class CannotStart(Exception):
    """The grader cannot be started: the reason, and the exit code for it."""

    def __init__(self, reason: "str", exit_code: "int") -> "None":
        Exception.__init__(self, reason)
        self.exit_code = exit_code


def words(given: "list[str]") -> "list[str]":
    """The grader's command: the given words, else the first script in the task's folder.

    A script that is the only word and has no ``#!`` line is started by its suffix, as one of the folder is.
    """
    if len(given) == 1 and os.path.isfile(given[0]) and not _shebang(given[0]):
        return [*_interpreter(given[0]), *given]
    if given:
        return given
    for name in _ORDER:
        path = os.path.join(place.TASK, name)
        if os.path.isfile(path):
            return [*_interpreter(name), path]
    raise CannotStart("there is none of {}".format(", ".join(_ORDER)), NOT_FOUND)


def start(command: "list[str]") -> "int":
    """Start it in the task's folder; its process id.

    Raises:
        CannotStart: it could not be started.
    """
    _make_executable(command[0])
    command = _by_its_interpreter(command)
    read, write = os.pipe()  # closed by a successful start: then there is nothing to read
    child = os.fork()
    if child == 0:
        _become(command, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        failure = pipe.read()
    if not failure:
        return child
    os.waitpid(child, 0)
    raise _reason(command[0], int(failure))


def _by_its_interpreter(command: "list[str]") -> "list[str]":
    """Run a script by the first such interpreter in PATH where the named one does not exist, as ``/bin/python3`` in many images."""
    interpreter, *argument = _first_line(command[0])
    program = os.path.basename(interpreter)
    if not interpreter or os.path.exists(interpreter) or not _found(program):
        return command
    return [program, *argument, *command]


def _interpreter(name: "str") -> "list[str]":
    if name.endswith(".py"):
        return ["python3", os.path.join(place.LIBRARY, "jobmanager_grading", "script.py")]
    if name.endswith(".sh"):
        return ["bash" if _found("bash") else "sh"]
    return []


def _found(program: "str") -> "bool":
    return any(os.access(os.path.join(folder, program), os.X_OK) for folder in os.environ.get("PATH", "").split(":"))


def _make_executable(path: "str") -> "None":
    """A script's file mode is often lost on its way."""
    try:
        if "/" in path and os.path.isfile(path) and not os.access(path, os.X_OK):
            os.chmod(path, 0o755)
    except OSError:
        pass  # the start will fail and report it


def _become(command: "list[str]", failure_pipe: "int") -> "NoReturn":
    import signal

    try:
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what it starts would, too
            signal.signal(ignored, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(place.TASK)
        os.execvpe(command[0], command, _environment())
    except OSError as error:
        os.write(failure_pipe, str(error.errno).encode("ascii"))
    finally:
        os._exit(NOT_STARTED)


def _environment() -> "dict[str, str]":
    environment = dict(os.environ)
    environment["PATH"] = ":".join([place.COMMANDS, environment.get("PATH") or os.defpath])
    paths = [place.LIBRARY, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = ":".join(path for path in paths if path)
    return environment


def _reason(program: "str", number: "int") -> "CannotStart":
    reason, exit_code = os.strerror(number), NOT_STARTED
    shebang = _shebang(program)
    if number == errno.ENOENT:
        exit_code = NOT_FOUND
        if shebang:
            reason = f"its interpreter {shebang!r} does not exist"
            reason += ": its lines end in CR LF" if shebang.endswith("\r") else ""
    elif number == errno.ENOEXEC:
        reason = "it is neither a program for this machine nor a script whose first line begins with #!"
    return CannotStart(f"{program!r}: {reason}", exit_code)


def _shebang(path: "str") -> "str":
    """The interpreter that a script's first line names."""
    return _first_line(path)[0]


def _first_line(path: "str") -> "list[str]":
    """The interpreter and, as one word, what comes after it."""
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except OSError:
        return [""]
    shebang = first[2:].strip(b" \t\n").decode("utf-8", "replace") if first.startswith(b"#!") else ""
    return shebang.split(" ", 1)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn
