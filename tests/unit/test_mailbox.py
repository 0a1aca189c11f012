"""The reader of a client's streams: in which order it takes what Redis has."""

from __future__ import annotations

import threading
from typing import Any, cast

from jobmanager import JobResult, Outcome
from jobmanager.remote.mailbox import Mailbox
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.records import ClientEvent, ResultMessage
from jobmanager.remote.signed_messages import signed
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import READ_AT_ONCE

SIGNER = Keyring.parse("5a" * 32).signer("test")
NEWS = READ_AT_ONCE + 500


class FullStreams:
    """One result, and before it more news than are read at once."""

    def last_event(self, _client: str) -> str:
        return "0-0"

    def read_for_client(
        self, _client: str, *, results_after: str, events_after: str, block_s: float
    ) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        after = int(events_after.partition("-")[0])
        event = signed(SIGNER, ClientEvent(event="phase_started", r="r1", node="n1"))
        message = ResultMessage(r="r1", job_id="job-1", token="t", node="n1", result="")
        results = [("1-0", "r1", signed(SIGNER, message))] if results_after == "0-0" else []
        return results, [(f"{number}-0", event) for number in range(after + 1, NEWS + 1)][:READ_AT_ONCE]

    def send_event(self, _client: str, _event: str) -> None:
        pass


def test_a_result_is_taken_after_all_news_however_many() -> None:
    taken: list[str] = []
    has_ended = threading.Event()

    def ended(_job: OpenJob, _result: JobResult) -> None:
        taken.append("result")
        has_ended.set()

    jobs = OpenJobs(max_decided=1000, publish=ended)
    jobs.add(OpenJob(job_id="job-1", r="r1"))
    mailbox = Mailbox(
        cast(Any, FullStreams()),
        SIGNER,
        jobs,
        client="web",
        read_result=lambda _: JobResult(job_id="job-1", outcome=Outcome.SUCCESS),
        on_result=ended,
        on_event=lambda _, event: taken.append(event.event),
        acknowledge=lambda *_: None,
        redis_s=2.0,
    )
    mailbox.start()
    assert has_ended.wait(30)
    mailbox.close()

    assert taken == ["phase_started"] * NEWS + ["result"]


class TwoResults(FullStreams):
    """The result of one job, which was written twice."""

    def read_for_client(
        self, _client: str, *, results_after: str, events_after: str, block_s: float
    ) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        message = signed(SIGNER, ResultMessage(r="r1", job_id="job-1", token="t", node="n1", result=""))
        after = int(results_after.partition("-")[0])
        return [(f"{number}-0", "r1", message) for number in range(after + 1, 3)], []


class QuickCallbacks(OpenJobs):
    """A job's callback returns just before what came after its result is looked at."""

    def decide(self, job: OpenJob, result: JobResult, entry: str = "") -> OpenJob | None:
        if entry == "2-0":
            self.called_back(job.job_id)
        return super().decide(job, result, entry)


def test_a_result_that_comes_while_the_callback_of_the_one_before_returns_is_acknowledged_still() -> None:
    jobs = QuickCallbacks(max_decided=1000, publish=lambda *_: None)
    jobs.add(job := OpenJob(job_id="job-1", r="r1"))
    acknowledged: list[tuple[str, str]] = []
    has_come = threading.Event()

    def acknowledge(entry: str, r: str) -> None:
        acknowledged.append((entry, r))
        has_come.set()

    mailbox = Mailbox(
        cast(Any, TwoResults()),
        SIGNER,
        jobs,
        client="web",
        read_result=lambda _: JobResult(job_id="job-1", outcome=Outcome.SUCCESS),
        on_result=lambda *_: None,
        on_event=lambda *_: None,
        acknowledge=acknowledge,
        redis_s=2.0,
    )
    mailbox.start()
    assert has_come.wait(30)
    mailbox.close()

    assert acknowledged == [("2-0", "r1")] and job.entries == ["1-0"]  # that one is acknowledged with the callback
