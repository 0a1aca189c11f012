"""What a grading container is given of ours: the runner, the grader's commands and the Python module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

LINK_TOKEN_FILE = ".jobmanager/link"
RUNNER = ("python3", "/task/.jobmanager/lib/jobmanager_grading/runner.py")
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


def runner_command(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The words that start the runner with a grader; None: it looks for the task's script."""
    if run is None:
        return RUNNER
    return (*RUNNER, *(("sh", "-c", run) if isinstance(run, str) else run))
