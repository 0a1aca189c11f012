"""Links to a host that are slow, stand still or are disturbed: what did not come is never taken for what was not there."""

from __future__ import annotations

import pytest

from jobmanager import JobManager, Limits, Outcome, Task
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, proof
from tests.proxy import LOGS, Proxy

pytestmark = pytest.mark.engine



@pytest.mark.parametrize(
    "stray", [b"HTTP/1.1 504 x\r\n\r\n", b"\1\0\0\0\xff\xff\xff\xff"], ids=["an error page", "a length of 4 GiB"]
)
def test_a_stream_with_something_else_in_it_costs_neither_output_nor_the_programs_own_end(engine_url: str, stray: bytes) -> None:
    task = Task(BUSYBOX, command="echo ready; sleep 1; echo over; exit 3", limits=Limits(wall_time_s=60))
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager:
        job = manager.submit(task)
        output = iter(manager.follow(job.job_id))
        assert next(output).data == b"ready\n"
        proxy.link.inject(stray)
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 3, b"ready\nover\n"), result
    assert proxy.count(LOGS) and "output_from_log" in proof(result)
