"""What happens to a submission's container while one of its cases is judged: faults that a real engine cannot show on demand."""

from __future__ import annotations

import pytest

from jobmanager import Case, Checker, DockerHost, JobManager, Limits, Outcome, Task
from jobmanager.testing import FakeEngineServer

PATIENCE_S = 60.0


@pytest.mark.parametrize("last", ["fake-pid1-oom", "fake-oom", "exit 3"])
def test_a_case_that_is_judged_while_the_next_one_ends_its_container_keeps_its_verdict(last: str) -> None:
    """The next case was sent ahead, and ends long before the checker does."""
    patient = Checker(Task("judge", command=["judge"]))
    cases = [Case("a", args=["true"], check=patient), Case("b", args=[last]), Case("c", args=["true"], check=patient)]
    task = Task("busybox", command=["sh", "-c"], cases=cases, limits=Limits(memory_mib=32))
    with (
        FakeEngineServer(images=["busybox", "judge"], programs={"judge": "sleep 2.5"}) as engine,
        JobManager(DockerHost(engine.url)) as manager,
    ):
        result = manager.submit(task).result(PATIENCE_S)
    ended = [(case.outcome, case.correct) for case in result.cases]
    after = (Outcome.FAILED, None) if last == "exit 3" else (Outcome.OVERFLOW, None)
    assert ended == [(Outcome.SUCCESS, True), after, (Outcome.SUCCESS, True)], result
