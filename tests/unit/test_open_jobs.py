"""The table of open jobs: each is decided once, called back once, and said again while it is not decided."""

from __future__ import annotations

import threading

import pytest

from jobmanager import JobResult, Outcome, Task, errors
from jobmanager.control.request import job_request
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.payload import Packed
from jobmanager.remote.store import NewJob, SeenState
from jobmanager.results.verdict import KillReason, crash_verdict


class Table(OpenJobs):
    """A table whose clock stands still, and which keeps what it published."""

    def __init__(self, max_decided: int = 1000) -> None:
        self.now = 100.0
        self.published: list[tuple[str, JobResult]] = []
        super().__init__(
            max_decided=max_decided,
            publish=lambda job, result: self.published.append((job.job_id, result)),
            clock=lambda: self.now,
        )

    def put(self, job_id: str, *, accepted: bool = True) -> OpenJob:
        r = f"{job_id:0>32}"
        request = job_request(Task("x", command="true"), None, None, {"job_id": job_id}, ssh_timeout_s=1.0)
        sent = NewJob(r=r, job_id=job_id, client="web", title="x", header="h", body="b")
        job = OpenJob(job_id=job_id, r=r, sent=sent, packed=Packed(text="b", sha256="0" * 64), request=request)
        self.add(job)
        if accepted:
            self.accepted(job)
        return job


@pytest.fixture
def table() -> Table:
    return Table()


def result(job_id: str = "1", outcome: Outcome = Outcome.SUCCESS) -> JobResult:
    return JobResult(job_id=job_id, outcome=outcome)


def test_a_job_is_decided_once_and_forgotten_when_its_callback_has_returned(table: Table) -> None:
    job = table.put("1")

    assert table.decide(job, result(), "5-0") is job
    assert table.decide(job, result(outcome=Outcome.CRASH), "5-1") is None
    assert job.result == result()
    assert (job.sent, job.packed) == (None, None), "what was sent takes no memory any more"
    assert table.called_back("1") is job
    assert job.entries == ["5-0", "5-1"], "both are to be removed from Redis"
    assert table.by_r(job.r) is None and table.called_back("1") is None
    assert table.decide(job, result(), "5-2") is None


