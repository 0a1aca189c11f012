"""The life of a pipeline, driven through the ledger: which containers it has at which moment, and every event at every moment."""

from __future__ import annotations

import itertools
import random

import pytest

from jobmanager import Limits, Outcome, Phase, Pipeline, Task
from jobmanager.ipc.messages import StartFailed, StartRefused
from jobmanager.model.container_states import ContainerState
from jobmanager.results.facts import HostGivenUp, Limit, RemovedExternally
from jobmanager.results.verdict import KillReason
from jobmanager.scheduling import phases
from jobmanager.scheduling.commands import (
    DeleteContainer,
    DeleteVolumes,
    KillRun,
    MonitorRun,
    NotifyJobPlaced,
    NotifyPhaseEnded,
    PublishResult,
    SubmitContainer,
)
from tests.support.run_facts import cannot_run, cut_off, exited, not_sent, stopped_for
from tests.unit.ledger_driver import SUCCESS, Driver

FAILURE = exited(1)


@pytest.fixture(autouse=True)
def one_started_ahead(monkeypatch):
    """So each container is ordered at a moment of its own. ``test_random_pipelines.py`` has as many as there are."""
    monkeypatch.setattr(phases, "_STARTED_AHEAD", 1)


def phase(name, **options):
    limits = Limits(wall_time_s=options.pop("wall_time_s", 10), memory_mib=64)
    return Phase(name, Task("python3", command="x", limits=limits, retries=options.pop("retries", 0)), **options)


COURSE = Pipeline(
    [phase("clone", writes=["work"]), phase("test", reads=["work"], writes=["out"]), phase("report", reads=["out"], when="always")]
)
P1, P2, P3 = (f"jobmanager-m-1-1-p{number}" for number in (1, 2, 3))
VOLUMES = ("jobmanager-m-1-1-v-work", "jobmanager-m-1-1-v-out")


class Course:
    """A driver with one pipeline, and a log of what was ordered, in words."""

    def __init__(self, pipeline=COURSE, **options):
        self.driver = Driver({"a": 1}, queue_timeout_s=1000.0, **options)
        self.driver.accept("j", pipeline)
        self.said = 0

    @property
    def job(self):
        return self.driver.ledger._jobs["j"]

    def orders(self):
        """What was ordered since the last look."""
        self.driver.carry_out()
        new, self.said = self.driver.commands[self.said :], len(self.driver.commands)
        words = {SubmitContainer: "make", MonitorRun: "run", DeleteContainer: "remove", KillRun: "kill"}
        found = []
        for command in new:
            if isinstance(command, DeleteVolumes):
                found.append("remove volumes")
            elif isinstance(command, PublishResult):
                found.append(f"publish {command.verdict.outcome}")
            elif type(command) in words:
                found.append(f"{words[type(command)]} {command.container.removeprefix('jobmanager-m-1-')}")
        return found

    def started(self, *containers):
        for container in containers:
            self.driver.runs(container)
        return self.removing(self.orders())

    def ended(self, container, facts=SUCCESS):
        """Its run ends, and what is then to be removed is."""
        self.driver.end(container, facts)
        return self.removing(self.orders())

    def removing(self, orders):
        """The same orders and those that follow when the containers are removed."""
        for container in [f"jobmanager-m-1-{order.removeprefix('remove ')}" for order in orders if order.startswith("remove 1-")]:
            self.driver.ledger.container_deleted(container)
        return orders + (self.removing(self.orders()) if any(order.startswith("remove 1-") for order in orders) else [])

    def result(self):
        return self.driver.result("j")

    def whys(self):
        return [report.why_not_run if report.verdict is None else str(report.verdict.outcome) for report in self.result().phases]


def test_the_next_container_is_made_while_a_phase_runs_and_a_spent_one_goes_when_the_next_has_its_volumes():
    course = Course()
    assert course.orders() == ["make 1-p1"]
    assert course.started(P1) == ["run 1-p1", "make 1-p2"]
    assert course.started(P2) == []
    assert course.ended(P1) == ["remove 1-p1", "make 1-p3", "run 1-p2"]
    assert course.started(P3) == []
    assert course.ended(P2) == ["remove 1-p2", "run 1-p3"]
    assert course.ended(P3) == ["publish success", "remove 1-p3", "remove volumes"]
    assert course.driver.of(DeleteVolumes)[0].names == VOLUMES
    course.driver.ledger.volumes_deleted("jobmanager-m-1-1")
    assert course.driver.empty() and course.driver.ledger.wait_until_deleted(0)


