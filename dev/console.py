"""What the set-up tells its user, and running other programs without letting them talk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.dockerd import SBIN_PATH

PROGRESS_EVERY_S = 10.0


class MachineError(Exception):
    """The machine cannot be set up; the message is one line that says what to do."""


def say(text: str) -> None:
    """A line of progress. On stderr: stdout is for answers that other programs read."""
    print(f"machine: {text}", file=sys.stderr, flush=True)


def run_quietly(
    command: Sequence[str],
    *,
    what: str,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a program with its output in `log`, telling every few seconds that it is still at work.

    Raises MachineError, with the program's last line, when it fails or takes longer than `timeout_s`.
    """
    if shutil.which(command[0], path=SBIN_PATH) is None:
        raise MachineError(f"{what}: there is no {command[0]} on this machine")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**(os.environ if env is None else env), "PATH": SBIN_PATH},
            cwd=cwd,
            start_new_session=True,  # so that its children can be ended with it
        )
        try:
            status = _wait_with_progress(process, what, timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status != 0:
        raise MachineError(f"{what} failed with status {status}: {_last_line(log)} (more in {log})")


def _wait_with_progress(process: subprocess.Popen[bytes], what: str, timeout_s: float) -> int:
    begun = time.monotonic()
    while True:
        try:
            return process.wait(timeout=PROGRESS_EVERY_S)
        except subprocess.TimeoutExpired:
            passed_s = time.monotonic() - begun
            if passed_s > timeout_s:
                raise MachineError(f"{what} took longer than {timeout_s:.0f} s") from None
            say(f"... {what}: {passed_s:.0f} s so far")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
