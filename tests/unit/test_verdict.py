"""The table of outcomes (docs/outcomes.md), line by line and in its order: an earlier line wins over every later one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from jobmanager import Limits, Outcome
from jobmanager.engine.pid1 import EndMark
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import Limit, LimitHit, RunFacts
from jobmanager.results.verdict import KillReason, exit_code_text, judge

LIMITS = Limits(cpu_time_s=10, wall_time_s=20, output_kib=1, memory_mib=64, processes=7, workspace_mib=3)
EXITED = ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, exit_code=137)
FINE = RunFacts(program_started=True, end=EndMark(exit_code=0))
ENDED_WITHOUT_A_WORD = RunFacts(program_started=True, state=EXITED)

# (line, facts, who asked, outcome, kind of the first evidence, its value, what its source and the text contain)
TABLE = [
    ("killed", FINE, KillReason.KILL_JOB, Outcome.KILLED, "requested_by", "kill_job", "our own request", "kill_job"),
    ("killed", FINE, KillReason.CLOSE, Outcome.KILLED, "requested_by", "close", "our own request", "close"),
    ("killed", FINE, KillReason.DRAIN_OVER, Outcome.KILLED, "requested_by", "drain time over", "our own request", "drain"),
    (
        "timeout",
        RunFacts(program_started=True, limit_hit=LimitHit(limit=Limit.WALL, measured=20.1)),
        None,
        Outcome.TIMEOUT,
        "wall_time_s",
        20.1,
        "our clock",
        "wall clock limit of 20 s",
    ),
    (
        "timeout",
        RunFacts(program_started=True, limit_hit=LimitHit(limit=Limit.CPU, measured=10.2)),
        None,
        Outcome.TIMEOUT,
        "cpu_time_s",
        10.2,
        "CPU counter of the whole container",
        "CPU time limit of 10 s",
    ),
    (
        "timeout",
        RunFacts(program_started=True, end=EndMark(exit_code=0), cpu_time_s=10.5),
        None,
        Outcome.TIMEOUT,
        "cpu_time_s",
        10.5,
        "CPU counter of the whole container",
        "CPU time limit of 10 s",
    ),
    (
        "timeout",
        RunFacts(program_started=True, end=EndMark(exit_code=0), wall_time_s=20.01),
        None,
        Outcome.TIMEOUT,
        "wall_time_s",
        20.01,
        "our clock",
        "wall clock limit of 20 s",
    ),
    (
        "output",
        RunFacts(program_started=True, limit_hit=LimitHit(limit=Limit.OUTPUT, measured=1500), stdout_bytes=1000, stderr_bytes=500),
        None,
        Outcome.OVERFLOW,
        "output_bytes",
        1500,
        "bytes counted",
        "output limit of 1 KiB",
    ),
    (
        "output",
        RunFacts(program_started=True, end=EndMark(exit_code=0), stdout_bytes=1025),
        None,
        Outcome.OVERFLOW,
        "output_bytes",
        1025,
        "bytes counted",
        "output limit of 1 KiB",
    ),
    (
        "crash",
        RunFacts(program_started=False, refusal="the image has no tar"),
        None,
        Outcome.CRASH,
        "not_started",
        None,
        "PID 1",
        "the image has no tar",
    ),
    (
        "crash",
        RunFacts(program_started=True, host_lost=True, outage_s=61.0),
        None,
        Outcome.CRASH,
        "host_lost",
        None,
        "our clock",
        "61 s",
    ),
    (
        "crash",
        RunFacts(program_started=True, container_removed=True),
        None,
        Outcome.CRASH,
        "removed",
        None,
        "inspect",
        "removed by somebody else",
    ),
    (
        "crash",
        replace(ENDED_WITHOUT_A_WORD, outage_s=2.0),
        None,
        Outcome.CRASH,
        "ended_during_outage",
        None,
        "our record of the outage",
        "could not be reached",
    ),
    (
        "crash",
        RunFacts(program_started=True, infrastructure_error="no space left"),
        None,
        Outcome.CRASH,
        "infrastructure_error",
        "no space left",
        "",
        "no space left",
    ),
    ("crash", ENDED_WITHOUT_A_WORD, None, Outcome.CRASH, "stopped_externally", None, "inspect", "stopped by somebody else"),
    *(
        (
            "crash",
            RunFacts(program_started=True, end=EndMark(exit_code=code), final_report_incomplete=True, output_incomplete=True),
            None,
            Outcome.CRASH,
            "final_report_incomplete",
            None,
            "connection",
            "may have been lost",
        )
        for code in (0, 3)
    ),
    (
        "overflow",
        RunFacts(program_started=True, end=EndMark(exit_code=1, oom_kills=2)),
        None,
        Outcome.OVERFLOW,
        "oom_kills",
        2,
        "cgroup",
        "memory limit of 64 MiB",
    ),
    (
        "overflow",
        RunFacts(program_started=True, state=replace(EXITED, oom_killed=True)),
        None,
        Outcome.OVERFLOW,
        "oom_killed",
        1,
        "inspect",
        "memory limit of 64 MiB",
    ),
    (
        "overflow",
        RunFacts(program_started=True, end=EndMark(exit_code=2, fork_refusals=3)),
        None,
        Outcome.OVERFLOW,
        "fork_refusals",
        3,
        "cgroup",
        "limit of 7 processes",
    ),
    (
        "overflow",
        RunFacts(program_started=True, end=EndMark(exit_code=1, workspace_full=True)),
        None,
        Outcome.OVERFLOW,
        "workspace_full",
        1,
        "workspace",
        "3 MiB full",
    ),
    (
        "overflow",
        RunFacts(program_started=True, end=EndMark(exit_code=1, shm_full=True)),
        None,
        Outcome.OVERFLOW,
        "shm_full",
        1,
        "/dev/shm",
        f"/dev/shm of {LIMITS.shm_mib} MiB full",
    ),
    ("exit code", FINE, None, Outcome.SUCCESS, "exit_code", 0, "end mark of PID 1", ""),
    (
        "exit code",
        RunFacts(program_started=True, end=EndMark(exit_code=3)),
        None,
        Outcome.FAILED,
        "exit_code",
        3,
        "end mark of PID 1",
        "exit code 3",
    ),
    (
        "exit code",
        RunFacts(program_started=True, end=EndMark(exit_code=139)),
        None,
        Outcome.FAILED,
        "exit_code",
        139,
        "end mark",
        "139, as after SIGSEGV",
    ),
]
ORDER = ["killed", "timeout", "output", "crash", "overflow", "exit code"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[4]}-{row[5]}")
def test_each_line_has_its_outcome_and_names_its_proof(row):
    _, facts, asked, outcome, kind, value, source, text = row

    verdict = judge(facts, LIMITS, asked)

    assert verdict.outcome is outcome
    assert text in verdict.text
    proof = verdict.evidence[0]
    assert proof.kind == kind
    assert value is None or proof.value == value
    assert source in proof.source
    assert proof.source


def _both(first, second):
    """The facts of two runs in one, as far as they can both be true."""
    mine, others = {}, {}
    default = RunFacts(program_started=True)
    for name in RunFacts.__dataclass_fields__:
        if getattr(first, name) != getattr(default, name):
            mine[name] = getattr(first, name)
        if getattr(second, name) != getattr(default, name):
            others[name] = getattr(second, name)
    return RunFacts(**{"program_started": True, **others, **mine})


# A run that ends as crash has no report of PID 1, so it has none of the figures that are read from that report
EXCLUSIVE = {"removed", "ended_during_outage", "infrastructure_error", "stopped_externally"}
PAIRS = [
    (earlier, later)
    for earlier, later in itertools.product(TABLE, TABLE)
    if ORDER.index(earlier[0]) < ORDER.index(later[0])
    and not (earlier[4] in EXCLUSIVE and later[1].end is not None)
    and not (earlier[4] in EXCLUSIVE | {"final_report_incomplete"} and later[4] == "oom_killed")
    and not (earlier[0] == "overflow" and later[5] == 0)  # it counts only for what ended badly
]


def test_the_earlier_line_wins_whatever_later_lines_would_say():
    assert len(PAIRS) > 100

    for earlier, later in PAIRS:
        verdict = judge(_both(earlier[1], later[1]), LIMITS, earlier[2])
        assert (verdict.outcome, verdict.evidence[0].kind) == (earlier[3], earlier[4]), (earlier, later)


def test_a_daemon_that_was_away_wins_over_an_out_of_memory_state_that_nobody_saw_happen():
    facts = RunFacts(program_started=True, state=replace(EXITED, oom_killed=True), outage_s=1.0)

    assert judge(facts, LIMITS).outcome is Outcome.CRASH


def test_an_outage_that_the_run_survived_is_told_and_changes_nothing():
    verdict = judge(replace(FINE, outage_s=3.04), LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert ("outage_s", 3.0) in [(evidence.kind, evidence.value) for evidence in verdict.evidence]


@pytest.mark.parametrize(
    ("end", "kind", "value"),
    [
        (EndMark(exit_code=0, oom_kills=4), "oom_kills", 4),
        (EndMark(exit_code=0, fork_refusals=5), "fork_refusals", 5),
        (EndMark(exit_code=0, workspace_full=True), "workspace_full", 1),
        (EndMark(exit_code=0, shm_full=True), "shm_full", 1),
    ],
)
def test_a_counter_that_was_hit_by_a_program_that_ended_with_0_is_told_and_changes_nothing(end, kind, value):
    verdict = judge(RunFacts(program_started=True, end=end), LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert (kind, value) in [(evidence.kind, evidence.value) for evidence in verdict.evidence]


def test_a_state_that_says_out_of_memory_changes_nothing_when_the_program_ended_with_0():
    facts = replace(FINE, state=replace(EXITED, oom_killed=True, exit_code=137))

    verdict = judge(facts, LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert {"exit_code", "oom_killed", "container_exit_code"} == {evidence.kind for evidence in verdict.evidence}


def test_output_exactly_at_its_limit_is_within_it():
    assert judge(replace(FINE, stdout_bytes=512, stderr_bytes=512), LIMITS).outcome is Outcome.SUCCESS
    assert judge(replace(FINE, stdout_bytes=512, stderr_bytes=513), LIMITS).outcome is Outcome.OVERFLOW


def test_cpu_time_exactly_at_its_limit_is_within_it_when_the_program_ended_by_itself():
    assert judge(replace(FINE, cpu_time_s=10.0), LIMITS).outcome is Outcome.SUCCESS


def test_our_own_stop_for_output_is_an_overflow_even_when_fewer_bytes_were_kept_count_of():
    facts = RunFacts(program_started=True, limit_hit=LimitHit(limit=Limit.OUTPUT, measured=2000), stdout_bytes=10, log_rotated=True)

    verdict = judge(facts, LIMITS)

    assert (verdict.outcome, verdict.evidence[0].value) == (Outcome.OVERFLOW, 2000)


def test_everything_else_that_was_found_is_told_once():
    facts = RunFacts(
        program_started=True,
        end=EndMark(exit_code=1, oom_kills=1, fork_refusals=2, workspace_full=True, shm_full=True),
        state=EXITED,
        log_rotated=True,
        output_from_log=True,
        archive_error="more than 10000 files match",
        not_collected="'x' (a fifo)",
    )

    kinds = [evidence.kind for evidence in judge(facts, LIMITS).evidence]

    counters = ["oom_kills", "exit_code", "fork_refusals", "workspace_full", "shm_full", "container_exit_code"]
    assert kinds == [*counters, "output_cut", "output_from_log", "archive", "not_collected"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (128, "exit code 128"),
        (137, "exit code 137, as after SIGKILL"),
        (134, "exit code 134, as after SIGABRT"),
        (255, "exit code 255"),
    ],
)
def test_an_exit_code_is_told_in_words_as_far_as_it_can_be_known(code, words):
    assert exit_code_text(code) == words


def test_any_facts_at_all_get_a_verdict():
    """Every combination of what can be seen ends in an outcome with evidence, and nothing raises."""
    ends = [None, EndMark(exit_code=0), EndMark(exit_code=9, oom_kills=1)]
    states = [None, EXITED, replace(EXITED, oom_killed=True)]
    stops = [None, *(LimitHit(limit=limit, measured=1.0) for limit in Limit)]
    flags = itertools.product([False, True], ends, stops, ["", "no"], states, [False, True], [0.0, 1.0], [False, True], ["", "t"])

    for started, end, hit, refusal, state, removed, outage_s, host_lost, error in flags:
        facts = RunFacts(program_started=started, end=end, limit_hit=hit, refusal=refusal, state=state, container_removed=removed,
                         outage_s=outage_s, host_lost=host_lost, infrastructure_error=error)  # fmt: skip
        verdict = judge(facts, LIMITS)
        assert verdict.evidence
        assert verdict.text or verdict.outcome is Outcome.SUCCESS
        assert verdict.outcome in (Outcome.TIMEOUT, Outcome.OVERFLOW, Outcome.CRASH, Outcome.SUCCESS, Outcome.FAILED)
        if verdict.outcome is Outcome.SUCCESS:
            assert end is not None
            assert end.exit_code == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_pid_1_that_died_of_memory_before_its_last_word_is_an_overflow(code):
    facts = RunFacts(
        program_started=True,
        end=EndMark(exit_code=code),
        final_report_incomplete=True,
        state=replace(EXITED, oom_killed=True),
        output_incomplete=True,
    )

    assert judge(facts, LIMITS).outcome is Outcome.OVERFLOW


def test_a_limit_that_was_reached_exactly_was_not_passed():
    assert judge(replace(FINE, wall_time_s=20.0, cpu_time_s=10.0), LIMITS).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("limit", "late", "told"), [("wall_time_s", 65537, True), ("wall_time_s", 65536, False), ("cpu_time_s", 65537, False)]
)
def test_only_a_program_that_may_have_waited_for_its_reader_at_its_wall_clock_limit_is_told_so(limit, late, told):
    facts = RunFacts(program_started=True, limit_hit=LimitHit(limit=Limit(limit), measured=21), late_output_bytes=late)

    assert ("late_output_bytes" in [evidence.kind for evidence in judge(facts, LIMITS).evidence]) is told