def test_a_slow_next_container_keeps_the_spent_one():
    course = Course()
    course.orders()
    course.started(P1)
    assert course.ended(P1) == ["make 1-p3"]  # without the first one the volume would be empty
    assert course.started(P2) == ["remove 1-p1", "run 1-p2"]
    assert course.ended(P2) == []
    assert course.started(P3) == ["remove 1-p2", "run 1-p3"]


def between_two():
    """A job whose second phase has a container, and whose first container is being removed."""
    course = Course(host_lost_timeout_s=30)
    course.orders()
    course.started(P1, P2)
    course.driver.end(P1)
    assert course.orders() == ["remove 1-p1", "make 1-p3"]
    return course


def test_a_phase_runs_beside_none_that_may_still_write_to_its_volumes():
    """A program that forged its end is frozen, and goes on for a moment when it is removed."""
    course = between_two()
    course.driver.ledger.tick()
    course.driver.ledger.deletion_failed(P1)
    assert course.orders() == ["remove 1-p1"]
    course.driver.ledger.container_deleted(P1)
    assert course.orders() == ["run 1-p2"]


def test_a_container_whose_own_volume_alone_is_left_is_gone():
    course = between_two()
    course.driver.ledger.deletion_failed(P1, only_volume_left=True)
    assert course.orders()[-1:] == ["run 1-p2"]


def test_a_phase_waits_for_no_container_that_only_read_its_volumes():
    course = Course(Pipeline([phase("one", writes=["v"]), phase("two", reads=["v"]), phase("three", reads=["v"])]))
    course.orders()
    course.started(P1, P2)
    course.ended(P1)
    course.started(P3)
    course.driver.end(P2)
    assert course.orders() == ["remove 1-p2", "remove 1-p1"]
    course.driver.ledger.container_deleted(P1)
    assert course.orders() == ["run 1-p3"]


def test_a_removal_that_never_ends_is_a_lost_host():
    course = between_two()
    for _ in range(40):
        course.driver.clock.now += 1
        course.driver.ledger.tick()
    assert course.whys() == ["success", "crash", "the job was over before"]
    assert course.result().verdict.evidence[1].kind == "host_lost"


def test_a_job_that_is_killed_while_a_phase_waits_for_a_removal_runs_only_what_always_runs():
    course = between_two()
    course.driver.ledger.kill("j", KillReason.KILL_JOB)
    assert course.orders() == []
    course.driver.ledger.container_deleted(P1)
    assert course.started(P3) == ["remove 1-p2", "run 1-p3"]


def test_a_volume_is_kept_over_phases_that_do_not_have_it():
    pipeline = Pipeline([phase("one", writes=["v"]), phase("two"), phase("three"), phase("four", reads=["v"])])
    course = Course(pipeline)
    course.orders()
    assert course.started(P1) == ["run 1-p1", "make 1-p2", "make 1-p4"]
    assert course.started(P2) == []
    assert course.ended(P1) == ["run 1-p2", "make 1-p3"]  # the fourth does not have the volume yet
    assert course.started("jobmanager-m-1-1-p4") == ["remove 1-p1"]
    assert course.started(P3) == []
    assert course.ended(P2) == ["remove 1-p2", "run 1-p3"]
    assert course.ended(P3) == ["remove 1-p3", "run 1-p4"]


def test_a_failure_lets_go_what_is_needed_no_more_and_always_phases_run():
    course = Course(Pipeline([phase("one", writes=["v"]), phase("two"), phase("report", reads=["v"], when="always")]))
    course.orders()
    assert course.started(P1) == ["run 1-p1", "make 1-p2", "make 1-p3"]
    course.started(P2, P3)
    assert course.ended(P1, FAILURE) == ["remove 1-p2", "remove 1-p1", "run 1-p3"]
    assert course.ended(P3, FAILURE) == ["publish failed", "remove 1-p3", "remove volumes"]
    assert course.whys() == ["failed", "a phase before it has stopped the job", "failed"]


def test_a_container_that_was_being_made_for_a_phase_that_is_not_run_is_removed_when_it_is_there():
    course = Course(Pipeline([phase("one"), phase("two"), phase("report", when="always")]))
    course.orders()
    assert course.started(P1) == ["run 1-p1", "make 1-p2"]
    assert course.ended(P1, FAILURE) == ["make 1-p3", "remove 1-p1"]
    assert course.started(P2) == ["remove 1-p2"]
    assert course.started(P3) == ["run 1-p3"]