def test_many_threads_decide_a_job_once(table: Table) -> None:
    jobs = [table.put(str(number)) for number in range(200)]
    decided: list[OpenJob] = []
    barrier = threading.Barrier(4)

    def decide_all() -> None:
        barrier.wait(10)
        decided.extend(ready for job in jobs if (ready := table.decide(job, result(job.job_id))) is not None)

    threads = [threading.Thread(target=decide_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(job.job_id for job in decided) == sorted(job.job_id for job in jobs)


def test_an_id_is_in_use_until_its_callback_has_returned(table: Table) -> None:
    job = table.put("1")
    for _ in range(2):
        with pytest.raises(errors.DuplicateJob):
            table.put("1")
        table.decide(job, result())
    table.called_back("1")

    table.put("1")


def test_acceptance_is_told_once(table: Table) -> None:
    job = table.put("1", accepted=False)

    assert table.accepted(job) is not None
    assert table.accepted(job) is None


def test_a_job_whose_acceptance_is_unknown_is_withdrawn_and_cancelled_later(table: Table) -> None:
    job = table.put("1", accepted=False)

    assert table.withdraw(job)
    assert table.by_r(job.r) is None
    assert table.withdrawn() == [job.r]
    table.is_gone(job.r)
    assert table.withdrawn() == []


def test_a_job_whose_result_is_here_was_accepted_and_cannot_be_withdrawn(table: Table) -> None:
    job = table.put("1", accepted=False)
    table.decide(job, result())

    assert not table.withdraw(job)
    assert table.withdrawn() == []


def test_a_refused_job_leaves_nothing(table: Table) -> None:
    table.refused(table.put("1", accepted=False))

    assert table.unfinished() == 0
    table.put("1")


def test_after_a_loss_of_data_each_open_job_is_said_again_with_its_kill(table: Table) -> None:
    jobs = [table.put(str(number)) for number in range(4)]
    table.decide(jobs[0], result("0"))
    table.kill(jobs[1], KillReason.KILL_JOB)
    assert table.unsaid_kills() == []

    assert table.data_lost() == jobs[1:]
    assert table.unsaid_kills() == [(jobs[1], KillReason.KILL_JOB)]


def test_a_job_that_was_being_handed_over_when_data_was_lost_is_said_again_once_it_is_accepted(table: Table) -> None:
    job = table.put("1", accepted=False)
    assert table.data_lost() == []
    assert table.perhaps_lost() == []

    table.accepted(job)

    assert table.perhaps_lost() == [job]
    assert table.perhaps_lost() == [job], "until that was done"
    table.not_lost([job])
    assert table.perhaps_lost() == []


def test_a_kill_that_came_before_the_job_was_accepted_is_said_once_it_is(table: Table) -> None:
    job = table.put("1", accepted=False)
    table.kill(job, KillReason.KILL_JOB)
    table.kill_said(job)

    table.accepted(job)
    assert table.unsaid_kills() == [(job, KillReason.KILL_JOB)]
    table.kill_said(job)
    table.accepted(job)
    assert table.unsaid_kills() == []


def test_kills_that_redis_was_not_told_are_kept_until_it_was(table: Table) -> None:
    job = table.put("1")
    assert table.kill(job, KillReason.KILL_JOB)
    table.say_kill_later(job)
    table.kill_all(KillReason.CLOSE)

    assert table.unsaid_kills() == [(job, KillReason.KILL_JOB)], "the first reason is the one that counts"
    table.kill_said(job)
    assert table.unsaid_kills() == []
    table.decide(job, result())
    assert not table.kill(job, KillReason.KILL_JOB)


def test_where_a_job_was_seen_is_news_once(table: Table) -> None:
    job = table.put("1")
    placed = SeenState(state="placed", node="n", token="t")

    assert table.saw(job, placed)
    assert not table.saw(job, placed)
    table.now += 5
    assert table.saw(job, SeenState(state="running", node="n", token="t", runs=1))
    assert table.running_for_s(job) == 5, "since it was placed"
    assert table.saw(job, SeenState(state="placed", node="m", token="u", runs=1))
    assert table.running_for_s(job) == 0


def test_an_ssh_callback_is_taken_once_and_not_after_the_end(table: Table) -> None:
    first, second = table.put("1"), table.put("2")
    first.ssh_callback = second.ssh_callback = print
    table.decide(second, result("2"))

    assert table.take_ssh_callback(first) is print
    assert table.take_ssh_callback(first) is None
    assert table.take_ssh_callback(second) is None
    assert second.ssh_callback is print, "it is told that there will be none, with the result"


def test_what_another_process_left_waits_for_who_resumes_it(table: Table) -> None:
    table.inherit({"r1": "one", "r2": "two"})
    own, inherited = table.put("own"), table.by_r("r1")
    assert inherited is not None

    assert table.decide(inherited, result("one"), "1-0") is None
    table.kill_all(KillReason.CLOSE)
    table.decide(own, result("own"))
    assert table.wait_until_decided(0) and table.unfinished() == 1, "closing does not wait for it"
    assert (inherited.result, inherited.killed) == (None, None)
    assert table.adopt(print) == {"one", "two"}
    assert table.adopt(print) == set()
    assert table.decide(inherited, result("one"), "1-0") is inherited and inherited.callback is print
    assert not table.wait_until_decided(0), "now it does"
    assert [job.job_id for job in table.accepted_and_undecided()] == ["two"]


def test_no_more_is_read_while_too_many_results_wait_for_callbacks() -> None:
    table = Table(max_decided=1000)
    jobs = [table.put(str(number)) for number in range(1000)]
    for job in jobs:
        assert not table.is_full_of_results()
        table.decide(job, result(job.job_id))

    assert table.is_full_of_results()
    with pytest.raises(errors.QueueFull, match="1000 results wait for their callbacks already"):
        table.put("more")
    table.called_back("0")
    assert not table.is_full_of_results()


def test_what_is_given_up_has_a_result_and_is_published_once(table: Table) -> None:
    killed, other = table.put("1"), table.put("2")
    table.kill(killed, KillReason.DRAIN_OVER)
    table.give_up(other, crash_verdict("k", "why"))
    table.give_up_all()
    table.give_up_all()

    assert [(job_id, got.outcome, got.text) for job_id, got in table.published] == [
        ("2", Outcome.CRASH, "why"),
        ("1", Outcome.KILLED, "killed: drain time over"),
    ]


def test_a_closed_table_takes_no_more_and_waits_for_what_it_has(table: Table) -> None:
    job = table.put("1")

    assert table.stop_accepting() and not table.stop_accepting()
    with pytest.raises(errors.Closed, match="this RemoteClient is closed"):
        table.put("2")
    assert not table.wait_until_decided(0)
    table.decide(job, result())
    assert table.wait_until_decided(0) and not table.wait_until_called_back(0)
    table.called_back("1")
    assert table.wait_until_called_back(0)
