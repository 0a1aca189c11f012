"""The library's files for a grading container: the supervisor, the grader's commands and the Python module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

SUPERVISOR = ("python3", "/task/.jobmanager/lib/jobmanager_grading/supervisor.py")
_START_GRADER = """import os, sys
from jobmanager_grading import grader
status = os.waitpid(grader.start(grader.words(sys.argv[1:])), 0)[1]
sys.exit(status >> 8 or status)"""
_FOLDERS = ("bin", "lib")


@cache
def bundle() -> Mapping[str, bytes]:
    """Files by their names in the workspace."""
    top = Path(__file__).parent / "container"
    found = [path for folder in _FOLDERS for path in sorted((top / folder).rglob("*")) if path.is_file()]
    return {
        f".jobmanager/{path.relative_to(top).as_posix()}": path.read_bytes()
        for path in found
        if path.parent.name != "__pycache__"
    }


def supervisor_command(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The command that starts the supervisor with a grader; None: it looks for the task's script."""
    return (*SUPERVISOR, *_words(run))


def grader_command(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The command that starts a grader from a shell that the supervisor has started."""
    return ("python3", "-c", _START_GRADER, *_words(run))


def _words(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if run is None:
        return ()
    return ("sh", "-c", run) if isinstance(run, str) else run
