"""From run to run: what becomes of a job when a later phase cannot be had."""

from __future__ import annotations

from jobmanager import Outcome, Phase, Pipeline, Task
from jobmanager.results.facts import EngineUnreachable, Limit, LimitHit
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling.commands import SubmitContainer
from tests.support.run_facts import cut_off, exited, not_sent
from tests.unit.ledger_driver import Driver

TASK = Task("python3", command="x")
TWO = Pipeline([Phase("one", TASK, writes=["work"]), Phase("two", TASK, reads=["work"])])


def in_its_second_phase() -> Driver:
    """A driver with a job whose first phase has ended, and whose second container runs."""
    driver = Driver({"a": 1})
    driver.accept("j", TWO)
    driver.run("j")
    driver.runs("jobmanager-m-1-1-p2")
    driver.end("jobmanager-m-1-1-p1", exited())
    driver.ledger.container_deleted("jobmanager-m-1-1-p1")
    driver.carry_out()
    return driver


def ended_as(driver: Driver) -> tuple[Outcome, str]:
    """The outcome, and the kind of evidence after the phase's name."""
    verdict = driver.result("j").verdict
    assert verdict.evidence[0].value == "two"
    return verdict.outcome, verdict.evidence[1].kind


def test_a_phase_whose_container_ended_before_it_had_its_run_is_a_crash_as_its_volumes_may_be_lost() -> None:
    driver = in_its_second_phase()
    driver.end("jobmanager-m-1-1-p2", not_sent())
    assert ended_as(driver) == (Outcome.CRASH, "phase_not_started")


def test_a_phase_whose_host_did_not_answer_when_it_was_to_begin_is_a_crash() -> None:
    driver = in_its_second_phase()
    driver.end("jobmanager-m-1-1-p2", not_sent(EngineUnreachable(reason="no answer")))
    assert ended_as(driver) == (Outcome.CRASH, "phase_not_started")


def test_a_phase_whose_secret_is_missing_by_now_is_a_crash() -> None:
    driver = in_its_second_phase()
    driver.ledger.secret_missing("jobmanager-m-1-1-p2", "phase 'two' wants the secret 'key'")
    assert ended_as(driver) == (Outcome.CRASH, "secret_missing")


def test_a_phase_whose_volumes_were_lost_is_a_crash_when_its_turn_comes() -> None:
    driver = Driver({"a": 1})
    driver.accept("j", TWO)
    driver.run("j")
    assert driver.of(SubmitContainer)[-1].volume_holders == ("jobmanager-m-1-1-p1",)
    driver.ledger.volumes_lost("jobmanager-m-1-1-p2", "it had ended")  # started ahead: its turn has not come
    driver.end("jobmanager-m-1-1-p1", exited())
    again = driver.of(SubmitContainer)[-1]
    assert (again.container, again.volume_holders) == ("jobmanager-m-1-1-p2.2", ("jobmanager-m-1-1-p1",))
    driver.ledger.volumes_lost(again.container, "it had ended")
    assert ended_as(driver) == (Outcome.CRASH, "volumes_lost")


def test_a_phase_that_decides_nothing_is_no_reason_to_run_the_job_again() -> None:
    """Neither when its run is cut off, nor when its waiter never reports."""
    task = Task("python3", command="x", retries=1)
    for ends in ("cut off", "overdue"):
        driver = Driver({"a": 1})
        driver.accept("j", Pipeline([Phase("one", task), Phase("report", task, when="always")]))
        driver.run("j")
        driver.runs("jobmanager-m-1-1-p2")
        driver.end("jobmanager-m-1-1-p1", exited(1))
        driver.carry_out()

        if ends == "cut off":
            driver.end("jobmanager-m-1-1-p2", cut_off())
        else:
            driver.clock.now += 1e6
            driver.ledger.tick()

        assert driver.result("j").verdict.outcome is Outcome.FAILED, ends