def test_the_deadline_leaves_what_it_leaves():
    pipeline = Pipeline([phase("one"), phase("two"), phase("three"), phase("report", when="always", wall_time_s=4)], wall_time_s=16)
    course = Course(pipeline)
    course.orders()
    course.started(P1, P2)
    course.driver.clock.now += 7
    course.ended(P1)
    course.started(P3)
    course.driver.clock.now += 5
    ended = course.ended(P2)
    limits = {watch.run: watch.limits.wall_s for watch in course.driver.watches()}
    assert limits == {0: 10, 1: 5}
    assert "run 1-p3" not in ended
    assert course.started("jobmanager-m-1-1-p4") == ["run 1-p4"]
    assert course.driver.watches()[-1].limits.wall_s == 4
    course.ended("jobmanager-m-1-1-p4")
    assert course.whys() == ["success", "success", "timeout", "success"]
    assert course.result().verdict.text == "phase 'three': the job's deadline of 16 s left no time for it"


def test_a_phase_is_told_which_devices_its_volumes_had():
    course = Course()
    course.orders()
    course.started(P1, P2)
    course.ended(P1, exited(volume_devices={"work": "0:45", "forged": "0:1"}))
    course.started(P3)
    course.ended(P2, exited(volume_devices={"out": "0:46"}))
    assert [dict(watch.volume_devices) for watch in course.driver.watches()] == [{}, {"work": "0:45"}, {"out": "0:46"}]


def test_a_lost_host_runs_nothing_more():
    course = Course()
    course.orders()
    course.started(P1, P2)
    course.driver.ledger.host_down("a", "away")
    assert "publish crash" in course.ended(P1, cut_off(HostGivenUp(), outage_s=61))
    assert course.whys()[1:] == ["the job was over before"] * 2


def test_a_host_that_is_lost_between_two_phases_is_waited_for_and_given_up():
    course = Course(host_lost_timeout_s=30)
    course.orders()
    course.started(P1)
    course.driver.start_reported(P2, StartFailed(reason="no answer", unreachable=True))
    course.ended(P1)
    course.driver.ledger.host_down("a", "away")
    for _ in range(20):
        course.driver.clock.now += 2
        course.driver.ledger.tick()
    assert course.result().verdict.outcome is Outcome.CRASH
    assert course.whys() == ["success", "crash", "the job was over before"]


def test_a_second_kill_ends_the_phase_that_always_runs():
    course = Course()
    course.orders()
    course.started(P1, P2)
    course.driver.ledger.kill("j", KillReason.KILL_JOB)
    assert course.orders() == ["make 1-p3", "kill 1-p1"]  # the second has what the first wrote
    assert course.ended(P1, cut_off()) == ["remove 1-p1"]
    assert course.started(P3) == ["remove 1-p2", "run 1-p3"]
    course.driver.ledger.kill("j", KillReason.KILL_JOB)
    assert course.orders() == ["kill 1-p3"]
    assert course.ended(P3, cut_off())[0] == "publish killed"


KEPT = Pipeline([phase("one", writes=["v"]), phase("two", writes=["v"]), phase("report", reads=["v"], when="always")])


def test_a_kill_waits_for_the_container_that_keeps_what_the_report_needs():
    course = Course(KEPT)
    course.orders()
    assert course.started(P1) == ["run 1-p1", "make 1-p2"]
    course.driver.ledger.kill("j", KillReason.KILL_JOB)
    assert course.orders() == ["make 1-p3"]  # and the second is removed when it is there
    assert course.started(P2) == ["remove 1-p2"]
    assert course.started(P3) == ["kill 1-p1"]
    assert course.ended(P1, cut_off()) == ["remove 1-p1", "run 1-p3"]


@pytest.mark.parametrize(
    "reply", [StartRefused(reason="bad"), StartFailed(reason="no", unreachable=False), StartFailed(reason="no", unreachable=True)]
)
def test_a_kill_waits_for_no_container_that_cannot_be_had_and_a_second_one_for_none_at_all(reply):
    for second in (False, True):
        course = Course(KEPT)
        course.orders()
        course.started(P1)
        course.driver.ledger.kill("j", KillReason.KILL_JOB)
        assert course.orders() == ["make 1-p3"]
        if second:
            course.driver.ledger.kill("j", KillReason.KILL_JOB)
        else:
            course.driver.start_reported(P3, reply)
            course.driver.ledger.tick()
        assert course.orders()[0 if second else -1] == "kill 1-p1"
        course.driver.ledger.tick()
        assert "kill 1-p1" not in course.orders()


