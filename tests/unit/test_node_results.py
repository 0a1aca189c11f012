"""Results on a node, from a job's end to its outbox."""

from __future__ import annotations

from typing import Any, cast

import pytest

from jobmanager import JobResult, Outcome
from jobmanager.remote import node_results
from jobmanager.remote.intake import NodeIdentity
from jobmanager.remote.node_jobs import NodeJobs
from jobmanager.remote.payload import Packed, pack_result
from jobmanager.remote.signing import Keyring
from tests.unit.test_node_jobs import started


def test_a_result_that_cannot_be_packed_ends_its_job_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def packs_no_success(result: JobResult) -> Packed:
        if result.outcome is Outcome.SUCCESS:
            raise ValueError("not this one")
        return pack_result(result)

    monkeypatch.setattr(node_results, "pack_result", packs_no_success)
    jobs, nothing = NodeJobs(slots=1), cast(Any, None)
    signer, node = Keyring.parse("5a" * 32).signer("test"), NodeIdentity(name="n1", incarnation="i1")
    results = node_results.NodeResults(nothing, signer, node, jobs, redis_blobs=nothing, blob_store=None, dashboards=nothing)

    job = started(jobs, 1)
    job.is_told.set()
    results.ended(job, JobResult(job_id="job-1", outcome=Outcome.SUCCESS))

    assert [waiting.outcome for waiting in results.outbox._pending] == ["crash"]