def test_submitters_that_die_over_a_later_phase_do_not_end_the_one_that_runs() -> None:
    driver = Driver({"a": 1})
    driver.accept("j", TWO)
    driver.run("j")
    for _ in range(11):
        driver.ledger.submitter_died("jobmanager-m-1-1-p2")
    assert driver.results("j") == []

    driver.end("jobmanager-m-1-1-p1", exited())
    again = driver.of(SubmitContainer)[-1]
    assert again.container == "jobmanager-m-1-1-p2.2"
    driver.ledger.submitter_died(again.container)
    assert ended_as(driver) == (Outcome.CRASH, "submitter_died")


def test_a_host_that_answers_checks_and_starts_nothing_is_lost() -> None:
    driver = Driver({"a": 1}, host_lost_timeout_s=60.0)
    driver.accept("j", TWO)
    driver.run("j")
    container, begin = "jobmanager-m-1-1-p2", driver.clock.now
    driver.end("jobmanager-m-1-1-p1", exited())
    while driver.results("j") == []:
        assert driver.clock.now < begin + 300.0, "it waits for ever"
        driver.ledger.start_failed(container, reason="no answer", unreachable=True)
        while driver.results("j") == [] and driver.of(SubmitContainer)[-1].container == container:
            driver.clock.now += 1.0
            driver.answers("a")
            driver.ledger.tick()
        container = driver.of(SubmitContainer)[-1].container
    assert ended_as(driver) == (Outcome.CRASH, "host_lost")


def test_a_phase_that_was_given_up_has_a_verdict_that_says_so() -> None:
    driver = Driver({"a": 1})
    driver.accept("j", TWO)
    driver.run("j")
    driver.ledger.kill_all(KillReason.CLOSE)
    driver.ledger.give_up_all()
    result = driver.result("j")
    assert result.verdict.outcome is Outcome.KILLED
    one, two = result.phases
    assert one.verdict is not None and one.verdict.evidence[0].kind == "given_up"
    assert two.verdict is None


def test_a_late_report_of_a_container_says_nothing_of_the_next_phase() -> None:
    driver = Driver({"a": 1})
    driver.accept("j", TWO)
    driver.run("j")
    driver.end("jobmanager-m-1-1-p1", exited())  # it is kept until the next one has its volumes
    late = LimitHit(limit=Limit.WALL, measured=9.0)
    driver.ledger.limit_reached("jobmanager-m-1-1-p1", late)
    for _ in range(3):
        driver.ledger.waiter_died(["jobmanager-m-1-1-p1"], over="jobmanager-m-1-1-p1")
    driver.runs("jobmanager-m-1-1-p2")
    driver.ledger.container_deleted("jobmanager-m-1-1-p1")
    assert driver.watches()[-1].limit_hit is None
    driver.end("jobmanager-m-1-1-p2", exited())
    assert driver.result("j").verdict.outcome is Outcome.SUCCESS


def test_a_container_is_there_until_each_container_that_is_to_have_its_volumes_has_started() -> None:
    """Its name is asked for by their submitters, also when another one has the volumes by then."""
    driver = Driver({"a": 1})
    writes, reads = Phase("one", TASK, writes=["work"]), {"reads": ["work"]}
    driver.accept("j", Pipeline([writes, Phase("explain", TASK, when="on_failure", **reads), Phase("two", TASK, **reads)]))
    driver.run("j")
    holders = {command.container: command.volume_holders for command in driver.of(SubmitContainer)[1:]}
    assert holders == dict.fromkeys(["jobmanager-m-1-1-p2", "jobmanager-m-1-1-p3"], ("jobmanager-m-1-1-p1",))

    driver.runs("jobmanager-m-1-1-p2")
    driver.end("jobmanager-m-1-1-p1", exited())
    assert driver.deletes() == []
    driver.runs("jobmanager-m-1-1-p3")
    assert sorted(driver.deletes()) == ["jobmanager-m-1-1-p1", "jobmanager-m-1-1-p2"]
