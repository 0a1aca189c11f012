"""The ledger as a whole, without I/O: one result for each job on every path, slots, choice of host, the queue, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager import DockerHost, Limits, Outcome, Task
from jobmanager.errors import Closed, DuplicateJob, QueueFull, UnknownEnvironment, Unsatisfiable
from jobmanager.ipc.messages import StartFailed, StartRefused
from jobmanager.model.container import ContainerInfo, ContainerStatus, Image
from jobmanager.model.listings import QueueInfo
from jobmanager.results.facts import (
    CapturedOutput,
    ContainerEnded,
    EndedDuringOutage,
    EngineUnreachable,
    HostGivenUp,
    Limit,
    LimitHit,
    RemovedExternally,
)
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import CheckHost, DeleteContainer, MonitorRun, NotifyHostDown, PublishResult, SubmitContainer
from jobmanager.scheduling.durations import DurationKey, Durations
from tests.support.run_facts import cannot_run, cut_off, exited, failed_here, not_sent, stopped_for
from tests.unit.ledger_driver import LOCAL_ONLY, PYTHON, SUCCESS, C, Driver

GONE = StartFailed(reason="no such image", unreachable=False)
UNREACHABLE = StartFailed(reason="connection refused", unreachable=True)
EXITED = ContainerInfo(id="i", name="n", status=ContainerStatus.ENDED, exit_code=137)


# ---- one result for each job, on each path


def test_a_job_without_a_container_is_done_at_once_and_takes_no_slot():
    driver = Driver({"a": 1})

    driver.accept("j", LOCAL_ONLY)

    assert driver.result("j").verdict.outcome is Outcome.SUCCESS
    assert driver.result("j").host is None
    assert driver.of(SubmitContainer) == []
    assert driver.empty()


def test_a_job_without_a_container_needs_no_host_and_no_room_in_the_queue():
    driver = Driver({"a": 1}, up=False, max_waiting_jobs=1)
    driver.accept("waits")

    driver.accept("j", LOCAL_ONLY)

    assert len(driver.results("j")) == 1


def test_killing_a_waiting_job_ends_it_at_once():
    driver = Driver({"a": 1}, up=False)
    driver.accept("j")

    assert driver.ledger.kill("j", KillReason.KILL_JOB)

    assert driver.result("j").verdict.outcome is Outcome.KILLED
    assert not driver.ledger.kill("j", KillReason.KILL_JOB)
    driver.answers("a")
    assert driver.submits() == []
    assert driver.empty()


def test_killing_a_placed_job_ends_it_at_once_and_its_container_is_deleted_when_it_appears():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.place("j")

    assert driver.ledger.kill("j", KillReason.KILL_JOB)

    assert driver.result("j").verdict.outcome is Outcome.KILLED
    assert driver.deletes() == []
    assert driver.slots() == {"a": 1}
    driver.runs(container)
    assert driver.deletes() == [container]
    assert driver.watches() == []  # the program never begins
    driver.ledger.container_deleted(container)
    assert driver.empty()


@pytest.mark.parametrize(
    "word", [UNREACHABLE, GONE, StartRefused(reason="no"), None], ids=["unreachable", "gone", "refused", "died"]
)
def test_whatever_becomes_of_the_submitter_of_a_killed_job_its_container_is_deleted(word):
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.place("j")
    driver.ledger.kill("j", KillReason.KILL_JOB)

    driver.start_reported(container, word)

    assert driver.deletes() == [container]
    assert len(driver.results("j")) == 1


def test_killing_a_running_job_stops_it_and_its_report_ends_it():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")

    assert driver.ledger.kill("j", KillReason.KILL_JOB)
    assert driver.ledger.kill("j", KillReason.CLOSE)  # asked again: still not ended

    assert driver.kills() == [container]
    assert driver.results("j") == []
    driver.end(container, cut_off(output=CapturedOutput(stdout=b"so far")))
    assert driver.result("j").verdict.text == "killed: kill_job"
    assert driver.result("j").facts.output.stdout == b"so far"
    assert driver.deletes() == [container]


def test_a_job_that_was_killed_before_it_had_its_job_is_not_tried_again():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    driver.ledger.kill("j", KillReason.KILL_JOB)

    driver.end(container, not_sent())

    assert driver.result("j").verdict.outcome is Outcome.KILLED


def test_killing_an_unknown_or_an_ended_job_says_false():
    driver = Driver({"a": 1})
    driver.accept("j")
    driver.end(driver.run("j"))

    assert not driver.ledger.kill("j", KillReason.KILL_JOB)
    assert not driver.ledger.kill("nobody", KillReason.KILL_JOB)
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS


def test_a_job_goes_to_another_host_when_one_has_lost_its_image():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")
    first = driver.place("j")
    one = driver.ledger.containers()[first]

    driver.start_reported(first, GONE)

    (other,) = driver.submits()
    assert other.host != one
    assert driver.deletes() == [first]
    assert CheckHost(host=one) in driver.commands
    assert driver.results("j") == []


def test_a_job_whose_image_is_gone_everywhere_is_a_crash_that_names_each_host():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")
    for _ in range(2):
        driver.start_reported(driver.place("j"), GONE)

    verdict = driver.result("j").verdict
    assert verdict.outcome is Outcome.CRASH
    assert "a: no such image" in verdict.text
    assert "b: no such image" in verdict.text
    assert driver.result("j").host is None


def test_an_unreachable_host_is_passed_over_until_it_answers_and_the_job_waits():
    driver = Driver({"a": 1})
    driver.accept("j")

    driver.start_reported(driver.place("j"), UNREACHABLE)

    assert CheckHost(host="a") in driver.carry_out()
    assert [host.up for host in driver.ledger.hosts()] == [False]
    assert driver.ledger.hosts()[0].reason == "connection refused"
    assert driver.results("j") == []
    assert driver.answers("a") is True
    driver.ledger.container_deleted("jobmanager-m-1-1")
    assert driver.placed() == {"j": "a"}


def test_a_host_that_cannot_be_reached_again_and_again_costs_the_job_nothing_but_time():
    driver = Driver({"a": 1, "b": 1}, queue_timeout_s=1e9)
    driver.accept("j")

    for _ in range(50):
        driver.start_reported(driver.place("j"), UNREACHABLE)
        driver.clock.now += 15.0
        driver.answers("a"), driver.answers("b")
        for container in set(driver.deletes()) & set(driver.ledger.containers()):
            driver.ledger.container_deleted(container)

    driver.end(driver.run("j"))
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS


@pytest.mark.case(51)
def test_a_host_that_answers_looks_and_breaks_off_starts_is_left_alone_for_longer_and_longer():
    """Else it would use up all that a job may try while the host that could run it is full."""
    driver = Driver({"a": 1}, queue_timeout_s=1e9)
    driver.accept("j")

    began, waited_s = driver.clock.now, []
    for _ in range(12):
        driver.start_reported(driver.place("j"), UNREACHABLE)
        for container in set(driver.deletes()) & set(driver.ledger.containers()):
            driver.ledger.container_deleted(container)
        since = driver.clock.now
        while not driver.answers("a"):
            assert driver.ledger.hosts()[0].reason == UNREACHABLE.reason
            driver.clock.now += 0.5
        waited_s.append(driver.clock.now - since)

    assert waited_s == [0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 15.0, 15.0, 15.0, 15.0]
    assert driver.clock.now - began > 90


def test_a_rest_ends_by_a_look_and_a_start_that_works_forgets_what_was_before():
    driver = Driver({"a": 8}, queue_timeout_s=1e9)
    driver.accept("j")
    for _ in range(3):
        driver.start_reported(driver.place("j"), UNREACHABLE)
        driver.answers("a")
    assert not driver.ledger.hosts()[0].up

    driver.carry_out()
    driver.ledger.tick()
    assert CheckHost(host="a") not in driver.carry_out(), "it rests"
    driver.clock.now += 0.5
    driver.ledger.tick()
    assert CheckHost(host="a") in driver.carry_out()
    assert driver.answers("a")

    driver.run("j")
    driver.accept("k")
    driver.start_reported(driver.place("k"), UNREACHABLE)
    assert driver.answers("a"), "as the first time"


def test_starts_that_break_off_together_are_one_time():
    driver = Driver({"a": 8}, queue_timeout_s=1e9)
    containers = [driver.place(driver.accept(f"j{number}")) for number in range(8)]

    for container in containers:
        driver.start_reported(container, UNREACHABLE)

    assert driver.answers("a")


def test_each_try_has_a_container_name_of_its_own():
    driver = Driver({"a": 5, "b": 5})
    driver.accept("j")

    for _ in range(6):  # nothing is deleted meanwhile: both hosts are away
        driver.start_reported(driver.place("j"), UNREACHABLE)
        driver.clock.now += 15.0
        driver.answers("a"), driver.answers("b")
    driver.run("j")

    names = [order.container for order in driver.of(SubmitContainer)]
    assert len(set(names)) == 7
    assert len(driver.ledger.containers()) == 7
    assert sum(driver.slots().values()) == 7


def test_a_submitter_that_dies_is_replaced_and_the_container_is_the_same():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.place("j")

    driver.start_reported(container, None)

    assert driver.place("j") == container
    assert driver.slots() == {"a": 1}
    driver.runs(container)
    driver.end(container)
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS


def test_a_job_over_which_submitters_keep_dying_is_a_crash():
    driver = Driver({"a": 1})
    driver.accept("j")

    for _ in range(100):
        if driver.results("j"):
            break
        driver.start_reported("jobmanager-m-1-1", None)

    verdict = driver.result("j").verdict
    assert (verdict.outcome, verdict.evidence[0].kind) == (Outcome.CRASH, "submitter_died")
    assert driver.deletes() == ["jobmanager-m-1-1"]


def test_an_engine_that_says_no_for_good_is_a_crash_with_its_words():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")
    container = driver.place("j")

    driver.start_reported(container, StartRefused(reason="OCI runtime: no such runtime"))

    assert driver.result("j").verdict.outcome is Outcome.CRASH
    assert "no such runtime" in driver.result("j").verdict.text
    assert driver.deletes() == [container]


def test_the_image_that_vanishes_while_a_submitter_dies_sends_the_job_on():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")
    container = driver.place("j")
    one = driver.ledger.containers()[container]
    driver.answers(one, C)

    driver.start_reported(container, None)

    assert set(driver.placed().values()) == {"a", "b"} - {one}
    assert driver.deletes() == [container]


def test_a_container_that_ended_before_it_had_its_job_is_tried_again_a_few_times():
    driver = Driver({"a": 1})
    driver.accept("j")

    tries = 0
    while not driver.results("j"):
        tries += 1
        container = driver.run("j")
        driver.end(container, not_sent())
        driver.ledger.container_deleted(container)

    assert tries == 5
    assert driver.result("j").verdict.outcome is Outcome.CRASH
    assert "ended before it had its job" in driver.result("j").verdict.text
    assert driver.empty()


def test_a_job_that_was_delivered_and_not_heard_of_is_a_crash_and_never_run_a_second_time():
    driver = Driver({"a": 2})
    driver.accept("j")

    driver.end(driver.run("j"), cut_off(EndedDuringOutage(container=EXITED), outage_s=3.0))

    assert driver.result("j").verdict.evidence[0].kind == "ended_during_outage"
    assert len(driver.of(SubmitContainer)) == 1


def test_a_host_that_falls_silent_before_it_had_the_job_loses_it_to_another_at_once():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")
    container = driver.run("j")
    first = driver.of(SubmitContainer)[0].host

    driver.end(container, not_sent(EngineUnreachable(reason="connection refused")))

    assert set(driver.placed().values()) == {"a", "b"} - {first}
    assert [order.host for order in driver.of(NotifyHostDown)] == [first]


# ---- the rule for reruns


CUT_OFF = [
    cut_off(RemovedExternally()),
    cut_off(HostGivenUp(), outage_s=61.0),
    cut_off(ContainerEnded(container=EXITED)),
    cut_off(EndedDuringOutage(container=EXITED), outage_s=3.0),
    failed_here("no space left"),
]
RETRIED = Task("python3", command="true", retries=2)


@pytest.mark.parametrize("facts", CUT_OFF, ids=["removed", "host lost", "stopped", "engine away", "infrastructure_error"])
def test_a_run_that_was_cut_off_is_the_only_one_unless_the_task_allows_more(facts):
    driver = Driver({"a": 1, "b": 1})
    driver.accept("j")

    driver.end(driver.run("j"), facts)

    assert driver.result("j").verdict.outcome is Outcome.CRASH
    assert len(driver.of(SubmitContainer)) == 1


@pytest.mark.parametrize("facts", CUT_OFF, ids=["removed", "host lost", "stopped", "engine away", "infrastructure_error"])
def test_a_task_with_retries_is_run_again_on_another_host_and_the_result_says_so(facts):
    driver = Driver({"a": 3, "b": 3})
    driver.accept("other")
    driver.run("other")
    driver.accept("j", RETRIED)
    container = driver.run("j")  # on the host with fewer jobs

    driver.end(container, facts)
    again = driver.run("j")  # on the other one, although it has more
    driver.end(again)

    first, second = (order.host for order in driver.of(SubmitContainer) if order.request.job_id == "j")
    assert first != second
    assert container in driver.deletes()
    verdict = driver.result("j").verdict
    assert verdict.outcome is Outcome.SUCCESS
    assert [(e.kind, e.value) for e in verdict.evidence if e.kind == "reruns"] == [("reruns", 1)]
    assert next(e.value for e in verdict.evidence if e.kind == "cut_off").startswith(f"{first}: ")


def test_a_task_with_retries_is_run_again_on_the_same_host_when_there_is_no_other():
    driver = Driver({"a": 2})
    driver.accept("j", RETRIED)

    driver.end(driver.run("j"), CUT_OFF[0])

    assert driver.placed() == {"j": "a"}


def test_retries_are_bounded_and_the_last_crash_is_told():
    driver = Driver({"a": 9})
    driver.accept("j", RETRIED)

    for _ in range(3):
        driver.end(driver.run("j"), CUT_OFF[0])

    assert driver.result("j").verdict.outcome is Outcome.CRASH
    assert next(e.value for e in driver.result("j").verdict.evidence if e.kind == "reruns") == 2


@pytest.mark.parametrize(
    "facts",
    [
        exited(1),
        stopped_for(Limit.WALL, 90.0),
        cannot_run("there is no 'x' that can be run"),
        cut_off(ContainerEnded(container=replace(EXITED, oom_killed=True))),
    ],
    ids=["failed", "timeout", "not started", "overflow"],
)
def test_what_is_the_programs_own_doing_is_never_run_again(facts):
    driver = Driver({"a": 9})
    driver.accept("j", RETRIED)

    driver.end(driver.run("j"), facts)

    assert len(driver.results("j")) == 1
    assert len(driver.of(SubmitContainer)) == 1


def test_a_job_whose_end_somebody_asked_for_is_not_run_again():
    driver = Driver({"a": 9})
    driver.accept("j", RETRIED)
    container = driver.run("j")
    driver.ledger.kill("j", KillReason.KILL_JOB)

    driver.end(container, cut_off(HostGivenUp(), outage_s=1.0))

    assert driver.result("j").verdict.outcome is Outcome.KILLED


def test_a_run_without_a_word_long_after_its_limit_is_run_again_too():
    driver = Driver({"a": 9})
    driver.accept("j", RETRIED)
    driver.run("j")

    driver.clock.now += 90 + 60 + 61 + 64
    driver.ledger.tick()

    assert driver.placed() == {"j": "a"}


def test_what_a_waiter_was_about_to_stop_a_job_for_is_told_to_the_next_one_and_forgotten_with_the_run():
    driver = Driver({"a": 9})
    driver.accept("j", RETRIED)
    container = driver.run("j")
    stopped = LimitHit(limit=Limit.WALL, measured=90.0)

    driver.ledger.limit_reached(container, stopped)
    driver.ledger.waiter_died([container])
    assert driver.watches()[-1].limit_hit == stopped

    driver.end(container, CUT_OFF[0])
    driver.run("j")
    assert driver.watches()[-1].limit_hit is None


def test_a_job_that_was_taken_before_its_host_had_answered_is_told_why_nobody_can_run_it():
    driver = Driver({"a": 1}, up=False)
    driver.accept("large", memory_mib=100_000)
    driver.accept("unknown", Task("nobody has it", command="true"))

    driver.answers("a")

    assert "asks for 100000 MiB" in driver.result("large").verdict.text
    assert "no host has the environment or image 'nobody has it'; known: " in driver.result("unknown").verdict.text


def test_the_time_in_the_queue_begins_anew_when_a_job_comes_back():
    driver = Driver({"a": 1}, queue_timeout_s=100.0)
    driver.accept("j", RETRIED)
    container = driver.run("j")
    driver.clock.now += 120
    driver.accept("other")

    driver.end(container, CUT_OFF[0])
    driver.ledger.tick()

    assert driver.results("j") == []


def test_a_refusal_of_pid_1_is_not_tried_again():
    driver = Driver({"a": 1})
    driver.accept("j")

    driver.end(driver.run("j"), cannot_run("the image has no tar"))

    assert "the image has no tar" in driver.result("j").verdict.text


def test_another_waiter_takes_over_the_list_of_one_that_died():
    driver = Driver({"a": 3, "b": 3})
    for job_id in "jkl":
        driver.accept(job_id)
    containers = {order.request.job_id: (order.container, order.host) for order in driver.submits()}
    for container, _ in containers.values():
        driver.runs(container)
    driver.carry_out()
    driver.clock.now += 7.0
    driver.ledger.kill("k", KillReason.KILL_JOB)
    driver.commands.clear()
    host = containers["k"][1]

    driver.ledger.waiter_died([*(container for container, place in containers.values() if place == host), "unknown"])

    taken_over = {watch.request.job_id: watch for watch in driver.watches()}
    assert set(taken_over) == {job_id for job_id in "jkl" if containers[job_id][1] == host}
    assert all(watch.taken_over and watch.elapsed_s == 7.0 for watch in taken_over.values())
    assert taken_over["k"].kill_at_once
    assert not any(watch.kill_at_once for job_id, watch in taken_over.items() if job_id != "k")


def test_the_death_of_a_waiter_that_still_had_a_jobs_earlier_container_hands_nothing_over():
    """A run without a word, long past every limit, is given up while its waiter has it still."""
    driver = Driver({"a": 2}, host_lost_timeout_s=60.0)
    driver.accept("j", RETRIED)
    earlier = driver.run("j")
    driver.clock.now += RETRIED.limits.wall_s + 60 + 61 + 64
    driver.ledger.tick()
    later = driver.run("j")
    assert later != earlier
    driver.commands.clear()

    driver.ledger.waiter_died([earlier])

    assert not driver.watches()


def test_no_word_long_past_every_limit_is_a_crash_and_not_before():
    driver = Driver({"a": 1}, host_lost_timeout_s=60.0)
    driver.accept("j", wall_time_s=10)
    container = driver.run("j")

    driver.clock.now += 10 + 60 + 60 + 1024 / 16  # so long a link of 16 KiB/s needs for its output
    driver.ledger.tick()
    assert driver.results("j") == []
    driver.clock.now += 0.1
    driver.ledger.tick()

    assert driver.result("j").verdict.evidence[0].kind == "overdue"
    assert driver.deletes() == [container]
    driver.end(container)  # its waiter's word comes after all
    driver.ledger.tick()
    assert len(driver.results("j")) == 1


def test_a_killed_job_whose_waiter_is_silent_for_ever_is_still_killed():
    driver = Driver({"a": 1})
    driver.accept("j")
    driver.run("j")
    driver.ledger.kill("j", KillReason.KILL_JOB)

    driver.clock.now += 1e6
    driver.ledger.tick()

    assert driver.result("j").verdict.outcome is Outcome.KILLED


def test_a_job_that_waits_longer_than_it_may_is_a_crash_that_says_why_it_waited():
    driver = Driver({"a": 1}, queue_timeout_s=100.0)
    driver.accept("j")
    driver.start_reported(driver.place("j"), UNREACHABLE)

    driver.clock.now += 100.0
    driver.ledger.tick()
    assert driver.results("j") == []
    driver.clock.now += 0.1
    driver.ledger.tick()

    verdict = driver.result("j").verdict
    assert (verdict.outcome, verdict.evidence[0].kind) == (Outcome.CRASH, "queue_timeout")
    assert "connection refused" in verdict.text


def test_queue_time_is_over_for_those_that_wait_only():
    driver = Driver({"a": 2}, queue_timeout_s=100.0, host_lost_timeout_s=1000.0)
    driver.accept("placed")
    driver.accept("runs", wall_time_s=1000)
    driver.runs(next(order.container for order in driver.submits() if order.request.job_id == "runs"))
    driver.accept("waits")

    driver.ledger.host_down("a", "no route")
    driver.clock.now += 101
    driver.ledger.tick()

    assert len(driver.results("waits")) == 1
    assert driver.results("placed") == driver.results("runs") == []


def test_the_time_behind_other_jobs_is_no_time_in_the_queue():
    driver = Driver({"a": 1}, queue_timeout_s=100.0)
    driver.accept("runs", wall_time_s=1e6)
    driver.run("runs")
    driver.accept("waits")

    driver.clock.now += 1e5
    driver.ledger.tick()

    assert driver.results("waits") == []


def test_outages_of_all_hosts_that_could_run_a_job_add_up():
    driver = Driver({"a": 1, "b": 1}, queue_timeout_s=100.0)
    driver.answers("b", C)
    driver.accept("runs", wall_time_s=1e6)
    driver.run("runs")
    driver.accept("waits")

    for _ in range(2):
        driver.ledger.host_down("a", "no route")  # b is up, and has another image
        driver.clock.now += 50
        driver.answers("a")
        driver.clock.now += 1000
        driver.ledger.tick()
        assert driver.results("waits") == []
    driver.ledger.host_down("a", "no route")
    driver.clock.now += 1
    driver.ledger.tick()

    verdict = driver.result("waits").verdict
    assert verdict.text.startswith("waited longer than 100 s while no host was up that could run it")


def test_a_job_that_comes_during_an_outage_has_its_whole_time():
    driver = Driver({"a": 1}, up=False, queue_timeout_s=100.0)
    driver.accept("first")
    driver.clock.now += 60
    driver.accept("second")

    driver.clock.now += 60
    driver.ledger.tick()
    assert (len(driver.results("first")), driver.results("second")) == (1, [])
    driver.clock.now += 41
    driver.ledger.tick()
    assert len(driver.results("second")) == 1


def test_closing_kills_every_job_in_every_state_with_one_result_each():
    driver = Driver({"a": 2})
    driver.accept("runs")
    container = driver.run("runs")
    driver.accept("placed")
    placed = driver.place("placed")
    driver.accept("waits")

    assert driver.ledger.stop_accepting()
    driver.ledger.kill_all(KillReason.CLOSE)

    assert not driver.ledger.stop_accepting()
    assert [len(driver.results(job_id)) for job_id in ("runs", "placed", "waits")] == [0, 1, 1]
    driver.ledger.give_up_all()  # the host of the running one does not answer
    assert [driver.result(job_id).verdict.text for job_id in ("runs", "placed", "waits")] == ["killed: close"] * 3
    driver.runs(placed)
    assert sorted(driver.deletes()) == sorted([container, placed])
    driver.ledger.container_deleted(container), driver.ledger.container_deleted(placed)
    assert driver.empty()


def test_after_closing_no_job_is_taken():
    driver = Driver({"a": 1})
    driver.ledger.stop_accepting()

    for task in (None, LOCAL_ONLY):
        with pytest.raises(Closed):
            driver.accept("j", task)


def test_a_report_on_a_container_that_the_job_has_left_changes_nothing():
    driver = Driver({"a": 2})
    driver.accept("j")
    first = driver.run("j")
    driver.end(first, not_sent())
    second = driver.run("j")

    driver.end(first, SUCCESS)
    driver.ledger.job_sent(first)

    assert driver.results("j") == []
    driver.end(second, exited(1))
    assert driver.result("j").verdict.outcome is Outcome.FAILED


def test_waiting_for_the_end_is_bounded_and_sees_each_stage():
    driver = Driver({"a": 1})
    ledger = driver.ledger
    driver.accept("j")
    container = driver.run("j")
    assert not ledger.wait_until_decided(0)

    driver.end(container)
    assert ledger.wait_until_decided(0)
    assert not ledger.wait_until_called_back(0)
    ledger.callback_returned("j")
    assert ledger.wait_until_called_back(0)
    assert not ledger.wait_until_deleted(0)
    ledger.container_deleted(container)
    assert ledger.wait_until_deleted(0)


# ---- slots


def test_a_slot_is_counted_until_its_container_is_deleted():
    driver = Driver({"a": 1})
    driver.accept("j"), driver.accept("k")
    container = driver.run("j")
    driver.end(container)
    driver.ledger.callback_returned("j")

    assert driver.placed() == {}
    assert driver.ledger.container_deleted(container) == "j"
    assert driver.placed() == {"k": "a"}


def test_a_delete_that_fails_is_tried_again_ever_later_and_the_slot_stays_taken():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    driver.end(container)
    driver.carry_out()
    driver.commands.clear()

    delays = []
    for _ in range(9):
        driver.ledger.deletion_failed(container)
        delays.append(driver.of(DeleteContainer)[-1].delay_s)

    assert delays == sorted(delays)
    assert delays[0] > 0
    assert delays[-1] == delays[-2] == 30.0
    assert driver.slots() == {"a": 1}
    driver.ledger.container_deleted(container)
    assert driver.slots() == {"a": 0}
    driver.ledger.deletion_failed(container)
    assert driver.carry_out() == []


def test_a_volume_that_will_not_go_holds_no_slot_is_tried_again_and_closing_does_not_wait_for_it_for_ever():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    driver.end(container)
    driver.carry_out()

    driver.ledger.deletion_failed(container, only_volume_left=True)

    assert driver.slots() == {"a": 0}
    assert driver.of(DeleteContainer)[-1].delay_s > 0
    assert not driver.ledger.wait_until_deleted(0.0)
    for _ in range(3):
        driver.ledger.deletion_failed(container, only_volume_left=True)
    assert driver.ledger.wait_until_deleted(0.0)
    assert driver.ledger.container_deleted(container) == "j"
    assert driver.slots() == {"a": 0}


def test_a_volume_that_never_goes_is_left_to_sweeping_and_forgotten():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    driver.end(container)
    driver.carry_out()

    for _ in range(13):
        assert container in driver.ledger.containers()
        driver.ledger.deletion_failed(container, only_volume_left=True)

    assert driver.ledger.containers() == {}
    assert len(driver.deletes()) == 1 + 12


def test_a_container_is_deleted_once_however_often_it_is_said_to_be_gone():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.run("j")
    driver.end(container)

    assert driver.ledger.container_deleted(container) == "j"
    assert driver.ledger.container_deleted(container) is None
    assert driver.deletes() == [container]


def test_no_host_gets_more_jobs_at_once_than_it_takes():
    driver = Driver({"a": 2, "b": 3})
    for number in range(20):
        driver.accept(f"j{number}")

    assert len(driver.placed()) == 5
    assert driver.slots() == {"a": 2, "b": 3}
    assert driver.placed() == {}


def test_a_host_without_a_number_of_its_own_takes_what_its_cores_and_memory_allow():
    driver = Driver(
        [DockerHost("unix:///s", name="a"), DockerHost("unix:///t", name="b"), DockerHost("unix:///u", name="c")], up=False
    )
    assert [host.limit for host in driver.ledger.hosts()] == [0, 0, 0]

    driver.answers("a", cores=2, memory_mib=64_000)
    driver.answers("b", cores=64, memory_mib=2560)
    driver.answers("c", cores=4, memory_mib=100)

    assert [host.limit for host in driver.ledger.hosts()] == [4, 10, 1]


def test_a_stray_container_of_ours_takes_a_slot_until_it_is_deleted():
    driver = Driver({"a": 1})

    driver.ledger.strays_found("a", ["jobmanager-m-99-1"])

    assert driver.deletes() == ["jobmanager-m-99-1"]
    driver.accept("j")
    assert driver.placed() == {}
    driver.ledger.strays_found("a", ["jobmanager-m-99-1"])
    assert driver.deletes() == ["jobmanager-m-99-1"]
    assert driver.ledger.container_deleted("jobmanager-m-99-1") == ""
    assert driver.placed() == {"j": "a"}


def test_a_stray_container_of_ours_does_not_count_as_a_use_of_its_host():
    driver = Driver({"a": 1, "b": 1})
    driver.accept("first")
    driver.finish(driver.place("first"))  # on host a, so b is longer unused

    driver.ledger.strays_found("b", ["jobmanager-m-99-1"])
    driver.ledger.container_deleted("jobmanager-m-99-1")

    driver.accept("second")
    assert driver.placed() == {"second": "b"}


def test_a_container_of_a_job_is_no_stray():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.place("j")

    driver.ledger.strays_found("a", [container])

    assert driver.deletes() == []
    driver.runs(container)
    driver.end(container)
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS


# ---- which host


def test_the_host_with_the_fewest_running_jobs_is_chosen():
    driver = Driver({"a": 10, "b": 10, "c": 10})
    for number in range(7):
        driver.accept(f"j{number}")
    containers = {order.container: order.host for order in driver.submits()}
    assert sorted(driver.slots().values()) == [2, 2, 3]

    for container, host in containers.items():  # b alone becomes free
        driver.runs(container)
        if host == "b":
            driver.end(container)
            driver.ledger.container_deleted(container)
    driver.accept("next"), driver.accept("after")

    assert driver.placed() == {"next": "b", "after": "b"}


def test_jobs_that_come_one_by_one_go_round_all_equal_hosts():
    driver = Driver(dict.fromkeys("abcd", 5))
    went = []
    for number in range(12):
        driver.accept(f"j{number}")
        (order,) = driver.submits()
        went.append(order.host)
        driver.runs(order.container)
        driver.end(order.container)
        driver.ledger.container_deleted(order.container)

    assert went == went[:4] * 3
    assert set(went) == set("abcd")


def test_a_host_that_is_down_is_passed_over_and_takes_jobs_again_when_it_is_back():
    driver = Driver({"a": 5, "b": 5})
    driver.ledger.host_down("a", "no route")
    driver.ledger.host_down("a", "no route")
    assert driver.of(NotifyHostDown) == [NotifyHostDown(host="a", reason="no route")]
    for number in range(4):
        driver.accept(f"j{number}")
    assert set(driver.placed().values()) == {"b"}

    assert driver.answers("a") is True
    assert driver.answers("a") is False
    for number in range(4, 8):
        driver.accept(f"j{number}")

    assert set(driver.placed().values()) == {"a"}


def test_a_job_waits_for_a_host_that_is_down_when_no_other_has_its_image():
    driver = Driver({"a": 1, "b": 1})
    driver.answers("a", C)
    driver.ledger.host_down("a", "away")

    driver.accept("j", Task("c", command="true"))

    assert driver.placed() == {}
    assert driver.results("j") == []
    driver.answers("a", C)
    assert driver.placed() == {"j": "a"}


def test_a_host_that_has_never_answered_may_have_anything_until_it_answers():
    driver = Driver({"a": 1}, up=False)
    driver.accept("there", Task("python3"))
    driver.accept("not_there", Task("haskell"))
    driver.accept("too_large", memory_mib=100_000)

    driver.answers("a")

    assert driver.placed() == {"there": "a"}
    for job_id in ("not_there", "too_large"):
        assert driver.result(job_id).verdict.outcome is Outcome.CRASH
    assert "'haskell'" in driver.result("not_there").verdict.text


def test_an_image_that_vanishes_makes_its_jobs_wait_and_one_that_appears_lets_them_run():
    driver = Driver({"a": 1})
    driver.accept("first"), driver.accept("second")
    container = driver.run("first")
    driver.answers("a", C)  # python is gone
    driver.end(container)
    driver.ledger.container_deleted(container)

    assert driver.placed() == {}
    with pytest.raises(UnknownEnvironment):
        driver.accept("third")
    driver.answers("a", C, PYTHON)
    assert driver.placed() == {"second": "a"}


@pytest.mark.parametrize("is_seen_first", [False, True], ids=["by the submitter", "by a look at the host"])
def test_an_older_image_of_the_same_name_takes_the_place_of_one_that_is_gone(is_seen_first: bool):
    newer = replace(PYTHON, id="sha256:newer", references=("newer:1",), created_at_s=2.0)
    driver = Driver({"a": 1})
    driver.answers("a", PYTHON, newer)
    driver.accept("j")
    container = driver.place("j")
    if is_seen_first:
        driver.answers("a", PYTHON)

    driver.start_reported(container, StartFailed(reason="No such image", unreachable=False, image_missing=True))
    driver.ledger.container_deleted(container)

    assert [order.image for order in driver.of(SubmitContainer)] == ["sha256:newer", "sha256:py"]
    assert driver.of(CheckHost)


def test_an_image_that_is_gone_without_another_ends_its_jobs_at_once():
    driver = Driver({"a": 1})
    driver.accept("j")

    driver.start_reported(driver.place("j"), StartFailed(reason="No such image: py", unreachable=False, image_missing=True))

    assert driver.result("j").verdict.evidence[0].kind == "no_host"
    assert "No such image: py" in driver.result("j").verdict.text


def test_an_image_that_has_vanished_for_good_makes_its_jobs_crashes_in_words():
    driver = Driver({"a": 1, "b": 1})
    for name in ("runs", "runs too", "waits"):
        driver.accept(name)
    driver.carry_out()
    driver.answers("a", C), driver.answers("b", C)

    driver.ledger.tick()
    driver.clock.now += 19
    driver.ledger.tick()
    assert driver.results("waits") == []
    driver.clock.now += 1
    driver.ledger.tick()

    assert "no host has the environment or image 'python3'" in driver.result("waits").verdict.text
    assert driver.results("runs") == []


def test_a_job_for_an_image_on_a_host_that_is_down_goes_on_waiting():
    driver = Driver({"a": 1, "b": 1})
    driver.answers("a", C)
    driver.ledger.host_down("b", "away")
    driver.accept("waits")

    for _ in range(5):
        driver.clock.now += 15
        driver.ledger.tick()

    assert driver.results("waits") == []


def test_a_job_goes_only_where_its_image_and_its_memory_are():
    driver = Driver({"small": 9, "large": 9, "other": 9})
    driver.answers("small", memory_mib=512)
    driver.answers("other", C)
    for number in range(3):
        driver.accept(f"big{number}", memory_mib=1024)
        driver.accept(f"c{number}", Task("c"))
        driver.accept(f"p{number}", memory_mib=512)

    placed = driver.placed()

    assert {placed[f"big{number}"] for number in range(3)} == {"large"}
    assert {placed[f"c{number}"] for number in range(3)} == {"other"}
    assert {placed[f"p{number}"] for number in range(3)} <= {"small", "large"}


# ---- names of environments


@pytest.mark.parametrize(
    "environment",
    ["python3", "python:3", "docker.io/python:3", "docker.io/library/python:3", "library/python:3", "sha256:py", "mine"],
)
def test_an_environment_is_an_alias_a_label_or_a_reference(environment):
    driver = Driver({"a": 1}, aliases={"mine": "python:3"})

    driver.accept("j", Task(environment))

    (order,) = driver.submits()
    assert order.image == "sha256:py"


def test_a_reference_without_a_tag_means_the_latest():
    latest = Image(id="sha256:1", references=("localhost:5000/tool:latest",), labels={}, created_at_s=0.0)
    driver = Driver({"a": 1}, up=False)
    driver.answers("a", latest)

    driver.accept("j", Task("localhost:5000/tool"))

    assert driver.submits()[0].image == "sha256:1"


def test_an_alias_wins_over_a_label_of_the_same_name_even_where_its_image_is_missing():
    driver = Driver({"a": 1, "b": 1}, aliases={"python3": "gcc:13"})
    driver.answers("b", C)

    driver.accept("j")

    assert [(order.host, order.image) for order in driver.submits()] == [("b", "sha256:c")]


def test_of_two_images_with_one_label_the_newer_has_it():
    newer = Image(id="sha256:new", references=("python:4",), labels=PYTHON.labels, created_at_s=2.0)
    driver = Driver({"a": 9})
    for order_of_images in ((newer, PYTHON), (PYTHON, newer)):
        driver.answers("a", *order_of_images)
        driver.accept(f"j{order_of_images[0].id}")
        assert driver.submits()[0].image == "sha256:new"


def test_a_host_that_may_fetch_images_takes_any_and_those_that_have_it_by_its_id():
    driver = Driver([DockerHost("unix:///s", name="may", max_concurrent_jobs=1, pull="missing")], aliases={"rust": "rust:1.80"})

    driver.accept("j", Task("haskell:9"))
    assert driver.submits()[0].image == "haskell:9"
    driver.finish("jobmanager-m-1-1")
    driver.accept("k", Task("rust"))
    assert driver.submits()[0].image == "rust:1.80"
    driver.finish("jobmanager-m-2-1")
    driver.accept("l")
    assert driver.submits()[0].image == "sha256:py"


def test_available_environments_are_aliases_that_some_host_has_and_labels():
    driver = Driver({"a": 1, "b": 1}, aliases={"cc": "gcc:13", "ada": "ada:1"})
    assert driver.ledger.environments() == {"docker": ["python3"]}

    driver.answers("b", C)

    assert driver.ledger.environments() == {"docker": ["c", "cc", "python3"]}
    assert [host.environments for host in driver.ledger.hosts()] == [("python3",), ("c", "cc")]


# ---- refusals


def test_an_environment_that_no_host_could_have_is_refused_with_the_names_that_are_known():
    driver = Driver({"a": 1, "b": 1}, aliases={"ada": "ada:1"})
    driver.answers("b", C)

    with pytest.raises(UnknownEnvironment) as refused:
        driver.accept("j", Task("pyhton3"))

    said = str(refused.value)
    assert "'pyhton3'" in said
    for name in ("ada", "c", "gcc:13", "python3", "python:3"):
        assert f" {name}" in said
    assert "sha256:" not in said  # of no use to a person
    assert driver.carry_out() == []
    assert driver.ledger.unfinished() == 0


def test_an_alias_for_an_image_that_no_host_has_is_refused():
    driver = Driver({"a": 1}, aliases={"ada": "ada:1"})

    with pytest.raises(UnknownEnvironment, match="'ada'"):
        driver.accept("j", Task("ada"))


def test_without_any_image_the_refusal_says_none():
    driver = Driver({"a": 1}, up=False)
    driver.ledger.host_answered("a", driver_info(), [])

    with pytest.raises(UnknownEnvironment, match="known: none"):
        driver.accept("j")


def driver_info():
    from jobmanager.model.container import EngineInfo

    return EngineInfo(version="1", cores=1, memory_mib=1024, now_s=0.0, cgroup="2")


@pytest.mark.parametrize("limits", [{"memory_mib": 4097}, {"cpus": 4.5}, {"memory_mib": 10**30}])
def test_limits_that_no_host_has_are_refused_with_what_the_largest_has(limits):
    driver = Driver({"a": 1, "b": 1})
    driver.answers("b", memory_mib=1024, cores=2)

    with pytest.raises(Unsatisfiable, match="4096 MiB and 4 cores"):
        driver.accept("j", **limits)
    assert driver.ledger.unfinished() == 0


def test_limits_that_only_a_host_without_the_image_has_are_refused():
    driver = Driver({"a": 1, "b": 1})
    driver.answers("b", C, memory_mib=100_000)

    with pytest.raises(Unsatisfiable):
        driver.accept("j", memory_mib=50_000)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    driver = Driver({"a": 1}, max_waiting_jobs=2)
    driver.accept("runs")
    container = driver.run("runs")
    driver.accept("j"), driver.accept("k")

    with pytest.raises(QueueFull, match=r"2 jobs are waiting already.*max_waiting_jobs"):
        driver.accept("l")
    driver.end(container), driver.ledger.container_deleted(container), driver.carry_out()

    driver.accept("l")
    assert driver.ledger.unfinished() == 4


def test_an_id_is_refused_while_its_job_has_not_been_called_back_and_free_after():
    driver = Driver({"a": 5})
    driver.accept("j")
    with pytest.raises(DuplicateJob, match="'j' has not ended yet, or its callback has not returned"):
        driver.accept("j")
    first = driver.run("j")
    driver.end(first)
    with pytest.raises(DuplicateJob):
        driver.accept("j", LOCAL_ONLY)

    driver.ledger.callback_returned("j")
    driver.accept("j")
    second = driver.run("j")

    assert second != first
    driver.end(first)  # the old container's words are not the new job's
    assert len(driver.results("j")) == 1
    driver.end(second)
    assert len(driver.results("j")) == 2


# ---- the queue


def test_priority_comes_first_then_arrival():
    driver = Driver({"a": 1}, up=False)
    for job_id, priority in [("late", 5), ("first", 0), ("second", 0), ("urgent", -3), ("third", 0)]:
        driver.accept(job_id, priority=priority)
    driver.answers("a")

    order = []
    while placed := driver.placed():
        order += placed
        driver.finish(next(iter(driver.ledger.containers())))

    assert order == ["urgent", "first", "second", "third", "late"]


def test_a_job_that_cannot_run_now_holds_up_no_other():
    driver = Driver({"a": 2, "b": 2})
    driver.answers("b", C, memory_mib=512)
    driver.ledger.host_down("a", "away")
    driver.accept("waits for a", priority=-10)
    driver.accept("waits too", priority=-10, memory_mib=100)

    driver.accept("j", Task("c", limits=Limits(memory_mib=100)), priority=10)

    assert driver.placed() == {"j": "b"}


def test_a_job_that_was_sent_back_keeps_its_place_before_those_that_came_later():
    driver = Driver({"a": 1})
    driver.accept("first"), driver.accept("second")
    driver.start_reported(driver.place("first"), UNREACHABLE)
    driver.ledger.container_deleted("jobmanager-m-1-1")
    driver.answers("a")

    assert driver.placed() == {"first": "a"}


def test_where_a_job_stands_is_told():
    driver = Driver({"a": 1})
    driver.accept("runs", wall_time_s=50)
    container = driver.run("runs")
    for job_id in ("one", "two", "three"):
        driver.accept(job_id, wall_time_s=50)
    driver.accept("urgent", priority=-1, wall_time_s=50)
    info = driver.ledger.queue_info

    driver.clock.now += 20
    assert info("runs") == QueueInfo(-1, 30.0)
    assert [info(job_id).jobs_before for job_id in ("urgent", "one", "two", "three")] == [0, 1, 2, 3]
    assert {info(job_id).wait_s for job_id in ("urgent", "one", "two", "three")} == {None}  # nothing of the kind has ended
    assert info("nobody") is None

    driver.end(container)
    assert info("runs") is None
    driver.clock.now += 1000
    assert info("three") == QueueInfo(3, None)


def test_the_time_to_wait_is_learnt_from_what_ran_and_spread_over_all_slots():
    driver = Driver({"a": 2, "b": 2})
    task = Task("python3", command="true", name="exercise 1")
    for number in range(40):
        driver.accept(f"old{number}", task)
    while submits := driver.submits():
        driver.clock.now += 8.0
        for order in submits:
            driver.runs(order.container)
            driver.end(order.container)
            driver.ledger.container_deleted(order.container)
    for number in range(8):
        driver.accept(f"new{number}", task)
    driver.carry_out()

    # four run for about 8 s, and then four others
    assert [driver.ledger.queue_info(f"new{number}").wait_s for number in (4, 7)] == pytest.approx([8, 8], rel=0.01)
    driver.accept("one more", task)
    assert driver.ledger.queue_info("one more").wait_s == pytest.approx(16, rel=0.01)


def test_the_snapshot_has_what_runs_and_what_waits_in_its_order():
    driver = Driver({"a": 1})
    driver.accept("runs", wall_time_s=9)
    driver.clock.now += 4
    driver.run("runs")
    driver.accept("later", priority=1), driver.accept("sooner", Task("python3", name="exam"))
    driver.carry_out()

    running, waiting = driver.ledger.snapshot()

    assert running == [("runs", True, "python3 on a", "of runs", driver.clock.wall(), 9, "a")]
    assert waiting == [("sooner", True, "exam", "of sooner", 90), ("later", True, "python3", "of later", 90)]
    assert running[0].started_at == driver.clock.wall()
    assert waiting[0].launcher == "of sooner"


def test_a_result_carries_how_long_each_step_took():
    driver = Driver({"a": 1})
    driver.accept("j")
    driver.clock.now += 2.5
    driver.end(driver.run("j"), exited(timings={"run": 1.25}))

    assert driver.result("j").timings == {"waiting": 2.5, "start": 0.1, "run": 1.25}


def test_the_callback_comes_back_with_the_result():
    driver = Driver({"a": 1})
    callback = object()
    driver.accept("j", callback=callback)
    driver.end(driver.run("j"))

    assert driver.result("j").callback is callback


def test_nothing_is_remembered_of_jobs_that_are_over():
    driver = Driver({"a": 4}, max_waiting_jobs=10_000)
    driver.ledger.host_down("a", "away")
    driver.accept("stays first")  # it stands at the head of its line for ever
    for number in range(3000):
        driver.accept(f"j{number}")
        driver.ledger.kill(f"j{number}", KillReason.KILL_JOB)
        driver.ledger.callback_returned(f"j{number}")
        driver.ledger.take_commands()

    assert driver.ledger.unfinished() == 1
    queue = driver.ledger._queue
    assert len(queue) == len(queue.req_classes()) == 1
    assert len(queue.shares) == 1
    (priority_class,) = queue.req_classes()[0].priority_classes.values()
    assert sum(len(places._heap) for places in priority_class.queues.values()) < 100


def test_commands_are_given_once():
    driver = Driver({"a": 1})
    driver.accept("j")

    assert driver.carry_out()
    assert driver.carry_out() == []
    assert not driver.of(MonitorRun)
    assert not driver.of(PublishResult)


def test_the_end_of_waiting_for_hosts_is_theirs_or_the_clocks():
    driver = Driver({"a": 1, "b": 1}, up=False)
    seen = []

    driver.ledger.wait_for_hosts(lambda statuses: seen.append(list(statuses)) or True, 0)
    driver.answers("a"), driver.ledger.host_down("b", "away")
    driver.ledger.wait_for_hosts(lambda statuses: bool(seen.append(list(statuses))), 0)

    assert [[status.name for status in statuses] for statuses in (seen[0], seen[-1])] == [["UNKNOWN"] * 2, ["UP", "DOWN"]]


def test_how_long_kinds_of_task_take_is_remembered_of_the_latest_only():
    durations = Durations()
    for number in range(5000):
        durations.record(f"kind {number}", 7.0)

    assert len(durations._averages) == 1000
    assert durations.cost_s(DurationKey("kind 4999", 100.0)) == 7.0
    assert durations.cost_s(DurationKey("kind 0", 100.0)) == 2.0  # forgotten: the first guess
    assert durations.cost_s(DurationKey("kind 4999", 3.0)) == 3.0  # no longer than its limit
    before = durations.copy()
    durations.record("kind 4999", 17.0)
    assert durations.cost_s(DurationKey("kind 4999", 100.0)) == 10.0
    assert before.cost_s(DurationKey("kind 4999", 100.0)) == 7.0


def test_a_container_whose_removal_is_under_way_is_not_removed_twice():
    driver = Driver({"a": 1})
    driver.accept("j")
    container = driver.place("j")
    driver.start_reported(container, None)  # and another submitter goes on with it
    driver.runs(container)
    driver.end(container)

    driver.runs(container)  # what the first one had to say comes late
    driver.start_reported(container, None)

    assert driver.deletes() == [container]


def test_an_id_that_is_used_again_has_its_new_place_only():
    driver = Driver({"a": 1}, up=False)
    driver.accept("again", priority=-5)
    driver.ledger.kill("again", KillReason.KILL_JOB)
    driver.ledger.callback_returned("again")
    driver.accept("other", priority=0)
    driver.accept("again", priority=5)
    driver.answers("a")

    placed = []
    while now := driver.placed():
        placed += now
        driver.finish(next(iter(driver.ledger.containers())))

    assert placed == ["other", "again"]


def test_a_job_over_which_three_waiters_die_is_a_crash_and_its_neighbours_go_on():
    driver = Driver({"a": 3})
    for job_id in ("poison", "one", "two"):
        driver.accept(job_id)
    containers = {order.request.job_id: order.container for order in driver.submits()}
    for container in containers.values():
        driver.runs(container)
    driver.carry_out()

    for _ in range(3):
        driver.ledger.waiter_died(list(containers.values()), over=containers["poison"])
    for _ in range(10):
        driver.ledger.waiter_died([containers["one"], containers["two"]], over="")
    driver.carry_out()

    verdict = driver.result("poison").verdict
    assert (verdict.outcome, verdict.text) == (Outcome.CRASH, "the waiter process died 3 times when it was given this job")
    assert [evidence.kind for evidence in verdict.evidence] == ["waiter_died"]
    driver.end(containers["one"], SUCCESS)
    driver.end(containers["two"], SUCCESS)
    assert {driver.result(job_id).verdict.outcome for job_id in ("one", "two")} == {Outcome.SUCCESS}
