"""Processes that end with the test process, also when that one is killed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

__all__ = ["start_bound"]

# The kernel sends a parent-death signal when the thread ends that has started the child: one that lives as long as we do
_starter = ThreadPoolExecutor(1, thread_name_prefix="test-starter")


def start_bound(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; it gets SIGKILL when this process ends, however it ends."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("the tests with processes of their own need setpriv: apt-get install util-linux")
    bound = [setpriv, "--pdeathsig", "KILL", "--", *command]
    return _starter.submit(
        subprocess.Popen,
        bound,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ).result()
