"""When a job has printed something: its engine keeps no output, so its manager is asked."""

from __future__ import annotations

import pytest

from jobmanager import JobFuture
from tests.conftest import SLOWNESS


def wait_until_printed(job: JobFuture, words: bytes, *, within_s: float = 60.0) -> None:
    """Return once a job has printed these words on one of its streams; fails when they do not come."""
    printed = {False: b"", True: b""}
    with job._client.follow(job.job_id, timeout_s=within_s * SLOWNESS) as pieces:
        for piece in pieces:
            printed[piece.stderr] += piece.data
            if words in printed[piece.stderr]:
                return
    pytest.fail(f"it has ended, and has not printed {words!r} but {printed}")
