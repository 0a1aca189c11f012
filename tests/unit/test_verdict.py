"""The table of outcomes (docs/outcomes.md), line by line and in its order: an earlier line wins over every later one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest

from jobmanager import Limits, Outcome
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.results.facts import (
    CannotRun,
    CapturedOutput,
    Collected,
    ContainerEnded,
    EndedDuringOutage,
    EngineUnreachable,
    HostGivenUp,
    InfrastructureFailure,
    JobNotSent,
    LeaseExpired,
    Limit,
    LimitHit,
    ProgramEnd,
    ProgramExited,
    RemovedExternally,
    RunCutOff,
    RunFacts,
    StoppedForLimit,
    StoppedForProtocolError,
    StudentsLost,
)
from jobmanager.results.verdict import KillReason, end_text, judge
from tests.support.run_facts import cannot_run, cut_off, exited, failed_here, stopped_for

LIMITS = Limits(cpu_time_s=10, wall_time_s=20, output_kib=1, memory_mib=64, processes=7, workspace_mib=3)
EXITED = ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, exit_code=137)
FINE = exited()
OUT_OF_MEMORY = ContainerEnded(container=replace(EXITED, oom_killed=True))
ENDED_WITHOUT_A_WORD = cut_off(ContainerEnded(container=EXITED))

# (line, facts, who asked, outcome, kind of the first evidence, its value, what its source and the text contain)
TABLE = [
    ("killed", FINE, KillReason.KILL_JOB, Outcome.KILLED, "requested_by", "kill_job", "our own request", "kill_job"),
    ("killed", FINE, KillReason.CLOSE, Outcome.KILLED, "requested_by", "close", "our own request", "close"),
    ("killed", FINE, KillReason.DRAIN_OVER, Outcome.KILLED, "requested_by", "drain time over", "our own request", "drain"),
    (
        "timeout",
        stopped_for(Limit.WALL, 20.1),
        None,
        Outcome.TIMEOUT,
        "wall_time_s",
        20.1,
        "our clock",
        "wall clock limit of 20 s",
    ),
    (
        "timeout",
        stopped_for(Limit.CPU, 10.2),
        None,
        Outcome.TIMEOUT,
        "cpu_time_s",
        10.2,
        "CPU counter of the whole container",
        "CPU time limit of 10 s",
    ),
    (
        "timeout",
        exited(cpu_time_s=10.5),
        None,
        Outcome.TIMEOUT,
        "cpu_time_s",
        10.5,
        "CPU counter of the whole container",
        "CPU time limit of 10 s",
    ),
    (
        "timeout",
        exited(wall_time_s=20.01),
        None,
        Outcome.TIMEOUT,
        "wall_time_s",
        20.01,
        "our clock",
        "wall clock limit of 20 s",
    ),
    (
        "output",
        stopped_for(Limit.OUTPUT, 1500, output=CapturedOutput(stdout_bytes=1000, stderr_bytes=500)),
        None,
        Outcome.OVERFLOW,
        "output_bytes",
        1500,
        "bytes counted",
        "output limit of 1 KiB",
    ),
    (
        "output",
        exited(output=CapturedOutput(stdout_bytes=1025)),
        None,
        Outcome.OVERFLOW,
        "output_bytes",
        1025,
        "bytes counted",
        "output limit of 1 KiB",
    ),
    (
        "crash",
        cannot_run("the image has no tar"),
        None,
        Outcome.CRASH,
        "not_started",
        None,
        "the runner",
        "the image has no tar",
    ),
    (
        "crash",
        cut_off(HostGivenUp(), outage_s=61.0),
        None,
        Outcome.CRASH,
        "host_lost",
        None,
        "our clock",
        "61 s",
    ),
    (
        "crash",
        cut_off(RemovedExternally()),
        None,
        Outcome.CRASH,
        "removed",
        None,
        "inspect",
        "removed by somebody else",
    ),
    (
        "crash",
        cut_off(EndedDuringOutage(container=EXITED), outage_s=2.0),
        None,
        Outcome.CRASH,
        "ended_during_outage",
        None,
        "our record of the outage",
        "could not be reached",
    ),
    (
        "crash",
        failed_here("no space left"),
        None,
        Outcome.CRASH,
        "infrastructure_error",
        "no space left",
        "",
        "no space left",
    ),
    ("crash", cut_off(LeaseExpired()), None, Outcome.CRASH, "lease_expired", None, "the runner", "heard nothing of this library"),
    ("crash", ENDED_WITHOUT_A_WORD, None, Outcome.CRASH, "stopped_externally", None, "inspect", "stopped by somebody else"),
    *(
        ("overflow", exited(signal=name, counters={"oom_kills": 1}), None, Outcome.OVERFLOW, "oom_kills", 1, "cgroup", "memory")
        for name in ("SIGKILL", "SIGSEGV")
    ),
    (
        "overflow",
        exited(1, counters={"oom_kills": 2}),
        None,
        Outcome.OVERFLOW,
        "oom_kills",
        2,
        "cgroup",
        "memory limit of 64 MiB",
    ),
    (
        "overflow",
        cut_off(OUT_OF_MEMORY),
        None,
        Outcome.OVERFLOW,
        "oom_killed",
        1,
        "inspect",
        "memory limit of 64 MiB",
    ),
    (
        "overflow",
        exited(2, counters={"fork_refusals": 3}),
        None,
        Outcome.OVERFLOW,
        "fork_refusals",
        3,
        "cgroup",
        "limit of 7 processes",
    ),
    (
        "overflow",
        exited(1, counters={"workspace_full": True}),
        None,
        Outcome.OVERFLOW,
        "workspace_full",
        1,
        "workspace",
        "3 MiB full",
    ),
    (
        "overflow",
        exited(1, counters={"shm_full": True}),
        None,
        Outcome.OVERFLOW,
        "shm_full",
        1,
        "/dev/shm",
        f"/dev/shm of {LIMITS.shm_mib} MiB full",
    ),
    ("exit code", FINE, None, Outcome.SUCCESS, "exit_code", 0, "the runner", ""),
    (
        "exit code",
        exited(3),
        None,
        Outcome.FAILED,
        "exit_code",
        3,
        "the runner",
        "exit code 3",
    ),
    (
        "exit code",
        exited(139),
        None,
        Outcome.FAILED,
        "exit_code",
        139,
        "the runner",
        "exit code 139",
    ),
    *(
        ("exit code", exited(signal=name), None, Outcome.FAILED, "signal", name, "the runner", f"killed by {name}")
        for name in ("SIGSEGV", "SIGKILL", "SIGXFSZ", "SIGXCPU", "signal 34")
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
    """The facts of two runs in one. Figures are beside any ending; of two endings the first, with what the second adds."""
    by_figures = isinstance(first.ending, ProgramExited) and (first.cpu_time_s or first.wall_time_s or first.output.total_bytes)
    ending, other = (second.ending, first) if by_figures else (first.ending, second)
    for name in {"end", "container"} & set(ending.__dataclass_fields__):
        if getattr(ending, name) is None:
            ending = replace(ending, **{name: getattr(other, name)})
    figures = {name: getattr(first, name) or getattr(second, name) for name in ("cpu_time_s", "wall_time_s", "outage_s")}
    output = first.output if first.output.total_bytes else second.output
    return replace(second, ending=ending, output=output, **figures)


# A run that ends as crash has no report of its runner, so it has none of the figures that are read from that report
EXCLUSIVE = {"removed", "ended_during_outage", "infrastructure_error", "stopped_externally"}
PAIRS = [
    (earlier, later)
    for earlier, later in itertools.product(TABLE, TABLE)
    if ORDER.index(earlier[0]) < ORDER.index(later[0])
    and not (earlier[4] in EXCLUSIVE and later[1].end is not None)
    and not (earlier[4] in EXCLUSIVE and later[4] == "oom_killed")
    and not (earlier[0] == "overflow" and later[5] == 0)  # it counts only for what ended badly
    and not (earlier[0] == "timeout" and earlier[1].end is not None and later[4] == "not_started")  # it did not run
]


def test_the_earlier_line_wins_whatever_later_lines_would_say():
    assert len(PAIRS) > 100

    for earlier, later in PAIRS:
        verdict = judge(_both(earlier[1], later[1]), LIMITS, earlier[2])
        assert (verdict.outcome, verdict.evidence[0].kind) == (earlier[3], earlier[4]), (earlier, later)


def test_a_daemon_that_was_away_wins_over_an_out_of_memory_state_that_nobody_saw_happen():
    facts = cut_off(EndedDuringOutage(container=OUT_OF_MEMORY.container), outage_s=1.0)

    assert judge(facts, LIMITS).outcome is Outcome.CRASH


def test_an_outage_that_the_run_survived_is_told_and_changes_nothing():
    verdict = judge(replace(FINE, outage_s=3.04), LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert ("outage_s", 3.0) in [(evidence.kind, evidence.value) for evidence in verdict.evidence]


@pytest.mark.parametrize(
    ("counter", "value"),
    [
        ("oom_kills", 4),
        ("fork_refusals", 5),
        ("workspace_full", True),
        ("shm_full", True),
    ],
)
def test_a_counter_that_was_hit_by_a_program_that_ended_with_0_is_told_and_changes_nothing(counter, value):
    verdict = judge(exited(counters={counter: value}), LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert (counter, int(value)) in [(evidence.kind, evidence.value) for evidence in verdict.evidence]


def test_a_state_that_says_out_of_memory_changes_nothing_when_the_program_ended_with_0():
    facts = exited(container=OUT_OF_MEMORY.container)

    verdict = judge(facts, LIMITS)

    assert verdict.outcome is Outcome.SUCCESS
    assert {"exit_code", "oom_killed", "container_exit_code"} == {evidence.kind for evidence in verdict.evidence}


def test_output_exactly_at_its_limit_is_within_it():
    assert judge(exited(output=CapturedOutput(stdout_bytes=512, stderr_bytes=512)), LIMITS).outcome is Outcome.SUCCESS
    assert judge(exited(output=CapturedOutput(stdout_bytes=512, stderr_bytes=513)), LIMITS).outcome is Outcome.OVERFLOW


TRUNCATING = replace(LIMITS, on_output_limit="truncate")
FLOODED = CapturedOutput(stdout=bytes(1000), stderr=bytes(24), stdout_bytes=5000, stderr_bytes=24)


@pytest.mark.parametrize(
    ("facts", "outcome", "text", "limit"),
    [
        (exited(output=FLOODED), Outcome.SUCCESS, "", None),
        (exited(3, output=FLOODED), Outcome.FAILED, "exit code 3", None),
        (exited(1, counters={"oom_kills": 1}, output=FLOODED), Outcome.OVERFLOW, "memory limit of 64 MiB reached", "memory"),
        (stopped_for(Limit.CPU, 10.1, output=FLOODED), Outcome.TIMEOUT, "CPU time limit of 10 s reached", "cpu"),
        (stopped_for(Limit.WALL, 20.1, output=FLOODED), Outcome.TIMEOUT, "wall clock limit of 20 s reached", "wall"),
        (cut_off(HostGivenUp(), output=FLOODED), Outcome.CRASH, "the host could not be reached for 0 s and was given up", None),
    ],
)
def test_where_output_is_dropped_its_programs_end_decides_and_the_evidence_says_how_much(facts, outcome, text, limit):
    verdict = judge(facts, TRUNCATING)

    assert (verdict.outcome, verdict.text, verdict.limit) == (outcome, text, limit)
    (cut,) = [evidence for evidence in verdict.evidence if evidence.kind == "output_cut"]
    assert (cut.value, cut.source) == ("4000 bytes past 1 KiB were dropped", "the runner")


def test_of_output_within_its_limit_nothing_was_dropped():
    verdict = judge(exited(output=CapturedOutput(stdout=bytes(1024), stdout_bytes=1024)), TRUNCATING)

    assert [evidence.kind for evidence in verdict.evidence] == ["exit_code"]


def test_cpu_time_exactly_at_its_limit_is_within_it_when_the_program_ended_by_itself():
    assert judge(replace(FINE, cpu_time_s=10.0), LIMITS).outcome is Outcome.SUCCESS


def test_our_own_stop_for_output_is_an_overflow_even_when_fewer_bytes_were_kept_count_of():
    facts = stopped_for(Limit.OUTPUT, 2000, output=CapturedOutput(stdout_bytes=10, beginning_lost=True))

    verdict = judge(facts, LIMITS)

    assert (verdict.outcome, verdict.evidence[0].value) == (Outcome.OVERFLOW, 2000)


def test_everything_else_that_was_found_is_told_once():
    facts = exited(
        1,
        counters={"oom_kills": 1, "fork_refusals": 2, "workspace_full": True, "shm_full": True},
        container=EXITED,
        output=CapturedOutput(beginning_lost=True),
        collected=Collected(error="more than 10000 files match", not_collected="'x' (a fifo)"),
    )

    kinds = [evidence.kind for evidence in judge(facts, LIMITS).evidence]

    counters = ["oom_kills", "exit_code", "fork_refusals", "workspace_full", "shm_full", "container_exit_code"]
    assert kinds == [*counters, "output_cut", "archive", "not_collected"]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ProgramEnd(exit_code=1), "exit code 1"),
        (ProgramEnd(exit_code=139), "exit code 139"),
        (ProgramEnd(signal="SIGSEGV"), "killed by SIGSEGV"),
        (ProgramEnd(signal="signal 34"), "killed by signal 34"),
    ],
)
def test_an_end_is_told_in_words(end, words):
    assert end_text(end) == words


def test_only_a_signal_is_told_as_a_signal():
    """A shell exits with 139 when its program was killed by SIGSEGV, and any program may exit with it."""
    assert {found.kind: found.value for found in judge(exited(139), LIMITS).evidence} == {"exit_code": 139}
    assert {found.kind: found.value for found in judge(exited(signal="SIGSEGV"), LIMITS).evidence} == {"signal": "SIGSEGV"}


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        (exited(signal="SIGKILL"), Outcome.FAILED),
        (exited(signal="SIGKILL", container=OUT_OF_MEMORY.container, counters={"oom_kills": 0}), Outcome.FAILED),
        (exited(signal="SIGKILL", container=OUT_OF_MEMORY.container), Outcome.OVERFLOW),
        (exited(3, container=OUT_OF_MEMORY.container, counters={"oom_kills": 0}), Outcome.FAILED),
    ],
)
def test_the_runner_counts_what_was_killed_for_memory_and_the_engine_is_asked_where_there_is_no_counter(facts, outcome):
    assert judge(facts, LIMITS).outcome is outcome


@pytest.mark.parametrize("code", [0, 120, 121, 122, None])
def test_a_container_that_ran_out_of_memory_has_not_died_of_it_unless_its_pid_1_was_killed(code):
    """Docker 26.1 says it of a container of which any process was killed for memory."""
    facts = cut_off(ContainerEnded(container=replace(EXITED, oom_killed=True, exit_code=code)))

    assert judge(facts, LIMITS).evidence[0].kind == "stopped_externally"


KILLED_BY_US = ProgramEnd(signal="SIGKILL")


@pytest.mark.parametrize("end", [KILLED_BY_US, ProgramEnd()])  # the latter: it could not be killed
def test_the_figures_of_a_program_that_was_stopped_for_its_output_do_not_make_a_timeout(end):
    facts = stopped_for(Limit.OUTPUT, 2000, end=end, cpu_time_s=10.1, wall_time_s=20.1)

    assert (judge(facts, LIMITS).outcome, judge(facts, LIMITS).evidence[0].kind) == (Outcome.OVERFLOW, "output_bytes")


def test_our_own_kill_is_no_evidence():
    for facts in (stopped_for(Limit.WALL, 20.1, end=KILLED_BY_US), cut_off(LeaseExpired(), end=KILLED_BY_US)):
        assert "signal" not in [found.kind for found in judge(facts, LIMITS).evidence]
    died_meanwhile = stopped_for(Limit.WALL, 20.1, end=ProgramEnd(signal="SIGSEGV"))
    assert "signal" in [found.kind for found in judge(died_meanwhile, LIMITS).evidence]


@pytest.mark.parametrize("name", ["SIGXCPU", "SIGKILL"])
def test_the_kernels_own_limit_of_cpu_time_is_a_timeout_by_the_figures(name):
    assert judge(exited(signal=name, cpu_time_s=10.5), LIMITS).outcome is Outcome.TIMEOUT


def test_a_program_that_could_not_be_killed_is_a_crash():
    verdict = judge(RunFacts(ending=ProgramExited(end=ProgramEnd())), LIMITS)

    assert (verdict.outcome, verdict.evidence[0].source) == (Outcome.CRASH, "the runner")


def every_ending():
    ends = [None, ProgramEnd(exit_code=0), ProgramEnd(exit_code=9, oom_kills=1), ProgramEnd(signal="SIGKILL"), ProgramEnd()]
    containers = [None, EXITED, OUT_OF_MEMORY.container]
    with_container = (ContainerEnded, EndedDuringOutage, LeaseExpired, partial(InfrastructureFailure, reason="t"))
    causes = [RemovedExternally(), HostGivenUp(), *(kind(container=state) for kind in with_container for state in containers)]
    yield from (JobNotSent(cause=cause) for cause in [*causes, EngineUnreachable(reason="refused")])
    yield from (RunCutOff(cause=cause, end=end) for cause in [*causes, StudentsLost()] for end in ends)
    for state in containers:
        yield CannotRun(reason="no", container=state)
        yield from (ProgramExited(end=end, container=state) for end in ends if end is not None)
        for end in ends:
            yield StoppedForProtocolError(reason="no id", end=end, container=state)
            for limit in Limit:
                yield StoppedForLimit(limit_hit=LimitHit(limit=limit, measured=1.0), end=end, container=state)


def test_any_facts_at_all_get_a_verdict():
    """Every combination of what can be seen ends in an outcome with evidence, and nothing raises."""
    for ending, outage_s, cpu_time_s in itertools.product(every_ending(), [0.0, 1.0], [None, 11.0]):
        verdict = judge(RunFacts(ending=ending, outage_s=outage_s, cpu_time_s=cpu_time_s), LIMITS)
        assert verdict.evidence
        assert verdict.text or verdict.outcome is Outcome.SUCCESS
        assert (verdict.outcome is Outcome.ERROR) <= isinstance(ending, StoppedForProtocolError)
        assert (verdict.outcome in (Outcome.SUCCESS, Outcome.FAILED)) <= isinstance(ending, ProgramExited)
        if verdict.outcome is Outcome.SUCCESS:
            assert ending.end.exit_code == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_pid_1_that_died_of_memory_before_its_last_word_is_an_overflow(code):
    facts = cut_off(OUT_OF_MEMORY, end=ProgramEnd(exit_code=code), output=CapturedOutput(is_incomplete=True))

    assert judge(facts, LIMITS).outcome is Outcome.OVERFLOW


def test_a_limit_that_was_reached_exactly_was_not_passed():
    assert judge(replace(FINE, wall_time_s=20.0, cpu_time_s=10.0), LIMITS).outcome is Outcome.SUCCESS
