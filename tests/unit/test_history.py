"""The checker of random histories, on histories that were tampered with: it finds each thing that must not be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobmanager import Outcome
from tests.support.history import (
    MIB,
    CalledBack,
    Closing,
    Expected,
    Fault,
    FaultBegan,
    FaultOver,
    HistoryLog,
    KillAnswered,
    KillAsked,
    Left,
    Measured,
    Record,
    Refused,
    Submitted,
    Witnessed,
    WitnessLeft,
    as_line,
    from_line,
    read_history,
    violations,
)

pytestmark = pytest.mark.case(46)

EXITS_7 = Expected(outcome=Outcome.FAILED, exit_code=7, body=b"out\n")
SLEEPS = Expected(outcome=Outcome.TIMEOUT, evidence="wall_time_s", body=None, in_a_hurry=True)
HOGS = Expected(outcome=Outcome.OVERFLOW, exit_code=137, evidence="oom_kills", may_lose_pid_1=True)
SUBMITTED = Submitted(job_id="a", kind="own exit", expected=EXITS_7, at_s=1.0)
CALLED_BACK = CalledBack(
    job_id="a",
    outcome=Outcome.FAILED,
    exit_code=7,
    evidence="exit_code",
    stdout=b"begun x1\nout\nended x1\n",
    host="one",
    waited_s=1.0,
    at_s=5.0,
)
CRASHED = CalledBack(job_id="a", outcome=Outcome.CRASH, evidence="ended_during_outage", host="one", waited_s=1.0, at_s=5.0)
DAEMON_KILLED = FaultBegan(number=1, fault=Fault.DAEMON_KILLED, target="one", host="one", at_s=3.0)
DAEMON_BACK = FaultOver(number=1, at_s=4.0)
CLOSING = Closing(at_s=50.0)
WITNESSED = Witnessed(job_id="a", times=1, at_s=60.0)
WITNESS_LEFT = WitnessLeft(saw_all=True, at_s=61.0)


def measured(at_s: float, **more: int) -> Measured:
    figures = {"jobs": 0, "rss_bytes": 50 * MIB, "descriptors": 20, "threads": 10, **more}
    return Measured(**figures, quiet=True, at_s=at_s)


QUIET = (measured(0.5), measured(49.0))


def broken_rules(*records: Record, measures: tuple[Measured, ...] = QUIET) -> list[str]:
    history = sorted([*measures, *records, CLOSING, WITNESS_LEFT], key=lambda record: record.at_s)
    return [found.rule for found in violations(history)]


def test_a_job_that_ended_as_it_must_breaks_no_rule() -> None:
    assert broken_rules(SUBMITTED, CALLED_BACK, WITNESSED) == []


def test_a_job_without_a_callback_is_lost() -> None:
    assert broken_rules(SUBMITTED, WITNESSED) == ["lost"]


def test_a_job_that_only_close_called_back_is_lost() -> None:
    late = dataclasses.replace(CALLED_BACK, at_s=51.0)
    assert broken_rules(SUBMITTED, late, WITNESSED) == ["lost"]


def test_two_callbacks_are_one_too_many() -> None:
    again = dataclasses.replace(CALLED_BACK, at_s=6.0)
    assert broken_rules(SUBMITTED, CALLED_BACK, again, WITNESSED) == ["doubled"]


def test_a_refused_job_has_no_callback() -> None:
    refused = Refused(job_id="a", error="QueueFull", at_s=2.0)
    assert broken_rules(SUBMITTED, refused) == []
    assert broken_rules(SUBMITTED, refused, CALLED_BACK, WITNESSED) == ["uninvited"]


def test_a_refused_job_does_not_run() -> None:
    assert broken_rules(SUBMITTED, Refused(job_id="a", error="QueueFull", at_s=2.0), WITNESSED) == ["uninvited"]


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": Outcome.SUCCESS},
        {"outcome": Outcome.TIMEOUT},
        {"exit_code": 0},
        {"exit_code": None},
        {"evidence": "grader"},
        {"archived": b"what nobody asked for"},
        {"stdout": b""},
        {"stdout": b"begun x1\nout\n"},
        {"stdout": b"begun x1\nout\nended x2\n"},
        {"stdout": b"begun x1\nout\nout\nended x1\n"},
        {"outcome": Outcome.KILLED},
        {"outcome": Outcome.CRASH},
    ],
)
def test_every_other_ending_is_wrong(change: dict[str, object]) -> None:
    otherwise = dataclasses.replace(CALLED_BACK, **change)  # type: ignore[arg-type]
    assert "wrong outcome" in broken_rules(SUBMITTED, otherwise, WITNESSED)


def test_a_job_that_had_a_container_although_it_needs_none_is_wrong() -> None:
    local = Submitted(
        job_id="a", kind="local", expected=Expected(outcome=Outcome.SUCCESS, evidence=None, in_container=False), at_s=1.0
    )
    right = CalledBack(job_id="a", outcome=Outcome.SUCCESS, at_s=2.0)
    assert broken_rules(local, right) == []
    assert broken_rules(local, dataclasses.replace(right, stdout=b"begun x1\n"), WITNESSED) == ["wrong outcome"]


def test_a_program_that_was_stopped_has_not_come_to_its_end() -> None:
    submitted = dataclasses.replace(SUBMITTED, expected=SLEEPS)
    stopped = CalledBack(job_id="a", outcome=Outcome.TIMEOUT, evidence="wall_time_s", stdout=b"begun x1\n", host="one", at_s=5.0)
    assert broken_rules(submitted, stopped, WITNESSED) == []
    assert broken_rules(submitted, dataclasses.replace(stopped, stdout=b"begun x1\nended x1\n"), WITNESSED) == ["wrong outcome"]


def test_only_a_memory_hog_may_lose_pid_1() -> None:
    lost_pid_1 = CalledBack(job_id="a", outcome=Outcome.OVERFLOW, evidence="oom_killed", stdout=b"begun x1\n", at_s=5.0)
    assert broken_rules(dataclasses.replace(SUBMITTED, expected=HOGS), lost_pid_1, WITNESSED) == []
    assert broken_rules(SUBMITTED, lost_pid_1, WITNESSED) == ["wrong outcome"]


def test_only_a_memory_hog_may_lose_its_last_words() -> None:
    silent = dataclasses.replace(SUBMITTED, expected=HOGS)
    killed = CalledBack(
        job_id="a", outcome=Outcome.OVERFLOW, exit_code=137, evidence="oom_kills", stdout=b"begun x1\n", at_s=5.0
    )
    assert broken_rules(silent, killed, WITNESSED) == []
    assert broken_rules(silent, dataclasses.replace(killed, stdout=b""), WITNESSED) == ["wrong outcome"]


# ---- kills


def test_a_job_that_kill_job_took_must_be_killed() -> None:
    asked, taken = KillAsked(job_id="a", at_s=2.0), KillAnswered(job_id="a", taken=True, at_s=2.1)
    killed = CalledBack(job_id="a", outcome=Outcome.KILLED, evidence="requested_by", at_s=5.0)
    assert broken_rules(SUBMITTED, asked, taken, killed) == []
    assert broken_rules(SUBMITTED, asked, taken, CALLED_BACK, WITNESSED) == ["wrong outcome"]


def test_a_job_that_kill_job_came_too_late_for_has_its_own_end() -> None:
    asked, too_late = KillAsked(job_id="a", at_s=6.0), KillAnswered(job_id="a", taken=False, at_s=6.1)
    assert broken_rules(SUBMITTED, CALLED_BACK, asked, too_late, WITNESSED) == []
    killed = dataclasses.replace(CALLED_BACK, outcome=Outcome.KILLED, at_s=7.0)
    assert broken_rules(SUBMITTED, killed, asked, too_late, WITNESSED) == ["wrong outcome"]


def test_a_job_that_was_killed_before_anybody_asked_is_an_impossible_order() -> None:
    asked, taken = KillAsked(job_id="a", at_s=6.0), KillAnswered(job_id="a", taken=True, at_s=6.1)
    killed = CalledBack(job_id="a", outcome=Outcome.KILLED, evidence="requested_by", at_s=5.0)
    assert broken_rules(SUBMITTED, killed, asked, taken) == ["impossible order"]


# ---- what faults excuse


def test_a_daemon_that_died_with_its_containers_excuses_a_crash_with_that_evidence() -> None:
    assert broken_rules(SUBMITTED, DAEMON_KILLED, DAEMON_BACK, CRASHED, WITNESSED) == []


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.DAEMON_KILLED, Fault.DAEMON_TERMINATED)])
def test_a_fault_that_ends_no_container_excuses_no_crash(fault: Fault) -> None:
    began = dataclasses.replace(DAEMON_KILLED, fault=fault)
    assert broken_rules(SUBMITTED, began, DAEMON_BACK, CRASHED, WITNESSED) == ["wrong outcome"]


@pytest.mark.parametrize(
    "change",
    [
        {"host": "two"},
        {"host": None},
        {"evidence": "submitter_died"},
        {"waited_s": 3.5},  # placed there when the daemon was back
        {"at_s": 2.5},  # before it died
        {"outcome": Outcome.FAILED, "exit_code": 137},  # never the program's fault
    ],
)
def test_a_daemon_that_died_elsewhere_or_at_another_time_excuses_nothing(change: dict[str, object]) -> None:
    crashed = dataclasses.replace(CRASHED, **change)  # type: ignore[arg-type]
    assert broken_rules(SUBMITTED, DAEMON_KILLED, DAEMON_BACK, crashed, WITNESSED) == ["wrong outcome"]


def test_a_daemon_that_hung_excuses_only_a_job_that_was_in_a_hurry() -> None:
    hung = dataclasses.replace(DAEMON_KILLED, fault=Fault.DAEMON_HUNG)
    not_delivered = dataclasses.replace(CRASHED, evidence="infrastructure_error")
    assert broken_rules(dataclasses.replace(SUBMITTED, expected=SLEEPS), hung, DAEMON_BACK, not_delivered) == []
    assert broken_rules(SUBMITTED, hung, DAEMON_BACK, not_delivered) == ["wrong outcome"]


def test_files_that_could_not_be_collected_are_excused_only_when_it_is_told_and_the_daemon_was_away() -> None:
    submitted = dataclasses.replace(SUBMITTED, expected=dataclasses.replace(EXITS_7, archived=b"kept"))
    away = dataclasses.replace(DAEMON_KILLED, fault=Fault.DAEMON_AWAY)
    told = dataclasses.replace(CALLED_BACK, tells_what_is_missing=True)
    assert broken_rules(submitted, away, DAEMON_BACK, told, WITNESSED) == []
    assert broken_rules(submitted, away, DAEMON_BACK, CALLED_BACK, WITNESSED) == ["wrong outcome"]
    assert broken_rules(submitted, told, WITNESSED) == ["wrong outcome"]
    assert broken_rules(submitted, away, DAEMON_BACK, dataclasses.replace(told, archived=b"other"), WITNESSED) == ["wrong outcome"]


# ---- runs


def test_a_program_that_began_twice_is_found_by_the_witness() -> None:
    assert broken_rules(SUBMITTED, CALLED_BACK, dataclasses.replace(WITNESSED, times=2)) == ["ran twice"]
    assert broken_rules(SUBMITTED, CALLED_BACK, WITNESSED, dataclasses.replace(WITNESSED, at_s=60.5)) == ["ran twice"]


def test_a_program_that_began_twice_is_found_by_its_output() -> None:
    submitted = dataclasses.replace(SUBMITTED, expected=SLEEPS)
    twice = CalledBack(
        job_id="a", outcome=Outcome.TIMEOUT, evidence="wall_time_s", stdout=b"begun x1\nbegun x2\n", host="one", at_s=5.0
    )
    assert broken_rules(submitted, twice, WITNESSED) == ["ran twice"]


def test_a_witness_that_saw_nothing_is_worth_nothing() -> None:
    assert broken_rules(SUBMITTED, CALLED_BACK) == ["ran nowhere"]


# ---- orders


@pytest.mark.parametrize(
    "early",
    [
        dataclasses.replace(CALLED_BACK, at_s=0.9),
        KillAsked(job_id="a", at_s=0.9),
        dataclasses.replace(SUBMITTED, at_s=1.1),  # a second time
        dataclasses.replace(DAEMON_BACK, at_s=0.9),  # before the daemon died
    ],
)
def test_effects_before_their_causes_are_impossible(early: Record) -> None:
    assert "impossible order" in broken_rules(SUBMITTED, CALLED_BACK, DAEMON_KILLED, early, WITNESSED)


def test_time_does_not_go_backwards() -> None:
    assert "impossible order" in [found.rule for found in violations([*reversed(QUIET), SUBMITTED, CALLED_BACK, WITNESSED])]


# ---- what grows, and what is left


@pytest.mark.parametrize("grown", [{"rss_bytes": 61 * MIB}, {"descriptors": 21}, {"threads": 11}])
def test_what_has_grown_is_not_flat(grown: dict[str, int]) -> None:
    assert broken_rules(measures=(measured(0.5), measured(49.0, **grown))) == ["not flat"]


def test_a_little_memory_for_many_jobs_is_flat() -> None:
    assert broken_rules(measures=(measured(0.5), measured(49.0, jobs=100_000, rss_bytes=63 * MIB))) == []


def test_a_run_that_was_not_measured_is_not_flat() -> None:
    assert broken_rules(measures=QUIET[:1]) == ["not flat"]


def test_a_container_that_was_left_is_told() -> None:
    assert broken_rules(Left(host="one", what="container jobmanager-1", at_s=55.0)) == ["left behind"]


def test_what_an_engine_keeps_is_excused_only_where_it_was_restarted() -> None:
    idle = Left(host="one", what="shim 7", kept_by_engine=True, at_s=55.0)
    assert broken_rules(DAEMON_KILLED, DAEMON_BACK, idle) == []
    assert broken_rules(DAEMON_KILLED, DAEMON_BACK, dataclasses.replace(idle, kept_by_engine=False)) == ["left behind"]
    assert broken_rules(DAEMON_KILLED, DAEMON_BACK, dataclasses.replace(idle, host="two")) == ["left behind"]
    assert broken_rules(dataclasses.replace(DAEMON_KILLED, fault=Fault.DAEMON_HUNG), DAEMON_BACK, idle) == ["left behind"]


# ---- the log


@pytest.mark.parametrize(
    "record",
    [
        SUBMITTED,
        dataclasses.replace(CALLED_BACK, stdout=bytes(range(256)), archived=b"\x00\xff"),
        Refused(job_id="a", error="QueueFull"),
        KillAsked(job_id="a"),
        KillAnswered(job_id="a", taken=True),
        DAEMON_KILLED,
        DAEMON_BACK,
        QUIET[0],
        CLOSING,
        Left(host="one", what="jobmanager-1"),
        WITNESSED,
        WITNESS_LEFT,
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_comes_back_from_its_line(record: Record) -> None:
    assert from_line(as_line(record)) == record


def test_a_log_keeps_the_order_and_the_time(tmp_path: Path) -> None:
    with HistoryLog(tmp_path / "history") as log:
        log.add(SUBMITTED)
        log.add(CALLED_BACK)
    first, second = read_history(tmp_path / "history")
    assert isinstance(first, Submitted)
    assert isinstance(second, CalledBack)
    assert first.at_s <= second.at_s
