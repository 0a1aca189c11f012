"""News of a job, from its node's hooks to its client: all of them are sent before its result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from jobmanager import HookManager, JobResult, Outcome
from jobmanager.events import JobEnded, PhaseEnded, PhaseStarted
from jobmanager.remote.intake import NodeIdentity
from jobmanager.remote.node_events import NodeEvents
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.node_results import NodeResults
from jobmanager.remote.outbox import FinishedJob
from jobmanager.remote.records import ClientEvent
from jobmanager.remote.signed_messages import opened
from jobmanager.remote.signing import Keyring
from tests.conftest import eventually
from tests.unit.test_node_jobs import started

SIGNER = Keyring.parse("5a" * 32).signer("test")
SUCCESS = JobResult(job_id="job-1", outcome=Outcome.SUCCESS)


class SlowStore:
    """Takes an event when the test lets it."""

    def __init__(self, sent: list[str]) -> None:
        self.may_send = threading.Event()
        self._sent = sent

    def send_event(self, _client: str, envelope: str) -> None:
        assert self.may_send.wait(30)
        self._sent.append(opened(SIGNER, ClientEvent, envelope).event)


class Node:
    """The parts of a node between its manager and Redis, with one job."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.store = SlowStore(self.sent)
        jobs, nothing = NodeJobs(slots=1), cast(Any, None)
        self.job: HeldJob = started(jobs, 1)
        self.hooks = HookManager()
        NodeEvents(cast(Any, self.store), SIGNER, "n1", jobs).listen(self.hooks)
        node = NodeIdentity(name="n1", incarnation="i1")
        results = NodeResults(nothing, SIGNER, node, jobs, redis_blobs=nothing, blob_store=None, dashboards=nothing)
        results.outbox.put = self._put  # type: ignore[method-assign]
        self.callback = threading.Thread(target=results.ended, args=(self.job, SUCCESS), daemon=True)

    def run_one_phase(self) -> None:
        self.hooks.fire(PhaseStarted(at_s=0.0, job_id="job-1", phase="build", number=0, host="h"))
        ended = PhaseEnded(at_s=0.0, job_id="job-1", phase="build", number=0, outcome=Outcome.SUCCESS, host="h")
        self.hooks.fire(ended)
        self.hooks.fire(JobEnded(at_s=0.0, job_id="job-1", result=SUCCESS))
        self.callback.start()

    def _put(self, result: FinishedJob) -> None:
        self.sent.append(f"result: {result.outcome}")


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.store.may_send.set()
    node.callback.join(30)
    node.hooks.drain(30)


def test_a_result_waits_for_the_news_that_came_before_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.remote.node_results._NEWS_S", 30.0)
    node.run_one_phase()
    eventually(lambda: node.job.state.value == "ended")  # its slot is free at once

    assert node.sent == []

    node.store.may_send.set()
    node.callback.join(30)
    assert node.sent == ["phase_started", "phase_ended", "result: success"]


def test_news_that_hang_do_not_keep_a_result_for_ever(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmanager.remote.node_results._NEWS_S", 0.05)
    node.run_one_phase()
    node.callback.join(30)

    assert node.sent == ["result: success"]