@pytest.mark.parametrize("reason", [KillReason.CLOSE, KillReason.DRAIN_OVER])
def test_a_manager_that_closes_runs_no_always_phase(reason):
    course = Course()
    course.orders()
    course.started(P1)
    course.driver.ledger.kill("j", reason)
    course.orders()
    assert course.ended(P1, cut_off())[0] == "publish killed"
    course.started(P2)
    assert {P1, P2} <= set(course.driver.deletes())


# ---- every event at every moment

ALONE = Pipeline([phase("clone"), phase("test", retries=1), phase("report", when="always")])
MOMENTS = {
    "waiting": lambda course: course.driver.ledger.host_down("a", "away"),
    "first starting": lambda course: None,
    "in the first": lambda course: course.started(P1),
    "in the first, the second ready": lambda course: course.started(P1, P2),
    "between first and second": lambda course: (course.started(P1), course.ended(P1)),
    "in the second": lambda course: (course.started(P1, P2), course.ended(P1)),
    "in the second, the third ready": lambda course: (course.started(P1, P2), course.ended(P1), course.started(P3)),
    "second failed, the third starting": lambda course: (course.started(P1, P2), course.ended(P1), course.ended(P2, FAILURE)),
    "in the third after a failure": lambda course: (
        course.started(P1, P2),
        course.ended(P1),
        course.started(P3),
        course.ended(P2, FAILURE),
    ),
    "in the third after a kill": lambda course: (
        course.started(P1, P2),
        course.driver.ledger.kill("j", KillReason.KILL_JOB),
        course.ended(P1, cut_off()),
        course.started(P3),
    ),
    "done": lambda course: (course.started(P1, P2), course.ended(P1), course.started(P3), course.ended(P2), course.ended(P3)),
}
TO_START = (ContainerState.STARTING, ContainerState.UNWANTED)


def _of_a_submitter(reply):
    def report(course, container):
        if course.driver.ledger._containers.get(container).state in TO_START:
            course.driver.start_reported(container, reply)

    return report


def _of_a_waiter(facts):
    return lambda course, container: course.driver.end(container, facts)


PER_CONTAINER = {
    "runs": lambda course, container: (
        course.driver.ledger._containers.get(container).state in TO_START and course.driver.runs(container)
    ),
    "image gone": _of_a_submitter(StartFailed(reason="image gone", unreachable=False, image_missing=True)),
    "unreachable": _of_a_submitter(StartFailed(reason="refused", unreachable=True)),
    "refused": _of_a_submitter(StartRefused(reason="bad")),
    "submitter died": _of_a_submitter(None),
    "began": lambda course, container: course.driver.ledger.job_sent(container),
    "ended": _of_a_waiter(SUCCESS),
    "failed": _of_a_waiter(FAILURE),
    "timed out": _of_a_waiter(stopped_for(Limit.WALL, 10.0)),
    "cannot run": _of_a_waiter(cannot_run("a secret is missing")),
    "never began": _of_a_waiter(cut_off()),
    "untouched": _of_a_waiter(not_sent()),
    "gone": _of_a_waiter(cut_off(RemovedExternally())),
    "host lost": _of_a_waiter(cut_off(HostGivenUp(), outage_s=61)),
    "waiter died": lambda course, container: course.driver.ledger.waiter_died([container]),
    "waiter died over it": lambda course, container: course.driver.ledger.waiter_died([container], over=container),
    "delete failed": lambda course, container: course.driver.ledger.deletion_failed(container),
    "deleted": lambda course, container: (
        course.driver.ledger._containers.get(container).state is ContainerState.REMOVING
        and course.driver.ledger.container_deleted(container)
    ),
}
OF_ALL = {
    "kill": lambda course: course.driver.ledger.kill("j", KillReason.KILL_JOB),
    "close": lambda course: course.driver.ledger.kill_all(KillReason.CLOSE),
    "give up": lambda course: course.driver.ledger.give_up_all(),
    "host silent": lambda course: course.driver.ledger.host_down("a", "away"),
    "host answers": lambda course: course.driver.answers("a"),
    "stray": lambda course: course.driver.ledger.strays_found("a", ["jobmanager-m-9-9", *course.driver.ledger.containers()]),
    "a minute passes": lambda course: course.driver.ledger.tick(),
    "a year passes": lambda course: (
        setattr(course.driver.clock, "now", course.driver.clock.now + 3e7),
        course.driver.ledger.tick(),
    ),
    "volumes deleted": lambda course: course.driver.ledger.volumes_deleted("jobmanager-m-1-1"),
    "volumes stay": lambda course: course.driver.ledger.volume_deletion_failed("jobmanager-m-1-1"),
}


