"""A monitor and a container whose runner, engine and connection do what a test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobmanager import Limits, Outcome
from jobmanager.ipc.messages import LimitReached, ProgramStarted
from jobmanager.model.container import ContainerStatus
from jobmanager.results.facts import (
    CannotRun,
    ContainerEnded,
    EndedDuringOutage,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    LeaseExpired,
    Limit,
    ProgramExited,
    RemovedExternally,
    RunCutOff,
    RunFacts,
    StoppedForLimit,
    StudentsLost,
)
from jobmanager.results.verdict import judge
from jobmanager.runner.frames import (
    DownMessage,
    Fault,
    Hello,
    HowEnded,
    Kill,
    RefusalReason,
    RunRefused,
    StartRun,
    StoppedBy,
)
from jobmanager.watching.spool import Spool
from tests.support.scripted_container import STARTED, ScriptedContainer, ended, printed, runs

WHOLE = (STARTED, printed(b"hello\n"), ended(stdout_bytes=6))


def stopped_for(facts: RunFacts) -> Limit | None:
    return facts.ending.limit_hit.limit if isinstance(facts.ending, StoppedForLimit) else None


def cause(facts: RunFacts) -> type[object]:
    assert isinstance(facts.ending, RunCutOff), facts.ending
    return type(facts.ending.cause)


# ---- an undisturbed run


def test_a_run_is_sent_and_followed_to_its_end_and_the_runner_is_told_to_leave() -> None:
    container = ScriptedContainer(runs(*WHOLE))
    facts = container.facts(files={"main.py": b"x"})

    assert isinstance(facts.ending, ProgramExited) and facts.ending.end.exit_code == 0
    assert (facts.output.stdout, facts.output.is_cut) == (b"hello\n", False)
    assert (facts.cpu_time_s, facts.wall_time_s) == (0.1, 0.2)
    assert container.received_kinds() == ["Put", "Put", "Input", "StartRun", "Leave"]
    assert container.sent == [ProgramStarted(container_name="n")]
    assert container.kills == 0 and container.channel.is_closed


def test_the_first_waiter_sends_the_run_without_waiting_for_a_status() -> None:
    container = ScriptedContainer(runs(*WHOLE))
    original = container.give
    container.give = lambda: original() if "StartRun" in container.received_kinds() else b""  # type: ignore[method-assign]
    facts = container.facts()

    assert isinstance(facts.ending, ProgramExited)
    assert (len(container.hellos), container.received_kinds().count("StartRun")) == (1, 1)


def test_the_engine_is_asked_when_the_container_was_started_only_for_the_times_of_files() -> None:
    with_files, without = ScriptedContainer(runs(*WHOLE)), ScriptedContainer(runs(*WHOLE))
    with_files.facts(files={"main.py": b"x"})
    without.facts()

    assert (with_files.inspections, without.inspections) == (1, 0)


def test_a_container_that_has_volumes_for_a_later_phase_is_kept_by_a_lease_and_not_left() -> None:
    container = ScriptedContainer(runs(*WHOLE))
    container.facts(volumes=("work",), hold_s=900.0, lease_s=40.0)

    assert [hello.lease_ms for hello in container.hellos] == [40_000, 900_000]
    assert "Leave" not in container.received_kinds()


@pytest.mark.parametrize(
    ("command", "has_hint"), [("prog", False), ("/bin/prog", False), ("./prog", True), ("a/prog", True), ("/job/prog", True)]
)
def test_a_program_that_is_not_started_has_the_reason_in_words_and_a_hint_if_it_is_one_of_the_job(
    command: str, has_hint: bool
) -> None:
    refused = RunRefused(run=1, why=RefusalReason.NOT_EXECUTABLE, errno=13, what=b"")
    facts = ScriptedContainer(runs(refused)).facts(command=(command,))

    hint = ": run it by its interpreter, begin it with #!, or name it in executables" if has_hint else ""
    assert facts.ending == CannotRun(reason=f"{command!r} is there, but may not be executed{hint}")


def test_a_script_whose_interpreter_is_not_there_is_the_programs_own_failure() -> None:
    refused = RunRefused(run=1, why=RefusalReason.NO_INTERPRETER, errno=2, what=b"")
    verdict = judge(ScriptedContainer(runs(refused)).facts(), Limits())

    assert (verdict.outcome, verdict.text) == (
        Outcome.FAILED,
        "the program was not started: 'prog': its interpreter does not exist",
    )


def test_a_task_and_an_image_without_a_command_need_no_runner() -> None:
    container = ScriptedContainer()
    facts = container.facts(command=())

    assert facts.ending == CannotRun(reason="neither the task nor its image has a command")
    assert not container.channels


# ---- connections


@pytest.mark.parametrize("after", range(0, 700, 23))
def test_wherever_the_connection_breaks_the_run_is_sent_once_and_its_report_read_whole(after: int) -> None:
    container = ScriptedContainer(runs(*WHOLE))
    monitor = container.monitor()
    original = container.open_channel

    def breaking(name: str) -> Any:
        channel = original(name)
        if len(container.channels) == 1:
            channel.breaks_after = after
        return channel

    container.open_channel = breaking  # type: ignore[method-assign]
    facts = monitor.run()

    assert isinstance(facts.ending, ProgramExited), facts
    assert facts.output.stdout == b"hello\n"
    assert container.received_kinds().count("StartRun") == 1


def test_a_run_that_the_runner_has_not_taken_is_sent_again() -> None:
    container = ScriptedContainer(runs(*WHOLE))
    monitor = container.monitor()
    original, taken = container.open_channel, container.take

    def breaking(name: str) -> Any:
        channel = original(name)
        if len(container.channels) == 1:
            channel.breaks_after = 200
            container.take = lambda content: taken(content[: 2**16 + 100])  # type: ignore[method-assign]  # the rest is lost
        else:
            container.take = taken  # type: ignore[method-assign]
        return channel

    container.open_channel = breaking  # type: ignore[method-assign]
    facts = monitor.run()

    assert isinstance(facts.ending, ProgramExited)
    assert container.received_kinds().count("StartRun") == 1


def test_a_connection_on_which_nothing_comes_is_given_up_and_the_end_is_known_over_another() -> None:
    container = ScriptedContainer(runs(STARTED))
    monitor = container.monitor(limits=Limits(cpu_time_s=3000, wall_time_s=3000))

    def dies_silently(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.give_later = True  # type: ignore[attr-defined]

    container._on_message = dies_silently
    original = container.give

    def give() -> bytes:
        if getattr(container, "give_later", False) and len(container.channels) == 1 and container.now > 1002:
            container.say(WHOLE[1:] if not container.unsaid and container.stream_bytes < 40 else [])
            return b""
        return original()

    container.give = give  # type: ignore[method-assign]
    facts = monitor.run()

    assert isinstance(facts.ending, ProgramExited)
    assert container.now < 1100 and len(container.channels) == 2


def test_an_ended_container_is_noticed_by_polling_alone() -> None:
    """Its channel tells nothing; the waiter's list does."""
    container = ScriptedContainer(runs(STARTED))
    monitor = container.monitor()
    original = container.give

    def give() -> bytes:
        if container.now > 1005 and container.state["status"] is ContainerStatus.RUNNING:
            container.state.update(status=ContainerStatus.ENDED, exit_code=137)
            monitor.check()
        return original()

    container.give = give  # type: ignore[method-assign]
    facts = monitor.run()

    assert cause(facts) is ContainerEnded
    assert container.now < 1010


