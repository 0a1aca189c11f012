"""When a job's program has begun, or printed something. No engine keeps what it prints: its manager is asked."""

from __future__ import annotations

import docker.errors
import psutil
import pytest
from docker.models.containers import Container

from jobmanager import Client, JobFuture
from jobmanager.runner.place import RUNNER_PATH
from tests.conftest import SLOWNESS


def wait_until_printed(job: JobFuture, words: bytes, *, within_s: float = 60.0) -> bytes:
    """Wait until a job has printed these words on one of its streams; returns that stream so far. Fails when they do not come."""
    return wait_until_job_printed(job._client, job.job_id, words, within_s=within_s)


def wait_until_job_printed(client: Client, job_id: str, words: bytes, *, within_s: float = 60.0) -> bytes:
    """The same for a job that has no future."""
    printed = {False: b"", True: b""}
    with client.follow(job_id, timeout_s=within_s * SLOWNESS) as pieces:
        for piece in pieces:
            if piece.starts_again:
                printed = {False: b"", True: b""}
            printed[piece.stderr] += piece.data
            if words in printed[piece.stderr]:
                return printed[piece.stderr]
    pytest.fail(f"it has ended, and has not printed {words!r} but {printed}")


def program_runs(container: Container, command: str = "") -> bool:
    """Whether a process whose command line begins so runs in a container, beside its runner. False for one that is gone.

    The engine is one of this machine's: it is not asked itself, as not every one has the ``ps`` that it needs for an answer.
    """
    try:
        container.reload()
        children = psutil.Process(container.attrs["State"]["Pid"]).children(recursive=True)
        lines = [" ".join(child.cmdline()) for child in children]
    except (docker.errors.APIError, psutil.Error):
        return False
    return any(line.startswith(command) and not line.startswith(RUNNER_PATH) for line in lines)