def _reports(course):
    """What the world can report now, by name."""
    found = {name: (lambda report=report: report(course)) for name, report in OF_ALL.items()}
    for container, (name, report) in itertools.product(list(course.driver.ledger.containers()), PER_CONTAINER.items()):
        found[f"{container[-2:]} {name}"] = lambda report=report, container=container: (
            container in course.driver.ledger.containers() and report(course, container)
        )
    return found


def _bring_to_an_end(course):
    """Do what the roles would do, until nothing is left."""
    driver = course.driver
    for _ in range(80):
        driver.answers("a")
        driver.clock.now += 1
        driver.ledger.tick()
        driver.ledger.kill("j", KillReason.KILL_JOB)
        driver.carry_out()
        for container in list(driver.ledger.containers()):
            state = driver.ledger._containers[container].state
            if state in TO_START:
                driver.runs(container)
            elif state is ContainerState.BUSY:
                driver.end(container)
            elif state in (ContainerState.REMOVING, ContainerState.GONE):
                driver.ledger.container_deleted(container)
        for command in driver.of(PublishResult):
            driver.ledger.callback_returned(command.request.job_id)
        if not driver.ledger.unfinished() and driver.ledger.containers() == {}:
            return
    raise AssertionError("it does not end")


def _check(course, *what):
    driver = course.driver
    _bring_to_an_end(course)
    assert len(driver.results("j")) == 1, what
    assert driver.empty(), what
    given = [(watch.container, watch.run) for watch in driver.watches() if not watch.taken_over]
    assert len(given) == len(set(given)), (what, "a container was given its run twice")
    slots = {command.container.rpartition("-p")[0] for command in driver.of(SubmitContainer)}
    for slot, run in itertools.product(slots, range(3)):
        of_run = [container for container, number in given if number == run and container.startswith(slot)]
        assert len(of_run) <= 1, (what, "a phase was run twice", of_run)
    made = {command.container for command in driver.of(SubmitContainer)}
    assert made <= set(driver.deletes()), (what, "a container was not removed")
    with_volumes = {command.slot for command in driver.of(SubmitContainer) if command.request.task.volumes}
    assert {command.slot for command in driver.of(DeleteVolumes)} == with_volumes, (what, "volumes were not removed")
    removals = [
        command for command in driver.commands if getattr(command, "container", "") in made or isinstance(command, DeleteVolumes)
    ]
    assert not with_volumes or isinstance(removals[-1], DeleteVolumes), (what, "volumes go after their containers")
    _check_what_hooks_are_told(driver, what)


def _check_what_hooks_are_told(driver, what):
    """A phase that was given to a container has an end, in the last placement at least: earlier ones may have been cut off."""
    placed = [at for at, command in enumerate(driver.commands) if isinstance(command, NotifyJobPlaced)]
    since = driver.commands[placed[-1] if placed else 0 :]
    ended = [command.number for command in since if isinstance(command, NotifyPhaseEnded)]
    begun = [command.run for command in since if isinstance(command, MonitorRun) and not command.taken_over]
    result = driver.result("j")
    if result.host is None:  # it waited for another host at its end
        return
    with_outcome = [number for number, phase in enumerate(result.phases) if phase.verdict is not None]
    assert ended == with_outcome, (what, "each outcome is told once, in order")
    assert set(begun) <= set(ended), (what, "a phase began and did not end")


@pytest.mark.parametrize("pipeline", [COURSE, ALONE], ids=["volumes", "no volumes"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_report_at_any_moment_leaves_one_result_and_nothing_else(pipeline, moment):
    for number in range(1000):
        course = Course(pipeline)
        course.orders()
        MOMENTS[moment](course)
        reports = _reports(course)
        if number == len(reports):
            break
        name = list(reports)[number]
        reports[name]()
        course.driver.carry_out()
        _check(course, moment, name)
    assert number >= len(OF_ALL)


@pytest.mark.parametrize("moment", MOMENTS)
def test_two_reports_in_any_order_leave_one_result_and_nothing_else(moment):
    """Of all pairs some hundreds, the same each time: all of them passed when this was written."""
    choice = random.Random(moment)
    for _ in range(300):
        course = Course(choice.choice([COURSE, COURSE, ALONE]))
        course.orders()
        MOMENTS[moment](course)
        names = []
        for _ in range(2):
            reports = _reports(course)
            names.append(choice.choice(list(reports)))
            reports[names[-1]]()
            course.driver.carry_out()
        _check(course, moment, names)