def test_an_engine_that_is_away_before_anything_was_sent_leaves_the_job_to_another_host() -> None:
    container = ScriptedContainer()
    container.is_unreachable = True
    facts = container.facts()

    assert isinstance(facts.ending, JobNotSent) and isinstance(facts.ending.cause, EngineUnreachable)


def test_a_host_that_stays_away_is_given_up() -> None:
    def goes_away(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.is_unreachable = one.channel.ends = True

    facts = ScriptedContainer(goes_away).facts(lost_s=0.2)
    assert cause(facts) is HostGivenUp


def test_a_container_that_somebody_removes_is_told_as_removed() -> None:
    def is_removed(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.is_gone = one.channel.ends = True

    assert cause(ScriptedContainer(is_removed).facts()) is RemovedExternally


def test_a_container_that_somebody_kills_is_told_as_ended() -> None:
    def is_killed(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED, printed(b"so far")])
            one.end()

    facts = ScriptedContainer(is_killed).facts()
    assert cause(facts) is ContainerEnded
    assert (facts.output.stdout, facts.output.is_incomplete) == (b"so far", True)
    assert facts.container is not None and facts.container.exit_code == 137


def test_a_container_that_ends_before_it_has_its_run_leaves_the_job_to_another() -> None:
    container = ScriptedContainer()
    container.end()
    facts = container.facts()

    assert isinstance(facts.ending, JobNotSent)


def test_a_container_that_is_restarted_is_not_given_its_run_again() -> None:
    def is_restarted(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.channel.ends = True
            one.status_fields["run"] = 0

    container = ScriptedContainer(is_restarted)
    facts = container.facts()

    assert isinstance(facts.ending, RunCutOff)
    assert container.received_kinds().count("StartRun") == 1


# ---- limits and kills


@pytest.mark.parametrize(
    ("by", "limit"), [(StoppedBy.WALL, Limit.WALL), (StoppedBy.CPU, Limit.CPU), (StoppedBy.OUTPUT, Limit.OUTPUT)]
)
def test_a_limit_for_which_the_runner_stopped_it_is_the_ending(by: StoppedBy, limit: Limit) -> None:
    end = ended(how=HowEnded.SIGNALLED, code=9, stopped_by=by, wall_us=30_100_000, cpu_us=10_050_000, stdout_bytes=2**21)
    facts = ScriptedContainer(runs(STARTED, end)).facts()

    assert isinstance(facts.ending, StoppedForLimit)
    assert facts.ending.limit_hit.limit is limit
    assert facts.ending.limit_hit.measured == {Limit.WALL: 30.1, Limit.CPU: 10.05, Limit.OUTPUT: 2**21}[limit]


def test_a_runner_that_does_not_answer_past_the_wall_clock_limit_is_killed_by_the_engine() -> None:
    def freezes(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])

    container = ScriptedContainer(freezes)
    monitor = container.monitor(limits=Limits(cpu_time_s=5, wall_time_s=5))
    original = container.give
    container.give = lambda: original() if container.now < 1004 else b""  # type: ignore[method-assign]
    facts = monitor.run()

    assert stopped_for(facts) is Limit.WALL and container.kills == 1
    assert facts.wall_time_s is not None and 5.3 <= facts.wall_time_s < 7
    assert [type(message) for message in container.sent] == [ProgramStarted, LimitReached]


def test_a_runner_that_answers_and_has_not_stopped_its_run_is_told_to() -> None:
    container = ScriptedContainer(runs(STARTED))
    facts = container.facts(limits=Limits(cpu_time_s=5, wall_time_s=5))

    assert stopped_for(facts) is Limit.WALL and container.kills == 0
    assert "Kill" in container.received_kinds()


def test_a_cpu_limit_that_the_runner_cannot_see_is_seen_by_the_waiter() -> None:
    container = ScriptedContainer(runs(STARTED))
    container.cpu_s = 3.0
    facts = container.facts(limits=Limits(cpu_time_s=2, wall_time_s=100))

    assert stopped_for(facts) is Limit.CPU
    assert container.now < 1010


def test_cpu_time_of_earlier_runs_and_of_the_runner_itself_is_not_the_runs() -> None:
    """The engine counts all of the container's, and the runner, which is asked then, what is the run's."""
    container = ScriptedContainer(runs(STARTED))
    container.cpu_s, container.status_fields["cpu_us"] = 300.0, 1_000_000
    facts = container.facts(limits=Limits(cpu_time_s=2, wall_time_s=100))

    assert stopped_for(facts) is Limit.WALL
    assert container.usages <= 100 / 1.3 + 2, "it is looked at when it could have reached the limit, and not before"


@pytest.mark.parametrize("fields", [{"cpu_us": 0}, {}, {"cpu_us": 2_500_000}])
def test_where_the_runner_counts_nothing_or_too_much_the_engines_counter_counts(fields: dict[str, int]) -> None:
    container = ScriptedContainer(runs(STARTED))
    container.cpu_s = 2.5
    container.status_fields.update(fields)

    assert stopped_for(container.facts(limits=Limits(cpu_time_s=2, wall_time_s=100))) is Limit.CPU


def test_a_run_that_had_not_reached_its_cpu_limit_when_it_was_looked_at_is_stopped_once_it_has() -> None:
    container = ScriptedContainer(runs(STARTED))
    container.cpu_s, container.status_fields["cpu_us"] = 300.0, 1_000_000
    original = container.give

    def give() -> bytes:
        if container.now > 1050:
            container.cpu_s, container.status_fields["cpu_us"] = 301.7, 2_700_000
        return original()

    container.give = give  # type: ignore[method-assign]
    facts = container.facts(limits=Limits(cpu_time_s=2, wall_time_s=1000))

    assert stopped_for(facts) is Limit.CPU and container.now < 1060
    assert isinstance(facts.ending, StoppedForLimit) and facts.ending.limit_hit.measured == pytest.approx(2.7)


def test_a_cpu_counter_that_the_engine_did_not_tell_is_looked_at_again_soon() -> None:
    container = ScriptedContainer(runs(STARTED))
    container.facts(limits=Limits(cpu_time_s=2, wall_time_s=10))

    assert 5 <= container.usages <= 20


def test_a_kill_is_the_runners_to_carry_out_and_its_report_is_kept() -> None:
    container = ScriptedContainer(runs(STARTED, printed(b"so far")))
    monitor = container.monitor()
    original = container.take

    def take(content: bytes) -> None:
        original(content)
        if "StartRun" in container.received_kinds():
            monitor.kill()

    container.take = take  # type: ignore[method-assign]
    facts = monitor.run()

    assert cause(facts) is ContainerEnded
    assert facts.end is not None and facts.end.signal == "SIGKILL"
    assert facts.output.stdout == b"so far" and container.kills == 0


def test_a_kill_that_the_runner_does_not_carry_out_is_the_engines() -> None:
    def is_deaf(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            monitor.kill()

    container = ScriptedContainer(is_deaf)
    monitor = container.monitor()
    facts = monitor.run()

    assert cause(facts) is ContainerEnded and container.kills == 1


def test_a_kill_before_the_job_was_sent_needs_nobody() -> None:
    container = ScriptedContainer(runs(*WHOLE))
    monitor = container.monitor()
    monitor.kill()
    facts = monitor.run()

    assert isinstance(facts.ending, JobNotSent)
    assert "StartRun" not in container.received_kinds()


def test_a_grading_container_past_its_wall_clock_is_stopped_by_the_waiter_without_delay() -> None:
    from jobmanager.ipc.messages import GradingSettings
    from jobmanager.model.network import Network

    grading = GradingSettings(images={}, cpu_time_s=1, memory_mib=64, network=Network.OFF, most_students=1)
    container = ScriptedContainer(runs(STARTED))
    facts = container.facts(grading=grading, workspace="/task", limits=Limits(cpu_time_s=5, wall_time_s=5))

    assert stopped_for(facts) is Limit.WALL
    assert next(message for message in container.received if isinstance(message, StartRun)).wall_ms == 0
    assert any(isinstance(message, Kill) for message in container.received)


@pytest.mark.parametrize("tells", ["end_for_lost_link", "supervisor_gave_up"])
def test_a_grader_that_lost_its_students_is_cut_off_whatever_its_end_was(tells: str) -> None:
    container = ScriptedContainer(runs(STARTED))
    monitor = container.monitor()

    def starts(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            getattr(monitor, tells)()
            if tells == "supervisor_gave_up":
                one.say([ended(code=254)])
        elif isinstance(message, Kill):
            one.say([ended(how=HowEnded.SIGNALLED, code=9, stopped_by=StoppedBy.KILL)])

    container._on_message = starts
    assert cause(monitor.run()) is StudentsLost


# ---- what a runner says of itself


def test_a_run_that_ended_for_its_lease_says_so() -> None:
    end = ended(how=HowEnded.SIGNALLED, code=9, stopped_by=StoppedBy.LEASE)
    assert cause(ScriptedContainer(runs(STARTED, end)).facts()) is LeaseExpired


@pytest.mark.parametrize("fields", [{"how": HowEnded.NEVER_REAPED}, {"left": True}])
def test_processes_that_could_not_be_ended_are_a_failure_of_ours(fields: dict[str, Any]) -> None:
    facts = ScriptedContainer(runs(STARTED, ended(stopped_by=StoppedBy.WALL, **fields))).facts()
    assert stopped_for(facts) is Limit.WALL

    facts = ScriptedContainer(runs(STARTED, ended(stopped_by=StoppedBy.KILL, **fields))).facts()
    assert cause(facts) is InfrastructureFailure


def test_a_fault_is_a_failure_of_ours_in_the_runners_words() -> None:
    facts = ScriptedContainer(runs(STARTED, Fault(text=b"RUN makes no sense"))).facts()

    assert cause(facts) is InfrastructureFailure
    assert "RUN makes no sense" in str(facts.ending)


def test_nonsense_from_a_runner_ends_its_run_as_a_failure_of_ours() -> None:
    container = ScriptedContainer(runs(STARTED))
    monitor = container.monitor()
    original = container.give
    container.give = lambda: original() if container.now < 1003 else b"no packet at all, and long enough for a header"  # type: ignore[method-assign]

    assert cause(monitor.run()) is InfrastructureFailure


# ---- a waiter after another


def test_a_waiter_that_takes_over_reads_all_and_sends_nothing_again(tmp_path: Path) -> None:
    container = ScriptedContainer(runs(STARTED, printed(b"hello\n")))
    first = container.monitor(spool=Spool(str(tmp_path / "n")))
    original = container.take

    class WaiterDies(BaseException):
        pass

    def take(content: bytes) -> None:
        original(content)
        if container.stream_bytes and container.now > 1002:
            raise WaiterDies

    container.take = take  # type: ignore[method-assign]
    with pytest.raises(WaiterDies):
        first.run()
    container.take = original  # type: ignore[method-assign]
    container.say([ended(stdout_bytes=6)])
    facts = container.facts(taken_over=True, elapsed_s=2.0, spool=Spool(str(tmp_path / "n")))

    assert isinstance(facts.ending, ProgramExited)
    assert facts.output.stdout == b"hello\n"
    assert container.received_kinds().count("StartRun") == 1


def test_a_waiter_that_takes_over_a_container_without_a_run_sends_it() -> None:
    facts = ScriptedContainer(runs(*WHOLE)).facts(taken_over=True)

    assert isinstance(facts.ending, ProgramExited)


def test_what_a_dead_waiter_stopped_it_for_is_why_it_ended() -> None:
    from jobmanager.results.facts import LimitHit

    hit = LimitHit(limit=Limit.CPU, measured=11.0)
    container = ScriptedContainer()
    container.status_fields["run"] = 1
    container.say([STARTED])
    monitor = container.monitor(taken_over=True, elapsed_s=2.0, limit_hit=hit)
    original = container.give

    def give() -> bytes:
        content = original()
        if container.now > 1001:
            container.end()
        return content

    container.give = give  # type: ignore[method-assign]
    facts = monitor.run()

    assert isinstance(facts.ending, StoppedForLimit) and facts.ending.limit_hit == hit


# ---- outages


def test_an_outage_in_which_a_container_ended_is_why() -> None:
    def is_away_for_a_while(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.is_unreachable = one.channel.ends = True

    container = ScriptedContainer(is_away_for_a_while)
    inspect = container.inspect

    def comes_back(name: str) -> Any:
        if container.is_unreachable and container.inspections > 3:
            container.is_unreachable = False
            container.end()
        return inspect(name)

    container.inspect = comes_back  # type: ignore[method-assign]
    facts = container.facts()

    assert cause(facts) is EndedDuringOutage and facts.outage_s > 0


def test_an_outage_that_a_container_survived_is_not_why_it_ended() -> None:
    def is_away_for_a_while(one: ScriptedContainer, message: DownMessage) -> None:
        if isinstance(message, StartRun):
            one.say([STARTED])
            one.is_unreachable = one.channel.ends = True

    container = ScriptedContainer(is_away_for_a_while)
    inspect = container.inspect

    def comes_back(name: str) -> Any:
        if container.is_unreachable and container.inspections > 3:
            container.is_unreachable = False
            container.say(WHOLE[1:])
        return inspect(name)

    container.inspect = comes_back  # type: ignore[method-assign]
    facts = container.facts()

    assert isinstance(facts.ending, ProgramExited) and facts.outage_s > 0
    assert [type(message) for message in container.hellos] == [Hello, Hello]
    assert container.received_kinds()[-2:] == ["StartRun", "Leave"]
