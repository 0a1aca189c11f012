"""Why a runner does not start a program, in words for the task's author."""

from __future__ import annotations

import errno
import os
import posixpath
import re

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model._escapes import one_line
from jobmanager.runner.frames import RefusalReason, RunRefused
from jobmanager.watching.run_order import words

NO_COMMAND = "neither the task nor its image has a command"
_MAX_NAME = 100
_SCRIPT = b"#!"


def refusal_text(refused: RunRefused, job: MonitorContainer) -> str:
    """One line; empty where it was killed before it began."""
    name = ascii(words(job.command)[0][:_MAX_NAME])
    what = ascii(os.fsdecode(refused.what)[:_MAX_NAME])
    if refused.why is RefusalReason.NO_SUCH_PROGRAM and isinstance(job.command, str):
        return "the image has no sh, which runs a command that is a text: give the command as a list of words"
    known = {
        RefusalReason.NO_SUCH_PROGRAM: f"there is no {name} that can be run",
        RefusalReason.IS_A_FOLDER: f"{name} is a folder, not a program",
        RefusalReason.NOT_EXECUTABLE: f"{name} is there, but may not be executed{_way_out(job)}",
        RefusalReason.NO_SUCH_FOLDER: f"there is no folder {what} to run in",
        RefusalReason.PUT_FAILED: f"its files do not fit into the workspace: {what}: {_error(refused)}",
        RefusalReason.REMOVE_FAILED: f"{what} cannot be wiped: something is left that cannot be removed",
        RefusalReason.OTHER_DEVICE: f"what was in the volume {what} is lost: its engine has mounted another one",
        RefusalReason.ARGUMENTS_TOO_LONG: "its command and environment are too long for the system",
        RefusalReason.NO_PROCESS: f"no process could be made for it: {_error(refused)}",
        RefusalReason.NO_INTERPRETER: f"{name}: {_interpreter(job)}",
        RefusalReason.KILLED_BEFORE: "",
    }
    return known.get(refused.why, one_line(f"the program could not be started: {what}: {_error(refused)}"))


def _way_out(job: MonitorContainer) -> str:
    name = words(job.command)[0]
    is_of_the_job = "/" in name and (not name.startswith("/") or name.startswith(f"{job.workspace}/"))  # and not of the image
    return ": run it by its interpreter, begin it with #!, or name it in executables" if is_of_the_job else ""


def _interpreter(job: MonitorContainer) -> str:
    """What is lacking where a script's interpreter is: the kernel says of the script that it is not there."""
    script = job.files.get(posixpath.normpath(words(job.command)[0]), b"")
    line = script[: len(_SCRIPT) + 200].removeprefix(_SCRIPT).split(b"\n", 1)[0].decode("utf-8", "replace").strip(" \t")
    interpreter = re.split("[ \t]", line)[0] if script.startswith(_SCRIPT) else ""
    why = "; its lines end in CR LF" if interpreter.endswith("\r") else ""
    return f"its interpreter {ascii(interpreter) + ' ' if interpreter else ''}does not exist{why}"


def _error(refused: RunRefused) -> str:
    return os.strerror(refused.errno) if refused.errno in errno.errorcode else "an error without a name"
