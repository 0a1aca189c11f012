"""The same cause always gives the same outcome: each cause of ``tests/support/causes.py`` twenty times, several at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobmanager import DockerHost, JobManager
from tests.support.causes import CAUSES, Cause, apply_external_actions, ending, promised, submitted

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

TIMES = 20
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def manager(engine_url: str) -> Iterator[JobManager]:
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=6)) as manager:
        yield manager


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """The manager outlives a test; ``with`` and the next file's tests see to what is left of it."""


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: f"{cause.outcome.value}: {cause.name}")
def test_the_same_cause_gives_the_same_outcome(manager: JobManager, engine_url: str, cause: Cause) -> None:
    jobs = [submitted(manager, cause, cause.images[number % len(cause.images)]) for number in range(TIMES)]
    apply_external_actions(((cause, job) for job in jobs), manager, engine_url)
    for job in jobs:
        assert ending(cause, job.result(PATIENCE_S)) in promised(cause)
